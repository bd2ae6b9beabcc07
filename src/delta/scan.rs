//! Tables as DataFusion reads them: delta-rs's scan over one snapshot, with plain strings and the table's own store.

use std::sync::Arc;

use arrow::datatypes::{FieldRef, SchemaRef};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::plan_err;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType, ident, lit};
use datafusion::physical_plan::ExecutionPlan;
use deltalake::delta_datafusion::{DeltaScanConfig, DeltaScanNext};
use deltalake::logstore::{StorageConfig, default_logstore};
use deltalake::{DeltaTable, DeltaTableError};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::Value;
use url::Url;

use super::bounds::skips_soundly;
use super::file_maps::with_filled_maps;
use super::log::{entry_path, open_snapshot};
use super::readable::readable;
use super::shown::shown;
use super::store::TableStore;
use super::stored_values::as_meant;
use super::table::Table;
use super::versions::{AllVersions, BeforeFirst};
use crate::error::{Context, Error, ErrorKind, Result, SqlState};

/// The version of a table that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsOf {
    Newest,
    Version(u64),
    /// The newest version that was committed at or before this instant.
    Timestamp(DateTime<Utc>),
}

/// A table at one version, ready to be queried.
#[derive(Debug, Clone)]
pub struct TableVersion {
    pub version: u64,
    pub provider: Arc<dyn TableProvider>,
}

/// Opens the table at `url` in `root` (the store from the root of its bucket) for a query, and for nothing else: its
/// transactions, constraints and files are not looked at before rows are read.
pub async fn open_version(url: &Url, root: Arc<dyn ObjectStore>, as_of: AsOf) -> Result<TableVersion> {
    let failed = || format!("cannot read table `{url}`");
    let version = match as_of {
        AsOf::Newest => None,
        AsOf::Version(version) => Some(version),
        AsOf::Timestamp(instant) => match version_in_commits(url, &root, instant).await? {
            Some(version) => Some(version),
            None => version_by_files(url, &root, instant).await?,
        },
    };
    let unread = |error: DeltaTableError| match as_of {
        AsOf::Version(version) => Error::sql(format!("table `{url}` has no version {version}")).with_source(error),
        AsOf::Newest | AsOf::Timestamp(_) => Error::environment(failed()).with_source(error),
    };
    let (snapshot, log_store) = open_snapshot(url, &root, version, unread).await?;
    let version = snapshot.version();
    let snapshot = readable(snapshot, url, &log_store).await.context(ErrorKind::Environment, failed)?;
    let metadata = serde_json::to_value(snapshot.table_configuration().metadata()).internal(failed)?;
    let partition_columns = metadata["partitionColumns"].as_array().into_iter().flatten();
    let partition_columns = partition_columns.filter_map(|name| Some(name.as_str()?.to_owned())).collect();
    let mut config = DeltaScanConfig::new().with_wrap_partition_values(false);
    config.schema_force_view_types = false;
    let inner = DeltaScanNext::new(snapshot, config).map_err(|error| unsupported(url, error))?;
    let scan = Arc::new(Scan { inner, version, partition_columns, url: url.clone(), root });
    let schema = serde_json::from_str(metadata["schemaString"].as_str().unwrap_or_default()).internal(failed)?;
    Ok(TableVersion { version, provider: shown(scan, &schema).internal(failed)? })
}

/// The table that `provider` reads, in all its versions up to the one that it reads (see [`versions`](super::versions)); `None` when it is no
/// Delta table.
pub fn all_versions(
    provider: &Arc<dyn TableProvider>,
    before_first: BeforeFirst,
) -> Option<Result<Arc<dyn TableProvider>>> {
    let scan = provider.downcast_ref::<Scan>()?;
    let store = TableStore::at(&scan.url, Arc::clone(&scan.root));
    let versions =
        |store| AllVersions::new(store, scan.version, &scan.schema(), scan.partition_columns.clone(), before_first);
    Some(store.map(|store| Arc::new(versions(store)) as Arc<dyn TableProvider>))
}

/// The newest version at `instant` by the times in the commits; `None` where the table does not keep them, or did not yet.
async fn version_in_commits(url: &Url, root: &Arc<dyn ObjectStore>, instant: DateTime<Utc>) -> Result<Option<u64>> {
    let failed = || format!("cannot read table `{url}`");
    let unread = |error: DeltaTableError| Error::environment(failed()).with_source(error);
    let (snapshot, _) = open_snapshot(url, root, None, unread).await?;
    let metadata = serde_json::to_value(snapshot.table_configuration().metadata()).internal(failed)?;
    let property = |key: &str| metadata["configuration"][key].as_str().map(str::to_owned);
    if property("delta.enableInCommitTimestamps").as_deref() != Some("true") {
        return Ok(None);
    }
    let prefix = Path::from_url_path(url.path()).context(ErrorKind::Config, failed)?;
    let folder = PrefixStore::new(Arc::clone(root), prefix);
    let first = property("delta.inCommitTimestampEnablementVersion").and_then(|version| version.parse().ok());
    let (mut below, mut above) = (first.unwrap_or(0), snapshot.version() + 1);
    let mut found = None;
    while below < above {
        let middle = below + (above - below) / 2;
        let time = time_in_commit(&folder, middle).await;
        match time
            .map_err(|error| Error::behind(&error).unwrap_or_else(|| Error::environment(failed()).with_source(error)))?
        {
            Some(time) if time > instant.timestamp_millis() => above = middle,
            // Entries that are gone are older than those that are left.
            time => {
                found = time.map(|_| middle).or(found);
                below = middle + 1;
            }
        }
    }
    match (found, first) {
        (None, None) => Err(Error::sql(format!("table `{url}` has no version as old as {}", instant.to_rfc3339()))),
        (found, _) => Ok(found),
    }
}

