//! Rows that an expression could not be computed for, made dead letters; or the end of the run, where the pipeline wants that.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::open::Outputs;
use crate::catalog::OnRowError;
use crate::error::{Error, Result};
use crate::operator::{Pending, RefusedRow};
use crate::plan::Lane;
use crate::sink::dead_letters::Letter;
use crate::source::chunk::DeadLetter;
use crate::source::origin::Origin;

/// Precedes the INSERTs in the reasons of letters.
pub(crate) const LEFT_OUT: &str = "; left out of ";

/// The position in letters of rows that have none.
const NO_ORIGIN: i64 = -1;

impl Outputs {
    /// Takes the rows that a lane has left out; they are rows of source `source`.
    ///
    /// Errors: `on_row_error = 'fail'`.
    pub(super) async fn refuse_rows(&self, source: Option<usize>, lane: &Lane) -> Result<()> {
        let refused = lane.take_refused();
        if refused.is_empty() {
            return Ok(());
        }
        let source = source.map(|source| self.dataflow.sources[source].def.name.as_str());
        let mut letters = Vec::with_capacity(refused.len());
        for row in refused {
            let (origin, of_source) = row.place.map_or((None, None), |place| lane.origin(place));
            letters.push(self.letter(row, source, origin, of_source)?);
        }
        self.refuse(letters).await
    }

    /// Takes the pairs of rows that a join's condition could not be computed for.
    ///
    /// Errors: `on_row_error = 'fail'`.
    pub(super) async fn refuse_pairs(&self, operator: usize, pending: &Pending) -> Result<()> {
        let refused = pending.take();
        if refused.is_empty() {
            return Ok(());
        }
        let within = self.dataflow.branches_of(|makers| makers.operators.contains(&operator));
        let mut letters = Vec::with_capacity(refused.len());
        for mut row in refused {
            row.within.clone_from(&within);
            letters.push(self.letter(row, None, None, None)?);
        }
        self.refuse(letters).await
    }

    fn letter(
        &self,
        row: RefusedRow,
        source: Option<&str>,
        origin: Option<Origin>,
        of_source: Option<Vec<u8>>,
    ) -> Result<Letter> {
        let RefusedRow { within, expression, reason, column, row, .. } = row;
        within.iter().for_each(|branch| self.count_refused(*branch, 1));
        let names: BTreeSet<&str> =
            within.iter().map(|branch| self.dataflow.branches[*branch].target.as_str()).collect();
        let within = names.iter().map(|target| format!("`{target}`")).collect::<Vec<_>>().join(", ");
        if self.dataflow.on_row_error == OnRowError::Fail {
            return Err(failure(source, origin.as_ref(), &expression, &reason, &within));
        }
        let made = if of_source.is_some() { "" } else { ", for a row that is made of others" };
        let reason = format!("`{expression}` cannot be computed{made}: {reason}{LEFT_OUT}{within}");
        let source = source.filter(|_| of_source.is_some()).map_or_else(|| within.replace('`', ""), str::to_owned);
        let (partition, offset, timestamp_ms, key) = match origin {
            Some(Origin { partition, offset, timestamp_ms, key, .. }) => (partition, offset, timestamp_ms, key),
            None => (Arc::from(""), NO_ORIGIN, NO_ORIGIN, None),
        };
        let payload = of_source.or(row);
        let letter = DeadLetter { partition, offset, timestamp_ms, key, payload, reason, column };
        Ok(Letter { source: source.into(), letter })
    }
}

fn failure(source: Option<&str>, origin: Option<&Origin>, expression: &str, reason: &str, within: &str) -> Error {
    let place = match (source, origin) {
        (Some(source), Some(origin)) => {
            format!("the record at offset {} of `{}` in source `{source}`", origin.offset, origin.partition)
        }
        (Some(source), None) => format!("a row made from source `{source}`"),
        (None, _) => "a row that is made of others".to_owned(),
    };
    Error::sql(format!("`{expression}` cannot be computed for {place}"))
        .with_detail(format!("{reason}. The row was for {within}."))
        .with_hint("Guard the expression (TRY_CAST, NULLIF, CASE); or set `on_row_error = 'dead_letter'` in the pipeline's WITH (…), which keeps such rows as dead letters and goes on with the others.")
}
