//! Reading part of a table's history in batch: what VERIFY compares with and what new state is seeded from.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{Column, ScalarValue};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::{col, lit};
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::prelude::{DataFrame, SessionConfig, SessionContext};

use super::scan::{AsOf, open_version};
use super::table::Table;
use crate::error::{Error, Result};

/// `[from, to)` of event time, microseconds since 1970 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeRange {
    pub from: i64,
    pub to: i64,
}

/// As [`rows_between`], for all times, in order of `order`'s columns, ascending. What does not fit the memory of `runtime` is sorted on disk.
pub async fn rows_in_order(
    table: &Table,
    columns: &[&str],
    time_column: &str,
    order: &[&str],
    runtime: Arc<RuntimeEnv>,
) -> Result<SendableRecordBatchStream> {
    let all = TimeRange { from: i64::MIN, to: i64::MAX };
    let (_, rows) = select(table, None, columns, time_column, all, runtime).await?;
    let order = order.iter().map(|name| col(Column::from_name(*name)).sort(true, true)).collect();
    Ok(rows.sort(order)?.execute_stream().await?)
}

/// The rows of `table` whose `time_column` lies in `range`, with `columns` only (all if empty), at `version` or the newest.
/// Files, row groups and pages that cannot hold such rows are not read. No order is promised; memory is what `runtime` allows.
/// Gives the version that is read, too.
pub async fn rows_between(
    table: &Table,
    version: Option<u64>,
    columns: &[&str],
    time_column: &str,
    range: TimeRange,
    runtime: Arc<RuntimeEnv>,
) -> Result<(u64, SendableRecordBatchStream)> {
    let (version, rows) = select(table, version, columns, time_column, range, runtime).await?;
    Ok((version, rows.execute_stream().await?))
}

async fn select(
    table: &Table,
    version: Option<u64>,
    columns: &[&str],
    time_column: &str,
    range: TimeRange,
    runtime: Arc<RuntimeEnv>,
) -> Result<(u64, DataFrame)> {
    let schema = table.schema();
    let missing = std::iter::once(&time_column).chain(columns).find(|name| schema.index_of(name).is_err());
    if let Some(name) = missing {
        return Err(Error::sql(format!("table `{}` has no column `{name}`", table.name())));
    }
    let zone = match schema.field_with_name(time_column).map(arrow::datatypes::Field::data_type) {
        Ok(DataType::Timestamp(TimeUnit::Microsecond, zone)) => zone.clone(),
        _ => return Err(Error::sql(format!("column `{time_column}` of table `{}` is not TIMESTAMP", table.name()))),
    };
    let as_of = version.map_or(AsOf::Newest, AsOf::Version);
    let found = open_version(table.store().url(), table.store().root_store(), as_of).await?;
    let bound = |micros| lit(ScalarValue::TimestampMicrosecond(Some(micros), zone.clone()));
    let time = || col(Column::from_name(time_column));
    let config = SessionConfig::new().with_target_partitions(1);
    let mut rows = SessionContext::new_with_config_rt(config, runtime)
        .read_table(found.provider)?
        .filter(time().gt_eq(bound(range.from)).and(time().lt(bound(range.to))))?;
    if !columns.is_empty() {
        rows = rows.select(columns.iter().map(|name| col(Column::from_name(*name))))?;
    }
    Ok((found.version, rows))
}
