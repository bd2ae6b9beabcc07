//! A planned statement: what it needs, what it gives, and its rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::ParamValues;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::context::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::scalar::ScalarValue;
use futures::{StreamExt, TryStreamExt, stream};

use crate::error::{Error, Result, SqlState};
use crate::memory::growth;
use crate::serve::failure::query_error;
use crate::serve::interrupt::{Interrupt, guard};
use crate::serve::wide::{FEW_ROWS, WideRows};

/// Rows of a batch where all columns have a fixed width, where some are texts or nested, and where functions make values of any length.
const ROWS: usize = 8_192;
const ROWS_OF_TEXTS: usize = 2_048;
const ROWS_THAT_GROW: usize = 512;

/// A planned statement.
#[derive(Debug, Clone)]
pub struct Query {
    plan: LogicalPlan,
    state: SessionState,
    interrupt: Interrupt,
}

impl Query {
    /// A query of `plan`, which `state` runs and `interrupt` ends.
    pub fn new(plan: LogicalPlan, mut state: SessionState, interrupt: Interrupt) -> Self {
        set_rows_of_batch(&mut state, rows_of_batch(&plan));
        Self { plan, state, interrupt }
    }

    /// What ends it while it runs.
    pub fn interrupt(&self) -> Interrupt {
        self.interrupt.clone()
    }

    /// The columns of the result, as its rows have them. While parameters are unbound, types that hang on them are a guess.
    pub async fn schema(&self) -> Result<SchemaRef> {
        if self.parameters()?.fields().is_empty() {
            return Ok(self.physical_plan(&self.state).await?.schema());
        }
        let options: &ConfigOptions = self.state.config_options();
        let analysed = self.state.analyzer().execute_and_check(self.plan.clone(), options, |_, _| {});
        let plan = analysed.as_ref().unwrap_or(&self.plan);
        Ok(Arc::clone(plan.schema().inner()))
    }

    /// The parameters in order, typed as far as the SQL tells; `Null` where it does not.
    pub fn parameters(&self) -> Result<Schema> {
        let types = self.plan.get_parameter_types().map_err(query_error)?;
        let mut numbered = BTreeMap::new();
        for (name, data_type) in types {
            let number: usize = name.trim_start_matches('$').parse().map_err(|_| {
                Error::sql(format!("parameter `{name}` has a name")).with_hint("Write parameters as `?` or `$1`.")
            })?;
            numbered.insert(number, data_type.unwrap_or(DataType::Null));
        }
        let count = numbered.keys().next_back().copied().unwrap_or(0);
        let fields: Vec<Field> = (1..=count)
            .map(|n| Field::new(format!("${n}"), numbered.remove(&n).unwrap_or(DataType::Null), true))
            .collect();
        Ok(Schema::new(fields))
    }

    /// Puts values in the place of `$1`, `$2` …, cast to the parameters' types.
    pub fn bind(self, values: Vec<ScalarValue>) -> Result<Self> {
        let parameters = self.parameters()?;
        if parameters.fields().len() != values.len() {
            let (wanted, bound) = (parameters.fields().len(), values.len());
            return Err(Error::sql(format!("statement has {wanted} parameters, {bound} were bound"))
                .with_state(SqlState::PARAMETERS));
        }
        let mut cast = Vec::with_capacity(values.len());
        for (field, value) in parameters.fields().iter().zip(values) {
            let value = if field.data_type().is_null() {
                value
            } else {
                value.cast_to(field.data_type()).map_err(|error| {
                    Error::sql(format!("parameter `{}` is not {}", field.name(), field.data_type())).with_source(error)
                })?
            };
            cast.push(value);
        }
        let plan = self.plan.with_param_values(ParamValues::from(cast)).map_err(query_error)?;
        Ok(Self { plan, ..self })
    }

    /// Runs the query; batches are made as they are read, and dropping the stream ends the work.
    pub async fn stream(&self) -> Result<SendableRecordBatchStream> {
        let unbound = self.parameters()?;
        if !unbound.fields().is_empty() {
            return Err(Error::sql(format!("parameter `{}` was not bound", unbound.field(0).name()))
                .with_state(SqlState::PARAMETERS)
                .with_hint("Prepare the statement and bind its parameters."));
        }
        let wide = WideRows::default();
        let mut rows = self.rows(&self.state, &wide).await?;
        let schema = rows.schema();
        let again = self.clone();
        // Until a row was given, the query can begin again.
        let begun = async move {
            let first = rows.next().await;
            if matches!(first, Some(Err(_))) && wide.is_exceeded() {
                drop(rows);
                let mut state = again.state.clone();
                set_rows_of_batch(&mut state, FEW_ROWS);
                let rows = again.rows(&state, &WideRows::default()).await?;
                return Ok::<SendableRecordBatchStream, DataFusionError>(rows);
            }
            let schema = rows.schema();
            let all = stream::iter(first).chain(rows);
            Ok(Box::pin(RecordBatchStreamAdapter::new(schema, all)) as SendableRecordBatchStream)
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream::once(begun).try_flatten())))
    }

    async fn rows(&self, state: &SessionState, wide: &WideRows) -> Result<SendableRecordBatchStream> {
        let physical = self.physical_plan(state).await?;
        let physical = guard(physical, &self.interrupt, wide).map_err(query_error)?;
        execute_stream(physical, state.task_ctx()).map_err(query_error)
    }

    async fn physical_plan(&self, state: &SessionState) -> Result<Arc<dyn ExecutionPlan>> {
        state.create_physical_plan(&self.plan).await.map_err(query_error)
    }
}

fn set_rows_of_batch(state: &mut SessionState, rows: usize) {
    let config = state.config().clone().with_batch_size(rows);
    *state.config_mut() = config;
}

/// Rows of a batch in which wide values may stand: nobody counts a batch that goes from one operator to the next.
fn rows_of_batch(plan: &LogicalPlan) -> usize {
    let (mut varies, mut grows) = (false, false);
    let visited = plan.apply_with_subqueries(|node| {
        varies |= node.schema().fields().iter().any(|field| !is_fixed(field.data_type()));
        node.apply_expressions(|expr| {
            expr.apply(|inner| {
                grows |= makes_long_values(inner);
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    // Looking cannot fail.
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

fn makes_long_values(expr: &Expr) -> bool {
    match expr {
        Expr::ScalarFunction(call) => growth::of(call.func.name()).is_some_and(growth::Growth::is_by_number),
        _ => false,
    }
}
