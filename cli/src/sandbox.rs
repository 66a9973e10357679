//! Programs that are shipped beside this one.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

const SANDBOX: &str = "tollgate-sandbox";

/// What was named, or what lies beside this binary.
pub fn find(named: Option<PathBuf>) -> Result<PathBuf> {
    match named {
        Some(path) if path.is_file() => Ok(path.canonicalize()?),
        Some(path) => bail!("there is no sandbox at {} (--sandbox, TOLLGATE_SANDBOX)", path.display()),
        None => {
            beside(SANDBOX).context("scripts run in a process of their own; name its program with --sandbox or TOLLGATE_SANDBOX")
        }
    }
}

/// A program in the folder of this binary.
pub fn beside(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this binary lies")?;
    let path = own.with_file_name(name);
    if !path.is_file() {
        bail!("{name} is missing: it belongs beside {}", own.display());
    }
    Ok(path)
}
