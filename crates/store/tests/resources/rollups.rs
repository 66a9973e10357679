//! Whatever calls, crashes, sweepers, sealers, builds and moves to other time zones do, and in whatever order, a report is the sum over the
//! rows of the trail, to the row.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{PgPool, Row as _};
use tollgate_domain::{
    CallId, CreditId, Decision, KeyId, LlmRequestId, Origin, Outcome, Picos, TeamId, TenantId, TimeZone, ToolId, UpstreamId,
    llm::{Counted, Mode},
    llm_price::Usage,
    policy::Reason,
    zone::Calendar,
};
use tollgate_store::{
    Actor, Store,
    audit::{AuditWriter, Completion, Entry, Forward, Intent, LlmEnd, LlmResolution, NewRequest, Resolution},
    costs::{self, CostLine, CostQuery, CostReport, Dimension, LlmSums, Sums, rollup},
    payload::Payload,
    tenants,
};
use uuid::Uuid;

use crate::{
    costs::percentile,
    id_at,
    support::{QUEUE, Who, now, seal_all, tenant},
};

/// Whose clocks change in the time of the play; offsets of hours, halves and quarters.
const ZONES: [&str; 6] = ["UTC", "Europe/Berlin", "Asia/Kathmandu", "Australia/Lord_Howe", "America/Havana", "America/St_Johns"];
const DIMENSIONS: [Dimension; 7] = [
    Dimension::Tool,
    Dimension::Key,
    Dimension::Team,
    Dimension::Upstream,
    Dimension::Outcome,
    Dimension::Model,
    Dimension::Origin,
];
const TIMES: [Dimension; 4] = [Dimension::Hour, Dimension::Day, Dimension::Week, Dimension::Month];

pub fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// Dice that fall the same way each time.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len())]
    }

    /// Mostly around the change of clocks, where a day is longer and another shorter.
    fn time(&mut self) -> DateTime<Utc> {
        let hours = if self.roll(4) == 0 { 24 * 40 } else { 36 };
        at("2026-10-24T20:00:00Z") + TimeDelta::milliseconds((self.roll(hours * 3_600_000)) as i64)
    }
}

/// A row of the views that everyone reads: a call with its request's model, a request, or a credit.
#[derive(Debug, Clone)]
pub struct Seen {
    at: DateTime<Utc>,
    /// When its local hour began.
    hour: DateTime<Utc>,
    ids: [Option<Uuid>; 4],
    words: [Option<String>; 3],
    sums: Sums,
    latency: Option<i64>,
    tokens: i64,
    llm: LlmSums,
    credits: i128,
}

