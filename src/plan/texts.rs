//! Literal texts beside an interval are planned as intervals, and so is what is added to a time: DataFusion finds no type for
//! `b - a > '1 day'`, `ts + '1 day'` and `ts + ?`.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, IntervalUnit};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::BinaryExpr;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{Expr, ExprSchemable, Operator};
use datafusion::sql::sqlparser::ast::BinaryOperator;

use crate::function::texts_as_intervals;

/// Plans comparisons, sums and differences of an interval and a literal text.
#[derive(Debug)]
pub struct TextsBesideIntervals;

impl ExprPlanner for TextsBesideIntervals {
    fn plan_binary_op(&self, mut expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let Some(op) = operator(&expr.op) else { return Ok(PlannerResult::Original(expr)) };
        let RawBinaryExpr { left, right, .. } = &mut expr;
        let is_moved = op == Operator::Plus && (is_time(left, schema) || is_time(right, schema));
        let mut span = Expr::Literal(ScalarValue::IntervalMonthDayNano(None), None);
        let changed = if is_moved {
            texts_as_intervals(&mut [&mut *left, &mut *right, &mut span], schema)?
                | by_parameter(left)
                | by_parameter(right)
        } else {
            texts_as_intervals(&mut [&mut *left, &mut *right], schema)?
        };
        if !changed {
            return Ok(PlannerResult::Original(expr));
        }
        let RawBinaryExpr { left, right, .. } = expr;
        Ok(PlannerResult::Planned(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))))
    }
}

fn is_time(expr: &Expr, schema: &DFSchema) -> bool {
    matches!(expr.get_type(schema), Ok(DataType::Timestamp(..) | DataType::Date32))
}

/// Makes a parameter without a type an interval; true when it is one.
fn by_parameter(expr: &mut Expr) -> bool {
    match expr {
        Expr::Placeholder(parameter) if parameter.field.is_none() => {
            let kind = DataType::Interval(IntervalUnit::MonthDayNano);
            parameter.field = Some(Arc::new(Field::new(parameter.id.clone(), kind, true)));
            true
        }
        _ => false,
    }
}

fn operator(op: &BinaryOperator) -> Option<Operator> {
    Some(match op {
        BinaryOperator::Eq => Operator::Eq,
        BinaryOperator::NotEq => Operator::NotEq,
        BinaryOperator::Lt => Operator::Lt,
        BinaryOperator::LtEq => Operator::LtEq,
        BinaryOperator::Gt => Operator::Gt,
        BinaryOperator::GtEq => Operator::GtEq,
        BinaryOperator::Plus => Operator::Plus,
        BinaryOperator::Minus => Operator::Minus,
        _ => return None,
    })
}
