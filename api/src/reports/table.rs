//! A cost report as a Parquet file: typed columns, one row group, zstd.

use std::sync::Arc;

use parquet::{
    basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel},
    data_type::{ByteArray, ByteArrayType, FixedLenByteArrayType, Int64Type},
    errors::ParquetError,
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::types::Type,
};

use crate::audit::parquet::{amount, amount_field};

/// One column with the values of all rows.
pub struct Column {
    pub name: &'static str,
    pub values: Values,
}

pub enum Values {
    Text(Vec<Option<String>>),
    Count(Vec<Option<i64>>),
    /// TIMESTAMP(MICROS, UTC).
    Time(Vec<Option<i64>>),
    /// DECIMAL(38, 12): picos as they are stored.
    Amount(Vec<i128>),
}

impl Column {
    fn field(&self) -> Result<Type, ParquetError> {
        let (physical, logical) = match self.values {
            Values::Text(_) => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
            Values::Count(_) => (Physical::INT64, None),
            Values::Time(_) => (Physical::INT64, Some(LogicalType::timestamp(true, TimeUnit::MICROS))),
            Values::Amount(_) => return amount_field(self.name, Repetition::REQUIRED),
        };
        let field = Type::primitive_type_builder(self.name, physical).with_repetition(Repetition::OPTIONAL);
        field.with_logical_type(logical).build()
    }
}

/// The file. All columns have as many values as there are rows.
///
/// # Errors
/// When they have not.
pub fn parquet(columns: &[Column]) -> Result<Vec<u8>, ParquetError> {
    let fields = columns.iter().map(|column| column.field().map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
    let schema = Type::group_type_builder("cost").with_fields(fields).build()?;
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let mut file = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::new(properties))?;
    let mut group = file.next_row_group()?;
    for described in columns {
        let missing = || ParquetError::General(format!("the writer has no column {}", described.name));
        let mut column = group.next_column()?.ok_or_else(missing)?;
        match &described.values {
            Values::Text(values) => {
                let texts: Vec<ByteArray> = values.iter().flatten().map(|text| ByteArray::from(text.as_str())).collect();
                column.typed::<ByteArrayType>().write_batch(&texts, Some(&levels(values)), None)?;
            }
            Values::Count(values) | Values::Time(values) => {
                let numbers: Vec<i64> = values.iter().flatten().copied().collect();
                column.typed::<Int64Type>().write_batch(&numbers, Some(&levels(values)), None)?;
            }
            Values::Amount(values) => {
                let amounts: Vec<_> = values.iter().copied().map(amount).collect();
                column.typed::<FixedLenByteArrayType>().write_batch(&amounts, None, None)?;
            }
        }
        column.close()?;
    }
    group.close()?;
    file.into_inner()
}

fn levels<T>(values: &[Option<T>]) -> Vec<i16> {
    values.iter().map(|value| i16::from(value.is_some())).collect()
}