pub async fn trail(pool: &PgPool, tenant: TenantId) -> Vec<Seen> {
    let rows = sqlx::query(
        "SELECT t.*, extract(minute FROM tollgate_quarter(t.id) AT TIME ZONE z.time_zone)::int AS minute FROM tenants z CROSS JOIN (
         SELECT c.call_id AS id, c.tool_id, c.key_id, c.team_id, c.upstream_id, c.outcome, CASE WHEN d.decision IS DISTINCT FROM 'denied' THEN l.model END AS model, c.origin, c.amount_picos, c.latency_us, 1::bigint AS calls, 0::bigint AS tokens,
           NULL::bigint AS requests, NULL::bigint AS llm_amount, NULL::bigint AS input_tokens, NULL::bigint AS cached_tokens, NULL::bigint AS output_tokens, NULL::bigint AS reasoning_tokens, NULL::bigint AS credits
         FROM tool_calls c LEFT JOIN llm_requests l ON l.tenant_id = c.tenant_id AND l.llm_request_id = c.llm_request_id
         LEFT JOIN llm_forwards d ON d.tenant_id = c.tenant_id AND d.llm_request_id = c.llm_request_id WHERE c.tenant_id = $1
         UNION ALL SELECT llm_request_id, NULL, key_id, team_id, NULL, NULL, CASE WHEN decision IS DISTINCT FROM 'denied' THEN model END, origin, 0, NULL, 0, COALESCE(prompt_tokens_avoided, 0),
           (root_id IS NOT NULL)::int, amount_picos, input_tokens, cached_tokens, output_tokens, reasoning_tokens, NULL
         FROM llm_calls WHERE tenant_id = $1 AND (prompt_tokens_avoided IS NOT NULL OR root_id IS NOT NULL)
         UNION ALL SELECT tollgate_uuid_floor(created_at), tool_id, key_id, team_id, upstream_id, NULL, NULL, NULL, 0, NULL, 0, 0,
           NULL, NULL, NULL, NULL, NULL, NULL, amount_picos
         FROM credits WHERE tenant_id = $1) t WHERE z.tenant_id = $1",
    );
    let seen = |row: &sqlx::postgres::PgRow| {
        let outcome: Option<String> = row.get("outcome");
        let number = |name: &str| row.get::<Option<i64>, _>(name).unwrap_or(0);
        let millis = (row.get::<Uuid, _>("id").as_u128() >> 80) as i64;
        let hour = millis / 900_000 * 900_000 - i64::from(row.get::<i32, _>("minute")) * 60_000;
        Seen {
            at: DateTime::from_timestamp_millis(millis).unwrap(),
            hour: DateTime::from_timestamp_millis(hour).unwrap(),
            ids: ["tool_id", "key_id", "team_id", "upstream_id"].map(|name| row.get(name)),
            sums: Sums {
                calls: row.get("calls"),
                errors: outcome.as_deref().map_or(0, |word| i64::from(word.parse::<Outcome>().unwrap().is_error())),
                amount: row.get::<Option<i64>, _>("amount_picos").map_or(0, i128::from),
            },
            words: [outcome, row.get("model"), row.get("origin")],
            latency: row.get("latency_us"),
            tokens: row.get("tokens"),
            llm: LlmSums {
                requests: number("requests"),
                amount: number("llm_amount").into(),
                input_tokens: number("input_tokens"),
                cached_tokens: number("cached_tokens"),
                output_tokens: number("output_tokens"),
                reasoning_tokens: number("reasoning_tokens"),
            },
            credits: number("credits").into(),
        }
    };
    rows.bind(tenant.uuid()).fetch_all(pool).await.unwrap().iter().map(seen).collect()
}

/// A group, as ids, words and the start of the time; none where it was not asked for.
type Group = ([Option<Uuid>; 4], [Option<String>; 3], Option<DateTime<Utc>>);

fn start(zone: TimeZone, unit: Dimension, Seen { at, hour, .. }: &Seen) -> DateTime<Utc> {
    let (at, hour) = (*at, *hour);
    match unit {
        Dimension::Day => zone.around(Calendar::Day, at).0,
        Dimension::Week => zone.around(Calendar::Week, at).0,
        Dimension::Month => zone.around(Calendar::Month, at).0,
        _ => hour,
    }
}

fn group_of(row: &Seen, by: &[Dimension], zone: TimeZone) -> Group {
    let mut group = Group::default();
    for dimension in by {
        match dimension {
            Dimension::Tool => group.0[0] = row.ids[0],
            Dimension::Key => group.0[1] = row.ids[1],
            Dimension::Team => group.0[2] = row.ids[2],
            Dimension::Upstream => group.0[3] = row.ids[3],
            Dimension::Outcome => group.1[0].clone_from(&row.words[0]),
            Dimension::Model => group.1[1].clone_from(&row.words[1]),
            Dimension::Origin => group.1[2].clone_from(&row.words[2]),
            unit => group.2 = Some(start(zone, *unit, row)),
        }
    }
    group
}

fn group_of_line(line: &CostLine) -> Group {
    fn id<T: Copy + Into<Uuid>>(pair: Option<&(T, Option<String>)>) -> Option<Uuid> {
        pair.map(|(id, _)| (*id).into())
    }
    let ids = [id(line.tool.as_ref()), id(line.key.as_ref()), id(line.team.as_ref()), id(line.upstream.as_ref())];
    (ids, [line.outcome.clone(), line.model.clone(), line.origin.clone()], line.time)
}

