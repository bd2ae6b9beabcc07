//! The rows of every key in time order: times, argument values and references, in columns shared by all keys.
//!
//! A key owns a block of slots, a power of two long; its live rows are a contiguous run of it, so that frames are slices.
//! When the run reaches the end of its block, it is moved to the block's start if that makes enough room, otherwise to a
//! longer block; freed blocks serve other keys. Per key there are only a few numbers for the block and one cursor per frame
//! bound, so that a million keys with two rows each are cheap.
//!
//! Two keys, A and B, and the column of times (`_` is a slot without a live row):
//!
//! ```text
//!                      block of A                             times, by slot
//! place A 10, A 20     offset 0, 2 slots, len 2               10 20
//! place B 15                                                  10 20 | 15  _
//! place A 30           offset 4, 4 slots, len 3                _  _ | 15  _ | 10 20 30  _    slots 0 and 1 are free
//! place A 12           len 4; squeezed: (A, 1)                 _  _ | 15  _ | 10 12 20 30
//! retire A, from 15    start 2, len 2, gone 2                  _  _ | 15  _ |  _  _ 20 30
//! place A 40           start 0, len 3                          _  _ | 15  _ | 20 30 40  _
//! ```
//!
//! Promises: rows of a key are ordered by (time, order of insertion); rows placed by one call keep their slots until the
//! next call. Leaves to others: the use of the rows, and which are still needed ([`Needed`]).

use std::hint::black_box;

use super::bound::{Shift, seek};
use super::chunks::Chunks;
use super::column::{Column, Place};
use crate::time::{EventTime, Watermark};

/// The smallest block has two slots.
const SMALLEST: u8 = 1;

/// Number of keys whose memory is fetched together. Rows arrive in order of time, so each usually has another key, far from
/// the last one in memory: searches that wait for memory one by one spend most of their time waiting.
pub(super) const TOGETHER: usize = 64;

/// The rows of one key.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Block {
    offset: u32,
    start: u32,
    len: u32,
    /// Number of rows that a call is about to place.
    incoming: u32,
    /// The binary logarithm of the number of slots; 0 for a key without a block.
    class: u8,
    /// Number of rows of the key that have been retired.
    gone: u64,
}

impl Block {
    /// The first live slot.
    #[inline]
    pub(super) fn first(&self) -> usize {
        (self.offset + self.start) as usize
    }

    /// One past the last live slot.
    #[inline]
    pub(super) fn end(&self) -> usize {
        (self.offset + self.start + self.len) as usize
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    /// Number of rows of the key before the live ones.
    #[inline]
    pub(super) fn gone(&self) -> u64 {
        self.gone
    }

    fn capacity(&self) -> u32 {
        if self.class == 0 { 0 } else { 1 << self.class }
    }
}

/// The rows that a row needs before it.
#[derive(Debug, Default)]
pub(super) struct Keep {
    pub(super) shifts: Vec<Shift>,
    pub(super) rows: Option<usize>,
    pub(super) all: bool,
}

impl Keep {
    /// The earliest time that rows at or after `time` need.
    pub(super) fn earliest(&self, time: EventTime) -> EventTime {
        if self.all {
            return EventTime::MIN;
        }
        self.shifts.iter().map(|shift| shift.lower(time)).fold(time, EventTime::min)
    }
}

/// The rows that are still needed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needed<'a> {
    /// Rows at or after this time are needed.
    pub(super) from: Watermark,
    /// Rows at or after this time have not been emitted.
    pub(super) open: Watermark,
    /// `(before, after)`: of each key the last `after` rows count as not emitted, too, and the `before` rows before the
    /// first row not emitted are needed.
    pub(super) last: Option<(usize, usize)>,
    pub(super) keep: &'a Keep,
}

/// A retired row, where such rows need tombstones.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gone {
    pub(super) key: u32,
    pub(super) reference: u64,
    pub(super) time: EventTime,
    pub(super) ordinal: u64,
}

