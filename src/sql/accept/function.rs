//! Calls of functions; ORDER BY and `*`, which queries have as well.

use datafusion::execution::SessionStateDefaults;
use datafusion::sql::sqlparser::ast::{
    DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause, FunctionArgumentList,
    FunctionArguments, NullTreatment, OrderByExpr, OrderByOptions, Value, WildcardAdditionalOptions, WindowFrame,
    WindowFrameBound, WindowFrameUnits, WindowSpec, WindowType,
};

use super::{Checked, named, refuse, unless};
use crate::sql::lexer::fold;

/// Centroids of an approximate percentile.
const MAX_CENTROIDS: u64 = 100_000;

/// Window functions that can skip nulls (`IGNORE NULLS`).
const SKIPS_NULLS: [&str; 5] = ["lag", "lead", "first_value", "last_value", "nth_value"];

pub fn check(function: &Function) -> Checked {
    let Function { name, uses_odbc_syntax: _, parameters, args, filter, null_treatment, over, within_group } = function;
    let called = fold(&name.to_string());
    match parameters {
        FunctionArguments::None => {}
        FunctionArguments::Subquery(_) | FunctionArguments::List(_) => {
            return named("(", format!("{called}(…)(…)"), "A function has one list of arguments.");
        }
    }
    let (mut distinct, mut ordered, mut nulls) = (false, false, *null_treatment);
    match args {
        FunctionArguments::None => {}
        FunctionArguments::Subquery(_) => {
            return named("ARRAY", "ARRAY(SELECT …)".to_owned(), "Write `(SELECT array_agg(…) FROM …)`.");
        }
        FunctionArguments::List(FunctionArgumentList { duplicate_treatment, args, clauses }) => {
            distinct = matches!(duplicate_treatment, Some(DuplicateTreatment::Distinct | DuplicateTreatment::All));
            args.iter().try_for_each(check_argument)?;
            check_centroids(&called, args)?;
            for clause in clauses {
                check_clause(clause)?;
                ordered |= matches!(clause, FunctionArgumentClause::OrderBy(_));
                if let FunctionArgumentClause::IgnoreOrRespectNulls(treatment) = clause {
                    nulls = Some(*treatment);
                }
            }
        }
    }
    match over {
        None | Some(WindowType::NamedWindow(_)) => {}
        Some(WindowType::WindowSpec(spec)) => check_window(spec)?,
    }
    within_group.iter().try_for_each(check_sort)?;
    let words = [
        (distinct, "DISTINCT"),
        (ordered, "ORDER BY"),
        (filter.is_some(), "FILTER"),
        (nulls.is_some(), "NULLS"),
        (over.is_some(), "OVER"),
        (!within_group.is_empty(), "WITHIN GROUP"),
    ];
    if let Some((_, keywords)) = words.into_iter().find(|(stands, _)| *stands).filter(|_| !is_aggregate(&called)) {
        let hint = "It belongs to aggregates and window functions; this is neither.";
        return named(keywords, format!("{called}(…) {keywords}"), hint);
    }
    if let Some(NullTreatment::IgnoreNulls | NullTreatment::RespectNulls) = nulls
        && over.is_some()
        && !SKIPS_NULLS.contains(&called.as_str())
    {
        let hint = "Leave nulls out with `FILTER (WHERE x IS NOT NULL)`.";
        return named("NULLS", format!("{called}(…) IGNORE NULLS"), hint);
    }
    Ok(())
}

/// Errors: the last argument of `approx_percentile_cont(p, centroids)` asks for more of them than memory is reserved for.
fn check_centroids(called: &str, args: &[FunctionArg]) -> Checked {
    if !called.starts_with("approx_percentile_cont") {
        return Ok(());
    }
    let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value)))) = args.last() else { return Ok(()) };
    let Value::Number(number, _) = &value.value else { return Ok(()) };
    match number.parse::<u64>().is_ok_and(|centroids| centroids > MAX_CENTROIDS) {
        true => named(number, number, "At most 100000 centroids are kept; 100 are usual."),
        false => Ok(()),
    }
}

