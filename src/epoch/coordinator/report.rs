//! The progress report of an epoch.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::commit::Committed;
use super::super::progress::{OperatorProgress, Progress, SinkProgress, SourceProgress, instant};
use super::Coordinator;
use crate::metrics::resident_memory_bytes;
use crate::plan::OperatorNode;
use crate::run::open::OpenEpoch;
use crate::state::OffsetRange;

impl Coordinator {
    /// Facts about an epoch that are known when it closes.
    pub(super) fn describe(&self, full: &OpenEpoch) -> Progress {
        let elapsed = full.began.elapsed();
        let sinks = self.dataflow.branches.iter().zip(&self.sinks.branches);
        Progress {
            name: self.committer.pipeline.clone(),
            run_id: self.committer.run.clone(),
            epoch: full.epoch.0,
            timestamp: chrono::DateTime::from_timestamp_millis(full.began_ms)
                .map(|at| at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
                .unwrap_or_default(),
            num_input_rows: full.records,
            input_rows_per_second: per_second(full.records, elapsed),
            micro_batches: full.micro_batches,
            latency_ms: full.latencies.iter().max().map_or(0.0, |latency| latency.as_micros() as f64 / 1000.0),
            micro_batch_latencies: full.latencies.clone(),
            event_times: full.event_times.clone(),
            lag: self.inputs.total_lag(),
            sources: self.describe_sources(full),
            sinks: sinks
                .map(|(branch, sink)| SinkProgress {
                    description: branch.target.clone(),
                    kind: sink.kind().to_owned(),
                    ..SinkProgress::default()
                })
                .collect(),
            state_operators: self.describe_operators(),
            ..Progress::default()
        }
    }

    /// Says which targets have refused every row of an epoch: a slip in the SQL more often than bad input.
    pub(super) fn warn_of_refusals(&self, progress: &Progress) {
        for sink in progress.sinks.iter().filter(|sink| sink.num_refused_rows > 0) {
            let taken = progress.sinks.iter().filter(|other| other.description == sink.description);
            if taken.map(|other| other.num_output_rows).sum::<u64>() == 0 {
                tracing::warn!(
                    pipeline = progress.name,
                    target_table = sink.description,
                    epoch = progress.epoch,
                    rows = sink.num_refused_rows,
                    "every row of the epoch was refused: `weir query 'SELECT reason, count(*) FROM weir.dead_letters GROUP BY reason'` says why"
                );
            }
        }
    }

    fn describe_sources(&self, full: &OpenEpoch) -> Vec<SourceProgress> {
        let text = |ranges: &BTreeMap<_, OffsetRange>, end: bool| {
            ranges
                .iter()
                .map(|(p, r): (&std::sync::Arc<str>, _)| (p.to_string(), if end { r.end } else { r.start }))
                .collect()
        };
        let describe = |(source, ranges): (&usize, &BTreeMap<_, OffsetRange>)| SourceProgress {
            description: self.committer.sources[*source].clone(),
            start_offset: text(ranges, false),
            end_offset: text(ranges, true),
            lag: self.inputs.lag(*source),
            num_doubtful_times: self.inputs.doubtful_times(*source),
            watermark: instant(self.inputs.watermark(*source).time()),
        };
        full.ranges.iter().map(describe).collect()
    }

    fn describe_operators(&self) -> Vec<OperatorProgress> {
        let operators = self.dataflow.operators.iter().enumerate();
        let describe = |(index, node): (usize, &OperatorNode)| {
            let usage = self.memory.usage(index);
            OperatorProgress {
                operator: node.id.clone(),
                kind: node.spec.kind().to_owned(),
                num_rows_total: usage.rows,
                memory_used_bytes: usage.bytes,
                oldest: usage.oldest.and_then(instant),
                num_rows_late: self.memory.late(index),
                num_rows_deduplicated: self.memory.duplicates(index),
                num_rows_too_early: self.memory.too_early(index),
                watermark: instant(self.memory.watermark(index).time()),
            }
        };
        operators.map(describe).collect()
    }
}

impl Progress {
    /// Adds what the commit did; `total` is the time since the epoch began.
    pub(super) fn finished(&mut self, done: &Committed, total: Duration) {
        self.processed_rows_per_second = per_second(self.num_input_rows, total);
        self.duration_ms = BTreeMap::from([
            ("close".to_owned(), done.close_ms),
            ("state".to_owned(), done.state_ms),
            ("manifest".to_owned(), done.manifest_ms),
            ("commit".to_owned(), done.commit_ms),
            ("total".to_owned(), total.as_millis() as u64),
        ]);
        self.files = done.files;
        self.bytes = done.bytes;
        self.dead_letters = done.dead_letters;
        for (sink, (rows, refused)) in self.sinks.iter_mut().zip(&done.rows) {
            (sink.num_output_rows, sink.num_refused_rows) = (*rows, *refused);
        }
        for sink in &mut self.sinks {
            sink.version = done.versions.get(&sink.description).copied();
        }
        self.memory = resident_memory_bytes().unwrap_or(0);
    }
}

fn per_second(rows: u64, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 { (rows as f64 / seconds).round() } else { 0.0 }
}
