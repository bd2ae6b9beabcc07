//! The sources' records, read again: those that the pipeline had read, marked where it had refused them or found them late, as its dead
//! letters say.

use std::collections::{BTreeSet, HashMap};
use std::ops::BitOr;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Int64Type, TimeUnit, TimestampMicrosecondType};
use datafusion::prelude::SessionContext;

use super::super::prepare::Surroundings;
use super::written::arrived_in;
use crate::catalog::{OnError, SourceDef};
use crate::delta::{Table, TableStore};
use crate::error::{Context, Error, Result};
use crate::run::late::LATE;
use crate::run::row_errors::LEFT_OUT;
use crate::run::sinks::below;
use crate::sink::dead_letters;
use crate::source::chunk::{Chunk, Offset, Offsets, PartitionId, Payload, Poll, PollLimit, ReadFrom};
use crate::source::decode::{Decoded, Decoder, MAX_FUTURE};
use crate::state::Manifest;
use crate::time::EventTime;

/// The records of one source that have letters.
type Records = BTreeSet<(String, Offset)>;

/// Reasons why rows may not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Marks(u8);

impl Marks {
    /// Dead letters call them late.
    pub(super) const LATE: Self = Self(1);
    /// Their event time is null.
    pub(super) const WITHOUT_TIME: Self = Self(2);
    /// Dead letters say that an expression cannot be computed.
    pub(super) const NOT_COMPUTED: Self = Self(4);