/// The rows of all keys.
#[derive(Debug)]
pub(super) struct Store {
    blocks: Vec<Block>,
    times: Vec<i64>,
    /// Low bits of each row's ordinal, where retired rows need tombstones.
    ordinals: Option<Vec<u32>>,
    pub(super) columns: Vec<Column>,
    /// Each row's reference into the chunks, where functions read values of any type.
    references: Option<Vec<u64>>,
    pub(super) chunks: Chunks,
    free: Vec<Vec<u32>>,
    used: usize,
    rows: usize,
    /// Per key and bound, the low bits of the ordinal at which the last search ended.
    cursors: Vec<u32>,
    bounds: usize,
    /// The key at which the sweep over all keys has arrived.
    swept: usize,
    touched: Vec<u32>,
    gone: Vec<Gone>,
    /// (key, position among all its rows so far) of rows placed before existing rows.
    pub(super) squeezed: Vec<(u32, u64)>,
}

impl Store {
    /// `named`: retired rows are recorded in [`Store::take_gone`], with their references.
    pub(super) fn new(columns: Vec<Column>, referenced: bool, named: bool, bounds: usize) -> Self {
        Self {
            blocks: Vec::new(),
            times: Vec::new(),
            ordinals: named.then(Vec::new),
            columns,
            references: (referenced || named).then(Vec::new),
            chunks: Chunks::default(),
            free: vec![Vec::new(); 33],
            used: 0,
            rows: 0,
            cursors: Vec::new(),
            bounds,
            swept: 0,
            touched: Vec::new(),
            gone: Vec::new(),
            squeezed: Vec::new(),
        }
    }

    #[inline]
    pub(super) fn block(&self, key: u32) -> Block {
        self.blocks[key as usize]
    }

    /// The times of a key's rows.
    #[inline]
    pub(super) fn times(&self, block: Block) -> &[i64] {
        &self.times[block.first()..block.end()]
    }

