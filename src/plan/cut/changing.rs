//! Values that are another one each time they are computed: `now()`, `random()`, `uuid()`.
//!
//! A row that is taken back is computed again from what it was made of. With another value in one of its columns it is not the row that was
//! given, so an operator would not find that one, and keep it for ever; a condition would let one of the two through. Where rows are written
//! under a key that tells them apart, the key is enough to take them back.

use datafusion::common::Column;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::Cutter;
use super::piece::{Piece, Stream, held};
use crate::error::{Error, Result};

/// Per column of a plan the function that makes it change.
pub type Changing = Vec<Option<String>>;

const DETAIL: &str = "A row that is taken back is computed again, and would be another row than the one that was given: that one would stay for ever.";

impl Cutter<'_> {
    /// Refuses an operator over rows that may be taken back and are not the same when they are computed again.
    pub(super) fn gives_again(&self, inputs: &[Stream]) -> Result<()> {
        for input in inputs.iter().filter(|input| input.rows.retract) {
            let Some(changing) = self.changing.get(&input.id.0) else { continue };
            let found = changing.iter().zip(input.schema.fields());
            if let Some((function, field)) = found.filter_map(|(by, field)| Some((by.as_ref()?, field))).next() {
                let shown =
                    if field.name().starts_with("__") { String::new() } else { format!(" AS {}", field.name()) };
                return Err(Error::sql(format!(
                    "`{function}(){shown}` is another value each time, over rows that may be taken back"
                ))
                .with_detail(DETAIL)
                .with_hint(format!(
                    "Call `{function}()` below the aggregate or join that takes rows back; or above everything else, for a table whose PRIMARY KEY is that of the query, as the columns of its GROUP BY are."
                )));
            }
        }
        Ok(())
    }

    /// Refuses an expression over `piece` that decides about its rows, if those may be taken back and it may decide otherwise then.
    pub(super) fn decides_alike<'e>(&self, piece: &Piece, exprs: impl IntoIterator<Item = &'e Expr>) -> Result<()> {
        if !piece.rows.retract {
            return Ok(());
        }
        let below = self.changing(&piece.plan);
        match exprs.into_iter().find_map(|expr| by(expr, &piece.plan, &below)) {
            Some(function) => Err(undecided(&function)),
            None => Ok(()),
        }
    }

    /// Notes of a new stream what changes in it.
    pub(super) fn note_changing(&mut self, stream: &Stream, plan: &LogicalPlan) {
        if stream.rows.retract {
            let changing = self.changing(plan);
            if changing.iter().any(Option::is_some) {
                self.changing.insert(stream.id.0, changing);
            }
        }
    }

    fn changing(&self, plan: &LogicalPlan) -> Changing {
        match plan {
            LogicalPlan::TableScan(scan) => {
                let all = held(scan).and_then(|stream| self.changing.get(&stream.0));
                let Some(all) = all else { return vec![None; plan.schema().fields().len()] };
                match &scan.projection {
                    Some(read) => read.iter().map(|column| all.get(*column).cloned().flatten()).collect(),
                    None => all.clone(),
                }
            }
            LogicalPlan::Projection(projection) => {
                let below = self.changing(&projection.input);
                projection.expr.iter().map(|expr| by(expr, &projection.input, &below)).collect()
            }
            LogicalPlan::Union(union) => {
                let inputs: Vec<Changing> = union.inputs.iter().map(|input| self.changing(input)).collect();
                let column = |at: usize| inputs.iter().find_map(|input| input.get(at).cloned().flatten());
                (0..union.schema.fields().len()).map(column).collect()
            }
            LogicalPlan::Unnest(unnest) => {
                let below = self.changing(&unnest.input);
                unnest.dependency_indices.iter().map(|column| below.get(*column).cloned().flatten()).collect()
            }
            // Other nodes that need no state keep their input's columns.
            other => match other.inputs().as_slice() {
                [input] if input.schema().fields().len() == other.schema().fields().len() => self.changing(input),
                _ => vec![None; other.schema().fields().len()],
            },
        }
    }
}

/// Refuses a condition on pairs of rows, or what an operator computes of its input, where it may change.
pub(super) fn asks_alike<'e>(exprs: impl IntoIterator<Item = &'e Expr>) -> Result<()> {
    match exprs.into_iter().find_map(called) {
        Some(function) => Err(undecided(&function)),
        None => Ok(()),
    }
}

fn undecided(function: &str) -> Error {
    Error::sql(format!("`{function}()` decides about rows that may be taken back"))
        .with_detail(
            "It is asked again when a row is taken back, and may answer otherwise: the row would stay for ever.",
        )
        .with_hint(format!(
            "Call `{function}()` below the aggregate or join that takes rows back, or when you query the table."
        ))
}

/// The function that makes an expression over the columns of `plan` change.
fn by(expr: &Expr, plan: &LogicalPlan, below: &Changing) -> Option<String> {
    let column = |column: &Column| below.get(plan.schema().maybe_index_of_column(column)?)?.clone();
    called(expr).or_else(|| expr.column_refs().into_iter().find_map(column))
}

/// A function in the expression that answers otherwise at each call.
fn called(expr: &Expr) -> Option<String> {
    let mut found = None;
    // The closure never fails.
    let _ = expr.apply(|part| {
        if let Expr::ScalarFunction(call) = part
            && part.is_volatile_node()
            // Marks of the planner are no calls.
            && !call.name().starts_with("weir_")
        {
            found = Some(call.name().to_owned());
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}
