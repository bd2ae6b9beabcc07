//! Records to rows: JSON and CSV into Arrow, without losing a valid record to an invalid one beside it.
//!
//! [`Decoder::decode`] is a pure function of a chunk. It promises that every record becomes exactly one row or one refusal,
//! in offset order, and that rows fit the declared schema with its NOT NULLs. It leaves to others where records come from
//! and where dead letters go.
//!
//! The path of a record: `scan` walks its bytes, `plan` assigns fields to columns, `json` and `csv` read it into growing
//! `column`s, `value` (with `entries`, `number`, `text`, `timestamp`) converts one value to one column's type.

mod column;
mod convert;
mod csv;
mod entries;
mod fault;
mod future;
mod json;
mod letters;
mod metadata;
mod number;
mod plan;
mod rows;
mod scan;
mod text;
mod timestamp;
mod value;

pub use future::MAX_FUTURE;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, TimestampMicrosecondArray};
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use self::column::Column;
use self::csv::CsvRows;
use self::fault::Fault;
use self::future::MaxFuture;
use self::json::{Blame, JsonRows};
use self::letters::{Letters, Refusal};
use self::metadata::Kept;
use self::plan::ObjectPlan;
use self::scan::{Cursor, PAD};
use crate::catalog::{
    ColumnDef, ColumnOrigin, CsvDialect, Format, Metadata, OnError, OnNull, SourceConnector, SourceDef, TimestampUnit,
};
use crate::env::Env;
use crate::error::{Context, Error, Result};
use crate::source::chunk::{Chunk, DeadLetter, PartitionId, Payload, Records};
use crate::source::origin::{RecordBytes, RowOffsets, RowOrigins};

/// The number of rows whose mean length is used to reserve memory for the rest.
const ROWS_BEFORE_RESERVE: usize = 64;

/// The result of decoding a chunk.
#[derive(Debug)]
pub struct Decoded {
    /// The good rows, in offset order, in the source's schema.
    pub rows: RecordBatch,
    /// The position of each row.
    pub origins: RowOrigins,
    /// The other records, in offset order; empty under `on_error = 'drop'`.
    pub dead: Vec<DeadLetter>,
    /// The number of refused records, kept or dropped.
    pub refused: usize,
    /// The number of values read as milliseconds that may be meant as seconds.
    pub doubtful_times: usize,
}

/// Decodes the chunks of one source.
#[derive(Debug)]
pub struct Decoder {
    source: String,
    connector: SourceConnector,
    format: Format,
    csv: CsvDialect,
    timestamp_unit: Option<TimestampUnit>,
    on_error: OnError,
    /// `true` if tombstones are skipped instead of becoming dead letters.
    skips_null: bool,
    schema: SchemaRef,
    columns: Vec<ColumnDef>,
    /// The columns read from the payload, as indices into `columns`.
    payload: Vec<usize>,
    /// Per payload column.
    nullable: Vec<bool>,
    /// The name of each payload column in a CSV header.
    names: Vec<String>,
    plan: ObjectPlan,
    objects: usize,
    /// Metadata columns that are NOT NULL and may be unknown.
    required: Vec<(usize, Metadata)>,
    future: Option<MaxFuture>,
}

impl Decoder {
    /// A decoder for the records of `def`. Errors: a column has a type that records cannot be decoded into.
    pub fn new(def: &SourceDef) -> Result<Self> {
        let mut payload = Vec::new();
        let mut paths: Vec<&[String]> = Vec::new();
        let mut required = Vec::new();
        for (index, column) in def.columns.iter().enumerate() {
            match &column.origin {
                ColumnOrigin::Field(path) => {
                    // Rows that are columns already may have any type.
                    if def.format != Format::Parquet {
                        Column::new(&column.data_type, TimestampUnit::Millis)
                            .map_err(|error| in_column(&error, &column.name))?;
                    }
                    payload.push(index);
                    paths.push(path);
                }
                ColumnOrigin::Metadata(metadata) => {
                    metadata::check_type(*metadata, &column.name, &column.data_type)?;
                    if !column.nullable {
                        required.push((index, *metadata));
                    }
                }
            }
        }
        let names = paths.iter().map(|path| path.join(".")).collect();
        let (plan, objects) = ObjectPlan::new(paths.into_iter());
        Ok(Self {
            source: def.name.clone(),
            connector: def.connector.clone(),
            format: def.format,
            csv: match &def.connector {
                SourceConnector::File(options) => options.csv.clone(),
                _ => CsvDialect::default(),
            },
            timestamp_unit: def.timestamp_unit,
            on_error: def.on_error,
            skips_null: matches!(&def.connector, SourceConnector::Kafka(options) if options.on_null == OnNull::Skip),
            schema: def.schema(),
            nullable: payload.iter().map(|index| def.columns[*index].nullable).collect(),
            columns: def.columns.clone(),
            payload,
            names,
            plan,
            objects,
            required,
            future: None,
        })
    }

    /// The source's name.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Refuses rows dated too far ahead of the clock, according to `max_future`.
    #[must_use]
    pub fn with_clock(self, def: &SourceDef, env: &Env) -> Self {
        Self { future: MaxFuture::new(def, env), ..self }
    }

