//! An operator in cells, short of memory, against a single instance.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use futures::executor::block_on;
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::env::Env;
use crate::lab::faults::{Fault, FaultyStore, Operation};
use crate::operator::restore;
use crate::state::{KeyEquality, SpillFolder, StateStore, shard_of};
use crate::time::{EventTime, Lag, Watermark};

/// Nominal memory of a row in the test operator's state.
const ROW_BYTES: u64 = 1000;

fn columns(names: [&str; 3]) -> SchemaRef {
    Arc::new(Schema::new(names.map(|name| Field::new(name, DataType::Int64, name == "key")).to_vec()))
}

fn batch(names: [&str; 3], rows: &[[Option<i64>; 3]]) -> RecordBatch {
    let column = |i: usize| Arc::new(Int64Array::from_iter(rows.iter().map(|row| row[i]))) as ArrayRef;
    RecordBatch::try_new(columns(names), vec![column(0), column(1), column(2)]).unwrap()
}

fn rows(batch: &RecordBatch) -> Vec<[Option<i64>; 3]> {
    let column = |i: usize| batch.column(i).as_primitive::<Int64Type>();
    let value = |i: usize, row: usize| column(i).iter().nth(row).unwrap();
    (0..batch.num_rows()).map(|row| [value(0, row), value(1, row), value(2, row)]).collect()
}

const INPUT: [&str; 3] = ["key", "at", "id"];
const COUNTS: [&str; 3] = ["key", "count", "last"];

/// Counts rows per key, emits the new count at each step and deletes a key at its tenth row; emits every row once more when
/// the watermark has passed it, and deletes it.
#[derive(Default)]
struct Counter {
    counts: BTreeMap<Option<i64>, [i64; 2]>,
    changed: BTreeSet<Option<i64>>,
    waiting: BTreeSet<(i64, Option<i64>, i64)>,
    fresh: BTreeSet<(i64, Option<i64>, i64)>,
    watermark: Watermark,
    stepped: bool,
}

impl Operator for Counter {
    fn step(&mut self, inputs: Vec<Vec<RecordBatch>>, tick: Tick) -> Result<Stepped> {
        (self.watermark, self.stepped) = (tick.watermark, true);
        let (mut now, mut late) = (BTreeSet::new(), Vec::new());
        for [key, at, id] in inputs.iter().flatten().flat_map(rows) {
            let (at, id) = (at.unwrap(), id.unwrap());
            if EventTime(at).is_late(tick.before) {
                late.push([key, Some(at), Some(id)]);
                continue;
            }
            let [count, last] = self.counts.entry(key).or_default();
            (*count, *last) = (*count + 1, (*last).max(at));
            now.insert(key);
            self.waiting.insert((at, key, id));
            self.fresh.insert((at, key, id));
        }
        let mut out: Vec<[Option<i64>; 3]> = Vec::new();
        for key in now {
            let [count, last] = self.counts[&key];
            out.push([key, Some(count), Some(last)]);
            self.changed.insert(key);
            if count >= 10 {
                self.counts.remove(&key);
            }
        }
        while let Some(first) =
            self.waiting.first().copied().filter(|(at, ..)| EventTime(*at).is_complete(tick.watermark))
        {
            self.waiting.remove(&first);
            self.fresh.remove(&first);
            out.push([first.1, Some(-1), Some(first.2)]);
        }
        Ok(Stepped { rows: vec![batch(COUNTS, &out)], late: vec![(0, batch(INPUT, &late))], ..Stepped::default() })
    }

    fn state(&self) -> Vec<StateTable> {
        let schema = columns(COUNTS);
        let counts = StateTable {
            name: "counts",
            schema,
            routing: 1,
            key: vec![0],
            time: None,
            equality: KeyEquality::Bits,
            append_only: false,
        };
        let schema = columns(INPUT);
        let waiting = StateTable {
            name: "waiting",
            schema,
            routing: 1,
            key: vec![0, 2],
            time: Some(1),
            equality: KeyEquality::Bits,
            append_only: true,
        };
        vec![counts, waiting]
    }

