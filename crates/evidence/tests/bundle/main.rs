//! Bundles: sound ones are found sound, and whatever is done to one is found and named.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "helpers of tests are tests")]

mod anchors;
mod archives;
mod edits;
mod world;

use std::io::Read;

use tollgate_evidence::{
    bundle::{Problem, Replay, Report, RunRecord, Trust, verify},
    sign::Signer,
};

use world::{Files, Ways, World, pack};

fn check(archive: &[u8]) -> Report {
    verify(archive, Trust::InBundle, None).unwrap()
}

#[test]
fn a_bundle_as_it_was_written_is_sound() {
    let world = World::new(1);
    let report = check(&pack(&world.files));
    assert_eq!(report.findings, []);
    assert_eq!((report.first_seal, report.last_seal, report.entries), (1, world.seals, world.entries));
    assert_eq!((report.redacted, report.omitted, report.erased, report.scripts), (1, 1, 2, 2));
    assert_eq!(report.erasures, 1);
    assert_eq!(report.signed_by, [format!("{:?}", world.signer.public())]);
    assert_eq!(report.tenant_id.unwrap(), world.tenant.to_string());
    // From the middle to the end: the proof leads on, and nothing is said of what came before.
    let report = check(&pack(&World::range(1, 3).files));
    assert_eq!((report.findings, report.first_seal), (vec![], 3));
    // Nothing yet.
    let report = check(&pack(&World::range(1, 99).files));
    assert_eq!((report.findings, report.entries), (vec![], 0));
}

#[test]
fn only_trusted_keys_count() {
    let world = World::new(1);
    let archive = pack(&world.files);
    let only = |key: &str| verify(&archive[..], Trust::Only(vec![key.to_owned()]), None).unwrap();
    assert!(only(&world.signer.public().public_key).is_sound());
    assert!(only(&world.signer.public().key_id).is_sound());
    let report = only(&Signer::from_seed(&[9; 32]).unwrap().public().public_key);
    assert_eq!(report.findings[0].problem, Problem::Signature);
    assert!(report.findings[0].text.contains("a key that is not trusted"), "{}", report.findings[0]);
}

/// The genuine manifest and signature, kept, and behind them another manifest for what is left of the archive.
#[test]
fn a_second_manifest_does_not_live_on_the_first_ones_signature() {
    let mut files = World::new(1).files;
    let mut forged: serde_json::Value =
        serde_json::from_slice(&files.iter().find(|(n, _)| n == "manifest.json").unwrap().1).unwrap();
    files.retain(|(name, _)| !name.starts_with("chunks/000003/") && name != "proof.json");
    forged["files"]
        .as_array_mut()
        .unwrap()
        .retain(|f| !f["name"].as_str().unwrap().starts_with("chunks/000003/") && f["name"] != "proof.json");
    forged["last_seal"] = 4.into();
    files.push(("manifest.json".to_owned(), forged.to_string().into_bytes()));
    let report = check(&pack(&files));
    assert!(report.findings.iter().any(|f| f.problem == Problem::Added && f.file == "manifest.json"), "{:?}", report.findings);
    // Nor are seals believed whose entries are not there.
    let mut files = World::new(1).files;
    files.retain(|(name, _)| name != "chunks/000002/entries.ndjson");
    let report = check(&pack(&files));
    assert_eq!(
        (report.findings[0].problem, report.findings[0].file.as_str()),
        (Problem::Removed, "chunks/000002/entries.ndjson")
    );
}

/// Whoever has the database but not the key can make a bundle that fits together, and not one that is trusted.
#[test]
fn a_rewritten_history_needs_the_key() {
    let honest = World::new(1);
    let forged = World::signed_by(1, &[77; 32]);
    let archive = pack(&forged.files);
    assert!(check(&archive).is_sound(), "it fits together");
    let report = verify(&archive[..], Trust::Only(vec![honest.signer.public().public_key.clone()]), None).unwrap();
    assert!(report.findings.iter().any(|f| f.problem == Problem::Signature));
}

#[test]
fn what_is_no_archive_is_an_error_and_what_ends_early_a_finding() {
    assert!(verify(&b"hello"[..], Trust::InBundle, None).is_err() || !check(b"hello").is_sound());
    let archive = pack(&World::new(1).files);
    for end in (0..archive.len()).step_by(archive.len() / 97) {
        match verify(&archive[..end], Trust::InBundle, None) {
            Ok(report) => {
                assert!(report.findings.iter().any(|f| f.problem == Problem::Truncated), "{end}: {:?}", report.findings)
            }
            Err(error) => assert!(end < 20, "{end}: {error}"),
        }
    }
}

fn texts(report: &Report) -> Vec<(Problem, &str, &str)> {
    report.findings.iter().map(|f| (f.problem, f.file.as_str(), f.text.as_str())).collect()
}

fn file<'a>(files: &'a mut Files, name: &str) -> &'a mut Vec<u8> {
    &mut files.iter_mut().find(|(n, _)| n == name).unwrap().1
}

const LIST: &str = "erasures/000001/erased-0001.ndjson";
const UNNAMED: &str = "payload missing, and no sealed erasure names it";

