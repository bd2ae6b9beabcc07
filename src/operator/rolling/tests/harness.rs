//! Streams, shards that crash and restart, specs from SQL, and comparison with DataFusion.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, UInt64Array,
};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef, TimeUnit};
use arrow::row::{RowConverter, SortField};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::expr::{NullTreatment, WindowFunction};
use datafusion::logical_expr::{Expr, LogicalPlan, WindowFunctionDefinition};
use datafusion::physical_expr::aggregate::AggregateExprBuilder;
use datafusion::physical_expr::expressions::Column;
use datafusion::prelude::{SessionConfig, SessionContext};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::equality::key_values;
use crate::operator::rolling::rolling;
use crate::operator::spec::{RollingEmit, RollingFunction, RollingKind, RollingSpec, TimeColumn};
use crate::operator::{Operator, Tick};
use crate::state::{StateChange, StateTable, key_groups, shard_of};
use crate::time::{EventTime, Lag, Watermark};

pub const ID: usize = 0;
pub const KEY: usize = 1;
pub const TIME: usize = 2;
pub const SECOND: i64 = 1_000_000;

/// id, key, time, then: `v` doubles without special values, `w` with all of them, integers, decimals, strings.
pub fn schema(key: DataType) -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("k", key, true),
        Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())), true),
        Field::new("v", DataType::Float64, true),
        Field::new("w", DataType::Float64, true),
        Field::new("n", DataType::Int64, true),
        Field::new("d", DataType::Decimal128(12, 2), true),
        Field::new("s", DataType::Utf8, true),
    ]))
}

pub struct Shape {
    pub rows: usize,
    pub keys: i64,
    /// Maximum distance in time of a row from its predecessor, microseconds.
    pub gap: i64,
    /// Maximum delay of a row that is not late, microseconds.
    pub lag: i64,
    /// Times are multiples of this, so that there are ties.
    pub grain: i64,
    pub text_keys: bool,
}

/// Rows in order of arrival, and the watermark after each.
pub fn stream(random: &mut StdRng, shape: &Shape) -> (RecordBatch, Vec<Watermark>) {
    let mut clock = 1_700_000_000 * SECOND;
    let (mut keys, mut times, mut watermarks) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..shape.rows {
        clock += random.random_range(0..=shape.gap) / shape.grain * shape.grain;
        let skewed = random.random_range(0..shape.keys).min(random.random_range(0..shape.keys));
        keys.push(if random.random_bool(0.05) { None } else { Some(skewed) });
        times.push(clock - random.random_range(0..=shape.lag) / shape.grain * shape.grain);
        watermarks.push(Watermark(clock - shape.lag));
    }
    let n = shape.rows;
    let surprises = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300, 1e-300, -0.0, 0.0];
    let v = (0..n).map(|_| maybe(random, |r| r.random_range(-100_000..100_000) as f64 / 100.0));
    let v = v.collect::<Float64Array>();
    let w = (0..n).map(|_| {
        maybe(random, |r| match r.random_bool(0.2) {
            true => surprises[r.random_range(0..surprises.len())],
            false => r.random_range(-100.0..100.0),
        })
    });
    let w = w.collect::<Float64Array>();
    let ints = (0..n).map(|_| maybe(random, |r| r.random_range(-3..1000))).collect::<Int64Array>();
    let decimals = (0..n).map(|_| maybe(random, |r| r.random_range(-99_999..99_999))).collect::<Decimal128Array>();
    let texts = (0..n).map(|_| maybe(random, |r| format!("s{}", r.random_range(0..30)))).collect::<StringArray>();
    let key: ArrayRef = match shape.text_keys {
        true => Arc::new(keys.iter().map(|k| k.map(|k| format!("key {k}"))).collect::<StringArray>()),
        false => Arc::new(Int64Array::from(keys)),
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(0..n as i64)),
        Arc::clone(&key),
        Arc::new(TimestampMicrosecondArray::from(times).with_timezone("+00:00")),
        Arc::new(v),
        Arc::new(w),
        Arc::new(ints),
        Arc::new(decimals.with_precision_and_scale(12, 2).unwrap()),
        Arc::new(texts),
    ];
    (RecordBatch::try_new(schema(key.data_type().clone()), columns).unwrap(), watermarks)
}

