//! A planned statement: its parameters, its columns and its rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::ParamValues;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::execution::context::SessionState;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::physical_planner::DefaultPhysicalPlanner;
use datafusion::scalar::ScalarValue;
use futures::{StreamExt, TryStreamExt, stream};

use super::bound_rows::bound;
use crate::error::{Error, Result, SqlState};
use crate::memory::counted::{CountedPool, HeldBytes};
use crate::memory::growth;
use crate::serve::failure::query_error;
use crate::serve::interrupt::{Interrupt, guard};
use crate::serve::wide::{FEW_ROWS, WideRows};

/// Rows of a batch: if all columns have a fixed width; if some are strings or nested; and if functions make values of any
/// length or groups keep all their values.
const ROWS: usize = 8_192;
const ROWS_OF_TEXTS: usize = 2_048;
const ROWS_THAT_GROW: usize = 512;
/// Plan partitions of a query with sort-merge joins: each partition sorts both sides, and each sort takes its share of
/// memory. One, if that was not enough.
const SORTED_PARTITIONS: usize = 2;
/// Memory that such a sort keeps free for merging its spilled files.
const MERGE_BYTES: usize = 2 << 20;

/// A planned statement.
#[derive(Debug, Clone)]
pub struct Query {
    plan: LogicalPlan,
    state: SessionState,
    interrupt: Interrupt,
    held: HeldBytes,
    /// The names of the columns in the result, where they are not the plan's.
    shown: Option<Vec<String>>,
}

impl Query {
    /// A query that runs `plan` in `state` and that `interrupt` ends.
    pub fn new(plan: LogicalPlan, mut state: SessionState, interrupt: Interrupt) -> Self {
        set_rows_of_batch(&mut state, rows_of_batch(&plan));
        Self { plan, state, interrupt, held: HeldBytes::default(), shown: None }
    }

    /// The query with these names of its columns, of which some may be alike.
    pub fn showing(self, shown: Option<Vec<String>>) -> Self {
        Self { shown, ..self }
    }

    /// Ends the query while it runs.
    pub fn interrupt(&self) -> Interrupt {
        self.interrupt.clone()
    }

    /// Memory that the query has reserved while it runs.
    pub fn held(&self) -> HeldBytes {
        self.held.clone()
    }

    /// The columns of the result, as its rows have them. While parameters are unbound, types that depend on them are a
    /// guess.
    pub async fn schema(&self) -> Result<SchemaRef> {
        if self.parameters()?.fields().is_empty() {
            return Ok(self.physical_plan(&self.state).await?.schema());
        }
        let options: &ConfigOptions = self.state.config_options();
        let analysed = self.state.analyzer().execute_and_check(self.plan.clone(), options, |_, _| {});
        let plan = analysed.as_ref().unwrap_or(&self.plan);
        let Some(shown) = &self.shown else { return Ok(Arc::clone(plan.schema().inner())) };
        let fields = plan.schema().fields().iter().zip(shown);
        let fields: Vec<Field> = fields.map(|(field, name)| field.as_ref().clone().with_name(name)).collect();
        Ok(Arc::new(Schema::new(fields)))
    }

    /// The parameters in order, with the types that the SQL implies; strings if it implies none. Those may be bound to
    /// values of any type.
    pub fn parameters(&self) -> Result<Schema> {
        let types = self.parameter_types()?.into_iter().enumerate();
        let field = |(at, kind): (usize, Option<DataType>)| {
            Field::new(format!("${}", at + 1), kind.unwrap_or(DataType::Utf8), true)
        };
        Ok(Schema::new(types.map(field).collect::<Vec<_>>()))
    }

    /// The parameters' types in order, as far as the SQL implies them.
    fn parameter_types(&self) -> Result<Vec<Option<DataType>>> {
        let mut types = self.plan.get_parameter_types().map_err(query_error)?;
        for name in counts(&self.plan) {
            types.insert(name, Some(DataType::Int64));
        }
        let mut numbered = BTreeMap::new();
        for (name, data_type) in types {
            let number: usize = name.trim_start_matches('$').parse().map_err(|_| {
                Error::sql(format!("parameter `{name}` has a name")).with_hint("Write parameters as `?` or `$1`.")
            })?;
            numbered.insert(number, data_type.filter(|kind| !kind.is_null()));
        }
        let count = numbered.keys().next_back().copied().unwrap_or(0);
        Ok((1..=count).map(|number| numbered.remove(&number).flatten()).collect())
    }

