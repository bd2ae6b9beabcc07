//! Upserted tables against a map: whatever the epochs, restarts and other writers do, the table holds what the map holds.

use std::collections::BTreeMap;

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, StringArray};
use arrow::datatypes::{Float64Type, Int64Type};
use datafusion::prelude::{SessionConfig, SessionContext};
use deltalake::DeltaTable;
use deltalake::delta_datafusion::DeltaCdfTableProvider;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::commit::CommitRequest;
use super::super::store::TableStore;
use super::*;
use crate::catalog::{ColumnDef, ColumnOrigin, TableDef};
use crate::env::Env;
use crate::error::ErrorKind;
use crate::standing::{CommitPermit, Epoch, ManifestId};

mod odd;
mod retention;

type Row = (String, f64, String);

/// `id BIGINT NOT NULL, name STRING, v DOUBLE, day STRING`, keyed by id.
fn definition(properties: &[(&str, &str)], partitioned: bool) -> TableDef {
    let column = |name: &str, data_type, nullable| ColumnDef {
        name: name.to_owned(),
        data_type,
        nullable,
        origin: ColumnOrigin::Field(vec![name.to_owned()]),
        span: Default::default(),
    };
    TableDef {
        name: "t".to_owned(),
        columns: vec![
            column("id", arrow::datatypes::DataType::Int64, false),
            column("name", arrow::datatypes::DataType::Utf8, true),
            column("v", arrow::datatypes::DataType::Float64, true),
            column("day", arrow::datatypes::DataType::Utf8, true),
        ],
        partitioned_by: if partitioned { vec!["day".to_owned()] } else { Vec::new() },
        location: None,
        properties: properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        storage: BTreeMap::new(),
        primary_key: vec!["id".to_owned()],
        checks: Vec::new(),
        span: Default::default(),
    }
}

const COPY: (&str, &str) = ("delta.enableDeletionVectors", "false");
const FEED: (&str, &str) = ("delta.enableChangeDataFeed", "true");

fn batch(rows: &[(i64, Row)]) -> RecordBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0)))),
        ("name", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.1.0)))),
        ("v", Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.1.1)))),
        ("day", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.1.2)))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn given(rows: &[(i64, Row)]) -> UpsertRows {
    UpsertRows { rows: batch(rows), weights: None }
}

fn weighted(rows: &[(i64, Row, i64)]) -> UpsertRows {
    let plain: Vec<(i64, Row)> = rows.iter().map(|(id, row, _)| (*id, row.clone())).collect();
    let weights = Int64Array::from_iter_values(rows.iter().map(|row| row.2));
    UpsertRows { rows: batch(&plain), weights: Some(weights) }
}

fn row(name: &str, v: f64) -> Row {
    (name.to_owned(), v, "d0".to_owned())
}

struct World {
    env: Env,
    def: TableDef,
    table: Table,
    upsert: UpsertTable,
    epoch: i64,
    target: u64,
}

impl World {
    async fn new(def: TableDef, seed: u64, target: u64) -> Self {
        let env = Env::manual(1_000, seed);
        let (table, upsert) = Self::open(&env, &def, target).await;
        Self { env, def, table, upsert, epoch: 0, target }
    }

    async fn open(env: &Env, def: &TableDef, target: u64) -> (Table, UpsertTable) {
        let store = TableStore::open("memory://w/t", &BTreeMap::new(), env).unwrap();
        let table = Table::open_or_create(store, def).await.unwrap();
        let options = WriterOptions { target_file_size: target, ..WriterOptions::default() };
        // Half of the time the index goes to disk at once.
        let room = IndexRoom { bytes: 0, folder: std::env::temp_dir() };
        let room = env.random_u64().is_multiple_of(2).then_some(room);
        let upsert = UpsertTable::new(table.clone(), &def.primary_key, &options, room).unwrap();
        (table, upsert)
    }

    /// As after a crash: nothing is known but what the store holds.
    async fn restart(&mut self) {
        (self.table, self.upsert) = Self::open(&self.env, &self.def, self.target).await;
    }

