//! Small parts that the plans of table functions are made of.

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, ScalarUDF, UserDefinedLogicalNode};

use crate::error::Error;
use crate::function::window_functions;

/// Every column of a plan.
pub fn columns(plan: &LogicalPlan) -> Vec<Expr> {
    plan.schema().columns().into_iter().map(Expr::Column).collect()
}

/// A call of one of our functions.
pub fn call(name: &str, args: Vec<Expr>) -> Result<Expr> {
    let found = window_functions().into_iter().find(|function| function.name() == name);
    let function: ScalarUDF = found.ok_or_else(|| Error::internal(format!("function `{name}` does not exist")))?;
    Ok(function.call(args))
}

/// A node of ours.
pub fn extension(node: impl UserDefinedLogicalNode + 'static) -> LogicalPlan {
    LogicalPlan::Extension(Extension { node: Arc::new(node) })
}