    /// Replaces `$1`, `$2` … by values. A value whose type fits the parameter's is cast to it; any other keeps its type, and
    /// is compared and computed with like a literal of that type.
    pub fn bind(self, values: Vec<ScalarValue>) -> Result<Self> {
        let parameters = self.parameter_types()?;
        if parameters.len() != values.len() {
            let (wanted, bound) = (parameters.len(), values.len());
            return Err(Error::sql(format!("statement has {wanted} parameters, {bound} were bound"))
                .with_state(SqlState::PARAMETERS));
        }
        let mut cast = Vec::with_capacity(values.len());
        for (at, (wanted, value)) in parameters.iter().zip(values).enumerate() {
            cast.push(match wanted {
                Some(wanted) if !stays(&value.data_type(), wanted) => value.cast_to(wanted).map_err(|error| {
                    Error::sql(format!("parameter `${}` is not {wanted}", at + 1)).with_source(error)
                })?,
                _ => value,
            });
        }
        let plan = bound(self.plan, ParamValues::from(cast)).map_err(query_error)?;
        Ok(Self { plan, ..self })
    }

    /// Runs the query. Batches are computed as they are read; dropping the stream ends the work.
    pub async fn stream(&self) -> Result<SendableRecordBatchStream> {
        let unbound = self.parameters()?;
        if !unbound.fields().is_empty() {
            return Err(Error::sql(format!("parameter `{}` was not bound", unbound.field(0).name()))
                .with_state(SqlState::PARAMETERS)
                .with_hint("Prepare the statement and bind its parameters."));
        }
        let mut attempt = self.attempt(self.state.clone()).await?;
        let schema = attempt.rows.schema();
        let query = self.clone();
        // Until the first batch was returned, the query can be restarted.
        let begun = async move {
            loop {
                let first = attempt.rows.next().await;
                let again = match &first {
                    Some(Err(error)) => attempt.otherwise(error),
                    _ => None,
                };
                if let Some(state) = again {
                    // Frees the memory of the first attempt before the restart.
                    drop(attempt);
                    attempt = query.attempt(state).await?;
                    continue;
                }
                let schema = attempt.rows.schema();
                let all = stream::iter(first).chain(attempt.rows);
                let all = Box::pin(RecordBatchStreamAdapter::new(schema, all)) as SendableRecordBatchStream;
                return Ok::<_, DataFusionError>(all);
            }
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream::once(begun).try_flatten())))
    }

    /// Starts the query with the plan for `state`.
    async fn attempt(&self, state: SessionState) -> Result<Attempt> {
        let physical = self.physical_plan(&state).await?;
        let mut hashes = false;
        // The closure never fails.
        let _ = physical.apply(|node| {
            hashes |= node.downcast_ref::<HashJoinExec>().is_some();
            Ok(TreeNodeRecursion::Continue)
        });
        let wide = WideRows::default();
        let physical = guard(physical, &self.interrupt, &wide).map_err(query_error)?;
        let rows = execute_stream(physical, self.context(&state)).map_err(query_error)?;
        Ok(Attempt { rows, state, wide, hashes })
    }

    /// The task context, which counts the reserved memory.
    fn context(&self, state: &SessionState) -> Arc<TaskContext> {
        let shared = state.runtime_env();
        let memory_pool = Arc::new(CountedPool::new(Arc::clone(&shared.memory_pool), self.held.clone()));
        let runtime = RuntimeEnv { memory_pool, ..shared.as_ref().clone() };
        Arc::new(TaskContext::from(state).with_runtime(Arc::new(runtime)))
    }

    async fn physical_plan(&self, state: &SessionState) -> Result<Arc<dyn ExecutionPlan>> {
        let config = state.config();
        let plan = match config.target_partitions() {
            1 if !config.options().optimizer.prefer_hash_join => self.joined_by_one_sort_at_a_time(state).await,
            _ => state.create_physical_plan(&self.plan).await,
        };
        let plan = plan.map_err(query_error)?;
        let Some(shown) = &self.shown else { return Ok(plan) };
        let schema = plan.schema();
        let columns = schema.fields().iter().enumerate().zip(shown).map(|((index, field), name)| ProjectionExpr {
            expr: Arc::new(Column::new(field.name(), index)),
            alias: name.clone(),
        });
        let named = ProjectionExec::try_new(columns.collect::<Vec<_>>(), plan).map_err(query_error)?;
        Ok(Arc::new(named))
    }
}

