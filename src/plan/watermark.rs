//! The watermark of a source, bound: the expression that says of a row which times are not expected any more after it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, TimestampMicrosecondArray, new_null_array};
use arrow::compute::max;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use datafusion::common::DFSchema;
use datafusion::error::Result as PlanResult;
use datafusion::execution::SessionState;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::sql::sqlparser::ast::{ExprWithAlias, Spanned};

use super::time::{interval_micros, time_lag};
use crate::catalog::{SourceDef, WatermarkDef};
use crate::evaluate::{evaluate, evaluate_each, is_of_row};
use crate::function::as_meant;
use crate::sql::types::sql_name;
use crate::sql::{Diagnostic, Files, Span, diagnose};
use crate::time::{EventTime, Lag, Watermark};

/// An expression over a source's schema that gives a TIMESTAMP(µs), whose greatest value so far is a partition's watermark. It is
/// deterministic.
#[derive(Debug, Clone)]
pub struct WatermarkExpr {
    expr: Arc<dyn PhysicalExpr>,
    /// The TIMESTAMP(µs) column whose greatest value gives the greatest watermark, if that is known of the expression.
    follows: Option<usize>,
    /// The event time's column.
    time: usize,
}

impl WatermarkExpr {
    /// The watermark that a row of this event time reaches, where it depends on nothing else of the row.
    pub fn at(&self, schema: &SchemaRef, time: EventTime) -> PlanResult<Option<Watermark>> {
        if self.follows != Some(self.time) {
            return Ok(None);
        }
        let column = |(index, field): (usize, &Arc<Field>)| match index == self.time {
            true => {
                let times = TimestampMicrosecondArray::from_value(time.0, 1);
                let array: ArrayRef = Arc::new(times.with_data_type(field.data_type().clone()));
                (Arc::new(field.as_ref().clone().with_nullable(true)), array)
            }
            false => {
                let nullable = field.as_ref().clone().with_nullable(true);
                (Arc::new(nullable), new_null_array(field.data_type(), 1))
            }
        };
        let (fields, columns): (Vec<_>, Vec<_>) = schema.fields().iter().enumerate().map(column).unzip();
        self.reached(&RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
    }

    /// The greatest watermark among some rows; `None` if they have none.
    pub fn reached(&self, rows: &RecordBatch) -> PlanResult<Option<Watermark>> {
        let newest = match self.follows {
            None => None,
            Some(column) => {
                let times = rows.column(column).as_primitive::<TimestampMicrosecondType>();
                let Some(greatest) = max(times) else { return Ok(None) };
                // Calendar arithmetic costs more than decoding a row does, so it is done for one of them.
                let is_greatest = |row: &usize| times.values()[*row] == greatest && times.is_valid(*row);
                (0..times.len()).find(is_greatest).map(|row| rows.slice(row, 1))
            }
        };
        let values = match &newest {
            Some(newest) => evaluate(&self.expr, newest).or_else(|_| self.values(rows))?,
            None => self.values(rows)?,
        };
        Ok(max(values.as_primitive::<TimestampMicrosecondType>()).map(Watermark))
    }
}

impl WatermarkExpr {
    /// The rows that are behind the watermark which the rows before them reached: the number of each and that watermark, wherever
    /// it has moved since the one before.
    pub fn late_rows(&self, rows: &RecordBatch) -> PlanResult<Vec<(usize, Watermark)>> {
        let Some(times) = rows.column(self.time).as_primitive_opt::<TimestampMicrosecondType>() else {
            return Ok(Vec::new());
        };
        if self.follows == Some(self.time) && times.values().is_sorted() {
            return Ok(Vec::new());
        }
        let values = self.values(rows)?;
        let values = values.as_primitive::<TimestampMicrosecondType>();
        let (mut reached, mut told, mut late): (Option<Watermark>, _, _) = (None, None, Vec::new());
        for row in 0..times.len() {
            if let Some(before) =
                reached.filter(|before| times.is_valid(row) && EventTime(times.value(row)).is_late(*before))
                && told != reached
            {
                late.push((row, before));
                told = reached;
            }
            reached = reached.max(values.is_valid(row).then(|| Watermark(values.value(row))));
        }
        Ok(late)
    }

