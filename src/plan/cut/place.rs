//! The clause of the text that a refused node comes from.

use datafusion::common::JoinType;
use datafusion::logical_expr::{Expr, Join, LogicalPlan, Window};

use super::ranking::window_function;
use crate::error::{Error, ErrorKind};
use crate::sql::clause::{Clause, ClauseKind};

/// The error with the clause that `plan` is made of, unless it knows a clause further in.
pub fn located(error: Error, plan: &LogicalPlan) -> Error {
    if error.kind() != ErrorKind::Sql || std::error::Error::source(&error).is_some() {
        return error;
    }
    error.with_source(clause(plan))
}

fn clause(plan: &LogicalPlan) -> Clause {
    use ClauseKind::{Call, Distinct, GroupBy, Limit, OrderBy, Subquery, Table};
    let (kinds, names) = match plan {
        LogicalPlan::Join(join) => return of_join(join),
        LogicalPlan::Window(window) => return of_window(window),
        LogicalPlan::Aggregate(aggregate) => (vec![GroupBy, Distinct], columns(&aggregate.group_expr)),
        LogicalPlan::Sort(sort) => (vec![OrderBy], sort.expr.iter().flat_map(|sort| columns([&sort.expr])).collect()),
        LogicalPlan::Limit(_) => (vec![Limit], Vec::new()),
        LogicalPlan::Subquery(_) => (vec![Subquery], Vec::new()),
        LogicalPlan::TableScan(scan) => (vec![Table], vec![scan.table_name.table().to_owned()]),
        LogicalPlan::Extension(extension) => (vec![Call], vec![extension.node.name().to_owned()]),
        _ => (Vec::new(), Vec::new()),
    };
    Clause { kinds, names }
}

fn of_join(join: &Join) -> Clause {
    let is_subquery = matches!(
        join.join_type,
        JoinType::LeftMark
            | JoinType::RightMark
            | JoinType::LeftSemi
            | JoinType::RightSemi
            | JoinType::LeftAnti
            | JoinType::RightAnti
    );
    let kinds = match is_subquery {
        true => vec![ClauseKind::Subquery, ClauseKind::Join],
        false => vec![ClauseKind::Join],
    };
    let tables = join.right.schema().iter().filter_map(|(table, _)| table.map(|table| table.table().to_owned()));
    let mut names: Vec<String> = tables.collect();
    names.extend(join.on.iter().flat_map(|(left, right)| columns([left, right])));
    names.extend(columns(&join.filter));
    distinct(&mut names);
    Clause { kinds, names }
}

fn of_window(window: &Window) -> Clause {
    let mut names = Vec::new();
    for function in window.window_expr.iter().filter_map(window_function) {
        names.push(function.fun.name().to_owned());
        names.extend(columns(&function.params.args));
        names.extend(columns(&function.params.partition_by));
        names.extend(function.params.order_by.iter().flat_map(|sort| columns([&sort.expr])));
    }
    distinct(&mut names);
    Clause { kinds: vec![ClauseKind::Over], names }
}

fn columns<'e>(exprs: impl IntoIterator<Item = &'e Expr>) -> Vec<String> {
    let mut names: Vec<String> =
        exprs.into_iter().flat_map(|expr| expr.column_refs().into_iter().map(|column| column.name.clone())).collect();
    distinct(&mut names);
    names
}

fn distinct(names: &mut Vec<String>) {
    names.sort();
    names.dedup();
}
