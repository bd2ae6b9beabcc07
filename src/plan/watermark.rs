//! The watermark of a source, bound: which column is its event time, and the expression that says, row by row, which times are
//! not expected any more.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::DFSchema;
use datafusion::error::Result as PlanResult;
use datafusion::execution::SessionState;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, ExprSchemable};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::sql::sqlparser::ast::{ExprWithAlias, Spanned};

use super::time::time_lag;
use crate::catalog::{SourceDef, WatermarkDef};
use crate::sql::types::sql_name;
use crate::sql::{Diagnostic, Files, Span, diagnose};

/// Binds the watermark of `source`, if it declares one: an expression over the source's schema that gives a TIMESTAMP(µs), whose
/// greatest value so far is a partition's watermark. It is deterministic.
///
/// Errors, at the expression's place: unknown columns and functions, a type that is no timestamp, a value that changes from call to
/// call, a watermark that runs ahead of the event time.
pub fn watermark_expr(
    source: &SourceDef,
    session: &SessionState,
    files: &Files,
) -> Result<Option<Arc<dyn PhysicalExpr>>, Diagnostic> {
    let Some(def) = &source.watermark else { return Ok(None) };
    let place = files.span(def.expression.span(), def.span);
    let planned = |error| diagnose(&error, files, place);
    let bound = bind(source, def, session).map_err(planned)?;
    check(&bound, def, place)?;
    let schema = DFSchema::try_from(source.schema()).map_err(planned)?;
    session.create_physical_expr(bound.expr, &schema).map(Some).map_err(planned)
}

struct Bound {
    expr: Expr,
    kind: DataType,
}

/// The expression over the source's columns, in microseconds.
fn bind(source: &SourceDef, def: &WatermarkDef, session: &SessionState) -> PlanResult<Bound> {
    let schema = Arc::new(DFSchema::try_from(source.schema())?);
    let expr = ExprWithAlias { expr: def.expression.clone(), alias: None };
    let expr = session.create_logical_expr_from_sql_expr(expr, &schema)?;
    let context = SimplifyContext::builder().with_schema(Arc::clone(&schema)).build();
    let expr = ExprSimplifier::new(context).coerce(expr, &schema)?;
    let kind = expr.get_type(&schema)?;
    let expr = match &kind {
        DataType::Timestamp(unit, zone) if *unit != TimeUnit::Microsecond => {
            expr.cast_to(&DataType::Timestamp(TimeUnit::Microsecond, zone.clone()), &schema)?
        }
        _ => expr,
    };
    Ok(Bound { expr, kind })
}

fn check(bound: &Bound, def: &WatermarkDef, place: Span) -> Result<(), Diagnostic> {
    let example = format!("Write `WATERMARK FOR {0} AS {0} - INTERVAL '5 seconds'`.", def.column);
    if !matches!(bound.kind, DataType::Timestamp(..)) {
        let message = format!("the watermark of `{}` is {}, not TIMESTAMP", def.column, sql_name(&bound.kind));
        return Err(Diagnostic::new(place, message).with_hint(example));
    }
    if bound.expr.is_volatile() {
        return Err(Diagnostic::new(place, format!("the watermark of `{}` is not the same on every call", def.column))
            .with_detail("A replay of the same rows must see the same watermark.")
            .with_hint(example));
    }
    let lag = time_lag(&bound.expr, &|column| (column.name == def.column).then_some(0));
    if lag.is_some_and(|lag| lag < 0) {
        return Err(Diagnostic::new(place, format!("the watermark runs ahead of `{}`", def.column))
            .with_detail("Every row would be late.")
            .with_hint(example));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, RecordBatch, TimestampMicrosecondArray};
    use arrow::datatypes::TimestampMicrosecondType;
    use datafusion::execution::runtime_env::RuntimeEnv;

    use super::*;
    use crate::catalog::Catalog;
    use crate::plan::{FunctionSet, session_state};
    use crate::sql::SourceFile;

    /// What the watermark of a source with `ts`, `plain` and `n` is found to be.
    fn bound(expression: &str) -> Result<Arc<dyn PhysicalExpr>, Diagnostic> {
        let sql = format!(
            "CREATE SOURCE s (n BIGINT, ts TIMESTAMP, plain TIMESTAMP_NTZ, WATERMARK FOR ts AS {expression})
             WITH (connector = 'file', path = 'in', idle_after = '30 seconds', max_drift = '1 minute');"
        );
        let files = [Arc::new(SourceFile::new("s.sql", sql))];
        let catalog = Catalog::load(&files, &|_| None).unwrap_or_else(|errors| panic!("{}", errors.render(false)));
        let empty = Catalog::default();
        let session = session_state(&empty, &FunctionSet::default(), Arc::new(RuntimeEnv::default())).unwrap();
        watermark_expr(&catalog.sources["s"], &session, &catalog.files).map(Option::unwrap)
    }

    #[test]
    fn a_watermark_is_evaluated_over_the_rows() {
        let found = bound("ts - INTERVAL '5 seconds'").unwrap();
        let times = TimestampMicrosecondArray::from(vec![Some(7_000_000), None]);
        let rows = RecordBatch::try_from_iter([
            ("n", arrow::array::new_null_array(&DataType::Int64, 2)),
            ("ts", Arc::new(times.clone().with_timezone("UTC")) as _),
            ("plain", Arc::new(times) as _),
        ])
        .unwrap();
        let values = found.evaluate(&rows).unwrap().into_array(2).unwrap();
        let values: Vec<_> = values.as_primitive::<TimestampMicrosecondType>().iter().collect();
        assert_eq!(values, [Some(2_000_000), None]);
        for expression in
            ["ts", "date_trunc('second', ts)", "to_timestamp(n)", "arrow_cast(ts, 'Timestamp(Second, Some(\"UTC\"))')"]
        {
            let kind = bound(expression).unwrap().data_type(&rows.schema()).unwrap();
            assert!(matches!(kind, DataType::Timestamp(TimeUnit::Microsecond, _)), "{expression}: {kind}");
        }
    }

    #[test]
    fn a_watermark_that_cannot_be_one_is_refused_with_its_place() {
        for (expression, message) in [
            ("n", "the watermark of `ts` is BIGINT, not TIMESTAMP"),
            ("now() - INTERVAL '5 seconds'", "the watermark of `ts` is not the same on every call"),
            ("ts + INTERVAL '1 hour'", "the watermark runs ahead of `ts`"),
            ("foo(ts)", "unknown function `foo`"),
        ] {
            let found = bound(expression).expect_err(expression);
            assert_eq!(found.message, message);
            assert_eq!((found.span.start.line, found.span.start.column), (1, 83), "{expression}: {found:?}");
        }
    }
}
