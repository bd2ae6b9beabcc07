//! Files stay few, rewriting stays cheap, and only unneeded files are removed.

use futures::TryStreamExt;

use super::*;
use crate::state::compaction::{choose, parts};
use crate::state::snapshot::TableSnapshot;
use crate::state::{Epoch, KEY_GROUPS, StateFile};
use crate::time::{EventTime, Watermark};

fn file(bytes: u64, number: u64) -> StateFile {
    let times = Some((EventTime(number as i64), EventTime(number as i64)));
    let path = number.to_string();
    StateFile {
        path,
        epoch: Epoch(number),
        rows: bytes / 24,
        deletes: 0,
        bytes,
        footer: 100,
        checksum: String::new(),
        times,
    }
}

/// Runs the decision over invented sizes; `live` bounds the size of a merge into the oldest file. Returns the greatest
/// number of files, and the number of bytes rewritten per byte written.
fn simulate(base: u64, deltas: impl Iterator<Item = u64>, live: u64) -> (usize, f64) {
    let table = table(KeyKind::Narrow, false);
    let mut stored = TableSnapshot { name: "rows".into(), files: vec![file(base, 0)], cutoff: Watermark::NONE };
    let (mut most, mut written, mut rewritten) = (0, 0, 0);
    for (epoch, delta) in deltas.enumerate() {
        stored.files.push(file(delta, epoch as u64 + 1));
        written += delta;
        if let Some(range) = choose(&stored, &table) {
            let sum: u64 = stored.files[range.clone()].iter().map(|file| file.bytes).sum();
            let merged = if range.start == 0 { sum.min(live) } else { sum };
            stored.files.splice(range, [file(merged, epoch as u64 + 1)]);
            rewritten += merged;
        }
        most = most.max(stored.files.len());
    }
    (most, rewritten as f64 / written as f64)
}

#[test]
fn files_stay_few_and_rows_are_rewritten_a_logarithmic_number_of_times() {
    let day = 86_400;
    // A growing table; one of a gigabyte with some keys changed each second; tiny changes; changes of every size.
    let cases = [
        ("growing", simulate(1, (0..day).map(|_| 100_000), u64::MAX), 20, 14.0),
        ("steady", simulate(1 << 30, (0..day).map(|_| 200_000), 1 << 30), 20, 14.0),
        ("tiny", simulate(1 << 30, (0..day).map(|_| 2_000), 1 << 30), 20, 60.0),
        ("varied", simulate(1, (0..day).map(|n| 1_000 << (n * 7 % 13)), u64::MAX), 24, 14.0),
    ];
    for (name, (most, amplification), files, rewritten) in cases {
        assert!(most <= files, "{name}: {most} files");
        assert!(amplification <= rewritten, "{name}: every byte was rewritten {amplification} times");
    }
}

#[test]
fn what_is_merged_at_a_time_is_bounded_in_rows_and_in_bytes() {
    let mib = 1 << 20;
    let narrow = StateFile { rows: 3_000_000, ..file(30 * mib, 1) };
    assert_eq!(parts(&[narrow.clone(), narrow]), 46);
    let wide = StateFile { rows: 200_000, ..file(400 * mib, 1) };
    assert_eq!(parts(std::slice::from_ref(&wide)), 101);
    assert_eq!(parts(&[wide.clone(), wide.clone(), wide]), usize::from(KEY_GROUPS));
    assert_eq!(parts(&[file(1_000, 1)]), 1);
}

#[tokio::test]
async fn a_thousand_tiny_epochs_leave_few_files_and_a_small_manifest() {
    let (objects, store) = in_memory();
    let table = table(KeyKind::Narrow, false);
    let tables = std::slice::from_ref(&table);
    let mut snapshot = OperatorSnapshot::empty("op");
    for epoch in 1..=1000 {
        let rows = upserts(&table, &numbered(epoch..epoch + 3));
        snapshot = store.write("op", Epoch(epoch as u64), tables, Some(&snapshot), only(rows)).await.unwrap();
        if let Some(compaction) = store.compact(&snapshot, tables, Epoch(epoch as u64 + 1)).await.unwrap() {
            snapshot = compaction.apply(&snapshot);
        }
        assert!(snapshot.tables[0].files.len() <= 10);
    }
    assert_eq!(sorted_rows(&store, &snapshot, &table, 1).await, numbered(1..1003));
    let manifest = serde_json::to_string(&snapshot).unwrap();
    assert!(manifest.len() < 4000, "{}", manifest.len());
    assert_eq!(serde_json::from_str::<OperatorSnapshot>(&manifest).unwrap(), snapshot);
    store.remove_unneeded(&[&snapshot], Epoch(1001)).await.unwrap();
    let left: Vec<_> = objects.list(None).try_collect().await.unwrap();
    assert_eq!(left.len(), snapshot.tables[0].files.len());
}

