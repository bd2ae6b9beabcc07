//! Rows as CSV that sources read back as the same values.
//!
//! Null is an empty field and an empty text is `""`; BINARY is base64, arrays, maps and structs are JSON.

use std::io::Write;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow_json::writer::make_encoder;

use crate::error::{Context, Result};
use crate::json;

/// Writes a header, then one line per row; quotes values only where needed.
pub struct CsvWriter<W: Write> {
    out: W,
    line: Vec<u8>,
}

impl<W: Write> CsvWriter<W> {
    /// Writes the header, the names of the columns.
    pub fn new(mut out: W, schema: &Schema) -> Result<Self> {
        let mut line = Vec::new();
        for (index, field) in schema.fields().iter().enumerate() {
            put(field.name().as_bytes(), index, &mut line);
        }
        line.push(b'\n');
        out.write_all(&line).environment(|| "write failed".to_owned())?;
        Ok(Self { out, line })
    }

    /// Appends rows.
    pub fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        let columns = rows.schema_ref().fields().iter().zip(rows.columns());
        let columns = columns.map(|(field, column)| texts(field, column.as_ref())).collect::<Result<Vec<_>>>()?;
        for row in 0..rows.num_rows() {
            self.line.clear();
            for (index, column) in columns.iter().enumerate() {
                match &column[row] {
                    Some(text) => put(text, index, &mut self.line),
                    None if index > 0 => self.line.push(b','),
                    // An empty line would not be read as a row.
                    None if columns.len() == 1 => self.line.push(b' '),
                    None => {}
                }
            }
            self.line.push(b'\n');
            self.out.write_all(&self.line).environment(|| "write failed".to_owned())?;
        }
        Ok(())
    }

    /// Its target.
    pub fn into_inner(self) -> W {
        self.out
    }
}

fn put(text: &[u8], index: usize, line: &mut Vec<u8>) {
    if index > 0 {
        line.push(b',');
    }
    let plain = |text: &[u8]| !text.iter().any(|byte| matches!(byte, b',' | b'"' | b'\r' | b'\n'));
    let bare = text.first().zip(text.last()).is_some_and(|(first, last)| *first != b' ' && *last != b' ');
    if bare && plain(text) {
        return line.extend_from_slice(text);
    }
    line.push(b'"');
    for byte in text {
        line.extend(std::iter::repeat_n(*byte, if *byte == b'"' { 2 } else { 1 }));
    }
    line.push(b'"');
}

/// The text of each row's value, `None` for null.
fn texts(field: &Field, column: &dyn Array) -> Result<Vec<Option<Vec<u8>>>> {
    let unwritable = || format!("column `{}` cannot be written as CSV", field.name());
    let rows = 0..column.len();
    // A column of type NULL holds only nulls, but has no null bitmap.
    let nulls = column.logical_nulls();
    let is_valid = |row: usize| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
    let each = |text: &mut dyn FnMut(usize) -> Vec<u8>| {
        rows.clone().map(|row| is_valid(row).then(|| text(row))).collect::<Vec<_>>()
    };
    let special = |value: f64| json::special_float(value).map(|text| text.as_bytes().to_vec());
    Ok(match column.data_type() {
        DataType::Null => vec![None; column.len()],
        DataType::Binary => {
            let bytes = column.as_binary::<i32>();
            each(&mut |row| {
                let mut text = Vec::new();
                json::base64(bytes.value(row), &mut text);
                text
            })
        }
        DataType::Float64 => {
            let values = column.as_primitive::<Float64Type>();
            each(&mut |row| special(values.value(row)).unwrap_or_else(|| values.value(row).to_string().into_bytes()))
        }
        DataType::Float32 => {
            let values = column.as_primitive::<Float32Type>();
            each(&mut |row| {
                special(values.value(row).into()).unwrap_or_else(|| values.value(row).to_string().into_bytes())
            })
        }
        DataType::Struct(_) | DataType::List(_) | DataType::Map(..) => {
            let (options, field) = (json::encoder_options(), std::sync::Arc::new(field.clone()));
            let mut encoder = make_encoder(&field, column, &options).internal(unwritable)?;
            each(&mut |row| {
                let mut text = Vec::new();
                encoder.encode(row, &mut text);
                text
            })
        }
        _ => {
            let options = FormatOptions::new().with_display_error(false);
            let formatter = ArrayFormatter::try_new(column, &options).internal(unwritable)?;
            let text = |row: usize| formatter.value(row).try_to_string().map(String::into_bytes);
            let text = |row: usize| is_valid(row).then(|| text(row)).transpose();
            return rows.map(text).collect::<Result<Vec<_>, _>>().internal(unwritable);
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, NullArray, StringArray};

    use super::*;

    #[test]
    fn a_column_of_nothing_but_null_is_empty_fields() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["x", ""]));
        let rows = RecordBatch::try_from_iter([("s", texts), ("v", Arc::new(NullArray::new(2)) as ArrayRef)]).unwrap();
        let mut writer = CsvWriter::new(Vec::new(), rows.schema_ref()).unwrap();
        writer.write(&rows).unwrap();
        assert_eq!(String::from_utf8(writer.into_inner()).unwrap(), "s,v\nx,\n\"\",\n");
    }
}
