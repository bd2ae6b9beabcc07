//! SQL files with everything they need to be planned: catalog, models, functions.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::sql::sqlparser::ast::Spanned;

use super::Failure;
use crate::catalog::{Catalog, PipelineDef, TableDef};
use crate::config::Config;
use crate::delta::{Table, TableStore, local_folder};
use crate::env::Env;
use crate::epoch::{Limits, Surroundings, below, declared_targets};
use crate::error::{Context, Error, Result};
use crate::function::EpochClock;
use crate::memory::{MemoryPool, MemoryUse};
use crate::metrics::Metrics;
use crate::model::{Model, ModelSlot, ScoringUdf};
use crate::plan::{FunctionSet, Targets};
use crate::serve::warehouse::Declared;
use crate::source::delta::{Reach, complete};
use crate::sql::{Diagnostic, Diagnostics, SourceFile, Span};
use crate::state::{MemoryBudget, SpillFolder};

/// SQL files, loaded.
pub struct Project {
    pub catalog: Catalog,
    /// Every model that could be loaded.
    models: Vec<(Arc<ModelSlot>, Arc<datafusion::logical_expr::ScalarUDF>)>,
    /// Model name to hash.
    pub hashes: BTreeMap<String, String>,
    /// Errors found while loading the files; reported with those of the plans.
    problems: Vec<Diagnostic>,
}

impl Project {
    /// Reads `paths` and the models they name. Errors in the SQL are kept for [`Project::problems`], which finds the rest.
    ///
    /// Errors: files that cannot be read.
    pub fn read(paths: &[PathBuf]) -> Result<Self> {
        let mut files = Vec::new();
        for path in paths {
            let text = std::fs::read_to_string(path).map_err(|error| {
                Error::config(format!("SQL file `{}` cannot be read", path.display())).with_source(error)
            })?;
            files.push(Arc::new(SourceFile::new(path.display().to_string(), text)));
        }
        Self::read_files(&files, &|name| std::env::var(name).ok())
    }

    /// Reads and binds `paths`. Errors: files that cannot be read, and every error of binding them.
    pub fn load(paths: &[PathBuf]) -> Result<Self, Failure> {
        Self::read(paths)?.sound()
    }

    /// The same, with the columns of Delta tables that their sources do not declare.
    pub async fn complete_from(paths: &[PathBuf], reach: Reach, config: &Config, env: &Env) -> Result<Self, Failure> {
        let mut project = Self::read(paths)?;
        project.complete(reach, config, env).await;
        project.sound()
    }

    /// Binds files in memory; `lookup` resolves environment variables.
    pub fn from_files(files: &[Arc<SourceFile>], lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        Self::read_files(files, lookup)?.sound()
    }

    /// As [`Project::read`], for files in memory.
    pub fn read_files(files: &[Arc<SourceFile>], lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let (catalog, problems) = Catalog::read(files, lookup);
        let mut project = Self { catalog, models: Vec::new(), hashes: BTreeMap::new(), problems };
        for def in project.catalog.models.values() {
            match Model::load(&def.path) {
                Ok(model) => {
                    project.hashes.insert(def.name.clone(), model.hash().to_owned());
                    let slot = ModelSlot::new(model);
                    let function = ScoringUdf::new(&def.name, Arc::clone(&slot))?;
                    project.models.push((slot, Arc::new(function.into())));
                }
                Err(error) => {
                    project.problems.push(of_error(def.path_span, &error));
                    project.catalog.broken.models.insert(def.name.clone());
                }
            }
        }
        Ok(project)
    }

    /// The project, if no error was found so far.
    fn sound(self) -> Result<Self, Failure> {
        match self.problems.is_empty() {
            true => Ok(self),
            false => Err(Failure::Sql(self.diagnostics(Vec::new()))),
        }
    }

    /// Reads the columns of Delta tables that their sources do not declare; tables that cannot be read are problems.
    pub async fn complete(&mut self, reach: Reach, config: &Config, env: &Env) {
        let problems = complete(&mut self.catalog, reach, &config.storage, env).await;
        self.problems.extend(problems);
    }

