use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;

use super::FileReader;
use crate::catalog::{CsvDialect, FileSourceOptions, Format};
use crate::env::Env;
use crate::source::chunk::{Offsets, Payload, Poll, PollLimit, ReadFrom, SourceReader};

const INTERVAL: Duration = Duration::from_secs(1);

fn open(path: &Path, format: Format, from: &ReadFrom, env: &Env) -> FileReader {
    let options = FileSourceOptions {
        path: path.to_str().unwrap().to_owned(),
        poll_interval: INTERVAL,
        csv: CsvDialect::default(),
    };
    FileReader::open("files", &options, format, from, env).unwrap()
}

/// The result of the next poll: `file@offset text` of each record, `file@start+rows` of rows, or `idle` or `finished`.
fn poll(reader: &mut FileReader, rows: usize, bytes: usize) -> Vec<String> {
    let limit = PollLimit { rows, bytes, wait: Duration::ZERO, linger: Duration::ZERO };
    match futures::executor::block_on(reader.poll(limit)).unwrap() {
        Poll::Idle => vec!["idle".to_owned()],
        Poll::Finished => vec!["finished".to_owned()],
        Poll::Chunks(chunks) => chunks
            .into_iter()
            .flat_map(|chunk| match chunk.payload {
                Payload::Rows(batch) => vec![format!("{}@{}+{}", chunk.partition, chunk.start, batch.num_rows())],
                Payload::Records(records) => (0..records.len())
                    .map(|index| {
                        let text = String::from_utf8_lossy(records.payload(index)).into_owned();
                        format!("{}@{} {text}", chunk.partition, records.offsets[index])
                    })
                    .collect(),
            })
            .collect(),
    }
}

fn append(path: &Path, text: &str) {
    fs::OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn gzip(text: &str) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    gzip.finish().unwrap()
}

#[test]
fn files_held_for_one_that_has_nothing_more_are_read_to_their_end() {
    let folder = tempfile::tempdir().unwrap();
    let env = Env::manual(0, 1);
    fs::write(folder.path().join("a.gz"), gzip("one\n")).unwrap();
    fs::write(folder.path().join("b.gz"), gzip("two\nthree\n")).unwrap();
    let from = ReadFrom { bounded: true, ..ReadFrom::default() };
    let mut reader = open(folder.path(), Format::Json, &from, &env).in_order_of_time();
    assert_eq!(poll(&mut reader, 10, 1 << 20), ["a.gz@0 one", "b.gz@0 two"]);
    // That a compressed file has ended shows only when it is read again.
    reader.hold(&["b.gz".into()]);
    assert_eq!(poll(&mut reader, 10, 1 << 20), ["b.gz@4 three"]);
    assert_eq!(poll(&mut reader, 10, 1 << 20), ["finished"]);
}

#[test]
fn the_last_record_of_a_compressed_csv_file_may_have_line_ends_and_none_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    let env = Env::manual(0, 1);
    fs::write(folder.path().join("x.csv.gz"), gzip("id,s\n1,\"a\n2,y\n3,z\"")).unwrap();
    let from = ReadFrom { bounded: true, ..ReadFrom::default() };
    let mut reader = open(folder.path(), Format::Csv, &from, &env);
    assert_eq!(poll(&mut reader, 10, 1 << 20).len(), 1);
    assert_eq!(poll(&mut reader, 10, 1 << 20), ["finished"]);
}

#[test]
fn a_growing_file_is_followed_line_by_line_and_a_new_file_is_picked_up() {
    let folder = tempfile::tempdir().unwrap();
    let env = Env::manual(0, 1);
    append(&folder.path().join("b.json"), "one\r\n\ntwo\nthr");
    append(&folder.path().join("_ignored"), "x\n");
    let mut reader = open(folder.path(), Format::Json, &ReadFrom::default(), &env);
    assert_eq!(poll(&mut reader, 10, 1 << 20), ["b.json@0 one", "b.json@6 two"]);
    assert_eq!(poll(&mut reader, 10, 1 << 20), ["idle"]);
    append(&folder.path().join("b.json"), "ee\n");
    append(&folder.path().join("a.json"), "new\n");
    assert_eq!(poll(&mut reader, 10, 1 << 20), ["idle"], "the folder is listed at its interval");
    env.advance(INTERVAL);
    assert_eq!(poll(&mut reader, 10, 1 << 20), ["a.json@0 new", "b.json@10 three"]);
    assert_eq!(reader.lag(), Some(0));
}

