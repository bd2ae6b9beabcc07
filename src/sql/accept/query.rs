//! Queries, their SELECTs and pipe operators (`|>`).

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Cte, Distinct, Expr, ExprWithAlias, ExprWithAliasAndOrderBy, Function, GroupByExpr, LimitClause,
    NamedWindowDefinition, NamedWindowExpr, OrderBy, OrderByKind, OrderByOptions, PipeOperator, Query, Select,
    SelectFlavor, SelectItem, SetExpr, SetOperator, SetQuantifier, Values, Visit, Visitor, WindowType, With,
};

use super::function::{self, check_sort, check_wildcard};
use super::{Checked, named, refuse, table, unless};

const WRITE_LIMIT: &str = "Write `LIMIT n`.";

pub fn check(query: &Query) -> Checked {
    let Query { with, body, order_by, limit_clause, fetch, locks, for_clause, settings, format_clause, pipe_operators } =
        query;
    if let Some(With { with_token: _, recursive: _, cte_tables }) = with {
        cte_tables.iter().try_for_each(check_cte)?;
    }
    set(body)?;
    if let Some(order_by) = order_by {
        check_order(order_by)?;
        unless(names_window(order_by), "ORDER BY", "Write the window out: `OVER (PARTITION BY … ORDER BY …)`.")?;
    }
    match limit_clause {
        Some(LimitClause::LimitOffset { limit: _, offset: _, limit_by }) => {
            unless(
                !limit_by.is_empty(),
                "LIMIT",
                "Rank the rows of each group: `row_number() OVER (PARTITION BY …)`.",
            )?;
        }
        Some(LimitClause::OffsetCommaLimit { offset: _, limit: _ }) | None => {}
    }
    unless(fetch.is_some(), "FETCH", WRITE_LIMIT)?;
    unless(!locks.is_empty(), "FOR", "A query sees one version of each table and locks nothing.")?;
    unless(for_clause.is_some(), "FOR", "Choose the form of the answer where you ask: `weir query --format json`.")?;
    unless(settings.is_some(), "SETTINGS", "Options are set in the configuration.")?;
    unless(
        format_clause.is_some(),
        "FORMAT",
        "Choose the form of the answer where you ask: `weir query --format json`.",
    )?;
    pipe_operators.iter().try_for_each(check_pipe)
}

fn check_cte(cte: &Cte) -> Checked {
    // Materialising or inlining a WITH query changes no row.
    let Cte { alias, query: _, from, materialized: _, closing_paren_token: _ } = cte;
    unless(from.is_some(), "FROM", "Write the table inside the WITH query.")?;
    table::check_alias(alias)
}

fn set(body: &SetExpr) -> Checked {
    match body {
        SetExpr::Select(_) | SetExpr::Query(_) => Ok(()),
        SetExpr::SetOperation { left, op, set_quantifier, right } => {
            check_set(*op, *set_quantifier)?;
            set(left)?;
            set(right)
        }
        SetExpr::Values(Values { explicit_row: _, value_keyword, rows: _ }) => {
            unless(*value_keyword, "VALUE", "Write `VALUES`.")
        }
        // Refused as statements that write, and by the planner.
        SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => Ok(()),
        SetExpr::Table(_) => refuse("TABLE", "Write `SELECT * FROM t`."),
    }
}

fn check_set(op: SetOperator, quantifier: SetQuantifier) -> Checked {
    use SetQuantifier::{All, AllByName, ByName, Distinct, DistinctByName, None};
    match (op, quantifier) {
        (SetOperator::Union, All | Distinct | ByName | AllByName | DistinctByName | None) => Ok(()),
        (SetOperator::Except | SetOperator::Intersect, All | Distinct | None) => Ok(()),
        (SetOperator::Except, ByName | AllByName | DistinctByName) => {
            refuse("EXCEPT", "Select the columns in one order.")
        }
        (SetOperator::Intersect, ByName | AllByName | DistinctByName) => {
            refuse("INTERSECT", "Select the columns in one order.")
        }
        (SetOperator::Minus, All | Distinct | ByName | AllByName | DistinctByName | None) => {
            refuse("MINUS", "Write `EXCEPT`.")
        }
    }
}

fn check_order(order: &OrderBy) -> Checked {
    let OrderBy { kind, interpolate } = order;
    unless(interpolate.is_some(), "INTERPOLATE", "Fill gaps with a join to `generate_series(…)`.")?;
    match kind {
        OrderByKind::All(OrderByOptions { asc: _, nulls_first: _ }) => Ok(()),
        OrderByKind::Expressions(exprs) => exprs.iter().try_for_each(check_sort),
    }
}

