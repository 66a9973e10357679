//! What an export is written in: chunks of tool calls go in, the bytes of one file come out.
//!
//! Nothing here knows HTTP: whoever takes the bytes, a client or an object store, drives the same encoders. None holds more
//! than the rows that it needs for its next bytes, however long the export is.

pub mod csv;
mod ndjson;
mod ocsf;
pub mod parquet;
mod requests;

#[cfg(test)]
pub mod fixtures;

use bytes::Bytes;
use futures::{Stream, stream};
use tokio::sync::mpsc;
use tollgate_domain::TenantId;
use tollgate_store::{
    StoreError,
    calls::ToolCall,
    export::{Chunk, Exported, Rows},
    requests::LlmRequest,
};

use crate::{
    check::Checks,
    problem::{Kind, Problem, Stop},
};

const FORMATS: &str = "A format is \"ndjson\", \"csv\", \"parquet\", \"ocsf\" or \"bundle\".";
const NO_BUNDLE: &str = "A bundle is made of whole seals and not of rows; use \"ndjson\", \"csv\", \"parquet\" or \"ocsf\" here.";

/// The fields of a row, in the order of every format that has an order. New ones come at the end: readers of files count.
pub const COLUMNS: [&str; 31] = [
    "id",
    "llm_request_id",
    "script_run_id",
    "sequence",
    "origin",
    "key_id",
    "team_id",
    "upstream_id",
    "upstream_name",
    "tool_id",
    "tool_name",
    "definition_sha256",
    "decision",
    "reason",
    "outcome",
    "arguments",
    "arguments_form",
    "result",
    "result_form",
    "error",
    "opened_at",
    "closed_at",
    "latency_us",
    "price_id",
    "amount",
    "currency",
    "tenant_id",
    "unit",
    "unit_amount",
    "tier",
    "call_number",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Ndjson,
    Csv,
    Parquet,
    Ocsf,
}

/// What a file is of: one kind of row, since each has its own fields.
///
/// # Errors
/// 422 for a filter that speaks of calls alone, and for what OCSF has no class for.
pub fn check_rows(checks: &mut Checks, (rows, at): (Rows, &str), format: Option<Format>, of_tools: bool) {
    checks.require(rows != Rows::All, at, "a file has one kind of rows: \"tool_calls\" or \"llm_requests\"");
    let requests = rows == Rows::LlmRequests;
    checks.require(
        !(requests && format == Some(Format::Ocsf)),
        at,
        "OCSF is of tool calls: use another format for requests to models",
    );
    checks.require(!(requests && of_tools), at, "requests to models have no tool and no upstream: leave those filters out");
}

impl Format {
    pub const ALL: [Self; 4] = [Self::Ndjson, Self::Csv, Self::Parquet, Self::Ocsf];

    /// The format that a query names, NDJSON where it names none.
    ///
    /// # Errors
    /// 422, with the names that there are.
    pub fn parse(name: Option<&str>) -> Result<Self, Problem> {
        let Some(name) = name else { return Ok(Self::Ndjson) };
        match name {
            // An archive of files around the rows, and no encoding of rows: it has no encoder among these.
            "bundle" => Err(Problem::because(Kind::UnsupportedFormat, NO_BUNDLE)),
            _ => Self::ALL
                .into_iter()
                .find(|format| format.name() == name)
                .ok_or_else(|| Problem::because(Kind::UnsupportedFormat, FORMATS)),
        }
    }

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
            Self::Ocsf => "ocsf",
        }
    }

    /// How the names of its files end.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
            Self::Ocsf => "ocsf.ndjson",
        }
    }

    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Ndjson | Self::Ocsf => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Parquet => "application/vnd.apache.parquet",
        }
    }

    /// For one file about one tenant.
    ///
    /// # Errors
    /// When a file of this format cannot be begun: a defect of ours.
    pub fn encoder(self, tenant: TenantId) -> Result<Box<dyn Encoder>, Unwritable> {
        let tenant = tenant.to_string();
        Ok(match self {
            Self::Ndjson => Box::new(ndjson::Lines::new(tenant)),
            Self::Csv => Box::new(csv::Table::new(tenant)),
            Self::Parquet => Box::new(parquet::Columns::<crate::tool_calls::ToolCall>::new(tenant)?),
            Self::Ocsf => Box::new(ocsf::Events::new(tenant)),
        })
    }
}

/// A kind of row that every format (but for OCSF, which has no requests to models) writes.
pub trait Record: Exported {
    /// For one file about one tenant.
    ///
    /// # Errors
    /// When a file of this format cannot be begun: a defect of ours.
    fn encoder(format: Format, tenant: TenantId) -> Result<Box<dyn Encoder<Self>>, Unwritable>;
}

impl Record for ToolCall {
    fn encoder(format: Format, tenant: TenantId) -> Result<Box<dyn Encoder>, Unwritable> {
        format.encoder(tenant)
    }
}

impl Record for LlmRequest {
    fn encoder(format: Format, tenant: TenantId) -> Result<Box<dyn Encoder<Self>>, Unwritable> {
        let tenant = tenant.to_string();
        Ok(match format {
            Format::Ndjson => Box::new(requests::Lines::new(tenant)),
            Format::Csv => Box::new(requests::Table::new(tenant)),
            Format::Parquet => Box::new(parquet::Columns::<requests::Row>::new(tenant)?),
            // Refused where it is asked for.
            Format::Ocsf => return Err(Unwritable::Kind),
        })
    }
}

/// Makes one file: `begin`, then `push` for every chunk, then `finish`. The file is what they return, one after the other;
/// any of them may return nothing. A file that was not finished is not whole.
pub trait Encoder<R = ToolCall>: Send {
    /// # Errors
    /// When the bytes cannot be made. What has been returned so far is to be thrown away then; so it is below.
    fn begin(&mut self) -> Result<Bytes, Unwritable> {
        Ok(Bytes::new())
    }

