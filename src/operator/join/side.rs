//! One side of a join: its rows, their indexes by key and by time, and their changes since the last snapshot.
//!
//! Rows are numbered by slot. A slot dies when its row expires or is retracted; dead slots are never found again and are
//! removed once they are half of all slots, so slots are valid within a step only.

use arrow::array::{Array, ArrayRef, BooleanArray, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use super::buckets::Buckets;
use super::chains::{Chains, Cursor, NONE, Want};
use super::consolidate::equal;
use super::intake::hash;
use super::layout::{Facts, Layout, Noted};
use super::segments::{Segments, refused};
use crate::error::{Context, Error, Result};
use crate::operator::StateUsage;
use crate::state::{StateChange, StateTable};
use crate::time::{EventTime, Lag, Watermark};

/// The row has changed since the last snapshot.
const DIRTY: u8 = 1;
/// The row has been in a snapshot.
const WRITTEN: u8 = 2;
/// The row's weight or matches changed in this step.
const TOUCHED: u8 = 4;

/// Dead slots are tolerated up to this number; few in tests, so that little input exceeds it.
const DEAD_SLOTS: usize = if cfg!(test) { 16 } else { 4096 };

/// Options of a side.
pub(super) struct SideOptions {
    /// Columns, without weight.
    pub(super) row: SchemaRef,
    pub(super) keys: Vec<usize>,
    /// The column that rows expire by.
    pub(super) time: Option<usize>,
    pub(super) facts: Facts,
    /// Approximate time that rows stay; `None`: for ever, and no times are indexed.
    pub(super) span: Option<Lag>,
    pub(super) append_only: bool,
    /// `true` if rows are looked up by all their columns.
    pub(super) by_row: bool,
    pub(super) name: &'static str,
}

/// Rows to store; `hashes` and `times` have one value per row, the vectors of facts that are not kept are empty.
pub(super) struct Arriving<'a> {
    pub(super) rows: RecordBatch,
    pub(super) hashes: &'a [u64],
    pub(super) times: &'a [i64],
    pub(super) weights: Vec<i64>,
    pub(super) matches: Vec<i64>,
}

/// A row's weight and matches before this step.
pub(super) struct Touched {
    pub(super) slot: u32,
    pub(super) weight: i64,
    pub(super) matches: i64,
}

pub(super) struct Side {
    options: SideOptions,
    layout: Layout,
    segments: Segments,
    /// Index by key.
    chains: Chains,
    /// Index by all columns.
    whole: Option<Chains>,
    flags: Vec<u8>,
    seqs: Vec<i64>,
    weights: Vec<i64>,
    matches: Vec<i64>,
    buckets: Option<Buckets>,
    next_seq: i64,
    cutoff: Watermark,
    written_cutoff: Watermark,
    dead: usize,
    dirty: Vec<u32>,
    /// Rows that died in this step and must be deleted from the table.
    killed: Vec<u32>,
    deletes: Vec<RecordBatch>,
    touched: Vec<Touched>,
}

impl Side {
    pub(super) fn new(options: SideOptions) -> Self {
        Self {
            layout: Layout::new(options.row.clone(), &options.keys, options.time, options.facts),
            segments: Segments::new(options.row.clone()),
            buckets: options.span.map(Buckets::new),
            whole: options.by_row.then(Chains::default),
            options,
            chains: Chains::default(),
            flags: Vec::new(),
            seqs: Vec::new(),
            weights: Vec::new(),
            matches: Vec::new(),
            next_seq: 0,
            cutoff: Watermark::NONE,
            written_cutoff: Watermark::NONE,
            dead: 0,
            dirty: Vec::new(),
            killed: Vec::new(),
            deletes: Vec::new(),
            touched: Vec::new(),
        }
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        self.segments.schema()
    }

    pub(super) fn table(&self) -> StateTable {
        self.layout.table(self.options.name, self.options.append_only)
    }

    /// Number of live rows.
    pub(super) fn len(&self) -> usize {
        self.chains.len() - self.dead
    }

    pub(super) fn slots(&self) -> usize {
        self.chains.len()
    }

    pub(super) fn time(&self, slot: u32) -> EventTime {
        self.chains.time(slot)
    }

    /// The row's weight; 1 where no weights are kept.
    pub(super) fn weight(&self, slot: u32) -> i64 {
        self.weights.get(slot as usize).copied().unwrap_or(1)
    }