/// What can be done who owns the database, and not the key: the manifest is signed over whatever they have made of the rows.
fn served(mut files: Files, signer: &Signer) -> Report {
    use tollgate_evidence::bundle::{FileEntry, Manifest, manifest_message};
    let mut manifest: Manifest = serde_json::from_slice(file(&mut files, "manifest.json")).unwrap();
    files.retain(|(name, _)| !name.starts_with("manifest."));
    let entry = |(name, content): &(String, Vec<u8>)| FileEntry {
        name: name.clone(),
        bytes: content.len() as u64,
        sha256: tollgate_evidence::Hash::of(&[content]),
    };
    manifest.files = files.iter().map(entry).collect();
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let signature = tollgate_evidence::hash::to_hex(&signer.sign(&manifest_message(&manifest)));
    files.push(("manifest.json".to_owned(), manifest));
    files.push(("manifest.sig".to_owned(), signature.into_bytes()));
    check(&pack(&files))
}

#[test]
fn t55_a_planted_erasure_excuses_nothing() {
    let world = World::new(1);
    assert_eq!(served(world.files.clone(), &world.signer).findings, [], "what is honest is sound");

    // A payload is deleted, and an erasure that never was is named for it, or the one that there was.
    for erasure in ["era_00000000000000000000000001".to_owned(), world.erasure.to_string(), String::new()] {
        let mut files = world.files.clone();
        let payloads = file(&mut files, "chunks/000001/payloads-0001.ndjson");
        let text = String::from_utf8(payloads.clone()).unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        let planted = format!(r#"{{"position":1,"part":"arguments","content":{{"erased":{{"erasure_id":"{erasure}"}}}}}}"#);
        assert!(lines[0].starts_with(r#"{"position":1,"part":"arguments""#), "{}", lines[0]);
        lines[0] = &planted;
        *payloads = format!("{}\n", lines.join("\n")).into_bytes();
        let report = served(files, &world.signer);
        assert_eq!(texts(&report), [(Problem::Removed, "chunks/000001/payloads-0001.ndjson", UNNAMED)]);
        assert!(report.findings[0].row.as_ref().unwrap().ends_with("(intent)") && report.findings[0].line == Some(1));
    }

    // The erasure took the result of one call and the arguments of another: not the arguments of the one.
    let erased = world.erased[1];
    assert_eq!(erased.part, tollgate_evidence::line::Part::Result);
    let arguments = tollgate_evidence::erasure::Erased { part: tollgate_evidence::line::Part::Arguments, ..erased };
    let mut files = world.files.clone();
    for (name, content) in files.iter_mut().filter(|(name, _)| name.contains("payloads-")) {
        let text = String::from_utf8(content.clone()).unwrap();
        let lines: Vec<String> = text.lines().map(|line| line.to_owned()).collect();
        let Some(at) = lines.iter().position(|line| line.contains("\"erased\"") && line.contains("\"result\"")) else { continue };
        let mut lines = lines;
        let content_of = |line: &str| line[line.find("\"content\"").unwrap()..].to_owned();
        let before = &lines[at - 1];
        assert!(before.contains("\"arguments\""), "{name}: {before}");
        lines[at - 1] = format!("{}{}", &before[..before.find("\"content\"").unwrap()], content_of(&lines[at]));
        *content = format!("{}\n", lines.join("\n")).into_bytes();
    }
    let report = served(files.clone(), &world.signer);
    assert_eq!(report.findings.iter().map(|f| f.text.as_str()).collect::<Vec<_>>(), [UNNAMED], "{:?}", report.findings);
    // And one more line in the list of the erasure is one that nobody signed.
    let list = [world.erased[0], arguments, erased].map(|item| [item.line(), b"\n".to_vec()].concat()).concat();
    *file(&mut files, LIST) = list;
    let report = served(files, &world.signer);
    assert_eq!((report.findings.len(), report.findings[0].problem), (1, Problem::Added), "{:?}", report.findings);
    assert!(report.findings[0].text.contains("is not the one that was sealed (3 lines, sealed were 2)"));
}

/// Its list goes into files that fit into memory, and is one list all the same.
#[test]
fn an_erasure_of_very_much_is_proved_like_any_other() {
    let world = World::build(1, &Ways { also_erased: 250_000, ..Ways::default() });
    let lists = world.files.iter().filter(|(name, _)| name.starts_with("erasures/000001/erased-")).count();
    assert_eq!(lists, 3);
    let report = check(&pack(&world.files));
    assert_eq!((report.findings, report.erased, report.erasures), (vec![], 2, 1));
    let mut files = world.files.clone();
    files.retain(|(name, _)| name != "erasures/000001/erased-0002.ndjson");
    let report = served(files, &world.signer);
    assert_eq!((report.findings.len(), report.findings[0].problem), (1, Problem::Truncated), "{:?}", report.findings);
}

#[test]
fn t55_an_erasure_is_what_a_sealed_and_signed_event_says() {
    let world = World::new(1);
    let proof = "erasures/000001/proof.json";
    // Without its event, or with an event that is not in the log, the list is nobody's.
    let mut files = world.files.clone();
    files.retain(|(name, _)| name != proof);
    let report = served(files, &world.signer);
    assert_eq!(texts(&report)[0], (Problem::Removed, proof, "no event of the log stands behind this list"));
    assert_eq!((report.erased, report.findings.iter().filter(|f| f.text == UNNAMED).count()), (0, 2));
    let mut files = world.files.clone();
    let event = String::from_utf8(file(&mut files, proof).clone()).unwrap();
    *file(&mut files, proof) = event.replacen("asked for", "asked fur", 1).into_bytes();
    let report = served(files, &world.signer);
    assert_eq!(texts(&report)[0], (Problem::Edited, proof, "the line is not under the seal's root"));
    // A line less, and the other order.
    for (list, problem) in [
        ([world.erased[0].line(), b"\n".to_vec()].concat(), Problem::Truncated),
        ([world.erased[1].line(), b"\n".to_vec(), world.erased[0].line(), b"\n".to_vec()].concat(), Problem::Reordered),
    ] {
        let mut files = world.files.clone();
        *file(&mut files, LIST) = list;
        let report = served(files, &world.signer);
        assert_eq!((report.findings[0].problem, report.findings[0].file.as_str()), (problem, LIST));
    }
    // Another tenant's erasure, whole and honest, says nothing of this one's payloads.
    let (mut files, other) = (world.files.clone(), World::new(2));
    for name in [proof, LIST] {
        *file(&mut files, name) = other.files.iter().find(|(n, _)| n == name).unwrap().1.clone();
    }
    let report = served(files, &world.signer);
    assert_eq!(texts(&report)[0], (Problem::Foreign, proof, "this erasure belongs to another tenant"));
    assert_eq!(report.findings.iter().filter(|f| f.text == UNNAMED).count(), 2);
}

struct Recorder(Vec<RunRecord>, Result<(), String>);

impl Replay for Recorder {
    fn replay(&mut self, run: &RunRecord) -> Result<(), String> {
        self.0.push(run.clone());
        self.1.clone()
    }
}

#[test]
fn scripts_come_to_their_replay_with_all_that_was_recorded() {
    let world = World::new(1);
    let archive = pack(&world.files);
    let mut same = Recorder(Vec::new(), Ok(()));
    let report = verify(&archive[..], Trust::InBundle, Some(&mut same)).unwrap();
    assert_eq!((report.replayed, report.not_replayable), (1, 1), "the other's logs were not kept");
    let run = &same.0[0];
    assert_eq!(run.source.as_deref(), Some("result = shop.a().n"));
    assert_eq!(
        (run.catalog.as_deref(), run.result.as_deref(), run.logs.as_deref()),
        (Some("{\"servers\":[]}"), Some("7"), Some("[]"))
    );
    assert_eq!((run.journal.len(), run.ticks, run.state.as_str()), (1, Some(12), "done"));
    let mut differs = Recorder(Vec::new(), Err("the result is 8, recorded was 7".to_owned()));
    let report = verify(&archive[..], Trust::InBundle, Some(&mut differs)).unwrap();
    assert_eq!(report.findings.len(), 1);
    assert_eq!((report.findings[0].problem, report.findings[0].row.as_ref()), (Problem::Replay, Some(&run.id)));
}

/// The steps that README.txt in each bundle gives to those who trust no program of ours.
#[test]
fn the_readme_tells_the_truth() {
    let world = World::new(1);
    let find = |name: &str| -> Vec<u8> { world.files.iter().find(|(n, _)| n == name).unwrap().1.clone() };
    let sha = |parts: &[&[u8]]| tollgate_evidence::Hash::of(parts).to_string();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&find("manifest.json")).unwrap();
    for file in manifest["files"].as_array().unwrap() {
        assert_eq!(file["sha256"], sha(&[&find(file["name"].as_str().unwrap())]));
    }
    let entries = text(find("chunks/000001/entries.ndjson"));
    let leaves = text(find("chunks/000001/leaves.txt"));
    for (line, leaf) in entries.lines().zip(leaves.lines()) {
        assert_eq!(leaf, sha(&[&[0], line.as_bytes()]));
    }
    let row: serde_json::Value = serde_json::from_str(entries.lines().nth(1).unwrap()).unwrap();
    let payloads = text(find("chunks/000001/payloads-0001.ndjson"));
    let payload: serde_json::Value = serde_json::from_str(payloads.lines().next().unwrap()).unwrap();
    let salt = tollgate_evidence::hash::from_hex(payload["content"]["text"]["salt"].as_str().unwrap()).unwrap();
    let body = payload["content"]["text"]["body"].as_str().unwrap();
    assert_eq!(row["arguments"]["sha256"], sha(&[&salt, body.as_bytes()]));
}

fn unpack(archive: &[u8]) -> Files {
    let mut tar = tar::Archive::new(zstd::Decoder::new(archive).unwrap());
    tar.entries()
        .unwrap()
        .map(|entry| {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (name, content)
        })
        .collect()
}
