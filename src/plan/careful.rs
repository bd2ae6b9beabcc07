//! Running a plan whose rows cannot all be computed: node by node, with the place of every row in its source.
//!
//! [`super::Lane`] comes here only when DataFusion has failed over a batch. Here each expression is evaluated for the rows for which it can
//! be, the others are left out and described, and rows carry the number that they had among the source's, which no plan does otherwise.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt64Array};
use arrow::compute::{cast, concat_batches, filter, filter_record_batch, take, take_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, UInt64Type};
use datafusion::catalog::memory::{DataSourceExec, MemorySourceConfig};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SessionState, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_expr_common::physical_expr::is_volatile as changes;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, PhysicalExpr, SendableRecordBatchStream};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};

use super::precomputed::precomputed;
use super::sound;
use crate::catalog::OnRowError;
use crate::evaluate::{Evaluated, evaluate_each, evaluate_with_nulls, is_of_row, panicked};
use crate::operator::{Check, Describe, Held, HeldExec, MeterExec, NUMBER, RefusedRow, StreamId, holding, others};

/// The column that carries places through an unnest.
const PLACE: &str = "__place";

/// Rows, and the place of each among the source's; null where there is none.
#[derive(Debug, Clone)]
pub struct Placed {
    pub rows: RecordBatch,
    pub places: UInt64Array,
}

/// A run of one plan over the rows of a lane.
pub struct Careful<'a> {
    pub held: &'a Held,
    pub context: &'a Arc<TaskContext>,
    /// The places of a stream's rows.
    pub places: &'a (dyn Fn(StreamId) -> Option<UInt64Array> + Send + Sync),
    pub mode: OnRowError,
    /// The branches that the rows are computed for.
    pub within: &'a [usize],
    pub refused: Vec<RefusedRow>,
}