#[derive(Debug, Default)]
struct Expected {
    sums: Sums,
    latencies: Vec<i64>,
    tokens: i64,
    llm: LlmSums,
    credits: i128,
}

fn counts_tokens(query: &CostQuery) -> bool {
    let told = [Dimension::Tool, Dimension::Upstream, Dimension::Outcome];
    !query.group_by.iter().any(|by| told.contains(by))
        && query.tool_id.is_none()
        && query.upstream_id.is_none()
        && query.outcome.is_none()
}

fn tells_credits(query: &CostQuery) -> bool {
    let without = [Dimension::Outcome, Dimension::Model, Dimension::Origin];
    !query.group_by.iter().any(|by| without.contains(by)) && query.outcome.is_none()
}

fn expected(rows: &[Seen], query: &CostQuery, zone: TimeZone) -> HashMap<Group, Expected> {
    let fits = |asked: Option<Uuid>, id: Option<Uuid>| asked.is_none() || asked == id;
    let mut groups: HashMap<Group, Expected> = HashMap::new();
    for row in rows {
        let inside = query.from <= row.at && row.at < query.to;
        let ids = fits(query.tool_id.map(ToolId::uuid), row.ids[0])
            && fits(query.key_id.map(KeyId::uuid), row.ids[1])
            && fits(query.team_id.map(TeamId::uuid), row.ids[2])
            && fits(query.upstream_id.map(UpstreamId::uuid), row.ids[3]);
        let outcome = query.outcome.is_none_or(|outcome| row.words[0].as_deref() == Some(outcome.as_str()));
        // Requests and credits are no calls, and tell of themselves only where there is a place for them.
        let told = row.sums.calls > 0 || if row.credits > 0 { tells_credits(query) } else { counts_tokens(query) };
        if !(inside && ids && outcome && told) {
            continue;
        }
        let group = groups.entry(group_of(row, &query.group_by, zone)).or_default();
        group.sums = plus(group.sums, row.sums);
        group.latencies.extend(row.latency);
        group.tokens += row.tokens;
        group.llm = llm_plus(group.llm, row.llm);
        group.credits += row.credits;
    }
    groups
}

pub fn plus(a: Sums, b: Sums) -> Sums {
    Sums { calls: a.calls + b.calls, errors: a.errors + b.errors, amount: a.amount + b.amount }
}

fn llm_plus(a: LlmSums, b: LlmSums) -> LlmSums {
    LlmSums {
        requests: a.requests + b.requests,
        amount: a.amount + b.amount,
        input_tokens: a.input_tokens + b.input_tokens,
        cached_tokens: a.cached_tokens + b.cached_tokens,
        output_tokens: a.output_tokens + b.output_tokens,
        reasoning_tokens: a.reasoning_tokens + b.reasoning_tokens,
    }
}

/// As near as a histogram says.
pub fn assert_near(found: Option<i64>, exact: Option<i64>) {
    assert_eq!(found.is_some(), exact.is_some(), "{found:?} for {exact:?}");
    let (found, exact) = (found.unwrap_or(0), exact.unwrap_or(0));
    assert!((found - exact).abs() * 1000 <= exact * 32, "{found} for {exact}");
}

