//! The command line. Every flag has an environment variable `TOLLGATE_<FLAG>`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use clap::{Args, Parser, Subcommand, ValueEnum};
use tollgate_boot::ConfigArgs;

#[derive(Debug, Parser)]
#[command(name = "tollgate", version, about = "A control plane for the tools that language models call")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything on this machine: a private Postgres, migrations, the admin API and one worker
    Up(Up),
    /// Run the admin API against a database
    Api(Api),
    /// Run one worker, the door for models, against a database; run as many as you like
    Worker(Worker),
    /// Bring a database to this binary's schema
    Migrate(Database),
    /// Create a platform admin token and print it, once
    MintAdmin(MintAdmin),
    /// Print the admin API's description (OpenAPI 3.1, JSON)
    Openapi,
    /// The sums that cost reports are made of
    #[command(subcommand)]
    Costs(Costs),
    /// The keys under which credentials rest in the database
    #[command(subcommand)]
    Secrets(Secrets),
    /// Check what the audit trail hands out: nothing edited, removed, reordered, added or cut off. Needs neither network nor database
    #[command(after_help = VERIFY_HELP)]
    Verify(Verify),
}

const VERIFY_HELP: &str = "\
What it was given it finds out by itself:
  a bundle                        GET /v1/tenants/{t}/audit/export?format=bundle, or a job with format `bundle`
  the proofs of a call            GET /v1/tenants/{t}/tool-calls/{id}/proof
  a proof of consistency          GET /v1/tenants/{t}/audit/consistency
  seals                           GET /v1/tenants/{t}/audit/seals, or the file of an `[[audit.anchor]]`
  the _manifest.json of a job     with _manifest.sig and the job's files beside it
All but a bundle need --key: the public keys, from GET /v1/tenants/{t}/audit/keys or better on another way.

Exit status:
  0  sound
  1  not sound: something is not what was signed, or not what was anchored
  2  cannot say: it cannot be read, the keys are missing, or it proves nothing";

/// A public key or its name, with or without its algorithm in front. Whatever else is typed is no key that could fail to fit.
fn public_key(text: &str) -> Result<String, String> {
    let hex = text.strip_prefix("ed25519:").unwrap_or(text).to_ascii_lowercase();
    let fits = matches!(hex.len(), 16 | 64) && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    if fits {
        Ok(hex)
    } else {
        Err("a public key has 64 hex digits, its name the first 16 of its SHA-256; not a file".to_owned())
    }
}

#[derive(Debug, Args)]
pub struct Verify {
    /// What is to be checked; `-` reads standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Seals that were written outside: the file of an anchor, or a folder of its objects. What contradicts them, or had lost them
    /// when it was made, is not sound; may be given several times
    #[arg(long, env = "TOLLGATE_ANCHOR", value_name = "FILE", value_delimiter = ',')]
    pub anchor: Vec<PathBuf>,
    /// Run every recorded script again from its journal, and compare its result, logs and ticks
    #[arg(long, env = "TOLLGATE_REPLAY")]
    pub replay: bool,
    /// Trust this public key alone (64 hex digits, or the 16 of its name); may be given several times
    #[arg(long, env = "TOLLGATE_KEY", value_name = "HEX", value_delimiter = ',', value_parser = public_key)]
    pub key: Vec<String>,
    /// Print the report as JSON
    #[arg(long, env = "TOLLGATE_JSON")]
    pub json: bool,
    #[command(flatten)]
    pub sandbox: Sandbox,
}

