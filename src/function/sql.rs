//! `CREATE FUNCTION … LANGUAGE sql`: an expression with parameters, inlined where it is called.
//!
//! The body is bound once against the declared parameters; the optimiser then replaces each call by the body with the
//! arguments put in, so that a SQL function costs what the expression costs.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, internal_err};
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::sql::sqlparser::ast::ExprWithAlias as SQLExprWithAlias;

use super::as_meant;
use crate::arithmetic::checked_constants;
use crate::catalog::FunctionDef;

/// Binds a SQL function's body with the functions that `state` knows. Errors: DataFusion's planning errors of the body,
/// with the body's spans.
pub fn sql_function(def: &FunctionDef, state: &SessionState) -> Result<ScalarUDF> {
    let fields: Vec<_> = def.arguments.iter().map(|(name, kind)| Field::new(name, kind.clone(), true)).collect();
    let schema = Arc::new(DFSchema::try_from(Schema::new(fields))?);
    let body = SQLExprWithAlias { expr: def.body.clone(), alias: None };
    let body = as_meant(state.create_logical_expr_from_sql_expr(body, &schema)?, &schema)?.data;
    let context = SimplifyContext::builder().with_schema(Arc::clone(&schema)).build();
    let body = ExprSimplifier::new(context).coerce(body, &schema)?.cast_to(&def.returns, &schema)?;
    // It is put in by the optimiser, when the analyser has done with the query around it.
    let mut rewrites = state.analyzer().function_rewrites().iter();
    let body = rewrites.try_fold(body, |body, rewrite| {
        let options = state.config_options();
        body.transform_up(|expr| rewrite.rewrite(expr, &schema, options)).map(|body| body.data)
    })?;
    Ok(ScalarUDF::from(SqlFunction {
        name: def.name.clone(),
        parameters: def.arguments.iter().map(|(name, _)| name.clone()).collect(),
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
        // What an argument has made constant is folded next.
        Ok(ExprSimplifyResult::Simplified(checked_constants(inlined.data)?))
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        internal_err!("function `{}` should have been inlined", self.name)
    }
}