    fn request(&self, staged: StagedFiles) -> CommitRequest {
        let permit = CommitPermit::of_durable(Epoch(self.epoch as u64), ManifestId(self.epoch));
        CommitRequest::new(permit, "p", Vec::new(), staged, serde_json::Map::new())
    }

    /// Commits as the epoch protocol does; returns how often the epoch had to be staged anew.
    async fn commit(&mut self, staged: StagedFiles) -> usize {
        let first = staged.clone();
        let mut request = self.request(staged);
        for again in 0..10 {
            let outcome = self.table.commit(request.clone()).await.unwrap();
            self.upsert.committed(outcome).await;
            let CommitOutcome::Overtaken { .. } = outcome else { return again };
            let commit = first.upsert.as_ref().unwrap();
            request = self.request(self.upsert.restage(commit, &first.adds).await.unwrap());
        }
        panic!("overtaken again and again");
    }

    async fn epoch(&mut self, rows: Vec<UpsertRows>) -> StagedFiles {
        self.epoch += 1;
        let staged = self.upsert.stage(rows).await.unwrap();
        self.commit(staged.clone()).await;
        staged
    }

    async fn query(&self, sql: &str) -> Vec<RecordBatch> {
        let config = SessionConfig::new().set_bool("datafusion.sql_parser.map_string_types_to_utf8view", false);
        let context = SessionContext::new_with_config(config);
        context.register_table("t", self.table.provider(None).await.unwrap()).unwrap();
        context.sql(sql).await.unwrap().collect().await.unwrap()
    }

    async fn rows(&self) -> BTreeMap<i64, Row> {
        let mut found = BTreeMap::new();
        for batch in self.query("SELECT id, name, v, day FROM t").await {
            let ids = batch.column(0).as_primitive::<Int64Type>();
            let (names, days) = (batch.column(1).as_string::<i32>(), batch.column(3).as_string::<i32>());
            let values = batch.column(2).as_primitive::<Float64Type>();
            for at in 0..batch.num_rows() {
                let row = (names.value(at).to_owned(), values.value(at), days.value(at).to_owned());
                assert_eq!(found.insert(ids.value(at), row), None, "key {} twice", ids.value(at));
            }
        }
        let counted = self.query("SELECT count(*) FROM t").await;
        assert_eq!(counted[0].column(0).as_primitive::<Int64Type>().value(0), found.len() as i64);
        found
    }

    /// The table as another writer opens it.
    async fn foreign(&self) -> DeltaTable {
        let mut table = DeltaTable::new(self.table.store().log_store());
        table.load().await.unwrap();
        table
    }
}

/// Rows for an epoch, and what they make of the map.
fn random_epoch(random: &mut StdRng, map: &mut BTreeMap<i64, Row>, keys: i64, serial: &mut u64) -> Vec<UpsertRows> {
    let mut batches = Vec::new();
    for _ in 0..random.random_range(0..4) {
        let mut rows = Vec::new();
        let retracts = random.random_bool(0.5);
        // One step gives or takes back each key once, in any order.
        let mut touched: Vec<i64> = (0..random.random_range(0..25)).map(|_| random.random_range(0..keys)).collect();
        if retracts {
            touched.sort_unstable();
            touched.dedup();
        }
        for id in touched {
            *serial += 1;
            let old = map.get(&id).cloned();
            if let (true, Some(old)) = (retracts, old.clone()) {
                rows.push((id, old, -1));
                map.remove(&id);
                if random.random_bool(0.4) {
                    continue;
                }
            }
            let new = (format!("n{serial}"), *serial as f64, format!("d{}", random.random_range(0..3)));
            rows.push((id, new.clone(), 1));
            map.insert(id, new);
        }
        if retracts {
            for at in (1..rows.len()).rev() {
                rows.swap(at, random.random_range(0..=at));
            }
            batches.push(weighted(&rows));
        } else {
            batches.push(given(&rows.into_iter().map(|(id, row, _)| (id, row)).collect::<Vec<_>>()));
        }
    }
    batches
}

