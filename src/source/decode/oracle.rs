//! Compares the decoder with serde_json and arrow-json, on random records and random damage.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType};
use proptest::prelude::*;
use serde_json::Value;

use super::Decoder;
use super::tests::{chunk, column, records, source, timestamp};
use crate::catalog::SourceDef;

fn definition() -> SourceDef {
    source(vec![
        column("id", DataType::Utf8),
        column("amount", DataType::Float64),
        column("count", DataType::Int64),
        column("ok", DataType::Boolean),
        column("ts", timestamp()),
    ])
}

/// A row of [`definition`]; doubles are bits, so that -0 and 0 differ.
#[derive(Debug, PartialEq)]
struct Row {
    id: Option<String>,
    amount: Option<u64>,
    count: Option<i64>,
    ok: Option<bool>,
    ts: Option<i64>,
}

/// A slow implementation of the same rules over serde_json's values. `Err(true)` if serde_json cannot represent the record.
fn reference(payload: &[u8]) -> Result<Row, bool> {
    let value: Value = serde_json::from_slice(payload).map_err(|error| error.to_string().contains("out of range"))?;
    let Value::Object(fields) = value else { return Err(false) };
    let alike = |name: &str| fields.keys().filter(|key| key.eq_ignore_ascii_case(name)).count();
    if ["id", "amount", "count", "ok", "ts"].iter().any(|name| !fields.contains_key(*name) && alike(name) > 1) {
        // serde_json does not keep the order of the fields, on which the last one wins.
        return Err(true);
    }
    let get = |name: &str| {
        let exact = fields.get(name);
        exact.or_else(|| fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
    };
    Ok(Row {
        id: match get("id") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text.clone()),
            Some(other) => Some(other.to_string()),
        },
        amount: match get("amount") {
            None | Some(Value::Null) => None,
            Some(Value::Number(number)) => Some(number.to_string().parse::<f64>().map_err(|_| false)?.to_bits()),
            Some(Value::String(text)) if text == "NaN" => Some(f64::NAN.to_bits()),
            Some(Value::String(text)) if text.ends_with("Infinity") => {
                Some(text.parse::<f64>().map_err(|_| false)?.to_bits())
            }
            Some(_) => return Err(false),
        },
        count: match get("count") {
            None | Some(Value::Null) => None,
            Some(Value::Number(number)) if number.is_f64() => {
                let value = number.as_f64().unwrap();
                if value.abs() >= 1e12 {
                    // A double may have lost the fraction that the decoder sees.
                    return Err(true);
                }
                if value.fract() != 0.0 {
                    return Err(false);
                }
                Some(value as i64)
            }
            Some(Value::Number(number)) => Some(number.as_i64().ok_or(false)?),
            Some(_) => return Err(false),
        },
        ok: match get("ok") {
            None | Some(Value::Null) => None,
            Some(other) => Some(other.as_bool().ok_or(false)?),
        },
        ts: match get("ts") {
            None | Some(Value::Null) => None,
            Some(Value::Number(number)) => Some(number.as_i64().ok_or(true)?.checked_mul(1_000).ok_or(false)?),
            Some(Value::String(text)) => Some(reference_instant(text).ok_or(false)?),
            Some(_) => return Err(false),
        },
    })
}

fn reference_instant(text: &str) -> Option<i64> {
    let instant = chrono::DateTime::parse_from_rfc3339(text).map(|instant| instant.to_utc()).ok();
    let plain = || {
        // chrono accepts spaces for digits.
        let digits = text.bytes().take(19).enumerate().all(|(at, byte)| match at {
            4 | 7 | 10 | 13 | 16 => true,
            _ => byte.is_ascii_digit(),
        });
        if !digits || text.len() < 19 {
            return None;
        }
        let forms = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f"];
        forms
            .iter()
            .find_map(|form| chrono::NaiveDateTime::parse_from_str(text, form).ok())
            .map(|naive| naive.and_utc())
    };
    instant.or_else(plain).map(|instant| instant.timestamp_micros())
}

fn ours(payloads: &[Vec<u8>]) -> Vec<Option<Row>> {
    let decoded = Decoder::new(&definition()).unwrap().decode(chunk(records(payloads))).unwrap();
    let dead: Vec<i64> = decoded.dead.iter().map(|letter| letter.offset - 100).collect();
    let rows = &decoded.rows;
    assert_eq!(rows.num_rows() + dead.len(), payloads.len());
    for column in rows.columns() {
        column.to_data().validate_full().unwrap();
    }
    let mut next = 0;
    let mut row = || {
        let at = next;
        next += 1;
        let valid = |column: usize| rows.column(column).is_valid(at);
        Row {
            id: valid(0).then(|| rows.column(0).as_string::<i32>().value(at).to_owned()),
            amount: valid(1).then(|| rows.column(1).as_primitive::<Float64Type>().value(at).to_bits()),
            count: valid(2).then(|| rows.column(2).as_primitive::<Int64Type>().value(at)),
            ok: valid(3).then(|| rows.column(3).as_boolean().value(at)),
            ts: valid(4).then(|| rows.column(4).as_primitive::<TimestampMicrosecondType>().value(at)),
        }
    };
    (0..payloads.len() as i64).map(|index| (!dead.contains(&index)).then(&mut row)).collect()
}

fn any_double() -> impl Strategy<Value = f64> {
    prop_oneof![any::<f64>().prop_filter("finite", |value| value.is_finite()), -1e6..1e6, Just(-0.0), Just(5e-324)]
}