    /// The watermark of each row.
    fn values(&self, rows: &RecordBatch) -> PlanResult<ArrayRef> {
        match evaluate(&self.expr, rows) {
            // Rows whose watermark cannot be computed move nothing.
            Err(error) if is_of_row(&error) => Ok(evaluate_each(&self.expr, rows)?.values),
            values => values,
        }
    }
}

/// Binds the watermark of `source`, if it declares one.
///
/// Errors, at the expression's place: unknown columns and functions, a type that is no timestamp, a value that changes from call to
/// call, a watermark that runs ahead of the event time.
pub fn watermark(
    source: &SourceDef,
    session: &SessionState,
    files: &Files,
) -> Result<Option<WatermarkExpr>, Diagnostic> {
    let Some(def) = &source.watermark else { return Ok(None) };
    let place = files.span(def.expression.span(), def.span);
    let planned = |error| diagnose(&error, files, place);
    let bound = bind(source, def, session).map_err(planned)?;
    check(&bound, def, place)?;
    let schema = Arc::new(DFSchema::try_from(source.schema()).map_err(planned)?);
    // Some functions, `arrow_cast` for one, are only ever run as what they are simplified to.
    let expr = simplifier(&schema).simplify(bound.expr).map_err(planned)?;
    let follows = followed(&expr, &schema);
    let expr = session.create_physical_expr(expr, &schema).map_err(planned)?;
    let time = schema.as_arrow().index_of(&def.column).map_err(|error| planned(error.into()))?;
    Ok(Some(WatermarkExpr { expr, follows, time }))
}

/// The TIMESTAMP(µs) column that an expression never falls behind: it is the column, less or more a fixed time, in whatever unit.
fn followed(expr: &Expr, schema: &DFSchema) -> Option<usize> {
    match expr {
        Expr::Column(column) => {
            let index = schema.index_of_column(column).ok()?;
            let kind = schema.field(index).data_type();
            matches!(kind, DataType::Timestamp(TimeUnit::Microsecond, _)).then_some(index)
        }
        Expr::Alias(alias) => followed(&alias.expr, schema),
        // Between a time with a zone and one without, the clock of the zone may go back.
        Expr::Cast(cast) => match (cast.field.data_type(), cast.expr.get_type(schema).ok()?) {
            (DataType::Timestamp(_, to), DataType::Timestamp(_, from)) if *to == from => followed(&cast.expr, schema),
            _ => None,
        },
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Plus | Operator::Minus, right }) => {
            interval_micros(right)?;
            followed(left, schema)
        }
        _ => None,
    }
}

struct Bound {
    expr: Expr,
    kind: DataType,
    schema: Arc<DFSchema>,
}

/// The expression over the source's columns, in microseconds.
fn bind(source: &SourceDef, def: &WatermarkDef, session: &SessionState) -> PlanResult<Bound> {
    let schema = Arc::new(DFSchema::try_from(source.schema())?);
    let expr = ExprWithAlias { expr: def.expression.clone(), alias: None };
    let expr = as_meant(session.create_logical_expr_from_sql_expr(expr, &schema)?, &schema)?.data;
    let expr = simplifier(&schema).coerce(expr, &schema)?;
    let kind = expr.get_type(&schema)?;
    let expr = match &kind {
        DataType::Timestamp(unit, zone) if *unit != TimeUnit::Microsecond => {
            expr.cast_to(&DataType::Timestamp(TimeUnit::Microsecond, zone.clone()), &schema)?
        }
        _ => expr,
    };
    Ok(Bound { expr, kind, schema })
}

