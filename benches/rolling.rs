//! Rolling features: CPU nanoseconds per row of the operator and of DataFusion's batch operator over the same rows.
//!
//! `cargo bench --bench rolling [-- --rows 1750000 --step 10000]`, or `-- --one-key 1000000` for frames of all rows of one
//! key. The rows are 183 days of card transactions in order of time by 5,000 customers at 10,000 terminals; CPU time is that
//! of the process, user and system.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a measurement that cannot be made stops")]

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, IntervalMonthDayNano, Schema, SchemaRef, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::functions_aggregate::average::avg_udaf;
use datafusion::functions_aggregate::bit_and_or_xor::bit_xor_udaf;
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::functions_aggregate::median::median_udaf;
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::logical_expr::{AggregateUDF, WindowFrame, WindowFrameBound, WindowFrameUnits};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateExprBuilder;
use datafusion::physical_expr::expressions::{Column, lit};
use datafusion::prelude::{SessionConfig, SessionContext};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use weir::operator::spec::{RollingEmit, RollingFunction, RollingKind, RollingSpec, TimeColumn};
use weir::operator::{Tick, rolling};
use weir::time::{EventTime, Lag, Watermark};

const DAYS: i64 = 183;
const MICROS: i64 = 86_400_000_000;

fn main() {
    let argument = |name: &str| {
        let mut arguments = std::env::args().skip_while(move |argument| argument != name);
        arguments.nth(1).and_then(|value| value.parse::<usize>().ok())
    };
    let rows = argument("--rows").unwrap_or(1_750_000);
    let step = argument("--step").unwrap_or(10_000);
    if let Some(rows) = argument("--one-key") {
        return one_key(rows, step);
    }
    let batch = transactions(rows);
    println!("{rows} rows in steps of {step}; CPU ns per row\n");
    let customers = [(0, 1), (0, 7), (0, 30)];
    let terminals = [(7, 8), (7, 14), (7, 37)];
    for emit in [RollingEmit::OnWatermark, RollingEmit::OnArrival] {
        let by_customer = streamed(&batch, &spec(&batch.schema(), 1, 3, &customers, emit), step);
        let by_terminal = streamed(&batch, &spec(&batch.schema(), 2, 4, &terminals, emit), step);
        println!("{emit:?}: 6 frames by customer {by_customer:.0}, 6 delayed by terminal {by_terminal:.0}");
    }
    let by_customer = in_batch(&batch, "customer", "amount", &customers);
    let by_terminal = in_batch(&batch, "terminal", "fraud", &terminals);
    println!("DataFusion: 6 frames by customer {by_customer:.0}, 6 delayed by terminal {by_terminal:.0}");
}

/// Frames of all rows so far of one key: shows functions whose cost per row grows with the frame.
fn one_key(rows: usize, step: usize) {
    let batch = transactions(rows);
    println!("{rows} rows of one key, frames of all of them, in steps of {step}; CPU ns per row\n");
    let named = |udaf: &Arc<AggregateUDF>, column: usize, distinct: bool| (Arc::clone(udaf), column, distinct);
    for (name, (udaf, column, distinct)) in [
        ("count(DISTINCT) of 5,000 values", named(&count_udaf(), 1, true)),
        ("count(DISTINCT) of all values", named(&count_udaf(), 0, true)),
        ("sum(DISTINCT)", named(&sum_udaf(), 3, true)),
        ("median", named(&median_udaf(), 3, false)),
        ("bit_xor", named(&bit_xor_udaf(), 1, false)),
    ] {
        let mut spec = spec(&batch.schema(), 1, 3, &[(0, 400)], RollingEmit::OnWatermark);
        let frame = spec.functions[0].frame.clone();
        let argument: Arc<dyn PhysicalExpr> = Arc::new(Column::new(spec.input.field(column).name(), column));
        let aggregate = AggregateExprBuilder::new(udaf, vec![argument]).schema(batch.schema()).alias("f");
        let aggregate = Arc::new(aggregate.with_distinct(distinct).build().unwrap());
        let mut fields: Vec<_> = spec.input.fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new("f", aggregate.field().data_type().clone(), true)));
        (spec.output, spec.keys) = (Arc::new(Schema::new(fields)), Vec::new());
        spec.functions = vec![RollingFunction { function: RollingKind::Aggregate(aggregate, None), frame }];
        println!("{name}: {:.0}", streamed(&batch, &spec, step));
    }
}

