//! An operator whose cold state is on local disk.
//!
//! The key groups of a shard are divided into cells, each an instance of the operator with the rows and the state of its
//! groups. When state exceeds the [`MemoryBudget`], the cells that had no rows for the longest time are dropped from memory;
//! when rows arrive for such a cell, or the watermark reaches its [`Operator::due`], it is rebuilt and its state restored.
//! So the output is that of one instance, apart from the order of rows with different keys.
//!
//! All restored rows and all changes that `changes` returned are kept on disk in state files, compacted like any state; a
//! cell's state is the content of these files plus later changes (`pending`, in memory until the epoch's `changes`). The
//! copy saves memory and time; it is not durable.
//!
//! Dividing input into cells costs time at every step, so this is for operators under memory pressure. Without a disk there
//! is one cell, which never leaves memory, and the budget is given the reason why it cannot shrink. A full disk is no
//! failure: what it refuses stays in memory (`unwritten`) and is written with the next changes, and meanwhile the budget is
//! given that reason.

#[cfg(test)]
mod due;
#[cfg(test)]
mod tests;

use std::ops::Range;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;

use super::contract::{Operator, StateUsage, Stepped, Tick};
use crate::error::{Context, Error, Result};
use crate::state::{
    Epoch, MemoryBudget, MemoryShare, Newest, Older, OperatorSnapshot, SpillStore, StateChange, StateTable, groups_of,
    key_groups, split,
};
use crate::time::Watermark;

/// Restored rows are written to disk when they take this many bytes.
const RESTORE_BYTES: usize = 16 << 20;
/// Maximum number of merges after a write; each leaves fewer files.
const MERGES: usize = 4;

/// Makes an empty instance of an operator.
pub type Factory = Box<dyn Fn() -> Result<Box<dyn Operator>> + Send>;

/// The parts of [`Cells`].
pub struct CellsSpec {
    pub make: Factory,
    /// The routing columns of each input port.
    pub routing: Vec<Vec<usize>>,
    /// The number of this shard, of `shards`.
    pub shard: usize,
    pub shards: usize,
    /// Number of cells, at most one per key group.
    pub cells: usize,
    pub budget: MemoryBudget,
    /// Without a disk the reason for that; nothing leaves memory then.
    pub disk: Result<SpillStore, String>,
}

/// One shard of an operator, its cold state on local disk.
pub struct Cells {
    make: Factory,
    routing: Vec<Vec<usize>>,
    tables: Vec<StateTable>,
    groups: Range<u16>,
    cells: Vec<Cell>,
    share: MemoryShare,
    disk: Option<Disk>,
    /// The reason for having no disk.
    without: String,
    /// Counts steps, to find cold cells.
    steps: u64,
    /// The tick of the last step, if there was one.
    tick: Option<Tick>,
}

/// The operator for some key groups.
struct Cell {
    groups: Range<u16>,
    /// `None` while it is on disk.
    operator: Option<Box<dyn Operator>>,
    /// The last step with rows.
    touched: u64,
    /// The usage and `due` when it last left memory.
    usage: StateUsage,
    due: Watermark,
    /// The watermark up to which its state is current.
    watermark: Watermark,
    /// The last step it took part in.
    stepped: u64,
    /// Its changes of this epoch from before it left memory; oldest first.
    pending: Vec<Vec<StateChange>>,
}

/// The image of all state as of the last `changes`.
struct Disk {
    store: SpillStore,
    image: OperatorSnapshot,
    epoch: Epoch,
    /// Restored rows that are not in `image` yet, per table.
    restored: Vec<Vec<RecordBatch>>,
    restored_bytes: usize,
    /// Changes that the disk refused, oldest first; newer than `image`.
    unwritten: Vec<Vec<StateChange>>,
    /// Reason of the disk's last refusal.
    refusal: Option<String>,
}

impl Cells {
    /// Cells with empty state.
    pub fn new(spec: CellsSpec) -> Result<Self> {
        let first = (spec.make)()?;
        let tables = first.state();
        let groups = groups_of(spec.shard, spec.shards);
        let routed = spec.routing.iter().all(|columns| !columns.is_empty()) && tables.iter().all(|t| t.routing > 0);
        let count = match &spec.disk {
            Ok(_) if routed => spec.cells.clamp(1, usize::from(groups.end - groups.start).max(1)),
            _ => 1,
        };
        let mut cells: Vec<_> = (0..count).map(|cell| Cell::empty(part(&groups, cell, count))).collect();
        cells[0].operator = Some(first);
        for cell in &mut cells[1..] {
            cell.operator = Some((spec.make)()?);
        }
        let (disk, without) = match spec.disk {
            Ok(store) => (Some(Disk::new(store, tables.len())), String::new()),
            Err(reason) => (None, reason),
        };
        let share = spec.budget.share();
        let (make, routing) = (spec.make, spec.routing);
        Ok(Self { make, routing, tables, groups, cells, share, disk, without, steps: 0, tick: None })
    }