    /// # Errors
    /// See [`Encoder::begin`].
    fn push(&mut self, rows: Vec<R>) -> Result<Bytes, Unwritable>;

    /// # Errors
    /// See [`Encoder::begin`].
    fn finish(&mut self) -> Result<Bytes, Unwritable> {
        Ok(Bytes::new())
    }
}

/// Rows that do not fit their format. Every row does: this is a defect of ours.
#[derive(Debug, thiserror::Error)]
pub enum Unwritable {
    #[error("of this kind in this format")]
    Kind,
    #[error("as CSV: {0}")]
    Csv(String),
    #[error("as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("as Parquet: {0}")]
    Parquet(#[from] ::parquet::errors::ParquetError),
    #[error("into memory: {0}")]
    Memory(#[from] std::io::Error),
}

impl From<Unwritable> for Stop {
    fn from(error: Unwritable) -> Self {
        Problem::internal(&error).into()
    }
}

/// Why a file was broken off.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("its reader in the store ended early, or what it is written to took nothing for too long")]
    Cut,
    #[error("the store failed: {0}")]
    Store(#[from] StoreError),
    #[error("rows could not be written {0}")]
    Rows(#[from] Unwritable),
    #[error("its encoder was lost: {0}")]
    Lost(#[from] tokio::task::JoinError),
}

/// The bytes of the file that `encoder` makes of `chunks`. It ends only after the store has said that everything was sent;
/// whatever else ends the chunks is an error, and the last thing that comes.
pub fn file<R: Send + 'static>(
    chunks: mpsc::Receiver<Chunk<R>>,
    encoder: Box<dyn Encoder<R>>,
) -> impl Stream<Item = Result<Bytes, Broken>> + Send {
    stream::try_unfold(Writing { chunks, encoder, place: Place::Begin }, Writing::next)
}

struct Writing<R> {
    chunks: mpsc::Receiver<Chunk<R>>,
    encoder: Box<dyn Encoder<R>>,
    place: Place,
}

#[derive(Clone, Copy)]
enum Place {
    Begin,
    Rows,
    Over,
}

impl<R: Send + 'static> Writing<R> {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, Broken> {
        loop {
            let bytes;
            (bytes, self) = match self.place {
                Place::Begin => self.step(Place::Rows, |encoder| encoder.begin()).await?,
                Place::Rows => match self.chunks.recv().await.ok_or(Broken::Cut)?? {
                    calls if calls.is_empty() => self.step(Place::Over, |encoder| encoder.finish()).await?,
                    calls => self.step(Place::Rows, |encoder| encoder.push(calls)).await?,
                },
                Place::Over => return Ok(None),
            };
            if !bytes.is_empty() {
                return Ok(Some((bytes, self)));
            }
        }
    }

    /// Compressing a row group takes longer than a thread that serves others may be held.
    async fn step(
        self,
        place: Place,
        work: impl FnOnce(&mut dyn Encoder<R>) -> Result<Bytes, Unwritable> + Send + 'static,
    ) -> Result<(Bytes, Self), Broken> {
        let Self { chunks, mut encoder, .. } = self;
        let done = tokio::task::spawn_blocking(move || work(encoder.as_mut()).map(|bytes| (bytes, encoder)));
        let (bytes, encoder) = done.await??;
        Ok((bytes, Self { chunks, encoder, place }))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        fixtures::{bare, full, tenant, written},
        *,
    };
    use futures::StreamExt;

    async fn collect(chunks: Vec<Chunk>, format: Format) -> Result<Vec<u8>, Broken> {
        let (out, rest) = mpsc::channel(chunks.len().max(1));
        for chunk in chunks {
            out.send(chunk).await.unwrap();
        }
        drop(out);
        let parts: Vec<Result<Bytes, Broken>> = file(rest, format.encoder(tenant()).unwrap()).collect().await;
        Ok(parts.into_iter().collect::<Result<Vec<Bytes>, Broken>>()?.concat())
    }

    #[tokio::test]
    async fn an_export_that_is_not_whole_does_not_end_in_order() {
        for format in Format::ALL {
            let cut = |chunks| collect(chunks, format);
            assert!(matches!(cut(vec![]).await, Err(Broken::Cut)), "{format:?}");
            assert!(matches!(cut(vec![Ok(vec![bare(1)])]).await, Err(Broken::Cut)), "{format:?}");
            let failed = cut(vec![Ok(vec![bare(1)]), Err(StoreError::NotFound)]).await;
            assert!(matches!(failed, Err(Broken::Store(StoreError::NotFound))), "{format:?}");
        }
        assert_eq!(collect(vec![Ok(vec![])], Format::Ndjson).await.unwrap(), b"", "nothing to export is whole");
    }

    #[tokio::test]
    async fn a_stream_is_what_the_encoder_writes() {
        for format in Format::ALL {
            let streamed = collect(vec![Ok(vec![full(1)]), Ok(vec![bare(2)]), Ok(vec![])], format).await.unwrap();
            assert_eq!(streamed, written(format, vec![vec![full(1)], vec![bare(2)]]), "{format:?}");
        }
    }

    #[test]
    fn names_are_read_and_everything_else_is_told_them() {
        assert_eq!(Format::parse(None).unwrap(), Format::Ndjson);
        for format in Format::ALL {
            assert_eq!(Format::parse(Some(format.name())).unwrap(), format);
        }
        for other in ["", "NDJSON", "xlsx", "bundle"] {
            assert_eq!(Format::parse(Some(other)).unwrap_err().kind(), Kind::UnsupportedFormat, "{other}");
        }
    }
}
