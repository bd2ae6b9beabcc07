//! An INSERT's columns fitted to its target: by name when the SELECT names them all, else by position.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef, TimeUnit};
use datafusion::common::Column;
use datafusion::common::ScalarValue;
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, lit};

use super::generated::{generate, is_generated};
use crate::error::{Error, Result};
use crate::sql::types::sql_name;

/// Projects `plan` onto `target`'s columns, names and types. `columns` is the INSERT's own column list, or empty.
///
/// Errors: another number of columns, a name that the target lacks, a type that would lose data, a NOT NULL column
/// that gets no value.
pub fn fit(plan: LogicalPlan, target_name: &str, target: &SchemaRef, columns: &[String]) -> Result<LogicalPlan> {
    let sources = match_columns(&plan, target_name, target, columns)?;
    let schema = Arc::clone(plan.schema());
    let mut exprs = Vec::with_capacity(target.fields().len());
    for (field, source) in target.fields().iter().zip(sources) {
        let expr = match source {
            Some(index) => {
                let given = schema.field(index).data_type();
                // Row numbers are unsigned in DataFusion, and fit.
                let counts = (given, field.data_type()) == (&DataType::UInt64, &DataType::Int64);
                if !counts && !keeps_data(given, field.data_type()) && !literal_fits(&plan, index, field.data_type()) {
                    return Err(Error::sql(format!(
                        "column `{}` of `{target_name}` is {}, the query gives {}",
                        field.name(),
                        sql_name(field.data_type()),
                        sql_name(given)
                    ))
                    .with_detail("Storing it would lose data, so weir does not convert silently.")
                    .with_hint(format!(
                        "Convert it in the query: `CAST({} AS {})`.",
                        written(&plan, index),
                        sql_name(field.data_type())
                    )));
                }
                let (qualifier, given) = schema.qualified_field(index);
                let column = Expr::Column(Column::from((qualifier, given)));
                cast(column, field.data_type(), &schema).map_err(Error::from)?
            }
            None if field.is_nullable() || is_generated(target, exprs.len()) => null(field.data_type())?,
            None => {
                return Err(Error::sql(format!(
                    "column `{}` of `{target_name}` is NOT NULL and gets no value",
                    field.name()
                ))
                .with_hint("Select a value for it."));
            }
        };
        exprs.push(expr.alias(field.name()));
    }
    let built = LogicalPlanBuilder::from(plan).project(exprs).and_then(LogicalPlanBuilder::build);
    built.map_err(Error::from)
}

/// The target's columns that get no value.
fn lacking(plan: &LogicalPlan, target_name: &str, target: &SchemaRef, columns: &[String]) -> Result<Vec<usize>> {
    let sources = match_columns(plan, target_name, target, columns)?;
    Ok(sources.iter().enumerate().filter(|(_, source)| source.is_none()).map(|(column, _)| column).collect())
}

/// As [`fit`], with the columns computed that the target generates and the query leaves out.
pub fn fit_and_generate(
    plan: LogicalPlan,
    target_name: &str,
    target: &SchemaRef,
    columns: &[String],
) -> Result<LogicalPlan> {
    let mut lacking = lacking(&plan, target_name, target, columns)?;
    lacking.retain(|column| is_generated(target, *column));
    let plan = fit(plan, target_name, target, columns)?;
    if lacking.is_empty() { Ok(plan) } else { generate(plan, target_name, target, &lacking) }
}

fn cast(column: Expr, to: &DataType, schema: &datafusion::common::DFSchema) -> DfResult<Expr> {
    column.cast_to(to, schema)
}

/// The column as the query may write it: the one that it is an alias of, or dots for a longer expression.
fn written(plan: &LogicalPlan, index: usize) -> String {
    match plan {
        LogicalPlan::Projection(projection) => match projection.expr.get(index).map(|expr| expr.clone().unalias()) {
            Some(Expr::Column(column)) => column.name,
            _ => "…".to_owned(),
        },
        other => other.schema().field(index).name().clone(),
    }
}

