//! `f(…) OVER (PARTITION BY k ORDER BY time …)`.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::logical_expr::expr::{NullTreatment, WindowFunction, WindowFunctionDefinition};
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, Window, WindowFrameBound, WindowFrameUnits};
use datafusion::physical_expr::aggregate::AggregateExprBuilder;

use super::aggregate::with_columns;
use super::piece::{Piece, unique_schema};
use super::ranking::{address, window_function};
use super::{Cutter, needs_append, refused};
use crate::catalog::Late;
use crate::error::{Error, Result};
use crate::operator::spec::{RollingFunction, RollingKind, RollingSpec, TimeColumn};
use crate::operator::{Guarded, is_fallible};
use crate::plan::operators::OperatorSpec;
use crate::plan::sums::if_in_range;
use crate::plan::time::scalar_micros;
use crate::time::Lag;

impl Cutter<'_> {
    /// Remembers for the window below a filter which of its rows can pass, as far as the columns of its input say.
    pub(super) fn note_shown(&mut self, filter: &Filter) {
        for condition in split_conjunction(&filter.predicate) {
            if condition.is_volatile() {
                continue;
            }
            if let Some((window, condition)) = asked_of_input(&filter.input, condition.clone()) {
                self.shown.entry(address(window)).or_default().push(condition);
            }
        }
    }

    /// A window whose rows come out where all of `shown`, conditions on its input, hold.
    pub(super) fn rolling(&mut self, node: &Window, shown: Vec<Expr>) -> Result<Piece> {
        let piece = self.cut(&node.input)?;
        if piece.rows.retract {
            return Err(needs_append("a window function"));
        }
        let width = piece.columns().len();
        let functions: Vec<&WindowFunction> = node.window_expr.iter().filter_map(window_function).collect();
        let Some(first) = functions.first() else { return Err(refused("this window function")) };
        let (piece, keys) = with_columns(piece, &first.params.partition_by)?;
        let (piece, time) = self.order_by_time(piece, first)?;
        let mut piece = piece;
        let mut kinds = Vec::with_capacity(functions.len());
        let mut unbounded = false;
        for (function, expr) in functions.iter().zip(&node.window_expr) {
            if function.params.window_frame.units == WindowFrameUnits::Groups {
                return Err(refused("a window function over a GROUPS frame")
                    .with_hint("Write the frame as RANGE with intervals, or as ROWS."));
            }
            unbounded |= is_unbounded(function);
            let (next, kind) = self.rolling_kind(piece, function, expr)?;
            piece = next;
            kinds.push(RollingFunction { function: kind, frame: function.params.window_frame.clone() });
        }
        let ttl = match unbounded {
            true => self.ttl(
                "a window function over an unbounded frame",
                "Say how far it looks back: `RANGE BETWEEN INTERVAL '30 days' PRECEDING AND CURRENT ROW`.",
            )?,
            false => None,
        };
        let shown = conjunction(shown).map(|shown| self.physical(&shown, piece.plan.schema())).transpose()?;
        // The filter above sees the rows again, and refuses those for which it fails.
        let shown = shown.map(|shown| match is_fallible(&shown, piece.plan.schema().as_arrow()) {
            true => Guarded::holds(shown),
            false => shown,
        });
        let inputs = piece.plan.schema().iter().map(|(q, f)| (q.cloned(), Arc::clone(f)));
        let made = node.schema.iter().skip(width).map(|(q, f)| (q.cloned(), Arc::clone(f)));
        let full = DFSchema::new_with_metadata(inputs.chain(made).collect(), std::collections::HashMap::new())?;
        let full = Arc::new(full);
        let spec = RollingSpec {
            input: Arc::new(piece.plan.schema().as_arrow().clone()),
            keys,
            time,
            functions: kinds,
            emit: self.rolling_emit(),
            emits_late: self.options.late == Late::Emit,
            ttl,
            collect_limit: self.options.rolling_collect_limit,
            shown,
            output: unique_schema(&full, false),
        };
        // Rows wait for the end of their frame, and other times of a row with them.
        let waits: Option<Vec<Lag>> = functions.iter().map(|function| wait(function)).collect();
        let wait = waits.map(|waits| waits.into_iter().max().unwrap_or(Lag::ZERO));
        let lag = |lag: &Option<Lag>| lag.zip(wait).map(|(lag, wait)| lag.max(time.lag).saturating_add(wait));
        let mut times: Vec<Option<Lag>> = piece.rows.times.iter().map(lag).collect();
        let inner = times.len();
        times.resize(full.fields().len(), None);
        let input = self.input(piece, "rolling_input")?;
        let out = self.operator(OperatorSpec::Rolling(spec), &[input], &full, false, times)?;
        let columns = out.columns();
        let called = columns.iter().skip(inner).zip(&functions).zip(full.fields().iter().skip(inner));
        let called = called
            .map(|((column, function), field)| if_in_range(column.clone(), function.fun.name(), field.data_type()));
        let exprs = columns.iter().take(width).cloned().map(Expr::Column).chain(called).collect();
        out.project(exprs)
    }

    fn order_by_time(&self, piece: Piece, function: &WindowFunction) -> Result<(Piece, TimeColumn)> {
        let [order] = function.params.order_by.as_slice() else {
            return Err(refused("a window function that is not ordered by event time alone")
                .with_hint("Write `OVER (PARTITION BY … ORDER BY ts …)` with the source's watermark column."));
        };
        let (piece, places) = with_columns(piece, std::slice::from_ref(&order.expr))?;
        match (order.asc, piece.rows.times[places[0]]) {
            (true, Some(lag)) => Ok((piece, TimeColumn { column: places[0], lag })),
            (false, Some(_)) => Err(refused("a window function in descending order of time")
                .with_hint("Order ascending; `lead` and FOLLOWING look ahead. `row_number() … ORDER BY ts DESC` works with a filter `<= n`.")),
            (_, None) => Err(refused(&format!("a window function ordered by `{}`, which is not event time,", order.expr))
                .with_detail("Rows can only be taken in an order that a watermark follows.")
                .with_hint("Declare `WATERMARK FOR ts AS ts - INTERVAL '5 seconds'` on the source and order by `ts`; for the best n rows filter `row_number() … <= n`.")),
        }
    }

    fn rolling_kind(&self, piece: Piece, function: &WindowFunction, expr: &Expr) -> Result<(Piece, RollingKind)> {
        let params = &function.params;
        let ignore_nulls = ignores_nulls(function);
        match &function.fun {
            WindowFunctionDefinition::AggregateUDF(udaf) => {
                let schema = piece.plan.schema();
                let mut args = Vec::with_capacity(params.args.len());
                for arg in &params.args {
                    args.push(self.physical(arg, schema)?);
                }
                let filter = params.filter.as_ref().map(|filter| self.physical(filter, schema)).transpose()?;
                let built = AggregateExprBuilder::new(Arc::clone(udaf), args)
                    .schema(Arc::new(schema.as_arrow().clone()))
                    .alias(expr.schema_name().to_string())
                    .with_distinct(params.distinct)
                    .with_ignore_nulls(ignore_nulls)
                    .build()?;
                let (call, filter) = self.guarded_call(Arc::new(built), filter, schema.as_arrow());
                Ok((piece, RollingKind::Aggregate(call, filter)))
            }
            WindowFunctionDefinition::WindowUDF(udf) => {
                if params.filter.is_some() || params.distinct {
                    return Err(refused(&format!("FILTER or DISTINCT with `{}`", udf.name())));
                }
                window_udf(piece, udf.name(), params.args.as_slice(), ignore_nulls)
            }
        }
    }
}