    /// The references of slots, if there are any.
    pub(super) fn references(&self) -> &[u64] {
        self.references.as_deref().unwrap_or_default()
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn size(&self) -> usize {
        self.blocks.capacity() * size_of::<Block>()
            + self.times.capacity() * 8
            + self.ordinals.as_ref().map_or(0, |of| of.capacity() * 4)
            + self.references.as_ref().map_or(0, |of| of.capacity() * 8)
            + self.columns.iter().map(Column::size).sum::<usize>()
            + self.cursors.capacity() * 4
            + self.chunks.size()
    }

    /// Approximate bytes of a row's references.
    pub(super) fn row_bytes(&self) -> usize {
        (self.chunks.size() / self.rows.max(1)).max(8)
    }

    /// Number of slots; must fit into 32 bits.
    pub(super) fn slots(&self) -> usize {
        self.used
    }

    /// The position in a key's rows of the first time at or after `target`, searched from where the bound's last search
    /// ended.
    #[inline]
    pub(super) fn seek(&mut self, key: u32, block: Block, bound: usize, target: EventTime) -> usize {
        let cursor = &mut self.cursors[key as usize * self.bounds + bound];
        let hint = cursor.wrapping_sub(block.gone as u32);
        // A cursor before the live rows looks like one far ahead.
        let hint = if hint > block.len { 0 } else { hint as usize };
        let found = seek(&self.times[block.first()..block.end()], hint, target);
        *cursor = (block.gone as u32).wrapping_add(found as u32);
        found
    }

    /// Reads the memory where the searches of these keys will begin. Nothing depends on the values, so the processor need
    /// not wait for one key before it reads the next.
    pub(super) fn warm_cursors(&self, keys: &[u32]) {
        let mut seen = 0;
        for key in keys {
            let block = self.blocks[*key as usize];
            for cursor in &self.cursors[*key as usize * self.bounds..][..self.bounds] {
                let hint = cursor.wrapping_sub(block.gone as u32).min(block.len.saturating_sub(1));
                seen ^= self.times.get(block.first() + hint as usize).copied().unwrap_or_default();
            }
        }
        black_box(seen);
    }

    /// Reads the memory at both ends of these keys' rows, like [`Store::warm_cursors`].
    fn warm_ends(&self, keys: impl Iterator<Item = u32>) {
        let mut seen = 0;
        for key in keys {
            let block = self.blocks[key as usize];
            for slot in [block.first(), block.end()] {
                seen ^= self.times.get(slot).copied().unwrap_or_default();
            }
        }
        black_box(seen);
    }

    /// Extends the tables to `keys` keys.
    pub(super) fn know(&mut self, keys: usize) {
        if self.blocks.len() < keys {
            self.blocks.resize(keys, Block::default());
            self.cursors.resize(keys * self.bounds, 0);
        }
    }

    /// Places rows that are in time order, for each key after its rows of the same time. Returns each row's place and its
    /// ordinal among all rows the key ever had. Retires the rows of these keys that are not needed first. `restored` holds
    /// the ordinals of restored rows.
    pub(super) fn place(
        &mut self,
        keys: &[u32],
        times: &[i64],
        references: Option<u64>,
        needed: &Needed,
        restored: Option<&[i64]>,
    ) -> (Vec<Place>, Vec<i64>) {
        for key in keys {
            let block = &mut self.blocks[*key as usize];
            if block.incoming == 0 {
                self.touched.push(*key);
            }
            block.incoming += 1;
        }
        let touched = std::mem::take(&mut self.touched);
        for keys in touched.chunks(TOGETHER) {
            self.warm_ends(keys.iter().copied());
            for key in keys {
                self.retire(*key, needed);
                self.reserve(*key);
            }
        }
        let mut places = Vec::with_capacity(keys.len());
        let mut ordinals = Vec::with_capacity(keys.len());
        for (row, (key, time)) in keys.iter().zip(times).enumerate() {
            let block = &self.blocks[*key as usize];
            let ordinal = restored.map_or((block.gone + u64::from(block.len)) as i64, |given| given[row]);
            let place = self.place_one(*key, *time);
            let slot = place.slot as usize;
            self.times[slot] = *time;
            if let Some(kept) = &mut self.ordinals {
                kept[slot] = ordinal as u32;
            }
            if let (Some(kept), Some(first)) = (&mut self.references, references) {
                kept[slot] = first + row as u64;
            }
            places.push(place);
            ordinals.push(ordinal);
        }
        if !self.squeezed.is_empty() {
            for (place, key) in places.iter_mut().zip(keys).filter(|(place, _)| place.until > place.slot + 1) {
                place.until = self.blocks[*key as usize].end() as u32;
            }
        }
        self.rows += keys.len();
        self.touched = touched;
        self.touched.clear();
        (places, ordinals)
    }

    #[inline]
    fn place_one(&mut self, key: u32, time: i64) -> Place {
        let block = &mut self.blocks[key as usize];
        let (first, end) = (block.first(), block.end());
        block.len += 1;
        let slot = end as u32;
        if end == first || self.times[end - 1] <= time {
            return Place { slot, until: slot + 1, first: end == first };
        }
        let at = first + self.times[first..end].partition_point(|other| *other <= time);
        self.squeezed.push((key, block.gone + (at - first) as u64));
        self.copy(at, at + 1, end - at);
        Place { slot: at as u32, until: end as u32 + 1, first: at == first }
    }

    fn copy(&mut self, from: usize, to: usize, count: usize) {
        self.times.copy_within(from..from + count, to);
        if let Some(kept) = &mut self.ordinals {
            kept.copy_within(from..from + count, to);
        }
        if let Some(kept) = &mut self.references {
            kept.copy_within(from..from + count, to);
        }
        for column in &mut self.columns {
            column.copy(from, to, count);
        }
    }

    /// Makes room for the incoming rows of a key.
    fn reserve(&mut self, key: u32) {
        let block = self.blocks[key as usize];
        self.blocks[key as usize].incoming = 0;
        let wanted = block.len + block.incoming;
        if block.start + wanted <= block.capacity() {
            return;
        }
        // A move must leave room for a quarter more, or each following row would move all rows again.
        let roomy = wanted + wanted / 4;
        if roomy <= block.capacity() {
            self.copy(block.first(), block.offset as usize, block.len());
            self.blocks[key as usize].start = 0;
        } else {
            self.relocate(key, class_for(roomy));
        }
    }

    /// Moves a key's rows to a block of another class.
    fn relocate(&mut self, key: u32, class: u8) {
        let old = self.blocks[key as usize];
        let offset = self.allocate(class);
        self.copy(old.first(), offset as usize, old.len());
        if old.class != 0 {
            self.free[usize::from(old.class)].push(old.offset);
        }
        let block = &mut self.blocks[key as usize];
        (block.offset, block.start, block.class) = (offset, 0, class);
    }

    fn allocate(&mut self, class: u8) -> u32 {
        if let Some(offset) = self.free[usize::from(class)].pop() {
            return offset;
        }
        let offset = self.used;
        self.used += 1 << class;
        if self.used > self.times.len() {
            let slots = self.used.max(self.times.len() + self.times.len() / 2).max(64);
            self.times.resize(slots, 0);
            if let Some(kept) = &mut self.ordinals {
                kept.resize(slots, 0);
            }
            if let Some(kept) = &mut self.references {
                kept.resize(slots, 0);
            }
            for column in &mut self.columns {
                column.grow(slots);
            }
        }
        offset as u32
    }

    /// Retires a key's first rows that are not needed.
    fn retire(&mut self, key: u32, needed: &Needed) {
        let block = self.blocks[key as usize];
        let times = &self.times[block.first()..block.end()];
        let (mut limit, mut from) = (times.len(), needed.from);
        if let Some((before, after)) = needed.last {
            let open = times
                .partition_point(|time| EventTime(*time).is_below(needed.open))
                .min(times.len().saturating_sub(after));
            limit = open.saturating_sub(before);
            // A row that waits for later rows may be older than any that waits for its time.
            from = times.get(open).map_or(from, |time| from.min(Watermark::at(needed.keep.earliest(EventTime(*time)))));
        }
        let count = times[..limit].iter().take_while(|time| EventTime(**time).is_below(from)).count();
        if count == 0 {
            return;
        }
        let first = block.first();
        for slot in first..first + count {
            let Some(references) = &self.references else { break };
            if let Some(ordinals) = &self.ordinals {
                // The ordinal is at most the number of rows so far, and closer to it than the range of the low bits.
                let all = block.gone + u64::from(block.len);
                let ordinal = all - u64::from((all as u32).wrapping_sub(ordinals[slot]));
                self.gone.push(Gone { key, reference: references[slot], time: EventTime(self.times[slot]), ordinal });
            } else {
                self.chunks.release(references[slot]);
            }
        }
        let block = &mut self.blocks[key as usize];
        block.start += count as u32;
        block.len -= count as u32;
        block.gone += count as u64;
        self.rows -= count;
    }

    /// Retires rows of the next `count` keys, in turn, and frees excess memory. Returns the keys without rows.
    pub(super) fn sweep(&mut self, count: usize, needed: &Needed) -> Vec<u32> {
        let mut empty = Vec::new();
        for number in 0..count.min(self.blocks.len()) {
            if number % TOGETHER == 0 {
                let next = (self.swept + 1..self.blocks.len()).take(TOGETHER.min(count - number));
                self.warm_ends(next.map(|key| key as u32));
            }
            self.swept = if self.swept + 1 >= self.blocks.len() { 0 } else { self.swept + 1 };
            let key = self.swept as u32;
            if self.blocks[self.swept].class == 0 {
                continue;
            }
            self.retire(key, needed);
            let block = self.blocks[self.swept];
            if block.len == 0 {
                self.free[usize::from(block.class)].push(block.offset);
                self.blocks[self.swept] = Block::default();
                empty.push(key);
            } else if block.class > SMALLEST && block.len * 4 <= block.capacity() {
                self.relocate(key, class_for(block.len));
            }
        }
        empty
    }

    /// The rows retired since the last call, where they need tombstones. Their references are still valid; the caller must
    /// release them.
    pub(super) fn take_gone(&mut self) -> Vec<Gone> {
        std::mem::take(&mut self.gone)
    }

    /// Sets the number of rows that a restored key had before the present ones.
    pub(super) fn set_gone(&mut self, key: u32, rows_ever: u64) {
        let block = &mut self.blocks[key as usize];
        block.gone = rows_ever.saturating_sub(u64::from(block.len));
    }

    /// Rewrites the chunks if most of their rows are dead.
    pub(super) fn tidy(&mut self) -> crate::error::Result<()> {
        if !self.chunks.is_wasteful() {
            return Ok(());
        }
        let Some(references) = &mut self.references else { return Ok(()) };
        let slots: Vec<usize> = self.blocks.iter().flat_map(|block| block.first()..block.end()).collect();
        let old: Vec<u64> = slots.iter().map(|slot| references[*slot]).collect();
        for (slot, new) in slots.iter().zip(self.chunks.rewrite(&old)?) {
            references[*slot] = new;
        }
        Ok(())
    }
}

fn class_for(rows: u32) -> u8 {
    (rows.next_power_of_two().trailing_zeros() as u8).max(SMALLEST)
}
