//! CHAR(n) and VARCHAR(n) of tables that Spark declared: the log has them as strings, with the type in a field's metadata.
//!
//! As Spark has it, a CHAR is stored with blanks up to its length, blanks beyond the length of either type are cut off, and a value
//! that is still longer is refused. `'a'` and `'a  '` of a CHAR are one value.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::buffer::BooleanBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema};
use serde_json::Value;

use crate::error::{Context, Result};

/// Key in a field's metadata; the value is the type.
const DECLARED: &str = "__CHAR_VARCHAR_TYPE_STRING";

/// A declared length, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextLength {
    Char(usize),
    Varchar(usize),
}

impl TextLength {
    /// That of a field of the log's schema, if it has one.
    pub(super) fn of(field: &Value) -> Option<Self> {
        let declared = field["metadata"][DECLARED].as_str().filter(|_| field["type"] == "string")?.to_lowercase();
        let length =
            |name: &str| declared.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')')?.trim().parse().ok();
        length("varchar").map(Self::Varchar).or_else(|| length("char").map(Self::Char))
    }

    pub(super) fn most(self) -> usize {
        match self {
            Self::Char(most) | Self::Varchar(most) => most,
        }
    }

    /// The text as it is stored.
    fn stored(self, text: &str) -> String {
        let length = text.chars().count();
        let blanks = text.len() - text.trim_end_matches(' ').len();
        match self {
            Self::Char(most) if length < most => padded(text, most),
            _ => text[..text.len() - blanks.min(length.saturating_sub(self.most()))].to_owned(),
        }
    }
}

/// The text with blanks up to `width` characters; a longer one as it is.
pub(super) fn padded(text: &str, width: usize) -> String {
    format!("{text:width$}")
}

/// The columns of a table with declared lengths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TextLengths(BTreeMap<String, TextLength>);

impl TextLengths {
    /// Those of a table whose schema in the log is `schema`.
    pub(super) fn of(schema: &Value) -> Self {
        let fields = schema["fields"].as_array().into_iter().flatten();
        let length = |field: &Value| Some((field["name"].as_str()?.to_owned(), TextLength::of(field)?));
        Self(fields.filter_map(length).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `true` for a CHAR(n).
    pub(super) fn is_char(&self, column: &str) -> bool {
        matches!(self.0.get(column), Some(TextLength::Char(_)))
    }

    /// The rows as they are stored, longer values included.
    pub(super) fn as_stored(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let (mut fields, mut columns) = (rows.schema().fields().to_vec(), rows.columns().to_vec());
        for (name, length) in &self.0 {
            let Ok(index) = rows.schema().index_of(name) else { continue };
            let Some(texts) = texts(&columns[index])? else { continue };
            let stored = texts.iter().map(|text| text.map(|text| length.stored(text)));
            columns[index] = Arc::new(stored.collect::<StringArray>());
            fields[index] = Arc::new(fields[index].as_ref().clone().with_data_type(DataType::Utf8));
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).internal(|| "texts cannot be padded".to_owned())
    }

    /// Columns with values that are too long as they are stored, and these values' rows.
    pub(super) fn too_long<'a>(&'a self, rows: &RecordBatch) -> Result<Vec<(&'a str, TextLength, BooleanBuffer)>> {
        let mut found = Vec::new();
        for (name, length) in &self.0 {
            let Some(texts) = rows.column_by_name(name).map(texts).transpose()?.flatten() else { continue };
            let is_long = |row: usize| texts.is_valid(row) && texts.value(row).chars().count() > length.most();
            let long = BooleanBuffer::collect_bool(texts.len(), is_long);
            if long.count_set_bits() > 0 {
                found.push((name.as_str(), *length, long));
            }
        }
        Ok(found)
    }
}

/// Values of a column of text, without blanks at their ends: equal for equal CHARs.
pub(super) fn without_blanks(column: &ArrayRef) -> Result<ArrayRef> {
    let Some(texts) = texts(column)? else { return Ok(Arc::clone(column)) };
    let trimmed: StringArray = texts.iter().map(|text| text.map(|text| text.trim_end_matches(' '))).collect();
    cast(&trimmed, column.data_type()).internal(|| "texts cannot be compared".to_owned())
}

/// The column as an array of strings; `None` if it is no text.
fn texts(column: &ArrayRef) -> Result<Option<StringArray>> {
    let is_text = match column.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, value) => **value == DataType::Utf8,
        _ => false,
    };
    if !is_text {
        return Ok(None);
    }
    let texts = cast(column, &DataType::Utf8).internal(|| "texts cannot be read".to_owned())?;
    Ok(Some(texts.as_string::<i32>().clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_padded_and_cut_as_spark_does() {
        let field = |kind: &str| serde_json::json!({"type": "string", "metadata": {DECLARED: kind}});
        let of = |kind: &str| TextLength::of(&field(kind)).unwrap();
        for (kind, text, stored) in [
            ("char(3)", "a", "a  "),
            ("char(3)", "", "   "),
            ("char(3)", "abc   ", "abc"),
            ("char(3)", "ab    ", "ab "),
            ("char(3)", "äöü ", "äöü"),
            ("char(3)", "ä", "ä  "),
            ("char(3)", "abcd ", "abcd"),
            ("CHAR( 3 )", "a", "a  "),
            ("varchar(3)", "a", "a"),
            ("varchar(3)", "a   ", "a  "),
            ("varchar(3)", "abcd", "abcd"),
        ] {
            assert_eq!(of(kind).stored(text), stored, "{kind} {text:?}");
        }
        for other in ["string", "varchar", "char(x)"] {
            assert_eq!(TextLength::of(&field(other)), None, "{other}");
        }
    }
}