    /// The columns of existing tables that are declared without columns, as far as `reach` allows.
    pub async fn undeclared_columns(&self, reach: Reach, config: &Config, env: &Env) -> Targets {
        let mut known = Targets::new();
        let inserts = || self.catalog.pipelines.iter().flat_map(|pipeline| &pipeline.inserts);
        let is_written = |name: &str| inserts().any(|insert| insert.target == name);
        let undeclared = |def: &&TableDef| def.columns.is_empty() && !self.catalog.materialized.contains_key(&def.name);
        for def in self.catalog.tables.values().filter(undeclared) {
            let Some(store) = near(def, reach, config, env) else { continue };
            if let Ok(table) = Table::open(store).await {
                let columns = match is_written(&def.name) {
                    true => table.schema_with_expressions(),
                    false => table.shown_schema(),
                };
                known.insert(def.name.clone(), columns);
            }
        }
        known
    }

    /// The columns of the existing tables that pipelines write to, and the errors that prevent writing to them; creates no
    /// table.
    pub async fn existing(&self, reach: Reach, config: &Config, env: &Env) -> (Targets, Vec<Diagnostic>) {
        let (mut known, mut problems) = (Targets::new(), Vec::new());
        let inserts = self.catalog.pipelines.iter().flat_map(|pipeline| &pipeline.inserts);
        let written: BTreeMap<&str, Span> =
            inserts.map(|insert| (insert.target.as_str(), insert.target_span)).collect();
        for (name, place) in written {
            // The columns of a view are its query's.
            let is_view = |def: &&TableDef| def.columns.is_empty() && self.catalog.materialized.contains_key(name);
            let Some(def) = self.catalog.tables.get(name).filter(|def| !is_view(def)) else { continue };
            let Some(store) = near(def, reach, config, env) else { continue };
            match Table::open_declared(&store, def).await {
                Ok(Some(table)) => drop(known.insert(name.to_owned(), table.schema_with_expressions())),
                // The first run creates it.
                Ok(None) => {}
                Err(error) => problems.push(of_error(place, &error)),
            }
        }
        (known, problems)
    }

    /// All errors in the files that planning finds, beside those found while loading. `known` are the columns of tables that
    /// were opened; queries that look up one of `missing`, tables that could not be opened, are skipped.
    pub async fn problems(&self, known: &Targets, missing: &[String], runtime: Arc<RuntimeEnv>) -> Vec<Diagnostic> {
        let mut catalog = Cow::Borrowed(&self.catalog);
        if !missing.is_empty() {
            catalog.to_mut().broken.relations.extend(missing.iter().cloned());
        }
        let targets = |pipeline: Option<&PipelineDef>| {
            let declared = pipeline.map(|pipeline| declared_targets(&self.catalog, pipeline)).unwrap_or_default();
            declared.into_iter().chain(known.clone()).collect()
        };
        let mut problems = crate::plan::problems(&catalog, &self.functions(), &targets, runtime).await;
        for table in self.catalog.tables.values().filter(|table| !table.columns.is_empty()) {
            let wrong = crate::delta::rule_problems(table).into_iter();
            problems.extend(wrong.map(|(check, error)| {
                let place = self.catalog.files.span(table.checks[check].expression.span(), table.span);
                of_error(place, &error)
            }));
        }
        problems
    }

    /// The functions of one pipeline; each set has its own clock.
    pub fn functions(&self) -> FunctionSet {
        let models = self.models.iter().map(|(_, function)| Arc::clone(function)).collect();
        FunctionSet { models, clock: EpochClock::default() }
    }

    /// The declarations, for a warehouse that answers statements about them.
    pub fn declared(&self) -> Declared {
        let models = self.models.iter().map(|(slot, function)| (function.name().to_owned(), Arc::clone(slot)));
        Declared {
            catalog: self.catalog.clone(),
            models: models.collect(),
            functions: self.functions().models,
            empty_tables: false,
        }
    }

    /// Names and descriptions of the loaded models.
    pub fn models(&self) -> impl Iterator<Item = (String, String)> {
        self.models.iter().map(|(slot, function)| {
            let facts: Vec<_> =
                slot.current().describe().into_iter().map(|(key, value)| format!("{key} {value}")).collect();
            (function.name().to_owned(), facts.join(", "))
        })
    }

    /// Diagnostics of this project's files: `list` and the errors found while loading.
    pub fn diagnostics(&self, mut list: Vec<Diagnostic>) -> Diagnostics {
        list.extend(self.problems.iter().cloned());
        Diagnostics::new(&self.catalog.files, list)
    }

