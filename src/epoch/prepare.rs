//! From a pipeline's definition to a [`Job`]: tables opened or created, producers connected, the dataflow planned.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use datafusion::execution::runtime_env::RuntimeEnv;
use object_store::ObjectStoreExt;
use object_store::path::Path;

use super::job::{Job, SeedTable};
use super::progress::ProgressSink;
use super::protocol::must_exist;
use super::refusal::{gone, restore_command};
use super::rewind_plan::RewindScope;
use crate::catalog::{
    AtEnd, Catalog, Delivery, InsertDef, KafkaConnection, KafkaSinkOptions, Late, PipelineDef, PipelineOptions, Secret,
    SinkConnector, SinkDef, SourceConnector, SourceDef, TableDef,
};
use crate::delta::store::retry::put_once;
use crate::delta::{IndexRoom, Table, TableStore, UpsertTable, WriterOptions};
use crate::env::Env;
use crate::error::{Context, Error, Result};
use crate::memory::MemoryUse;
use crate::metrics::Metrics;
use crate::plan::{
    Branch, Dataflow, FunctionSet, RelationMode, Targets, compile, lookup_tables, session_and_problems,
    with_view_columns,
};
use crate::run::lease::Lease;
use crate::run::memory::Limits;
use crate::run::sinks::{Home, OutputMemory, Sinks, TableSink, below, one_cluster};
use crate::sink::blackhole::Blackhole;
use crate::sink::console::Console;
use crate::sink::delta::{AppendSink, UpsertSink};
use crate::sink::file::FolderSink;
use crate::sink::kafka::{DirectProducer, TransactionalProducer};
use crate::sink::topic::{self, ChangesSink, RowsSink};
use crate::sink::{Sink, dead_letters};
use crate::source::chunk::PollLimit;
use crate::sql::{Diagnostic, Diagnostics, Failure};
use crate::state::{ManifestStore, MemoryBudget, Pins, SinkRecord, StateStore};

/// Lies in a warehouse while it is restored from a backup.
pub const UNFINISHED: &str = "_weir/restore-unfinished";

/// Resources that a process shares among its pipelines.
#[derive(Clone)]
pub struct Surroundings {
    pub env: Env,
    /// A folder or URL.
    pub warehouse: String,
    /// Object-store options of the warehouse.
    pub storage: BTreeMap<String, Secret>,
    pub lanes: usize,
    pub runtime: Arc<RuntimeEnv>,
    pub metrics: Arc<Metrics>,
    pub writer: WriterOptions,
    /// librdkafka properties of sources that do not set them.
    pub kafka: Vec<(&'static str, String)>,
    pub limits: Limits,
    /// State that an edit of the SQL makes useless may be dropped.
    pub allow_rebuild: bool,
}

impl Surroundings {
    /// Location of a declared table: its LOCATION, or a folder below the warehouse.
    pub fn table_location(&self, table: &TableDef) -> String {
        table.location.clone().unwrap_or_else(|| below(&self.warehouse, &table.name))
    }

    /// The folder of a pipeline's own files.
    pub fn pipeline_location(&self, pipeline: &str) -> String {
        below(&below(&self.warehouse, "_weir"), pipeline)
    }

    /// Errors: the warehouse is being restored, or restoring it was broken off.
    async fn refuse_unfinished_restore(&self) -> Result<()> {
        let store = TableStore::open(&self.warehouse, &self.storage, &self.env)?.object_store();
        match store.head(&Path::from(UNFINISHED)).await {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error).environment(|| format!("warehouse `{}` cannot be read", self.warehouse)),
            Ok(_) => Err(Error::damaged(format!("warehouse `{}` is restored only in part", self.warehouse))
                .with_detail(format!("`{UNFINISHED}` lies in it while `weir restore` works."))
                .with_hint("Wait for the restore to end; if it was broken off, repeat it with `--replace`.")),
        }
    }

    /// The warehouse.
    pub(super) fn home(&self) -> Home {
        Home { warehouse: self.warehouse.clone(), storage: self.storage.clone(), declared: Vec::new() }
    }

    /// The warehouse and the tables of `catalog`; one whose options are wrong is an error where it is used.
    fn home_of(&self, catalog: &Catalog) -> Home {
        let open = |def| TableStore::open(&self.table_location(def), &self.storage_of(def), &self.env).ok();
        Home { declared: catalog.tables.values().filter_map(open).collect(), ..self.home() }
    }