    /// The row's matches; 0 where no matches are kept.
    pub(super) fn matches(&self, slot: u32) -> i64 {
        self.matches.get(slot as usize).copied().unwrap_or(0)
    }

    /// Candidates by key and time, see [`Chains::search`].
    pub(super) fn search(
        &self,
        want: Want,
        hashes: &[u64],
        range: impl Fn(usize) -> (i64, i64),
        cursor: &mut Cursor,
        limit: usize,
        pairs: (&mut Vec<u32>, &mut Vec<u32>),
    ) -> bool {
        self.chains.search(want, hashes, range, cursor, limit, pairs)
    }

    pub(super) fn gather(&self, columns: &[usize], slots: &[u32]) -> Result<Vec<ArrayRef>> {
        self.segments.gather(columns, slots)
    }

    /// All columns of the given rows.
    pub(super) fn rows(&self, slots: &[u32]) -> Result<Vec<ArrayRef>> {
        let all: Vec<usize> = (0..self.schema().fields().len()).collect();
        self.segments.gather(&all, slots)
    }

    /// For each of `rows` the slot of the stored row that is equal in every column; [`NONE`] if there is none.
    pub(super) fn find(&self, rows: &RecordBatch) -> Result<Vec<u32>> {
        let mut found = vec![NONE; rows.num_rows()];
        let Some(whole) = &self.whole else { return Ok(found) };
        let columns: Vec<&ArrayRef> = rows.columns().iter().collect();
        let hashes = hash(&columns, rows.num_rows())?;
        let (mut numbers, mut slots) = (Vec::new(), Vec::new());
        let all = |_| (i64::MIN, i64::MAX);
        whole.search(Want::All, &hashes, all, &mut Cursor::default(), usize::MAX, (&mut numbers, &mut slots));
        let stored = self.rows(&slots)?;
        let numbers = UInt32Array::from(numbers);
        let mut same = BooleanBuffer::new_set(slots.len());
        for (column, stored) in rows.columns().iter().zip(&stored) {
            let asked = take(column, &numbers, None).internal(refused)?;
            same = &same & equal(&asked, stored, true)?.values();
        }
        for pair in same.set_indices() {
            found[numbers.value(pair) as usize] = slots[pair];
        }
        Ok(found)
    }

    /// Stores rows and returns the first one's slot; the others follow.
    pub(super) fn insert(&mut self, arriving: Arriving<'_>) -> Result<u32> {
        let count = arriving.rows.num_rows();
        let seqs: Vec<i64> = (self.next_seq..).take(count).collect();
        let first = self.add(arriving, seqs)?;
        self.flags.resize(self.flags.len() + count, DIRTY);
        self.dirty.extend((first..).take(count));
        Ok(first)
    }

    fn add(&mut self, arriving: Arriving<'_>, seqs: Vec<i64>) -> Result<u32> {
        let first = self.chains.len();
        if first + arriving.rows.num_rows() >= NONE as usize {
            return Err(Error::environment("a join remembers too many rows in one shard")
                .with_hint("Raise `parallelism`, give the join time bounds, or set a TTL."));
        }
        let first = first as u32;
        self.next_seq = seqs.iter().max().map_or(self.next_seq, |&seq| self.next_seq.max(seq.saturating_add(1)));
        self.seqs.extend(seqs);
        if let Some(whole) = &mut self.whole {
            let columns: Vec<&ArrayRef> = arriving.rows.columns().iter().collect();
            whole.push(&hash(&columns, arriving.rows.num_rows())?, arriving.times);
        }
        self.segments.push(arriving.rows)?;
        self.chains.push(arriving.hashes, arriving.times);
        self.weights.extend(arriving.weights);
        self.matches.extend(arriving.matches);
        if let Some(buckets) = &mut self.buckets {
            buckets.push(first, arriving.times);
        }
        Ok(first)
    }

    /// Decodes rows of the state table: the rows with their weights and matches, and their arrival times if kept.
    pub(super) fn read(&self, rows: &RecordBatch) -> Result<(RecordBatch, Noted)> {
        self.layout.read(rows)
    }

    /// Stores rows that were in a snapshot.
    pub(super) fn restore(&mut self, arriving: Arriving<'_>, seqs: Vec<i64>) -> Result<u32> {
        let count = arriving.rows.num_rows();
        let first = self.add(arriving, seqs)?;
        self.flags.resize(self.flags.len() + count, WRITTEN);
        Ok(first)
    }