pub fn assert_equal(report: &CostReport, rows: &[Seen], query: &CostQuery, zone: TimeZone) {
    let mut groups = expected(rows, query, zone);
    if query.group_by.is_empty() {
        groups.entry(Group::default()).or_default();
    }
    let total = groups.values().fold(Sums::default(), |sum, group| plus(sum, group.sums));
    assert_eq!(report.total, total, "{query:?} in {zone}");
    let tokens = counts_tokens(query);
    assert_eq!(report.prompt_tokens_avoided, tokens.then(|| groups.values().map(|group| group.tokens).sum()), "{query:?}");
    let llm = groups.values().fold(LlmSums::default(), |sum, group| llm_plus(sum, group.llm));
    assert_eq!(report.llm, tokens.then_some(llm), "{query:?} in {zone}");
    let credits = tells_credits(query);
    assert_eq!(report.credits, credits.then(|| groups.values().map(|group| group.credits).sum()), "{query:?} in {zone}");
    assert_eq!(report.lines.len(), groups.len(), "{query:?} in {zone}: {:?} for {groups:?}", report.lines);
    for line in &report.lines {
        let group = groups.get_mut(&group_of_line(line)).unwrap_or_else(|| panic!("{query:?} in {zone}: {line:?}"));
        assert_eq!(line.sums, group.sums, "{query:?} in {zone}: {line:?}");
        assert_eq!(line.prompt_tokens_avoided, tokens.then_some(group.tokens), "{query:?}: {line:?}");
        assert_eq!(line.llm, tokens.then_some(group.llm), "{query:?} in {zone}: {line:?}");
        assert_eq!(line.credits, credits.then_some(group.credits), "{query:?} in {zone}: {line:?}");
        assert_near(line.latency_p50_us, percentile(&mut group.latencies, 50));
        assert_near(line.latency_p99_us, percentile(&mut group.latencies, 99));
    }
}

pub fn everything(group_by: Vec<Dimension>) -> CostQuery {
    let (from, to) = (at("2026-01-01T00:00:00Z"), at("2027-01-01T00:00:00Z"));
    let (key_id, team_id, tool_id, upstream_id, outcome) = (None, None, None, None, None);
    CostQuery { from, to, group_by, key_id, team_id, tool_id, upstream_id, outcome, top: None, compare: None }
}

struct Open {
    intent: Intent,
    resolved: bool,
}

struct OpenRequest {
    tenant: TenantId,
    id: LlmRequestId,
    resolved: bool,
}

pub struct Play {
    pool: PgPool,
    store: Store,
    /// Writers with chains of their own.
    audits: Vec<AuditWriter>,
    whos: Vec<Who>,
    requests: Vec<(TenantId, LlmRequestId)>,
    teams: Vec<Option<TeamId>>,
    open: Vec<Open>,
    asked: Vec<OpenRequest>,
    /// Batches as they were written, to be written again.
    old: Vec<String>,
    dice: Dice,
    zones: BTreeMap<TenantId, TimeZone>,
}

impl Play {
    pub async fn new(pool: PgPool, seed: u64) -> Self {
        let store = Store::from_pool(pool.clone());
        let (mut whos, mut zones) = (Vec::new(), BTreeMap::new());
        for _ in 0..2 {
            let id = tenant(&pool).await;
            whos.extend((0..3).map(|_| Who::new(id)));
            zones.insert(id, TimeZone::UTC);
        }
        let audits = (0..2).map(|_| AuditWriter::start(&store, QUEUE)).collect();
        let teams = vec![None, Some(TeamId::mint(now())), Some(TeamId::mint(now()))];
        Self {
            pool,
            store,
            audits,
            whos,
            requests: vec![],
            teams,
            open: vec![],
            asked: vec![],
            old: vec![],
            dice: Dice(seed),
            zones,
        }
    }

    async fn write(&mut self, entry: Entry) {
        let audit = &self.audits[self.dice.roll(self.audits.len())];
        audit.after(entry).await.unwrap();
    }

    async fn step(&mut self) {
        match self.dice.roll(100) {
            0..26 => self.call().await,
            26..40 => self.complete().await,
            40..46 => self.resolve().await,
            46..57 => self.ask().await,
            57..65 => self.answer().await,
            65..70 => self.resolve_request().await,
            70..72 => self.credit().await,
            72..84 => drop(seal_all(&self.store).await),
            84..88 => self.build().await,
            88..91 => self.move_zone().await,
            91..95 => self.repeat_a_batch().await,
            _ => self.name_rows_again().await,
        }
    }

