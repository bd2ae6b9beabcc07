//! Lines of a text file as records: each line is one, without its line end; the offset is the byte where it begins.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use serde::Deserialize;

use crate::error::{Context, Result};
use crate::source::chunk::{KEPT_OF_LONG, MAX_RECORD, Records};

/// A longer line is refused without being read into memory.
const MAX_LINE: u64 = MAX_RECORD as u64;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Which part of a file may be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    /// First byte.
    pub(super) start: u64,
    /// One past the last byte.
    pub(super) end: u64,
    /// What to do with a last line that has no line end.
    pub(super) last_line: LastLine,
}

/// Whether a line may still grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LastLine {
    /// It waits for its line end.
    Waits,
    /// It is complete: nobody will write more.
    Counts,
    /// It is complete if it is a JSON value, else its writer is not done and it waits.
    CountsIfJson,
}

impl LastLine {
    fn counts(self, text: &[u8]) -> bool {
        match self {
            Self::Waits => false,
            Self::Counts => true,
            Self::CountsIfJson => {
                let start = memchr::memrchr(b'\n', text).map_or(0, |end| end + 1);
                let line = text[start..].strip_prefix(BYTE_ORDER_MARK).unwrap_or(&text[start..]);
                serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok()
            }
        }
    }
}

/// The records of a range's first lines, and the byte after them; `None` if no line is complete.
///
/// `header` (of a CSV file) goes before the first record. At most `rows` lines and about `bytes` bytes, but one line.
pub(super) fn read(
    path: &Path,
    range: Range,
    rows: usize,
    bytes: usize,
    header: &[u8],
) -> Result<Option<(Records, u64)>> {
    let failed = || format!("cannot read `{}`", path.display());
    let mut file = File::open(path).environment(failed)?;
    file.seek(SeekFrom::Start(range.start)).environment(failed)?;
    let mut text = Vec::new();
    let mut wanted = (bytes as u64).clamp(1, MAX_LINE);
    loop {
        let missing = wanted.min(range.end - range.start) - text.len() as u64;
        (&mut file).take(missing).read_to_end(&mut text).environment(failed)?;
        let at_end = text.len() as u64 >= range.end - range.start || (text.len() as u64) < wanted;
        if let Some(length) = complete_length(&text, at_end && range.last_line.counts(&text)) {
            return Ok(Some(split(&text[..length], range.start, rows, header)));
        }
        if at_end {
            return Ok(None);
        }
        if wanted >= MAX_LINE {
            return long_line(&mut file, range, text, header).environment(failed);
        }
        wanted = (wanted * 2).min(MAX_LINE);
    }
}

/// The line whose first [`MAX_LINE`] bytes are `text`, read on to its end a piece at a time; `None` if it is not complete.
fn long_line(file: &mut File, range: Range, mut text: Vec<u8>, header: &[u8]) -> io::Result<Option<(Records, u64)>> {
    let mut length = text.len() as u64;
    text.truncate(KEPT_OF_LONG);
    text.shrink_to_fit();
    let left = range.end - range.start - length;
    let mut rest = BufReader::with_capacity(1 << 20, file.take(left));
    let ended = loop {
        let piece = rest.fill_buf()?;
        if piece.is_empty() {
            break false;
        }
        let end = memchr::memchr(b'\n', piece);
        let taken = end.map_or(piece.len(), |end| end + 1);
        length += taken as u64;
        rest.consume(taken);
        if end.is_some() {
            break true;
        }
    };
    let whole = match range.last_line {
        _ if ended => true,
        LastLine::Waits => false,
        LastLine::Counts => true,
        LastLine::CountsIfJson => {
            let file = rest.into_inner().into_inner();
            file.seek(SeekFrom::Start(range.start))?;
            is_json(BufReader::with_capacity(1 << 20, file.take(length)))
        }
    };
    if !whole {
        return Ok(None);
    }
    let mut records =
        Records { data: header.to_vec(), cut_short: vec![(0, length - u64::from(ended))], ..Records::default() };
    records.bounds.push(header.len() as u32);
    records.data.extend_from_slice(&text);
    records.bounds.push(records.data.len() as u32);
    records.offsets.push(range.start as i64);
    records.timestamps_ms.push(-1);
    Ok(Some((records, range.start + length)))
}

/// Whether a text is one JSON value, without holding it.
fn is_json(text: impl Read) -> bool {
    let mut values = serde_json::Deserializer::from_reader(text);
    serde::de::IgnoredAny::deserialize(&mut values).is_ok() && values.end().is_ok()
}

/// The header line without its line end, and the byte after it; `None` if it is not complete.
pub(super) fn read_header(path: &Path, end: u64, last_line: LastLine) -> Result<Option<(Vec<u8>, u64)>> {
    let failed = || format!("cannot read the header of `{}`", path.display());
    let file = File::open(path).environment(failed)?;
    let mut line = Vec::new();
    let read = BufReader::new(file).take(end.min(MAX_LINE)).read_until(b'\n', &mut line).environment(failed)?;
    if line.last() != Some(&b'\n') && (last_line == LastLine::Waits || line.is_empty()) {
        return Ok(None);
    }
    let text = without_line_end(&line);
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    Ok(Some((text.to_vec(), read as u64)))
}

/// Whether `at` is the middle of a line of which both halves are there. Errors: the file cannot be read.
pub(super) fn is_inside_a_line(path: &Path, at: u64) -> Result<bool> {
    let failed = || format!("cannot read `{}`", path.display());
    let Some(before) = at.checked_sub(1) else { return Ok(false) };
    let mut file = File::open(path).environment(failed)?;
    file.seek(SeekFrom::Start(before)).environment(failed)?;
    let mut around = Vec::new();
    file.take(2).read_to_end(&mut around).environment(failed)?;
    Ok(matches!(around[..], [before, after] if before != b'\n' && !matches!(after, b'\r' | b'\n')))
}

fn complete_length(text: &[u8], all: bool) -> Option<usize> {
    if all && !text.is_empty() {
        return Some(text.len());
    }
    memchr::memrchr(b'\n', text).map(|end| end + 1)
}

fn split(text: &[u8], start: u64, rows: usize, header: &[u8]) -> (Records, u64) {
    let mut records = Records { data: Vec::with_capacity(header.len() + text.len() + 64), ..Records::default() };
    records.data.extend_from_slice(header);
    records.bounds.push(header.len() as u32);
    let mut at = 0;
    while at < text.len() && records.len() < rows.max(1) {
        let end = memchr::memchr(b'\n', &text[at..]).map_or(text.len(), |length| at + length + 1);
        let mut line = without_line_end(&text[at..end]);
        if start == 0 && at == 0 {
            line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        }
        if !line.is_empty() {
            records.data.extend_from_slice(line);
            records.bounds.push(records.data.len() as u32);
            records.offsets.push((start + at as u64) as i64);
            records.timestamps_ms.push(-1);
        }
        at = end;
    }
    (records, start + at as u64)
}

fn without_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}
