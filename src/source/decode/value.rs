//! One JSON value into one column.
//!
//! On an error the cursor may be anywhere and the column may hold part of the value: the caller truncates the column and
//! moves on. Rules: numbers and booleans become STRING as their source text, arrays and objects as their JSON text; a string
//! is accepted as a number only in DECIMAL columns, and as `NaN` or an infinity in FLOAT and DOUBLE columns; BINARY is
//! base64; a TIMESTAMP is a string or a number since 1970 UTC, in milliseconds unless the source's options differ.

use super::column::{Bytes, Column, List, Map, Struct, Values};
use super::entries::MapEntries;
use super::fault::{Fault, Outcome};
use super::number::{self, Excess};
use super::scan::{Cursor, Text};
use super::{text, timestamp};
use crate::catalog::TimestampUnit;

/// Appends the value at the cursor, which is not `null`, and moves past it.
#[inline(always)]
pub(super) fn append(column: &mut Column, cursor: &mut Cursor<'_>) -> Outcome {
    let first = cursor.peek();
    match column {
        Column::Utf8(column) => append_string(column, cursor, first),
        Column::Float64(column) => {
            let value = match first {
                b'-' | b'0'..=b'9' => {
                    let number = cursor.number()?;
                    number::to_f64(&number, cursor.data)?
                }
                b'"' => special_float(cursor)?,
                _ => return Err(Fault::WrongType),
            };
            column.values.push(value);
            Ok(())
        }
        Column::Timestamp(column, _, unit) => {
            let value = match first {
                b'"' => with_text(cursor, timestamp::parse_timestamp)?,
                b'-' | b'0'..=b'9' => {
                    let number = cursor.number()?;
                    instant(&number, cursor.data, *unit)?
                }
                _ => return Err(Fault::WrongType),
            };
            column.values.push(value);
            Ok(())
        }
        Column::Boolean(column) => append_boolean(column, cursor, first),
        Column::Int32(column) => append_integer(column, cursor, first),
        Column::Int64(column) => append_integer(column, cursor, first),
        other => append_rarer(other, cursor, first),
    }
}

#[inline(never)]
fn append_rarer(column: &mut Column, cursor: &mut Cursor<'_>, first: u8) -> Outcome {
    match column {
        Column::Int8(column) => append_integer(column, cursor, first)?,
        Column::Int16(column) => append_integer(column, cursor, first)?,
        Column::Float32(column) => {
            let value = match first {
                b'-' | b'0'..=b'9' => number::to_f32(&cursor.number()?, cursor.data)?,
                b'"' => special_float(cursor)? as f32,
                _ => return Err(Fault::WrongType),
            };
            column.values.push(value);
        }
        Column::Date(column) => {
            if first != b'"' {
                return Err(Fault::WrongType);
            }
            column.values.push(with_text(cursor, timestamp::parse_date)?);
        }
        Column::Decimal(column, precision, scale) => {
            let value = match first {
                b'-' | b'0'..=b'9' => {
                    let number = cursor.number()?;
                    number::to_scaled(&number, cursor.data, *scale, Excess::Refuse)?
                }
                b'"' => with_text(cursor, |text| decimal_text(text, *scale))?,
                _ => return Err(Fault::WrongType),
            };
            column.values.push(within_precision(value, *precision)?);
        }
        Column::Binary(column) => {
            if first != b'"' {
                return Err(Fault::WrongType);
            }
            with_text(cursor, |text| text::base64_into(text, &mut column.data))?;
            column.end_value();
        }
        Column::List(column) => return append_list(column, cursor, first),
        Column::Map(column) => return append_map(column, cursor, first),
        Column::Struct(column) => return append_struct(column, cursor, first),
        // `append` reads the other types.
        _ => return Err(Fault::WrongType),
    }
    Ok(())
}

/// Appends the value at the cursor, or a null if that is allowed.
fn append_nullable(column: &mut Column, nullable: bool, cursor: &mut Cursor<'_>) -> Outcome {
    if cursor.peek() != b'n' {
        return append(column, cursor);
    }
    cursor.word(b"null")?;
    if !nullable {
        return Err(Fault::Null);
    }
    column.push_null();
    Ok(())
}

