//! Reading and decoding, ahead of the dataflow: one task per source, handing over whole micro-batches.
//!
//! A feed reads chunks, spreads them over lanes, decodes them and offers the result through a channel of bounded length:
//! when the dataflow is slower than the source, reading waits. While one micro-batch is in the dataflow the next is being decoded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arrow::array::{Array, AsArray};
use arrow::compute::concat_batches;
use arrow::datatypes::TimestampMicrosecondType;
use arrow::record_batch::RecordBatch;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::sinks::OutputMemory;
use super::stop::Stop;
use super::vitals::{SourceVitals, UNKNOWN};
use crate::error::{Context, Result};
use crate::memory::Reserved;
use crate::plan::WatermarkExpr;
use crate::source::chunk::{
    Chunk, DeadLetter, Offsets, PartitionId, Payload, Poll, PollLimit, SourceReader, TopicIdentity,
};
use crate::source::decode::{Decoded, Decoder};
use crate::source::origin::Origins;
use crate::state::OffsetRange;
use crate::time::{EventTime, Watermark};

/// Micro-batches that may wait decoded in front of the dataflow. What comes while one waits is gathered by the reader and becomes the
/// next, so that a dataflow that is behind gets fewer and larger ones.
const AHEAD: usize = 1;

/// Below this many rows a micro-batch stays in one lane: spreading it would cost more than it saves.
const SPREAD_ROWS: usize = 8_192;

/// A decoded micro-batch of one source.
#[derive(Debug)]
pub struct Fed {
    /// Index into the dataflow's sources.
    pub source: usize,
    /// Rows per lane; lanes without rows are left out.
    pub lanes: Vec<Vec<RecordBatch>>,
    /// The origins of the rows, per lane.
    pub origins: Vec<Origins>,
    pub dead: Vec<DeadLetter>,
    /// Offsets that this micro-batch read.
    pub ranges: Vec<(PartitionId, OffsetRange)>,
    pub records: u64,
    /// Times whose number may be of another unit than it was read as.
    pub doubtful_times: u64,
    pub bytes: u64,
    /// Of its rows.
    pub event_time: EventTimeSum,
    /// When its records had arrived.
    pub arrived: Instant,
    /// The greatest watermark among each partition's rows.
    pub reached: Vec<(PartitionId, Watermark)>,
    /// The rows at which event time moves within the batch, if that is asked for.
    pub moves: Vec<Move>,
    /// Partitions that may still give rows; empty when the source is one stream.
    pub open: Vec<PartitionId>,
    /// Partitions that are read to their end and may grow.
    pub tails: Vec<PartitionId>,
    /// The topic that was read.
    pub topic: Option<TopicIdentity>,
    /// Memory that it takes, given back with it.
    #[expect(dead_code, reason = "held, never looked at")]
    reserved: Reserved,
}

/// The event times of some rows.
#[derive(Debug, Default)]
pub struct EventTimeSum {
    /// Microseconds.
    sum: i128,
    rows: u64,
}

impl EventTimeSum {
    fn add(&mut self, other: &Self) {
        (self.sum, self.rows) = (self.sum + other.sum, self.rows + other.rows);
    }

    /// Their mean, and how many they are.
    pub fn mean(&self) -> Option<(EventTime, u64)> {
        let mean = i64::try_from(self.sum / i128::from(self.rows.max(1))).ok()?;
        Some((EventTime(mean), self.rows)).filter(|_| self.rows > 0)
    }
}

/// The watermark that a partition has reached before a row that is behind it.
#[derive(Debug)]
pub struct Move {
    pub lane: usize,
    /// Rows of the lane before it.
    pub rows: usize,
    pub partition: PartitionId,
    pub reached: Watermark,
}

/// A message of a feed.
#[derive(Debug)]
pub enum Said {
    Batch(Box<Fed>),
    /// A bounded source has been read to its end.
    Finished,
    Failed(crate::error::Error),
}

/// The way from a source's records to rows.
#[derive(Debug, Clone)]
pub struct Decoding {
    pub decoder: Arc<Decoder>,
    pub watermark: Option<WatermarkExpr>,
    /// The column of the event time.
    pub time_column: Option<usize>,
    /// `true` if late rows are found one by one.
    pub by_row: bool,
}