#[tokio::test]
async fn deleted_and_replaced_rows_leave_the_store() {
    let (_, store) = in_memory();
    let table = table(KeyKind::Wide, false);
    let tables = std::slice::from_ref(&table);
    let mut snapshot =
        store.write("op", Epoch(1), tables, None, only(upserts(&table, &numbered(0..100)))).await.unwrap();
    for epoch in 2..9 {
        let gone = vec![vec![change(Vec::new(), vec![deletes(&table, &numbered(0..100))], Watermark::NONE)]];
        snapshot = store.write("op", Epoch(epoch), tables, Some(&snapshot), gone).await.unwrap();
    }
    let compaction = store.compact(&snapshot, tables, Epoch(9)).await.unwrap().unwrap();
    assert_eq!(compaction.apply(&snapshot).tables[0].files, Vec::new());
}

#[tokio::test]
async fn a_file_that_is_mostly_dead_is_rewritten_alone() {
    let (_, store) = in_memory();
    let table = table(KeyKind::Narrow, true);
    let tables = std::slice::from_ref(&table);
    let mut snapshot =
        store.write("op", Epoch(1), tables, None, only(upserts(&table, &numbered(0..20_000)))).await.unwrap();
    let later = |cutoff| vec![vec![change(Vec::new(), Vec::new(), cutoff)]];
    snapshot = store.write("op", Epoch(2), tables, Some(&snapshot), later(Watermark(9_000))).await.unwrap();
    assert!(store.compact(&snapshot, tables, Epoch(3)).await.unwrap().is_none());
    snapshot = store.write("op", Epoch(3), tables, Some(&snapshot), later(Watermark(12_000))).await.unwrap();
    let compaction = store.compact(&snapshot, tables, Epoch(4)).await.unwrap().unwrap();
    snapshot = compaction.apply(&snapshot);
    assert_eq!(snapshot.tables[0].files[0].rows, 8_000);
    assert!(store.compact(&snapshot, tables, Epoch(5)).await.unwrap().is_none());
    assert_eq!(sorted_rows(&store, &snapshot, &table, 1).await, numbered(12_000..20_000));
}

#[tokio::test]
async fn only_what_no_snapshot_can_need_is_removed() {
    let (objects, store) = in_memory();
    let table = table(KeyKind::Narrow, false);
    let tables = std::slice::from_ref(&table);
    let paths = |listed: Vec<object_store::ObjectMeta>| {
        let mut paths: Vec<_> = listed.into_iter().map(|object| object.location.to_string()).collect();
        paths.sort();
        paths
    };
    let mut snapshots = vec![OperatorSnapshot::empty("op")];
    for epoch in 1..=8 {
        let rows = only(upserts(&table, &numbered(0..10)));
        snapshots.push(store.write("op", Epoch(epoch), tables, snapshots.last(), rows).await.unwrap());
    }
    // The file of a process that died: no snapshot names it, and it was not written through this store.
    let other = StateStore::new(Arc::clone(&objects), Env::manual(0, 99));
    other.write("op", Epoch(8), tables, snapshots.get(7), only(upserts(&table, &numbered(3..4)))).await.unwrap();
    let compaction = store.compact(&snapshots[8], tables, Epoch(9)).await.unwrap().unwrap();
    let compacted = compaction.apply(&snapshots[8]);
    // While epoch 8 can be resumed from, its files stay; so does the merged file, which no manifest names yet; and so do
    // files that are not old.
    assert_eq!(store.remove_unneeded(&[&snapshots[8]], Epoch(8)).await.unwrap(), 0);
    assert_eq!(store.remove_unneeded(&[&snapshots[8]], Epoch(9)).await.unwrap(), 1);
    let merged = compacted.tables[0].files[0].path.clone();
    assert!(paths(objects.list(None).try_collect().await.unwrap()).contains(&merged));
    // Once a snapshot names it, the files it replaces are removed.
    assert_eq!(store.remove_unneeded(&[&compacted], Epoch(10)).await.unwrap(), 8);
    assert_eq!(paths(objects.list(None).try_collect().await.unwrap()), [merged]);
    store.verify(&compacted, tables).await.unwrap();
}

#[tokio::test]
async fn two_processes_never_write_under_one_name() {
    let (objects, store) = in_memory();
    let other = StateStore::new(objects, Env::manual(0, 8));
    let table = table(KeyKind::Narrow, false);
    let tables = std::slice::from_ref(&table);
    let rows = || only(upserts(&table, &numbered(0..10)));
    let a = store.write("op", Epoch(1), tables, None, rows()).await.unwrap();
    let b = other.write("op", Epoch(1), tables, None, rows()).await.unwrap();
    assert_ne!(a.tables[0].files[0].path, b.tables[0].files[0].path);
}

/// The engine polls these futures on any thread.
#[test]
fn what_the_store_does_can_move_between_threads() {
    fn sendable<T: Send>(_: T) {}
    let (_, store) = in_memory();
    let table = table(KeyKind::Narrow, false);
    let tables = std::slice::from_ref(&table);
    let snapshot = OperatorSnapshot::empty("op");
    sendable(store.write("op", Epoch(1), tables, None, Vec::new()));
    sendable(store.read(&snapshot, &table, 0, 1, |_| Ok(())));
    sendable(store.compact(&snapshot, tables, Epoch(1)));
    sendable(store.remove_unneeded(&[&snapshot], Epoch(1)));
}
