//! Cutting a logical plan where it needs memory.
//!
//! A plan is walked from its leaves up. What DataFusion can run over the rows of one micro-batch stays together as a
//! [`Piece`]; a node that needs earlier rows becomes an operator of weir's own: its inputs become streams of their own, it gives a stream, and the
//! plan above goes on over that. On the way every piece learns whether its rows retract, which columns are event time and how far they
//! lag behind the watermark; that decides when operators may emit and forget, and what is refused.

mod aggregate;
mod changing;
mod extension;
mod identity;
mod join;
mod lookup;
mod newest;
mod piece;
mod place;
mod ranking;
mod rolling;
mod stateless;
mod unique;
mod unshared;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::execution::SessionState;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};

pub use piece::{Piece, Rows, Stream, unique_schema};
pub use stateless::united;
pub use unique::{KnownKeys, UniqueKey};

use super::meaning::as_executed;
use super::operators::{OperatorNode, OperatorSpec};
use super::rehearsal::rehearse;
use super::untimed::Untimed;
use crate::catalog::{Emit, OnRowError, PipelineOptions, StateTtl};
use crate::error::{Error, Result};
use crate::operator::spec::RollingEmit;
use crate::operator::{Guarded, StreamId, is_fallible};
use crate::time::Lag;

/// A piece that an operator or a shared view reads, before it is a physical plan.
#[derive(Debug, Clone)]
pub struct Cutting {
    /// Its name in explanations.
    pub name: String,
    pub stream: StreamId,
    pub piece: Piece,
    /// The stream that it is a copy of, if it is one.
    pub copies: Option<StreamId>,
    /// A view's rows, which several read.
    pub is_shared: bool,
}

/// Cuts the plans of one pipeline.
#[derive(Debug)]
pub struct Cutter<'a> {
    pub session: &'a SessionState,
    pub options: &'a PipelineOptions,
    /// By id.
    pub streams: Vec<Stream>,
    /// In the order in which they can run.
    pub cuttings: Vec<Cutting>,
    pub operators: Vec<OperatorNode>,
    /// The shared views that their readers compute themselves where a row fails: their plans over other streams.
    pub recomputed: HashMap<StreamId, LogicalPlan>,
    /// Ranking windows whose rank is bounded by a filter above: address of the node, and the bound.
    limits: BTreeMap<usize, usize>,
    /// Conditions that a filter above sets for the rows of a window's input: address of the node, and the conditions.
    shown: BTreeMap<usize, Vec<Expr>>,
    /// Of streams that retract, by id: the columns that are other values when they are computed again.
    changing: BTreeMap<usize, changing::Changing>,
}

impl<'a> Cutter<'a> {
    /// Nothing cut yet.
    pub fn new(session: &'a SessionState, options: &'a PipelineOptions) -> Self {
        Self {
            session,
            options,
            streams: Vec::new(),
            cuttings: Vec::new(),
            operators: Vec::new(),
            recomputed: HashMap::new(),
            limits: BTreeMap::new(),
            shown: BTreeMap::new(),
            changing: BTreeMap::new(),
        }
    }

    /// A new stream.
    pub fn stream(&mut self, name: &str, schema: SchemaRef, rows: Rows, identity: String) -> Stream {
        let stream =
            Stream { id: StreamId(self.streams.len()), name: name.to_owned(), schema, rows, identity, untimed: None };
        self.streams.push(stream.clone());
        stream
    }

    /// Cuts an optimised plan: what is left runs over streams only. Errors carry the [`Clause`](crate::sql::clause::Clause) that
    /// they are about as their source.
    pub fn cut(&mut self, plan: &LogicalPlan) -> Result<Piece> {
        self.cut_node(plan).map_err(|error| place::located(error, plan))
    }

    fn cut_node(&mut self, plan: &LogicalPlan) -> Result<Piece> {
        match plan {
            LogicalPlan::TableScan(scan) => self.table_scan(scan),
            LogicalPlan::Projection(projection) => self.cut(&projection.input)?.project(projection.expr.clone()),
            LogicalPlan::Filter(filter) => self.filter(filter),
            LogicalPlan::SubqueryAlias(alias) => self.alias(alias),
            LogicalPlan::Union(union) => self.union(union),
            LogicalPlan::Unnest(unnest) => self.unnest(unnest),
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Window(window) => self.window(window),
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::Sort(sort) => self.sort(sort),
            LogicalPlan::Limit(limit) => self.limit(limit),
            LogicalPlan::Extension(extension) => self.extension(extension),
            LogicalPlan::EmptyRelation(_) => Err(refused("a query that reads no source").with_hint(
                "Read a source or a view. A condition that is never true, `x = NULL` say, leaves nothing to read.",
            )),
            LogicalPlan::Values(_) => Err(refused("VALUES").with_hint(
                "Put the rows into a Delta table and join the stream to that, or write `CASE x WHEN … END`.",
            )),
            LogicalPlan::Subquery(_) => Err(refused(
                "a subquery in FROM over columns of another table (UNNEST, LATERAL)",
            )
            .with_hint("Write `unnest(list)` in the SELECT list; any other subquery as a join with a condition.")),
            other => Err(refused(&format!("`{}`", other.display()))),
        }
    }

