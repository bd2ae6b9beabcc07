//! Finds expressions that may fail for some row.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{
    BinaryExpr, CaseExpr, CastExpr, Column, InListExpr, IsNotNullExpr, IsNullExpr, Literal, NotExpr, TryCastExpr,
};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};

use crate::evaluate::ONE_FORM;

/// Functions that have a result for every row.
const TOTAL: &[&str] =
    &["coalesce", "nullif", "upper", "lower", "character_length", "octet_length", "isnan", "floor", "ceil", ONE_FORM];

/// `false` only if `expr` can be computed for every row of `schema`.
pub fn is_fallible(expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> bool {
    fails_itself(expr, schema) || expr.children().into_iter().any(|child| is_fallible(child, schema))
}

fn fails_itself(expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> bool {
    let kind = |expr: &Arc<dyn PhysicalExpr>| expr.data_type(schema).unwrap_or(DataType::Null);
    if let Some(binary) = expr.downcast_ref::<BinaryExpr>() {
        let of_floats = kind(binary.left()).is_floating() && kind(binary.right()).is_floating();
        return !(of_floats || is_total(*binary.op()));
    }
    if let Some(cast) = expr.downcast_ref::<CastExpr>() {
        return !widens(&kind(cast.expr()), cast.cast_type());
    }
    if let Some(function) = expr.downcast_ref::<ScalarFunctionExpr>() {
        return !TOTAL.contains(&function.name());
    }
    !(expr.is::<Column>()
        || expr.is::<Literal>()
        || expr.is::<NotExpr>()
        || expr.is::<IsNullExpr>()
        || expr.is::<IsNotNullExpr>()
        || expr.is::<InListExpr>()
        || expr.is::<CaseExpr>()
        || expr.is::<TryCastExpr>())
}

/// `true` for comparisons and logic, which never fail.
fn is_total(operator: Operator) -> bool {
    use Operator::{And, Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq, Or};
    matches!(operator, Eq | NotEq | Lt | LtEq | Gt | GtEq | And | Or | IsDistinctFrom | IsNotDistinctFrom)
}

fn widens(from: &DataType, to: &DataType) -> bool {
    from == to
        || *to == DataType::Utf8
        || *to == DataType::Float64 && from.is_numeric() && !from.is_decimal()
        || from.is_signed_integer() && to.is_signed_integer() && from.primitive_width() <= to.primitive_width()
}