/// True when the query's column is a constant that the type holds exactly: `1` fits INT although it is a BIGINT.
fn literal_fits(plan: &LogicalPlan, index: usize, to: &DataType) -> bool {
    let LogicalPlan::Projection(projection) = plan else { return false };
    let Some(Expr::Literal(value, _)) = projection.expr.get(index).map(|expr| expr.clone().unalias()) else {
        return false;
    };
    let back = value.cast_to(to).and_then(|cast| cast.cast_to(&value.data_type()));
    back.is_ok_and(|back| back == value)
}

fn null(kind: &DataType) -> Result<Expr> {
    Ok(lit(ScalarValue::try_from(kind).map_err(Error::from)?))
}

/// For each target column the index of the query's column, or `None` when it gets no value.
fn match_columns(
    plan: &LogicalPlan,
    target_name: &str,
    target: &Schema,
    columns: &[String],
) -> Result<Vec<Option<usize>>> {
    let given: Vec<&str> = plan.schema().fields().iter().map(|f| f.name().as_str()).collect();
    if !columns.is_empty() {
        if columns.len() != given.len() {
            return Err(count_mismatch(target_name, columns.len(), given.len(), "the INSERT lists"));
        }
        for column in columns {
            if target.index_of(column).is_err() {
                return Err(unknown_column(column, target_name, target));
            }
        }
        return Ok(target.fields().iter().map(|f| columns.iter().position(|c| c == f.name())).collect());
    }
    let by_name: Vec<_> = target.fields().iter().map(|f| given.iter().position(|name| name == f.name())).collect();
    let named: usize = by_name.iter().flatten().count();
    if named == given.len() && distinct(&given) {
        return Ok(by_name);
    }
    if given.len() != target.fields().len() {
        if let Some(stranger) = given.iter().find(|name| target.index_of(name).is_err())
            && named > 0
        {
            return Err(unknown_column(stranger, target_name, target));
        }
        return Err(count_mismatch(target_name, target.fields().len(), given.len(), "the table has"));
    }
    Ok((0..given.len()).map(Some).collect())
}

fn distinct(names: &[&str]) -> bool {
    names.iter().collect::<std::collections::BTreeSet<_>>().len() == names.len()
}

fn unknown_column(column: &str, target_name: &str, target: &Schema) -> Error {
    let known: Vec<_> = target.fields().iter().map(|f| format!("`{}`", f.name())).collect();
    Error::sql(format!("`{target_name}` has no column `{column}`"))
        .with_hint(format!("Its columns are {}.", known.join(", ")))
}

fn count_mismatch(target_name: &str, wanted: usize, given: usize, who: &str) -> Error {
    Error::sql(format!("`{target_name}` gets {given} columns, {who} {wanted}"))
        .with_hint("Name every column as the table does, or give them all in its order.")
}

/// True when every value of `from` has its equal in `to`. Nanoseconds go to microseconds, the finest that Delta has.
pub fn keeps_data(from: &DataType, to: &DataType) -> bool {
    use DataType as T;
    if from == to || *from == T::Null {
        return true;
    }
    match (from, to) {
        (T::Utf8 | T::LargeUtf8 | T::Utf8View, T::Utf8 | T::LargeUtf8 | T::Utf8View) => true,
        (T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_), T::Binary) => true,
        (T::Dictionary(_, value), _) => keeps_data(value, to),
        (T::Timestamp(_, from_zone), T::Timestamp(TimeUnit::Microsecond, to_zone)) => {
            from_zone.is_some() == to_zone.is_some()
        }
        (T::Date32, T::Timestamp(_, _)) => true,
        (T::Float16, T::Float32) | (T::Float16 | T::Float32, T::Float64) => true,
        (T::Decimal128(p, s), T::Decimal128(q, t)) => {
            t >= s && i16::from(*q) - i16::from(*t) >= i16::from(*p) - i16::from(*s)
        }
        (T::Map(a, _), T::Map(b, _)) => match (a.data_type(), b.data_type()) {
            // Their entries are named by who made them.
            (T::Struct(a), T::Struct(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| keeps_data(a.data_type(), b.data_type()))
            }
            _ => false,
        },
        (T::List(a), T::List(b)) => keeps_data(a.data_type(), b.data_type()),
        (T::Struct(a), T::Struct(b)) => {
            a.len() == b.len()
                && a.iter().zip(b).all(|(a, b)| a.name() == b.name() && keeps_data(a.data_type(), b.data_type()))
        }
        _ => whole(from).is_some_and(|from| holds(to, from)),
    }
}

