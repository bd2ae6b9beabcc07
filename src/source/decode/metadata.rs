//! Columns from a record's metadata instead of its payload.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BinaryBuilder, Int32Array, Int64Array, MapBuilder, MapFieldNames, StringArray,
    StringBuilder, TimestampMicrosecondArray, new_null_array,
};
use arrow::compute::cast;
use arrow::datatypes::DataType;

use crate::catalog::{Metadata, SourceConnector};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::source::chunk::{Headers, Offset, Records};

/// The valid records of a chunk, in the order of the rows.
#[derive(Debug)]
pub(super) struct Kept<'a> {
    pub(super) records: &'a Records,
    /// The index of each row's record.
    pub(super) indices: &'a [u32],
}

/// Topic and number in a partition's name: `topic/3` for Kafka; other names are a topic of their own, with number 0.
pub(super) fn split_partition<'p>(connector: &SourceConnector, partition: &'p str) -> (&'p str, i32) {
    match connector {
        SourceConnector::Kafka(_) => partition
            .rsplit_once('/')
            .and_then(|(topic, number)| number.parse().ok().map(|number| (topic, number)))
            .unwrap_or((partition, 0)),
        SourceConnector::File(_)
        | SourceConnector::Generator(_)
        | SourceConnector::Nexmark(_)
        | SourceConnector::Delta(_) => (partition, 0),
    }
}

/// True if record `index` has a value for `metadata`.
pub(super) fn is_known(metadata: Metadata, wanted: &DataType, records: &Records, index: usize) -> bool {
    match metadata {
        Metadata::Key => {
            records.key(index).is_some_and(|key| wanted != &DataType::Utf8 || simdutf8::basic::from_utf8(key).is_ok())
        }
        Metadata::Timestamp => records.timestamps_ms.get(index).is_some_and(|ms| *ms >= 0),
        Metadata::Headers => records.headers.is_some(),
        Metadata::Partition | Metadata::Offset | Metadata::Topic => true,
    }
}

/// The column of `metadata` for the valid records.
pub(super) fn column(
    metadata: Metadata,
    wanted: &DataType,
    kept: &Kept<'_>,
    partition: (&str, i32),
) -> Result<ArrayRef> {
    let Kept { records, indices } = kept;
    let each = || indices.iter().map(|index| *index as usize);
    let array: ArrayRef = match metadata {
        Metadata::Key => Arc::new(BinaryArray::from_iter(each().map(|index| records.key(index)))),
        Metadata::Timestamp => {
            let micros = each().map(|index| {
                records.timestamps_ms.get(index).filter(|ms| **ms >= 0).map(|ms| ms.saturating_mul(1_000))
            });
            Arc::new(TimestampMicrosecondArray::from_iter(micros).with_timezone("UTC"))
        }
        Metadata::Headers => return headers(wanted, kept),
        Metadata::Offset => Arc::new(Int64Array::from_iter_values(each().map(|index| records.offsets[index]))),
        Metadata::Partition | Metadata::Topic => return of_partition(metadata, wanted, indices.len(), partition),
    };
    fit(array, wanted)
}

/// The column of `metadata` for `rows` consecutive rows from `start`.
pub(super) fn column_of_rows(
    metadata: Metadata,
    wanted: &DataType,
    start: Offset,
    rows: usize,
    partition: (&str, i32),
) -> Result<ArrayRef> {
    match metadata {
        Metadata::Offset => fit(Arc::new(Int64Array::from_iter_values(start..start + rows as i64)), wanted),
        Metadata::Partition | Metadata::Topic => of_partition(metadata, wanted, rows, partition),
        Metadata::Key | Metadata::Timestamp | Metadata::Headers => Ok(new_null_array(wanted, rows)),
    }
}

fn of_partition(metadata: Metadata, wanted: &DataType, rows: usize, (topic, number): (&str, i32)) -> Result<ArrayRef> {
    match metadata {
        Metadata::Partition => fit(Arc::new(Int32Array::from_value(number, rows)), wanted),
        _ => fit(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(topic, rows))), wanted),
    }
}

fn fit(array: ArrayRef, wanted: &DataType) -> Result<ArrayRef> {
    if array.data_type() == wanted {
        return Ok(array);
    }
    cast(&array, wanted).context(ErrorKind::Sql, || format!("metadata cannot be turned into `{wanted}`"))
}

fn headers(wanted: &DataType, kept: &Kept<'_>) -> Result<ArrayRef> {
    let Some(all) = &kept.records.headers else {
        return Ok(new_null_array(wanted, kept.indices.len()));
    };
    let DataType::Map(entries, _) = wanted else { return Err(not_a_map(wanted)) };
    let DataType::Struct(pair) = entries.data_type() else { return Err(not_a_map(wanted)) };
    let names =
        MapFieldNames { entry: entries.name().clone(), key: pair[0].name().clone(), value: pair[1].name().clone() };
    let mut builder = MapBuilder::new(Some(names), StringBuilder::new(), BinaryBuilder::new())
        .with_keys_field(Arc::clone(&pair[0]))
        .with_values_field(Arc::clone(&pair[1]));
    for index in kept.indices {
        for (name, value) in last_of_each(&all[*index as usize]) {
            builder.keys().append_value(name);
            builder.values().append_option(value.as_deref());
        }
        builder.append(true).internal(|| "headers do not fit together".to_owned())?;
    }
    Ok(Arc::new(builder.finish()))
}

/// The headers in the order of the first occurrence of each name, each with its last value: the keys of a map are unique.
fn last_of_each(headers: &Headers) -> impl Iterator<Item = (&String, &Option<Vec<u8>>)> {
    let mut places: HashMap<&String, usize> = HashMap::new();
    let mut each: Vec<(&String, &Option<Vec<u8>>)> = Vec::with_capacity(headers.len());
    for (name, value) in headers {
        let place = *places.entry(name).or_insert(each.len());
        match each.get_mut(place) {
            Some(earlier) => earlier.1 = value,
            None => each.push((name, value)),
        }
    }
    each.into_iter()
}

fn not_a_map(wanted: &DataType) -> Error {
    Error::sql(format!("headers cannot be read as `{}`", super::fault::sql_name(wanted)))
        .with_hint("Declare the column as MAP<STRING, BINARY>.")
}

/// Errors: a type that `metadata` has no values for.
pub(super) fn check_type(metadata: Metadata, column: &str, wanted: &DataType) -> Result<()> {
    let fits = match metadata {
        Metadata::Key => matches!(wanted, DataType::Binary | DataType::Utf8),
        Metadata::Partition => matches!(wanted, DataType::Int32 | DataType::Int64),
        Metadata::Offset => matches!(wanted, DataType::Int64),
        Metadata::Timestamp => matches!(wanted, DataType::Timestamp(..)),
        Metadata::Topic => matches!(wanted, DataType::Utf8),
        Metadata::Headers => is_header_map(wanted),
    };
    if fits {
        return Ok(());
    }
    Err(Error::sql(format!("column `{column}` cannot hold this metadata as {}", super::fault::sql_name(wanted)))
        .with_detail("Keys are BINARY or STRING, partition INT, offset BIGINT, timestamp TIMESTAMP, topic STRING, headers MAP<STRING, BINARY>."))
}

fn is_header_map(wanted: &DataType) -> bool {
    let DataType::Map(entries, _) = wanted else { return false };
    let DataType::Struct(pair) = entries.data_type() else { return false };
    pair.len() == 2 && pair[0].data_type() == &DataType::Utf8 && pair[1].data_type() == &DataType::Binary
}
