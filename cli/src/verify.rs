//! `tollgate verify`: checks whatever the audit trail hands out, with no network and no database.

mod bundle;
mod documents;
mod input;
mod manifest;
mod replay;

use std::{
    fs::{self, File},
    io::BufReader,
    path::Path,
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::{Value, json};
use tollgate_evidence::{anchor::Anchors, bundle::Finding, hash::from_hex, sign::PublicKey};

use crate::{args, progress::say};
use input::Given;

/// What the exit status says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Sound,
    Unsound,
    CannotSay,
}

impl Verdict {
    fn code(self) -> ExitCode {
        match self {
            Self::Sound => ExitCode::SUCCESS,
            Self::Unsound => ExitCode::from(1),
            Self::CannotSay => ExitCode::from(2),
        }
    }
}

/// What was found out about one input.
struct Outcome {
    kind: &'static str,
    verdict: Verdict,
    /// For `--json`; an object.
    report: Value,
    /// For people.
    told: Vec<String>,
}

impl Outcome {
    /// Of findings and of what was counted; `sound` is said where there is nothing to find.
    fn new(kind: &'static str, findings: &[Finding], report: Value, mut told: Vec<String>, sound: &str) -> Self {
        told.extend(list(findings));
        if findings.is_empty() {
            told.push(format!("SOUND: {sound}"));
        }
        let verdict = if findings.is_empty() { Verdict::Sound } else { Verdict::Unsound };
        Self { kind, verdict, report, told }
    }

    fn cannot_say(mut self, why: String) -> Self {
        self.told.retain(|line| !line.starts_with("SOUND"));
        self.report["reason"] = json!(why);
        self.told.push(format!("CANNOT SAY: {why}"));
        Self { verdict: Verdict::CannotSay, ..self }
    }
}

/// The first thing that is wrong, and the rest.
fn list(findings: &[Finding]) -> Vec<String> {
    let Some((first, rest)) = findings.split_first() else { return Vec::new() };
    let mut told = vec![format!("NOT SOUND. The first thing that is wrong:\n  {first}")];
    if !rest.is_empty() {
        told.push("and after it:".to_owned());
        told.extend(rest.iter().map(|finding| format!("  {finding}")));
    }
    told
}

/// Prints what was found; the exit status is 0 for what is sound, 1 for what is not, and 2 where nothing can be said.
pub fn run(args: args::Verify) -> Result<ExitCode> {
    let shown = input::shown(&args.file);
    match examine(&args) {
        Ok(outcome) if args.json => {
            let mut report = json!({"input": shown, "kind": outcome.kind, "verdict": outcome.verdict});
            if let (Some(all), Value::Object(own)) = (report.as_object_mut(), outcome.report) {
                all.extend(own);
            }
            say(serde_json::to_string_pretty(&report)?);
            Ok(outcome.verdict.code())
        }
        Ok(outcome) => {
            outcome.told.iter().for_each(say);
            Ok(outcome.verdict.code())
        }
        Err(error) if args.json => {
            let report = json!({"input": shown, "verdict": Verdict::CannotSay, "reason": format!("{error:#}")});
            say(serde_json::to_string_pretty(&report)?);
            Ok(Verdict::CannotSay.code())
        }
        Err(error) => Err(error),
    }
}

fn examine(args: &args::Verify) -> Result<Outcome> {
    let (anchors, torn) = anchors(args)?;
    let given = input::open(&args.file)?;
    if args.replay && !matches!(given, Given::Bundle(_)) {
        bail!("--replay runs the scripts of a bundle again, and {} is none", input::shown(&args.file));
    }
    match given {
        Given::Bundle(archive) => bundle::check(args, archive, anchors.as_ref(), torn),
        Given::Proofs(proofs, unsealed) => Ok(documents::proofs(&keys(args)?, (&proofs, unsealed), anchors.as_ref(), torn)),
        Given::Consistency(proof) => Ok(documents::consistency(&keys(args)?, &proof, anchors.as_ref(), torn)),
        Given::Seals(lines) => documents::seals(&input::shown(&args.file), &keys(args)?, &lines, anchors.as_ref(), torn),
        Given::Manifest(bytes) => manifest::check(&args.file, &keys(args)?, &bytes),
    }
}

/// What holds no keys of its own is checked with those that are named.
fn keys(args: &args::Verify) -> Result<Vec<PublicKey>> {
    let whole = args.key.iter().filter(|key| key.len() == 64);
    let keys: Vec<PublicKey> = whole.filter_map(|key| from_hex(key)).map(|raw| PublicKey::new(&raw)).collect();
    match (keys.is_empty(), args.key.is_empty()) {
        (false, _) => Ok(keys),
        (true, true) => {
            bail!("only a bundle brings its keys along: name the public keys with --key (GET /v1/tenants/{{t}}/audit/keys)")
        }
        (true, false) => {
            bail!("only a bundle brings its keys along, so a key's name is not enough here: pass all 64 hex digits of it")
        }
    }
}

/// What was written outside, and what in it contradicts itself.
fn anchors(args: &args::Verify) -> Result<(Option<Anchors>, Vec<Finding>)> {
    let (mut anchors, mut torn) = (Anchors::default(), Vec::new());
    for path in &args.anchor {
        read(&mut anchors, &mut torn, path)?;
    }
    if !args.anchor.is_empty() && anchors.is_empty() {
        bail!("--anchor {}: it holds no seal (one signed seal as JSON a line)", args.anchor[0].display());
    }
    Ok(((!args.anchor.is_empty()).then_some(anchors), torn))
}

/// A file, or the objects of a bucket below a folder: `<tenant>/<sequence>.json`.
fn read(anchors: &mut Anchors, torn: &mut Vec<Finding>, path: &Path) -> Result<()> {
    let cannot = || format!("cannot read the anchor {}", path.display());
    if path.is_dir() {
        let inside = fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>).with_context(cannot)?;
        for entry in inside {
            let path = entry.path();
            let folder = entry.file_type().with_context(cannot)?.is_dir();
            if folder || path.extension().is_some_and(|extension| extension == "json" || extension == "ndjson") {
                read(anchors, torn, &path)?;
            }
        }
        return Ok(());
    }
    let file = File::open(path).with_context(cannot)?;
    torn.extend(anchors.read(&path.display().to_string(), BufReader::new(file)).with_context(cannot)?);
    Ok(())
}