#[tokio::test]
async fn random_epochs_and_restarts_leave_what_a_map_holds() {
    for seed in 0..12_u64 {
        let mut random = StdRng::seed_from_u64(seed);
        let properties: &[(&str, &str)] = if seed % 2 == 0 { &[] } else { &[COPY] };
        let target = [1 << 20, 3_000][(seed / 2 % 2) as usize];
        let mut world = World::new(definition(properties, seed / 4 % 2 == 1), seed, target).await;
        let (mut map, mut serial) = (BTreeMap::new(), 0);
        for epoch in 0..30 {
            let rows = random_epoch(&mut random, &mut map, 120, &mut serial);
            world.epoch(rows).await;
            if random.random_bool(0.15) {
                world.restart().await;
            }
            if epoch % 5 == 4 {
                assert_eq!(world.rows().await, map, "seed {seed}, epoch {epoch}");
            }
        }
        assert_eq!(world.rows().await, map, "seed {seed}");
        world.upsert.load().await.unwrap();
        assert_eq!(world.upsert.usage().await.keys, map.len() as u64, "seed {seed}");
    }
}

#[tokio::test]
async fn what_others_delete_compact_and_append_between_epochs_and_within_is_followed() {
    for seed in 0..8_u64 {
        let mut random = StdRng::seed_from_u64(100 + seed);
        let properties: &[(&str, &str)] = if seed % 2 == 0 { &[] } else { &[COPY] };
        let mut world = World::new(definition(properties, seed % 4 > 1), seed, 1 << 20).await;
        let (mut map, mut serial, mut overtaken) = (BTreeMap::new(), 0, 0);
        for epoch in 0..20 {
            // The other writer comes between staging and commit or before both; what it does happens first either way.
            let late = random.random_bool(0.5);
            let act = random.random_range(0..4);
            let before = map.clone();
            if !late {
                foreign_act(&world, act, epoch, &mut map).await;
            }
            let rows = random_epoch(&mut random, &mut map, 60, &mut serial);
            world.epoch += 1;
            let staged = world.upsert.stage(rows.clone()).await.unwrap();
            if late {
                let mut theirs = before;
                foreign_act(&world, act, epoch, &mut theirs).await;
                map = theirs;
                replay(&rows, &mut map);
            }
            if random.random_bool(0.1) && staged.upsert.is_some() {
                // Died between manifest and commit: the manifest is all that is left.
                world.restart().await;
            }
            overtaken += world.commit(staged).await;
            assert_eq!(world.rows().await, map, "seed {seed}, epoch {epoch}, act {act}, late {late}");
        }
        assert!(overtaken > 0, "seed {seed}: no commit was overtaken");
    }
}

/// Deletes, compacts, appends or does nothing, with delta-rs's own operations.
async fn foreign_act(world: &World, act: u32, epoch: i64, map: &mut BTreeMap<i64, Row>) {
    let table = world.foreign().await;
    match act {
        0 => {
            let deleting = table.delete().with_predicate(format!("id % 7 = {}", epoch % 7));
            deleting.await.unwrap();
            map.retain(|id, _| id % 7 != epoch % 7);
        }
        1 => drop(table.optimize().await.unwrap()),
        2 => {
            let row = (1_000 + epoch, row("theirs", 0.5));
            table.write([batch(std::slice::from_ref(&row))]).await.unwrap();
            map.insert(row.0, row.1);
        }
        _ => {}
    }
}

/// The map that rows make, computed otherwise than they are consolidated: by key, last given wins, taken back without being
/// replaced goes.
fn replay(batches: &[UpsertRows], map: &mut BTreeMap<i64, Row>) {
    for UpsertRows { rows, weights } in batches {
        let ids = rows.column(0).as_primitive::<Int64Type>();
        let (names, days) = (rows.column(1).as_string::<i32>(), rows.column(3).as_string::<i32>());
        let values = rows.column(2).as_primitive::<Float64Type>();
        let weight = |at: usize| weights.as_ref().map_or(1, |weights| weights.value(at));
        for at in (0..rows.num_rows()).filter(|at| weight(*at) < 0) {
            map.remove(&ids.value(at));
        }
        for at in (0..rows.num_rows()).filter(|at| weight(*at) > 0) {
            map.insert(ids.value(at), (names.value(at).to_owned(), values.value(at), days.value(at).to_owned()));
        }
    }
}

