mod plan;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tollgate_domain::price;
use tollgate_store::{
    Tx, llm_prices,
    prices::{
        card,
        import::{self, Priced},
    },
};
use utoipa::{IntoParams, ToSchema};

use super::{Charge, sheet};
use crate::{
    check::Checks,
    ctx::{Ctx, Resource},
    json::Csv,
    page::Query,
    problem::{Answer, FieldError, Problem, Stop},
};

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ImportQuery {
    /// True: say what would change, and what is wrong, and change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// What an import changed, or would change.
#[derive(Debug, Serialize, ToSchema)]
pub struct Import {
    pub dry_run: bool,
    /// Lines of the file, without its header.
    pub lines: usize,
    /// Prices that were (or would be) set.
    pub created: usize,
    /// Prices that are in force as the file has them.
    pub unchanged: usize,
    /// What changes, in the order of its lines.
    pub changes: Vec<ImportChange>,
    /// What is wrong with the file, under `/<line>/<column>`; of a dry run alone, since nothing is imported of a file with errors.
    pub errors: Vec<FieldError>,
}

/// One price that is set.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImportChange {
    pub line: u64,
    /// `*`: the tenant's default.
    pub upstream: String,
    /// `*`: all tools of the upstream.
    pub tool: String,
    pub effective_from: DateTime<Utc>,
    /// What the target has of its own at that moment; null: nothing.
    pub before: Option<Charge>,
    /// What it will have; null: nothing of its own.
    pub after: Option<Charge>,
}

impl Resource for Import {}

/// Errors that are told at once.
const MAX_ERRORS: usize = 100;

/// Import a rate card from CSV: all of it or, where a line cannot be accepted, nothing.
///
/// The file has the columns of `GET /rate-card?format=csv`, in any order; `from_call`, `max_amount`, `effective_from` and `currency` may be
/// left out. What is in force as the file has it stays as it is, so that the same file twice changes nothing; a time that has passed means
/// now. What the file does not name is left alone, and so are prices that were set for later.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/rate-card/import", params(ImportQuery), request_body(content = String, content_type = "text/csv"),
    responses((status = 200, description = "What has changed, or would.", body = Import)))]
pub async fn handle(ctx: Ctx, Query(asked): Query<ImportQuery>, body: Csv) -> Answer {
    if asked.dry_run {
        let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
        let (mut planned, errors) = prepare(&ctx, &mut tx, &body).await?;
        planned.import.errors = errors.into_iter().take(MAX_ERRORS).collect();
        return Ok(ctx.ok(&planned.import));
    }
    let mut write = ctx.post(&body.sha256).await?;
    import::lock(&mut write).await?;
    let (Planned { mut import, prices }, errors) = prepare(&ctx, &mut write.tx, &body).await?;
    if !errors.is_empty() {
        return Err(Problem::fields(errors.into_iter().take(MAX_ERRORS).collect()).into());
    }
    import.dry_run = false;
    if prices.is_empty() {
        return write.ok_quietly(&import).await;
    }
    let sha256: String = body.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    let detail = json!({"sha256": sha256, "lines": import.lines, "created": import.created, "unchanged": import.unchanged});
    import::create_all(&mut write, &prices, detail).await?;
    write.ok(&import).await
}

struct Planned {
    import: Import,
    prices: Vec<price::Price>,
}

async fn prepare(ctx: &Ctx, tx: &mut Tx, body: &Csv) -> Result<(Planned, Vec<FieldError>), Stop> {
    let mut checks = Checks::default();
    let currency = llm_prices::currency(tx, ctx.tenant).await?;
    let (lines, entries) = sheet::read(&body.bytes, currency, &mut checks);
    let priced = Priced::load(tx, ctx.tenant).await?;
    let card = card(tx, ctx.tenant, ctx.now).await?;
    let plan = plan::make(entries, &priced, card, ctx.now, &mut checks);
    let (created, unchanged) = (plan.prices.len(), plan.unchanged);
    let import = Import { dry_run: true, lines, created, unchanged, changes: plan.changes, errors: Vec::new() };
    Ok((Planned { import, prices: plan.prices }, checks.into_errors()))
}
