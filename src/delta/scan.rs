//! Tables as DataFusion reads them: delta-rs's scan over one snapshot, with plain strings and the table's own store.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use deltalake::delta_datafusion::{DeltaScanConfig, DeltaScanNext};
use deltalake::logstore::{StorageConfig, default_logstore};
use deltalake::{DeltaTable, DeltaTableError};
use object_store::ObjectStore;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use url::Url;

use super::log::open_snapshot;
use super::table::Table;
use crate::error::{Context, Error, ErrorKind, Result};

/// Which version of a table is wanted.
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
        AsOf::Timestamp(instant) => {
            let prefix = Path::from_url_path(url.path()).context(ErrorKind::Config, failed)?;
            let prefixed = Arc::new(PrefixStore::new(Arc::clone(&root), prefix));
            let log_store = default_logstore(prefixed, Arc::clone(&root), url, &StorageConfig::default());
            let mut table = DeltaTable::new(log_store);
            table.load_with_datetime(instant).await.context(ErrorKind::Sql, failed)?;
            table.version()
        }
    };
    let unread = |error: DeltaTableError| match as_of {
        AsOf::Version(version) => Error::sql(format!("table `{url}` has no version {version}")).with_source(error),
        AsOf::Newest | AsOf::Timestamp(_) => Error::environment(failed()).with_source(error),
    };
    let (snapshot, _) = open_snapshot(url, &root, version, unread).await?;
    let version = snapshot.version();
    let mut config = DeltaScanConfig::new().with_wrap_partition_values(false);
    config.schema_force_view_types = false;
    let inner = DeltaScanNext::new(snapshot, config).context(ErrorKind::Environment, failed)?;
    Ok(TableVersion { version, provider: Arc::new(Scan { inner, url: url.clone(), root }) })
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
    url: Url,
    root: Arc<dyn ObjectStore>,
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
        self.inner.scan(session, projection, filters, limit).await
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        self.inner.supports_filters_pushdown(filters)
    }
}
