//! Partition values that paths must escape, in tables that others rewrite in their own spelling.

use std::sync::LazyLock;
use std::time::Duration;

use deltalake::kernel::DeletionVectorDescriptor;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde_json::json;

use super::super::super::actions::LogPath;
use super::super::super::listing;
use super::super::super::log::entry_path;
use super::*;

/// The integration tests have the same.
static ODD: LazyLock<Vec<String>> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../../../tests/data/odd_values.json")).unwrap());

fn odd(at: usize) -> String {
    let long = ["x".repeat(300), "ü".repeat(120)];
    ODD.get(at).cloned().unwrap_or_else(|| long[at - ODD.len()].clone())
}

fn odd_row(name: &str, v: f64, at: usize) -> Row {
    (name.to_owned(), v, odd(at))
}

/// Folder in which Spark 4 with Delta 4.0 puts a file of this partition, and its spelling in the log. Observed by running it.
fn spark_path(value: &str, file: &str) -> (Path, LogPath) {
    let mut folder = String::from("day=");
    for c in value.chars() {
        match c {
            '\0'..='\u{1f}'
            | '\u{7f}'
            | '"'
            | '#'
            | '%'
            | '\''
            | '*'
            | '/'
            | ':'
            | '='
            | '?'
            | '\\'
            | '{'
            | '['
            | ']'
            | '^' => {
                folder.push_str(&format!("%{:02X}", u32::from(c)));
            }
            _ => folder.push(c),
        }
    }
    if value.is_empty() {
        folder.push_str("__HIVE_DEFAULT_PARTITION__");
    }
    let mut spelled = String::new();
    for c in folder.chars() {
        match c {
            ' ' | '%' | '<' | '>' | '`' | '}' | '|' => spelled.push_str(&format!("%{:02X}", u32::from(c))),
            _ => spelled.push(c),
        }
    }
    (Path::parse(format!("{folder}/{file}")).unwrap(), LogPath::spelled(format!("{spelled}/{file}")))
}

#[test]
fn spark_spells_paths_as_it_was_seen_to() {
    for (value, folder) in [
        ("ü d", "day=ü%20d"),
        ("a%20b", "day=a%252520b"),
        ("~`!@$^*()[]{}|;<>?,", "day=~%60!@$%255E%252A()%255B%255D%257B%7D%7C;%3C%3E%253F,"),
        ("new\nline", "day=new%250Aline"),
        ("", "day=__HIVE_DEFAULT_PARTITION__"),
    ] {
        let (object, spelled) = spark_path(value, "f");
        assert_eq!(spelled.as_str(), format!("{folder}/f"));
        assert_eq!(spelled.object().unwrap(), object);
    }
}

/// Rewrites every file as Spark's OPTIMIZE would where there is nothing to gain: the same rows, in files of its own.
async fn rewrite_as_spark(world: &World, round: i64) {
    let (version, adds) = listing::active(&world.table).await.unwrap();
    let store = world.table.store().object_store();
    let mut lines = vec![json!({ "commitInfo": { "operation": "OPTIMIZE" } }).to_string()];
    for (at, add) in adds.into_iter().enumerate() {
        let value = add.partition_values["day"].clone().unwrap_or_default();
        // No file system that Spark writes to has names this long.
        if value.len() > 200 || value == "__HIVE_DEFAULT_PARTITION__" {
            continue;
        }
        let (object, spelled) = spark_path(&value, &format!("part-{round}-{at}.snappy.parquet"));
        let bytes = store.get(&add.path.object().unwrap()).await.unwrap().bytes().await.unwrap();
        store.put(&object, bytes.into()).await.unwrap();
        lines.push(json!({ "remove": add.removal(5, false) }).to_string());
        let rewritten = Add { path: spelled, data_change: false, ..add };
        lines.push(json!({ "add": rewritten }).to_string());
    }
    store.put(&entry_path(version + 1), lines.join("\n").into()).await.unwrap();
}

fn odd_epoch(random: &mut StdRng, map: &mut BTreeMap<i64, Row>, serial: &mut u64, without: &[&str]) -> Vec<UpsertRows> {
    let mut rows: Vec<(i64, Row)> = (0..random.random_range(1..30))
        .map(|_| {
            *serial += 1;
            let at = random.random_range(0..ODD.len() + 2);
            (random.random_range(0..80), odd_row(&format!("n{serial}"), *serial as f64, at))
        })
        .collect();
    rows.retain(|(_, row)| !without.contains(&row.2.as_str()));
    map.extend(rows.iter().cloned());
    vec![given(&rows)]
}

