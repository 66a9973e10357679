//! What `tollgate verify` was given: told by its first bytes and by the fields of its JSON.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tollgate_evidence::seal::{ConsistencyProof, InclusionProof, SignedSeal};

/// The largest JSON that is read: the file of an anchor holds about half a kilobyte a seal.
const MAX_JSON: u64 = 2 << 30;

const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

pub enum Given {
    Bundle(Box<dyn BufRead>),
    /// With how many rows of the call were not sealed yet.
    Proofs(Vec<InclusionProof>, u64),
    Consistency(Box<ConsistencyProof>),
    /// One signed seal a line.
    Seals(Vec<u8>),
    /// As it stands in the file: a signature covers it.
    Manifest(Vec<u8>),
}

pub fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

pub fn shown(path: &Path) -> String {
    if is_stdin(path) { "standard input".to_owned() } else { path.display().to_string() }
}

/// # Errors
/// When it cannot be read, or is nothing that can be checked; the text says what it is instead.
pub fn open(path: &Path) -> Result<Given> {
    let shown = shown(path);
    let cannot = || format!("cannot read {shown}");
    if !is_stdin(path) && path.is_dir() {
        bail!("{shown} is a directory: name the bundle in it, or the _manifest.json of an export job");
    }
    let mut input: Box<dyn BufRead> = if is_stdin(path) {
        Box::new(BufReader::new(io::stdin()))
    } else {
        Box::new(BufReader::new(File::open(path).with_context(cannot)?))
    };
    // A pipe may bring its first bytes one by one.
    let mut start = Vec::new();
    input.by_ref().take(512).read_to_end(&mut start).with_context(cannot)?;
    let what = |bytes: &[u8]| start.starts_with(bytes);
    if start.is_empty() {
        bail!("{shown} is empty: the download or the export that was to fill it did not come to its end");
    } else if what(ZSTD) {
        return Ok(Given::Bundle(Box::new(io::Cursor::new(start).chain(input))));
    } else if start.trim_ascii_start().starts_with(b"{") {
        let mut bytes = start;
        input.take(MAX_JSON + 1).read_to_end(&mut bytes).with_context(cannot)?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_JSON) {
            bail!("{shown} is larger than {} MiB: check it in parts (split it between lines)", MAX_JSON >> 20);
        }
        return json(&shown, bytes);
    } else if what(b"PAR1") {
        bail!(
            "{shown} is a Parquet file, which proves nothing by itself: name the _manifest.json of its export job, or take a bundle"
        );
    } else if what(&[0x1f, 0x8b]) || start.get(257..262) == Some(b"ustar") {
        bail!("{shown} is an archive, and no audit bundle: those are tar compressed with zstd; pass it as it was downloaded");
    }
    bail!(
        "{shown} is nothing that the audit trail hands out: no bundle (tar compressed with zstd) and no JSON; see tollgate verify --help"
    )
}

fn json(shown: &str, bytes: Vec<u8>) -> Result<Given> {
    let one: Result<Value, _> = serde_json::from_slice(&bytes);
    let Ok(value) = one else {
        let first = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).find(|line| !line.is_empty()).unwrap_or_default();
        return match serde_json::from_slice::<Value>(first) {
            Ok(line) if line.get("seal").is_some() && line.get("signature").is_some() => Ok(Given::Seals(bytes)),
            Ok(_) => bail!(
                "{shown} holds lines of JSON that prove nothing by themselves, such as exported rows: take a bundle, or the _manifest.json of an export job"
            ),
            // The crash that an anchor allows for may have come with its very first line.
            Err(_) if bytes.windows(9).any(|window| window == b"{\"seal\":{") => Ok(Given::Seals(bytes)),
            Err(error) => bail!("{shown} is not whole: its JSON ends or breaks off ({error})"),
        };
    };
    let has = |fields: &[&str]| fields.iter().all(|field| value.get(field).is_some());
    let as_it_should = |what: &str| format!("{shown} looks like {what}, and cannot be read as one");
    if let Some(proofs) = value.get("proofs") {
        let unsealed = value.get("unsealed").and_then(Value::as_u64).unwrap_or(0);
        return Ok(Given::Proofs(read(proofs).with_context(|| as_it_should("the proofs of a call"))?, unsealed));
    } else if has(&["line", "path", "seal"]) {
        return Ok(Given::Proofs(vec![read(&value).with_context(|| as_it_should("a proof of inclusion"))?], 0));
    } else if has(&["from", "to", "path"]) {
        return Ok(Given::Consistency(Box::new(read(&value).with_context(|| as_it_should("a proof of consistency"))?)));
    } else if has(&["job_id", "parts"]) {
        return Ok(Given::Manifest(bytes));
    } else if has(&["seal", "signature"]) {
        return Ok(Given::Seals(one_line(&value)?));
    } else if value.pointer("/items/0/seal").is_some() {
        let mut seals: Vec<SignedSeal> = read(&value["items"]).with_context(|| as_it_should("a list of seals"))?;
        seals.sort_by_key(|signed| signed.seal.sequence);
        return Ok(Given::Seals(seals.iter().map(one_line).collect::<Result<Vec<_>>>()?.concat()));
    }
    if has(&["key_id", "signature"]) {
        bail!("{shown} is the signature of a manifest: name the _manifest.json beside it");
    } else if has(&["keys"]) {
        bail!("{shown} holds public keys, which prove nothing: pass each with --key, and the bundle or the proof as the file");
    } else if has(&["status", "title"]) {
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        bail!("{shown} is an error that the API answered, not what was asked for: {} {}", text("title"), text("detail"));
    }
    bail!("{shown} is JSON, and nothing that can be checked; see tollgate verify --help")
}