/// True for aggregate and window functions.
fn is_aggregate(name: &str) -> bool {
    let aggregates = SessionStateDefaults::default_aggregate_functions();
    let windows = SessionStateDefaults::default_window_functions();
    aggregates.iter().any(|known| known.name() == name || known.aliases().iter().any(|alias| alias == name))
        || windows.iter().any(|known| known.name() == name || known.aliases().iter().any(|alias| alias == name))
}

fn check_clause(clause: &FunctionArgumentClause) -> Checked {
    match clause {
        FunctionArgumentClause::IgnoreOrRespectNulls(NullTreatment::IgnoreNulls | NullTreatment::RespectNulls) => {
            Ok(())
        }
        FunctionArgumentClause::OrderBy(order) => order.iter().try_for_each(check_sort),
        FunctionArgumentClause::Limit(_) => refuse("LIMIT", "Cut the array: `array_slice(array_agg(…), 1, n)`."),
        FunctionArgumentClause::OnOverflow(_) => refuse("ON OVERFLOW", "Leave it out: texts are not cut."),
        FunctionArgumentClause::Having(_) => refuse("HAVING", "Write `first_value(x ORDER BY y)`."),
        FunctionArgumentClause::Separator(_) => refuse("SEPARATOR", "Write `string_agg(x, ',')`."),
        FunctionArgumentClause::JsonNullClause(_) => refuse("ON NULL", "JSON is not built by functions."),
        FunctionArgumentClause::JsonReturningClause(_) => refuse("RETURNING", "Cast the result."),
    }
}

pub fn check_argument(argument: &FunctionArg) -> Checked {
    match argument {
        FunctionArg::Named { name: _, arg, operator: _ } | FunctionArg::Unnamed(arg) => match arg {
            FunctionArgExpr::Expr(_) | FunctionArgExpr::Wildcard | FunctionArgExpr::QualifiedWildcard(_) => Ok(()),
            FunctionArgExpr::WildcardWithOptions(options) => {
                check_wildcard(options)?;
                refuse("*", "Name the columns.")
            }
        },
        FunctionArg::ExprNamed { name: _, arg: _, operator: _ } => {
            refuse("(", "An argument's name is a word: `f(a => 1)`.")
        }
    }
}

pub fn check_window(spec: &WindowSpec) -> Checked {
    let WindowSpec { window_name, partition_by: _, order_by, window_frame } = spec;
    unless(window_name.is_some(), "OVER", "A window cannot extend another: write it out.")?;
    order_by.iter().try_for_each(check_sort)?;
    match window_frame {
        Some(WindowFrame { units: WindowFrameUnits::Rows | WindowFrameUnits::Groups, start_bound, end_bound }) => {
            std::iter::once(start_bound).chain(end_bound).try_for_each(check_bound)
        }
        None | Some(WindowFrame { units: WindowFrameUnits::Range, start_bound: _, end_bound: _ }) => Ok(()),
    }
}

/// Rows are counted in 64 bits with a sign; DataFusion's sums with larger numbers wrap around.
fn check_bound(bound: &WindowFrameBound) -> Checked {
    let (WindowFrameBound::Preceding(Some(rows)) | WindowFrameBound::Following(Some(rows))) = bound else {
        return Ok(());
    };
    let Expr::Value(value) = rows.as_ref() else { return Ok(()) };
    let Value::Number(number, _) = &value.value else { return Ok(()) };
    match number.parse::<u64>().is_ok_and(|rows| i64::try_from(rows).is_err()) {
        true => {
            named(number, number, "A frame reaches at most 9223372036854775807 rows back or ahead: write UNBOUNDED.")
        }
        false => Ok(()),
    }
}

pub fn check_sort(order: &OrderByExpr) -> Checked {
    let OrderByExpr { expr: _, options: OrderByOptions { asc: _, nulls_first: _ }, with_fill } = order;
    unless(with_fill.is_some(), "WITH FILL", "Fill gaps with a join to `generate_series(…)`.")
}

pub fn check_wildcard(options: &WildcardAdditionalOptions) -> Checked {
    let WildcardAdditionalOptions {
        wildcard_token: _,
        opt_ilike: _,
        opt_exclude: _,
        opt_except: _,
        opt_replace: _,
        opt_rename,
        opt_alias,
    } = options;
    unless(opt_rename.is_some(), "RENAME", "Write `* EXCLUDE (a), a AS b`.")?;
    unless(opt_alias.is_some(), "AS", "`*` has no name.")
}
