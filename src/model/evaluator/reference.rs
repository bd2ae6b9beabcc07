//! LightGBM itself as an evaluator: columns are copied to a row-major buffer and passed in one call.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use super::{Batch, Evaluator};
use crate::error::Result;
use crate::model::native::NativePool;

/// Rows per native call; with more the buffer would not stay in the cache.
const ROWS_PER_CALL: usize = 16_384;

/// LightGBM's own prediction.
pub struct Reference {
    native: NativePool,
    outputs: usize,
    buffers: Mutex<Vec<Vec<f64>>>,
}

impl Reference {
    /// Wraps loaded boosters of a model with `outputs` outputs.
    pub fn new(native: NativePool, outputs: usize) -> Self {
        Self { native, outputs, buffers: Mutex::new(Vec::new()) }
    }
}

impl Evaluator for Reference {
    fn name(&self) -> &'static str {
        "lightgbm"
    }

    fn score(&self, batch: &Batch<'_>, scores: &mut [f64]) -> Result<()> {
        let features = batch.columns().len();
        let mut buffer = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        let mut result = Ok(());
        for (index, part) in scores.chunks_mut(ROWS_PER_CALL * self.outputs).enumerate() {
            let rows = part.len() / self.outputs;
            buffer.resize(rows * features, 0.0);
            for (feature, column) in batch.columns().iter().enumerate() {
                for row in 0..rows {
                    buffer[row * features + feature] = column.value(index * ROWS_PER_CALL + row);
                }
            }
            result = self.native.predict(&buffer, part);
            if result.is_err() {
                break;
            }
        }
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        result
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reference").finish_non_exhaustive()
    }
}
