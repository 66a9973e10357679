//! Archives that are no plain sequence of files, and bundles that were made whole again around what is missing.

use std::{
    io::{self, Read},
    time::{Duration, Instant},
};

use tar::EntryType;
use tollgate_evidence::bundle::{Problem, Trust, verify};

use crate::{
    check, file, served,
    world::{Ways, World, pack},
};

/// An archive of the world's files, the one of this name with another kind of header.
fn with_kind(world: &World, name: &str, kind: EntryType) -> Vec<u8> {
    let mut tar = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
    for (own, content) in &world.files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        if own == name {
            header.set_entry_type(kind);
        }
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, own, &content[..]).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

#[test]
fn t55_an_entry_that_is_no_plain_file_is_none_of_a_bundle() {
    let world = World::new(1);
    assert!(check(&with_kind(&world, "proof.json", EntryType::Regular)).is_sound());
    for kind in [
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Directory,
        EntryType::GNUSparse,
        EntryType::GNULongName,
        EntryType::XHeader,
        EntryType::XGlobalHeader,
    ] {
        let report = check(&with_kind(&world, "proof.json", kind));
        assert!(
            report.findings.iter().any(|f| f.text.contains("proof.json is no plain file")),
            "{kind:?}: {:?}",
            report.findings
        );
    }
}

/// Whoever unpacks the archive with another program may be shown what stands there.
#[test]
fn t55_nothing_stands_behind_the_end_of_the_archive() {
    let whole = pack(&World::new(1).files);
    let plain = zstd::decode_all(&whole[..]).unwrap();
    let again = |tar: Vec<u8>| zstd::encode_all(&tar[..], 1).unwrap();
    assert!(check(&again([plain.clone(), vec![0; 4096]].concat())).is_sound(), "blanks are how tar fills its last block");
    for (what, archive) in [
        ("a second archive in the same frame", again([plain.clone(), plain.clone()].concat())),
        ("a second archive in a frame of its own", [whole.clone(), whole.clone()].concat()),
        ("a text", again([plain, b"hello".to_vec()].concat())),
        ("what is no frame", [whole, b"hello, hello".to_vec()].concat()),
    ] {
        let problems: Vec<Problem> = check(&archive).findings.iter().map(|f| f.problem).collect();
        assert_eq!(problems, [Problem::Added], "{what}");
    }
}

#[test]
fn t55_a_catalogue_that_a_script_ran_against_may_not_be_missing() {
    let world = World::new(1);
    let name = world.files.iter().map(|(name, _)| name).find(|name| name.ends_with("catalogs.ndjson")).unwrap().clone();
    let mut emptied = world.files.clone();
    file(&mut emptied, &name).clear();
    let mut removed = world.files.clone();
    removed.retain(|(own, _)| *own != name);
    for files in [emptied, removed] {
        let report = served(files, &world.signer);
        let missing = report.findings.iter().find(|f| f.problem == Problem::Removed && f.file == name).unwrap();
        assert!(missing.text.starts_with("the catalogue ") && missing.text.ends_with("is missing"), "{missing}");
    }
}

/// Small when compressed, and hours of work for whoever takes each line for a row.
#[test]
fn t55_a_file_of_countless_lines_is_refused_before_its_lines_are_read() {
    let world = World::new(1);
    for name in ["chunks/000001/entries.ndjson", "chunks/000001/leaves.txt"] {
        let mut files = world.files.clone();
        *file(&mut files, name) = vec![b'\n'; 40 << 20];
        let begun = Instant::now();
        let report = check(&pack(&files));
        let refused = report.findings.iter().find(|f| f.file == name).unwrap();
        assert!(refused.problem == Problem::Added && refused.text.contains("lines"), "{refused}");
        // Forty million findings, or hashes, are not made within it on any machine.
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
        assert!(report.findings.len() <= 100);
    }
}

/// A disk that fails half-way.
struct Failing<'a>(&'a [u8]);

impl Read for Failing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::Error::from_raw_os_error(5)),
            read => Ok(read),
        }
    }
}

#[test]
fn an_input_that_fails_says_nothing_of_the_bundle() {
    let archive = pack(&World::new(1).files);
    for end in [archive.len() / 2, archive.len() - 1, archive.len()] {
        let error = verify(Failing(&archive[..end]), Trust::InBundle, None).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5), "{end}: {error}");
    }
}

/// The same key, another history: a copy of the installation, say, in which more was erased.
#[test]
fn t55_an_erasure_of_another_log_excuses_nothing_here() {
    let own = World::new(1);
    let other = World::build(1, &Ways { also_erased: 3, ..Ways::default() });
    let mut files = own.files.clone();
    files.retain(|(name, _)| !name.starts_with("erasures/"));
    let at = files.iter().position(|(name, _)| name.starts_with("chunks/")).unwrap();
    let foreign = other.files.iter().filter(|(name, _)| name.starts_with("erasures/")).cloned();
    files.splice(at..at, foreign);
    let report = served(files, &own.signer);
    let strange = report.findings.iter().find(|f| f.file.ends_with("proof.json") && f.problem == Problem::Edited);
    assert!(strange.is_some_and(|f| f.text.contains("ends with another seal")), "{:?}", report.findings);
}

/// Whatever a signer of their own puts into a seal is arithmetic on their numbers.
#[test]
fn t55_seals_at_the_end_of_all_numbers_are_findings() {
    let world = World::new(1);
    let name = "chunks/000001/seals.ndjson";
    let (mut lines, mut found) = (Vec::new(), 0);
    for signed in &world.all_seals[..2] {
        let mut signed = signed.clone();
        (signed.seal.sequence, signed.seal.first) = (u64::MAX, u64::MAX);
        signed.signature = tollgate_evidence::hash::to_hex(&world.signer.sign(&signed.seal.message()));
        lines.push(serde_json::to_string(&signed).unwrap() + "\n");
    }
    for content in [lines.concat(), lines[0].clone()] {
        let mut files = world.files.clone();
        *file(&mut files, name) = content.into_bytes();
        found += served(files, &world.signer).findings.iter().filter(|f| f.file == name).count();
    }
    assert!(found >= 2);
}
