use super::{
    super::{
        Format,
        fixtures::{bare, full, opened, tenant, written},
    },
    *,
};
use parquet::{
    file::{reader::FileReader, serialized_reader::SerializedFileReader},
    record::{Field, Row},
};

fn reader(file: Vec<u8>) -> SerializedFileReader<Bytes> {
    SerializedFileReader::new(Bytes::from(file)).unwrap()
}

fn rows(reader: &SerializedFileReader<Bytes>) -> Vec<Row> {
    reader.get_row_iter(None).unwrap().map(Result::unwrap).collect()
}

fn field<'a>(row: &'a Row, name: &str) -> &'a Field {
    row.get_column_iter().find(|(column, _)| *column == name).unwrap().1
}

fn text(row: &Row, name: &str) -> String {
    match field(row, name) {
        Field::Str(text) => text.clone(),
        other => panic!("{name} is {other:?}"),
    }
}

/// Of a decimal, in its smallest unit.
fn unscaled(field: &Field) -> (i128, i32, i32) {
    let Field::Decimal(decimal) = field else { panic!("{field:?}") };
    let bytes: [u8; 16] = decimal.data().try_into().unwrap();
    (i128::from_be_bytes(bytes), decimal.precision(), decimal.scale())
}

#[test]
fn a_row_is_read_back_as_it_was() {
    let reader = reader(written(Format::Parquet, vec![vec![full(1)]]));
    let row = &rows(&reader)[0];
    let (call, shown) = (full(1), |value: &dyn ToString| value.to_string());
    for (name, value) in [
        ("id", shown(&call.id)),
        ("llm_request_id", shown(&call.llm_request_id)),
        ("script_run_id", shown(&call.script_run_id.unwrap())),
        ("origin", "minted".into()),
        ("key_id", shown(&call.key_id)),
        ("team_id", shown(&call.team_id.unwrap())),
        ("upstream_id", shown(&call.upstream_id.unwrap())),
        ("upstream_name", "github".into()),
        ("tool_id", shown(&call.tool_id.unwrap())),
        ("tool_name", "create_issue".into()),
        ("definition_sha256", "ab".repeat(32)),
        ("decision", "permitted".into()),
        ("reason", "a reason".into()),
        ("outcome", "tool_error".into()),
        ("arguments", call.arguments.unwrap()),
        ("arguments_form", "redacted".into()),
        ("result", call.result.unwrap()),
        ("result_form", "erased".into()),
        ("error", "it broke".into()),
        ("price_id", shown(&call.price_id.unwrap())),
        ("currency", "USD".into()),
        ("tenant_id", shown(&tenant())),
        ("unit", "kb".into()),
    ] {
        assert_eq!(text(row, name), value, "{name}");
    }
    assert_eq!(field(row, "sequence"), &Field::Int(7));
    assert_eq!(field(row, "latency_us"), &Field::Long(65_431));
    assert_eq!(field(row, "opened_at"), &Field::TimestampMicros(opened().timestamp_micros()));
    assert_eq!(field(row, "closed_at"), &Field::TimestampMicros(opened().timestamp_micros() + 65_432));
    assert_eq!(unscaled(field(row, "amount")), (2_000_000_001, 38, 12));
    assert_eq!(unscaled(field(row, "unit_amount")), (1_500, 38, 12));
    assert_eq!((field(row, "tier"), field(row, "call_number")), (&Field::Int(2), &Field::Long(1_001)));
    assert_eq!(row.len(), 23 + 8, "nothing was left unlooked at");
}

#[test]
fn what_is_null_in_the_row_is_null_in_the_file() {
    let rows = rows(&reader(written(Format::Parquet, vec![vec![bare(1), full(2), bare(3)]])));
    let nulls = |row: &Row| -> Vec<String> {
        row.get_column_iter().filter(|(_, field)| **field == Field::Null).map(|(name, _)| name.clone()).collect()
    };
    let optional: Vec<&str> = SCHEMA.iter().filter(|column| column.null == OPTIONAL).map(|column| column.name).collect();
    assert_eq!(optional.len(), 23);
    assert_eq!((nulls(&rows[0]), nulls(&rows[2])), (optional.iter().map(ToString::to_string).collect(), nulls(&rows[0])));
    assert_eq!(nulls(&rows[1]), Vec::<String>::new());
}

#[test]
fn the_schema_says_what_the_columns_are() {
    let reader = reader(written(Format::Parquet, vec![]));
    let schema = reader.metadata().file_metadata().schema_descr_ptr();
    let names: Vec<&str> = schema.columns().iter().map(|column| column.name()).collect();
    assert_eq!(names, COLUMNS);
    let logical = |name: &str| {
        let column = schema.columns().iter().find(|column| column.name() == name).unwrap();
        (column.physical_type(), column.logical_type_ref().cloned())
    };
    assert_eq!(logical("arguments"), (Physical::BYTE_ARRAY, Some(LogicalType::Json)));
    assert_eq!(logical("key_id"), (Physical::BYTE_ARRAY, Some(LogicalType::String)));
    assert_eq!(logical("opened_at"), (Physical::INT64, Some(LogicalType::timestamp(true, TimeUnit::MICROS))));
    assert_eq!(logical("sequence"), (Physical::INT32, None));
    assert_eq!(logical("amount"), (Physical::FIXED_LEN_BYTE_ARRAY, Some(LogicalType::decimal(12, 38))));
}

