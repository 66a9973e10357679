//! Single answers of the API, and the seals of an anchor.

use anyhow::Result;
use serde_json::json;
use tollgate_evidence::{
    anchor::{self, Anchors},
    bundle::{Finding, Problem},
    line,
    seal::{ConsistencyProof, InclusionProof, SignedSeal},
    sign::PublicKey,
};

use super::Outcome;

fn finding(problem: Problem, place: &str, position: Option<u64>, row: Option<String>, text: String) -> Finding {
    Finding { problem, file: place.to_owned(), line: None, position, row, text }
}

/// Signatures, and what was anchored: of every seal in a document, under the name of the field in which it stands.
fn seals_of(all: &[(String, &SignedSeal)], keys: &[PublicKey], anchors: Option<&Anchors>, findings: &mut Vec<Finding>) -> usize {
    let mut held = 0;
    for (place, signed) in all {
        if !keys.iter().any(|key| signed.is_signed_by(key)) {
            findings.push(finding(Problem::Signature, place, None, None, anchor::unsigned(signed, keys)));
        }
        if let Some(text) = anchors.and_then(|anchors| anchors.contradicts(&signed.seal)) {
            findings.push(finding(Problem::Contradicted, place, None, None, text));
        }
        held += usize::from(anchors.is_some_and(|anchors| anchors.holds(&signed.seal)));
    }
    held
}

/// What an anchor that was named vouches for.
fn beside(outcome: Outcome, anchors: Option<&Anchors>, held: usize) -> Outcome {
    if anchors.is_some() && held == 0 && outcome.verdict == super::Verdict::Sound {
        return outcome.cannot_say(
            "it holds, and none of its seals is among the anchored ones: nothing outside vouches for it.".to_owned(),
        );
    }
    outcome
}

pub fn proofs(
    keys: &[PublicKey],
    (proofs, unsealed): (&[InclusionProof], u64),
    anchors: Option<&Anchors>,
    torn: Vec<Finding>,
) -> Outcome {
    let (mut findings, mut told, mut rows, mut held) = (torn, Vec::new(), Vec::new(), 0);
    for (number, proof) in proofs.iter().enumerate() {
        let place = format!("proofs[{number}]");
        let seals = [(format!("{place}.seal"), &proof.seal), (format!("{place}.head"), &proof.head)];
        let before = findings.len();
        held += seals_of(&seals, keys, anchors, &mut findings);
        let row = line::parse(proof.line.as_bytes());
        let name = row.as_ref().map(line::Line::name);
        let (seal, head) = (&proof.seal.seal, &proof.head.seal);
        let wrong = match (&row, findings.len() > before) {
            // Said already, and better.
            (_, true) => None,
            (None, _) => Some("its line is no row in canonical form"),
            (Some(row), _) if row.tenant() != seal.tenant_id => Some("its row belongs to another tenant than its seal"),
            _ => proof.check(keys).err(),
        };
        if let Some(text) = wrong {
            findings.push(finding(Problem::Edited, &place, Some(proof.position), name.clone(), text.to_owned()));
        }
        let name = name.unwrap_or_else(|| "a row that cannot be read".to_owned());
        told.push(format!(
            "  {name} of {}: position {}, under seal {} of {}, the newest then",
            seal.tenant_id, proof.position, seal.sequence, head.sequence
        ));
        rows.push(json!({"row": name, "tenant_id": seal.tenant_id, "position": proof.position, "seal": seal.sequence, "head": head.sequence}));
    }
    if unsealed > 0 {
        told.push(format!("  {unsealed} more row(s) of the call were not sealed yet: ask again in a second or two"));
    }
    told.insert(0, format!("{} proof(s) that rows of a call stand in the log", proofs.len()));
    let report = json!({"rows": rows, "unsealed": unsealed, "findings": findings});
    let outcome = Outcome::new("call_proofs", &findings, report, told, "each row stands in the log as it was written.");
    if proofs.is_empty() && findings.is_empty() {
        let why = "it holds no proof: the call was not sealed yet when it was asked for. Ask again in a second or two.";
        return outcome.cannot_say(why.to_owned());
    }
    beside(outcome, anchors, held)
}

pub fn consistency(keys: &[PublicKey], proof: &ConsistencyProof, anchors: Option<&Anchors>, torn: Vec<Finding>) -> Outcome {
    let mut findings = torn;
    let seals = [("from".to_owned(), &proof.from), ("to".to_owned(), &proof.to)];
    let held = seals_of(&seals, keys, anchors, &mut findings);
    let (from, to) = (&proof.from.seal, &proof.to.seal);
    if !proof.holds() {
        let text =
            format!("the log at seal {} is not shown to be the beginning of the log at seal {}", from.sequence, to.sequence);
        findings.push(finding(Problem::Edited, "path", None, None, text));
    }
    let told = vec![format!(
        "a proof that the log of {} at seal {} is the beginning of itself at seal {}",
        to.tenant_id, from.sequence, to.sequence
    )];
    let report = json!({"tenant_id": to.tenant_id, "from": from.sequence, "to": to.sequence, "findings": findings});
    let sound = "nothing that was sealed at the first has been changed or taken out at the second.";
    beside(Outcome::new("consistency_proof", &findings, report, told, sound), anchors, held)
}

pub fn seals(name: &str, keys: &[PublicKey], lines: &[u8], anchors: Option<&Anchors>, torn: Vec<Finding>) -> Result<Outcome> {
    let mut report = anchor::check(name, lines, keys)?;
    let mut held = 0;
    if let Some(anchors) = anchors {
        let all: Vec<SignedSeal> =
            lines.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        for signed in &all {
            held += usize::from(anchors.holds(&signed.seal));
            if let Some(text) = anchors.contradicts(&signed.seal) {
                report.findings.push(finding(Problem::Contradicted, name, None, None, text));
            }
        }
    }
    report.findings.extend(torn);
    let mut told = vec![format!("{name}: {} seals of {} log(s)", report.seals, report.logs)];
    if report.broken_lines > 0 {
        told.push(format!("  {} line(s) hold no seal, as a crash may leave them", report.broken_lines));
    }
    told.extend(report.signed_by.iter().map(|key| format!("  signed by {key}")));
    let sound = "each seal is signed and continues the one before.";
    let outcome = Outcome::new("seals", &report.findings, serde_json::to_value(&report)?, told, sound);
    if report.seals == 0 && report.findings.is_empty() {
        return Ok(outcome.cannot_say("it holds no seal.".to_owned()));
    }
    Ok(beside(outcome, anchors, held))
}
