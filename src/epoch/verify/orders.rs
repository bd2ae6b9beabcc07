//! The sources' rows in other orders: an answer that changes with them is one that the query leaves open.
//!
//! Rows with the same event time, or the same value of what a Top-N ranks by, come in any order: streams, batches and restarts may each take
//! another. Ties alone prove nothing, since most answers do not depend on them; so a table that differs is computed again over its sources'
//! rows in some other orders. What stays the same in all of them is determined and has to be in the table.

use arrow::compute::interleave_record_batch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;

use super::compare::{Withheld, compare};
use crate::error::{Context, Result};

/// Rows of a batch that is put together of others.
const BATCH_ROWS: usize = 8192;

/// An order of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    AsRead,
    Reversed,
    /// By this seed.
    Shuffled(u64),
}

impl Order {
    /// The orders that are tried. Of two rows that are alike each comes first in some, and with each shuffle it is less likely that an answer
    /// which depends on several pairs of them stays what it was.
    pub(super) const TRIED: [Self; 6] =
        [Self::AsRead, Self::Reversed, Self::Shuffled(1), Self::Shuffled(2), Self::Shuffled(3), Self::Shuffled(4)];

    /// The rows in this order.
    pub(super) fn of(self, rows: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
        let mut places: Vec<(usize, usize)> = Vec::new();
        for (index, batch) in rows.iter().enumerate() {
            places.extend((0..batch.num_rows()).map(|row| (index, row)));
        }
        match self {
            Self::AsRead => return Ok(rows),
            Self::Reversed => places.reverse(),
            Self::Shuffled(seed) => shuffle(&mut places, seed),
        }
        let batches: Vec<&RecordBatch> = rows.iter().collect();
        let part = |places: &[(usize, usize)]| interleave_record_batch(&batches, places);
        let parts = places.chunks(BATCH_ROWS).map(part).collect::<Result<_, _>>();
        parts.internal(|| "rows cannot be put in another order".to_owned())
    }
}

fn shuffle(places: &mut [(usize, usize)], seed: u64) {
    let mut random = seed;
    for last in (1..places.len()).rev() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        places.swap(last, (random >> 33) as usize % (last + 1));
    }
}

/// The part of an answer that no order changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Determined {
    All,
    /// The rows with these columns; their number, if there are none.
    Columns(SchemaRef),
    Nothing,
}

impl Determined {
    /// Of the answers that the orders gave.
    pub(super) fn of(schema: &SchemaRef, answers: &[&[RecordBatch]]) -> Result<Self> {
        let same = |schema: &SchemaRef| -> Result<bool> {
            for other in answers.iter().skip(1) {
                if !compare("", schema, answers[0], other, &Withheld::default())?.agrees() {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        if same(schema)? {
            return Ok(Self::All);
        }
        let mut fixed = Vec::new();
        for field in schema.fields() {
            if same(&SchemaRef::new(Schema::new(vec![field.clone()])))? {
                fixed.push(field.clone());
            }
        }
        let fixed = SchemaRef::new(Schema::new(fixed));
        let number = SchemaRef::new(Schema::empty());
        for columns in [fixed, number] {
            if same(&columns)? {
                return Ok(Self::Columns(columns));
            }
        }
        Ok(Self::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, Int64Array};
    use arrow::datatypes::Int64Type;

    use super::*;

    fn rows(a: &[i64], b: &[i64]) -> RecordBatch {
        let column = |values: &[i64]| Arc::new(Int64Array::from(values.to_vec())) as ArrayRef;
        RecordBatch::try_from_iter([("a", column(a)), ("b", column(b))]).unwrap()
    }

    #[test]
    fn every_order_has_all_rows_and_no_two_are_the_same() {
        let given = vec![rows(&[1, 2, 3], &[0; 3]), rows(&[4, 5, 6, 7], &[0; 4])];
        let values = |order: Order| -> Vec<i64> {
            let given = order.of(given.clone()).unwrap();
            given.iter().flat_map(|part| part.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
        };
        let tried: std::collections::BTreeSet<Vec<i64>> = Order::TRIED.into_iter().map(values).collect();
        assert_eq!(tried.len(), Order::TRIED.len());
        for mut values in tried {
            values.sort_unstable();
            assert_eq!(values, [1, 2, 3, 4, 5, 6, 7]);
        }
    }

    #[test]
    fn a_column_that_no_order_changes_is_determined() {
        let of = |answers: &[RecordBatch]| {
            let schema = answers[0].schema();
            let answers: Vec<_> = answers.iter().map(std::slice::from_ref).collect();
            match Determined::of(&schema, &answers).unwrap() {
                Determined::All => "all".to_owned(),
                Determined::Nothing => "nothing".to_owned(),
                Determined::Columns(schema) => {
                    format!("{:?}", schema.fields().iter().map(|f| f.name()).collect::<Vec<_>>())
                }
            }
        };
        assert_eq!(of(&[rows(&[1, 2], &[3, 4]), rows(&[2, 1], &[4, 3])]), "all");
        assert_eq!(of(&[rows(&[1, 2], &[3, 4]), rows(&[1, 2], &[3, 5])]), "[\"a\"]");
        assert_eq!(of(&[rows(&[1, 2], &[3, 4]), rows(&[1, 7], &[3, 5])]), "[]");
        // Each column is the same, and their pairs are not.
        assert_eq!(of(&[rows(&[1, 2], &[3, 4]), rows(&[1, 2], &[4, 3])]), "[]");
        assert_eq!(of(&[rows(&[1, 2], &[3, 4]), rows(&[1], &[3])]), "nothing");
    }
}
