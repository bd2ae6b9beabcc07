//! Rows of a source that has columns already (Parquet, the generator) into the declared schema.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, StructArray, make_array, new_null_array};
use arrow::buffer::NullBuffer;

use super::convert::{convert, position};
use super::fault::Fault;
use super::letters::{Letters, Refusal};
use super::{Decoded, Decoder, metadata};
use crate::catalog::{ColumnDef, ColumnOrigin, TimestampUnit};
use crate::error::{Context, Result};
use crate::source::chunk::{Offset, PartitionId};
use crate::source::origin::{RowOffsets, RowOrigins};

/// Maps consecutive rows from `start` to the declared columns.
pub(super) fn decode(
    decoder: &Decoder,
    partition: &PartitionId,
    start: Offset,
    batch: &RecordBatch,
) -> Result<Decoded> {
    let rows = batch.num_rows();
    let place = metadata::split_partition(&decoder.connector, partition);
    let mut letters = decoder.letters(partition);
    // Empty until a row is refused, which is rare.
    let mut refusals: Vec<Option<Refusal>> = Vec::new();
    let mut columns = Vec::with_capacity(decoder.columns.len());
    for column in &decoder.columns {
        let (found, array) = match &column.origin {
            ColumnOrigin::Metadata(metadata) => {
                let array = metadata::column_of_rows(*metadata, &column.data_type, start, rows, place)?;
                (Arc::clone(&array), array)
            }
            ColumnOrigin::Field(path) => {
                let found = field(batch, path).unwrap_or_else(|| new_null_array(&column.data_type, rows));
                let unit = decoder.timestamp_unit.unwrap_or(TimestampUnit::Micros);
                let array = convert(&column.name, &found, &column.data_type, unit)?;
                (found, array)
            }
        };
        judge(column, &found, &array, &mut refusals);
        columns.push(array);
    }
    if let Some(future) = &decoder.future {
        for (row, refusal) in future.refused(&columns) {
            refusals.resize(rows, None);
            refusals[row].get_or_insert(refusal);
        }
    }
    let origins = |offsets| RowOrigins {
        partition: PartitionId::clone(partition),
        offsets,
        timestamps_ms: Vec::new(),
        records: None,
    };
    if refusals.is_empty() {
        let origins = origins(RowOffsets::Run(start, rows));
        return Ok(Decoded {
            rows: decoder.batch(columns, rows)?,
            origins,
            dead: letters.dead,
            refused: 0,
            doubtful_times: 0,
        });
    }
    let good: BooleanArray = refusals.iter().map(|refusal| Some(refusal.is_none())).collect();
    for (row, refusal) in refusals.into_iter().enumerate() {
        if let Some(refusal) = refusal {
            letters.take(start + row as i64, refusal, |letter| {
                letter.payload = Some(as_json(&batch.slice(row, 1))?);
                Ok(())
            })?;
        }
    }
    let offsets = good.values().set_indices().map(|row| start + row as Offset).collect();
    finish(decoder, columns, &good, letters, origins(RowOffsets::Each(offsets)))
}

fn finish(
    decoder: &Decoder,
    columns: Vec<ArrayRef>,
    good: &BooleanArray,
    letters: Letters<'_>,
    origins: RowOrigins,
) -> Result<Decoded> {
    let not_fitting = || format!("the rows of source `{}` do not fit its schema", decoder.source);
    let rows = if letters.refused == 0 {
        decoder.batch(columns, good.len())?
    } else {
        let kept = columns.iter().map(|column| arrow::compute::filter(column, good));
        let kept = kept.collect::<Result<Vec<_>, _>>().internal(not_fitting)?;
        decoder.batch(kept, good.true_count())?
    };
    Ok(Decoded { rows, origins, dead: letters.dead, refused: letters.refused, doubtful_times: 0 })
}

/// Records a refusal for each row whose value was lost in conversion, or is null in a NOT NULL column.
fn judge(column: &ColumnDef, found: &ArrayRef, array: &ArrayRef, refusals: &mut Vec<Option<Refusal>>) {
    if array.null_count() == 0 || (column.nullable && array.null_count() == found.null_count()) {
        return;
    }
    refusals.resize(array.len(), None);
    for (row, refusal) in refusals.iter_mut().enumerate() {
        if refusal.is_some() || array.is_valid(row) {
            continue;
        }
        let reason = if found.is_valid(row) {
            let text = arrow::util::display::array_value_to_string(found, row).unwrap_or_default();
            Fault::WrongType.describe(&column.data_type, text.as_bytes())
        } else if !column.nullable {
            Fault::Null.describe(&column.data_type, b"")
        } else {
            continue;
        };
        *refusal = Some(Refusal { reason, column: Some(column.name.clone()) });
    }
}

/// The column at `path`, by exact names, else ignoring case; null where an outer struct is null.
fn field(batch: &RecordBatch, path: &[String]) -> Option<ArrayRef> {
    let [first, rest @ ..] = path else { return None };
    let names: Vec<&str> = batch.schema_ref().fields().iter().map(|field| field.name().as_str()).collect();
    let mut array = Arc::clone(batch.column(position(&names, first)?));
    for name in rest {
        let outer = array.as_any().downcast_ref::<StructArray>()?;
        let inner = outer.column(position(&outer.column_names(), name)?);
        let nulls = NullBuffer::union(outer.nulls(), inner.nulls());
        array = make_array(inner.to_data().into_builder().nulls(nulls).build().ok()?);
    }
    Some(array)
}

/// A row as JSON, so that its dead letter is readable.
fn as_json(row: &RecordBatch) -> Result<Vec<u8>> {
    let mut writer = crate::json::line_writer(Vec::new());
    writer
        .write(row)
        .and_then(|()| writer.finish())
        .internal(|| "a refused row cannot be written as JSON".to_owned())?;
    let mut text = writer.into_inner();
    text.truncate(text.trim_ascii_end().len());
    Ok(text)
}
