//! Reads a table as a stream: every row once, in one order, from any position.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Int64Type, TimestampMicrosecondType};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::position::Position;
use super::*;
use crate::catalog::{
    Catalog, ColumnDef, DeltaSourceOptions, DeltaStart, Format, OnError, OnTableChange, SourceConnector, SourceDef,
    TableFeed, feed_columns,
};
use crate::delta::testing::{WrittenTable, declared};
use crate::delta::{TableStore, rows_in_order};
use crate::env::Env;
use crate::error::{ErrorKind, Result};
use crate::source::chunk::{Offset, Offsets, Payload, Poll, PollLimit, ReadFrom, SourceReader};
use crate::source::decode::Decoder;

const INTERVAL: Duration = Duration::from_secs(1);

fn rows(ids: impl Iterator<Item = i64> + Clone) -> RecordBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(ids.clone()))),
        ("word", Arc::new(StringArray::from_iter(ids.clone().map(|id| (id % 5 > 0).then(|| format!("w{id}")))))),
        ("day", Arc::new(StringArray::from_iter(ids.map(|id| (id % 3 > 0).then(|| format!("d {}", id % 3)))))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

async fn table(name: &str, env: &Env) -> WrittenTable {
    let columns = [("id", DataType::Int64, false), ("word", DataType::Utf8, true), ("day", DataType::Utf8, true)];
    WrittenTable::create(&declared(name, &columns, &["day"]), env).await
}

fn options(path: &str) -> DeltaSourceOptions {
    DeltaSourceOptions {
        path: path.to_owned(),
        feed: TableFeed::Append,
        start: DeltaStart::Snapshot,
        on_change: OnTableChange::Fail,
        poll_interval: INTERVAL,
        storage: BTreeMap::new(),
    }
}

fn source(columns: Vec<ColumnDef>, options: DeltaSourceOptions) -> SourceDef {
    SourceDef {
        idle_after: std::time::Duration::from_secs(30),
        max_drift: None,
        timestamp_unit: None,
        max_future: None,
        name: "s".to_owned(),
        columns,
        watermark: None,
        connector: SourceConnector::Delta(options),
        format: Format::Parquet,
        on_error: OnError::Fail,
        span: Default::default(),
    }
}

fn columns(feed: TableFeed) -> Vec<ColumnDef> {
    let columns = [("id", DataType::Int64, false), ("word", DataType::Utf8, true), ("day", DataType::Utf8, true)];
    let mut columns = declared("t", &columns, &[]).columns;
    if feed == TableFeed::Changes {
        columns.extend(feed_columns(Default::default()));
    }
    columns
}

/// A reader with its decoder.
struct Opened {
    reader: DeltaReader,
    decoder: Decoder,
    offset: Option<Offset>,
}

async fn open(options: &DeltaSourceOptions, offset: Option<Offset>, bounded: bool, env: &Env) -> Opened {
    let def = source(columns(options.feed), options.clone());
    let offsets = offset.map(|offset| Offsets::from([("0".into(), offset)])).unwrap_or_default();
    let reader = DeltaReader::open(&def, options, &ReadFrom { offsets, bounded, topic: None }, env).await.unwrap();
    Opened { reader, decoder: Decoder::new(&def).unwrap(), offset }
}

impl Opened {
    /// Decoded rows of the next poll; `None` at the end. Checks that chunks are contiguous.
    async fn poll(&mut self, rows: usize) -> Result<Option<Vec<RecordBatch>>> {
        let limit = PollLimit { rows, bytes: 1 << 20, wait: Duration::ZERO, linger: Duration::ZERO };
        let chunks = match self.reader.poll(limit).await? {
            Poll::Finished => return Ok(None),
            Poll::Idle => return Ok(Some(Vec::new())),
            Poll::Chunks(chunks) => chunks,
        };
        let mut decoded = Vec::new();
        let mut total = 0;
        for chunk in chunks {
            assert!(self.offset.is_none_or(|offset| offset == chunk.start) && chunk.start < chunk.end);
            self.offset = Some(chunk.end);
            let Payload::Rows(batch) = &chunk.payload else { panic!("a table has rows") };
            total += batch.num_rows();
            let rows = self.decoder.decode(chunk).unwrap();
            assert_eq!(rows.refused, 0);
            decoded.push(rows.rows);
        }
        assert!(total <= rows);
        Ok(Some(decoded))
    }

    /// All rows up to the end, or until a poll is idle.
    async fn rest(&mut self) -> Result<Vec<String>> {
        let mut all = Vec::new();
        while let Some(batches) = self.poll(7).await? {
            if batches.is_empty() {
                break;
            }
            all.extend(shown(&batches));
        }
        Ok(all)
    }
}

/// `id word day` of each row, preceded by its change, if there is one.
fn shown(batches: &[RecordBatch]) -> Vec<String> {
    let text = |array: &ArrayRef, row: usize| {
        let array = array.as_string::<i32>();
        if array.is_valid(row) { array.value(row).to_owned() } else { "-".to_owned() }
    };
    let row = |batch: &RecordBatch, row: usize| {
        let id = batch.column(0).as_primitive::<Int64Type>().value(row);
        let shown = format!("{id} {} {}", text(batch.column(1), row), text(batch.column(2), row));
        if batch.num_columns() == 3 {
            return shown;
        }
        let version = batch.column(4).as_primitive::<Int64Type>().value(row);
        let time = batch.column(5).as_primitive::<TimestampMicrosecondType>().value(row) / 1_000_000;
        format!("{} v{version} @{time} {shown}", text(batch.column(3), row))
    };
    batches.iter().flat_map(|batch| (0..batch.num_rows()).map(|at| row(batch, at)).collect::<Vec<_>>()).collect()
}

fn sorted(mut rows: Vec<String>) -> Vec<String> {
    rows.sort();
    rows
}

#[tokio::test]
async fn a_table_is_read_once_and_can_be_resumed_at_every_boundary() {
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let env = Env::manual(1_000_000, seed);
        let mut table = table("t", &env).await;
        let mut next = 0;
        let mut more = |random: &mut StdRng| {
            let first = next;
            next += random.random_range(0..30);
            rows(first..next)
        };
        for _ in 0..random.random_range(1..4) {
            let batches: Vec<_> = (0..random.random_range(0..3)).map(|_| more(&mut random)).collect();
            table.append(&batches).await;
        }
        let options = options("memory://w/t");
        let mut straight = open(&options, None, false, &env).await;
        let mut opened = open(&options, straight.reader.begins_at(), false, &env).await;
        let mut read = Vec::new();
        let mut commits = 4;
        loop {
            let batches = opened.poll(random.random_range(1..20)).await.unwrap().unwrap();
            if batches.is_empty() && commits == 0 {
                break;
            }
            read.extend(shown(&batches));
            if commits > 0 && random.random_bool(0.2) {
                commits -= 1;
                match random.random_range(0..4) {
                    0 => table.entry(vec![json!({ "txn": { "appId": "x", "version": 1 } })]).await,
                    1 => {
                        let all = more(&mut random);
                        table.append(&[all]).await;
                        let end = read_back(&table).await.len() as i64;
                        table.replace(&[rows(0..end)], false).await;
                    }
                    _ => {
                        let batches = [more(&mut random), more(&mut random)];
                        table.append(&batches).await;
                    }
                }
            }
            env.advance(INTERVAL);
            if random.random_bool(0.3) {
                opened = open(&options, opened.offset, false, &env).await;
            }
        }
        assert_eq!(straight.rest().await.unwrap(), read, "seed {seed}");
        assert_eq!(sorted(read), sorted(read_back(&table).await), "seed {seed}");
    }
}

