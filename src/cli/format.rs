//! Batches of rows as text or Arrow, written as they arrive.
//!
//! Memory is bounded: the table form chooses its widths from the first [`SAMPLE_ROWS`] rows and keeps them.

use std::io::Write;

use arrow::array::timezone::Tz;
use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::ipc::writer::StreamWriter;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use clap::ValueEnum;

use crate::error::{Context, Error, ErrorKind, Result, SqlState};
use crate::json::{LineWriter, line_writer};

/// Rows that the table form holds back to choose column widths.
const SAMPLE_ROWS: usize = 1000;

/// The form in which rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum OutputFormat {
    /// Aligned columns, for people.
    #[default]
    Table,
    /// CSV (RFC 4180) with a header.
    Csv,
    /// One JSON object per line.
    Json,
    /// An Arrow IPC stream.
    Arrow,
}

/// Writes batches of one schema in one format. Call [`RowWriter::finish`] at the end.
pub struct RowWriter<W: Write> {
    form: Form<W>,
    rows: u64,
}

enum Form<W: Write> {
    Table(TableForm<W>),
    Csv(CsvForm<W>),
    Json(LineWriter<W>),
    Arrow(Box<StreamWriter<W>>),
}

impl<W: Write> RowWriter<W> {
    /// A writer of rows with this `schema`.
    pub fn new(format: OutputFormat, out: W, schema: &SchemaRef) -> Result<Self> {
        let form = match format {
            OutputFormat::Table => Form::Table(TableForm::new(out, schema)),
            OutputFormat::Csv => Form::Csv(CsvForm::new(out, schema)?),
            OutputFormat::Json => Form::Json(line_writer(out)),
            OutputFormat::Arrow => {
                let writer = StreamWriter::try_new(out, schema).context(ErrorKind::Environment, cannot_write)?;
                Form::Arrow(Box::new(writer))
            }
        };
        Ok(Self { form, rows: 0 })
    }

    /// Writes one batch.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.rows += batch.num_rows() as u64;
        match &mut self.form {
            Form::Table(table) => table.write(batch),
            Form::Csv(csv) => csv.write(batch),
            Form::Json(json) => json.write(batch).context(ErrorKind::Environment, cannot_write),
            Form::Arrow(arrow) => arrow.write(batch).context(ErrorKind::Environment, cannot_write),
        }
    }

    /// Writes the rows held back and the end; returns the number of rows.
    pub fn finish(self) -> Result<u64> {
        match self.form {
            Form::Table(table) => table.finish(self.rows)?,
            Form::Csv(mut csv) => csv.out.flush().context(ErrorKind::Environment, cannot_write)?,
            Form::Json(mut json) => json.finish().context(ErrorKind::Environment, cannot_write)?,
            Form::Arrow(mut arrow) => arrow.finish().context(ErrorKind::Environment, cannot_write)?,
        }
        Ok(self.rows)
    }
}

struct TableForm<W: Write> {
    out: W,
    headings: Vec<String>,
    /// `true` for columns that are aligned to the right: numbers.
    right: Vec<bool>,
    sample: Vec<Vec<String>>,
    widths: Option<Vec<usize>>,
}

impl<W: Write> TableForm<W> {
    fn new(out: W, schema: &Schema) -> Self {
        let fields = schema.fields();
        Self {
            out,
            headings: fields.iter().map(|field| field.name().clone()).collect(),
            right: fields.iter().map(|field| field.data_type().is_numeric()).collect(),
            sample: Vec::new(),
            widths: None,
        }
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let options = FormatOptions::new().with_null("NULL");
        let columns = formatters(batch, &options)?;
        for row in 0..batch.num_rows() {
            let cells: Vec<String> = columns.iter().map(|column| one_line(&column.value(row).to_string())).collect();
            match &self.widths {
                Some(widths) => write_cells(&mut self.out, &cells, widths, &self.right)?,
                None => {
                    self.sample.push(cells);
                    if self.sample.len() >= SAMPLE_ROWS {
                        self.write_sample()?;
                    }
                }
            }
        }
        Ok(())
    }

    fn write_sample(&mut self) -> Result<()> {
        let widths: Vec<usize> = self
            .headings
            .iter()
            .enumerate()
            .map(|(column, heading)| {
                let cells = self.sample.iter().map(|row| row[column].chars().count());
                cells.max().unwrap_or(0).max(heading.chars().count())
            })
            .collect();
        write_cells(&mut self.out, &self.headings, &widths, &vec![false; widths.len()])?;
        let rule: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
        writeln!(self.out, "{}", rule.join("┼")).context(ErrorKind::Environment, cannot_write)?;
        for row in std::mem::take(&mut self.sample) {
            write_cells(&mut self.out, &row, &widths, &self.right)?;
        }
        self.widths = Some(widths);
        Ok(())
    }

    fn finish(mut self, rows: u64) -> Result<()> {
        if self.widths.is_none() {
            self.write_sample()?;
        }
        let noun = if rows == 1 { "row" } else { "rows" };
        writeln!(self.out, "({rows} {noun})")
            .and_then(|()| self.out.flush())
            .context(ErrorKind::Environment, cannot_write)
    }
}

