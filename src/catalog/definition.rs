//! The declarations of the SQL, typed: every option is parsed and checked, every type is an Arrow type.
//!
//! These are plain data, made from statements when files are loaded, and read by the modules below.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::sql::sqlparser::ast::Query;

use super::file_format::{CsvDialect, TimestampUnit};
use crate::sql::Span;

pub use crate::config::Secret;

/// The origin of a source column's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ColumnOrigin {
    /// A field of the payload, as a path of names: `["customer", "id"]`. Matched by exact name, else ignoring case.
    Field(Vec<String>),
    /// The record's metadata.
    Metadata(Metadata),
}

/// Data that a record carries beside its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metadata {
    /// BINARY or STRING.
    Key,
    /// INT.
    Partition,
    /// BIGINT.
    Offset,
    /// TIMESTAMP: set by the broker or the producer.
    Timestamp,
    /// MAP<STRING, BINARY>.
    Headers,
    /// STRING: the topic, or the file's path.
    Topic,
}

/// One column of a source, table or sink.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnDef {
    pub name: String,
    pub data_type: DataType,
    pub nullable: bool,
    pub origin: ColumnOrigin,
    pub span: Span,
}

/// `WATERMARK FOR column AS expression`.
#[derive(Debug, Clone, PartialEq)]
pub struct WatermarkDef {
    pub column: String,
    pub expression: datafusion::sql::sqlparser::ast::Expr,
    pub span: Span,
}

/// The encoding of payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    Csv,
    Parquet,
}

/// The treatment of records that cannot be decoded or violate NOT NULL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    #[default]
    DeadLetter,
    Fail,
    Drop,
}

/// The treatment of missing offsets (expired, or the topic was recreated).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDataLoss {
    #[default]
    Fail,
    Continue,
}

/// The start of a source without committed progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartingOffsets {
    Earliest,
    Latest,
    /// First record at or after this time, milliseconds since 1970 UTC.
    Timestamp(i64),
    /// `'{"0": 17, "1": 4}'`; other partitions begin at the earliest offset.
    Explicit(BTreeMap<i32, i64>),
}

/// The connection to a Kafka cluster. Every `properties.*` option is passed to librdkafka under its own name.
#[derive(Debug, Clone)]
pub struct KafkaConnection {
    pub bootstrap_servers: String,
    pub security: KafkaSecurity,
    /// Raw librdkafka properties; values may be secret.
    pub properties: BTreeMap<String, Secret>,
}

/// Encryption and login.
#[derive(Debug, Clone)]
pub struct KafkaSecurity {
    pub tls: bool,
    pub ca_location: Option<String>,
    pub certificate_location: Option<String>,
    pub key_location: Option<String>,
    /// `(mechanism, user, password)`: `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`.
    pub sasl: Option<(String, String, Secret)>,
}

/// `connector = 'kafka'` or `'eventhubs'` on a source.
#[derive(Debug, Clone)]
pub struct KafkaSourceOptions {
    pub connection: KafkaConnection,
    pub topic: String,
    /// For lag monitors only; default `weir-<pipeline>`.
    pub group_id: Option<String>,
    pub starting_offsets: StartingOffsets,
    pub on_data_loss: OnDataLoss,
    pub on_null: OnNull,
    /// True for Event Hubs: smaller requests, metadata and idle ages under 240 s.
    pub event_hubs: bool,
}

/// `connector = 'file'`.
#[derive(Debug, Clone)]
pub struct FileSourceOptions {
    /// A file, a folder (new files are read as they appear), or a pattern with `*`.
    pub path: String,
    pub poll_interval: Duration,
    /// Dialect of CSV files.
    pub csv: CsvDialect,
}

/// The tables of the card-fraud simulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GeneratorTable {
    #[default]
    Transactions,
    /// The label of each transaction, known some days later.
    Labels,
}

/// `connector = 'generator'`: the card-fraud simulator.
#[derive(Debug, Clone)]
pub struct GeneratorOptions {
    pub table: GeneratorTable,
    /// The time from a transaction to its label.
    pub label_delay: Duration,
    /// Rows a second; `None` = as fast as possible.
    pub rate: Option<f64>,
    pub seed: u64,
    pub customers: u32,
    pub terminals: u32,
    /// Ends after this many rows, if given.
    pub rows: Option<u64>,
    /// Ends after this many simulated days, if given.
    pub days: Option<u32>,
}

