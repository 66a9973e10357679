use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tollgate_domain::{
    BudgetId, Decision, KeyId, Picos, PriceId, RateLimitId, ToolId,
    budget::{Enforcement, Spender},
    money::decimal,
    policy::{self, Reason},
    price::{Bounds, Unit as PriceUnit},
    rate::{Per, Unit},
    scope::{Scope, ToolGroup},
    tool::{Tool, ToolStatus},
};
use tollgate_store::{
    budgets,
    prices::volumes,
    snapshot::{self, KeyConfig, TenantConfig},
};
use utoipa::{IntoParams, ToSchema};

use crate::{
    ctx::{Ctx, Id, Resource},
    page::Query,
    problem::{Answer, Kind, Problem, Stop},
};

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ExplainQuery {
    /// Required: a tool's id, or `upstream.tool`, or `upstream__tool`.
    pub tool: Option<String>,
}

/// What would become of a call that is made now, and why.
#[derive(Debug, Serialize, ToSchema)]
pub struct Explanation {
    #[schema(value_type = Option<String>)]
    pub tool_id: Option<ToolId>,
    /// `permitted`, `held` or `denied`
    #[schema(value_type = String)]
    pub decision: Decision,
    /// As it would stand in the call's row.
    #[schema(value_type = Option<String>)]
    pub reason: Option<Reason>,
    /// Why, in a sentence.
    pub explanation: String,
    /// How many different people have to confirm the call; 0 is none.
    pub approval: u8,
    /// What the call may cost at most, in the tenant's currency.
    #[schema(value_type = String, examples("0.002"))]
    pub amount: Picos,
    pub currency: String,
    /// Null where nobody has set a price: the call is free.
    #[schema(value_type = Option<String>)]
    pub price_id: Option<PriceId>,
    /// For what is charged: `call`, `successful_call`, `kb` or `second`. `amount` is then what the longest answer that the gateway takes, or
    /// the upstream's timeout, come to, or the price's `max_amount`.
    #[schema(value_type = Option<String>)]
    pub unit: Option<PriceUnit>,
    /// Of one unit.
    #[schema(value_type = Option<String>)]
    pub unit_amount: Option<Picos>,
    /// Under a price by volume: the tier, from 1, and the number in the month that the next call has.
    pub tier: Option<u16>,
    pub call_number: Option<u64>,
    /// All that cover the call.
    pub budgets: Vec<BudgetStanding>,
    /// All that cover the call.
    pub rate_limits: Vec<LimitStanding>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct BudgetStanding {
    #[schema(value_type = String)]
    pub id: BudgetId,
    pub name: String,
    #[schema(value_type = String)]
    pub limit: Picos,
    pub spent: String,
    /// Workers may let calls draw from what they keep ready of it.
    pub reserved: String,
    pub remaining: String,
    pub resets_at: Option<DateTime<Utc>>,
    #[schema(value_type = String)]
    pub enforcement: Enforcement,
    /// Whether the call fits what is left together with what workers keep ready.
    pub fits: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct LimitStanding {
    #[schema(value_type = String)]
    pub id: RateLimitId,
    pub name: String,
    pub max: u32,
    /// `call`, `token` or `concurrent`
    #[schema(value_type = String)]
    pub unit: Unit,
    #[schema(value_type = Option<String>)]
    pub per: Option<Per>,
    /// What could be taken at once.
    pub remaining: u64,
    /// Until one more could be; of calls under way nobody can say.
    pub retry_after_seconds: u64,
}

impl Resource for Explanation {}

/// Explain what would become of a call that this key makes of a tool now: scope, approval, limits, budgets, price. Nothing is counted.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/keys/{key_id}/explain", params(ExplainQuery),
    responses((status = 200, description = "The explanation.", body = Explanation)))]
pub async fn handle(ctx: Ctx, Id(id): Id<KeyId>, Query(asked): Query<ExplainQuery>) -> Answer {
    let config = snapshot::load_tenant(&ctx.app.store, ctx.tenant).await?;
    let key = config.keys.get(&id).ok_or_else(|| Problem::new(Kind::NotFound))?;
    let asked = asked.tool.ok_or_else(|| Problem::field("?tool", "name a tool, by its id or as upstream.tool"))?;
    let tool = find(&config, &asked);
    let mut explained = Explanation {
        tool_id: tool.map(|tool| tool.id),
        decision: Decision::Denied,
        reason: None,
        explanation: String::new(),
        approval: 0,
        amount: Picos(0),
        currency: config.currency.to_string(),
        price_id: None,
        unit: None,
        unit_amount: None,
        tier: None,
        call_number: None,
        budgets: Vec::new(),
        rate_limits: Vec::new(),
    };
    if let Some(tool) = tool {
        price(&ctx, (&config, tool), &mut explained).await?;
        let spender = Spender { team: key.team, key: key.id, upstream: Some(tool.upstream.id), tool: Some(tool.id) };
        budgets_stand(&ctx, &config, &spender, &mut explained).await?;
        limits_stand(&ctx, &config, &spender, &mut explained).await?;
    }
    decide(&ctx, (&config, key, tool), &mut explained);
    Ok(ctx.ok(&explained))
}

/// A tool by its id or its name, as people and models write it.
fn find<'a>(config: &'a TenantConfig, asked: &str) -> Option<&'a Tool> {
    let is = |tool: &&std::sync::Arc<Tool>| {
        let (upstream, name) = (&tool.upstream.name, &tool.name);
        tool.id.to_string() == asked || tool.classic_name() == asked || format!("{upstream}.{name}") == asked
    };
    config.tools.iter().find(is).map(AsRef::as_ref)
}