#[test]
fn bounded_reading_ends_where_the_files_ended_and_takes_the_last_line() {
    let folder = tempfile::tempdir().unwrap();
    let env = Env::manual(0, 1);
    let path = folder.path().join("a.json");
    append(&path, "1\n[2]");
    let mut reader = open(&path, Format::Json, &ReadFrom { bounded: true, ..ReadFrom::default() }, &env);
    append(&path, "\n3\n");
    env.advance(INTERVAL);
    assert_eq!(poll(&mut reader, 1, 1 << 20), ["a.json@0 1"]);
    assert_eq!(poll(&mut reader, 9, 2), ["a.json@2 [2]"], "a line longer than the limit is read whole");
    assert_eq!(poll(&mut reader, 9, 2), ["finished"]);
}

#[test]
fn bounded_reading_leaves_a_last_line_whose_writer_is_not_done_to_the_next_run() {
    let folder = tempfile::tempdir().unwrap();
    let env = Env::manual(0, 1);
    let path = folder.path().join("a.json");
    append(&path, "{\"a\":1}\n{\"a\":");
    let mut reader = open(&path, Format::Json, &ReadFrom { bounded: true, ..ReadFrom::default() }, &env);
    assert_eq!(poll(&mut reader, 9, 1 << 20), ["a.json@0 {\"a\":1}"]);
    assert_eq!(poll(&mut reader, 9, 1 << 20), ["finished"]);
    append(&path, "2}");
    let offsets = Offsets::from([("a.json".into(), 8)]);
    let mut reader = open(&path, Format::Json, &ReadFrom { offsets, bounded: true, topic: None }, &env);
    assert_eq!(poll(&mut reader, 9, 1 << 20), ["a.json@8 {\"a\":2}"]);
    assert_eq!(poll(&mut reader, 9, 1 << 20), ["finished"]);
}

#[test]
fn a_line_that_goes_on_after_it_was_read_as_the_last_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.csv");
    append(&path, "a,b\n1,2");
    let offsets = || Offsets::from([("a.csv".into(), 7)]);
    let bounded = || ReadFrom { offsets: offsets(), bounded: true, topic: None };
    let limit = PollLimit { rows: 9, bytes: 99, wait: Duration::ZERO, linger: Duration::ZERO };
    append(&path, "\n3,4\n");
    let mut reader = open(&path, Format::Csv, &bounded(), &Env::manual(0, 1));
    assert_eq!(poll(&mut reader, 9, 99), ["a.csv@8 3,4"], "its line end alone may come later");
    fs::write(&path, "a,b\n1,23\n").unwrap();
    let mut reader = open(&path, Format::Csv, &bounded(), &Env::manual(0, 1));
    let error = futures::executor::block_on(reader.poll(limit)).unwrap_err();
    assert_eq!(error.message(), "file `a.csv` of source `files` has grown inside a line that was read as its last");
}

#[test]
fn reading_resumes_at_committed_offsets() {
    let folder = tempfile::tempdir().unwrap();
    let env = Env::manual(0, 1);
    append(&folder.path().join("a.json"), "one\ntwo\n");
    let offsets = Offsets::from([("a.json".into(), 4)]);
    let mut reader = open(folder.path(), Format::Json, &ReadFrom { offsets, bounded: true, topic: None }, &env);
    assert_eq!(poll(&mut reader, 9, 99), ["a.json@4 two"]);
    assert_eq!(poll(&mut reader, 9, 99), ["finished"]);
}

#[test]
fn a_file_that_became_shorter_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    append(&folder.path().join("a.json"), "one\n");
    let options = FileSourceOptions {
        path: folder.path().to_str().unwrap().to_owned(),
        poll_interval: INTERVAL,
        csv: CsvDialect::default(),
    };
    let from = ReadFrom { offsets: Offsets::from([("a.json".into(), 40)]), bounded: false, topic: None };
    let error = FileReader::open("files", &options, Format::Json, &from, &Env::manual(0, 1)).unwrap_err();
    assert_eq!(error.message(), "file `a.json` of source `files` has become shorter");
    fs::remove_file(folder.path().join("a.json")).unwrap();
    let options = FileSourceOptions { path: folder.path().join("none").to_str().unwrap().to_owned(), ..options };
    assert!(FileReader::open("files", &options, Format::Json, &from, &Env::manual(0, 1)).is_err());
}

