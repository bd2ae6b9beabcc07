//! A pipeline run over its input in random micro-batches, with commits, crashes and restarts, the way the coordinator runs one: through the
//! same dataflow, memory, state files and clocks, with nothing but sources and sinks replaced.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::row::{RowConverter, SortField};
use rand::Rng;
use rand::rngs::StdRng;

use super::input::{BEGINNING, Log, joined};
use super::queries::Shape;
use crate::delta::{TableStore, UpsertRows};
use crate::env::Env;
use crate::plan::{Branch, Dataflow};
use crate::run::memory::{Limits, Memory};
use crate::run::open::{MicroBatch, Outputs};
use crate::run::remember::Remembered;
use crate::run::sinks::{Home, OutputMemory, Sinks};
use crate::run::watermark::SourceClock;
use crate::sink::delta::UpsertSink;
use crate::sink::{Arrived, Opening, Sink, SinkWriter, Staged};
use crate::source::chunk::PartitionId;
use crate::state::{Epoch, OperatorSnapshot, SourceTime, StateStore};
use crate::time::{EventTime, Watermark};

/// The rows of one INSERT, each with how often it counts.
pub type Changes = BTreeMap<Vec<u8>, i64>;

/// Durable state, from which a restart begins.
#[derive(Clone)]
struct Committed {
    epoch: Epoch,
    /// Per source and partition.
    positions: Vec<Vec<usize>>,
    times: Vec<SourceTime>,
    watermarks: BTreeMap<String, Watermark>,
    state: Vec<OperatorSnapshot>,
    /// Per INSERT.
    rows: Vec<Changes>,
}

/// Parts of a run.
pub struct Setup {
    pub env: Env,
    pub shape: Shape,
    pub dataflow: Arc<Dataflow>,
    pub lookups: BTreeMap<String, TableStore>,
    pub states: StateStore,
    pub limits: Limits,
    /// Cold state leaves memory.
    pub divides: bool,
}

/// The end of a run.
#[derive(Debug, Default, Clone, Copy)]
pub struct Ended {
    pub restarts: usize,
    pub epochs: usize,
    /// Rows that operators said were late, over all epochs that counted.
    pub late: usize,
}

/// A run.
pub struct Run<'a> {
    setup: Setup,
    random: &'a mut StdRng,
    logs: &'a mut [Log],
    memory: Memory,
    remembered: Remembered,
    clocks: Vec<SourceClock>,
    positions: Vec<Vec<usize>>,
    committed: Committed,
    outputs: Arc<Outputs>,
    lanes: usize,
    converters: Vec<RowConverter>,
    ended: Ended,
}

impl<'a> Run<'a> {
    /// Runs `setup` over `logs` to their end; returns the rows of each INSERT, consolidated.
    pub async fn to_the_end(setup: Setup, logs: &'a mut [Log], random: &'a mut StdRng) -> (Vec<RecordBatch>, Ended) {
        let mut run = Self::new(setup, logs, random).await;
        // Every restart and every pause is chosen at random, but they come to an end.
        for _ in 0..20_000 {
            match run.random.random_range(0..100) {
                0..72 => run.micro_batch().await,
                72..77 => run.pass_time(None).await,
                77..92 => run.commit().await,
                92..97 if run.ended.restarts < 12 => run.restart().await,
                _ => {}
            }
            if run.has_read_all() {
                run.pass_time(Some(Watermark::END)).await;
                if run.ended.restarts < 14 && run.random.random_bool(0.3) {
                    run.restart().await;
                    continue;
                }
                run.commit().await;
                return run.finished();
            }
        }
        panic!("the input never ends");
    }

    async fn new(setup: Setup, logs: &'a mut [Log], random: &'a mut StdRng) -> Self {
        let positions: Vec<Vec<usize>> = logs.iter().map(|log| vec![0; log.partitions.len()]).collect();
        let branches = &setup.dataflow.branches;
        let committed = Committed {
            epoch: Epoch(0),
            positions: positions.clone(),
            times: vec![SourceTime::default(); logs.len()],
            watermarks: BTreeMap::new(),
            state: Vec::new(),
            rows: vec![Changes::new(); branches.len()],
        };
        let converters = branches.iter().map(converter).collect();
        let lanes = lanes(random, setup.shape);
        let memory = Memory::new(&setup.dataflow, lanes, &setup.lookups, setup.limits.clone()).await.unwrap();
        let remembered = Remembered::new(setup.states.clone(), Vec::new(), setup.env.clone());
        let outputs = outputs(&setup, &memory, Epoch(1), lanes);
        let clocks = clocks(&committed.times);
        Self {
            setup,
            random,
            logs,
            memory,
            remembered,
            clocks,
            positions,
            committed,
            outputs,
            lanes,
            converters,
            ended: Ended::default(),
        }
    }