    /// Adds to a row's matches.
    pub(super) fn add_matches(&mut self, slot: u32, matches: i64) {
        if let Some(present) = self.matches.get_mut(slot as usize) {
            *present += matches;
            self.mark_dirty(slot);
        }
    }

    /// Adds to a row's weight.
    pub(super) fn add_weight(&mut self, slot: u32, weight: i64) {
        if let Some(present) = self.weights.get_mut(slot as usize) {
            *present += weight;
            self.mark_dirty(slot);
        }
    }

    fn mark_dirty(&mut self, slot: u32) {
        let flags = &mut self.flags[slot as usize];
        if *flags & DIRTY == 0 {
            *flags |= DIRTY;
            self.dirty.push(slot);
        }
    }

    /// Records a row's weight and matches before they change, once per step.
    pub(super) fn touch(&mut self, slot: u32) {
        if self.flags[slot as usize] & TOUCHED == 0 {
            self.flags[slot as usize] |= TOUCHED;
            self.touched.push(Touched { slot, weight: self.weight(slot), matches: self.matches(slot) });
        }
    }

    /// Records that a row is new in this step.
    pub(super) fn touch_new(&mut self, slot: u32) {
        self.flags[slot as usize] |= TOUCHED;
        self.touched.push(Touched { slot, weight: 0, matches: 0 });
    }

    /// The rows touched in this step.
    pub(super) fn take_touched(&mut self) -> Vec<Touched> {
        let touched = std::mem::take(&mut self.touched);
        for row in &touched {
            self.flags[row.slot as usize] &= !TOUCHED;
        }
        touched
    }

    /// Deletes a row.
    pub(super) fn kill(&mut self, slot: u32) {
        if self.chains.is_live(slot) {
            self.chains.kill(slot);
            if let Some(whole) = &mut self.whole {
                whole.kill(slot);
            }
            self.dead += 1;
            if self.flags[slot as usize] & WRITTEN != 0 {
                self.killed.push(slot);
            }
        }
    }

    /// Removes the rows with a time below `cutoff` from the index by time, and returns them.
    pub(super) fn take_below(&mut self, cutoff: Watermark) -> Vec<u32> {
        match &mut self.buckets {
            Some(buckets) => buckets.take_below(cutoff, &self.chains),
            None => Vec::new(),
        }
    }

    /// Deletes rows that `cutoff` implies.
    pub(super) fn expire(&mut self, slots: &[u32], cutoff: Watermark) {
        self.cutoff = self.cutoff.max(cutoff);
        for &slot in slots {
            self.chains.expire(slot);
            if let Some(whole) = &mut self.whole {
                whole.expire(slot);
            }
        }
        self.dead += slots.len();
    }

    /// Ends a step: removes dead slots if there are many. Returns each slot's new number ([`NONE`]: removed) if they
    /// changed.
    pub(super) fn tidy(&mut self) -> Result<Option<Vec<u32>>> {
        self.note_deletes()?;
        if self.dead <= DEAD_SLOTS || self.dead * 2 < self.chains.len() {
            return Ok(None);
        }
        let live: Vec<bool> = (0..self.chains.len()).map(|slot| self.chains.is_live(slot as u32)).collect();
        let mut next = 0;
        let renumber = |&live: &bool| if live { (next, next += 1).0 } else { NONE };
        let renumbered: Vec<u32> = live.iter().map(renumber).collect();
        keep(&mut self.flags, &live);
        keep(&mut self.seqs, &live);
        keep(&mut self.weights, &live);
        keep(&mut self.matches, &live);
        self.segments.retain(&BooleanArray::from(live))?;
        self.chains.compact();
        if let Some(whole) = &mut self.whole {
            whole.compact();
        }
        self.dead = 0;
        self.dirty = self.dirty.iter().map(|&slot| renumbered[slot as usize]).filter(|&slot| slot != NONE).collect();
        if let Some(buckets) = &mut self.buckets {
            let times: Vec<i64> = (0..self.chains.len()).map(|slot| self.chains.time(slot as u32).0).collect();
            buckets.clear();
            buckets.push(0, &times);
        }
        Ok(Some(renumbered))
    }

    fn note_deletes(&mut self) -> Result<()> {
        if !self.killed.is_empty() {
            let killed = std::mem::take(&mut self.killed);
            let columns = self.segments.gather(&self.options.keys, &killed)?;
            let seqs = killed.iter().map(|&slot| self.seqs[slot as usize]).collect();
            self.deletes.push(self.layout.deletes(columns, seqs)?);
        }
        Ok(())
    }