/// The kind of event that a Nexmark source emits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NexmarkTable {
    Person,
    Auction,
    Bid,
}

/// `connector = 'nexmark'`: the benchmark's online auction.
#[derive(Debug, Clone)]
pub struct NexmarkOptions {
    pub table: NexmarkTable,
    /// Events of all kinds after which it ends, if given.
    pub events: Option<u64>,
    /// Events of all kinds a second; `None` = as fast as possible.
    pub rate: Option<f64>,
    /// Events of all kinds a second of event time; default 10,000.
    pub events_per_second: u64,
    pub seed: u64,
}

/// The feed that is read from a Delta table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TableFeed {
    /// The existing rows, then those that are added.
    #[default]
    Append,
    /// Every change, described by the columns `_change_type`, `_commit_version` and `_commit_timestamp`.
    Changes,
}

/// The start of reading a Delta table without progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeltaStart {
    /// The rows of the newest version, then later changes.
    Snapshot,
    /// Later commits only.
    Latest,
    /// The rows that this version's commit added or changed.
    Version(u64),
}

/// The treatment of a commit that removes rows, in an append feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnTableChange {
    #[default]
    Fail,
    /// Skips the whole commit.
    Skip,
}

/// `connector = 'delta'`.
#[derive(Debug, Clone)]
pub struct DeltaSourceOptions {
    /// A folder or URL.
    pub path: String,
    pub feed: TableFeed,
    pub start: DeltaStart,
    pub on_change: OnTableChange,
    pub poll_interval: Duration,
    /// Object-store options, from `storage.*`.
    pub storage: BTreeMap<String, Secret>,
}

/// The system that a source reads from.
#[derive(Debug, Clone)]
pub enum SourceConnector {
    Kafka(KafkaSourceOptions),
    File(FileSourceOptions),
    Generator(GeneratorOptions),
    Nexmark(NexmarkOptions),
    Delta(DeltaSourceOptions),
}

/// `CREATE SOURCE`.
#[derive(Debug, Clone)]
pub struct SourceDef {
    pub name: String,
    /// Empty for a Delta table that declares none, until they are read from the table.
    pub columns: Vec<ColumnDef>,
    pub watermark: Option<WatermarkDef>,
    pub connector: SourceConnector,
    pub format: Format,
    pub on_error: OnError,
    /// A partition that has been silent for this long no longer holds the watermark back; [`Duration::MAX`] = it always
    /// does. Default 30 seconds; for files, which are idle at their end, zero.
    pub idle_after: Duration,
    /// The greatest distance in event time that a partition may be read ahead of the slowest one; `None` = any distance.
    pub max_drift: Option<Duration>,
    /// Unit of numbers in TIMESTAMP columns; `None` = the format's: milliseconds in JSON and CSV, microseconds in Parquet.
    pub timestamp_unit: Option<TimestampUnit>,
    /// The greatest distance of a row's event time ahead of the clock; rows beyond it are refused. `None` = any distance.
    pub max_future: Option<Duration>,
    pub span: Span,
}

impl SourceDef {
    /// The Arrow schema of the decoded rows, in column order.
    pub fn schema(&self) -> SchemaRef {
        schema_of(&self.columns)
    }
}

/// `CHECK (expression)`, named `check_1`, `check_2` … if the SQL gives no name.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckDef {
    pub name: String,
    pub expression: datafusion::sql::sqlparser::ast::Expr,
    pub text: String,
}

/// `CREATE TABLE … USING DELTA`.
#[derive(Debug, Clone)]
pub struct TableDef {
    pub name: String,
    /// Empty if the table must exist already.
    pub columns: Vec<ColumnDef>,
    pub partitioned_by: Vec<String>,
    /// `None` = `<warehouse>/<name>`.
    pub location: Option<String>,
    /// TBLPROPERTIES, `delta.*` and `weir.*`.
    pub properties: BTreeMap<String, String>,
    /// Store options from `OPTIONS (…)`: credentials, endpoints; object_store's names.
    pub storage: BTreeMap<String, Secret>,
    pub primary_key: Vec<String>,
    pub checks: Vec<CheckDef>,
    pub span: Span,
}

