//! COUNT(DISTINCT …) computed from its state, without a hash table.
//!
//! The state is a list of the distinct values seen. So the result is the length of the list, and where values can be ordered
//! the lists are kept sorted: a step's few new values are merged into the many old ones by copying the stretches between
//! them. DataFusion's accumulators would hash every value of every touched group again, at each step and for each result.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType, AsArray, Int64Array, ListArray, PrimitiveArray,
    downcast_integer,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field};

/// `true` if states of this function are such lists.
pub(super) fn is_list(name: &str, distinct: bool, state: &[impl AsRef<Field>]) -> bool {
    let list = |field: &Field| matches!(field.data_type(), DataType::List(_));
    distinct && name == "count" && state.len() == 1 && list(state[0].as_ref())
}

/// Number of values in each list. Lists of strings may hold null, which does not count.
pub(super) fn count(lists: &ArrayRef) -> Option<ArrayRef> {
    let lists = lists.as_list_opt::<i32>()?;
    let nulls = lists.values().logical_nulls().filter(|nulls| nulls.null_count() > 0);
    let count = |row: usize| {
        let (start, end) = (lists.offsets()[row] as usize, lists.offsets()[row + 1] as usize);
        let values =
            nulls.as_ref().map_or(end - start, |nulls| end - start - nulls.slice(start, end - start).null_count());
        if lists.is_null(row) { 0 } else { values as i64 }
    };
    Some(Arc::new(Int64Array::from_iter_values((0..lists.len()).map(count))))
}

/// Merges the lists of the groups `known` (`before`) with those of all groups (`since`). `None` where the values cannot be
/// ordered here.
pub(super) fn merge(before: &ArrayRef, known: &[usize], since: &ArrayRef) -> Option<ArrayRef> {
    let (before, since) = (before.as_list_opt::<i32>()?, since.as_list_opt::<i32>()?);
    if before.value_type() != since.value_type() || before.null_count() + since.null_count() > 0 {
        return None;
    }
    macro_rules! typed {
        ($t:ty) => {
            merge_typed::<$t>(before, known, since)
        };
    }
    downcast_integer! {
        since.value_type() => (typed),
        _ => None,
    }
}

fn merge_typed<T: ArrowPrimitiveType>(before: &ListArray, known: &[usize], since: &ListArray) -> Option<ArrayRef> {
    let old = before.values().as_primitive_opt::<T>().filter(|values| values.null_count() == 0)?;
    let new = since.values().as_primitive_opt::<T>().filter(|values| values.null_count() == 0)?;
    let of = |list: &ListArray, row: usize| list.offsets()[row] as usize..list.offsets()[row + 1] as usize;
    let mut position = vec![None; since.len()];
    known.iter().enumerate().for_each(|(row, group)| position[*group] = Some(row));
    let mut values = Vec::with_capacity(old.len() + new.len());
    let mut offsets = Vec::with_capacity(since.len() + 1);
    offsets.push(0);
    let mut fresh = Vec::new();
    let mut sorted = Vec::new();
    for (group, row) in position.into_iter().enumerate() {
        fresh.clear();
        fresh.extend_from_slice(&new.values()[of(since, group)]);
        fresh.sort_unstable_by(|a, b| a.compare(*b));
        let mut many = row.map_or(&[][..], |row| &old.values()[of(before, row)]);
        // A group's first list is in the accumulator's order.
        if !many.is_sorted_by(|a, b| a.is_le(*b)) {
            sorted.clear();
            sorted.extend_from_slice(many);
            sorted.sort_unstable_by(|a, b| a.compare(*b));
            many = &sorted;
        }
        unite(many, &fresh, &mut values);
        offsets.push(i32::try_from(values.len()).ok()?);
    }
    let DataType::List(field) = since.data_type() else { return None };
    let values = PrimitiveArray::<T>::new(values.into(), None);
    let list = ListArray::try_new(Arc::clone(field), OffsetBuffer::new(offsets.into()), Arc::new(values), None);
    Some(Arc::new(list.ok()?))
}

