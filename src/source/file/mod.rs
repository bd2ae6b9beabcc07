//! Files as a source: JSON lines, CSV, Parquet.
//!
//! A partition is a file, named by its path below the source's root; its offset is a byte (text) or a row (Parquet).
//! Files are read in the order of their names; new files and new lines at the end of files are picked up. The reader
//! promises whole records only: a last line without a line end waits, unless reading is bounded. It leaves the meaning
//! of lines to [`super::decode`]; a CSV file's header line travels in front of each of its chunks.

mod lines;
mod listing;
mod parquet_rows;
mod reader;
mod records;
mod text;

#[cfg(test)]
mod tests;

pub use self::reader::FileReader;
