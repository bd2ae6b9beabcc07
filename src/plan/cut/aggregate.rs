//! GROUP BY and DISTINCT.

use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable};
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;

use super::piece::{Piece, unique_schema};
use super::{Cutter, position, refused};
use crate::error::Result;
use crate::operator::spec::{AggregateSpec, DeduplicateEmit, DeduplicateSpec, TimeColumn};
use crate::plan::meaning::as_executed;
use crate::plan::operators::OperatorSpec;
use crate::plan::sums::{called, if_in_range};
use crate::time::Lag;

/// A grouping column of an operator's input.
struct Key {
    column: usize,
    lag: Option<Lag>,
    /// Its place in GROUP BY.
    given: usize,
}

impl Cutter<'_> {
    pub(super) fn aggregate(&mut self, node: &Aggregate) -> Result<Piece> {
        if node.group_expr.iter().any(|expr| matches!(expr, Expr::GroupingSet(_))) {
            return Err(
                refused("GROUPING SETS, CUBE or ROLLUP").with_hint("Write one GROUP BY per grouping, with UNION ALL.")
            );
        }
        let piece = self.cut(&node.input)?;
        let groups = node.group_expr.iter().map(|expr| one_zero(expr, &piece)).collect::<Result<Vec<_>>>()?;
        self.decides_alike(&piece, &node.aggr_expr)?;
        let (piece, columns) = with_columns(piece, &groups)?;
        let mut keys: Vec<Key> = columns
            .iter()
            .enumerate()
            .map(|(given, column)| Key { column: *column, lag: piece.rows.times[*column], given })
            .collect();
        if node.aggr_expr.is_empty() && !piece.rows.retract {
            return self.distinct(node, piece, &keys);
        }
        // Keys that are not time come first and route: the shards then share every window.
        keys.sort_by_key(|key| (key.lag.is_some(), key.given));
        let plain = keys.iter().filter(|key| key.lag.is_none()).count();
        let closing = keys.iter().find(|key| key.lag.is_some()).filter(|_| !piece.rows.retract);
        let closing = closing.and_then(|key| key.lag.map(|lag| TimeColumn { column: key.column, lag }));
        let routing = if plain == 0 && closing.is_none() { keys.len() } else { plain };
        let retract = closing.is_none();
        let time = piece.time();
        let ttl = match (retract, self.options.state_ttl) {
            (true, Some(crate::catalog::StateTtl::After(_))) => self.ttl("GROUP BY", "")?,
            _ => None,
        };
        let (aggregates, filters) = self.lower(node, &piece)?;
        let schema = reordered(node, &keys, &piece)?;
        let spec = AggregateSpec {
            input: Arc::new(piece.plan.schema().as_arrow().clone()),
            retract: piece.rows.retract,
            keys: keys.iter().map(|key| key.column).collect(),
            routing,
            closing,
            aggregates,
            filters,
            ttl,
            time,
            output: unique_schema(&schema, retract),
        };
        let mut times: Vec<Option<Lag>> = keys.iter().map(|key| key.lag.filter(|_| !retract)).collect();
        times.resize(schema.fields().len(), None);
        let input = self.input(piece, "aggregate_input")?;
        let out = self.operator(OperatorSpec::Aggregate(spec), &[input], &schema, retract, times)?;
        // Back into the order of GROUP BY.
        let columns = out.columns();
        let mut exprs: Vec<Option<Expr>> = vec![None; columns.len()];
        for (at, column) in columns.into_iter().enumerate() {
            let place = keys.get(at).map_or(at, |key| key.given);
            let function = at.checked_sub(keys.len()).and_then(|call| node.aggr_expr.get(call));
            let (name, kind) = (function.map_or("", called), schema.field(at).data_type());
            exprs[place] = Some(if_in_range(column, name, kind));
        }
        out.project(exprs.into_iter().flatten().collect())
    }

    /// GROUP BY without aggregates: the first row of each key goes through.
    fn distinct(&mut self, node: &Aggregate, piece: Piece, keys: &[Key]) -> Result<Piece> {
        let exprs: Vec<Expr> =
            keys.iter().map(|key| Expr::Column(piece.plan.schema().columns()[key.column].clone())).collect();
        let timed = keys.iter().enumerate().find_map(|(at, key)| key.lag.map(|lag| TimeColumn { column: at, lag }));
        let within = match timed {
            // Equal rows have equal times, so a key can go when its time is complete.
            Some(time) => Some(time.lag.max(Lag::ZERO).saturating_add(Lag::MICROSECOND)),
            None => {
                self.ttl("DISTINCT", "Include a window's start or end, or use DEDUPLICATE(… WITHIN INTERVAL '1 day').")?
            }
        };
        let piece = piece.project(exprs)?;
        let time = timed.or_else(|| piece.time());
        let spec = DeduplicateSpec {
            input: Arc::new(piece.plan.schema().as_arrow().clone()),
            keys: (0..keys.len()).collect(),
            time,
            within,
            emit: DeduplicateEmit::OnArrival,
        };
        let times = piece.rows.times.clone();
        let input = self.input(piece, "distinct_input")?;
        self.operator(OperatorSpec::Deduplicate(spec), &[input], &node.schema, false, times)
    }

    fn lower(&self, node: &Aggregate, piece: &Piece) -> Result<Lowered> {
        let schema = piece.plan.schema();
        let props = self.session.execution_props();
        let context = PhysicalPlanningContext::default();
        let (mut aggregates, mut filters) = (Vec::new(), Vec::new());
        for expr in &node.aggr_expr {
            let checked = as_executed(expr.clone(), schema)?.data;
            let lowered = LoweredAggregateBuilder::new(&checked, schema, schema.as_arrow(), props, &context);
            let lowered = match expr {
                Expr::Alias(_) => lowered,
                _ => lowered.with_name(expr.schema_name().to_string()),
            };
            let lowered = lowered.build()?;
            let (aggregate, filter) = self.guarded_call(lowered.aggregate, lowered.filter, schema.as_arrow());
            aggregates.push(aggregate);
            filters.push(filter);
        }
        Ok((aggregates, filters))
    }
}