/// The window below, with the condition on its rows as one on its input's, if it is about nothing else.
fn asked_of_input(plan: &LogicalPlan, condition: Expr) -> Option<(&Window, Expr)> {
    match plan {
        LogicalPlan::Window(window) => {
            let input = window.input.schema();
            let asks_input = condition.column_refs().into_iter().all(|column| input.has_column(column));
            asks_input.then_some((window, condition))
        }
        LogicalPlan::Projection(projection) => {
            let below = projection.expr.iter().map(|expr| match expr.clone().unalias() {
                Expr::Column(column) => Some(column),
                _ => None,
            });
            let names = projection.schema.columns().into_iter().zip(below);
            asked_of_input(&projection.input, renamed(condition, names)?)
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let names = alias.schema.columns().into_iter().zip(alias.input.schema().columns().into_iter().map(Some));
            asked_of_input(&alias.input, renamed(condition, names)?)
        }
        _ => None,
    }
}

/// The expression over other columns; nothing where one has no other name.
fn renamed(expr: Expr, names: impl Iterator<Item = (Column, Option<Column>)>) -> Option<Expr> {
    let names: BTreeMap<Column, Option<Column>> = names.collect();
    let mut all = true;
    let renamed = expr.transform(|expr| match &expr {
        Expr::Column(column) => match names.get(column) {
            Some(Some(below)) => Ok(Transformed::yes(Expr::Column(below.clone()))),
            _ => {
                all = false;
                Ok(Transformed::no(expr))
            }
        },
        _ => Ok(Transformed::no(expr)),
    });
    renamed.ok().filter(|_| all).map(|renamed| renamed.data)
}

