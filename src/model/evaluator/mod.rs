//! Ways to score a batch: every [`Evaluator`] gives the same bits; they differ in speed.
//!
//! The input is Arrow columns, one per feature in the model's order; the output is one score per row, or with several
//! outputs the row's scores next to each other.
//!
//! [`Reference`] is LightGBM. [`blocks::Blocks`] is ours: `layout` turns a forest into comparisons of bytes, `ranks` turns a
//! batch into bytes, `kernel` evaluates trees on blocks of rows and `rows` on single rows; `choice` measures which is
//! fastest on a model.

mod aligned;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod blocks;
pub(super) mod choice;
mod kernel;
mod layout;
#[cfg(target_arch = "x86_64")]
mod pieces;
mod ranks;
mod reference;
#[cfg(target_arch = "x86_64")]
mod row256;
#[cfg(target_arch = "x86_64")]
mod row512;
mod rows;
mod walk;

pub(super) use self::reference::Reference;

use std::fmt;

use arrow::array::{Array, Float64Array};
use arrow::buffer::NullBuffer;
use arrow::util::bit_chunk_iterator::BitChunks;

use crate::error::{Error, Result};

/// Scores batches; one object serves any number of threads at once.
pub trait Evaluator: Send + Sync + fmt::Debug {
    /// A short name for display.
    fn name(&self) -> &'static str;

    /// Scores every row of `batch` into `scores`, which must have length `batch.rows() * outputs`.
    fn score(&self, batch: &Batch<'_>, scores: &mut [f64]) -> Result<()>;
}

/// The features of some rows.
#[derive(Debug, Clone)]
pub struct Batch<'a> {
    columns: Vec<Column<'a>>,
    rows: usize,
}

/// One feature of the rows; a null is a missing value.
#[derive(Debug, Clone, Copy)]
pub struct Column<'a> {
    values: &'a [f64],
    nulls: Option<&'a NullBuffer>,
}

impl<'a> Batch<'a> {
    /// A batch of `rows` rows; the columns are in the model's order, one per feature.
    pub fn new(columns: Vec<Column<'a>>, rows: usize) -> Result<Self> {
        if columns.iter().any(|column| column.values.len() != rows) {
            return Err(Error::internal("the columns of a batch differ in length"));
        }
        Ok(Self { columns, rows })
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The columns in the model's order.
    pub fn columns(&self) -> &[Column<'a>] {
        &self.columns
    }
}

impl<'a> Column<'a> {
    /// Values without nulls.
    pub fn plain(values: &'a [f64]) -> Self {
        Self { values, nulls: None }
    }

    /// The values from `start` on, if none of them can be null.
    #[inline]
    pub(super) fn plain_from(&self, start: usize) -> Option<&'a [f64]> {
        self.nulls.is_none().then(|| &self.values[start..])
    }

    /// Copies the rows from `start` on into `target`, nulls as NaN.
    #[inline]
    pub(super) fn copy_to(&self, start: usize, target: &mut [f64]) {
        let source = &self.values[start..start + target.len()];
        target.copy_from_slice(source);
        if let Some(nulls) = self.nulls {
            let words = BitChunks::new(nulls.buffer(), nulls.offset() + start, target.len()).iter_padded();
            for (valid, values) in words.zip(target.chunks_mut(64)) {
                if valid.count_ones() as usize == values.len() {
                    continue;
                }
                for (offset, value) in values.iter_mut().enumerate() {
                    *value = if valid >> offset & 1 == 1 { *value } else { f64::NAN };
                }
            }
        }
    }

    /// The value of one row, NaN for null.
    #[inline]
    pub(super) fn value(&self, row: usize) -> f64 {
        match self.nulls {
            Some(nulls) if nulls.is_null(row) => f64::NAN,
            _ => self.values[row],
        }
    }
}

impl<'a> From<&'a Float64Array> for Column<'a> {
    fn from(array: &'a Float64Array) -> Self {
        Self { values: array.values(), nulls: array.nulls().filter(|nulls| nulls.null_count() > 0) }
    }
}