/// The table as a query reads it.
async fn read_back(table: &WrittenTable) -> Vec<String> {
    let context = datafusion::prelude::SessionContext::new();
    let config = datafusion::prelude::SessionConfig::new();
    let config = config.set_bool("datafusion.sql_parser.map_string_types_to_utf8view", false);
    let context = datafusion::prelude::SessionContext::new_with_config_rt(config, context.runtime_env());
    context.register_table("t", table.table.provider(None).await.unwrap()).unwrap();
    shown(&context.sql("SELECT id, word, day FROM t").await.unwrap().collect().await.unwrap())
}

#[tokio::test]
async fn new_commits_are_picked_up_at_their_interval_and_bounded_reading_ends_at_the_version_of_its_start() {
    let env = Env::manual(1_000_000, 1);
    let mut table = table("t", &env).await;
    table.append(&[rows(0..3)]).await;
    let mut bounded = open(&options("memory://w/t"), None, true, &env).await;
    let mut opened = open(&options("memory://w/t"), None, false, &env).await;
    assert_eq!(opened.rest().await.unwrap().len(), 3);
    assert_eq!(opened.reader.lag(), Some(0));
    table.append(&[rows(3..5)]).await;
    assert!(opened.poll(9).await.unwrap().unwrap().is_empty(), "the log is looked at at its interval");
    env.advance(INTERVAL);
    assert_eq!(opened.rest().await.unwrap(), ["3 w3 -", "4 w4 d 1"]);
    assert_eq!(bounded.rest().await.unwrap().len(), 3);
    assert!(bounded.poll(9).await.unwrap().is_none());
    // The next bounded run begins where this one ended.
    assert_eq!(open(&options("memory://w/t"), bounded.offset, true, &env).await.rest().await.unwrap().len(), 2);
}