#[tokio::test]
async fn files_that_spark_spelled_are_removed_by_its_spelling() {
    for seed in 0..6_u64 {
        let mut random = StdRng::seed_from_u64(seed);
        let properties: &[(&str, &str)] = if seed % 2 == 0 { &[] } else { &[COPY] };
        let mut world = World::new(definition(properties, true), seed, 1 << 20).await;
        let (mut map, mut serial) = (BTreeMap::new(), 0);
        for epoch in 0..12 {
            let rows = odd_epoch(&mut random, &mut map, &mut serial, &[]);
            world.epoch += 1;
            let staged = world.upsert.stage(rows).await.unwrap();
            if random.random_bool(0.5) {
                rewrite_as_spark(&world, epoch).await;
            }
            // Through the manifest's text, as recovery reads it.
            let staged: StagedFiles = serde_json::from_str(&serde_json::to_string(&staged).unwrap()).unwrap();
            if random.random_bool(0.2) {
                world.restart().await;
            }
            world.commit(staged).await;
            if random.random_bool(0.3) {
                rewrite_as_spark(&world, epoch + 100).await;
            }
            if random.random_bool(0.3) {
                world.restart().await;
            }
            assert_eq!(world.rows().await, map, "seed {seed}, epoch {epoch}");
        }
    }
}

#[tokio::test]
async fn odd_partitions_survive_what_delta_rs_does_to_them() {
    for seed in 0..6_u64 {
        let mut random = StdRng::seed_from_u64(50 + seed);
        let properties: &[(&str, &str)] = if seed % 2 == 0 { &[] } else { &[COPY] };
        let mut world = World::new(definition(properties, true), seed, 1 << 20).await;
        let (mut map, mut serial) = (BTreeMap::new(), 0);
        for epoch in 0..10 {
            // delta-rs's OPTIMIZE takes this text for null.
            let rows = odd_epoch(&mut random, &mut map, &mut serial, &["__HIVE_DEFAULT_PARTITION__"]);
            world.epoch(rows).await;
            if random.random_bool(0.3) {
                world.restart().await;
            }
            foreign_act(&world, random.random_range(0..3), epoch, &mut map).await;
            assert_eq!(world.rows().await, map, "seed {seed}, epoch {epoch}");
        }
    }
}

#[tokio::test]
async fn a_kept_file_with_a_deletion_vector_keeps_its_spelling_and_what_others_noted() {
    let mut world = World::new(definition(&[], true), 3, 1 << 20).await;
    let rows: Vec<_> = (0..10).map(|id| (id, odd_row("a", 0.0, 1))).collect();
    world.epoch(vec![given(&rows)]).await;
    rewrite_as_spark(&world, 0).await;
    let staged = world.epoch(vec![given(&[(3, odd_row("b", 1.0, 1))])]).await;
    let (removed, kept) = (&staged.removes[0], staged.adds.last().unwrap());
    assert_eq!(removed.path.as_str(), "day=ü%20d/part-0-0.snappy.parquet");
    assert_eq!(removed.path, kept.path);
    assert!(matches!(kept.deletion_vector, Some(DeletionVectorDescriptor { cardinality: 1, .. })));
}

#[tokio::test]
async fn an_empty_partition_value_is_null_in_table_index_and_change_feed() {
    for properties in [&[FEED][..], &[FEED, COPY]] {
        let mut world = World::new(definition(properties, true), 9, 1 << 20).await;
        let empty = |v| ("a".to_owned(), v, String::new());
        world.epoch(vec![given(&[(1, empty(1.0)), (2, row("b", 1.0))])]).await;
        world
            .epoch(vec![weighted(&[
                (1, empty(1.0), -1),
                (1, empty(2.0), 1),
                (2, row("b", 1.0), -1),
                (2, empty(2.0), 1),
            ])])
            .await;
        world.restart().await;
        world.epoch(vec![given(&[(1, empty(3.0))])]).await;
        let counts = world.query("SELECT count(*), count(day) FROM t").await;
        let count = |column: usize| counts[0].column(column).as_primitive::<Int64Type>().value(0);
        assert_eq!((count(0), count(1)), (2, 0));
        let context = SessionContext::new();
        let feed = world.foreign().await.scan_cdf().with_starting_version(0);
        context.register_table("feed", Arc::new(DeltaCdfTableProvider::try_new(feed).unwrap())).unwrap();
        let empty = context.sql("SELECT count(*) FROM feed WHERE day = ''").await.unwrap().collect().await.unwrap();
        assert_eq!(empty[0].column(0).as_primitive::<Int64Type>().value(0), 0, "{properties:?}");
    }
}

#[tokio::test]
async fn null_and_the_name_of_its_folder_are_two_partitions() {
    let mut world = World::new(definition(&[], true), 9, 1 << 20).await;
    let marker = "__HIVE_DEFAULT_PARTITION__".to_owned();
    let rows = [(1, ("a".to_owned(), 1.0, marker.clone())), (2, ("b".to_owned(), 2.0, String::new()))];
    world.epoch(vec![given(&rows)]).await;
    let mut writer = world.table.writer(&WriterOptions::default()).unwrap();
    writer
        .write(&batch(&[(3, ("c".to_owned(), 3.0, String::new())), (4, ("d".to_owned(), 4.0, marker.clone()))]))
        .await
        .unwrap();
    world.epoch += 1;
    world.commit(writer.close().await.unwrap()).await;
    let found = world.query(&format!("SELECT id FROM t WHERE day = '{marker}' ORDER BY id")).await;
    let ids: Vec<i64> = found.iter().flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
    assert_eq!(ids, [1, 4]);
    let nulls = world.query("SELECT count(*) FROM t WHERE day IS NULL").await;
    assert_eq!(nulls[0].column(0).as_primitive::<Int64Type>().value(0), 2);
}

