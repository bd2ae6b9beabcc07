//! Follows the clock through a query. A row may keep its value (`now() AS seen_at`); no condition, group or aggregate may depend on it.
//!
//! Column by column, through views, subqueries, projections, joins and unions.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, JoinType};
use datafusion::error::Result;
use datafusion::logical_expr::{BinaryExpr, Distinct, Expr, LogicalPlan, Operator};

/// Knows what answers with the time.
pub struct Clocked<'a> {
    /// Functions.
    pub functions: &'a BTreeSet<String>,
    /// Of views that are streams of their own.
    pub views: &'a BTreeMap<String, ClockUse>,
}

/// The columns of a query that carry the clock, or what it decides by it.
pub type ClockUse = std::result::Result<Vec<bool>, ClockDecision>;

/// An expression that depends on the clock.
#[derive(Debug, Clone)]
pub struct ClockDecision {
    pub expr: String,
    /// `true` if it decides which groups there are (GROUP BY without aggregates, DISTINCT, EXCEPT): their rows are not emitted again.
    pub groups: bool,
}

/// The inputs of a node, and which of their columns carry the clock.
struct Columns<'a>(Vec<(&'a DFSchema, Vec<bool>)>);

/// The first decision that was found, of those about groups if there are any.
type Decided = Option<ClockDecision>;

fn decide_by(decided: &mut Decided, found: impl FnOnce() -> String) {
    decided.get_or_insert_with(|| ClockDecision { expr: found(), groups: false });
}

