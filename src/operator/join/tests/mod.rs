//! Joins against DataFusion's result over all the input, for any cuts, restarts and shards.

mod bounded;
mod unbounded;
mod newest;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::datasource::MemTable;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, binary};
use datafusion::prelude::SessionContext;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::operator::{Operator, Stepped, Tick, WEIGHT};
use crate::state::{StateChange, StateTable, key_groups, shard_of};
use crate::time::{EventTime, Watermark};

/// A row of either side: key, id, value, time.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) key: Option<String>,
    pub(super) id: i64,
    pub(super) value: Option<f64>,
    pub(super) time: Option<i64>,
}

/// A row that arrives at a port, or is retracted.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) port: usize,
    pub(super) row: Row,
    pub(super) weight: i64,
}

/// Parameters of random rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Input {
    pub(super) rows: usize,
    pub(super) retract: [bool; 2],
    pub(super) lags: [i64; 2],
    pub(super) null_times: bool,
    /// Rows may equal each other in every column.
    pub(super) duplicates: bool,
}

pub(super) const KEY: usize = 0;
pub(super) const TIME: usize = 3;

/// The schema of a side, `l` or `r`.
pub(super) fn schema(side: usize, retract: bool) -> SchemaRef {
    let name = |column: &str| format!("{}_{column}", ["l", "r"][side]);
    let mut fields = vec![
        Field::new(name("k"), DataType::Utf8, true),
        Field::new(name("id"), DataType::Int64, true),
        Field::new(name("v"), DataType::Float64, true),
        Field::new(name("ts"), DataType::Timestamp(TimeUnit::Microsecond, None), true),
    ];
    if retract {
        fields.push(Field::new(WEIGHT, DataType::Int64, false));
    }
    Arc::new(Schema::new(fields))
}

/// `l_v < r_v`, over left columns then right columns.
pub(super) fn filter() -> Arc<dyn PhysicalExpr> {
    use datafusion::logical_expr::Operator::Lt;
    let schema = Schema::new([schema(0, false).fields().to_vec(), schema(1, false).fields().to_vec()].concat());
    binary(Arc::new(Column::new("l_v", 2)), Lt, Arc::new(Column::new("r_v", 6)), &schema).unwrap()
}

pub(super) fn batch(side: usize, retract: bool, events: &[&Event]) -> RecordBatch {
    let rows = || events.iter().map(|event| &event.row);
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(rows().map(|row| row.key.clone()).collect::<StringArray>()),
        Arc::new(rows().map(|row| Some(row.id)).collect::<Int64Array>()),
        Arc::new(rows().map(|row| row.value).collect::<Float64Array>()),
        Arc::new(rows().map(|row| row.time).collect::<TimestampMicrosecondArray>()),
    ];
    if retract {
        columns.push(Arc::new(events.iter().map(|event| Some(event.weight)).collect::<Int64Array>()));
    }
    RecordBatch::try_new(schema(side, retract), columns).unwrap()
}

pub(super) fn random_events(rng: &mut StdRng, input: Input) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    let mut alive: [Vec<Row>; 2] = [Vec::new(), Vec::new()];
    let mut now = 0;
    for number in 0..input.rows {
        let port = rng.random_range(0..2);
        now += rng.random_range(0..4);
        if input.retract[port] && rng.random_bool(0.35) && !alive[port].is_empty() {
            let victim = rng.random_range(0..alive[port].len());
            events.push(Event { port, row: alive[port].swap_remove(victim), weight: -1 });
            continue;
        }
        // A frequent key, a few others, and nulls.
        let key = match rng.random_range(0..10) {
            0 => None,
            1..4 => Some("hot".to_owned()),
            _ => Some(format!("key {}", rng.random_range(0..8))),
        };
        let value = match rng.random_range(0..12) {
            0 => None,
            1 => Some(f64::NAN),
            _ => Some(f64::from(rng.random_range(0..6))),
        };
        let time = Some(now - rng.random_range(0..6)).filter(|_| !(input.null_times && rng.random_bool(0.03)));
        let mut row = Row { key, id: number as i64, value, time };
        if input.duplicates && rng.random_bool(0.3) && !alive[port].is_empty() {
            row = alive[port][rng.random_range(0..alive[port].len())].clone();
        }
        let weight = if input.retract[port] && rng.random_bool(0.1) { 2 } else { 1 };
        alive[port].extend(std::iter::repeat_n(row.clone(), weight as usize));
        events.push(Event { port, row, weight });
    }
    if input.retract == [false, false] {
        // Later duplicates of old rows would be late.
        let lowest = |event: &Event| event.row.time.unwrap_or(0) / 16;
        events.sort_by_key(lowest);
    }
    events
}

/// For each event, the highest watermark that may precede it.
fn watermarks(events: &[Event], lags: [i64; 2]) -> Vec<Watermark> {
    let mut highest = Watermark::END;
    let mut watermarks = vec![Watermark::END; events.len() + 1];
    for (number, event) in events.iter().enumerate().rev() {
        if let Some(time) = event.row.time {
            highest = highest.min(Watermark(time + lags[event.port]));
        }
        watermarks[number] = highest;
    }
    watermarks
}