/// Of floating-point keys, with 0 in place of -0: they are equal, and a batch gives 0 for both.
fn one_zero(expr: &Expr, piece: &Piece) -> Result<Expr> {
    let kind = expr.get_type(piece.plan.schema())?;
    if !kind.is_floating() {
        return Ok(expr.clone());
    }
    let zero = ScalarValue::new_zero(&kind)?;
    Ok(expr.clone().unalias() + Expr::Literal(zero, None))
}

type Lowered = (
    Vec<Arc<datafusion::physical_expr::aggregate::AggregateFunctionExpr>>,
    Vec<Option<Arc<dyn datafusion::physical_expr::PhysicalExpr>>>,
);

/// The piece with every expression as a column, and which columns they are.
pub(super) fn with_columns(piece: Piece, exprs: &[Expr]) -> Result<(Piece, Vec<usize>)> {
    with_named_columns(piece, exprs, "__key")
}

/// The same; columns that are added have names that begin with `prefix`.
pub(super) fn with_named_columns(piece: Piece, exprs: &[Expr], prefix: &str) -> Result<(Piece, Vec<usize>)> {
    let mut places = Vec::with_capacity(exprs.len());
    let mut all: Vec<Expr> = piece.columns().into_iter().map(Expr::Column).collect();
    let before = all.len();
    for expr in exprs {
        let known = match expr {
            Expr::Column(column) => position(&piece, column),
            _ => None,
        };
        places.push(known.unwrap_or(all.len()));
        if known.is_none() {
            let name = format!("{prefix}_{}", all.len());
            all.push(expr.clone().unalias().alias(name));
        }
    }
    let piece = if all.len() == before { piece } else { piece.project(all)? };
    Ok((piece, places))
}

/// The node's schema with its keys in the operator's order.
fn reordered(node: &Aggregate, keys: &[Key], piece: &Piece) -> Result<datafusion::common::DFSchemaRef> {
    let mut fields: Vec<_> = Vec::with_capacity(node.schema.fields().len());
    for key in keys {
        let (qualifier, field) = node.schema.qualified_field(key.given);
        // Nullability as the input has it: what the operator hands out are the input's own values.
        let nullable = piece.plan.schema().field(key.column).is_nullable();
        fields.push((qualifier.cloned(), Arc::new(field.as_ref().clone().with_nullable(nullable))));
    }
    for (qualifier, field) in node.schema.iter().skip(keys.len()) {
        fields.push((qualifier.cloned(), Arc::clone(field)));
    }
    Ok(Arc::new(datafusion::common::DFSchema::new_with_metadata(fields, std::collections::HashMap::new())?))
}