    /// Lists the epochs to which a pipeline can be taken back. `declared` are the tables that its SQL names, if that is known.
    pub(super) fn rewind_scope<'a>(&self, pipeline: &'a str, declared: Option<Vec<TableStore>>) -> RewindScope<'a> {
        RewindScope { pipeline, home: self.home(), env: self.env.clone(), declared }
    }

    /// All tables of the SQL.
    pub(super) fn declared_tables(&self, catalog: &Catalog) -> Result<Vec<TableStore>> {
        let open = |def| TableStore::open(&self.table_location(def), &self.storage_of(def), &self.env);
        catalog.tables.values().map(open).collect()
    }

    pub(super) fn storage_of(&self, table: &TableDef) -> BTreeMap<String, Secret> {
        let mut storage = self.storage.clone();
        storage.extend(table.storage.clone());
        storage
    }
}

/// The columns that targets declare; what a `weir check` plans against, without a connection.
pub fn declared_targets(catalog: &Catalog, pipeline: &PipelineDef) -> Targets {
    let mut targets = Targets::new();
    for InsertDef { target, .. } in &pipeline.inserts {
        let columns = match (catalog.tables.get(target), catalog.sinks.get(target)) {
            (Some(table), _) if !table.columns.is_empty() => table.schema(),
            (_, Some(sink)) if !sink.columns.is_empty() => sink_schema(sink),
            _ => continue,
        };
        targets.insert(target.clone(), columns);
    }
    targets
}

