//! Proof by comparison: the same SQL in batch over everything the pipeline has read, held against what it wrote.
//!
//! The sources are read again from where they begin to where the pipeline's last epoch ended, so they must still have those
//! records. All rows are held in memory. Rows whose time the watermark has not passed yet are not owed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, UInt64Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Float64Type, SchemaRef, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::execution::TaskContext;

use super::prepare::Surroundings;
use crate::catalog::{Catalog, PipelineDef, SourceDef};
use crate::delta::{Table, TableStore};
use crate::equality::key_values;
use crate::error::{Context, Result};
use crate::plan::{Dataflow, FunctionSet, Targets, batch, collect_computable};
use crate::source::chunk::{Offsets, Payload, Poll, PollLimit, ReadFrom};
use crate::source::decode::Decoder;
use crate::state::Manifest;

/// Doubles this close, relative to the larger one (or to 1), count as equal: sums are taken in other orders.
const TOLERANCE: f64 = 1e-9;

/// How a target compares.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Comparison {
    pub target: String,
    /// Rows in the table.
    pub streamed: u64,
    /// Rows of the batch query.
    pub batch: u64,
    /// Batch rows that the watermark has not passed: the stream does not owe them yet.
    pub pending: u64,
    /// Batch rows that the table refuses (NOT NULL, CHECK): dead letters in the stream.
    pub refused: u64,
    /// Rows that only one side has.
    pub missing: u64,
    pub surplus: u64,
    /// Some of the differing rows, as text.
    pub examples: Vec<String>,
}

impl Comparison {
    /// True when stream and batch say the same.
    pub fn agrees(&self) -> bool {
        self.missing == 0 && self.surplus == 0
    }
}

/// Compares every Delta table that `pipeline` writes.
///
/// Errors: sources that cannot be read again, tables that cannot be opened, SQL without a batch form.
pub async fn verify(
    catalog: &Catalog,
    pipeline: &PipelineDef,
    functions: &FunctionSet,
    dataflow: &Dataflow,
    manifest: &Manifest,
    around: &Surroundings,
) -> Result<Vec<Comparison>> {
    let mut inputs: BTreeMap<String, Arc<dyn TableProvider>> = BTreeMap::new();
    for source in &dataflow.sources {
        let ends = manifest.positions.get(&source.def.name).cloned().unwrap_or_default();
        let rows = read(&source.def, &pipeline.name, &ends, around).await?;
        let table = MemTable::try_new(source.def.schema(), vec![rows])?;
        inputs.insert(source.def.name.clone(), Arc::new(table));
    }
    let mut targets = Targets::new();
    let mut tables: BTreeMap<&str, Table> = BTreeMap::new();
    for def in pipeline.inserts.iter().filter_map(|insert| catalog.tables.get(&insert.target)) {
        let store = TableStore::open(&around.table_location(def), &around.storage_of(def), &around.env)?;
        let table = Table::open(store).await?;
        targets.insert(def.name.clone(), table.schema());
        tables.insert(&def.name, table);
    }
    for def in catalog.tables.values().filter(|def| !tables.contains_key(def.name.as_str())) {
        let store = TableStore::open(&around.table_location(def), &around.storage_of(def), &around.env)?;
        if let Ok(table) = Table::open(store).await {
            inputs.insert(def.name.clone(), table.provider(None).await?);
        }
    }
    let runtime = Arc::clone(&around.runtime);
    let planned = batch(catalog, pipeline, functions, &targets, inputs, runtime).await?;
    let mut compared = Vec::new();
    for (name, table) in &tables {
        let schema = table.schema();
        let mut expected = Vec::new();
        let mut times: Vec<Option<(i64, i64)>> = vec![None; schema.fields().len()];
        for insert in planned.inserts.iter().filter(|insert| insert.target == *name) {
            let plan = planned.session.create_physical_plan(&insert.plan).await?;
            let context = Arc::new(TaskContext::from(&planned.session));
            expected.extend(collect_computable(plan, context, dataflow.on_row_error).await?);
        }
        for branch in dataflow.branches.iter().filter(|branch| branch.target == *name) {
            times = owed(branch, manifest, dataflow);
        }
        let (expected, refused) = accepted(table, expected)?;
        let provider = table.provider(None).await?;
        let context = datafusion::prelude::SessionContext::new_with_state(planned.session.clone());
        let found = context.read_table(provider)?.collect().await?;
        let expected = match catalog.tables.get(*name).filter(|def| !def.primary_key.is_empty()) {
            Some(def) => one_of_each_key(&def.primary_key, &schema, &found, &expected)?,
            None => expected,
        };
        compared.push(Comparison { refused, ..compare(name, &schema, &found, &expected, &times)? });
    }
    Ok(compared)
}

