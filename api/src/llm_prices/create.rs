use chrono::{DateTime, Utc};
use serde::Deserialize;
use tollgate_domain::{
    LlmPriceId, Picos,
    llm_price::{self, LlmRates, MAX_NAME, ModelPattern},
};
use tollgate_store::llm_prices;
use utoipa::ToSchema;

use super::LlmPrice;
use crate::{
    check::Checks,
    ctx::Ctx,
    json::Json,
    prices::create::effective,
    problem::{Answer, Problem},
};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewLlmPrice {
    /// As the gateway names its providers; whichever when left out.
    pub provider: Option<String>,
    /// A name, or its beginning and `*`.
    #[schema(examples("gpt-5", "claude-*"))]
    pub model: String,
    /// Decimals of at most 12 places per 1,000,000 tokens, in the tenant's currency. Required, as is `output`, unless it inherits.
    pub input: Option<String>,
    pub output: Option<String>,
    /// As input when left out.
    pub cached_input: Option<String>,
    /// As input when left out.
    pub cache_write: Option<String>,
    /// As output when left out.
    pub reasoning: Option<String>,
    /// What applies in its place to a whole request with more tokens of input.
    pub long_context: Option<NewLongContext>,
    /// True: from then on the tenant has no price of its own for this; a wider one of its own, or the default table, applies.
    #[serde(default)]
    pub inherit: bool,
    /// Now when left out. The past never changes.
    pub effective_from: Option<DateTime<Utc>>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewLongContext {
    pub above: u64,
    pub input: String,
    pub output: String,
    pub cached_input: Option<String>,
    pub cache_write: Option<String>,
    pub reasoning: Option<String>,
}

/// Set what tokens of a model cost from now or a later moment on, over the default table.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/llm-prices", request_body = NewLlmPrice, responses((status = 201, description = "Set.", body = LlmPrice)))]
pub async fn handle(ctx: Ctx, body: Json<NewLlmPrice>) -> Answer {
    let new = body.value;
    let mut checks = Checks::default();
    let model = checks.parse::<ModelPattern>("/model", &new.model);
    let fits = |name: &str| !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(|b| b.is_ascii_graphic());
    checks.require(new.provider.as_deref().is_none_or(fits), "/provider", "use 1 to 128 visible characters without blanks");
    let rates = rates(&mut checks, &new);
    let effective_from = effective(&mut checks, new.effective_from, ctx.now);
    checks.done()?;
    let (Some(model), Some(rates)) = (model, rates) else {
        return Err(Problem::internal(&"a price that was checked lacks a field").into());
    };
    let price = llm_price::LlmPrice { id: LlmPriceId::mint(ctx.now), provider: new.provider, model, rates, effective_from };
    let mut write = ctx.post(&body.sha256).await?;
    llm_prices::create(&mut write, &price).await?;
    let made = llm_prices::get(&mut write.tx, ctx.tenant, price.id).await?;
    write.created(&LlmPrice::from(made)).await
}

/// What is to be charged; within, `None`: nothing of its own.
fn rates(checks: &mut Checks, new: &NewLlmPrice) -> Option<Option<LlmRates>> {
    if new.inherit {
        let amounts = [&new.input, &new.output, &new.cached_input, &new.cache_write, &new.reasoning];
        let alone = amounts.iter().all(|amount| amount.is_none()) && new.long_context.is_none();
        checks.require(alone, "/inherit", "what has no price of its own has no amounts");
        return alone.then_some(None);
    }
    let needed = |checks: &mut Checks, pointer: &str, amount: Option<&String>| match amount {
        Some(amount) => checks.parse::<Picos>(pointer, amount),
        None => {
            checks.refuse(pointer, "this field is required, unless inherit is true; \"0\" is free");
            None
        }
    };
    let (input, output) = (needed(checks, "/input", new.input.as_ref()), needed(checks, "/output", new.output.as_ref()));
    let mut maybe = |pointer: &str, amount: Option<&String>| amount.and_then(|amount| checks.parse::<Picos>(pointer, amount));
    let [cached_input, cache_write, reasoning] = [
        maybe("/cached_input", new.cached_input.as_ref()),
        maybe("/cache_write", new.cache_write.as_ref()),
        maybe("/reasoning", new.reasoning.as_ref()),
    ];
    let long_context = match &new.long_context {
        None => None,
        Some(long) => Some(llm_price::LongContext {
            above: long.above,
            input: maybe("/long_context/input", Some(&long.input))?,
            output: maybe("/long_context/output", Some(&long.output))?,
            cached_input: maybe("/long_context/cached_input", long.cached_input.as_ref()),
            cache_write: maybe("/long_context/cache_write", long.cache_write.as_ref()),
            reasoning: maybe("/long_context/reasoning", long.reasoning.as_ref()),
        }),
    };
    Some(Some(LlmRates { input: input?, output: output?, cached_input, cache_write, reasoning, long_context }))
}
