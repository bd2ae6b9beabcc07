//! From a catalog and a pipeline to a [`Dataflow`].

mod physical;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::{ExprSchema, ScalarValue};
use datafusion::datasource::ViewTable;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, LogicalPlanBuilder};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Query, Statement as SqlStatement};

use super::calls::{calls_any, forget_argument_names};
use super::clock::{asks_clock, clocks};
use super::clocked::{ClockUse, Clocked};
use super::constants::constants_are_constant;
use super::cut::{Cutter, KnownKeys, Piece, Rows, UniqueKey, streams_read, united};
use super::dataflow::{Branch, Dataflow, SourceInput};
use super::fit::{fit, fit_and_generate};
use super::generated::plain;
use super::growing::Growing;
use super::impossible::check_literals;
use super::landing::land;
use super::lookup::LookupTable;
use super::maps::maps_are_no_keys;
use super::materialized::stored_columns;
use super::meaning::as_meant;
use super::order::mark_order;
use super::refusal::{refusals, takes_back};
use super::running::RunningPlans;
use super::share::{Reading, everything, reading, relation_names};
use super::size::check_plan;
use super::watermark::watermark;
use crate::catalog::{Catalog, InsertDef, KafkaSinkOptions, PipelineDef, PipelineOptions, SinkConnector, ViewDef};
use crate::error::Error;
use crate::function::shorten_names;
use crate::memory::slice::SliceBudget;
use crate::operator::HeldTable;
use crate::sql::clause::Clause;
use crate::sql::{Diagnostic, Span, diagnose};
use crate::time::Lag;

/// Schemas of INSERT targets, by name. A target that is missing takes whatever the query gives.
pub type Targets = BTreeMap<String, SchemaRef>;

type Compiled<T> = Result<T, Vec<Diagnostic>>;

/// Plans `pipeline`: all its INSERTs as one dataflow, shared views once.
///
/// Errors: every problem of every statement at once, each with its place.
pub async fn compile(
    catalog: &Catalog,
    pipeline: &PipelineDef,
    targets: &Targets,
    session: SessionState,
) -> Compiled<Dataflow> {
    let reading = reading(catalog, pipeline);
    let mut compiler = Compiler::new(catalog, &session, &pipeline.options);
    let sources = compiler.read(&reading, targets).await;
    let mut given = Vec::new();
    for insert in &pipeline.inserts {
        given.extend(compiler.insert(insert, targets.get(&insert.target)).await);
    }
    let (mut branches, mut ordered) = (Vec::new(), Vec::new());
    for given in compiler.keyed(given) {
        let is_ordered = compiler.keeps_the_last(&given);
        if let Some(branch) = compiler.branch(given, targets).await {
            branches.push(branch);
            ordered.push(is_ordered);
        }
    }
    let mut fragments = compiler.fragments(pipeline.span).await;
    let Compiler { cutter, problems, budget, .. } = compiler;
    if !problems.is_empty() {
        return Err(problems);
    }
    let stages = branches.iter().map(|branch| branch.stage + 1).max().unwrap_or(1);
    let Cutter { streams, mut operators, .. } = cutter;
    if let Err(error) = mark_order(&mut operators, &mut fragments, &mut branches, &ordered) {
        return Err(vec![diagnose(&error, &catalog.files, pipeline.span)]);
    }
    let streams = streams.len();
    let plans = fragments.iter().map(|fragment| &fragment.plan).chain(branches.iter().map(|branch| &branch.plan));
    let of_operators = operators.iter().flat_map(|operator| operator.spec.over_input());
    let growing = plans.map(Growing::of).chain(of_operators.map(|expr| Growing::of_expression(&expr)));
    let growing = growing.fold(Growing::default(), Growing::and);
    budget.planned();
    Ok(Dataflow {
        pipeline: pipeline.name.clone(),
        sources,
        fragments,
        operators,
        branches,
        stages,
        on_row_error: pipeline.options.on_row_error,
        streams,
        session,
        copies: RunningPlans::default(),
        growing,
        budget,
    })
}