impl Query {
    /// The plan for one partition, with sort-merge joins: DataFusion's planner takes hash joins for one partition, whatever its
    /// options say, so the joins are planned for several and what each node needs of its inputs for one.
    async fn joined_by_one_sort_at_a_time(
        &self,
        state: &SessionState,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let mut planning =
            SessionStateBuilder::new_from_existing(state.clone()).with_physical_optimizer_rules(Vec::new()).build();
        let config = planning.config().clone().with_target_partitions(SORTED_PARTITIONS);
        *planning.config_mut() = config;
        let plan = planning.create_physical_plan(&self.plan).await?;
        DefaultPhysicalPlanner::default().optimize_physical_plan(plan, state, |_, _| {})
    }
}

/// A started query.
struct Attempt {
    rows: SendableRecordBatchStream,
    state: SessionState,
    wide: WideRows,
    /// `true` if one of its joins keeps its whole smaller side in memory.
    hashes: bool,
}

impl Attempt {
    /// The state for a restart after `error`: smaller batches, or sort-merge joins, which can spill. `None` = no restart.
    fn otherwise(&self, error: &DataFusionError) -> Option<SessionState> {
        let mut config = self.state.config().clone();
        if self.wide.is_exceeded() {
            config = config.with_batch_size(FEW_ROWS);
        } else if matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)) {
            let hashed = config.options().optimizer.prefer_hash_join;
            let partitions = match hashed {
                true if self.hashes => SORTED_PARTITIONS,
                // Two sorts ran at a time, and one took what the other needed for its merge.
                false if config.target_partitions() > 1 => 1,
                _ => return None,
            };
            config = config.with_target_partitions(partitions).with_sort_spill_reservation_bytes(MERGE_BYTES);
            config.options_mut().optimizer.prefer_hash_join = false;
        } else {
            return None;
        }
        let mut state = self.state.clone();
        *state.config_mut() = config;
        Some(state)
    }
}

