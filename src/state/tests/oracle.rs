//! Random changes, written by any number of shards, compacted at any time and read by any number of shards, against a map.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::state::{Compaction, Epoch, shard_of, usage};
use crate::time::{EventTime, Watermark};

/// The key of a row; fields that the kind lacks are `None`.
type Key = (Option<i64>, Option<i16>, Option<String>);

fn key_of(kind: KeyKind, row: &Row) -> Key {
    match kind {
        KeyKind::Narrow => (row.0, None, None),
        KeyKind::Medium => (row.0, row.1, None),
        KeyKind::Wide => (row.0, None, row.2.clone()),
    }
}

struct Case {
    kind: KeyKind,
    append_only: bool,
    rng: StdRng,
    live: BTreeMap<Key, Row>,
    used: BTreeSet<Key>,
    cutoff: Watermark,
    clock: i64,
}

impl Case {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let kind = [KeyKind::Narrow, KeyKind::Medium, KeyKind::Wide][rng.random_range(0..3)];
        let append_only = rng.random_bool(0.25);
        Self { kind, append_only, rng, live: BTreeMap::new(), used: BTreeSet::new(), cutoff: Watermark::NONE, clock: 0 }
    }

    fn row(&mut self) -> Row {
        let rng = &mut self.rng;
        let spread = if self.append_only { 1_000_000_000 } else { 300 };
        let null = self.kind != KeyKind::Narrow && rng.random_bool(0.05);
        let number = (!null).then(|| [i64::MIN, -1, 0, i64::MAX][rng.random_range(0..4)] ^ rng.random_range(0..spread));
        let part = rng.random_bool(0.8).then(|| rng.random_range(-1..2));
        let text = rng.random_bool(0.8).then(|| "abc"[..rng.random_range(0..4)].to_owned());
        let at = rng.random_bool(0.95).then(|| self.clock + rng.random_range(0..50));
        (number, part, text, at, rng.random())
    }

    /// The changes of an epoch, divided among `shards`.
    fn changes(&mut self, table: &StateTable, shards: usize) -> Vec<Vec<StateChange>> {
        let most = [0, 3, 40, 400][self.rng.random_range(0..4)];
        let (mut up, mut down) = (BTreeMap::new(), BTreeMap::new());
        for _ in 0..self.rng.random_range(0..=most) {
            let row = self.row();
            let key = key_of(self.kind, &row);
            if self.append_only && !self.used.insert(key.clone()) {
                continue;
            }
            if !self.append_only && self.rng.random_bool(0.3) {
                up.remove(&key);
                down.insert(key, row);
            } else {
                down.remove(&key);
                up.insert(key, row);
            }
        }
        self.clock += self.rng.random_range(0..20);
        if self.rng.random_bool(0.3) {
            self.cutoff = self.cutoff.max(Watermark(self.clock - 60));
        }
        down.keys().for_each(|key| drop(self.live.remove(key)));
        self.live.extend(up.clone());
        let cutoff = self.cutoff;
        self.live.retain(|_, row| row.3.is_none_or(|at| !EventTime(at).is_below(cutoff)));
        let mut all: Vec<_> = (0..shards).map(|_| (Vec::new(), Vec::new())).collect();
        let shard = |row: &Row| shard_of(table.groups(&upserts(table, std::slice::from_ref(row))).unwrap()[0], shards);
        up.into_values().for_each(|row| all[shard(&row)].0.push(row));
        down.into_values().for_each(|row| all[shard(&row)].1.push(row));
        let of_shard = |(up, down): (Vec<Row>, Vec<Row>)| {
            let middle = up.len() / 2;
            let batches = vec![upserts(table, &up[..middle]), upserts(table, &up[middle..])];
            vec![change(batches, vec![deletes(table, &down)], cutoff)]
        };
        all.into_iter().map(of_shard).collect()
    }
}

async fn check(seed: u64, store: &StateStore) {
    let mut case = Case::new(seed);
    let table = table(case.kind, case.append_only);
    let tables = std::slice::from_ref(&table);
    let mut snapshot: Option<OperatorSnapshot> = None;
    let mut waiting: Option<Compaction> = None;
    for epoch in 1..=case.rng.random_range(2..30) {
        let shards = [1, 2, 3, 7][case.rng.random_range(0..4)];
        let changes = case.changes(&table, shards);
        let mut written = store.write("op", Epoch(epoch), tables, snapshot.as_ref(), changes).await.unwrap();
        if let Some(compaction) = waiting.take_if(|_| case.rng.random_bool(0.5)) {
            written = compaction.apply(&written);
        } else if waiting.is_none() && case.rng.random_bool(0.7) {
            waiting = store.compact(&written, tables, Epoch(epoch + 1)).await.unwrap();
        }
        if case.rng.random_bool(0.2) {
            store.remove_unneeded(&[&written], Epoch(epoch + 1)).await.unwrap();
        }
        if case.rng.random_bool(0.3) {
            let mut expected: Vec<_> = case.live.values().cloned().collect();
            expected.sort();
            let shards = [1, 2, 3, 7, 200][case.rng.random_range(0..5)];
            let found = sorted_rows(store, &written, &table, shards).await;
            assert_eq!(found, expected, "seed {seed}, epoch {epoch}, {:?}, {shards} shards", case.kind);
        }
        store.verify(&written, tables).await.unwrap();
        let used = &usage(&written)[0];
        assert!(used.rows as usize >= case.live.len(), "seed {seed}: {used:?}");
        snapshot = Some(written);
    }
}