    /// Number of cells in memory.
    #[cfg(test)]
    pub fn resident(&self) -> usize {
        self.cells.iter().filter(|cell| cell.operator.is_some()).count()
    }

    /// The input of each cell, `[cell][port]`.
    fn divide(&self, inputs: Vec<Vec<RecordBatch>>) -> Result<Vec<Vec<Vec<RecordBatch>>>> {
        if self.cells.len() == 1 {
            return Ok(vec![inputs]);
        }
        let mut divided = vec![vec![Vec::new(); inputs.len()]; self.cells.len()];
        for (port, batches) in inputs.into_iter().enumerate() {
            let routing = self.routing.get(port).ok_or_else(|| Error::internal(format!("no input port {port}")))?;
            for batch in batches {
                let columns: Vec<_> = routing.iter().map(|&column| batch.column(column).clone()).collect();
                let groups = key_groups(&columns, batch.num_rows())?;
                for (cell, rows) in self.by_cell(&batch, groups)?.into_iter().enumerate() {
                    divided[cell][port].extend(rows);
                }
            }
        }
        Ok(divided)
    }

    fn by_cell(&self, rows: &RecordBatch, mut groups: Vec<u16>) -> Result<Vec<Option<RecordBatch>>> {
        let mut cell_of = vec![0_u16; crate::state::KEY_GROUPS.into()];
        for (number, cell) in self.cells.iter().enumerate() {
            cell_of[usize::from(cell.groups.start)..usize::from(cell.groups.end)].fill(number as u16);
        }
        for group in &mut groups {
            if !self.groups.contains(group) {
                return Err(Error::internal(format!("a row of key group {group} came to the wrong shard")));
            }
            *group = cell_of[usize::from(*group)];
        }
        split(rows, &groups, self.cells.len())
    }

    fn step_cell(&mut self, cell: usize, inputs: Vec<Vec<RecordBatch>>, tick: Tick) -> Result<Stepped> {
        if self.cells[cell].operator.is_none() {
            self.make_room(cell)?;
            self.load(cell)?;
        }
        let cell = &mut self.cells[cell];
        let Some(operator) = &mut cell.operator else { return Ok(Stepped::default()) };
        let mut missed = Stepped::default();
        if let Some(last) = self.tick.filter(|_| cell.stepped + 1 < self.steps) {
            // The skipped steps were not due, so they count as one; all that can remain to do is expire state.
            let nothing = vec![Vec::new(); inputs.len()];
            missed = operator.whole_step(nothing, Tick { before: cell.watermark, ..last })?;
        }
        let mut stepped = operator.whole_step(inputs, tick)?;
        (cell.watermark, cell.stepped) = (tick.watermark, self.steps);
        stepped.rows.splice(0..0, missed.rows);
        Ok(stepped)
    }

    /// Drops cold cells until `cell` fits, or none is left to drop.
    fn make_room(&mut self, cell: usize) -> Result<()> {
        let more = self.cells[cell].usage.bytes;
        while self.share.must_shrink(more) {
            let Some(coldest) = self.coldest(Some(cell)) else { break };
            self.spill(coldest)?;
        }
        Ok(())
    }

    fn coldest(&self, except: Option<usize>) -> Option<usize> {
        let resident = self.cells.iter().enumerate().filter(|(_, cell)| cell.operator.is_some());
        let others = resident.filter(|(number, _)| Some(*number) != except);
        others.min_by_key(|(_, cell)| cell.touched).map(|(number, _)| number)
    }

    /// Drops a cell from memory.
    fn spill(&mut self, number: usize) -> Result<()> {
        let cell = &mut self.cells[number];
        if let Some(mut operator) = cell.operator.take() {
            let changes = operator.changes()?;
            let moved = |change: &StateChange| !change.is_empty() || change.cutoff > Watermark::NONE;
            if changes.iter().any(moved) {
                cell.pending.push(changes);
            }
            (cell.usage, cell.due) = (operator.usage(), operator.due());
        }
        self.account();
        Ok(())
    }

