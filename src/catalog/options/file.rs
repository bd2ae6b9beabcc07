//! Options of `connector = 'file'`. Without `format`, the path's ending tells it: `.csv`, `.parquet`, else JSON lines.

use std::time::Duration;

use super::super::definition::{FileSourceOptions, Format};
use super::super::value::duration;
use super::OptionReader;

/// How often a folder is looked at, unless said otherwise.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Options of a source.
pub fn source(reader: &mut OptionReader<'_>) -> Option<(FileSourceOptions, Format)> {
    let path = reader.required(&["path"]);
    let poll_interval = reader.parsed(&["poll_interval", "source.monitor-interval"], duration).unwrap_or(POLL_INTERVAL);
    let path = path.map(|path| path.value);
    let format = format(reader, path.as_deref());
    Some((FileSourceOptions { path: path?, poll_interval }, format?))
}

/// Options of a sink: the folder and the format.
pub fn sink(reader: &mut OptionReader<'_>) -> Option<(String, Format)> {
    let path = reader.required(&["path"]).map(|path| path.value);
    let format = format(reader, None);
    Some((path?, format?))
}

/// The format of files, by option or by the path's ending.
fn format(reader: &mut OptionReader<'_>, path: Option<&str>) -> Option<Format> {
    const WORDS: &[(&str, Format)] = &[
        ("json", Format::Json),
        ("csv", Format::Csv),
        ("parquet", Format::Parquet),
        ("jsonl", Format::Json),
        ("ndjson", Format::Json),
    ];
    let before = reader.errors.len();
    if let Some(format) = reader.choice(&["format"], WORDS) {
        return Some(format);
    }
    if reader.errors.len() > before {
        return None;
    }
    let path = path.unwrap_or("").to_lowercase();
    Some(match path.rsplit('.').next() {
        Some("csv") => Format::Csv,
        Some("parquet") => Format::Parquet,
        _ => Format::Json,
    })
}