/// Appends the union of two sorted lists, of which the second is short.
fn unite<N: ArrowNativeTypeOp>(mut many: &[N], few: &[N], out: &mut Vec<N>) {
    for value in few {
        let (below, rest) = many.split_at(gallop(many, *value));
        out.extend_from_slice(below);
        out.push(*value);
        many = rest.strip_prefix(&[*value]).unwrap_or(rest);
    }
    out.extend_from_slice(many);
}

/// Number of values below `value`, which is usually near the start.
fn gallop<N: ArrowNativeTypeOp>(values: &[N], value: N) -> usize {
    let mut step = 1;
    while values.get(step - 1).is_some_and(|other| other.compare(value) == Ordering::Less) {
        step *= 2;
    }
    let from = step / 2;
    from + values[from..values.len().min(step)].partition_point(|other| other.compare(value) == Ordering::Less)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use arrow::array::{Array, ArrayRef, AsArray, ListArray, StringArray};
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::{DataType, Field, Int64Type};
    use rand::rngs::StdRng;
    use rand::seq::SliceRandom;
    use rand::{Rng, SeedableRng};

    use super::{count, merge};

    type Sets = Vec<BTreeSet<i64>>;

    fn lists(sets: &Sets, rng: &mut StdRng) -> ArrayRef {
        let list = |set: &BTreeSet<i64>| {
            let mut values: Vec<_> = set.iter().copied().map(Some).collect();
            if rng.random_bool(0.3) {
                values.shuffle(rng);
            }
            Some(values)
        };
        Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(sets.iter().map(list).collect::<Vec<_>>()))
    }

    fn sets(groups: usize, rng: &mut StdRng) -> Sets {
        let set = |rng: &mut StdRng| {
            let most = if rng.random_bool(0.2) { 400 } else { 6 };
            (0..rng.random_range(0..most)).map(|_| rng.random_range(-60..400)).collect()
        };
        (0..groups).map(|_| set(rng)).collect()
    }

    #[test]
    fn merged_lists_are_the_unions() {
        let mut rng = StdRng::seed_from_u64(11);
        for _ in 0..300 {
            let groups = rng.random_range(1..9);
            let since = sets(groups, &mut rng);
            let known: Vec<usize> = (0..groups).filter(|_| rng.random_bool(0.7)).collect();
            let before = sets(known.len(), &mut rng);
            let mut expected = since.clone();
            known.iter().zip(&before).for_each(|(group, set)| expected[*group].extend(set));
            // Sliced, to test that the values before the first list are skipped.
            let padded: Sets = std::iter::once(BTreeSet::from([7, 8])).chain(before).collect();
            let before = lists(&padded, &mut rng).slice(1, known.len());
            let merged = merge(&before, &known, &lists(&since, &mut rng)).unwrap();
            let counts = count(&merged).unwrap();
            for (group, set) in expected.iter().enumerate() {
                let list = merged.as_list::<i32>().value(group);
                assert!(list.as_primitive::<Int64Type>().values().iter().eq(set), "{list:?} {set:?}");
                assert_eq!(counts.as_primitive::<Int64Type>().value(group), set.len() as i64);
            }
        }
    }

    #[test]
    fn null_in_a_list_does_not_count() {
        let values = Arc::new(StringArray::from(vec![Some("a"), None, Some("b"), None]));
        let field = Arc::new(Field::new_list_field(DataType::Utf8, true));
        let offsets = OffsetBuffer::new(vec![0, 2, 2, 4].into());
        let lists: ArrayRef = Arc::new(ListArray::new(field, offsets, values, None));
        assert_eq!(count(&lists).unwrap().as_primitive::<Int64Type>().values(), &[1, 0, 1]);
        assert!(merge(&lists, &[0, 1, 2], &lists).is_none());
    }
}
