//! One Delta table: opened or made from its declaration, then written, committed to, read and maintained.
//!
//! Promises: an open table that came from [`Table::open_or_create`] can be appended to and fits its declaration. What is
//! kept in memory does not grow with the table: a version, the metadata, and where each pipeline stands.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{Field, Schema, SchemaRef};
use serde_json::json;

use super::app_id::AppId;
use super::judge::{Entry, PipelineTxns};
use super::log::{self, Transactions, entry_path};
use super::metadata::{GENERATED, Rule, TableMetadata, creation_actions, uuid_like};
use super::partitions::as_stored;
use super::store::TableStore;
use super::store::retry::pause;
use super::validate::Validator;
use super::writer::{TableWriter, WriterOptions};
use crate::catalog::TableDef;
use crate::error::{Context, Error, Result};

/// Attempts to make a table before giving up.
const MAX_CREATIONS: u32 = 10;

/// A Delta table; cheap to clone.
#[derive(Clone, Debug)]
pub struct Table {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    store: TableStore,
    /// The table's rules and the declaration's, enforced even if the table does not carry them.
    validator: Arc<Validator>,
    metadata: Mutex<Arc<TableMetadata>>,
    progress: tokio::sync::Mutex<Progress>,
}

/// Contents of the log, up to and including `version`.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub version: u64,
    /// `true` if all transactions up to `version` have been read.
    pub loaded: bool,
    /// `true` if the entry of `version`, as it was loaded, is known not to be blank.
    pub newest_has_actions: bool,
    /// Epoch and manifest by application ids of epochs.
    pipelines: BTreeMap<String, (i64, Option<i64>)>,
}

impl Progress {
    /// Progress of a pipeline: epoch and manifest.
    pub fn of(&self, pipeline: &str) -> Option<(i64, Option<i64>)> {
        self.pipelines.get(&PipelineTxns::epoch_app_id(pipeline)).copied()
    }

    /// Notes our own commit.
    pub fn record(&mut self, app: &PipelineTxns) {
        self.pipelines.insert(PipelineTxns::epoch_app_id(&app.pipeline), (app.epoch, Some(app.manifest_id)));
    }

    /// Notes another's commit.
    pub fn see(&mut self, entry: &Entry) {
        let of_entry = |id: &str| entry.txn(id);
        self.note(entry.txns.iter().map(|(id, version)| (id.as_str(), *version)), of_entry);
    }

    fn note<'a>(&mut self, txns: impl Iterator<Item = (&'a str, i64)>, version_of: impl Fn(&str) -> Option<i64>) {
        for (id, epoch) in txns {
            let has = |id: &str| version_of(id).is_some();
            let Some(AppId::Epoch(pipeline)) = AppId::parse(id, has) else { continue };
            let manifest_id = version_of(&AppId::manifest(&pipeline).to_string());
            self.pipelines.insert(id.to_owned(), (epoch, manifest_id));
        }
    }
}

impl Table {
    /// Opens an existing table, for reading or for whatever it allows.
    pub async fn open(store: TableStore) -> Result<Self> {
        let name = store.name().to_owned();
        let state = log::load(&store, &name, Transactions::Skip).await?;
        Self::new(store, &name, &[], state)
    }

    /// Opens the table that `def` declares, or makes it. An existing table must fit the declaration and be one that weir
    /// can append to; a declaration without columns needs an existing table.
    pub async fn open_or_create(store: TableStore, def: &TableDef) -> Result<Self> {
        let mut failure = None;
        for attempt in 0..MAX_CREATIONS {
            if let Some(table) = Self::open_declared(&store, def).await? {
                return Ok(table);
            }
            // The outcome may be yes, no or unclear: the next look tells.
            failure = create(&store, def).await?;
            if failure.is_some() {
                tokio::time::sleep(pause(store.env(), attempt)).await;
            }
        }
        let error = Error::environment(format!("cannot create table `{}` at `{}`", def.name, store.location()));
        Err(match failure {
            Some(failure) => error.with_source(failure),
            None => error,
        })
    }

