//! From command line, environment and file to a `Config`, or to an error that names the place to fix.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{Config, LogFormat};

/// The file's own default name; it may be absent, while a name that was given must exist.
const DEFAULT_FILE: &str = "tollgate.toml";

/// Flags that every server subcommand shares. A flag beats the environment, which beats the file.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ConfigArgs {
    /// Settings file [default: tollgate.toml, where it exists]
    #[arg(long, env = "TOLLGATE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to log: a level, or directives such as `info,tollgate_worker=debug`
    #[arg(long, env = "TOLLGATE_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// How to write logs
    #[arg(long, env = "TOLLGATE_LOG_FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
    /// Send traces to this OTLP/HTTP collector, e.g. http://localhost:4318
    #[arg(long, env = "TOLLGATE_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
}

/// Why the settings cannot be used. The text stands on its own: it is printed to whoever started the process.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the settings file {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}:{line}:{column}: {message}", path.display())]
    Syntax { path: PathBuf, line: usize, column: usize, message: String },
    #[error("{}: {message}", path.display())]
    Value { path: PathBuf, message: String },
    #[error("{0}")]
    Flag(String),
}

impl ConfigArgs {
    pub fn load(&self) -> Result<Config, ConfigError> {
        let mut config = match &self.config {
            Some(path) => Config::read(path)?,
            None if Path::new(DEFAULT_FILE).exists() => Config::read(Path::new(DEFAULT_FILE))?,
            None => Config::default(),
        };
        let telemetry = &mut config.telemetry;
        if let Some(log) = &self.log {
            telemetry.log.clone_from(log);
        }
        if let Some(format) = self.log_format {
            telemetry.log_format = format;
        }
        if let Some(endpoint) = &self.otlp_endpoint {
            telemetry.otlp_endpoint = Some(endpoint.clone());
        }
        // The file has been checked already; what is wrong now came from a flag or the environment.
        config.check().map_err(ConfigError::Flag)?;
        Ok(config)
    }
}

impl Config {
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// `path` names the text in errors and anchors its relative paths.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let mut config: Config = toml::from_str(text).map_err(|error| syntax(text, path, &error))?;
        config.check().map_err(|message| ConfigError::Value { path: path.to_owned(), message })?;
        config.anchor(path.parent().unwrap_or(Path::new("")));
        Ok(config)
    }

    /// Paths in the file count from the file's folder, wherever the process was started. A bare command name is left
    /// alone: it is looked up in PATH.
    fn anchor(&mut self, folder: &Path) {
        for program in &mut self.programs {
            if program.command.components().count() > 1 {
                program.command = folder.join(&program.command);
            }
            if let Some(cwd) = &mut program.cwd {
                *cwd = folder.join(&*cwd);
            }
        }
        self.secrets.anchor(folder);
        for file in self.audit.anchors.iter_mut().filter_map(|anchor| anchor.file.as_mut()) {
            *file = folder.join(&*file);
        }
    }
}

fn syntax(text: &str, path: &Path, error: &toml::de::Error) -> ConfigError {
    let at = error.span().map_or(0, |span| span.start).min(text.len());
    let before = text.get(..at).unwrap_or(text);
    ConfigError::Syntax {
        path: path.to_owned(),
        line: before.matches('\n').count() + 1,
        column: before.rsplit('\n').next().unwrap_or("").chars().count() + 1,
        message: error.message().replace('\n', " "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("etc/tollgate.toml"))
    }

    fn refusal(text: &str) -> String {
        parse(text).expect_err("must be refused").to_string()
    }

    #[test]
    fn an_empty_file_is_the_default() {
        let config = parse("").expect("valid");
        assert_eq!(config.limits.request_body_bytes, 4 << 20);
        assert!(!config.upstream.allows_private_networks());
    }

    #[test]
    fn a_program_is_found_by_name_and_its_paths_count_from_the_file() {
        let config = parse(
            "[[program]]\nname = 'crm'\ncommand = 'bin/crm'\nargs = ['--stdio']\nenv = { TOKEN = 'x' }\ncwd = 'data'\n\
             [[program]]\nname = 'git'\ncommand = 'mcp-server-git'\n",
        )
        .expect("valid");
        let crm = config.program("crm").expect("listed");
        assert_eq!(crm.command, Path::new("etc/bin/crm"));
        assert_eq!(crm.cwd.as_deref(), Some(Path::new("etc/data")));
        assert_eq!(config.program("git").expect("listed").command, Path::new("mcp-server-git"));
    }

    #[test]
    fn an_unknown_name_is_refused_with_its_place() {
        let text = refusal("[limits]\naudit_queue = 5\naudit_que = 6\n");
        assert!(text.starts_with("etc/tollgate.toml:3:1: unknown field `audit_que`"), "{text}");
    }

    #[test]
    fn a_wrong_type_is_refused_with_its_place() {
        let text = refusal("[limits.script]\nticks = 'many'\n");
        assert!(text.starts_with("etc/tollgate.toml:2:9: invalid type"), "{text}");
    }

    #[test]
    fn a_missing_file_is_an_error_only_when_it_was_named() {
        let named = ConfigArgs { config: Some("no-such-file.toml".into()), ..ConfigArgs::default() };
        assert!(matches!(named.load(), Err(ConfigError::Read { .. })));
        assert!(ConfigArgs::default().load().is_ok());
    }

    #[test]
    fn a_flag_beats_the_file_and_is_checked_too() {
        let args = ConfigArgs { log: Some("debug".into()), ..ConfigArgs::default() };
        assert_eq!(args.load().expect("valid").telemetry.log, "debug");
        let wrong = ConfigArgs { log: Some("lou=der".into()), ..ConfigArgs::default() };
        assert!(matches!(wrong.load(), Err(ConfigError::Flag(_))));
    }
}
