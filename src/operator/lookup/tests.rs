//! Lookups against DataFusion's joins of the same rows, over versions that are added, removed and restored.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::display::array_value_to_string;
use datafusion::common::JoinType;
use datafusion::datasource::MemTable;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, binary};
use datafusion::prelude::{SessionConfig, SessionContext};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::delta::testing::{WrittenTable, declared};
use crate::env::Env;
use crate::operator::WEIGHT;
use crate::sql::types::timestamp;
use crate::state::MemoryBudget;
use crate::time::Watermark;

const PLENTY: u64 = 1 << 30;

fn room(bytes: u64) -> MemoryShare {
    MemoryBudget::new(bytes).pinned_share()
}

fn left_schema(retract: bool) -> SchemaRef {
    let mut fields = vec![
        Field::new("k", DataType::Int64, true),
        Field::new("g", DataType::Utf8, true),
        Field::new("amount", DataType::Int64, true),
        Field::new("ts", timestamp(), true),
    ];
    fields.extend(retract.then(|| Field::new(WEIGHT, DataType::Int64, false)));
    Arc::new(Schema::new(fields))
}

fn right_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("key", DataType::Int64, true),
        Field::new("grp", DataType::Utf8, true),
        Field::new("lim", DataType::Int64, true),
    ]))
}

fn spec(join_type: JoinType, retract: bool, filtered: bool) -> LookupSpec {
    let (left, right) = (left_schema(retract), right_schema());
    let plain = left.fields().len() - usize::from(retract);
    let side = left.fields()[..plain].iter().chain(right.fields());
    let side: Vec<_> = side.map(|field| field.as_ref().clone().with_nullable(true)).collect();
    let both = Schema::new(side.clone());
    let filter = filtered.then(|| -> Arc<dyn PhysicalExpr> {
        binary(Arc::new(Column::new("amount", 2)), Operator::Gt, Arc::new(Column::new("lim", 6)), &both).unwrap()
    });
    let weight = retract.then(|| Field::new(WEIGHT, DataType::Int64, false));
    LookupSpec {
        left_keys: vec![0, 1],
        right_keys: vec![0, 1],
        left_retract: retract,
        left,
        table: "customers".to_owned(),
        right,
        null_equals_null: false,
        join_type,
        filter,
        as_of: None,
        before_first: BeforeFirst::Nothing,
        output: Arc::new(Schema::new(side.into_iter().chain(weight).collect::<Vec<_>>())),
    }
}

async fn table(env: &Env) -> WrittenTable {
    let columns = [
        ("other", DataType::Utf8, true),
        ("key", DataType::Int64, true),
        ("lim", DataType::Int64, true),
        ("grp", DataType::Utf8, true),
    ];
    WrittenTable::create(&declared("customers", &columns, &["grp"]), env).await
}

fn maybe<T>(random: &mut StdRng, value: T) -> Option<T> {
    random.random_bool(0.9).then_some(value)
}

fn customers(random: &mut StdRng, rows: usize) -> RecordBatch {
    let mut ints = |below| {
        (0..rows)
            .map(|_| {
                let v = random.random_range(0..below);
                maybe(random, v)
            })
            .collect::<Int64Array>()
    };
    let (key, lim): (ArrayRef, ArrayRef) = (Arc::new(ints(12)), Arc::new(ints(100)));
    let grp: StringArray = (0..rows)
        .map(|_| {
            let g = random.random_range(0..3);
            maybe(random, format!("g {g}"))
        })
        .collect();
    RecordBatch::try_from_iter_with_nullable([
        ("key", key, true),
        ("lim", lim, true),
        ("grp", Arc::new(grp) as ArrayRef, true),
    ])
    .unwrap()
}