/// Appends a file, as another writer does.
async fn append(world: &mut World, rows: &[(i64, Row)]) {
    let mut writer = world.table.writer(&WriterOptions::default()).unwrap();
    writer.write(&batch(rows)).await.unwrap();
    world.epoch += 1;
    world.commit(writer.close().await.unwrap()).await;
    // Files are dated by the system's clock.
    std::thread::sleep(Duration::from_millis(2));
}

async fn ids(world: &World) -> Vec<i64> {
    let found = world.query("SELECT id FROM t ORDER BY id").await;
    found.iter().flat_map(|rows| rows.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
}

#[tokio::test]
async fn of_equal_keys_that_were_written_in_two_ways_the_newest_row_stays() {
    for (seed, properties) in (1..9).zip([&[FEED][..], &[FEED, COPY]].into_iter().cycle()) {
        let mut def = definition(properties, false);
        def.primary_key = vec!["v".to_owned()];
        let mut world = World::new(def, seed, 1 << 20).await;
        let other_nan = f64::from_bits(f64::NAN.to_bits() | 1 << 63);
        let first = [(1, row("a", 0.0)), (2, row("b", f64::NAN)), (3, row("c", 1.5))];
        append(&mut world, &first).await;
        append(&mut world, &[(4, row("d", -0.0)), (5, row("e", other_nan)), (6, row("f", 8.0))]).await;
        world.restart().await;
        world.upsert.load().await.unwrap();
        assert_eq!(world.upsert.usage().await.keys, 4, "seed {seed}");
        assert!(world.epoch(vec![]).await.is_empty(), "nothing is committed for their sake");
        world.epoch(vec![given(&[(7, row("g", 2.5)), (8, row("h", -1.5))])]).await;
        assert_eq!(ids(&world).await, [3, 4, 5, 6, 7, 8], "seed {seed}");
        world.epoch(vec![given(&[(9, row("i", 0.0)), (10, row("j", f64::NAN))])]).await;
        assert_eq!(ids(&world).await, [3, 6, 7, 8, 9, 10], "seed {seed}");
        world.restart().await;
        world.epoch(vec![given(&[(11, row("k", -0.0))])]).await;
        assert_eq!(ids(&world).await, [3, 6, 7, 8, 10, 11], "seed {seed}");
        let context = SessionContext::new();
        let feed = world.foreign().await.scan_cdf().with_starting_version(0);
        context.register_table("feed", Arc::new(DeltaCdfTableProvider::try_new(feed).unwrap())).unwrap();
        let deleted = "SELECT count(*) FROM feed WHERE _change_type = 'delete' AND id IN (1, 2)";
        let deleted = context.sql(deleted).await.unwrap().collect().await.unwrap();
        assert_eq!(deleted[0].column(0).as_primitive::<Int64Type>().value(0), 2, "seed {seed}");
        // The same value twice is damage.
        append(&mut world, &[(12, row("l", -0.0))]).await;
        let error = world.upsert.stage(vec![given(&[(13, row("m", 1.0))])]).await.unwrap_err();
        assert_eq!(error.message(), "table `t` has two rows with the same primary key", "seed {seed}");
    }
}

#[tokio::test]
async fn a_table_that_becomes_append_only_or_gets_a_change_feed_is_noticed_at_the_next_commit() {
    let mut world = World::new(definition(&[], true), 4, 1 << 20).await;
    world.epoch(vec![given(&[(1, row("a", 1.0))])]).await;
    world.epoch += 1;
    let staged = world.upsert.stage(vec![given(&[(1, row("b", 2.0))])]).await.unwrap();
    assert!(staged.cdc.is_empty());
    set_property(&world, "delta.enableChangeDataFeed").await;
    assert_eq!(world.commit(staged).await, 1, "what was staged had no change feed");
    let version = world.foreign().await.version().unwrap();
    let entry = read_entry(world.table.store(), version).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&entry).contains("\"cdc\":"), "the epoch was staged again with a change feed");

    let staged = world.upsert.stage(vec![given(&[(1, row("c", 3.0))])]).await.unwrap();
    world.epoch += 1;
    set_property(&world, "delta.appendOnly").await;
    let error = world.table.commit(world.request(staged)).await.unwrap_err();
    assert_eq!(error.message(), "table `t` is append-only and cannot be upserted");
    let error = world.upsert.stage(vec![given(&[(1, row("d", 4.0))])]).await.unwrap_err();
    assert_eq!(error.message(), "table `t` is append-only and cannot be upserted");
    assert_eq!(world.rows().await, [(1, row("b", 2.0))].into());
}

/// Sets a property of the table to `true`, as another writer does.
async fn set_property(world: &World, property: &str) {
    let properties = [(property.to_owned(), "true".to_owned())].into_iter().collect();
    world.foreign().await.set_tbl_properties().with_properties(properties).await.unwrap();
}
