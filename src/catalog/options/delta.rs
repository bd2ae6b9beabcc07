//! Options of `connector = 'delta'`: a Delta table read as a stream.

use std::time::Duration;

use arrow::datatypes::DataType;

use super::super::definition::{ColumnDef, ColumnOrigin, DeltaSourceOptions, DeltaStart, OnTableChange, TableFeed};
use super::super::value::{duration, starting_version};
use super::OptionReader;
use crate::sql::Span;
use crate::sql::types::timestamp;

/// Default interval at which the log is polled.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Options of a source.
pub fn source(reader: &mut OptionReader<'_>) -> Option<DeltaSourceOptions> {
    const MODES: &[(&str, TableFeed)] =
        &[("append", TableFeed::Append), ("changes", TableFeed::Changes), ("cdf", TableFeed::Changes)];
    const ON_CHANGE: &[(&str, OnTableChange)] = &[("fail", OnTableChange::Fail), ("skip", OnTableChange::Skip)];
    let path = reader.required(&["path"]).map(|path| path.value);
    let feed = reader.choice(&["mode"], MODES).unwrap_or_default();
    let start = reader.parsed(&["starting_version", "startingVersion"], starting_version);
    let on_change = reader.choice(&["on_change"], ON_CHANGE).unwrap_or_default();
    let poll_interval = reader.parsed(&["poll_interval"], duration).unwrap_or(POLL_INTERVAL);
    let storage = reader.prefixed("storage.").into_iter().map(|(name, value)| (name.value, value)).collect();
    let start = start.unwrap_or(DeltaStart::Snapshot);
    Some(DeltaSourceOptions { path: path?, feed, start, on_change, poll_interval, storage })
}

/// The columns that every row of a change feed has after the table's own.
pub fn feed_columns(span: Span) -> Vec<ColumnDef> {
    [("_change_type", DataType::Utf8), ("_commit_version", DataType::Int64), ("_commit_timestamp", timestamp())]
        .into_iter()
        .map(|(name, data_type)| ColumnDef {
            name: name.to_owned(),
            data_type,
            nullable: false,
            origin: ColumnOrigin::Field(vec![name.to_owned()]),
            span,
        })
        .collect()
}