/// The errors of every watermark and view, whether a pipeline uses it or not: names, types and functions. What cannot run on a
/// stream is for the pipelines to find that would run it.
pub async fn declarations(catalog: &Catalog, targets: &Targets, session: SessionState) -> Vec<Diagnostic> {
    let mut reading = everything(catalog);
    reading.shared.clear();
    let options = PipelineOptions::default();
    let mut compiler = Compiler::new(catalog, &session, &options);
    compiler.refuses = false;
    let _sources = compiler.read(&reading, targets).await;
    compiler.problems
}

struct Compiler<'a> {
    catalog: &'a Catalog,
    session: &'a SessionState,
    cutter: Cutter<'a>,
    problems: Vec<Diagnostic>,
    budget: Arc<SliceBudget>,
    /// Relations that could not be made or planned: what reads them is passed over, the cause has been said.
    broken: BTreeSet<String>,
    /// A node that cannot run on a stream is an error.
    refuses: bool,
    /// A reader's plan is too large with the shared views written into it.
    keeps_shared: bool,
    /// Views that are streams of their own.
    shared: BTreeSet<String>,
    known_keys: KnownKeys,
    /// Their use of the clock, and the functions that ask it.
    clocked: BTreeMap<String, ClockUse>,
    clocks: BTreeSet<String>,
}

/// The rows of one INSERT, or of several into one target.
struct Given<'a> {
    insert: &'a InsertDef,
    piece: Piece,
    /// The unique keys of its rows.
    unique: Vec<UniqueKey>,
}

impl<'a> Compiler<'a> {
    fn new(catalog: &'a Catalog, session: &'a SessionState, options: &'a PipelineOptions) -> Self {
        let cutter = Cutter::new(session, options);
        let broken = catalog.broken.relations.clone();
        let budget = session.config().get_extension().unwrap_or_default();
        let (problems, shared, clocked) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
        let clocks = clocks(catalog);
        let tables = catalog.tables.values().map(|table| (table.name.clone(), table.primary_key.clone())).collect();
        let known_keys = KnownKeys { tables, ..KnownKeys::default() };
        let (refuses, keeps_shared) = (true, false);
        Self {
            catalog,
            session,
            cutter,
            problems,
            budget,
            broken,
            refuses,
            keeps_shared,
            shared,
            known_keys,
            clocked,
            clocks,
        }
    }

    /// Makes everything known that is read; gives the sources.
    async fn read(&mut self, reading: &Reading, targets: &Targets) -> Vec<SourceInput> {
        self.shared.clone_from(&reading.shared);
        let mut sources = Vec::new();
        for name in &reading.sources {
            sources.extend(self.source(name, sources.len()));
        }
        for name in &reading.tables {
            self.table(name, targets);
        }
        for name in &reading.views {
            let before = self.problems.len();
            let view = &self.catalog.views[name];
            let is_broken = self.hangs_on_broken(&view.query);
            self.view(view, reading.shared.contains(name)).await;
            if self.problems.len() > before || is_broken {
                self.broken.insert(name.clone());
            }
        }
        sources
    }

    /// True when the query reads or calls something that could not be made.
    fn hangs_on_broken(&self, query: &Query) -> bool {
        relation_names(query).iter().any(|name| self.broken.contains(name))
            || calls_any(query, &self.catalog.broken.callables)
    }

    fn source(&mut self, name: &str, index: usize) -> Option<SourceInput> {
        let def = self.catalog.sources[name].clone();
        let watermark = match watermark(&def, self.session, &self.catalog.files) {
            Ok(watermark) => watermark,
            Err(problem) => {
                self.problems.push(problem);
                None
            }
        };
        let schema = def.schema();
        let timed = def.watermark.as_ref().map(|watermark| watermark.column.as_str());
        let times =
            schema.fields().iter().map(|field| (Some(field.name().as_str()) == timed).then_some(Lag::ZERO)).collect();
        let rows = Rows { retract: false, times, sources: BTreeSet::from([index]), stage: 0 };
        let declared = def.watermark.as_ref().map(|watermark| watermark.expression.to_string());
        let time =
            timed.and_then(|timed| schema.field_with_name(timed).ok()).map(|field| field.data_type().to_string());
        let identity = format!("source {name} watermark {declared:?} {time:?}");
        let stream = self.cutter.stream(name, Arc::clone(&schema), rows, identity);
        self.register(name, Arc::new(HeldTable::new(name, stream.id, schema)));
        Some(SourceInput { def, stream: stream.id, watermark })
    }

