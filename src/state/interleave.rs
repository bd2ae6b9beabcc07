//! Picks rows from several batches.
//!
//! Like arrow's `interleave`, except for booleans, which arrow copies one by one through a generic builder.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::interleave;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

/// The rows that `picks` name, as (batch, row), in that order. The batches have one schema, and there is at least one.
pub fn interleave_rows(batches: &[&RecordBatch], picks: &[(usize, usize)]) -> Result<RecordBatch, ArrowError> {
    let schema = batches[0].schema();
    let column = |column: usize| -> Result<ArrayRef, ArrowError> {
        let arrays: Vec<&dyn Array> = batches.iter().map(|batch| batch.column(column).as_ref()).collect();
        match schema.field(column).data_type() {
            DataType::Boolean => Ok(Arc::new(booleans(&arrays, picks))),
            _ => interleave(&arrays, picks),
        }
    };
    let columns = (0..schema.fields().len()).map(column).collect::<Result<_, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(picks.len()));
    RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options)
}

fn booleans(arrays: &[&dyn Array], picks: &[(usize, usize)]) -> BooleanArray {
    let arrays: Vec<&BooleanArray> = arrays.iter().map(|array| array.as_boolean()).collect();
    let pick = |of: &dyn Fn(&BooleanArray, usize) -> bool| {
        BooleanBuffer::collect_bool(picks.len(), |at| of(arrays[picks[at].0], picks[at].1))
    };
    let nulls = arrays.iter().any(|array| array.null_count() > 0).then(|| pick(&|array, row| array.is_valid(row)));
    BooleanArray::new(pick(&|array, row| array.value(row)), nulls.map(NullBuffer::new))
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use arrow::compute::interleave_record_batch;

    use super::*;

    #[test]
    fn rows_are_picked_as_arrow_picks_them() {
        let batch = |flags: Vec<Option<bool>>| {
            let numbers = Int64Array::from_iter_values(0..flags.len() as i64);
            let columns: [(&str, ArrayRef); 2] =
                [("flag", Arc::new(BooleanArray::from(flags))), ("number", Arc::new(numbers))];
            RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
        };
        let nulls = batch(vec![Some(true), None, Some(false), Some(true)]);
        let full = batch(vec![Some(false), Some(true), Some(true)]);
        let picks = [(1, 2), (0, 1), (0, 0), (1, 0), (0, 3), (0, 2)];
        for batches in [[&nulls, &full], [&full, &nulls.slice(1, 3)]] {
            let picks = picks.map(|(of, row)| (of, row.min(batches[of].num_rows() - 1)));
            assert_eq!(interleave_rows(&batches, &picks).unwrap(), interleave_record_batch(&batches, &picks).unwrap());
        }
        assert_eq!(interleave_rows(&[&full], &[]).unwrap().num_rows(), 0);
    }
}
