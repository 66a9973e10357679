//! Parquet: typed columns, row groups that are bounded in rows and in bytes, zstd.
//!
//! | fields | type |
//! |---|---|
//! | ids, names, words, hashes | UTF8 |
//! | `arguments`, `result` | UTF8, annotated as JSON |
//! | `opened_at`, `closed_at` | TIMESTAMP(MICROS, UTC) |
//! | `sequence`, `tier`; `latency_us`, `call_number` | INT32; INT64 |
//! | `amount`, `unit_amount` | DECIMAL(38, 12): exact, and wide enough for the sum of any number of rows |
//!
//! A column is null where the field of the row is. Rows wait until they fill a row group; then they are written, column by
//! column, and handed over. What stays behind for the end of the file is the footer's entry of each row group, about 3 KiB,
//! which is why there is no page index: a row group of this size has few pages and would pay for them here.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use parquet::{
    basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel},
    data_type::{ByteArray, ByteArrayType, DataType, FixedLenByteArray, FixedLenByteArrayType, Int32Type, Int64Type},
    errors::ParquetError,
    file::{
        properties::{EnabledStatistics, WriterProperties},
        writer::{SerializedColumnWriter, SerializedFileWriter},
    },
    schema::types::{ColumnPath, Type},
};
use serde_json::value::RawValue;
use tollgate_domain::Picos;
use tollgate_store::calls;

use super::{COLUMNS, Encoder, Unwritable};
use crate::tool_calls::ToolCall;

#[cfg(test)]
mod tests;

/// A row group is written when it has this many rows ...
const GROUP_ROWS: usize = 10_000;
/// ... or its rows hold about this many bytes. One call may be larger; it is in a group with those before it.
const GROUP_BYTES: usize = 16 << 20;
/// What a row takes without its texts of unknown length.
const ROW_BYTES: usize = 512;
/// Rows of one column that are handed to its writer at once.
const BATCH: usize = 1024;

/// 16 bytes hold 38 digits.
const AMOUNT_BYTES: i32 = 16;
const AMOUNT_DIGITS: i32 = 38;
/// An amount is stored in 1e-12 of a unit: the number that is written is the number that is stored.
const AMOUNT_SCALE: i32 = 12;

/// A kind of row that has columns.
pub trait Columnar: Send + Sized + From<Self::Stored> + 'static {
    /// As the store has it.
    type Stored: Send;
    /// What the schema calls one.
    const NAME: &'static str;
    const SCHEMA: &'static [Column<Self>];

    /// About what it takes in memory.
    fn bytes(&self) -> usize;
}

impl Columnar for ToolCall {
    type Stored = calls::ToolCall;

    const NAME: &'static str = "tool_call";
    const SCHEMA: &'static [Column<Self>] = &SCHEMA;

    fn bytes(&self) -> usize {
        let texts = [&self.error, &self.reason].into_iter().flatten().map(String::len).sum::<usize>();
        let payloads = [&self.arguments, &self.result].into_iter().flatten().map(|json| json.get().len()).sum::<usize>();
        ROW_BYTES + self.tool_name.len() + texts + payloads
    }
}

pub struct Columns<R: Columnar = ToolCall> {
    /// Its sink holds what has not been handed over yet.
    file: SerializedFileWriter<Vec<u8>>,
    tenant: Bytes,
    rows: Vec<R>,
    /// About what `rows` hold.
    bytes: usize,
    limits: Limits,
}

#[derive(Clone, Copy)]
struct Limits {
    rows: usize,
    bytes: usize,
}

pub struct Column<R: 'static> {
    name: &'static str,
    null: Repetition,
    values: Values<R>,
}

/// How a column's values are taken out of a row. A row is read once for each column and thrown away after the last.
pub enum Values<R: 'static> {
    /// Few texts that come again and again: a dictionary.
    Word(fn(&mut R) -> Option<ByteArray>),
    /// Texts that hardly ever come twice.
    Text(fn(&mut R) -> Option<ByteArray>),
    Json(fn(&mut R) -> Option<Box<RawValue>>),
    Int32(fn(&mut R) -> Option<i32>),
    Int64(fn(&mut R) -> Option<i64>),
    Time(fn(&mut R) -> Option<DateTime<Utc>>),
    Amount(fn(&mut R) -> Option<Picos>),
    Tenant,
}

pub(super) use Values::{Amount, Int32, Int64, Json, Tenant, Text, Time, Word};

pub(super) const OPTIONAL: Repetition = Repetition::OPTIONAL;
pub(super) const REQUIRED: Repetition = Repetition::REQUIRED;

