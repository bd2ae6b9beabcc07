//! Finds the source record of each refused row of a branch. The branch runs again row by row, and only when rows were refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::OnceCell;

use crate::plan::{Dataflow, Lane};

/// The records of one lane's rows of one branch.
pub struct RowFinder<'a> {
    pub branch: usize,
    lane: &'a Lane,
    /// All lanes: operators give rows to other lanes than those that they read them from.
    lanes: &'a [Arc<Lane>],
    /// Rows that were handed out.
    passed: AtomicUsize,
    /// Each row's number among the source's.
    places: OnceCell<Option<Vec<Option<u64>>>>,
}

impl<'a> RowFinder<'a> {
    /// For the rows that lane `number` makes of a branch, none of which was handed out yet.
    pub fn new(branch: usize, lanes: &'a [Arc<Lane>], number: usize) -> Self {
        Self { branch, lane: &lanes[number], lanes, passed: AtomicUsize::new(0), places: OnceCell::new() }
    }

    /// Takes note of rows that are handed out; the number of the first.
    pub fn pass(&self, rows: usize) -> usize {
        self.passed.fetch_add(rows, Ordering::Relaxed)
    }

    pub fn lane(&self) -> &'a Lane {
        self.lane
    }

    pub fn lanes(&self) -> &'a [Arc<Lane>] {
        self.lanes
    }

    /// The numbers of the branch's rows among the source's, as far as it has its rows from there; empty where they cannot be found.
    pub async fn places(&self, dataflow: &Dataflow) -> &[Option<u64>] {
        let find = || async {
            // The letter matters more than where it came from.
            let found = self.lane.places_of_branch(dataflow, self.branch).await;
            found.inspect_err(|error| tracing::debug!(%error, "refused rows are not traced to their records")).ok()?
        };
        self.places.get_or_init(find).await.as_deref().unwrap_or_default()
    }
}