#[tokio::test]
async fn rows_read_back_are_the_newest_live_ones_however_they_were_sharded_and_compacted() {
    for seed in 0..150 {
        let (_, store) = in_memory();
        check(seed, &store).await;
    }
}

#[tokio::test]
async fn local_files_hold_the_same_as_memory() {
    for seed in 1000..1010 {
        let folder = tempfile::tempdir().unwrap();
        let files = Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap());
        check(seed, &StateStore::new(files, Env::manual(0, seed))).await;
    }
}

/// Large enough for several blocks per key group, several fetches and an upload in parts; then one row in a hundred changed.
#[tokio::test]
async fn large_tables_are_cut_and_uploaded_in_parts_and_read_back_whole() {
    let (objects, store) = in_memory();
    let table = table(KeyKind::Narrow, false);
    let tables = std::slice::from_ref(&table);
    let all = numbered(0..1_200_000);
    let parts = all.chunks(500_000).map(|rows| upserts(&table, rows)).collect();
    let first = vec![vec![change(parts, Vec::new(), Watermark::NONE)]];
    let full = store.write("op", Epoch(1), tables, None, first).await.unwrap();
    assert!(full.tables[0].files[0].bytes > 16 << 20, "{full:?}");
    let (mut up, mut down) = (Vec::new(), Vec::new());
    for row in all.iter().step_by(100) {
        if row.0.unwrap() % 200 == 0 { down.push(row.clone()) } else { up.push((row.0, row.1, None, row.3, -1)) }
    }
    let second = vec![vec![change(vec![upserts(&table, &up)], vec![deletes(&table, &down)], Watermark::NONE)]];
    let changed = store.write("op", Epoch(2), tables, Some(&full), second).await.unwrap();
    for shards in [1, 3] {
        let (mut rows, mut sum, mut changes) = (0, 0_i64, 0);
        for batch in read_all(&store, &changed, &table, shards).await.unwrap() {
            rows += batch.num_rows();
            sum += batch.column(0).as_primitive::<Int64Type>().values().iter().sum::<i64>();
            changes += batch.column(3).as_primitive::<Int64Type>().values().iter().filter(|v| **v == -1).count();
        }
        let removed: i64 = down.iter().map(|row| row.0.unwrap()).sum();
        assert_eq!((rows, changes), (all.len() - down.len(), up.len()));
        assert_eq!(sum, (0..1_200_000).sum::<i64>() - removed);
    }
    drop(objects);
}

#[tokio::test]
async fn an_epoch_without_changes_writes_nothing() {
    let (objects, store) = in_memory();
    let table = table(KeyKind::Wide, false);
    let tables = std::slice::from_ref(&table);
    let snapshot = store.write("op", Epoch(1), tables, None, only(upserts(&table, &numbered(0..5)))).await.unwrap();
    let nothing = vec![vec![change(vec![upserts(&table, &[])], vec![deletes(&table, &[])], Watermark::NONE)], vec![]];
    let same = store.write("op", Epoch(2), tables, Some(&snapshot), nothing).await.unwrap();
    assert_eq!(same, snapshot);
    let listed: Vec<_> = futures::TryStreamExt::try_collect(objects.list(None)).await.unwrap();
    assert_eq!(listed.len(), 1);
}

#[tokio::test]
async fn a_file_whose_rows_are_all_dead_leaves_the_snapshot_unread() {
    let (_, store) = in_memory();
    let table = table(KeyKind::Narrow, true);
    let tables = std::slice::from_ref(&table);
    let mut snapshot = None;
    for epoch in 0..10_u64 {
        let from = epoch as i64 * 10;
        let rows = upserts(&table, &numbered(from..from + 10));
        let changes = vec![vec![change(vec![rows], Vec::new(), Watermark(from - 15))]];
        snapshot = Some(store.write("op", Epoch(epoch + 1), tables, snapshot.as_ref(), changes).await.unwrap());
    }
    let snapshot = snapshot.unwrap();
    assert_eq!(snapshot.tables[0].files.len(), 3);
    assert_eq!(sorted_rows(&store, &snapshot, &table, 2).await, numbered(75..100));
}

#[tokio::test]
async fn dead_versions_go_on_hiding_older_ones() {
    let (_, store) = in_memory();
    let table = table(KeyKind::Narrow, false);
    let tables = std::slice::from_ref(&table);
    // Key 1 moves from time 100 to time 10, below the later cutoff: its older version must not reappear.
    let row = |number: i64, at: i64| (Some(number), None, None, Some(at), 0);
    let first = only(upserts(&table, &[row(1, 100), row(2, 100)]));
    let mut snapshot = store.write("op", Epoch(1), tables, None, first).await.unwrap();
    let second = only(upserts(&table, &[row(1, 10)]));
    snapshot = store.write("op", Epoch(2), tables, Some(&snapshot), second).await.unwrap();
    let third = vec![vec![change(Vec::new(), Vec::new(), Watermark(50))]];
    snapshot = store.write("op", Epoch(3), tables, Some(&snapshot), third).await.unwrap();
    assert_eq!(sorted_rows(&store, &snapshot, &table, 1).await, vec![row(2, 100)]);
}
