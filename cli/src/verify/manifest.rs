//! The manifest of an export job: its signature, and the files that it names.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use tollgate_evidence::{
    bundle::{Finding, Problem},
    hash::{from_hex, to_hex},
    sign::PublicKey,
};

use super::{Outcome, input};

const SIGNATURE: &str = "_manifest.sig";

#[derive(Deserialize)]
struct Manifest {
    job_id: String,
    tenant_id: String,
    format: String,
    parts: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    name: String,
    bytes: u64,
    sha256: String,
}

#[derive(Deserialize)]
struct Signature {
    key_id: String,
    signature: String,
}

pub fn check(path: &Path, keys: &[PublicKey], bytes: &[u8]) -> Result<Outcome> {
    let shown = input::shown(path);
    if input::is_stdin(path) {
        bail!("a manifest is checked with its signature and the job's files beside it: name its file");
    }
    let manifest: Manifest = serde_json::from_slice(bytes).with_context(|| format!("{shown} is no manifest of an export job"))?;
    let folder =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or_else(|| PathBuf::from("."), Path::to_path_buf);
    let signature = fs::read(folder.join(SIGNATURE));
    let signature = signature.with_context(|| format!("{SIGNATURE} must stand beside {shown}, and cannot be read"))?;
    let mut findings: Vec<Finding> = unsigned(keys, bytes, &signature).into_iter().collect();
    let known: Vec<&Part> = manifest.parts.iter().collect();
    let (mut whole, mut size) = (0u64, 0u64);
    for part in &known {
        match differs(&folder, part) {
            None => (whole, size) = (whole + 1, size + part.bytes),
            Some((problem, text)) => findings.push(finding(problem, &part.name, text)),
        }
    }
    findings.extend(strangers(&folder, &known)?);
    let told = vec![
        format!("{shown}: the manifest of {}, {} of {}", manifest.job_id, manifest.format, manifest.tenant_id),
        format!("  {whole} of {} files ({size} bytes) are what it names", known.len()),
    ];
    let report = json!({
        "job_id": manifest.job_id, "tenant_id": manifest.tenant_id, "format": manifest.format, "files": whole, "bytes": size,
        "findings": findings,
    });
    let sound = match manifest.format.as_str() {
        "bundle" => "the file is the one that the job wrote. What is in it the bundle proves: verify that too.",
        _ => "the files are the ones that the job wrote, and none is missing.",
    };
    Ok(Outcome::new("export_manifest", &findings, report, told, sound))
}

fn finding(problem: Problem, file: &str, text: String) -> Finding {
    Finding { problem, file: file.to_owned(), line: None, position: None, row: None, text }
}

fn unsigned(keys: &[PublicKey], manifest: &[u8], signature: &[u8]) -> Option<Finding> {
    let found = |text| Some(finding(Problem::Signature, SIGNATURE, text));
    let Ok(Signature { key_id, signature }) = serde_json::from_slice(signature) else {
        return found("this is no signature of a manifest".to_owned());
    };
    let Some(key) = keys.iter().find(|key| key.key_id == key_id) else {
        return found(format!("it is signed by {key_id}: if it is one of the installation's, pass that key too"));
    };
    let message = [b"tollgate-export-v1\n".as_slice(), manifest].concat();
    let holds = from_hex(&signature).is_some_and(|signature| key.verifies(&message, &signature));
    if holds { None } else { found("the signature does not hold: the manifest is not what was signed".to_owned()) }
}

/// How a file differs from what the manifest says of it.
fn differs(folder: &Path, part: &Part) -> Option<(Problem, String)> {
    // A manifest is not yet believed, and reads nothing but what lies beside it.
    if Path::new(&part.name).file_name().is_none_or(|name| name != part.name.as_str()) {
        return Some((Problem::Edited, "this is no name that a job gives to a file".to_owned()));
    }
    let mut file = match File::open(folder.join(&part.name)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Some((Problem::Removed, "the manifest names this file, and it is missing".to_owned()));
        }
        Err(error) => return Some((Problem::Removed, format!("this file cannot be read: {error}"))),
    };
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0u64, vec![0; 1 << 16]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                hash.update(&buffer[..read]);
                bytes += u64::try_from(read).unwrap_or(0);
            }
            Err(error) => return Some((Problem::Removed, format!("this file cannot be read: {error}"))),
        }
    }
    if bytes < part.bytes {
        return Some((Problem::Truncated, format!("it ends after {bytes} bytes of {}", part.bytes)));
    }
    let same = to_hex(&hash.finalize()) == part.sha256 && bytes == part.bytes;
    (!same).then(|| (Problem::Edited, "this file is not the one that the manifest names".to_owned()))
}

/// A part that the manifest does not name would be read by whoever reads the folder.
fn strangers(folder: &Path, known: &[&Part]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        // What an upload that nobody finished has left is no part.
        let part = (name.starts_with("part-") && !name.contains('#')) || name == "bundle.tar.zst";
        if part && !known.iter().any(|part| part.name == name) {
            findings.push(finding(Problem::Added, &name, "the manifest does not name this file".to_owned()));
        }
    }
    findings.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(findings)
}