/// One table in the state store.
struct StoredTable {
    table: StateTable,
    rows: BTreeMap<Vec<u8>, RecordBatch>,
}

impl StoredTable {
    fn keys(&self, batch: &RecordBatch, columns: &[usize]) -> Vec<Vec<u8>> {
        let arrays: Vec<ArrayRef> = columns.iter().map(|&column| Arc::clone(batch.column(column))).collect();
        let fields = arrays.iter().map(|array| SortField::new(array.data_type().clone())).collect();
        let rows = RowConverter::new(fields).unwrap().convert_columns(&arrays).unwrap();
        rows.iter().map(|row| row.as_ref().to_vec()).collect()
    }

    fn apply(&mut self, change: &StateChange) {
        let mut seen = std::collections::HashSet::new();
        for batch in &change.deletes {
            assert!(!self.table.append_only, "an append-only table has deletes");
            let columns: Vec<usize> = (0..batch.num_columns()).collect();
            for key in self.keys(batch, &columns) {
                self.rows.remove(&key);
                assert!(seen.insert(key), "a key is deleted twice");
            }
        }
        for batch in &change.upserts {
            assert_eq!(batch.schema(), self.table.schema);
            for (number, key) in self.keys(batch, &self.table.key.clone()).into_iter().enumerate() {
                assert!(seen.insert(key.clone()), "a key changes twice");
                let known = self.rows.insert(key, batch.slice(number, 1)).is_some();
                assert!(!(known && self.table.append_only), "an append-only table has a key written twice");
            }
        }
        if let Some(time) = self.table.time {
            self.rows.retain(|_, row| !time_of(row.column(time)).is_below(change.cutoff));
        }
    }
}

fn time_of(column: &ArrayRef) -> EventTime {
    let column = match column.data_type() {
        DataType::Int64 => column.as_primitive::<Int64Type>().clone(),
        _ => column.as_primitive::<TimestampMicrosecondType>().reinterpret_cast::<Int64Type>(),
    };
    if column.is_null(0) { EventTime::MAX } else { EventTime(column.value(0)) }
}

/// A sharded operator with its state store.
pub(super) struct Run<'a> {
    make: &'a dyn Fn() -> Box<dyn Operator>,
    shards: Vec<Box<dyn Operator>>,
    store: Vec<StoredTable>,
    keys: [Vec<usize>; 2],
    watermark: Watermark,
    /// Output rows as strings, with the sums of their weights.
    pub(super) output: BTreeMap<String, i64>,
    weighted: bool,
}

impl<'a> Run<'a> {
    pub(super) fn new(make: &'a dyn Fn() -> Box<dyn Operator>, keys: [Vec<usize>; 2], weighted: bool) -> Self {
        let store = make().state().into_iter().map(|table| StoredTable { table, rows: BTreeMap::new() }).collect();
        let (shards, output) = (vec![make()], BTreeMap::new());
        Self { make, shards, store, keys, watermark: Watermark::NONE, output, weighted }
    }

    pub(super) fn step(&mut self, inputs: &[Vec<RecordBatch>; 2], watermark: Watermark) {
        let count = self.shards.len();
        let tick = Tick { before: self.watermark, watermark, now: EventTime(0) };
        self.watermark = watermark;
        for shard in 0..count {
            let part = |port: usize| -> Vec<RecordBatch> {
                let keys = &self.keys[port];
                inputs[port].iter().map(|batch| routed(batch, keys, shard, count)).collect()
            };
            let stepped = self.shards[shard].whole_step(vec![part(0), part(1)], tick).unwrap();
            self.collect(&stepped);
        }
    }

    fn collect(&mut self, stepped: &Stepped) {
        assert!(stepped.late.is_empty(), "no row is late");
        let mut step: BTreeMap<String, i64> = BTreeMap::new();
        for batch in &stepped.rows {
            for (row, weight) in lines(batch, self.weighted) {
                assert_ne!(weight, 0);
                let before = *step.get(&row).unwrap_or(&0);
                assert!(before.signum() * weight.signum() >= 0, "a step gives and takes back `{row}`");
                *step.entry(row).or_default() += weight;
            }
        }
        for (row, weight) in step {
            *self.output.entry(row).or_default() += weight;
        }
        self.output.retain(|_, weight| *weight != 0);
    }

    /// Writes the changes to the store.
    pub(super) fn checkpoint(&mut self) {
        for shard in &mut self.shards {
            for change in shard.changes().unwrap() {
                self.store[change.table].apply(&change);
            }
        }
    }

