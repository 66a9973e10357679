//! Costs in the form that FinOps tools read: FOCUS (FinOps Open Cost and Usage Specification), as CSV.
//!
//! The columns are the mandatory ones of version 1.2 and those of 1.3 that replace `ProviderName` and `PublisherName`; both
//! versions allow others, which begin with `x_`. One row is one day of one tool, called with one key. The tenant is the billing account,
//! the team the sub account, the upstream the service, the tool the resource. A day and a billing period (a month) are those of the
//! tenant's time zone, and are written in UTC. There are no discounts and no commitments: all four costs are the same.
//! Source: focus.finops.org, "FOCUS Specification", versions 1.2 and 1.3.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::json;
use tollgate_domain::{TenantId, TimeZone, money::decimal, zone::Calendar};
use tollgate_store::costs::{CostLine, CostReport, Dimension};

use crate::audit::{Unwritable, csv};

/// What a FOCUS report is grouped by, whatever was asked for.
pub const GROUPS: [Dimension; 5] = [Dimension::Day, Dimension::Upstream, Dimension::Tool, Dimension::Team, Dimension::Key];

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
pub struct Account {
    pub tenant: TenantId,
    pub name: String,
    pub zone: TimeZone,
}

/// The report as a FOCUS data set.
///
/// # Errors
/// Never for want of space: it is memory.
pub fn table(account: &Account, report: &CostReport) -> Result<Vec<u8>, Unwritable> {
    let mut rows = csv::Rows::new(&COLUMNS)?;
    for line in &report.lines {
        rows.push(row(account, report, line))?;
    }
    rows.finish()
}

fn row(account: &Account, report: &CostReport, line: &CostLine) -> [String; COLUMNS.len()] {
    let at = line.time.unwrap_or_default();
    let (day, month) = (account.zone.around(Calendar::Day, at), account.zone.around(Calendar::Month, at));
    let (upstream, tool) = (named(line.upstream.as_ref()), named(line.tool.as_ref()));
    let (team, key) = (named(line.team.as_ref()), named(line.key.as_ref()));
    let (cost, calls, currency) = (decimal(line.sums.amount), line.sums.calls.to_string(), report.currency.to_string());
    let service = if upstream.1.is_empty() { "unknown".to_owned() } else { upstream.1 };
    let what =
        if tool.1.is_empty() { format!("Calls of unknown tools of {service}") } else { format!("Calls of {service}.{}", tool.1) };
    let kind = |id: &str, kind: &str| if id.is_empty() { String::new() } else { kind.to_owned() };
    let (resource_type, team_type) = (kind(&tool.0, "Tool"), kind(&team.0, "Team"));
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
        text("Usage"),
        String::new(),
        what,
        text("Usage-Based"),
        instant(day.1),
        instant(day.0),
        calls.clone(),
        text("Calls"),
        cost.clone(),
        cost.clone(),
        service.clone(),
        text("Tollgate"),
        cost,
        text("Standard"),
        currency,
        calls,
        text("Calls"),
        text("Tollgate"),
        service.clone(),
        tool.0.clone(),
        tool.1,
        resource_type,
        text("AI and Machine Learning"),
        service,
        text("Tollgate"),
        text("Other (AI and Machine Learning)"),
        tool.0,
        team.0,
        team.1,
        team_type,
        tags,
        key.0,
        key.1,
        line.sums.errors.to_string(),
        line.latency_p50_us.map(|us| us.to_string()).unwrap_or_default(),
    ]
}

fn named<T: ToString>(pair: Option<&(T, Option<String>)>) -> (String, String) {
    pair.map(|(id, name)| (id.to_string(), name.clone().unwrap_or_default())).unwrap_or_default()
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