    /// Opens the table that `def` declares; `None` where there is none yet. Errors: as [`Table::open_or_create`].
    pub async fn open_declared(store: &TableStore, def: &TableDef) -> Result<Option<Self>> {
        if store.is_table().await? {
            let state = log::load(store, &def.name, Transactions::Skip).await?;
            state.metadata.check_appendable(&def.name)?;
            state.metadata.check_declaration(def)?;
            let declared: Vec<Rule> =
                def.checks.iter().map(|check| Rule::condition(&check.name, &check.text)).collect();
            return Self::new(store.clone(), &def.name, &declared, state).map(Some);
        }
        if def.columns.is_empty() {
            return Err(Error::sql(format!("table `{}` does not exist at `{}`", def.name, store.location()))
                .with_hint("Declare its columns to have it created."));
        }
        Ok(None)
    }

    fn new(store: TableStore, name: &str, declared: &[Rule], state: log::LogState) -> Result<Self> {
        let validator = match state.metadata.check_appendable(name) {
            Ok(()) => Validator::compile(name, &state.metadata, declared)?,
            // Never written, so never checked.
            Err(_) => Validator::default(),
        };
        let shared = Shared {
            name: name.to_owned(),
            store,
            validator: Arc::new(validator),
            progress: tokio::sync::Mutex::new(Progress { version: state.version, ..Progress::default() }),
            metadata: Mutex::new(Arc::new(state.metadata)),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The name it was opened under.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Its location.
    pub fn store(&self) -> &TableStore {
        &self.shared.store
    }

    /// Its columns, strings as Utf8, field metadata left out.
    pub fn schema(&self) -> SchemaRef {
        self.metadata().schema.clone()
    }

    /// Its columns as queries and joins see them.
    pub fn shown_schema(&self) -> SchemaRef {
        let metadata = self.metadata();
        metadata.file_columns.shown_schema(&metadata.schema)
    }

    /// Rows that it holds as queries see them.
    pub fn as_shown(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let metadata = self.metadata();
        let schema = metadata.file_columns.shown_schema(&metadata.schema);
        let wrong = || format!("rows of `{}` cannot be shown", self.name());
        let column = |field: &Arc<Field>| match rows.column_by_name(field.name()) {
            Some(column) => metadata.file_columns.show(field.name(), column).internal(wrong),
            None => Ok(new_null_array(field.data_type(), rows.num_rows())),
        };
        let columns = schema.fields().iter().map(column).collect::<Result<Vec<_>>>()?;
        let fields = schema.fields().iter().zip(&columns);
        let fields = fields.map(|(field, column)| Field::new(field.name(), column.data_type().clone(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        RecordBatch::try_new_with_options(schema, columns, &options).internal(wrong)
    }

    /// Its columns; generated ones carry their expression, as [`GENERATED`] in the field's metadata.
    pub fn schema_with_expressions(&self) -> SchemaRef {
        let metadata = self.metadata();
        let field = |field: &Arc<Field>| match metadata.generated.get(field.name()) {
            Some(expression) => {
                let noted = [(GENERATED.to_owned(), expression.clone())].into();
                Arc::new(field.as_ref().clone().with_metadata(noted))
            }
            None => Arc::clone(field),
        };
        Arc::new(Schema::new(metadata.schema.fields().iter().map(field).collect::<Vec<_>>()))
    }

    /// Its partition columns.
    pub fn partition_columns(&self) -> Vec<String> {
        self.metadata().partition_columns.clone()
    }

    /// Its properties, Delta's and ours.
    pub fn properties(&self) -> BTreeMap<String, String> {
        self.metadata().properties.clone()
    }

    /// `true` if rows are marked as gone rather than rewritten.
    pub fn has_deletion_vectors(&self) -> bool {
        self.metadata().has_deletion_vectors()
    }

    /// The id that the table's metadata gives it.
    pub fn id(&self) -> Option<String> {
        self.metadata().id.clone()
    }

    /// The newest version that this process has seen.
    pub async fn version(&self) -> u64 {
        self.shared.progress.lock().await.version
    }

    /// A writer of staged files.
    pub fn writer(&self, options: &WriterOptions) -> Result<TableWriter> {
        TableWriter::new(self.store(), &self.metadata(), options)
    }

    /// Rows as the table holds them: an empty partition value is null, a CHAR(n) has its blanks.
    pub fn as_stored(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let metadata = self.metadata();
        as_stored(rows, &metadata.partition_columns, &metadata.lengths)
    }

    /// The table's rules, compiled when it was opened: a table whose rules change under a writer stops it.
    pub fn validator(&self) -> &Validator {
        &self.shared.validator
    }

    /// The current versions of all `txn` actions whose application id begins with `prefix`, from one replay of the
    /// newest log. Commits are judged against exactly what this saw.
    pub async fn transactions(&self, prefix: &str) -> Result<BTreeMap<String, i64>> {
        let mut progress = self.shared.progress.lock().await;
        let mut transactions = self.load_progress(&mut progress).await?;
        transactions.retain(|id, _| id.starts_with(prefix));
        Ok(transactions)
    }

    /// The epoch that `pipeline` has recorded. Leaves alone what commits are judged against: every entry since then is yet
    /// to be looked at.
    pub async fn recorded_epoch(&self, pipeline: &str) -> Result<Option<i64>> {
        let state = log::load(self.store(), self.name(), Transactions::Read).await?;
        Ok(state.transactions.get(&PipelineTxns::epoch_app_id(pipeline)).copied())
    }

    /// The newest commits, newest first: version and `commitInfo`. Reads one log entry each; entries that were removed
    /// end it.
    pub async fn history(&self, limit: usize) -> Result<Vec<(u64, serde_json::Value)>> {
        let mut history = Vec::new();
        let mut next = Some(log::load(self.store(), self.name(), Transactions::Skip).await?.version);
        while let Some(version) = next.filter(|_| history.len() < limit) {
            let Some(entry) = log::read_entry(self.store(), version).await? else { break };
            let lines = entry.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
            let info = lines.map(|mut line: serde_json::Value| line["commitInfo"].take()).find(|info| !info.is_null());
            history.push((version, info.unwrap_or_default()));
            next = version.checked_sub(1);
        }
        Ok(history)
    }

    /// Reads all transactions and the metadata at the newest version.
    pub(super) async fn load_progress(&self, progress: &mut Progress) -> Result<BTreeMap<String, i64>> {
        let state = log::load(self.store(), self.name(), Transactions::Read).await?;
        if state.metadata != *self.metadata() {
            self.metadata().check_successor(self.name(), &state.metadata)?;
            self.set_metadata(state.metadata);
        }
        *progress = Progress { version: state.version, loaded: true, ..Progress::default() };
        let txns = state.transactions.iter().map(|(id, version)| (id.as_str(), *version));
        progress.note(txns, |id| state.transactions.get(id).copied());
        Ok(state.transactions)
    }

    pub(super) fn progress(&self) -> &tokio::sync::Mutex<Progress> {
        &self.shared.progress
    }

    pub(super) fn metadata(&self) -> Arc<TableMetadata> {
        Arc::clone(&self.shared.metadata.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_metadata(&self, metadata: TableMetadata) {
        *self.shared.metadata.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(metadata);
    }
}

/// Tries to put version 0; whatever the store answers is for the next look to clear up.
async fn create(store: &TableStore, def: &TableDef) -> Result<Option<object_store::Error>> {
    let env = store.env();
    let (protocol, metadata) = creation_actions(def, env)?;
    let info = json!({
        "timestamp": env.unix_ms(),
        "operation": "CREATE TABLE",
        "operationParameters": {
            "isManaged": "false",
            "partitionBy": serde_json::to_string(&def.partitioned_by).internal(|| "cannot write a name".to_owned())?,
        },
        "isBlindAppend": true,
        "engineInfo": format!("weir/{}", env!("CARGO_PKG_VERSION")),
        "txnId": uuid_like(env),
    });
    let lines = [json!({ "commitInfo": info }), json!({ "protocol": protocol }), json!({ "metaData": metadata })];
    let entry: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let options = object_store::PutMode::Create.into();
    Ok(store.object_store().put_opts(&entry_path(0), entry.into(), options).await.err())
}