fn maybe<T>(random: &mut StdRng, some: impl FnOnce(&mut StdRng) -> T) -> Option<T> {
    if random.random_bool(0.15) { None } else { Some(some(random)) }
}

/// A session that queries a batch. Its zeros are normalized, since DataFusion's windows tell them apart.
pub fn session(batch: &RecordBatch) -> SessionContext {
    let columns = batch.columns().iter().map(key_values).collect();
    let batch = RecordBatch::try_new(batch.schema(), columns).unwrap();
    let session = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    session.register_batch("t", batch).unwrap();
    session
}

/// The functions of a spec, from their SQL: (function, OVER clause).
pub async fn functions(session: &SessionContext, input: &SchemaRef, sql: &[(&str, &str)]) -> Vec<RollingFunction> {
    let mut functions = Vec::new();
    for (function, over) in sql {
        let text = format!("SELECT {function} OVER ({over}) FROM t");
        let plan = session.state().create_logical_plan(&text).await.unwrap();
        let plan =
            session.state().analyzer().execute_and_check(plan, session.state().config_options(), |_, _| {}).unwrap();
        let mut found = None;
        plan.apply(|node| {
            if let LogicalPlan::Window(window) = node {
                let mut expression = window.window_expr[0].clone();
                while let Expr::Alias(alias) = expression {
                    expression = *alias.expr;
                }
                found = Some(expression);
            }
            Ok(TreeNodeRecursion::Continue)
        })
        .unwrap();
        let Some(Expr::WindowFunction(function)) = found else { panic!("no window in {text}") };
        functions.push(compiled(session, input, &function));
    }
    functions
}

fn compiled(session: &SessionContext, input: &SchemaRef, function: &WindowFunction) -> RollingFunction {
    let named = DFSchema::try_from_qualified_schema("t", input).unwrap();
    let physical = |expr: &Expr| session.state().create_physical_expr(expr.clone(), &named).unwrap();
    let params = &function.params;
    let ignore_nulls = params.null_treatment == Some(NullTreatment::IgnoreNulls);
    let literal = |at: usize| match params.args.get(at) {
        Some(Expr::Literal(value, _)) => Some(value.clone()),
        Some(Expr::Negative(inner)) => match inner.as_ref() {
            Expr::Literal(value, _) => Some(value.arithmetic_negate().unwrap()),
            other => panic!("no literal: {other}"),
        },
        Some(other) => panic!("no literal: {other}"),
        None => None,
    };
    let column = || physical(&params.args[0]).downcast_ref::<Column>().unwrap().index();
    let kind = match &function.fun {
        WindowFunctionDefinition::AggregateUDF(udaf) => {
            let aggregate = AggregateExprBuilder::new(Arc::clone(udaf), params.args.iter().map(physical).collect())
                .schema(Arc::clone(input))
                .alias("f")
                .with_distinct(params.distinct)
                .with_ignore_nulls(ignore_nulls)
                .build()
                .unwrap();
            RollingKind::Aggregate(Arc::new(aggregate), params.filter.as_deref().map(physical))
        }
        WindowFunctionDefinition::WindowUDF(udwf) => match udwf.name() {
            "row_number" => RollingKind::RowNumber,
            "first_value" => RollingKind::FirstValue { column: column(), ignore_nulls },
            "last_value" => RollingKind::LastValue { column: column(), ignore_nulls },
            "nth_value" => {
                let n = literal(1).map_or(1, |n| i64::try_from(n).unwrap());
                RollingKind::NthValue { column: column(), n, ignore_nulls }
            }
            name @ ("lag" | "lead") => {
                let by = literal(1).map_or(1, |by| i64::try_from(by).unwrap());
                let (column, default) = (column(), literal(2).unwrap_or(ScalarValue::Null));
                match (name, ignore_nulls) {
                    ("lag", true) => RollingKind::LagOfValues { column, offset: by, default },
                    ("lag", false) => RollingKind::Lag { column, offset: by, default },
                    _ => RollingKind::Lag { column, offset: -by, default },
                }
            }
            other => panic!("{other}"),
        },
    };
    RollingFunction { function: kind, frame: params.window_frame.clone() }
}