/// The parameters of LIMIT and OFFSET, which count rows.
fn counts(plan: &LogicalPlan) -> Vec<String> {
    let mut found = Vec::new();
    let visited = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Limit(limit) = node {
            for count in [&limit.skip, &limit.fetch].into_iter().flatten() {
                count.apply(|expr| {
                    if let Expr::Placeholder(placeholder) = expr {
                        found.push(placeholder.id.clone());
                    }
                    Ok(TreeNodeRecursion::Continue)
                })?;
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    // The closure never fails.
    let _ = visited;
    found
}

/// `true` if a bound value keeps its type because casting it would lose information. Decided by types only, so that all rows
/// of parameters are planned alike.
fn stays(given: &DataType, wanted: &DataType) -> bool {
    use DataType as T;
    match (given, wanted) {
        _ if given == wanted || given.is_null() => false,
        (T::Float16 | T::Float32 | T::Float64, _) if wanted.is_integer() || wanted.is_decimal() => true,
        (T::Float64, T::Float32 | T::Float16) => true,
        (_, _) if given.is_integer() && wanted.is_integer() => {
            let bits = |kind: &T| kind.primitive_width().unwrap_or(8);
            bits(given) > bits(wanted) || given.is_signed_integer() != wanted.is_signed_integer()
        }
        (T::Decimal128(..) | T::Decimal256(..), _) if wanted.is_numeric() => true,
        (_, T::Decimal128(..) | T::Decimal256(..)) if given.is_integer() => true,
        (T::Timestamp(..), T::Date32 | T::Date64) => true,
        // `ts - ?` may take a time or an interval, and a DATE a number of days.
        (T::Duration(_) | T::Interval(_), T::Timestamp(..) | T::Date32) => true,
        (_, T::Interval(_)) if given.is_integer() => true,
        (T::Timestamp(from, _), T::Timestamp(to, _)) => to < from,
        _ => false,
    }
}

fn set_rows_of_batch(state: &mut SessionState, rows: usize) {
    let config = state.config().clone().with_batch_size(rows);
    *state.config_mut() = config;
}

/// Rows of a batch, fewer if values may be wide: the memory of batches between operators is not counted.
fn rows_of_batch(plan: &LogicalPlan) -> usize {
    let (mut varies, mut grows) = (false, false);
    let visited = plan.apply_with_subqueries(|node| {
        varies |= node.schema().fields().iter().any(|field| !is_fixed(field.data_type()));
        if let LogicalPlan::Aggregate(aggregate) = node {
            // Groups that were spilled are read back in batches, each group with its state.
            grows |= !aggregate.group_expr.is_empty() && aggregate.aggr_expr.iter().any(keeps_every_value);
        }
        node.apply_expressions(|expr| {
            expr.apply(|inner| {
                grows |= makes_long_values(inner);
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    // The closure never fails.
    let _ = visited;
    match (grows, varies) {
        (true, _) => ROWS_THAT_GROW,
        (false, true) => ROWS_OF_TEXTS,
        (false, false) => ROWS,
    }
}

fn is_fixed(kind: &DataType) -> bool {
    kind.is_primitive() || matches!(kind, DataType::Boolean | DataType::Null)
}

/// True for an aggregate whose state holds all values of a group.
fn keeps_every_value(expr: &Expr) -> bool {
    const NAMES: [&str; 5] = ["array_agg", "listagg", "median", "percentile_cont", "string_agg"];
    match expr {
        Expr::Alias(alias) => keeps_every_value(&alias.expr),
        Expr::AggregateFunction(call) => call.params.distinct || NAMES.contains(&call.func.name()),
        _ => false,
    }
}

fn makes_long_values(expr: &Expr) -> bool {
    match expr {
        Expr::ScalarFunction(call) => growth::of(call.func.name()).is_some_and(growth::Growth::is_by_number),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use datafusion::physical_plan::joins::SortMergeJoinExec;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;

    #[tokio::test]
    async fn joins_of_one_partition_are_made_by_sorting_where_hash_joins_are_not_wanted() {
        let mut config = SessionConfig::new().with_target_partitions(1);
        config.options_mut().optimizer.prefer_hash_join = false;
        let context = SessionContext::new_with_config(config);
        let series = "generate_series(1, 100)";
        let sql = format!(
            "SELECT count(*) AS n FROM {series} a LEFT JOIN {series} b ON a.value = b.value * 2 WHERE b.value IS NULL"
        );
        let plan = context.state().create_logical_plan(&sql).await.unwrap();
        let query = Query::new(plan, context.state(), Interrupt::default());
        let physical = query.physical_plan(&context.state()).await.unwrap();
        let mut joins = (0, 0);
        physical
            .apply(|node| {
                joins.0 += usize::from(node.downcast_ref::<SortMergeJoinExec>().is_some());
                joins.1 += usize::from(node.downcast_ref::<HashJoinExec>().is_some());
                assert_eq!(node.properties().output_partitioning().partition_count(), 1);
                Ok(TreeNodeRecursion::Continue)
            })
            .unwrap();
        assert_eq!(joins, (1, 0));
        let rows: Vec<_> = execute_stream(physical, context.task_ctx()).unwrap().try_collect().await.unwrap();
        assert_eq!(rows[0].column(0).as_primitive::<arrow::datatypes::Int64Type>().value(0), 50);
    }
}