/// The result of decoding a chunk.
struct Piece {
    partition: PartitionId,
    decoded: Decoded,
    /// The greatest watermark among its rows.
    reached: Option<Watermark>,
    /// See [`WatermarkExpr::late_rows`].
    late: Vec<(usize, Watermark)>,
    event_time: EventTimeSum,
}

impl Decoding {
    /// The rows of a chunk, and what their times are.
    fn decode(&self, chunk: Chunk) -> Result<Piece> {
        let partition = Arc::clone(&chunk.partition);
        let decoded = self.decoder.decode(chunk)?;
        let (mut reached, mut late) = (None, Vec::new());
        if let Some(watermark) = &self.watermark {
            reached = watermark.reached(&decoded.rows)?;
            if self.by_row {
                late = watermark.late_rows(&decoded.rows)?;
            }
        }
        let event_time = self.event_time(&decoded.rows);
        Ok(Piece { partition, decoded, reached, late, event_time })
    }

    fn event_time(&self, rows: &RecordBatch) -> EventTimeSum {
        let column =
            self.time_column.and_then(|column| rows.column(column).as_primitive_opt::<TimestampMicrosecondType>());
        let Some(times) = column else { return EventTimeSum::default() };
        let rows = (times.len() - times.null_count()) as u64;
        let sum = match times.null_count() {
            0 => times.values().iter().map(|time| i128::from(*time)).sum(),
            _ => times.iter().flatten().map(i128::from).sum(),
        };
        EventTimeSum { sum, rows }
    }
}

/// Settings with which feeds read.
#[derive(Debug, Clone)]
pub struct FeedLimits {
    pub poll: PollLimit,
    pub lanes: usize,
    pub memory: OutputMemory,
}

impl FeedLimits {
    /// The next poll's limit: what a micro-batch makes has to fit, since an epoch cannot close before its end.
    fn poll(&self) -> PollLimit {
        PollLimit { rows: self.poll.rows.min(self.memory.micro_batch_rows()), ..self.poll }
    }
}

/// A running feed, as the coordinator holds it.
#[derive(Debug)]
pub struct Feed {
    vitals: SourceVitals,
    doubtful_times: Arc<AtomicU64>,
    committed: watch::Sender<Offsets>,
    held: watch::Sender<Vec<PartitionId>>,
    order: watch::Sender<Vec<PartitionId>>,
    task: JoinHandle<()>,
}

impl Feed {
    /// Starts to read. The feed ends when `stop` is set, the receiver is dropped, the source is finished or fails.
    pub fn start(
        source: usize,
        reader: Box<dyn SourceReader>,
        decoding: Decoding,
        limits: FeedLimits,
        out: mpsc::Sender<Said>,
        stop: Stop,
    ) -> Self {
        let vitals = SourceVitals::default();
        let (committed, commits) = watch::channel(Offsets::new());
        let (held, holds) = watch::channel(Vec::new());
        let (order, orders) = watch::channel(Vec::new());
        let doubtful_times = Arc::default();
        let work = Work {
            source,
            reader,
            decoding,
            limits,
            vitals: vitals.clone(),
            doubtful_times: Arc::clone(&doubtful_times),
            commits,
            holds,
            orders,
        };
        let task = tokio::spawn(async move {
            let end = tokio::select! {
                end = work.run(&out) => end,
                () = stop.wait() => return,
            };
            let said = match end {
                Ok(()) => Said::Finished,
                Err(error) => Said::Failed(error),
            };
            // A receiver that is gone has stopped listening for good.
            let _ = out.send(said).await;
        });
        Self { vitals, doubtful_times, committed, held, order, task }
    }

    /// Records between what was handed over and the newest known end.
    pub fn lag(&self) -> Option<u64> {
        Some(self.vitals.lag.load(Ordering::Relaxed)).filter(|lag| *lag != UNKNOWN)
    }

    /// The values that the gauges show of the source.
    pub fn vitals(&self) -> &SourceVitals {
        &self.vitals
    }

    /// Times whose number may be of another unit than it was read as.
    pub fn doubtful_times(&self) -> u64 {
        self.doubtful_times.load(Ordering::Relaxed)
    }

    /// Leaves these partitions unread until others are named.
    pub fn hold(&self, partitions: Vec<PartitionId>) {
        self.held.send_if_modified(|held| {
            let changed = *held != partitions;
            if changed {
                *held = partitions;
            }
            changed
        });
    }