pub fn spec(input: &SchemaRef, functions: Vec<RollingFunction>, emit: RollingEmit, ttl: Option<i64>) -> RollingSpec {
    let mut fields: Vec<_> = input.fields().iter().cloned().collect();
    for (index, function) in functions.iter().enumerate() {
        let of = match &function.function {
            RollingKind::Aggregate(aggregate, _) => aggregate.field().data_type().clone(),
            RollingKind::RowNumber => DataType::UInt64,
            RollingKind::Lag { column, .. }
            | RollingKind::LagOfValues { column, .. }
            | RollingKind::FirstValue { column, .. }
            | RollingKind::LastValue { column, .. }
            | RollingKind::NthValue { column, .. } => input.field(*column).data_type().clone(),
        };
        fields.push(Arc::new(Field::new(format!("f{index}"), of, true)));
    }
    RollingSpec {
        input: Arc::clone(input),
        keys: vec![KEY],
        time: TimeColumn { column: TIME, lag: Lag(0) },
        functions,
        emit,
        emits_late: true,
        ttl: ttl.map(Lag),
        collect_limit: 10_000,
        shown: None,
        output: Arc::new(Schema::new(fields)),
    }
}

/// The state that survives a crash: the live rows of each state table, by key.
#[derive(Default)]
pub struct Durable {
    tables: HashMap<usize, HashMap<Vec<u8>, RecordBatch>>,
}

impl Durable {
    fn keys(columns: &[ArrayRef]) -> Vec<Vec<u8>> {
        let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
        let rows = RowConverter::new(fields).unwrap().convert_columns(columns).unwrap();
        rows.iter().map(|row| row.as_ref().to_vec()).collect()
    }

    pub fn apply(&mut self, tables: &[StateTable], changes: Vec<StateChange>) {
        for change in changes {
            let of = &tables[change.table];
            let live = self.tables.entry(change.table).or_default();
            for rows in &change.upserts {
                assert_eq!(rows.schema(), of.schema, "rows of {}", of.name);
                let columns: Vec<_> = of.key.iter().map(|at| Arc::clone(rows.column(*at))).collect();
                for (row, key) in Self::keys(&columns).into_iter().enumerate() {
                    let before = live.insert(key, rows.slice(row, 1));
                    assert!(before.is_none() || !of.append_only, "{} was written twice", of.name);
                }
            }
            for rows in &change.deletes {
                assert!(!of.append_only, "{} has tombstones", of.name);
                for key in Self::keys(rows.columns()) {
                    assert!(live.remove(&key).is_some(), "a tombstone in {} names no row", of.name);
                }
            }
            if let Some(time) = of.time {
                let time_of = |row: &RecordBatch| EventTime(super::super::waiting::times(row.column(time))[0]);
                live.retain(|_, row| !time_of(row).is_below(change.cutoff));
            }
        }
    }

    pub fn rows(&self) -> usize {
        self.tables.values().map(HashMap::len).sum()
    }

    pub fn restore(&self, spec: &RollingSpec, shards: usize, watermark: Watermark) -> Vec<Box<dyn Operator>> {
        let mut operators: Vec<_> = (0..shards).map(|_| rolling(spec.clone()).unwrap()).collect();
        let tables = operators[0].state();
        for (table, rows) in &self.tables {
            if rows.is_empty() {
                continue;
            }
            let all = concat_batches(&tables[*table].schema, rows.values()).unwrap();
            let routing = &all.columns()[..tables[*table].routing];
            for (shard, part) in route(&all, routing, shards).into_iter().enumerate() {
                operators[shard].restore(*table, part, watermark).unwrap();
            }
        }
        operators
    }
}

