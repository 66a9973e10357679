//! Anchors: every seal of every log goes where the database's owner cannot change it, in order and none left out, as the JSON of
//! [`SignedSeal`]. Each names the hash of the one before and the root of the tree over all so far, so that with any one of them
//! in hand a log that was rewritten, however well it is signed again, is no longer its continuation.

use std::{
    fmt, fs,
    io::{self, Read, Seek, SeekFrom, Write},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use object_store::{
    ClientOptions, Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, RetryConfig, aws::AmazonS3Builder,
    local::LocalFileSystem, path::Path,
};
use reqwest::{Client, Url, header};
use tokio::time::{Instant, timeout};
use tollgate_boot::config;
use tollgate_domain::TenantId;
use tollgate_evidence::seal::SignedSeal;
use tollgate_store::{StoreError, seals};

use super::{Failure, Follower, Step, webhook};

/// Seals of one step.
const SEALS: i64 = 256;
/// Of one step, whatever its deliveries take: well within a lease.
const STEP: Duration = Duration::from_secs(20);

pub struct Anchor {
    place: Place,
    patience: Duration,
}

enum Place {
    /// Behind a lock: tenants take turns, so that a line is never inside another.
    File(Arc<Mutex<PathBuf>>),
    Url(Client, Url),
    Bucket(Arc<dyn ObjectStore>, Path),
}

impl fmt::Debug for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Anchor")
    }
}

impl Anchor {
    /// # Errors
    /// When it cannot work as configured.
    pub fn new(config: &config::Anchor, client: &Client, patience: Duration) -> anyhow::Result<Self> {
        let place = match (&config.file, &config.url, &config.bucket) {
            (Some(file), ..) => Place::File(Arc::new(Mutex::new(file.clone()))),
            (None, Some(url), _) => Place::Url(client.clone(), Url::parse(url.reveal())?),
            (None, None, Some(bucket)) => {
                let (store, prefix) = open(bucket, patience).with_context(|| format!("audit anchor {:?}", config.name))?;
                Place::Bucket(store, prefix)
            }
            _ => anyhow::bail!("audit anchor {:?} goes nowhere", config.name),
        };
        Ok(Self { place, patience })
    }

    /// Deliver the seals that come next; `None` when there are none.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn step(&self, follower: &Follower, tenant: TenantId, from: u64) -> Result<Option<Step>, StoreError> {
        let next = {
            let _permit = follower.reads.acquire().await;
            let mut tx = follower.app.store.tenant_snapshot(tenant).await?;
            match seals::at_position(&mut tx, tenant, from).await? {
                Some(first) => seals::from(&mut tx, tenant, first.seal.sequence, SEALS).await?,
                None => return Ok(None),
            }
        };
        let (mut position, mut failure) = (from, None);
        if let Place::File(path) = &self.place {
            match append(path, &next).await {
                Ok(()) => position = next.last().map_or(from, |last| last.seal.end()),
                Err(error) => failure = Some(Failure::new("the file cannot be written", error)),
            }
            return Ok(Some(Step { position, failure }));
        }
        let until = Instant::now() + STEP;
        for signed in next {
            if let Err(error) = self.put(&signed).await {
                failure = Some(error);
                break;
            }
            position = signed.seal.end();
            if Instant::now() > until {
                break;
            }
        }
        Ok(Some(Step { position, failure }))
    }

    async fn put(&self, signed: &SignedSeal) -> Result<(), Failure> {
        let body = json(signed);
        match &self.place {
            // Written all at once, above.
            Place::File(_) => Ok(()),
            Place::Url(client, url) => {
                webhook::deliver(client.post(url.clone()).header(header::CONTENT_TYPE, "application/json").body(body)).await
            }
            Place::Bucket(store, prefix) => {
                let late = |elapsed| Failure::new("the object store did not answer in time", elapsed);
                timeout(self.patience, create(&**store, &object(prefix, signed), body)).await.map_err(late)?
            }
        }
    }
}

fn json(signed: &SignedSeal) -> Vec<u8> {
    // Text keys, integers and strings: it cannot fail.
    serde_json::to_vec(signed).unwrap_or_default()
}

