//! Records made to be slow or large: each becomes a row or a dead letter, in time linear in its length.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Field, Fields, Int64Type};
use proptest::prelude::*;

use super::fault::MAX_VALUES;
use super::plan::{Match, ObjectPlan};
use super::tests::{chunk, column, records, source};
use super::{Decoded, Decoder};
use crate::catalog::{Format, SourceDef};

/// Generous for a slow machine without optimisation; quadratic time would take minutes.
const TIME: Duration = Duration::from_secs(60);

fn map_of(value: DataType) -> DataType {
    let pair = vec![Field::new("key", DataType::Utf8, false), Field::new("value", value, true)];
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(pair.into()), false)), false)
}

fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("item", item, true)))
}

fn struct_of(width: usize) -> DataType {
    DataType::Struct((0..width).map(|n| Field::new(format!("f{n}"), DataType::Int64, true)).collect::<Fields>())
}

fn definition() -> SourceDef {
    source(vec![
        column("id", DataType::Int64),
        column("t", DataType::Utf8),
        column("d", DataType::Float64),
        column("n", DataType::Decimal128(38, 10)),
        column("a", list_of(DataType::Int64)),
        column("m", map_of(DataType::Int64)),
        column("mm", map_of(map_of(DataType::Int64))),
        column("s", list_of(struct_of(1_000))),
    ])
}

/// `text` repeated with a number in place of `#`, separated by commas.
fn many(count: usize, text: &str) -> String {
    let mut out = String::new();
    let (before, after) = text.split_once('#').unwrap_or((text, ""));
    for index in 0..count {
        if text.contains('#') {
            write!(out, "{before}{index}{after},").unwrap();
        } else {
            write!(out, "{text},").unwrap();
        }
    }
    out.pop();
    out
}

/// Decodes the record between two good ones, which must not be affected.
fn decode(def: &SourceDef, record: &str, name: &str) -> Decoded {
    let good = match def.format {
        Format::Csv => "7,x",
        _ => r#"{"id":7}"#,
    };
    let began = Instant::now();
    let decoded = Decoder::new(def).unwrap().decode(chunk(records(&[good, record, good]))).unwrap();
    assert!(began.elapsed() < TIME, "{name} took {:?}", began.elapsed());
    assert_eq!(decoded.rows.num_rows() + decoded.refused, 3, "{name}");
    let ids = decoded.rows.column(0).as_primitive::<Int64Type>();
    assert_eq!((ids.value(0), ids.value(ids.len() - 1)), (7, 7), "{name}");
    decoded
}