fn events(random: &mut StdRng, rows: usize, retract: bool) -> RecordBatch {
    let mut ints = |below| {
        (0..rows)
            .map(|_| {
                let v = random.random_range(0..below);
                maybe(random, v)
            })
            .collect::<Int64Array>()
    };
    let (k, amount) = (ints(14), ints(100));
    let g: StringArray = (0..rows)
        .map(|_| {
            let g = random.random_range(0..4);
            maybe(random, format!("g {g}"))
        })
        .collect();
    let ts = TimestampMicrosecondArray::from_value(0, rows).with_data_type(timestamp());
    let mut columns: Vec<ArrayRef> = vec![Arc::new(k), Arc::new(g), Arc::new(amount), Arc::new(ts)];
    if retract {
        let weights = (0..rows).map(|_| if random.random_bool(0.7) { 1 } else { -1 });
        columns.push(Arc::new(Int64Array::from_iter_values(weights)));
    }
    RecordBatch::try_new(left_schema(retract), columns).unwrap()
}

/// Every row as a string, sorted.
fn shown(batches: &[RecordBatch]) -> Vec<String> {
    let mut rows = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let values = batch.columns().iter().map(|column| match column.is_null(row) {
                true => "NULL".to_owned(),
                false => array_value_to_string(column, row).unwrap(),
            });
            rows.push(values.collect::<Vec<_>>().join("|"));
        }
    }
    rows.sort();
    rows
}

/// DataFusion's result: the table at a version joined to all events.
async fn oracle(table: &WrittenTable, version: u64, spec: &LookupSpec, left: &[RecordBatch]) -> Vec<String> {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    let events = MemTable::try_new(spec.left.clone(), vec![left.to_vec()]).unwrap();
    context.register_table("l", Arc::new(events)).unwrap();
    context.register_table("r", table.table.provider(Some(version)).await.unwrap()).unwrap();
    let join = if spec.join_type == JoinType::Left { "LEFT" } else { "INNER" };
    let filter = if spec.filter.is_some() { "AND l.amount > r.lim" } else { "" };
    let weight = if spec.left_retract { ", l.__weight" } else { "" };
    let equals = if spec.null_equals_null { "IS NOT DISTINCT FROM" } else { "=" };
    let sql = format!(
        "SELECT l.k, l.g, l.amount, l.ts, r.key, r.grp, r.lim{weight} FROM l {join} JOIN r ON (l.k {equals} r.key) AND (l.g {equals} r.grp) {filter}"
    );
    shown(&context.sql(&sql).await.unwrap().collect().await.unwrap())
}

#[tokio::test]
async fn a_lookup_says_what_a_batch_join_says_at_every_version() {
    for seed in 0..60 {
        let mut random = StdRng::seed_from_u64(seed);
        let env = Env::manual(1_000_000, seed);
        let mut table = table(&env).await;
        let join_type = if random.random_bool(0.5) { JoinType::Left } else { JoinType::Inner };
        let spec = spec(join_type, random.random_bool(0.4), random.random_bool(0.5));
        let spec = LookupSpec { null_equals_null: random.random_bool(0.3), ..spec };
        let mut lookup = Lookup::open(spec.clone(), table.store(), room(PLENTY)).await.unwrap();
        for _ in 0..5 {
            let rows = random.random_range(0..25);
            let batches = [customers(&mut random, rows), customers(&mut random, 3)];
            match random.random_range(0..6) {
                0 => table.replace(&batches, true).await,
                1 if !table.files.is_empty() => {
                    let gone = table.files[random.random_range(0..table.files.len())].clone();
                    table.commit(Vec::new(), vec![gone], true).await;
                }
                2 if !table.files.is_empty() => {
                    // A file is added again unchanged, without having been removed.
                    let again = table.files[random.random_range(0..table.files.len())].clone();
                    table.files.retain(|file| file.path != again.path);
                    table.commit(vec![again], Vec::new(), false).await;
                }
                _ => table.append(&batches).await,
            }
            if random.random_bool(0.3) {
                continue;
            }
            assert!(lookup.refresh().await.unwrap());
            assert!(!lookup.refresh().await.unwrap(), "there is nothing newer");
            assert_eq!(lookup.version(), ("customers", table.version));
            let left: Vec<_> = (0..3)
                .map(|_| {
                    let rows = random.random_range(0..20);
                    events(&mut random, rows, spec.left_retract)
                })
                .collect();
            let joined = lookup.apply(&left).unwrap();
            assert!(joined.iter().all(|batch| batch.schema() == spec.output));
            assert_eq!(shown(&joined), oracle(&table, table.version, &spec, &left).await, "seed {seed}");
        }
        let fresh = Lookup::open(spec.clone(), table.store(), room(PLENTY)).await.unwrap();
        lookup.refresh().await.unwrap();
        assert_eq!(lookup.usage().rows, fresh.usage().rows, "seed {seed}");
    }
}