    /// Makes the piece a stream that operators can read: itself if it is one already.
    ///
    /// Errors: rows that may be retracted and would then have other values.
    pub fn input(&mut self, piece: Piece, name: &str) -> Result<Stream> {
        if let Some(id) = piece::whole_scan(&piece.plan) {
            return self.own_stream(id, name);
        }
        let schema: SchemaRef = Arc::new(piece.plan.schema().as_arrow().clone());
        let identity = self.identity(&piece.plan);
        let stream = self.stream(name, schema, piece.rows.clone(), identity);
        self.note_changing(&stream, &piece.plan);
        self.cuttings.push(Cutting { name: name.to_owned(), stream: stream.id, piece, copies: None, is_shared: false });
        Ok(stream)
    }

    /// Makes a view's rows a stream of its own name, computed once.
    pub fn shared(&mut self, mut piece: Piece, name: &str) -> Result<StreamId> {
        let schema = unique_schema(piece.plan.schema(), false);
        let identity = self.identity(&piece.plan);
        let stream = self.stream(name, schema, piece.rows.clone(), identity);
        self.streams[stream.id.0].untimed = self.keep_untimed(&mut piece)?;
        self.note_changing(&stream, &piece.plan);
        if let Some(plan) = self.for_readers(&piece.plan)? {
            self.recomputed.insert(stream.id, plan);
        }
        self.cuttings.push(Cutting { name: name.to_owned(), stream: stream.id, piece, copies: None, is_shared: true });
        Ok(stream.id)
    }

    /// Adds an operator over `inputs`; returns what reads its output under the names of `schema`.
    pub fn operator(
        &mut self,
        spec: OperatorSpec,
        inputs: &[Stream],
        schema: &DFSchema,
        retract: bool,
        times: Vec<Option<Lag>>,
    ) -> Result<Piece> {
        self.gives_again(inputs)?;
        let stage = inputs.iter().map(|input| input.rows.stage).max().unwrap_or(0);
        let sources = inputs.iter().flat_map(|input| input.rows.sources.iter().copied()).collect();
        let rows = Rows { retract, times, sources, stage: stage + 1 };
        let identity = self.operator_identity(&spec, inputs)?;
        let id = self.state_id(&spec, &identity);
        let name = id.clone();
        let checks = spec.checks(self.options.on_row_error);
        rehearse(&spec, &inputs.iter().map(|input| Arc::clone(&input.schema)).collect::<Vec<_>>(), &checks)?;
        if let (Some(input), Some(time)) = (inputs.first(), spec.event_time()) {
            self.let_untimed_through(input.id, time)?;
        }
        let output = self.stream(&name, spec.output(), rows.clone(), identity);
        self.operators.push(OperatorNode {
            id,
            inputs: inputs.iter().map(|input| input.id).collect(),
            input_retracts: inputs.iter().map(|input| input.rows.retract).collect(),
            output: output.id,
            stage,
            sources: rows.sources.clone(),
            retract,
            checks,
            pending: spec.pending(),
            order: None,
            spec,
        });
        Ok(Piece { plan: piece::read(&output, schema)?, rows })
    }

    /// Lets rows of a stream without a time in `column` reach the operator that reads it and counts them. A stream that several read
    /// keeps its condition.
    fn let_untimed_through(&mut self, stream: StreamId, column: usize) -> Result<()> {
        let mut untimed = Untimed { streams: vec![(stream, column)] };
        while let Some((stream, column)) = untimed.streams.pop() {
            self.pass_untimed(stream, column, &mut untimed);
            let own =
                |cutting: &&mut Cutting| cutting.stream == stream && !cutting.is_shared && cutting.copies.is_none();
            let Some(cutting) = self.cuttings.iter_mut().find(own) else { continue };
            let column = cutting.piece.plan.schema().columns()[column].clone();
            if let Some(plan) = untimed.let_through(&cutting.piece.plan, &column)? {
                cutting.piece.plan = plan;
            }
        }
        Ok(())
    }

    /// Continues behind an operator that emits the rows that it reads.
    fn pass_untimed(&self, stream: StreamId, column: usize, untimed: &mut Untimed) {
        let passes = |node: &&OperatorNode| node.output == stream && node.spec.passes_on() > Some(column);
        let node = self.operators.iter().find(passes);
        untimed.streams.extend(node.and_then(|node| node.inputs.first()).map(|input| (*input, column)));
    }