    /// True if they have one in common.
    pub(super) fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for Marks {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A source's rows.
#[derive(Debug)]
pub(super) struct Reread {
    parts: Vec<(RecordBatch, Vec<Marks>)>,
    /// The event time's column.
    time: Option<usize>,
    /// `true` if there is one partition and event time never goes back.
    pub(super) is_in_order: bool,
    newest: EventTime,
}

impl Reread {
    /// The rows without those that have one of these marks.
    pub(super) fn without(&self, marks: Marks) -> Result<Vec<RecordBatch>> {
        let mut kept = Vec::with_capacity(self.parts.len());
        for (rows, of_rows) in &self.parts {
            match of_rows.iter().any(|of_row| of_row.meets(marks)) {
                false => kept.push(rows.clone()),
                true => {
                    let wanted: BooleanArray = of_rows.iter().map(|of_row| Some(!of_row.meets(marks))).collect();
                    kept.push(filter_record_batch(rows, &wanted).internal(|| "rows cannot be left out".to_owned())?);
                }
            }
        }
        kept.retain(|rows| rows.num_rows() > 0);
        Ok(kept)
    }

    /// The number of rows with one of these marks.
    pub(super) fn count(&self, marks: Marks) -> u64 {
        self.parts.iter().flat_map(|(_, of_rows)| of_rows).filter(|of_row| of_row.meets(marks)).count() as u64
    }

    /// The number of rows that have their event time together with another row.
    pub(super) fn ties(&self) -> u64 {
        let Some(time) = self.time else { return 0 };
        let mut seen: HashMap<i64, u64> = HashMap::new();
        for (rows, _) in &self.parts {
            let Ok(times) = times(rows.column(time)) else { return 0 };
            for time in times.as_primitive::<TimestampMicrosecondType>().iter().flatten() {
                *seen.entry(time).or_default() += 1;
            }
        }
        seen.into_values().filter(|rows| *rows > 1).sum()
    }

    fn add(&mut self, decoded: Decoded, end: Offset, known: &Known) -> Result<()> {
        let Decoded { rows, origins, .. } = decoded;
        let times = self.time.map(|time| rows.column(time));
        let (mut wanted, mut marks) = (Vec::with_capacity(rows.num_rows()), Vec::new());
        for row in 0..rows.num_rows() {
            let offset = origins.offsets.get(row);
            let is_wanted =
                offset.is_none_or(|offset| offset < end && !is_of(&known.refused, &origins.partition, offset));
            wanted.push(is_wanted);
            if !is_wanted {
                continue;
            }
            let has = |records: &Records| offset.is_some_and(|offset| is_of(records, &origins.partition, offset));
            let mark = |is: bool, mark: Marks| if is { mark } else { Marks::default() };
            marks.push(
                mark(has(&known.late), Marks::LATE)
                    | mark(has(&known.not_computed), Marks::NOT_COMPUTED)
                    | mark(times.is_some_and(|times| times.is_null(row)), Marks::WITHOUT_TIME),
            );
        }
        if marks.is_empty() {
            return Ok(());
        }
        let rows = match marks.len() == rows.num_rows() {
            true => rows,
            false => filter_record_batch(&rows, &BooleanArray::from(wanted))
                .internal(|| "rows cannot be left out".to_owned())?,
        };
        self.follow(&rows)?;
        self.parts.push((rows, marks));
        Ok(())
    }

    /// Notes whether event time goes on.
    fn follow(&mut self, rows: &RecordBatch) -> Result<()> {
        let Some(time) = self.time.filter(|_| self.is_in_order) else { return Ok(()) };
        for time in times(rows.column(time))?.as_primitive::<TimestampMicrosecondType>().iter().flatten() {
            self.is_in_order &= EventTime(time) >= self.newest;
            self.newest = self.newest.max(EventTime(time));
        }
        Ok(())
    }
}

fn times(column: &ArrayRef) -> Result<ArrayRef> {
    cast(column, &DataType::Timestamp(TimeUnit::Microsecond, None)).internal(|| "event times cannot be read".to_owned())
}

fn is_of(records: &Records, partition: &PartitionId, offset: Offset) -> bool {
    !records.is_empty() && records.contains(&(partition.to_string(), offset))
}

/// The records of a source that letters name.
struct Known {
    /// Too far ahead of the clock.
    refused: Records,
    late: Records,
    not_computed: Records,
}

/// The dead letters of a pipeline.
pub(super) struct Letters(Vec<RecordBatch>);

impl Letters {
    /// Reads them once those of the manifest's epoch are there; there may be none.
    pub(super) async fn of(manifest: &Manifest, around: &Surroundings) -> Result<Self> {
        let location = below(&around.pipeline_location(&manifest.pipeline), "dead_letters");
        let store = TableStore::open(&location, &around.storage, &around.env)?;
        if !store.is_table().await? {
            return Ok(Self(Vec::new()));
        }
        let table = Table::open(store).await?;
        arrived_in(&table, dead_letters::NAME, manifest).await?;
        let provider = table.provider(None).await?;
        let wanted = ["source", "partition", "offset", "reason"];
        let letters = SessionContext::new().read_table(provider)?.select_columns(&wanted)?.collect().await?;
        Ok(Self(letters))
    }

    /// The records of a source whose letters give such a reason.
    fn records(&self, source: &str, is_wanted: impl Fn(&str) -> bool) -> Result<Records> {
        let mut found = Records::new();
        for batch in &self.0 {
            let texts = |column: usize| {
                let text = arrow::compute::cast(batch.column(column), &arrow::datatypes::DataType::Utf8);
                text.internal(|| "dead letters cannot be read".to_owned())
            };
            let (sources, partitions, reasons) = (texts(0)?, texts(1)?, texts(3)?);
            let (sources, partitions, reasons) =
                (sources.as_string::<i32>(), partitions.as_string::<i32>(), reasons.as_string::<i32>());
            let offsets = batch.column(2).as_primitive_opt::<Int64Type>();
            let offsets = offsets.ok_or_else(|| Error::internal("dead letters have no offsets"))?;
            for row in (0..batch.num_rows()).filter(|row| offsets.is_valid(*row) && partitions.is_valid(*row)) {
                if sources.value(row) == source && is_wanted(reasons.value(row)) {
                    found.insert((partitions.value(row).to_owned(), offsets.value(row)));
                }
            }
        }
        Ok(found)
    }
}

/// Reads a source again up to `ends`.
pub(super) async fn reread(
    def: &SourceDef,
    pipeline: &str,
    ends: &Offsets,
    letters: &Letters,
    around: &Surroundings,
) -> Result<Reread> {
    let from = ReadFrom { bounded: true, ..ReadFrom::default() };
    let mut reader = crate::source::open(def, &format!("{pipeline}-verify"), from, &around.env).await?;
    let decoder = Decoder::new(def)?;
    // The clock has gone on: rows that were too far ahead of it are known by their letters, where there are letters.
    let decoder = if def.on_error == OnError::DeadLetter { decoder } else { decoder.with_clock(def, &around.env) };
    let known = Known {
        refused: letters.records(&def.name, |reason| reason.contains(MAX_FUTURE))?,
        late: letters.records(&def.name, |reason| reason.starts_with(LATE))?,
        not_computed: letters.records(&def.name, |reason| reason.contains(LEFT_OUT))?,
    };
    let limit = PollLimit {
        rows: 100_000,
        bytes: around.limits.pool.poll_bytes(1),
        wait: std::time::Duration::from_millis(200),
        linger: std::time::Duration::ZERO,
    };
    let time = def.watermark.as_ref().and_then(|watermark| def.schema().index_of(&watermark.column).ok());
    let mut read = Reread { parts: Vec::new(), time, is_in_order: true, newest: EventTime::MIN };
    let mut reached = Offsets::new();
    loop {
        match reader.poll(limit).await? {
            Poll::Finished => break,
            Poll::Idle => {}
            Poll::Chunks(chunks) => {
                for chunk in chunks {
                    let end = ends.get(&chunk.partition).copied().unwrap_or(chunk.start);
                    reached.insert(Arc::clone(&chunk.partition), chunk.end);
                    if chunk.start < end {
                        read.add(decoder.decode(before(chunk, end))?, end, &known)?;
                    }
                }
            }
        }
        if ends.iter().all(|(partition, end)| reached.get(partition).is_some_and(|at| at >= end)) {
            break;
        }
    }
    read.is_in_order &= ends.len() <= 1;
    Ok(read)
}

/// The part of a chunk that is before `end`: records behind it are not even decoded, since one of them may be bad.
fn before(mut chunk: Chunk, end: Offset) -> Chunk {
    if chunk.end <= end {
        return chunk;
    }
    match &mut chunk.payload {
        Payload::Rows(batch) => {
            let rows = usize::try_from(end - chunk.start).unwrap_or(0).min(batch.num_rows());
            *batch = batch.slice(0, rows);
        }
        Payload::Records(records) if records.is_empty() => {}
        Payload::Records(records) => {
            let _behind = records.split_off(records.offsets.partition_point(|offset| *offset < end));
        }
    }
    chunk
}