#[test]
fn a_csv_header_travels_with_each_chunk_and_is_no_record() {
    let folder = tempfile::tempdir().unwrap();
    let env = Env::manual(0, 1);
    let path = folder.path().join("day=1/a.csv");
    fs::create_dir(folder.path().join("day=1")).unwrap();
    append(&path, "\u{feff}a,b\n");
    let pattern = folder.path().join("day=*/*.csv");
    let mut reader = open(&pattern, Format::Csv, &ReadFrom::default(), &env);
    assert_eq!(poll(&mut reader, 9, 99), ["idle"]);
    append(&path, "1,2\n3,4\n");
    env.advance(INTERVAL);
    assert_eq!(poll(&mut reader, 1, 99), ["day=1/a.csv@7 1,2"]);
    let mut resumed = {
        let offsets = Offsets::from([("day=1/a.csv".into(), 11)]);
        open(&pattern, Format::Csv, &ReadFrom { offsets, bounded: false, topic: None }, &env)
    };
    let limit = PollLimit { rows: 9, bytes: 99, wait: Duration::ZERO, linger: Duration::ZERO };
    let Poll::Chunks(chunks) = futures::executor::block_on(resumed.poll(limit)).unwrap() else {
        panic!("one line left")
    };
    let Payload::Records(records) = &chunks[0].payload else { panic!("lines are records") };
    assert_eq!(&records.data[..records.bounds[0] as usize], b"a,b");
    assert_eq!(records.payload(0), b"3,4");
}

#[test]
fn parquet_rows_are_counted_and_resumed_and_half_written_files_wait() {
    let folder = tempfile::tempdir().unwrap();
    let env = Env::manual(0, 1);
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..10));
    let batch = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    let bytes = writer.into_inner().unwrap();
    fs::write(folder.path().join("a.parquet"), &bytes[..bytes.len() - 9]).unwrap();
    fs::write(folder.path().join("b.parquet"), &bytes).unwrap();
    let mut reader = open(folder.path(), Format::Parquet, &ReadFrom::default(), &env);
    assert_eq!(poll(&mut reader, 4, 1 << 20), ["b.parquet@0+4"]);
    assert_eq!(poll(&mut reader, 99, 1 << 20), ["b.parquet@4+4", "b.parquet@8+2"]);
    assert_eq!(poll(&mut reader, 99, 1 << 20), ["idle"]);
    fs::write(folder.path().join("a.parquet"), &bytes).unwrap();
    env.advance(INTERVAL);
    assert_eq!(poll(&mut reader, 99, 1 << 20), ["a.parquet@0+10"]);
    let offsets = Offsets::from([("a.parquet".into(), 10), ("b.parquet".into(), 9)]);
    let mut resumed = open(folder.path(), Format::Parquet, &ReadFrom { offsets, bounded: true, topic: None }, &env);
    assert_eq!(poll(&mut resumed, 99, 1 << 20), ["b.parquet@9+1"]);
    assert_eq!(poll(&mut resumed, 99, 1 << 20), ["finished"]);
}

/// The decoded lines of the next polls: the number of rows, and `offset reason (bytes kept)` of each dead letter.
fn decode(reader: &mut FileReader) -> (usize, Vec<String>) {
    let limit = PollLimit { rows: 9, bytes: 1 << 20, wait: Duration::ZERO, linger: Duration::ZERO };
    let (mut rows, mut dead) = (0, Vec::new());
    loop {
        let Poll::Chunks(chunks) = futures::executor::block_on(reader.poll(limit)).unwrap() else {
            return (rows, dead);
        };
        for chunk in chunks {
            let Payload::Records(records) = chunk.payload else { panic!("lines are records") };
            let is_cut = |index: usize| records.cut_short.iter().find(|(cut, _)| *cut as usize == index);
            for index in 0..records.len() {
                match is_cut(index) {
                    None => rows += 1,
                    Some((_, length)) => dead.push(format!(
                        "{} {length} ({}), then {}",
                        records.offsets[index],
                        records.payload(index).len(),
                        chunk.end
                    )),
                }
            }
        }
    }
}