/// `true` if `to` holds every value of a whole-number type.
fn holds(to: &DataType, from: Whole) -> bool {
    match to {
        // Floats hold whole numbers exactly up to the bits of their significand.
        DataType::Float64 => from.bits <= 53,
        DataType::Float32 => from.bits <= 24,
        DataType::Decimal128(precision, scale) => {
            let digits = ((1_u128 << from.bits) - 1).ilog10() + 1;
            i64::from(*precision) - i64::from(*scale) >= i64::from(digits)
        }
        _ => whole(to).is_some_and(|to| from.bits <= to.bits && (to.signed || !from.signed)),
    }
}

/// A whole-number type: the bits of its greatest value, and whether it has values below zero.
#[derive(Clone, Copy)]
struct Whole {
    bits: u32,
    signed: bool,
}

fn whole(kind: &DataType) -> Option<Whole> {
    let (bits, signed) = match kind {
        DataType::Int8 => (7, true),
        DataType::UInt8 => (8, false),
        DataType::Int16 => (15, true),
        DataType::UInt16 => (16, false),
        DataType::Int32 => (31, true),
        DataType::UInt32 => (32, false),
        DataType::Int64 => (63, true),
        DataType::UInt64 => (64, false),
        _ => return None,
    };
    Some(Whole { bits, signed })
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        ArrayRef, Int8Array, Int16Array, Int32Array, Int64Array, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
    };
    use arrow::compute::{CastOptions, cast_with_options};

    use super::*;

    /// The least and greatest values of every whole-number type, and those beside the bounds of floats.
    fn extremes() -> Vec<ArrayRef> {
        vec![
            Arc::new(Int8Array::from(vec![i8::MIN, -1, i8::MAX])),
            Arc::new(UInt8Array::from(vec![0, u8::MAX])),
            Arc::new(Int16Array::from(vec![i16::MIN, -1, i16::MAX])),
            Arc::new(UInt16Array::from(vec![0, u16::MAX])),
            Arc::new(Int32Array::from(vec![i32::MIN, -1, (1 << 24) + 1, i32::MAX])),
            Arc::new(UInt32Array::from(vec![0, (1 << 24) + 1, u32::MAX])),
            Arc::new(Int64Array::from(vec![i64::MIN, -1, (1 << 53) + 1, i64::MAX])),
            Arc::new(UInt64Array::from(vec![0, (1 << 53) + 1, u64::MAX])),
        ]
    }

    #[test]
    fn a_whole_number_type_keeps_data_where_its_extremes_come_back_and_nowhere_else() {
        let strict = CastOptions { safe: false, ..CastOptions::default() };
        let mut kinds: Vec<DataType> = extremes().iter().map(|values| values.data_type().clone()).collect();
        kinds.extend([DataType::Float32, DataType::Float64]);
        kinds.extend(
            [(3, 0), (5, 0), (10, 0), (19, 0), (19, 1), (20, 0), (38, 18), (38, 19)]
                .map(|(p, s)| DataType::Decimal128(p, s)),
        );
        for values in extremes() {
            for to in &kinds {
                let there = cast_with_options(&values, to, &strict);
                let back = there.and_then(|there| cast_with_options(&there, values.data_type(), &strict));
                let comes_back = back.is_ok_and(|back| *back == *values);
                assert_eq!(keeps_data(values.data_type(), to), comes_back, "{} to {to}", values.data_type());
            }
        }
    }
}
