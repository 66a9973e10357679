//! `tollgate verify` with all that the trail hands out, as whoever got it has it: files, pipes, and what is broken of them.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::{Value, json};

use crate::harness::{Options, Recorder, Tenant, Tollgate, Verdict, binary, clean_command, text, until, verify};

const SOON: Duration = Duration::from_secs(30);

/// What it says of what it is given on standard input.
fn piped(bytes: &[u8], flags: &[&str]) -> Verdict {
    let mut command = clean_command(&binary("tollgate"));
    command.args(["verify", "-"]).args(flags).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("tollgate verify");
    child.stdin.take().expect("its input").write_all(bytes).expect("it reads all");
    let output = child.wait_with_output().expect("its end");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Verdict { code: output.status.code(), text }
}

struct Scene {
    tenant: Tenant,
    neighbour: String,
    call: String,
    key: String,
    anchor: PathBuf,
    lake: PathBuf,
    /// Where answers are put.
    folder: PathBuf,
}

impl Scene {
    /// What the API answers, in a file.
    async fn saved(&self, path: &str) -> PathBuf {
        let answer = self.tenant.get(path).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        self.save(&answer.text)
    }

    fn save(&self, text: &str) -> PathBuf {
        let file = self.folder.join(format!("answer-{}.json", uuid::Uuid::new_v4()));
        fs::write(&file, text).expect("a file");
        file
    }

    /// A job's folder, once it is done.
    async fn job(&self, body: Value) -> PathBuf {
        let job = self.tenant.post("audit/export-jobs", body).await.expect(201);
        let path = format!("audit/export-jobs/{}", text(&job, "id"));
        until("the job is done", SOON, async || {
            let job = self.tenant.get(&path).await.expect(200);
            assert!(job["error"].is_null(), "{job}");
            (job["state"] == "done").then_some(())
        })
        .await;
        self.lake.join(text(&job, "folder"))
    }

    #[track_caller]
    fn says(&self, file: &Path, flags: &[&str], code: i32, words: &[&str]) {
        let told = verify(file, flags);
        assert!(told.code == Some(code) && words.iter().all(|word| told.text.contains(word)), "{code} {words:?}: {told:?}");
        // The same for machines.
        let report = verify(file, &[flags, &["--json"]].concat());
        let verdict = ["sound", "unsound", "cannot_say"][usize::try_from(code).expect("small")];
        assert_eq!((report.code, report.report()["verdict"].as_str()), (Some(code), Some(verdict)), "{report:?}");
    }
}

#[tokio::test]
async fn whatever_is_handed_out_is_checked_and_what_it_is_is_told() {
    let (folder, recorder) = (tempfile::tempdir().expect("a directory"), Recorder::start());
    let at = |name: &str| folder.path().join(name);
    let (anchor, lake) = (at("heads.ndjson"), at("lake"));
    fs::create_dir_all(&lake).expect("a folder");
    let config = format!(
        "[[audit.anchor]]\nname = 'outside'\nfile = '{}'\nfrom_start = true\n[[audit.destination]]\nname = 'house'\nurl = 'file://{}'\n",
        anchor.display(),
        lake.display()
    );
    let up = Tollgate::start(Options { config, ..Options::default() }).await;
    let (tenant, neighbour) = (Tenant::new(&up, "Handed out").await, Tenant::new(&up, "Neighbour").await);
    let classic = tenant.upstream("rec", recorder.transport(), "classic").await;
    let (_, mcp) = tenant.open(&[&classic]).await;
    // Each sealed before the next is made: three seals at least.
    let mut call = String::new();
    for tag in ["one", "two", "three"] {
        let reply = mcp.call("rec__echo", json!({"tag": tag})).await;
        call = text(&tenant.call_of(&reply.request_id()).await, "id");
        until("it is sealed", SOON, async || {
            let answer = tenant.get(&format!("tool-calls/{call}/proof")).await.expect(200);
            (answer["proofs"].as_array().expect("proofs").len() == 2).then_some(())
        })
        .await;
    }
    let key = text(&tenant.get("audit/keys").await.expect(200)["keys"][0], "public_key");
    let scene = Scene { neighbour: neighbour.id, tenant, call, key, anchor, lake, folder: folder.path().to_owned() };
    documents(&scene).await;
    anchors(&scene).await;
    jobs(&scene).await;
    nothing_to_check(&scene).await;
}