    fn changes(&mut self) -> Result<Vec<StateChange>> {
        let changed = std::mem::take(&mut self.changed);
        let (kept, gone): (Vec<_>, Vec<_>) = changed.into_iter().partition(|key| self.counts.contains_key(key));
        let kept: Vec<_> =
            kept.iter().map(|key| [*key, Some(self.counts[key][0]), Some(self.counts[key][1])]).collect();
        let gone: Vec<_> = gone.into_iter().map(|key| [key, None, None]).collect();
        let keys = Arc::new(Int64Array::from_iter(gone.iter().map(|row| row[0]))) as ArrayRef;
        let gone = RecordBatch::try_new(self.state()[0].delete_schema(), vec![keys]).unwrap();
        let fresh: Vec<_> =
            std::mem::take(&mut self.fresh).into_iter().map(|(at, key, id)| [key, Some(at), Some(id)]).collect();
        let cutoff = if self.stepped { self.watermark } else { Watermark::NONE };
        Ok(vec![
            StateChange { table: 0, upserts: vec![batch(COUNTS, &kept)], deletes: vec![gone], cutoff: Watermark::NONE },
            StateChange { table: 1, upserts: vec![batch(INPUT, &fresh)], deletes: Vec::new(), cutoff },
        ])
    }

    fn restore(&mut self, table: usize, restored: RecordBatch, watermark: Watermark) -> Result<()> {
        assert!(!self.stepped);
        for [key, a, b] in rows(&restored) {
            let fresh = match table {
                0 => self.counts.insert(key, [a.unwrap(), b.unwrap()]).is_none(),
                _ => self.waiting.insert((a.unwrap(), key, b.unwrap())),
            };
            assert!(fresh, "a row was restored twice");
            assert!(table == 0 || !EventTime(a.unwrap()).is_below(watermark), "a dead row was restored");
        }
        Ok(())
    }

    fn usage(&self) -> StateUsage {
        let rows = (self.counts.len() + self.waiting.len()) as u64;
        StateUsage { rows, bytes: rows * ROW_BYTES, oldest: self.waiting.first().map(|(at, ..)| EventTime(*at)) }
    }

    fn due(&self) -> Watermark {
        self.waiting.first().map_or(Watermark::END, |(at, ..)| EventTime(*at).due(Lag::ZERO))
    }
}

/// The state of an operator, rebuilt from all its changes.
#[derive(Debug, Default, Clone, PartialEq)]
struct Image {
    counts: BTreeMap<Option<i64>, [Option<i64>; 3]>,
    waiting: BTreeSet<[Option<i64>; 3]>,
}

impl Image {
    fn apply(&mut self, changes: Vec<StateChange>) {
        let mut keys = BTreeSet::new();
        for change in changes {
            for [key, count, last] in change.upserts.iter().flat_map(rows) {
                if change.table == 0 {
                    assert!(keys.insert(key), "a key was changed twice");
                    self.counts.insert(key, [key, count, last]);
                } else {
                    assert!(self.waiting.insert([key, count, last]));
                }
            }
            for gone in &change.deletes {
                for key in gone.column(0).as_primitive::<Int64Type>() {
                    assert!(keys.insert(key), "a key was changed twice");
                    self.counts.remove(&key);
                }
            }
            if change.table == 1 {
                self.waiting.retain(|row| !EventTime(row[1].unwrap()).is_below(change.cutoff));
            }
        }
    }
}

struct Run {
    rng: StdRng,
    watermark: Watermark,
    next_id: i64,
}