/// In the order of [`COLUMNS`].
const SCHEMA: [Column<ToolCall>; COLUMNS.len()] = [
    column("id", REQUIRED, Text(|call| shown(Some(call.id)))),
    column("llm_request_id", REQUIRED, Word(|call| shown(Some(call.llm_request_id)))),
    column("script_run_id", OPTIONAL, Word(|call| shown(call.script_run_id))),
    column("sequence", OPTIONAL, Int32(|call| call.sequence)),
    column("origin", REQUIRED, Word(|call| shown(Some(call.origin)))),
    column("key_id", REQUIRED, Word(|call| shown(Some(call.key_id)))),
    column("team_id", OPTIONAL, Word(|call| shown(call.team_id))),
    column("upstream_id", OPTIONAL, Word(|call| shown(call.upstream_id))),
    column("upstream_name", OPTIONAL, Word(|call| taken(&mut call.upstream_name))),
    column("tool_id", OPTIONAL, Word(|call| shown(call.tool_id))),
    column("tool_name", REQUIRED, Word(|call| Some(ByteArray::from(std::mem::take(&mut call.tool_name).into_bytes())))),
    column("definition_sha256", OPTIONAL, Word(|call| shown(call.definition_sha256))),
    column("decision", REQUIRED, Word(|call| shown(Some(call.decision)))),
    column("reason", OPTIONAL, Word(|call| taken(&mut call.reason))),
    column("outcome", OPTIONAL, Word(|call| shown(call.outcome))),
    column("arguments", OPTIONAL, Json(|call| call.arguments.take())),
    column("arguments_form", OPTIONAL, Word(|call| shown(call.arguments_form))),
    column("result", OPTIONAL, Json(|call| call.result.take())),
    column("result_form", OPTIONAL, Word(|call| shown(call.result_form))),
    column("error", OPTIONAL, Text(|call| taken(&mut call.error))),
    column("opened_at", REQUIRED, Time(|call| Some(call.opened_at))),
    column("closed_at", OPTIONAL, Time(|call| call.closed_at)),
    column("latency_us", OPTIONAL, Int64(|call| call.latency_us)),
    column("price_id", OPTIONAL, Word(|call| shown(call.price_id))),
    column("amount", OPTIONAL, Amount(|call| call.amount)),
    column("currency", OPTIONAL, Word(|call| taken(&mut call.currency))),
    column("tenant_id", REQUIRED, Tenant),
    column("unit", OPTIONAL, Word(|call| shown(call.unit))),
    column("unit_amount", OPTIONAL, Amount(|call| call.unit_amount)),
    column("tier", OPTIONAL, Int32(|call| call.tier.map(i32::from))),
    column("call_number", OPTIONAL, Int64(|call| call.call_number.and_then(|number| i64::try_from(number).ok()))),
];

pub(super) const fn column<R>(name: &'static str, null: Repetition, values: Values<R>) -> Column<R> {
    Column { name, null, values }
}

pub(super) fn shown<T: ToString>(value: Option<T>) -> Option<ByteArray> {
    value.map(|value| ByteArray::from(value.to_string().into_bytes()))
}

pub(super) fn taken(text: &mut Option<String>) -> Option<ByteArray> {
    text.take().map(|text| ByteArray::from(text.into_bytes()))
}

impl<R: Columnar> Columns<R> {
    /// # Errors
    /// When the schema contradicts itself.
    pub fn new(tenant: String) -> Result<Self, Unwritable> {
        Self::with(tenant, Limits { rows: GROUP_ROWS, bytes: GROUP_BYTES })
    }

    fn with(tenant: String, limits: Limits) -> Result<Self, Unwritable> {
        let fields = R::SCHEMA.iter().map(|column| column.field().map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
        let schema = Type::group_type_builder(R::NAME).with_fields(fields).build()?;
        let file = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::new(properties::<R>()))?;
        Ok(Self { file, tenant: tenant.into(), rows: Vec::new(), bytes: 0, limits })
    }

    /// Write the waiting rows as a row group.
    fn write_group(&mut self) -> Result<(), ParquetError> {
        self.bytes = 0;
        let mut rows = std::mem::take(&mut self.rows);
        let mut group = self.file.next_row_group()?;
        for described in R::SCHEMA {
            let missing = || ParquetError::General(format!("the writer has no column {}", described.name));
            let mut column = group.next_column()?.ok_or_else(missing)?;
            described.write(&mut column, &mut rows, &self.tenant)?;
            column.close()?;
        }
        group.close()?;
        Ok(())
    }

    /// What has been written since the last time.
    fn drain(&mut self) -> Result<Bytes, Unwritable> {
        self.file.flush()?;
        // The writer counts its offsets itself; it never looks back into its sink.
        Ok(std::mem::take(self.file.inner_mut()).into())
    }
}