    /// Restores a cell: this epoch's changes first, then the rows of the image that they do not replace.
    fn load(&mut self, number: usize) -> Result<()> {
        self.flush_restored()?;
        let mut operator = (self.make)()?;
        let cell = &mut self.cells[number];
        for (index, table) in self.tables.iter().enumerate() {
            let unwritten = self.disk.iter().flat_map(|disk| &disk.unwritten);
            let lists: Vec<&Vec<StateChange>> = unwritten.chain(&cell.pending).collect();
            let pending = || lists.iter().rev().flat_map(|list| list.iter()).filter(|change| change.table == index);
            let stored = self.disk.as_ref().and_then(|disk| disk.image.table(table.name));
            let cutoff = stored.map_or(Watermark::NONE, |stored| stored.cutoff);
            let cutoff = pending().map(|change| change.cutoff).fold(cutoff, Watermark::max);
            let mut newest = Newest::new(table, cutoff)?;
            let watermark = cell.watermark;
            let mut restore = |rows: RecordBatch| operator.restore(index, rows, watermark);
            for change in pending() {
                for rows in &change.deletes {
                    newest.deletes(rows)?;
                }
                for rows in &change.upserts {
                    let Some(rows) = in_groups(rows, table, &cell.groups)? else { continue };
                    let live = newest.live(&rows, Older::Follow)?;
                    if live.num_rows() > 0 {
                        restore(live)?;
                    }
                }
            }
            if let Some(disk) = &self.disk {
                let groups = cell.groups.clone();
                wait(disk.store.state().read_beneath(&disk.image, table, groups, &mut newest, restore))?;
            }
        }
        cell.operator = Some(operator);
        self.account();
        Ok(())
    }

    /// Reports the current memory to the budget.
    fn account(&mut self) {
        self.share.set(self.bytes());
    }

    fn bytes(&self) -> u64 {
        let resident = self.cells.iter().filter_map(|cell| cell.operator.as_ref()).map(|o| o.usage().bytes);
        let pending = self.cells.iter().flat_map(|cell| cell.pending.iter().flatten());
        let unwritten = self.disk.iter().flat_map(|disk| disk.unwritten.iter().flatten());
        let pending = pending.chain(unwritten).flat_map(|change| change.upserts.iter().chain(&change.deletes));
        let restored = self.disk.as_ref().map_or(0, |disk| disk.restored_bytes as u64);
        resident.sum::<u64>() + pending.map(|rows| rows.get_array_memory_size() as u64).sum::<u64>() + restored
    }

    /// Drops cold cells other than `keep` while memory exceeds the budget.
    fn shrink(&mut self, keep: Option<usize>) -> Result<()> {
        self.account();
        let Some(disk) = &self.disk else {
            let over = self.share.must_shrink(0);
            self.share.set_stuck(Some(self.without.as_str()).filter(|_| over));
            return Ok(());
        };
        let refusal = disk.refusal.clone();
        while self.share.must_shrink(0) {
            let Some(coldest) = self.coldest(keep) else { break };
            self.spill(coldest)?;
        }
        let over = self.share.must_shrink(0);
        let why = refusal.as_deref().unwrap_or("what one step needs at a time does not fit");
        self.share.set_stuck(over.then_some(why));
        Ok(())
    }

    fn flush_restored(&mut self) -> Result<()> {
        let Some(disk) = &mut self.disk else { return Ok(()) };
        if disk.restored_bytes == 0 {
            return Ok(());
        }
        disk.restored_bytes = 0;
        let rows = disk.restored.iter_mut().map(std::mem::take).enumerate();
        let changes =
            rows.map(|(table, upserts)| StateChange { table, upserts, deletes: Vec::new(), cutoff: Watermark::NONE });
        let changes = changes.collect();
        disk.write(&self.tables, changes)?;
        self.account();
        Ok(())
    }
}

