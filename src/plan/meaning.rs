//! Plans with SQL's meaning of numbers and intervals: exact where DataFusion rounds, an error where it wraps.
//!
//! [`as_meant`] belongs right after planning, because it changes the types of columns. [`CheckedPlanner`] makes arithmetic checked in
//! the last step, when nothing looks at a logical plan any more: what state is addressed by does not change because of it.
//! [`CheckedConstants`] does so for constants before they are folded.

use std::sync::Arc;

use arrow::datatypes::DataType;
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::expr::Cast;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    Distinct, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Projection, Union, Volatility,
};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};

use super::equal::{comparing, keys_in_one_form};
use super::sums::checked_sums;
use crate::arithmetic::checked_node;
use crate::function::{self, column_as_meant, instants_alike, local_time, pair_as_meant};

/// The plan as SQL means it; columns keep their names.
///
/// Errors: an operation on constants that overflows, an interval where its length cannot be looked at.
pub fn as_meant(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut changed = false;
    let meant = plan.transform_up_with_subqueries(|node| {
        if !changed
            && !matches!(
                node,
                LogicalPlan::Sort(_) | LogicalPlan::Union(_) | LogicalPlan::Values(_) | LogicalPlan::Join(_)
            )
            && !any_expression(&node, has_meaning)?
        {
            return Ok(Transformed::no(node));
        }
        let schema = schema_below(&node);
        let names = NamePreserver::new(&node);
        let node = node.map_expressions(|expr| {
            let name = names.save(&expr);
            let expr = function::as_meant(expr, &schema)?;
            changed |= expr.transformed;
            Ok(expr.update_data(|expr| name.restore(expr)))
        })?;
        let node = sorted(node.data, &schema, &mut changed)?;
        let node = columns_alike(node, &mut changed)?;
        if !changed {
            return Ok(Transformed::no(node));
        }
        let node = match node {
            LogicalPlan::Extension(_) => {
                let inputs = node.inputs().into_iter().cloned().collect();
                node.with_new_exprs(node.expressions(), inputs)?
            }
            node => node.recompute_schema()?,
        };
        Ok(Transformed::yes(node))
    })?;
    Ok(meant.data)
}

/// Orders by the length of intervals.
fn sorted(mut node: LogicalPlan, schema: &DFSchema, changed: &mut bool) -> Result<LogicalPlan> {
    if let LogicalPlan::Sort(sort) = &mut node {
        for key in &mut sort.expr {
            let meant = function::sorted_as_meant(key.clone(), schema)?;
            *changed |= meant.transformed;
            *key = meant.data;
        }
    }
    Ok(node)
}

/// Makes the numbers of each column of a UNION or of VALUES alike.
fn columns_alike(node: LogicalPlan, changed: &mut bool) -> Result<LogicalPlan> {
    match node {
        LogicalPlan::Values(mut values) => {
            let none = DFSchema::empty();
            for column in 0..values.schema.fields().len() {
                let doubles = values.values.iter().any(|row| is_double_as_decimal(&row[column]));
                let mut group: Vec<Expr> = values.values.iter().map(|row| as_written(&row[column], doubles)).collect();
                if column_as_meant(&mut group.iter_mut().collect::<Vec<_>>(), &none)? {
                    values.values.iter_mut().zip(group).for_each(|(row, expr)| row[column] = expr);
                    *changed = true;
                    values = match LogicalPlanBuilder::values(values.values)?.build()? {
                        LogicalPlan::Values(values) => values,
                        other => return Ok(other),
                    };
                }
            }
            Ok(LogicalPlan::Values(values))
        }
        LogicalPlan::Union(union) => Ok(match union_alike(&union)? {
            Some(mended) => {
                *changed = true;
                LogicalPlan::Union(mended)
            }
            None => LogicalPlan::Union(union),
        }),
        // The keys of INTERSECT and EXCEPT; those of other joins are comparisons until later.
        LogicalPlan::Join(mut join) => {
            for (left, right) in &mut join.on {
                *changed |= pair_as_meant(left, join.left.schema(), right, join.right.schema());
            }
            Ok(LogicalPlan::Join(join))
        }
        other => Ok(other),
    }
}

