//! Key equality: the values that GROUP BY, DISTINCT, PARTITION BY, joins, lookups and PRIMARY KEYs treat as equal.
//!
//! The two zeros of floats are one value, all NaNs are one value, and so are intervals of the same length (24 hours and 1 day, 30 days
//! and 1 month), also inside structs, lists and maps; every other value equals only itself. Code that compares keys by their bytes
//! (arrow's row format, hashes) uses the bytes of [`key_values`].

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, make_array};
use arrow::datatypes::{
    DataType, Float16Type, Float32Type, Float64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit,
};

/// The nanoseconds of a day.
const DAY: i128 = 86_400_000_000_000;

/// The values with only one form of zero, one of NaN and one of each interval's length. Arrays without other forms are returned
/// unchanged.
pub fn key_values(values: &ArrayRef) -> ArrayRef {
    match values.data_type() {
        DataType::Float64 => in_form::<Float64Type>(values, |v| v.to_bits() == one_double(v).to_bits(), one_double),
        DataType::Float32 => {
            let one = |v: f32| if v.is_nan() { f32::NAN } else { v + 0.0 };
            in_form::<Float32Type>(values, |v| v.to_bits() == one(v).to_bits(), one)
        }
        DataType::Float16 => {
            // Widening and narrowing again preserves every value and leaves one NaN.
            let one = |v: <Float16Type as ArrowPrimitiveType>::Native| {
                <Float16Type as ArrowPrimitiveType>::Native::from_f64(one_double(v.to_f64()))
            };
            in_form::<Float16Type>(values, |v| v.to_bits() == one(v).to_bits(), one)
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            in_form::<IntervalMonthDayNanoType>(values, |v| v == one_interval(v), one_interval)
        }
        other if has_other_forms(other) => {
            let data = values.to_data();
            let children = data.child_data().iter().map(|child| key_values(&make_array(child.clone())).to_data());
            let children = children.collect();
            data.into_builder().child_data(children).build().map_or_else(|_| Arc::clone(values), make_array)
        }
        _ => Arc::clone(values),
    }
}

/// The representative of all doubles that equal this one: adding zero turns -0.0 into 0.0 and keeps every other number.
#[inline]
pub fn one_double(value: f64) -> f64 {
    if value.is_nan() { f64::NAN } else { value + 0.0 }
}

/// The length of an interval in nanoseconds, as PostgreSQL compares them: a month has 30 days, a day has 24 hours.
pub fn interval_nanos(interval: IntervalMonthDayNano) -> i128 {
    let days = i128::from(interval.months) * 30 + i128::from(interval.days);
    days * DAY + i128::from(interval.nanoseconds)
}

/// The interval that stands for all of its length, in days and what is below a day. Arrow orders these by their length.
pub fn one_interval(interval: IntervalMonthDayNano) -> IntervalMonthDayNano {
    const LEAST: i128 = i32::MIN as i128;
    const MOST: i128 = i32::MAX as i128;
    let length = interval_nanos(interval);
    let days = length / DAY;
    // Only what has more days than fit goes to months.
    let months = if days > MOST {
        (days - MOST + 29) / 30
    } else if days < LEAST {
        (days - LEAST - 29) / 30
    } else {
        0
    };
    // The longest of all have more months than fit, too: the rest is below the day then.
    let months = months.clamp(LEAST, MOST);
    let days = (days - months * 30).clamp(LEAST, MOST);
    let nanos = length - (months * 30 + days) * DAY;
    IntervalMonthDayNano::new(months as i32, days as i32, nanos as i64)
}

/// `true` if equal values of this type can differ in their bytes.
pub fn has_other_forms(data_type: &DataType) -> bool {
    match data_type {
        DataType::Float16 | DataType::Float32 | DataType::Float64 | DataType::Interval(IntervalUnit::MonthDayNano) => {
            true
        }
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => has_other_forms(field.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_other_forms(field.data_type())),
        DataType::Dictionary(_, value) => has_other_forms(value),
        _ => false,
    }
}

