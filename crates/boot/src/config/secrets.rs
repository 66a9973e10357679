//! Keys under which credentials rest in the database: `[secrets]` and its list, `[[secrets.key]]`.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use super::check::check_name;

/// Without a key of its own, what rests is sealed under a key that is made from the server's secret.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Secrets {
    /// The first seals; each opens what it has sealed, and so does the server's secret.
    #[serde(rename = "key")]
    pub keys: Vec<SealingKey>,
    /// A program in front of a key management service, with its arguments; `wrap` or `unwrap` and the key's name are put behind them. It
    /// reads base64 and writes base64. No shell is in between.
    pub kms_command: Vec<String>,
    /// How long it may take.
    pub kms_seconds: u64,
}

impl Default for Secrets {
    fn default() -> Self {
        Self { keys: Vec::new(), kms_command: Vec::new(), kms_seconds: 20 }
    }
}

/// One key of 32 random bytes, which stands in exactly one place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealingKey {
    /// Lower-case letters, digits, `-` and `_`.
    pub name: String,
    /// A variable of the environment that holds it in base64.
    #[serde(default)]
    pub env: Option<String>,
    /// A file that holds it in base64.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// The key as the key management service has wrapped it, in base64; it is no secret.
    #[serde(default)]
    pub wrapped: Option<String>,
    /// A file that holds the same.
    #[serde(default)]
    pub wrapped_file: Option<PathBuf>,
}

/// Where a key stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySource<'a> {
    Env(&'a str),
    File(&'a Path),
    Wrapped(&'a str),
    WrappedFile(&'a Path),
}

impl SealingKey {
    /// `None`: in no place, or in several, which [`super::Config::check`] refuses.
    #[must_use]
    pub fn source(&self) -> Option<KeySource<'_>> {
        match (&self.env, &self.file, &self.wrapped, &self.wrapped_file) {
            (Some(name), None, None, None) => Some(KeySource::Env(name)),
            (None, Some(path), None, None) => Some(KeySource::File(path)),
            (None, None, Some(text), None) => Some(KeySource::Wrapped(text)),
            (None, None, None, Some(path)) => Some(KeySource::WrappedFile(path)),
            _ => None,
        }
    }
}

impl Secrets {
    #[must_use]
    pub fn kms_patience(&self) -> Duration {
        Duration::from_secs(self.kms_seconds)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let mut names = BTreeSet::new();
        for key in &self.keys {
            check_name("secrets key", &key.name)?;
            let what = format!("secrets key {:?}", key.name);
            if !names.insert(&key.name) {
                return Err(format!("two secrets keys are named {:?}; names must differ", key.name));
            }
            let source =
                key.source().ok_or_else(|| format!("{what} needs exactly one of env, file, wrapped and wrapped_file"))?;
            let wrapped = matches!(source, KeySource::Wrapped(_) | KeySource::WrappedFile(_));
            if wrapped && self.kms_command.is_empty() {
                return Err(format!("{what} is wrapped: name the program that unwraps it, secrets.kms_command"));
            }
        }
        if self.kms_command.first().is_some_and(String::is_empty) {
            return Err("secrets.kms_command names no program".to_owned());
        }
        if !(1..=300).contains(&self.kms_seconds) {
            return Err("secrets.kms_seconds must be between 1 and 300; leave it out for 20".to_owned());
        }
        Ok(())
    }

    /// A program's name without a folder is looked up in PATH.
    pub(super) fn anchor(&mut self, folder: &Path) {
        if let Some(program) = self.kms_command.first_mut()
            && Path::new(program).components().count() > 1
        {
            *program = folder.join(&*program).to_string_lossy().into_owned();
        }
        for path in self.keys.iter_mut().flat_map(|key| [&mut key.file, &mut key.wrapped_file]).flatten() {
            *path = folder.join(&*path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("etc/tollgate.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_key_stands_in_one_place_under_a_name_of_its_own() {
        let one = |fields: &str| format!("[[secrets.key]]\nname = 'new'\n{fields}\n");
        for (text, told) in [
            (one(""), "exactly one of env, file"),
            (one("env = 'A'\nfile = 'b'"), "exactly one of env, file"),
            (one("wrapped = 'AAAA'"), "secrets.kms_command"),
            (one("secret = 'hush'"), "unknown field `secret`"),
            (format!("{}{}", one("env = 'A'"), one("env = 'B'")), "two secrets keys"),
            ("[secrets]\nkms_command = ['']".to_owned(), "names no program"),
            ("[secrets]\nkms_seconds = 0".to_owned(), "between 1 and 300"),
        ] {
            let error = parse(&text).expect_err("must be refused");
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    #[test]
    fn the_order_stays_and_paths_count_from_the_file() {
        let text = "[secrets]\nkms_command = ['bin/kms', '--key', 'x']\n[[secrets.key]]\nname = 'b'\nwrapped_file = 'b.wrapped'\n\
                    [[secrets.key]]\nname = 'a'\nfile = '/a.key'\n";
        let secrets = parse(text).expect("valid").secrets;
        assert_eq!(secrets.kms_command[0], "etc/bin/kms");
        let sources: Vec<_> = secrets.keys.iter().filter_map(SealingKey::source).collect();
        assert_eq!(sources, [KeySource::WrappedFile(Path::new("etc/b.wrapped")), KeySource::File(Path::new("/a.key"))]);
    }
}