/// The UNION with the numbers and times of each column alike; `None` if they are.
fn union_alike(union: &Union) -> Result<Option<Union>> {
    let mut parts = Vec::new();
    collect_parts(&union.inputs, &mut parts);
    let mut mended = false;
    for column in 0..parts.first().map_or(0, |first| first.schema().fields().len()) {
        let mut made: Vec<(Expr, Arc<DFSchema>)> = parts.iter().filter_map(|part| made_by(part, column)).collect();
        if made.len() < parts.len() {
            continue;
        }
        if unioned(&mut made)? | instants_alike(&mut made) {
            for (part, (expr, _)) in parts.iter_mut().zip(made) {
                *part = Arc::new(with_column(part, column, expr)?);
            }
            mended = true;
        }
    }
    if mended { over_parts(&union.inputs, &mut parts.into_iter()).map(Some) } else { Ok(None) }
}

/// The queries of a chain of UNIONs in their order; it is planned as one UNION inside the other, with or without ALL.
fn collect_parts(inputs: &[Arc<LogicalPlan>], parts: &mut Vec<Arc<LogicalPlan>>) {
    for input in inputs {
        match inner_union(input) {
            Some((inner, _)) => collect_parts(&inner.inputs, parts),
            None => parts.push(Arc::clone(input)),
        }
    }
}

/// The chain of UNIONs with `parts` as its queries, in the order of `collect_parts`.
fn over_parts(inputs: &[Arc<LogicalPlan>], parts: &mut std::vec::IntoIter<Arc<LogicalPlan>>) -> Result<Union> {
    let mut made = Vec::with_capacity(inputs.len());
    for input in inputs {
        match inner_union(input) {
            Some((inner, false)) => made.extend(over_parts(&inner.inputs, parts)?.inputs),
            Some((inner, true)) => {
                let union = LogicalPlan::Union(over_parts(&inner.inputs, parts)?);
                made.push(Arc::new(LogicalPlan::Distinct(Distinct::All(Arc::new(union)))));
            }
            None => made.extend(parts.next()),
        }
    }
    Union::try_new_with_loose_types(made)
}

/// The UNION that an input of another one is; `true` if it drops what repeats.
fn inner_union(plan: &LogicalPlan) -> Option<(&Union, bool)> {
    match plan {
        LogicalPlan::Union(union) => Some((union, false)),
        LogicalPlan::Distinct(Distinct::All(input)) => match input.as_ref() {
            LogicalPlan::Union(union) => Some((union, true)),
            _ => None,
        },
        _ => None,
    }
}

/// Makes the numbers of one column alike: constants DECIMALs beside a DECIMAL, DECIMALs DOUBLEs beside a DOUBLE; true when it changed one.
fn unioned(made: &mut [(Expr, Arc<DFSchema>)]) -> Result<bool> {
    let kinds: Result<Vec<_>> = made.iter().map(|(expr, schema)| expr.get_type(schema)).collect();
    let Ok(kinds) = kinds else { return Ok(false) };
    // A typed null stands for what is computed from columns.
    let typed = |kind: &DataType| ScalarValue::try_from(kind).map(|null| Expr::Literal(null, None));
    let mut group = Vec::with_capacity(made.len());
    for ((expr, _), kind) in made.iter().zip(&kinds) {
        group.push(if expr.column_refs().is_empty() { expr.clone() } else { typed(kind)? });
    }
    let before = group.clone();
    column_as_meant(&mut group.iter_mut().collect::<Vec<_>>(), &DFSchema::empty())?;
    let mut changed = false;
    for ((expr, _), (now, then)) in made.iter_mut().zip(group.into_iter().zip(before)) {
        if now == then {
            continue;
        }
        if expr.column_refs().is_empty() {
            *expr = now;
        } else {
            let to = now.get_type(&DFSchema::empty())?;
            *expr = Expr::Cast(Cast::new(Box::new(std::mem::take(expr)), to));
        }
        changed = true;
    }
    Ok(changed)
}

