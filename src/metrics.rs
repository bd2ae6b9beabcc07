//! Metrics of weir itself, and their Prometheus text form (exposition format 0.0.4).
//!
//! Owns the list of metrics, their names, labels and help texts: a metric is a field of [`Metrics`], so that it can neither
//! be misspelt nor defined twice. Values live in a struct that is passed around, never in statics. Counting is a few atomic
//! operations; look a labelled metric up once ([`Family::with`]) and keep the `Arc`. Leaves to others when to count
//! (`epoch`, `serve`) and where to show the metrics (`serve::http`).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// Seconds; from half a millisecond for a micro-batch to a commit to a slow object store.
const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

const RESIDENT_MEMORY: &str = "process_resident_memory_bytes";

/// Seconds; from the delay of a live stream to that of a backfill.
const AGES: &[f64] = &[
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    300.0,
    900.0,
    3_600.0,
    21_600.0,
    86_400.0,
    604_800.0,
    2_592_000.0,
    31_536_000.0,
];

/// Every metric of the process. Made once in `cli` and shared as `Arc<Metrics>`.
#[derive(Debug)]
pub struct Metrics {
    /// Records read, by pipeline and source; good and bad ones.
    pub rows_in: Family<Counter, 2>,
    /// Rows committed, by pipeline and sink (a table counts as a sink).
    pub rows_out: Family<Counter, 2>,
    /// Rows that a sink's rules refused or that could not be computed, by pipeline and sink.
    pub rows_refused: Family<Counter, 2>,
    /// Bytes of files or messages committed, by pipeline and sink.
    pub bytes_out: Family<Counter, 2>,
    /// Records that could not be decoded or violated a constraint, by pipeline and source.
    pub dead_letters: Family<Counter, 2>,
    /// Epochs committed, by pipeline.
    pub epochs: Family<Counter, 1>,
    /// The number of the last committed epoch, by pipeline.
    pub last_epoch: Family<Gauge, 1>,
    /// Time of the last epoch's commit, or of the run's start, in seconds since 1970 UTC, by pipeline.
    pub last_commit_timestamp: Family<Gauge, 1>,
    /// Seconds that one step of a pipeline has lasted that should take less than a minute, by pipeline; 0 if none does.
    pub slow_seconds: Family<Gauge, 1>,
    /// Duration of commits, from closing the writers to the last sink's answer, by pipeline.
    pub commit_seconds: Family<Histogram, 1>,
    /// Duration of micro-batches, from the first record taken to the rows handed to the sinks, by pipeline.
    pub micro_batch_seconds: Family<Histogram, 1>,
    /// Time from the event time of rows to their commit, by pipeline.
    pub event_to_commit: Family<Histogram, 1>,
    pub sources: SourceMetrics,
    pub operators: OperatorMetrics,
    /// Bytes reserved in the memory pool, by use (`output`, `input`, `queries`); operators' state has its own metric.
    pub memory_reserved_bytes: Family<Gauge, 1>,
    /// Flight SQL queries ended, by outcome (`done`, `failed`, `cancelled`).
    pub flight_queries: Family<Counter, 1>,
    /// Flight SQL queries that are sending rows now.
    pub flight_queries_running: Family<Gauge, 0>,
    /// Rows sent by Flight SQL.
    pub flight_rows: Family<Counter, 0>,
}

/// Metrics of sources.
#[derive(Debug)]
pub struct SourceMetrics {
    /// Records not yet read up to the newest known end, by pipeline and source.
    pub lag_records: Family<Gauge, 2>,
    /// Numbers read as milliseconds that may be meant as seconds, by pipeline and source.
    pub doubtful_times: Family<Gauge, 2>,
    /// 1 if the brokers of a source answer, else 0, by pipeline and source; sources without brokers have none.
    pub connected: Family<Gauge, 2>,
    /// Seconds since the brokers of a source answered last, by pipeline and source.
    pub silent_seconds: Family<Gauge, 2>,
    /// Seconds between a source's watermark and now, by pipeline and source.
    pub watermark_lag: Family<Gauge, 2>,
}

