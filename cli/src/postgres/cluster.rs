//! The first start: a new cluster with one database in it, made beside its final place and moved there when complete. A
//! first start that is interrupted leaves nothing that looks like data.

use std::{
    fs::{self, DirBuilder, File},
    io::Write,
    os::unix::fs::DirBuilderExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, bail};

use super::Program;
use crate::progress::Step;

impl Program {
    pub(super) fn ensure_cluster(&self) -> Result<()> {
        if self.place.cluster.join("PG_VERSION").exists() {
            return Ok(());
        }
        if self.place.cluster.exists() {
            bail!("{} exists but holds no database. Move it away and start again.", self.place.cluster.display());
        }
        let step = Step::begin(format!("Postgres {} (first start)", self.binaries.version));
        let draft = self.place.root.join("postgres.new");
        self.make_folder(&draft)?;
        self.initdb(&draft)?;
        self.create_database(&draft)?;
        fs::rename(&draft, &self.place.cluster)?;
        File::open(&self.place.root)?.sync_all()?;
        step.done("cluster created");
        Ok(())
    }

    fn make_folder(&self, draft: &Path) -> Result<()> {
        if draft.exists() {
            fs::remove_dir_all(draft).with_context(|| format!("cannot clear {}", draft.display()))?;
        }
        DirBuilder::new().mode(0o700).create(draft).with_context(|| format!("cannot create {}", draft.display()))?;
        if let Some(account) = &self.account {
            account.own(draft).with_context(|| format!("cannot give {} to `{}`", draft.display(), account.name))?;
        }
        Ok(())
    }

    /// Trust is right here: whoever can reach the socket has passed its folder's permissions, and nobody else can. The C
    /// locale keeps indexes valid across upgrades of the system's libraries.
    fn initdb(&self, draft: &Path) -> Result<()> {
        let mut command = self.command("initdb");
        command
            .arg("--pgdata")
            .arg(draft)
            .args(["--username=tollgate", "--auth=trust", "--encoding=UTF8", "--locale=C"])
            .args(["--data-checksums", "--no-instructions"]);
        let output = run(command, "").context("cannot run initdb")?;
        if !output.status.success() {
            bail!("initdb failed ({}):\n{}", output.status, text(&output));
        }
        Ok(())
    }

    /// In single-user mode, before anybody can connect. (The one SQL statement outside `store`: a database cannot be
    /// created from within itself.)
    fn create_database(&self, draft: &Path) -> Result<()> {
        let mut command = self.command("postgres");
        command.args(["--single", "-D"]).arg(draft).arg("postgres");
        let output = run(command, "CREATE DATABASE tollgate;\n").context("cannot run postgres --single")?;
        // It exits with success even where a statement failed.
        let text = text(&output);
        if !output.status.success() || text.contains("ERROR:") || text.contains("FATAL:") {
            bail!("creating the database failed ({}):\n{text}", output.status);
        }
        Ok(())
    }
}

fn run(mut command: Command, input: &str) -> std::io::Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that has already failed closes its end; its output says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output()
}

fn text(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text.trim().to_owned()
}