#[inline(always)]
fn append_string(column: &mut Bytes, cursor: &mut Cursor<'_>, first: u8) -> Outcome {
    if first != b'"' {
        return append_source_text(column, cursor);
    }
    match cursor.string()? {
        Text::Plain(start, end) => column.push_slice(cursor.data, start, end),
        Text::Escaped(start, end) => {
            text::unescape_into(&cursor.data[start..end], &mut column.data)?;
            column.end_value();
        }
    }
    Ok(())
}

#[inline(never)]
fn append_source_text(column: &mut Bytes, cursor: &mut Cursor<'_>) -> Outcome {
    let start = cursor.pos;
    cursor.skip_value()?;
    column.push(&cursor.data[start..cursor.pos]);
    Ok(())
}

#[inline(always)]
fn append_boolean(column: &mut Values<bool>, cursor: &mut Cursor<'_>, first: u8) -> Outcome {
    let value = match first {
        b't' => cursor.word(b"true").map(|()| true)?,
        b'f' => cursor.word(b"false").map(|()| false)?,
        _ => return Err(Fault::WrongType),
    };
    column.values.push(value);
    Ok(())
}

#[inline(always)]
fn append_integer<T: TryFrom<i64>>(column: &mut Values<T>, cursor: &mut Cursor<'_>, first: u8) -> Outcome {
    if first != b'-' && !first.is_ascii_digit() {
        return Err(Fault::WrongType);
    }
    let number = cursor.number()?;
    let value = number::to_i64(&number, cursor.data)?;
    column.values.push(T::try_from(value).map_err(|_| Fault::OutOfRange)?);
    Ok(())
}

/// Calls `read` with the value of the string at the cursor.
#[inline(always)]
fn with_text<T>(cursor: &mut Cursor<'_>, read: impl FnOnce(&[u8]) -> Outcome<T>) -> Outcome<T> {
    match cursor.string()? {
        Text::Plain(start, end) => read(&cursor.data[start..end]),
        Text::Escaped(start, end) => {
            let mut value = Vec::new();
            text::unescape_into(&cursor.data[start..end], &mut value)?;
            read(&value)
        }
    }
}

/// Doubles that JSON has no number for, from their strings.
#[inline(never)]
fn special_float(cursor: &mut Cursor<'_>) -> Outcome<f64> {
    with_text(cursor, |text| match text {
        b"NaN" => Ok(f64::NAN),
        b"Infinity" | b"+Infinity" => Ok(f64::INFINITY),
        b"-Infinity" => Ok(f64::NEG_INFINITY),
        _ => Err(Fault::WrongType),
    })
}

/// A number of `unit` since 1970 in microseconds; finer digits are truncated.
#[inline(always)]
pub(super) fn instant(number: &number::Number, data: &[u8], unit: TimestampUnit) -> Outcome<i64> {
    if unit == TimestampUnit::Millis && !number.fractional && number.digits <= 15 {
        let micros = number.mantissa as i64 * 1_000;
        return Ok(if number.negative { -micros } else { micros });
    }
    rarer_instant(number, data, unit)
}

#[inline(never)]
fn rarer_instant(number: &number::Number, data: &[u8], unit: TimestampUnit) -> Outcome<i64> {
    let unit = match unit {
        TimestampUnit::Auto => unit.of(number::to_scaled(number, data, 0, Excess::Floor)?),
        known => known,
    };
    i64::try_from(number::to_scaled(number, data, unit.scale(), Excess::Floor)?).map_err(|_| Fault::OutOfRange)
}

/// The decimal in `text`, times 10^`scale`.
pub(super) fn decimal_text(text: &[u8], scale: i8) -> Outcome<i128> {
    let number = number::scan(text, 0).map_err(|_| Fault::BadText)?;
    if number.end != text.len() {
        return Err(Fault::BadText);
    }
    number::to_scaled(&number, text, scale, Excess::Refuse)
}