    /// Names its partitions in order of their event time.
    pub fn prefer(&self, slowest_first: Vec<PartitionId>) {
        self.order.send_replace(slowest_first);
    }

    /// Passes on how far commits have come.
    pub fn committed(&self, offsets: Offsets) {
        self.committed.send_replace(offsets);
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The channel that one feed writes to.
pub fn channel() -> (mpsc::Sender<Said>, mpsc::Receiver<Said>) {
    mpsc::channel(AHEAD)
}

struct Work {
    source: usize,
    reader: Box<dyn SourceReader>,
    decoding: Decoding,
    limits: FeedLimits,
    vitals: SourceVitals,
    doubtful_times: Arc<AtomicU64>,
    commits: watch::Receiver<Offsets>,
    holds: watch::Receiver<Vec<PartitionId>>,
    orders: watch::Receiver<Vec<PartitionId>>,
}

impl Work {
    async fn run(mut self, out: &mpsc::Sender<Said>) -> Result<()> {
        loop {
            let Ok(place) = out.reserve().await else { return Ok(()) };
            if self.commits.has_changed().unwrap_or(false) {
                let offsets = self.commits.borrow_and_update().clone();
                self.reader.committed(&offsets);
            }
            if self.holds.has_changed().unwrap_or(false) {
                let partitions = self.holds.borrow_and_update().clone();
                self.reader.hold(&partitions);
            }
            if self.orders.has_changed().unwrap_or(false) {
                let order = self.orders.borrow_and_update().clone();
                self.reader.prefer(&order);
            }
            let polled = self.reader.poll(self.limits.poll()).await?;
            self.vitals.lag.store(self.reader.lag().unwrap_or(UNKNOWN), Ordering::Relaxed);
            let silent = self.reader.silent_for().map_or(UNKNOWN, |silent| silent.as_millis() as u64);
            self.vitals.silent_ms.store(silent, Ordering::Relaxed);
            match polled {
                Poll::Idle => {}
                Poll::Finished => return Ok(()),
                Poll::Chunks(chunks) => {
                    let reserved = self.limits.memory.reserve_input();
                    let mut fed = decode(self.source, chunks, &self.decoding, self.limits.lanes, reserved).await?;
                    fed.open = self.reader.open_partitions();
                    fed.tails = self.reader.tails();
                    self.note_unread(&mut fed)?;
                    self.note_doubtful_times(&fed);
                    fed.topic = self.reader.topic();
                    place.send(Said::Batch(Box::new(fed)));
                }
            }
        }
    }
}

/// Represents the unread part of a single-stream source among its partitions.
const UNREAD: &str = "unread";

impl Work {
    fn note_doubtful_times(&self, fed: &Fed) {
        if fed.doubtful_times > 0 && self.doubtful_times.fetch_add(fed.doubtful_times, Ordering::Relaxed) == 0 {
            tracing::warn!(
                source = self.decoding.decoder.source(),
                times = fed.doubtful_times,
                "numbers in a TIMESTAMP column are times of January 1970 in milliseconds and recent in seconds: if they are seconds, \
                 say `timestamp_unit = 'seconds'`, else `'millis'`"
            );
        }
    }

    /// Lets event time wait for the unread part of the source, where the source knows which times it has.
    fn note_unread(&self, fed: &mut Fed) -> Result<()> {
        let (Some(least), Some(watermark)) = (self.reader.least_unread(), &self.decoding.watermark) else {
            return Ok(());
        };
        let schema = self.decoding.decoder.schema();
        let reached = least.map(|least| watermark.at(&schema, least)).transpose()?.flatten();
        fed.reached.extend(reached.map(|reached| (UNREAD.into(), reached)));
        fed.open = fed.reached.iter().map(|(partition, _)| Arc::clone(partition)).chain([UNREAD.into()]).collect();
        fed.open.dedup();
        Ok(())
    }
}

async fn decode(
    source: usize,
    chunks: Vec<Chunk>,
    decoding: &Decoding,
    lanes: usize,
    reserved: Reserved,
) -> Result<Fed> {
    let arrived = Instant::now();
    let ranges = chunks
        .iter()
        .map(|chunk| (Arc::clone(&chunk.partition), OffsetRange { start: chunk.start, end: chunk.end }))
        .collect();
    let bytes = chunks.iter().map(|chunk| size(&chunk.payload)).sum();
    // The records and their columns are held at a time.
    reserved.set(2 * bytes);
    let mut tasks = Vec::new();
    for chunks in spread(chunks, lanes) {
        let decoding = decoding.clone();
        tasks.push(move || chunks.into_iter().map(|chunk| decoding.decode(chunk)).collect::<Result<Vec<_>>>());
    }
    let mut decoded = Vec::with_capacity(tasks.len());
    if tasks.len() == 1 {
        decoded.extend(tasks.into_iter().map(|task| task()));
    } else {
        let running: Vec<_> = tasks.into_iter().map(|task| tokio::spawn(async move { task() })).collect();
        for task in running {
            decoded.push(task.await.internal(|| "a decoding task ended abnormally".to_owned())?);
        }
    }
    let mut fed = Fed {
        source,
        lanes: Vec::new(),
        origins: Vec::new(),
        dead: Vec::new(),
        ranges,
        records: 0,
        doubtful_times: 0,
        bytes,
        event_time: EventTimeSum::default(),
        arrived,
        reached: Vec::new(),
        moves: Vec::new(),
        open: Vec::new(),
        tails: Vec::new(),
        topic: None,
        reserved,
    };
    for lane in decoded {
        let (rows, origins) = gather(lane?, &mut fed)?;
        if !rows.is_empty() {
            fed.lanes.push(rows);
            fed.origins.push(origins);
        }
    }
    Ok(fed)
}

/// Collects a lane's rows; many small batches become one, so that each operator and model is called once.
fn gather(lane: Vec<Piece>, fed: &mut Fed) -> Result<(Vec<RecordBatch>, Origins)> {
    let (mut rows, mut origins) = (Vec::with_capacity(lane.len()), Vec::with_capacity(lane.len()));
    let (number, mut before) = (fed.lanes.len(), 0);
    for Piece { partition, decoded: mut piece, reached, late, event_time } in lane {
        fed.event_time.add(&event_time);
        fed.moves.extend(late.into_iter().map(|(row, reached)| Move {
            lane: number,
            rows: before + row,
            partition: Arc::clone(&partition),
            reached,
        }));
        before += piece.rows.num_rows();
        fed.reached.extend(reached.map(|reached| (partition, reached)));
        fed.records += piece.rows.num_rows() as u64 + piece.refused as u64;
        fed.doubtful_times += piece.doubtful_times as u64;
        fed.dead.append(&mut piece.dead);
        if piece.rows.num_rows() > 0 {
            rows.push(piece.rows);
            origins.push(piece.origins);
        }
    }
    let total: usize = rows.iter().map(RecordBatch::num_rows).sum();
    if rows.len() > 1 && total <= SPREAD_ROWS {
        let schema = rows[0].schema();
        rows = vec![concat_batches(&schema, &rows).internal(|| "decoded batches differ in schema".to_owned())?];
    }
    Ok((rows, Origins::new(origins)))
}

/// Spreads chunks over at most `lanes` lanes, the largest first onto the emptiest lane.
fn spread(mut chunks: Vec<Chunk>, lanes: usize) -> Vec<Vec<Chunk>> {
    let total: usize = chunks.iter().map(|chunk| rows(&chunk.payload)).sum();
    if total < SPREAD_ROWS || lanes < 2 || chunks.len() < 2 {
        return vec![chunks];
    }
    chunks.sort_by_key(|chunk| std::cmp::Reverse(rows(&chunk.payload)));
    let mut out: Vec<(usize, Vec<Chunk>)> = (0..lanes.min(chunks.len())).map(|_| (0, Vec::new())).collect();
    for chunk in chunks {
        if let Some(lane) = out.iter_mut().min_by_key(|(rows, _)| *rows) {
            lane.0 += rows(&chunk.payload);
            lane.1.push(chunk);
        }
    }
    out.into_iter().map(|(_, chunks)| chunks).collect()
}

fn rows(payload: &Payload) -> usize {
    match payload {
        Payload::Records(records) => records.len(),
        Payload::Rows(batch) => batch.num_rows(),
    }
}

fn size(payload: &Payload) -> u64 {
    match payload {
        Payload::Records(records) => records.data.len() as u64,
        Payload::Rows(batch) => batch.get_array_memory_size() as u64,
    }
}
