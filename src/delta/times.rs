//! Parquet's INT96 times, Spark's default, as microseconds.
//!
//! Parquet's reader gives them as nanoseconds in 64 bits, which hold 1677 to 2262: the sentinels 0001-01-01 and 9999-12-31 come
//! out as other times, without an error.

use std::sync::Arc;

use arrow::datatypes::TimeUnit;
use datafusion::datasource::file_format::parquet::Int96Coercer;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::errors::Result;

/// A file's metadata for reading it with `options`, its INT96 columns as microseconds at any depth.
pub fn with_micros(file: ArrowReaderMetadata, options: ArrowReaderOptions) -> Result<ArrowReaderMetadata> {
    match Int96Coercer::new(file.parquet_schema(), file.schema(), &TimeUnit::Microsecond).coerce() {
        None => Ok(file),
        Some(schema) => {
            ArrowReaderMetadata::try_new(Arc::clone(file.metadata()), options.with_schema(Arc::new(schema)))
        }
    }
}
