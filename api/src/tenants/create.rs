use serde::Deserialize;
use serde_json::json;
use tollgate_domain::{Currency, TimeZone, ids};
use tollgate_store::tenants;
use utoipa::ToSchema;

use super::Tenant;
use crate::{
    check::{Checks, slug_of},
    ctx::Ctx,
    json::Json,
    keys::{CodeLanguage, check_languages},
    problem::Answer,
};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTenant {
    #[schema(min_length = 1, max_length = 200)]
    pub name: String,
    /// Unique on the platform; made from the name when left out.
    pub slug: Option<String>,
    /// ISO 4217; USD when left out. It cannot be changed later.
    #[schema(pattern = "^[A-Z]{3}$")]
    pub currency: Option<String>,
    /// The IANA name of the zone in which its days, weeks and months begin; UTC when left out.
    #[schema(examples("Europe/Berlin"))]
    pub time_zone: Option<String>,
    /// Languages in which models may write scripts; `["python"]` when left out.
    #[schema(value_type = Option<Vec<CodeLanguage>>, min_items = 1, max_items = 2)]
    pub code_languages: Option<Vec<String>>,
}

/// Make a tenant.
#[utoipa::path(post, path = "/v1/tenants", request_body = NewTenant, responses((status = 201, description = "Made.", body = Tenant)))]
pub async fn handle(ctx: Ctx, body: Json<NewTenant>) -> Answer {
    let NewTenant { name, slug, currency, time_zone, code_languages } = body.value;
    let mut checks = Checks::default();
    checks.name("/name", &name);
    if let Some(slug) = &slug {
        checks.slug("/slug", slug);
    }
    let currency = match &currency {
        Some(text) => checks.parse("/currency", text).unwrap_or(Currency::USD),
        None => Currency::USD,
    };
    let zone = time_zone.and_then(|zone| checks.parse::<TimeZone>("/time_zone", &zone)).unwrap_or_default();
    check_languages(&mut checks, code_languages.as_deref());
    checks.done()?;
    let languages = code_languages.unwrap_or_else(|| vec!["python".to_owned()]);
    let slugs = match slug {
        Some(chosen) => vec![chosen],
        // Names may repeat: a slug that nobody chose gives way.
        None => {
            let proposed = slug_of(&name, "tenant");
            let distinct = format!("{proposed}-{}", &ids::encode(ids::mint(ctx.now))[18..]);
            vec![proposed, distinct]
        }
    };

    let mut write = ctx.post(&body.sha256).await?;
    let tenant = tenants::create(&mut write, &name, &slugs, (currency, zone), &languages).await?;
    write
        .event(
            "tenant.create",
            &tenant.id,
            json!({"name": tenant.name, "slug": tenant.slug, "currency": tenant.currency.as_str(), "time_zone": tenant.zone,
                "code_languages": tenant.code_languages}),
        )
        .await?;
    write.created(&Tenant::from(tenant)).await
}
