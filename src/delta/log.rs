//! The table's log as a record of progress: which version is the newest, what it says, what each `txn` stands at.
//!
//! Promises: [`LogState`] is one consistent view, read in one replay (checkpoint and later entries) by delta-rs's kernel.
//! It is read at start and after trouble, never on the way of a commit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use delta_kernel::engine::arrow_data::ArrowEngineData;
use delta_kernel::schema::{DataType, StructField, StructType};
use delta_kernel::snapshot::{Snapshot, SnapshotRef};
use delta_kernel::{DeltaResult, Engine};
use deltalake::DeltaTableError;
use deltalake::kernel::Snapshot as DeltaSnapshot;
use deltalake::logstore::{LogStoreRef, StorageConfig, default_logstore};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt};
use url::Url;

use super::damage::LogFolder;
use super::metadata::TableMetadata;
use super::store::TableStore;
use super::store::whole::is_blank;
use crate::error::{Context, Error, ErrorKind, Result};

/// Reads of a blank entry, and the pause between them, before its writer counts as dead.
const LOOKS: u32 = 5;
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

/// The path of a log entry.
pub fn entry_path(version: u64) -> Path {
    Path::from(format!("_delta_log/{version:020}.json"))
}

/// The bytes of a log entry; `None` when there is none.
pub async fn read_entry(store: &TableStore, version: u64) -> Result<Option<Bytes>> {
    let failed = || format!("cannot read log entry {version} of `{}`", store.location());
    match store.object_store().get(&entry_path(version)).await {
        Ok(found) => Ok(Some(found.bytes().await.environment(failed)?)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(Error::behind(&error).unwrap_or_else(|| Error::environment(failed()).with_source(error))),
    }
}

/// As [`read_entry`]; an entry that is blank, which only the newest may be, is waited for: another writer may be in the middle of it.
pub async fn read_entry_patiently(store: &TableStore, version: u64) -> Result<Option<Bytes>> {
    for _ in 0..LOOKS {
        let found = read_entry(store, version).await?;
        if !found.as_ref().is_some_and(|entry| is_blank(entry)) {
            return Ok(found);
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    read_entry(store, version).await
}

/// The state of the log at one version.
pub struct LogState {
    pub version: u64,
    pub metadata: TableMetadata,
    /// Versions by application id.
    pub transactions: BTreeMap<String, i64>,
}

/// A kernel snapshot with the engine that made it; both block, so use them off the async threads.
pub struct KernelTable {
    pub snapshot: SnapshotRef,
    pub engine: Arc<dyn Engine>,
}

/// Runs `work` on a snapshot of the table at `version`, or the newest, away from the async threads; again where what failed was mended.
pub async fn with_snapshot<T: Send + 'static>(
    store: &TableStore,
    version: Option<u64>,
    work: impl Fn(&KernelTable) -> Result<T> + Send + Sync + 'static,
) -> Result<T> {
    let log = LogFolder::new(store.object_store(), &Path::default(), store.location());
    let work = Arc::new(work);
    loop {
        let done = match snapshot(store, version).await {
            Ok(table) => {
                if version.is_none() {
                    log.refuse_gap(table.snapshot.version()).await?;
                }
                let work = Arc::clone(&work);
                tokio::task::spawn_blocking(move || work(&table)).await.internal(interrupted)?
            }
            Err(error) => Err(error),
        };
        // Each time there is less to mend.
        if done.is_ok() || !log.mend().await {
            return log.explained(done).await;
        }
    }
}

async fn snapshot(store: &TableStore, version: Option<u64>) -> Result<KernelTable> {
    kernel_table(store.url().clone(), store.location().to_owned(), &store.log_store(), version).await
}

/// The kernel's snapshot of the table at `url`.
pub(super) async fn kernel_table(
    url: Url,
    location: String,
    log_store: &LogStoreRef,
    version: Option<u64>,
) -> Result<KernelTable> {
    let engine = log_store.engine(None);
    let blocking = tokio::task::spawn_blocking(move || {
        let mut builder = Snapshot::builder_for(url.as_str());
        if let Some(version) = version {
            builder = builder.at_version(version);
        }
        let snapshot = builder.build(engine.as_ref()).map_err(|error| open_error(&location, error))?;
        Ok(KernelTable { snapshot, engine })
    });
    blocking.await.internal(interrupted)?
}

fn interrupted() -> String {
    "reading a table was interrupted".to_owned()
}

/// A snapshot as delta-rs has it, with the log store that it reads from, of the table in `folder` of `root`.
pub async fn open_snapshot(
    url: &Url,
    root: &Arc<dyn ObjectStore>,
    version: Option<u64>,
    failed: impl Fn(DeltaTableError) -> Error,
) -> Result<(DeltaSnapshot, LogStoreRef)> {
    let prefix = Path::from_url_path(url.path()).context(ErrorKind::Config, || format!("bad path in `{url}`"))?;
    let prefixed = Arc::new(PrefixStore::new(Arc::clone(root), prefix.clone()));
    let log_store = default_logstore(prefixed, Arc::clone(root), url, &StorageConfig::default());
    let log = LogFolder::new(Arc::clone(root), &prefix, url);
    let mut found = DeltaSnapshot::try_new(log_store.as_ref(), version).await;
    while found.is_err() && log.mend().await {
        found = DeltaSnapshot::try_new(log_store.as_ref(), version).await;
    }
    let found = log.explained(found.map_err(failed)).await?;
    if version.is_none() {
        log.refuse_gap(found.version()).await?;
    }
    Ok((found, log_store))
}

/// Reads protocol, metadata and, if wanted, all transactions of the newest version.
pub async fn load(store: &TableStore, name: &str, transactions: Transactions) -> Result<LogState> {
    let name = name.to_owned();
    with_snapshot(store, None, move |table| {
        let configuration = table.snapshot.table_configuration();
        let to_json = || "cannot read a table's metadata".to_owned();
        let protocol = serde_json::to_value(configuration.protocol()).internal(to_json)?;
        let metadata = serde_json::to_value(configuration.metadata()).internal(to_json)?;
        let transactions = match transactions {
            Transactions::Read => read_transactions(table)
                .environment(|| format!("cannot read the progress recorded in table `{name}`"))?,
            Transactions::Skip => BTreeMap::new(),
        };
        Ok(LogState {
            version: table.snapshot.version(),
            metadata: TableMetadata::read(&name, &protocol, &metadata)?,
            transactions,
        })
    })
    .await
}

/// The versions of all `txn` actions at `version`, by application id.
pub async fn transactions_at(store: &TableStore, name: &str, version: u64) -> Result<BTreeMap<String, i64>> {
    let name = name.to_owned();
    with_snapshot(store, Some(version), move |table| {
        read_transactions(table).environment(|| format!("cannot read the progress recorded in table `{name}`"))
    })
    .await
}

/// Choice of [`load`] to replay the log for `txn` actions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Transactions {
    Read,
    Skip,
}

/// One replay, newest first: the first version seen of an application id is its current one.
fn read_transactions(table: &KernelTable) -> DeltaResult<BTreeMap<String, i64>> {
    let txn = StructType::try_new([
        StructField::not_null("appId", DataType::STRING),
        StructField::not_null("version", DataType::LONG),
    ])?;
    let schema = Arc::new(StructType::try_new([StructField::nullable("txn", txn)])?);
    let mut transactions = BTreeMap::new();
    for batch in table.snapshot.log_segment().read_actions(table.engine.as_ref(), schema)? {
        let data = ArrowEngineData::try_from_engine_data(batch?.actions)?;
        let Some(txn) = data.record_batch().column(0).as_struct_opt() else { continue };
        let (ids, versions) = (txn.column(0).as_string::<i32>(), txn.column(1).as_primitive::<Int64Type>());
        for row in (0..ids.len()).filter(|row| txn.is_valid(*row)) {
            transactions.entry(ids.value(row).to_owned()).or_insert(versions.value(row));
        }
    }
    Ok(transactions)
}

fn open_error(location: &str, error: delta_kernel::Error) -> Error {
    if error.to_string().contains("No files in log segment") {
        return Error::config(format!("no Delta table at `{location}`"));
    }
    Error::new(ErrorKind::Environment, format!("cannot open the table at `{location}`")).with_source(error)
}