impl SourceMetrics {
    fn new() -> Self {
        Self {
            lag_records: Family::gauges(
                "weir_lag_records",
                "Records between what was read and the newest known end.",
                ["pipeline", "source"],
            ),
            doubtful_times: Family::gauges(
                "weir_doubtful_times",
                "Numbers in TIMESTAMP columns that are of January 1970 in milliseconds and recent in seconds, since the process began.",
                ["pipeline", "source"],
            ),
            connected: Family::gauges(
                "weir_source_connected",
                "Whether the brokers of the source have answered within the last 10 seconds: 1 or 0.",
                ["pipeline", "source"],
            ),
            silent_seconds: Family::gauges(
                "weir_source_silent_seconds",
                "Seconds since the brokers of the source answered last.",
                ["pipeline", "source"],
            ),
            watermark_lag: Family::gauges(
                "weir_watermark_lag_seconds",
                "Seconds between the source's watermark and now.",
                ["pipeline", "source"],
            ),
        }
    }
}

/// Metrics of operators.
#[derive(Debug)]
pub struct OperatorMetrics {
    /// Rows in the state of operators, by pipeline and operator.
    pub state_rows: Family<Gauge, 2>,
    /// Bytes of memory that operators' state takes, by pipeline and operator.
    pub state_bytes: Family<Gauge, 2>,
    /// Rows that arrived too late to count, by pipeline and operator.
    pub late_rows: Family<Gauge, 2>,
    /// Rows left out as duplicates of others, by pipeline and operator.
    pub deduplicated: Family<Gauge, 2>,
    /// Rows older than the first version of a table that they look up, by pipeline and operator.
    pub lookup_too_early: Family<Gauge, 2>,
}

impl OperatorMetrics {
    fn new() -> Self {
        Self {
            state_rows: Family::gauges("weir_state_rows", "Rows that operators remember.", ["pipeline", "operator"]),
            state_bytes: Family::gauges(
                "weir_state_bytes",
                "Bytes that operators' memory takes.",
                ["pipeline", "operator"],
            ),
            late_rows: Family::gauges(
                "weir_late_rows",
                "Rows that came too late to count, since the process began.",
                ["pipeline", "operator"],
            ),
            deduplicated: Family::gauges(
                "weir_deduplicated_rows",
                "Rows left out as duplicates of others, since the process began.",
                ["pipeline", "operator"],
            ),
            lookup_too_early: Family::gauges(
                "weir_lookup_too_early_rows",
                "Rows older than the first version of the table that they look up, which found nothing in it, since the process began.",
                ["pipeline", "operator"],
            ),
        }
    }
}

impl Metrics {
    /// All metrics at zero.
    pub fn new() -> Self {
        Self {
            rows_in: Family::counters("weir_rows_in_total", "Records read from the source.", ["pipeline", "source"]),
            rows_out: Family::counters("weir_rows_out_total", "Rows committed to the sink.", ["pipeline", "sink"]),
            rows_refused: Family::counters(
                "weir_rows_refused_total",
                "Rows that the sink's rules refused or that could not be computed.",
                ["pipeline", "sink"],
            ),
            bytes_out: Family::counters("weir_bytes_out_total", "Bytes committed to the sink.", ["pipeline", "sink"]),
            dead_letters: Family::counters(
                "weir_dead_letters_total",
                "Records that could not be decoded or violated a constraint.",
                ["pipeline", "source"],
            ),
            epochs: Family::counters("weir_epochs_total", "Epochs committed.", ["pipeline"]),
            last_epoch: Family::gauges("weir_last_epoch", "Number of the last committed epoch.", ["pipeline"]),
            last_commit_timestamp: Family::gauges(
                "weir_last_commit_timestamp_seconds",
                "When the last epoch was committed, or the run began, in seconds since 1970 UTC.",
                ["pipeline"],
            ),
            slow_seconds: Family::gauges(
                "weir_slow_seconds",
                "For how long one step that should take less than a minute has lasted; 0: none does.",
                ["pipeline"],
            ),
            commit_seconds: Family::histograms("weir_commit_seconds", "Duration of commits.", ["pipeline"], SECONDS),
            micro_batch_seconds: Family::histograms(
                "weir_micro_batch_seconds",
                "Duration of micro-batches, from the first record taken to the rows handed to the sinks.",
                ["pipeline"],
                SECONDS,
            ),
            event_to_commit: Family::histograms(
                "weir_event_to_commit_seconds",
                "From the event time of rows to their commit; the rows of a micro-batch count with their mean.",
                ["pipeline"],
                AGES,
            ),
            sources: SourceMetrics::new(),
            operators: OperatorMetrics::new(),
            memory_reserved_bytes: Family::gauges(
                "weir_memory_reserved_bytes",
                "Bytes lent out by the memory pool.",
                ["use"],
            ),
            flight_queries: Family::counters("weir_flight_queries_total", "Flight SQL queries ended.", ["outcome"]),
            flight_queries_running: Family::gauges(
                "weir_flight_queries_running",
                "Flight SQL queries that are sending rows now.",
                [],
            ),
            flight_rows: Family::counters("weir_flight_rows_total", "Rows sent by Flight SQL.", []),
        }
    }