async fn documents(scene: &Scene) {
    let Scene { tenant, call, key, .. } = scene;
    let keys = ["--key", key.as_str()];
    let proof = scene.saved(&format!("tool-calls/{call}/proof")).await;
    scene.says(&proof, &keys, 0, &["2 proof(s)", &format!("{call} (intent)"), "SOUND: each row stands in the log"]);
    scene.says(&proof, &[], 2, &["name the public keys with --key"]);
    scene.says(&proof, &["--key", &key[..16]], 2, &["all 64 hex digits"]);
    scene.says(&proof, &["--key", &"ab".repeat(32)], 1, &["proofs[0].seal: seal ", " is signed by ", "pass that key too"]);
    let text_of = |file: &Path| fs::read_to_string(file).expect("text");
    let edited = scene.save(&text_of(&proof).replacen("\\\"permitted\\\"", "\\\"forbidden\\\"", 1));
    scene.says(&edited, &keys, 1, &["proofs[0]", &format!("{call} (intent)"), "the line is not under the seal's root"]);
    let told = piped(text_of(&proof).as_bytes(), &keys);
    assert!(told.code == Some(0) && told.text.contains("SOUND"), "{told:?}");
    let unsealed = scene.save("{\"proofs\":[]}");
    scene.says(&unsealed, &keys, 2, &["not sealed yet", "Ask again"]);

    let consistency = scene.saved("audit/consistency?from=1").await;
    scene.says(&consistency, &keys, 0, &["at seal 1 is the beginning of itself at seal", "SOUND: nothing that was sealed"]);
    let mut proof: Value = serde_json::from_str(&text_of(&consistency)).expect("JSON");
    proof["path"] = json!([]);
    scene.says(&scene.save(&proof.to_string()), &keys, 1, &["path: ", "is not shown to be the beginning"]);
    let seals = scene.saved("audit/seals?limit=100").await;
    scene.says(&seals, &keys, 0, &["of 1 log(s)", "SOUND: each seal is signed and continues the one before"]);
    scene.says(&scene.saved("audit/seals/1").await, &keys, 0, &["1 seals of 1 log(s)"]);
    let mut listed: Value = serde_json::from_str(&text_of(&seals)).expect("JSON");
    listed["items"].as_array_mut().expect("seals").remove(1);
    scene.says(&scene.save(&listed.to_string()), &keys, 1, &["what lies between is missing"]);

    let bundle = scene.folder.join("bundle.tar.zst");
    tenant.bundle(&bundle).await;
    scene.says(&bundle, &[], 0, &["a bundle of", "SOUND: nothing was edited"]);
    let told = piped(&fs::read(&bundle).expect("bytes"), &["--key", key]);
    assert!(told.code == Some(0) && told.text.contains("standard input: a bundle of"), "{told:?}");
}

async fn anchors(scene: &Scene) {
    let Scene { tenant, call, key, anchor, .. } = scene;
    let keys = ["--key", key.as_str()];
    let newest = tenant.get("audit/seals?limit=1").await.expect(200)["items"][0]["seal"]["root"].clone();
    until("the newest seal is anchored", SOON, async || {
        fs::read_to_string(anchor).ok()?.contains(newest.as_str().expect("a root")).then_some(())
    })
    .await;
    scene.says(anchor, &keys, 0, &["SOUND: each seal is signed"]);
    let heads = fs::read_to_string(anchor).expect("text");
    let own: Vec<&str> = heads.lines().filter(|line| line.contains(&tenant.id)).collect();
    let bundle = scene.folder.join("anchored.tar.zst");
    tenant.bundle(&bundle).await;
    let proof = scene.saved(&format!("tool-calls/{call}/proof")).await;
    let beside = |file: &Path| file.display().to_string();
    let outside = beside(anchor);
    scene.says(&bundle, &["--anchor", &outside], 0, &["seals are the ones that were anchored", "SOUND"]);
    scene.says(&proof, &["--key", key, "--anchor", &outside], 0, &["SOUND"]);

    // Another root under the same number: the log is not the one that was anchored.
    let other = scene.folder.join("other.ndjson");
    let mut seal: Value = serde_json::from_str(own[0]).expect("a seal");
    seal["seal"]["root"] = json!("00".repeat(32));
    fs::write(&other, seal.to_string()).expect("a file");
    scene.says(&bundle, &["--anchor", &beside(&other)], 1, &["is not the one that was anchored: the log was rewritten"]);
    // A bucket's objects, copied into a folder, and nobody's heads.
    let objects = scene.folder.join("objects");
    fs::create_dir_all(objects.join(&tenant.id)).expect("a folder");
    for (number, line) in own.iter().enumerate() {
        fs::write(objects.join(&tenant.id).join(format!("{:012}.json", number + 1)), line).expect("an object");
    }
    scene.says(&bundle, &["--anchor", &beside(&objects)], 0, &["SOUND"]);
    let strangers = scene.save(heads.lines().find(|line| line.contains(&scene.neighbour)).expect("its first seal"));
    scene.says(&bundle, &["--anchor", &beside(&strangers)], 2, &["nothing outside vouches for it"]);
    scene.says(&bundle, &["--anchor", &beside(&scene.save("{}"))], 2, &["holds no seal"]);
}