pub fn route(rows: &RecordBatch, by: &[ArrayRef], shards: usize) -> Vec<RecordBatch> {
    let groups = key_groups(by, rows.num_rows()).unwrap();
    let part = |shard: usize| {
        let picks = (0..rows.num_rows()).filter(|row| shard_of(groups[*row], shards) == shard);
        take_record_batch(rows, &UInt64Array::from_iter_values(picks.map(|row| row as u64))).unwrap()
    };
    (0..shards).map(part).collect()
}

/// Runs a stream in random steps with random crashes; returns the output, step by step.
pub fn run(random: &mut StdRng, spec: &RollingSpec, rows: &RecordBatch, watermarks: &[Watermark]) -> Vec<RecordBatch> {
    let mut shards = random.random_range(1..4);
    let mut operators: Vec<_> = (0..shards).map(|_| rolling(spec.clone()).unwrap()).collect();
    let tables = operators[0].state();
    let (mut durable, mut out) = (Durable::default(), Vec::new());
    let (mut at, mut before) = (0, Watermark::NONE);
    let largest = [3, 20, 200][random.random_range(0..3)];
    while before != Watermark::END {
        let count = random.random_range(0..=largest).min(rows.num_rows() - at);
        let step = rows.slice(at, count);
        at += count;
        let watermark = match at {
            0 => before,
            _ if at == rows.num_rows() && count == 0 => Watermark::END,
            _ if random.random_bool(0.2) => before,
            _ => watermarks[at - 1].max(before),
        };
        for (shard, part) in route(&step, &[Arc::clone(step.column(KEY))], shards).into_iter().enumerate() {
            let cut = random.random_range(0..=part.num_rows());
            let parts = vec![part.slice(0, cut), part.slice(cut, part.num_rows() - cut)];
            let stepped = operators[shard].step(vec![parts], Tick { before, watermark, now: EventTime(0) }).unwrap();
            assert!(stepped.late.is_empty());
            out.extend(stepped.rows);
        }
        before = watermark;
        if random.random_bool(0.3) {
            for operator in &mut operators {
                durable.apply(&tables, operator.changes().unwrap());
            }
            if random.random_bool(0.4) {
                shards = random.random_range(1..4);
                operators = durable.restore(spec, shards, before);
            }
        }
    }
    out
}

/// Rows sorted by id.
pub fn by_id(schema: &SchemaRef, rows: &[RecordBatch]) -> RecordBatch {
    let all = concat_batches(schema, rows).unwrap();
    let ids = all.column(ID).as_primitive::<Int64Type>().values();
    let mut order: Vec<u64> = (0..all.num_rows() as u64).collect();
    order.sort_by_key(|row| ids[*row as usize]);
    take_record_batch(&all, &UInt64Array::from(order)).unwrap()
}

/// Asserts equality; doubles may differ by 1e-9.
pub fn assert_same(left: &ArrayRef, right: &ArrayRef, what: &str) {
    assert_eq!(left.data_type(), right.data_type(), "{what}");
    assert_eq!(left.len(), right.len(), "{what}");
    if *left.data_type() != DataType::Float64 {
        assert_eq!(left, right, "{what}");
        return;
    }
    let (left, right) = (left.as_primitive::<Float64Type>(), right.as_primitive::<Float64Type>());
    for (row, (one, other)) in left.iter().zip(right).enumerate() {
        let same = match (one, other) {
            (None, None) => true,
            (Some(one), Some(other)) => {
                one == other
                    || one.is_nan() && other.is_nan()
                    || (one - other).abs() <= 1e-9 * one.abs().max(other.abs()).max(1.0)
            }
            _ => false,
        };
        assert!(same, "{what}, row {row}: {one:?} is not {other:?}");
    }
}

pub fn seeded(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Some rows.
pub fn pick(rows: &RecordBatch, picks: Vec<u64>) -> RecordBatch {
    take_record_batch(rows, &UInt64Array::from(picks)).unwrap()
}