#[tokio::test]
async fn the_same_manifest_is_replayed_once() {
    let mut world = World::new(definition(&[], false), 1, 1 << 20).await;
    world.epoch(vec![given(&[(1, row("a", 1.0)), (2, row("b", 2.0))])]).await;
    world.epoch += 1;
    let staged = world.upsert.stage(vec![given(&[(2, row("c", 3.0)), (3, row("d", 4.0))])]).await.unwrap();
    // Through the manifest's text, as recovery reads it.
    let text = serde_json::to_string(&staged).unwrap();
    world.restart().await;
    let staged: StagedFiles = serde_json::from_str(&text).unwrap();
    assert_eq!(world.commit(staged.clone()).await, 0);
    let version = world.table.version().await;
    world.restart().await;
    assert_eq!(world.commit(staged).await, 0);
    assert_eq!(world.foreign().await.version(), Some(version), "the second replay commits nothing");
    let expected = [(1, row("a", 1.0)), (2, row("c", 3.0)), (3, row("d", 4.0))];
    assert_eq!(world.rows().await, expected.into());
}

#[tokio::test]
async fn another_run_of_the_pipeline_fences_an_upsert() {
    let mut world = World::new(definition(&[], false), 1, 1 << 20).await;
    world.epoch(vec![given(&[(1, row("a", 1.0))])]).await;
    let (theirs, their_upsert) = World::open(&world.env, &world.def, world.target).await;
    world.epoch += 1;
    let staged = world.upsert.stage(vec![given(&[(1, row("ours", 2.0))])]).await.unwrap();
    let other = their_upsert.stage(vec![given(&[(1, row("theirs", 3.0))])]).await.unwrap();
    let mut request = world.request(other);
    request.app.manifest_id = 99;
    theirs.commit(request).await.unwrap();
    let error = world.table.commit(world.request(staged)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    assert_eq!(world.rows().await, [(1, row("theirs", 3.0))].into());
}

#[tokio::test]
async fn an_epoch_leaves_files_alone_that_hold_none_of_its_keys() {
    for properties in [&[][..], &[COPY]] {
        let mut world = World::new(definition(properties, false), 1, 1 << 20).await;
        for tens in 0..5 {
            let rows: Vec<_> = (0..10).map(|id| (tens * 10 + id, row("first", 0.0))).collect();
            world.epoch(vec![given(&rows)]).await;
        }
        let staged = world.epoch(vec![given(&[(23, row("second", 1.0))])]).await;
        assert_eq!(staged.removes.len(), 1, "{properties:?}");
        assert_eq!((staged.rows, staged.upsert.as_ref().unwrap().rows_updated), (1, 1));
        assert_eq!(world.upsert.usage().await.keys, 50);
    }
}

#[tokio::test]
async fn deletes_of_unknown_keys_and_rows_that_came_and_went_commit_nothing() {
    let mut world = World::new(definition(&[], false), 1, 1 << 20).await;
    let staged =
        world.epoch(vec![weighted(&[(1, row("a", 1.0), -1), (2, row("b", 1.0), 1), (2, row("b", 1.0), -1)])]).await;
    assert!(staged.is_empty() && staged.upsert.is_none());
}

#[tokio::test]
async fn the_change_feed_tells_every_change_as_the_map_saw_it() {
    for (seed, properties) in [(1, &[FEED][..]), (2, &[FEED, COPY])] {
        let mut random = StdRng::seed_from_u64(seed);
        let mut world = World::new(definition(properties, seed == 2), seed, 1 << 20).await;
        let (mut map, mut serial) = (BTreeMap::new(), 0);
        let mut expected: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..15 {
            let before = map.clone();
            let rows = random_epoch(&mut random, &mut map, 40, &mut serial);
            world.epoch(rows).await;
            for id in before.keys().chain(map.keys()).collect::<std::collections::BTreeSet<_>>() {
                let kinds: &[&str] = match (before.get(id), map.get(id)) {
                    (None, _) => &["insert"],
                    (_, None) => &["delete"],
                    (old, new) if old == new => &[],
                    _ => &["update_preimage", "update_postimage"],
                };
                kinds.iter().for_each(|kind| *expected.entry((*kind).to_owned()).or_default() += 1);
            }
        }
        let context = SessionContext::new();
        let feed = world.foreign().await.scan_cdf().with_starting_version(0);
        context.register_table("feed", Arc::new(DeltaCdfTableProvider::try_new(feed).unwrap())).unwrap();
        let sql = "SELECT _change_type, count(*) AS n FROM feed GROUP BY 1 ORDER BY 1";
        let mut found = BTreeMap::new();
        for batch in context.sql(sql).await.unwrap().collect().await.unwrap() {
            let kinds = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8).unwrap();
            for (kind, count) in kinds.as_string::<i32>().iter().zip(batch.column(1).as_primitive::<Int64Type>()) {
                found.insert(kind.unwrap().to_owned(), count.unwrap() as usize);
            }
        }
        assert_eq!(found, expected, "seed {seed}");
        // Adding what was given and subtracting what was taken back leaves the table.
        let sql = "SELECT sum(CASE WHEN _change_type IN ('insert', 'update_postimage') THEN v ELSE -v END) FROM feed";
        let sum = context.sql(sql).await.unwrap().collect().await.unwrap();
        let sum = sum[0].column(0).as_primitive::<Float64Type>().value(0);
        assert_eq!(sum, map.values().map(|row| row.1).sum::<f64>(), "seed {seed}");
    }
}

