//! The directory that one `tollgate up` owns: its lock, its secrets, its Postgres.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{ErrorKind, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

const LOCK: &str = "tollgate.lock";

/// Held by exactly one process at a time; dropping it lets the next one in.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Creates the directory where it is missing and takes its lock.
    pub fn open(path: &Path) -> Result<Self> {
        create(path).with_context(|| format!("cannot create the data directory {}", path.display()))?;
        let path = fs::canonicalize(path).with_context(|| format!("cannot enter the data directory {}", path.display()))?;
        let lock = lock(&path)?;
        Ok(Self { path, _lock: lock })
    }

    /// Absolute, without symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// `None` where there is no such file.
    pub fn read(&self, name: &str) -> Result<Option<String>> {
        match fs::read_to_string(self.file(name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", self.file(name).display())),
        }
    }

    /// Readable by the owner alone, and complete or absent: whoever waits for the file never sees half of it.
    pub fn write_private(&self, name: &str, text: &str) -> Result<()> {
        let target = self.file(name);
        let draft = self.file(&format!(".{name}.new"));
        let write = || -> std::io::Result<()> {
            // A leftover draft might be a link or have other permissions; never write into it.
            remove(&draft)?;
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&draft, &target)?;
            File::open(&self.path)?.sync_all()
        };
        write().with_context(|| format!("cannot write {}", target.display()))
    }

    pub fn remove(&self, name: &str) -> Result<()> {
        remove(&self.file(name)).with_context(|| format!("cannot remove {}", self.file(name).display()))
    }
}

fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Others may pass through when we are root, because Postgres then runs as another user further down. What is secret in
/// here is private by its own mode.
fn create(path: &Path) -> std::io::Result<()> {
    let mode = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
    DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// The kernel drops the lock with the process, however it ends, so there is no stale one to clean up.
fn lock(directory: &Path) -> Result<File> {
    let path = directory.join(LOCK);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("the data directory {} is not writable", directory.display()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            bail!(
                "another `tollgate up` (pid {}) is using {}. Stop it, or choose another directory with --data-dir.",
                pid.trim(),
                directory.display()
            );
        }
        Err(error) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_second_one_is_told_who_the_first_is() {
        let parent = tempfile::tempdir().expect("temporary directory");
        let path = parent.path().join("data");
        let first = DataDir::open(&path).expect("free");
        let error = DataDir::open(&path).expect_err("taken").to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        drop(first);
        DataDir::open(&path).expect("free again");
    }

    #[test]
    fn what_is_private_stays_private_when_replaced() {
        let parent = tempfile::tempdir().expect("temporary directory");
        let dir = DataDir::open(parent.path()).expect("free");
        assert_eq!(dir.read("a.json").expect("readable"), None);
        dir.write_private("a.json", "1").expect("written");
        dir.write_private("a.json", "2").expect("replaced");
        assert_eq!(dir.read("a.json").expect("readable").as_deref(), Some("2"));
        let mode = fs::metadata(dir.file("a.json")).expect("exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
