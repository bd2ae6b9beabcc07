//! An INSERT's columns fitted to its target: by name when the SELECT names them all, else by position.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef, TimeUnit};
use datafusion::common::Column;
use datafusion::common::ScalarValue;
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, lit};

use super::generated::is_generated;
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
                // What numbers rows is unsigned in DataFusion, and fits.
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
pub fn lacking(plan: &LogicalPlan, target_name: &str, target: &SchemaRef, columns: &[String]) -> Result<Vec<usize>> {
    let sources = match_columns(plan, target_name, target, columns)?;
    Ok(sources.iter().enumerate().filter(|(_, source)| source.is_none()).map(|(column, _)| column).collect())
}

fn cast(column: Expr, to: &DataType, schema: &datafusion::common::DFSchema) -> DfResult<Expr> {
    column.cast_to(to, schema)
}

/// How the query may write its column: the column that it is an alias of, or dots for a longer expression.
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
        _ => match (integer_bits(from), integer_bits(to), to) {
            (Some(from), Some(to), _) => from <= to,
            (Some(bits), None, T::Float64) => bits <= 64,
            (Some(bits), None, T::Float32) => bits <= 16,
            (Some(bits), None, T::Decimal128(precision, scale)) => {
                let digits = if bits > 32 {
                    19
                } else if bits > 16 {
                    10
                } else {
                    5
                };
                i16::from(*precision) - i16::from(*scale) >= digits
            }
            _ => false,
        },
    }
}

/// The signed width that holds every value of an integer type.
fn integer_bits(kind: &DataType) -> Option<u32> {
    Some(match kind {
        DataType::Int8 => 8,
        DataType::Int16 | DataType::UInt8 => 16,
        DataType::Int32 | DataType::UInt16 => 32,
        DataType::Int64 | DataType::UInt32 => 64,
        DataType::UInt64 => 65,
        _ => return None,
    })
}
