//! Requests to models: the fields that `GET /llm-requests` shows, and the tenant's id. A request that was made for MCP calls and not
//! forwarded has the first few of them alone.

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use parquet::data_type::ByteArray;
use serde::Serialize;
use serde_json::value::RawValue;
use tollgate_store::requests;

use super::{
    Encoder, Unwritable,
    csv::Rows,
    ndjson::line,
    parquet::{Amount, Column, Columnar, Int32, Int64, Json, OPTIONAL, REQUIRED, Tenant, Text, Time, Word, column, shown, taken},
};
use crate::llm_requests::{Forward, LlmRequest};

/// In the order of every format that has an order. New ones come at the end: readers of files count.
pub const COLUMNS: [&str; 36] = [
    "id",
    "key_id",
    "team_id",
    "origin",
    "method",
    "model",
    "client",
    "at",
    "prompt_tokens_avoided",
    "root_id",
    "turn",
    "mode",
    "streaming",
    "reason",
    "tools_offered",
    "tools_tokens",
    "outcome",
    "error",
    "closed_at",
    "provider_id",
    "provider",
    "model_served",
    "attempts",
    "usage",
    "input_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "price",
    "amount",
    "currency",
    "latency_us",
    "first_token_us",
    "finish_reason",
    "tenant_id",
];

/// One JSON object a line.
pub struct Lines {
    tenant: String,
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    request: LlmRequest,
    tenant_id: &'a str,
}

impl Lines {
    #[must_use]
    pub const fn new(tenant: String) -> Self {
        Self { tenant }
    }
}

impl Encoder<requests::LlmRequest> for Lines {
    fn push(&mut self, rows: Vec<requests::LlmRequest>) -> Result<Bytes, Unwritable> {
        let mut lines = Vec::new();
        for row in rows {
            line(&mut lines, &Line { request: row.into(), tenant_id: &self.tenant })?;
        }
        Ok(lines.into())
    }
}

/// CSV: a header, then [`COLUMNS`]; attempts are JSON text.
pub struct Table {
    tenant: String,
}

impl Table {
    #[must_use]
    pub const fn new(tenant: String) -> Self {
        Self { tenant }
    }
}

impl Encoder<requests::LlmRequest> for Table {
    fn begin(&mut self) -> Result<Bytes, Unwritable> {
        Ok(Rows::new(&COLUMNS)?.finish()?.into())
    }

    fn push(&mut self, rows: Vec<requests::LlmRequest>) -> Result<Bytes, Unwritable> {
        let mut lines = Rows::more();
        for row in rows {
            lines.push(cells(row.into(), &self.tenant))?;
        }
        Ok(lines.finish()?.into())
    }
}

