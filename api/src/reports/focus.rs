//! Costs in the form that FinOps tools read: FOCUS (FinOps Open Cost and Usage Specification), as CSV.
//!
//! The columns are the mandatory ones of version 1.2 and those of 1.3 that replace `ProviderName` and `PublisherName`; both
//! versions allow others, which begin with `x_`. One row is one day of one tool, called with one key,
//! or of one model that was asked with it; credits are rows of their own, on the day on which they were given. The tenant is the billing
//! account, the team the sub account, the upstream the service, the tool or the model the resource. A day and a billing period (a month) are those of the
//! tenant's time zone, and are written in UTC. There are no discounts and no commitments: all four costs are the same.
//! Source: focus.finops.org, "FOCUS Specification", versions 1.2 and 1.3.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::json;
use tollgate_domain::{Currency, TenantId, TimeZone, money::decimal, zone::Calendar};
use tollgate_store::{
    Store, StoreError, StoreResult,
    costs::{CostLine, CostQuery, Dimension, PATIENCE, Reading},
};

use super::costs::Unmade;
use crate::audit::csv;

/// What the rows of tools are grouped by, whatever was asked for.
pub const GROUPS: [Dimension; 5] = [Dimension::Day, Dimension::Upstream, Dimension::Tool, Dimension::Team, Dimension::Key];

/// And those of models.
const MODELS: [Dimension; 4] = [Dimension::Day, Dimension::Model, Dimension::Team, Dimension::Key];

/// Rows of each kind that are read at once: a day has no more.
const AT_ONCE: usize = 50_000;
/// Rows of one data set: what is made of them is memory.
const MAX_ROWS: usize = 200_000;

const COLUMNS: [&str; 42] = [
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingAccountType",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "EffectiveCost",
    "HostProviderName",
    "InvoiceIssuerName",
    "ListCost",
    "PricingCategory",
    "PricingCurrency",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ResourceId",
    "ResourceName",
    "ResourceType",
    "ServiceCategory",
    "ServiceName",
    "ServiceProviderName",
    "ServiceSubcategory",
    "SkuId",
    "SubAccountId",
    "SubAccountName",
    "SubAccountType",
    "Tags",
    "x_KeyId",
    "x_KeyName",
    "x_Errors",
    "x_LatencyP50Us",
];

/// Whose costs these are.
struct Account {
    tenant: TenantId,
    name: String,
    zone: TimeZone,
    currency: Currency,
}