    /// One call or several, under one request or another; some end with their beginning.
    async fn call(&mut self) {
        let who = self.dice.pick(&(0..self.whos.len()).collect::<Vec<_>>());
        let who = self.whos[who].clone();
        let mut entry = Entry::default();
        let known: Vec<LlmRequestId> = self.requests.iter().filter(|(of, _)| *of == who.tenant).map(|(_, id)| *id).collect();
        let request = if known.is_empty() || self.dice.roll(3) == 0 {
            let id = id_at(self.dice.time());
            let model = self.dice.pick(&[None, Some("m1"), Some("m2")]).map(str::to_owned);
            let prompt_tokens_avoided = (self.dice.roll(2) == 0).then(|| self.dice.roll(5_000) as i64);
            entry.request = Some(NewRequest { id, model, prompt_tokens_avoided, ..who.request() });
            self.requests.push((who.tenant, id));
            id
        } else {
            self.dice.pick(&known)
        };
        let opened = self.dice.time();
        let origin = self.dice.pick(&[Origin::Minted, Origin::Llm]);
        let team = self.dice.pick(&self.teams.clone());
        let mut intent = Intent { id: id_at(opened), request, origin, team, at: opened, ..who.intent("{}") };
        if self.dice.roll(8) == 0 {
            (intent.decision, intent.reason, intent.tool) = (Decision::Denied, Some(Reason::NotInScope), None);
        }
        let open = intent.decision == Decision::Permitted;
        entry.intent = Some(intent.clone());
        if open && self.dice.roll(4) == 0 {
            entry.completions.push(self.completion(&who, intent.id));
        } else if open {
            self.open.push(Open { intent, resolved: false });
        }
        self.write(entry).await;
    }

    fn completion(&mut self, who: &Who, id: CallId) -> Completion {
        let outcome = self.dice.pick(&[Outcome::Ok, Outcome::Ok, Outcome::ToolError, Outcome::Timeout, Outcome::Unknown]);
        let latency = std::time::Duration::from_micros(1_u64 << self.dice.roll(36))
            + std::time::Duration::from_micros(self.dice.roll(977) as u64);
        Completion { latency, amount: Picos(self.dice.roll(1 << 40) as i64), ..who.completion(id, outcome, b"{}") }
    }

    async fn complete(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let open = self.open.swap_remove(self.dice.roll(self.open.len()));
        let who = self.whos.iter().find(|who| who.tenant == open.intent.tenant).unwrap().clone();
        let mut entry = Entry { completions: vec![self.completion(&who, open.intent.id)], ..Entry::default() };
        if !open.resolved && self.dice.roll(6) == 0 {
            // Its worker was taken for dead at that very moment.
            entry.resolutions.push(self.resolution(&open.intent));
        }
        self.write(entry).await;
    }

    fn resolution(&mut self, intent: &Intent) -> Resolution {
        Resolution { tenant: intent.tenant, id: intent.id, amount: Picos(self.dice.roll(1000) as i64), at: now() }
    }

    async fn resolve(&mut self) {
        let Some(place) = self.open.iter().position(|open| !open.resolved) else { return };
        let intent = self.open[place].intent.clone();
        let resolutions = vec![self.resolution(&intent)];
        // Often for good.
        if self.dice.roll(2) == 0 {
            self.open.swap_remove(place);
        } else {
            self.open[place].resolved = true;
        }
        self.write(Entry { resolutions, ..Entry::default() }).await;
    }

    /// A request to a model, which may be refused, or answered before its row is written.
    async fn ask(&mut self) {
        let who = self.whos[self.dice.roll(self.whos.len())].clone();
        let id = id_at(self.dice.time());
        let refused = (self.dice.roll(6) == 0).then_some(Reason::BudgetExhausted);
        let request = self.forwarded(&who, id, refused);
        self.requests.push((who.tenant, id));
        let mut entry = Entry { request: Some(request), ..Entry::default() };
        if refused.is_none() && self.dice.roll(4) == 0 {
            entry.llm_ends.push(self.end(who.tenant, id));
        } else if refused.is_none() {
            self.asked.push(OpenRequest { tenant: who.tenant, id, resolved: false });
        }
        self.write(entry).await;
    }

