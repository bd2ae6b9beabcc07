//! The DataFusion session that pipelines are planned and run in.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::ScalarUDF;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::optimizer::{Optimizer, OptimizerRule};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::prelude::SessionConfig;

use crate::catalog::Catalog;
use crate::function::{
    EpochClock, checked_sum, exclusive_or, extremes, null_functions, rounding_to_places, sql_function,
    stable_correlation, stand_in, time_functions,
};
use crate::memory::bounded::Bounding;
use crate::memory::slice::SliceBudget;
use crate::sql::types::SqlTypes;
use crate::sql::{Diagnostic, Span, diagnose};

use super::calls::calls_any;
use super::drawn::LotsStayAbove;
use super::guards::WhereNothingFails;
use super::meaning::{CheckedConstants, CheckedPlanner};
use super::null_keys::{KeysOfOneKind, NullKeysApart};
use super::relation::{RelationMode, register_relations};
use super::size::{SizedLiterals, bound_relations, bound_types};
use super::texts::TextsBesideIntervals;
use super::three_valued::ThreeValuedIn;

/// The functions that a pipeline's SQL may call beside DataFusion's own.
#[derive(Debug, Clone, Default)]
pub struct FunctionSet {
    /// Loaded models, as functions.
    pub models: Vec<Arc<ScalarUDF>>,
    /// The answer of `now()`.
    pub clock: EpochClock,
}

/// A session for plans that are made once and run per micro-batch: one partition (lanes run side by side instead), no
/// rule that moves data at run time, plain strings, spans kept for error messages.
///
/// Errors: SQL functions whose bodies cannot be bound, each with its place.
pub fn session_state(
    catalog: &Catalog,
    functions: &FunctionSet,
    runtime: Arc<RuntimeEnv>,
) -> Result<SessionState, Vec<Diagnostic>> {
    session_state_for(catalog, functions, runtime, RelationMode::Stream)
}

/// The same, with table functions and joins in time planned for `mode`: the batch form is what a pipeline is verified against.
pub fn session_state_for(
    catalog: &Catalog,
    functions: &FunctionSet,
    runtime: Arc<RuntimeEnv>,
    mode: RelationMode,
) -> Result<SessionState, Vec<Diagnostic>> {
    let (state, problems) = session_and_problems(catalog, functions, runtime, mode);
    if problems.is_empty() { Ok(state) } else { Err(problems) }
}

/// The same; functions that cannot be bound have stand-ins, so that what calls them can still be checked.
pub fn session_and_problems(
    catalog: &Catalog,
    functions: &FunctionSet,
    runtime: Arc<RuntimeEnv>,
    mode: RelationMode,
) -> (SessionState, Vec<Diagnostic>) {
    let budget = Arc::new(SliceBudget::default());
    let mut config = SessionConfig::new()
        .with_extension(Arc::clone(&budget))
        .with_target_partitions(1)
        .with_round_robin_repartition(false)
        .with_collect_statistics(false)
        .with_information_schema(false);
    let options = config.options_mut();
    options.sql_parser.map_string_types_to_utf8view = false;
    options.sql_parser.collect_spans = true;
    options.optimizer.enable_dynamic_filter_pushdown = false;
    // The check takes `x IS TRUE` for two types, once with nulls and once without.
    options.execution.skip_physical_aggregate_schema_check = true;
    // A subquery's value changes as rows come: it has to be a join.
    options.optimizer.enable_physical_uncorrelated_scalar_subquery = false;
    options.execution.time_zone = Some("UTC".to_owned());
    let mut state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_expr_planners(vec![Arc::new(SizedLiterals), Arc::new(TextsBesideIntervals)])
        .with_default_features()
        .with_type_planner(Arc::new(SqlTypes))
        .with_query_planner(Arc::new(CheckedPlanner))
        .with_optimizer_rules(rules())
        .with_physical_optimizer_rules(pipeline_rules())
        .build();
    // In batch DataFusion's own operators bound what they hold.
    if mode == RelationMode::Stream {
        rewrite(&mut state, Arc::new(Bounding::of_pipeline(budget)));
    }
    register_own(&mut state);
    for clock in functions.clock.functions() {
        register(&mut state, clock);
    }
    for model in &functions.models {
        register(&mut state, model.as_ref().clone());
    }
    for model in &catalog.broken.models {
        register(&mut state, stand_in(model, DataType::Float64));
    }
    let times = catalog.sources.values().filter_map(|source| {
        source.watermark.as_ref().map(|watermark| (source.name.clone(), watermark.column.clone()))
    });
    let mut problems = Vec::new();
    let registered = register_relations(&mut state, mode, times.collect())
        .and_then(|()| bound_types(&mut state))
        .and_then(|()| bound_relations(&mut state, None));
    if let Err(error) = registered {
        problems.push(diagnose(&error, &catalog.files, Span::default()));
    }
    for def in catalog.functions.values() {
        match sql_function(def, &state) {
            Ok(function) => register(&mut state, function),
            Err(error) => {
                if !calls_any(&def.body, &catalog.broken.callables) {
                    problems.push(diagnose(&error, &catalog.files, def.span));
                }
                register(&mut state, stand_in(&def.name, def.returns.clone()));
            }
        }
    }
    (state, problems)
}

