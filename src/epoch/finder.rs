//! Finds the source record of each refused row of a branch. The branch runs again row by row, and only when rows were refused.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::OnceCell;

use crate::plan::{Dataflow, Lane};
use crate::source::origin::Origin;

/// The records of one lane's rows of one branch.
pub struct RowFinder<'a> {
    pub branch: usize,
    lane: &'a Lane,
    /// Rows that were handed out.
    passed: AtomicUsize,
    /// Each row's number among the source's.
    places: OnceCell<Option<Vec<Option<u64>>>>,
}

impl<'a> RowFinder<'a> {
    /// For the rows that `lane` makes of a branch, none of which was handed out yet.
    pub fn new(branch: usize, lane: &'a Lane) -> Self {
        Self { branch, lane, passed: AtomicUsize::new(0), places: OnceCell::new() }
    }

    /// Takes note of rows that are handed out; the number of the first.
    pub fn pass(&self, rows: usize) -> usize {
        self.passed.fetch_add(rows, Ordering::Relaxed)
    }

    /// The origin of row `row` of the branch; `None`: it is made of others, or its record is not at hand.
    pub async fn origin(&self, dataflow: &Dataflow, row: usize) -> Option<Origin> {
        let find = || async {
            // The letter matters more than where it came from.
            let found = self.lane.places_of_branch(dataflow, self.branch).await;
            found.inspect_err(|error| tracing::debug!(%error, "refused rows are not traced to their records")).ok()?
        };
        let places = self.places.get_or_init(find).await.as_ref()?;
        self.lane.origin(places.get(row).copied().flatten()?).0
    }
}
