//! The pool of sandbox processes. A process serves one tenant at a time and is thrown away at the first sign of trouble.

use std::{
    collections::{HashMap, VecDeque},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::Semaphore,
};
use tollgate_boot::config::ScriptLimits;
use tollgate_codemode::wire::{Catalog, ErrorKind, Language, Limits, MAX_FRAME, Outcome, ScriptError, Step, StepReply};
use tollgate_domain::TenantId;

/// Processes that wait for work at most; beyond, they end when their step does.
const IDLE: usize = 16;
/// So many times its processor time a step may take by the clock on the wall. The sandbox ends it by itself well before; this is for
/// one that cannot. Generous, because a step that computes for long stands behind all others for a processor.
const STEP_WALL: u32 = 10;
/// How long a step waits for its turn before the run is refused.
const TURN: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub struct SandboxPool(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    program: PathBuf,
    allow_unconfined: bool,
    /// Processor time of a step at most; each step says what it may take of that.
    step_seconds: u32,
    /// As they stand with each run, one for each language.
    engines: Vec<String>,
    /// Steps at once.
    turns: Semaphore,
    /// Steps at once of one tenant: half of all, so that no tenant takes every turn.
    per_tenant: usize,
    of_tenant: Mutex<HashMap<TenantId, Arc<Semaphore>>>,
    /// Oldest first.
    idle: Mutex<VecDeque<Process>>,
}

#[derive(Debug)]
struct Process {
    tenant: TenantId,
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
}

impl SandboxPool {
    /// Find out whether scripts can run here, by running an empty one.
    ///
    /// # Errors
    /// Why they cannot, and what to do about it.
    pub async fn start(program: &Path, limits: &ScriptLimits) -> anyhow::Result<Self> {
        let (processes, allow_unconfined) = (limits.processes, limits.allow_unconfined);
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let turns = if processes == 0 { 2 * cores } else { processes.max(2) };
        let version = Command::new(program).arg("--version").env_clear().output().await.map_err(|e| {
            anyhow::anyhow!(
                "cannot start the sandbox {}: {e}; build it with `make build`, or name it with --sandbox",
                program.display()
            )
        })?;
        let engines: Vec<String> = String::from_utf8_lossy(&version.stdout).lines().map(|line| line.trim().to_owned()).collect();
        let runs = |language| engines.iter().any(|engine| Language::of_engine(engine) == language);
        if !runs(Language::Python) || !runs(Language::Typescript) {
            anyhow::bail!("the sandbox {} is of another version than this gateway: it says {engines:?}", program.display());
        }
        let pool = Self(Arc::new(Pool {
            program: program.to_owned(),
            allow_unconfined,
            step_seconds: limits.step_seconds(),
            engines,
            turns: Semaphore::new(turns),
            per_tenant: turns / 2,
            of_tenant: Mutex::default(),
            idle: Mutex::default(),
        }));
        let empty = Step {
            language: Language::default(),
            source: String::new(),
            catalog: Catalog::default(),
            journal: Vec::new(),
            limits: Limits::default(),
        };
        let nobody = TenantId::from_uuid(uuid::Uuid::nil());
        match pool.step(nobody, &empty).await.outcome {
            Outcome::Done { .. } => Ok(pool),
            other => {
                let refused = command(&pool.0).stdin(Stdio::null()).output().await?;
                anyhow::bail!(
                    "the sandbox does not run scripts here: {other:?} {}",
                    String::from_utf8_lossy(&refused.stderr).trim()
                )
            }
        }
    }

    /// Name and version of the language's engine, as it is stored with each run: it also says what the run is written in.
    #[must_use]
    pub fn engine(&self, language: Language) -> &str {
        self.0.engines.iter().find(|engine| Language::of_engine(engine) == language).map_or("", String::as_str)
    }

    /// Run one step. Whatever happens to the process becomes a reply.
    pub async fn step(&self, tenant: TenantId, step: &Step) -> StepReply {
        let own = self.own_turns(tenant);
        let turn = async { (own.acquire().await, self.0.turns.acquire().await) };
        let Ok((Ok(_own), Ok(_turn))) = tokio::time::timeout(TURN, turn).await else {
            return failed(ErrorKind::Limit, "Too many scripts are running; try again in a moment.");
        };
        let started = std::time::Instant::now();
        let reply = self.step_in_turn(tenant, step).await;
        metrics::histogram!("tollgate_script_step_seconds").record(started.elapsed());
        reply
    }

