//! Rows of a table against rows of a query: which of them only one side has.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, UInt64Array, new_null_array};
use arrow::compute::{filter_record_batch, take_record_batch};
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use arrow::row::{RowConverter, SortField};

use super::Comparison;
use crate::equality::key_values;
use crate::error::{Context, Result};

/// Doubles this close, relative to the larger one (or to 1), count as equal: sums are taken in other orders.
const TOLERANCE: f64 = 1e-9;

/// Rows of a target that operators still hold back.
#[derive(Debug, Default)]
pub(in crate::epoch) struct Withheld {
    pub(super) rows: Vec<RecordBatch>,
    /// Rows that they are going to retract.
    pub(super) retracted: Vec<RecordBatch>,
}

/// Of all rows with one key a keyed table holds one, the newest; which of several that is depends on the order in which they came. So of
/// each key the row that the table holds is expected, if it is one of them.
pub(super) fn one_of_each_key(
    key: &[String],
    schema: &SchemaRef,
    found: &[RecordBatch],
    expected: &[RecordBatch],
) -> Result<Vec<RecordBatch>> {
    let wrong = || "rows cannot be compared".to_owned();
    let places = key.iter().map(|name| schema.index_of(name)).collect::<Result<Vec<_>, _>>().internal(wrong)?;
    let fields = places.iter().map(|place| SortField::new(schema.field(*place).data_type().clone()));
    let converter = RowConverter::new(fields.collect()).internal(wrong)?;
    let keys = |batch: &RecordBatch| {
        let columns: Vec<_> = places.iter().map(|place| key_values(batch.column(*place))).collect();
        converter.convert_columns(&columns).internal(wrong)
    };
    let expected = expected.iter().map(|batch| in_order(schema, batch)).collect::<Result<Vec<_>>>()?;
    let mut chosen: HashMap<Vec<u8>, (usize, usize)> = HashMap::new();
    let held = collect(schema, found)?;
    let offered = collect(schema, &expected)?;
    for (row, places) in &offered.rows {
        let same = |doubles: &[f64]| {
            held.rows.get(row).is_some_and(|rows| rows.iter().any(|(other, _)| close(doubles, other)))
        };
        for (_, (index, at)) in places.iter().filter(|(doubles, _)| same(doubles)) {
            chosen.insert(keys(&expected[*index].slice(*at, 1))?.row(0).as_ref().to_vec(), (*index, *at));
        }
    }
    for (index, batch) in expected.iter().enumerate() {
        for (at, key) in keys(batch)?.iter().enumerate() {
            chosen.entry(key.as_ref().to_vec()).or_insert((index, at));
        }
    }
    let mut picked = vec![Vec::new(); expected.len()];
    for (index, at) in chosen.into_values() {
        picked[index].push(at as u64);
    }
    let pick = |(batch, mut rows): (&RecordBatch, Vec<u64>)| {
        rows.sort_unstable();
        take_record_batch(batch, &UInt64Array::from(rows)).internal(wrong)
    };
    expected.iter().zip(picked).map(pick).collect()
}

/// The rows that are found among `found`, each as often as it is there, and the others.
pub(super) fn those_found(
    schema: &SchemaRef,
    found: &[RecordBatch],
    rows: &[RecordBatch],
) -> Result<(Vec<RecordBatch>, Vec<RecordBatch>)> {
    if rows.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let mut found = collect(schema, found)?;
    let asked = collect(schema, rows)?;
    let mut is_found: Vec<Vec<bool>> = rows.iter().map(|batch| vec![false; batch.num_rows()]).collect();
    for (key, places) in &asked.rows {
        for (doubles, (index, at)) in places {
            is_found[*index][*at] = found.take(key, doubles);
        }
    }
    let pick = |wanted: bool| -> Result<Vec<RecordBatch>> {
        let of_batch = |(batch, is_found): (&RecordBatch, &Vec<bool>)| {
            let mask: BooleanArray = is_found.iter().map(|is_found| Some(*is_found == wanted)).collect();
            filter_record_batch(batch, &mask).internal(|| "rows cannot be compared".to_owned())
        };
        let mut picked = rows.iter().zip(&is_found).map(of_batch).collect::<Result<Vec<_>>>()?;
        picked.retain(|batch| batch.num_rows() > 0);
        Ok(picked)
    };
    Ok((pick(true)?, pick(false)?))
}

