//! Calls that fail for every row because of a literal: `date_trunc('century', ts)`, `encode(s, 'base99')`, `substr(s, 1, -1)`.
//!
//! A call is tried with its literals and some values of each other argument's type. If it works for none of them, no row can be hoped for.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, Volatility, ident};
use datafusion::physical_expr::create_physical_expr;

use crate::error::{Error, Result};
use crate::evaluate::cause;
use crate::sql::clause::{Clause, ClauseKind};

/// Values of each type.
const SAMPLES: usize = 4;

/// Errors: a call in an optimised plan that its literals make fail for every row; with the [`Clause`] that it is.
pub fn check_literals(plan: &LogicalPlan, session: &SessionState) -> Result<()> {
    let mut refused = None;
    plan.apply(|node| {
        let schema = merge_schema(&node.inputs());
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                if let Expr::ScalarFunction(call) = part
                    && let Some(reason) = fails(call, &schema, session)
                {
                    refused.get_or_insert_with(|| impossible(call, &reason));
                }
                Ok(if refused.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
            })
        })
    })?;
    refused.map_or(Ok(()), Err)
}

fn impossible(call: &ScalarFunction, reason: &str) -> Error {
    let written = call.args.iter().filter_map(|arg| match arg {
        Expr::Literal(value, _) => value.try_as_str().flatten().map(str::to_owned),
        _ => None,
    });
    let names = std::iter::once(call.name().to_owned()).chain(written).collect();
    let reason = reason.trim_start_matches("Error during planning: ").trim_start_matches("External error: ");
    Error::sql(format!("`{}` fails for every row: {reason}", call.name()))
        .with_detail("Its literal arguments allow no other answer.")
        .with_source(Clause { kinds: vec![ClauseKind::Call], names })
}

/// The reason why a call fails for each of the samples; `None` if it works for one, or cannot be tried.
fn fails(call: &ScalarFunction, schema: &DFSchema, session: &SessionState) -> Option<String> {
    let is_literal = |arg: &Expr| matches!(arg, Expr::Literal(value, _) if !value.is_null());
    // Functions that the planner puts in itself have no name in the session.
    let is_known = session.scalar_functions().contains_key(call.name());
    if !is_known || call.func.signature().volatility == Volatility::Volatile || !call.args.iter().any(is_literal) {
        return None;
    }
    let (mut fields, mut samples, mut args) = (Vec::new(), Vec::new(), Vec::new());
    for (at, arg) in call.args.iter().enumerate() {
        if matches!(arg, Expr::Literal(..)) {
            args.push(arg.clone());
            continue;
        }
        let kind = arg.get_type(schema).ok()?;
        // A text may be what no sample is like, for what parses it.
        if kind.is_string() && (call.name().starts_with("to_") || call.name().starts_with("arrow_")) {
            return None;
        }
        samples.push(samples_of(&kind)?);
        fields.push(Field::new(format!("arg{at}"), kind, true));
        args.push(ident(format!("arg{at}")));
    }
    let schema = Arc::new(Schema::new(fields));
    let known = DFSchema::try_from(Arc::clone(&schema)).ok()?;
    let call = Expr::ScalarFunction(ScalarFunction { func: Arc::clone(&call.func), args });
    let context = PhysicalPlanningContext::default();
    let call = create_physical_expr(&call, &known, session.execution_props(), &context).ok()?;
    let mut reason = None;
    for row in 0..SAMPLES * SAMPLES {
        let columns = samples.iter().enumerate().map(|(at, values)| {
            let sample = (row + at * (row / SAMPLES)) % SAMPLES;
            values[sample].to_array().ok()
        });
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(1));
        let columns = columns.collect::<Option<Vec<_>>>()?;
        let batch = RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options).ok()?;
        match catch_unwind(AssertUnwindSafe(|| call.evaluate(&batch))) {
            Ok(Err(error)) => reason = reason.or_else(|| Some(cause(&error))),
            Ok(Ok(_)) => return None,
            Err(_panic) => {}
        }
        if samples.is_empty() {
            break;
        }
    }
    reason
}

/// Some values of a type, each unlike the others; `None`: of nested types there is no telling.
fn samples_of(kind: &DataType) -> Option<Vec<ScalarValue>> {
    let cast = |value: ScalarValue| value.cast_to(kind).ok();
    let several = |values: [ScalarValue; SAMPLES]| values.into_iter().map(cast).collect::<Option<Vec<_>>>();
    match kind {
        DataType::Boolean => several([true, false, true, false].map(ScalarValue::from)),
        kind if kind.is_unsigned_integer() => several([1_i64, 0, 2, 11].map(ScalarValue::from)),
        kind if kind.is_numeric() => several([1_i64, 0, -1, 7].map(ScalarValue::from)),
        kind if kind.is_string() => several(["a", "", "1", "2001-02-03 04:05:06"].map(ScalarValue::from)),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
            several([b"a".as_slice(), b"", b"1", b"abcd"].map(|bytes| ScalarValue::Binary(Some(bytes.to_vec()))))
        }
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => {
            let micros = [981_173_106_000_000_i64, 0, -86_400_000_000, 1_719_792_000_123_456];
            several(micros.map(|micros| ScalarValue::TimestampMicrosecond(Some(micros), None)))
        }
        DataType::Time32(_) | DataType::Time64(_) => {
            let micros = [14_706_000_000_i64, 0, 1, 86_399_999_999];
            several(micros.map(|micros| ScalarValue::Time64Microsecond(Some(micros))))
        }
        DataType::Interval(_) => {
            let days = |months, days, nanoseconds| ScalarValue::new_interval_mdn(months, days, nanoseconds);
            several([days(0, 1, 0), days(1, 0, 0), days(0, 0, 1_000_000_000), days(0, 0, 0)])
        }
        _ => None,
    }
}