#[test]
fn no_rows_are_a_file_too() {
    let reader = reader(written(Format::Parquet, vec![]));
    assert_eq!((reader.num_row_groups(), rows(&reader).len()), (0, 0));
}

#[test]
fn amounts_are_exact_to_the_last_digit_and_negative_ones_stay_so() {
    let amounts = [0, 1, -1, 2_000_000_000, i64::MAX, i64::MIN];
    let calls = amounts.iter().map(|&picos| calls::ToolCall { amount: Some(Picos(picos)), ..bare(1) }).collect();
    let rows = rows(&reader(written(Format::Parquet, vec![calls])));
    let read: Vec<i128> = rows.iter().map(|row| unscaled(field(row, "amount")).0).collect();
    assert_eq!(read, amounts.map(i128::from));
}

/// The file, and the largest piece of it that was handed over at once.
fn in_groups(limits: Limits, calls: impl Iterator<Item = calls::ToolCall>) -> (Vec<u8>, usize, Columns) {
    let mut encoder = Columns::<ToolCall>::with(tenant().to_string(), limits).unwrap();
    let mut file = encoder.begin().unwrap().to_vec();
    assert_eq!(file, b"PAR1");
    let mut largest = 0;
    for call in calls {
        let part = encoder.push(vec![call]).unwrap();
        largest = largest.max(part.len());
        file.extend(part);
        assert!(encoder.file.inner().is_empty() && encoder.rows.len() < limits.rows && encoder.bytes < limits.bytes);
    }
    file.extend(encoder.finish().unwrap());
    (file, largest, encoder)
}

#[test]
fn row_groups_end_by_their_rows_and_lose_none() {
    let limits = Limits { rows: 1500, bytes: usize::MAX };
    let (file, _, _) = in_groups(limits, (0..4000).map(|n| if n % 3 == 0 { bare(n) } else { full(n) }));
    let reader = reader(file);
    let sizes: Vec<i64> = reader.metadata().row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(sizes, [1500, 1500, 1000]);
    let rows = rows(&reader);
    assert_eq!(rows.len(), 4000);
    for (n, row) in (0..).zip(&rows) {
        assert_eq!(text(row, "id"), bare(n).id.to_string());
        assert_eq!(*field(row, "sequence") == Field::Null, n % 3 == 0, "{n}");
    }
}

#[test]
fn row_groups_end_by_their_bytes_and_nothing_stays_behind() {
    // Text that zstd cannot make much smaller.
    let noise = |n: u128| {
        let mut state = u64::try_from(n).unwrap() + 1;
        let mut step = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'0' + u8::try_from(state >> 58).unwrap())
        };
        format!("\"{}\"", (0..32 << 10).map(|_| step()).filter(|c| *c != '\\').collect::<String>())
    };
    let call = |n| calls::ToolCall { arguments: Some(noise(n)), ..full(n) };
    let limits = Limits { rows: usize::MAX, bytes: 1 << 20 };
    let (file, largest, _) = in_groups(limits, (0..200).map(call));
    assert!(file.len() > 4 << 20, "the noise was compressed away: {}", file.len());
    assert!(largest < 5 << 18, "{largest} bytes were written at once");
    let reader = reader(file);
    assert!(reader.num_row_groups() >= 6, "{}", reader.num_row_groups());
    for (n, row) in (0..).zip(rows(&reader)) {
        assert_eq!(text(&row, "arguments"), noise(n));
    }
}

#[test]
fn columns_are_compressed_and_payloads_have_no_statistics() {
    let reader = reader(written(Format::Parquet, vec![vec![full(1)]]));
    for column in reader.metadata().row_group(0).columns() {
        assert!(matches!(column.compression(), Compression::ZSTD(_)));
        let payload = matches!(column.column_path().string().as_str(), "arguments" | "result");
        assert_eq!(column.statistics().is_none(), payload, "{}", column.column_path());
        assert!(column.offset_index_offset().is_none());
    }
}

#[test]
fn a_file_that_was_not_finished_is_none() {
    let mut encoder = Columns::<ToolCall>::new(tenant().to_string()).unwrap();
    let mut file = encoder.begin().unwrap().to_vec();
    file.extend(encoder.push((0..10_001).map(bare).collect()).unwrap());
    assert!(file.len() > 1000, "a row group is there");
    assert!(SerializedFileReader::new(Bytes::from(file)).is_err());
}
