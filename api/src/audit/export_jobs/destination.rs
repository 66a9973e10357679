//! Where a job writes: a folder or a bucket that the operator's file names (T56: no request names one), below it a folder of the
//! tenant's own.

use std::sync::Arc;

use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt, aws::AmazonS3Builder, buffered::BufWriter, local::LocalFileSystem, path::Path};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tollgate_boot::config::{Destination, Hidden, Place};

/// Bytes that are sent at a time, and how many such pieces may be on their way: what a job holds of a part.
const PIECE: usize = 8 << 20;
const PIECES: usize = 2;

/// A folder to write files into.
#[derive(Debug, Clone)]
pub struct Folder {
    store: Arc<dyn ObjectStore>,
    path: Path,
}

/// One file on its way. It is there once it is finished, and not before.
#[derive(Debug)]
pub struct File {
    writer: BufWriter,
    sha256: Sha256,
    bytes: i64,
}

/// What a file turned out to be.
#[derive(Debug)]
pub struct Written {
    pub bytes: i64,
    pub sha256: Vec<u8>,
}

/// For the log alone: it may name addresses of the operator's network.
#[derive(Debug, thiserror::Error)]
pub enum Unwritable {
    #[error("the destination: {0}")]
    Store(#[from] object_store::Error),
    #[error("the destination: {0}")]
    Io(#[from] std::io::Error),
    #[error("the destination's url is of no known kind")]
    Url,
    #[error("not a path: {0}")]
    Path(#[from] object_store::path::Error),
}

impl Folder {
    /// # Errors
    /// When the destination is no longer what its configuration says; nothing is created but folders below it.
    pub fn open(destination: &Destination, folder: &str) -> Result<Self, Unwritable> {
        let (store, prefix): (Arc<dyn ObjectStore>, &str) = match destination.place().ok_or(Unwritable::Url)? {
            Place::Folder(root) => (Arc::new(LocalFileSystem::new_with_prefix(root)?.with_fsync(true)), ""),
            Place::Bucket { name, prefix } => (Arc::new(bucket(destination, name)?), prefix),
        };
        let path = if prefix.is_empty() { Path::parse(folder)? } else { Path::parse(format!("{prefix}/{folder}"))? };
        Ok(Self { store, path })
    }

    /// Begin a file; one of the same name is replaced when this one is finished.
    #[must_use]
    pub fn create(&self, name: &str) -> File {
        let writer = BufWriter::with_capacity(Arc::clone(&self.store), self.path.clone().join(name), PIECE);
        File { writer: writer.with_max_concurrency(PIECES), sha256: Sha256::new(), bytes: 0 }
    }

    /// Write a small file at once.
    ///
    /// # Errors
    /// When the destination does not take it.
    pub async fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), Unwritable> {
        self.store.put(&self.path.clone().join(name), bytes.into()).await?;
        Ok(())
    }
}

impl File {
    /// # Errors
    /// When the destination does not take them.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), Unwritable> {
        self.sha256.update(&bytes);
        self.bytes += i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        Ok(self.writer.put(bytes).await?)
    }

    /// Bytes so far.
    #[must_use]
    pub const fn bytes(&self) -> i64 {
        self.bytes
    }

    /// # Errors
    /// When the destination does not take it; the file is not there then.
    pub async fn finish(mut self) -> Result<Written, Unwritable> {
        self.writer.shutdown().await?;
        Ok(Written { bytes: self.bytes, sha256: self.sha256.finalize().to_vec() })
    }

    /// Leave nothing behind, as far as the destination allows.
    pub async fn abandon(mut self) {
        if let Err(error) = self.writer.abort().await {
            tracing::debug!(%error, "a half-written part was not tidied up");
        }
    }
}

fn bucket(destination: &Destination, name: &str) -> Result<impl ObjectStore + use<>, object_store::Error> {
    let Destination { endpoint, region, access_key_id, secret_access_key, allow_http, .. } = destination;
    let mut builder = AmazonS3Builder::new().with_bucket_name(name).with_allow_http(*allow_http);
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = region {
        builder = builder.with_region(region);
    }
    if let Some((id, secret)) = access_key_id.as_ref().zip(secret_access_key.as_ref().map(Hidden::reveal)) {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret);
    }
    builder.build()
}