fn window_udf(piece: Piece, name: &str, args: &[Expr], ignore_nulls: bool) -> Result<(Piece, RollingKind)> {
    if name == "row_number" {
        return Ok((piece, RollingKind::RowNumber));
    }
    let Some(argument) = args.first() else { return Err(unknown(name)) };
    let (piece, places) = with_columns(piece, std::slice::from_ref(argument))?;
    let column = places[0];
    let kind = match name {
        "lag" | "lead" => {
            let offset = match args.get(1) {
                None => 1,
                Some(expr) => {
                    integer(expr).ok_or_else(|| Error::sql(format!("the offset of `{name}` must be a number")))?
                }
            };
            let kind = piece.plan.schema().field(column).data_type();
            let default = match args.get(2) {
                None => ScalarValue::try_from(kind)?,
                Some(Expr::Literal(value, _)) => value.cast_to(kind)?,
                Some(_) => return Err(Error::sql(format!("the default of `{name}` must be a constant"))),
            };
            let offset = if name == "lead" { -offset } else { offset };
            match ignore_nulls {
                false => RollingKind::Lag { column, offset, default },
                true if offset > 0 => RollingKind::LagOfValues { column, offset, default },
                true => return Err(looks_ahead(name)),
            }
        }
        "first_value" => RollingKind::FirstValue { column, ignore_nulls },
        "last_value" => RollingKind::LastValue { column, ignore_nulls },
        "nth_value" => match args.get(1).and_then(integer) {
            Some(n) if n != 0 => RollingKind::NthValue { column, n, ignore_nulls },
            _ => {
                return Err(Error::sql("the second argument of `nth_value` must be a number, not 0").with_hint(
                    "`nth_value(x, 2)` is the second row of the frame, `nth_value(x, -2)` the last but one.",
                ));
            }
        },
        _ => return Err(unknown(name)),
    };
    Ok((piece, kind))
}

/// True for functions that look for the next value that is not null, which may be any distance away.
fn looks_ahead(name: &str) -> Error {
    refused(&format!("`{name}` with IGNORE NULLS that looks ahead"))
        .with_detail("A row would wait for the next value however long it takes.")
        .with_hint("`first_value(x) IGNORE NULLS OVER (… ROWS BETWEEN 1 FOLLOWING AND 100 FOLLOWING)` is the next value within 100 rows.")
}

fn unknown(name: &str) -> Error {
    refused(&format!("the window function `{name}`"))
        .with_hint("Aggregates, `row_number`, `lag`, `lead`, `first_value`, `last_value` and `nth_value` do; `rank` and `dense_rank` with a filter `<= n`.")
}

fn integer(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Literal(value, _) => match value.cast_to(&arrow::datatypes::DataType::Int64).ok()? {
            ScalarValue::Int64(value) => value,
            _ => None,
        },
        Expr::Negative(inner) => integer(inner).map(|value| -value),
        Expr::Cast(cast) => integer(&cast.expr),
        _ => None,
    }
}

fn is_unbounded(function: &WindowFunction) -> bool {
    // Functions that look at neighbours only have no use for their frame.
    if let WindowFunctionDefinition::WindowUDF(udf) = &function.fun
        && matches!(udf.name(), "lag" | "lead" | "row_number")
    {
        return udf.name() == "row_number" || ignores_nulls(function);
    }
    let unbounded = |bound: &WindowFrameBound| match bound {
        WindowFrameBound::Preceding(value) | WindowFrameBound::Following(value) => value.is_null(),
        WindowFrameBound::CurrentRow => false,
    };
    unbounded(&function.params.window_frame.start_bound) || unbounded(&function.params.window_frame.end_bound)
}

fn ignores_nulls(function: &WindowFunction) -> bool {
    matches!(function.params.null_treatment, Some(NullTreatment::IgnoreNulls))
}

/// Time for which a row waits for the end of its frame; `None` = as long as the next rows take.
fn wait(function: &WindowFunction) -> Option<Lag> {
    let frame = &function.params.window_frame;
    if let WindowFunctionDefinition::WindowUDF(udf) = &function.fun
        && matches!(udf.name(), "lag" | "lead" | "row_number")
    {
        return (udf.name() != "lead").then_some(Lag::ZERO);
    }
    match (&frame.units, &frame.end_bound) {
        (_, WindowFrameBound::CurrentRow | WindowFrameBound::Preceding(_)) => Some(Lag::ZERO),
        (WindowFrameUnits::Range, WindowFrameBound::Following(value)) => scalar_micros(value),
        (_, WindowFrameBound::Following(_)) => None,
    }
}
