//! Bundles: the whole of what they cover, against the keys and the anchors.

use std::io::BufRead;

use anyhow::{Context, Result};
use tollgate_evidence::{
    anchor::Anchors,
    bundle::{self, Finding, Replay, Report, Trust},
};

use super::{Outcome, input, replay::Sandbox};
use crate::{args, sandbox};

pub fn check(args: &args::Verify, archive: Box<dyn BufRead>, anchors: Option<&Anchors>, torn: Vec<Finding>) -> Result<Outcome> {
    let trust = if args.key.is_empty() { Trust::InBundle } else { Trust::Only(args.key.clone()) };
    let mut sandbox = if args.replay { Some(Sandbox::new(sandbox::find(args.sandbox.sandbox.clone())?)?) } else { None };
    let replay = sandbox.as_mut().map(|sandbox| sandbox as &mut dyn Replay);
    let unreadable = || format!("{} is no audit bundle (a tar archive compressed with zstd)", input::shown(&args.file));
    let mut report = bundle::verify_beside(archive, trust, replay, anchors).with_context(unreadable)?;
    report.findings.extend(torn);
    let mut told = counts(&report, args);
    if report.more_findings {
        told.push("  There is more that is wrong than is told here.".to_owned());
    }
    let sound = "nothing was edited, removed, reordered, added or cut off.";
    let outcome = Outcome::new("bundle", &report.findings, serde_json::to_value(&report)?, told, sound);
    Ok(if !report.is_sound() {
        outcome
    } else if report.entries == 0 {
        outcome.cannot_say("nothing was sealed in the time that it covers, so it proves nothing.".to_owned())
    } else if report.anchored.is_some_and(|covered| covered.heads == 0) {
        let why = "it fits together, and none of the anchored seals lies in what it covers: nothing outside vouches for it.";
        outcome.cannot_say(why.to_owned())
    } else {
        outcome
    })
}

fn counts(report: &Report, args: &args::Verify) -> Vec<String> {
    let mut told = vec![format!(
        "{}: a bundle of {}, seals {} to {}, made {}",
        input::shown(&args.file),
        report.tenant_id.as_deref().unwrap_or("an unknown tenant"),
        report.first_seal,
        report.last_seal,
        report.created_at.as_deref().unwrap_or("at an unknown time"),
    )];
    let mut aside = Vec::new();
    for (count, what) in [(report.redacted, "redacted"), (report.omitted, "not kept for their size"), (report.erased, "erased")] {
        if count > 0 {
            aside.push(format!("{count} {what}"));
        }
    }
    let aside = if aside.is_empty() { String::new() } else { format!(" ({})", aside.join(", ")) };
    told.push(format!("  {} rows and {} payloads are what was signed{aside}", report.entries, report.payloads));
    if report.erasures > 0 {
        told.push(format!("  what is erased was named by {} sealed erasure(s)", report.erasures));
    }
    if args.replay {
        told.push(format!(
            "  {} of {} scripts give the same result, logs and ticks again; {} cannot be replayed because a text of theirs was not kept whole or lies outside",
            report.replayed, report.scripts, report.not_replayable
        ));
    }
    if let Some(covered) = report.anchored {
        told.push(format!(
            "  {} seals are the ones that were anchored; {} anchored ones are newer than this, {} lie outside of it",
            covered.heads, covered.newer, covered.outside
        ));
    }
    told.extend(report.signed_by.iter().map(|key| format!("  signed by {key}")));
    if args.key.is_empty() && report.is_sound() {
        let text =
            "  The keys are the bundle's own: compare them with what you were given on another way, or name them with --key.";
        told.push(text.to_owned());
    }
    told
}