impl Operator for Cells {
    fn step(&mut self, inputs: Vec<Vec<RecordBatch>>, tick: Tick) -> Result<Stepped> {
        self.steps += 1;
        let mut divided: Vec<_> = self.divide(inputs)?.into_iter().map(Some).collect();
        let mut stepped: Vec<_> = (0..divided.len()).map(|_| Stepped::default()).collect();
        // Cells in memory go first: loading others may evict them.
        let mut order: Vec<usize> = (0..self.cells.len()).collect();
        order.sort_by_key(|&cell| self.cells[cell].operator.is_none());
        for cell in order {
            let Some(inputs) = divided[cell].take() else { continue };
            if inputs.iter().flatten().any(|rows| rows.num_rows() > 0) {
                self.cells[cell].touched = self.steps;
            } else if self.cells[cell].operator.is_none() && tick.watermark < self.cells[cell].due {
                continue;
            }
            stepped[cell] = self.step_cell(cell, inputs, tick)?;
            // A cell with rows in this step will be used again, so dropping it would gain nothing.
            self.shrink(Some(cell).filter(|&cell| self.cells[cell].touched == self.steps))?;
        }
        self.tick = Some(tick);
        let mut all = Stepped::default();
        for one in stepped {
            all.rows.extend(one.rows);
            all.late.extend(one.late);
            all.duplicates += one.duplicates;
            all.late_emitted += one.late_emitted;
        }
        Ok(all)
    }

    fn state(&self) -> Vec<StateTable> {
        self.tables.clone()
    }

    fn changes(&mut self) -> Result<Vec<StateChange>> {
        self.flush_restored()?;
        let mut merged: Vec<StateChange> = (0..self.tables.len()).map(no_change).collect();
        for cell in &mut self.cells {
            let mut lists = std::mem::take(&mut cell.pending);
            if let Some(operator) = &mut cell.operator {
                lists.push(operator.changes()?);
            }
            merge_changes(&self.tables, lists, &mut merged)?;
        }
        merged.retain(|change| !change.is_empty() || change.cutoff > Watermark::NONE);
        if let Some(disk) = &mut self.disk {
            disk.write(&self.tables, merged.clone())?;
        }
        self.account();
        Ok(merged)
    }

    fn restore(&mut self, table: usize, rows: RecordBatch, watermark: Watermark) -> Result<()> {
        for cell in &mut self.cells {
            cell.watermark = watermark;
        }
        let Some(disk) = &mut self.disk else {
            return match &mut self.cells[0].operator {
                Some(operator) => operator.restore(table, rows, watermark),
                None => Err(Error::internal("a cell without a disk is always in memory")),
            };
        };
        // State may exceed memory, so it goes to disk first; cells are loaded when needed.
        for cell in &mut self.cells {
            cell.operator = None;
        }
        disk.restored_bytes += rows.get_array_memory_size();
        let into = disk.restored.get_mut(table).ok_or_else(|| Error::internal(format!("no state table {table}")))?;
        into.push(rows);
        if disk.restored_bytes >= RESTORE_BYTES { self.flush_restored() } else { Ok(()) }
    }

    fn usage(&self) -> StateUsage {
        let of = |cell: &Cell| cell.operator.as_ref().map_or(cell.usage, |operator| operator.usage());
        let usages: Vec<_> = self.cells.iter().map(of).collect();
        StateUsage {
            rows: usages.iter().map(|usage| usage.rows).sum(),
            bytes: self.bytes(),
            oldest: usages.iter().filter_map(|usage| usage.oldest).min(),
        }
    }

    fn due(&self) -> Watermark {
        let of = |cell: &Cell| cell.operator.as_ref().map_or(cell.due, |operator| operator.due());
        self.cells.iter().map(of).min().unwrap_or(Watermark::NONE)
    }
}

impl Cell {
    fn empty(groups: Range<u16>) -> Self {
        Self {
            groups,
            operator: None,
            touched: 0,
            usage: StateUsage::default(),
            due: Watermark::NONE,
            watermark: Watermark::NONE,
            stepped: 0,
            pending: Vec::new(),
        }
    }
}

impl Disk {
    fn new(store: SpillStore, tables: usize) -> Self {
        let image = OperatorSnapshot::empty("cells");
        Self {
            store,
            image,
            epoch: Epoch(0),
            restored: vec![Vec::new(); tables],
            restored_bytes: 0,
            unwritten: Vec::new(),
            refusal: None,
        }
    }