    /// A Delta table that streams may be joined to.
    fn table(&mut self, name: &str, targets: &Targets) {
        let def = &self.catalog.tables[name];
        let declared = (!def.columns.is_empty()).then(|| def.schema());
        match targets.get(name).cloned().or(declared) {
            Some(schema) => self.register(name, Arc::new(LookupTable::new(name, schema))),
            None => {
                let message = format!("the columns of table `{name}` are not known without opening it");
                let hint = "Declare them in CREATE TABLE; `weir run` opens the table.";
                self.problems.push(Diagnostic::new(def.span, message).with_hint(hint));
                self.broken.insert(name.to_owned());
            }
        }
    }

    fn register(&self, name: &str, table: Arc<dyn TableProvider>) {
        let schema = self.session.schema_for_ref(datafusion::common::TableReference::bare(name));
        // The in-memory schema takes any table; names are unique because the catalog's are.
        if let Ok(schema) = schema {
            let _previous = schema.register_table(name.to_owned(), table);
        }
    }

    /// A view that is shared becomes a stream; any other is written into its reader.
    async fn view(&mut self, view: &ViewDef, shared: bool) -> Option<()> {
        let plan = self.query(&view.query, view.span).await?;
        let plan = self.rename(plan, view)?;
        if !shared {
            self.register(&view.name, Arc::new(ViewTable::new(plan, None)));
            return None;
        }
        let clock_use = self.clock_use(&plan, view.span)?;
        self.clocked.insert(view.name.clone(), clock_use);
        // The stream as SQL sees it: names as the view gives them, without a weight.
        let seen: SchemaRef = Arc::new(plan.schema().as_arrow().clone());
        let (piece, unique) = self.cut(&plan, &view.query, view.span)?;
        let stream = match self.cutter.shared(piece, &view.name) {
            Ok(stream) => stream,
            Err(error) => {
                self.problems.push(of_error(&error, view.span));
                return None;
            }
        };
        self.known_keys.streams.insert(stream.0, unique);
        self.register(&view.name, Arc::new(HeldTable::new(&view.name, stream, seen)));
        Some(())
    }

