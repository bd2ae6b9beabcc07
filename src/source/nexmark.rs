//! Nexmark events as a source: one partition `0`, whose offset is the number of the row.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::catalog::{NexmarkOptions, NexmarkTable};
use crate::env::Env;
use crate::error::{Error, Result};
use crate::lab::nexmark::Story;
use crate::source::chunk::{Chunk, PartitionId, Payload, Poll, PollLimit, ReadFrom, SourceReader};

/// The number of events in a bounded read of an endless source.
const BOUNDED_EVENTS: u64 = 1_000_000;

/// Reads the events of one kind, at most at the requested rate.
#[derive(Debug)]
pub struct NexmarkReader {
    story: Story,
    table: NexmarkTable,
    env: Env,
    /// Events of all kinds a second; `None` = as fast as they are read.
    rate: Option<f64>,
    /// The row at which reading ends, exclusive.
    end: Option<u64>,
    next: u64,
    first: u64,
    started_ms: i64,
    partition: PartitionId,
}

impl NexmarkReader {
    /// Starts at the row in `from`: the same seed gives the same rows. Errors: a rate not above 0.
    pub fn open(options: &NexmarkOptions, from: &ReadFrom, env: &Env) -> Result<Self> {
        if options.rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
            return Err(Error::config("nexmark's `rate` is not above 0"));
        }
        let partition = PartitionId::from("0");
        let next = from.offsets.get(&partition).map_or(0, |offset| offset.unsigned_abs());
        let events = options.events.or(from.bounded.then_some(BOUNDED_EVENTS));
        Ok(Self {
            story: Story { seed: options.seed, events_per_second: options.events_per_second },
            table: options.table,
            env: env.clone(),
            rate: options.rate,
            end: events.map(|events| options.table.rows_in(events)),
            next,
            first: next,
            started_ms: env.unix_ms(),
            partition,
        })
    }

    /// The row up to which the rate allows reading now, exclusive.
    fn due(&self) -> u64 {
        let Some(rate) = self.rate else { return u64::MAX };
        let elapsed_ms = (self.env.unix_ms() - self.started_ms).max(0);
        let events = (rate * elapsed_ms as f64 / 1_000.0) as u64 + self.table.event(self.first) + 1;
        self.table.rows_in(events)
    }

    async fn next_chunk(&mut self, limit: PollLimit) -> Result<Poll> {
        let end = self.end.unwrap_or(u64::MAX);
        if self.next >= end {
            return Ok(Poll::Finished);
        }
        if self.due() <= self.next {
            tokio::time::sleep(limit.wait.min(Duration::from_millis(1))).await;
        }
        let until = self.due().min(end).min(self.next.saturating_add(limit.rows as u64));
        if until <= self.next {
            return Ok(Poll::Idle);
        }
        let start = self.next;
        let rows = self.story.rows(self.table, start, (until - start) as usize)?;
        self.next = until;
        let partition = PartitionId::clone(&self.partition);
        let (start, end) = (start as i64, until as i64);
        Ok(Poll::Chunks(vec![Chunk { partition, start, end, payload: Payload::Rows(rows) }]))
    }
}

impl SourceReader for NexmarkReader {
    fn poll(&mut self, limit: PollLimit) -> BoxFuture<'_, Result<Poll>> {
        self.next_chunk(limit).boxed()
    }

    fn lag(&self) -> Option<u64> {
        self.rate.map(|_| self.due().min(self.end.unwrap_or(u64::MAX)).saturating_sub(self.next))
    }
}
