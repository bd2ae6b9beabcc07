//! Random input, and its result computed in batch.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, StringArray,
    TimestampMicrosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;
use arrow::util::display::array_value_to_string;
use datafusion::common::ScalarValue;
use datafusion::datasource::MemTable;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Accumulator, LogicalPlan, Volatility, create_udaf};
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion::prelude::SessionContext;
use rand::Rng;
use rand::rngs::StdRng;

use crate::operator::WEIGHT;
use crate::operator::spec::AggregateSpec;

pub const WINDOW: i64 = 100_000;
pub const DISORDER: i64 = 30_000;

/// One input row.
#[derive(Debug, Clone)]
pub struct Row {
    pub id: i64,
    pub k_str: Option<String>,
    pub k_int: Option<i64>,
    pub k_float: Option<f64>,
    pub ts: i64,
    pub x: Option<i64>,
    pub f: Option<f64>,
    pub s: Option<String>,
    pub d: Option<i128>,
    pub b: Option<bool>,
    /// A window start other than the tumbling one.
    pub start: Option<Option<i64>>,
    pub weight: i64,
}

/// Parameters of random rows.
#[derive(Debug, Clone, Copy)]
pub struct Taste {
    pub keys: i64,
    pub specials: bool,
    pub step: i64,
}

impl Row {
    pub fn random(random: &mut StdRng, id: i64, taste: Taste) -> Self {
        // Half of the rows have one of two keys.
        let key = if random.random_bool(0.5) { random.random_range(0..2) } else { random.random_range(0..taste.keys) };
        let ts = id * taste.step - random.random_range(0..DISORDER);
        let float = |random: &mut StdRng| match random.random_range(0..40) {
            0 if taste.specials => f64::NAN,
            1 if taste.specials => f64::INFINITY,
            _ => f64::from(random.random_range(-400..400)) / 4.0,
        };
        let some = |random: &mut StdRng| random.random_bool(0.85);
        Self {
            id,
            k_str: some(random).then(|| "key-".repeat(key as usize % 4) + &key.to_string()),
            k_int: some(random).then_some(key / 2),
            k_float: some(random).then(|| [0.0, -0.0, f64::NAN, 1.5][key as usize % 4]),
            ts,
            x: some(random).then(|| random.random_range(-9..9)),
            f: some(random).then(|| float(random)),
            s: some(random).then(|| format!("s{}", random.random_range(0..12))),
            d: some(random).then(|| random.random_range(-99_999..99_999)),
            b: some(random).then(|| random.random()),
            start: None,
            weight: 1,
        }
    }

    pub fn window_start(&self) -> Option<i64> {
        self.start.unwrap_or_else(|| Some(self.ts.div_euclid(WINDOW) * WINDOW))
    }
}

pub fn schema(retract: bool) -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let mut fields = vec![
        Field::new("id", DataType::Int64, false),
        Field::new("k_str", DataType::Utf8, true),
        Field::new("k_int", DataType::Int64, true),
        Field::new("k_float", DataType::Float64, true),
        Field::new("ts", time.clone(), false),
        Field::new("window_start", time.clone(), true),
        Field::new("window_end", time, true),
        Field::new("second", DataType::Int64, true),
        Field::new("nanos", DataType::Timestamp(TimeUnit::Nanosecond, None), true),
        Field::new("day", DataType::Date32, true),
        Field::new("x", DataType::Int64, true),
        Field::new("f", DataType::Float64, true),
        Field::new("s", DataType::Utf8, true),
        Field::new("d", DataType::Decimal128(10, 2), true),
        Field::new("b", DataType::Boolean, true),
    ];
    if retract {
        fields.push(Field::new(WEIGHT, DataType::Int64, false));
    }
    Arc::new(Schema::new(fields))
}

pub fn batch(rows: &[Row], schema: &SchemaRef) -> RecordBatch {
    let times = |time: &dyn Fn(&Row) -> Option<i64>| {
        Arc::new(rows.iter().map(time).collect::<TimestampMicrosecondArray>().with_timezone("UTC")) as ArrayRef
    };
    let starts = times(&Row::window_start);
    let nanos = cast(&starts, &DataType::Timestamp(TimeUnit::Nanosecond, None)).unwrap();
    let day = |row: &Row| Some(row.ts.div_euclid(WINDOW) as i32);
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| Some(row.id)).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.k_str.clone()).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.k_int).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.k_float).collect::<Float64Array>()),
        times(&|row| Some(row.ts)),
        starts,
        times(&|row| row.window_start().map(|start| start + WINDOW)),
        Arc::new(rows.iter().map(|row| Some(row.ts.div_euclid(1000) * 1000)).collect::<Int64Array>()),
        nanos,
        Arc::new(rows.iter().map(day).collect::<Date32Array>()),
        Arc::new(rows.iter().map(|row| row.x).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.f).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.s.clone()).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.d).collect::<Decimal128Array>().with_data_type(DataType::Decimal128(10, 2))),
        Arc::new(rows.iter().map(|row| row.b).collect::<BooleanArray>()),
    ];
    if schema.fields().len() > columns.len() {
        columns.push(Arc::new(rows.iter().map(|row| Some(row.weight)).collect::<Int64Array>()));
    }
    RecordBatch::try_new(Arc::clone(schema), columns).unwrap()
}

