use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Fields, Float64Type, Int32Type, Int64Type, TimeUnit,
};
use arrow::util::display::array_value_to_string;

use super::*;
use crate::catalog::{KafkaConnection, KafkaSecurity, KafkaSourceOptions, OnDataLoss, StartingOffsets};
use crate::source::chunk::OptionalBytes;
use crate::sql::Span;

pub(super) fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

pub(super) fn column(name: &str, data_type: DataType) -> ColumnDef {
    let origin = ColumnOrigin::Field(vec![name.to_owned()]);
    ColumnDef { name: name.to_owned(), data_type, nullable: true, origin, span: Span::default() }
}

fn required(name: &str, data_type: DataType) -> ColumnDef {
    ColumnDef { nullable: false, ..column(name, data_type) }
}

fn from_path(name: &str, data_type: DataType, path: &[&str]) -> ColumnDef {
    let origin = ColumnOrigin::Field(path.iter().map(ToString::to_string).collect());
    ColumnDef { origin, ..column(name, data_type) }
}

fn from_metadata(name: &str, data_type: DataType, metadata: Metadata) -> ColumnDef {
    ColumnDef { origin: ColumnOrigin::Metadata(metadata), ..column(name, data_type) }
}

pub(super) fn source(columns: Vec<ColumnDef>) -> SourceDef {
    let security =
        KafkaSecurity { tls: false, ca_location: None, certificate_location: None, key_location: None, sasl: None };
    let connection = KafkaConnection { bootstrap_servers: String::new(), security, properties: BTreeMap::new() };
    let options = KafkaSourceOptions {
        connection,
        topic: "topic".to_owned(),
        group_id: None,
        starting_offsets: StartingOffsets::Earliest,
        on_data_loss: OnDataLoss::Fail,
        on_null: Default::default(),
        event_hubs: false,
    };
    SourceDef {
        name: "events".to_owned(),
        columns,
        watermark: None,
        connector: SourceConnector::Kafka(options),
        format: Format::Json,
        on_error: OnError::DeadLetter,
        idle_after: std::time::Duration::MAX,
        max_drift: None,
        timestamp_unit: None,
        max_future: None,
        span: Span::default(),
    }
}

pub(super) fn records(payloads: &[impl AsRef<[u8]>]) -> Records {
    let mut records = Records { bounds: vec![0], ..Records::default() };
    for (index, payload) in payloads.iter().enumerate() {
        records.data.extend_from_slice(payload.as_ref());
        records.bounds.push(records.data.len() as u32);
        records.offsets.push(100 + index as i64);
        records.timestamps_ms.push(1_000 + index as i64);
    }
    records
}

pub(super) fn chunk(records: Records) -> Chunk {
    let (start, end) = (100, 100 + records.len() as i64);
    Chunk { partition: "topic/3".into(), start, end, payload: Payload::Records(records) }
}

fn decode(def: &SourceDef, payloads: &[impl AsRef<[u8]>]) -> Decoded {
    Decoder::new(def).unwrap().decode(chunk(records(payloads))).unwrap()
}