/// One line a seal, on the disk when this returns.
async fn append(path: &Arc<Mutex<PathBuf>>, seals: &[SignedSeal]) -> io::Result<()> {
    let mut lines = Vec::new();
    for signed in seals {
        lines.extend(json(signed));
        lines.push(b'\n');
    }
    let path = Arc::clone(path);
    let write = move || {
        let path = path.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = fs::OpenOptions::new().read(true).append(true).create(true).open(&*path)?;
        // A crash may have left half a line, and the seal comes again: it gets a line of its own.
        if file.metadata()?.len() > 0 {
            file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                lines.insert(0, b'\n');
            }
        }
        file.write_all(&lines)?;
        file.sync_all()
    };
    tokio::task::spawn_blocking(write).await?
}

/// `<prefix>/<tenant>/<sequence>.json`, in the order of their names.
fn object(prefix: &Path, signed: &SignedSeal) -> Path {
    let name = format!("{:012}.json", signed.seal.sequence);
    prefix.clone().join(signed.seal.tenant_id.to_string()).join(name)
}

/// Create the object. One that is there already must be the same: another seal under its name means that the log, or the anchor, is
/// not what it was.
async fn create(store: &dyn ObjectStore, at: &Path, body: Vec<u8>) -> Result<(), Failure> {
    let failed = |error: Error| Failure::new("the object store did not take it", error);
    let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    match store.put_opts(at, body.clone().into(), create).await {
        Ok(_) => Ok(()),
        Err(Error::AlreadyExists { .. }) => compare(store, at, &body).await.map(drop),
        // A store that cannot create only: look first.
        Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => {
            if !compare(store, at, &body).await? {
                store.put(at, body.into()).await.map_err(failed)?;
            }
            Ok(())
        }
        Err(error) => Err(failed(error)),
    }
}

/// Whether the object is there.
async fn compare(store: &dyn ObjectStore, at: &Path, body: &[u8]) -> Result<bool, Failure> {
    let failed = |error: Error| Failure::new("the object store did not answer", error);
    let there = match store.get(at).await {
        Ok(found) => found.bytes().await.map_err(failed)?,
        Err(Error::NotFound { .. }) => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    if there == body {
        return Ok(true);
    }
    let shown = "the anchor holds another seal under the same number: the log or the anchor was rewritten";
    Err(Failure::new(shown, at))
}

fn open(bucket: &config::Bucket, patience: Duration) -> anyhow::Result<(Arc<dyn ObjectStore>, Path)> {
    if let Some(folder) = bucket.url.strip_prefix("file://") {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {folder}"))?;
        return Ok((Arc::new(LocalFileSystem::new_with_prefix(folder)?.with_fsync(true)), Path::default()));
    }
    let name = bucket.url.strip_prefix("s3://").context("`bucket.url` must be s3://BUCKET/PREFIX or file:///FOLDER")?;
    let (name, prefix) = name.split_once('/').unwrap_or((name, ""));
    // Tried again by the follower, which knows how.
    let retry = RetryConfig { max_retries: 0, retry_timeout: patience, ..RetryConfig::default() };
    let options = ClientOptions::new().with_timeout(patience).with_allow_http(bucket.allow_http || loopback(bucket));
    let mut builder = AmazonS3Builder::new().with_bucket_name(name).with_client_options(options).with_retry(retry);
    if let Some(endpoint) = &bucket.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = &bucket.region {
        builder = builder.with_region(region);
    }
    if let (Some(id), Some(secret)) = (&bucket.access_key_id, &bucket.secret_access_key) {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret.reveal());
    }
    Ok((Arc::new(builder.build()?), Path::parse(prefix.trim_end_matches('/'))?))
}

/// The settings have been checked: plain http without `allow_http` is on this machine.
fn loopback(bucket: &config::Bucket) -> bool {
    bucket.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"))
}

#[cfg(test)]
mod tests {
    use axum::{
        Router,
        extract::State,
        http::{HeaderMap, StatusCode, Uri},
        response::IntoResponse,
        routing,
    };
    use bytes::Bytes;
    use object_store::memory::InMemory;
    use tollgate_evidence::{Hash, seal::Seal};

    use super::*;
    use crate::audit::formats::fixtures::{opened, tenant};

