//! DataFusion's view of the warehouse during one request: names are looked up when the statement is planned.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, Session, TableProvider};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::statement::split_version;
use super::{CATALOG, PUBLIC, SYSTEM, TableEntry, Warehouse, is_table_name, system};

/// The catalogs of one request: just `weir`.
#[derive(Debug)]
pub struct RequestCatalogs {
    catalog: Arc<dyn CatalogProvider>,
}

impl RequestCatalogs {
    /// `listed` are the tables that `information_schema` shows; other lookups do not need them.
    pub fn new(warehouse: Arc<Warehouse>, listed: &[TableEntry]) -> Self {
        let names = listed.iter().map(|entry| entry.name.clone()).collect();
        let public = Arc::new(PublicSchema { warehouse: Arc::clone(&warehouse), names });
        let system = Arc::new(SystemSchema { warehouse });
        Self { catalog: Arc::new(RequestCatalog { public, system }) }
    }
}

impl CatalogProviderList for RequestCatalogs {
    fn register_catalog(&self, _: String, _: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        vec![CATALOG.to_owned()]
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        (name == CATALOG).then(|| Arc::clone(&self.catalog))
    }
}

#[derive(Debug)]
struct RequestCatalog {
    public: Arc<PublicSchema>,
    system: Arc<SystemSchema>,
}

impl CatalogProvider for RequestCatalog {
    fn schema_names(&self) -> Vec<String> {
        vec![PUBLIC.to_owned(), SYSTEM.to_owned()]
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        match name {
            PUBLIC => Some(Arc::clone(&self.public) as _),
            SYSTEM => Some(Arc::clone(&self.system) as _),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct PublicSchema {
    warehouse: Arc<Warehouse>,
    names: Vec<String>,
}

#[async_trait]
impl SchemaProvider for PublicSchema {
    fn table_names(&self) -> Vec<String> {
        self.names.clone()
    }

    async fn table(&self, name: &str) -> DataFusionResult<Option<Arc<dyn TableProvider>>> {
        let (name, as_of) = split_version(name);
        let found = match self.warehouse.find(name, as_of).await {
            // In a list of all tables, one that cannot be read must not hide the others.
            Err(error) if self.names.iter().any(|listed| listed == name) => {
                return Ok(Some(Arc::new(Unreadable {
                    error: Arc::new(error.into()),
                    schema: Arc::new(Schema::empty()),
                })));
            }
            found => found?,
        };
        match found {
            Some(table) => Ok(Some(table.provider)),
            None => Ok(self.warehouse.declared_relation(name)?),
        }
    }

    /// Does not open the table, so that one that cannot be read does not hide the others in a list.
    async fn table_type(&self, _name: &str) -> DataFusionResult<Option<TableType>> {
        Ok(Some(TableType::Base))
    }

    fn table_exist(&self, name: &str) -> bool {
        // Only a lookup could tell; DataFusion calls this for DDL, which is refused.
        is_table_name(name)
    }
}

/// A listed table that cannot be read: it has no columns, and scanning it returns the error.
#[derive(Debug)]
struct Unreadable {
    error: Arc<DataFusionError>,
    schema: SchemaRef,
}

#[async_trait]
impl TableProvider for Unreadable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _session: &dyn Session,
        _projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Err(DataFusionError::Shared(Arc::clone(&self.error)))
    }
}

#[derive(Debug)]
struct SystemSchema {
    warehouse: Arc<Warehouse>,
}

#[async_trait]
impl SchemaProvider for SystemSchema {
    fn table_names(&self) -> Vec<String> {
        system::NAMES.map(str::to_owned).to_vec()
    }

    async fn table(&self, name: &str) -> DataFusionResult<Option<Arc<dyn TableProvider>>> {
        Ok(system::table(&self.warehouse, name).await?)
    }

    fn table_exist(&self, name: &str) -> bool {
        system::NAMES.contains(&name)
    }
}
