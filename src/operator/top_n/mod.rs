//! Top-N per partition: `row_number()`, `rank()` or `dense_rank()` `<= limit`.
//!
//! **Ties.** Rows with equal order values are ordered by all their columns, ascending, nulls first. So the output depends on
//! the rows alone, not on their arrival, and equals a batch wherever the order determines which row is first; for rank() and
//! dense_rank(), always. Rows equal in every column are one row that counts several times.
//!
//! - [`best`]: the first row per partition of an append stream, the common case: one row per key, replaced in place.
//! - [`leading`]: the first few rows per partition of an append stream, by row_number(): a short list per key.
//! - [`ranked`]: everything else: an ordered set of rows per partition. Append streams keep the rows within the limit; a
//!   retracting stream keeps all, since the next one may move up.
//! - [`newest`]: the last row of each key of a retracting stream.
//!
//! If partitions close with a window, rows of a complete window are late, and so are rows without a window. With a TTL, a
//! partition for which no row has arrived for that time (up to an eighth longer) expires; its output is not retracted.

pub mod spec;
mod best;
mod keyed;
mod leading;
mod lifetime;
mod list;
mod newest;
mod partition;
mod ranked;
mod ties;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, UInt64Array};
use arrow::datatypes::{Int64Type, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::contract::Operator;
use super::spec::{NewestSpec, RankFunction, TopNSpec};
use crate::error::{Context, Error, Result};

/// Representation of partitions, in memory and in state. It is recorded in state by the name of the table, so that another
/// choice for new state leaves state that was written before readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeping {
    Best,
    Leading,
    Ranked,
}

impl Keeping {
    /// The representation for new state of `spec`: the fastest one, which may be another in each version.
    fn of(spec: &TopNSpec) -> Self {
        match spec.limit {
            _ if spec.retract || spec.function != RankFunction::RowNumber => Self::Ranked,
            1 => Self::Best,
            2..=leading::MOST => Self::Leading,
            _ => Self::Ranked,
        }
    }

    /// The representation that the first version chose for `spec`. It is part of the state's address and decides about tables
    /// that are called `rows`: it never changes.
    fn first(spec: &TopNSpec) -> Self {
        match spec.limit {
            _ if spec.retract || spec.function != RankFunction::RowNumber => Self::Ranked,
            1 => Self::Best,
            2..=1024 => Self::Leading,
            _ => Self::Ranked,
        }
    }

    /// The name of its table in the state of `spec`.
    fn table(self, spec: &TopNSpec) -> &'static str {
        match self {
            Self::Best => "best",
            keeping if keeping == Self::first(spec) => "rows",
            Self::Leading => "leading",
            Self::Ranked => "ranked",
        }
    }

    /// The representation of state of `spec` that is in these tables; the one for new state if it is in none.
    fn written(spec: &TopNSpec, tables: &[&str]) -> Self {
        let all = [Self::Best, Self::Leading, Self::Ranked];
        all.into_iter().find(|keeping| tables.contains(&keeping.table(spec))).unwrap_or_else(|| Self::of(spec))
    }
}

/// The operator that `spec` describes.
pub fn top_n(spec: TopNSpec) -> Result<Box<dyn Operator>> {
    top_n_for(spec, &[])
}

/// The same for state that is in `tables`, in whatever representation that is.
fn top_n_for(spec: TopNSpec, tables: &[&str]) -> Result<Box<dyn Operator>> {
    let keeping = Keeping::written(&spec, tables);
    let table = keeping.table(&spec);
    Ok(match keeping {
        Keeping::Best => Box::new(best::Best::new(spec)?),
        Keeping::Leading => Box::new(leading::Leading::new(&spec, table)?),
        Keeping::Ranked => Box::new(ranked::Ranked::new(&spec, table)?),
    })
}

/// The operator that emits the newest row of each key.
pub fn newest(spec: &NewestSpec) -> Result<Box<dyn Operator>> {
    Ok(Box::new(newest::Newest::new(spec)?))
}

/// The columns of a retracting stream without its weight.
fn without_weight(input: &SchemaRef) -> SchemaRef {
    let columns = input.fields().len().saturating_sub(1);
    Arc::new(Schema::new(input.fields().iter().take(columns).cloned().collect::<Vec<_>>()))
}

/// The first 16 bytes of a row's encoded order values, which usually suffice to compare. No encoding is a prefix of another,
/// so padded encodings are equal only if the encodings are.
fn prefix(order: &[u8]) -> u128 {
    let mut padded = [0; 16];
    let len = order.len().min(16);
    padded[..len].copy_from_slice(&order[..len]);
    u128::from_be_bytes(padded)
}

/// Schemas of input and output rows.
#[derive(Debug)]
struct Shape {
    /// The input without its weight.
    rows: SchemaRef,
    retract: bool,
    output: SchemaRef,
    with_rank: bool,
    /// `true` if the output has a weight.
    updating: bool,
}

impl Shape {
    fn new(spec: &TopNSpec) -> Self {
        let columns = spec.input.fields().len() - usize::from(spec.retract);
        let fields: Vec<_> = spec.input.fields().iter().take(columns).cloned().collect();
        Self {
            rows: Arc::new(Schema::new(fields)),
            retract: spec.retract,
            output: Arc::clone(&spec.output),
            with_rank: spec.with_rank,
            updating: spec.closing.is_none(),
        }
    }

    /// Rows and their weights, if they have any.
    fn split(&self, batch: &RecordBatch) -> Result<(RecordBatch, Option<Int64Array>)> {
        let width = self.rows.fields().len();
        let weights = if self.retract {
            let weights = batch.columns().get(width).and_then(|column| column.as_primitive_opt::<Int64Type>());
            Some(weights.ok_or_else(|| Error::internal("a retracting stream has no weight"))?.clone())
        } else {
            None
        };
        let columns = batch.columns().iter().take(width).cloned().collect();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.rows), columns, &options)
            .internal(|| "input rows do not fit the operator".to_owned())?;
        Ok((rows, weights))
    }

    /// Output rows; `rank` and `weight` are used if the output has such columns.
    fn output(&self, rows: &[ArrayRef], rank: UInt64Array, weight: Int64Array) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(rank.len()));
        let mut columns = rows.to_vec();
        if self.with_rank {
            columns.push(Arc::new(rank));
        }
        if self.updating {
            columns.push(Arc::new(weight));
        }
        RecordBatch::try_new_with_options(Arc::clone(&self.output), columns, &options)
            .internal(|| "ranked rows do not fit the output".to_owned())
    }
}
