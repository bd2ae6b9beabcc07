//! Reads a table in batch and in order, to seed new state from it.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::Column;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::col;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::prelude::{SessionConfig, SessionContext};

use super::scan::{AsOf, open_version};
use super::table::Table;
use crate::error::{Error, Result};

/// The rows of `table`, with `columns` only (all if empty), in ascending order of `order`'s columns. Rows without a time are
/// left out. Rows that do not fit the memory of `runtime` are sorted on disk.
///
/// Errors: a column does not exist; `time_column` is not TIMESTAMP.
pub async fn rows_in_order(
    table: &Table,
    columns: &[&str],
    time_column: &str,
    order: &[&str],
    runtime: Arc<RuntimeEnv>,
) -> Result<SendableRecordBatchStream> {
    let schema = table.schema();
    let missing = std::iter::once(&time_column).chain(columns).find(|name| schema.index_of(name).is_err());
    if let Some(name) = missing {
        return Err(Error::sql(format!("table `{}` has no column `{name}`", table.name())));
    }
    let time = schema.field_with_name(time_column).map(arrow::datatypes::Field::data_type);
    let Ok(DataType::Timestamp(TimeUnit::Microsecond, _)) = time else {
        return Err(Error::sql(format!("column `{time_column}` of table `{}` is not TIMESTAMP", table.name())));
    };
    let found = open_version(table.store().url(), table.store().root_store(), AsOf::Newest).await?;
    let config = SessionConfig::new().with_target_partitions(1);
    let session = SessionContext::new_with_config_rt(config, runtime);
    let mut rows = session.read_table(found.provider)?.filter(col(Column::from_name(time_column)).is_not_null())?;
    if !columns.is_empty() {
        rows = rows.select(columns.iter().map(|name| col(Column::from_name(*name))))?;
    }
    let order = order.iter().map(|name| col(Column::from_name(*name)).sort(true, true)).collect();
    Ok(rows.sort(order)?.execute_stream().await?)
}