/// The unscaled value. Errors: it has more than `precision` digits.
pub(super) fn within_precision(value: i128, precision: u8) -> Outcome<i128> {
    let limit = 10i128.checked_pow(u32::from(precision)).unwrap_or(i128::MAX);
    if value.unsigned_abs() < limit.unsigned_abs() { Ok(value) } else { Err(Fault::OutOfRange) }
}

fn append_list(column: &mut List, cursor: &mut Cursor<'_>, first: u8) -> Outcome {
    if first != b'[' {
        return Err(Fault::WrongType);
    }
    let nullable = column.field.is_nullable();
    cursor.enter()?;
    if cursor.peek() == b']' {
        cursor.leave();
    } else {
        loop {
            cursor.take_room(1)?;
            append_nullable(&mut column.items, nullable, cursor)?;
            if !cursor.next_or(b']')? {
                break;
            }
        }
    }
    column.offsets.push(column.items.len() as i32);
    Ok(())
}

fn append_map(column: &mut Map, cursor: &mut Cursor<'_>, first: u8) -> Outcome {
    // The last of equal keys wins, so the positions of all values are determined before the first is read.
    let mut entries = MapEntries::new(cursor.data);
    let depth = cursor.depth() + 1;
    each_field(cursor, first, |text, key, cursor| {
        if entries.put(text, key, cursor.pos) {
            cursor.take_room(2)?;
        }
        cursor.skip_value()
    })?;
    let end = cursor.pos;
    for entry in &entries.entries {
        cursor.rewind(entry.value as usize, depth);
        append_nullable(&mut column.values, column.pair[1].is_nullable(), cursor)?;
        column.keys.push(entries.key(entry));
    }
    cursor.rewind(end, depth - 1);
    column.offsets.push(column.values.len() as i32);
    Ok(())
}

fn append_struct(column: &mut Struct, cursor: &mut Cursor<'_>, first: u8) -> Outcome {
    cursor.take_room(column.width)?;
    let (fields, columns, row) = (&column.fields, &mut column.columns, column.len);
    let names = &column.names;
    // The fields found under their exact name, which wins over a name that differs in case.
    let mut exact = vec![false; fields.len()];
    each_field(cursor, first, |_, key, cursor| {
        let same = |index: usize| fields[index].name().as_bytes().eq_ignore_ascii_case(key);
        let found = names.find(key, same).filter(|(index, by_name)| *by_name || !exact[*index]);
        let Some((index, by_name)) = found else {
            return cursor.skip_value();
        };
        exact[index] = by_name;
        columns[index].truncate(row);
        append_nullable(&mut columns[index], true, cursor)
    })?;
    for (field, inner) in fields.iter().zip(columns.iter_mut()) {
        if inner.len() == row {
            inner.push_null();
        }
        if !field.is_nullable() && inner.last_is_null() {
            return Err(Fault::Null);
        }
    }
    column.len += 1;
    Ok(())
}

/// Calls `read` for each field of the object at the cursor, with the key's text, the unescaped key, and the cursor at its
/// value.
fn each_field(
    cursor: &mut Cursor<'_>,
    first: u8,
    mut read: impl FnMut(Text, &[u8], &mut Cursor<'_>) -> Outcome,
) -> Outcome {
    if first != b'{' {
        return Err(Fault::WrongType);
    }
    cursor.enter()?;
    if cursor.peek() == b'}' {
        cursor.leave();
        return Ok(());
    }
    let mut unescaped = Vec::new();
    loop {
        if cursor.peek() != b'"' {
            return Err(Fault::Syntax("a field name is missing"));
        }
        let name = cursor.string()?;
        cursor.colon()?;
        match name {
            Text::Plain(start, end) => read(name, &cursor.data[start..end], cursor)?,
            Text::Escaped(start, end) => {
                unescaped.clear();
                text::unescape_into(&cursor.data[start..end], &mut unescaped)?;
                read(name, &unescaped, cursor)?;
            }
        }
        if !cursor.next_or(b'}')? {
            return Ok(());
        }
    }
}
