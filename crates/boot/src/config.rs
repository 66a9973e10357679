//! `tollgate.toml`: what an operator decides about one installation. Everything has a default, unknown names are refused,
//! and an error says in which line of which file it stands.

mod check;
mod followers;
mod load;
mod secrets;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::Deserialize;

pub use followers::{Anchor, Bucket, Hidden, Sink, SinkFormat, SinkRows, Syslog, SyslogProtocol, Webhook};
pub use load::{ConfigArgs, ConfigError};
pub use secrets::{KeySource, SealingKey, Secrets};

/// The file as a whole. Programs and identity providers are lists, written `[[program]]` and `[[oidc]]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Command lines that an upstream of type `stdio` may name. The admin API cannot name a command line itself: whoever
    /// holds an admin token could otherwise run anything on this host.
    #[serde(rename = "program")]
    pub programs: Vec<Program>,
    /// Identity providers whose tokens the admin API accepts beside its own.
    pub oidc: Vec<Oidc>,
    pub telemetry: Telemetry,
    pub limits: Limits,
    pub gateway: Gateway,
    pub upstream: Upstream,
    pub audit: Audit,
    pub approvals: Approvals,
    pub report: Report,
    pub secrets: Secrets,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// What the API calls it: lower-case letters, digits, `-` and `_`.
    pub name: String,
    pub command: PathBuf,
    #[serde(default)]
    pub args: Vec<String>,
    /// The whole environment of the program besides PATH, HOME and LANG; nothing else of the gateway's is handed on.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Relative paths count from the folder of the file.
    #[serde(default)]
    pub cwd: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Oidc {
    /// Compared with `iss` as it stands, and https unless it is a loopback address.
    pub issuer: String,
    pub audience: String,
    /// Asymmetric algorithms only: with a symmetric one, whoever can verify could also issue.
    #[serde(default = "default_algorithms")]
    pub algorithms: Vec<String>,
    /// Where the keys are; otherwise read from `<issuer>/.well-known/openid-configuration`.
    #[serde(default)]
    pub jwks_url: Option<String>,
    /// The claim that holds the tenant's id or slug. Without it, the admins bound to the token's issuer and subject decide.
    #[serde(default)]
    pub tenant_claim: Option<String>,
    /// The claim that holds the role's name; it may be a list, of which the strongest known role counts.
    #[serde(default)]
    pub role_claim: Option<String>,
}

fn default_algorithms() -> Vec<String> {
    vec!["RS256".to_owned()]
}

/// The MCP library tells the whole of every handshake at level info; that belongs to debugging.
const DEFAULT_LOG: &str = "info,rmcp=warn";

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Telemetry {
    /// Base address of an OTLP/HTTP collector, e.g. `http://localhost:4318`; `/v1/traces` is appended to a bare one.
    pub otlp_endpoint: Option<String>,
    /// A level, or directives such as `info,tollgate_worker=debug`.
    pub log: String,
    pub log_format: LogFormat,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { otlp_endpoint: None, log: DEFAULT_LOG.to_owned(), log_format: LogFormat::Text }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Ceilings. Every queue, body, run and wait has one; these are the ones an operator may want to move.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    pub request_body_bytes: usize,
    /// Of a request to a model: whole conversations, with images in them.
    pub llm_body_bytes: usize,
    /// How long a client may take to send the head of a request.
    pub request_head_seconds: u64,
    pub connections: usize,
    /// One answer of an upstream.
    pub tool_result_bytes: usize,
    /// Calls waiting for the audit log; beyond it new calls are refused, not left unrecorded.
    pub audit_queue: usize,
    /// What they may hold in memory together.
    pub audit_queue_bytes: usize,
    pub database_connections: u32,
    /// How long a stopping process waits for the work in flight.
    pub drain_seconds: u64,
    /// Where rate limits are counted. Unset: in Redis where `REDIS_URL` is set, else in Postgres. All workers must agree.
    pub counters: Option<CountersIn>,
    pub script: ScriptLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_body_bytes: 4 << 20,
            llm_body_bytes: 32 << 20,
            request_head_seconds: 10,
            connections: 10_000,
            tool_result_bytes: 16 << 20,
            audit_queue: 4_096,
            audit_queue_bytes: 256 << 20,
            database_connections: 20,
            drain_seconds: 20,
            counters: None,
            script: ScriptLimits::default(),
        }
    }
}