    /// Adds changes to the image, and merges its files when they are many. Changes that the disk refuses stay in memory.
    fn write(&mut self, tables: &[StateTable], changes: Vec<StateChange>) -> Result<()> {
        self.unwritten.push(changes);
        let mut all: Vec<StateChange> = (0..tables.len()).map(no_change).collect();
        merge_changes(tables, self.unwritten.clone(), &mut all)?;
        all.retain(|change| !change.is_empty() || change.cutoff > Watermark::NONE);
        match self.try_write(tables, all) {
            Ok(image) => {
                self.image = image;
                self.unwritten.clear();
                if self.refusal.take().is_some() {
                    tracing::info!("the spill folder takes state again");
                }
                self.merge(tables);
            }
            Err(error) => {
                // One merged list, so that a key that changes repeatedly while the disk is full is held once.
                let mut merged: Vec<StateChange> = (0..tables.len()).map(no_change).collect();
                merge_changes(tables, std::mem::take(&mut self.unwritten), &mut merged)?;
                self.unwritten.push(merged);
                let reason = format!("the spill folder cannot be written ({})", cause(&error));
                if self.refusal.as_ref() != Some(&reason) {
                    tracing::warn!("{reason}; state stays in memory");
                }
                self.refusal = Some(reason);
            }
        }
        Ok(())
    }

    fn try_write(&mut self, tables: &[StateTable], changes: Vec<StateChange>) -> Result<OperatorSnapshot> {
        self.epoch = self.epoch.next();
        let store = self.store.state();
        wait(store.write(&self.image.operator, self.epoch, tables, Some(&self.image), vec![changes]))
    }

    /// Merges files; if that fails, they remain usable as they are.
    fn merge(&mut self, tables: &[StateTable]) {
        let store = self.store.state();
        for _ in 0..MERGES {
            let merged = wait(store.compact(&self.image, tables, self.epoch)).and_then(|compaction| {
                let Some(compaction) = compaction else { return Ok(false) };
                self.image = compaction.apply(&self.image);
                wait(store.remove_unneeded(&[&self.image], Epoch(u64::MAX)))?;
                Ok(true)
            });
            match merged {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return tracing::warn!(%error, "spilled state was not merged"),
            }
        }
    }
}

/// Message of an error's innermost cause.
fn cause(error: &Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// The rows of a state table that belong to `groups`.
fn in_groups(rows: &RecordBatch, table: &StateTable, groups: &Range<u16>) -> Result<Option<RecordBatch>> {
    let routing = rows.columns()[..table.routing].to_vec();
    let of = key_groups(&routing, rows.num_rows())?;
    if of.iter().all(|group| groups.contains(group)) {
        return Ok(Some(rows.clone()));
    }
    let mine: BooleanArray = of.iter().map(|group| Some(groups.contains(group))).collect();
    let mine = filter_record_batch(rows, &mine).internal(|| "state rows cannot be parted by key group".to_owned())?;
    Ok(Some(mine).filter(|rows| rows.num_rows() > 0))
}

/// Waits for work on disk. Operators are not asynchronous, and this one may run within a tokio task that has used up its
/// cooperative budget: tokio would then delay the wake-up until the task returns, which it does not while it waits here.
fn wait<T>(work: impl Future<Output = T>) -> T {
    futures::executor::block_on(tokio::task::unconstrained(work))
}

fn no_change(table: usize) -> StateChange {
    StateChange { table, upserts: Vec::new(), deletes: Vec::new(), cutoff: Watermark::NONE }
}

/// The key groups of a cell.
fn part(groups: &Range<u16>, cell: usize, cells: usize) -> Range<u16> {
    let all = usize::from(groups.end - groups.start);
    let start = |cell: usize| groups.start + (cell * all / cells) as u16;
    start(cell)..start(cell + 1)
}

/// Adds a cell's lists of changes, oldest first, to those of all cells, each key once and in its newest version.
fn merge_changes(tables: &[StateTable], lists: Vec<Vec<StateChange>>, into: &mut [StateChange]) -> Result<()> {
    let single = lists.len() == 1;
    let mut newest: Vec<Option<Newest>> = tables.iter().map(|_| None).collect();
    for change in lists.into_iter().rev().flatten() {
        let (table, merged) = (&tables[change.table], &mut into[change.table]);
        merged.cutoff = merged.cutoff.max(change.cutoff);
        if single {
            merged.upserts.extend(change.upserts);
            merged.deletes.extend(change.deletes);
            continue;
        }
        let newest = match &mut newest[change.table] {
            Some(newest) => newest,
            none => none.insert(Newest::new(table, Watermark::NONE)?),
        };
        for rows in change.deletes {
            merged.deletes.push(newest.deletes(&rows)?);
        }
        for rows in change.upserts {
            merged.upserts.push(newest.upserts(&rows, Older::Follow)?);
        }
    }
    Ok(())
}
