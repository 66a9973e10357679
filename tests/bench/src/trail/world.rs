//! Who calls what: one large tenant and five small ones, with teams, keys, and the tools of their upstreams.

use anyhow::Result;
use serde_json::json;
use tollgate_domain::{KeyId, TeamId, TenantId, ids};
use uuid::Uuid;

use crate::{
    admin::{Admin, text},
    dice::{Dice, to_i64, to_usize},
};

/// Share of all calls, teams, keys, upstreams.
const TENANTS: [(f64, usize, usize, usize); 6] =
    [(0.70, 12, 200, 14), (0.12, 4, 30, 8), (0.07, 3, 20, 6), (0.05, 2, 12, 5), (0.04, 2, 8, 4), (0.02, 1, 4, 3)];
const UPSTREAMS: [&str; 14] = [
    "crm",
    "shop",
    "billing",
    "tickets",
    "warehouse",
    "mail",
    "calendar",
    "wiki",
    "search",
    "hr",
    "git",
    "metrics",
    "files",
    "maps",
];
const VERBS: [&str; 5] = ["get", "list", "search", "create", "update"];
const NOUNS: [&str; 8] = ["order", "customer", "invoice", "ticket", "document", "contact", "event", "report"];

#[derive(Debug)]
pub struct World {
    /// The largest first.
    pub tenants: Vec<Tenant>,
}

#[derive(Debug)]
pub struct Tenant {
    pub id: Uuid,
    /// The id as the API spells it.
    pub name: String,
    pub currency: String,
    /// Of all calls, those of this tenant and of the ones before it.
    share_up_to: f64,
    /// The busiest first, as with the tools.
    pub keys: Vec<Key>,
    pub tools: Vec<Tool>,
}

#[derive(Debug)]
pub struct Key {
    pub id: Uuid,
    pub name: String,
    pub team: Option<Uuid>,
    /// Name and version of what calls with it.
    pub client: String,
}

#[derive(Debug)]
pub struct Tool {
    pub id: Uuid,
    pub name: String,
    pub upstream: Uuid,
    pub upstream_name: &'static str,
    pub definition: [u8; 32],
    pub price: Option<Uuid>,
    pub picos: i64,
    /// Half of its calls are faster.
    pub median_us: f64,
}

impl World {
    /// Tenants, teams and keys are made by the API. Tools are not: rows name them, and nobody calls them.
    pub async fn make(admin: &Admin) -> Result<Self> {
        let (mut dice, mut tenants, mut share_up_to) = (Dice::new(5), Vec::new(), 0.0);
        for (n, (share, teams, keys, upstreams)) in TENANTS.into_iter().enumerate() {
            share_up_to += share;
            tenants.push(Tenant::make(admin, &mut dice, n, share_up_to, (teams, keys, upstreams)).await?);
        }
        Ok(Self { tenants })
    }

    pub fn largest(&self) -> &Tenant {
        &self.tenants[0]
    }

    pub fn draw(&self, dice: &mut Dice) -> usize {
        let chance = dice.unit();
        self.tenants.iter().position(|tenant| chance < tenant.share_up_to).unwrap_or(0)
    }
}

impl Tenant {
    async fn make(
        admin: &Admin,
        dice: &mut Dice,
        n: usize,
        share_up_to: f64,
        (teams, keys, upstreams): (usize, usize, usize),
    ) -> Result<Self> {
        let made = admin.post("/v1/tenants", &json!({"name": format!("Tenant {n}"), "slug": format!("bench-{n}")})).await?;
        let name = text(&made, "id")?;
        let path = |rest: &str| format!("/v1/tenants/{name}/{rest}");
        let mut team_ids = Vec::new();
        for team in 0..teams {
            team_ids.push(text(&admin.post(&path("teams"), &json!({"name": format!("Team {team}")})).await?, "id")?);
        }
        let mut made_keys = Vec::with_capacity(keys);
        for key in 0..keys {
            // One key in ten belongs to nobody.
            let team = (!dice.chance(0.1)).then(|| team_ids[dice.zipf(teams)].clone());
            let body = json!({"name": format!("agent {key}"), "team_id": team, "tool_group_ids": []});
            let id = text(&admin.post(&path("keys"), &body).await?, "id")?;
            made_keys.push(Key {
                id: id.parse::<KeyId>()?.uuid(),
                name: id,
                team: team.map(|team| team.parse::<TeamId>()).transpose()?.map(TeamId::uuid),
                client: format!("agent-{}/1.{}", dice.below(5), dice.below(20)),
            });
        }
        Ok(Self {
            id: name.parse::<TenantId>()?.uuid(),
            currency: text(&made, "currency")?,
            share_up_to,
            keys: made_keys,
            tools: tools(dice, upstreams),
            name,
        })
    }
}

fn tools(dice: &mut Dice, upstreams: usize) -> Vec<Tool> {
    let mut tools = Vec::new();
    let now = tollgate_domain::Clock::now(&tollgate_domain::SystemClock);
    for upstream_name in UPSTREAMS.into_iter().take(upstreams) {
        let upstream = ids::mint(now);
        for _ in 0..3 + dice.below(10) {
            let name = format!("{}_{}", VERBS[dice.below(VERBS.len())], NOUNS[dice.below(NOUNS.len())]);
            if tools.iter().any(|tool: &Tool| tool.upstream == upstream && tool.name == name) {
                continue;
            }
            let mut definition = [0; 32];
            definition.chunks_mut(8).for_each(|part| part.copy_from_slice(&dice.roll().to_be_bytes()));
            // Most tools cost something: a tenth of a cent, more or less.
            let priced = dice.chance(0.7);
            tools.push(Tool {
                id: ids::mint(now),
                name,
                upstream,
                upstream_name,
                definition,
                price: priced.then(|| ids::mint(now)),
                picos: if priced { to_i64(dice.log_normal(1000.0, 1.0)) * 1_000_000 } else { 0 },
                median_us: dice.log_normal(80_000.0, 1.0),
            });
        }
    }
    // Popularity has nothing to do with the order in which upstreams were added.
    for last in (1..tools.len()).rev() {
        tools.swap(last, dice.below(last + 1));
    }
    tools
}

/// How busy an hour is compared with others: nights and weekends are quiet.
pub fn weight(hour_of_day: u32, is_weekend: bool) -> f64 {
    let noon = (f64::from(hour_of_day) - 13.5).abs();
    let day = 0.15 + (-(noon * noon) / 18.0).exp();
    if is_weekend { day * 0.3 } else { day }
}

/// How many calls a request leads to: many make one, few make many.
pub fn calls_of(dice: &mut Dice, is_script: bool) -> usize {
    if is_script { 2 + dice.zipf(12) } else { to_usize(dice.log_normal(1.8, 0.7)).clamp(1, 12) }
}