    fn has_read_all(&self) -> bool {
        (0..self.logs.len()).all(|source| self.is_read(source))
    }

    fn is_read(&self, source: usize) -> bool {
        (0..self.logs[source].partitions.len())
            .all(|partition| !self.logs[source].is_open(partition, self.positions[source][partition]))
    }

    fn times(&self, end: Option<Watermark>) -> Vec<Watermark> {
        let time = |source: usize| match end {
            Some(end) => end,
            None if self.is_read(source) => Watermark::END,
            None => self.clocks[source].watermark(),
        };
        (0..self.clocks.len()).map(time).collect()
    }

    /// Rows of some partitions of one source, on some lanes.
    async fn micro_batch(&mut self) {
        let source = self.random.random_range(0..self.logs.len());
        // A day-old row is late because of rows that have been committed: reading again from there, it is late again.
        let slowest = self.committed.times.iter().map(|time| time.watermark).min().unwrap_or(Watermark::NONE);
        let grown = self.random.random_range(0..30);
        self.logs[source].grow(self.random, grown, slowest > Watermark(BEGINNING - 3_600_000_000));
        let schema = self.setup.dataflow.sources[source].def.schema();
        let mut lanes: Vec<Vec<RecordBatch>> = vec![Vec::new(); self.lanes];
        let mut reached = Vec::new();
        for partition in 0..self.logs[source].partitions.len() {
            let most = if self.random.random_bool(0.2) { 0 } else { self.random.random_range(1..40) };
            let rows = self.logs[source].read(partition, self.positions[source][partition], most);
            self.positions[source][partition] += rows.num_rows();
            reached.extend(self.reached(source, &rows).map(|time| (id(partition), time)));
            self.spread(&rows, &mut lanes);
        }
        lanes.retain(|lane| !lane.is_empty());
        if self.random.random_bool(0.3) {
            // As decoding does with small batches.
            lanes.iter_mut().for_each(|lane| *lane = vec![joined(&schema, lane)]);
        }
        let open: Vec<PartitionId> = (0..self.logs[source].partitions.len())
            .filter(|partition| self.logs[source].is_open(*partition, self.positions[source][*partition]))
            .map(id)
            .collect();
        self.clocks[source].hear(&reached, &open, Instant::now());
        let batch = MicroBatch {
            source: Some(source),
            lanes,
            origins: Vec::new(),
            cuts: Vec::new(),
            times: self.times(None),
            now: self.now(),
        };
        self.outputs.run(batch, &mut self.memory).await.unwrap();
    }

    /// Cuts rows into batches and gives each to a lane.
    fn spread(&mut self, rows: &RecordBatch, lanes: &mut [Vec<RecordBatch>]) {
        let mut at = 0;
        while at < rows.num_rows() {
            let len = if self.setup.shape.ordered { rows.num_rows() } else { self.random.random_range(1..=20) };
            let len = len.min(rows.num_rows() - at);
            let lane = self.random.random_range(0..lanes.len());
            lanes[lane].push(rows.slice(at, len));
            at += len;
        }
    }

    fn reached(&self, source: usize, rows: &RecordBatch) -> Option<Watermark> {
        let watermark = self.setup.dataflow.sources[source].watermark.as_ref().unwrap();
        watermark.reached(rows).unwrap()
    }

    fn now(&self) -> EventTime {
        EventTime::of_millis(self.setup.env.unix_ms())
    }

    /// A micro-batch without rows.
    async fn pass_time(&mut self, end: Option<Watermark>) {
        let batch = MicroBatch {
            source: None,
            lanes: Vec::new(),
            origins: Vec::new(),
            cuts: Vec::new(),
            times: self.times(end),
            now: self.now(),
        };
        self.outputs.run(batch, &mut self.memory).await.unwrap();
    }