fn write_cells(out: &mut impl Write, cells: &[String], widths: &[usize], right: &[bool]) -> Result<()> {
    let mut line = String::new();
    for (column, cell) in cells.iter().enumerate() {
        let fill = " ".repeat(widths[column].saturating_sub(cell.chars().count()));
        let bar = if column == 0 { "" } else { "│" };
        let (before, after) = if right[column] { (fill.as_str(), "") } else { ("", fill.as_str()) };
        line.push_str(&format!("{bar} {before}{cell}{after} "));
    }
    writeln!(out, "{}", line.trim_end()).context(ErrorKind::Environment, cannot_write)
}

/// Escapes line ends and tabs, which would break the table.
fn one_line(cell: &str) -> String {
    cell.replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t")
}

struct CsvForm<W: Write> {
    out: W,
}

impl<W: Write> CsvForm<W> {
    fn new(mut out: W, schema: &Schema) -> Result<Self> {
        let names: Vec<String> = schema.fields().iter().map(|field| csv_cell(field.name())).collect();
        write!(out, "{}\r\n", names.join(",")).context(ErrorKind::Environment, cannot_write)?;
        Ok(Self { out })
    }

    /// Nested values are written as text; nulls are empty, empty strings are `""`.
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let options = FormatOptions::new();
        let columns = formatters(batch, &options)?;
        let mut line = String::new();
        for row in 0..batch.num_rows() {
            line.clear();
            for (index, column) in columns.iter().enumerate() {
                if index > 0 {
                    line.push(',');
                }
                let array = batch.column(index);
                if array.is_valid(row) {
                    let cell = column.value(row).to_string();
                    let is_empty_text = cell.is_empty() && matches!(array.data_type(), DataType::Utf8);
                    line.push_str(&if is_empty_text { "\"\"".to_owned() } else { csv_cell(&cell) });
                }
            }
            write!(self.out, "{line}\r\n").context(ErrorKind::Environment, cannot_write)?;
        }
        Ok(())
    }
}

fn csv_cell(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

fn formatters<'a>(batch: &'a RecordBatch, options: &'a FormatOptions<'a>) -> Result<Vec<ArrayFormatter<'a>>> {
    batch
        .columns()
        .iter()
        .map(|column| {
            ArrayFormatter::try_new(column.as_ref(), options).map_err(|error| {
                let message = format!("type {} cannot be shown", column.data_type());
                let is_zone =
                    matches!(column.data_type(), DataType::Timestamp(_, Some(zone)) if zone.parse::<Tz>().is_err());
                match is_zone {
                    true => Error::sql(message).with_state(SqlState::PARAMETER).with_source(error),
                    false => Error::internal(message).with_source(error),
                }
            })
        })
        .collect()
}

fn cannot_write() -> String {
    "result cannot be written".to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array, StringArray};
    use arrow::datatypes::Field;

    use super::*;

    fn batch() -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("name", DataType::Utf8, true),
            Field::new("score", DataType::Float64, true),
        ]);
        RecordBatch::try_new(
            Arc::new(schema),
            vec![
                Arc::new(Int64Array::from(vec![1, 20])),
                Arc::new(StringArray::from(vec![Some("a,\"b\""), None])),
                Arc::new(Float64Array::from(vec![Some(0.5), None])),
            ],
        )
        .unwrap()
    }

    fn written(format: OutputFormat) -> String {
        let mut out = Vec::new();
        let batch = batch();
        let mut writer = RowWriter::new(format, &mut out, &batch.schema()).unwrap();
        writer.write(&batch).unwrap();
        assert_eq!(writer.finish().unwrap(), 2);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn a_table_is_aligned_with_numbers_to_the_right() {
        let expected =
            " id │ name  │ score\n────┼───────┼───────\n  1 │ a,\"b\" │   0.5\n 20 │ NULL  │  NULL\n(2 rows)\n";
        assert_eq!(written(OutputFormat::Table), expected);
    }

    #[test]
    fn csv_quotes_what_needs_it_and_leaves_nulls_empty() {
        assert_eq!(written(OutputFormat::Csv), "id,name,score\r\n1,\"a,\"\"b\"\"\",0.5\r\n20,,\r\n");
    }

    #[test]
    fn json_is_one_object_a_line() {
        assert_eq!(written(OutputFormat::Json), "{\"id\":1,\"name\":\"a,\\\"b\\\"\",\"score\":0.5}\n{\"id\":20}\n");
    }

    #[test]
    fn arrow_is_a_stream_that_reads_back() {
        let mut out = Vec::new();
        let mut writer = RowWriter::new(OutputFormat::Arrow, &mut out, &batch().schema()).unwrap();
        writer.write(&batch()).unwrap();
        writer.finish().unwrap();
        let back = arrow::ipc::reader::StreamReader::try_new(out.as_slice(), None).unwrap();
        assert_eq!(back.map(|batch| batch.unwrap()).collect::<Vec<_>>(), vec![batch()]);
    }
}
