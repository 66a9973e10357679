//! Budgets: how much calls may cost together, and how much of it is left.

pub mod create;
pub mod delete;
pub mod get;
pub mod list;
pub mod update;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tollgate_domain::{
    BudgetId, KeyId, Picos, TeamId, TenantId, TimeZone, ToolId, UpstreamId,
    budget::{BudgetScope, Enforcement, Period, Window},
    money::decimal,
};
use tollgate_store::{
    Tx,
    budgets::{self, BudgetRow, Standing},
};
use utoipa::ToSchema;

use crate::{
    check::Checks,
    ctx::{Ctx, Resource},
    problem::Stop,
};

/// Budgets of one tenant at most: each call is held against all that cover it.
pub const MAX_BUDGETS: i64 = 1_000;
/// Percentages that one budget reports at most.
const MAX_THRESHOLDS: usize = 10;

/// The calls that count: those that match everything that is named here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BudgetScope)]
pub struct Scope {
    /// `true`, or the tenant's own id: all calls of the tenant, when nothing else is named.
    #[serde(default, skip_serializing_if = "Whole::is_no")]
    #[schema(value_type = bool)]
    pub tenant: Whole,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub team_id: Option<TeamId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub key_id: Option<KeyId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub upstream_id: Option<UpstreamId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub tool_id: Option<ToolId>,
}

/// Whether a scope is the whole tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Whole {
    #[default]
    No,
    Yes,
    /// Yes, if that is this tenant.
    Of(TenantId),
}

impl Whole {
    fn is_no(&self) -> bool {
        *self == Self::No
    }
}

impl Serialize for Whole {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bool(!self.is_no())
    }
}

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Bool(true) => Ok(Self::Yes),
            Value::Bool(false) | Value::Null => Ok(Self::No),
            Value::String(id) => id.parse().map(Self::Of).map_err(serde::de::Error::custom),
            _ => Err(serde::de::Error::custom("use true, or the tenant's id")),
        }
    }
}

impl Scope {
    /// Nothing named is a slip rather than a wish: the whole tenant has to be said.
    pub fn check(&self, tenant: TenantId, checks: &mut Checks) {
        let named = self.team_id.is_some() || self.key_id.is_some() || self.upstream_id.is_some() || self.tool_id.is_some();
        checks.require(!matches!(self.tenant, Whole::Of(other) if other != tenant), "/scope/tenant", "there is no such tenant");
        checks.require(
            named == self.tenant.is_no(),
            "/scope",
            "name a team_id, key_id, upstream_id or tool_id, or several that calls must all match; or \"tenant\": true alone",
        );
    }
}

impl From<Scope> for BudgetScope {
    fn from(scope: Scope) -> Self {
        Self { team: scope.team_id, key: scope.key_id, upstream: scope.upstream_id, tool: scope.tool_id }
    }
}

impl From<BudgetScope> for Scope {
    fn from(scope: BudgetScope) -> Self {
        let BudgetScope { team, key, upstream, tool } = scope;
        let tenant = if scope == BudgetScope::default() { Whole::Yes } else { Whole::No };
        Self { tenant, team_id: team, key_id: key, upstream_id: upstream, tool_id: tool }
    }
}

/// A budget.
#[derive(Debug, Serialize, ToSchema)]
pub struct Budget {
    #[schema(value_type = String, examples("bud_01j9zc5v8mf9r8k7x3w2q1n0pa"))]
    pub id: BudgetId,
    pub name: String,
    pub scope: Scope,
    /// An exact decimal, in the tenant's currency.
    #[schema(value_type = String, examples("10.00"))]
    pub limit: Picos,
    /// `day`, `week` (from Monday), `month`, in the tenant's time zone; `rolling`; or `total`.
    #[schema(value_type = String)]
    pub period: Period,
    /// Of a `rolling` budget: at any moment the calls of so many days count. They are counted in 48 parts, and a part that reaches
    /// into the days counts whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolling_days: Option<u16>,
    /// `hard`: a call that may not fit is refused, and is a row. `alert`: nothing is refused.
    #[schema(value_type = String)]
    pub enforcement: Enforcement,
    /// Percent of the limit. When what was spent passes one, an admin event `budget.threshold` is written, once a window.
    pub thresholds: Vec<u8>,
    /// How it stands now.
    pub window: BudgetWindow,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// For the ETag.
    #[serde(skip)]
    version: i32,
}

/// How a budget stands. Exact decimals; `spent` + `reserved` never exceeds the limit of a hard budget.
#[derive(Debug, Serialize, ToSchema)]
pub struct BudgetWindow {
    pub starts_at: DateTime<Utc>,
    /// Null: it does not begin anew.
    pub resets_at: Option<DateTime<Utc>>,
    /// What calls cost that are closed. A call counts here about a second after its end.
    pub spent: String,
    /// What calls under way may cost, and what workers keep ready for the next calls.
    pub reserved: String,
    /// What is left of the limit.
    pub remaining: String,
}

impl Budget {
    pub fn new(row: BudgetRow, window: &Window, standing: Standing) -> Self {
        let BudgetRow { budget, created_at, updated_at, version } = row;
        let left = i128::from(budget.limit.0) - standing.spent - standing.reserved;
        let window = BudgetWindow {
            starts_at: window.counts_from,
            resets_at: budget.resets_at(window),
            spent: decimal(standing.spent),
            reserved: decimal(standing.reserved),
            remaining: decimal(left.max(0)),
        };
        let tollgate_domain::Budget { id, name, scope, limit, period, rolling_days, enforcement, thresholds } = budget;
        let scope = scope.into();
        Self { id, name, scope, limit, period, rolling_days, enforcement, thresholds, window, created_at, updated_at, version }
    }
}

/// A budget with how it stands.
pub async fn show(tx: &mut Tx, (tenant, zone): (TenantId, TimeZone), row: BudgetRow, now: DateTime<Utc>) -> Result<Budget, Stop> {
    let (window, standing) = budgets::standing(tx, tenant, &row.budget, (zone, now)).await?;
    Ok(Budget::new(row, &window, standing))
}

impl Resource for Budget {
    fn tag(&self) -> Option<(String, i32)> {
        Some((self.id.to_string(), self.version))
    }
}

/// The row alone, where a change is checked against what its caller has read.
struct Unread<'a>(&'a BudgetRow);

impl Serialize for Unread<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

impl Resource for Unread<'_> {
    fn tag(&self) -> Option<(String, i32)> {
        Some((self.0.budget.id.to_string(), self.0.version))
    }
}

fn check_thresholds(checks: &mut Checks, thresholds: &[u8]) {
    let fine = thresholds.len() <= MAX_THRESHOLDS && thresholds.iter().all(|percent| (1..=200).contains(percent));
    checks.require(fine, "/thresholds", "use at most 10 percentages from 1 to 200");
}

fn detail(budget: &tollgate_domain::Budget) -> Value {
    json!({
        "name": budget.name, "scope": Scope::from(budget.scope), "limit": budget.limit, "period": budget.period,
        "rolling_days": budget.rolling_days, "enforcement": budget.enforcement, "thresholds": budget.thresholds,
    })
}

/// The zone of the caller's tenant.
pub async fn zone(ctx: &Ctx, tx: &mut Tx) -> Result<TimeZone, Stop> {
    Ok(budgets::zone(tx, ctx.tenant).await?)
}