impl Run {
    fn input(&mut self) -> Vec<RecordBatch> {
        let rng = &mut self.rng;
        // Mostly few keys at a time, so that some cells are cold.
        let keys = [1, 3, 200][rng.random_range(0..3)];
        let base = rng.random_range(0..200);
        (0..rng.random_range(0..3))
            .map(|_| {
                let row = |id: i64, rng: &mut StdRng| {
                    let key = rng.random_bool(0.97).then(|| base + rng.random_range(0..keys));
                    [key, Some(self.watermark.0.max(0) + rng.random_range(-5..400)), Some(id)]
                };
                let count = rng.random_range(0..20);
                self.next_id += count;
                let made: Vec<_> = (0..count).map(|i| row(self.next_id - i, rng)).collect();
                batch(INPUT, &made)
            })
            .collect()
    }

    fn tick(&mut self) -> Tick {
        let before = self.watermark;
        if self.rng.random_bool(0.6) {
            self.watermark = Watermark(self.watermark.0.max(0) + self.rng.random_range(0..30));
        }
        Tick { before, watermark: self.watermark, now: EventTime(0) }
    }
}

/// Creates a store to spill to.
type Spill = dyn Fn() -> SpillStore;

fn memory() -> SpillStore {
    StateStore::new(Arc::new(InMemory::new()), Env::manual(0, 3)).into()
}

fn cells(shard: usize, shards: usize, budget: &MemoryBudget, disk: Option<&Spill>) -> Cells {
    let make: Factory = Box::new(|| Ok(Box::new(Counter::default())));
    let disk = disk.map(|disk| disk()).ok_or_else(|| "no folder for spilling is configured".to_owned());
    let (routing, budget) = (vec![vec![0]], budget.clone());
    Cells::new(CellsSpec { make, routing, shard, shards, cells: 8, budget, disk }).unwrap()
}

/// Rows of each shard.
fn route(input: &[RecordBatch], shards: usize) -> Vec<Vec<RecordBatch>> {
    let mut routed = vec![Vec::new(); shards];
    for rows in input {
        let groups = key_groups(&rows.columns()[..1], rows.num_rows()).unwrap();
        let parts: Vec<u16> = groups.iter().map(|group| shard_of(*group, shards) as u16).collect();
        for (shard, rows) in split(rows, &parts, shards).unwrap().into_iter().enumerate() {
            routed[shard].extend(rows);
        }
    }
    routed
}

fn sorted(batches: &[RecordBatch]) -> Vec<[Option<i64>; 3]> {
    let mut all: Vec<_> = batches.iter().flat_map(rows).collect();
    all.sort();
    all
}

/// The durable state of a run, written as the engine would.
struct Durable {
    store: StateStore,
    snapshot: OperatorSnapshot,
    epoch: Epoch,
}

impl Durable {
    fn new() -> Self {
        let store = StateStore::new(Arc::new(InMemory::new()), Env::manual(0, 5));
        Self { store, snapshot: OperatorSnapshot::empty("counter"), epoch: Epoch(0) }
    }

    fn write(&mut self, tables: &[StateTable], changes: Vec<Vec<StateChange>>) {
        self.epoch = self.epoch.next();
        let written = self.store.write("counter", self.epoch, tables, Some(&self.snapshot), changes);
        self.snapshot = block_on(written).unwrap();
        if let Some(compaction) = block_on(self.store.compact(&self.snapshot, tables, self.epoch)).unwrap() {
            self.snapshot = compaction.apply(&self.snapshot);
        }
    }

    fn restore(&self, shards: usize, budget: &MemoryBudget, disk: &Spill, watermark: Watermark) -> Vec<Cells> {
        let one = |shard| {
            let mut made = cells(shard, shards, budget, Some(disk));
            block_on(restore(&mut made, &self.store, &self.snapshot, (shard, shards), watermark)).unwrap();
            made
        };
        (0..shards).map(one).collect()
    }
}

