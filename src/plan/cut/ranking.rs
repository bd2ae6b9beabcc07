//! Top-N: `row_number() … <= n` over a window, and ORDER BY … LIMIT n.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::compute::SortOptions;
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::logical_expr::expr::{WindowFunction, WindowFunctionDefinition};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    BinaryExpr, Expr, FetchType, Filter, Limit, LogicalPlan, Operator, SkipType, Sort, SortExpr, Window,
};

use super::aggregate::with_columns;
use super::piece::{Piece, unique_schema};
use super::{Cutter, refused};
use crate::error::Result;
use crate::operator::spec::{DeduplicateEmit, DeduplicateSpec, RankFunction, RollingEmit, TimeColumn, TopNSpec};
use crate::plan::operators::OperatorSpec;

impl Cutter<'_> {
    /// Remembers for the ranking window below a filter how many ranks the filter lets through.
    pub(super) fn note_rank_limit(&mut self, filter: &Filter) {
        for conjunct in split_conjunction(&filter.predicate) {
            let Some((column, limit)) = upper_bound(conjunct) else { continue };
            if let Some(window) = ranking_window(&filter.input, &column) {
                let bound = self.limits.entry(address(window)).or_insert(limit);
                *bound = limit.min(*bound);
            }
        }
    }

    pub(super) fn window(&mut self, node: &Window) -> Result<Piece> {
        let ranked = match node.window_expr.as_slice() {
            [only] => window_function(only).and_then(|function| Some((function, rank_function(function)?))),
            _ => None,
        };
        // Taken out, since a node of a later plan may lie at the same address.
        let limit = self.limits.remove(&address(node));
        let shown = self.shown.remove(&address(node)).unwrap_or_default();
        match (ranked, limit) {
            (Some((function, rank)), Some(limit)) => self.top_n(node, function, rank, limit),
            _ => self.rolling(node, shown),
        }
    }

    fn top_n(&mut self, node: &Window, function: &WindowFunction, rank: RankFunction, limit: usize) -> Result<Piece> {
        let piece = self.cut(&node.input)?;
        let width = piece.columns().len();
        let params = &function.params;
        let order: Vec<Expr> = params.order_by.iter().map(|sort| sort.expr.clone()).collect();
        let (piece, keys) = with_columns(piece, &params.partition_by)?;
        let (piece, order) = with_columns(piece, &order)?;
        if let Some(piece) = self.first_row(node, &piece, &keys, &order, params.order_by.as_slice(), rank, limit)? {
            return Ok(piece);
        }
        let order: Vec<(usize, SortOptions)> = order.into_iter().zip(params.order_by.iter().map(options)).collect();
        self.ranked(piece, width, keys, order, rank, limit, Some(&node.schema))
    }

    /// `row_number() OVER (PARTITION BY k ORDER BY time) = 1` is the first row of each key, which needs no ranking.
    #[expect(clippy::too_many_arguments, reason = "what top_n has taken apart")]
    fn first_row(
        &mut self,
        node: &Window,
        piece: &Piece,
        keys: &[usize],
        order: &[usize],
        sorts: &[SortExpr],
        rank: RankFunction,
        limit: usize,
    ) -> Result<Option<Piece>> {
        let ([time], [sort], 1, RankFunction::RowNumber, false) = (order, sorts, limit, rank, piece.rows.retract)
        else {
            return Ok(None);
        };
        let Some(lag) = piece.rows.times[*time].filter(|_| sort.asc) else { return Ok(None) };
        let within = self.ttl("row_number() = 1", "Use DEDUPLICATE(TABLE …, KEY(…), WITHIN INTERVAL '1 day').")?;
        let width = node.input.schema().fields().len();
        let emit = match self.rolling_emit() {
            RollingEmit::OnWatermark => DeduplicateEmit::OnWatermark,
            RollingEmit::OnArrival => DeduplicateEmit::OnArrival,
        };
        let spec = DeduplicateSpec {
            input: Arc::new(piece.plan.schema().as_arrow().clone()),
            keys: keys.to_vec(),
            time: Some(TimeColumn { column: *time, lag }),
            within,
            emit,
        };
        let schema = piece.plan.schema().as_ref().clone();
        let times = piece.rows.times.clone();
        let input = self.input(piece.clone(), "first_row_input")?;
        let out = self.operator(OperatorSpec::Deduplicate(spec), &[input], &schema, false, times)?;
        let mut exprs: Vec<Expr> = out.columns().into_iter().take(width).map(Expr::Column).collect();
        let (qualifier, field) = node.schema.qualified_field(width);
        let one = datafusion::logical_expr::lit(ScalarValue::UInt64(Some(1)));
        exprs.push(one.alias_qualified(qualifier.cloned(), field.name()));
        out.project(exprs).map(Some)
    }

    /// The ranked rows; with the rank as last column if `schema`, that of the window, is given.
    #[expect(clippy::too_many_arguments, reason = "a Top-N is made of these")]
    fn ranked(
        &mut self,
        piece: Piece,
        width: usize,
        mut keys: Vec<usize>,
        order: Vec<(usize, SortOptions)>,
        function: RankFunction,
        limit: usize,
        schema: Option<&Arc<DFSchema>>,
    ) -> Result<Piece> {
        let lag = |column: &usize| piece.rows.times[*column];
        keys.sort_by_key(|column| lag(column).is_some());
        let closing = keys.iter().find_map(|column| lag(column).map(|lag| TimeColumn { column: *column, lag }));
        let closing = closing.filter(|_| !piece.rows.retract);
        let plain = keys.iter().filter(|column| lag(column).is_none()).count();
        let routing = if plain == 0 && closing.is_none() { keys.len() } else { plain };
        let retract = closing.is_none();
        let ttl = match (retract, self.options.state_ttl) {
            (true, Some(crate::catalog::StateTtl::After(_))) => self.ttl("Top-N", "")?,
            _ => None,
        };
        let mut full: Vec<_> = piece
            .columns()
            .iter()
            .map(|column| {
                let (qualifier, field) =
                    piece.plan.schema().qualified_field(super::position(&piece, column).unwrap_or(0));
                (qualifier.cloned(), Arc::clone(field))
            })
            .collect();
        if let Some(schema) = schema {
            let (qualifier, field) = schema.qualified_field(width);
            full.push((qualifier.cloned(), Arc::clone(field)));
        }
        let full = Arc::new(DFSchema::new_with_metadata(full, std::collections::HashMap::new())?);
        let spec = TopNSpec {
            input: Arc::new(piece.plan.schema().as_arrow().clone()),
            retract: piece.rows.retract,
            function,
            keys,
            routing,
            order,
            limit,
            with_rank: schema.is_some(),
            closing,
            ttl,
            time: piece.time(),
            output: unique_schema(&full, retract),
        };
        let mut times = piece.rows.times.clone();
        if retract {
            times.iter_mut().for_each(|time| *time = None);
        }
        times.resize(full.fields().len(), None);
        let input = self.input(piece, "top_n_input")?;
        let out = self.operator(OperatorSpec::TopN(spec), &[input], &full, retract, times)?;
        // Without the columns that were added for keys and order.
        let columns = out.columns();
        let rank = schema.is_some().then(|| columns.last().cloned()).flatten();
        let exprs: Vec<Expr> = columns.into_iter().take(width).chain(rank).map(Expr::Column).collect();
        out.project(exprs)
    }

    pub(super) fn sort(&mut self, node: &Sort) -> Result<Piece> {
        let Some(limit) = node.fetch else {
            return Err(refused("ORDER BY").with_hint(
                "Rows leave a stream as they come; sort when you query the table, or add LIMIT for a Top-N.",
            ));
        };
        let piece = self.cut(&node.input)?;
        let width = piece.columns().len();
        let exprs: Vec<Expr> = node.expr.iter().map(|sort| sort.expr.clone()).collect();
        let (piece, order) = with_columns(piece, &exprs)?;
        let order = order.into_iter().zip(node.expr.iter().map(options)).collect();
        self.ranked(piece, width, Vec::new(), order, RankFunction::RowNumber, limit, None)
    }

    pub(super) fn limit(&mut self, node: &Limit) -> Result<Piece> {
        let skip = matches!(node.get_skip_type()?, SkipType::Literal(0));
        let FetchType::Literal(Some(fetch)) = node.get_fetch_type()? else { return Err(no_limit()) };
        match node.input.as_ref() {
            LogicalPlan::Sort(sort) if skip => {
                let limit = sort.fetch.map_or(fetch, |known| known.min(fetch));
                self.sort(&Sort { fetch: Some(limit), ..sort.clone() })
            }
            _ => Err(no_limit()),
        }
    }
}