fn text<T: ToString>(value: Option<T>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// In the order of [`COLUMNS`].
fn cells(row: LlmRequest, tenant: &str) -> [String; COLUMNS.len()] {
    let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    let forward = row.forward.as_ref();
    let of = |get: fn(&Forward) -> String| forward.map(get).unwrap_or_default();
    [
        row.id.to_string(),
        row.key_id.to_string(),
        text(row.team_id),
        row.origin.to_string(),
        row.method,
        text(row.model),
        text(row.client),
        time(row.at),
        text(row.prompt_tokens_avoided),
        of(|f| f.root_id.to_string()),
        of(|f| f.turn.to_string()),
        of(|f| f.mode.to_string()),
        of(|f| f.streaming.to_string()),
        of(|f| text(f.reason.as_ref())),
        of(|f| f.tools_offered.to_string()),
        of(|f| f.tools_tokens.to_string()),
        of(|f| text(f.outcome.as_ref())),
        of(|f| text(f.error.as_ref())),
        text(forward.and_then(|f| f.closed_at).map(time)),
        of(|f| text(f.provider_id)),
        of(|f| text(f.provider.as_ref())),
        of(|f| text(f.model_served.as_ref())),
        of(|f| f.attempts.to_string()),
        of(|f| text(f.usage)),
        of(|f| f.input_tokens.to_string()),
        of(|f| f.cached_tokens.to_string()),
        of(|f| f.cache_write_tokens.to_string()),
        of(|f| f.output_tokens.to_string()),
        of(|f| f.reasoning_tokens.to_string()),
        of(|f| text(f.price.as_ref())),
        of(|f| text(f.amount)),
        of(|f| f.currency.to_string()),
        of(|f| text(f.latency_us)),
        of(|f| text(f.first_token_us)),
        of(|f| text(f.finish_reason.as_ref())),
        tenant.to_owned(),
    ]
}

/// A row on its way into columns.
pub struct Row(LlmRequest);

impl From<requests::LlmRequest> for Row {
    fn from(row: requests::LlmRequest) -> Self {
        Self(row.into())
    }
}

impl Row {
    fn of<T>(&self, get: impl FnOnce(&Forward) -> Option<T>) -> Option<T> {
        self.0.forward.as_ref().and_then(get)
    }

    fn take(&mut self, get: fn(&mut Forward) -> &mut Option<String>) -> Option<ByteArray> {
        self.0.forward.as_mut().and_then(|forward| taken(get(forward)))
    }

    fn tokens(&self, get: fn(&Forward) -> u64) -> Option<i64> {
        self.of(|forward| i64::try_from(get(forward)).ok())
    }
}

/// What a row takes without its texts of unknown length.
const ROW_BYTES: usize = 1024;

impl Columnar for Row {
    type Stored = requests::LlmRequest;

    const NAME: &'static str = "llm_request";
    const SCHEMA: &'static [Column<Self>] = &SCHEMA;

    fn bytes(&self) -> usize {
        ROW_BYTES + self.of(|f| f.error.as_ref().map(String::len)).unwrap_or(0)
    }
}

/// In the order of [`COLUMNS`].
const SCHEMA: [Column<Row>; COLUMNS.len()] = [
    column("id", REQUIRED, Text(|row| shown(Some(row.0.id)))),
    column("key_id", REQUIRED, Word(|row| shown(Some(row.0.key_id)))),
    column("team_id", OPTIONAL, Word(|row| shown(row.0.team_id))),
    column("origin", REQUIRED, Word(|row| shown(Some(row.0.origin)))),
    column("method", REQUIRED, Word(|row| shown(Some(&row.0.method)))),
    column("model", OPTIONAL, Word(|row| taken(&mut row.0.model))),
    column("client", OPTIONAL, Word(|row| taken(&mut row.0.client))),
    column("at", REQUIRED, Time(|row| Some(row.0.at))),
    column("prompt_tokens_avoided", OPTIONAL, Int64(|row| row.0.prompt_tokens_avoided)),
    column("root_id", OPTIONAL, Word(|row| row.of(|f| shown(Some(f.root_id))))),
    column("turn", OPTIONAL, Int32(|row| row.of(|f| Some(f.turn)))),
    column("mode", OPTIONAL, Word(|row| row.of(|f| shown(Some(f.mode))))),
    column("streaming", OPTIONAL, Word(|row| row.of(|f| shown(Some(f.streaming))))),
    column("reason", OPTIONAL, Word(|row| row.take(|f| &mut f.reason))),
    column("tools_offered", OPTIONAL, Int32(|row| row.of(|f| Some(f.tools_offered)))),
    column("tools_tokens", OPTIONAL, Int64(|row| row.of(|f| Some(f.tools_tokens)))),
    column("outcome", OPTIONAL, Word(|row| row.take(|f| &mut f.outcome))),
    column("error", OPTIONAL, Text(|row| row.take(|f| &mut f.error))),
    column("closed_at", OPTIONAL, Time(|row| row.of(|f| f.closed_at))),
    column("provider_id", OPTIONAL, Word(|row| row.of(|f| shown(f.provider_id)))),
    column("provider", OPTIONAL, Word(|row| row.take(|f| &mut f.provider))),
    column("model_served", OPTIONAL, Word(|row| row.take(|f| &mut f.model_served))),
    column("attempts", OPTIONAL, Json(|row| row.of(|f| RawValue::from_string(f.attempts.to_string()).ok()))),
    column("usage", OPTIONAL, Word(|row| row.of(|f| shown(f.usage)))),
    column("input_tokens", OPTIONAL, Int64(|row| row.tokens(|f| f.input_tokens))),
    column("cached_tokens", OPTIONAL, Int64(|row| row.tokens(|f| f.cached_tokens))),
    column("cache_write_tokens", OPTIONAL, Int64(|row| row.tokens(|f| f.cache_write_tokens))),
    column("output_tokens", OPTIONAL, Int64(|row| row.tokens(|f| f.output_tokens))),
    column("reasoning_tokens", OPTIONAL, Int64(|row| row.tokens(|f| f.reasoning_tokens))),
    column("price", OPTIONAL, Word(|row| row.take(|f| &mut f.price))),
    column("amount", OPTIONAL, Amount(|row| row.of(|f| f.amount))),
    column("currency", OPTIONAL, Word(|row| row.of(|f| shown(Some(f.currency))))),
    column("latency_us", OPTIONAL, Int64(|row| row.of(|f| f.latency_us))),
    column("first_token_us", OPTIONAL, Int64(|row| row.of(|f| f.first_token_us))),
    column("finish_reason", OPTIONAL, Word(|row| row.take(|f| &mut f.finish_reason))),
    column("tenant_id", REQUIRED, Tenant),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use chrono::TimeDelta;
    use parquet::{
        file::reader::{FileReader, SerializedFileReader},
        record::RowAccessor,
    };
    use tollgate_domain::{
        Currency, KeyId, LlmRequestId, Origin, Picos, ProviderId,
        llm::{Counted, Mode},
        llm_price::Usage,
    };
    use uuid::Uuid;

    use super::{
        super::{
            Format, Record,
            fixtures::{opened, tenant},
        },
        *,
    };

    fn minted() -> requests::LlmRequest {
        requests::LlmRequest {
            id: LlmRequestId::from_uuid(Uuid::from_u128(1)),
            key_id: KeyId::from_uuid(Uuid::from_u128(2)),
            team_id: None,
            origin: Origin::Minted,
            method: "tools/call".into(),
            model: None,
            client: Some("=cmd".into()),
            at: opened(),
            prompt_tokens_avoided: None,
            forward: None,
        }
    }

    fn forwarded() -> requests::LlmRequest {
        let forward = requests::Forwarded {
            root_id: LlmRequestId::from_uuid(Uuid::from_u128(1)),
            turn: 2,
            mode: Mode::Agent,
            streaming: true,
            reason: Some("a reason".into()),
            tools_offered: 3,
            tools_tokens: 400,
            currency: Currency::USD,
            outcome: Some("ok".into()),
            error: Some("none".into()),
            closed_at: Some(opened() + TimeDelta::microseconds(5)),
            provider_id: Some(ProviderId::from_uuid(Uuid::from_u128(3))),
            provider: Some("openai".into()),
            model_served: Some("gpt-x".into()),
            attempts: Some(r#"[{"status":200}]"#.into()),
            counted: Some(Counted::Reported),
            usage: Usage { input: 10, cached_input: 4, cache_write: 1, output: 20, reasoning: 5 },
            price: Some("llmp_1".into()),
            amount: Some(Picos(2_000_000_001)),
            latency_us: Some(77),
            first_token_us: Some(33),
            finish_reason: Some("stop".into()),
        };
        requests::LlmRequest { model: Some("fast".into()), prompt_tokens_avoided: Some(9), forward: Some(forward), ..minted() }
    }

    fn written(format: Format) -> Vec<u8> {
        let mut encoder = requests::LlmRequest::encoder(format, tenant()).unwrap();
        let mut file = encoder.begin().unwrap().to_vec();
        file.extend_from_slice(&encoder.push(vec![minted()]).unwrap());
        file.extend_from_slice(&encoder.push(vec![forwarded()]).unwrap());
        file.extend_from_slice(&encoder.finish().unwrap());
        file
    }

    #[test]
    fn a_line_has_what_the_list_shows_and_the_tenant() {
        let file = String::from_utf8(written(Format::Ndjson)).unwrap();
        let lines: Vec<serde_json::Value> = file.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let shown = serde_json::to_value(LlmRequest::from(forwarded())).unwrap();
        for (field, value) in shown.as_object().unwrap() {
            assert_eq!(&lines[1][field], value, "{field}");
        }
        let fields: BTreeSet<&str> = lines[1].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, BTreeSet::from(COLUMNS), "every format has the same");
        assert_eq!((&lines[0]["method"], lines[0].get("turn")), (&"tools/call".into(), None));
    }

    #[test]
    fn a_table_has_every_field_in_its_place() {
        let file = written(Format::Csv);
        let mut reader = ::csv::Reader::from_reader(file.as_slice());
        assert_eq!(reader.headers().unwrap().iter().collect::<Vec<_>>(), COLUMNS);
        let rows: Vec<::csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        let shown = serde_json::to_value(LlmRequest::from(forwarded())).unwrap();
        for (at, column) in COLUMNS.iter().enumerate().filter(|(_, column)| !matches!(**column, "tenant_id" | "client")) {
            let expected = match &shown[column] {
                serde_json::Value::String(text) => text.clone(),
                serde_json::Value::Null => String::new(),
                other => other.to_string(),
            };
            assert_eq!(&rows[1][at], expected, "{column}");
        }
        assert_eq!((&rows[0][6], &rows[0][10], &rows[0][35]), ("'=cmd", "", tenant().to_string().as_str()));
    }

    #[test]
    fn columns_are_typed() {
        let reader = SerializedFileReader::new(Bytes::from(written(Format::Parquet))).unwrap();
        let names: Vec<_> = reader.metadata().file_metadata().schema().get_fields().iter().map(|f| f.name().to_owned()).collect();
        assert_eq!(names, COLUMNS);
        let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
        let at = |name: &str| COLUMNS.iter().position(|column| *column == name).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[1].get_long(at("output_tokens")).unwrap(), 20);
        assert_eq!(rows[1].get_int(at("turn")).unwrap(), 2);
        assert_eq!(rows[1].get_timestamp_micros(at("at")).unwrap(), opened().timestamp_micros());
        assert_eq!(rows[1].get_string(at("attempts")).unwrap(), r#"[{"status":200}]"#);
        assert!(rows[0].get_long(at("output_tokens")).is_err(), "null");
    }

    #[test]
    fn ocsf_has_no_such_event() {
        assert!(matches!(requests::LlmRequest::encoder(Format::Ocsf, tenant()).err(), Some(Unwritable::Kind)));
    }
}
