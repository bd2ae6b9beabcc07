//! Windows in batch take keys for equal as everything else does (see `equality`): DataFusion's PARTITION BY and DISTINCT tell -0.0 from 0.0.

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, Operator, binary_expr};
use datafusion::optimizer::AnalyzerRule;

/// Adds zero to floats by which windows divide or count: -0.0 becomes 0.0, and every other value stays.
#[derive(Debug)]
pub struct OneZeroInWindows;

impl AnalyzerRule for OneZeroInWindows {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        let rewritten = plan.transform_up_with_subqueries(|node| {
            let LogicalPlan::Window(window) = &node else { return Ok(Transformed::no(node)) };
            let input = window.input.schema().clone();
            let names = NamePreserver::new(&node);
            node.map_expressions(|expr| {
                let name = names.save(&expr);
                let expr = expr.transform_up(|expr| match expr {
                    Expr::WindowFunction(call) => of_call(*call, &input),
                    other => Ok(Transformed::no(other)),
                })?;
                Ok(expr.update_data(|expr| name.restore(expr)))
            })?
            .map_data(LogicalPlan::recompute_schema)
        })?;
        Ok(rewritten.data)
    }

    fn name(&self) -> &'static str {
        "one_zero_in_windows"
    }
}

fn of_call(mut call: WindowFunction, input: &DFSchema) -> Result<Transformed<Expr>> {
    let mut changed = false;
    let distinct = call.params.distinct;
    let counted = call.params.args.iter_mut().filter(|_| distinct);
    for key in call.params.partition_by.iter_mut().chain(counted) {
        let zero = match key.get_type(input)? {
            DataType::Float64 => ScalarValue::Float64(Some(0.0)),
            DataType::Float32 => ScalarValue::Float32(Some(0.0)),
            _ => continue,
        };
        *key = binary_expr(std::mem::take(key), Operator::Plus, Expr::Literal(zero, None));
        changed = true;
    }
    Ok(Transformed::new_transformed(Expr::WindowFunction(Box::new(call)), changed))
}