/// The time of a version's commit in milliseconds, from its log entry.
async fn time_in_commit(folder: &dyn ObjectStore, version: u64) -> object_store::Result<Option<i64>> {
    let bytes = match folder.get(&entry_path(version)).await {
        Ok(entry) => entry.bytes().await?,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let actions = bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    Ok(actions.filter_map(|action| action["commitInfo"]["inCommitTimestamp"].as_i64()).next())
}

/// The newest version at `instant` by the times of the log's files.
async fn version_by_files(url: &Url, root: &Arc<dyn ObjectStore>, instant: DateTime<Utc>) -> Result<Option<u64>> {
    let failed = || format!("cannot read table `{url}`");
    let prefix = Path::from_url_path(url.path()).context(ErrorKind::Config, failed)?;
    let prefixed = Arc::new(PrefixStore::new(Arc::clone(root), prefix));
    let log_store = default_logstore(Arc::clone(&prefixed) as _, Arc::clone(root), url, &StorageConfig::default());
    let mut table = DeltaTable::new(log_store);
    let loaded = table.load_with_datetime(instant).await;
    loaded.map_err(|error| Error::behind(&error).unwrap_or_else(|| Error::sql(failed()).with_source(error)))?;
    let version = table.version();
    refuse_before_the_first(url, prefixed.as_ref(), version, instant).await?;
    Ok(version)
}

/// delta-rs takes a time before the first version for that version. Errors: `version` was committed after `instant`.
async fn refuse_before_the_first(
    url: &Url,
    folder: &dyn ObjectStore,
    version: Option<u64>,
    instant: DateTime<Utc>,
) -> Result<()> {
    let Some(version) = version else { return Ok(()) };
    let made = match folder.head(&entry_path(version)).await {
        Ok(entry) => entry.last_modified,
        // Checkpoints outlive their entries.
        Err(object_store::Error::NotFound { .. }) => return Ok(()),
        Err(error) => return Err(error).environment(|| format!("cannot read the log of table `{url}`")),
    };
    if made.timestamp_millis() <= instant.timestamp_millis() {
        return Ok(());
    }
    let (asked, made) = (instant.to_rfc3339(), made.to_rfc3339());
    Err(Error::sql(format!("table `{url}` has no version as old as {asked}"))
        .with_detail(format!("The oldest that is left, {version}, was committed at {made}.")))
}

/// Why delta-rs does not scan the table.
fn unsupported(url: &Url, error: DataFusionError) -> Error {
    let told = error.to_string();
    let features =
        told.split_once("Unsupported table features required: ").map(|(_, features)| features.trim_end_matches('.'));
    match features {
        Some(features) => Error::sql(format!("table `{url}` needs features that weir cannot read: {features}"))
            .with_state(SqlState::UNSUPPORTED)
            .with_hint("Read it with another engine, or drop the feature there (`ALTER TABLE … DROP FEATURE`)."),
        None => Error::environment(format!("cannot read table `{url}`")).with_source(error),
    }
}

impl Table {
    /// The table at `version`, or as it is now, for a query. The snapshot is fixed when this returns.
    pub async fn provider(&self, version: Option<u64>) -> Result<Arc<dyn TableProvider>> {
        let as_of = version.map_or(AsOf::Newest, AsOf::Version);
        Ok(open_version(self.store().url(), self.store().root_store(), as_of).await?.provider)
    }
}

/// One version of a table.
#[derive(Debug)]
struct Scan {
    inner: DeltaScanNext,
    version: u64,
    partition_columns: Vec<String>,
    url: Url,
    root: Arc<dyn ObjectStore>,
}

impl Scan {
    /// A filter that holds for every row. Without a filter over a column with statistics, delta-rs refuses statistics that are no JSON
    /// (some writers write `""`); with one it takes them for none.
    fn every_row(&self) -> Expr {
        let schema = self.inner.schema();
        let has_bounds =
            |field: &&FieldRef| !field.data_type().is_nested() && !self.partition_columns.contains(field.name());
        match schema.fields().iter().find(has_bounds) {
            Some(field) => ident(field.name()).is_null().or(ident(field.name()).is_not_null()),
            None => lit(true),
        }
    }
}

#[async_trait]
impl TableProvider for Scan {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        session.runtime_env().register_object_store(&self.url, Arc::clone(&self.root));
        let Some(state) = session.as_any().downcast_ref::<SessionState>() else {
            return plan_err!("a table is scanned outside of a session");
        };
        let mut state = state.clone();
        // Nanoseconds do not hold what INT96 does (see `times`).
        state.config_mut().options_mut().execution.parquet.coerce_int96 = Some("us".to_owned());
        let scanned = match self.inner.scan(&state, projection, filters, limit).await {
            Err(error) if error.to_string().to_lowercase().contains("json") => {
                let filters = [filters, &[self.every_row()]].concat();
                self.inner.scan(&state, projection, &filters, limit).await
            }
            scanned => scanned,
        };
        as_meant(with_filled_maps(scanned?, &self.schema())?, &self.partition_columns)
    }

    /// Never `Exact`: delta-rs answers that to filters which it does not evaluate exactly, those over partition columns and
    /// NULL literals among them. Every filter is evaluated again above the scan, which only leaves out files and row groups.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        let schema = self.inner.schema();
        let support = |filter: &&Expr| match skips_soundly(filter, &schema) {
            true => TableProviderFilterPushDown::Inexact,
            false => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(support).collect())
    }
}