impl Careful<'_> {
    /// The plan's rows, all partitions one after the other.
    ///
    /// Errors: what is no row's fault.
    pub fn run<'s>(&'s mut self, plan: &'s Arc<dyn ExecutionPlan>) -> BoxFuture<'s, Result<Vec<Placed>>> {
        async move {
            if let Some(leaf) = plan.downcast_ref::<HeldExec>() {
                return self.leaf(leaf);
            }
            if plan.is::<CooperativeExec>() || plan.is::<MeterExec>() || plan.is::<UnionExec>() {
                let mut all = Vec::new();
                for input in plan.children() {
                    all.extend(self.run(input).await?);
                }
                return Ok(all);
            }
            let mut inputs = Vec::new();
            for input in plan.children() {
                inputs.push(self.run(input).await?);
            }
            let is_numbered = plan.schema().fields().last().is_some_and(|field| field.name() == NUMBER);
            if plan.is::<SortPreservingMergeExec>() && is_numbered {
                return merged(inputs.into_iter().flatten().collect());
            }
            if let (Some(node), Some(input)) = (plan.downcast_ref::<ProjectionExec>(), inputs.first()) {
                return input.iter().map(|rows| self.project(node, rows)).collect();
            }
            if let (Some(node), Some(input)) = (plan.downcast_ref::<FilterExec>(), inputs.first()) {
                return input.iter().map(|rows| self.filter(node, rows)).collect();
            }
            if let Some(node) = plan.downcast_ref::<UnnestExec>() {
                return self.unnest(node, inputs.into_iter().flatten().collect()).await;
            }
            match sound::checks(plan, self.mode) {
                Some(checks) => {
                    let inputs = inputs
                        .into_iter()
                        .map(|input| input.iter().map(|rows| self.sound(&checks, rows)).collect::<Result<Vec<_>>>());
                    let inputs = inputs.collect::<Result<_>>()?;
                    self.unknown(&sound::guarded(plan, self.mode)?, inputs).await
                }
                None => self.unknown(&sound::tolerant_join(plan, self.mode)?, inputs).await,
            }
        }
        .boxed()
    }

    fn leaf(&self, leaf: &HeldExec) -> Result<Vec<Placed>> {
        let places = (self.places)(leaf.stream());
        let mut at = 0;
        let placed = |rows: RecordBatch| {
            let places = match &places {
                Some(places) => places.slice(at, rows.num_rows()),
                None => UInt64Array::new_null(rows.num_rows()),
            };
            at += rows.num_rows();
            Placed { rows, places }
        };
        Ok(leaf.rows(self.held)?.into_iter().map(placed).collect())
    }

    /// A node that is run as it is over what its inputs give; its rows have no place.
    async fn unknown(&self, plan: &Arc<dyn ExecutionPlan>, inputs: Vec<Vec<Placed>>) -> Result<Vec<Placed>> {
        let held = inputs.into_iter().zip(plan.children()).map(|(input, node)| {
            held_rows(input.into_iter().map(|placed| placed.rows).collect(), node.schema(), node.output_ordering())
        });
        let held: Vec<_> = held.collect::<Result<_>>()?;
        let plan = match held.is_empty() {
            true => Arc::clone(plan),
            false => {
                let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
                Arc::clone(plan).replace_children(held, options)?
            }
        };
        let rows = collect(&plan, self.context).await?;
        Ok(rows.into_iter().map(|rows| Placed { places: UInt64Array::new_null(rows.num_rows()), rows }).collect())
    }

    fn project(&mut self, node: &ProjectionExec, input: &Placed) -> Result<Placed> {
        let schema = node.schema();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
        let mut bad: BTreeMap<usize, (usize, DataFusionError)> = BTreeMap::new();
        for (number, (item, field)) in node.expr().iter().zip(schema.fields()).enumerate() {
            let Evaluated { values, failed } = match self.mode {
                OnRowError::Null => evaluate_with_nulls(&item.expr, &input.rows)?,
                _ => evaluate_each(&item.expr, &input.rows)?,
            };
            // `to_timestamp` over text gives times without the zone that it declares.
            let declared = values.data_type() == field.data_type();
            let values = if declared { values } else { cast(&values, field.data_type())? };
            let is_refused =
                |row: usize| self.mode != OnRowError::Null || (!field.is_nullable() && values.is_null(row));
            for (row, error) in failed.into_iter().filter(|(row, _)| is_refused(*row)) {
                bad.entry(row).or_insert((number, error));
            }
            columns.push(values);
        }
        let mut places = input.places.clone();
        if !bad.is_empty() {
            for (row, (number, error)) in &bad {
                let item = &node.expr()[*number];
                self.refuse(&item.expr, Some(&item.alias), input, *row, error);
            }
            let kept = others(input.rows.num_rows(), &bad.into_keys().collect::<Vec<_>>());
            columns = columns.iter().map(|column| filter(column, &kept)).collect::<Result<_, _>>()?;
            places = filter(&places, &kept)?.as_primitive::<UInt64Type>().clone();
        }
        let options = RecordBatchOptions::new().with_row_count(Some(places.len()));
        Ok(Placed { rows: RecordBatch::try_new_with_options(schema, columns, &options)?, places })
    }

    fn filter(&mut self, node: &FilterExec, input: &Placed) -> Result<Placed> {
        let Evaluated { values, failed } = match self.mode {
            OnRowError::Null => evaluate_with_nulls(node.predicate(), &input.rows)?,
            _ => evaluate_each(node.predicate(), &input.rows)?,
        };
        if self.mode != OnRowError::Null {
            for (row, error) in &failed {
                self.refuse(node.predicate(), None, input, *row, error);
            }
        }
        let passed = holding(&values)?;
        let rows = match node.projection() {
            Some(columns) => input.rows.project(columns)?,
            None => input.rows.clone(),
        };
        let places = filter(&input.places, &passed)?.as_primitive::<UInt64Type>().clone();
        Ok(Placed { rows: filter_record_batch(&rows, &passed)?, places })
    }

    /// The rows for which what a node makes of each of them can be computed.
    fn sound(&mut self, checks: &[Check], input: &Placed) -> Result<Placed> {
        let mut bad = BTreeMap::new();
        for check in checks {
            for (row, error) in check.failing(&input.rows)? {
                bad.entry(row).or_insert((check, error));
            }
        }
        for (row, (check, error)) in &bad {
            self.refuse(&check.expr, None, input, *row, error);
        }
        let kept = others(input.rows.num_rows(), &bad.into_keys().collect::<Vec<_>>());
        let places = filter(&input.places, &kept)?.as_primitive::<UInt64Type>().clone();
        Ok(Placed { rows: filter_record_batch(&input.rows, &kept)?, places })
    }

    /// Unnests with the places as a last column, which is repeated like any other.
    async fn unnest(&self, node: &UnnestExec, input: Vec<Placed>) -> Result<Vec<Placed>> {
        let with_place = |schema: &SchemaRef| {
            let fields = schema.fields().iter().cloned();
            let place = Arc::new(Field::new(PLACE, DataType::UInt64, true));
            Arc::new(Schema::new(fields.chain([place]).collect::<Vec<_>>()))
        };
        let schema = with_place(&node.input().schema());
        let join = |Placed { rows, places }: Placed| {
            let columns = rows.columns().iter().cloned().chain([Arc::new(places) as ArrayRef]);
            RecordBatch::try_new(Arc::clone(&schema), columns.collect())
        };
        let rows = input.into_iter().map(join).collect::<Result<_, _>>()?;
        let unnest: Arc<dyn ExecutionPlan> = Arc::new(UnnestExec::new(
            held_rows(rows, Arc::clone(&schema), None)?,
            node.list_column_indices().to_vec(),
            node.struct_column_indices().to_vec(),
            with_place(&node.schema()),
            node.options().clone(),
        )?);
        let split = |rows: RecordBatch| {
            let columns: Vec<usize> = (0..rows.num_columns() - 1).collect();
            let places = rows.column(columns.len()).as_primitive::<UInt64Type>().clone();
            Ok(Placed { rows: rows.project(&columns)?.with_schema(node.schema())?, places })
        };
        collect(&unnest, self.context).await?.into_iter().map(split).collect()
    }

    fn refuse(
        &mut self,
        expr: &Arc<dyn PhysicalExpr>,
        column: Option<&str>,
        input: &Placed,
        row: usize,
        error: &DataFusionError,
    ) {
        let place = input.places.is_valid(row).then(|| input.places.value(row));
        let describe = Describe { within: self.within, expr, column, rows: &input.rows };
        self.refused.extend(describe.row(row, place, error));
    }
}

