//! The table of dead letters: one per pipeline, committed in the same epoch as the good rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryBuilder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder};
use arrow::datatypes::{DataType, TimeUnit};
use arrow::record_batch::RecordBatch;

use crate::catalog::{ColumnDef, ColumnOrigin, TableDef};
use crate::error::{Context, Result};
use crate::sink::kafka::RefusedMessage;
use crate::source::chunk::DeadLetter;
use crate::sql::Span;

/// The table's name in commits and progress; no table of a user can have it.
pub const NAME: &str = "weir.dead_letters";

/// A dead letter with the source it came from.
#[derive(Debug, Clone)]
pub struct Letter {
    pub source: Arc<str>,
    pub letter: DeadLetter,
}

/// A message that is too large for its topic. Its offset is its position among the epoch's messages to the sink.
pub fn of_message(sink: &str, topic: &str, message: RefusedMessage) -> Letter {
    let RefusedMessage { position, key, payload, reason } = message;
    let letter = DeadLetter {
        partition: topic.into(),
        offset: i64::try_from(position).unwrap_or(i64::MAX),
        timestamp_ms: -1,
        key,
        payload,
        reason,
        column: None,
    };
    Letter { source: sink.into(), letter }
}

/// The table's definition, at `location`.
pub fn definition(location: String, storage: BTreeMap<String, crate::catalog::Secret>) -> TableDef {
    let timestamp = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let columns = [
        ("source", DataType::Utf8, false),
        ("partition", DataType::Utf8, true),
        ("offset", DataType::Int64, true),
        ("timestamp", timestamp.clone(), true),
        ("key", DataType::Binary, true),
        ("payload", DataType::Binary, true),
        ("reason", DataType::Utf8, false),
        ("column", DataType::Utf8, true),
        ("epoch", DataType::Int64, false),
        ("refused_at", timestamp, false),
    ];
    let columns = columns
        .into_iter()
        .map(|(name, data_type, nullable)| ColumnDef {
            name: name.to_owned(),
            data_type,
            nullable,
            origin: ColumnOrigin::Field(vec![name.to_owned()]),
            span: Span::default(),
        })
        .collect();
    TableDef {
        name: NAME.to_owned(),
        columns,
        partitioned_by: Vec::new(),
        location: Some(location),
        properties: BTreeMap::new(),
        storage,
        primary_key: Vec::new(),
        checks: Vec::new(),
        span: Span::default(),
    }
}

/// Dead letters as rows of the table. `now_ms` is milliseconds since 1970 UTC.
pub fn rows(letters: &[Letter], epoch: u64, now_ms: i64) -> Result<RecordBatch> {
    let zone = || TimestampMicrosecondBuilder::new().with_timezone("UTC");
    let (mut source, mut partition, mut offset) = (StringBuilder::new(), StringBuilder::new(), Int64Builder::new());
    let (mut timestamp, mut key, mut payload) = (zone(), BinaryBuilder::new(), BinaryBuilder::new());
    let (mut reason, mut column) = (StringBuilder::new(), StringBuilder::new());
    let (mut epochs, mut refused_at) = (Int64Builder::new(), zone());
    for Letter { source: name, letter } in letters {
        source.append_value(name);
        if letter.offset >= 0 {
            partition.append_value(&letter.partition);
            offset.append_value(letter.offset);
        } else {
            partition.append_null();
            offset.append_null();
        }
        timestamp.append_option((letter.timestamp_ms >= 0).then(|| letter.timestamp_ms.saturating_mul(1000)));
        key.append_option(letter.key.as_deref());
        payload.append_option(letter.payload.as_deref());
        reason.append_value(&letter.reason);
        column.append_option(letter.column.as_deref());
        epochs.append_value(epoch as i64);
        refused_at.append_value(now_ms.saturating_mul(1000));
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(source.finish()),
        Arc::new(partition.finish()),
        Arc::new(offset.finish()),
        Arc::new(timestamp.finish()),
        Arc::new(key.finish()),
        Arc::new(payload.finish()),
        Arc::new(reason.finish()),
        Arc::new(column.finish()),
        Arc::new(epochs.finish()),
        Arc::new(refused_at.finish()),
    ];
    let schema = definition(String::new(), BTreeMap::new()).schema();
    RecordBatch::try_new(schema, columns).internal(|| "dead letters do not fit their table".to_owned())
}
