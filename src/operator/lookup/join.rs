//! Joins rows to the table: looks up their keys, filters the matches, and combines the columns of both sides.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{interleave, take};
use arrow::datatypes::{Field, Schema, SchemaRef, TimestampMicrosecondType};
use datafusion::common::JoinType;
use datafusion::physical_expr::PhysicalExpr;

use super::Lookup;
use super::index::Place;
use crate::error::{Context, Result};
use crate::time::EventTime;

/// Stands for no row of the table.
const NOWHERE: Place = (u32::MAX, u32::MAX);

/// Pairs of rows: number in the left batch, position in the table.
#[derive(Debug, Default)]
struct Pairs {
    left: Vec<u32>,
    right: Vec<Place>,
}

impl Pairs {
    fn push(&mut self, left: usize, right: Place) {
        self.left.push(left as u32);
        self.right.push(right);
    }
}

/// Joins one batch.
pub(super) fn join(lookup: &Lookup, batch: &RecordBatch) -> Result<RecordBatch> {
    let spec = &lookup.spec;
    let (keys, null) = lookup.left_keys.encode(batch, &spec.left_keys)?;
    // A filter may leave a row without a match, so unmatched rows are added after it.
    let fill = spec.join_type == JoinType::Left && spec.filter.is_none();
    let heads = lookup.index.heads(&keys, null.as_deref());
    let mut pairs = matches(lookup, batch, &heads, fill);
    if let Some(filter) = &spec.filter {
        let kept = evaluate(lookup, batch, &pairs, filter)?;
        pairs = filtered(&pairs, &kept, batch.num_rows(), spec.join_type == JoinType::Left);
    }
    let columns = columns(lookup, batch, &pairs)?;
    RecordBatch::try_new(spec.output.clone(), columns)
        .internal(|| format!("rows joined to `{}` do not fit their schema", spec.table))
}

/// Every row with all its matches; `heads` holds the start of each row's chain.
fn matches(lookup: &Lookup, batch: &RecordBatch, heads: &[u32], fill: bool) -> Pairs {
    let rows = batch.num_rows();
    let mut pairs = Pairs { left: Vec::with_capacity(rows), right: Vec::with_capacity(rows) };
    let times = lookup.spec.as_of.map(|column| batch.column(column).as_primitive::<TimestampMicrosecondType>());
    let newest = lookup.newest();
    for (row, head) in heads.iter().enumerate() {
        let version = match times {
            None => Some(newest),
            Some(times) if times.is_valid(row) => lookup.version_at(EventTime(times.value(row))),
            Some(_) => None,
        };
        let before = pairs.left.len();
        if let Some(version) = version {
            lookup.index.walk(*head, version, |place| pairs.push(row, place));
        }
        if fill && pairs.left.len() == before {
            pairs.push(row, NOWHERE);
        }
    }
    pairs
}

/// The pairs that pass the filter, and with `fill` the rows without any; in the order of the left rows.
fn filtered(pairs: &Pairs, kept: &BooleanArray, rows: usize, fill: bool) -> Pairs {
    let mut found = Pairs::default();
    let mut at = 0;
    for row in 0..rows {
        let before = found.left.len();
        while pairs.left.get(at) == Some(&(row as u32)) {
            if kept.is_valid(at) && kept.value(at) {
                found.push(row, pairs.right[at]);
            }
            at += 1;
        }
        if fill && found.left.len() == before {
            found.push(row, NOWHERE);
        }
    }
    found
}

/// Evaluates the filter for each pair.
fn evaluate(
    lookup: &Lookup,
    batch: &RecordBatch,
    pairs: &Pairs,
    filter: &Arc<dyn PhysicalExpr>,
) -> Result<BooleanArray> {
    let spec = &lookup.spec;
    let mut columns = columns(lookup, batch, pairs)?;
    if spec.left_retract {
        columns.pop();
    }
    let fields = spec.output.fields().iter().take(columns.len());
    // Candidates always have values for the table's columns; their nullability does not matter here.
    let nullable = fields.map(|field| Arc::new(Field::clone(field).with_nullable(true))).collect::<Vec<_>>();
    let schema: SchemaRef = Arc::new(Schema::new(nullable));
    let candidates = RecordBatch::try_new(schema, columns).internal(|| "lookup candidates do not fit".to_owned())?;
    let holds = filter.evaluate(&candidates)?.into_array(candidates.num_rows())?;
    Ok(holds.as_boolean().clone())
}

/// The columns of the output: the left side's, the table's, the weight.
fn columns(lookup: &Lookup, batch: &RecordBatch, pairs: &Pairs) -> Result<Vec<ArrayRef>> {
    let spec = &lookup.spec;
    let failed = || format!("rows cannot be joined to `{}`", spec.table);
    // If each row has one match, as in a table with a unique key, the left columns are passed on unchanged.
    let is_same =
        pairs.left.len() == batch.num_rows() && pairs.left.iter().enumerate().all(|(row, at)| row as u32 == *at);
    let indices = UInt32Array::from_iter_values(if is_same { [].iter().copied() } else { pairs.left.iter().copied() });
    let mut columns = Vec::with_capacity(spec.output.fields().len());
    for column in batch.columns() {
        columns.push(if is_same { Arc::clone(column) } else { take(column, &indices, None).internal(failed)? });
    }
    let weight = if spec.left_retract { columns.pop() } else { None };
    right_columns(lookup, pairs, &mut columns)?;
    columns.extend(weight);
    Ok(columns)
}

fn right_columns(lookup: &Lookup, pairs: &Pairs, columns: &mut Vec<ArrayRef>) -> Result<()> {
    let failed = || format!("rows of `{}` cannot be taken", lookup.spec.table);
    let chunks = lookup.index.chunks();
    let fields = lookup.spec.right.fields();
    match chunks {
        [] => columns.extend(fields.iter().map(|field| new_null_array(field.data_type(), pairs.right.len()))),
        [chunk] => {
            let found = pairs.right.iter().map(|place| (*place != NOWHERE).then_some(place.1));
            let indices: UInt32Array = if pairs.right.contains(&NOWHERE) {
                found.collect()
            } else {
                UInt32Array::from_iter_values(pairs.right.iter().map(|place| place.1))
            };
            for column in chunk.columns() {
                columns.push(take(column, &indices, None).internal(failed)?);
            }
        }
        _ => {
            // One more array with a null, for rows without a match.
            let place = |place: &Place| match *place {
                NOWHERE => (chunks.len(), 0),
                (chunk, row) => (chunk as usize, row as usize),
            };
            let places: Vec<(usize, usize)> = pairs.right.iter().map(place).collect();
            for (number, field) in fields.iter().enumerate() {
                let null = new_null_array(field.data_type(), 1);
                let arrays = chunks.iter().map(|chunk| chunk.column(number).as_ref());
                let arrays: Vec<&dyn Array> = arrays.chain([null.as_ref()]).collect();
                columns.push(interleave(&arrays, &places).internal(failed)?);
            }
        }
    }
    Ok(())
}