/// Events with these keys at these times, microseconds.
fn at(events: &[(i64, Option<i64>)]) -> RecordBatch {
    let rows = events.len();
    let times: TimestampMicrosecondArray = events.iter().map(|(_, time)| *time).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(events.iter().map(|(key, _)| *key))),
        Arc::new(StringArray::from(vec!["g 0"; rows])),
        Arc::new(Int64Array::from_iter_values(0..rows as i64)),
        Arc::new(times.with_data_type(timestamp())),
    ];
    RecordBatch::try_new(left_schema(false), columns).unwrap()
}

#[tokio::test]
async fn rows_are_answered_from_the_version_of_their_time() {
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let env = Env::manual(1_000_000, seed);
        let mut table = table(&env).await;
        let mut committed = vec![env.unix_ms() * 1_000];
        let of_time = LookupSpec { as_of: Some(3), ..spec(JoinType::Left, false, false) };
        let mut lookup = Lookup::open(of_time.clone(), table.store(), room(PLENTY)).await.unwrap();
        for round in 0..4 {
            for _ in 0..random.random_range(0..4) {
                env.advance(Duration::from_millis(random.random_range(0..3)));
                let batches = [customers(&mut random, 20)];
                let rewrite = random.random_bool(0.5);
                if rewrite {
                    table.replace(&batches, true).await;
                } else {
                    table.append(&batches).await;
                }
                committed.push(env.unix_ms() * 1_000);
            }
            if round == 2 {
                lookup = Lookup::open(of_time.clone(), table.store(), room(PLENTY)).await.unwrap();
            }
            lookup.refresh().await.unwrap();
            let (first, last) = (committed[0] - 1_500, committed.last().unwrap() + 1_500);
            let events: Vec<_> = (0..12)
                .map(|_| {
                    let time = random.random_range(first..=last);
                    (random.random_range(0..12), maybe(&mut random, time))
                })
                .collect();
            let batch = at(&events);
            lookup.prepare(std::slice::from_ref(&batch)).await.unwrap();
            let joined = shown(&lookup.apply(std::slice::from_ref(&batch)).unwrap());
            let mut expected = Vec::new();
            for (row, (_, time)) in events.iter().enumerate() {
                let one = batch.slice(row, 1);
                let version = time.and_then(|time| committed.iter().rposition(|at| *at <= time));
                let single = match version {
                    Some(version) => oracle(&table, version as u64, &of_time, &[one]).await,
                    None => vec![format!("{}|NULL|NULL|NULL", shown(&[one])[0])],
                };
                expected.extend(single);
            }
            expected.sort();
            assert_eq!(joined, expected, "seed {seed} round {round}");
            let watermark = random.random_range(first..=last);
            lookup.forget(Watermark(watermark)).unwrap();
            let later: Vec<_> =
                events.into_iter().filter(|(_, time)| time.is_some_and(|time| time >= watermark)).collect();
            let later = at(&later);
            let after = Lookup::open(of_time.clone(), table.store(), room(PLENTY)).await;
            let mut after = after.unwrap();
            after.prepare(std::slice::from_ref(&later)).await.unwrap();
            let held = lookup.apply(std::slice::from_ref(&later)).unwrap();
            assert_eq!(shown(&held), shown(&after.apply(&[later]).unwrap()), "seed {seed}: forgotten too early");
        }
    }
}