    /// Closes the epoch: its rows count from here on, and what is remembered is written down.
    async fn commit(&mut self) {
        let epoch = self.committed.epoch.next();
        for (_, staged) in self.outputs.close_writers(|_| true).await.unwrap() {
            let Staged::Rows { rows: arrived, .. } = staged else { panic!("rows went elsewhere: {staged:?}") };
            for Arrived { at, rows: UpsertRows { rows, weights } } in arrived {
                let rows = self.converters[at.branch].convert_columns(rows.columns()).unwrap();
                let into = &mut self.committed.rows[at.branch];
                for (number, row) in rows.iter().enumerate() {
                    let weight = weights.as_ref().map_or(1, |weights| weights.value(number));
                    *into.entry(row.as_ref().to_vec()).or_default() += weight;
                }
            }
        }
        for rows in &mut self.committed.rows {
            rows.retain(|_, count| *count != 0);
            assert!(rows.values().all(|count| *count > 0), "epoch {epoch:?} takes back what was never given");
        }
        self.ended.late += self.outputs.refused() as usize;
        let changes = self.memory.changes(&self.setup.dataflow).unwrap();
        self.committed.state = self.remembered.write(epoch, changes).await.unwrap();
        self.committed.epoch = epoch;
        self.committed.positions.clone_from(&self.positions);
        self.committed.times = self.clocks.iter().map(SourceClock::time).collect();
        let operators = self.setup.dataflow.operators.iter().enumerate();
        self.committed.watermarks =
            operators.map(|(index, node)| (node.id.clone(), self.memory.watermark(index))).collect();
        self.remembered.tidy(epoch).await;
        if self.setup.divides && self.memory.should_divide() {
            let snapshots = self.remembered.newest().await;
            self.memory.divide(&self.setup.dataflow, self.remembered.store(), &snapshots).await.unwrap();
        }
        self.begin().await;
        self.ended.epochs += 1;
    }

    /// Begins the next epoch.
    async fn begin(&mut self) {
        self.setup.env.advance(Duration::from_secs(self.random.random_range(0..100)));
        self.memory.refresh().await.unwrap();
        self.outputs = outputs(&self.setup, &self.memory, self.committed.epoch.next(), self.lanes);
    }

    /// Forgets all that is not durable and begins from that, perhaps with another number of lanes.
    async fn restart(&mut self) {
        self.lanes = lanes(self.random, self.setup.shape);
        let Setup { dataflow, lookups, limits, states, env, .. } = &self.setup;
        self.memory = Memory::new(dataflow, self.lanes, lookups, limits.clone()).await.unwrap();
        for (index, node) in dataflow.operators.iter().enumerate() {
            let Some(snapshot) = self.committed.state.iter().find(|snapshot| snapshot.operator == node.id) else {
                continue;
            };
            let watermark = self.committed.watermarks.get(&node.id).copied().unwrap_or(Watermark::NONE);
            self.memory.restore(index, states, snapshot, watermark).await.unwrap();
            self.memory.resume(index, watermark);
        }
        self.remembered = Remembered::new(states.clone(), self.committed.state.clone(), env.clone());
        self.clocks = clocks(&self.committed.times);
        self.positions.clone_from(&self.committed.positions);
        self.ended.restarts += 1;
        self.begin().await;
    }

    fn finished(self) -> (Vec<RecordBatch>, Ended) {
        let branches = self.setup.dataflow.branches.iter().zip(&self.converters);
        let rows = branches.zip(&self.committed.rows).map(|((branch, converter), changes)| {
            let parser = converter.parser();
            let repeated = changes.iter().flat_map(|(row, count)| std::iter::repeat_n(row, *count as usize));
            let columns = converter.convert_rows(repeated.map(|row| parser.parse(row))).unwrap();
            RecordBatch::try_new(Arc::clone(&branch.schema), columns).unwrap()
        });
        (rows.collect(), self.ended)
    }
}

fn id(partition: usize) -> PartitionId {
    PartitionId::from(partition.to_string())
}

fn lanes(random: &mut StdRng, shape: Shape) -> usize {
    if shape.on_arrival { 1 } else { random.random_range(1..=4) }
}

fn clocks(times: &[SourceTime]) -> Vec<SourceClock> {
    times.iter().map(|time| SourceClock::new(time.clone(), Duration::MAX)).collect()
}

fn converter(branch: &Branch) -> RowConverter {
    let fields = branch.schema.fields().iter().map(|field| SortField::new(field.data_type().clone()));
    RowConverter::new(fields.collect()).unwrap()
}

/// A sink that keeps an epoch's rows with their weights.
struct HeldRows;

impl Sink for HeldRows {
    fn kind(&self) -> &'static str {
        "test"
    }

    fn consolidates(&self) -> bool {
        true
    }

    fn open(&self, opening: &Opening) -> Arc<dyn SinkWriter> {
        // Its table is never looked at.
        UpsertSink { index: 0 }.open(opening)
    }
}

/// An epoch's writers: every INSERT's rows are held with their weights.
fn outputs(setup: &Setup, memory: &Memory, epoch: Epoch, lanes: usize) -> Arc<Outputs> {
    let branches = setup.dataflow.branches.iter().map(|_| Arc::new(HeldRows) as Arc<dyn Sink>).collect();
    let sinks = Arc::new(Sinks {
        branches,
        tables: Vec::new(),
        dead_letters: 0,
        transaction: None,
        memory: OutputMemory::new(setup.limits.pool.clone(), 1),
        home: Home::default(),
        lease: None,
    });
    let lanes = lanes.max(memory.widest());
    Arc::new(Outputs::new(epoch, "test", sinks, Arc::clone(&setup.dataflow), lanes, true))
}