/// The rows that a table takes, as it stores them, and how many it refuses.
fn accepted(table: &Table, rows: Vec<RecordBatch>) -> Result<(Vec<RecordBatch>, u64)> {
    let (mut taken, mut refused) = (Vec::with_capacity(rows.len()), 0);
    for batch in rows {
        let batch = match table.validator().check(&batch)? {
            Some(violations) => {
                refused += violations.letters.len() as u64;
                violations.good
            }
            None => batch,
        };
        taken.push(table.as_stored(&batch)?);
    }
    Ok((taken, refused))
}

/// Of all rows with one key a keyed table holds one, the newest; which of several that is depends on the order in which they came. So of
/// each key the row that the table holds is expected, if it is one of them.
fn one_of_each_key(
    key: &[String],
    schema: &SchemaRef,
    found: &[RecordBatch],
    expected: &[RecordBatch],
) -> Result<Vec<RecordBatch>> {
    let wrong = || "rows cannot be compared".to_owned();
    let places = key.iter().map(|name| schema.index_of(name)).collect::<Result<Vec<_>, _>>().internal(wrong)?;
    let fields = places.iter().map(|place| SortField::new(schema.field(*place).data_type().clone()));
    let converter = RowConverter::new(fields.collect()).internal(wrong)?;
    let keys = |batch: &RecordBatch| {
        let columns: Vec<_> = places.iter().map(|place| key_values(batch.column(*place))).collect();
        converter.convert_columns(&columns).internal(wrong)
    };
    let expected = expected.iter().map(|batch| in_order(schema, batch)).collect::<Result<Vec<_>>>()?;
    let mut chosen: HashMap<Vec<u8>, (usize, usize)> = HashMap::new();
    let held = collect(schema, found)?;
    let offered = collect(schema, &expected)?;
    for (row, places) in &offered.rows {
        let same = |doubles: &[f64]| {
            held.rows.get(row).is_some_and(|rows| rows.iter().any(|(other, _)| close(doubles, other)))
        };
        for (_, (index, at)) in places.iter().filter(|(doubles, _)| same(doubles)) {
            chosen.insert(keys(&expected[*index].slice(*at, 1))?.row(0).as_ref().to_vec(), (*index, *at));
        }
    }
    for (index, batch) in expected.iter().enumerate() {
        for (at, key) in keys(batch)?.iter().enumerate() {
            chosen.entry(key.as_ref().to_vec()).or_insert((index, at));
        }
    }
    let mut picked = vec![Vec::new(); expected.len()];
    for (index, at) in chosen.into_values() {
        picked[index].push(at as u64);
    }
    let pick = |(batch, mut rows): (&RecordBatch, Vec<u64>)| {
        rows.sort_unstable();
        take_record_batch(batch, &UInt64Array::from(rows)).internal(wrong)
    };
    expected.iter().zip(picked).map(pick).collect()
}

