//! CSV records into columns: fields separated by commas and quoted by `"`, with `""` for a quote, unless the source's
//! options differ.
//!
//! An empty unquoted field is null; if the option for null is another text, an empty field is an empty string. Arrays, maps
//! and structs are written as JSON. Fields are assigned to columns by the header's names if there is a header (files), else
//! by position.

use super::column::{Bytes, Column, Values};
use super::fault::{Fault, Outcome};
use super::json::Blame;
use super::number::{self, Excess, Number};
use super::scan::{Cursor, PAD};
use super::{text, timestamp, value};
use crate::catalog::{CsvDialect, TimestampUnit};

const WRONG_WIDTH: Fault = Fault::Syntax("the line has another number of fields than there should be");

/// Decodes the records of one chunk, one after the other.
#[derive(Debug)]
pub(super) struct CsvRows<'a> {
    nullable: &'a [bool],
    /// The columns so far; between records all have the same length.
    pub(super) columns: Vec<Column>,
    /// The field of each payload column.
    sources: Vec<Option<usize>>,
    /// The number of fields in a record.
    width: usize,
    fields: Fields<'a>,
    row: usize,
}

/// The fields of one line; the buffers are reused for the next.
#[derive(Debug)]
struct Fields<'a> {
    dialect: &'a CsvDialect,
    data: Vec<u8>,
    /// The end of each field in `data`.
    ends: Vec<usize>,
    quoted: Vec<bool>,
}

impl<'a> CsvRows<'a> {
    /// A decoder into `columns`, which are empty and read the fields `names`; `header` is empty if there is none.
    pub(super) fn new(
        names: &[String],
        nullable: &'a [bool],
        columns: Vec<Column>,
        header: &[u8],
        dialect: &'a CsvDialect,
    ) -> Outcome<Self> {
        let mut fields = Fields { dialect, data: Vec::new(), ends: Vec::new(), quoted: Vec::new() };
        let (sources, width) = if header.is_empty() {
            ((0..names.len()).map(Some).collect(), names.len())
        } else {
            fields.split(header, usize::MAX)?;
            let titles: Vec<String> =
                (0..fields.len()).map(|index| String::from_utf8_lossy(fields.get(index)).trim().to_owned()).collect();
            let sources = names.iter().map(|name| {
                let exact = titles.iter().position(|title| title == name);
                exact.or_else(|| titles.iter().position(|title| title.to_lowercase() == name.to_lowercase()))
            });
            (sources.collect(), titles.len())
        };
        Ok(Self { nullable, columns, sources, width, fields, row: 0 })
    }

    /// True if no column has a field.
    pub(super) fn reads_nothing(&self) -> bool {
        !self.sources.is_empty() && self.sources.iter().all(Option::is_none)
    }

    /// The field of `column` in the last record.
    pub(super) fn field_of(&self, column: usize) -> &[u8] {
        self.sources[column].filter(|field| *field < self.fields.len()).map_or(&[], |field| self.fields.get(field))
    }

    /// Appends the record `line` as a row. On an error nothing is appended.
    pub(super) fn record(&mut self, line: &[u8]) -> Result<(), Blame> {
        let outcome = self.append(line);
        match outcome {
            Ok(()) => self.row += 1,
            Err(_) => self.columns.iter_mut().for_each(|column| column.truncate(self.row)),
        }
        outcome
    }

    fn append(&mut self, line: &[u8]) -> Result<(), Blame> {
        let whole = |fault| Blame { column: None, fault, at: 0 };
        self.fields.split(line, self.width).map_err(whole)?;
        if self.fields.len() != self.width {
            return Err(whole(WRONG_WIDTH));
        }
        for (index, column) in self.columns.iter_mut().enumerate() {
            let blame = |fault| Blame { column: Some(index), fault, at: 0 };
            match self.sources[index] {
                None if self.nullable[index] => column.push_null(),
                None => return Err(blame(Fault::Missing)),
                Some(field) if self.fields.is_null(field, column) => {
                    if !self.nullable[index] {
                        return Err(blame(Fault::Null));
                    }
                    column.push_null();
                }
                Some(field) => append_text(column, self.fields.get(field)).map_err(blame)?,
            }
        }
        Ok(())
    }
}