fn sink_schema(sink: &SinkDef) -> SchemaRef {
    use arrow::datatypes::{Field, Schema};
    let fields = sink.columns.iter().map(|c| Field::new(&c.name, c.data_type.clone(), c.nullable));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Plans a pipeline without opening anything.
pub async fn plan(
    catalog: &Catalog,
    pipeline: &PipelineDef,
    functions: &FunctionSet,
    targets: &Targets,
    runtime: Arc<RuntimeEnv>,
) -> Result<Dataflow, Vec<Diagnostic>> {
    let (session, mut problems) = session_and_problems(catalog, functions, runtime, RelationMode::Stream);
    match compile(catalog, pipeline, targets, session).await {
        Ok(dataflow) if problems.is_empty() => Ok(dataflow),
        Ok(_) => Err(problems),
        Err(more) => {
            problems.extend(more);
            Err(problems)
        }
    }
}

/// The columns of the tables that streams are joined to, read from the tables.
///
/// Errors: the first table that cannot be opened, beside the columns of the others; its name.
pub async fn known_lookups(
    catalog: &Catalog,
    pipeline: &PipelineDef,
    around: &Surroundings,
) -> (Targets, Vec<(String, Error)>) {
    let (mut known, mut failed) = (Targets::new(), Vec::new());
    for name in lookup_tables(catalog, pipeline) {
        match open_lookup(catalog, pipeline, &name, around).await {
            Ok(Some((_, schema))) => drop(known.insert(name, schema)),
            Ok(None) => {}
            Err(error) => failed.push((name, error)),
        }
    }
    (known, failed)
}

/// Opens everything that a pipeline writes to and plans it.
///
/// Errors: all SQL errors at once; a table, store or broker that cannot be opened.
pub async fn prepare(
    catalog: &Catalog,
    pipeline: &PipelineDef,
    functions: &FunctionSet,
    models: BTreeMap<String, String>,
    around: &Surroundings,
    progress: ProgressSink,
) -> Result<Job, Failure> {
    around.refuse_unfinished_restore().await?;
    let wrong = |list| Failure::Sql(Diagnostics::new(&catalog.files, list));
    let (lookups, known) = open_lookups(catalog, pipeline, around).await?;
    // Plan against the declarations first: errors of the SQL should show before any table is made, and the columns of
    // materialized views are what their queries give.
    let mut targets = declared_targets(catalog, pipeline);
    targets.extend(known.clone());
    let planned = plan(catalog, pipeline, functions, &targets, Arc::clone(&around.runtime)).await.map_err(wrong)?;
    let catalog = &*with_view_columns(catalog, &planned);
    let targets = declared_targets(catalog, pipeline);
    let folder = around.pipeline_location(&pipeline.name);
    let store = TableStore::open(&below(&folder, "manifests"), &around.storage, &around.env)?;
    let pins = TableStore::open(&below(&folder, "pins"), &around.storage, &around.env)?;
    let pins = Pins::new(pins.object_store(), around.env.clone());
    let beside = TableStore::open(&folder, &around.storage, &around.env)?.object_store();
    let manifests = ManifestStore::new(store.object_store()).beside(beside).pinned_by(pins.clone());
    let lease = Lease::shared(&pipeline.name, &folder)?;
    // A restore that began before the lease was taken has left its mark by now.
    around.refuse_unfinished_restore().await?;
    // One that cannot be read may be of an epoch that was never committed: recovery looks closer.
    let newest = manifests.newest().await.unwrap_or_default();
    let records = newest.and_then(|manifest| manifest.sinks).unwrap_or_default();
    let mut opener = Opener { records, ..Opener::new(catalog, pipeline, around, targets) };
    let mut sinks = Sinks { lease: Some(lease), ..opener.open().await? };
    let Opener { mut targets, .. } = opener;
    targets.extend(known);
    let dataflow = plan(catalog, pipeline, functions, &targets, Arc::clone(&around.runtime)).await.map_err(wrong)?;
    sinks.branches = one_each(pipeline, sinks.branches, &dataflow)?;
    let dataflow = with_kafka_defaults(dataflow, &around.kafka);
    if dataflow.growing.grows() {
        sinks.memory = sinks.memory.growing();
    }
    let states = TableStore::open(&below(&folder, "state"), &around.storage, &around.env)?;
    store.remove_leftovers().await;
    states.remove_leftovers().await;
    let options = &pipeline.options;
    let seed = match options.seed_from.as_ref().and_then(|seed| catalog.tables.get(&seed.table)) {
        None => None,
        Some(def) => {
            let store = TableStore::open(&around.table_location(def), &around.storage_of(def), &around.env)?;
            Some(SeedTable { name: def.name.clone(), table: Table::open(store).await? })
        }
    };
    let sources = dataflow.sources.len();
    let near = StateStore::new(states.object_store(), around.env.clone()).pinned_by(pins.clone());
    Ok(Job {
        manifests,
        states: if states.is_local() { near } else { near.far() },
        lookups,
        limits: around.limits.clone(),
        seed,
        allow_rebuild: around.allow_rebuild,
        keep_late: options.late == Late::DeadLetter,
        flush_at_end: flushes(&dataflow, options),
        dataflow,
        sinks,
        trigger: options.trigger.unwrap_or_default(),
        lanes: options.parallelism.unwrap_or(around.lanes).max(1),
        poll: PollLimit {
            rows: options.max_rows_per_micro_batch,
            bytes: around.limits.pool.poll_bytes(sources * around.limits.pipelines),
            wait: Duration::from_millis(200),
            linger: options.max_delay,
        },
        models,
        clock: functions.clock.clone(),
        env: around.env.clone(),
        run: format!("{:016x}", around.env.random_id()),
        progress,
        metrics: Arc::clone(&around.metrics),
    })
}

/// Opens the tables that streams are joined to, and learns their columns.
pub(super) async fn open_lookups(
    catalog: &Catalog,
    pipeline: &PipelineDef,
    around: &Surroundings,
) -> Result<(BTreeMap<String, TableStore>, Targets)> {
    let (mut stores, mut columns) = (BTreeMap::new(), Targets::new());
    for name in lookup_tables(catalog, pipeline) {
        let Some((store, schema)) = open_lookup(catalog, pipeline, &name, around).await? else { continue };
        columns.insert(name.clone(), schema);
        stores.insert(name, store);
    }
    Ok((stores, columns))
}

async fn open_lookup(
    catalog: &Catalog,
    pipeline: &PipelineDef,
    name: &str,
    around: &Surroundings,
) -> Result<Option<(TableStore, SchemaRef)>> {
    let Some(def) = catalog.tables.get(name) else { return Ok(None) };
    let store = TableStore::open(&around.table_location(def), &around.storage_of(def), &around.env)?;
    // A table that the pipeline writes itself is made before its first row is joined.
    let is_own = pipeline.inserts.iter().any(|insert| insert.target == name) && !def.columns.is_empty();
    if is_own && !store.is_table().await? {
        return Ok(Some((store, def.schema())));
    }
    let table = Table::open(store.clone()).await.map_err(|error| {
        error.with_hint(format!("A stream is joined to `{name}`: it must be there before the pipeline starts."))
    })?;
    let schema = table.shown_schema();
    Ok(Some((store, schema)))
}

/// Sources that end for good end time with them, unless the pipeline says otherwise. A run over what is there now ends, too, but more
/// may come to its files, tables and topics, and the next run goes on with what this one leaves waiting.
fn flushes(dataflow: &Dataflow, options: &PipelineOptions) -> bool {
    let ends_for_good = |source: &crate::plan::SourceInput| match &source.def.connector {
        SourceConnector::Generator(options) => options.days.is_some() || options.rows.is_some(),
        SourceConnector::Nexmark(options) => options.events.is_some(),
        SourceConnector::Kafka(_) | SourceConnector::File(_) | SourceConnector::Delta(_) => false,
    };
    match options.at_end {
        Some(at_end) => at_end == AtEnd::Flush,
        None => dataflow.sources.iter().all(ends_for_good),
    }
}

/// librdkafka's name for what a source may hold fetched; a queue may overshoot by one response.
const FETCHED: &str = "queued.max.messages.kbytes";
const FETCH_BYTES: u64 = 16 << 20;

impl Surroundings {
    /// These surroundings, shared by the pipelines of `catalog`: what their Kafka clients hold is sized by the memory limit and taken off
    /// what is left for everything else.
    pub fn shared_by(mut self, catalog: &Catalog) -> Self {
        let pool = &self.limits.pool;
        let kafka = |source: &&SourceDef| matches!(source.connector, SourceConnector::Kafka(_));
        let sources = catalog.sources.values().filter(kafka).count();
        let sinks = catalog.sinks.values().filter(|sink| matches!(sink.connector, SinkConnector::Kafka(_))).count();
        let queue = pool.kafka_bytes(sources + sinks);
        if !self.kafka.iter().any(|(name, _)| *name == FETCHED) {
            self.kafka.push((FETCHED, (queue >> 10).to_string()));
        }
        pool.fixed((queue + FETCH_BYTES) * sources as u64 + queue * sinks as u64);
        self.limits.kafka_queue = queue;
        self.limits.bytes = pool.share(MemoryUse::State);
        self.limits.budget = MemoryBudget::new(self.limits.bytes);
        self.limits.pipelines = catalog.pipelines.len().max(1);
        self
    }
}

fn with_kafka_defaults(mut dataflow: Dataflow, defaults: &[(&'static str, String)]) -> Dataflow {
    for source in &mut dataflow.sources {
        if let SourceConnector::Kafka(options) = &mut source.def.connector {
            for (name, value) in defaults {
                let properties = &mut options.connection.properties;
                properties.entry((*name).to_owned()).or_insert_with(|| Secret::new(value));
            }
        }
    }
    dataflow
}

/// The sinks of INSERTs, one for each branch: several INSERTs into one keyed target may be one branch.
fn one_each(pipeline: &PipelineDef, sinks: Vec<Arc<dyn Sink>>, dataflow: &Dataflow) -> Result<Vec<Arc<dyn Sink>>> {
    let mut opened: Vec<_> = pipeline.inserts.iter().map(|insert| insert.target.as_str()).zip(sinks).collect();
    let sink = |branch: &Branch| {
        let at = opened.iter().position(|(target, _)| *target == branch.target);
        let at = at.ok_or_else(|| Error::internal(format!("no sink is open for `{}`", branch.target)))?;
        Ok(opened.remove(at).1)
    };
    dataflow.branches.iter().map(sink).collect()
}

struct Opener<'a> {
    catalog: &'a Catalog,
    pipeline: &'a PipelineDef,
    around: &'a Surroundings,
    /// The newest manifest's record of the pipeline's sinks.
    records: Vec<SinkRecord>,
    tables: Vec<TableSink>,
    targets: Targets,
}

/// Connects a pipeline's exactly-once Kafka sinks, which fences whoever runs it. `None` when it has none.
pub(super) async fn open_transaction(
    catalog: &Catalog,
    pipeline: &PipelineDef,
    around: &Surroundings,
) -> Result<Option<TransactionalProducer>> {
    Opener::new(catalog, pipeline, around, Targets::new()).transaction().await
}

impl<'a> Opener<'a> {
    fn new(catalog: &'a Catalog, pipeline: &'a PipelineDef, around: &'a Surroundings, targets: Targets) -> Self {
        Self { catalog, pipeline, around, records: Vec::new(), tables: Vec::new(), targets }
    }

    async fn open(&mut self) -> Result<Sinks> {
        let mut names: Vec<&str> = self.pipeline.inserts.iter().map(|insert| insert.target.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            if let Some(def) = self.catalog.tables.get(name) {
                self.table(def).await?;
            }
        }
        let location = below(&self.around.pipeline_location(&self.pipeline.name), "dead_letters");
        self.table(&dead_letters::definition(location, BTreeMap::new())).await?;
        let dead_letters = self.tables.len() - 1;
        let mut branches = Vec::new();
        for insert in &self.pipeline.inserts {
            branches.push(self.branch(&insert.target).await?);
        }
        let transaction = self.transaction().await?;
        let memory = OutputMemory::new(self.around.limits.pool.clone(), self.around.limits.pipelines);
        let (tables, home) = (std::mem::take(&mut self.tables), self.around.home_of(self.catalog));
        Ok(Sinks { branches, tables, dead_letters, transaction, memory, home, lease: None })
    }

    /// The memory share of the index of one upserted table: all indexes together get a third of the state's share.
    fn index_room(&self) -> Option<IndexRoom> {
        let limits = &self.around.limits;
        let folder = limits.spill.as_ref().ok()?.path().to_owned();
        let upserted = self.catalog.tables.values().filter(|table| !table.primary_key.is_empty()).count().max(1);
        Some(IndexRoom { bytes: limits.bytes / 3 / (limits.pipelines.max(1) * upserted) as u64, folder })
    }

    async fn table(&mut self, def: &TableDef) -> Result<()> {
        let location = self.around.table_location(def);
        let store = TableStore::open(&location, &self.around.storage_of(def), &self.around.env)?;
        let path = self.around.home().path_of(&location);
        let place =
            |record: &&SinkRecord| record.table.as_ref().is_some_and(|place| place.is(&location, path.as_deref()));
        // A table that is made again would hide that its epochs are gone.
        if let Some(had) = must_exist(self.records.iter().find(place)).filter(|_| !def.columns.is_empty())
            && !store.is_table().await?
        {
            let restore = if def.name == dead_letters::NAME { self.restore_command().await? } else { None };
            return Err(gone(&self.pipeline.name, &def.name, &location, had, restore.as_deref()));
        }
        store.remove_leftovers().await;
        let table = Table::open_or_create(store, def).await?;
        if def.name != dead_letters::NAME {
            self.targets.insert(def.name.clone(), table.schema_with_expressions());
        }
        let writer = WriterOptions { memory: self.writer_bytes(), ..self.around.writer };
        let (options, upsert) = match def.primary_key.is_empty() {
            true => (writer.for_table(&table.properties())?, None),
            false => {
                let options = writer.for_upserts(&table)?;
                (options, Some(UpsertTable::new(table.clone(), &def.primary_key, &options, self.index_room())?))
            }
        };
        self.tables.push(TableSink { name: def.name.clone(), location, table, options, upsert });
        Ok(())
    }

    /// The command that takes the pipeline to the newest epoch that can be restored.
    async fn restore_command(&self) -> Result<Option<String>> {
        let (pipeline, home) = (&self.pipeline.name, self.around.home());
        let declared = self.around.declared_tables(self.catalog)?;
        let is_outside = |sink: &TableSink| home.path_of(&sink.location).is_none();
        let needs_sql = self.exactly_once().next().is_some() || self.tables.iter().any(is_outside);
        let possible = self.around.rewind_scope(pipeline, Some(declared)).newest_possible().await;
        Ok(possible.map(|epoch| restore_command(pipeline, epoch, needs_sql)))
    }

    /// A producer's connection, with a bound on what librdkafka holds of it unless the sink has one.
    fn with_queue(&self, connection: &KafkaConnection) -> KafkaConnection {
        let mut connection = connection.clone();
        // A message that is larger than the queue would wait for ever.
        let message = connection.properties.get("message.max.bytes").and_then(|bytes| bytes.expose().parse().ok());
        let queue = self.around.limits.kafka_queue.max(message.map_or(0, |bytes: u64| bytes.saturating_mul(2)));
        let queue = Secret::new((queue >> 10).to_string());
        connection.properties.entry("queue.buffering.max.kbytes".to_owned()).or_insert(queue);
        connection
    }

    /// Bytes that one of this pipeline's writers may take: a lane of an INSERT has one, dead letters have one.
    fn writer_bytes(&self) -> u64 {
        let lanes = self.pipeline.options.parallelism.unwrap_or(self.around.lanes).max(1);
        let writers = (self.pipeline.inserts.len() * lanes + 1) * self.around.limits.pipelines;
        self.around.limits.pool.writer_bytes(writers)
    }

    async fn branch(&self, target: &str) -> Result<Arc<dyn Sink>> {
        if let Some(index) = self.tables.iter().position(|table| table.name == target) {
            let TableSink { table, options, upsert, .. } = &self.tables[index];
            return Ok(match upsert {
                Some(_) => Arc::new(UpsertSink { index }),
                None => Arc::new(AppendSink { index, table: table.clone(), options: *options }),
            });
        }
        let sink = self.catalog.sinks.get(target).ok_or_else(|| Error::internal(format!("no sink `{target}`")))?;
        Ok(match &sink.connector {
            SinkConnector::Console => Arc::new(Console { output: self.around.env.output().clone() }),
            SinkConnector::Blackhole => Arc::new(Blackhole),
            SinkConnector::File { path } => Arc::new(FolderSink { folder: PathBuf::from(path), format: sink.format }),
            SinkConnector::Kafka(options) => self.topic(options).await?,
        })
    }

    async fn topic(&self, options: &KafkaSinkOptions) -> Result<Arc<dyn Sink>> {
        let (pipeline, env) = (&self.pipeline.name, &self.around.env);
        let delivery = match options.delivery {
            Delivery::ExactlyOnce => topic::Delivery::Transaction { topic: options.topic.clone() },
            Delivery::AtLeastOnce => {
                let connection = self.with_queue(&options.connection);
                let producer = DirectProducer::open(&connection, &options.topic, pipeline, env).await?;
                topic::Delivery::Direct(Arc::new(producer))
            }
        };
        Ok(match options.changes.clone() {
            Some(encoding) => {
                Arc::new(ChangesSink { delivery, encoding, pipeline: pipeline.clone(), env: env.clone() })
            }
            None => Arc::new(RowsSink { delivery, key: options.key.clone() }),
        })
    }

    fn exactly_once(&self) -> impl Iterator<Item = &KafkaSinkOptions> {
        let sinks = self.pipeline.inserts.iter().filter_map(|insert| self.catalog.sinks.get(&insert.target));
        sinks.filter_map(|sink| match &sink.connector {
            SinkConnector::Kafka(options) if options.delivery == Delivery::ExactlyOnce => Some(options),
            _ => None,
        })
    }

    fn transaction_topics(&self) -> Vec<String> {
        let mut topics: Vec<_> = self.exactly_once().map(|options| options.topic.clone()).collect();
        topics.sort();
        topics.dedup();
        topics
    }

    /// Tells pipelines of one name in different warehouses apart, wherever they share a Kafka cluster: made once and kept
    /// in the pipeline's folder.
    async fn pipeline_id(&self) -> Result<String> {
        let folder = self.around.pipeline_location(&self.pipeline.name);
        let env = &self.around.env;
        let store = TableStore::open(&folder, &self.around.storage, env)?.object_store();
        let fresh = format!("{:016x}", env.random_id());
        let kept = put_once(store.as_ref(), &Path::from("id"), fresh.into(), env).await;
        let kept = kept.environment(|| format!("the id of pipeline `{}` cannot be kept", self.pipeline.name))?;
        Ok(String::from_utf8_lossy(&kept).trim().to_owned())
    }

    async fn transaction(&self) -> Result<Option<TransactionalProducer>> {
        match one_cluster(self.exactly_once().map(|options| &options.connection)) {
            Ok(None) => Ok(None),
            Ok(Some(connection)) => {
                let topics = self.transaction_topics();
                let id = self.pipeline_id().await?;
                let (name, env) = (&self.pipeline.name, &self.around.env);
                let opened = TransactionalProducer::open(&self.with_queue(connection), name, &id, &topics, env).await?;
                Ok(Some(opened))
            }
            Err([a, b]) => {
                Err(Error::config(format!("pipeline `{}` has exactly-once sinks on two clusters", self.pipeline.name))
                    .with_detail(format!("One transaction cannot span `{a}` and `{b}`."))
                    .with_hint("Make one of them `delivery = 'at_least_once'`, or split the pipeline."))
            }
        }
    }
}
