//! The product as it is started for a measurement: a database with durable commits, the admin API, and workers of this program's.

use std::{
    fs::Permissions,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

use crate::{
    admin::{Admin, text},
    process::{Process, sandbox, tollgate_up},
};

/// What `tollgate up` leaves for programs.
#[derive(Debug)]
pub struct Installation {
    pub admin: Admin,
    pub secret: String,
    pub database_url: String,
    pub postgres_pid: u32,
}

/// A new folder in `dir`, or in that of temporary files.
pub fn folder(dir: Option<PathBuf>) -> Result<TempDir> {
    let dir = dir.unwrap_or_else(std::env::temp_dir);
    // Postgres runs as another user when root measures, and has to pass through. Short: a socket's path is limited.
    Ok(tempfile::Builder::new().prefix("tg-bench.").permissions(Permissions::from_mode(0o711)).tempdir_in(dir)?)
}

impl Installation {
    pub async fn start(data: &Path) -> Result<(Process, Self)> {
        let (up, ready) = tollgate_up(data).await?;
        let secrets: Value = serde_json::from_str(&std::fs::read_to_string(data.join("secrets.json"))?)?;
        // Where the account of Postgres cannot enter the folder, the cluster lies elsewhere.
        let elsewhere = std::fs::read_to_string(data.join("postgres.path")).ok().map(|path| PathBuf::from(path.trim()));
        let root = elsewhere.unwrap_or_else(|| data.to_owned());
        let note = std::fs::read_to_string(root.join("postgres/postmaster.pid"))?;
        let socket = root.join("run");
        let installation = Self {
            admin: Admin::new(&text(&ready, "api_url")?, &text(&ready, "admin_token")?)?,
            secret: text(&secrets, "secret")?,
            database_url: format!("postgres:///tollgate?host={}&user=tollgate&sslmode=disable", socket.display()),
            postgres_pid: note.lines().next().context("a process id")?.trim().parse()?,
        };
        Ok((up, installation))
    }

    /// Its Postgres's version.
    ///
    /// # Errors
    /// When commits of it would not be durable: they would cost nothing.
    pub async fn durable_postgres(&self) -> Result<String> {
        let mut connection = PgConnection::connect(&self.database_url).await?;
        let version = sqlx::query_scalar("SHOW server_version").fetch_one(&mut connection).await?;
        let fsync: String = sqlx::query_scalar("SHOW fsync").fetch_one(&mut connection).await?;
        ensure!(fsync == "on", "commits would not be durable: fsync is {fsync}");
        connection.close().await?;
        Ok(version)
    }

    /// A worker, and where it listens.
    pub async fn worker(&self, unaudited: bool) -> Result<(Process, SocketAddr)> {
        let sandbox = sandbox()?;
        let mut args = vec!["worker", "--sandbox", sandbox.to_str().context("a path in UTF-8")?];
        if unaudited {
            args.push("--unaudited");
        }
        let env = [("DATABASE_URL", self.database_url.as_str()), ("TOLLGATE_SECRET", self.secret.as_str())];
        let mut worker = Process::start("worker", &std::env::current_exe()?, &args, &env)?;
        let address = worker.address().await?;
        Ok((worker, address))
    }
}