impl Fields<'_> {
    fn len(&self) -> usize {
        self.ends.len()
    }

    fn get(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.data[start..self.ends[index]]
    }

    fn is_null(&self, index: usize, column: &Column) -> bool {
        let (text, null) = (self.get(index), self.dialect.null.as_bytes());
        // In a file of one column an empty line is no record, so a blank is written for null.
        let is_blank_line = text == b" " && self.len() == 1;
        !self.quoted[index] && (text == null || is_blank_line || text.is_empty() && !matches!(column, Column::Utf8(_)))
    }

    /// Splits a line. One with more than `most` fields is refused at once, since it may have millions.
    fn split(&mut self, line: &[u8], most: usize) -> Outcome {
        self.data.clear();
        self.ends.clear();
        self.quoted.clear();
        let mut rest = line;
        loop {
            if self.ends.len() == most {
                return Err(WRONG_WIDTH);
            }
            let quoted = self.dialect.quote.is_some() && rest.first().copied() == self.dialect.quote;
            rest = if quoted { self.quoted_field(&rest[1..])? } else { self.plain_field(rest)? };
            self.ends.push(self.data.len());
            self.quoted.push(quoted);
            match rest {
                [] => return Ok(()),
                [next, after @ ..] if *next == self.dialect.delimiter => rest = after,
                _ => return Err(Fault::Syntax("a quoted field is followed by something else")),
            }
        }
    }

    fn plain_field<'l>(&mut self, rest: &'l [u8]) -> Outcome<&'l [u8]> {
        let end = memchr::memchr(self.dialect.delimiter, rest).unwrap_or(rest.len());
        if self.dialect.quote.is_some_and(|quote| memchr::memchr(quote, &rest[..end]).is_some()) {
            return Err(Fault::Syntax("a quote inside a field that does not begin with one"));
        }
        self.data.extend_from_slice(&rest[..end]);
        Ok(&rest[end..])
    }

    fn quoted_field<'l>(&mut self, mut rest: &'l [u8]) -> Outcome<&'l [u8]> {
        let quote = self.dialect.quote.unwrap_or(b'"');
        let escape = self.dialect.escape.unwrap_or(quote);
        loop {
            let end = memchr::memchr2(quote, escape, rest).ok_or(Fault::Syntax("a quoted field does not end"))?;
            self.data.extend_from_slice(&rest[..end]);
            let (found, after) = (rest[end], &rest[end + 1..]);
            match after.first() {
                // `""`, or an escape before a quote or an escape; an escape before anything else stands for itself.
                Some(next) if found == escape && (*next == quote || *next == escape) => {
                    self.data.push(*next);
                    rest = &after[1..];
                }
                _ if found == quote => return Ok(after),
                _ => {
                    self.data.push(found);
                    rest = after;
                }
            }
        }
    }
}

/// Appends the value of `text`. On an error the column may hold part of it.
fn append_text(column: &mut Column, text: &[u8]) -> Outcome {
    match column {
        Column::Utf8(column) => column.push(text),
        Column::Boolean(column) => column.values.push(boolean(text)?),
        Column::Int8(column) => integer(column, text)?,
        Column::Int16(column) => integer(column, text)?,
        Column::Int32(column) => integer(column, text)?,
        Column::Int64(column) => integer(column, text)?,
        Column::Float32(column) => column.values.push(float(text, |value: &f32| value.is_infinite())?),
        Column::Float64(column) => column.values.push(float(text, |value: &f64| value.is_infinite())?),
        Column::Date(column) => column.values.push(timestamp::parse_date(text)?),
        Column::Timestamp(column, _, unit) => column.values.push(instant(text, *unit)?),
        Column::Decimal(column, precision, scale) => {
            column.values.push(value::within_precision(scaled(text, *scale)?, *precision)?);
        }
        Column::Binary(column) => binary(column, text)?,
        nested @ (Column::List(_) | Column::Map(_) | Column::Struct(_)) => json(nested, text)?,
    }
    Ok(())
}

