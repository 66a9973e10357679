//! Where the cluster, its socket and its log lie. Usually all in the data directory; two things can be in the way: a
//! parent that the unprivileged user cannot enter, and a path too long for a socket.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::{account::Account, binaries::Binaries};
use crate::{data_dir::DataDir, progress::say};

/// The kernel's limit is 108 bytes with the terminating zero; Postgres wants room for a lock file's suffix.
const SOCKET_PATH_MAX: usize = 90;
const SOCKET_NAME: &str = ".s.PGSQL.5432";
/// For root, whose own directories are closed to the user that Postgres runs as.
const ELSEWHERE: &str = "/var/lib/tollgate";
/// Remembers, in the data directory, that the cluster lies elsewhere. Removing the data directory thereby forgets the
/// cluster too, instead of meeting old data with new secrets.
const POINTER: &str = "postgres.path";
const LOG_MAX: u64 = 10 << 20;

#[derive(Debug, Clone)]
pub struct Place {
    /// Holds the cluster, and next to it a cluster in the making.
    pub root: PathBuf,
    pub cluster: PathBuf,
    pub sockets: PathBuf,
    pub log: PathBuf,
}

impl Place {
    /// Finds the place and makes its directories.
    pub fn prepare(
        dir: &DataDir,
        account: Option<&Account>,
        find: impl Fn(Option<u32>) -> Result<Binaries>,
    ) -> Result<(Self, Binaries)> {
        let here = dir.path().to_owned();
        let pointer = dir.read(POINTER)?.map(|text| PathBuf::from(text.trim()));
        let root = pointer.clone().unwrap_or_else(|| here.clone());
        let binaries = find(written_by(&root.join("postgres"))?)?;
        let root = match account {
            Some(account) if !account.can_enter(&root, &binaries.program("postgres"))? => {
                if pointer.is_some() || root.join("postgres").exists() {
                    bail!(
                        "user `{}` cannot enter {} any more; allow it to (`chmod o+x` on its parents)",
                        account.name,
                        root.display()
                    );
                }
                elsewhere(dir, account)?
            }
            _ => root,
        };
        let root = fs::canonicalize(&root)?;
        let place =
            Self { cluster: root.join("postgres"), sockets: sockets(&root, account), log: dir.file("postgres.log"), root };
        make_sockets(&place.sockets, account)?;
        rotate(&place.log)?;
        Ok((place, binaries))
    }

    /// The socket's folder carries all access control (0700), so the URL needs no password. Port and TLS are spelt out
    /// because the client library would otherwise take PGPORT and PGSSLMODE from the environment.
    pub fn url(&self) -> String {
        let host: String = percent_encode(self.sockets.as_os_str().as_bytes());
        format!("postgres:///tollgate?host={host}&port=5432&user=tollgate&sslmode=disable")
    }

    pub fn open_log(&self) -> std::io::Result<fs::File> {
        OpenOptions::new().append(true).create(true).mode(0o600).open(&self.log)
    }

    /// The log's last lines, for an error message.
    pub fn log_tail(&self, lines: usize) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let mut last: Vec<&str> = text.lines().rev().take(lines).collect();
        last.reverse();
        last.join("\n")
    }
}

/// The major version that wrote the cluster, `None` where there is none yet.
fn written_by(cluster: &Path) -> Result<Option<u32>> {
    let path = cluster.join("PG_VERSION");
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim().split('.').next().and_then(|major| major.parse().ok()) {
            Some(major) => Ok(Some(major)),
            None => bail!("{} does not hold a version: {:?}", path.display(), text.trim()),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// A new folder under /var/lib, named after the data directory and unique to it.
fn elsewhere(dir: &DataDir, account: &Account) -> Result<PathBuf> {
    let name = format!("{}-{}", short_hash(dir.path()), std::process::id());
    let root = Path::new(ELSEWHERE).join(name);
    DirBuilder::new().recursive(true).mode(0o755).create(&root).with_context(|| format!("cannot create {}", root.display()))?;
    dir.write_private(POINTER, &format!("{}\n", root.display()))?;
    say(format_args!(
        "  ! user `{}` cannot enter {}: the database lies in {} instead",
        account.name,
        dir.path().display(),
        root.display()
    ));
    Ok(root)
}

fn sockets(root: &Path, account: Option<&Account>) -> PathBuf {
    let near = root.join("run");
    if near.as_os_str().len() + 1 + SOCKET_NAME.len() <= SOCKET_PATH_MAX {
        return near;
    }
    let uid = account.map_or_else(|| rustix::process::geteuid().as_raw(), Account::uid);
    PathBuf::from(format!("/tmp/tollgate-{uid}-{}", short_hash(root)))
}

/// In a folder as public as /tmp somebody else may have made ours before us; then it is not ours and is refused.
fn make_sockets(path: &Path, account: Option<&Account>) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {
            if let Some(account) = account {
                account.own(path).with_context(|| format!("cannot give {} to `{}`", path.display(), account.name))?;
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error).with_context(|| format!("cannot create {}", path.display())),
    }
    let found = fs::symlink_metadata(path)?;
    let owner = account.map_or_else(|| rustix::process::geteuid().as_raw(), Account::uid);
    if !found.is_dir() || found.uid() != owner {
        bail!("{} exists but is not a folder of ours (expected owner: uid {owner}); remove it", path.display());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    Ok(())
}

fn rotate(log: &Path) -> Result<()> {
    if fs::metadata(log).is_ok_and(|found| found.len() > LOG_MAX) {
        fs::rename(log, log.with_extension("log.1"))?;
    }
    Ok(())
}

fn short_hash(path: &Path) -> String {
    Sha256::digest(path.as_os_str().as_bytes()).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

fn percent_encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_path_keeps_its_socket_and_a_long_one_moves_it_to_tmp() {
        let short = Path::new("/srv/tollgate");
        assert_eq!(sockets(short, None), short.join("run"));
        let long = Path::new("/srv").join("x".repeat(80));
        let moved = sockets(&long, None);
        assert!(moved.starts_with("/tmp") && moved.as_os_str().len() < 60, "{}", moved.display());
        assert_eq!(moved, sockets(&long, None), "the same every time");
        assert_ne!(moved, sockets(&long.join("y"), None));
    }

    #[test]
    fn the_version_file_is_read_and_nonsense_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        assert_eq!(written_by(dir.path()).expect("absent"), None);
        fs::write(dir.path().join("PG_VERSION"), "16\n").expect("written");
        assert_eq!(written_by(dir.path()).expect("read"), Some(16));
        fs::write(dir.path().join("PG_VERSION"), "?").expect("written");
        assert!(written_by(dir.path()).is_err());
    }

    #[test]
    fn the_url_survives_odd_paths() {
        let place =
            Place { root: "/a".into(), cluster: "/a/postgres".into(), sockets: "/a b/&c=d/run".into(), log: "/a/log".into() };
        let options: sqlx::postgres::PgConnectOptions = place.url().parse().expect("a URL");
        assert_eq!(options.get_socket().map(PathBuf::as_path), Some(Path::new("/a b/&c=d/run")));
        assert_eq!((options.get_database(), options.get_username()), (Some("tollgate"), "tollgate"));
    }
}