/// DataFusion's rules; what they fold does not wrap, and nulls count as in SQL.
pub fn query_rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let mut rules = Optimizer::new().rules;
    for rule in &mut rules {
        match rule.name() {
            "extract_equijoin_predicate" => *rule = Arc::new(KeysOfOneKind(Arc::clone(rule))),
            "push_down_filter" => *rule = Arc::new(LotsStayAbove(Arc::clone(rule))),
            "eliminate_cross_join" => *rule = Arc::new(NullKeysApart(Arc::clone(rule))),
            _ => {}
        }
    }
    rules.insert(0, Arc::new(CheckedConstants));
    rules.insert(1, Arc::new(ThreeValuedIn));
    rules
}

/// The same but for what costs a stream more than it saves.
fn rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    // `count(DISTINCT x)` as two aggregates: the first would have to take rows back.
    // An IN that it would change is refused.
    const LEFT_OUT: [&str; 2] = ["single_distinct_aggregation_to_group_by", "three_valued_in"];
    query_rules().into_iter().filter(|rule| !LEFT_OUT.contains(&rule.name())).collect()
}

/// The rules for pipelines: none that moves a projection below a filter, since a row that a filter takes out is not computed.
fn pipeline_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    physical_rules().into_iter().filter(|rule| rule.name() != "ProjectionPushdown").collect()
}

/// DataFusion's rules for physical plans without the one that moves filters down: it goes by names, and where both sides of a join have a
/// column of one name it moves a condition on both below one of them. Conditions on one side have been moved before, in the logical plan.
pub fn physical_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = PhysicalOptimizer::new().rules;
    rules.retain(|rule| rule.name() != "FilterPushdown");
    for rule in rules.iter_mut().filter(|rule| rule.name() == "ProjectionPushdown") {
        *rule = Arc::new(WhereNothingFails(Arc::clone(rule)));
    }
    rules
}

/// Functions that take the place of DataFusion's, in pipelines and queries alike.
pub fn register_own(state: &mut SessionState) {
    use datafusion::logical_expr::registry::FunctionRegistry;
    for aggregate in [checked_sum(), stable_correlation(), exclusive_or()].into_iter().chain(extremes()) {
        // Registering an aggregate in a session state replaces and cannot fail.
        let _replaced = state.register_udaf(Arc::new(aggregate));
    }
    for function in time_functions().chain(rounding_to_places()).chain(null_functions()) {
        register(state, function);
    }
}

/// Has functions ask before they compute, as those of a pipeline do: a row for which one makes too much fails in batch, too.
pub fn bound_calls(state: &mut SessionState) {
    let budget = state.config().get_extension::<SliceBudget>().unwrap_or_default();
    // Constants are not added up over all the queries of a session.
    budget.planned();
    rewrite(state, Arc::new(Bounding::of_pipeline(budget)));
}

fn register(state: &mut SessionState, function: ScalarUDF) {
    use datafusion::logical_expr::registry::FunctionRegistry;
    // Registering a scalar function in a session state replaces and cannot fail.
    let _replaced = state.register_udf(Arc::new(function));
}

fn rewrite(state: &mut SessionState, rule: Arc<dyn FunctionRewrite + Send + Sync>) {
    use datafusion::logical_expr::registry::FunctionRegistry;
    // Adding a rule to a session state cannot fail.
    let _added = state.register_function_rewrite(rule);
}
