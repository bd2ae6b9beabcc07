//! Nodes that need no memory: the weight and the times are carried through them.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::logical_expr::{
    Expr, Filter, LogicalPlan, LogicalPlanBuilder, Projection, SubqueryAlias, TableScan, Union, Unnest,
};

use super::piece::{Piece, Rows, Stream, held, scan};
use super::{Cutter, refused};
use crate::error::Result;
use crate::operator::WEIGHT;
use crate::plan::untimed::timed_rows_of_view;
use crate::time::Lag;

impl Cutter<'_> {
    pub(super) fn table_scan(&mut self, node: &TableScan) -> Result<Piece> {
        let Some(id) = held(node) else {
            return Err(refused(&format!("reading table `{}` as a stream", node.table_name)).with_hint(
                "Join a stream to it by `=` on its columns, with other conditions on the table in WHERE, or read it as a stream by CREATE SOURCE … WITH (connector = 'delta').",
            ));
        };
        let stream = self.streams[id.0].clone();
        let columns = stream.schema.fields().len() - usize::from(stream.rows.retract);
        let chosen: Vec<usize> = node.projection.clone().unwrap_or_else(|| (0..columns).collect());
        let times = chosen.iter().map(|column| stream.rows.times[*column]).collect();
        let rows = Rows { times, ..stream.rows.clone() };
        // SQL sees the stream without its weight; from here on the weight is read along.
        let mut read = chosen;
        if stream.rows.retract {
            read.push(columns);
        }
        let plan = match stream.untimed {
            None => scan(&stream, Some(read))?,
            Some(time) => timed_scan(&stream, read, time)?,
        };
        let plan = match node.table_name.table() == stream.name {
            true => plan,
            false => LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(Arc::new(plan), node.table_name.clone())?),
        };
        let piece = Piece { plan, rows };
        let Some(predicate) = node.filters.iter().cloned().reduce(Expr::and) else { return Ok(piece) };
        self.decides_alike(&piece, [&predicate])?;
        let plan = LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(piece.plan))?);
        Ok(Piece { plan, rows: piece.rows })
    }

    pub(super) fn filter(&mut self, node: &Filter) -> Result<Piece> {
        self.note_rank_limit(node);
        self.note_shown(node);
        let piece = self.cut(&node.input)?;
        self.decides_alike(&piece, [&node.predicate])?;
        let plan = LogicalPlan::Filter(Filter::try_new(node.predicate.clone(), Arc::new(piece.plan))?);
        Ok(Piece { plan, rows: piece.rows })
    }

    pub(super) fn alias(&mut self, node: &SubqueryAlias) -> Result<Piece> {
        let piece = self.cut(&node.input)?;
        let plan = LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(Arc::new(piece.plan), node.alias.clone())?);
        Ok(Piece { plan, rows: piece.rows })
    }

    pub(super) fn union(&mut self, node: &Union) -> Result<Piece> {
        let mut pieces = Vec::with_capacity(node.inputs.len());
        for input in &node.inputs {
            pieces.push(self.cut(input)?);
        }
        united(pieces)
    }

    pub(super) fn unnest(&mut self, node: &Unnest) -> Result<Piece> {
        let piece = self.cut(&node.input)?;
        let rows = piece.rows.clone();
        let plan = LogicalPlanBuilder::from(piece.plan)
            .unnest_columns_with_options(node.exec_columns.clone(), node.options.clone())?
            .build()?;
        // Each output column comes from one input column; a list's lag is that of its elements.
        let width = plan.schema().fields().len() - usize::from(rows.retract);
        let times =
            (0..width).map(|column| rows.times.get(*node.dependency_indices.get(column)?).copied().flatten()).collect();
        let keeps_weight = !rows.retract || plan.schema().fields().last().is_some_and(|field| field.name() == WEIGHT);
        if !keeps_weight {
            return Err(refused("unnest over rows that may be taken back"));
        }
        Ok(Piece { plan, rows: Rows { times, ..rows } })
    }
}

/// A scan of some columns of a shared view without the rows that are there for operators to count: `time` is null in them.
fn timed_scan(stream: &Stream, columns: Vec<usize>, time: usize) -> Result<LogicalPlan> {
    let width = columns.len();
    let mut read = columns;
    let place = read.iter().position(|column| *column == time).unwrap_or_else(|| {
        read.push(time);
        width
    });
    let plan = scan(stream, Some(read))?;
    let mut columns = plan.schema().columns();
    let plan = timed_rows_of_view(plan, &columns[place])?;
    if columns.len() == width {
        return Ok(plan);
    }
    columns.truncate(width);
    let columns = columns.into_iter().map(Expr::Column).collect();
    Ok(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(plan))?))
}

/// All rows of pieces that have the same columns.
pub fn united(pieces: Vec<Piece>) -> Result<Piece> {
    let retract = pieces.iter().any(|piece| piece.rows.retract);
    let width = pieces.first().map_or(0, |piece| piece.columns().len());
    // A column is event time if it is in every input; the slowest counts.
    let lag = |column: usize| -> Option<Lag> {
        let lags: Option<Vec<Lag>> = pieces.iter().map(|piece| piece.rows.times[column]).collect();
        lags?.into_iter().max()
    };
    let times = (0..width).map(lag).collect();
    let sources: BTreeSet<usize> = pieces.iter().flat_map(|piece| piece.rows.sources.iter().copied()).collect();
    let stage = pieces.iter().map(|piece| piece.rows.stage).max().unwrap_or(0);
    let mut inputs = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let piece = if retract { piece.weighted()? } else { piece };
        inputs.push(Arc::new(piece.plan));
    }
    let plan = LogicalPlan::Union(Union::try_new_with_loose_types(inputs)?);
    Ok(Piece { plan, rows: Rows { retract, times, sources, stage } })
}