    fn seal(root: u8) -> SignedSeal {
        let seal = Seal {
            tenant_id: tenant(),
            sequence: 3,
            first: 7,
            count: 2,
            root: Hash([root; 32]),
            previous: Hash::ZERO,
            sealed_at: opened(),
            tree: Hash::ZERO,
            key_id: "k".into(),
        };
        SignedSeal { seal, signature: "00".into() }
    }

    #[tokio::test]
    async fn a_seal_may_come_twice_and_another_in_its_place_may_not() {
        let store = InMemory::new();
        let at = object(&Path::from("a/b"), &seal(1));
        assert_eq!(at.to_string(), format!("a/b/{}/000000000003.json", tenant()));
        create(&store, &at, json(&seal(1))).await.unwrap();
        create(&store, &at, json(&seal(1))).await.unwrap();
        let refused = create(&store, &at, json(&seal(2))).await.unwrap_err();
        assert!(refused.shown.contains("was rewritten"), "{refused:?}");
        let kept = store.get(&at).await.unwrap().bytes().await.unwrap();
        assert_eq!(serde_json::from_slice::<SignedSeal>(&kept).unwrap(), seal(1));
    }

    /// What of S3 an anchor needs, as its documentation says it: `If-None-Match: *` on PUT answers 412 where the object is.
    async fn s3() -> (String, Objects) {
        let objects = Objects::default();
        let put = async |State(objects): State<Objects>, uri: Uri, headers: HeaderMap, body: Bytes| {
            let mut objects = objects.lock().unwrap();
            assert!(headers["authorization"].to_str().unwrap().contains("Credential=key-id/"), "signed");
            if headers.get("if-none-match").is_some_and(|value| value == "*") && objects.contains_key(uri.path()) {
                return StatusCode::PRECONDITION_FAILED.into_response();
            }
            objects.insert(uri.path().to_owned(), body);
            [("etag", "\"1\"")].into_response()
        };
        let get = async |State(objects): State<Objects>, uri: Uri| match objects.lock().unwrap().get(uri.path()) {
            Some(body) => ([("etag", "\"1\""), ("last-modified", "Tue, 14 Nov 2023 22:13:20 GMT")], body.clone()).into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/{*path}", routing::put(put).get(get)).with_state(objects.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (format!("http://{address}"), objects)
    }

    type Objects = Arc<Mutex<std::collections::BTreeMap<String, Bytes>>>;

    #[tokio::test]
    async fn a_seal_in_s3_is_created_and_never_replaced() {
        let (endpoint, objects) = s3().await;
        let bucket = config::Bucket {
            url: "s3://heads/of/logs/".into(),
            endpoint: Some(endpoint),
            region: Some("eu-west-1".into()),
            access_key_id: Some("key-id".into()),
            secret_access_key: Some("secret".into()),
            allow_http: false,
        };
        let (store, prefix) = open(&bucket, Duration::from_secs(5)).unwrap();
        let at = object(&prefix, &seal(1));
        create(&*store, &at, json(&seal(1))).await.unwrap();
        create(&*store, &at, json(&seal(1))).await.unwrap();
        let refused = create(&*store, &at, json(&seal(2))).await.unwrap_err();
        assert!(refused.shown.contains("was rewritten"), "{refused:?}");
        let there = objects.lock().unwrap().clone();
        let name = format!("/heads/of/logs/{}/000000000003.json", tenant());
        assert_eq!(there.into_iter().collect::<Vec<_>>(), [(name, Bytes::from(json(&seal(1))))]);
    }

    #[tokio::test]
    async fn half_a_line_does_not_spoil_the_next() {
        let folder = std::env::temp_dir().join(format!("tollgate-anchor-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("heads.ndjson");
        fs::write(&file, "{\"seal\":{\"ten").unwrap();
        let path = Arc::new(Mutex::new(file.clone()));
        append(&path, &[seal(1)]).await.unwrap();
        append(&path, &[seal(2), seal(3)]).await.unwrap();
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines.len(), text.ends_with('\n')), (4, true), "{text}");
        for (line, root) in lines[1..].iter().zip(1..) {
            assert_eq!(serde_json::from_str::<SignedSeal>(line).unwrap(), seal(root));
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
