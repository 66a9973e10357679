//! A private Postgres for `tollgate up`: found on this machine, created on first start, kept alive, stopped with us, even
//! when we are killed. Nothing of it listens on a network, and fsync stays on: the audit log is kept here.

mod account;
mod binaries;
mod cluster;
mod place;
mod postmaster;
mod supervise;

use anyhow::Result;

use crate::{data_dir::DataDir, progress::Step};

use account::Account;
use binaries::Binaries;
use place::Place;
pub use supervise::Event;
use supervise::Supervisor;

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct Postgres {
    url: String,
    supervisor: Supervisor,
}

impl Postgres {
    /// Returns when it takes connections. Blocks: call it from a blocking thread. `on_event` hears, later, of a server
    /// that died and came back.
    pub fn start(dir: &DataDir, on_event: impl Fn(Event) + Send + 'static) -> Result<Self> {
        let account = Account::for_postgres()?;
        let (place, binaries) = Place::prepare(dir, account.as_ref(), Binaries::find)?;
        let program = Program { place, binaries, account };
        program.clear_leftovers()?;
        program.ensure_cluster()?;
        let mut step = Step::begin(format!("Postgres {}", program.binaries.version));
        let url = program.place.url();
        let data = program.place.cluster.display().to_string();
        let supervisor = Supervisor::start(program, &mut step, on_event)?;
        step.done(format_args!("ready, data in {data}"));
        Ok(Self { url, supervisor })
    }

    /// For sqlx, over the private socket.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A fast shutdown: open transactions are rolled back, what was committed is on disk. Blocks.
    pub fn stop(self) {
        self.supervisor.stop();
    }
}

/// What it takes to run one of Postgres' programs.
#[derive(Debug)]
struct Program {
    place: Place,
    binaries: Binaries,
    account: Option<Account>,
}

impl Program {
    /// With nothing of our environment: PGDATA, PGPORT and the like would change what the programs do.
    fn command(&self, name: &str) -> std::process::Command {
        let mut command = std::process::Command::new(self.binaries.program(name));
        command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").current_dir(&self.place.root);
        if let Some(account) = &self.account {
            account.apply(&mut command);
        }
        command
    }
}