#[tokio::test]
async fn a_version_that_was_committed_a_moment_ago_is_found_by_rows_of_its_time() {
    let env = Env::manual(1_000_000, 3);
    let mut random = StdRng::seed_from_u64(3);
    let mut table = table(&env).await;
    let of_time = LookupSpec { as_of: Some(3), ..spec(JoinType::Left, false, false) };
    let mut lookup = Lookup::open(of_time, table.store(), room(PLENTY)).await.unwrap();
    env.advance(Duration::from_millis(5));
    table.append(&[customers(&mut random, 20)]).await;
    // No epoch has ended meanwhile, so the newest version has not been looked for.
    lookup.prepare(&[at(&[(1, Some(env.unix_ms() * 1_000 - 5_000))])]).await.unwrap();
    assert_eq!(lookup.version(), ("customers", 1));
    env.advance(Duration::from_millis(5));
    table.append(&[customers(&mut random, 20)]).await;
    lookup.prepare(&[at(&[(1, Some(env.unix_ms() * 1_000 - 6_000))])]).await.unwrap();
    assert_eq!(lookup.version(), ("customers", 1), "a row of an earlier time does not ask");
    lookup.prepare(&[at(&[(1, Some(env.unix_ms() * 1_000))])]).await.unwrap();
    assert_eq!(lookup.version(), ("customers", 2));
}

#[tokio::test]
async fn rows_older_than_every_version_are_counted_or_take_the_first() {
    let env = Env::manual(1_000_000, 4);
    let mut random = StdRng::seed_from_u64(4);
    let mut table = table(&env).await;
    // The table is created before it is filled: version 0 has no rows, and does not count as the first.
    env.advance(Duration::from_millis(9));
    table.append(&[customers(&mut random, 60)]).await;
    let filled = env.unix_ms() * 1_000;
    env.advance(Duration::from_millis(9));
    table.replace(&[customers(&mut random, 60)], true).await;
    let early = at(&[(1, Some(filled - 1)), (2, Some(filled - 2_000_000)), (3, Some(filled - 9_000))]);
    let rows = [early.clone(), at(&[(3, Some(filled)), (4, None)])];
    for before_first in [BeforeFirst::Nothing, BeforeFirst::First] {
        let of_time = LookupSpec { as_of: Some(3), before_first, ..spec(JoinType::Left, false, false) };
        let mut lookup = Lookup::open(of_time.clone(), table.store(), room(PLENTY)).await.unwrap();
        lookup.prepare(&rows).await.unwrap();
        let found = shown(&lookup.apply(&rows[..1]).unwrap());
        let expected = match before_first {
            BeforeFirst::Nothing => shown(&rows[..1]).iter().map(|row| format!("{row}|NULL|NULL|NULL")).collect(),
            BeforeFirst::First => oracle(&table, 1, &of_time, &rows[..1]).await,
        };
        assert_eq!(found, expected);
        assert_eq!(lookup.too_early(), if before_first == BeforeFirst::First { 0 } else { 3 });
    }
}