fn read<T: DeserializeOwned>(value: &Value) -> Result<T> {
    Ok(serde_json::from_value(value.clone())?)
}

fn one_line(seal: &impl serde::Serialize) -> Result<Vec<u8>> {
    Ok([serde_json::to_vec(seal)?, b"\n".to_vec()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(bytes: &[u8]) -> String {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), bytes).expect("written");
        match open(file.path()) {
            Ok(Given::Bundle(_)) => "bundle".to_owned(),
            Ok(Given::Seals(lines)) => format!("{} seals", lines.iter().filter(|byte| **byte == b'\n').count()),
            Ok(Given::Manifest(_)) => "manifest".to_owned(),
            Ok(Given::Proofs(proofs, _)) => format!("{} proofs", proofs.len()),
            Ok(Given::Consistency(_)) => "consistency".to_owned(),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn what_it_was_given_is_told_and_what_it_is_not_too() {
        let seal = r#"{"seal":{"x":1},"signature":"00"}"#;
        for (bytes, expected) in [
            (b"\x28\xb5\x2f\xfdrest".to_vec(), "bundle"),
            (b"{\"proofs\":[]}".to_vec(), "0 proofs"),
            (b"  {\"job_id\":1,\"parts\":[]}\n".to_vec(), "manifest"),
            (seal.as_bytes().to_vec(), "1 seals"),
            (format!("{seal}\n{seal}\n").into_bytes(), "2 seals"),
            (format!("{{\"seal\":{{\"ten\n{seal}\n").into_bytes(), "2 seals"),
        ] {
            assert_eq!(told(&bytes), expected, "{}", String::from_utf8_lossy(&bytes));
        }
        for (bytes, part) in [
            (b"".to_vec(), "is empty"),
            (b"hello".to_vec(), "no bundle (tar compressed with zstd) and no JSON"),
            (b"PAR1....".to_vec(), "Parquet"),
            (b"\x1f\x8b\x08".to_vec(), "pass it as it was downloaded"),
            ([vec![b'a'; 257], b"ustar\x0000".to_vec()].concat(), "pass it as it was downloaded"),
            (b"{\"id\":1}\n{\"id\":2}\n".to_vec(), "prove nothing by themselves"),
            (b"{\"proofs\":[{\"li".to_vec(), "not whole"),
            (b"{\"proofs\":[{\"line\":1}]}".to_vec(), "looks like the proofs of a call"),
            (b"{\"from\":1,\"to\":2,\"path\":[]}".to_vec(), "looks like a proof of consistency"),
            (b"{\"key_id\":\"a\",\"signature\":\"b\"}".to_vec(), "name the _manifest.json beside it"),
            (b"{\"keys\":[]}".to_vec(), "pass each with --key"),
            (
                b"{\"status\":404,\"title\":\"Not found\",\"detail\":\"no call\"}".to_vec(),
                "error that the API answered, not what was asked for: Not found no call",
            ),
            (b"{\"a\":1}".to_vec(), "nothing that can be checked"),
        ] {
            let told = told(&bytes);
            assert!(told.contains(part), "{}: {told}", String::from_utf8_lossy(&bytes));
        }
        let folder = tempfile::tempdir().expect("a folder");
        let error = open(folder.path()).err().expect("no file").to_string();
        assert!(error.contains("is a directory") && error.contains("_manifest.json"), "{error}");
    }
}