    /// The text of `/metrics`: every family with its help and type, then the process's own memory.
    pub fn render(&self) -> String {
        let mut text = String::with_capacity(4096);
        for family in self.families() {
            family.render(&mut text);
        }
        if let Some(bytes) = resident_memory_bytes() {
            let resident = Family::gauges(RESIDENT_MEMORY, "Resident memory size in bytes.", []);
            resident.with([]).set(bytes as f64);
            resident.write(&mut text);
        }
        text
    }

    /// Every family, in the order in which they are shown.
    fn families(&self) -> Vec<&dyn Shown> {
        vec![
            &self.rows_in,
            &self.rows_out,
            &self.rows_refused,
            &self.bytes_out,
            &self.dead_letters,
            &self.epochs,
            &self.last_epoch,
            &self.last_commit_timestamp,
            &self.slow_seconds,
            &self.commit_seconds,
            &self.micro_batch_seconds,
            &self.sources.lag_records,
            &self.sources.connected,
            &self.sources.silent_seconds,
            &self.sources.watermark_lag,
            &self.event_to_commit,
            &self.operators.deduplicated,
            &self.operators.state_rows,
            &self.operators.state_bytes,
            &self.operators.late_rows,
            &self.operators.lookup_too_early,
            &self.sources.doubtful_times,
            &self.memory_reserved_bytes,
            &self.flight_queries,
            &self.flight_queries_running,
            &self.flight_rows,
        ]
    }
}

/// A family of any kind of metric.
trait Shown {
    fn render(&self, text: &mut String);
    #[cfg(test)]
    fn name(&self) -> &'static str;
}

impl<M: Metric, const N: usize> Shown for Family<M, N> {
    fn render(&self, text: &mut String) {
        self.write(text);
    }

    #[cfg(test)]
    fn name(&self) -> &'static str {
        self.name
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `by`.
    pub fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Replaces the value.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    /// Adds `by`, which may be negative.
    pub fn add(&self, by: f64) {
        add_float(&self.0, by);
    }

    /// The value now.
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// The number of values in each bucket, with their sum.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds, ascending and inclusive; a last bucket without bound follows.
    bounds: &'static [f64],
    counts: Vec<AtomicU64>,
    sum: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0.0_f64.to_bits()),
        }
    }

    /// Counts one value.
    pub fn observe(&self, value: f64) {
        self.observe_many(value, 1);
    }

    /// Counts a value `count` times.
    pub fn observe_many(&self, value: f64, count: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(count, Ordering::Relaxed);
        add_float(&self.sum, value * count as f64);
    }

    /// The number of values.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// A metric with `N` labels: one value for each combination of label values that was requested.
