//! The state of a source, while it is read: kept by those who know it, shown as metrics.

use crate::time::Watermark;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

/// The unknown part.
pub const UNKNOWN: u64 = u64::MAX;

/// The state of one source, shared by those who know and the task that shows it. Clones are the same source's.
#[derive(Debug, Clone)]
pub struct SourceVitals {
    /// Records not yet handed over; [`UNKNOWN`] where the source cannot tell.
    pub lag: Arc<AtomicU64>,
    /// Milliseconds since its brokers last answered; [`UNKNOWN`] of sources without.
    pub silent_ms: Arc<AtomicU64>,
    /// The number of a [`Watermark`].
    pub watermark: Arc<AtomicI64>,
}

impl Default for SourceVitals {
    fn default() -> Self {
        Self {
            lag: Arc::new(AtomicU64::new(UNKNOWN)),
            silent_ms: Arc::new(AtomicU64::new(UNKNOWN)),
            watermark: Arc::new(AtomicI64::new(Watermark::NONE.0)),
        }
    }
}