    /// The schema of the decoded rows: the source's columns in their order.
    pub fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    /// Decodes a chunk into rows and dead letters. Errors: a record was refused and `on_error = 'fail'`.
    pub fn decode(&self, chunk: Chunk) -> Result<Decoded> {
        match chunk.payload {
            Payload::Rows(batch) => rows::decode(self, &chunk.partition, chunk.start, &batch),
            Payload::Records(records) => self.decode_records(&chunk.partition, records),
        }
    }

    fn decode_records(&self, partition: &PartitionId, mut records: Records) -> Result<Decoded> {
        let used = records.data.len();
        if i32::try_from(used).is_err() {
            return Err(Error::internal(format!("a chunk of `{partition}` is larger than 2 GiB")));
        }
        let all_utf8 = simdutf8::basic::from_utf8(&records.data).is_ok();
        records.data.resize(used + PAD, 0);
        let mut letters = self.letters(partition);
        let mut kept = Vec::with_capacity(records.len());
        let mut rows = self.record_rows(&records)?;
        let mut tombstones = records.tombstones.iter().copied().peekable();
        let mut cut_short = records.cut_short.iter().copied().peekable();
        for index in 0..records.len() {
            if let Some((_, length)) = cut_short.next_if(|(cut, _)| *cut == index as u32) {
                letters.record(&records, index, false, Refusal::too_long(length, records.payload(index).len()))?;
                continue;
            }
            let tombstone = tombstones.next_if_eq(&(index as u32)).is_some();
            if tombstone && self.skips_null {
                letters.refused += 1;
                continue;
            }
            match self.record(&mut rows, &records, index, tombstone, all_utf8) {
                Ok(()) => kept.push(index as u32),
                Err(refusal) => letters.record(&records, index, tombstone, refusal)?,
            }
            if index == ROWS_BEFORE_RESERVE {
                rows.reserve(records.len() - index);
            }
        }
        let mut rows = self.assemble(rows.into_columns(), &Kept { records: &records, indices: &kept }, partition)?;
        let ahead = self.future.as_ref().map_or_else(Vec::new, |future| future.refused(rows.columns()));
        if !ahead.is_empty() {
            rows = future::without(&rows, &ahead)?;
            let refused: BTreeSet<u32> = ahead.iter().map(|(row, _)| kept[*row]).collect();
            for (row, refusal) in ahead {
                letters.record(&records, kept[row] as usize, false, refusal)?;
            }
            letters.dead.sort_by_key(|letter| letter.offset);
            kept.retain(|index| !refused.contains(index));
        }
        let doubtful_times = if self.timestamp_unit.is_none() { self.doubtful_times(&rows) } else { 0 };
        let Records { offsets, timestamps_ms, data, bounds, keys, .. } = records;
        let of_kept = |values: Vec<i64>| match kept.len() == values.len() {
            true => values,
            false => kept.iter().filter_map(|index| values.get(*index as usize).copied()).collect(),
        };
        let (offsets, timestamps_ms) = (RowOffsets::Each(of_kept(offsets)), of_kept(timestamps_ms));
        let records = Some(Arc::new(RecordBytes { data, bounds, keys, rows: kept }));
        let origins = RowOrigins { partition: partition.clone(), offsets, timestamps_ms, records };
        Ok(Decoded { rows, origins, dead: letters.dead, refused: letters.refused, doubtful_times })
    }

    /// Counts times in January 1970 that would be after 1979 if their numbers were seconds instead of milliseconds.
    fn doubtful_times(&self, rows: &RecordBatch) -> usize {
        const DOUBTFUL: std::ops::Range<i64> = 315_532_800_000..4_102_444_800_000;
        let times =
            self.payload.iter().filter_map(|index| rows.column(*index).as_primitive_opt::<TimestampMicrosecondType>());
        let count = |times: &TimestampMicrosecondArray| {
            // Usually all times are later, which the minimum shows quickly.
            let least = arrow::compute::min(times).filter(|least| *least < DOUBTFUL.end);
            least.map_or(0, |_| times.iter().flatten().filter(|time| DOUBTFUL.contains(time)).count())
        };
        times.map(count).sum()
    }

    /// Reads record `index` into `rows`. Errors: the reason for refusing it.
    #[inline(always)]
    fn record(
        &self,
        rows: &mut RecordRows<'_>,
        records: &Records,
        index: usize,
        tombstone: bool,
        all_utf8: bool,
    ) -> Result<(), Refusal> {
        let (start, end) = (records.bounds[index] as usize, records.bounds[index + 1] as usize);
        if start == end {
            return Err(Refusal::of_record(if tombstone { "null payload" } else { "empty payload" }));
        }
        if !all_utf8 && simdutf8::basic::from_utf8(&records.data[start..end]).is_err() {
            return Err(Refusal::of_record("payload is not UTF-8"));
        }
        for (column, metadata) in &self.required {
            let column = &self.columns[*column];
            if !metadata::is_known(*metadata, &column.data_type, records, index) {
                let reason = Fault::Null.describe(&column.data_type, b"");
                return Err(Refusal { reason, column: Some(column.name.clone()) });
            }
        }
        rows.record(&records.data, start, end).map_err(|blame| self.refusal(rows, &blame, &records.data, start, end))
    }