    pub fn forwarded(&mut self, who: &Who, id: LlmRequestId, refused: Option<Reason>) -> NewRequest {
        let forward = Forward {
            root: id,
            turn: 1,
            mode: Mode::Manual,
            streaming: false,
            worker: who.worker,
            refused,
            tools: (0, 0),
            quoted: Picos(self.dice.roll(1000) as i64),
            leases: Vec::new(),
            currency: "USD".parse().unwrap(),
            prompt: Payload::whole(&b"{}"[..]),
        };
        let model = self.dice.pick(&[Some("m1"), Some("m2"), Some("m3")]).map(str::to_owned);
        let team = self.dice.pick(&self.teams.clone());
        let prompt_tokens_avoided = (self.dice.roll(8) == 0).then(|| self.dice.roll(5_000) as i64);
        let origin = Origin::Llm;
        NewRequest { id, model, team, origin, prompt_tokens_avoided, forward: Some(forward), ..who.request() }
    }

    pub fn end(&mut self, tenant: TenantId, id: LlmRequestId) -> LlmEnd {
        let (input, output) = (self.dice.roll(100_000) as u64, self.dice.roll(10_000) as u64);
        let usage = Usage { input, cached_input: input / 3, cache_write: input / 7, output, reasoning: output / 2 };
        LlmEnd {
            tenant,
            id,
            outcome: self.dice.pick(&[Outcome::Ok, Outcome::UpstreamError, Outcome::Cancelled]),
            error: None,
            provider: None,
            model: Some("served".to_owned()),
            attempts: "[]".to_owned(),
            counted: Counted::Reported,
            usage,
            price: None,
            amount: Picos(self.dice.roll(1 << 40) as i64),
            latency: std::time::Duration::from_millis(7),
            first_token: None,
            finish_reason: None,
            answer: None,
            at: now(),
        }
    }

    async fn answer(&mut self) {
        if self.asked.is_empty() {
            return;
        }
        let open = self.asked.swap_remove(self.dice.roll(self.asked.len()));
        let mut entry = Entry { llm_ends: vec![self.end(open.tenant, open.id)], ..Entry::default() };
        if !open.resolved && self.dice.roll(4) == 0 {
            entry.llm_resolutions.push(self.request_resolution(&open));
        }
        self.write(entry).await;
    }

    fn request_resolution(&mut self, open: &OpenRequest) -> LlmResolution {
        LlmResolution { tenant: open.tenant, id: open.id, amount: Picos(self.dice.roll(1000) as i64), at: now() }
    }

    /// By the sweeper; often the truth comes after all.
    async fn resolve_request(&mut self) {
        let Some(place) = self.asked.iter().position(|open| !open.resolved) else { return };
        let mut open = self.asked.swap_remove(place);
        let llm_resolutions = vec![self.request_resolution(&open)];
        if self.dice.roll(3) > 0 {
            open.resolved = true;
            self.asked.push(open);
        }
        self.write(Entry { llm_resolutions, ..Entry::default() }).await;
    }

    /// Of somebody's calls, or of the tenant as a whole.
    async fn credit(&mut self) {
        let who = self.whos[self.dice.roll(self.whos.len())].clone();
        let mut some = |id: Uuid| (self.dice.roll(2) == 0).then_some(id);
        let (key, upstream, tool) = (some(who.key.uuid()), some(who.upstream.uuid()), some(who.tool.uuid()));
        let sql = "INSERT INTO credits (tenant_id, credit_id, key_id, team_id, upstream_id, tool_id, amount_picos, reason, created_at, created_by)
                   VALUES ($1, $2, $3, $4, $5, $6, $7, 'r', $8, 'x')";
        let credit = sqlx::query(sql).bind(who.tenant.uuid()).bind(CreditId::mint(now()).uuid()).bind(key);
        let team = self.dice.pick(&self.teams.clone()).map(TeamId::uuid);
        let credit = credit.bind(team).bind(upstream).bind(tool).bind(1 + self.dice.roll(1 << 30) as i64).bind(self.dice.time());
        credit.execute(&self.pool).await.unwrap();
    }

    async fn build(&mut self) {
        let tenant = self.whos[self.dice.roll(self.whos.len())].tenant;
        let build = sqlx::query("SELECT tollgate_cost_build($1, $2)").bind(tenant.uuid()).bind(self.dice.roll(30) as i32);
        build.execute(&self.pool).await.unwrap();
        let cut = sqlx::query("SELECT tollgate_cost_recut_some($1, $2)").bind(tenant.uuid()).bind(self.dice.roll(30) as i32);
        cut.execute(&self.pool).await.unwrap();
    }