    /// Lets the rows without event time of a shared view through: gives the column of it that is null in them.
    fn keep_untimed(&mut self, piece: &mut Piece) -> Result<Option<usize>> {
        let columns = piece.columns();
        for (index, column) in columns.iter().enumerate().filter(|(index, _)| piece.rows.times[*index].is_some()) {
            let mut untimed = Untimed::default();
            if let Some(plan) = untimed.let_through(&piece.plan, column)? {
                piece.plan = plan;
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// The address of an operator's state: its kind and a hash of all that decides what it remembers. Two that are equal
    /// are told apart by their order.
    fn state_id(&self, spec: &OperatorSpec, identity: &str) -> String {
        use sha2::{Digest, Sha256};
        let hash = hex::encode(&Sha256::digest(identity.as_bytes())[..8]);
        let base = format!("{}-{hash}", spec.kind());
        let same = self.operators.iter().filter(|other| other.id.starts_with(&base)).count();
        if same == 0 { base } else { format!("{base}-{}", same + 1) }
    }

    /// A logical expression over `schema` as a physical one.
    pub fn physical(&self, expr: &Expr, schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>> {
        let context = PhysicalPlanningContext::default();
        let expr = as_executed(expr.clone(), schema)?.data;
        Ok(create_physical_expr(&expr, schema, self.session.execution_props(), &context)?)
    }

    /// A condition on pairs of rows, as an operator evaluates it.
    fn guarded_condition(&self, condition: &Expr, schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>> {
        let condition = self.physical(condition, schema)?;
        Ok(match self.options.on_row_error {
            _ if !is_fallible(&condition, schema.as_arrow()) => condition,
            OnRowError::Null => Guarded::null(condition),
            OnRowError::DeadLetter | OnRowError::Fail => Guarded::refusing(condition),
        })
    }

    /// A call whose arguments are null where they cannot be computed and no row is refused for it: the pipeline wants nulls, or the call
    /// does not count the row.
    fn guarded_call(
        &self,
        call: Arc<AggregateFunctionExpr>,
        filter: Option<Arc<dyn PhysicalExpr>>,
        input: &Schema,
    ) -> (Arc<AggregateFunctionExpr>, Option<Arc<dyn PhysicalExpr>>) {
        let nulls = self.options.on_row_error == OnRowError::Null;
        let guarded = |expr: Arc<dyn PhysicalExpr>| if is_fallible(&expr, input) { Guarded::null(expr) } else { expr };
        if !nulls && filter.is_none() {
            return (call, filter);
        }
        let arguments = call.expressions().into_iter().map(guarded).collect();
        let ordering = call.order_bys().iter().map(|sort| guarded(Arc::clone(&sort.expr))).collect();
        let call = call.with_new_expressions(arguments, ordering).map_or(call, Arc::new);
        (call, if nulls { filter.map(guarded) } else { filter })
    }

    /// The TTL for a construct whose memory nothing else bounds.
    ///
    /// Errors: the pipeline says nothing of `state_ttl`.
    pub fn ttl(&self, what: &str, remedy: &str) -> Result<Option<Lag>> {
        match self.options.state_ttl {
            Some(StateTtl::After(ttl)) => Ok(Some(Lag::of(ttl))),
            Some(StateTtl::Never) => Ok(None),
            None => Err(Error::sql(format!("{what} would remember every row for ever"))
                .with_detail("Nothing in the query says when a row can be forgotten.")
                .with_hint(format!(
                    "{remedy} Or bound the memory with `state_ttl = '7 days'` in the pipeline's WITH (…); `state_ttl = 'none'` says that it may grow."
                ))),
        }
    }

    /// When rolling rows come out.
    pub fn rolling_emit(&self) -> RollingEmit {
        match self.options.rolling_emit {
            Emit::OnWatermark => RollingEmit::OnWatermark,
            Emit::OnArrival => RollingEmit::OnArrival,
        }
    }
}

/// The streams that a plan reads, in order, each once.
pub fn streams_read(plan: &LogicalPlan) -> Vec<StreamId> {
    let mut found = Vec::new();
    // The closure never fails.
    let _ = plan.apply(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Some(id) = piece::held(scan)
            && !found.contains(&id)
        {
            found.push(id);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

/// The index of `column` in a piece, weight left out.
fn position(piece: &Piece, column: &datafusion::common::Column) -> Option<usize> {
    piece.plan.schema().maybe_index_of_column(column)
}

/// Operations that a stream does not have.
fn refused(what: &str) -> Error {
    Error::sql(format!("{what} cannot run on a stream"))
}

/// Operations that work only on rows that are never taken back.
fn needs_append(what: &str) -> Error {
    refused(&format!("{what} over rows that may be taken back"))
        .with_detail("Its input changes what it said before (an aggregate without a window, an outer join without time bounds, a Top-N).")
        .with_hint("Give the input a window or time bounds, or write it to a table with a PRIMARY KEY and read that.")
}