#[tokio::test]
async fn files_and_memory_stay_flat_over_a_thousand_epochs() {
    let mut world = World::new(definition(&[], false), 7, 64 << 10).await;
    let mut random = StdRng::seed_from_u64(7);
    let (mut most_files, mut staged_late) = (0, 0);
    let mut half = UpsertUsage::default();
    for epoch in 0..1_000_u64 {
        let rows: Vec<_> = (0..20).map(|_| (random.random_range(0..2_000), row("x", epoch as f64))).collect();
        let staged = world.epoch(vec![given(&rows)]).await;
        let usage = world.upsert.usage().await;
        most_files = most_files.max(usage.files);
        if epoch == 499 {
            half = usage;
        }
        if epoch >= 500 {
            staged_late += staged.bytes;
        }
    }
    let end = world.upsert.usage().await;
    assert_eq!(world.rows().await.len() as u64, end.keys);
    assert!(most_files <= 40, "{most_files} files at once");
    assert!(end.bytes < half.bytes * 3 / 2, "{} bytes at half time, {} at the end", half.bytes, end.bytes);
    // Some twenty times the size of what changed, not of the table (500 epochs of 2,000 rows would be a million).
    assert!(staged_late < 500 * 40_000, "{staged_late} bytes staged in the second half");
}

#[tokio::test]
async fn a_key_that_is_there_twice_is_damage_with_its_value() {
    let mut world = World::new(definition(&[], false), 1, 1 << 20).await;
    world.epoch(vec![given(&[(1, row("a", 1.0)), (42, row("b", 1.0))])]).await;
    world.foreign().await.write([batch(&[(42, row("again", 2.0))])]).await.unwrap();
    let error = world.upsert.stage(vec![given(&[(3, row("c", 1.0))])]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert_eq!(error.message(), "table `t` has two rows with the same primary key");
    assert!(error.detail().unwrap().contains("(42)"), "{:?}", error.detail());
}

#[tokio::test]
async fn an_append_only_table_is_not_upserted() {
    let mut def = definition(&[("delta.appendOnly", "true"), COPY], false);
    def.primary_key.clear();
    let env = Env::manual(0, 1);
    let store = TableStore::open("memory://w/t", &BTreeMap::new(), &env).unwrap();
    let table = Table::open_or_create(store, &def).await.unwrap();
    let error = UpsertTable::new(table, &["id".to_owned()], &WriterOptions::default(), None).unwrap_err();
    assert_eq!(error.message(), "table `t` is append-only and cannot be upserted");
}