/// What the next call would cost at most.
async fn price(ctx: &Ctx, (config, tool): (&TenantConfig, &Tool), explained: &mut Explanation) -> Result<(), Stop> {
    let Some(price) = config.rates.in_force(tool.id, tool.upstream.id, ctx.now) else { return Ok(()) };
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let last = volumes::last(&mut tx, ctx.tenant, price.target, volumes::month(config.zone, ctx.now)).await?;
    let result_bytes = u64::try_from(ctx.app.config.limits.tool_result_bytes).unwrap_or(u64::MAX);
    let quote = price.quote(last + 1, Bounds { result_bytes, time: tool.upstream.timeout });
    (explained.amount, explained.price_id) = (quote.amount, quote.price_id);
    if let Some(applied) = quote.applied {
        (explained.unit, explained.unit_amount) = (Some(applied.unit), Some(applied.amount));
        explained.tier = applied.volume.map(|volume| volume.tier);
        explained.call_number = applied.volume.map(|volume| volume.call);
    }
    Ok(())
}

async fn budgets_stand(ctx: &Ctx, config: &TenantConfig, spender: &Spender, explained: &mut Explanation) -> Result<(), Stop> {
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    for budget in config.budgets.iter().filter(|budget| budget.scope.covers(spender)) {
        let (window, standing) = budgets::standing(&mut tx, ctx.tenant, budget, (config.zone, ctx.now)).await?;
        let left = i128::from(budget.limit.0) - standing.spent;
        explained.budgets.push(BudgetStanding {
            id: budget.id,
            name: budget.name.clone(),
            limit: budget.limit,
            spent: decimal(standing.spent),
            reserved: decimal(standing.reserved),
            remaining: decimal((left - standing.reserved).max(0)),
            resets_at: budget.resets_at(&window),
            enforcement: budget.enforcement,
            fits: i128::from(explained.amount.0) <= left || budget.enforcement == Enforcement::Alert,
        });
    }
    Ok(())
}

/// Holding no connection: counters may need one of their own.
async fn limits_stand(ctx: &Ctx, config: &TenantConfig, spender: &Spender, explained: &mut Explanation) -> Result<(), Stop> {
    for limit in config.limits.iter().filter(|limit| limit.scope.covers(spender)) {
        let standing = ctx.app.counters.standing(ctx.tenant, limit).await?;
        explained.rate_limits.push(LimitStanding {
            id: limit.id,
            name: limit.name.clone(),
            max: limit.max,
            unit: limit.measure.unit(),
            per: limit.measure.per(),
            remaining: standing.remaining,
            retry_after_seconds: standing.wait.as_secs() + u64::from(standing.wait.subsec_nanos() > 0),
        });
    }
    Ok(())
}

/// In the order in which the call path asks.
fn decide(ctx: &Ctx, (config, key, tool): (&TenantConfig, &KeyConfig, Option<&Tool>), explained: &mut Explanation) {
    let mut deny = |reason: Option<Reason>, text: String| (explained.reason, explained.explanation) = (reason, text);
    if key.revoked {
        return deny(None, "the key is revoked: nothing is let in with it".to_owned());
    }
    if key.expires_at.is_some_and(|end| end <= ctx.now) {
        return deny(None, "the key has expired: nothing is let in with it".to_owned());
    }
    let groups: Vec<&ToolGroup> = key.groups.iter().filter_map(|id| config.groups.get(id)).collect();
    let scope = Scope::resolve(&config.tools, &groups);
    let Some(scoped) = tool.and_then(|tool| scope.by_id(tool.id)) else {
        let reason = policy::absence(&scope, tool);
        let text = match (reason, tool) {
            (Reason::Quarantined, _) => "the tool's definition is new or has changed, and waits for an admin",
            (Reason::UnknownTool, _) => "the tenant has no such tool at present",
            (_, Some(tool)) if tool.status == ToolStatus::Quarantined => "the tool waits for an admin",
            _ => "none of the key's tool groups grants the tool",
        };
        return deny(Some(reason), text.to_owned());
    };
    explained.approval = scoped.confirmations;
    if scoped.confirmations > 0 {
        explained.decision = Decision::Held;
        explained.reason = Some(Reason::ApprovalRequired);
        explained.explanation = format!("{} different people have to confirm the call first", scoped.confirmations);
        return;
    }
    // Tokens are those of requests to language models.
    if let Some(limit) = explained.rate_limits.iter().find(|limit| limit.remaining == 0 && limit.unit != Unit::Token) {
        explained.explanation = match limit.per {
            Some(_) => format!("rate limit \"{}\" is used up for {} s", limit.name, limit.retry_after_seconds),
            None => format!("as many calls are under way as limit \"{}\" lets, {}", limit.name, limit.max),
        };
        explained.reason = Some(Reason::RateLimited);
        return;
    }
    if let Some(budget) = explained.budgets.iter().find(|budget| !budget.fits) {
        explained.explanation = format!(
            "of budget \"{}\" {} of {} is left, and the call may cost {}",
            budget.name, budget.remaining, budget.limit, explained.amount
        );
        explained.reason = Some(Reason::BudgetExhausted);
        return;
    }
    explained.decision = Decision::Permitted;
    explained.explanation = match explained.price_id {
        Some(_) if matches!(explained.unit, Some(PriceUnit::Kb | PriceUnit::Second | PriceUnit::SuccessfulCall)) => {
            format!("the call is made, and costs at most {} {}", explained.amount, explained.currency)
        }
        Some(_) => format!("the call is made, and costs {} {}", explained.amount, explained.currency),
        None => "the call is made, and is free: nobody has set a price".to_owned(),
    };
}
