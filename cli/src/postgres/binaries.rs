//! Which Postgres to run: the ones this machine has, in a fixed order, never one we fetched.

use std::{
    ffi::OsStr,
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

pub const OLDEST: u32 = 15;
const DEBIAN: &str = "/usr/lib/postgresql";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    pub folder: PathBuf,
    pub version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Binaries {
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// For a new cluster the first that is new enough; for an existing one the first of the very major version that
    /// wrote it, because no other can read it.
    pub fn find(cluster: Option<u32>) -> Result<Self> {
        // PATH is the system's, not a setting of ours.
        let path = std::env::var_os("PATH").unwrap_or_default();
        let installed: Vec<Self> = folders(&path, Path::new(DEBIAN)).into_iter().filter_map(|folder| inspect(&folder)).collect();
        choose(installed, cluster)
    }
}

fn choose(installed: Vec<Binaries>, cluster: Option<u32>) -> Result<Binaries> {
    let mut versions: Vec<String> = installed.iter().map(|found| found.version.to_string()).collect();
    versions.dedup();
    let found = installed.into_iter().find(|found| match cluster {
        Some(major) => found.version.major == major,
        None => found.version.major >= OLDEST,
    });
    match (found, cluster) {
        (Some(found), _) => Ok(found),
        (None, Some(major)) => bail!(
            "the data was written by PostgreSQL {major}, and this machine has {}. Install that version \
             (Debian, Ubuntu: `apt-get install postgresql-{major}`); or dump the data with it and load it into a new \
             --data-dir; or set DATABASE_URL.",
            listing(&versions)
        ),
        (None, None) => bail!(
            "PostgreSQL {OLDEST} or newer is needed, and this machine has {} (looked in PATH, {DEBIAN}/*/bin and \
             `pg_config --bindir`). Install it (Debian, Ubuntu: `apt-get install postgresql`; Fedora: `dnf install \
             postgresql-server`), or set DATABASE_URL to a server that you have.",
            listing(&versions)
        ),
    }
}

fn listing(versions: &[String]) -> String {
    if versions.is_empty() { "none".to_owned() } else { versions.join(", ") }
}

/// Folders that may hold the server, best first: what the user put into PATH, then Debian's folders (newest first), then
/// wherever `pg_config` points.
fn folders(path: &OsStr, debian: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::split_paths(path).collect();
    let mut majors: Vec<(u32, PathBuf)> = std::fs::read_dir(debian)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let major = entry.file_name().to_str()?.parse().ok()?;
            Some((major, entry.path().join("bin")))
        })
        .collect();
    majors.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    folders.extend(majors.into_iter().map(|(_, folder)| folder));
    folders.extend(pg_config());
    let mut seen = std::collections::BTreeSet::new();
    folders.retain(|folder| seen.insert(folder.clone()) && holds_server(folder));
    folders
}

/// Client packages put `psql` alone into a folder; a server needs both of these.
fn holds_server(folder: &Path) -> bool {
    folder.is_absolute() && ["postgres", "initdb"].iter().all(|name| folder.join(name).is_file())
}

fn pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(PathBuf::from(text.trim())).filter(|path| path.is_absolute())
}

fn inspect(folder: &Path) -> Option<Binaries> {
    let output = Command::new(folder.join("postgres")).arg("--version").output().ok()?;
    let version = parse_version(&String::from_utf8_lossy(&output.stdout))?;
    Some(Binaries { folder: folder.to_owned(), version })
}

/// From `postgres (PostgreSQL) 15.8 (Debian 15.8-0+deb12u1)` and the like; `18beta2` counts as 18.0.
fn parse_version(text: &str) -> Option<Version> {
    let number = text.split("(PostgreSQL)").nth(1)?.split_whitespace().next()?;
    let mut parts = number.split('.');
    let leading = |part: &str| {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part[..digits].parse().ok()
    };
    let major = leading(parts.next()?)?;
    let minor = parts.next().and_then(leading).unwrap_or(0);
    Some(Version { major, minor })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn binaries(folder: &str, major: u32) -> Binaries {
        Binaries { folder: folder.into(), version: Version { major, minor: 1 } }
    }

    #[test]
    fn versions_of_releases_betas_and_distributions_are_read() {
        let read = |text| parse_version(text).map(|v| (v.major, v.minor));
        assert_eq!(read("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n"), Some((15, 14)));
        assert_eq!(read("postgres (PostgreSQL) 18beta2\n"), Some((18, 0)));
        assert_eq!(read("postgres (PostgreSQL) 17devel"), Some((17, 0)));
        assert_eq!(read("postgres: command not found"), None);
    }

    #[test]
    fn path_comes_before_debian_and_debian_newest_first() {
        let root = tempfile::tempdir().expect("temporary directory");
        let server = |name: &str| {
            let folder = root.path().join(name);
            fs::create_dir_all(&folder).expect("created");
            for program in ["postgres", "initdb"] {
                fs::write(folder.join(program), "").expect("written");
            }
            folder
        };
        let own = server("own");
        let (nine, fifteen) = (server("debian/9/bin"), server("debian/15/bin"));
        let clients = root.path().join("clients");
        fs::create_dir(&clients).expect("created");
        let path = std::env::join_paths([&clients, &own]).expect("joined");
        let found = folders(&path, &root.path().join("debian"));
        assert_eq!(&found[..3], &[own, fifteen, nine]);
    }

    #[test]
    fn a_new_cluster_takes_the_first_that_is_new_enough() {
        let found = choose(vec![binaries("a", 14), binaries("b", 15), binaries("c", 17)], None).expect("found");
        assert_eq!(found.folder, Path::new("b"));
    }

    #[test]
    fn an_existing_cluster_takes_its_own_major_version_or_says_what_to_install() {
        let installed = vec![binaries("b", 17), binaries("c", 15)];
        assert_eq!(choose(installed.clone(), Some(15)).expect("found").folder, Path::new("c"));
        let error = choose(installed, Some(18)).expect_err("absent").to_string();
        assert!(error.contains("postgresql-18") && error.contains("17.1, 15.1"), "{error}");
    }

    #[test]
    fn a_machine_without_postgres_is_told_the_package() {
        let error = choose(vec![binaries("a", 13)], None).expect_err("too old").to_string();
        assert!(error.contains("apt-get install postgresql") && error.contains("13.1"), "{error}");
    }
}