/// The columns of the schema, null where the batch has none.
pub(super) fn filled(schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch> {
    let columns = schema.fields().iter().map(|field| match batch.column_by_name(field.name()) {
        Some(column) => Arc::clone(column),
        None => new_null_array(field.data_type(), batch.num_rows()),
    });
    let columns: Vec<ArrayRef> = columns.collect();
    let fields = schema.fields().iter().zip(&columns);
    let fields = fields.map(|(field, column)| Field::new(field.name(), column.data_type().clone(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema, columns, &options).internal(|| "rows cannot be compared".to_owned())
}

/// The columns of a batch in the order of the schema.
pub(super) fn in_order(schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch> {
    let wrong = || "rows cannot be compared".to_owned();
    let places = schema.fields().iter().map(|field| batch.schema().index_of(field.name()));
    batch.project(&places.collect::<Result<Vec<_>, _>>().internal(wrong)?).internal(wrong)
}

/// The doubles of a row, and where it is: batch and row.
type Doubles = (Vec<f64>, (usize, usize));

/// Rows of one side, by the columns that must be equal, with their doubles.
#[derive(Default)]
pub(super) struct Side {
    rows: HashMap<Vec<u8>, Vec<Doubles>>,
    count: u64,
}

pub(in crate::epoch) fn compare(
    target: &str,
    schema: &SchemaRef,
    found: &[RecordBatch],
    expected: &[RecordBatch],
    withheld: &Withheld,
) -> Result<Comparison> {
    let mut streamed = collect(schema, found)?;
    let batch = collect(schema, expected)?;
    let mut waiting = collect(schema, &withheld.rows)?;
    let mut retracted = collect(schema, &withheld.retracted)?;
    let mut result =
        Comparison { target: target.to_owned(), streamed: streamed.count, batch: batch.count, ..Comparison::default() };
    for (key, rows) in &batch.rows {
        for (doubles, place) in rows {
            if streamed.take(key, doubles) {
                continue;
            }
            let (index, row) = *place;
            if waiting.take(key, doubles) {
                result.pending += 1;
            } else {
                result.missing += 1;
                example(&mut result, "only in batch ", &expected[index], row)?;
            }
        }
    }
    let rest = streamed.rows.iter().flat_map(|(key, rows)| rows.iter().map(move |row| (key, row)));
    for (key, (doubles, (index, row))) in rest {
        let (index, row) = (*index, *row);
        if retracted.take(key, doubles) {
            continue;
        }
        result.surplus += 1;
        example(&mut result, "only in stream", &found[index], row)?;
    }
    Ok(result)
}

impl Side {
    /// The rows that are left.
    pub(super) fn rest(&self) -> Vec<(Vec<u8>, Vec<f64>)> {
        let rows = self.rows.iter().flat_map(|(key, rows)| rows.iter().map(move |row| (key, row)));
        rows.map(|(key, (doubles, _))| (key.clone(), doubles.clone())).collect()
    }

    /// The number of rows that are left.
    pub(super) fn len(&self) -> u64 {
        self.rows.values().map(|rows| rows.len() as u64).sum()
    }

    /// Takes out of both sides the rows that both have.
    pub(super) fn shared(&mut self, other: &mut Self) -> Vec<(Vec<u8>, Vec<f64>)> {
        let mut shared = self.rest();
        shared.retain(|(key, doubles)| other.take(key, doubles) && self.take(key, doubles));
        shared
    }

    /// Takes out a row that equals this one; true if there was one.
    pub(super) fn take(&mut self, key: &[u8], doubles: &[f64]) -> bool {
        let Some(candidates) = self.rows.get_mut(key) else { return false };
        let found = candidates.iter().position(|(other, _)| close(doubles, other));
        found.map(|at| candidates.swap_remove(at)).is_some()
    }
}

pub(super) fn collect(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Side> {
    let is_double = |index: &usize| *schema.field(*index).data_type() == DataType::Float64;
    let (doubles, exact): (Vec<usize>, Vec<usize>) = (0..schema.fields().len()).partition(is_double);
    let fields = exact.iter().map(|index| SortField::new(schema.field(*index).data_type().clone())).collect();
    let wrong = || "rows cannot be compared".to_owned();
    let converter = RowConverter::new(fields).internal(wrong)?;
    let mut side = Side::default();
    for (number, batch) in batches.iter().enumerate() {
        let columns: Vec<ArrayRef> = schema
            .fields()
            .iter()
            .map(|field| {
                let column = batch.column_by_name(field.name()).ok_or_else(|| {
                    crate::error::Error::internal(format!("column `{}` is missing in what was read", field.name()))
                })?;
                arrow::compute::cast(column, field.data_type()).internal(wrong)
            })
            .collect::<Result<_>>()?;
        let keys: Vec<ArrayRef> = exact.iter().map(|index| key_values(&columns[*index])).collect();
        let encoded = match keys.is_empty() {
            true => None,
            false => Some(converter.convert_columns(&keys).internal(wrong)?),
        };
        for row in 0..batch.num_rows() {
            let key = encoded.as_ref().map(|encoded| encoded.row(row).as_ref().to_vec()).unwrap_or_default();
            let values = doubles.iter().map(|index| {
                let column = columns[*index].as_primitive::<Float64Type>();
                // A null is no number, and equal to nulls only.
                if column.is_null(row) { f64::NEG_INFINITY.next_up() } else { column.value(row) }
            });
            side.rows.entry(key).or_default().push((values.collect(), (number, row)));
            side.count += 1;
        }
    }
    Ok(side)
}

fn close(a: &[f64], b: &[f64]) -> bool {
    a.iter().zip(b).all(|(a, b)| {
        let near = || (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()).max(1.0);
        a == b || (a.is_nan() && b.is_nan()) || (a.is_finite() && b.is_finite() && near())
    })
}

fn example(result: &mut Comparison, side: &str, batch: &RecordBatch, row: usize) -> Result<()> {
    const SHOWN: usize = 10;
    if result.examples.len() < SHOWN {
        let line = crate::sink::console::row(batch, row)?;
        result.examples.push(format!("{side}  {line}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::array::Float64Array;

    use super::*;

    fn doubles(values: &[f64]) -> RecordBatch {
        let column: ArrayRef = Arc::new(Float64Array::from(values.to_vec()));
        RecordBatch::try_from_iter([("v", column)]).unwrap()
    }

    #[test]
    fn infinity_is_near_to_nothing_else() {
        let found = doubles(&[f64::INFINITY, 1.0, f64::NEG_INFINITY, 2.0, 3.0, 4.0, f64::NAN]);
        let expected = doubles(&[f64::NAN, 4.0, 3.0, 1.0 + 1e-12, 2.0, f64::INFINITY, f64::NEG_INFINITY]);
        let same =
            compare("t", &found.schema(), std::slice::from_ref(&found), &[expected], &Withheld::default()).unwrap();
        assert!(same.agrees(), "{same:?}");
        let other = doubles(&[f64::INFINITY, 1.0, 7.0, 2.0, 3.0, 4.0, f64::NAN]);
        let differing = compare("t", &found.schema(), &[found], &[other], &Withheld::default()).unwrap();
        assert_eq!((differing.missing, differing.surplus), (1, 1));
        assert!(differing.examples[0].contains('7'), "{differing:?}");
    }

    #[test]
    fn rows_that_wait_are_pending_and_rows_to_be_retracted_are_no_surplus() {
        let withheld = Withheld { rows: vec![doubles(&[3.0])], retracted: vec![doubles(&[9.0])] };
        let (found, expected) = (doubles(&[1.0, 9.0, 8.0]), doubles(&[1.0, 3.0, 3.0]));
        let compared = compare("t", &found.schema(), &[found], &[expected], &withheld).unwrap();
        assert_eq!((compared.pending, compared.missing, compared.surplus), (1, 1, 1));
    }
}