impl TableDef {
    /// The Arrow schema of the declared columns.
    pub fn schema(&self) -> SchemaRef {
        schema_of(&self.columns)
    }

    /// `true` if rows can be retracted: a query that changes its results can be written here.
    pub fn accepts_retractions(&self) -> bool {
        !self.primary_key.is_empty()
    }
}

/// The delivery guarantee of a Kafka sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Delivery {
    /// A transaction per epoch.
    #[default]
    ExactlyOnce,
    /// Each micro-batch's rows are sent at once; headers carry pipeline, epoch and position.
    AtLeastOnce,
}

/// `connector = 'kafka'` or `'eventhubs'` on a sink.
#[derive(Debug, Clone)]
pub struct KafkaSinkOptions {
    pub connection: KafkaConnection,
    pub topic: String,
    pub delivery: Delivery,
    /// The column whose value becomes the record's key, if any; the value keeps it.
    pub key: Option<String>,
    /// The encoding of changes, if the sink accepts them; its key then replaces `key`.
    pub changes: Option<ChangeEncoding>,
    /// Rows of an earlier event time are not sent, milliseconds since 1970 UTC.
    pub starting_timestamp_ms: Option<i64>,
}

/// The encoding of a retracting stream's rows as messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeEncoding {
    pub format: ChangeFormat,
    /// The key columns of a row; never empty for [`ChangeFormat::Upsert`].
    pub key: Vec<String>,
    pub key_format: KeyFormat,
}

/// The contents of a message about a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeFormat {
    /// The new row, or nothing if it was deleted.
    Upsert,
    /// Debezium's envelope: before, after, op, source, `ts_ms`.
    Debezium,
}

/// The encoding of key columns as a message's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyFormat {
    /// A JSON object of the key columns.
    #[default]
    Json,
    /// The text of the only key column.
    Text,
}

/// The system that a sink writes to.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a handful exist per process")]
pub enum SinkConnector {
    Kafka(KafkaSinkOptions),
    /// Rows printed to standard output.
    Console,
    /// Files of `format` in this folder.
    File {
        path: String,
    },
    /// Counts rows and discards them (`connector = 'blackhole'`).
    Blackhole,
}

/// `CREATE SINK`.
#[derive(Debug, Clone)]
pub struct SinkDef {
    pub name: String,
    /// Empty = the columns that the INSERT selects.
    pub columns: Vec<ColumnDef>,
    pub connector: SinkConnector,
    pub format: Format,
    pub span: Span,
}

impl SinkDef {
    /// `true` if rows can be retracted: a query that changes its results can be written here.
    pub fn accepts_retractions(&self) -> bool {
        match &self.connector {
            SinkConnector::Kafka(options) => options.changes.is_some(),
            SinkConnector::Console | SinkConnector::Blackhole => true,
            SinkConnector::File { .. } => false,
        }
    }
}

/// `CREATE VIEW`.
#[derive(Debug, Clone)]
pub struct ViewDef {
    pub name: String,
    /// Renames of the query's columns, if given.
    pub columns: Vec<String>,
    pub query: Box<Query>,
    pub span: Span,
}

/// `CREATE FUNCTION … LANGUAGE sql`.
#[derive(Debug, Clone)]
pub struct FunctionDef {
    pub name: String,
    pub arguments: Vec<(String, DataType)>,
    pub returns: DataType,
    pub body: datafusion::sql::sqlparser::ast::Expr,
    pub span: Span,
}

/// `CREATE MODEL … WITH (provider = 'lightgbm', path = '…')`.
#[derive(Debug, Clone)]
pub struct ModelDef {
    pub name: String,
    /// A LightGBM text model.
    pub path: String,
    pub span: Span,
    pub path_span: Span,
}

/// The condition that ends an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// `'1 second'`: at this interval, if anything arrived.
    Interval(Duration),
    /// `'available now'`: reads what exists at the start, commits, ends.
    AvailableNow,
    /// `'continuous'`: as soon as the previous epoch has committed.
    Continuous,
}

