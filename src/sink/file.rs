//! `connector = 'file'`: one file of JSON lines, CSV or Parquet per epoch and lane, in a folder.
//!
//! Files get their final name when the epoch closes, before it commits: a crash in between leaves a file whose rows the next
//! run writes again. The delivery is therefore at least once; tables are for exactly once.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use parquet::arrow::ArrowWriter;
use tokio::sync::Mutex;

use super::csv::CsvWriter;
use super::writer::{Arrival, Opening, Sink, SinkWriter, Staged, Written};
use crate::catalog::Format;
use crate::delta::UpsertRows;
use crate::error::{Context, Error, Result};
use crate::json::{self, LineWriter};

/// A folder as a sink.
pub struct FolderSink {
    pub folder: PathBuf,
    pub format: Format,
}

impl Sink for FolderSink {
    fn kind(&self) -> &'static str {
        "file"
    }

    fn open(&self, opening: &Opening) -> Arc<dyn SinkWriter> {
        let lanes = (0..opening.lanes).map(|_| Mutex::new(None)).collect();
        Arc::new(Folder { folder: self.folder.clone(), format: self.format, opening: opening.clone(), lanes })
    }
}

struct Folder {
    folder: PathBuf,
    format: Format,
    opening: Opening,
    lanes: Vec<Mutex<Option<FileWriter>>>,
}

#[async_trait]
impl SinkWriter for Folder {
    async fn write(&self, at: Arrival, rows: Vec<UpsertRows>) -> Result<Written> {
        let mut slot = self.lanes[at.lane].lock().await;
        let writer = match &mut *slot {
            Some(writer) => writer,
            empty => {
                let Opening { epoch, run, schema, .. } = &self.opening;
                let name = format!("{:010}-{}-{run}", epoch.0, at.lane);
                empty.insert(FileWriter::create(&self.folder, &name, self.format, schema)?)
            }
        };
        rows.iter().try_for_each(|rows| writer.write(&rows.rows))?;
        Ok(Written::default())
    }

    async fn close(&self) -> Result<Staged> {
        let (mut files, mut bytes) = (0, 0);
        for lane in &self.lanes {
            if let Some(writer) = lane.lock().await.take() {
                bytes += writer.close()?;
                files += 1;
            }
        }
        Ok(Staged::Finished { files, bytes })
    }
}

/// An open file of one epoch and lane.
pub struct FileWriter {
    name: PathBuf,
    hidden: PathBuf,
    encoder: Encoder,
}

enum Encoder {
    Json(LineWriter<BufWriter<File>>),
    Csv(CsvWriter<BufWriter<File>>),
    Parquet(Box<ArrowWriter<BufWriter<File>>>),
}

/// Encodes `row` and drops the result. Errors: a column that the format cannot hold.
pub fn try_row(format: Format, row: &RecordBatch) -> Result<()> {
    let fail = || "rows cannot be written".to_owned();
    match format {
        Format::Json => {
            let mut writer: LineWriter<Vec<u8>> = json::builder().with_explicit_nulls(true).build(Vec::new());
            writer.write(row).and_then(|()| writer.finish()).environment(fail)
        }
        Format::Csv => CsvWriter::new(Vec::new(), row.schema_ref())?.write(row),
        Format::Parquet => {
            let mut writer = ArrowWriter::try_new(Vec::new(), row.schema(), None).environment(fail)?;
            writer.write(row).and_then(|()| writer.close()).environment(fail).map(drop)
        }
    }
}

impl FileWriter {
    /// Creates `folder/name.<format>`, hidden until [`FileWriter::close`].
    pub fn create(folder: &Path, name: &str, format: Format, schema: &SchemaRef) -> Result<Self> {
        fs::create_dir_all(folder).environment(|| format!("folder `{}` cannot be made", folder.display()))?;
        let extension = match format {
            Format::Json => "jsonl",
            Format::Csv => "csv",
            Format::Parquet => "parquet",
        };
        let final_name = folder.join(format!("{name}.{extension}"));
        let hidden = folder.join(format!(".{name}.{extension}.part"));
        let file = File::create(&hidden).environment(|| format!("file `{}` cannot be made", hidden.display()))?;
        let file = BufWriter::new(file);
        let encoder = match format {
            // With nulls: without them a MAP would lose entries.
            Format::Json => Encoder::Json(json::builder().with_explicit_nulls(true).build(file)),
            Format::Csv => Encoder::Csv(CsvWriter::new(file, schema)?),
            Format::Parquet => Encoder::Parquet(Box::new(
                ArrowWriter::try_new(file, schema.clone(), None)
                    .internal(|| "rows cannot be written as Parquet".to_owned())?,
            )),
        };
        Ok(Self { name: final_name, hidden, encoder })
    }

    /// Appends rows.
    pub fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        let written = match &mut self.encoder {
            Encoder::Json(writer) => writer.write(rows).environment(|| "write failed".to_owned()),
            Encoder::Csv(writer) => writer.write(rows),
            Encoder::Parquet(writer) => writer.write(rows).environment(|| "write failed".to_owned()),
        };
        written.map_err(|error| {
            Error::environment(format!("file `{}` cannot be written", self.hidden.display())).with_source(error)
        })
    }

    /// Finishes the file and renames it to its final name; returns its size in bytes.
    pub fn close(self) -> Result<u64> {
        let context = || format!("file `{}` cannot be finished", self.name.display());
        let file = match self.encoder {
            Encoder::Json(mut writer) => {
                writer.finish().environment(context)?;
                writer.into_inner()
            }
            Encoder::Csv(writer) => writer.into_inner(),
            Encoder::Parquet(writer) => writer.into_inner().environment(context)?,
        };
        let mut file = file;
        file.flush().environment(context)?;
        let file = file.into_inner().map_err(std::io::IntoInnerError::into_error).environment(context)?;
        file.sync_all().environment(context)?;
        let size = file.metadata().environment(context)?.len();
        fs::rename(&self.hidden, &self.name).environment(context)?;
        Ok(size)
    }
}
