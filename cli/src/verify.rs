//! `tollgate verify`: checks an audit bundle, with no network and no database.

mod replay;

use std::{fs::File, io::BufReader, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use tollgate_evidence::bundle::{self, Replay, Report, Trust};

use crate::{args, progress::say, sandbox};
use replay::Sandbox;

/// Something in the bundle is not what was signed.
const UNSOUND: u8 = 1;

/// Prints what was found; the exit status is 0 for a sound bundle and 1 for one that is not (2 when it cannot be read at all).
pub fn run(args: args::Verify) -> Result<ExitCode> {
    let trust = if args.key.is_empty() { Trust::InBundle } else { Trust::Only(args.key.clone()) };
    let mut sandbox = if args.replay { Some(Sandbox::new(sandbox::find(args.sandbox.sandbox.clone())?)?) } else { None };
    let replay = sandbox.as_mut().map(|sandbox| sandbox as &mut dyn Replay);
    let open = |path: &PathBuf| File::open(path).with_context(|| format!("cannot open {}", path.display()));
    let file = BufReader::new(open(&args.bundle)?);
    let unreadable = || format!("{} is no audit bundle (a tar archive compressed with zstd)", args.bundle.display());
    let report = bundle::verify(file, trust, replay).with_context(unreadable)?;
    if args.json {
        say(serde_json::to_string_pretty(&report)?);
    } else {
        tell(&report, &args);
    }
    Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::from(UNSOUND) })
}

fn tell(report: &Report, args: &args::Verify) {
    let unknown = || "an unknown tenant".to_owned();
    say(format_args!(
        "{}: {}, seals {} to {}, made {}",
        args.bundle.display(),
        report.tenant_id.clone().unwrap_or_else(unknown),
        report.first_seal,
        report.last_seal,
        report.created_at.as_deref().unwrap_or("at an unknown time"),
    ));
    let mut aside = Vec::new();
    for (count, what) in [(report.redacted, "redacted"), (report.omitted, "not kept for their size"), (report.erased, "erased")] {
        if count > 0 {
            aside.push(format!("{count} {what}"));
        }
    }
    let aside = if aside.is_empty() { String::new() } else { format!(" ({})", aside.join(", ")) };
    say(format_args!("  {} rows and {} payloads are what was signed{aside}", report.entries, report.payloads));
    if args.replay {
        say(format_args!(
            "  {} of {} scripts give the same result, logs and ticks again; {} cannot be replayed because a text of theirs was not kept whole or lies outside",
            report.replayed, report.scripts, report.not_replayable
        ));
    }
    for key in &report.signed_by {
        say(format_args!("  signed by {key}"));
    }
    if args.key.is_empty() && report.is_sound() {
        say("  The keys are the bundle's own: compare them with what you were given on another way, or name them with --key.");
    }
    match report.findings.as_slice() {
        [] if report.entries == 0 => say("EMPTY: nothing was sealed in the time that it covers, so it proves nothing."),
        [] => say("SOUND: nothing was edited, removed, reordered, added or cut off."),
        [first, rest @ ..] => {
            say(format_args!("NOT SOUND. The first thing that is wrong:\n  {first}"));
            if !rest.is_empty() {
                say("and after it:");
                rest.iter().for_each(|finding| say(format_args!("  {finding}")));
            }
            if report.more_findings {
                say("  and more");
            }
        }
    }
}