    /// The changes since the last call; `None` if there are none.
    pub(super) fn changes(&mut self, table: usize) -> Result<Option<StateChange>> {
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.retain(|&slot| self.chains.is_live(slot));
        for &slot in &dirty {
            self.flags[slot as usize] = (self.flags[slot as usize] & !DIRTY) | WRITTEN;
        }
        let deletes = std::mem::take(&mut self.deletes);
        if dirty.is_empty() && deletes.is_empty() && self.cutoff == self.written_cutoff {
            return Ok(None);
        }
        self.written_cutoff = self.cutoff;
        let mut upserts = Vec::new();
        let mut scattered: Vec<u32> = Vec::new();
        let order = self.layout.order();
        // New rows are consecutive and are passed on without copying.
        for run in dirty.chunk_by(|a, b| a + 1 == *b) {
            if run.len() < STRETCH_ROWS {
                scattered.extend_from_slice(run);
                continue;
            }
            let mut rest = run;
            for columns in self.segments.stretch(&order, run[0] as usize..run[0] as usize + run.len()) {
                let (slots, after) = rest.split_at(columns.first().map_or(rest.len(), |column| column.len()));
                upserts.push(self.layout.rows(columns, self.noted(slots))?);
                rest = after;
            }
        }
        for slots in scattered.chunks(WRITE_ROWS) {
            upserts.push(self.layout.rows(self.segments.gather(&order, slots)?, self.noted(slots))?);
        }
        Ok(Some(StateChange { table, upserts, deletes, cutoff: self.cutoff }))
    }

    /// The facts of rows.
    fn noted(&self, slots: &[u32]) -> Noted {
        let run = slots.first().filter(|_| slots.windows(2).all(|pair| pair[0] + 1 == pair[1]));
        let run = run.map(|&first| first as usize..first as usize + slots.len());
        let pick = |values: &[i64]| match &run {
            Some(run) => values.get(run.clone()).unwrap_or_default().to_vec(),
            None => slots.iter().filter_map(|&slot| values.get(slot as usize).copied()).collect(),
        };
        let clock: &[u32] = if self.options.facts.clock { slots } else { &[] };
        Noted {
            seqs: pick(&self.seqs),
            weights: pick(&self.weights),
            matches: pick(&self.matches),
            clock: clock.iter().map(|&slot| self.chains.time(slot).0).collect(),
        }
    }

    /// The smallest time of a row without a match. Cost: reads every row.
    pub(super) fn oldest_unmatched(&self) -> Option<EventTime> {
        let slots = (0..self.chains.len() as u32).filter(|slot| self.chains.is_live(*slot) && self.matches(*slot) == 0);
        slots.map(|slot| self.chains.time(slot)).min()
    }

    pub(super) fn usage(&self) -> StateUsage {
        let slots =
            self.flags.capacity() + 8 * (self.seqs.capacity() + self.weights.capacity() + self.matches.capacity());
        let buckets = self.buckets.as_ref().map_or(0, Buckets::bytes);
        let chains = self.chains.bytes() + self.whole.as_ref().map_or(0, Chains::bytes);
        let bytes = self.segments.bytes() + chains + slots + buckets + self.dirty.capacity() * 4;
        let oldest = self.buckets.as_ref().and_then(Buckets::oldest);
        StateUsage { rows: self.len() as u64, bytes: bytes as u64, oldest }
    }
}

/// At least this many consecutive rows are written without copying; few in tests.
const STRETCH_ROWS: usize = if cfg!(test) { 4 } else { 1024 };

/// Rows per batch of the state table.
const WRITE_ROWS: usize = 65_536;

fn keep<T>(values: &mut Vec<T>, live: &[bool]) {
    let mut flags = live.iter();
    values.retain(|_| flags.next().copied().unwrap_or(false));
    values.shrink_to(values.len() * 2);
}

/// The usage of both sides together.
pub(super) fn usage(sides: &[Side; 2]) -> StateUsage {
    let [left, right] = [sides[0].usage(), sides[1].usage()];
    let oldest = [left.oldest, right.oldest].into_iter().flatten().min();
    StateUsage { rows: left.rows + right.rows, bytes: left.bytes + right.bytes, oldest }
}