#[derive(Debug)]
pub struct Family<M, const N: usize> {
    name: &'static str,
    help: &'static str,
    labels: [&'static str; N],
    kind: Kind,
    values: RwLock<BTreeMap<[String; N], Arc<M>>>,
}

/// The kind of a family's values, with the bounds of a histogram.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram(&'static [f64]),
}

impl<const N: usize> Family<Counter, N> {
    fn counters(name: &'static str, help: &'static str, labels: [&'static str; N]) -> Self {
        Self { name, help, labels, kind: Kind::Counter, values: RwLock::default() }
    }
}

impl<const N: usize> Family<Gauge, N> {
    fn gauges(name: &'static str, help: &'static str, labels: [&'static str; N]) -> Self {
        Self { name, help, labels, kind: Kind::Gauge, values: RwLock::default() }
    }
}

impl<const N: usize> Family<Histogram, N> {
    fn histograms(name: &'static str, help: &'static str, labels: [&'static str; N], bounds: &'static [f64]) -> Self {
        Self { name, help, labels, kind: Kind::Histogram(bounds), values: RwLock::default() }
    }
}

impl<M: Metric, const N: usize> Family<M, N> {
    /// The value for these label values, made at the first call.
    pub fn with(&self, labels: [&str; N]) -> Arc<M> {
        let key = labels.map(str::to_owned);
        if let Some(found) = self.values.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Arc::clone(found);
        }
        let mut values = self.values.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(values.entry(key).or_insert_with(|| Arc::new(M::zero(self.kind))))
    }

    /// Every value, with its labels.
    pub fn all(&self) -> Vec<([String; N], Arc<M>)> {
        let values = self.values.read().unwrap_or_else(PoisonError::into_inner);
        values.iter().map(|(labels, value)| (labels.clone(), Arc::clone(value))).collect()
    }

    fn write(&self, text: &mut String) {
        let values = self.values.read().unwrap_or_else(PoisonError::into_inner);
        if values.is_empty() {
            return;
        }
        let kind = match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        let _ = writeln!(text, "# HELP {} {}\n# TYPE {} {kind}", self.name, self.help, self.name);
        for (key, value) in values.iter() {
            let labels: Vec<String> =
                self.labels.iter().zip(key).map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
            value.render(self.name, &labels, text);
        }
    }
}

/// The values that a [`Family`] can hold.
pub trait Metric {
    /// The value before anything was counted.
    fn zero(kind: Kind) -> Self;
    /// Appends this value's samples; `labels` are written `name="value"`.
    fn render(&self, name: &str, labels: &[String], text: &mut String);
}

impl Metric for Counter {
    fn zero(_kind: Kind) -> Self {
        Self::default()
    }

    fn render(&self, name: &str, labels: &[String], text: &mut String) {
        let _ = writeln!(text, "{name}{} {}", braces(labels), self.get());
    }
}

impl Metric for Gauge {
    fn zero(_kind: Kind) -> Self {
        Self::default()
    }

    fn render(&self, name: &str, labels: &[String], text: &mut String) {
        let _ = writeln!(text, "{name}{} {}", braces(labels), number(self.get()));
    }
}

impl Metric for Histogram {
    fn zero(kind: Kind) -> Self {
        match kind {
            Kind::Histogram(bounds) => Self::new(bounds),
            Kind::Counter | Kind::Gauge => Self::new(&[]),
        }
    }

    fn render(&self, name: &str, labels: &[String], text: &mut String) {
        let mut below = 0;
        let bounds = self.bounds.iter().map(|bound| number(*bound)).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(&self.counts) {
            below += count.load(Ordering::Relaxed);
            let mut labels = labels.to_vec();
            labels.push(format!("le=\"{bound}\""));
            let _ = writeln!(text, "{name}_bucket{} {below}", braces(&labels));
        }
        let sum = f64::from_bits(self.sum.load(Ordering::Relaxed));
        let labels = braces(labels);
        let _ = writeln!(text, "{name}_sum{labels} {}\n{name}_count{labels} {below}", number(sum));
    }
}

fn braces(labels: &[String]) -> String {
    if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) }
}