/// Where rate limits are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CountersIn {
    Postgres,
    Redis,
    /// Of the one process that is all there is, under `tollgate up`.
    Memory,
}

impl Limits {
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }
}

/// Of one script run: what a tenant has that sets nothing less by itself, and what none can exceed.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScriptLimits {
    /// Calls and loop back-edges.
    pub ticks: u64,
    pub heap_bytes: u64,
    /// Wall clock of a whole run, the time that its tools take included.
    pub wall_seconds: u64,
    pub source_bytes: usize,
    pub log_bytes: usize,
    pub result_bytes: usize,
    /// Of a script's result, and again of what it prints, that one answer to a model holds, in characters of JSON text; the rest of the
    /// result is read with `readResult`.
    pub answer_chars: usize,
    /// Tool calls in one run.
    pub calls: u32,
    /// Processor time of a script from one tool call to the next.
    pub step_milliseconds: u32,
    /// Sandbox processes of one worker; 0 means one per core.
    pub processes: usize,
    /// Run scripts also where the kernel lacks landlock or seccomp. Then nothing but the language stands between a script and
    /// the machine.
    pub allow_unconfined: bool,
}

impl Default for ScriptLimits {
    fn default() -> Self {
        Self {
            ticks: 5_000_000,
            heap_bytes: 128 << 20,
            wall_seconds: 120,
            source_bytes: 64 << 10,
            log_bytes: 256 << 10,
            result_bytes: 1 << 20,
            answer_chars: 25_000,
            calls: 200,
            step_milliseconds: 2_000,
            processes: 0,
            allow_unconfined: false,
        }
    }
}

impl ScriptLimits {
    /// What the sandbox is told to allow at most.
    pub fn step_seconds(&self) -> u32 {
        self.step_milliseconds.div_ceil(1000)
    }
}

/// How the audit trail is signed and sealed.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// Files with an Ed25519 private key each, as `openssl genpkey -algorithm ed25519` writes them. The first signs; what the
    /// others have signed, or are about to sign, is believed and published. None: a key made from the server's secret.
    pub signing_keys: Vec<PathBuf>,
    /// How often rows are sealed. It is how far seals, streams and cursors trail behind.
    pub seal_milliseconds: u64,
    /// Where export jobs may write, `[[audit.destination]]`. The admin API refers to one by its name and can name no other place.
    #[serde(rename = "destination")]
    pub destinations: Vec<Destination>,
    #[serde(rename = "sink")]
    pub sinks: Vec<Sink>,
    #[serde(rename = "anchor")]
    pub anchors: Vec<Anchor>,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            signing_keys: Vec::new(),
            seal_milliseconds: 1000,
            destinations: Vec::new(),
            sinks: Vec::new(),
            anchors: Vec::new(),
        }
    }
}

/// A place for export jobs. Each tenant writes below a folder that is named after its id.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// What the API calls it: lower-case letters, digits, `-` and `_`.
    pub name: String,
    /// `file:///var/exports`, or `s3://bucket/prefix` for whatever speaks the S3 protocol.
    pub url: String,
    /// Of an S3 store that is not Amazon's.
    #[serde(default)]
    pub endpoint: Option<String>,
    #[serde(default)]
    pub region: Option<String>,
    /// Left out together with the secret: the machine's own role.
    #[serde(default)]
    pub access_key_id: Option<String>,
    #[serde(default)]
    pub secret_access_key: Option<Hidden>,
    /// Let the endpoint be plain http: whoever is on the way reads every row.
    #[serde(default)]
    pub allow_http: bool,
}

/// Where a destination's URL points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place<'a> {
    Folder(&'a std::path::Path),
    Bucket { name: &'a str, prefix: &'a str },
}

