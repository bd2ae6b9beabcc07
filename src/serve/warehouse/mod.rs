//! The warehouse as something to query: its Delta tables by name, each at its newest version, and system tables.
//!
//! Owns names (catalog `weir`; schema `public` for tables, `weir` for system tables) and sessions: one DataFusion state
//! with a bounded memory pool for the whole server, and for every request a cheap copy of it whose catalog looks tables
//! up at that moment. Promises that a query sees each table at one version, the newest when it was planned, that it
//! cannot write, and that no path can be queried.

mod catalog;
pub mod location;
pub mod progress;
mod statement;
mod state;
mod system;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::sync::{Arc, PoisonError, RwLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::ParamValues;
use datafusion::execution::context::{SQLOptions, SessionConfig, SessionState};
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::{LogicalPlan, ScalarUDF};
use datafusion::physical_plan::{SendableRecordBatchStream, execute_stream};
use datafusion::scalar::ScalarValue;
use futures::{StreamExt, TryStreamExt};

use self::catalog::RequestCatalogs;
use self::location::Location;
pub use self::statement::read_only;
use self::tables::Tables;
use super::failure::{nearest, query_error, quoted};
use crate::delta::{AsOf, TableVersion};
use crate::error::{Error, Result};
use crate::plan::{RelationMode, physical_rules, register_relations};

/// The one catalog's name.
pub const CATALOG: &str = "weir";
/// The schema of the warehouse's tables.
pub const PUBLIC: &str = "public";
/// The schema of the system tables.
pub const SYSTEM: &str = "weir";

/// How many folders are looked into at a time when tables are listed.
const LISTING_CONCURRENCY: usize = 16;

/// What a server may use.
#[derive(Debug, Clone)]
pub struct WarehouseOptions {
    /// Bytes that all running queries together may hold before they spill to disk, or fail where they cannot.
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

/// A table's name and place.
#[derive(Debug, Clone)]
pub struct TableEntry {
    pub name: String,
    pub location: Location,
}

/// The tables of a location, ready to be queried.
#[derive(Debug)]
pub struct Warehouse {
    location: Location,
    declared: RwLock<BTreeMap<String, Location>>,
    tables: Tables,
    state: Arc<SessionState>,
}

impl Warehouse {
    /// A warehouse over `location`; nothing is read yet.
    pub fn new(location: Location, options: WarehouseOptions) -> Result<Self> {
        let state = Arc::new(session_state(options)?);
        Ok(Self { location, declared: RwLock::default(), tables: Tables::default(), state })
    }

    /// Names a table that lives elsewhere (`CREATE TABLE … LOCATION`); it hides a folder of the same name.
    pub fn declare(&self, name: impl Into<String>, location: Location) {
        self.declared.write().unwrap_or_else(PoisonError::into_inner).insert(name.into(), location);
    }

    /// Where the warehouse lives.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// Bytes that running queries hold now.
    pub fn memory_reserved_bytes(&self) -> usize {
        self.state.runtime_env().memory_pool.reserved()
    }

    /// Every table, by name: folders of the warehouse that hold a Delta log, and the declared ones.
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
        for (name, location) in self.declared.read().unwrap_or_else(PoisonError::into_inner).iter() {
            entries.insert(name.clone(), TableEntry { name: name.clone(), location: location.clone() });
        }
        Ok(entries.into_values().collect())
    }

    /// The table at `location`, or `None` when there is none.
    pub async fn open(&self, location: &Location, as_of: AsOf) -> Result<Option<TableVersion>> {
        self.tables.open(location, as_of).await
    }

    /// The Arrow schema of a listed table.
    pub async fn schema_of(&self, entry: &TableEntry) -> Result<Option<SchemaRef>> {
        Ok(self.open(&entry.location, AsOf::Newest).await?.map(|table| table.provider.schema()))
    }

    /// The names of the system tables and their Arrow schemas.
    pub async fn system_tables(&self) -> Result<Vec<(&'static str, SchemaRef)>> {
        let mut described = Vec::new();
        for name in system::NAMES {
            if let Some(table) = system::table(self, name).await? {
                described.push((name, table.schema()));
            }
        }
        Ok(described)
    }

    /// Plans the one statement of `sql` against the tables as they are now.
    pub async fn plan(self: &Arc<Self>, sql: &str) -> Result<Query> {
        let statement = statement::parse(sql)?;
        let mut state = self.state.as_ref().clone();
        let references = state.resolve_table_references(&statement).map_err(query_error)?;
        let lists = references.iter().any(|reference| reference.schema() == Some("information_schema"));
        let listed = if lists { self.list_tables().await? } else { Vec::new() };
        state.register_catalog_list(Arc::new(RequestCatalogs::new(Arc::clone(self), &listed)));
        state.mark_start_execution();
        let plan = match state.statement_to_plan(statement).await {
            Ok(plan) => plan,
            Err(error) => return Err(self.explain_missing_table(query_error(error)).await),
        };
        let read_only_options =
            SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        read_only_options.verify_plan(&plan).map_err(|_| read_only())?;
        Ok(Query { plan, state })
    }