    fn own_turns(&self, tenant: TenantId) -> Arc<Semaphore> {
        let mut all = self.0.of_tenant.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody holds are forgotten, so that the map is as large as what is under way.
        all.retain(|_, turns| Arc::strong_count(turns) > 1);
        Arc::clone(all.entry(tenant).or_insert_with(|| Arc::new(Semaphore::new(self.0.per_tenant))))
    }

    async fn step_in_turn(&self, tenant: TenantId, step: &Step) -> StepReply {
        let mut process = match self.take(tenant) {
            Ok(process) => process,
            Err(error) => {
                tracing::error!(%error, "a sandbox process cannot be started");
                return failed(ErrorKind::Sandbox, "The sandbox cannot be started at present; try again in a moment.");
            }
        };
        let wall = Duration::from_secs(u64::from(self.0.step_seconds * STEP_WALL));
        match tokio::time::timeout(wall, process.exchange(step)).await {
            Ok(Ok(reply)) => {
                if !matches!(&reply.outcome, Outcome::Failed { error } if matches!(error.kind, ErrorKind::Limit | ErrorKind::Sandbox))
                {
                    self.give_back(process);
                }
                reply
            }
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::FileTooLarge => failed(
                ErrorKind::Limit,
                "The script holds more tool results than a sandbox can be given. Work on less data at once.",
            ),
            Ok(Err(error)) => {
                // It may be alive and have said what we cannot read; dropping it kills it as well, but tells no status.
                let _ = process.child.start_kill();
                let status = tokio::time::timeout(Duration::from_secs(1), process.child.wait()).await;
                tracing::info!(%tenant, %error, ?status, "a sandbox process ended");
                failed(
                    ErrorKind::Limit,
                    "The script used more memory, stack or time than its sandbox allows. Work on less data at once.",
                )
            }
            Err(_) => failed(
                ErrorKind::Limit,
                &format!("The script ran longer than {} s without calling a tool. Do less work per run.", wall.as_secs()),
            ),
        }
    }

    /// An idle process of this tenant, or a fresh one; another tenant's is never handed over.
    fn take(&self, tenant: TenantId) -> std::io::Result<Process> {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = idle.iter().rposition(|process| process.tenant == tenant)
            && let Some(process) = idle.remove(place)
        {
            return Ok(process);
        }
        drop(idle);
        Process::start(&self.0, tenant)
    }

    fn give_back(&self, process: Process) {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push_back(process);
        if idle.len() > IDLE {
            idle.pop_front();
        }
    }
}

fn command(pool: &Pool) -> Command {
    let mut command = Command::new(&pool.program);
    command.env_clear().args(["--step-seconds", &pool.step_seconds.to_string()]);
    if pool.allow_unconfined {
        command.arg("--allow-unconfined");
    }
    command
}

impl Process {
    fn start(pool: &Pool, tenant: TenantId) -> std::io::Result<Self> {
        let mut command = command(pool);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(std::io::Error::other("no pipes"));
        };
        Ok(Self { tenant, child, stdin, stdout })
    }

    async fn exchange(&mut self, step: &Step) -> std::io::Result<StepReply> {
        let mut frame = vec![0; 4];
        serde_json::to_writer(&mut frame, step)?;
        let length = u32::try_from(frame.len() - 4).ok().filter(|&n| n as usize <= MAX_FRAME);
        frame[..4].copy_from_slice(&length.ok_or(std::io::ErrorKind::FileTooLarge)?.to_le_bytes());
        self.stdin.write_all(&frame).await?;
        self.stdin.flush().await?;

        let mut length = [0; 4];
        self.stdout.read_exact(&mut length).await?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_FRAME {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        let mut body = vec![0; length];
        self.stdout.read_exact(&mut body).await?;
        Ok(serde_json::from_slice(&body)?)
    }
}

fn failed(kind: ErrorKind, message: &str) -> StepReply {
    StepReply::failed(ScriptError { kind, message: message.to_owned(), line: None, column: None })
}