/// Expression that makes a column of a UNION's input, and the schema that it is over.
fn made_by(plan: &LogicalPlan, column: usize) -> Option<(Expr, Arc<DFSchema>)> {
    match plan {
        LogicalPlan::Projection(projection) => {
            let expr = projection.expr.get(column)?.clone().unalias();
            Some((expr, Arc::clone(projection.input.schema())))
        }
        other => {
            let column = other.schema().columns().into_iter().nth(column)?;
            Some((Expr::Column(column), Arc::clone(other.schema())))
        }
    }
}

/// The plan with another expression for a column, under the same name.
fn with_column(plan: &LogicalPlan, column: usize, expr: Expr) -> Result<LogicalPlan> {
    let (mut exprs, input) = match plan {
        LogicalPlan::Projection(projection) => (projection.expr.clone(), Arc::clone(&projection.input)),
        other => (other.schema().columns().into_iter().map(Expr::Column).collect(), Arc::new(other.clone())),
    };
    let (qualifier, field) = plan.schema().qualified_field(column);
    exprs[column] = expr.alias_qualified(qualifier.cloned(), field.name());
    Projection::try_new(exprs, input).map(LogicalPlan::Projection)
}

/// A number of VALUES as it was written: without the cast to a DOUBLE that another row has caused, and where rows have `doubles`
/// without the one to the DECIMAL that DataFusion takes for them.
fn as_written(expr: &Expr, doubles: bool) -> Expr {
    let Expr::Cast(cast) = expr else { return expr.clone() };
    let Ok(inner) = cast.expr.get_type(&DFSchema::empty()) else { return expr.clone() };
    let caused = match cast.field.data_type() {
        DataType::Float64 => inner.is_decimal(),
        kind => doubles && is_decimal_of_double(kind) && (inner.is_decimal() || inner.is_floating()),
    };
    if caused { cast.expr.as_ref().clone() } else { expr.clone() }
}

/// `true` for a DOUBLE of VALUES that is cast to the DECIMAL that DataFusion takes for it.
fn is_double_as_decimal(expr: &Expr) -> bool {
    let Expr::Cast(cast) = expr else { return false };
    is_decimal_of_double(cast.field.data_type())
        && cast.expr.get_type(&DFSchema::empty()).is_ok_and(|inner| inner.is_floating())
}

/// The DECIMAL(30, 15) of a DOUBLE, with as many digits more as the DECIMAL beside it has.
fn is_decimal_of_double(kind: &DataType) -> bool {
    matches!(kind, DataType::Decimal128(30.., 15))
}

