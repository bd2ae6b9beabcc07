//! The simulator as a source: one partition `0`, whose offset is the number of the transaction.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, TimestampMicrosecondArray};
use arrow::datatypes::TimestampMicrosecondType;
use arrow::record_batch::RecordBatch;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::catalog::{GeneratorOptions, GeneratorTable};
use crate::env::Env;
use crate::error::{Context, Error, Result};
use crate::lab::generator::Simulator;
use crate::source::chunk::{Chunk, PartitionId, Payload, Poll, PollLimit, ReadFrom, SourceReader};

/// The days of the published simulation: the length of a bounded read of an endless source.
const PUBLISHED_DAYS: u64 = 183;

/// Reads simulated transactions, at most at the requested rate.
#[derive(Debug)]
pub struct GeneratorReader {
    simulator: Simulator,
    env: Env,
    rate: Option<f64>,
    /// The row at which reading ends, exclusive.
    end_row: Option<u64>,
    /// The day at which reading ends, exclusive.
    end_day: Option<u64>,
    /// The next row to return.
    next: u64,
    /// Rows of the simulator's last day that were not returned yet.
    rest: Option<RecordBatch>,
    started_ms: i64,
    /// Rows returned since the start, for the rate.
    handed_out: u64,
    partition: PartitionId,
    table: GeneratorTable,
    label_delay_us: i64,
}

impl GeneratorReader {
    /// Starts at the row in `from`: the same seed gives the same rows. Errors: no customers or no terminals; a rate not
    /// above 0.
    pub fn open(options: &GeneratorOptions, from: &ReadFrom, env: &Env) -> Result<Self> {
        if options.customers == 0 || options.terminals == 0 {
            return Err(Error::config("the generator needs at least one customer and one terminal"));
        }
        if options.rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
            return Err(Error::config("the generator's `rate` is not above 0"));
        }
        let partition = PartitionId::from("0");
        let next = from.offsets.get(&partition).map_or(0, |offset| offset.unsigned_abs());
        let endless = options.rows.is_none() && options.days.is_none();
        let reader = Self {
            simulator: Simulator::new(options.seed, options.customers, options.terminals),
            env: env.clone(),
            rate: options.rate,
            end_row: options.rows,
            end_day: options.days.map(u64::from).or((from.bounded && endless).then_some(PUBLISHED_DAYS)),
            next,
            rest: None,
            started_ms: env.unix_ms(),
            handed_out: 0,
            partition,
            table: options.table,
            label_delay_us: i64::try_from(options.label_delay.as_micros()).unwrap_or(i64::MAX),
        };
        Ok(reader)
    }

    /// The number of rows that the rate allows now.
    fn allowed(&self) -> u64 {
        let Some(rate) = self.rate else { return u64::MAX };
        let elapsed_ms = (self.env.unix_ms() - self.started_ms).max(0);
        // The first row is due at once, the others at the intervals of the rate.
        let due = (rate * elapsed_ms as f64 / 1_000.0) as u64 + 1;
        due.saturating_sub(self.handed_out)
    }

    /// The next rows, at most `limit`; `None` at the end.
    fn take(&mut self, limit: u64) -> Result<Option<RecordBatch>> {
        let limit = limit.min(self.end_row.map_or(u64::MAX, |end| end.saturating_sub(self.next)));
        if limit == 0 {
            return Ok(None);
        }
        loop {
            if let Some(day) = self.rest.take() {
                let rows = usize::try_from(limit).unwrap_or(usize::MAX).min(day.num_rows());
                if rows < day.num_rows() {
                    self.rest = Some(day.slice(rows, day.num_rows() - rows));
                }
                if rows > 0 {
                    return Ok(Some(day.slice(0, rows)));
                }
                continue;
            }
            if self.end_day.is_some_and(|end| self.simulator.day() >= end) {
                return Ok(None);
            }
            let first = self.simulator.next_row();
            let day = self.simulator.next_day()?;
            let skip = (self.next.saturating_sub(first) as usize).min(day.num_rows());
            self.rest = Some(day.slice(skip, day.num_rows() - skip));
        }
    }

    async fn next_chunk(&mut self, limit: PollLimit) -> Result<Poll> {
        let mut allowed = self.allowed();
        if allowed == 0 {
            tokio::time::sleep(self.pause().min(limit.wait)).await;
            allowed = self.allowed();
        }
        if allowed == 0 {
            return Ok(Poll::Idle);
        }
        let Some(rows) = self.take(allowed.min(limit.rows as u64))? else {
            return Ok(Poll::Finished);
        };
        let start = self.next;
        self.next += rows.num_rows() as u64;
        self.handed_out += rows.num_rows() as u64;
        let rows = match self.table {
            GeneratorTable::Transactions => rows,
            GeneratorTable::Labels => labels(&rows, self.label_delay_us)?,
        };
        let partition = PartitionId::clone(&self.partition);
        let (start, end) = (start as i64, self.next as i64);
        Ok(Poll::Chunks(vec![Chunk { partition, start, end, payload: Payload::Rows(rows) }]))
    }

    /// The time until the next row is due, but at least the resolution of the clock.
    fn pause(&self) -> Duration {
        let apart = self.rate.map_or(0.0, |rate| 1.0 / rate);
        Duration::from_secs_f64(apart.clamp(0.001, 3_600.0))
    }
}

