//! Lines of a text file as records, without their line ends; the offset is the byte at which a record begins. A CSV record
//! may span several lines if quoted fields contain line ends.

use std::io::{self, BufReader, Read};

use serde::Deserialize;

use super::records::Ends;
use super::text::Text;
use crate::source::chunk::{KEPT_OF_LONG, MAX_RECORD, Records};

/// Bytes first read for a file's header.
const HEADER_BYTES: u64 = 16 << 10;

/// A longer line is refused without being read into memory.
const MAX_LINE: u64 = MAX_RECORD as u64;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// The part of a file that may be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    /// First byte.
    pub(super) start: u64,
    /// One past the last byte.
    pub(super) end: u64,
    /// The treatment of a last line without a line end.
    pub(super) last_line: LastLine,
}

/// Tells whether a last line without a line end is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LastLine {
    /// It waits for its line end.
    Waits,
    /// It is complete: it will not grow.
    Counts,
    /// It is complete if it is a JSON value; otherwise its writer is not done and it waits.
    CountsIfJson,
    /// It is complete unless a quoted field is open: then its writer is not done and it waits.
    CountsIfClosed,
}

impl LastLine {
    fn counts(self, text: &[u8]) -> bool {
        match self {
            // An open field is recognised only from the start of the last record, which `split` knows.
            Self::Waits | Self::CountsIfClosed => false,
            Self::Counts => true,
            Self::CountsIfJson => {
                let start = memchr::memrchr(b'\n', text).map_or(0, |end| end + 1);
                let line = text[start..].strip_prefix(BYTE_ORDER_MARK).unwrap_or(&text[start..]);
                serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok()
            }
        }
    }
}

/// The records at the start of a range, and the byte after them; `None` if none is complete.
///
/// `header` (of a CSV file) is put before the first record. At most `rows` records and about `bytes` bytes, but at least one
/// record.
pub(super) fn read(
    file: &mut Text,
    range: Range,
    ends: Ends<'_>,
    rows: usize,
    bytes: usize,
    header: &[u8],
) -> io::Result<Option<(Records, u64)>> {
    let mut wanted = (bytes as u64).clamp(1, MAX_LINE);
    loop {
        let text = file.bytes(range.start, wanted.min(range.end - range.start))?;
        let at_end = text.len() as u64 >= range.end - range.start || (text.len() as u64) < wanted;
        let full = wanted >= MAX_LINE && memchr::memchr(b'\n', &text).is_some();
        let all = at_end && range.last_line.counts(&text);
        let closed = at_end && matches!(range.last_line, LastLine::Counts | LastLine::CountsIfClosed);
        let rest = Rest { all, closed, first_line: all || full };
        if let Some(found) = split(&text, range.start, ends, rest, rows, header) {
            return Ok(Some(found));
        }
        if at_end {
            return Ok(None);
        }
        if wanted >= MAX_LINE {
            return long_line(file, range, text, header);
        }
        wanted = (wanted * 2).min(MAX_LINE);
    }
}

/// The line whose first [`MAX_LINE`] bytes are `text`, read to its end piece by piece; `None` if it is not complete.
fn long_line(file: &mut Text, range: Range, mut text: Vec<u8>, header: &[u8]) -> io::Result<Option<(Records, u64)>> {
    const PIECE: u64 = 1 << 20;
    let mut length = text.len() as u64;
    text.truncate(KEPT_OF_LONG);
    text.shrink_to_fit();
    let ended = loop {
        let piece = file.bytes(range.start + length, PIECE.min(range.end - range.start - length))?;
        if piece.is_empty() {
            break false;
        }
        let end = memchr::memchr(b'\n', &piece);
        length += end.map_or(piece.len(), |end| end + 1) as u64;
        if end.is_some() {
            break true;
        }
    };
    let whole = match range.last_line {
        _ if ended => true,
        LastLine::Waits => false,
        LastLine::Counts | LastLine::CountsIfClosed => true,
        LastLine::CountsIfJson => is_json(Pieces { file, at: range.start, end: range.start + length }),
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

/// Part of a file, read piece by piece.
struct Pieces<'a> {
    file: &'a mut Text,
    at: u64,
    end: u64,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.bytes(self.at, (buffer.len() as u64).min(self.end - self.at))?;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }
}

/// `true` if a text is one JSON value. Does not keep the text in memory.
fn is_json(text: impl Read) -> bool {
    let mut values = serde_json::Deserializer::from_reader(BufReader::with_capacity(1 << 20, text));
    serde::de::IgnoredAny::deserialize(&mut values).is_ok() && values.end().is_ok()
}

/// The header without its line end, and the byte after it; `None` if it is not complete.
pub(super) fn read_header(
    file: &mut Text,
    end: u64,
    ends: Ends<'_>,
    last_line: LastLine,
) -> io::Result<Option<(Vec<u8>, u64)>> {
    let mut wanted = HEADER_BYTES;
    loop {
        let text = file.bytes(0, wanted.min(end))?;
        let at_end = text.len() as u64 >= end || (text.len() as u64) < wanted;
        let length = match ends.end(&text, 0) {
            Some(length) => length,
            None if !at_end && wanted < MAX_LINE => {
                wanted = (wanted * 2).min(MAX_LINE);
                continue;
            }
            None if last_line == LastLine::Waits || text.is_empty() => return Ok(None),
            None if ends.is_closed(&text, 0) => text.len(),
            None if last_line == LastLine::CountsIfClosed => return Ok(None),
            None => ends.line_end(&text, 0).unwrap_or(text.len()),
        };
        let line = without_line_end(&text[..length]);
        let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        return Ok(Some((line.to_vec(), length as u64)));
    }
}

/// `true` if `at` is inside a line: neither the byte before nor the byte at `at` is a line end. Errors: the file cannot be
/// read.
pub(super) fn is_inside_a_line(file: &mut Text, at: u64) -> io::Result<bool> {
    let Some(before) = at.checked_sub(1) else { return Ok(false) };
    let around = file.bytes(before, 2)?;
    Ok(matches!(around[..], [before, after] if !matches!(before, b'\r' | b'\n') && !matches!(after, b'\r' | b'\n')))
}

/// The treatment of an unfinished record at the end of a text.
#[derive(Clone, Copy)]
struct Rest {
    /// It is the last record.
    all: bool,
    /// It is the last record if it has no open quoted field.
    closed: bool,
    /// If a quote in it does not end, only its first line is taken.
    first_line: bool,
}

/// `None` if `text` contains no complete record.
fn split(text: &[u8], start: u64, ends: Ends<'_>, rest: Rest, rows: usize, header: &[u8]) -> Option<(Records, u64)> {
    let mut records = Records::default();
    let mut at = 0;
    while at < text.len() && records.len() < rows.max(1) {
        let end = match ends.end(text, at) {
            Some(end) => end,
            None if rest.closed && ends.is_closed(text, at) => text.len(),
            None if rest.first_line && (rest.all || at == 0) => ends.line_end(text, at).unwrap_or(text.len()),
            None => break,
        };
        if at == 0 {
            records.data.reserve(header.len() + text.len() + 64);
            records.data.extend_from_slice(header);
            records.bounds.push(header.len() as u32);
        }
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
    (at > 0).then(|| (records, start + at as u64))
}

fn without_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}
