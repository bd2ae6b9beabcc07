//! Compares rows, and sums weighted ones: equal rows become one, rows that cancel out disappear.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatchOptions, UInt32Array};
use arrow::compute::kernels::cmp::{eq, not_distinct};
use arrow::compute::{and, prep_null_mask_filter, take_record_batch};
use arrow::datatypes::{DataType, Int64Type};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::common::HashMap;

use super::segments::refused;
use crate::equality::key_values;
use crate::error::{Context, Error, Result};

/// The rows as bytes, equal if all columns are; nulls equal nulls.
pub(super) fn encode(columns: &[ArrayRef]) -> Result<Rows> {
    let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
    RowConverter::new(fields).and_then(|converter| converter.convert_columns(columns)).internal(refused)
}

/// Like [`encode`], for key columns: equal as keys are.
pub(super) fn encode_keys(columns: &[ArrayRef]) -> Result<Rows> {
    encode(&columns.iter().map(key_values).collect::<Vec<_>>())
}

/// Flags the rows whose values are equal; never null. Floats are equal as keys are.
pub(super) fn equal(left: &ArrayRef, right: &ArrayRef, null_equals_null: bool) -> Result<BooleanArray> {
    let (left, right) = (&key_values(left), &key_values(right));
    let kind = left.data_type();
    if kind.is_nested() || matches!(kind, DataType::Dictionary(..)) {
        let (left_rows, right_rows) = (encode(std::slice::from_ref(left))?, encode(std::slice::from_ref(right))?);
        let same: BooleanArray = left_rows.iter().zip(right_rows.iter()).map(|(l, r)| Some(l == r)).collect();
        let Some(nulls) = left.logical_nulls().filter(|_| !null_equals_null) else { return Ok(same) };
        return and(&same, &BooleanArray::new(nulls.into_inner(), None)).internal(refused);
    }
    let same = if null_equals_null { not_distinct(left, right) } else { eq(left, right) }.internal(refused)?;
    Ok(if same.null_count() > 0 { prep_null_mask_filter(&same) } else { same })
}

/// The distinct rows in the order of their first occurrence, with the sums of their weights, none of them 0.
pub(super) fn consolidate(rows: &RecordBatch, weights: &[i64]) -> Result<(RecordBatch, Vec<i64>)> {
    if rows.num_columns() == 0 {
        let sum: i64 = weights.iter().sum();
        let options = RecordBatchOptions::new().with_row_count(Some(usize::from(sum != 0)));
        let rows = RecordBatch::try_new_with_options(rows.schema(), Vec::new(), &options).internal(refused)?;
        return Ok((rows, if sum == 0 { Vec::new() } else { vec![sum] }));
    }
    let encoded = encode(rows.columns())?;
    let mut known: HashMap<&[u8], usize> = HashMap::with_capacity(weights.len());
    let mut firsts: Vec<u32> = Vec::with_capacity(weights.len());
    let mut sums: Vec<i64> = Vec::with_capacity(weights.len());
    for (row, &weight) in weights.iter().enumerate() {
        let place = *known.entry(encoded.row(row).data()).or_insert(sums.len());
        if place == sums.len() {
            firsts.push(row as u32);
            sums.push(0);
        }
        sums[place] += weight;
    }
    if sums.len() == weights.len() && !sums.contains(&0) {
        return Ok((rows.clone(), sums));
    }
    let left: UInt32Array = firsts.iter().zip(&sums).filter(|(_, sum)| **sum != 0).map(|(&first, _)| first).collect();
    sums.retain(|&sum| sum != 0);
    Ok((take_record_batch(rows, &left).internal(refused)?, sums))
}

/// Like [`consolidate`], for a batch whose last column is the weight.
pub(super) fn consolidate_output(batch: &RecordBatch) -> Result<RecordBatch> {
    let last = batch.num_columns() - 1;
    let weights = batch.column(last).as_primitive_opt::<Int64Type>();
    let weights = weights.ok_or_else(|| Error::internal("weights of a join's output are not BIGINT"))?;
    let columns: Vec<usize> = (0..last).collect();
    let rows = batch.project(&columns).internal(refused)?;
    let (rows, weights) = consolidate(&rows, weights.values())?;
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(Int64Array::from(weights)));
    RecordBatch::try_new(batch.schema(), columns).internal(refused)
}