fn simplifier(schema: &Arc<DFSchema>) -> ExprSimplifier {
    ExprSimplifier::new(SimplifyContext::builder().with_schema(Arc::clone(schema)).build())
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
    let lag = time_lag(&bound.expr, &bound.schema, &|column| (column.name == def.column).then_some(Lag::ZERO));
    if lag.is_some_and(|lag| lag < Lag::ZERO) {
        return Err(Diagnostic::new(place, format!("the watermark runs ahead of `{}`", def.column))
            .with_detail("Every row would be late.")
            .with_hint(example));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, TimestampMicrosecondArray};
    use datafusion::execution::runtime_env::RuntimeEnv;

    use super::*;
    use crate::catalog::Catalog;
    use crate::plan::{FunctionSet, session_state};
    use crate::sql::SourceFile;

    /// The watermark found for a source with `ts`, `plain` and `n`.
    fn bound(expression: &str) -> Result<WatermarkExpr, Diagnostic> {
        let sql = format!(
            "CREATE SOURCE s (n BIGINT, ts TIMESTAMP, plain TIMESTAMP_NTZ, WATERMARK FOR ts AS {expression})
             WITH (connector = 'file', path = 'in', idle_after = '30 seconds', max_drift = '1 minute');"
        );
        let files = [Arc::new(SourceFile::new("s.sql", sql))];
        let catalog = Catalog::load(&files, &|_| None).unwrap_or_else(|errors| panic!("{}", errors.render(false)));
        let empty = Catalog::default();
        let session = session_state(&empty, &FunctionSet::default(), Arc::new(RuntimeEnv::default())).unwrap();
        watermark(&catalog.sources["s"], &session, &catalog.files).map(Option::unwrap)
    }

    fn rows(times: &[Option<i64>]) -> RecordBatch {
        let times = TimestampMicrosecondArray::from(times.to_vec());
        RecordBatch::try_from_iter([
            ("n", Arc::new(Int64Array::from(vec![9; times.len()])) as ArrayRef),
            ("ts", Arc::new(times.clone().with_timezone("UTC")) as _),
            ("plain", Arc::new(times) as _),
        ])
        .unwrap()
    }

    #[test]
    fn the_watermark_of_some_rows_is_the_greatest_of_each() {
        let some = rows(&[Some(7_000_000), None, Some(8_900_000), Some(-5_000_000), None]);
        for (expression, follows, reached) in [
            ("ts", Some(1), 8_900_000),
            ("ts - INTERVAL '5 seconds'", Some(1), 3_900_000),
            ("plain - INTERVAL '1 day'", Some(2), 8_900_000 - 86_400_000_000),
            ("arrow_cast(ts, 'Timestamp(Second, Some(\"UTC\"))')", Some(1), 8_000_000),
            ("ts - INTERVAL '1 month'", None, 8_900_000 - 31 * 86_400_000_000),
            ("date_trunc('second', ts)", None, 8_000_000),
            ("to_timestamp(n)", None, 9_000_000),
        ] {
            let found = bound(expression).unwrap();
            let kind = found.expr.data_type(&some.schema()).unwrap();
            assert!(matches!(kind, DataType::Timestamp(TimeUnit::Microsecond, _)), "{expression}: {kind}");
            assert_eq!(found.follows, follows, "{expression}");
            assert_eq!(found.reached(&some).unwrap(), Some(Watermark(reached)), "{expression}");
        }
    }

    #[test]
    fn rows_are_late_by_the_watermark_that_the_rows_before_them_reached() {
        let seconds = |times: &[i64]| rows(&times.iter().map(|time| Some(time * 1_000_000)).collect::<Vec<_>>());
        let late = |expression: &str, times: &[i64]| {
            let found = bound(expression).unwrap().late_rows(&seconds(times)).unwrap();
            found.into_iter().map(|(row, before)| (row, before.0 / 1_000_000)).collect::<Vec<_>>()
        };
        assert_eq!(late("ts", &[1, 12, 11, 10, 12, 15, 14]), [(2, 12), (6, 15)]);
        assert_eq!(late("ts - INTERVAL '2 seconds'", &[1, 12, 11, 9, 15]), [(3, 10)]);
        assert_eq!(late("ts", &[1, 2, 3]), []);
    }

    #[test]
    fn rows_without_a_time_reach_nothing() {
        for expression in ["ts", "ts - INTERVAL '5 seconds'", "date_trunc('second', ts)"] {
            let found = bound(expression).unwrap();
            assert_eq!(found.reached(&rows(&[])).unwrap(), None);
            assert_eq!(found.reached(&rows(&[None, None])).unwrap(), None);
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