    /// Looks `name` up among the tables: declared, then folder, then either ignoring case when only one fits.
    async fn find(&self, name: &str, as_of: AsOf) -> Result<Option<TableVersion>> {
        if !is_table_name(name) {
            return if name.contains(['/', '\\']) {
                Err(Error::sql(format!("path `{name}` cannot be queried"))
                    .with_hint("Tables are named: `SELECT … FROM scored`. `SHOW TABLES` lists them."))
            } else {
                Ok(None)
            };
        }
        let declared = self.declared.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        let location = declared.unwrap_or_else(|| self.location.child(name));
        if let Some(table) = self.open(&location, as_of).await? {
            return Ok(Some(table));
        }
        let listed = self.list_tables().await?;
        let mut alike = listed.iter().filter(|entry| entry.name.eq_ignore_ascii_case(name));
        match (alike.next(), alike.next()) {
            (Some(only), None) => self.open(&only.location, as_of).await,
            _ => Ok(None),
        }
    }

    /// Turns DataFusion's "table … not found" into an error that names what there is.
    async fn explain_missing_table(&self, error: Error) -> Error {
        let missing = error
            .message()
            .strip_prefix("table '")
            .and_then(|rest| rest.strip_suffix("' not found"))
            .map(|name| name.strip_prefix("weir.").unwrap_or(name).to_owned());
        let Some(missing) = missing else { return error };
        let shown = missing.strip_prefix("public.").unwrap_or(&missing);
        let (shown, _) = statement::split_version(shown);
        let refused = Error::sql(format!("table `{shown}` does not exist"));
        let Ok(listed) = self.list_tables().await else { return refused };
        let mut names: Vec<String> = listed.into_iter().map(|entry| entry.name).collect();
        names.extend(system::NAMES.map(|name| format!("{SYSTEM}.{name}")));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        match nearest(shown, &names) {
            Some(name) => refused.with_hint(format!("Did you mean `{name}`?")),
            None => refused.with_hint(format!("There are {}.", quoted(&names))),
        }
    }
}

/// A planned statement.
#[derive(Debug, Clone)]
pub struct Query {
    plan: LogicalPlan,
    state: SessionState,
}

impl Query {
    /// The columns of the result. While parameters are unbound, types that hang on them are a guess.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(self.plan.schema().inner())
    }

    /// The parameters in order, typed as far as the SQL tells; `Null` where it does not.
    pub fn parameters(&self) -> Result<Schema> {
        let types = self.plan.get_parameter_types().map_err(query_error)?;
        let mut numbered = BTreeMap::new();
        for (name, data_type) in types {
            let number: usize = name.trim_start_matches('$').parse().map_err(|_| {
                Error::sql(format!("parameter `{name}` has a name")).with_hint("Write parameters as `?` or `$1`.")
            })?;
            numbered.insert(number, data_type.unwrap_or(DataType::Null));
        }
        let count = numbered.keys().next_back().copied().unwrap_or(0);
        let fields: Vec<Field> = (1..=count)
            .map(|n| Field::new(format!("${n}"), numbered.remove(&n).unwrap_or(DataType::Null), true))
            .collect();
        Ok(Schema::new(fields))
    }

    /// Puts values in the place of `$1`, `$2` …, cast to the parameters' types.
    pub fn bind(self, values: Vec<ScalarValue>) -> Result<Self> {
        let parameters = self.parameters()?;
        if parameters.fields().len() != values.len() {
            return Err(Error::sql(format!(
                "statement has {} parameters, {} were bound",
                parameters.fields().len(),
                values.len()
            )));
        }
        let mut cast = Vec::with_capacity(values.len());
        for (field, value) in parameters.fields().iter().zip(values) {
            let value = if field.data_type().is_null() {
                value
            } else {
                value.cast_to(field.data_type()).map_err(|error| {
                    Error::sql(format!("parameter `{}` is not {}", field.name(), field.data_type())).with_source(error)
                })?
            };
            cast.push(value);
        }
        let plan = self.plan.with_param_values(ParamValues::from(cast)).map_err(query_error)?;
        Ok(Self { plan, state: self.state })
    }

    /// Runs the query; batches are made as they are read, and dropping the stream ends the work.
    pub async fn stream(&self) -> Result<SendableRecordBatchStream> {
        let unbound = self.parameters()?;
        if !unbound.fields().is_empty() {
            return Err(Error::sql(format!("parameter `{}` was not bound", unbound.field(0).name()))
                .with_hint("Prepare the statement and bind its parameters."));
        }
        let physical = self.state.create_physical_plan(&self.plan).await.map_err(query_error)?;
        execute_stream(physical, self.state.task_ctx()).map_err(query_error)
    }
}

/// Names of tables: folder names that are neither hidden nor weir's own, and no paths.
fn is_table_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with(['_', '.']) && !name.contains(['/', '\\']) && !name.contains(char::is_control)
}

fn session_state(options: WarehouseOptions) -> Result<SessionState> {
    let mut config = SessionConfig::new()
        .with_default_catalog_and_schema(CATALOG, PUBLIC)
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(true);
    if let Some(parallelism) = options.parallelism {
        config = config.with_target_partitions(parallelism.max(1));
    }
    // Plain strings everywhere, as in pipelines; not every Flight SQL client knows string views.
    config.options_mut().sql_parser.map_string_types_to_utf8view = false;
    config.options_mut().execution.parquet.schema_force_view_types = false;
    let biggest = NonZeroUsize::MIN.saturating_add(4);
    let pool = TrackConsumersPool::new(FairSpillPool::new(options.memory_limit_bytes), biggest);
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(pool)).build_arc().map_err(query_error)?;
    let mut state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_default_features()
        .with_table_factories(HashMap::new())
        .with_physical_optimizer_rules(physical_rules())
        .build();
    for function in options.functions {
        datafusion::execution::FunctionRegistry::register_udf(&mut state, function).map_err(query_error)?;
    }
    register_relations(&mut state, RelationMode::Batch, BTreeMap::new()).map_err(query_error)?;
    Ok(state)
}
