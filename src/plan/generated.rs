//! Columns that a Delta table generates from others: computed where the INSERT gives them no value.

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::{Column, DFSchema};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder};

use crate::delta::GENERATED;
use crate::error::{Error, Result};

/// The plan with those columns of `target` computed that are generated and listed in `lacking`; it has all of the target's columns.
///
/// Errors: an expression that only the engine which declared it understands.
pub fn generate(
    plan: LogicalPlan,
    target_name: &str,
    target: &Schema,
    lacking: &[usize],
    session: &SessionState,
) -> Result<LogicalPlan> {
    let schema = plan.schema().clone();
    let mut exprs = Vec::with_capacity(target.fields().len());
    for (index, field) in target.fields().iter().enumerate() {
        let expression = field.metadata().get(GENERATED).filter(|_| lacking.contains(&index));
        let expr = match expression {
            None => Expr::Column(Column::from_name(field.name())),
            Some(expression) => {
                let bound = bound(expression, &schema, session);
                let cast = bound.and_then(|expr| expr.cast_to(field.data_type(), &schema));
                cast.map_err(|error| not_understood(target_name, field.name(), expression, &error))?
            }
        };
        exprs.push(expr.alias(field.name()));
    }
    Ok(LogicalPlanBuilder::from(plan).project(exprs).and_then(LogicalPlanBuilder::build)?)
}

/// True when the column of `target` is generated.
pub fn is_generated(target: &Schema, column: usize) -> bool {
    target.field(column).metadata().contains_key(GENERATED)
}

/// The columns without what is noted of them.
pub fn plain(target: &SchemaRef) -> SchemaRef {
    if target.fields().iter().all(|field| field.metadata().is_empty()) {
        return SchemaRef::clone(target);
    }
    let fields = target.fields().iter().map(|field| field.as_ref().clone().with_metadata(Default::default()));
    SchemaRef::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn bound(expression: &str, schema: &DFSchema, session: &SessionState) -> datafusion::error::Result<Expr> {
    // Spark quotes names with backticks.
    let expression = expression.replace('`', "\"");
    session.create_logical_expr(&expression, schema)
}

fn not_understood(table: &str, column: &str, expression: &str, error: &datafusion::error::DataFusionError) -> Error {
    Error::sql(format!("generated column `{column}` of `{table}` cannot be computed"))
        .with_detail(format!("The table generates it as `{expression}`: {}.", crate::evaluate::cause(error)))
        .with_hint(format!("Give `{column}` a value in the INSERT."))
}
