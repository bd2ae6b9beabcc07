//! Puts the rows of several batches into another order.
//!
//! The batches are read sequentially, column by column, and written to as many positions at a time as there are key groups.
//! Arrow's `interleave` writes sequentially and reads from scattered positions, which is slow for data larger than a cache;
//! it is used for the types that are rare in state.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayData, ArrayRef, AsArray, BooleanArray, GenericByteArray, RecordBatch, RecordBatchOptions, make_array,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::interleave;
use arrow::datatypes::{
    ArrowNativeType, BinaryType, ByteArrayType, DataType, LargeBinaryType, LargeUtf8Type, SchemaRef, Utf8Type,
};
use arrow::error::ArrowError;

/// Row `r` of `batches[b]` becomes row `places[b][r]`. The batches have the schema's columns, and no two rows have the same
/// place.
pub(super) fn scatter_rows(
    schema: &SchemaRef,
    batches: &[RecordBatch],
    places: &[Vec<u32>],
) -> Result<RecordBatch, ArrowError> {
    let rows = places.iter().map(Vec::len).sum();
    let column = |(column, field): (usize, &Arc<arrow::datatypes::Field>)| {
        let parts: Vec<Part<'_>> =
            batches.iter().zip(places).map(|(batch, places)| (batch.column(column), places.as_slice())).collect();
        scatter(field.data_type(), &parts, rows)
    };
    let columns = schema.fields().iter().enumerate().map(column).collect::<Result<_, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

/// Values and their target rows.
type Part<'a> = (&'a ArrayRef, &'a [u32]);

fn scatter(kind: &DataType, parts: &[Part<'_>], rows: usize) -> Result<ArrayRef, ArrowError> {
    match kind {
        DataType::Boolean => {
            let mut values = vec![false; rows];
            for (array, places) in parts {
                place(array.as_boolean().values().iter(), places, &mut values);
            }
            Ok(Arc::new(BooleanArray::new(BooleanBuffer::from(values), nulls(parts, rows))))
        }
        DataType::Utf8 => bytes::<Utf8Type>(parts, rows),
        DataType::LargeUtf8 => bytes::<LargeUtf8Type>(parts, rows),
        DataType::Binary => bytes::<BinaryType>(parts, rows),
        DataType::LargeBinary => bytes::<LargeBinaryType>(parts, rows),
        kind => match kind.primitive_width() {
            Some(1) => numbers::<u8>(kind, parts, rows),
            Some(2) => numbers::<u16>(kind, parts, rows),
            Some(4) => numbers::<u32>(kind, parts, rows),
            Some(8) => numbers::<u64>(kind, parts, rows),
            Some(16) => numbers::<i128>(kind, parts, rows),
            _ => picked(parts, rows),
        },
    }
}

fn place<T>(values: impl Iterator<Item = T>, places: &[u32], into: &mut [T]) {
    for (value, &place) in values.zip(places) {
        into[place as usize] = value;
    }
}

fn nulls(parts: &[Part<'_>], rows: usize) -> Option<NullBuffer> {
    if parts.iter().all(|(array, _)| array.null_count() == 0) {
        return None;
    }
    let mut valid = vec![true; rows];
    for (nulls, places) in parts.iter().filter_map(|(array, places)| Some((array.nulls()?, places))) {
        place(nulls.iter(), places, &mut valid);
    }
    Some(NullBuffer::from(valid))
}

fn numbers<T: ArrowNativeType>(kind: &DataType, parts: &[Part<'_>], rows: usize) -> Result<ArrayRef, ArrowError> {
    let mut values = vec![T::default(); rows];
    for (array, places) in parts {
        place(array.to_data().buffer::<T>(0).iter().copied(), places, &mut values);
    }
    let data =
        ArrayData::builder(kind.clone()).len(rows).add_buffer(Buffer::from_vec(values)).nulls(nulls(parts, rows));
    Ok(make_array(data.build()?))
}

fn bytes<T: ByteArrayType>(parts: &[Part<'_>], rows: usize) -> Result<ArrayRef, ArrowError> {
    let mut ends = vec![T::Offset::default(); rows + 1];
    for (array, places) in parts {
        let lengths = array.as_bytes::<T>().value_offsets().windows(2).map(|ends| ends[1] - ends[0]);
        place(lengths, places, &mut ends[1..]);
    }
    let mut end = 0;
    for of_row in &mut ends {
        end += of_row.as_usize();
        *of_row = T::Offset::from_usize(end).ok_or_else(|| ArrowError::OffsetOverflowError(end))?;
    }
    let mut values = vec![0; end];
    for (array, places) in parts {
        let array = array.as_bytes::<T>();
        for (from, &place) in array.value_offsets().windows(2).zip(*places) {
            let value = &array.value_data()[from[0].as_usize()..from[1].as_usize()];
            let start = ends[place as usize].as_usize();
            values[start..start + value.len()].copy_from_slice(value);
        }
    }
    let ends = OffsetBuffer::new(ScalarBuffer::from(ends));
    Ok(Arc::new(GenericByteArray::<T>::try_new(ends, values.into(), nulls(parts, rows))?))
}

fn picked(parts: &[Part<'_>], rows: usize) -> Result<ArrayRef, ArrowError> {
    let mut picks = vec![(0, 0); rows];
    for (part, (_, places)) in parts.iter().enumerate() {
        place((0..places.len()).map(|row| (part, row)), places, &mut picks);
    }
    let arrays: Vec<&dyn Array> = parts.iter().map(|(array, _)| array.as_ref()).collect();
    interleave(&arrays, &picks)
}

#[cfg(test)]
mod tests {
    use arrow::array::*;
    use arrow::compute::{cast, concat_batches, take_record_batch};
    use arrow::datatypes::{Field, Int32Type, Schema, TimeUnit};
    use rand::rngs::StdRng;
    use rand::seq::SliceRandom;
    use rand::{Rng, SeedableRng};

    use super::*;

    const KINDS: [DataType; 19] = [
        DataType::Boolean,
        DataType::Int8,
        DataType::UInt16,
        DataType::Int32,
        DataType::Date32,
        DataType::Int64,
        DataType::Float64,
        DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Decimal128(38, 3),
        DataType::Decimal256(50, 3),
        DataType::Utf8,
        DataType::LargeUtf8,
        DataType::Binary,
        DataType::LargeBinary,
        DataType::Utf8View,
        DataType::BinaryView,
        DataType::Null,
        DataType::Interval(arrow::datatypes::IntervalUnit::MonthDayNano),
        DataType::UInt64,
    ];

    /// A column of numbers and nulls, cast to another type.
    fn of(kind: &DataType, numbers: &Int64Array) -> ArrayRef {
        let numbers: ArrayRef = Arc::new(numbers.clone());
        let through = match kind {
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => DataType::Utf8,
            DataType::Date32 => DataType::Int32,
            DataType::Interval(_) => DataType::Duration(TimeUnit::Nanosecond),
            DataType::Null => return new_null_array(kind, numbers.len()),
            _ => DataType::Int64,
        };
        cast(&cast(&numbers, &through).unwrap(), kind).unwrap()
    }

    #[test]
    fn rows_come_to_their_places_whatever_their_type() {
        let mut rng = StdRng::seed_from_u64(11);
        let mut fields: Vec<Field> =
            KINDS.iter().enumerate().map(|(at, kind)| Field::new(at.to_string(), kind.clone(), true)).collect();
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1)])]);
        fields.push(Field::new("list", lists.data_type().clone(), true));
        let schema = Arc::new(Schema::new(fields));
        for round in 0..50 {
            let nulls = rng.random_bool(0.5);
            let batches: Vec<RecordBatch> = (0..rng.random_range(1..4))
                .map(|_| {
                    let rows = rng.random_range(1..40);
                    let mut number = || (!nulls || rng.random_bool(0.7)).then(|| rng.random_range(-100..100) & 0x7f);
                    let numbers: Int64Array = (0..rows + 3).map(|_| number()).collect();
                    let mut columns: Vec<ArrayRef> = KINDS.iter().map(|kind| of(kind, &numbers)).collect();
                    let list = numbers.iter().map(|n| n.map(|n| vec![Some(n as i32); n as usize % 3]));
                    columns.push(Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(list)));
                    RecordBatch::try_new(Arc::clone(&schema), columns).unwrap().slice(2, rows)
                })
                .collect();
            let total: usize = batches.iter().map(RecordBatch::num_rows).sum();
            let mut places: Vec<u32> = (0..total as u32).collect();
            places.shuffle(&mut rng);
            let mut rest = places.as_slice();
            let of_batch = batches.iter().map(|batch| rest.split_off(..batch.num_rows()).unwrap().to_vec());
            let of_batch: Vec<Vec<u32>> = of_batch.collect();
            let scattered = scatter_rows(&schema, &batches, &of_batch).unwrap();
            let back = take_record_batch(&scattered, &UInt32Array::from(places)).unwrap();
            assert_eq!(back, concat_batches(&schema, &batches).unwrap(), "round {round}");
        }
    }

    #[test]
    fn without_columns_the_rows_are_counted() {
        let schema = Arc::new(Schema::empty());
        let options = RecordBatchOptions::new().with_row_count(Some(2));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&schema), Vec::new(), &options).unwrap();
        assert_eq!(scatter_rows(&schema, &[batch], &[vec![1, 0]]).unwrap().num_rows(), 2);
    }
}
