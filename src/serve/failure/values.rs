//! SQLSTATEs of errors in values, derived from the messages of DataFusion and Arrow, which have no codes.

use crate::error::{OF_CONDITION, SqlState};

/// Phrases of messages with their SQLSTATE, the most specific first. All phrases of an entry must occur.
const MARKS: &[(&[&str], SqlState)] = &[
    (&["resourcesexhausted"], SqlState::OUT_OF_MEMORY),
    (&["sqlstate(\"53200\")"], SqlState::OUT_OF_MEMORY),
    (&["sqlstate(\"54000\")"], SqlState::LIMIT),
    (&["sqlstate(\"57014\")"], SqlState::CANCELLED),
    (&["regular expression"], SqlState::REGEX),
    (&["regex parse error"], SqlState::REGEX),
    (&["compiled regex exceeds"], SqlState::REGEX),
    (&["regexp", "compile"], SqlState::REGEX),
    (&["divide by zero"], SqlState::DIVISION_BY_ZERO),
    (&["division by zero"], SqlState::DIVISION_BY_ZERO),
    (&["dividebyzero"], SqlState::DIVISION_BY_ZERO),
    (&["negative substring length"], SqlState::SUBSTRING),
    (&["negative count not allowed"], SqlState::SUBSTRING),
    (&["string size overflow"], SqlState::LIMIT),
    (&["offset overflow"], SqlState::LIMIT),
    (&["requested length", "too large"], SqlState::LIMIT),
    (&["granularity"], SqlState::PARAMETER),
    (&["date part", "not supported"], SqlState::PARAMETER),
    (&["stride"], SqlState::PARAMETER),
    (&["must not be zero"], SqlState::PARAMETER),
    (&["not allowed"], SqlState::PARAMETER),
    (&["out-of-domain"], SqlState::PARAMETER),
    (&["negative number"], SqlState::PARAMETER),
    (&["invalid timezone"], SqlState::PARAMETER),
    (&["unicode scalar value"], SqlState::PARAMETER),
    (&["no built-in encoding"], SqlState::PARAMETER),
    (&["failed to decode"], SqlState::PARAMETER),
    (&["unsupported type", "arrow type name"], SqlState::PARAMETER),
    (&["value", "is out of range", "day"], SqlState::DATETIME_RANGE),
    (&["value", "is out of range", "month"], SqlState::DATETIME_RANGE),
    (&["value", "is out of range", "hour"], SqlState::DATETIME_RANGE),
    (&["value", "is out of range", "minute"], SqlState::DATETIME_RANGE),
    (&["value", "is out of range", "second"], SqlState::DATETIME_RANGE),
    (&["unable to parse date from"], SqlState::DATETIME_RANGE),
    (&["unable to parse time from"], SqlState::DATETIME_RANGE),
    (&["timestamp", "out of range"], SqlState::DATETIME_RANGE),
    (&["timestamp", "overflow"], SqlState::DATETIME_RANGE),
    (&["interval", "overflow"], SqlState::DATETIME_RANGE),
    (&["date", "overflow"], SqlState::DATETIME_RANGE),
    (&["number out of range", "date"], SqlState::DATETIME_RANGE),
    (&["invalid timestamp value"], SqlState::DATETIME_RANGE),
    (&["can't cast value"], SqlState::OUT_OF_RANGE),
    (&["overflow"], SqlState::OUT_OF_RANGE),
    (&["out of range"], SqlState::OUT_OF_RANGE),
    (&["too large"], SqlState::OUT_OF_RANGE),
    (&["exceed", "precision"], SqlState::OUT_OF_RANGE),
    (&["too large to store"], SqlState::OUT_OF_RANGE),
];

/// Names of date and time types in messages.
const TIMES: [&str; 8] =
    ["timestamp", "date32", "date64", "time32", "time64", "interval", "error parsing date", "chrono"];
const INTEGERS: [&str; 8] = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"];

/// The SQLSTATE that `message` implies; [`SqlState::DATA`] by default.
pub fn state_of(message: &str) -> SqlState {
    let message = message.to_lowercase();
    let says = |text: &str| message.contains(text);
    if let Some((_, state)) = MARKS.iter().find(|(marks, _)| marks.iter().all(|mark| says(mark))) {
        return *state;
    }
    if !["cast", "pars", "cannot convert", "could not convert"].iter().any(|mark| says(mark)) {
        return SqlState::DATA;
    }
    let text = message.split('\'').nth(1).unwrap_or_default();
    if TIMES.iter().any(|kind| says(kind)) {
        // The digits have the right form, but such a day or hour does not exist.
        let is_written_well = text.bytes().take(4).filter(u8::is_ascii_digit).count() == 4 && text.contains(['-', ':']);
        return if is_written_well { SqlState::DATETIME_RANGE } else { SqlState::DATETIME_FORMAT };
    }
    let is_whole = !text.is_empty() && text.trim_start_matches(['-', '+']).bytes().all(|byte| byte.is_ascii_digit());
    if is_whole && INTEGERS.iter().any(|kind| says(kind)) { SqlState::OUT_OF_RANGE } else { SqlState::INVALID_TEXT }
}

/// The error of a condition that was computed while a Parquet file was read; `None` if the file caused it.
///
/// DataFusion's reader passes its error on as text: this prefix, and the error in Rust's debug form.
pub fn of_condition(message: &str) -> Option<(SqlState, String)> {
    let (_, shown) = message.split_once(OF_CONDITION)?;
    let quoted = shown.split_once('"').map(|(_, rest)| rest);
    let mut text = String::new();
    let mut letters = quoted.unwrap_or(shown).chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted.is_some() => break,
            '\\' => match letters.next() {
                Some('n') => text.push('\n'),
                Some(other) => text.push(other),
                None => {}
            },
            other => text.push(other),
        }
    }
    Some((state_of(shown), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_in_a_file_is_not_the_file() {
        let text = "External: Compute error: Error evaluating filter predicate: ArrowError(ComputeError(\"Regular expression did not compile: \\\"a\\\"\"), None)";
        assert_eq!(of_condition(text), Some((SqlState::REGEX, "Regular expression did not compile: \"a\"".to_owned())));
        let ours = "Error evaluating filter predicate: External(Error { inner: Inner { message: \"too large\", state: Some(SqlState(\"54000\")) } })";
        assert_eq!(of_condition(ours).unwrap().0, SqlState::LIMIT);
        assert_eq!(of_condition("EOF: 3 bytes are missing"), None);
    }

    #[test]
    fn messages_have_their_states() {
        for (message, state) in [
            ("Cast error: Can't cast value 300 to type Int8", SqlState::OUT_OF_RANGE),
            ("Cast error: Cannot cast string '300' to value of Int8 type", SqlState::OUT_OF_RANGE),
            ("Cast error: Cannot cast string 'x' to value of Int8 type", SqlState::INVALID_TEXT),
            ("Cast error: Cannot cast string '' to value of Int8 type", SqlState::INVALID_TEXT),
            ("Cast error: Cannot cast string 'x' to value of Date32 type", SqlState::DATETIME_FORMAT),
            ("Parser error: Error parsing timestamp from '2026-13-45': error parsing date", SqlState::DATETIME_RANGE),
            ("Arithmetic overflow: Overflow happened on: 127 + 1", SqlState::OUT_OF_RANGE),
            ("something else", SqlState::DATA),
        ] {
            assert_eq!(state_of(message), state, "{message}");
        }
    }
}
