//! Options of `connector = 'file'`. Without `format`, the path's extension decides: `.csv`, `.parquet`, else JSON lines.

use std::time::Duration;

use super::super::definition::{FileSourceOptions, Format};
use super::super::file_format::CsvDialect;
use super::super::value::duration;
use super::OptionReader;

/// Default interval at which a folder is polled.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Options of a source.
pub fn source(reader: &mut OptionReader<'_>) -> Option<(FileSourceOptions, Format)> {
    let path = reader.required(&["path"]);
    let poll_interval = reader.parsed(&["poll_interval", "source.monitor-interval"], duration).unwrap_or(POLL_INTERVAL);
    let path = path.map(|path| path.value);
    let format = format(reader, path.as_deref());
    let csv = if format == Some(Format::Csv) { csv(reader) } else { CsvDialect::default() };
    Some((FileSourceOptions { path: path?, poll_interval, csv }, format?))
}

fn csv(reader: &mut OptionReader<'_>) -> CsvDialect {
    let usual = CsvDialect::default();
    let byte = |text: &str| match text.as_bytes() {
        b"\\t" => Ok(b'\t'),
        [byte] if byte.is_ascii() && !matches!(byte, b'\r' | b'\n') => Ok(*byte),
        _ => Err("Write one ASCII character, or `\\t` for a tab.".to_owned()),
    };
    let optional = |text: &str| if text.is_empty() { Ok(None) } else { byte(text).map(Some) };
    CsvDialect {
        delimiter: reader.parsed(&["delimiter"], byte).unwrap_or(usual.delimiter),
        quote: reader.parsed(&["quote"], optional).unwrap_or(usual.quote),
        escape: reader.parsed(&["escape"], optional).unwrap_or(usual.escape),
        header: reader.choice(&["header"], &[("true", true), ("false", false)]).unwrap_or(usual.header),
        null: reader.text(&["null"]).map_or(usual.null, |text| text.value),
    }
}

/// Options of a sink: the folder and the format.
pub fn sink(reader: &mut OptionReader<'_>) -> Option<(String, Format)> {
    let path = reader.required(&["path"]).map(|path| path.value);
    let format = format(reader, None);
    Some((path?, format?))
}

/// The format of files, from the option or the path's extension.
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
    let path = path.trim_end_matches(".gz").trim_end_matches(".zst");
    Some(match path.rsplit('.').next() {
        Some("csv") => Format::Csv,
        Some("parquet") => Format::Parquet,
        _ => Format::Json,
    })
}
