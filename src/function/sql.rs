//! `CREATE FUNCTION … LANGUAGE sql`: an expression with parameters, inlined where it is called.
//!
//! The body is bound once against the declared parameters; the optimiser then replaces each call by the body with the
//! arguments put in, so that a SQL function costs what the expression costs.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, internal_err};
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::sql::sqlparser::ast::ExprWithAlias as SQLExprWithAlias;

use super::{as_meant, shorten_names};
use crate::arithmetic::checked_constants;
use crate::catalog::FunctionDef;

/// Binds a SQL function's body with the functions that `state` knows. Errors: DataFusion's planning errors of the body,
/// with the body's spans.
pub fn sql_function(def: &FunctionDef, state: &SessionState) -> Result<ScalarUDF> {
    let fields: Vec<_> = def.arguments.iter().map(|(name, kind)| Field::new(name, kind.clone(), true)).collect();
    let schema = Arc::new(DFSchema::try_from(Schema::new(fields))?);
    let mut body = SQLExprWithAlias { expr: def.body.clone(), alias: None };
    shorten_names(&mut body.expr, state);
    let body = as_meant(state.create_logical_expr_from_sql_expr(body, &schema)?, &schema)?.data;
    let context = SimplifyContext::builder().with_schema(Arc::clone(&schema)).build();
    let body = ExprSimplifier::new(context).coerce(body, &schema)?.cast_to(&def.returns, &schema)?;
    // It is put in by the optimiser, when the analyser has done with the query around it.
    let mut rewrites = state.analyzer().function_rewrites().iter();
    let body = rewrites.try_fold(body, |body, rewrite| {
        let options = state.config_options();
        body.transform_up(|expr| rewrite.rewrite(expr, &schema, options)).map(|body| body.data)
    })?;
    let parameters: Vec<String> = def.arguments.iter().map(|(name, _)| name.clone()).collect();
    let size = written_out(&body, &|_| 1);
    let uses = parameters.iter().map(|name| uses(&body, name)).collect();
    Ok(ScalarUDF::from(SqlFunction {
        name: def.name.clone(),
        parameters,
        size,
        uses,
        signature: Signature::exact(
            def.arguments.iter().map(|(_, kind)| kind.clone()).collect(),
            Volatility::Immutable,
        ),
        returns: def.returns.clone(),
        body,
    }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SqlFunction {
    name: String,
    parameters: Vec<String>,
    signature: Signature,
    returns: DataType,
    body: Expr,
    /// Names and operations of the body with the calls in it written out.
    size: usize,
    /// Number of times that the written-out body names each parameter.
    uses: Vec<usize>,
}

/// Names and operations of `expr` as the optimiser writes it out: the body of a SQL function in place of its call, `coalesce(x, y)` as a CASE
/// that names x twice, `x BETWEEN …` as two comparisons. So `f(f(f(x)))` and `coalesce(coalesce(x, 1), 2)` grow by a factor with every
/// level. A column counts as `of_column` says.
pub fn written_out(expr: &Expr, of_column: &dyn Fn(&Column) -> usize) -> usize {
    match expr {
        Expr::Column(column) => of_column(column),
        Expr::Alias(alias) => written_out(&alias.expr, of_column),
        _ => match called_function(expr) {
            // The body has one name for what the argument takes the place of.
            Some(function) => {
                function.size.saturating_add(weighted(expr, &|arg| written_out(arg, of_column).saturating_sub(1)))
            }
            None => weighted(expr, &|child| written_out(child, of_column)).saturating_add(1),
        },
    }
}

/// Number of times that `expr`, written out, names the column.
fn uses(expr: &Expr, name: &str) -> usize {
    match expr {
        Expr::Column(column) => usize::from(column.name == name),
        _ => weighted(expr, &|child| uses(child, name)),
    }
}

fn called_function(expr: &Expr) -> Option<&SqlFunction> {
    let Expr::ScalarFunction(call) = expr else { return None };
    call.func.inner().downcast_ref::<SqlFunction>()
}

/// Values of `of` for the parts of `expr`, each as often as the optimiser names it. It is asked once for each.
fn weighted(expr: &Expr, of: &dyn Fn(&Expr) -> usize) -> usize {
    let times = |(part, times): (&Expr, usize)| of(part).saturating_mul(times);
    match expr {
        Expr::Between(between) => {
            let parts = [(&*between.expr, 2), (&*between.low, 1), (&*between.high, 1)];
            parts.into_iter().map(times).fold(0, usize::saturating_add)
        }
        Expr::ScalarFunction(call) => {
            let last = call.args.len().saturating_sub(1);
            let is_tested = |index: usize| matches!(call.func.name(), "coalesce" | "nvl") && index < last;
            let uses = |index: usize| match called_function(expr) {
                Some(function) => function.uses.get(index).copied().unwrap_or_default(),
                None => 1 + usize::from(is_tested(index)),
            };
            let args = call.args.iter().enumerate().map(|(index, arg)| (arg, uses(index)));
            args.map(times).fold(0, usize::saturating_add)
        }
        _ => sum_of_children(expr, of),
    }
}

fn sum_of_children(expr: &Expr, of: &dyn Fn(&Expr) -> usize) -> usize {
    let mut sum: usize = 0;
    let walked = expr.apply_children(|child| {
        sum = sum.saturating_add(of(child));
        Ok(TreeNodeRecursion::Continue)
    });
    // Adding up cannot fail.
    let _ = walked;
    sum
}

impl ScalarUDFImpl for SqlFunction {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(self.returns.clone())
    }

    fn simplify(&self, args: Vec<Expr>, _info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let values: HashMap<&str, &Expr> = self.parameters.iter().map(String::as_str).zip(&args).collect();
        let inlined = self.body.clone().transform_up(|node| match &node {
            Expr::Column(column) => match values.get(column.name.as_str()) {
                Some(value) => Ok(Transformed::yes((*value).clone())),
                None => internal_err!("function `{}` has no parameter `{}`", self.name, column.name),
            },
            _ => Ok(Transformed::no(node)),
        })?;
        // Parts that an argument has made constant are folded next.
        Ok(ExprSimplifyResult::Simplified(checked_constants(inlined.data)?))
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        internal_err!("function `{}` should have been inlined", self.name)
    }
}