#[test]
fn a_line_over_64_mib_is_cut_short_and_its_neighbours_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.json");
    let long = format!("{{\"t\":\"{}\"}}", "x".repeat(70_000_000));
    append(&path, &format!("{{}}\n{long}\n{{}}\n"));
    let bounded = ReadFrom { bounded: true, ..ReadFrom::default() };
    for from in [&bounded, &ReadFrom::default()] {
        let mut reader = open(&path, Format::Json, from, &Env::manual(0, 1));
        let end = 3 + long.len() + 1;
        assert_eq!(decode(&mut reader), (2, vec![format!("3 {} (65536), then {end}", long.len())]));
    }
}

#[test]
fn a_line_over_64_mib_without_an_end_waits_or_counts_as_shorter_ones_do() {
    let folder = tempfile::tempdir().unwrap();
    let env = Env::manual(0, 1);
    let whole = format!("{{\"t\":\"{}\"}}", "x".repeat(70_000_000));
    let bounded = ReadFrom { bounded: true, ..ReadFrom::default() };
    let path = folder.path().join("a.json");
    append(&path, &whole[..whole.len() - 1]);
    assert_eq!(decode(&mut open(&path, Format::Json, &bounded, &env)), (0, vec![]), "its writer is not done");
    append(&path, "}");
    let length = whole.len();
    let read = decode(&mut open(&path, Format::Json, &bounded, &env));
    assert_eq!(read, (0, vec![format!("0 {length} (65536), then {length}")]));
    let mut following = open(&path, Format::Json, &ReadFrom::default(), &env);
    assert_eq!(decode(&mut following), (0, vec![]), "it may grow");
    append(&path, "\n{}\n");
    env.advance(INTERVAL);
    assert_eq!(decode(&mut following), (1, vec![format!("0 {length} (65536), then {}", length + 1)]));
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
}

/// All records of a bounded read, one entry per record.
fn read_all(folder: &Path, format: Format, rows: usize) -> Vec<String> {
    let from = ReadFrom { bounded: true, ..ReadFrom::default() };
    let mut reader = open(folder, format, &from, &Env::manual(0, 1));
    let mut found = Vec::new();
    loop {
        let polled = poll(&mut reader, rows, 1 << 20);
        if polled == ["finished"] {
            return found;
        }
        found.extend(polled);
    }
}

#[test]
fn a_line_end_inside_of_quotes_is_no_record_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("a.csv"), b"id,note\n1,\"see:\n99,forged\nend\"\n2,ok\n3,\"open\n4,last");
    for rows in [1, 2, 100] {
        let found = read_all(folder.path(), Format::Csv, rows);
        assert_eq!(found.len(), 2, "the writer of an open field is not done: {found:?}");
        assert_eq!(found[0], "a.csv@8 1,\"see:\n99,forged\nend\"");
        assert_eq!(found[1], "a.csv@31 2,ok");
    }
    append(&folder.path().join("a.csv"), "\"\n5,x");
    for rows in [1, 2, 100] {
        let found = read_all(folder.path(), Format::Csv, rows);
        assert_eq!(found[2..], ["a.csv@36 3,\"open\n4,last\"", "a.csv@52 5,x"]);
    }
    let mut zstd = zstd::encode_all(&b"id,note\n3,\"open\n4,last"[..], 1).unwrap();
    write(&folder.path().join("a.csv"), &zstd);
    let found = read_all(folder.path(), Format::Csv, 9);
    assert_eq!(found, ["a.csv@8 3,\"open", "a.csv@16 4,last"], "nobody adds to a compressed file");
    zstd.truncate(zstd.len() - 3);
    write(&folder.path().join("a.csv"), &zstd);
    write(&folder.path().join("b.csv"), b"id,note\n1,x\n");
    assert_eq!(read_all(folder.path(), Format::Csv, 9), ["b.csv@8 1,x"], "one that is cut short waits");
}

