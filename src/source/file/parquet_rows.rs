//! Rows of a Parquet file, from any row on.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use arrow::record_batch::RecordBatch;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};

use crate::delta::with_micros;
use crate::error::{Context, ErrorKind, Result};

/// The last four bytes of a complete Parquet file.
const MAGIC: &[u8; 4] = b"PAR1";

/// A Parquet file while it is read.
pub(super) struct ParquetRows {
    reader: ParquetRecordBatchReader,
    batch_rows: usize,
    /// Rows in the file.
    pub(super) total: i64,
}

impl ParquetRows {
    /// Opens a file at row `from`; batches have at most `batch_rows` rows. Errors: the file is damaged.
    pub(super) fn open(path: &Path, from: i64, batch_rows: usize) -> Result<Self> {
        let damaged = || format!("cannot read Parquet file `{}`", path.display());
        let file = File::open(path).environment(damaged)?;
        let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::default())
            .and_then(|loaded| with_micros(loaded, ArrowReaderOptions::default()))
            .context(ErrorKind::Damaged, damaged)?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata);
        let total = builder.metadata().file_metadata().num_rows();
        let fitting = crate::delta::batch_rows(builder.metadata(), batch_rows);
        let builder = builder.with_batch_size(fitting).with_offset(usize::try_from(from).unwrap_or(0));
        let reader = builder.build().context(ErrorKind::Damaged, damaged)?;
        Ok(Self { reader, batch_rows, total })
    }

    /// The maximum number of rows of a batch.
    pub(super) fn batch_rows(&self) -> usize {
        self.batch_rows
    }

    /// The next rows; `None` at the end.
    pub(super) fn next(&mut self, path: &Path) -> Result<Option<RecordBatch>> {
        let batch = self.reader.next().transpose();
        batch.context(ErrorKind::Damaged, || format!("cannot read Parquet file `{}`", path.display()))
    }
}

impl std::fmt::Debug for ParquetRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParquetRows").field("total", &self.total).finish_non_exhaustive()
    }
}

/// True if the file ends like a Parquet file: its writer has closed it.
pub(super) fn is_complete(path: &Path) -> Result<bool> {
    let failed = || format!("cannot read `{}`", path.display());
    let mut file = File::open(path).environment(failed)?;
    if file.seek(SeekFrom::End(0)).environment(failed)? < 12 {
        return Ok(false);
    }
    let mut end = [0; 4];
    file.seek(SeekFrom::End(-4)).and_then(|_| file.read_exact(&mut end)).environment(failed)?;
    Ok(&end == MAGIC)
}