impl<R: Columnar> Encoder<R::Stored> for Columns<R> {
    fn begin(&mut self) -> Result<Bytes, Unwritable> {
        self.drain()
    }

    fn push(&mut self, rows: Vec<R::Stored>) -> Result<Bytes, Unwritable> {
        for row in rows {
            let row = R::from(row);
            self.bytes += row.bytes();
            self.rows.push(row);
            if self.rows.len() >= self.limits.rows || self.bytes >= self.limits.bytes {
                self.write_group()?;
            }
        }
        self.drain()
    }

    fn finish(&mut self) -> Result<Bytes, Unwritable> {
        if !self.rows.is_empty() {
            self.write_group()?;
        }
        self.file.finish()?;
        self.drain()
    }
}

fn properties<R: Columnar>() -> WriterProperties {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true);
    for column in R::SCHEMA {
        let path = || ColumnPath::from(column.name);
        properties = properties.set_column_dictionary_enabled(path(), column.values.repeat());
        if matches!(column.values, Json(_)) {
            // The smallest of all JSON texts helps no reader to skip anything.
            properties = properties.set_column_statistics_enabled(path(), EnabledStatistics::None);
        }
    }
    properties.build()
}

/// A column of amounts in picos, as [`amount`] writes them.
pub fn amount_field(name: &str, null: Repetition) -> Result<Type, ParquetError> {
    Type::primitive_type_builder(name, Physical::FIXED_LEN_BYTE_ARRAY)
        .with_repetition(null)
        .with_logical_type(Some(LogicalType::decimal(AMOUNT_SCALE, AMOUNT_DIGITS)))
        .with_length(AMOUNT_BYTES)
        .with_precision(AMOUNT_DIGITS)
        .with_scale(AMOUNT_SCALE)
        .build()
}

/// The number that is written is the number that is stored.
pub fn amount(picos: i128) -> FixedLenByteArray {
    FixedLenByteArray::from(picos.to_be_bytes().to_vec())
}

impl<R> Values<R> {
    /// Pages of a column without a dictionary leave memory as they fill.
    const fn repeat(&self) -> bool {
        matches!(self, Word(_) | Int32(_) | Amount(_) | Tenant)
    }
}

impl<R> Column<R> {
    fn field(&self) -> Result<Type, ParquetError> {
        let (physical, logical) = match self.values {
            Word(_) | Text(_) | Tenant => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
            Json(_) => (Physical::BYTE_ARRAY, Some(LogicalType::Json)),
            Int32(_) => (Physical::INT32, None),
            Int64(_) => (Physical::INT64, None),
            Time(_) => (Physical::INT64, Some(LogicalType::timestamp(true, TimeUnit::MICROS))),
            Amount(_) => return amount_field(self.name, self.null),
        };
        Type::primitive_type_builder(self.name, physical).with_repetition(self.null).with_logical_type(logical).build()
    }

    fn write(&self, column: &mut SerializedColumnWriter<'_>, rows: &mut [R], tenant: &Bytes) -> Result<(), ParquetError> {
        match self.values {
            Word(get) | Text(get) => self.write_as::<ByteArrayType>(column, rows, get),
            Json(get) => self.write_as::<ByteArrayType>(column, rows, |row| {
                get(row).map(|json| ByteArray::from(Box::<str>::from(json).into_string().into_bytes()))
            }),
            Tenant => self.write_as::<ByteArrayType>(column, rows, |_| Some(ByteArray::from(tenant.clone()))),
            Int32(get) => self.write_as::<Int32Type>(column, rows, get),
            Int64(get) => self.write_as::<Int64Type>(column, rows, get),
            Time(get) => self.write_as::<Int64Type>(column, rows, |row| get(row).map(|at| at.timestamp_micros())),
            Amount(get) => {
                self.write_as::<FixedLenByteArrayType>(column, rows, |row| get(row).map(|Picos(picos)| amount(picos.into())))
            }
        }
    }

    fn write_as<T: DataType>(
        &self,
        column: &mut SerializedColumnWriter<'_>,
        rows: &mut [R],
        get: impl Fn(&mut R) -> Option<T::T>,
    ) -> Result<(), ParquetError> {
        for batch in rows.chunks_mut(BATCH) {
            let mut values = Vec::with_capacity(batch.len());
            let mut levels = Vec::with_capacity(batch.len());
            for row in batch {
                let value = get(row);
                levels.push(i16::from(value.is_some()));
                values.extend(value);
            }
            let levels = (self.null == OPTIONAL).then_some(levels.as_slice());
            column.typed::<T>().write_batch(&values, levels, None)?;
        }
        Ok(())
    }
}
