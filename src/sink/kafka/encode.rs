//! Encodes rows as JSON messages in shared buffers.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BinaryArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use arrow_json::writer::LineDelimited;

use crate::error::{Context, Error, Result};
use crate::json;
use crate::source::chunk::OptionalBytes;

/// Encoded messages; cheap to clone.
#[derive(Debug, Clone)]
pub struct Messages {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    data: Vec<u8>,
    /// `len + 1` boundaries in `data`. A message ends with the newline before its boundary; one without a newline has no
    /// payload.
    bounds: Vec<usize>,
    keys: Option<OptionalBytes>,
}

/// One message, borrowed from [`Messages`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    pub key: Option<&'a [u8]>,
    /// `None` in a tombstone.
    pub payload: Option<&'a [u8]>,
}

impl Messages {
    /// Messages with these payloads, each ended by a newline or empty, at these boundaries.
    pub(super) fn new(data: Vec<u8>, bounds: Vec<usize>, keys: Option<OptionalBytes>) -> Self {
        Self { inner: Arc::new(Inner { data, bounds, keys }) }
    }

    /// The number of messages.
    pub fn len(&self) -> usize {
        self.inner.bounds.len() - 1
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of all payloads.
    pub fn bytes(&self) -> usize {
        self.inner.data.len()
    }

    /// The messages in row order.
    pub fn iter(&self) -> impl Iterator<Item = Message<'_>> {
        (0..self.len()).map(|index| {
            let inner = &*self.inner;
            let key = inner.keys.as_ref().and_then(|keys| {
                keys.valid[index].then(|| &keys.data[keys.bounds[index] as usize..keys.bounds[index + 1] as usize])
            });
            let (start, end) = (inner.bounds[index], inner.bounds[index + 1]);
            Message { key, payload: (end > start).then(|| &inner.data[start..end - 1]) }
        })
    }
}

/// Encodes every row as a JSON object of all columns, nulls included; timestamps as RFC 3339 (`Z` where the type has a
/// zone), binary as base64, NaN and the infinities as texts. The value of `key_column` becomes the
/// key: binary as is, other types as their text.
///
/// Errors: a missing key column; a type that has no JSON form.
pub fn encode(batch: &RecordBatch, key_column: Option<&str>) -> Result<Messages> {
    let keys = key_column.map(|name| keys(batch, name)).transpose()?;
    let mut data = Vec::with_capacity(batch.num_rows() * 32 * batch.num_columns());
    let mut writer = json::builder().with_explicit_nulls(true).build::<_, LineDelimited>(&mut data);
    writer.write(batch).internal(|| "rows could not be encoded as JSON".to_owned())?;
    writer.finish().internal(|| "rows could not be encoded as JSON".to_owned())?;
    drop(writer);
    // JSON escapes newlines inside strings, so every newline ends a row.
    let mut bounds = Vec::with_capacity(batch.num_rows() + 1);
    bounds.push(0);
    bounds.extend(memchr::memchr_iter(b'\n', &data).map(|end| end + 1));
    if bounds.len() != batch.num_rows() + 1 {
        let (rows, lines) = (batch.num_rows(), bounds.len() - 1);
        return Err(Error::internal(format!("{rows} rows were encoded as {lines} messages")));
    }
    Ok(Messages::new(data, bounds, keys))
}

pub(super) fn keys(batch: &RecordBatch, name: &str) -> Result<OptionalBytes> {
    let column = batch
        .column_by_name(name)
        .ok_or_else(|| Error::sql(format!("key column `{name}` is not among the sink's columns")))?;
    let no_text = || format!("column `{name}` has no text form and cannot be the key");
    match column.data_type() {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            let column = cast(column, &DataType::Binary).internal(no_text)?;
            let array: &BinaryArray = column.as_binary();
            Ok(optional_bytes(array.iter()))
        }
        _ => {
            let column = cast(column, &DataType::Utf8).internal(no_text)?;
            let array: &StringArray = column.as_string();
            Ok(optional_bytes(array.iter().map(|text| text.map(str::as_bytes))))
        }
    }
}

fn optional_bytes<'a>(values: impl Iterator<Item = Option<&'a [u8]>>) -> OptionalBytes {
    let mut keys = OptionalBytes { data: Vec::new(), bounds: vec![0], valid: Vec::new() };
    for value in values {
        keys.data.extend_from_slice(value.unwrap_or_default());
        keys.bounds.push(keys.data.len() as u32);
        keys.valid.push(value.is_some());
    }
    keys
}