impl Default for Trigger {
    fn default() -> Self {
        Self::Interval(Duration::from_secs(1))
    }
}

/// The time at which rows of rolling windows are emitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Emit {
    /// When their time is complete: exact, in time order.
    #[default]
    OnWatermark,
    /// On arrival, from the rows seen so far: lowest latency.
    OnArrival,
}

/// The treatment of rows behind the watermark that are too late to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Late {
    /// Counted and discarded.
    #[default]
    Drop,
    /// Counted and kept as dead letters.
    DeadLetter,
    /// Rolling windows emit them, from the rows that are still in state; elsewhere they are counted and discarded.
    Emit,
}

/// The treatment of records whose payload is null (tombstones).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnNull {
    /// Like any record that cannot be decoded: `on_error` decides.
    #[default]
    DeadLetter,
    /// Counted as read, and otherwise ignored.
    Skip,
}

/// The treatment of rows for which an expression cannot be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnRowError {
    /// Left out by the query that cannot compute it, and kept as a dead letter.
    #[default]
    DeadLetter,
    /// The expression is NULL for this row.
    Null,
    /// Ends the run.
    Fail,
}

/// The lifetime of state that nothing else bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateTtl {
    /// `'none'`: nothing expires; memory grows with the number of keys.
    Never,
    /// `'7 days'`: this long after a row's event time, or its arrival if it has none.
    After(Duration),
}

/// The treatment of open windows when bounded input has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtEnd {
    /// `'flush'`: every window is complete and is emitted.
    Flush,
    /// `'keep'`: they stay open for the next run.
    Keep,
}

/// `WITH (…)` of a pipeline.
#[derive(Debug, Clone, PartialEq)]
pub struct PipelineOptions {
    pub trigger: Option<Trigger>,
    /// Default 100,000.
    pub max_rows_per_micro_batch: usize,
    /// The time that a micro-batch waits for more rows after the first; default 2 ms.
    pub max_delay: Duration,
    /// Plan partitions; default: cores.
    pub parallelism: Option<usize>,
    /// Default `on_watermark`.
    pub rolling_emit: Emit,
    /// The number of rows that a frame of `array_agg` and the like may hold; default 10,000.
    pub rolling_collect_limit: usize,
    /// Default `drop`.
    pub late: Late,
    /// Default `dead_letter`.
    pub on_row_error: OnRowError,
    /// `None`: a query whose state nothing bounds is refused.
    pub state_ttl: Option<StateTtl>,
    /// `None`: `flush` if every source is bounded by itself (files), else `keep`.
    pub at_end: Option<AtEnd>,
    /// The table whose rows fill the state of new operators, instead of the source's past.
    pub seed_from: Option<SeedFrom>,
}

/// `seed_from = '<table>'`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedFrom {
    /// A declared table.
    pub table: String,
    pub span: Span,
}

impl Default for PipelineOptions {
    fn default() -> Self {
        Self {
            trigger: None,
            max_rows_per_micro_batch: 100_000,
            max_delay: Duration::from_millis(2),
            parallelism: None,
            rolling_emit: Emit::default(),
            rolling_collect_limit: 10_000,
            late: Late::default(),
            on_row_error: OnRowError::default(),
            state_ttl: None,
            at_end: None,
            seed_from: None,
        }
    }
}

/// One `INSERT INTO target SELECT …`.
#[derive(Debug, Clone)]
pub struct InsertDef {
    pub target: String,
    pub target_span: Span,
    /// `INSERT INTO t (a, b)`; empty when not given.
    pub columns: Vec<String>,
    pub query: Box<Query>,
    pub span: Span,
}

/// A set of INSERTs that commit together.
#[derive(Debug, Clone)]
pub struct PipelineDef {
    pub name: String,
    pub options: PipelineOptions,
    pub inserts: Vec<InsertDef>,
    pub span: Span,
}

fn schema_of(columns: &[ColumnDef]) -> SchemaRef {
    Arc::new(Schema::new(
        columns.iter().map(|c| Field::new(&c.name, c.data_type.clone(), c.nullable)).collect::<Vec<_>>(),
    ))
}