    /// Adds what loading the files has found to what is wrong with a job.
    pub fn failure(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Sql(found) => Failure::Sql(self.diagnostics(found.list)),
            other => other,
        }
    }

    /// The pipeline named `only`, or all.
    pub fn pipelines(&self, only: Option<&str>) -> Result<Vec<&PipelineDef>> {
        let all = &self.catalog.pipelines;
        let Some(only) = only else { return Ok(all.iter().collect()) };
        match all.iter().find(|pipeline| pipeline.name == only) {
            Some(pipeline) => Ok(vec![pipeline]),
            None => {
                let names: Vec<_> = all.iter().map(|p| format!("`{}`", p.name)).collect();
                Err(Error::config(format!("no pipeline `{only}`")).with_hint(format!("There is {}.", names.join(", "))))
            }
        }
    }
}

/// The store of a table, if `reach` allows and the table exists.
fn near(def: &TableDef, reach: Reach, config: &Config, env: &Env) -> Option<TableStore> {
    let location = def.location.clone().unwrap_or_else(|| below(&config.warehouse, &def.name));
    let may_ask = match local_folder(&location) {
        // For a missing folder, the store would log an error of its own.
        Some(folder) => folder.join("_delta_log").is_dir(),
        None => reach == Reach::Anywhere,
    };
    let mut storage = config.storage.clone();
    storage.extend(def.storage.clone());
    if may_ask { TableStore::open(&location, &storage, env).ok() } else { None }
}

/// A weir error as a diagnostic at a position in the SQL.
pub fn of_error(span: crate::sql::Span, error: &Error) -> Diagnostic {
    let mut text = error.detail().unwrap_or_default().to_owned();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}{}{inner}", if text.is_empty() { "" } else { "\n" });
        cause = inner.source();
    }
    let mut diagnostic = Diagnostic::new(span, error.message());
    if !text.is_empty() {
        diagnostic = diagnostic.with_detail(text);
    }
    diagnostic.or_hint(error.hint().map(str::to_owned))
}

/// The process's environment. `WEIR_STORE_FAULTS` (`error=0.1,ambiguous=0.05,slow=0.1,slow_ms=50`) injects faults into its
/// stores, for drills.
pub fn environment() -> Result<Env> {
    let env = Env::system()?;
    match std::env::var("WEIR_STORE_FAULTS") {
        Ok(faults) => {
            let wrapper = crate::lab::faults::FaultRates::parse(&faults)?.wrapper(&env);
            Ok(env.with_store_wrapper(wrapper))
        }
        Err(_) => Ok(env),
    }
}

/// The memory of the process, divided into shares.
pub fn memory_pool(config: &Config) -> MemoryPool {
    MemoryPool::new(config.memory_limit_bytes())
}

/// DataFusion's runtime of a process that runs no pipelines.
pub fn runtime(config: &Config) -> Result<Arc<RuntimeEnv>> {
    runtime_of(&memory_pool(config))
}

/// DataFusion's runtime with the queries' share of the pool.
fn runtime_of(pool: &MemoryPool) -> Result<Arc<RuntimeEnv>> {
    let builder = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(pool.queries()));
    builder.build_arc().internal(|| "the query engine cannot be set up".to_owned())
}

/// Builds the surroundings of pipelines from the configuration.
pub fn surroundings(config: &Config, env: Env) -> Result<Surroundings> {
    let pool = memory_pool(config);
    let bytes = pool.share(MemoryUse::State);
    let spill = match config.spill_folder.as_str() {
        "" => Err("no folder for spilling is configured, so it cannot go to disk".to_owned()),
        folder => SpillFolder::create(std::path::Path::new(folder), &env).map_err(|error| {
            // A folder that another user owns, for example: only state that exceeds its memory would need it.
            tracing::warn!(%error, "state cannot go to disk");
            format!("{}, so it cannot go to disk", error.message())
        }),
    };
    let limits =
        Limits { bytes, spill, budget: MemoryBudget::new(bytes), kafka_queue: pool.kafka_bytes(1), pool, pipelines: 1 };
    Ok(Surroundings {
        env,
        warehouse: config.warehouse.clone(),
        storage: config.storage.clone(),
        lanes: config.partitions(),
        runtime: runtime_of(&limits.pool)?,
        metrics: Arc::new(Metrics::new()),
        writer: crate::delta::WriterOptions {
            target_file_size: config.delta.target_file_size.0,
            compression: config.delta.compression,
            ..crate::delta::WriterOptions::default()
        },
        kafka: config.kafka.properties(),
        limits,
        allow_rebuild: false,
    })
}