#[test]
fn records_with_many_keys_are_read_in_linear_time() {
    let def = definition();
    for (name, record) in [
        ("map of 400,000 keys", format!(r#"{{"id":1,"m":{{{}}}}}"#, many(400_000, r#""k#":1"#))),
        ("map of 400,000 escaped keys", format!(r#"{{"id":1,"m":{{{}}}}}"#, many(400_000, r#""\u006b#":1"#))),
        ("one key 1,000,000 times", format!(r#"{{"id":1,"m":{{{}}}}}"#, many(1_000_000, r#""k":1"#))),
        ("maps in a map", format!(r#"{{"id":1,"mm":{{"x":{{{}}}}}}}"#, many(400_000, r#""k#":1"#))),
        ("1,000,000 unknown fields", format!(r#"{{"id":1,{}}}"#, many(1_000_000, r#""k#":1"#))),
        ("one field 1,000,000 times", format!(r#"{{"id":1,{}}}"#, many(1_000_000, r#""t":"x""#))),
        ("one field in another case", format!(r#"{{"id":1,{}}}"#, many(1_000_000, r#""T":"x""#))),
        ("exact and another case", format!(r#"{{"t":"y",{},"id":1}}"#, many(1_000_000, r#""T":"x""#))),
        ("1,000,000 elements", format!(r#"{{"id":1,"a":[{}]}}"#, many(1_000_000, "1"))),
        ("escapes", format!(r#"{{"id":1,"t":"{}"}}"#, r"\u00e9".repeat(1_000_000))),
        ("0.000…1 as a double", format!(r#"{{"id":1,"d":0.{}1}}"#, "0".repeat(5_000_000))),
    ] {
        let decoded = decode(&def, &record, name);
        assert!(decoded.dead.is_empty(), "{name}: {:?}", decoded.dead[0].reason);
    }
}

#[test]
fn records_that_are_out_of_bounds_are_dead_letters_in_linear_time() {
    let def = definition();
    let limit = format!("more than {MAX_VALUES} values in the arrays, maps and structs of a record");
    let too_deep = "not valid JSON: nested too deeply";
    for (name, record, column, reason) in [
        ("5 MB of digits", format!(r#"{{"id":{}}}"#, "1".repeat(5_000_000)), Some("id"), "out of range for BIGINT"),
        ("0.000…1", format!(r#"{{"id":0.{}1}}"#, "0".repeat(5_000_000)), Some("id"), "BIGINT would lose digits"),
        ("a decimal", format!(r#"{{"n":{}}}"#, "1".repeat(5_000_000)), Some("n"), "out of range for DECIMAL"),
        ("5,000,000 elements", format!(r#"{{"id":1,"a":[{}]}}"#, many(5_000_000, "1")), Some("a"), &limit),
        ("2,100,000 keys", format!(r#"{{"id":1,"m":{{{}}}}}"#, many(2_100_000, r#""k#":1"#)), Some("m"), &limit),
        ("empty structs of 1,000 fields", format!(r#"{{"s":[{}]}}"#, many(10_000, "{}")), Some("s"), &limit),
        ("deep arrays", format!(r#"{{"z":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000)), None, too_deep),
        ("deep objects", format!(r#"{{"z":{}1{}}}"#, r#"{"x":"#.repeat(100_000), "}".repeat(100_000)), None, too_deep),
        ("deep in a text", format!(r#"{{"t":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000)), None, too_deep),
        ("open brackets", "[".repeat(5_000_000), None, "not valid JSON: JSON does not begin with an object"),
    ] {
        let decoded = decode(&def, &record, name);
        let [dead] = &decoded.dead[..] else { panic!("{name}: {} dead", decoded.dead.len()) };
        assert!(dead.reason.starts_with(reason), "{name}: {}", dead.reason);
        assert!(dead.reason.len() < 200, "{name}");
        assert_eq!((dead.offset, dead.column.as_deref()), (101, column), "{name}");
        assert_eq!(dead.payload.as_deref().map(<[u8]>::len), Some(record.len()), "{name}");
    }
}

#[test]
fn a_csv_line_of_millions_of_fields_is_refused_at_the_first_that_is_too_many() {
    let mut def = source(vec![column("id", DataType::Int64), column("t", DataType::Utf8)]);
    def.format = Format::Csv;
    let decoded = decode(&def, &",".repeat(10_000_000), "commas");
    assert!(decoded.dead[0].reason.contains("another number of fields"), "{}", decoded.dead[0].reason);
}

#[test]
fn a_name_beyond_those_that_are_expected_is_still_exact_or_not() {
    let def = definition();
    let filler = many(6_000, r#""k#":1"#);
    let exact_first = decode(&def, &format!(r#"{{"id":1,{filler},"t":"exact",{filler},"T":"other"}}"#), "exact first");
    assert_eq!(exact_first.rows.column(1).as_string::<i32>().value(1), "exact");
    let exact_last = decode(&def, &format!(r#"{{"id":1,{filler},"T":"other",{filler},"t":"exact"}}"#), "exact last");
    assert_eq!(exact_last.rows.column(1).as_string::<i32>().value(1), "exact");
    let alone = decode(&def, &format!(r#"{{"id":1,"T":"one",{filler},"T":"two"}}"#), "never exact");
    assert_eq!(alone.rows.column(1).as_string::<i32>().value(1), "two");
}

#[test]
fn many_names_are_found_as_few_are() {
    let odd = ["user_id", "USER_ID", "k", "\u{212a}", "stra\u{df}e", "\u{c4}rger", "\u{e4}rger", "\u{130}d", "x", "X"];
    let filler: Vec<String> = (0..40).map(|n| format!("f{n}")).collect();
    let names: Vec<&str> = odd.iter().copied().chain(filler.iter().map(String::as_str)).collect();
    let paths: Vec<Vec<String>> = names.iter().map(|name| vec![(*name).to_owned()]).collect();
    let (plan, _) = ObjectPlan::new(paths.iter().map(Vec::as_slice));
    let alike = |own: &str, name: &str| {
        own.eq_ignore_ascii_case(name) || !own.is_ascii() && own.to_lowercase() == name.to_lowercase()
    };
    for probe in
        odd.iter().chain(&["User_Id", "K", "STRASSE", "STRA\u{1e9e}E", "\u{c4}RGER", "i\u{307}d", "F7", "none"])
    {
        let exact = names.iter().position(|name| name == probe).map(|member| Match { member, exact: true });
        let other = || names.iter().position(|name| alike(name, probe)).map(|member| Match { member, exact: false });
        assert_eq!(plan.find(probe.as_bytes()), exact.or_else(other), "{probe}");
    }
}

proptest! {
    #[test]
    fn maps_of_few_and_many_keys_hold_the_last_value_of_each_in_order_of_appearance(
        keys in prop::collection::vec((0..60u32, any::<bool>()), 0..120)
    ) {
        let mut fields = Vec::new();
        let mut expected: Vec<(String, i64)> = Vec::new();
        for (value, (key, escaped)) in keys.iter().enumerate() {
            let prefix = if *escaped { r"\u006b" } else { "k" };
            fields.push(format!(r#""{prefix}{key}":{value}"#));
            let key = format!("k{key}");
            match expected.iter_mut().find(|(known, _)| *known == key) {
                Some((_, known)) => *known = value as i64,
                None => expected.push((key, value as i64)),
            }
        }
        let decoded = decode(&definition(), &format!(r#"{{"id":1,"m":{{{}}}}}"#, fields.join(",")), "a map");
        let entries = decoded.rows.column(5).as_map().value(1);
        let (keys, values) = (entries.column(0).as_string::<i32>(), entries.column(1).as_primitive::<Int64Type>());
        let found: Vec<(String, i64)> =
            keys.iter().flatten().map(str::to_owned).zip(values.values().iter().copied()).collect();
        prop_assert_eq!(found, expected);
    }
}