/// The result of reading `value` into a column of `data_type`: its text, `null`, or `!reason`.
fn taken(data_type: &DataType, value: &str) -> String {
    let good = r#"{"v":null}"#.to_owned();
    let record = format!(r#"{{"before":1,"v":{value},"after":[2]}}"#);
    let decoded = decode(&source(vec![column("v", data_type.clone())]), &[good.clone(), record, good]);
    assert_eq!(decoded.rows.num_rows() + decoded.dead.len(), 3, "{value}");
    match decoded.dead.as_slice() {
        [] if decoded.rows.column(0).is_null(1) => "null".to_owned(),
        [] => array_value_to_string(decoded.rows.column(0), 1).unwrap(),
        [dead] => {
            assert_eq!(dead.offset, 101);
            format!("!{}{}", dead.column.as_ref().map_or("", |_| "v: "), dead.reason)
        }
        more => panic!("{value}: {more:?}"),
    }
}

#[test]
fn each_value_becomes_what_its_column_wants_or_a_dead_letter() {
    use DataType::{Binary, Boolean, Date32, Decimal128, Float32, Float64, Int8, Int32, Int64, Utf8};
    let ntz = DataType::Timestamp(TimeUnit::Microsecond, None);
    let cases: Vec<(DataType, &str, &str)> = vec![
        (Utf8, r#""a\u00e4\n\ud83d\ude00""#, "aä\n😀"),
        (Utf8, r#""\ud83d""#, "!not valid JSON: a string holds half of a surrogate pair (byte 24)"),
        (Utf8, r#""\x""#, "!not valid JSON: a string holds an unknown escape (byte 20)"),
        (Utf8, "\"a\tb\"", "!not valid JSON: a string does not end, or holds a control character (byte 18)"),
        (Utf8, "1.50", "1.50"),
        (Utf8, "true", "true"),
        (Utf8, r#"{"a": [1]}"#, r#"{"a": [1]}"#),
        (Utf8, "null", "null"),
        (Utf8, "nul", "!not valid JSON: an unknown word (byte 16)"),
        (Float64, "1.5", "1.5"),
        (Float64, "-0.0", "-0.0"),
        (Float64, "1e400", "!v: out of range for DOUBLE: 1e400"),
        (Float64, "\"NaN\"", "NaN"),
        (Float64, "\"-Infinity\"", "-inf"),
        (Float64, "NaN", "!not valid JSON: a value is missing (byte 16)"),
        (Float64, "\"1.5\"", "!v: expected DOUBLE, found \"1.5\""),
        (Float64, "{}", "!v: expected DOUBLE, found {}"),
        (Float64, "01", "!not valid JSON: a number begins with 0 (byte 16)"),
        (Float64, "1.", "!not valid JSON: a number ends in a point (byte 16)"),
        (Float64, "1e", "!not valid JSON: a number has an exponent without digits (byte 16)"),
        (Float64, "+1", "!not valid JSON: a value is missing (byte 16)"),
        (Float64, "-", "!not valid JSON: a number has no digits (byte 16)"),
        (Float32, "0.1", "0.1"),
        (Float32, "1e39", "!v: out of range for FLOAT: 1e39"),
        (Int32, "2147483647", "2147483647"),
        (Int32, "2147483648", "!v: out of range for INT: 2147483648"),
        (Int32, "1.5", "!v: INT would lose digits of 1.5"),
        (Int32, "1.0", "1"),
        (Int32, "12e2", "1200"),
        (Int32, "true", "!v: expected INT, found true"),
        (Int8, "-128", "-128"),
        (Int8, "128", "!v: out of range for TINYINT: 128"),
        (Int64, "9223372036854775807", "9223372036854775807"),
        (Int64, "-9223372036854775808", "-9223372036854775808"),
        (Int64, "9223372036854775808", "!v: out of range for BIGINT: 9223372036854775808"),
        (Int64, "1e30", "!v: out of range for BIGINT: 1e30"),
        (Boolean, "false", "false"),
        (Boolean, "\"true\"", "!v: expected BOOLEAN, found \"true\""),
        (Boolean, "0", "!v: expected BOOLEAN, found 0"),
        (Decimal128(10, 2), "12345678.90", "12345678.90"),
        (Decimal128(10, 2), "\"-0.05\"", "-0.05"),
        (Decimal128(10, 2), "0.051", "!v: DECIMAL(10, 2) would lose digits of 0.051"),
        (Decimal128(10, 2), "0.0500000000000000000000000000", "0.05"),
        (Decimal128(10, 2), "123456789", "!v: out of range for DECIMAL(10, 2): 123456789"),
        (Decimal128(38, 0), "99999999999999999999999999999999999999", "99999999999999999999999999999999999999"),
        (Decimal128(10, 2), "\"1,5\"", "!v: not a DECIMAL(10, 2): \"1,5\""),
        (Binary, "\"aGk=\"", "6869"),
        (Binary, "\"aGk\"", "6869"),
        (Binary, "\"a*==\"", "!v: not a BINARY: \"a*==\""),
        (Binary, "5", "!v: expected BINARY, found 5"),
        (Date32, "\"2024-02-29\"", "2024-02-29"),
        (Date32, "\"2023-02-29\"", "!v: not a DATE: \"2023-02-29\""),
        (timestamp(), "\"2018-04-01T02:00:00.5+02:00\"", "2018-04-01T00:00:00.500Z"),
        (timestamp(), "\"2018-04-01 00:00:00.1234567\"", "2018-04-01T00:00:00.123456Z"),
        (timestamp(), "\"2018-04-01T00:00:00Z\"", "2018-04-01T00:00:00Z"),
        (timestamp(), "1522540800000", "2018-04-01T00:00:00Z"),
        (timestamp(), "1522540800000.25", "2018-04-01T00:00:00.000250Z"),
        (timestamp(), "-0.0001", "1969-12-31T23:59:59.999999Z"),
        (timestamp(), "\"2018-04-01T24:00:00Z\"", "!v: not a TIMESTAMP: \"2018-04-01T24:00:00Z\""),
        (timestamp(), "\"1522540800000\"", "!v: not a TIMESTAMP: \"1522540800000\""),
        (timestamp(), "1e300", "!v: out of range for TIMESTAMP: 1e300"),
        (ntz, "\"2018-04-01T00:00:00\"", "2018-04-01T00:00:00"),
    ];
    for (data_type, value, expected) in cases {
        assert_eq!(taken(&data_type, value), expected, "{value} as {data_type}");
    }
}

#[test]
fn a_record_that_is_no_json_object_is_a_dead_letter_with_its_bytes_and_spares_its_neighbours() {
    let deep = format!("{{\"a\":1,\"x\":{}{}}}", "[".repeat(200), "]".repeat(200));
    let bad: Vec<&[u8]> = vec![
        b"",
        b" ",
        b"null",
        b"[1]",
        b"{",
        b"{\"a\"",
        b"{\"a\":",
        b"{\"a\":1",
        b"{\"a\":\"",
        b"{\"a\":1,}",
        b"{\"a\":1}}",
        b"{\"a\":1}{\"a\":2}",
        b"{a:1}",
        b"{\"a\" 1}",
        b"{\"a\":1,\"x\":tru}",
        b"{\"a\":1,\"x\":[1,]}",
        b"{\"a\":1,\"x\":{\"y\"}}",
        b"{\"a\":1,\"x\":\"\\u12g4\"}",
        b"{\"a\":1,\"x\":\"\xff\"}",
        deep.as_bytes(),
    ];
    let def = source(vec![column("a", DataType::Int32), column("s", DataType::Utf8)]);
    for broken in bad {
        let good: &[u8] = b" {\"a\":7,\"s\":\"x\"}\n";
        let decoded = decode(&def, &[good, broken, good]);
        assert_eq!(decoded.rows.column(0).as_primitive::<Int32Type>().values(), &[7, 7], "{broken:?}");
        let [dead] = decoded.dead.as_slice() else { panic!("{broken:?}: {:?}", decoded.dead) };
        assert_eq!((dead.offset, dead.timestamp_ms, dead.column.as_ref()), (101, 1_001, None));
        assert_eq!(dead.payload.as_deref(), Some(broken));
        assert!(
            dead.reason.contains("not valid JSON") || broken.is_empty() || dead.reason.contains("UTF-8"),
            "{dead:?}"
        );
    }
}

#[test]
fn a_record_that_was_cut_short_is_a_dead_letter_with_its_beginning_and_its_length() {
    let def = source(vec![column("a", DataType::Int32)]);
    let mut cut = records(&[r#"{"a":1}"#, r#"{"a":2}"#, "\u{e9}", r#"{"a":3}"#]);
    cut.cut_short = vec![(1, 70_000_000)];
    let decoded = Decoder::new(&def).unwrap().decode(chunk(cut)).unwrap();
    assert_eq!(decoded.rows.column(0).as_primitive::<Int32Type>().values(), &[1, 3]);
    let letter = &decoded.dead[0];
    assert_eq!((letter.offset, letter.payload.as_deref()), (101, Some(br#"{"a":2}"#.as_slice())));
    assert_eq!(letter.reason, "the record has 70000000 bytes, more than 64 MiB: the first 7 are kept here");
}

#[test]
fn two_records_that_are_utf8_only_together_are_both_refused() {
    let def = source(vec![column("a", DataType::Utf8)]);
    let decoded = decode(&def, &[b"{\"a\":\"\xc3".as_slice(), b"\xa4\"}".as_slice(), b"{\"a\":\"ok\"}".as_slice()]);
    assert_eq!((decoded.rows.num_rows(), decoded.refused), (1, 2));
}

#[test]
fn names_match_exactly_or_ignoring_case_and_the_last_duplicate_wins() {
    let def = source(vec![column("user_id", DataType::Int64), column("n", DataType::Int64)]);
    let decoded = decode(
        &def,
        &[
            r#"{"USER_ID":1,"n":1}"#,
            r#"{"user_id":2,"User_Id":9,"n":1}"#,
            r#"{"User_Id":9,"user_id":3}"#,
            r#"{"user_id":9,"user_id":"x","user_id":4}"#,
            r#"{"user_id":9,"user_id":null}"#,
            r#"{"us\u0065r_id":5,"other":{"user_id":8}}"#,
        ],
    );
    assert!(decoded.dead.is_empty(), "{:?}", decoded.dead);
    let ids: Vec<Option<i64>> = decoded.rows.column(0).as_primitive::<Int64Type>().iter().collect();
    assert_eq!(ids, [Some(1), Some(2), Some(3), Some(4), None, Some(5)]);
    assert_eq!(decoded.rows.column(1).null_count(), 4);
}

#[test]
fn a_missing_or_null_not_null_field_is_a_dead_letter_naming_the_column() {
    let def = source(vec![required("id", DataType::Utf8), column("x", DataType::Int32)]);
    let decoded =
        decode(&def, &[r#"{"x":1}"#, r#"{"id":null,"x":1}"#, r#"{"id":null,"id":"a"}"#, r#"{"id":"b","x":2}"#]);
    assert_eq!(decoded.rows.num_rows(), 2);
    let reasons: Vec<(Option<&str>, &str)> =
        decoded.dead.iter().map(|dead| (dead.column.as_deref(), dead.reason.as_str())).collect();
    let expected = ["field of a NOT NULL column is missing", "null in a NOT NULL column"];
    assert_eq!(reasons, expected.map(|reason| (Some("id"), reason)));
}

#[test]
fn paths_and_several_columns_read_one_field() {
    let def = source(vec![
        from_path("id", DataType::Int64, &["customer", "id"]),
        from_path("city", DataType::Utf8, &["customer", "address", "city"]),
        from_path("whole", DataType::Utf8, &["customer"]),
        column("a", DataType::Int64),
        from_path("a_text", DataType::Utf8, &["a"]),
    ]);
    let decoded = decode(
        &def,
        &[
            r#"{"customer":{"id":1,"address":{"city":"Ulm"}},"a":5}"#,
            r#"{"customer":null}"#,
            r#"{"customer":{"id":1,"address":{"city":"x"}},"customer":{"ID":2}}"#,
            r#"{"customer":7,"a":1}"#,
        ],
    );
    let texts = |column: usize| -> Vec<String> {
        (0..3).map(|row| array_value_to_string(decoded.rows.column(column), row).unwrap()).collect()
    };
    assert_eq!(texts(0), ["1", "", "2"]);
    assert_eq!(texts(1), ["Ulm", "", ""]);
    assert_eq!(texts(2), [r#"{"id":1,"address":{"city":"Ulm"}}"#, "", r#"{"ID":2}"#]);
    assert_eq!(
        (texts(3), texts(4)),
        (vec!["5".into(), String::new(), String::new()], vec!["5".into(), String::new(), String::new()])
    );
    assert_eq!(decoded.dead.len(), 1);
    assert_eq!(decoded.dead[0].column.as_deref(), Some("id"));
}

#[test]
fn arrays_maps_and_structs_are_read_and_rolled_back() {
    let item = Arc::new(Field::new("item", DataType::Int32, true));
    let inner = Fields::from(vec![Field::new("x", DataType::Float64, true), Field::new("y", DataType::Utf8, false)]);
    let pair = Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Int64, true)]);
    let entries = Arc::new(Field::new("entries", DataType::Struct(pair), false));
    let def = source(vec![
        column("l", DataType::List(item)),
        column("m", DataType::Map(entries, false)),
        column("s", DataType::Struct(inner)),
    ]);
    let decoded = decode(
        &def,
        &[
            r#"{"l":[1,null,3],"m":{"a":1,"b":2,"a":3},"s":{"x":0.5,"y":"q"}}"#,
            r#"{"l":[1,"2"],"m":{"a":1},"s":{"y":"q"}}"#,
            r#"{"l":[],"m":{"a":"1"},"s":{"y":"q"}}"#,
            r#"{"l":[9],"m":{"z":9},"s":{"x":1}}"#,
            r#"{"l":[],"m":{},"s":null}"#,
            r#"{"l":[4],"m":{"c":null},"s":{"Y":"r"}}"#,
        ],
    );
    let text = |column: usize, row: usize| array_value_to_string(decoded.rows.column(column), row).unwrap();
    let columns: Vec<Option<&str>> = decoded.dead.iter().map(|dead| dead.column.as_deref()).collect();
    assert_eq!(columns, [Some("l"), Some("m"), Some("s")]);
    assert_eq!([text(0, 0), text(0, 1), text(0, 2)], ["[1, , 3]", "[]", "[4]"]);
    assert_eq!([text(1, 0), text(1, 1), text(1, 2)], ["{a: 3, b: 2}", "{}", "{c: }"]);
    assert_eq!([text(2, 0), text(2, 1), text(2, 2)], ["{x: 0.5, y: q}", "", "{x: , y: r}"]);
}

#[test]
fn metadata_columns_tell_where_the_good_records_were() {
    let pair =
        Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Binary, true)]);
    let map = DataType::Map(Arc::new(Field::new("entries", DataType::Struct(pair), false)), false);
    let def = source(vec![
        from_metadata("k", DataType::Utf8, Metadata::Key),
        column("a", DataType::Int32),
        from_metadata("p", DataType::Int32, Metadata::Partition),
        from_metadata("o", DataType::Int64, Metadata::Offset),
        from_metadata("t", timestamp(), Metadata::Timestamp),
        from_metadata("topic", DataType::Utf8, Metadata::Topic),
        from_metadata("h", map, Metadata::Headers),
    ]);
    let mut three = records(&[r#"{"a":1}"#, r#"{"a":"#, r#"{"a":3}"#]);
    three.keys =
        Some(OptionalBytes { data: b"k1k2".to_vec(), bounds: vec![0, 2, 4, 4], valid: vec![true, true, false] });
    let header = |name: &str, value: &[u8]| (name.to_owned(), Some(value.to_vec()));
    three.headers = Some(vec![
        vec![header("x", b"1")],
        vec![],
        // A header may be sent twice, but a map has each key once: the last value counts.
        vec![header("y", b"1"), header("z", b"2"), header("y", b"3"), ("z".to_owned(), None)],
    ]);
    let decoded = Decoder::new(&def).unwrap().decode(chunk(three)).unwrap();
    let text = |row: usize| -> Vec<String> {
        decoded.rows.columns().iter().map(|column| array_value_to_string(column, row).unwrap()).collect()
    };
    assert_eq!(text(0), ["k1", "1", "3", "100", "1970-01-01T00:00:01Z", "topic", "{x: 31}"]);
    assert_eq!(text(1), ["", "3", "3", "102", "1970-01-01T00:00:01.002Z", "topic", "{y: 33, z: }"]);
    assert_eq!(decoded.dead[0].key.as_deref(), Some(b"k2".as_slice()));
}

#[test]
fn tombstones_are_dead_letters_without_payload() {
    let mut two = records(&["", r#"{"a":1}"#]);
    two.tombstones = vec![0];
    let def = source(vec![column("a", DataType::Int32)]);
    let decoded = Decoder::new(&def).unwrap().decode(chunk(two)).unwrap();
    assert_eq!((decoded.rows.num_rows(), decoded.refused), (1, 1));
    assert_eq!((decoded.dead[0].reason.as_str(), &decoded.dead[0].payload), ("null payload", &None));
}

#[test]
fn tombstones_are_skipped_where_the_source_says_so() {
    let mut three = records(&["", r#"{"a":1}"#, ""]);
    three.tombstones = vec![0];
    let mut def = source(vec![column("a", DataType::Int32)]);
    if let SourceConnector::Kafka(options) = &mut def.connector {
        options.on_null = crate::catalog::OnNull::Skip;
    }
    let decoded = Decoder::new(&def).unwrap().decode(chunk(three)).unwrap();
    assert_eq!((decoded.rows.num_rows(), decoded.refused), (1, 2));
    let [dead] = &decoded.dead[..] else { panic!("{:?}", decoded.dead) };
    assert_eq!(dead.reason, "empty payload");
}

#[test]
fn rows_know_where_they_come_from() {
    use crate::source::origin::RowOffsets;
    let def = source(vec![column("a", DataType::Int32)]);
    let decoded = decode(&def, &[r#"{"a":1}"#, "x", r#"{"a":3}"#]);
    assert_eq!(decoded.origins.offsets, RowOffsets::Each(vec![100, 102]));
    assert_eq!(decode(&def, &[r#"{"a":1}"#, "{}"]).origins.offsets, RowOffsets::Each(vec![100, 101]));
}

#[test]
fn on_error_drop_counts_and_fail_names_the_place() {
    let mut def = source(vec![column("a", DataType::Int32)]);
    def.on_error = OnError::Drop;
    let payloads = [r#"{"a":1}"#, r#"{"a":"x"}"#];
    let decoded = decode(&def, &payloads);
    assert_eq!((decoded.rows.num_rows(), decoded.refused, decoded.dead.len()), (1, 1, 0));
    def.on_error = OnError::Fail;
    let error = Decoder::new(&def).unwrap().decode(chunk(records(&payloads))).unwrap_err();
    assert_eq!(error.message(), "record at offset 101 of `topic/3` in source `events` cannot be decoded");
    assert_eq!(error.detail(), Some("Column `a`: expected INT, found \"x\"."));
    assert_eq!(error.kind().exit_code(), 1, "nothing that weir has stored is damaged");
    assert!(error.hint().unwrap().contains("on_error = 'dead_letter'"));
}

#[test]
fn a_type_without_decoding_is_an_error_naming_the_column() {
    let error = Decoder::new(&source(vec![column("i", DataType::Interval(arrow::datatypes::IntervalUnit::DayTime))]));
    assert!(error.unwrap_err().message().contains("column `i`"));
}

#[test]
fn csv_lines_follow_the_header_or_the_order_of_columns() {
    let mut def = source(vec![
        column("id", DataType::Int64),
        column("name", DataType::Utf8),
        column("at", timestamp()),
        column("price", DataType::Decimal128(10, 2)),
        column("tags", DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)))),
    ]);
    def.format = Format::Csv;
    let lines = [
        r#"1,"a, ""b""",2018-04-01 00:00:00,1.5,"[""x""]""#,
        r#",,,,"#,
        r#"2,"",1522540800000,-3,[]"#,
        r#"x,a,,,"#,
        r#"1,a,,"#,
        r#"1,"a,,,"#,
    ];
    let decoded = decode(&def, &lines);
    let text = |row: usize| -> Vec<String> {
        decoded.rows.columns().iter().map(|column| array_value_to_string(column, row).unwrap()).collect()
    };
    assert_eq!(text(0), ["1", "a, \"b\"", "2018-04-01T00:00:00Z", "1.50", "[x]"]);
    assert_eq!(decoded.rows.columns().iter().map(|column| column.is_null(1)).collect::<Vec<_>>(), [true; 5]);
    assert_eq!(text(2), ["2", "", "2018-04-01T00:00:00Z", "-3.00", "[]"]);
    assert!(decoded.rows.column(1).is_valid(2), "a quoted empty field is an empty text");
    let reasons: Vec<&str> = decoded.dead.iter().map(|dead| dead.reason.as_str()).collect();
    assert_eq!(reasons[0], "not a BIGINT: x");
    assert!(reasons[1].contains("number of fields") && reasons[2].contains("does not end"), "{reasons:?}");

    let header = b"NAME,extra,id";
    let mut with_header = records(&["a,b,7"]);
    with_header.data.splice(0..0, header.iter().copied());
    with_header.bounds.iter_mut().for_each(|bound| *bound += header.len() as u32);
    let decoded = Decoder::new(&def).unwrap().decode(chunk(with_header)).unwrap();
    assert_eq!(decoded.rows.column(0).as_primitive::<Int64Type>().value(0), 7);
    assert_eq!(decoded.rows.column(1).as_string::<i32>().value(0), "a");
}

#[test]
fn rows_are_cast_to_the_declared_columns_and_misfits_become_dead_letters() {
    let def = source(vec![
        required("ID", DataType::Int32),
        column("day", DataType::Date32),
        from_metadata("o", DataType::Int64, Metadata::Offset),
        column("absent", DataType::Float64),
    ]);
    let ids = arrow::array::Int64Array::from(vec![Some(1), None, Some(3), Some(1 << 40)]);
    let days = arrow::array::StringArray::from(vec![Some("2024-01-01"), Some("2024-01-02"), Some("never"), None]);
    let batch = RecordBatch::try_from_iter([("id", Arc::new(ids) as ArrayRef), ("day", Arc::new(days) as ArrayRef)]);
    let payload = Payload::Rows(batch.unwrap());
    let chunk = Chunk { partition: "a.parquet".into(), start: 10, end: 14, payload };
    let decoded = Decoder::new(&def).unwrap().decode(chunk).unwrap();
    assert_eq!(decoded.rows.num_rows(), 1);
    assert_eq!(decoded.rows.column(1).as_primitive::<Date32Type>().value(0), 19_723);
    assert_eq!(decoded.rows.column(2).as_primitive::<Int64Type>().value(0), 10);
    assert_eq!(decoded.rows.column(3).null_count(), 1);
    let letters: Vec<(i64, Option<&str>)> = decoded.dead.iter().map(|d| (d.offset, d.column.as_deref())).collect();
    assert_eq!(letters, [(11, Some("ID")), (12, Some("day")), (13, Some("ID"))]);
    assert_eq!(decoded.dead[1].payload.as_deref(), Some(br#"{"id":3,"day":"never"}"#.as_slice()));
}

#[test]
fn a_value_that_its_declared_type_would_change_is_a_dead_letter() {
    use arrow::array::{Decimal128Array, Float64Array, Int64Array, ListArray, StringArray, StructArray};
    use arrow::datatypes::{Field, Float64Type};
    let decimals = |values: Vec<i128>| {
        Arc::new(Decimal128Array::from(values).with_precision_and_scale(12, 4).unwrap()) as ArrayRef
    };
    let decimal = |precision, scale| DataType::Decimal128(precision, scale);
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![1.5, 0.1, 1e300, f64::NAN]));
    let lists: ArrayRef =
        Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>([Some([Some(1.5)]), Some([Some(0.125)])]));
    let inner = Arc::new(Field::new("a", DataType::Float64, true));
    let structs: ArrayRef =
        Arc::new(StructArray::from(vec![(inner, Arc::new(Float64Array::from(vec![1.25, 1e-9])) as ArrayRef)]));
    let list = |data_type| DataType::List(Arc::new(Field::new("item", data_type, true)));
    let grown =
        DataType::Struct(vec![Field::new("b", DataType::Int32, true), Field::new("a", decimal(9, 2), true)].into());
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["1.20", "1.205", "x"]));
    let cases: Vec<(ArrayRef, DataType, Vec<bool>)> = vec![
        (decimals(vec![12_300, 12_350, -49]), decimal(12, 2), vec![true, false, false]),
        (decimals(vec![30_000, 15_000, -9_900]), DataType::Int64, vec![true, false, false]),
        (Arc::clone(&floats), DataType::Float32, vec![true, true, false, true]),
        (Arc::clone(&floats), decimal(9, 2), vec![true, true, false, false]),
        (lists, list(decimal(9, 2)), vec![true, false]),
        (structs, grown, vec![true, false]),
        (texts, decimal(9, 2), vec![true, false, false]),
        (Arc::new(Int64Array::from(vec![5, 1 << 40])), DataType::Int32, vec![true, false]),
    ];
    for (found, wanted, fits) in cases {
        let mut def = source(vec![column("v", wanted.clone())]);
        def.format = Format::Parquet;
        let rows = RecordBatch::try_from_iter_with_nullable([("v", Arc::clone(&found), true)]).unwrap();
        let chunk = Chunk { partition: "p".into(), start: 0, end: fits.len() as i64, payload: Payload::Rows(rows) };
        let decoded = Decoder::new(&def).unwrap().decode(chunk).unwrap();
        let refused: Vec<usize> = decoded.dead.iter().map(|letter| letter.offset as usize).collect();
        let expected: Vec<usize> = (0..fits.len()).filter(|row| !fits[*row]).collect();
        assert_eq!(refused, expected, "{} as {wanted}", found.data_type());
    }
}

#[test]
fn integers_are_timestamps_of_the_unit_that_the_source_says() {
    use arrow::array::Int64Array;
    use arrow::datatypes::TimestampMicrosecondType;
    let kind = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let cases = [
        (None, 1_700_000_000_000_000, Some("1700000000000.5"), 1_700_000_000_000_500),
        (Some(TimestampUnit::Seconds), 1_700_000_000, Some("1700000000.25"), 1_700_000_000_250_000),
        (Some(TimestampUnit::Millis), 1_700_000_000_000, Some("1700000000000"), 1_700_000_000_000_000),
        (Some(TimestampUnit::Nanos), -1, Some("-1"), -1),
        (Some(TimestampUnit::Auto), 1_700_000_000, Some("1700000000000000000"), 1_700_000_000_000_000),
    ];
    for (unit, number, text, expected) in cases {
        let mut def = source(vec![column("v", kind.clone())]);
        def.timestamp_unit = unit;
        let json = decode(&def, &[format!("{{\"v\":{}}}", text.unwrap())]);
        assert_eq!(json.rows.column(0).as_primitive::<TimestampMicrosecondType>().value(0), expected, "{unit:?}");
        def.format = Format::Parquet;
        let rows = RecordBatch::try_from_iter([("v", Arc::new(Int64Array::from(vec![number])) as ArrayRef)]).unwrap();
        let chunk = Chunk { partition: "p".into(), start: 0, end: 1, payload: Payload::Rows(rows) };
        let parquet = Decoder::new(&def).unwrap().decode(chunk).unwrap();
        let seen = parquet.rows.column(0).as_primitive::<TimestampMicrosecondType>().value(0);
        assert_eq!(seen.div_euclid(1_000_000), expected.div_euclid(1_000_000), "{unit:?}");
    }
}

#[test]
fn an_empty_chunk_decodes_to_no_rows() {
    let def = source(vec![column("a", DataType::Float64), column("d", DataType::Decimal128(5, 1))]);
    let decoded = Decoder::new(&def).unwrap().decode(chunk(Records::default())).unwrap();
    assert_eq!((decoded.rows.num_rows(), decoded.rows.schema()), (0, def.schema()));
    assert!(decoded.rows.column(0).as_primitive_opt::<Float64Type>().is_some());
    assert!(decoded.rows.column(1).as_primitive_opt::<Decimal128Type>().is_some());
}