#[derive(Debug, Args)]
pub struct Up {
    /// Where everything is kept; made where it is missing
    #[arg(long, env = "TOLLGATE_DATA_DIR", default_value = ".tollgate", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Address of the admin API; port 0 takes a free one
    #[arg(long, env = "TOLLGATE_API", default_value = "127.0.0.1:8080", value_name = "HOST:PORT")]
    pub api: String,
    /// Address of the gateway, the door for models; port 0 takes a free one
    #[arg(long, env = "TOLLGATE_GATEWAY", default_value = "127.0.0.1:8081", value_name = "HOST:PORT")]
    pub gateway: String,
    /// What to fill a new installation with
    #[arg(long, env = "TOLLGATE_SEED", value_enum, default_value = "demo")]
    pub seed: Seed,
    #[command(flatten)]
    pub database: Database,
    #[command(flatten)]
    pub redis: Redis,
    #[command(flatten)]
    pub sandbox: Sandbox,
    #[command(flatten)]
    pub config: ConfigArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Seed {
    /// A tenant with two demo servers, two keys and prices
    Demo,
    None,
}

#[derive(Debug, Args)]
pub struct Api {
    /// Address to listen on
    #[arg(long, env = "TOLLGATE_LISTEN", default_value = "127.0.0.1:8080", value_name = "HOST:PORT")]
    pub listen: String,
    #[command(flatten)]
    pub server: Server,
}

#[derive(Debug, Args)]
pub struct Worker {
    /// Address to listen on
    #[arg(long, env = "TOLLGATE_LISTEN", default_value = "127.0.0.1:8081", value_name = "HOST:PORT")]
    pub listen: String,
    #[command(flatten)]
    pub sandbox: Sandbox,
    #[command(flatten)]
    pub server: Server,
}

#[derive(Debug, Subcommand)]
pub enum Costs {
    /// Compare all sums with the rows of the audit trail; exits with 1 where they differ
    Check(CostsCheck),
}

#[derive(Debug, Args)]
pub struct CostsCheck {
    /// Make anew from the rows what differs, and record that in the tenant's audit trail
    #[arg(long, env = "TOLLGATE_REPAIR")]
    pub repair: bool,
    #[command(flatten)]
    pub database: Database,
    #[command(flatten)]
    pub secret: Secret,
    #[command(flatten)]
    pub config: ConfigArgs,
}

#[derive(Debug, Subcommand)]
pub enum Secrets {
    /// Seal everything anew under the first key, while everything runs; may be stopped and started again
    ///
    /// First give every process the new key behind the old one, then to every process in front of it, then run this. Exits with 1 where
    /// something could not be opened.
    Rotate(SecretsOf),
    /// How many rows are sealed under which key, and which keys are needed no more; exits with 1 where a key is missing
    Status(SecretsOf),
    /// Print a new key in base64, for the file or the variable of a `[[secrets.key]]`
    MakeKey(MakeKey),
}

#[derive(Debug, Args)]
pub struct SecretsOf {
    #[command(flatten)]
    pub database: Database,
    #[command(flatten)]
    pub secret: Secret,
    #[command(flatten)]
    pub config: ConfigArgs,
}

#[derive(Debug, Args)]
pub struct MakeKey {
    /// Print it as `secrets.kms_command` wraps it for the key of this name: what `wrapped` and `wrapped_file` take
    #[arg(long, env = "TOLLGATE_WRAP", value_name = "NAME")]
    pub wrap: Option<String>,
    #[command(flatten)]
    pub config: ConfigArgs,
}

#[derive(Debug, Args)]
pub struct MintAdmin {
    #[command(flatten)]
    pub database: Database,
    #[command(flatten)]
    pub secret: Secret,
}

/// What `api` and `worker` have in common.
#[derive(Debug, Args)]
pub struct Server {
    #[command(flatten)]
    pub database: Database,
    #[command(flatten)]
    pub redis: Redis,
    #[command(flatten)]
    pub secret: Secret,
    #[command(flatten)]
    pub config: ConfigArgs,
}

#[derive(Debug, Args)]
pub struct Database {
    /// Postgres to use, e.g. postgres://user:password@host/tollgate; DATABASE_URL is read too
    #[arg(long, env = "TOLLGATE_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,
    /// The name that most platforms use for the same thing. Not a flag anybody should type.
    #[arg(long = "plain-database-url", env = "DATABASE_URL", hide = true, hide_env_values = true)]
    plain_database_url: Option<String>,
}

impl Database {
    pub fn url(&self) -> Option<&str> {
        // An empty variable is how many tools say "not set".
        let given = self.database_url.as_deref().or(self.plain_database_url.as_deref());
        given.filter(|url| !url.is_empty())
    }

