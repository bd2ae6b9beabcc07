//! Shared views written into the plans of their readers.
//!
//! A shared view is computed once, with all its columns and for all its rows. A row of it that cannot be computed concerns only the readers
//! that ask for what fails, behind the conditions that they have. So each reader has a second plan, into which the views are
//! written as if it were their only reader; it is run where a view fails. Results do not depend on who else reads a view.

use std::sync::Arc;

use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, Projection, TableScan};

use super::piece::{Piece, Stream, held, scan};
use super::{Cutter, Cutting, streams_read};
use crate::error::Result;
use crate::operator::{StreamId, is_fallible};
use crate::plan::size::check_plan;
use crate::plan::volatile::volatile_functions;

/// Nodes that a view may have, written out, to be written into its readers.
const MOST_NODES: usize = 500;

impl Cutter<'_> {
    /// The plan with the views of [`Cutter::recomputed`] written into it; `None`: it reads none of them.
    ///
    /// Errors: it is too large then.
    pub fn unshared(&self, plan: &LogicalPlan) -> Result<Option<LogicalPlan>> {
        if !streams_read(plan).iter().any(|stream| self.recomputed.contains_key(stream)) {
            return Ok(None);
        }
        let written = plan.clone().transform_up(|node| {
            let LogicalPlan::TableScan(scan) = &node else { return Ok(Transformed::no(node)) };
            match held(scan).and_then(|stream| self.recomputed.get(&stream)) {
                Some(view) => in_place_of(scan, view).map(Transformed::yes),
                None => Ok(Transformed::no(node)),
            }
        })?;
        check_plan(&written.data)?;
        Ok(Some(written.data))
    }

    /// The plan of a shared view as its readers run it where a row fails. `None`: no row can fail, another run would give other rows, or
    /// the plan is too large.
    pub(super) fn for_readers(&self, plan: &LogicalPlan) -> Result<Option<LogicalPlan>> {
        let Ok(written) = self.unshared(plan) else { return Ok(None) };
        if written.is_none() && !self.may_fail(plan)? {
            return Ok(None);
        }
        let plan = written.unwrap_or_else(|| plan.clone());
        let mut nodes = 0;
        plan.apply(|_| {
            nodes += 1;
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok((nodes <= MOST_NODES && volatile_functions(&plan)?.is_empty()).then_some(plan))
    }

    /// The stream `id` for an operator to read. Where a view fails, an operator reads other rows of it than other readers do.
    pub(super) fn own_stream(&mut self, id: StreamId, name: &str) -> Result<Stream> {
        let of = self.streams[id.0].clone();
        if !self.recomputed.contains_key(&id) {
            return Ok(of);
        }
        let piece = Piece { plan: scan(&of, None)?, rows: of.rows.clone() };
        let stream = self.stream(name, of.schema, of.rows, of.identity);
        if let Some(changing) = self.changing.get(&id.0).cloned() {
            self.changing.insert(stream.id.0, changing);
        }
        self.cuttings.push(Cutting {
            name: name.to_owned(),
            stream: stream.id,
            piece,
            copies: Some(id),
            is_shared: false,
        });
        Ok(stream)
    }

    /// False only if every row can be computed.
    fn may_fail(&self, plan: &LogicalPlan) -> Result<bool> {
        let mut found = false;
        plan.apply(|node| {
            found |= match node {
                LogicalPlan::Projection(node) => node.expr.iter().any(|expr| self.fails(expr, node.input.schema())),
                LogicalPlan::Filter(node) => self.fails(&node.predicate, node.input.schema()),
                LogicalPlan::TableScan(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::Union(_) => false,
                _ => true,
            };
            Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })?;
        Ok(found)
    }

    fn fails(&self, expr: &Expr, schema: &DFSchema) -> bool {
        self.physical(expr, schema).map_or(true, |expr| is_fallible(&expr, schema.as_arrow()))
    }
}

/// The relation that `scan` reads, computed by `view`.
fn in_place_of(scan: &TableScan, view: &LogicalPlan) -> datafusion::error::Result<LogicalPlan> {
    let (names, columns) = (scan.source.schema(), view.schema().columns());
    let chosen = scan.projection.clone().unwrap_or_else(|| (0..columns.len()).collect());
    let named = chosen.into_iter().map(|column| {
        let name = names.field(column).name();
        Expr::Column(columns[column].clone()).alias_qualified(Some(scan.table_name.clone()), name)
    });
    let plan = LogicalPlan::Projection(Projection::try_new(named.collect(), Arc::new(view.clone()))?);
    match scan.filters.iter().cloned().reduce(Expr::and) {
        None => Ok(plan),
        Some(predicate) => Ok(LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(plan))?)),
    }
}