impl Clocked<'_> {
    /// The use of the clock in `plan`.
    pub fn columns(&self, plan: &LogicalPlan) -> Result<ClockUse> {
        let mut decided = None;
        let carry = self.of(plan, &mut decided)?;
        Ok(decided.map_or(Ok(carry), Err))
    }

    fn of(&self, plan: &LogicalPlan, decided: &mut Decided) -> Result<Vec<bool>> {
        let width = plan.schema().fields().len();
        let none = || Ok(vec![false; width]);
        match plan {
            LogicalPlan::TableScan(scan) => {
                let known = match scan.source.get_logical_plan() {
                    Some(view) => Some(self.of(&view, decided)?),
                    None => match self.views.get(scan.table_name.table()) {
                        Some(Err(decision)) => {
                            decided.get_or_insert_with(|| decision.clone());
                            None
                        }
                        Some(Ok(carry)) => Some(carry.clone()),
                        None => None,
                    },
                };
                Ok(known.filter(|known| known.len() == width).unwrap_or_else(|| vec![false; width]))
            }
            LogicalPlan::Projection(node) => {
                let input = self.inputs([node.input.as_ref()], decided)?;
                node.expr.iter().map(|expr| self.carries(expr, &input, decided)).collect()
            }
            LogicalPlan::Aggregate(node) => {
                let exprs = node.group_expr.iter().chain(&node.aggr_expr);
                Self::grouped(node.aggr_expr.is_empty(), decided, |decided| self.decide(&node.input, exprs, decided))?;
                none()
            }
            LogicalPlan::Window(node) => {
                let mut carry = self.decide(&node.input, &node.window_expr, decided)?;
                carry.resize(width, false);
                Ok(carry)
            }
            LogicalPlan::Filter(node) => self.decide(&node.input, [&node.predicate], decided),
            LogicalPlan::Sort(node) => self.decide(&node.input, node.expr.iter().map(|sort| &sort.expr), decided),
            LogicalPlan::Distinct(Distinct::All(input)) => Self::grouped(true, decided, |decided| {
                let carry = self.of(input, decided)?;
                if let Some(at) = carry.iter().position(|carries| *carries) {
                    decide_by(decided, || format!("DISTINCT {}", input.schema().field(at).name()));
                }
                Ok(carry)
            }),
            // At this point only EXCEPT and INTERSECT are joins of these kinds.
            LogicalPlan::Join(node) => {
                let groups = matches!(node.join_type, JoinType::LeftAnti | JoinType::LeftSemi);
                Self::grouped(groups, decided, |decided| {
                    let both = self.inputs([node.left.as_ref(), node.right.as_ref()], decided)?;
                    let keys = node.on.iter().flat_map(|(left, right)| [left, right]);
                    for expr in keys.chain(&node.filter) {
                        self.refuse(expr, &both, decided)?;
                    }
                    Ok(both.by_name(plan.schema()))
                })
            }
            LogicalPlan::Extension(node) => {
                let inputs = self.inputs(node.node.inputs(), decided)?;
                for expr in &node.node.expressions() {
                    self.refuse(expr, &inputs, decided)?;
                }
                Ok(inputs.by_name(plan.schema()))
            }
            _ => {
                let inputs = self.inputs(plan.inputs(), decided)?;
                if inputs.0.iter().all(|(_, carry)| carry.len() == width) {
                    return Ok((0..width).map(|at| inputs.0.iter().any(|(_, carry)| carry[at])).collect());
                }
                Ok(inputs.by_name(plan.schema()))
            }
        }
    }

    /// Notes of the decisions that `find` finds whether they are about groups.
    fn grouped(
        groups: bool,
        decided: &mut Decided,
        find: impl FnOnce(&mut Decided) -> Result<Vec<bool>>,
    ) -> Result<Vec<bool>> {
        let mut found = None;
        let carry = find(&mut found)?;
        if let Some(found) = found.map(|found| ClockDecision { groups: found.groups || groups, ..found })
            && decided.as_ref().is_none_or(|decided| found.groups && !decided.groups)
        {
            *decided = Some(found);
        }
        Ok(carry)
    }

    fn inputs<'p>(
        &self,
        plans: impl IntoIterator<Item = &'p LogicalPlan>,
        decided: &mut Decided,
    ) -> Result<Columns<'p>> {
        let mut columns = Vec::new();
        for plan in plans {
            columns.push((plan.schema().as_ref(), self.of(plan, decided)?));
        }
        Ok(Columns(columns))
    }

    /// The columns of a node's input, whose expressions decide something.
    fn decide<'e>(
        &self,
        input: &LogicalPlan,
        exprs: impl IntoIterator<Item = &'e Expr>,
        decided: &mut Decided,
    ) -> Result<Vec<bool>> {
        let input = self.inputs([input], decided)?;
        for expr in exprs {
            self.refuse(expr, &input, decided)?;
        }
        Ok(input.0.into_iter().flat_map(|(_, carry)| carry).collect())
    }

    fn refuse(&self, expr: &Expr, input: &Columns<'_>, decided: &mut Decided) -> Result<()> {
        if self.carries(expr, input, decided)? {
            decide_by(decided, || expr.human_display().to_string());
        }
        Ok(())
    }

    /// `true` if the value of `expr` carries the clock. Comparisons and conditions of CASE decide.
    fn carries(&self, expr: &Expr, input: &Columns<'_>, decided: &mut Decided) -> Result<bool> {
        match expr {
            Expr::Column(column) => return Ok(input.has(column)),
            Expr::ScalarFunction(call) if self.functions.contains(call.func.name()) => return Ok(true),
            Expr::Exists(exists) => self.of(&exists.subquery.subquery, decided).map(drop)?,
            Expr::InSubquery(of) => self.of(&of.subquery.subquery, decided).map(drop)?,
            Expr::ScalarSubquery(of) => return Ok(self.of(&of.subquery, decided)?.contains(&true)),
            Expr::Case(case) => {
                let whens = case.when_then_expr.iter().map(|(when, _)| when.as_ref());
                for condition in whens.chain(case.expr.as_deref()) {
                    self.refuse(condition, input, decided)?;
                }
                let mut any = false;
                let thens = case.when_then_expr.iter().map(|(_, then)| then.as_ref());
                for value in thens.chain(case.else_expr.as_deref()) {
                    any |= self.carries(value, input, decided)?;
                }
                return Ok(any);
            }
            _ => {}
        }
        let mut any = false;
        expr.apply_children(|part| {
            any |= self.carries(part, input, decided)?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        if any && decides(expr) {
            decide_by(decided, || expr.human_display().to_string());
        }
        Ok(any)
    }
}

impl Columns<'_> {
    fn has(&self, column: &Column) -> bool {
        let carries = |(schema, carry): &(&DFSchema, Vec<bool>)| {
            schema.maybe_index_of_column(column).is_some_and(|at| carry.get(at).copied().unwrap_or(false))
        };
        self.0.iter().any(carries)
    }

    /// Of a node whose columns are those of its inputs, by name.
    fn by_name(&self, schema: &DFSchema) -> Vec<bool> {
        schema.iter().map(|(qualifier, field)| self.has(&Column::new(qualifier.cloned(), field.name()))).collect()
    }
}

/// Functions that compare their arguments.
const COMPARING: [&str; 17] = [
    "greatest",
    "least",
    "nullif",
    "array_contains",
    "array_distinct",
    "array_except",
    "array_has",
    "array_has_all",
    "array_has_any",
    "array_intersect",
    "array_max",
    "array_min",
    "array_position",
    "array_positions",
    "array_remove",
    "array_sort",
    "array_union",
];

/// Comparisons.
fn decides(expr: &Expr) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    match expr {
        Expr::BinaryExpr(BinaryExpr { op, .. }) => {
            matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
        }
        Expr::ScalarFunction(call) => COMPARING.contains(&call.func.name()),
        Expr::Between(_) | Expr::InList(_) | Expr::InSubquery(_) | Expr::Like(_) | Expr::SimilarTo(_) => true,
        _ => false,
    }
}
