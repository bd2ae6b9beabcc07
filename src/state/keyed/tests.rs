use super::*;
use arrow::array::{Array, AsArray, BooleanArray, Int64Array, ListArray, StringArray};
use arrow::datatypes::{Field, Int64Type};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

type Key = (Option<String>, i64);
type Value = (Option<i64>, Option<bool>, Option<Vec<i64>>);

fn table() -> KeyedTable {
    let list = DataType::List(Arc::new(Field::new_list_field(DataType::Int64, true)));
    KeyedTable::new(&[DataType::Utf8, DataType::Int64], &[DataType::Int64, DataType::Boolean, list]).unwrap()
}

fn key_arrays(keys: &[Key]) -> Vec<ArrayRef> {
    vec![
        Arc::new(keys.iter().map(|key| key.0.clone()).collect::<StringArray>()),
        Arc::new(keys.iter().map(|key| Some(key.1)).collect::<Int64Array>()),
    ]
}

fn value_arrays(values: &[Value]) -> Vec<ArrayRef> {
    let lists =
        values.iter().map(|value| value.2.as_ref().map(|list| list.iter().map(|v| Some(*v)).collect::<Vec<_>>()));
    vec![
        Arc::new(values.iter().map(|value| value.0).collect::<Int64Array>()),
        Arc::new(values.iter().map(|value| value.1).collect::<BooleanArray>()),
        Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists)),
    ]
}

fn read_keys(keys: &[ArrayRef]) -> Vec<Key> {
    let names = keys[0].as_string::<i32>();
    let numbers = keys[1].as_primitive::<Int64Type>();
    (0..names.len()).map(|row| (names.is_valid(row).then(|| names.value(row).to_owned()), numbers.value(row))).collect()
}

fn read_values(values: &[ArrayRef]) -> Vec<Value> {
    let numbers = values[0].as_primitive::<Int64Type>();
    let flags = values[1].as_boolean();
    let lists = values[2].as_list::<i32>();
    let list = |row: usize| lists.is_valid(row).then(|| lists.value(row).as_primitive::<Int64Type>().values().to_vec());
    (0..numbers.len())
        .map(|row| {
            (
                numbers.is_valid(row).then(|| numbers.value(row)),
                flags.is_valid(row).then(|| flags.value(row)),
                list(row),
            )
        })
        .collect()
}

fn random_value(random: &mut StdRng) -> Value {
    let list = (0..random.random_range(0..4)).map(|_| random.random_range(0..9)).collect();
    (
        random.random_bool(0.8).then(|| random.random()),
        random.random_bool(0.8).then(|| random.random()),
        random.random_bool(0.8).then_some(list),
    )
}

fn contents(table: &KeyedTable) -> BTreeMap<Key, Value> {
    let slots = table.live_slots();
    read_keys(&table.keys(&slots).unwrap()).into_iter().zip(read_values(&table.gather(&slots).unwrap())).collect()
}

#[test]
fn contents_and_changes_match_an_ordered_map() {
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut table = table();
        let mut model: BTreeMap<Key, Value> = BTreeMap::new();
        let mut stored: BTreeMap<Key, Value> = BTreeMap::new();
        let names = random.random_range(1..200);
        for _ in 0..60 {
            let mut keys: Vec<Key> = (0..random.random_range(0..300))
                .map(|_| {
                    let name = random.random_range(0..names);
                    ((name > 0).then(|| "x".repeat(name % 7) + &name.to_string()), random.random_range(0..2))
                })
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect();
            keys.shuffle(&mut random);
            let slots = table.intern(&key_arrays(&keys), keys.len()).unwrap();
            for (key, slot) in keys.iter().zip(&slots) {
                assert_eq!(table.is_live(*slot), model.contains_key(key), "seed {seed}");
            }
            if random.random_bool(0.6) {
                let values: Vec<_> = keys.iter().map(|_| random_value(&mut random)).collect();
                table.put(&slots, &value_arrays(&values)).unwrap();
                model.extend(keys.into_iter().zip(values));
            } else {
                table.delete(&slots).unwrap();
                for key in &keys {
                    model.remove(key);
                }
            }
            if random.random_bool(0.2) {
                apply(&mut stored, &mut table);
                assert_eq!(stored, model, "seed {seed}");
            }
            if random.random_bool(0.05) {
                table = self::table();
                let (keys, values): (Vec<_>, Vec<_>) = stored.clone().into_iter().unzip();
                table.restore(&key_arrays(&keys), &value_arrays(&values), keys.len()).unwrap();
                model.clone_from(&stored);
            }
            assert_eq!(table.len(), model.len(), "seed {seed}");
            if random.random_bool(0.2) {
                assert_eq!(contents(&table), model, "seed {seed}");
            }
        }
    }
}

fn apply(stored: &mut BTreeMap<Key, Value>, table: &mut KeyedTable) {
    let changes = table.changes().unwrap();
    let written = read_keys(&table.keys(&changes.upserts).unwrap());
    stored.extend(written.into_iter().zip(read_values(&table.gather(&changes.upserts).unwrap())));
    if changes.deleted > 0 {
        for key in read_keys(&changes.deletes) {
            assert!(stored.remove(&key).is_some(), "only rows that were told are told to be gone");
        }
    }
}

#[test]
fn forgotten_rows_are_not_told() {
    let mut table = table();
    let keys = [(Some("a".to_owned()), 1), (None, 2)];
    let slots = table.intern(&key_arrays(&keys), 2).unwrap();
    table.put(&slots, &value_arrays(&[(Some(1), None, None), (None, Some(true), None)])).unwrap();
    table.forget(&slots[..1]).unwrap();
    let changes = table.changes().unwrap();
    assert_eq!(read_keys(&table.keys(&changes.upserts).unwrap()), keys[1..]);
    assert_eq!(changes.deleted, 0);
    table.forget(&slots[1..]).unwrap();
    let changes = table.changes().unwrap();
    assert_eq!((changes.upserts.len(), changes.deleted, table.len()), (0, 0, 0));
}

#[test]
fn a_table_without_key_columns_has_one_row() {
    let mut table = KeyedTable::new(&[], &[DataType::Int64]).unwrap();
    let slots = table.intern(&[], 1).unwrap();
    table.put(&slots, &[Arc::new(Int64Array::from(vec![5]))]).unwrap();
    assert_eq!(table.intern(&[], 1).unwrap(), slots);
    assert_eq!(table.len(), 1);
}