    async fn move_zone(&mut self) {
        let tenant = self.whos[self.dice.roll(self.whos.len())].tenant;
        let zone: TimeZone = self.dice.pick(&ZONES).parse().unwrap();
        let mut change = self.store.change(tenant, Actor::system("test"), now()).await.unwrap();
        let row = tenants::lock(&mut change).await.unwrap();
        tenants::update(&mut change, tenants::Tenant { zone, ..row }).await.unwrap();
        change.commit().await.unwrap();
        self.zones.insert(tenant, zone);
    }

    /// A writer in doubt writes the very batch again, perhaps after it was sealed: whoever repeats it wrote none of its rows.
    async fn repeat_a_batch(&mut self) {
        if let Some(batch) = self.old.pop() {
            let sql = "INSERT INTO audit_batches (writer_id, sequence, at, previous, root, key_id, signature, entries)
                       SELECT writer_id, sequence, at, previous, root, key_id, signature, entries
                       FROM jsonb_populate_record(NULL::audit_batches, $1::jsonb) ON CONFLICT DO NOTHING";
            sqlx::query(sql).bind(batch).execute(&self.pool).await.unwrap();
        }
        let newest = "SELECT to_jsonb(b)::text FROM audit_batches b WHERE writer_id <> '00000000-0000-0000-0000-000000000000'
                      ORDER BY sequence DESC LIMIT 1";
        self.old.extend(sqlx::query_scalar::<_, String>(newest).fetch_optional(&self.pool).await.unwrap());
    }

    /// The same rows under another chain, and under no valid signature: they stand in the log twice, with an anomaly, and count once.
    async fn name_rows_again(&mut self) {
        let sql = "INSERT INTO audit_batches (writer_id, sequence, at, previous, root, key_id, signature, entries)
                   SELECT gen_random_uuid(), 1, at, previous, root, key_id, signature, entries FROM audit_batches
                   WHERE writer_id <> '00000000-0000-0000-0000-000000000000' ORDER BY sequence DESC LIMIT 1";
        sqlx::query(sql).execute(&self.pool).await.unwrap();
    }

    /// Some question, against the rows.
    async fn check(&mut self) {
        let tenant = self.whos[self.dice.roll(self.whos.len())].tenant;
        let mut query = everything(DIMENSIONS.into_iter().filter(|_| self.dice.roll(3) == 0).collect());
        if self.dice.roll(2) == 0 {
            query.group_by.push(self.dice.pick(&TIMES));
        }
        if self.dice.roll(3) > 0 {
            let ends = [self.dice.time(), self.dice.time()];
            let round = [1, 1, 1000, 900_000, 900_000, 3_600_000][self.dice.roll(6)];
            let [a, b] = ends.map(|end| DateTime::from_timestamp_millis(end.timestamp_millis() / round * round).unwrap());
            (query.from, query.to) = (a.min(b), a.max(b));
        }
        let who = self.whos.iter().filter(|who| who.tenant == tenant).nth(self.dice.roll(3)).unwrap();
        match self.dice.roll(12) {
            0 => query.key_id = Some(who.key),
            1 => query.tool_id = Some(who.tool),
            2 => query.upstream_id = Some(who.upstream),
            3 => query.team_id = self.teams[1],
            4 => query.outcome = Some(Outcome::Ok),
            _ => {}
        }
        let report = costs::report(&self.store, tenant, &query).await.unwrap();
        assert_equal(&report, &trail(&self.pool, tenant).await, &query, self.zones[&tenant]);
    }
}