fn field() -> impl Strategy<Value = String> {
    let text = prop_oneof![any::<String>(), "[a-z\"\\\\/\n ]{0,40}", Just("😀\u{0}".to_owned())];
    let string = text.prop_map(|text| serde_json::to_string(&text).unwrap());
    prop_oneof![
        4 => string.clone().prop_map(|text| format!("\"id\":{text}")),
        4 => any_double().prop_map(|value| format!("\"amount\":{value:?}")),
        2 => "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,25})?([eE][+-]?[0-9]{1,2})?".prop_map(|n| format!("\"amount\" : {n}")),
        3 => any::<i64>().prop_map(|value| format!("\"count\":{value}")),
        1 => "-?(0|[1-9][0-9]{0,20})(\\.[05]{1,3})?".prop_map(|value| format!("\"count\":{value}")),
        3 => any::<bool>().prop_map(|value| format!("\t\"ok\":{value}")),
        3 => "20[0-9]{2}-(0[1-9]|1[0-2])-[0-3][0-9][T ][0-2][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]0[0-9]:[0-5]0)?"
            .prop_map(|text| format!("\"ts\":\"{text}\"")),
        2 => (-(1i64 << 50)..1 << 50).prop_map(|value| format!("\"ts\":{value}")),
        1 => Just("\"COUNT\":12".to_owned()),
        1 => Just("\"ok\":null".to_owned()),
        2 => string.prop_map(|text| format!("{text}:[{{\"x\":[1,-2.5e3,true,null]}},{{}},[]]")),
    ]
}

fn record() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(field(), 0..8).prop_map(|fields| format!("{{{}}}", fields.join(",")).into_bytes())
}

fn damage() -> impl Strategy<Value = Option<(usize, u8, bool)>> {
    prop::option::of((any::<usize>(), any::<u8>(), any::<bool>()))
}

fn damaged(mut record: Vec<u8>, damage: Option<(usize, u8, bool)>) -> Vec<u8> {
    match damage {
        Some((at, byte, true)) => {
            let at = at % record.len();
            record[at] ^= if byte % 2 == 0 { 1 << (byte % 8) } else { byte };
        }
        Some((at, _, false)) => record.truncate(at % (record.len() + 1)),
        None => {}
    }
    record
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn decoding_agrees_with_serde_json_on_random_and_damaged_records(
        payloads in prop::collection::vec((record(), damage()), 1..12),
    ) {
        let payloads: Vec<Vec<u8>> = payloads.into_iter().map(|(record, harm)| damaged(record, harm)).collect();
        for (payload, own) in payloads.iter().zip(ours(&payloads)) {
            let text = String::from_utf8_lossy(payload).into_owned();
            match reference(payload) {
                Ok(mut expected) => {
                    let own = own.ok_or_else(|| TestCaseError::fail(format!("refused: {text}")))?;
                    // A number or object in a STRING keeps its source text, which serde_json does not keep.
                    let value: Value = serde_json::from_slice(payload).unwrap();
                    if !matches!(value.get("id"), Some(Value::String(_) | Value::Null) | None) {
                        expected.id.clone_from(&own.id);
                    }
                    // serde_json's float parsing may be off by some units; the next test compares doubles bit for bit.
                    if let (Some(a), Some(b)) = (expected.amount, own.amount) && a.abs_diff(b) <= 8 {
                        expected.amount = own.amount;
                    }
                    prop_assert_eq!(own, expected, "{}", text);
                }
                Err(true) => {}
                Err(false) => prop_assert!(own.is_none(), "taken: {} as {:?}", text, own),
            }
        }
    }

    #[test]
    fn doubles_equal_the_standard_library_bit_for_bit(
        text in "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,24})?([eE][+-]?[0-9]{1,3})?",
        value in any_double(),
    ) {
        for text in [text, format!("{value}"), format!("{value:e}"), format!("{value:.3}")] {
            let payload = format!("{{\"amount\":{text}}}").into_bytes();
            let expected: f64 = text.parse().unwrap();
            let own = ours(&[payload]).remove(0);
            prop_assert_eq!(own.map(|row| row.amount), expected.is_finite().then_some(Some(expected.to_bits())), "{}", text);
        }
    }
}

#[test]
fn good_transactions_decode_as_arrow_json_decodes_them() {
    let mut simulator = crate::lab::generator::Simulator::new(1, 200, 300);
    let rows = simulator.next_day().unwrap();
    let (lines, bounds) = crate::lab::generator::to_json_lines(&rows, Default::default()).unwrap();
    let def = source(
        [
            ("transaction_id", DataType::Utf8),
            ("user_id", DataType::Utf8),
            ("amount", DataType::Float64),
            ("ts", timestamp()),
        ]
        .into_iter()
        .map(|(name, data_type)| column(name, data_type))
        .collect(),
    );
    let mut reader = arrow_json::ReaderBuilder::new(def.schema()).with_batch_size(1 << 20).build(&lines[..]).unwrap();
    let expected = reader.next().unwrap().unwrap();
    let payloads: Vec<&[u8]> = bounds.windows(2).map(|pair| &lines[pair[0] as usize..pair[1] as usize]).collect();
    let decoded = Decoder::new(&def).unwrap().decode(chunk(records(&payloads))).unwrap();
    assert!(decoded.dead.is_empty() && decoded.rows.num_rows() > 100);
    assert_eq!(decoded.rows, expected);
}
