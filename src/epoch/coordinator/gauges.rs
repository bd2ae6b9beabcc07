//! Gauges of a pipeline's sources that move while nothing is committed: lag, silence of the brokers, distance in event time.
//!
//! Progress comes with epochs, and a source whose brokers have died makes none. So a task looks every second at what feeds and clocks
//! leave here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::env::Env;
use crate::metrics::Metrics;
use crate::run::vitals::{SourceVitals, UNKNOWN};
use crate::time::{EventTime, Watermark};

/// The interval at which gauges are set.
const EVERY: Duration = Duration::from_secs(1);

/// Brokers that have not answered for this long count as not connected.
const DISCONNECTED: Duration = Duration::from_secs(10);

/// The task that sets the gauges; it ends when this is dropped.
#[derive(Debug)]
pub struct Gauges {
    task: JoinHandle<()>,
}

impl Gauges {
    /// Shows `sources`, by name.
    pub fn start(pipeline: &str, sources: Vec<(String, SourceVitals)>, env: Env, metrics: Arc<Metrics>) -> Self {
        let pipeline = pipeline.to_owned();
        // A run that never commits must show, too.
        metrics.last_commit_timestamp.with([&pipeline]).set(env.unix_ms() as f64 / 1000.0);
        let task = tokio::spawn(async move {
            loop {
                for (source, vitals) in &sources {
                    show(&metrics, [&pipeline, source], vitals, env.unix_ms());
                }
                env.sleep(EVERY).await;
            }
        });
        Self { task }
    }
}

impl Drop for Gauges {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn show(metrics: &Metrics, labels: [&str; 2], vitals: &SourceVitals, now_ms: i64) {
    let known = |number: &AtomicU64| Some(number.load(Ordering::Relaxed)).filter(|number| *number != UNKNOWN);
    if let Some(lag) = known(&vitals.lag) {
        metrics.sources.lag_records.with(labels).set(lag as f64);
    }
    if let Some(silent_ms) = known(&vitals.silent_ms) {
        let connected = silent_ms < DISCONNECTED.as_millis() as u64;
        metrics.sources.connected.with(labels).set(f64::from(u8::from(connected)));
        metrics.sources.silent_seconds.with(labels).set(silent_ms as f64 / 1000.0);
    }
    let watermark = Watermark(vitals.watermark.load(Ordering::Relaxed));
    if watermark.is_known() {
        let behind = EventTime::of_millis(now_ms).since(watermark.time());
        metrics.sources.watermark_lag.with(labels).set(behind.0 as f64 / 1e6);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_shows_as_a_lost_connection_and_sources_without_brokers_show_none() {
        let (metrics, vitals) = (Metrics::new(), SourceVitals::default());
        show(&metrics, ["p", "file"], &vitals, 10_000);
        assert!(!metrics.render().contains("weir_source_connected"));
        for (silent_ms, connected) in [(0, "1"), (9_999, "1"), (10_000, "0")] {
            vitals.silent_ms.store(silent_ms, Ordering::Relaxed);
            show(&metrics, ["p", "s"], &vitals, 10_000);
            let line = format!("weir_source_connected{{pipeline=\"p\",source=\"s\"}} {connected}\n");
            assert!(metrics.render().contains(&line), "{}", metrics.render());
        }
        vitals.watermark.store(4_000_000, Ordering::Relaxed);
        show(&metrics, ["p", "s"], &vitals, 10_000);
        assert!(metrics.render().contains("weir_watermark_lag_seconds{pipeline=\"p\",source=\"s\"} 6\n"));
    }
}