fn no_limit() -> crate::error::Error {
    refused("LIMIT without ORDER BY, or OFFSET,")
        .with_hint("A stream has no end to count towards: add ORDER BY for a Top-N, or limit when you query the table.")
}

fn options(sort: &SortExpr) -> SortOptions {
    SortOptions { descending: !sort.asc, nulls_first: sort.nulls_first }
}

/// Nodes are told apart by where they are: the plan is not changed while it is cut.
pub(super) fn address(window: &Window) -> usize {
    std::ptr::from_ref(window) as usize
}

pub(super) fn window_function(expr: &Expr) -> Option<&WindowFunction> {
    match expr {
        Expr::WindowFunction(function) => Some(function),
        Expr::Alias(alias) => window_function(&alias.expr),
        _ => None,
    }
}

fn rank_function(function: &WindowFunction) -> Option<RankFunction> {
    let WindowFunctionDefinition::WindowUDF(udf) = &function.fun else { return None };
    match udf.name() {
        "row_number" => Some(RankFunction::RowNumber),
        "rank" => Some(RankFunction::Rank),
        "dense_rank" => Some(RankFunction::DenseRank),
        _ => None,
    }
}

/// `column <= n`, `column < n`, `column = 1`, and the same turned round: the column and the greatest value let through.
pub(super) fn upper_bound(expr: &Expr) -> Option<(Column, usize)> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = expr else { return None };
    let (column, op, value) = match (plain(left), plain(right)) {
        (Expr::Column(column), Expr::Literal(value, _)) => (column, *op, value),
        (Expr::Literal(value, _), Expr::Column(column)) => (column, op.swap()?, value),
        _ => return None,
    };
    let value = match value {
        ScalarValue::UInt64(Some(value)) => usize::try_from(*value).ok()?,
        ScalarValue::Int64(Some(value)) => usize::try_from(*value).ok()?,
        ScalarValue::Int32(Some(value)) => usize::try_from(*value).ok()?,
        _ => return None,
    };
    let limit = match op {
        Operator::LtEq => value,
        Operator::Lt => value.checked_sub(1)?,
        // The ranks up to the one that is asked for are needed to find it.
        Operator::Eq => value,
        _ => return None,
    };
    (limit > 0).then(|| (column.clone(), limit))
}

fn plain(expr: &Expr) -> &Expr {
    match expr {
        Expr::Cast(cast) => plain(&cast.expr),
        Expr::Alias(alias) => plain(&alias.expr),
        other => other,
    }
}

/// The window that makes `column`, if only renames and filters stand between.
pub(super) fn ranking_window<'p>(plan: &'p LogicalPlan, column: &Column) -> Option<&'p Window> {
    match plan {
        LogicalPlan::Window(window) => {
            let made = window.schema.columns().into_iter().skip(window.input.schema().fields().len());
            made.into_iter().any(|made| made == *column || made.name == column.name).then_some(window)
        }
        LogicalPlan::Projection(projection) => {
            let places: BTreeMap<Column, &Expr> =
                projection.schema.columns().into_iter().zip(&projection.expr).collect();
            match plain(places.get(column)?) {
                Expr::Column(inner) => ranking_window(&projection.input, inner),
                _ => None,
            }
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let index = alias.schema.maybe_index_of_column(column)?;
            let inner = alias.input.schema().columns().into_iter().nth(index)?;
            ranking_window(&alias.input, &inner)
        }
        LogicalPlan::Filter(filter) => ranking_window(&filter.input, column),
        _ => None,
    }
}