#[tokio::test]
async fn versions_whose_files_are_gone_are_no_longer_joined() {
    let env = Env::manual(1_000_000, 5);
    let mut random = StdRng::seed_from_u64(5);
    let mut table = table(&env).await;
    let mut times = vec![env.unix_ms() * 1_000];
    let mut gone = Vec::new();
    for round in 0..6 {
        env.advance(Duration::from_millis(10));
        if round < 3 {
            gone.extend(table.files.clone());
        }
        table.replace(&[customers(&mut random, 60)], true).await;
        times.push(env.unix_ms() * 1_000);
    }
    for file in gone {
        let path = file.path.object().unwrap();
        object_store::ObjectStoreExt::delete(&table.store().object_store(), &path).await.unwrap();
    }
    let of_time = LookupSpec { as_of: Some(3), ..spec(JoinType::Left, false, false) };
    let mut lookup = Lookup::open(of_time.clone(), table.store(), room(PLENTY)).await.unwrap();
    let rows: Vec<_> = times.iter().map(|time| at(&[(1, Some(*time))])).collect();
    lookup.prepare(&rows).await.unwrap();
    assert_eq!(lookup.too_early(), 3, "files of versions 1 and 2 are gone; 0 is before them");
    for (version, row) in rows.iter().enumerate() {
        let found = shown(&lookup.apply(std::slice::from_ref(row)).unwrap());
        let expected = match version {
            0..=2 => vec![format!("{}|NULL|NULL|NULL", shown(std::slice::from_ref(row))[0])],
            _ => oracle(&table, version as u64, &of_time, std::slice::from_ref(row)).await,
        };
        assert_eq!(found, expected, "version {version}");
    }
}

#[tokio::test]
async fn versions_that_nobody_needs_take_no_memory() {
    let env = Env::manual(1_000_000, 1);
    let mut random = StdRng::seed_from_u64(1);
    let mut table = table(&env).await;
    let of_time = LookupSpec { as_of: Some(3), ..spec(JoinType::Inner, false, false) };
    let mut newest = Lookup::open(spec(JoinType::Inner, false, false), table.store(), room(PLENTY)).await.unwrap();
    let mut by_time = Lookup::open(of_time, table.store(), room(PLENTY)).await.unwrap();
    for _ in 0..30 {
        env.advance(Duration::from_millis(1));
        table.replace(&[customers(&mut random, 100)], true).await;
        newest.refresh().await.unwrap();
        by_time.refresh().await.unwrap();
    }
    assert_eq!(newest.usage().rows, 100);
    assert_eq!(by_time.usage().rows, 3_000);
    by_time.forget(Watermark(env.unix_ms() * 1_000)).unwrap();
    assert_eq!(by_time.usage(), newest.usage());
}

#[tokio::test]
async fn what_cannot_be_looked_up_is_said() {
    let env = Env::manual(1_000_000, 1);
    let mut random = StdRng::seed_from_u64(1);
    let mut table = table(&env).await;
    let plain = || spec(JoinType::Left, false, false);
    let refused = async |spec: LookupSpec, store: TableStore, limit| {
        Lookup::open(spec, store, limit).await.unwrap_err().message().to_owned()
    };
    let nowhere = TableStore::open("memory://w/nobody", &Default::default(), &env).unwrap();
    assert_eq!(refused(plain(), nowhere, room(PLENTY)).await, "no Delta table at `memory://w/nobody`");
    let mut wrong = plain();
    wrong.right = Arc::new(Schema::new(vec![
        Field::new("key", DataType::Int64, true),
        Field::new("grp", DataType::Utf8, true),
        Field::new("limits", DataType::Int64, true),
    ]));
    assert_eq!(refused(wrong, table.store(), room(PLENTY)).await, "lookup table `customers` has no column `limits`");
    let mut wrong = plain();
    wrong.left_keys = vec![0, 2];
    assert_eq!(refused(wrong, table.store(), room(PLENTY)).await, "lookup of `customers`: keys of different types");
    table.append(&[customers(&mut random, 500)]).await;
    let message = refused(plain(), table.store(), room(2_000)).await;
    assert_eq!(message, "lookup table `customers` does not fit into memory");
    // Two fit, each by itself.
    let one = Lookup::open(plain(), table.store(), room(PLENTY)).await.unwrap().usage().bytes;
    let budget = MemoryBudget::new(one * 3 / 2);
    let first = Lookup::open(plain(), table.store(), budget.pinned_share()).await.unwrap();
    let message = refused(plain(), table.store(), budget.pinned_share()).await;
    assert_eq!(message, "lookup table `customers` does not fit into memory");
    drop(first);
    Lookup::open(plain(), table.store(), budget.pinned_share()).await.unwrap();
}