/// The labels of transactions, known `delay_us` later.
fn labels(rows: &RecordBatch, delay_us: i64) -> Result<RecordBatch> {
    let missing = |name: &str| Error::internal(format!("the simulator makes no `{name}`"));
    let column = |name: &str| rows.column_by_name(name).cloned().ok_or_else(|| missing(name));
    let at = column("ts")?;
    let times = at.as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(|| missing("ts"))?;
    let known: TimestampMicrosecondArray = times.unary(|time: i64| time.saturating_add(delay_us));
    let known = known.with_data_type(times.data_type().clone());
    let columns = vec![
        ("transaction_id", column("transaction_id")?, false),
        ("terminal_id", column("terminal_id")?, true),
        ("user_id", column("user_id")?, true),
        ("is_fraud", column("is_fraud")?, true),
        ("ts", Arc::new(known) as ArrayRef, true),
        ("transaction_ts", Arc::clone(&at), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).internal(|| "labels do not fit their columns".to_owned())
}

impl SourceReader for GeneratorReader {
    fn poll(&mut self, limit: PollLimit) -> BoxFuture<'_, Result<Poll>> {
        self.next_chunk(limit).boxed()
    }

    fn lag(&self) -> Option<u64> {
        self.rate.map(|_| self.allowed())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arrow::array::AsArray;
    use arrow::datatypes::Float64Type;

    use super::*;
    use crate::source::chunk::Offsets;

    fn options() -> GeneratorOptions {
        GeneratorOptions {
            table: GeneratorTable::Transactions,
            label_delay: std::time::Duration::from_secs(7 * 86_400),
            rate: None,
            seed: 7,
            customers: 100,
            terminals: 400,
            rows: None,
            days: Some(3),
        }
    }

    fn limit(rows: usize) -> PollLimit {
        PollLimit { rows, bytes: 1 << 20, wait: Duration::ZERO, linger: Duration::ZERO }
    }

    fn poll(reader: &mut GeneratorReader, rows: usize) -> Poll {
        futures::executor::block_on(reader.poll(limit(rows))).unwrap()
    }

    fn all_rows(reader: &mut GeneratorReader, rows: usize) -> (Vec<String>, i64) {
        let (mut ids, mut end) = (Vec::new(), -1);
        while let Poll::Chunks(chunks) = poll(reader, rows) {
            for chunk in chunks {
                assert!(end == -1 || chunk.start == end);
                end = chunk.end;
                let Payload::Rows(batch) = chunk.payload else { panic!("the generator has columns") };
                assert_eq!(batch.num_rows() as i64, chunk.end - chunk.start);
                ids.extend((0..batch.num_rows()).map(|row| {
                    let amount = batch.column(2).as_primitive::<Float64Type>().value(row);
                    format!("{} {amount}", batch.column(0).as_string::<i32>().value(row))
                }));
            }
        }
        (ids, end)
    }

    #[test]
    fn a_reader_that_resumes_anywhere_hands_out_the_rows_that_were_missing() {
        let env = Env::manual(0, 1);
        let (all, end) = all_rows(&mut GeneratorReader::open(&options(), &ReadFrom::default(), &env).unwrap(), 37);
        assert_eq!(all.len() as i64, end);
        for from in [0, 1, 100, end - 1] {
            let offsets = Offsets::from([("0".into(), from)]);
            let mut reader =
                GeneratorReader::open(&options(), &ReadFrom { offsets, bounded: false, topic: None }, &env).unwrap();
            assert_eq!(all_rows(&mut reader, 1_000).0, all[from as usize..]);
        }
        let limited = GeneratorOptions { rows: Some(10), days: None, ..options() };
        assert_eq!(all_rows(&mut GeneratorReader::open(&limited, &ReadFrom::default(), &env).unwrap(), 4).0, all[..10]);
    }

    #[tokio::test]
    async fn the_rate_follows_the_clock() {
        let env = Env::manual(1_000, 1);
        let slow = GeneratorOptions { rate: Some(100.0), ..options() };
        let mut reader = GeneratorReader::open(&slow, &ReadFrom::default(), &env).unwrap();
        let mut rows = async || match reader.poll(limit(1_000)).await.unwrap() {
            Poll::Chunks(chunks) => chunks.iter().map(|chunk| chunk.end - chunk.start).sum::<i64>(),
            _ => 0,
        };
        assert_eq!(rows().await, 1);
        assert_eq!(rows().await, 0);
        env.advance(Duration::from_millis(500));
        assert_eq!(rows().await, 50);
        env.advance(Duration::from_millis(5));
        assert_eq!(rows().await, 0);
        env.advance(Duration::from_millis(5));
        assert_eq!(rows().await, 1);
    }
}
