//! Files as a source: JSON lines, CSV, Parquet.
//!
//! A partition is a file, named by its path below the source's root; its offset is a byte (text) or a row (Parquet). Files
//! are read in the order of their names; new files and new lines at the end of files are found as they appear. The reader
//! returns whole records only: a last line without a line end waits, unless reading is bounded and the line is complete
//! ([`lines`]). The meaning of lines is left to [`super::decode`]; each chunk of a CSV file begins with the file's header
//! line.

mod lines;
mod listing;
mod parquet_rows;
mod reader;
mod records;
mod text;

#[cfg(test)]
mod tests;

pub use self::reader::FileReader;