#[test]
fn csv_lines_may_end_in_carriage_returns() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("a.csv"), b"a,b\rx,\"1\r2\"\ry,2\rz,3");
    write(&folder.path().join("b.csv"), b"a,b\rv,1\r");
    for rows in [1, 2, 100] {
        let found = read_all(folder.path(), Format::Csv, rows);
        assert_eq!(found, ["a.csv@4 x,\"1\r2\"", "a.csv@12 y,2", "a.csv@16 z,3", "b.csv@4 v,1"]);
    }
    let mut following = open(folder.path(), Format::Csv, &ReadFrom::default(), &Env::manual(0, 1));
    let found = poll(&mut following, 9, 1 << 20);
    assert_eq!(
        found,
        ["a.csv@4 x,\"1\r2\"", "a.csv@12 y,2"],
        "the end of a line is not certain before the next begins"
    );
}

#[test]
fn compressed_files_are_read_by_their_content_from_any_record_on() {
    use std::io::Write as _;
    let folder = tempfile::tempdir().unwrap();
    let lines: String = (0..1_000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(lines.as_bytes()).unwrap();
    write(&folder.path().join("a.jsonl.gz"), &gzip.finish().unwrap());
    write(&folder.path().join("b.jsonl"), &zstd::encode_all(lines.as_bytes(), 1).unwrap());
    write(&folder.path().join("c.gz"), lines.as_bytes());
    for rows in [7, 100, 10_000] {
        let found = read_all(folder.path(), Format::Json, rows);
        assert_eq!(found.len(), 3_000);
        assert_eq!(found[1_500], "b.jsonl@4890 {\"n\":500}");
    }
    let from =
        ReadFrom { bounded: true, offsets: Offsets::from([("a.jsonl.gz".into(), 4_890)]), ..ReadFrom::default() };
    let mut reader = open(folder.path(), Format::Json, &from, &Env::manual(0, 1));
    assert_eq!(poll(&mut reader, 1, 1 << 20), ["a.jsonl.gz@4890 {\"n\":500}"]);
}

#[test]
fn with_a_watermark_each_file_speaks_first_and_then_the_slowest() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        append(&folder.path().join(name), "1\n2\n3\n");
    }
    let from = ReadFrom { bounded: true, ..ReadFrom::default() };
    let mut reader = open(folder.path(), Format::Json, &from, &Env::manual(0, 1)).in_order_of_time();
    assert_eq!(poll(&mut reader, 10, 1 << 20), ["a@0 1", "b@0 1", "c@0 1"]);
    reader.prefer(&["b".into(), "c".into(), "a".into()]);
    reader.hold(&["c".into()]);
    assert_eq!(poll(&mut reader, 3, 1 << 20), ["b@2 2", "b@4 3", "a@2 2"]);
    assert_eq!(reader.open_partitions(), ["a".into(), "c".into()]);
    assert_eq!(poll(&mut reader, 3, 1 << 20), ["a@4 3"]);
    assert_eq!(poll(&mut reader, 3, 1 << 20), ["c@2 2", "c@4 3"], "only held files are left");
    assert!(reader.open_partitions().is_empty());
}

#[test]
fn a_file_of_lines_that_was_written_to_lately_may_grow() {
    let folder = tempfile::tempdir().unwrap();
    append(&folder.path().join("a"), "1\n2\n");
    let written = std::fs::metadata(folder.path().join("a")).unwrap().modified().unwrap();
    let written = written.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let tails = |bounded: bool, later: u64| {
        let from = ReadFrom { bounded, ..ReadFrom::default() };
        let env = Env::manual(written + later, 1);
        let reader = open(folder.path(), Format::Json, &from, &env).in_order_of_time();
        let mut reader = reader.growing_for(std::time::Duration::from_secs(30));
        assert!(reader.tails().is_empty(), "it has rows that were not read");
        while poll(&mut reader, 10, 1 << 20)[0].starts_with('a') {}
        reader.tails()
    };
    assert_eq!(tails(false, 1_000), ["a".into()]);
    assert!(tails(false, 31_000).is_empty());
    assert!(tails(true, 1_000).is_empty(), "a bounded read does not come back");
}