    #[cold]
    fn refusal(&self, rows: &RecordRows<'_>, blame: &Blame, data: &[u8], start: usize, end: usize) -> Refusal {
        let Some(index) = blame.column else {
            let Fault::Syntax(what) = blame.fault else { return Refusal::of_record("cannot be decoded") };
            return Refusal::of_record(match rows {
                RecordRows::Json(_) => format!("not valid JSON: {what} (byte {})", blame.at.min(end) - start),
                RecordRows::Csv(_) => format!("not valid CSV: {what}"),
            });
        };
        let column = &self.columns[self.payload[index]];
        let found = match rows {
            RecordRows::Json(_) => value_at(data, blame.at, end),
            RecordRows::Csv(rows) => rows.field_of(index),
        };
        Refusal { reason: blame.fault.describe(&column.data_type, found), column: Some(column.name.clone()) }
    }

    fn record_rows(&self, records: &Records) -> Result<RecordRows<'_>> {
        let types = self.payload.iter().map(|index| &self.columns[*index].data_type);
        let unit = self.timestamp_unit.unwrap_or(TimestampUnit::Millis);
        let columns = types.map(|data_type| Column::new(data_type, unit)).collect::<Result<Vec<_>>>()?;
        if self.format != Format::Csv {
            return Ok(RecordRows::Json(JsonRows::new(&self.plan, self.objects, &self.nullable, columns)));
        }
        let header = &records.data[..records.bounds.first().map_or(0, |bound| *bound as usize)];
        let rows = CsvRows::new(&self.names, &self.nullable, columns, header, &self.csv).map_err(|_| {
            Error::config(format!("the header line of a file of source `{}` is not valid CSV", self.source))
                .with_detail(format!("It reads `{}`.", String::from_utf8_lossy(header)))
        })?;
        if rows.reads_nothing() {
            let header = String::from_utf8_lossy(header).into_owned();
            return Err(Error::config(format!("no column of source `{}` is in the header of a file", self.source))
                .with_detail(format!("The header reads `{header}`, the columns are {}.", self.names.join(", ")))
                .with_hint(
                    "Check the names and the option `delimiter`; of files without a header say `header = 'false'`.",
                ));
        }
        Ok(RecordRows::Csv(rows))
    }

    /// Payload and metadata columns in the order of the schema.
    fn assemble(&self, columns: Vec<Column>, kept: &Kept<'_>, partition: &str) -> Result<RecordBatch> {
        let place = metadata::split_partition(&self.connector, partition);
        let mut payload = columns.into_iter();
        let mut arrays = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            arrays.push(match (&column.origin, &column.data_type) {
                (ColumnOrigin::Metadata(metadata), wanted) => metadata::column(*metadata, wanted, kept, place)?,
                (ColumnOrigin::Field(_), _) => match payload.next() {
                    Some(column) => column.finish()?,
                    None => return Err(Error::internal("fewer columns were decoded than declared")),
                },
            });
        }
        self.batch(arrays, kept.indices.len())
    }

    fn batch(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(self.schema(), columns, &options)
            .internal(|| format!("the rows of source `{}` do not fit its schema", self.source))
    }

    fn letters(&self, partition: &PartitionId) -> Letters<'_> {
        Letters::new(&self.source, self.on_error, PartitionId::clone(partition))
    }
}

/// The rows of a chunk under construction, by format.
#[derive(Debug)]
enum RecordRows<'a> {
    Json(JsonRows<'a>),
    Csv(CsvRows<'a>),
}

impl RecordRows<'_> {
    #[inline(always)]
    fn record(&mut self, data: &[u8], start: usize, end: usize) -> Result<(), Blame> {
        match self {
            Self::Json(rows) => rows.record(data, start, end),
            Self::Csv(rows) => rows.record(&data[start..end]),
        }
    }

    fn reserve(&mut self, more: usize) {
        let columns = match self {
            Self::Json(rows) => &mut rows.columns,
            Self::Csv(rows) => &mut rows.columns,
        };
        columns.iter_mut().for_each(|column| column.reserve(more));
    }

    fn into_columns(self) -> Vec<Column> {
        match self {
            Self::Json(rows) => rows.columns,
            Self::Csv(rows) => rows.columns,
        }
    }
}

/// The text of the JSON value at `at`.
fn value_at(data: &[u8], at: usize, end: usize) -> &[u8] {
    let mut cursor = Cursor::new(data, at);
    match cursor.skip_value() {
        Ok(()) if cursor.pos <= end => &data[at..cursor.pos],
        _ => &data[at.min(end)..end],
    }
}

fn in_column(error: &Error, column: &str) -> Error {
    let error = Error::sql(format!("column `{column}`: {}", error.message()));
    error.with_hint("Declare the column as STRING to keep its JSON text, and convert it in the query.")
}
