//! Comparisons as [`crate::equality`] defines them, in everything that DataFusion computes: one zero, one NaN and one interval of each length,
//! inside lists and structs too.
//!
//! Done in the last step of planning, like checked arithmetic: columns keep their names.

use arrow::datatypes::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{BinaryExpr, Case, GroupingSet, ScalarFunction, Sort};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, Operator};

use crate::equality::has_other_forms;
use crate::evaluate::one_form;

/// Functions that compare their arguments, or the elements of these.
const COMPARING: [&str; 21] = [
    "greatest",
    "least",
    "array_has",
    "array_has_all",
    "array_has_any",
    "array_position",
    "array_positions",
    "array_remove",
    "array_remove_n",
    "array_remove_all",
    "array_replace",
    "array_replace_n",
    "array_replace_all",
    "array_distinct",
    "array_union",
    "array_intersect",
    "array_except",
    "array_sort",
    "array_max",
    "array_min",
    "map_extract",
];

/// Aggregates that compare their arguments.
const COMPARING_AGGREGATES: [&str; 3] = ["min", "max", "approx_distinct"];

/// The keys by which a node groups, joins and sorts in their one form. What compares inside expressions is for [`comparing`].
pub fn keys_in_one_form(node: LogicalPlan, schema: &DFSchema) -> Result<LogicalPlan> {
    Ok(match node {
        LogicalPlan::Join(mut join) => {
            for (left, right) in &mut join.on {
                in_one_form(left, schema);
                in_one_form(right, schema);
            }
            LogicalPlan::Join(join)
        }
        LogicalPlan::Sort(mut sort) => {
            let _changed = sorts_in_one_form(&mut sort.expr, schema);
            LogicalPlan::Sort(sort)
        }
        LogicalPlan::Aggregate(mut aggregate) => {
            for key in &mut aggregate.group_expr {
                match key {
                    Expr::GroupingSet(GroupingSet::Rollup(keys) | GroupingSet::Cube(keys)) => {
                        keys.iter_mut().for_each(|key| grouped(key, schema));
                    }
                    Expr::GroupingSet(GroupingSet::GroupingSets(sets)) => {
                        sets.iter_mut().flatten().for_each(|key| grouped(key, schema));
                    }
                    key => grouped(key, schema),
                }
            }
            LogicalPlan::Aggregate(aggregate)
        }
        other => other,
    })
}

/// A grouping expression in its one form, under its name.
fn grouped(key: &mut Expr, schema: &DFSchema) {
    let (relation, name) = key.qualified_name();
    if in_one_form(key, schema) {
        *key = std::mem::take(key).alias_qualified(relation, name);
    }
}

fn in_one_form(expr: &mut Expr, schema: &DFSchema) -> bool {
    let made = expr.get_type(schema).ok().and_then(|kind| one_form(expr, &kind));
    let changed = made.is_some();
    if let Some(made) = made {
        *expr = made;
    }
    changed
}

fn all_in_one_form<'e>(exprs: impl IntoIterator<Item = &'e mut Expr>, schema: &DFSchema) -> bool {
    exprs.into_iter().fold(false, |changed, expr| in_one_form(expr, schema) | changed)
}

fn sorts_in_one_form(sorts: &mut [Sort], schema: &DFSchema) -> bool {
    all_in_one_form(sorts.iter_mut().map(|sort| &mut sort.expr), schema)
}

/// The expression, of which this is a part, with both sides of what compares in their one form.
pub fn comparing(mut expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    let changed = match &mut expr {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom,
            right,
        }) => all_in_one_form([left.as_mut(), right.as_mut()], schema),
        Expr::Between(between) => {
            all_in_one_form([between.expr.as_mut(), between.low.as_mut(), between.high.as_mut()], schema)
        }
        Expr::InList(list) => all_in_one_form(std::iter::once(list.expr.as_mut()).chain(&mut list.list), schema),
        Expr::Case(Case { expr: Some(operand), when_then_expr, .. }) => {
            let whens = when_then_expr.iter_mut().map(|(when, _)| when.as_mut());
            all_in_one_form(std::iter::once(operand.as_mut()).chain(whens), schema)
        }
        Expr::ScalarFunction(call) if call.name() == "nullif" => match without_equal(call, schema) {
            Some(case) => {
                expr = case;
                true
            }
            None => false,
        },
        Expr::ScalarFunction(call) if COMPARING.contains(&call.name()) => all_in_one_form(&mut call.args, schema),
        Expr::AggregateFunction(call) => {
            let compares = call.params.distinct || COMPARING_AGGREGATES.contains(&call.func.name());
            let arguments = compares && all_in_one_form(&mut call.params.args, schema);
            sorts_in_one_form(&mut call.params.order_by, schema) | arguments
        }
        Expr::WindowFunction(call) => {
            let compares = call.params.distinct || COMPARING_AGGREGATES.contains(&call.fun.name());
            let arguments = compares && all_in_one_form(&mut call.params.args, schema);
            let keys = all_in_one_form(&mut call.params.partition_by, schema);
            sorts_in_one_form(&mut call.params.order_by, schema) | keys | arguments
        }
        _ => false,
    };
    Ok(Transformed::new_transformed(expr, changed))
}

/// `nullif(a, b)` as a CASE that gives `a` as it is.
fn without_equal(call: &ScalarFunction, schema: &DFSchema) -> Option<Expr> {
    let [value, other] = call.args.as_slice() else { return None };
    let kind: DataType = value.get_type(schema).ok()?;
    if !has_other_forms(&kind) {
        return None;
    }
    let (mut left, mut right) = (value.clone(), other.clone());
    all_in_one_form([&mut left, &mut right], schema);
    let equal = Expr::BinaryExpr(BinaryExpr::new(Box::new(left), Operator::Eq, Box::new(right)));
    let null = Expr::Literal(ScalarValue::try_new_null(&kind).ok()?, None);
    let when = vec![(Box::new(equal), Box::new(null))];
    Some(Expr::Case(Case { expr: None, when_then_expr: when, else_expr: Some(Box::new(value.clone())) }))
}