#[tokio::test]
async fn reading_begins_where_it_is_told() {
    let env = Env::manual(1_000_000, 1);
    let mut table = table("t", &env).await;
    for first in [0, 10, 20] {
        table.append(&[rows(first..first + 2)]).await;
    }
    let from = async |start| {
        let options = DeltaSourceOptions { start, ..options("memory://w/t") };
        open(&options, None, true, &env).await.rest().await.unwrap().len()
    };
    assert_eq!(from(DeltaStart::Snapshot).await, 6);
    assert_eq!(from(DeltaStart::Version(0)).await, 6);
    assert_eq!(from(DeltaStart::Version(3)).await, 2);
    assert_eq!(from(DeltaStart::Version(9)).await, 0);
    assert_eq!(from(DeltaStart::Latest).await, 0);
}

#[tokio::test]
async fn progress_over_many_versions_without_rows_is_told() {
    let env = Env::manual(1_000_000, 1);
    let mut table = table("t", &env).await;
    let mut opened = open(&options("memory://w/t"), None, false, &env).await;
    for _ in 0..70 {
        table.entry(vec![json!({ "txn": { "appId": "x", "version": 1 } })]).await;
    }
    env.advance(INTERVAL);
    let told = opened.poll(9).await.unwrap().unwrap();
    assert_eq!(told.iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
    assert_eq!(opened.offset, Some(Position::commit(71).offset().unwrap()));
    assert!(opened.poll(9).await.unwrap().unwrap().is_empty());
}

#[tokio::test]
async fn a_commit_that_takes_rows_away_is_refused_or_passed_over() {
    let env = Env::manual(1_000_000, 1);
    let mut table = table("t", &env).await;
    table.append(&[rows(1..3)]).await;
    table.replace(&[rows(1..2)], true).await;
    table.append(&[rows(7..8)]).await;
    let options = DeltaSourceOptions { start: DeltaStart::Version(0), ..options("memory://w/t") };
    let error = open(&options, None, true, &env).await.rest().await.unwrap_err();
    assert_eq!(error.message(), "version 2 of the table of source `s` takes rows away");
    assert!(error.hint().unwrap().contains("mode = 'changes'"));
    let skip = DeltaSourceOptions { on_change: OnTableChange::Skip, ..options };
    let read = open(&skip, None, true, &env).await.rest().await.unwrap();
    assert_eq!(sorted(read), ["1 w1 d 1", "2 w2 d 2", "7 w7 d 1"]);
}

#[tokio::test]
async fn changes_are_told_from_the_files_that_came_and_went() {
    let env = Env::manual(1_000_000, 1);
    let mut table = table("t", &env).await;
    env.advance(Duration::from_secs(1));
    table.append(&[rows(1..3)]).await;
    env.advance(Duration::from_secs(1));
    table.replace(&[rows(1..2)], true).await;
    env.advance(Duration::from_secs(1));
    table.replace(&[rows(1..2)], false).await;
    let changes = DeltaSourceOptions { feed: TableFeed::Changes, ..options("memory://w/t") };
    let read = open(&changes, None, true, &env).await.rest().await.unwrap();
    assert_eq!(read, ["insert v3 @1003 1 w1 d 1"], "a snapshot is told as of its version");
    let from_start = DeltaSourceOptions { start: DeltaStart::Version(0), ..changes };
    let mut read = open(&from_start, None, true, &env).await.rest().await.unwrap();
    read[..2].sort();
    read[2..4].sort();
    let expected = [
        "insert v1 @1001 1 w1 d 1",
        "insert v1 @1001 2 w2 d 2",
        "delete v2 @1002 1 w1 d 1",
        "delete v2 @1002 2 w2 d 2",
        "insert v2 @1002 1 w1 d 1",
    ];
    assert_eq!(read, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_feed_that_the_table_keeps_says_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::system().unwrap();
    let path = dir.path().to_str().unwrap();
    let names = [("id", DataType::Int64, false), ("word", DataType::Utf8, true), ("day", DataType::Utf8, true)];
    let mut def = declared("t", &names, &["day"]);
    def.properties.insert("delta.enableChangeDataFeed".into(), "true".into());
    let store = TableStore::open(path, &BTreeMap::new(), &env).unwrap();
    let table = crate::delta::Table::open_or_create(store, &def).await.unwrap();
    let mut written = WrittenTable { table, env: env.clone(), version: 0, files: Vec::new() };
    written.append(&[rows(1..5)]).await;
    let url = url::Url::from_directory_path(dir.path()).unwrap();
    let theirs = deltalake::open_table(url).await.unwrap();
    let (theirs, _) = theirs.update().with_predicate("id = 4").with_update("word", "'new'").await.unwrap();
    let (_theirs, _) = theirs.delete().with_predicate("id = 1").await.unwrap();
    let options = DeltaSourceOptions { feed: TableFeed::Changes, start: DeltaStart::Version(2), ..options(path) };
    let read = open(&options, None, true, &env).await.rest().await.unwrap();
    let told = |row: &String| {
        let parts: Vec<_> = row.split(' ').collect();
        format!("{} {} {}", parts[0], parts[1], parts[3..].join(" "))
    };
    let told: Vec<_> = read.iter().map(told).collect();
    assert_eq!(sorted(told[..2].to_vec()), ["update_postimage v2 4 new d 1", "update_preimage v2 4 w4 d 1"]);
    assert_eq!(told[2..], ["delete v3 1 w1 d 1"]);
}

#[tokio::test]
async fn rows_that_a_deletion_vector_deletes_are_left_out() {
    let env = Env::manual(1_000_000, 1);
    let mut table = table("t", &env).await;
    let mut adds = table.stage(&[rows((1..90).step_by(3))]).await;
    // Deletes rows 3, 4, 7, 11, 18 and 29 of its file.
    let vector = json!({
        "storageType": "i", "pathOrInlineDv": "^Bg9^0rr910000000000iXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L",
        "sizeInBytes": 44, "cardinality": 6,
    });
    adds[0].deletion_vector = Some(serde_json::from_value(vector).unwrap());
    table.commit(adds, Vec::new(), true).await;
    table.append(&[rows(0..1)]).await;
    let options = DeltaSourceOptions { start: DeltaStart::Version(1), ..options("memory://w/t") };
    let mut all = open(&options, None, true, &env).await;
    let read = all.rest().await.unwrap();
    let deleted = [3, 4, 7, 11, 18, 29];
    let expected: Vec<i64> = (0..30).filter(|row| !deleted.contains(row)).map(|row| 1 + row * 3).chain([0]).collect();
    assert_eq!(read, shown(&[rows(expected.iter().copied())]));
    for row in 0..24 {
        let offset = Position { row, ..Position::commit(1) }.offset().unwrap();
        let rest = open(&options, Some(offset), true, &env).await.rest().await.unwrap();
        assert_eq!(rest, read[row as usize..], "from row {row}");
    }
}

#[tokio::test]
async fn a_version_that_is_gone_or_not_what_it_was_is_an_error() {
    let env = Env::manual(1_000_000, 1);
    let mut table = table("t", &env).await;
    for first in [0, 10, 20] {
        table.append(&[rows(first..first + 2)]).await;
    }
    let beyond = Position { row: 3, ..Position::commit(3) }.offset().unwrap();
    let mut opened = open(&options("memory://w/t"), Some(beyond), true, &env).await;
    assert_eq!(opened.rest().await.unwrap_err().message(), "version 3 of `memory://w/t` is not what it was");
    let log = table.store().object_store();
    let options = DeltaSourceOptions { start: DeltaStart::Version(2), ..options("memory://w/t") };
    let mut opened = open(&options, None, true, &env).await;
    log.delete(&Path::from("_delta_log/00000000000000000002.json")).await.unwrap();
    let error = opened.rest().await.unwrap_err();
    assert_eq!(error.message(), "source `s` has lost version 2 of `memory://w/t`");
    assert_eq!(error.kind(), ErrorKind::Environment);
}

#[tokio::test]
async fn columns_are_taken_from_the_table_or_must_be_there() {
    let env = Env::manual(1_000_000, 1);
    let _table = table("t", &env).await;
    let load = |text: &str| {
        let file = Arc::new(crate::sql::SourceFile::new("a.sql", text.to_owned()));
        Catalog::load(&[file], &|_| None).unwrap()
    };
    let none = BTreeMap::new();
    let changes = "CREATE SOURCE s WITH (connector = 'delta', path = 'memory://w/t', mode = 'changes');";
    let mut catalog = load(changes);
    let problems = complete(&mut catalog, Reach::Local, &none, &env).await;
    assert_eq!(problems[0].message, "the columns of source `s` are not known without a connection");
    assert!(catalog.broken.relations.contains("s"), "what reads it is passed over");
    let mut catalog = load(changes);
    assert!(complete(&mut catalog, Reach::Anywhere, &none, &env).await.is_empty());
    let names: Vec<_> = catalog.sources["s"].columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["id", "word", "day", "_change_type", "_commit_version", "_commit_timestamp"]);

    let mut catalog = load(
        "CREATE SOURCE s (WATERMARK FOR word AS word) WITH (connector = 'delta', path = 'memory://w/t', starting_version = '3');",
    );
    let problems = complete(&mut catalog, Reach::Anywhere, &none, &env).await;
    assert_eq!(problems[0].message, "watermark column `word` is STRING, not TIMESTAMP");

    let wrong = declared("t", &[("ids", DataType::Int64, true)], &[]).columns;
    let def = source(wrong, options("memory://w/t"));
    let error = DeltaReader::open(&def, &options("memory://w/t"), &ReadFrom::default(), &env).await.unwrap_err();
    assert_eq!(error.message(), "the table of source `s` has no column `ids`");
    assert_eq!(error.hint(), Some("Did you mean `id`?"));
    let error = DeltaReader::open(&def, &options("memory://w/no"), &ReadFrom::default(), &env).await.unwrap_err();
    assert_eq!(error.message(), "no Delta table at `memory://w/no`");
}

#[tokio::test]
async fn a_table_is_read_in_order_of_time() {
    use arrow::array::TimestampMicrosecondArray;
    let env = Env::manual(1_000_000, 1);
    let time = crate::sql::types::timestamp();
    let def = declared("h", &[("ts", time.clone(), true), ("n", DataType::Int64, true)], &[]);
    let mut table = WrittenTable::create(&def, &env).await;
    for first in [100, 200, 0] {
        let times = TimestampMicrosecondArray::from_iter_values(first..first + 100).with_data_type(time.clone());
        let columns: Vec<(&str, ArrayRef)> =
            vec![("ts", Arc::new(times)), ("n", Arc::new(Int64Array::from_iter_values(first..first + 100)))];
        table.append(&[RecordBatch::try_from_iter(columns).unwrap()]).await;
    }
    let read = rows_in_order(&table.table, &["n"], "ts", &["ts"], Arc::default()).await.unwrap();
    let batches: Vec<_> = futures::TryStreamExt::try_collect(read).await.unwrap();
    let values = batches.iter().flat_map(|batch: &RecordBatch| {
        batch.column(0).as_primitive::<Int64Type>().values().iter().copied().collect::<Vec<_>>()
    });
    assert_eq!(values.collect::<Vec<_>>(), (0..300).collect::<Vec<_>>());
    assert!(rows_in_order(&table.table, &[], "n", &["n"], Arc::default()).await.is_err());
    assert!(rows_in_order(&table.table, &["x"], "ts", &["ts"], Arc::default()).await.is_err());
}