#[test]
fn cells_short_of_memory_give_what_one_operator_gives_and_remember_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spilled, mut skipped) = (0, 0);
    for seed in 0..100 {
        let spilling = SpillFolder::create(folder.path(), &Env::manual(0, seed)).unwrap();
        let files = move || spilling.store().unwrap();
        // Real files for some seeds; memory is faster.
        let disk: &Spill = if seed % 10 == 0 { &files } else { &memory };
        let mut run = Run { rng: StdRng::seed_from_u64(seed), watermark: Watermark::NONE, next_id: 0 };
        let budget = MemoryBudget::new(ROW_BYTES * [5, 60, 10_000][run.rng.random_range(0..3)]);
        let mut plain = Counter::default();
        let mut sharded = vec![cells(0, 1, &budget, Some(disk))];
        let (mut expected, mut image, mut durable) = (Image::default(), Image::default(), Durable::new());
        for step in 0..run.rng.random_range(5..40) {
            let (input, tick) = (run.input(), run.tick());
            let want = plain.step(vec![input.clone()], tick).unwrap();
            let (mut got, mut late) = (Vec::new(), Vec::new());
            let shards = sharded.len();
            for (cells, input) in sharded.iter_mut().zip(route(&input, shards)) {
                let stepped = cells.step(vec![input], tick).unwrap();
                got.extend(stepped.rows);
                late.extend(stepped.late.into_iter().map(|(_, rows)| rows));
            }
            assert_eq!(sorted(&got), sorted(&want.rows), "seed {seed}, step {step}");
            assert_eq!(sorted(&late), sorted(&[want.late[0].1.clone()]), "seed {seed}, step {step}");
            spilled += sharded.iter().map(|cells| cells.cells.len() - cells.resident()).sum::<usize>();
            skipped += usize::from(input.is_empty() && sharded.iter().any(|cells| cells.resident() < 8 / shards));
            if run.rng.random_bool(0.3) {
                expected.apply(plain.changes().unwrap());
                let changes: Vec<_> = sharded.iter_mut().map(|cells| cells.changes().unwrap()).collect();
                changes.iter().for_each(|changes| image.apply(changes.clone()));
                durable.write(&plain.state(), changes);
                assert_eq!(image, expected, "seed {seed}, step {step}");
                let rows: u64 = sharded.iter().map(|cells| cells.usage().rows).sum();
                assert!(rows >= plain.usage().rows, "seed {seed}: {rows} {:?}", plain.usage());
                if run.rng.random_bool(0.3) {
                    let shards = [1, 2, 3, 7][run.rng.random_range(0..4)];
                    drop(sharded);
                    assert_eq!(budget.used(), 0, "seed {seed}");
                    sharded = durable.restore(shards, &budget, disk, run.watermark);
                }
            }
        }
    }
    assert!(spilled > 1000 && skipped > 20, "memory was never short: {spilled} {skipped}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "spilled files stay");
}

#[test]
fn cold_cells_leave_memory_and_the_budget_is_kept() {
    let budget = MemoryBudget::new(ROW_BYTES * 600);
    let mut cells = cells(0, 1, &budget, Some(&memory));
    let tick = Tick { before: Watermark::NONE, watermark: Watermark(0), now: EventTime(0) };
    for step in 0..20 {
        // 1,000 keys in all, each with two rows of state.
        let made: Vec<_> = (step * 50..step * 50 + 50).map(|n| [Some(n), Some(1_000_000), Some(n)]).collect();
        cells.step(vec![vec![batch(INPUT, &made)]], tick).unwrap();
        cells.changes().unwrap();
        assert!(budget.used() <= budget.limit(), "step {step}: {} of {}", budget.used(), budget.limit());
        assert_eq!(budget.pressure(), None);
    }
    let usage = cells.usage();
    assert_eq!((usage.rows, usage.oldest), (2_000, Some(EventTime(1_000_000))));
    assert!(cells.resident() < 4, "{}", cells.resident());
    // Nothing is due, so nothing is loaded.
    let resident = cells.resident();
    let idle = cells
        .step(vec![Vec::new()], Tick { before: Watermark(0), watermark: Watermark(999_999), now: EventTime(0) })
        .unwrap();
    assert_eq!((sorted(&idle.rows), cells.resident()), (Vec::new(), resident));
    // Everything is due.
    let end = Tick { before: Watermark(999_999), watermark: Watermark::END, now: EventTime(0) };
    assert_eq!(sorted(&cells.step(vec![Vec::new()], end).unwrap().rows).len(), 1_000);
}