fn in_form<T: ArrowPrimitiveType>(
    values: &ArrayRef,
    is_one: impl Fn(T::Native) -> bool,
    one: impl Fn(T::Native) -> T::Native,
) -> ArrayRef {
    let array = values.as_primitive::<T>();
    if array.values().iter().all(|value| is_one(*value)) {
        return Arc::clone(values);
    }
    Arc::new(array.unary::<_, T>(one))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float32Array, Float64Array, IntervalMonthDayNanoArray, ListArray, StructArray};
    use arrow::buffer::NullBuffer;
    use arrow::datatypes::Field;
    use arrow::row::{RowConverter, SortField};

    use super::*;

    fn bytes(values: &ArrayRef) -> Vec<Vec<u8>> {
        let converter = RowConverter::new(vec![SortField::new(values.data_type().clone())]).unwrap();
        let rows = converter.convert_columns(&[key_values(values)]).unwrap();
        rows.iter().map(|row| row.as_ref().to_vec()).collect()
    }

    fn doubles() -> ArrayRef {
        let other_nan = f64::from_bits(f64::NAN.to_bits() | 1 << 63 | 5);
        Arc::new(Float64Array::from(vec![Some(0.0), Some(-0.0), None, Some(f64::NAN), Some(other_nan), Some(-1.5)]))
    }

    #[test]
    fn both_zeros_are_one_key_and_all_nans_are() {
        let keys = bytes(&doubles());
        assert_eq!(keys[0], keys[1]);
        assert_eq!(keys[3], keys[4]);
        let different: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(different.len(), 4, "zero, null, NaN and -1.5");
        let narrow: ArrayRef = Arc::new(Float32Array::from(vec![0.0, -0.0, f32::NAN, -f32::NAN, f32::MIN_POSITIVE]));
        let keys = bytes(&narrow);
        assert!(keys[0] == keys[1] && keys[2] == keys[3] && keys[0] != keys[4]);
    }

    #[test]
    fn nested_values_are_compared_alike() {
        let all = doubles().slice(0, 4);
        let field = Arc::new(Field::new("x", DataType::Float64, true));
        let nulls = NullBuffer::from(vec![true, true, false, true]);
        let structs: ArrayRef = Arc::new(StructArray::new(vec![field].into(), vec![all], Some(nulls)));
        let keys = bytes(&structs.slice(0, 3));
        assert!(keys[0] == keys[1] && keys[1] != keys[2]);
        let lists =
            ListArray::from_iter_primitive::<Float64Type, _, _>([Some(vec![Some(-0.0)]), Some(vec![Some(0.0)]), None]);
        let lists: ArrayRef = Arc::new(lists);
        let keys = bytes(&lists.slice(0, 2));
        assert_eq!(keys[0], keys[1]);
    }

    #[test]
    fn intervals_of_one_length_are_one_key_and_keys_are_ordered_by_length() {
        const HOUR: i64 = 3_600_000_000_000;
        let of = |months, days, nanos| Some(IntervalMonthDayNano::new(months, days, nanos));
        // By length, with their ranks.
        let ranked = [
            (0, of(i32::MIN, i32::MIN, i64::MIN)),
            (1, of(0, -1, -HOUR)),
            (2, of(0, -1, 0)),
            (2, of(0, 0, -24 * HOUR)),
            (3, of(0, 0, -HOUR)),
            (3, of(0, -1, 23 * HOUR)),
            (4, of(0, 0, 0)),
            (4, of(1, -30, 0)),
            (5, of(0, 0, 24 * HOUR)),
            (5, of(0, 1, 0)),
            (6, of(0, 0, 25 * HOUR)),
            (7, of(1, 0, 0)),
            (7, of(0, 30, 0)),
            (7, of(0, 29, 24 * HOUR)),
            (8, of(12, 0, 0)),
            (9, of(i32::MAX, 0, 0)),
            (10, of(i32::MAX, i32::MAX, i64::MAX)),
        ];
        let all: IntervalMonthDayNanoArray = ranked.iter().map(|(_, interval)| *interval).collect();
        let all: ArrayRef = Arc::new(all);
        let keys = bytes(&all);
        let forms = key_values(&all);
        let forms = forms.as_primitive::<IntervalMonthDayNanoType>();
        for (a, (of_a, from)) in ranked.iter().enumerate() {
            assert_eq!(interval_nanos(forms.value(a)), interval_nanos(from.unwrap()), "a key has the same length");
            for (b, (of_b, _)) in ranked.iter().enumerate() {
                assert_eq!(keys[a].cmp(&keys[b]), of_a.cmp(of_b), "{a} and {b}");
                assert_eq!(forms.value(a).cmp(&forms.value(b)), of_a.cmp(of_b), "{a} and {b}");
            }
        }
    }

    #[test]
    fn arrays_without_other_forms_are_not_copied() {
        let plain: ArrayRef = Arc::new(Float64Array::from(vec![0.0, 1.0]));
        assert!(Arc::ptr_eq(&plain, &key_values(&plain)));
    }
}
