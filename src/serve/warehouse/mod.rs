//! The warehouse for queries: its Delta tables by name, each at its newest version, and system tables.
//!
//! Owns names (catalog `weir`; schema `public` for tables, `weir` for system tables) and sessions: one DataFusion state with
//! a bounded memory pool for the whole server, and for every request a cheap copy of it whose catalog looks tables up at the
//! time of the request. Promises that a query sees each table at one version, the newest when it was planned, that it cannot
//! write, and that no path can be queried.

mod answer;
mod bound_rows;
mod budget;
mod catalog;
mod columns;
mod declared;
pub mod location;
mod planning;
pub(crate) mod progress;
mod query;
mod refusal;
mod repeated;
mod statement;
mod state;
mod system;
mod tables;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod sqlstate_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::sync::{Arc, PoisonError, RwLock};

use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::datasource::empty::EmptyTable;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::context::{SessionConfig, SessionState};
use datafusion::execution::memory_pool::TrackConsumersPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::ScalarUDF;
use futures::{StreamExt, TryStreamExt};

pub(crate) use self::declared::Declared;
use self::location::Location;
pub(crate) use self::query::Query;
pub(crate) use self::refusal::of_server;
pub(crate) use self::statement::read_only;
use self::tables::Tables;
use super::failure::query_error;
use crate::delta::{AsOf, TableVersion};
use crate::error::{Error, Result};
use crate::function::{query_now, sql_function};
use crate::memory::QueryMemory;
use crate::plan::{
    CheckedPlanner, RelationMode, SizedLiterals, TextsBesideIntervals, bound_types, physical_rules, query_rules,
    register_own, register_relations,
};
use crate::sql::types::SqlTypes;

/// The one catalog's name.
pub const CATALOG: &str = "weir";
/// The schema of the warehouse's tables.
pub const PUBLIC: &str = "public";
/// The schema of the system tables.
pub const SYSTEM: &str = "weir";

/// Folders that are inspected concurrently when tables are listed.
const LISTING_CONCURRENCY: usize = 16;

/// Resources and functions of a server.
#[derive(Debug, Clone)]
pub struct WarehouseOptions {
    /// Bytes that all running queries together may hold before they spill to disk, or fail if they cannot.
    pub memory_limit_bytes: usize,
    /// Plan partitions of a query; `None` = cores.
    pub parallelism: Option<usize>,
    /// Functions beside DataFusion's own, such as models.
    pub functions: Vec<Arc<ScalarUDF>>,
}

impl Default for WarehouseOptions {
    fn default() -> Self {
        Self { memory_limit_bytes: 1 << 30, parallelism: None, functions: Vec::new() }
    }
}

/// A table's name and location.
#[derive(Debug, Clone)]
pub struct TableEntry {
    pub name: String,
    pub location: Location,
}

/// The tables of a location, ready to be queried.
#[derive(Debug)]
pub struct Warehouse {
    location: Location,
    /// Tables outside of the warehouse.
    elsewhere: RwLock<BTreeMap<String, Location>>,
    tables: Tables,
    state: Arc<SessionState>,
    declared: Option<Arc<Declared>>,
}

impl Warehouse {
    /// A warehouse over `location`; nothing is read yet.
    pub fn new(location: Location, options: WarehouseOptions) -> Result<Self> {
        let memory = QueryMemory::new(options.memory_limit_bytes as u64);
        Self::sharing(location, options, memory)
    }

    /// A warehouse whose queries use `memory`, shared with others, instead of [`WarehouseOptions::memory_limit_bytes`].
    pub fn sharing(location: Location, options: WarehouseOptions, memory: QueryMemory) -> Result<Self> {
        let state = Arc::new(session_state(options, memory)?);
        Ok(Self { location, elsewhere: RwLock::default(), tables: Tables::default(), state, declared: None })
    }

    /// Adds a table outside of the warehouse (`CREATE TABLE … LOCATION`); it hides a folder of the same name.
    pub fn declare(&self, name: impl Into<String>, location: Location) {
        self.elsewhere.write().unwrap_or_else(PoisonError::into_inner).insert(name.into(), location);
    }

