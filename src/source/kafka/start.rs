//! Decides where each partition begins: a pure decision over the options and the topic's offsets.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::gather::Begin;
use crate::catalog::{OnDataLoss, StartingOffsets};
use crate::error::{Error, Result};
use crate::source::chunk::{Offset, Offsets};

/// The offsets of a partition's records: `[low, high)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub low: Offset,
    pub high: Offset,
}

/// The facts at the start of reading.
pub struct Facts<'a> {
    pub source: &'a str,
    pub topic: &'a str,
    /// Every partition of the topic.
    pub ranges: &'a BTreeMap<i32, Range>,
    /// Committed progress, by partition id.
    pub committed: &'a Offsets,
    /// `true` if the topic has replaced the one that was read: it is read from its beginning, whatever the options.
    pub begins_again: bool,
    pub starting: &'a StartingOffsets,
    /// For `StartingOffsets::Timestamp`: the first offset at or after it; absent if there is none yet.
    pub at_timestamp: &'a BTreeMap<i32, Offset>,
    pub on_data_loss: OnDataLoss,
    /// Stop at the current ends.
    pub bounded: bool,
}

/// Decides where every partition begins.
///
/// A partition that appears beside committed ones is new and begins at its earliest record, whatever the options. To make
/// this hold after `latest` too, a start at the end returns the skipped range as a chunk without records, which the first
/// commit then records.
pub fn decide(facts: &Facts<'_>) -> Result<Vec<Begin>> {
    let resumed = facts.ranges.keys().any(|number| facts.committed.contains_key(&*id(facts.topic, *number)));
    facts.ranges.iter().map(|(number, range)| begin(facts, resumed, *number, *range)).collect()
}

fn begin(facts: &Facts<'_>, resumed: bool, number: i32, range: Range) -> Result<Begin> {
    let Range { low, high } = range;
    let committed = facts.committed.get(&*id(facts.topic, number)).copied();
    let (chunk_start, from) = match (committed, facts.starting) {
        _ if facts.begins_again => (low, low),
        (Some(offset), _) => wanted(facts, number, range, offset)?,
        (None, _) if resumed => (low, low),
        (None, StartingOffsets::Earliest) => (low, low),
        (None, StartingOffsets::Latest) => (low, high),
        (None, StartingOffsets::Timestamp(_)) => match facts.at_timestamp.get(&number) {
            Some(offset) => (*offset, *offset),
            None => (low, high),
        },
        (None, StartingOffsets::Explicit(offsets)) => match offsets.get(&number) {
            Some(offset) => wanted(facts, number, range, *offset)?,
            None => (low, low),
        },
    };
    Ok(Begin { partition: number, chunk_start, from, high, stop_at: facts.bounded.then_some(high) })
}

/// The chunk's start and the first offset to read, to continue at `offset`.
fn wanted(facts: &Facts<'_>, number: i32, range: Range, offset: Offset) -> Result<(Offset, Offset)> {
    let lost = offset < range.low || offset > range.high;
    match (lost, facts.on_data_loss) {
        (false, _) => Ok((offset, offset)),
        (true, OnDataLoss::Fail) => Err(data_loss(facts.source, facts.topic, number, offset, Some(range))),
        (true, OnDataLoss::Continue) => {
            tracing::warn!(
                source = facts.source,
                topic = facts.topic,
                partition = number,
                wanted = offset,
                low = range.low,
                high = range.high,
                "offset is gone, going on at the earliest record"
            );
            // Expired: the chunk covers the gap. Created again: the offsets start again.
            Ok((offset.min(range.low), range.low))
        }
    }
}

/// The error for an offset that the topic does not have.
pub fn data_loss(source: &str, topic: &str, partition: i32, offset: Offset, range: Option<Range>) -> Error {
    let error = Error::damaged(format!(
        "offset {offset} of partition {partition} of topic `{topic}`, where source `{source}` goes on, is not there"
    ));
    let error = match range {
        Some(Range { low, high }) if offset < low => error.with_detail(format!(
            "The partition holds offsets {low} to {high}: {} records expired before they were read.",
            low - offset
        )),
        Some(Range { low, high }) => error.with_detail(format!(
            "The partition holds offsets {low} to {high}: the topic was made anew or lost its end."
        )),
        None => error.with_detail("The records expired, or the topic was made anew."),
    };
    error.with_hint("Set `on_data_loss = 'continue'` on the source to go on at the earliest record that is there.")
}

/// A partition's stable name.
pub fn id(topic: &str, partition: i32) -> Arc<str> {
    Arc::from(format!("{topic}/{partition}"))
}