#[test]
fn a_key_changed_again_and_again_within_an_epoch_is_handed_out_once() {
    let mut cells = cells(0, 1, &MemoryBudget::new(1), Some(&memory));
    let tick = Tick { before: Watermark::NONE, watermark: Watermark::NONE, now: EventTime(0) };
    for round in 0..13 {
        let made: Vec<_> = (0..40).map(|key| [Some(key), Some(5), Some(round * 40 + key)]).collect();
        cells.step(vec![vec![batch(INPUT, &made)]], tick).unwrap();
    }
    let changes = cells.changes().unwrap();
    let counts = changes.iter().find(|change| change.table == 0).unwrap();
    let schema = columns(COUNTS);
    let counts = concat_batches(&schema, &counts.upserts).unwrap();
    assert_eq!(sorted(&[counts]), (0..40).map(|key| [Some(key), Some(3), Some(5)]).collect::<Vec<_>>());
}

#[test]
fn without_a_disk_the_budget_is_told_why_and_nothing_else_changes() {
    let budget = MemoryBudget::new(ROW_BYTES * 10);
    let mut cells = cells(0, 1, &budget, None);
    let mut plain = Counter::default();
    let tick = Tick { before: Watermark::NONE, watermark: Watermark(3), now: EventTime(0) };
    let made: Vec<_> = (0..100).map(|n| [Some(n % 30), Some(n % 7), Some(n)]).collect();
    let input = vec![vec![batch(INPUT, &made)]];
    let stepped = cells.step(input.clone(), tick).unwrap();
    assert_eq!(sorted(&stepped.rows), sorted(&plain.step(input, tick).unwrap().rows));
    let pressure = budget.pressure().unwrap();
    assert!(pressure.reason.contains("no folder for spilling"), "{pressure:?}");
    assert_eq!(cells.resident(), 1);
    drop(cells);
    assert_eq!(budget.pressure(), None);
}

#[test]
fn rows_of_another_shard_are_a_defect() {
    let mut cells = cells(0, 2, &MemoryBudget::new(1_000_000), Some(&memory));
    let made: Vec<_> = (0..100).map(|n| [Some(n), Some(1), Some(n)]).collect();
    let tick = Tick { before: Watermark::NONE, watermark: Watermark(3), now: EventTime(0) };
    assert!(cells.step(vec![vec![batch(INPUT, &made)]], tick).is_err());
}

#[test]
fn a_snapshot_with_a_table_that_the_operator_lacks_is_refused() {
    let mut durable = Durable::new();
    let other = StateTable { name: "other", ..Counter::default().state().remove(0) };
    let rows = batch(COUNTS, &[[Some(1), Some(1), Some(1)]]);
    durable.write(&[other], vec![vec![StateChange { upserts: vec![rows], ..no_change(0) }]]);
    let mut counter = Counter::default();
    let restored = block_on(restore(&mut counter, &durable.store, &durable.snapshot, (0, 1), Watermark(0)));
    assert_eq!(restored.expect_err("a foreign table").message(), "operator `counter` has no state table `other`");
}

#[tokio::test]
async fn cold_state_comes_back_within_a_task_whose_turns_are_used_up() {
    use tokio::task::coop::{consume_budget, has_budget_remaining};
    while has_budget_remaining() {
        consume_budget().await;
    }
    assert_eq!(wait(tokio::task::spawn_blocking(|| 7)).unwrap(), 7);
}

