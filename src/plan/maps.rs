//! MAPs, which have no order and no equality: nothing can be grouped, sorted or partitioned by one.

use arrow::datatypes::DataType;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Column, DFSchema};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{AggregateFunction, WindowFunction};
use datafusion::logical_expr::{Distinct, Expr, ExprSchemable, LogicalPlan, WindowFunctionDefinition};

use crate::error::Error;

/// Functions that take a MAP like any other value.
const TAKES_MAPS: [&str; 1] = ["count"];

/// Errors: the plan groups, sorts, partitions or aggregates by a value that is a MAP or holds one.
pub fn maps_are_no_keys(plan: &LogicalPlan) -> Result<()> {
    plan.apply_with_subqueries(|node| {
        for (key, schema) in keys(node) {
            // An expression without a type here is refused elsewhere.
            if key.get_type(schema).is_ok_and(|kind| holds_map(&kind)) {
                return Err(refused(&key).into());
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .map(drop)
}

fn refused(key: &Expr) -> Error {
    let key = match key {
        Expr::Column(column) => column.name.clone(),
        other => other.to_string(),
    };
    Error::sql(format!("`{key}` is a MAP or holds one, which cannot be grouped, sorted or aggregated"))
        .with_detail("Two MAPs are neither equal nor in an order.")
        .with_hint("Take what you need of it: one value, `m['key']`, or a text that you build of it.")
}

/// The expressions of a node whose values are compared, each with the schema that it is over.
fn keys(node: &LogicalPlan) -> Vec<(Expr, &DFSchema)> {
    let inputs = node.inputs();
    let Some(input) = inputs.first().map(|input| input.schema().as_ref()) else { return Vec::new() };
    let found: Vec<Expr> = match node {
        LogicalPlan::Aggregate(aggregate) => {
            let calls = aggregate.aggr_expr.iter().flat_map(|call| aggregated(call).cloned().collect::<Vec<_>>());
            aggregate.group_expr.iter().cloned().chain(calls).collect()
        }
        LogicalPlan::Distinct(Distinct::All(_)) => {
            input.iter().map(|(qualifier, field)| Expr::Column(Column::from((qualifier, field)))).collect()
        }
        LogicalPlan::Distinct(Distinct::On(on)) => on.on_expr.clone(),
        LogicalPlan::Sort(sort) => sort.expr.iter().map(|sort| sort.expr.clone()).collect(),
        LogicalPlan::Window(window) => {
            window.window_expr.iter().flat_map(|call| windowed(call).cloned().collect::<Vec<_>>()).collect()
        }
        _ => Vec::new(),
    };
    found.into_iter().map(|key| (key, input)).collect()
}

fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unaliased(&alias.expr),
        other => other,
    }
}

fn aggregated(call: &Expr) -> Box<dyn Iterator<Item = &Expr> + '_> {
    let Expr::AggregateFunction(AggregateFunction { func, params }) = unaliased(call) else {
        return Box::new(std::iter::empty());
    };
    let sorts = params.order_by.iter().map(|sort| &sort.expr);
    let takes = TAKES_MAPS.contains(&func.name()) && !params.distinct;
    Box::new(params.args.iter().filter(move |_| !takes).chain(sorts))
}

fn windowed(call: &Expr) -> Box<dyn Iterator<Item = &Expr> + '_> {
    let Expr::WindowFunction(function) = unaliased(call) else { return Box::new(std::iter::empty()) };
    let WindowFunction { fun, params } = function.as_ref();
    let aggregates = match fun {
        WindowFunctionDefinition::AggregateUDF(function) => !TAKES_MAPS.contains(&function.name()) || params.distinct,
        WindowFunctionDefinition::WindowUDF(_) => false,
    };
    let sorts = params.order_by.iter().map(|sort| &sort.expr);
    Box::new(params.partition_by.iter().chain(sorts).chain(params.args.iter().filter(move |_| aggregates)))
}

/// `true` if values are MAPs or hold some.
pub fn holds_map(kind: &DataType) -> bool {
    match kind {
        DataType::Map(..) => true,
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            holds_map(item.data_type())
        }
        DataType::Struct(fields) => fields.iter().any(|field| holds_map(field.data_type())),
        _ => false,
    }
}
