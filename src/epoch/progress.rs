//! Progress of an epoch, in the shape that users of Spark's `lastProgress` know.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Context, Result};
use crate::source::chunk::Offset;
use crate::time::EventTime;

/// One epoch of one pipeline. Times are milliseconds, sizes bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Progress {
    pub name: String,
    pub run_id: String,
    pub epoch: u64,
    /// RFC 3339, when the epoch began.
    pub timestamp: String,
    pub num_input_rows: u64,
    pub input_rows_per_second: f64,
    /// Input rows over the time spent on them.
    pub processed_rows_per_second: f64,
    pub micro_batches: u64,
    /// Worst time from arrival to written of a micro-batch in this epoch.
    pub latency_ms: f64,
    /// From arrival to written, of each micro-batch.
    #[serde(skip)]
    pub micro_batch_latencies: Vec<Duration>,
    /// Of each micro-batch with an event time, the mean of its rows and how many they are.
    #[serde(skip)]
    pub event_times: Vec<(EventTime, u64)>,
    pub duration_ms: BTreeMap<String, u64>,
    pub sources: Vec<SourceProgress>,
    pub sinks: Vec<SinkProgress>,
    /// State of each operator.
    pub state_operators: Vec<OperatorProgress>,
    pub dead_letters: u64,
    pub files: u64,
    pub bytes: u64,
    /// Records not yet read, where every source knows.
    pub lag: Option<u64>,
    /// Resident memory of the process.
    pub memory: u64,
}

impl Progress {
    /// Parses a line of a progress file; `None`: damage, even if it is JSON.
    pub fn of_line(line: &[u8]) -> Option<Self> {
        let progress: Self = serde_json::from_slice(line).ok()?;
        (progress.epoch > 0 && !progress.name.is_empty()).then_some(progress)
    }
}

/// Progress of one source.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SourceProgress {
    pub description: String,
    pub start_offset: BTreeMap<String, Offset>,
    pub end_offset: BTreeMap<String, Offset>,
    pub lag: Option<u64>,
    /// RFC 3339; no row older than this is expected. `None`: the source has no watermark, or nothing has come.
    pub watermark: Option<String>,
    /// Times whose number may be of another unit than it was read as, since the process began.
    #[serde(skip_serializing_if = "is_zero")]
    pub num_doubtful_times: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// State of one operator.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OperatorProgress {
    /// The address of its state, as EXPLAIN shows it.
    pub operator: String,
    pub kind: String,
    pub num_rows_total: u64,
    pub memory_used_bytes: u64,
    /// RFC 3339: the oldest event time remembered.
    pub oldest: Option<String>,
    /// Rows that came too late to count, since the process began.
    pub num_rows_late: u64,
    /// Rows left out as duplicates of others, since the process began.
    #[serde(skip_serializing_if = "is_zero")]
    pub num_rows_deduplicated: u64,
    /// Rows older than every version of a table that is looked up, since the process began.
    #[serde(skip_serializing_if = "is_zero")]
    pub num_rows_too_early: u64,
    /// RFC 3339: how far the operator has come.
    pub watermark: Option<String>,
}

/// A time as RFC 3339; `None` for what stands for no time.
pub fn instant(time: EventTime) -> Option<String> {
    let stands_for_none = time == EventTime::MIN || time == EventTime::MAX;
    let at = chrono::DateTime::from_timestamp_micros(time.0).filter(|_| !stands_for_none)?;
    Some(at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
}

/// Progress of one target.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SinkProgress {
    pub description: String,
    pub kind: String,
    pub num_output_rows: u64,
    /// Rows that its rules refused, or that could not be computed.
    pub num_refused_rows: u64,
    /// The Delta version that holds the epoch.
    pub version: Option<i64>,
}

/// A listener that is told of each epoch.
pub type ProgressSink = Arc<dyn Fn(&Progress) + Send + Sync>;

/// Keeps the progress of a pipeline as JSON lines beside its tables.
#[derive(Debug)]
pub struct ProgressFile {
    path: PathBuf,
}

/// When the file is larger than this, its older half goes.
const KEPT_BYTES: u64 = 8 << 20;

impl ProgressFile {
    /// `progress.jsonl` in `folder`, which is made if it is not there.
    pub fn open(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).environment(|| format!("folder `{}` cannot be made", folder.display()))?;
        let file = Self { path: folder.join("progress.jsonl") };
        if let Err(error) = file.end_line() {
            tracing::warn!(path = %file.path.display(), %error, "progress cannot be read");
        }
        Ok(file)
    }

    /// Ends a line that was cut off when a machine died, so that it does not damage the next.
    fn end_line(&self) -> std::io::Result<()> {
        let mut file = match OpenOptions::new().read(true).append(true).open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if file.metadata()?.len() == 0 {
            return Ok(());
        }
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last == *b"\n" { Ok(()) } else { file.write_all(b"\n") }
    }

    /// Appends an epoch. Progress is a convenience: a failure is logged, never returned.
    pub fn append(&self, progress: &Progress) {
        if let Err(error) = self.try_append(progress) {
            tracing::warn!(path = %self.path.display(), %error, "progress not kept");
        }
    }

    fn try_append(&self, progress: &Progress) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(progress)?;
        line.push(b'\n');
        let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        file.write_all(&line)?;
        if file.metadata()?.len() > KEPT_BYTES {
            // Bytes, so that damage in it goes with its older half.
            let text = std::fs::read(&self.path)?;
            let keep = text.len() / 2;
            let end = text[keep..].iter().position(|byte| *byte == b'\n');
            let from = end.map_or(text.len(), |end| keep + end + 1);
            let fresh = self.path.with_extension("jsonl.new");
            std::fs::write(&fresh, &text[from..])?;
            std::fs::rename(&fresh, &self.path)?;
        }
        Ok(())
    }
}
