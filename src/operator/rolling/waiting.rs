//! Keeps whole rows until they are complete, and returns them in order of time.
//!
//! Rows stay in the batches they arrived in; next to them are sorted runs of (time, arrival number), merged when their sizes
//! are similar, so that a row is moved O(log n) times while it waits and removing rows costs as much as is removed.
//!
//! The last column of every batch is the row's sequence: it grows with arrival and is written to state with the row.

use std::collections::BTreeMap;

use arrow::array::{ArrayRef, AsArray, BooleanArray, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;

use crate::error::{Context, Error, Result};
use crate::state::interleave_rows;
use crate::time::EventTime;

/// Batches with fewer rows are not rewritten.
const SMALL: usize = 512;

/// Minimum average length of runs of adjacent rows for copying them as a whole.
const LONG: usize = 16;

/// (time in microseconds, arrival).
type Entry = (i64, u64);

#[derive(Debug)]
pub(super) struct Waiting {
    time: usize,
    batches: BTreeMap<u64, Held>,
    runs: Vec<Run>,
    arrivals: u64,
    rows: usize,
}

#[derive(Debug)]
struct Held {
    batch: RecordBatch,
    /// The arrival numbers of the rows, if they are not consecutive from the batch's number on.
    arrivals: Option<Vec<u64>>,
    taken: Vec<bool>,
    left: usize,
    /// The greatest sequence.
    newest: i64,
}

/// Rows that were removed, still in the batches they arrived in.
#[derive(Debug)]
pub(super) struct Released {
    batches: Vec<RecordBatch>,
    /// (batch, row) of each, in order.
    picks: Vec<(usize, usize)>,
}

impl Released {
    /// The rows: runs of adjacent rows are copied as a whole, a single run not at all.
    pub(super) fn rows(&self) -> Result<RecordBatch> {
        gather(&self.batches.iter().collect::<Vec<_>>(), &self.picks)
    }

    /// Some columns of the rows.
    pub(super) fn columns(&self, columns: &[usize]) -> Result<RecordBatch> {
        let batches = self.batches.iter().map(|batch| batch.project(columns)).collect::<Result<Vec<_>, _>>();
        let batches = batches.internal(|| "waiting rows cannot be gathered".to_owned())?;
        gather(&batches.iter().collect::<Vec<_>>(), &self.picks)
    }

    /// The selected rows.
    pub(super) fn only(self, wanted: &BooleanArray) -> Self {
        let picks = self.picks.into_iter().zip(wanted.values()).filter(|(_, wanted)| *wanted);
        Self { batches: self.batches, picks: picks.map(|(pick, _)| pick).collect() }
    }
}

/// Location of entries: the batches' numbers, and (index among them, row) for each entry.
type Located = (Vec<u64>, Vec<(usize, usize)>);

/// Sorted; entries before `head` have been removed.
#[derive(Debug)]
struct Run {
    entries: Vec<Entry>,
    head: usize,
}

impl Run {
    fn left(&self) -> &[Entry] {
        &self.entries[self.head..]
    }
}

impl Held {
    fn row(&self, number: u64, arrival: u64) -> usize {
        match &self.arrivals {
            None => (arrival - number) as usize,
            Some(arrivals) => arrivals.partition_point(|other| *other < arrival),
        }
    }
}

impl Waiting {
    /// For batches that are ordered by column `time`.
    pub(super) fn new(time: usize) -> Self {
        Self { time, batches: BTreeMap::new(), runs: Vec::new(), arrivals: 0, rows: 0 }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn size(&self) -> usize {
        let batches = self.batches.values().map(|held| held.batch.get_array_memory_size() + held.taken.capacity());
        batches.sum::<usize>() + self.runs.iter().map(|run| run.entries.capacity() * 16).sum::<usize>()
    }

    /// The earliest waiting time.
    pub(super) fn oldest(&self) -> Option<EventTime> {
        self.runs.iter().filter_map(|run| run.left().first()).map(|entry| EventTime(entry.0)).min()
    }

    /// Adds rows, which arrived after all rows before. No time is null.
    pub(super) fn push(&mut self, batch: RecordBatch) {
        let rows = batch.num_rows();
        if rows == 0 {
            return;
        }
        let times = batch.column(self.time).as_primitive::<TimestampMicrosecondType>().values();
        let mut entries: Vec<Entry> = times.iter().copied().zip(self.arrivals..).collect();
        if !entries.is_sorted() {
            entries.sort_unstable();
        }
        self.add_run(entries);
        let newest = sequences(&batch).iter().copied().max().unwrap_or(i64::MIN);
        let held = Held { batch, arrivals: None, taken: vec![false; rows], left: rows, newest };
        self.batches.insert(self.arrivals, held);
        self.arrivals += rows as u64;
        self.rows += rows;
    }

    fn add_run(&mut self, mut entries: Vec<Entry>) {
        while let Some(last) = self.runs.last()
            && last.left().len() <= 2 * entries.len()
        {
            let Some(last) = self.runs.pop() else { break };
            entries = merge(last.left(), &entries);
        }
        self.runs.push(Run { entries, head: 0 });
    }

    /// Removes the rows whose time is complete, in order of (time, arrival). `is_complete` must be monotone.
    pub(super) fn release(&mut self, is_complete: impl Fn(EventTime) -> bool) -> Result<Option<Released>> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut parts = 0;
        for run in &mut self.runs {
            let count = run.left().partition_point(|entry| is_complete(EventTime(entry.0)));
            parts += usize::from(count > 0);
            entries.extend_from_slice(&run.left()[..count]);
            run.head += count;
            if run.head * 2 > run.entries.len() {
                run.entries.drain(..run.head);
                run.head = 0;
            }
        }
        self.runs.retain(|run| !run.left().is_empty());
        if parts > 1 {
            // The parts are sorted runs, which this sort merges.
            entries.sort();
        }
        self.take(&entries)
    }

    /// Removes the rows for which `is_complete` returns `true`; it gets all waiting rows in order.
    pub(super) fn release_some(
        &mut self,
        is_complete: impl FnOnce(&RecordBatch) -> Result<Vec<bool>>,
    ) -> Result<Option<Released>> {
        let runs = std::mem::take(&mut self.runs);
        let entries = runs.iter().fold(Vec::new(), |all, run| merge(&all, run.left()));
        if entries.is_empty() {
            return Ok(None);
        }
        let (numbers, picks) = self.locate(&entries)?;
        let batches: Vec<&RecordBatch> = numbers.iter().map(|number| &self.batches[number].batch).collect();
        let complete = is_complete(&gather(&batches, &picks)?)?;
        let split = |wanted: bool| {
            entries.iter().zip(&complete).filter(move |(_, is)| **is == wanted).map(|(entry, _)| *entry).collect()
        };
        let (out, left): (Vec<Entry>, Vec<Entry>) = (split(true), split(false));
        if !left.is_empty() {
            self.runs.push(Run { entries: left, head: 0 });
        }
        self.take(&out)
    }

    fn take(&mut self, entries: &[Entry]) -> Result<Option<Released>> {
        if entries.is_empty() {
            return Ok(None);
        }
        let (numbers, picks) = self.locate(entries)?;
        let batches = numbers.iter().map(|number| self.batches[number].batch.clone()).collect();
        let mut marks: Vec<(Vec<bool>, usize)> = Vec::with_capacity(numbers.len());
        for number in &numbers {
            let taken = self.batches.get_mut(number).map(|held| std::mem::take(&mut held.taken));
            marks.push((taken.unwrap_or_default(), 0));
        }
        for (index, row) in &picks {
            marks[*index].0[*row] = true;
            marks[*index].1 += 1;
        }
        for (number, (taken, count)) in numbers.iter().zip(marks) {
            if let Some(held) = self.batches.get_mut(number) {
                held.left -= count;
                held.taken = taken;
            }
            self.shrink(*number)?;
        }
        self.rows -= entries.len();
        Ok(Some(Released { batches, picks }))
    }

    fn locate(&self, entries: &[Entry]) -> Result<Located> {
        let mut numbers: Vec<u64> = Vec::new();
        let mut picks = Vec::with_capacity(entries.len());
        let mut known: BTreeMap<u64, usize> = BTreeMap::new();
        // The batch in which the last entry was found has the arrival numbers `low..high`.
        let (mut low, mut high, mut current) = (1, 0, None);
        for (_, arrival) in entries {
            if *arrival < low || *arrival >= high {
                let found = self.batches.range(..=*arrival).next_back();
                let (number, held) = found.ok_or_else(|| Error::internal("a waiting row is lost"))?;
                let index = *known.entry(*number).or_insert(numbers.len());
                if index == numbers.len() {
                    numbers.push(*number);
                }
                current = Some((index, held));
                low = *number;
                high = self.batches.range(number + 1..).next().map_or(u64::MAX, |(next, _)| *next);
            }
            if let Some((index, held)) = current {
                picks.push((index, held.row(low, *arrival)));
            }
        }
        Ok((numbers, picks))
    }

    /// Drops a batch without rows; rewrites one of which most rows have been removed.
    fn shrink(&mut self, number: u64) -> Result<()> {
        let Some(held) = self.batches.get_mut(&number) else { return Ok(()) };
        if held.left == 0 {
            self.batches.remove(&number);
        } else if held.left * 2 < held.taken.len() && held.taken.len() > SMALL {
            let rows: Vec<u64> = (0..held.taken.len() as u64).filter(|row| !held.taken[*row as usize]).collect();
            let arrivals = rows.iter().map(|row| held.arrivals.as_ref().map_or(number + row, |of| of[*row as usize]));
            held.arrivals = Some(arrivals.collect());
            held.taken = vec![false; rows.len()];
            held.batch = take_record_batch(&held.batch, &UInt64Array::from(rows))
                .internal(|| "waiting rows cannot be gathered".to_owned())?;
        }
        Ok(())
    }

    /// The waiting rows whose sequence is at least `from`.
    pub(super) fn since(&self, from: i64) -> Result<Vec<RecordBatch>> {
        let mut found = Vec::new();
        for held in self.batches.values() {
            if held.newest < from {
                continue;
            }
            let sequences = sequences(&held.batch);
            let rows = (0..held.taken.len()).filter(|row| !held.taken[*row] && sequences[*row] >= from);
            let rows: Vec<u64> = rows.map(|row| row as u64).collect();
            if rows.len() == held.taken.len() {
                found.push(held.batch.clone());
            } else if !rows.is_empty() {
                let rows = UInt64Array::from(rows);
                let kept = take_record_batch(&held.batch, &rows);
                found.push(kept.internal(|| "waiting rows cannot be gathered".to_owned())?);
            }
        }
        Ok(found)
    }
}

fn gather(batches: &[&RecordBatch], picks: &[(usize, usize)]) -> Result<RecordBatch> {
    let failed = || "waiting rows cannot be gathered".to_owned();
    let neighbours = |one: &(usize, usize), next: &(usize, usize)| one.0 == next.0 && one.1 + 1 == next.1;
    let parts = 1 + picks.windows(2).filter(|pair| !neighbours(&pair[0], &pair[1])).count();
    if parts > 1 && parts * LONG > picks.len() {
        return interleave_rows(batches, picks).internal(failed);
    }
    let parts = picks.chunk_by(neighbours);
    let mut parts: Vec<_> = parts.map(|part| batches[part[0].0].slice(part[0].1, part.len())).collect();
    match parts.len() {
        1 => Ok(parts.swap_remove(0)),
        _ => concat_batches(&batches[0].schema(), &parts).internal(failed),
    }
}

fn merge(left: &[Entry], right: &[Entry]) -> Vec<Entry> {
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let (mut at, mut other) = (0, 0);
    while at < left.len() && other < right.len() {
        if left[at] <= right[other] {
            merged.push(left[at]);
            at += 1;
        } else {
            merged.push(right[other]);
            other += 1;
        }
    }
    merged.extend_from_slice(&left[at..]);
    merged.extend_from_slice(&right[other..]);
    merged
}

/// The sequences of a batch's rows.
pub(super) fn sequences(batch: &RecordBatch) -> &[i64] {
    batch.column(batch.num_columns() - 1).as_primitive::<Int64Type>().values()
}

/// The times of a batch's column.
pub(super) fn times(column: &ArrayRef) -> &[i64] {
    column.as_primitive::<TimestampMicrosecondType>().values()
}