/// A disk that is full while `full` is set.
fn filling(full: &Arc<AtomicBool>) -> SpillStore {
    let full = Arc::clone(full);
    let store = FaultyStore::new(Arc::new(InMemory::new()), move |operation| match operation {
        Operation::Put(_) | Operation::Upload(_) if full.load(Ordering::Relaxed) => Fault::Error,
        _ => Fault::None,
    });
    StateStore::new(Arc::new(store), Env::manual(0, 3)).into()
}

#[test]
fn a_disk_that_fills_up_costs_memory_and_nothing_else() {
    for seed in 0..60 {
        let mut run = Run { rng: StdRng::seed_from_u64(seed), watermark: Watermark::NONE, next_id: 0 };
        let budget = MemoryBudget::new(ROW_BYTES * 20);
        let full = Arc::new(AtomicBool::new(seed % 3 == 0));
        let disk = {
            let full = Arc::clone(&full);
            move || filling(&full)
        };
        let mut cells = cells(0, 1, &budget, Some(&disk));
        let mut plain = Counter::default();
        let (mut expected, mut image, mut durable) = (Image::default(), Image::default(), Durable::new());
        let (mut refused, mut spilled) = (0, 0);
        for step in 0..40 {
            if run.rng.random_bool(0.15) {
                full.store(run.rng.random_bool(0.5), Ordering::Relaxed);
            }
            let (input, tick) = (run.input(), run.tick());
            let want = plain.step(vec![input.clone()], tick).unwrap();
            let got = cells.step(vec![input], tick).unwrap();
            assert_eq!(sorted(&got.rows), sorted(&want.rows), "seed {seed}, step {step}");
            spilled += cells.cells.len() - cells.resident();
            if run.rng.random_bool(0.4) {
                expected.apply(plain.changes().unwrap());
                let changes = cells.changes().unwrap();
                image.apply(changes.clone());
                assert_eq!(image, expected, "seed {seed}, step {step}");
                durable.write(&plain.state(), vec![changes]);
                let unwritten = cells.disk.as_ref().is_some_and(|disk| !disk.unwritten.is_empty());
                assert!(!unwritten || full.load(Ordering::Relaxed), "seed {seed}: not offered again");
                refused += usize::from(unwritten);
                if run.rng.random_bool(0.2) {
                    drop(cells);
                    cells = durable.restore(1, &budget, &disk, run.watermark).remove(0);
                }
            }
        }
        assert!(spilled > 0 && (refused > 0 || seed % 3 > 0), "seed {seed}: {spilled} {refused}");
    }
}

#[test]
fn the_budget_is_told_that_the_disk_is_full_until_it_is_not() {
    let (budget, full) = (MemoryBudget::new(ROW_BYTES * 10), Arc::new(AtomicBool::new(true)));
    let disk = {
        let full = Arc::clone(&full);
        move || filling(&full)
    };
    let mut cells = cells(0, 1, &budget, Some(&disk));
    let tick = Tick { before: Watermark::NONE, watermark: Watermark(0), now: EventTime(0) };
    for step in 0..3 {
        let made: Vec<_> = (step * 200..step * 200 + 200).map(|n| [Some(n), Some(1_000_000), Some(n)]).collect();
        cells.step(vec![vec![batch(INPUT, &made)]], tick).unwrap();
        cells.changes().unwrap();
    }
    cells.step(vec![Vec::new()], tick).unwrap();
    let pressure = budget.pressure().unwrap();
    assert!(pressure.reason.contains("the spill folder cannot be written (injected fault)"), "{pressure:?}");
    full.store(false, Ordering::Relaxed);
    cells.changes().unwrap();
    cells.step(vec![Vec::new()], tick).unwrap();
    assert_eq!(budget.pressure(), None, "{} of {}", budget.used(), budget.limit());
}