    /// The warehouse's location.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// Bytes that running queries hold now.
    pub fn memory_reserved_bytes(&self) -> usize {
        self.state.runtime_env().memory_pool.reserved()
    }

    /// All tables, by name: folders of the warehouse with a Delta log, and the declared ones.
    pub async fn list_tables(&self) -> Result<Vec<TableEntry>> {
        let folders = self.location.folders().await?;
        let found: Vec<Option<TableEntry>> = futures::stream::iter(folders)
            .filter(|name| futures::future::ready(is_table_name(name)))
            .map(|name| async move {
                let location = self.location.child(&name);
                let is_table = location.child("_delta_log").exists().await?;
                Ok::<_, Error>(is_table.then_some(TableEntry { name, location }))
            })
            .buffered(LISTING_CONCURRENCY)
            .try_collect()
            .await?;
        let mut entries: BTreeMap<String, TableEntry> =
            found.into_iter().flatten().map(|entry| (entry.name.clone(), entry)).collect();
        for (name, location) in self.elsewhere.read().unwrap_or_else(PoisonError::into_inner).iter() {
            entries.insert(name.clone(), TableEntry { name: name.clone(), location: location.clone() });
        }
        Ok(entries.into_values().collect())
    }

    /// The table at `location`; `None` if it does not exist.
    pub async fn open(&self, location: &Location, as_of: AsOf) -> Result<Option<TableVersion>> {
        self.tables.open(location, as_of).await
    }

    /// The Arrow schema of a listed table.
    pub async fn schema_of(&self, entry: &TableEntry) -> Result<Option<SchemaRef>> {
        Ok(self.open(&entry.location, AsOf::Newest).await?.map(|table| table.provider.schema()))
    }

    /// Adds the declarations of files: answers statements about them, and lets queries call their functions and models.
    ///
    /// Errors: a function that cannot be registered.
    pub fn declaring(mut self, declared: Declared) -> Result<Self> {
        let mut state = self.state.as_ref().clone();
        let register = |state: &mut SessionState, function: Arc<ScalarUDF>| {
            FunctionRegistry::register_udf(state, function).map(|_| ()).map_err(query_error)
        };
        for function in &declared.functions {
            register(&mut state, Arc::clone(function))?;
        }
        for def in declared.catalog.functions.values() {
            // Errors in its body are reported when the files are checked.
            if let Ok(function) = sql_function(def, &state) {
                register(&mut state, Arc::new(function))?;
            }
        }
        self.state = Arc::new(state);
        self.declared = Some(Arc::new(declared));
        Ok(self)
    }

    /// The relation that a query gets for a declared name without a table in the warehouse.
    fn declared_relation(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let Some(declared) = &self.declared else { return Ok(None) };
        let catalog = &declared.catalog;
        if let Some(table) = catalog.tables.get(name) {
            if declared.empty_tables && !table.columns.is_empty() {
                return Ok(Some(Arc::new(EmptyTable::new(table.schema()))));
            }
            return Err(Error::sql(format!("table `{name}` is declared, and no pipeline has written it yet"))
                .with_hint("It is made when its pipeline starts: `weir run`."));
        }
        let kind = match name {
            _ if catalog.sources.contains_key(name) => "source",
            _ if catalog.sinks.contains_key(name) => "sink",
            _ if catalog.views.contains_key(name) => "view",
            _ => return Ok(None),
        };
        Err(Error::sql(format!("`{name}` is a {kind}, and a query reads tables"))
            .with_hint("Write what you want to see to a table: `INSERT INTO …`, or `CREATE MATERIALIZED VIEW`."))
    }

    /// The declarations of files, if there are any.
    pub fn declared_files(&self) -> Option<&Declared> {
        self.declared.as_deref()
    }

    /// The runtime with the queries' memory.
    fn runtime(&self) -> &Arc<RuntimeEnv> {
        self.state.runtime_env()
    }