pub fn sql(keys: &[&str], aggregates: &[&str]) -> String {
    let named = aggregates.iter().enumerate().map(|(number, aggregate)| format!("{aggregate} AS a{number}"));
    let columns: Vec<String> = keys.iter().map(|key| (*key).to_owned()).chain(named).collect();
    let group_by = if keys.is_empty() { String::new() } else { format!(" GROUP BY {}", keys.join(", ")) };
    format!("SELECT {} FROM t{group_by}", columns.join(", "))
}

/// A user-defined aggregate.
#[derive(Debug, Default)]
struct SumOfSquares(i64);

impl Accumulator for SumOfSquares {
    fn update_batch(&mut self, values: &[ArrayRef]) -> datafusion::error::Result<()> {
        self.0 += values[0].as_primitive::<Int64Type>().iter().flatten().map(|value| value * value).sum::<i64>();
        Ok(())
    }

    fn evaluate(&mut self) -> datafusion::error::Result<ScalarValue> {
        Ok(ScalarValue::Int64(Some(self.0)))
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }

    fn state(&mut self) -> datafusion::error::Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> datafusion::error::Result<()> {
        self.0 += states[0].as_primitive::<Int64Type>().iter().flatten().sum::<i64>();
        Ok(())
    }
}

fn context(schema: &SchemaRef, rows: Vec<RecordBatch>) -> SessionContext {
    let context = SessionContext::new();
    context.register_udaf(create_udaf(
        "sum_of_squares",
        vec![DataType::Int64],
        Arc::new(DataType::Int64),
        Volatility::Immutable,
        Arc::new(|_| Ok(Box::<SumOfSquares>::default())),
        Arc::new(vec![DataType::Int64]),
    ));
    context.register_table("t", Arc::new(MemTable::try_new(Arc::clone(schema), vec![rows]).unwrap())).unwrap();
    context
}

/// The spec of a query over `t`, without times.
pub async fn spec(keys: &[&str], aggregates: &[&str], retract: bool) -> AggregateSpec {
    let input = schema(retract);
    let context = context(&input, vec![]);
    let plan = context.state().create_logical_plan(&sql(keys, aggregates)).await.unwrap();
    let state = context.state();
    let mut plan = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {}).unwrap();
    let plan = loop {
        match plan {
            LogicalPlan::Aggregate(aggregate) => break aggregate,
            other => plan = other.inputs()[0].clone(),
        }
    };
    let mut functions = Vec::new();
    let mut filters = Vec::new();
    for expression in &plan.aggr_expr {
        let planning = PhysicalPlanningContext::default();
        let lowered =
            LoweredAggregateBuilder::new(expression, plan.input.schema(), &input, state.execution_props(), &planning)
                .build()
                .unwrap();
        functions.push(lowered.aggregate);
        filters.push(lowered.filter);
    }
    let keys: Vec<usize> = keys.iter().map(|key| input.index_of(key).unwrap()).collect();
    AggregateSpec {
        output: output(&plan.schema.as_arrow().clone(), true),
        input,
        retract,
        routing: 0,
        keys,
        closing: None,
        aggregates: functions,
        filters,
        ttl: None,
        time: None,
    }
}

/// The output schema, with or without weights.
pub fn output(schema: &Schema, weights: bool) -> SchemaRef {
    let fields = schema
        .fields()
        .iter()
        .filter(|field| field.name() != WEIGHT)
        .map(|field| field.as_ref().clone().with_nullable(true));
    let weight = weights.then(|| Field::new(WEIGHT, DataType::Int64, false));
    Arc::new(Schema::new(fields.chain(weight).collect::<Vec<_>>()))
}

/// The result of the query over all rows, computed in batch.
pub async fn answer(keys: &[&str], aggregates: &[&str], rows: &[Row]) -> BTreeMap<String, i64> {
    let schema = schema(false);
    let context = context(&schema, vec![batch(rows, &schema)]);
    let mut result = BTreeMap::new();
    for rows in context.sql(&sql(keys, aggregates)).await.unwrap().collect().await.unwrap() {
        count(&rows, rows.num_columns(), &mut result);
    }
    result
}

/// Counts rows by their printed form, by their weight if they have one after the first `columns`.
pub fn count(rows: &RecordBatch, columns: usize, into: &mut BTreeMap<String, i64>) {
    let weights = rows.columns().get(columns).map(|weights| weights.as_primitive::<Int64Type>().clone());
    for row in 0..rows.num_rows() {
        let values: Vec<_> = rows.columns()[..columns].iter().map(|column| print(column, row)).collect();
        let entry = into.entry(values.join(" | ")).or_default();
        *entry += weights.as_ref().map_or(1, |weights| weights.value(row));
    }
    into.retain(|_, weight| *weight != 0);
}

/// A value as a string: floats to six places, lists in ascending order.
fn print(column: &ArrayRef, row: usize) -> String {
    if column.is_null(row) {
        return "NULL".to_owned();
    }
    match column.data_type() {
        DataType::Float64 => {
            let text = format!("{:.6}", column.as_primitive::<Float64Type>().value(row));
            if text == "-0.000000" { "0.000000".to_owned() } else { text }
        }
        DataType::List(_) => {
            let list = column.as_list::<i32>().value(row);
            let mut values: Vec<_> = (0..list.len()).map(|element| print(&list, element)).collect();
            values.sort();
            format!("[{}]", values.join(", "))
        }
        _ => array_value_to_string(column, row).unwrap(),
    }
}