/// Label values escape backslash, quote and newline, as the exposition format requires.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned()
    } else {
        value.to_string()
    }
}

fn add_float(bits: &AtomicU64, by: f64) {
    // The closure always returns `Some`, so the update cannot fail.
    let _ = bits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| Some((f64::from_bits(old) + by).to_bits()));
}

/// Resident set size of this process, if the operating system reports it (Linux).
pub fn resident_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_counter_is_rendered_with_help_type_and_labels() {
        let metrics = Metrics::new();
        metrics.rows_in.with(["fraud", "transactions"]).add(3);
        metrics.rows_in.with(["fraud", "transactions"]).add(4);
        let text = metrics.render();
        assert!(text.contains(
            "# HELP weir_rows_in_total Records read from the source.\n# TYPE weir_rows_in_total counter\n\
             weir_rows_in_total{pipeline=\"fraud\",source=\"transactions\"} 7\n"
        ));
        assert!(!text.contains("weir_rows_out_total"), "a family without values is left out");
    }

    #[test]
    fn histogram_buckets_are_cumulative_and_bounds_are_inclusive() {
        let metrics = Metrics::new();
        let histogram = metrics.commit_seconds.with(["p"]);
        for seconds in [0.0005, 0.0006, 100.0] {
            histogram.observe(seconds);
        }
        let text = metrics.render();
        assert!(text.contains("weir_commit_seconds_bucket{pipeline=\"p\",le=\"0.0005\"} 1\n"));
        assert!(text.contains("weir_commit_seconds_bucket{pipeline=\"p\",le=\"0.001\"} 2\n"));
        assert!(text.contains("weir_commit_seconds_bucket{pipeline=\"p\",le=\"60\"} 2\n"));
        assert!(text.contains("weir_commit_seconds_bucket{pipeline=\"p\",le=\"+Inf\"} 3\n"));
        assert!(text.contains("weir_commit_seconds_sum{pipeline=\"p\"} 100.0011\n"));
        assert!(text.contains("weir_commit_seconds_count{pipeline=\"p\"} 3\n"));
    }

    #[test]
    fn every_metric_is_documented_and_every_documented_one_exists() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md");
        let text = std::fs::read_to_string(path).unwrap();
        let (metrics, words) = (Metrics::new(), text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')));
        let documented: BTreeSet<&str> =
            words.filter(|word| word.starts_with("weir_") && word.len() > 5 || *word == RESIDENT_MEMORY).collect();
        let existing: BTreeSet<&str> =
            metrics.families().iter().map(|family| family.name()).chain([RESIDENT_MEMORY]).collect();
        assert_eq!(documented, existing);
    }

    #[test]
    fn a_value_that_many_rows_have_counts_for_each() {
        let metrics = Metrics::new();
        metrics.event_to_commit.with(["p"]).observe_many(2.0, 7);
        let text = metrics.render();
        assert!(text.contains("weir_event_to_commit_seconds_bucket{pipeline=\"p\",le=\"2.5\"} 7\n"));
        assert!(text.contains("weir_event_to_commit_seconds_sum{pipeline=\"p\"} 14\n"));
    }

    #[test]
    fn label_values_are_escaped() {
        let metrics = Metrics::new();
        metrics.epochs.with(["a\"b\\c\nd"]).add(1);
        assert!(metrics.render().contains("weir_epochs_total{pipeline=\"a\\\"b\\\\c\\nd\"} 1\n"));
    }

    #[test]
    fn every_line_is_a_comment_or_a_sample() {
        let metrics = Metrics::new();
        metrics.flight_rows.with([]).add(1);
        metrics.sources.lag_records.with(["p", "s"]).set(12.5);
        metrics.micro_batch_seconds.with(["p"]).observe(0.002);
        for line in metrics.render().lines() {
            let valid = line.starts_with("# HELP ") || line.starts_with("# TYPE ") || {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let name = series.split('{').next().unwrap();
                name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && value.parse::<f64>().is_ok()
            };
            assert!(valid, "{line}");
        }
    }
}