/// True where a plan gives other rows each time that it is run.
pub fn is_volatile(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let mut found = false;
    let walked = plan.apply_expressions(&mut |expr| {
        found |= changes(expr);
        Ok(TreeNodeRecursion::Continue)
    });
    found || walked.is_err() || plan.children().into_iter().any(is_volatile)
}

/// Rows in the order of their numbers, the last column.
fn merged(parts: Vec<Placed>) -> Result<Vec<Placed>> {
    let Some(first) = parts.first() else { return Ok(parts) };
    let rows = concat_batches(&first.rows.schema(), parts.iter().map(|part| &part.rows))?;
    let places: UInt64Array = parts.iter().flat_map(|part| part.places.iter()).collect();
    let numbers = rows.column(rows.num_columns() - 1).as_primitive::<Int64Type>().clone();
    let mut order: Vec<u64> = (0..rows.num_rows() as u64).collect();
    order.sort_by_key(|row| numbers.value(*row as usize));
    let order = UInt64Array::from(order);
    let places = take(&places, &order, None)?.as_primitive::<UInt64Type>().clone();
    Ok(vec![Placed { rows: take_record_batch(&rows, &order)?, places }])
}

/// Rows that a plan reads; in an order, if the plan relies on it.
fn held_rows(rows: Vec<RecordBatch>, schema: SchemaRef, order: Option<&LexOrdering>) -> Result<Arc<dyn ExecutionPlan>> {
    let source = MemorySourceConfig::try_new(&[rows], schema, None)?;
    let source = source.try_with_sort_information(order.cloned().into_iter().collect())?;
    Ok(DataSourceExec::from_data_source(source))
}

/// The rows of a batch query, without those that it cannot compute; or with nulls for what cannot be computed.
///
/// Errors: a row to blame in what is computed neither for a row nor for a pair of rows; what is no row's fault.
pub async fn collect_computable(
    session: &SessionState,
    query: &LogicalPlan,
    mode: OnRowError,
) -> Result<Vec<RecordBatch>> {
    let context = &Arc::new(TaskContext::from(session));
    let plan = session.create_physical_plan(query).await?;
    match collect(&plan, context).await {
        Err(error) if is_of_row(&error) => {
            let query = precomputed(session.optimize(query)?)?;
            let plan = session.query_planner().create_physical_plan(&query, session).await?;
            let held = &Held::new(0);
            let mut careful = Careful { held, context, places: &|_| None, mode, within: &[], refused: Vec::new() };
            Ok(careful.run(&plan).await?.into_iter().map(|placed| placed.rows).collect())
        }
        rows => rows,
    }
}

/// All rows of a plan.
pub async fn collect(plan: &Arc<dyn ExecutionPlan>, context: &Arc<TaskContext>) -> Result<Vec<RecordBatch>> {
    let mut rows = Vec::new();
    for partition in 0..plan.output_partitioning().partition_count() {
        let mut stream = plan.execute(partition, Arc::clone(context))?;
        while let Some(batch) = next_batch(&mut stream).await {
            let batch = batch?;
            if batch.num_rows() > 0 {
                rows.push(batch);
            }
        }
    }
    Ok(rows)
}

/// The next batch of a stream; a panic on the way is an error like any other.
pub async fn next_batch(stream: &mut SendableRecordBatchStream) -> Option<Result<RecordBatch>> {
    AssertUnwindSafe(stream.next()).catch_unwind().await.unwrap_or_else(|panic| Some(Err(panicked(panic.as_ref()))))
}