    /// The location of the table `name`: a declared one, or a folder of that name, in any case unless the name was quoted.
    async fn location_of(&self, name: &str) -> Result<Location> {
        let elsewhere = self.elsewhere.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if let Some(location) = elsewhere {
            return Ok(location);
        }
        let exact = self.location.child(name);
        if exact.child("_delta_log").exists().await? {
            return Ok(exact);
        }
        if is_exact(name) {
            return Ok(exact);
        }
        let listed = self.list_tables().await?;
        let alike = listed.into_iter().find(|entry| entry.name.eq_ignore_ascii_case(name));
        Ok(alike.map_or(exact, |entry| entry.location))
    }

    /// Looks `name` up among the tables: declared ones, then folders, then, unless the name was quoted, either ignoring case if only
    /// one matches.
    async fn find(&self, name: &str, as_of: AsOf) -> Result<Option<TableVersion>> {
        // A table's name with slashes is a path of nested folders.
        if !name.split('/').all(is_table_name) {
            return if name.contains(['/', '\\']) {
                Err(Error::sql(format!("path `{name}` cannot be queried"))
                    .with_hint("Tables are named: `SELECT … FROM scored`. `SHOW TABLES` lists them."))
            } else {
                Ok(None)
            };
        }
        let declared = self.elsewhere.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        let location =
            declared.unwrap_or_else(|| name.split('/').fold(self.location.clone(), |at, part| at.child(part)));
        if let Some(table) = self.open(&location, as_of).await? {
            return Ok(Some(table));
        }
        if is_exact(name) {
            return Ok(None);
        }
        let listed = self.list_tables().await?;
        let mut alike = listed.iter().filter(|entry| entry.name.eq_ignore_ascii_case(name));
        match (alike.next(), alike.next()) {
            (Some(only), None) => self.open(&only.location, as_of).await,
            _ => Ok(None),
        }
    }
}

/// True for a name that was certainly quoted: others are folded to lower case.
fn is_exact(name: &str) -> bool {
    name.chars().any(char::is_uppercase)
}

/// True for names of tables: folder names that are neither hidden nor weir's own, and no paths.
fn is_table_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with(['_', '.']) && !name.contains(['/', '\\']) && !name.contains(char::is_control)
}

fn session_state(options: WarehouseOptions, memory: QueryMemory) -> Result<SessionState> {
    let mut config = SessionConfig::new()
        .with_default_catalog_and_schema(CATALOG, PUBLIC)
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(true);
    if let Some(parallelism) = options.parallelism {
        config = config.with_target_partitions(parallelism.max(1));
    }
    // For errors with their position in the statement.
    config.options_mut().sql_parser.collect_spans = true;
    // It allocates memory for as many groups as LIMIT allows.
    config.options_mut().optimizer.enable_topk_aggregation = false;
    // Plain strings everywhere, as in pipelines; not every Flight SQL client knows string views.
    config.options_mut().sql_parser.map_string_types_to_utf8view = false;
    config.options_mut().execution.parquet.schema_force_view_types = false;
    config.options_mut().execution.time_zone = Some("UTC".to_owned());
    // The check treats `x IS TRUE` as two types, once nullable and once not.
    config.options_mut().execution.skip_physical_aggregate_schema_check = true;
    let biggest = NonZeroUsize::MIN.saturating_add(4);
    let pool = TrackConsumersPool::new(memory, biggest);
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(pool)).build_arc().map_err(query_error)?;
    let mut state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_expr_planners(vec![Arc::new(SizedLiterals), Arc::new(TextsBesideIntervals)])
        .with_default_features()
        // Timestamps are microseconds, as in pipelines.
        .with_type_planner(Arc::new(SqlTypes))
        .with_table_factories(HashMap::new())
        .with_query_planner(Arc::new(CheckedPlanner))
        .with_optimizer_rules(query_rules())
        .with_physical_optimizer_rules(physical_rules())
        .build();
    register_own(&mut state);
    for function in std::iter::once(Arc::new(query_now())).chain(options.functions) {
        datafusion::execution::FunctionRegistry::register_udf(&mut state, function).map_err(query_error)?;
    }
    register_relations(&mut state, RelationMode::Batch, BTreeMap::new()).map_err(query_error)?;
    bound_types(&mut state).map_err(query_error)?;
    Ok(state)
}