impl Destination {
    /// `None`: the URL is of no known kind, which [`Config::check`] refuses.
    #[must_use]
    pub fn place(&self) -> Option<Place<'_>> {
        if let Some(path) = self.url.strip_prefix("file://") {
            return path.starts_with('/').then(|| Place::Folder(std::path::Path::new(path)));
        }
        let (name, prefix) = self.url.strip_prefix("s3://").map(|rest| rest.split_once('/').unwrap_or((rest, "")))?;
        (!name.is_empty()).then_some(Place::Bucket { name, prefix: prefix.trim_matches('/') })
    }
}

/// Where cost reports may be sent besides the destinations of export jobs.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Report {
    /// `[[report.webhook]]`. The admin API refers to one by its name: an address of its choice could lie in the operator's network.
    #[serde(rename = "webhook")]
    pub webhooks: Vec<ReportWebhook>,
}

/// A [`Webhook`] with a name.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportWebhook {
    /// What the API calls it: lower-case letters, digits, `-` and `_`.
    pub name: String,
    pub url: Hidden,
    #[serde(default)]
    pub secret: Option<Hidden>,
    #[serde(default)]
    pub headers: BTreeMap<String, Hidden>,
    #[serde(default)]
    pub allow_http: bool,
}

impl ReportWebhook {
    #[must_use]
    pub fn webhook(&self) -> Webhook {
        let Self { url, secret, headers, allow_http, .. } = self.clone();
        Webhook { url, secret, headers, allow_http }
    }
}

/// Calls that wait for people.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Approvals {
    /// How long a call may wait to be decided on, and then to be made.
    pub expire_hours: u32,
    /// Calls of one key that may wait at once. Beyond, a call that needs an approval is refused.
    pub waiting_per_key: u32,
    /// The address of the admin API as people reach it, for the links in notices; without it they begin with `/v1`.
    pub api_url: Option<String>,
    /// `[[approvals.webhook]]`: who is told what has become of approvals.
    #[serde(rename = "webhook")]
    pub webhooks: Vec<ApprovalWebhook>,
}

/// A [`Webhook`] with a name, for the approvals of some tenants.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalWebhook {
    /// What the API calls it: lower-case letters, digits, `-` and `_`.
    pub name: String,
    /// Ids or slugs. Left out: every tenant.
    #[serde(default)]
    pub tenants: Option<Vec<String>>,
    pub url: Hidden,
    #[serde(default)]
    pub secret: Option<Hidden>,
    #[serde(default)]
    pub headers: BTreeMap<String, Hidden>,
    #[serde(default)]
    pub allow_http: bool,
}

impl ApprovalWebhook {
    #[must_use]
    pub fn webhook(&self) -> Webhook {
        let Self { url, secret, headers, allow_http, .. } = self.clone();
        Webhook { url, secret, headers, allow_http }
    }
}

impl Default for Approvals {
    fn default() -> Self {
        Self { expire_hours: 24, waiting_per_key: 1000, api_url: None, webhooks: Vec::new() }
    }
}

/// The model door as browsers see it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gateway {
    /// Values of `Origin` that are answered. A request without one is no browser and passes.
    pub allowed_origins: Vec<String>,
    /// Values of `Host` that are answered, against DNS rebinding. Empty: the loopback names while the listener is on a
    /// loopback address, and any name otherwise.
    pub allowed_hosts: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Upstream {
    /// Whether an upstream's address may lie in a private or loopback network. Unset: yes under `tollgate up`, where the
    /// servers to try usually run beside it; no for `tollgate api` and `tollgate worker`, where an admin of one tenant
    /// must not reach into the operator's network.
    pub allow_private_networks: Option<bool>,
}

impl Upstream {
    pub fn allows_private_networks(&self) -> bool {
        self.allow_private_networks.unwrap_or(false)
    }
}

impl Config {
    pub fn program(&self, name: &str) -> Option<&Program> {
        self.programs.iter().find(|program| program.name == name)
    }

    pub fn destination(&self, name: &str) -> Option<&Destination> {
        self.audit.destinations.iter().find(|destination| destination.name == name)
    }

    pub fn report_webhook(&self, name: &str) -> Option<&ReportWebhook> {
        self.report.webhooks.iter().find(|webhook| webhook.name == name)
    }
}
