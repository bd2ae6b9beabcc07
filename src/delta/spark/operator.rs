//! Operators as Spark computes them: `/` of whole numbers is a DOUBLE, division by zero is null, and decimals stay exact.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, Like, Operator, cast, lit, not};
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CastKind, CeilFloorKind, DataType as AstType, Expr as Ast, UnaryOperator,
};

use super::convert::{binary, digits, is_decimal, is_float, is_span, is_time, plain_float};
use super::{Read, Reader, unknown};
use crate::sql::types::{from_ast, sql_name};

impl Reader<'_> {
    pub(super) fn operation(&self, ast: &Ast) -> Read<Expr> {
        let tested = |inner: &Ast, test: fn(Box<Expr>) -> Expr| self.read(inner).map(|expr| test(Box::new(expr)));
        match ast {
            Ast::IsNull(inner) => tested(inner, Expr::IsNull),
            Ast::IsNotNull(inner) => tested(inner, Expr::IsNotNull),
            Ast::IsTrue(inner) => tested(inner, Expr::IsTrue),
            Ast::IsNotTrue(inner) => tested(inner, Expr::IsNotTrue),
            Ast::IsFalse(inner) => tested(inner, Expr::IsFalse),
            Ast::IsNotFalse(inner) => tested(inner, Expr::IsNotFalse),
            Ast::IsUnknown(inner) => tested(inner, Expr::IsUnknown),
            Ast::IsNotUnknown(inner) => tested(inner, Expr::IsNotUnknown),
            Ast::IsDistinctFrom(left, right) => self.same(self.read(left)?, self.read(right)?).map(not),
            Ast::IsNotDistinctFrom(left, right) => self.same(self.read(left)?, self.read(right)?),
            Ast::Between { expr, negated, low, high } => {
                let expr = self.read(expr)?;
                let from = self.compare(expr.clone(), Operator::GtEq, self.read(low)?)?;
                let to = self.compare(expr, Operator::LtEq, self.read(high)?)?;
                Ok(negated_if(*negated, from.and(to)))
            }
            Ast::InList { expr, list, negated } => {
                let expr = self.read(expr)?;
                let list = list.iter().map(|item| self.read(item)).collect::<Read<Vec<_>>>()?;
                self.one_of(&expr, list).map(|found| negated_if(*negated, found))
            }
            Ast::Like { negated, any: false, expr, pattern, escape_char: None } => {
                self.like(*negated, &self.read(expr)?, &self.read(pattern)?, false)
            }
            Ast::ILike { negated, any: false, expr, pattern, escape_char: None } => {
                self.like(*negated, &self.read(expr)?, &self.read(pattern)?, true)
            }
            Ast::RLike { negated, expr, pattern, .. } => {
                let found = self.matches(&self.read(expr)?, &self.read(pattern)?)?;
                Ok(negated_if(*negated, found))
            }
            Ast::UnaryOp { op, expr } => match op {
                UnaryOperator::Not => self.read(expr).map(not),
                UnaryOperator::Plus => self.read(expr),
                UnaryOperator::Minus => self.read(expr).map(|expr| Expr::Negative(Box::new(expr))),
                _ => Err(unknown(ast)),
            },
            Ast::BinaryOp { left, op: BinaryOperator::And | BinaryOperator::Or, .. } => self.chain(ast, left),
            Ast::BinaryOp { left, op, right } => self.binary(ast, self.read(left)?, op, self.read(right)?),
            Ast::Cast { kind, expr, data_type, array: false, format: None } => {
                let expr = self.read(expr)?;
                match kind {
                    CastKind::Cast | CastKind::DoubleColon => self.cast(expr, &named(data_type, ast)?),
                    _ => Err(unknown(ast)),
                }
            }
            Ast::Ceil { expr, field } | Ast::Floor { expr, field } => {
                let CeilFloorKind::DateTimeField(datafusion::sql::sqlparser::ast::DateTimeField::NoDateTime) = field
                else {
                    return Err(unknown(ast));
                };
                let name = if matches!(ast, Ast::Ceil { .. }) { "ceil" } else { "floor" };
                self.number_function(name, &[self.read(expr)?])?.ok_or_else(|| unknown(ast))
            }
            _ => Err(unknown(ast)),
        }
    }

    /// `a AND b AND …` of any length, without descending once per operand.
    fn chain(&self, ast: &Ast, first: &Ast) -> Read<Expr> {
        let Ast::BinaryOp { op, right, .. } = ast else { return Err(unknown(ast)) };
        let (mut rest, mut operands) = (first, vec![&**right]);
        while let Ast::BinaryOp { left, op: inner, right } = rest
            && inner == op
        {
            operands.push(right);
            rest = left;
        }
        let join = if *op == BinaryOperator::And { Expr::and } else { Expr::or };
        let first = self.read(rest)?;
        operands.into_iter().rev().try_fold(first, |all, operand| Ok(join(all, self.read(operand)?)))
    }

    fn binary(&self, ast: &Ast, left: Expr, op: &BinaryOperator, right: Expr) -> Read<Expr> {
        let op = match op {
            BinaryOperator::Eq => Operator::Eq,
            BinaryOperator::NotEq => Operator::NotEq,
            BinaryOperator::Lt => Operator::Lt,
            BinaryOperator::LtEq => Operator::LtEq,
            BinaryOperator::Gt => Operator::Gt,
            BinaryOperator::GtEq => Operator::GtEq,
            BinaryOperator::Spaceship => return self.same(left, right),
            BinaryOperator::StringConcat => return self.joined(&[left, right]),
            BinaryOperator::Plus => return self.arithmetic(left, Operator::Plus, right),
            BinaryOperator::Minus => return self.arithmetic(left, Operator::Minus, right),
            BinaryOperator::Multiply => return self.arithmetic(left, Operator::Multiply, right),
            BinaryOperator::Divide => return self.arithmetic(left, Operator::Divide, right),
            BinaryOperator::Modulo => return self.arithmetic(left, Operator::Modulo, right),
            _ => return Err(unknown(ast)),
        };
        self.compare(left, op, right)
    }

    pub(super) fn arithmetic(&self, left: Expr, op: Operator, right: Expr) -> Read<Expr> {
        let (a, b) = (self.kind(&left)?, self.kind(&right)?);
        if a == DataType::Null || b == DataType::Null {
            return Ok(lit(ScalarValue::Null));
        }
        if is_span(&a) || is_span(&b) || is_time(&a) || is_time(&b) {
            return self.time_arithmetic(left, op, right);
        }
        if !a.is_numeric() || !b.is_numeric() {
            return Err(format!("`{op}` of {} and {} is left to no engine's guess", sql_name(&a), sql_name(&b)));
        }
        let divides = matches!(op, Operator::Divide | Operator::Modulo);
        let whole = a.is_integer() && b.is_integer();
        if is_float(&a) || is_float(&b) || (op == Operator::Divide && whole) {
            let (left, right) = (cast(left, DataType::Float64), plain_float(right));
            let right = if divides { self.call("nullif", vec![right, lit(0.0)])? } else { right };
            return Ok(binary(left, op, right));
        }
        let (left, right) = (exact_literal(left, &b), exact_literal(right, &a));
        if op == Operator::Divide {
            return self.divided(left, right);
        }
        let right = match divides {
            true => self.call("nullif", vec![right.clone(), cast(lit(0_i64), self.kind(&right)?)])?,
            false => right,
        };
        Ok(binary(left, op, right))
    }

    /// Division of decimals, with the digits that Spark keeps.
    fn divided(&self, left: Expr, right: Expr) -> Read<Expr> {
        let (p1, s1) = digits(&self.kind(&left)?);
        let (p2, s2) = digits(&self.kind(&right)?);
        let scale = (s1 + p2 + 1).max(6);
        let precision = p1 - s1 + s2 + scale;
        let (precision, scale) = match precision <= 38 {
            true => (precision, scale),
            false => (38, (38 - (precision - scale)).max(scale.min(6))),
        };
        let (Ok(precision), Ok(scale)) = (u8::try_from(precision), i8::try_from(scale)) else {
            return Err("a division has more digits than a DECIMAL".to_owned());
        };
        // Arrow adds four digits to those of the dividend and cuts the rest off: one digit more than needed, then rounded.
        let dividend = DataType::Decimal128(38, (scale - 3).max(i8::try_from(s1).unwrap_or(0)));
        let divisor = DataType::Decimal128(u8::try_from(p2).unwrap_or(38), i8::try_from(s2).unwrap_or(0));
        let right = self.call("nullif", vec![cast(right, divisor.clone()), cast(lit(0_i64), divisor)])?;
        let quotient = binary(cast(left, dividend), Operator::Divide, right);
        let exact = self.kind(&quotient)?;
        let to = DataType::Decimal128(precision, scale);
        let DataType::Decimal128(_, given) = exact else { return Ok(cast(quotient, to)) };
        Ok(cast(self.cut(quotient, given, &to)?, to))
    }

    fn like(&self, negated: bool, expr: &Expr, pattern: &Expr, ignores_case: bool) -> Read<Expr> {
        let (expr, pattern) = (self.text(expr)?, self.text(pattern)?);
        Ok(Expr::Like(Like::new(negated, Box::new(expr), Box::new(pattern), None, ignores_case)))
    }
}

fn negated_if(negated: bool, expr: Expr) -> Expr {
    if negated { not(expr) } else { expr }
}

/// A whole number's literal beside a decimal is a decimal of its digits, in Spark.
fn exact_literal(expr: Expr, beside: &DataType) -> Expr {
    match &expr {
        Expr::Literal(ScalarValue::Int64(Some(value)), _) if is_decimal(beside) => {
            let digits = u8::try_from(value.unsigned_abs().to_string().len()).unwrap_or(20);
            lit(ScalarValue::Decimal128(Some(i128::from(*value)), digits, 0))
        }
        _ => expr,
    }
}

fn named(data_type: &AstType, ast: &Ast) -> Read<DataType> {
    from_ast(data_type).ok_or_else(|| unknown(ast))
}