pub fn check_select(select: &Select) -> Checked {
    let Select {
        select_token: _,
        optimizer_hints,
        distinct,
        select_modifiers,
        top,
        top_before_distinct: _,
        projection,
        exclude,
        // A statement that writes: refused as such.
        into: _,
        from,
        lateral_views,
        prewhere,
        selection: _,
        connect_by,
        group_by,
        cluster_by,
        distribute_by,
        sort_by,
        having: _,
        named_window,
        qualify,
        window_before_qualify: _,
        value_table_mode,
        flavor,
    } = select;
    match distinct {
        None | Some(Distinct::All | Distinct::Distinct | Distinct::On(_)) => {}
    }
    unless(!optimizer_hints.is_empty(), "SELECT", "Leave optimizer hints out.")?;
    unless(select_modifiers.is_some(), "SELECT", "Leave MySQL's words after SELECT out.")?;
    unless(top.is_some(), "TOP", WRITE_LIMIT)?;
    projection.iter().try_for_each(check_item)?;
    unless(exclude.is_some(), "EXCLUDE", "Write `SELECT * EXCLUDE (…)`.")?;
    from.iter().try_for_each(table::check_from)?;
    unless(!lateral_views.is_empty(), "LATERAL VIEW", "Write `unnest(…)` in the SELECT list.")?;
    unless(prewhere.is_some(), "PREWHERE", "Write `WHERE`.")?;
    unless(!connect_by.is_empty(), "CONNECT BY", "In a query write `WITH RECURSIVE`.")?;
    check_group(group_by)?;
    unless(!cluster_by.is_empty(), "CLUSTER BY", "Sort with `ORDER BY`.")?;
    unless(!distribute_by.is_empty(), "DISTRIBUTE BY", "Leave it out: rows are distributed by the engine.")?;
    unless(!sort_by.is_empty(), "SORT BY", "Sort with `ORDER BY`.")?;
    named_window.iter().try_for_each(check_window)?;
    let names = qualify.as_ref().is_some_and(names_window);
    unless(names, "QUALIFY", "Write the window out: `QUALIFY … OVER (PARTITION BY … ORDER BY …)`.")?;
    unless(value_table_mode.is_some(), "SELECT", "Write `SELECT struct(…)`.")?;
    match flavor {
        SelectFlavor::Standard | SelectFlavor::FromFirst => Ok(()),
        SelectFlavor::FromFirstNoSelect => named("FROM", "FROM without SELECT", "Write `SELECT * FROM …`."),
    }
}

fn check_group(group: &GroupByExpr) -> Checked {
    let (GroupByExpr::All(modifiers) | GroupByExpr::Expressions(_, modifiers)) = group;
    unless(!modifiers.is_empty(), "WITH", "Write `GROUP BY ROLLUP (…)`, `CUBE (…)` or `GROUPING SETS (…)`.")
}

fn check_window(window: &NamedWindowDefinition) -> Checked {
    let NamedWindowDefinition(_, defined) = window;
    match defined {
        NamedWindowExpr::NamedWindow(_) => refuse("WINDOW", "Write the other window's definition again."),
        NamedWindowExpr::WindowSpec(spec) => function::check_window(spec),
    }
}

fn check_item(item: &SelectItem) -> Checked {
    match item {
        SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { expr: _, alias: _ } => Ok(()),
        SelectItem::ExprWithAliases { expr: _, aliases: _ } => refuse("AS", "A column has one name."),
        SelectItem::QualifiedWildcard(_, options) | SelectItem::Wildcard(options) => check_wildcard(options),
    }
}

fn check_pipe(operator: &PipeOperator) -> Checked {
    const WRITE_SELECT: &str = "Write `|> SELECT …`.";
    match operator {
        PipeOperator::Limit { expr: _, offset: _ } | PipeOperator::Where { expr: _ } => Ok(()),
        PipeOperator::OrderBy { exprs } => exprs.iter().try_for_each(check_sort),
        PipeOperator::Select { exprs } | PipeOperator::Extend { exprs } => exprs.iter().try_for_each(check_item),
        PipeOperator::As { alias: _ } => Ok(()),
        PipeOperator::Aggregate { full_table_exprs, group_by_expr } => {
            full_table_exprs.iter().chain(group_by_expr).try_for_each(check_aggregated)
        }
        PipeOperator::Union { set_quantifier, queries: _ } => check_set(SetOperator::Union, *set_quantifier),
        PipeOperator::Intersect { set_quantifier, queries: _ } => check_set(SetOperator::Intersect, *set_quantifier),
        PipeOperator::Except { set_quantifier, queries: _ } => check_set(SetOperator::Except, *set_quantifier),
        PipeOperator::Join(join) => table::check_join(join),
        PipeOperator::Set { assignments: _ } => refuse("SET", WRITE_SELECT),
        PipeOperator::Drop { columns: _ } => refuse("DROP", "Write `|> SELECT * EXCLUDE (…)`."),
        PipeOperator::Rename { mappings: _ } => refuse("RENAME", WRITE_SELECT),
        PipeOperator::TableSample { sample: _ } => refuse("TABLESAMPLE", table::SAMPLE),
        PipeOperator::Call { function: _, alias: _ } => refuse("CALL", "Call table functions in FROM."),
        PipeOperator::Pivot { aggregate_functions: _, value_column: _, value_source: _, alias: _ } => {
            refuse("PIVOT", table::PIVOT)
        }
        PipeOperator::Unpivot { value_column: _, name_column: _, unpivot_columns: _, alias: _ } => {
            refuse("UNPIVOT", table::UNPIVOT)
        }
    }
}

fn check_aggregated(item: &ExprWithAliasAndOrderBy) -> Checked {
    let ExprWithAliasAndOrderBy {
        expr: ExprWithAlias { expr: _, alias: _ },
        order_by: OrderByOptions { asc, nulls_first },
    } = item;
    unless(asc.is_some() || nulls_first.is_some(), "AGGREGATE", "Sort afterwards: `|> ORDER BY …`.")
}

/// True if a call outside of the SELECT list uses a named window: the planner would take it for a call without a window.
fn names_window(ast: &impl Visit) -> bool {
    struct Finder;
    impl Visitor for Finder {
        type Break = ();

        fn pre_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
            ControlFlow::Continue(())
        }

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            match expr {
                Expr::Function(Function { over: Some(WindowType::NamedWindow(_)), .. }) => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        }
    }
    ast.visit(&mut Finder).is_break()
}