    /// Optimises a plan and cuts it; also gives what tells its rows apart.
    fn cut(&mut self, plan: &LogicalPlan, query: &Query, span: Span) -> Option<(Piece, Vec<UniqueKey>)> {
        // Functions written in SQL stand as their bodies now.
        let checked = |plan: LogicalPlan| constants_are_constant(&plan).map(|()| plan);
        let optimised = match self.session.optimize(plan).and_then(checked) {
            Ok(optimised) => optimised,
            Err(error) => return self.problem(&error, span),
        };
        let sound = check_literals(&optimised, self.session);
        match sound.and_then(|()| self.cutter.cut(&optimised)) {
            Ok(piece) => Some((piece, self.known_keys.of(&optimised))),
            Err(error) => {
                let clause = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<Clause>());
                let place = clause.and_then(|clause| clause.find(&self.catalog.files, &self.statements(query, span)));
                self.problems.push(of_error(&error, place.unwrap_or(span)));
                None
            }
        }
    }

    /// The places of all statements that are planned as one: the query's own, and the views that are written into it.
    fn statements(&self, query: &Query, span: Span) -> Vec<Span> {
        let mut places = vec![span];
        let mut open = relation_names(query);
        let mut seen = BTreeSet::new();
        while let Some(name) = open.pop() {
            if let Some(view) = self.catalog.views.get(&name).filter(|_| !self.shared.contains(&name))
                && seen.insert(name)
            {
                places.push(view.span);
                open.extend(relation_names(&view.query));
            }
        }
        places
    }

    fn rename(&mut self, plan: LogicalPlan, view: &ViewDef) -> Option<LogicalPlan> {
        if !view.columns.is_empty() && view.columns.len() != plan.schema().fields().len() {
            let message = format!(
                "view `{}` names {} columns, its query gives {}",
                view.name,
                view.columns.len(),
                plan.schema().fields().len()
            );
            self.problems.push(Diagnostic::new(view.span, message));
            return None;
        }
        match renamed(plan, &view.columns) {
            Ok(plan) => Some(plan),
            Err(error) => self.problem(&error, view.span),
        }
    }

    /// Refuses the clock in conditions of a materialized view, those of the views that it reads included.
    fn follows_no_clock(&mut self, insert: &InsertDef) -> Option<()> {
        if !self.catalog.materialized.contains_key(&insert.target) {
            return Some(());
        }
        let catalog = self.catalog;
        let mut open = vec![(&insert.query, insert.span)];
        let mut seen = BTreeSet::new();
        while let Some((query, span)) = open.pop() {
            if let Some(place) = asks_clock(query, &self.clocks) {
                let place = Span::from(place);
                let place = if place.is_empty() { span } else { place };
                let message = format!("the materialized view `{}` has the clock in a condition", insert.target);
                self.problems.push(
                    Diagnostic::new(place, message)
                        .with_detail("Its rows change when input comes, not when time passes: they would never leave it.")
                        .with_hint("Ask for the time when you query the view, group by a window, or let rows expire with `state_ttl`."),
                );
                return None;
            }
            let views = relation_names(query).into_iter().filter(|name| seen.insert(name.clone()));
            open.extend(views.filter_map(|name| catalog.views.get(&name)).map(|view| (&view.query, view.span)));
        }
        Some(())
    }

    fn clock_use(&mut self, plan: &LogicalPlan, span: Span) -> Option<ClockUse> {
        let clocked = Clocked { functions: &self.clocks, views: &self.clocked };
        match clocked.columns(plan) {
            Ok(found) => Some(found),
            Err(error) => self.problem(&error, span),
        }
    }

    /// Refuses a query that decides something by the clock and whose rows are kept up to date.
    fn decides_by_no_clock(&mut self, insert: &InsertDef, clock_use: &ClockUse) -> Option<()> {
        let Err(decision) = clock_use else { return Some(()) };
        let what = match self.catalog.materialized.contains_key(&insert.target) {
            true => "the materialized view",
            false => "the query of the keyed table",
        };
        let message = format!("{what} `{}` depends on the clock in `{}`", insert.target, decision.expr);
        self.problems.push(
            Diagnostic::new(insert.span, message)
                .with_detail("Its rows change when input comes, not when time passes.")
                .with_hint("Ask for the time when you query the table, group by a window, or let rows expire with `state_ttl`. `now() AS …` in the SELECT list alone is kept as it was when the row was computed."),
        );
        None
    }

    async fn insert<'i>(&mut self, insert: &'i InsertDef, target: Option<&SchemaRef>) -> Option<Given<'i>> {
        self.follows_no_clock(insert)?;
        let mut plan = self.query(&insert.query, insert.span).await?;
        let clock_use = self.clock_use(&plan, insert.span)?;
        if self.catalog.materialized.contains_key(&insert.target) {
            self.decides_by_no_clock(insert, &clock_use)?;
        }
        let broken = &self.catalog.broken;
        let fits = !broken.inserts.contains(&insert.target_span) && !broken.relations.contains(&insert.target);
        if let Some(target) = target.filter(|_| fits) {
            plan = match fit_and_generate(plan, &insert.target, target, &insert.columns) {
                Ok(plan) => plan,
                Err(error) => {
                    self.problems.push(of_error(&error, insert.target_span));
                    return None;
                }
            };
        }
        let (piece, unique) = self.cut(&plan, &insert.query, insert.span)?;
        let is_known =
            self.catalog.tables.contains_key(&insert.target) || self.catalog.sinks.contains_key(&insert.target);
        if piece.rows.retract && fits && is_known && !self.catalog.accepts_retractions(&insert.target) {
            self.problems.push(of_error(&takes_back(&insert.target), insert.target_span));
            return None;
        }
        let keyed = self.catalog.tables.get(&insert.target).is_some_and(|def| !def.primary_key.is_empty());
        if keyed && (piece.rows.retract || clock_use.as_ref().is_err_and(|decision| decision.groups)) {
            self.decides_by_no_clock(insert, &clock_use)?;
        }
        let piece = match self.since_its_start(piece, &insert.target) {
            Ok(piece) => piece,
            Err(error) => {
                self.problems.push(of_error(&error, insert.target_span));
                return None;
            }
        };
        let schema = match target {
            Some(target) => plain(target),
            None => without_weight(&Arc::new(piece.plan.schema().as_arrow().clone()), piece.rows.retract)?,
        };
        if let Err(error) = self.lands(&plan, insert, target.is_some(), &schema) {
            self.problems.push(of_error(&error, insert.span));
            return None;
        }
        Some(Given { insert, piece, unique })
    }

    /// At most one row for each key of a target that has one: rows of several INSERTs into it are taken together where some may be taken
    /// back, and what is under a key is kept where several rows may have it.
    fn keyed<'i>(&mut self, given: Vec<Given<'i>>) -> Vec<Given<'i>> {
        let mut together: Vec<Given<'i>> = Vec::new();
        let retracting: BTreeSet<&str> =
            given.iter().filter(|given| given.piece.rows.retract).map(|given| given.insert.target.as_str()).collect();
        for next in given {
            let target = &next.insert.target;
            let is_keyed = !self.catalog.key_of(target).is_empty() && retracting.contains(target.as_str());
            let alike =
                |other: &&mut Given<'_>| other.insert.target == *target && same_columns(&other.piece, &next.piece);
            match together.iter_mut().find(alike).filter(|_| is_keyed) {
                Some(other) => match united(vec![other.piece.clone(), next.piece]) {
                    Ok(piece) => (other.piece, other.unique) = (piece, Vec::new()),
                    Err(error) => self.problems.push(of_error(&error, next.insert.target_span)),
                },
                None => together.push(next),
            }
        }
        for Given { insert, piece, unique } in &mut together {
            let key = self.catalog.key_of(&insert.target);
            match self.cutter.keyed(piece.clone(), unique, &insert.target, key) {
                Ok(one_of_each) => *piece = one_of_each,
                Err(error) => self.problems.push(of_error(&error, insert.target_span)),
            }
        }
        together
    }

    /// True when the target keeps the last of several rows with one key.
    fn keeps_the_last(&self, given: &Given<'_>) -> bool {
        let key = self.catalog.key_of(&given.insert.target);
        let columns = given.piece.columns();
        let in_key = |column: &usize| columns.get(*column).is_some_and(|column| key.contains(&column.name));
        !key.is_empty() && !given.piece.rows.retract && !given.unique.iter().any(|unique| unique.iter().all(in_key))
    }

    async fn branch(&mut self, given: Given<'_>, targets: &Targets) -> Option<Branch> {
        let Given { insert, piece, .. } = given;
        let reads = streams_read(&piece.plan);
        let Rows { retract, stage, times, sources } = piece.rows;
        let physical = self.physical(&piece.plan, insert.span).await?;
        let unshared = self.unshared(&piece.plan).await;
        let schema = match targets.get(&insert.target) {
            Some(target) => plain(target),
            None => without_weight(&physical.schema(), retract)?,
        };
        let target = insert.target.clone();
        Some(Branch { target, schema, plan: physical, unshared, stage, reads, retract, times, sources })
    }

    /// The rows that a sink with a `starting_timestamp` sends.
    fn since_its_start(&self, piece: Piece, target: &str) -> crate::error::Result<Piece> {
        let connector = self.catalog.sinks.get(target).map(|sink| &sink.connector);
        let Some(SinkConnector::Kafka(KafkaSinkOptions { starting_timestamp_ms: Some(ms), .. })) = connector else {
            return Ok(piece);
        };
        let timed = piece.rows.times.iter().zip(piece.columns()).filter_map(|(lag, column)| Some(((*lag)?, column)));
        let Some((_, column)) = timed.min_by_key(|(lag, _)| lag.0.unsigned_abs()).filter(|_| !piece.rows.retract)
        else {
            return Err(Error::sql(format!(
                "sink `{target}` begins at a time, and none of its rows' columns is their event time"
            ))
            .with_detail("Rows that are older than its `starting_timestamp` are left out by that column.")
            .with_hint(
                "Select the event time, too; or leave `starting_timestamp` out and write a condition, `WHERE ts >= …`.",
            ));
        };
        let zone = match piece.plan.schema().field_from_column(&column)?.data_type() {
            DataType::Timestamp(_, zone) => zone.clone(),
            _ => None,
        };
        let start = ScalarValue::TimestampMicrosecond(Some(ms.saturating_mul(1_000)), zone);
        let condition = Expr::Column(column).gt_eq(Expr::Literal(start, None));
        let plan = LogicalPlan::Filter(Filter::try_new(condition, Arc::new(piece.plan))?);
        Ok(Piece { plan, rows: piece.rows })
    }

    /// Tries whether the rows can be written. The columns of a materialized view are the query's, as Delta has them.
    fn lands(
        &self,
        plan: &LogicalPlan,
        insert: &InsertDef,
        fitted: bool,
        schema: &SchemaRef,
    ) -> crate::error::Result<()> {
        let target = &insert.target;
        if !self.catalog.materialized.contains_key(target) || fitted {
            return land(self.catalog, target, schema);
        }
        let columns = stored_columns(schema);
        land(self.catalog, target, &columns)?;
        fit(plan.clone(), target, &columns, &insert.columns).map(drop)
    }

    async fn query(&mut self, query: &Query, span: Span) -> Option<LogicalPlan> {
        if self.hangs_on_broken(query) {
            return None;
        }
        let refused = refusals(query);
        if self.refuses && !refused.is_empty() {
            for refusal in refused {
                let place = Span::from(refusal.span);
                let place = if place.is_empty() { span } else { place };
                self.problems.push(Diagnostic::new(place, refusal.message).with_hint(refusal.hint));
            }
            return None;
        }
        let mut query = query.clone();
        forget_argument_names(&mut query, &self.catalog.broken.models);
        shorten_names(&mut query, self.session);
        let statement = Statement::Statement(Box::new(SqlStatement::Query(Box::new(query))));
        let planned = self.session.statement_to_plan(statement).await;
        let checked = |plan: LogicalPlan| check_plan(&plan).and_then(|()| maps_are_no_keys(&plan)).map(|()| plan);
        match planned.and_then(checked).and_then(as_meant) {
            Ok(plan) => Some(plan),
            Err(error) => self.problem(&error, span),
        }
    }

    fn problem<T>(&mut self, error: &datafusion::error::DataFusionError, span: Span) -> Option<T> {
        self.problems.push(diagnose(error, &self.catalog.files, span));
        None
    }
}