fn boolean(text: &[u8]) -> Outcome<bool> {
    match text {
        _ if text.eq_ignore_ascii_case(b"true") => Ok(true),
        _ if text.eq_ignore_ascii_case(b"false") => Ok(false),
        _ => Err(Fault::BadText),
    }
}

fn integer<T: TryFrom<i64>>(column: &mut Values<T>, text: &[u8]) -> Outcome {
    let value = i64::try_from(scaled(text, 0)?).map_err(|_| Fault::OutOfRange)?;
    column.values.push(T::try_from(value).map_err(|_| Fault::OutOfRange)?);
    Ok(())
}

fn scaled(text: &[u8], scale: i8) -> Outcome<i128> {
    with_number(text, |number, text| number::to_scaled(number, text, scale, Excess::Refuse))
}

/// Calls `read` with the number in `text`. Also accepts the forms of spreadsheets and fixed-width programs: `+5`, `007`,
/// `.5`, `5.`.
fn with_number<T>(text: &[u8], read: impl FnOnce(&Number, &[u8]) -> Outcome<T>) -> Outcome<T> {
    match number::scan(text, 0) {
        Ok(number) if number.end == text.len() => return read(&number, text),
        _ => {}
    }
    let (sign, digits): (&[u8], _) = match text {
        [b'-', rest @ ..] => (b"-", rest),
        [b'+', rest @ ..] => (b"", rest),
        _ => (b"", text),
    };
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    let begins_well = digits.first().is_some_and(|first| first.is_ascii_digit() || *first == b'.');
    let some = begins_well && digits.iter().any(u8::is_ascii_digit);
    let kept = digits[zeros..].strip_suffix(b".").unwrap_or(&digits[zeros..]);
    let whole: &[u8] = if kept.first().is_some_and(u8::is_ascii_digit) { b"" } else { b"0" };
    let plain = [sign, whole, kept].concat();
    let number = number::scan(&plain, 0).map_err(|_| Fault::BadText)?;
    if number.end == plain.len() && some { read(&number, &plain) } else { Err(Fault::BadText) }
}

/// Rust's own parsing, which accepts `NaN` and `Infinity`; digits must not become infinite.
fn float<T: std::str::FromStr>(text: &[u8], infinite: impl Fn(&T) -> bool) -> Outcome<T> {
    let value = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(Fault::BadText)?;
    if infinite(&value) && text.iter().any(u8::is_ascii_digit) { Err(Fault::OutOfRange) } else { Ok(value) }
}

fn instant(text: &[u8], unit: TimestampUnit) -> Outcome<i64> {
    if text.get(4) == Some(&b'-') {
        return timestamp::parse_timestamp(text);
    }
    with_number(text, |number, text| value::instant(number, text, unit))
}

fn binary(column: &mut Bytes, text: &[u8]) -> Outcome {
    text::base64_into(text, &mut column.data)?;
    column.end_value();
    Ok(())
}

fn json(column: &mut Column, text: &[u8]) -> Outcome {
    let mut padded = text.to_vec();
    padded.resize(text.len() + PAD, 0);
    let mut cursor = Cursor::new(&padded, 0);
    cursor.skip_whitespace();
    value::append(column, &mut cursor)
        .map_err(|fault| if let Fault::Syntax(_) = fault { Fault::BadText } else { fault })?;
    cursor.skip_whitespace();
    if cursor.pos == text.len() { Ok(()) } else { Err(Fault::BadText) }
}