    /// Restarts from the store, with `count` shards.
    pub(super) fn restart(&mut self, count: usize, rng: &mut StdRng) {
        self.shards = (0..count).map(|_| (self.make)()).collect();
        for (number, stored) in self.store.iter().enumerate() {
            let routing: Vec<usize> = (0..stored.table.routing).collect();
            let rows: Vec<&RecordBatch> = stored.rows.values().collect();
            for part in rows.chunks(rng.random_range(1..40)) {
                let part = arrow::compute::concat_batches(&stored.table.schema, part.iter().copied()).unwrap();
                for (shard, operator) in self.shards.iter_mut().enumerate() {
                    operator.restore(number, routed(&part, &routing, shard, count), self.watermark).unwrap();
                }
            }
        }
    }

    pub(super) fn state_rows(&self) -> u64 {
        self.shards.iter().map(|shard| shard.usage().rows).sum()
    }
}

fn routed(batch: &RecordBatch, keys: &[usize], shard: usize, shards: usize) -> RecordBatch {
    let columns: Vec<ArrayRef> = keys.iter().map(|&key| Arc::clone(batch.column(key))).collect();
    let groups = key_groups(&columns, batch.num_rows()).unwrap();
    let wanted = groups.iter().enumerate().filter(|(_, group)| shard_of(**group, shards) == shard);
    take_record_batch(batch, &wanted.map(|(row, _)| row as u32).collect::<UInt32Array>()).unwrap()
}

/// Rows as strings, with their weights.
pub(super) fn lines(batch: &RecordBatch, weighted: bool) -> Vec<(String, i64)> {
    let columns = batch.num_columns() - usize::from(weighted);
    let options = FormatOptions::default().with_null("-");
    let formatters: Vec<_> =
        batch.columns()[..columns].iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
    let weights = weighted.then(|| batch.column(columns).as_primitive::<Int64Type>());
    let line = |row: usize| formatters.iter().map(|f| f.value(row).to_string()).collect::<Vec<_>>().join(" | ");
    (0..batch.num_rows()).map(|row| (line(row), weights.map_or(1, |weights| weights.value(row)))).collect()
}

/// Runs the events in random micro-batches, with random restarts. `after` gets each prefix that has been processed.
pub(super) fn play(
    run: &mut Run<'_>,
    events: &[Event],
    input: Input,
    rng: &mut StdRng,
    mut after: impl FnMut(&Run<'_>, &[Event], &mut StdRng),
) {
    let limits = watermarks(events, input.lags);
    let mut done = 0;
    while done < events.len() {
        let end = (done + rng.random_range(0..30)).min(events.len());
        let inputs = [0, 1].map(|port| {
            let here: Vec<&Event> = events[done..end].iter().filter(|event| event.port == port).collect();
            let cut = rng.random_range(0..=here.len());
            let parts = [&here[..cut], &here[cut..]].into_iter().filter(|part| !part.is_empty());
            parts.map(|part| batch(port, input.retract[port], part)).collect()
        });
        let limit = limits[end];
        let lower = if limit == Watermark::END { limit } else { Watermark(limit.0 - rng.random_range(0..4)) };
        run.step(&inputs, lower.max(run.watermark));
        done = end;
        if rng.random_bool(0.4) {
            run.checkpoint();
            if rng.random_bool(0.4) {
                run.restart(rng.random_range(1..5), rng);
            }
        }
        after(run, &events[..done], rng);
    }
    run.step(&[Vec::new(), Vec::new()], Watermark::END);
}

/// DataFusion's result over the rows that remain of the events; rows as strings with their counts.
pub(super) fn answer(sql: &str, events: &[Event]) -> BTreeMap<String, i64> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let config = datafusion::prelude::SessionConfig::new().with_target_partitions(1);
    let context = SessionContext::new_with_config(config);
    for port in 0..2 {
        let mut remaining: Vec<(&Event, i64)> = Vec::new();
        for event in events.iter().filter(|event| event.port == port) {
            let text = format!("{:?}", event.row);
            let same = |(known, weight): &&mut (&Event, i64)| *weight > 0 && format!("{:?}", known.row) == text;
            match remaining.iter_mut().filter(|_| event.weight < 0).find(same) {
                Some((_, weight)) => *weight += event.weight,
                None => remaining.push((event, event.weight)),
            }
        }
        let rows: Vec<&Event> =
            remaining.iter().flat_map(|&(event, weight)| std::iter::repeat_n(event, weight as usize)).collect();
        let table = MemTable::try_new(schema(port, false), vec![vec![batch(port, false, &rows)]]).unwrap();
        context.register_table(["l", "r"][port], Arc::new(table)).unwrap();
    }
    let batches = runtime.block_on(async { context.sql(sql).await.unwrap().collect().await.unwrap() });
    let mut answer = BTreeMap::new();
    for (row, count) in batches.iter().flat_map(|batch| lines(batch, false)) {
        *answer.entry(row).or_default() += count;
    }
    answer
}

/// Checks a property for many seeds; prints the seed on failure.
pub(super) fn for_seeds(count: u64, claim: impl Fn(&mut StdRng)) {
    for seed in 0..count {
        let outcome =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| claim(&mut StdRng::seed_from_u64(seed))));
        if let Err(panic) = outcome {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