/// True when an expression of the node, or a part of one, is of that kind: most of wide plans are plain columns.
fn any_expression(node: &LogicalPlan, is: fn(&Expr) -> bool) -> Result<bool> {
    let mut found = false;
    node.apply_expressions(|expr| {
        found = expr.exists(|part| Ok(is(part)))?;
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// True for expressions that [`function::as_meant`] may change.
fn has_meaning(expr: &Expr) -> bool {
    matches!(
        expr,
        Expr::BinaryExpr(_)
            | Expr::Between(_)
            | Expr::InList(_)
            | Expr::InSubquery(_)
            | Expr::Case(_)
            | Expr::Cast(_)
            | Expr::ScalarFunction(_)
            | Expr::AggregateFunction(_)
            | Expr::WindowFunction(_)
    )
}

/// The input schema of a node's expressions.
fn schema_below(node: &LogicalPlan) -> DFSchema {
    match node {
        LogicalPlan::TableScan(scan) => scan.projected_schema.as_ref().clone(),
        node => merge_schema(&node.inputs()),
    }
}

/// Plans with checked arithmetic and comparisons as they are meant.
#[derive(Debug, Default)]
pub struct CheckedPlanner;

#[async_trait]
impl QueryPlanner for CheckedPlanner {
    async fn create_physical_plan(&self, plan: &LogicalPlan, session: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = plan.clone().transform_up_with_subqueries(executed)?;
        DefaultPhysicalPlanner::default().create_physical_plan(&plan.data, session).await
    }
}

/// A node as it is run.
fn executed(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let has_keys = matches!(node, LogicalPlan::Join(_) | LogicalPlan::Sort(_) | LogicalPlan::Aggregate(_));
    // Conditions of a table have been moved there, and are asked again above it.
    if matches!(node, LogicalPlan::TableScan(_)) || !(has_keys || any_expression(&node, is_changed)?) {
        return Ok(Transformed::no(node));
    }
    let schema = schema_below(&node);
    let node = if has_keys { keys_in_one_form(node, &schema)? } else { node };
    let node = under_its_names(node, |expr| as_executed(expr, &schema))?;
    Ok(Transformed::yes(checked_sums(node.data)?))
}

/// True for expressions that [`as_executed`] may change.
fn is_changed(expr: &Expr) -> bool {
    has_meaning(expr) || matches!(expr, Expr::Negative(_) | Expr::TryCast(_))
}

/// The expression as it is run: with checked arithmetic and comparisons as they are meant.
pub fn as_executed(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    expr.transform_up(|expr| node_as_executed(expr, schema))
}

/// The operation as it is run, its operands as they are.
fn node_as_executed(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    match local_time(&expr, schema) {
        Some(made) => Ok(Transformed::yes(made)),
        None => checked_node(expr, schema)?.transform_data(|expr| comparing(expr, schema)),
    }
}

/// Makes operations on constants what they are when they run before they are folded: what overflows stays in the plan, and fails where it is
/// evaluated.
#[derive(Debug, Default)]
pub struct CheckedConstants;

impl OptimizerRule for CheckedConstants {
    fn name(&self) -> &'static str {
        "checked_constants"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, _config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        if matches!(plan, LogicalPlan::TableScan(_)) || !any_expression(&plan, is_changed)? {
            return Ok(Transformed::no(plan));
        }
        let schema = schema_below(&plan);
        under_its_names(plan, |expr| {
            expr.transform_up(|expr| {
                let is_constant = is_changed(&expr) && !expr.exists(|part| Ok(varies(part)))?;
                if is_constant { node_as_executed(expr, &schema) } else { Ok(Transformed::no(expr)) }
            })
        })
    }
}

/// True for what has a value only when rows are there, or parameters.
fn varies(expr: &Expr) -> bool {
    match expr {
        Expr::ScalarFunction(call) => call.func.signature().volatility != Volatility::Immutable,
        Expr::Column(_)
        | Expr::OuterReferenceColumn(..)
        | Expr::Placeholder(_)
        | Expr::ScalarVariable(..)
        | Expr::AggregateFunction(_)
        | Expr::WindowFunction(_)
        | Expr::Exists(_)
        | Expr::InSubquery(_)
        | Expr::SetComparison(_)
        | Expr::ScalarSubquery(_)
        | Expr::GroupingSet(_)
        | Expr::Unnest(_) => true,
        _ => false,
    }
}

/// The node with its expressions changed, under their names.
fn under_its_names(
    node: LogicalPlan,
    change: impl Fn(Expr) -> Result<Transformed<Expr>>,
) -> Result<Transformed<LogicalPlan>> {
    let names = NamePreserver::new(&node);
    node.map_expressions(|expr| {
        let name = names.save(&expr);
        Ok(change(expr)?.update_data(|expr| name.restore(expr)))
    })
}