fn transactions(rows: usize) -> RecordBatch {
    let mut random = StdRng::seed_from_u64(42);
    let mut times: Vec<i64> =
        (0..rows).map(|_| random.random_range(0..DAYS * MICROS / 1_000_000) * 1_000_000).collect();
    times.sort_unstable();
    let schema = Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("customer", DataType::Int64, true),
        Field::new("terminal", DataType::Int64, true),
        Field::new("amount", DataType::Float64, true),
        Field::new("fraud", DataType::Float64, true),
        Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())), true),
    ]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(0..rows as i64)),
        Arc::new(Int64Array::from_iter_values((0..rows).map(|_| random.random_range(0..5_000)))),
        Arc::new(Int64Array::from_iter_values((0..rows).map(|_| random.random_range(0..10_000)))),
        Arc::new(Float64Array::from_iter_values((0..rows).map(|_| random.random_range(1..20_000) as f64 / 100.0))),
        Arc::new(Float64Array::from_iter_values((0..rows).map(|_| f64::from(u8::from(random.random_bool(0.01)))))),
        Arc::new(TimestampMicrosecondArray::from(times).with_timezone("+00:00")),
    ];
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

/// count and avg over frames that end and begin the given numbers of days before the row.
fn spec(input: &SchemaRef, key: usize, value: usize, frames: &[(i32, i32)], emit: RollingEmit) -> RollingSpec {
    let interval = |days| ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(0, days, 0)));
    let mut functions = Vec::new();
    let mut fields: Vec<_> = input.fields().iter().cloned().collect();
    for (end, start) in frames {
        let end = if *end == 0 { WindowFrameBound::CurrentRow } else { WindowFrameBound::Preceding(interval(*end)) };
        let start = WindowFrameBound::Preceding(interval(*start));
        let frame = WindowFrame::new_bounds(WindowFrameUnits::Range, start, end);
        let one: Arc<dyn PhysicalExpr> = lit(1i64);
        let value: Arc<dyn PhysicalExpr> = Arc::new(Column::new(input.field(value).name(), value));
        for (udaf, argument) in [(count_udaf(), one), (avg_udaf(), value)] {
            let aggregate =
                AggregateExprBuilder::new(udaf, vec![argument]).schema(Arc::clone(input)).alias("f").build();
            let aggregate = Arc::new(aggregate.unwrap());
            let name = format!("f{}", functions.len());
            fields.push(Arc::new(Field::new(name, aggregate.field().data_type().clone(), true)));
            functions.push(RollingFunction { function: RollingKind::Aggregate(aggregate, None), frame: frame.clone() });
        }
    }
    RollingSpec {
        input: Arc::clone(input),
        keys: vec![key],
        time: TimeColumn { column: 5, lag: Lag(0) },
        functions,
        emit,
        emits_late: false,
        ttl: None,
        collect_limit: 10_000,
        shown: None,
        output: Arc::new(Schema::new(fields)),
    }
}

fn streamed(batch: &RecordBatch, spec: &RollingSpec, step: usize) -> f64 {
    let times = batch.column(5).as_any().downcast_ref::<TimestampMicrosecondArray>().unwrap().values();
    let mut operator = rolling(spec.clone()).unwrap();
    let (mut before, mut out, start) = (Watermark::NONE, 0, cpu());
    for at in (0..batch.num_rows()).step_by(step) {
        let count = step.min(batch.num_rows() - at);
        let watermark = Watermark(times[at + count - 1]);
        let stepped =
            operator.step(vec![vec![batch.slice(at, count)]], Tick { before, watermark, now: EventTime(0) }).unwrap();
        out += stepped.rows.iter().map(RecordBatch::num_rows).sum::<usize>();
        // A snapshot now and then, as at the end of an epoch.
        if (at / step).is_multiple_of(10) {
            operator.changes().unwrap();
        }
        before = watermark;
    }
    let spent = (cpu() - start) * 1e9 / batch.num_rows() as f64;
    let usage = operator.usage();
    println!("  {out} rows out; {} remembered in {:.1} MB", usage.rows, usage.bytes as f64 / 1e6);
    spent
}

fn in_batch(batch: &RecordBatch, key: &str, value: &str, frames: &[(i32, i32)]) -> f64 {
    let select = frames.iter().map(|(end, start)| {
        let end = if *end == 0 { "CURRENT ROW".to_owned() } else { format!("INTERVAL '{end} days' PRECEDING") };
        let over =
            format!("(PARTITION BY {key} ORDER BY ts RANGE BETWEEN INTERVAL '{start} days' PRECEDING AND {end})");
        format!("count(*) OVER {over}, avg({value}) OVER {over}")
    });
    let text = format!("SELECT *, {} FROM t", select.collect::<Vec<_>>().join(", "));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let start = cpu();
    runtime.block_on(async {
        let session = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
        session.register_batch("t", batch.clone()).unwrap();
        let rows = session.sql(&text).await.unwrap().collect().await.unwrap();
        assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), batch.num_rows());
    });
    (cpu() - start) * 1e9 / batch.num_rows() as f64
}

/// CPU seconds of this process.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux has /proc");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // utime and stime, in hundredths of seconds.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}
