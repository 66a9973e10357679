//! What was written outside: a log that was rewritten or cut off is told from the one that was anchored, however well it is signed.

use chrono::TimeDelta;
use tollgate_evidence::{
    anchor::{self, Anchors, Covered},
    bundle::{Problem, Report, Trust, verify_beside},
    seal::SignedSeal,
    sign::Signer,
};

use super::world::{Ways, World, beginning, pack};

fn lines(seals: &[SignedSeal]) -> Vec<u8> {
    seals.iter().flat_map(|signed| [serde_json::to_vec(signed).unwrap(), b"\n".to_vec()].concat()).collect()
}

fn anchored(seals: &[SignedSeal]) -> Anchors {
    let mut anchors = Anchors::default();
    assert_eq!(anchors.read("heads.ndjson", &lines(seals)[..]).unwrap(), []);
    anchors
}

fn beside(world: &World, anchors: &Anchors) -> Report {
    verify_beside(&pack(&world.files)[..], Trust::InBundle, None, Some(anchors)).unwrap()
}

#[test]
fn t55_a_log_that_was_rewritten_or_cut_off_is_not_the_one_that_was_anchored() {
    let world = World::new(1);
    let all = anchored(&world.all_seals);
    let report = beside(&world, &all);
    assert_eq!((report.findings, report.anchored), (vec![], Some(Covered { heads: 6, newer: 0, outside: 0 })));
    // A part of the log: what lies before it but for the seal that it names as its predecessor is outside.
    let report = beside(&World::range(1, 3), &all);
    assert_eq!((report.findings, report.anchored), (vec![], Some(Covered { heads: 5, newer: 0, outside: 1 })));
    // Nothing of another tenant's log is said.
    let report = beside(&World::new(2), &all);
    assert_eq!((report.findings, report.anchored), (vec![], Some(Covered::default())));

    // Another history under the true key: any one head that lies in it shows it, and so does the one before its first.
    let rewritten = World::build(1, &Ways { first_id: 1_000, ..Ways::default() });
    for head in &world.all_seals {
        let report = beside(&rewritten, &anchored(std::slice::from_ref(head)));
        let first = &report.findings[0];
        assert_eq!(first.problem, Problem::Contradicted, "{first}");
        assert!(first.text.contains(&format!("seal {} is not the one that was anchored", head.seal.sequence)), "{first}");
        assert_eq!(first.line, Some(usize::try_from(head.seal.sequence - 1).unwrap() % 2 + 1), "{first}");
    }
    let later = World::build(1, &Ways { first_id: 1_000, from: 3, ..Ways::default() });
    let report = beside(&later, &anchored(&world.all_seals[1..2]));
    assert!(report.findings[0].text.contains("does not continue seal 2 as it was anchored"), "{:?}", report.findings);

    // Put back to an earlier state: what was anchored before the bundle was made must be in its log.
    let cut = |made| World::build(1, &Ways { end: 4, made, ..Ways::default() });
    let world = World::build(1, &Ways { end: 5, ..Ways::default() });
    let all = anchored(&world.all_seals);
    let report = beside(&cut(beginning() + TimeDelta::hours(1)), &all);
    let first = &report.findings[0];
    assert_eq!((first.problem, report.findings.len()), (Problem::Truncated, 1), "{:?}", report.findings);
    assert!(first.text.contains("seal 5 was anchored before this was made, and the log ends with seal 4"), "{first}");
    // A bundle that is older than the head says nothing against it.
    let report = beside(&cut(beginning() - TimeDelta::hours(1)), &all);
    assert_eq!((report.findings, report.anchored), (vec![], Some(Covered { heads: 4, newer: 1, outside: 0 })));
}

#[test]
fn an_anchor_is_checked_by_itself() {
    let (world, other) = (World::new(1), World::new(2));
    let keys = [world.signer.public().clone()];
    let check = |bytes: &[u8]| anchor::check("heads.ndjson", bytes, &keys).unwrap();
    let told = |bytes: &[u8]| {
        let report = check(bytes);
        report.findings.iter().map(|f| (f.problem, f.line.unwrap(), f.text.clone())).collect::<Vec<_>>()
    };
    // Tenants take turns, a crash has left half a line, and what was not acknowledged came twice.
    let mixed = [
        lines(&world.all_seals[..2]),
        lines(&other.all_seals[..3]),
        b"{\"seal\":{\"ten\n".to_vec(),
        lines(&world.all_seals[1..]),
        b"\n".to_vec(),
        lines(&other.all_seals[2..]),
    ]
    .concat();
    let report = check(&mixed);
    assert_eq!(report.findings, []);
    assert_eq!((report.logs, report.seals, report.broken_lines), (2, 14, 1));
    assert_eq!(report.signed_by, [format!("{:?}", keys[0])]);

    let gap = [&world.all_seals[..2], &world.all_seals[3..]].concat();
    assert_eq!(told(&lines(&gap)), [(Problem::Removed, 3, "seal 4 follows seal 2: what lies between is missing".to_owned())]);
    let rewritten = World::build(1, &Ways { first_id: 1_000, ..Ways::default() });
    let spliced = [&world.all_seals[..3], &rewritten.all_seals[3..4]].concat();
    assert_eq!(told(&lines(&spliced)), [(Problem::Contradicted, 4, "seal 4 does not continue seal 3".to_owned())]);
    let twice = [&world.all_seals[..3], &rewritten.all_seals[2..3]].concat();
    assert!(told(&lines(&twice))[0].2.contains("two different seals 3"), "{:?}", told(&lines(&twice)));
    assert_eq!(Anchors::default().read("heads", &lines(&twice)[..]).unwrap()[0].problem, Problem::Contradicted);
    let edited = String::from_utf8(lines(&world.all_seals)).unwrap().replacen("\"count\":14", "\"count\":15", 1);
    assert_eq!(told(edited.as_bytes())[0].0, Problem::Signature);
    let strange = [Signer::from_seed(&[9; 32]).unwrap().public().clone()];
    let report = anchor::check("heads", &lines(&world.all_seals[..1])[..], &strange).unwrap();
    let text = &report.findings[0].text;
    assert!(text.contains(&keys[0].key_id) && text.contains("pass that key too"), "{text}");
}
