//! Columns that a Delta table generates from others: computed where the INSERT gives them no value, by what judges them when they are written.

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::{Column, DFSchema};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};

use crate::delta::{GENERATED, generated_as_spark};
use crate::error::{Error, Result};

/// The plan with those columns of `target` computed that are generated and listed in `lacking`; it has all of the target's columns.
///
/// Errors: an expression that only the engine which declared it understands.
pub fn generate(plan: LogicalPlan, target_name: &str, target: &Schema, lacking: &[usize]) -> Result<LogicalPlan> {
    let schema = DFSchema::try_from(plan.schema().as_arrow().clone())?;
    let mut exprs = Vec::with_capacity(target.fields().len());
    for (index, field) in target.fields().iter().enumerate() {
        let expression = field.metadata().get(GENERATED).filter(|_| lacking.contains(&index));
        let expr = match expression {
            None => Expr::Column(Column::from_name(field.name())),
            Some(expression) => {
                let value = generated_as_spark(expression, field.data_type(), &schema);
                value.map_err(|reason| not_understood(target_name, field.name(), expression, &reason))?
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

fn not_understood(table: &str, column: &str, expression: &str, reason: &str) -> Error {
    Error::sql(format!("generated column `{column}` of `{table}` cannot be computed"))
        .with_detail(format!("The table generates it as `{expression}`: {reason}."))
        .with_hint(format!("Give `{column}` a value in the INSERT."))
}