/// The columns of a batch in the order of the schema.
fn in_order(schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch> {
    let wrong = || "rows cannot be compared".to_owned();
    let places = schema.fields().iter().map(|field| batch.schema().index_of(field.name()));
    batch.project(&places.collect::<Result<Vec<_>, _>>().internal(wrong)?).internal(wrong)
}

/// Per column of a branch its lag and the watermark that it follows.
fn owed(branch: &crate::plan::Branch, manifest: &Manifest, dataflow: &Dataflow) -> Vec<Option<(i64, i64)>> {
    let times = branch.sources.iter().map(|source| {
        let name = &dataflow.sources[*source].def.name;
        manifest.times.get(name).map_or(i64::MIN, |time| time.watermark)
    });
    // Operators that have seen the end of their input owe everything.
    let ended = manifest.watermarks.values().any(|watermark| *watermark == i64::MAX);
    let watermark = if ended { i64::MAX } else { times.min().unwrap_or(i64::MAX) };
    branch.times.iter().map(|lag| lag.filter(|_| branch.stage > 0).map(|lag| (lag, watermark))).collect()
}

/// Reads a source again up to `ends`.
async fn read(def: &SourceDef, pipeline: &str, ends: &Offsets, around: &Surroundings) -> Result<Vec<RecordBatch>> {
    let from = ReadFrom { bounded: true, ..ReadFrom::default() };
    let mut reader = crate::source::open(def, &format!("{pipeline}-verify"), from, &around.env).await?;
    let decoder = Decoder::new(def)?.with_clock(def, &around.env);
    let limit = PollLimit {
        rows: 100_000,
        bytes: around.limits.pool.poll_bytes(1),
        wait: std::time::Duration::from_millis(200),
        linger: std::time::Duration::ZERO,
    };
    let mut rows = Vec::new();
    let mut reached = Offsets::new();
    loop {
        match reader.poll(limit).await? {
            Poll::Finished => return Ok(rows),
            Poll::Idle => {}
            Poll::Chunks(chunks) => {
                for mut chunk in chunks {
                    let end = ends.get(&chunk.partition).copied().unwrap_or(chunk.start);
                    reached.insert(Arc::clone(&chunk.partition), chunk.end);
                    if chunk.start >= end {
                        continue;
                    }
                    if let (Payload::Rows(batch), true) = (&chunk.payload, chunk.end > end) {
                        chunk.payload = Payload::Rows(batch.slice(0, (end - chunk.start) as usize));
                    }
                    let mut decoded = decoder.decode(chunk)?.rows;
                    if decoded.num_rows() > 0 {
                        decoded = decoded.slice(0, decoded.num_rows());
                        rows.push(decoded);
                    }
                }
            }
        }
        if ends.iter().all(|(partition, end)| reached.get(partition).is_some_and(|at| at >= end)) {
            return Ok(rows);
        }
    }
}

/// The doubles of a row, and where it is: batch and row.
type Doubles = (Vec<f64>, (usize, usize));

/// Rows of one side, by the columns that must be equal, with their doubles.
#[derive(Default)]
struct Side {
    rows: HashMap<Vec<u8>, Vec<Doubles>>,
    count: u64,
}

pub(super) fn compare(
    target: &str,
    schema: &SchemaRef,
    found: &[RecordBatch],
    expected: &[RecordBatch],
    times: &[Option<(i64, i64)>],
) -> Result<Comparison> {
    let mut streamed = collect(schema, found)?;
    let batch = collect(schema, expected)?;
    let mut result =
        Comparison { target: target.to_owned(), streamed: streamed.count, batch: batch.count, ..Comparison::default() };
    for (key, rows) in &batch.rows {
        for (doubles, place) in rows {
            let matched = streamed.rows.get_mut(key).and_then(|candidates| {
                let at = candidates.iter().position(|(other, _)| close(doubles, other))?;
                Some(candidates.swap_remove(at))
            });
            if matched.is_some() {
                continue;
            }
            let (index, row) = *place;
            if is_pending(&expected[index], row, times) {
                result.pending += 1;
            } else {
                result.missing += 1;
                example(&mut result, "only in batch ", &expected[index], row)?;
            }
        }
    }
    for (_, (index, row)) in streamed.rows.into_values().flatten() {
        result.surplus += 1;
        example(&mut result, "only in stream", &found[index], row)?;
    }
    Ok(result)
}

fn collect(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Side> {
    let is_double = |index: &usize| *schema.field(*index).data_type() == DataType::Float64;
    let (doubles, exact): (Vec<usize>, Vec<usize>) = (0..schema.fields().len()).partition(is_double);
    let fields = exact.iter().map(|index| SortField::new(schema.field(*index).data_type().clone())).collect();
    let wrong = || "rows cannot be compared".to_owned();
    let converter = RowConverter::new(fields).internal(wrong)?;
    let mut side = Side::default();
    for (number, batch) in batches.iter().enumerate() {
        let columns: Vec<ArrayRef> = schema
            .fields()
            .iter()
            .map(|field| {
                let column = batch.column_by_name(field.name()).ok_or_else(|| {
                    crate::error::Error::internal(format!("column `{}` is missing in what was read", field.name()))
                })?;
                arrow::compute::cast(column, field.data_type()).internal(wrong)
            })
            .collect::<Result<_>>()?;
        let keys: Vec<ArrayRef> = exact.iter().map(|index| Arc::clone(&columns[*index])).collect();
        let encoded = match keys.is_empty() {
            true => None,
            false => Some(converter.convert_columns(&keys).internal(wrong)?),
        };
        for row in 0..batch.num_rows() {
            let key = encoded.as_ref().map(|encoded| encoded.row(row).as_ref().to_vec()).unwrap_or_default();
            let values = doubles.iter().map(|index| {
                let column = columns[*index].as_primitive::<Float64Type>();
                // A null is no number, and equal to nulls only.
                if column.is_null(row) { f64::NEG_INFINITY.next_up() } else { column.value(row) }
            });
            side.rows.entry(key).or_default().push((values.collect(), (number, row)));
            side.count += 1;
        }
    }
    Ok(side)
}

fn close(a: &[f64], b: &[f64]) -> bool {
    a.iter().zip(b).all(|(a, b)| {
        a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()).max(1.0)
    })
}

/// True when some time of the row is not complete yet.
fn is_pending(batch: &RecordBatch, row: usize, times: &[Option<(i64, i64)>]) -> bool {
    times.iter().enumerate().any(|(index, time)| {
        let Some((lag, watermark)) = time else { return false };
        let column = batch.column(index).as_primitive_opt::<TimestampMicrosecondType>();
        column.is_some_and(|column| column.is_valid(row) && column.value(row).saturating_add(*lag) >= *watermark)
    })
}

fn example(result: &mut Comparison, side: &str, batch: &RecordBatch, row: usize) -> Result<()> {
    const SHOWN: usize = 10;
    if result.examples.len() < SHOWN {
        let line = crate::sink::console::row(batch, row)?;
        result.examples.push(format!("{side}  {line}"));
    }
    Ok(())
}
