//! Bytes of values in memory, without the other rows of the buffers that they share.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;

/// Bytes of these rows only: a batch may be a slice of a larger one.
pub fn size_of_rows(rows: &RecordBatch) -> u64 {
    rows.columns().iter().map(size_of).sum()
}

/// Bytes of these values only; also for lists and structs, where arrow counts the whole buffers.
pub fn size_of(array: &ArrayRef) -> u64 {
    fn range<T: arrow::array::OffsetSizeTrait>(offsets: &[T]) -> (usize, usize) {
        let (first, last) = (offsets.first(), offsets.last());
        let first = first.map_or(0, |first| first.as_usize());
        (first, last.map_or(0, |last| last.as_usize()).saturating_sub(first))
    }
    let part = |values: &ArrayRef, (start, length): (usize, usize), width: usize| {
        size_of(&values.slice(start, length)) + (array.len() * width) as u64
    };
    match array.data_type() {
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            part(list.values(), range(list.value_offsets()), 4)
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            part(list.values(), range(list.value_offsets()), 8)
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let entries: ArrayRef = Arc::new(map.entries().clone());
            part(&entries, range(map.value_offsets()), 4)
        }
        DataType::Struct(_) => array.as_struct().columns().iter().map(size_of).sum(),
        _ => array.to_data().get_slice_memory_size().unwrap_or(0) as u64,
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, ListArray, StructArray};
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::{Field, Fields};

    use super::*;

    #[test]
    fn parts_of_lists_and_structs_weigh_what_they_hold() {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1_000));
        let field = Arc::new(Field::new("item", DataType::Int64, true));
        let list = ListArray::new(field, OffsetBuffer::from_lengths(vec![100; 10]), Arc::clone(&numbers), None);
        let list: ArrayRef = Arc::new(list);
        assert_eq!(size_of(&list.slice(3, 1)), 100 * 8 + 4);
        let fields = Fields::from(vec![Field::new("n", DataType::Int64, true)]);
        let structs: ArrayRef = Arc::new(StructArray::new(fields, vec![numbers], None));
        assert_eq!(size_of(&structs.slice(10, 5)), 40);
    }
}
