//! Changes to messages: upserts and tombstones by key, or Debezium's envelope.
//!
//! An upsert message has the key columns as its key and the whole row as its value; a deleted key has no value (a
//! tombstone), so a compacted topic holds the newest row of each key. Debezium's envelope has the row before and after
//! (`op`: `c` created, `u` updated, `d` deleted). Changes of an epoch are consolidated: one message per key. Without a key
//! there is nothing to pair rows by: every emitted row is a creation and every retracted row a deletion, as in Flink.

use arrow::array::RecordBatch;
use arrow::compute::interleave_record_batch;
use serde_json::json;

use super::encode::{Messages, encode, keys};
use crate::catalog::{ChangeEncoding, ChangeFormat, KeyFormat};
use crate::delta::{Change, Changes, Place, UpsertRows};
use crate::env::Env;
use crate::error::{Context, Error, Result};
use crate::source::chunk::OptionalBytes;

/// Contents of Debezium's `source` field.
#[derive(Debug, Clone)]
pub struct ChangeOrigin {
    pub pipeline: String,
    pub sink: String,
    pub epoch: u64,
}

/// Encodes the changes of an epoch; `rows` in their order, all of the same columns.
///
/// Errors: a missing key column; a type that has no JSON form.
pub fn encode_changes(
    rows: Vec<UpsertRows>,
    encoding: &ChangeEncoding,
    origin: &ChangeOrigin,
    env: &Env,
) -> Result<Messages> {
    let (batches, changes) = match rows.first().map(|rows| rows.rows.schema()) {
        Some(schema) if !encoding.key.is_empty() => {
            let Changes { batches, changes, .. } = Changes::of(rows, &schema, &encoding.key, env)?;
            (batches, changes.iter().filter_map(message).collect())
        }
        _ => unpaired(rows),
    };
    if changes.is_empty() {
        return Ok(Messages::new(Vec::new(), vec![0], None));
    }
    let places: Vec<Place> = changes.iter().map(|change| change.after.unwrap_or(change.key)).collect();
    let key = key_bytes(&gather(&batches, &places)?, encoding)?;
    match encoding.format {
        ChangeFormat::Upsert => upserts(&batches, &changes, key),
        ChangeFormat::Debezium => debezium(&batches, &changes, key, origin, env.unix_ms()),
    }
}

/// The places of a message's rows.
struct Pair {
    before: Option<Place>,
    after: Option<Place>,
    /// A row with the key's values.
    key: Place,
}

/// `None` if the key was created and deleted within the epoch.
fn message(change: &Change) -> Option<Pair> {
    let nothing = change.row.is_none() && change.before.is_none();
    (!nothing).then_some(Pair { before: change.before, after: change.row, key: change.seen })
}

/// One message per row, unpaired.
fn unpaired(rows: Vec<UpsertRows>) -> (Vec<RecordBatch>, Vec<Pair>) {
    let mut pairs = Vec::new();
    for (batch, UpsertRows { rows, weights }) in rows.iter().enumerate() {
        for row in 0..rows.num_rows() {
            let place = (batch, row);
            let weight = weights.as_ref().map_or(1, |weights| weights.value(row));
            for _ in 0..weight.unsigned_abs() {
                let given = weight > 0;
                pairs.push(Pair { before: (!given).then_some(place), after: given.then_some(place), key: place });
            }
        }
    }
    (rows.into_iter().map(|rows| rows.rows).collect(), pairs)
}

fn gather(batches: &[RecordBatch], places: &[Place]) -> Result<RecordBatch> {
    let batches: Vec<&RecordBatch> = batches.iter().collect();
    interleave_record_batch(&batches, places).internal(|| "changes cannot be gathered".to_owned())
}

/// The rows at these places as JSON lines, with their boundaries.
fn lines(batches: &[RecordBatch], places: &[Place]) -> Result<Messages> {
    match places.is_empty() {
        true => Ok(Messages::new(Vec::new(), vec![0], None)),
        false => encode(&gather(batches, places)?, None),
    }
}

fn key_bytes(rows: &RecordBatch, encoding: &ChangeEncoding) -> Result<Option<OptionalBytes>> {
    if encoding.key.is_empty() {
        return Ok(None);
    }
    if let (KeyFormat::Text, [only]) = (encoding.key_format, encoding.key.as_slice()) {
        return keys(rows, only).map(Some);
    }
    let columns = encoding.key.iter().map(|name| rows.schema().index_of(name));
    let columns = columns.collect::<Result<Vec<_>, _>>();
    let columns =
        columns.map_err(|error| Error::sql("a key column is not among the sink's columns").with_source(error))?;
    let encoded = encode(&rows.project(&columns).internal(|| "keys cannot be cut out".to_owned())?, None)?;
    let mut keys = OptionalBytes { data: Vec::new(), bounds: vec![0], valid: vec![true; rows.num_rows()] };
    for message in encoded.iter() {
        keys.data.extend_from_slice(message.payload.unwrap_or_default());
        keys.bounds.push(keys.data.len() as u32);
    }
    Ok(Some(keys))
}

fn upserts(batches: &[RecordBatch], changes: &[Pair], keys: Option<OptionalBytes>) -> Result<Messages> {
    let given: Vec<Place> = changes.iter().filter_map(|change| change.after).collect();
    let given = lines(batches, &given)?;
    let mut payloads = given.iter().filter_map(|message| message.payload);
    let (mut data, mut bounds) = (Vec::with_capacity(given.bytes()), vec![0]);
    for change in changes {
        if change.after.is_some() {
            data.extend_from_slice(payloads.next().unwrap_or_default());
            data.push(b'\n');
        }
        bounds.push(data.len());
    }
    Ok(Messages::new(data, bounds, keys))
}

fn debezium(
    batches: &[RecordBatch],
    changes: &[Pair],
    keys: Option<OptionalBytes>,
    origin: &ChangeOrigin,
    now_ms: i64,
) -> Result<Messages> {
    let before = lines(batches, &changes.iter().filter_map(|change| change.before).collect::<Vec<_>>())?;
    let after = lines(batches, &changes.iter().filter_map(|change| change.after).collect::<Vec<_>>())?;
    let source = json!({
        "version": env!("CARGO_PKG_VERSION"), "connector": "weir", "name": origin.pipeline, "ts_ms": now_ms,
        "db": "", "table": origin.sink, "epoch": origin.epoch,
    });
    let end = format!(",\"source\":{source},\"ts_ms\":{now_ms}}}\n");
    let (mut befores, mut afters) = (before.iter(), after.iter());
    let (mut data, mut bounds) = (Vec::with_capacity(before.bytes() + after.bytes()), vec![0]);
    for change in changes {
        let old = change.before.and_then(|_| befores.next()).and_then(|message| message.payload);
        let new = change.after.and_then(|_| afters.next()).and_then(|message| message.payload);
        let op: &[u8] = match (old, new) {
            (None, _) => b"c",
            (Some(_), Some(_)) => b"u",
            (Some(_), None) => b"d",
        };
        for part in [b"{\"before\":", old.unwrap_or(b"null"), b",\"after\":", new.unwrap_or(b"null"), b",\"op\":\""] {
            data.extend_from_slice(part);
        }
        data.extend_from_slice(op);
        data.push(b'"');
        data.extend_from_slice(end.as_bytes());
        bounds.push(data.len());
    }
    Ok(Messages::new(data, bounds, keys))
}