async fn play(pool: PgPool, seed: u64, operations: usize) {
    let mut play = Play::new(pool.clone(), seed).await;
    for _ in 0..operations {
        play.step().await;
        play.check().await;
    }
    seal_all(&play.store).await;
    let tenants: Vec<TenantId> = play.zones.keys().copied().collect();
    let mut late_truths = 0;
    for tenant in &tenants {
        rollup::build(&play.store, *tenant).await.unwrap();
        assert!(sum(&pool, "SELECT sum(calls) FROM cost_quarters WHERE face = 0 AND tenant_id = $1", *tenant).await > 20);
        assert!(sum(&pool, "SELECT sum(requests) FROM cost_quarters WHERE face = 2 AND tenant_id = $1", *tenant).await > 5);
        let late = "SELECT count(*) FROM llm_request_ends t JOIN llm_request_ends r USING (tenant_id, llm_request_id)
                    WHERE t.kind = 1 AND r.kind = 2 AND tenant_id = $1";
        late_truths += sum(&pool, late, *tenant).await;
        assert_no_drift(&play.store, *tenant).await;
    }
    assert!(late_truths > 2, "{late_truths}");
    for _ in 0..40 {
        play.check().await;
    }
}

pub async fn assert_no_drift(store: &Store, tenant: TenantId) {
    let mut since = DateTime::UNIX_EPOCH;
    while let Some(checked) = rollup::check(store, tenant, since).await.unwrap() {
        assert_eq!(checked.drift, None, "{} to {}", checked.from, checked.to);
        since = checked.to;
    }
    assert!(since > at("2026-10-24T00:00:00Z"), "it was not looked at: {since}");
}

async fn sum(pool: &PgPool, sql: &'static str, tenant: TenantId) -> i64 {
    let text = format!("SELECT COALESCE(({sql}), 0)::bigint");
    sqlx::query_scalar(sqlx::AssertSqlSafe(text)).bind(tenant.uuid()).fetch_one(pool).await.unwrap()
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t62_a_report_is_the_sum_of_the_rows_whatever_happens(pool: PgPool) {
    let operations = std::env::var("TOLLGATE_OPERATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(700);
    play(pool, 7, operations).await;
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t62_and_so_it_is_from_another_beginning(pool: PgPool) {
    play(pool, 23, 300).await;
}

/// Reports, writers and the sealer at once: a report never says less than was there before it, nor more than is there after it.
#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t62_a_report_beside_the_sealer_misses_nothing_and_counts_nothing_twice(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let who = Who::new(tenant(&pool).await);
    rollup::build(&store, who.tenant).await.unwrap();
    let audit = AuditWriter::start(&store, QUEUE);
    audit.before(Entry { request: Some(who.request()), ..Entry::default() }).await.unwrap();
    let writing = tokio::spawn({
        let (who, audit) = (who.clone(), audit.clone());
        async move {
            for n in 0..400_usize {
                let intent = who.intent("{}");
                let id = intent.id;
                audit.before(Entry { intent: Some(intent), ..Entry::default() }).await.unwrap();
                if n % 3 > 0 {
                    let completions = vec![who.completion(id, Outcome::Ok, b"{}")];
                    audit.after(Entry { completions, ..Entry::default() }).await.unwrap();
                }
            }
        }
    });
    let sealing = tokio::spawn({
        let store = store.clone();
        async move {
            loop {
                tollgate_store::sealer::round(&store, now()).await.unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(7)).await;
            }
        }
    });
    let mut looked = 0;
    while !writing.is_finished() || looked == 0 {
        let before = trail(&pool, who.tenant).await.len() as i64;
        let query = everything(vec![Dimension::Outcome]);
        let said = costs::report(&store, who.tenant, &query).await.unwrap();
        let after = trail(&pool, who.tenant).await.len() as i64;
        assert!((before..=after).contains(&said.total.calls), "{} of {before} to {after}", said.total.calls);
        looked += 1;
    }
    writing.await.unwrap();
    sealing.abort();
    assert!(looked > 5, "{looked}");
    seal_all(&store).await;
    let query = everything(vec![Dimension::Outcome]);
    let report = costs::report(&store, who.tenant, &query).await.unwrap();
    assert_equal(&report, &trail(&pool, who.tenant).await, &query, TimeZone::UTC);
    assert_eq!(report.total.calls, 400);
}
