//! Postgres refuses to run as root. Where we are root (containers, mostly), it runs as somebody with fewer rights.

use std::{
    fs, io,
    os::unix::{fs::chown, process::CommandExt},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

/// In order of preference.
const NAMES: [&str; 2] = ["postgres", "nobody"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    uid: u32,
    gid: u32,
}

impl Account {
    /// `None`: we are nobody special and Postgres runs as ourselves.
    pub fn for_postgres() -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let passwd = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
        let found = NAMES.iter().find_map(|name| find(&passwd, name));
        Ok(Some(found.context(
            "Postgres does not run as root, and there is no user `postgres` or `nobody` to run it as. \
             Start tollgate as an ordinary user, or set DATABASE_URL.",
        )?))
    }

    /// Supplementary groups of root are dropped too: the standard library does that where a uid is set.
    pub fn apply(&self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }

    pub fn own(&self, path: &Path) -> io::Result<()> {
        chown(path, Some(self.uid), Some(self.gid))
    }

    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Whether this account can enter `directory`. Asked by trying, so that access lists, mount options and user
    /// namespaces count as well as mode bits.
    pub fn can_enter(&self, directory: &Path, program: &Path) -> Result<bool> {
        let attempt = |directory: &Path| {
            let mut command = Command::new(program);
            self.apply(&mut command);
            command.arg("--version").current_dir(directory).stdout(Stdio::null()).stderr(Stdio::null());
            command.status()
        };
        // First without the directory, to tell "cannot become that user" from "cannot enter".
        attempt(Path::new("/")).with_context(|| {
            format!(
                "cannot run {} as user `{}`. Start tollgate as an ordinary user, or set DATABASE_URL.",
                program.display(),
                self.name
            )
        })?;
        Ok(attempt(directory).is_ok())
    }
}

fn find(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        // An entry that maps the name back to root would defeat the purpose.
        (uid != 0).then(|| Account { name: name.to_owned(), uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\npostgres:x:101:104:PG,,,:/var/lib/postgresql:/bin/sh\nnobody:x:0:0::/:\n";

    #[test]
    fn an_account_is_found_by_its_whole_name() {
        let account = find(PASSWD, "postgres").expect("listed");
        assert_eq!((account.uid, account.gid), (101, 104));
        assert_eq!(find(PASSWD, "post"), None);
    }

    #[test]
    fn root_under_another_name_is_not_taken() {
        assert_eq!(find(PASSWD, "nobody"), None);
    }
}
