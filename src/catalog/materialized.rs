//! The key of a materialized view's rows: the keys of its GROUP BY, under their names in the query's output.

use datafusion::sql::sqlparser::ast::{Expr, GroupByExpr, Ident, Query, Select, SelectItem, SetExpr, Spanned, Value};

use crate::sql::Diagnostic;
use crate::sql::lexer::fold;
use crate::sql::statement::Name;

/// Columns that determine each other: a view may select only one of them.
const WINDOW: [&str; 2] = ["window_start", "window_end"];

/// The key of `view`'s query, whose columns are renamed to `columns` if there are any; empty without a GROUP BY.
///
/// Errors: a key that is not in the output, or has no name there.
pub fn primary_key(view: &Name, query: &Query, columns: &[Name]) -> Result<Vec<Name>, Diagnostic> {
    let Some(select) = select_of(&query.body) else { return Ok(Vec::new()) };
    let GroupByExpr::Expressions(keys, modifiers) = &select.group_by else {
        // `GROUP BY ALL` has no span, so the error is reported at the view's name.
        return Err(Diagnostic::new(view.span, "the keys of a materialized view must be written out")
            .with_hint("Write `GROUP BY` with its columns, or `PRIMARY KEY (…)` before `AS`."));
    };
    let is_sets = |key: &Expr| matches!(key, Expr::Rollup(_) | Expr::Cube(_) | Expr::GroupingSets(_));
    // Several grouping sets have no common key; planning refuses them at their position.
    if !modifiers.is_empty() || keys.iter().any(is_sets) {
        return Ok(Vec::new());
    }
    let mut found: Vec<Name> = Vec::new();
    let mut missing = Vec::new();
    for key in keys {
        match output(key, select, columns)? {
            Some(name) => found.push(name),
            None => missing.push(key),
        }
    }
    let windowed = found.iter().any(|name| WINDOW.contains(&name.value.as_str()));
    missing.retain(|key| !(windowed && last_name(key).is_some_and(|ident| WINDOW.contains(&folded(ident).as_str()))));
    match missing.first() {
        None => Ok(found),
        Some(key) => Err(Diagnostic::new(key.span().into(), format!("the view does not give its key `{key}`"))
            .with_detail("A materialized view keeps one row per key of its GROUP BY.")
            .with_hint(format!("Add `{key}` to the SELECT."))),
    }
}

fn select_of(body: &SetExpr) -> Option<&Select> {
    match body {
        SetExpr::Select(select) => Some(select),
        SetExpr::Query(query) => select_of(&query.body),
        _ => None,
    }
}

/// The name of `key` in the output of `select`.
fn output(key: &Expr, select: &Select, columns: &[Name]) -> Result<Option<Name>, Diagnostic> {
    let items = &select.projection;
    let place = match number(key) {
        Some(number) => number.checked_sub(1).filter(|index| *index < items.len()),
        None => items.iter().position(|item| gives(item, key)),
    };
    let Some(place) = place else {
        let all = items.iter().any(|item| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)));
        return Ok(last_name(key).filter(|_| all).map(name_of));
    };
    let is_plain = |item: &SelectItem| !matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
    if let Some(renamed) = columns.get(place).filter(|_| items[..place].iter().all(is_plain)) {
        return Ok(Some(renamed.clone()));
    }
    match &items[place] {
        SelectItem::ExprWithAlias { alias, .. } => Ok(Some(name_of(alias))),
        SelectItem::UnnamedExpr(expr) => match last_name(expr) {
            Some(ident) => Ok(Some(name_of(ident))),
            None => Err(Diagnostic::new(expr.span().into(), format!("the key `{expr}` has no name"))
                .with_hint(format!("Name it: `{expr} AS …`."))),
        },
        _ => Ok(None),
    }
}

/// True if the item is `key`, or is named so.
fn gives(item: &SelectItem, key: &Expr) -> bool {
    let (expr, alias) = match item {
        SelectItem::UnnamedExpr(expr) => (expr, None),
        SelectItem::ExprWithAlias { expr, alias } => (expr, Some(alias)),
        _ => return false,
    };
    let is_alias = matches!(key, Expr::Identifier(name) if alias.is_some_and(|alias| folded(alias) == folded(name)));
    is_alias || expr == key || (last_name(expr).is_some() && last_name(expr).map(folded) == last_name(key).map(folded))
}

/// `2` in `GROUP BY 2`.
fn number(key: &Expr) -> Option<usize> {
    match key {
        Expr::Value(value) => match &value.value {
            Value::Number(text, _) => text.parse().ok(),
            _ => None,
        },
        _ => None,
    }
}

/// The column's name in `a` or `t.a`.
fn last_name(expr: &Expr) -> Option<&Ident> {
    match expr {
        Expr::Identifier(ident) => Some(ident),
        Expr::CompoundIdentifier(parts) => parts.last(),
        _ => None,
    }
}

fn folded(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { fold(&ident.value) }
}

fn name_of(ident: &Ident) -> Name {
    Name { value: folded(ident), span: ident.span.into() }
}