fn same_columns(a: &Piece, b: &Piece) -> bool {
    let columns = |piece: &Piece| {
        let fields = piece.plan.schema().fields().iter().take(piece.columns().len());
        fields.map(|field| (field.name().clone(), field.data_type().clone())).collect::<Vec<_>>()
    };
    columns(a) == columns(b)
}

fn without_weight(schema: &SchemaRef, retract: bool) -> Option<SchemaRef> {
    if !retract {
        return Some(Arc::clone(schema));
    }
    let columns: Vec<usize> = (0..schema.fields().len() - 1).collect();
    schema.project(&columns).ok().map(Arc::new)
}

/// A view's plan with its columns renamed, if it renames any.
pub(super) fn renamed(plan: LogicalPlan, names: &[String]) -> datafusion::error::Result<LogicalPlan> {
    if names.is_empty() {
        return Ok(plan);
    }
    let columns = plan.schema().columns().into_iter().zip(names);
    let exprs: Vec<_> =
        columns.map(|(column, name)| datafusion::logical_expr::Expr::Column(column).alias(name)).collect();
    LogicalPlanBuilder::from(plan).project(exprs).and_then(LogicalPlanBuilder::build)
}

fn of_error(error: &Error, span: Span) -> Diagnostic {
    let mut diagnostic = Diagnostic::new(span, error.message());
    if let Some(detail) = error.detail() {
        diagnostic = diagnostic.with_detail(detail);
    }
    if let Some(hint) = error.hint() {
        diagnostic = diagnostic.with_hint(hint);
    }
    diagnostic
}