/// What a row charges for, or gives back.
#[derive(Default)]
struct Charge {
    what: String,
    cost: i128,
    /// How much of it was used, and in which unit; none of a credit.
    used: Option<(i64, &'static str)>,
    service: String,
    subcategory: &'static str,
    /// Its id, its name and what it is.
    resource: (String, String, &'static str),
    sku: String,
    errors: String,
    latency_p50_us: String,
}

/// The data set of what was asked for, whatever it is grouped by: from one snapshot, in pieces that are halved until each can be read at once.
///
/// # Errors
/// [`StoreError::Invalid`] when there are too many rows, or when it takes too long.
pub async fn write(store: &Store, tenant: TenantId, ask: &CostQuery) -> Result<Vec<u8>, Unmade> {
    let mut reading = Reading::begin(store, tenant, PATIENCE).await?;
    let Reading { zone, currency, .. } = reading;
    let account = Account { tenant, name: reading.tenant_name.clone(), zone, currency };
    let mut rows = csv::Rows::new(&COLUMNS)?;
    let mut left = MAX_ROWS;
    let mut pieces = vec![(ask.from, ask.to)];
    while let Some((from, to)) = pieces.pop() {
        let Some((tools, models)) = read(&mut reading, ask, (from, to)).await? else {
            let half = half(zone, from, to).ok_or_else(too_many)?;
            pieces.extend([(half, to), (from, half)]);
            continue;
        };
        let tools = tools.iter().flat_map(|line| calls(line).into_iter().chain(credits(line)).map(move |charge| (line, charge)));
        let models = models.iter().filter_map(|line| Some((line, requests(line)?)));
        for (line, charge) in tools.chain(models) {
            left = left.checked_sub(1).ok_or_else(too_many)?;
            rows.push_figures(row(&account, line, charge))?;
        }
    }
    reading.end().await?;
    Ok(rows.finish()?)
}

/// The lines of tools and those of models; `None` where there are more than can be read at once.
async fn read(
    reading: &mut Reading,
    ask: &CostQuery,
    (from, to): (DateTime<Utc>, DateTime<Utc>),
) -> StoreResult<Option<(Vec<CostLine>, Vec<CostLine>)>> {
    let query = |dimensions: &[Dimension]| CostQuery { from, to, group_by: dimensions.to_vec(), ..ask.clone() };
    let Some(tools) = reading.lines(&query(&GROUPS), AT_ONCE).await? else { return Ok(None) };
    let models = reading.requests(&query(&MODELS), AT_ONCE).await?;
    Ok(models.map(|models| (tools, models)))
}

/// The start of a day between the two, near their middle; none in a single day.
fn half(zone: TimeZone, from: DateTime<Utc>, to: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let (start, end) = zone.around(Calendar::Day, from + (to - from) / 2);
    [start, end].into_iter().find(|at| from < *at && *at < to)
}

fn too_many() -> StoreError {
    let told = format!(
        "a FOCUS data set has at most {MAX_ROWS} rows, and {AT_ONCE} a day; ask for a shorter time, or for one team, key, upstream or tool"
    );
    StoreError::invalid("/format", told)
}

/// The calls of a tool.
fn calls(line: &CostLine) -> Option<Charge> {
    let (upstream, tool) = (named(line.upstream.as_ref()), named(line.tool.as_ref()));
    let service = if upstream.1.is_empty() { "unknown".to_owned() } else { upstream.1 };
    let what =
        if tool.1.is_empty() { format!("Calls of unknown tools of {service}") } else { format!("Calls of {service}.{}", tool.1) };
    (line.sums.calls != 0).then(|| Charge {
        what,
        cost: line.sums.amount,
        used: Some((line.sums.calls, "Calls")),
        service,
        subcategory: OTHER,
        sku: tool.0.clone(),
        resource: (tool.0, tool.1, "Tool"),
        errors: line.sums.errors.to_string(),
        latency_p50_us: line.latency_p50_us.map(|us| us.to_string()).unwrap_or_default(),
    })
}

/// What was given back of a tool, of an upstream, or of all.
fn credits(line: &CostLine) -> Option<Charge> {
    let given = line.credits.filter(|given| *given != 0)?;
    let (upstream, tool) = (named(line.upstream.as_ref()), named(line.tool.as_ref()));
    let (what, service) = match (upstream.1.is_empty(), tool.1.is_empty()) {
        (true, true) => ("Credits".to_owned(), "Tollgate".to_owned()),
        (true, false) => (format!("Credits for calls of {}", tool.1), "Tollgate".to_owned()),
        (false, true) => (format!("Credits for calls of {}", upstream.1), upstream.1),
        (false, false) => (format!("Credits for calls of {}.{}", upstream.1, tool.1), upstream.1),
    };
    let resource = (tool.0, tool.1, "Tool");
    Some(Charge { what, cost: -given, service, subcategory: OTHER, resource, ..Charge::default() })
}

/// The requests to a model.
fn requests(line: &CostLine) -> Option<Charge> {
    let llm = line.llm.filter(|llm| llm.requests != 0)?;
    let model = line.model.clone().unwrap_or_default();
    Some(Charge {
        what: if model.is_empty() { "Requests to models".to_owned() } else { format!("Requests to {model}") },
        cost: llm.amount,
        used: Some((llm.input_tokens.saturating_add(llm.output_tokens), "Tokens")),
        service: "Language models".to_owned(),
        subcategory: "Generative AI",
        resource: (model.clone(), model.clone(), "Model"),
        sku: model,
        ..Charge::default()
    })
}

const OTHER: &str = "Other (AI and Machine Learning)";

fn row(account: &Account, line: &CostLine, charge: Charge) -> [String; COLUMNS.len()] {
    let at = line.time.unwrap_or_default();
    let (day, month) = (account.zone.around(Calendar::Day, at), account.zone.around(Calendar::Month, at));
    let (team, key) = (named(line.team.as_ref()), named(line.key.as_ref()));
    let Charge { what, service, subcategory, resource, sku, errors, latency_p50_us, .. } = charge;
    let (cost, currency) = (decimal(charge.cost), account.currency.to_string());
    let (quantity, unit) = charge.used.map(|(much, unit)| (much.to_string(), unit.to_owned())).unwrap_or_default();
    let (category, frequency, pricing) =
        if charge.used.is_some() { ("Usage", "Usage-Based", "Standard") } else { ("Credit", "One-Time", "") };
    let kind = |id: &str, kind: &str| if id.is_empty() { String::new() } else { kind.to_owned() };
    let (resource_type, team_type) = (kind(&resource.0, resource.2), kind(&team.0, "Team"));
    let tags = json!({"key": key.1, "team": team.1}).to_string();
    let text = str::to_owned;
    [
        cost.clone(),
        account.tenant.to_string(),
        account.name.clone(),
        text("Tenant"),
        currency.clone(),
        instant(month.1),
        instant(month.0),
        text(category),
        String::new(),
        what,
        text(frequency),
        instant(day.1),
        instant(day.0),
        quantity.clone(),
        unit.clone(),
        cost.clone(),
        cost.clone(),
        service.clone(),
        text("Tollgate"),
        cost,
        text(pricing),
        currency,
        quantity,
        unit,
        text("Tollgate"),
        service.clone(),
        resource.0,
        resource.1,
        resource_type,
        text("AI and Machine Learning"),
        service,
        text("Tollgate"),
        text(subcategory),
        sku,
        team.0,
        team.1,
        team_type,
        tags,
        key.0,
        key.1,
        errors,
        latency_p50_us,
    ]
}

fn named<T: ToString>(pair: Option<&(T, Option<String>)>) -> (String, String) {
    pair.map(|(id, name)| (id.to_string(), name.clone().unwrap_or_default())).unwrap_or_default()
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