async fn jobs(scene: &Scene) {
    let key = scene.key.as_str();
    let keys = ["--key", key];
    let folder = scene.job(json!({"destination": "house"})).await;
    let manifest = folder.join("_manifest.json");
    scene.says(&manifest, &keys, 0, &["1 of 1 files", "SOUND: the files are the ones that the job wrote"]);
    scene.says(&manifest, &[], 2, &["--key"]);
    scene.says(&folder, &keys, 2, &["is a directory", "_manifest.json"]);
    scene.says(&folder.join("part-00001.ndjson"), &keys, 2, &["prove nothing by themselves"]);
    scene.says(&folder.join("_manifest.sig"), &keys, 2, &["name the _manifest.json beside it"]);
    fs::write(folder.join("part-00002.ndjson"), "{}\n").expect("a file");
    scene.says(&manifest, &keys, 1, &["part-00002.ndjson: the manifest does not name this file"]);
    fs::remove_file(folder.join("part-00002.ndjson")).expect("gone");
    let part = folder.join("part-00001.ndjson");
    let whole = fs::read(&part).expect("bytes");
    fs::write(&part, &whole[..whole.len() - 5]).expect("a file");
    scene.says(&manifest, &keys, 1, &["part-00001.ndjson: it ends after", "0 of 1 files"]);
    fs::write(&part, [&whole[..whole.len() - 2], b" \n"].concat()).expect("a file");
    scene.says(&manifest, &keys, 1, &["part-00001.ndjson: this file is not the one"]);
    fs::remove_file(&part).expect("gone");
    scene.says(&manifest, &keys, 1, &["part-00001.ndjson: the manifest names this file, and it is missing"]);
    // Whoever drops a part, and says so in another manifest.
    let text = fs::read_to_string(&manifest).expect("text");
    let mut forged: Value = serde_json::from_str(&text).expect("JSON");
    forged["parts"] = json!([]);
    fs::write(&manifest, forged.to_string()).expect("a file");
    scene.says(&manifest, &keys, 1, &["_manifest.sig: ", "is not what was signed"]);

    let folder = scene.job(json!({"destination": "house", "format": "bundle"})).await;
    scene.says(&folder.join("_manifest.json"), &keys, 0, &["bundle of", "verify that too"]);
    scene.says(&folder.join("bundle.tar.zst"), &keys, 0, &["SOUND: nothing was edited"]);
}

async fn nothing_to_check(scene: &Scene) {
    scene.says(&scene.save(""), &[], 2, &["is empty"]);
    scene.says(&scene.folder.join("nowhere"), &[], 2, &["cannot read", "No such file"]);
    let refused = scene.tenant.get("tool-calls/call_00000000000000000000000000/proof").await;
    assert_eq!(refused.status, 404);
    scene.says(&scene.save(&refused.text), &[], 2, &["error that the API answered"]);
    let help = clean_command(&binary("tollgate")).args(["verify", "--help"]).output().expect("help");
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    for words in ["Exit status", "0  sound", "1  not sound", "2  cannot say"] {
        assert!(help.contains(words), "{help}");
    }
}