    pub fn require(&self) -> Result<String> {
        let url = self.url().map(str::to_owned);
        url.context("which database? Set DATABASE_URL or --database-url (only `tollgate up` brings its own)")
    }
}

#[derive(Debug, Args)]
pub struct Redis {
    /// Redis in which rate limits are counted, e.g. redis://host:6379; REDIS_URL is read too [default: they are counted in Postgres]
    #[arg(long, env = "TOLLGATE_REDIS_URL", hide_env_values = true, value_name = "URL")]
    redis_url: Option<String>,
    /// The name that most platforms use for the same thing. Not a flag anybody should type.
    #[arg(long = "plain-redis-url", env = "REDIS_URL", hide = true, hide_env_values = true)]
    plain_redis_url: Option<String>,
}

impl Redis {
    pub fn url(&self) -> Option<&str> {
        let given = self.redis_url.as_deref().or(self.plain_redis_url.as_deref());
        given.filter(|url| !url.is_empty())
    }
}

#[derive(Debug, Args)]
pub struct Sandbox {
    /// The program in which scripts run [default: tollgate-sandbox beside this binary]
    #[arg(long, env = "TOLLGATE_SANDBOX", value_name = "FILE")]
    pub sandbox: Option<PathBuf>,
}

/// The installation's one secret, from which the key of all hashes is derived. All processes of one installation share it.
#[derive(Debug, Args)]
pub struct Secret {
    /// 32 random bytes in base64; better handed over as a file, because process lists show flags
    #[arg(long, env = "TOLLGATE_SECRET", hide_env_values = true, value_name = "BASE64")]
    secret: Option<String>,
    /// A file that holds the secret
    #[arg(long, env = "TOLLGATE_SECRET_FILE", value_name = "FILE", conflicts_with = "secret")]
    secret_file: Option<PathBuf>,
}

const SECRET_HELP: &str = "Make one with `head -c 32 /dev/urandom | base64` and give the same to every process.";

impl Secret {
    pub fn load(&self) -> Result<[u8; 32]> {
        match (&self.secret, &self.secret_file) {
            (Some(text), _) => decode_secret(text),
            (None, Some(path)) => {
                let text =
                    std::fs::read_to_string(path).with_context(|| format!("cannot read the secret from {}", path.display()))?;
                decode_secret(&text)
            }
            (None, None) => bail!("no secret: set TOLLGATE_SECRET or TOLLGATE_SECRET_FILE. {SECRET_HELP}"),
        }
    }
}

/// The text itself never appears in an error.
pub fn decode_secret(text: &str) -> Result<[u8; 32]> {
    let bytes = BASE64.decode(text.trim()).ok().context("the secret is not base64")?;
    let length = bytes.len();
    let exact = bytes.try_into().ok();
    exact.with_context(|| format!("the secret must be 32 bytes, this one is {length}. {SECRET_HELP}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_its_environment_variable() {
        for command in Cli::command().get_subcommands() {
            for flag in command.get_arguments().filter(|flag| !flag.is_hide_set()) {
                let Some(long) = flag.get_long().filter(|long| !matches!(*long, "help" | "version")) else {
                    continue;
                };
                let expected = format!("TOLLGATE_{}", long.to_uppercase().replace('-', "_"));
                let found = flag.get_env().map(|env| env.to_string_lossy().into_owned());
                assert_eq!(found, Some(expected), "{} --{long}", command.get_name());
            }
        }
    }

    #[test]
    fn a_secret_is_32_bytes_and_is_not_repeated_in_errors() {
        assert!(decode_secret(&format!("{}\n", BASE64.encode([7; 32]))).is_ok());
        let short = BASE64.encode([7; 16]);
        let error = format!("{:#}", decode_secret(&short).expect_err("too short"));
        assert!(error.contains("32 bytes") && !error.contains(&short), "{error}");
    }
}
