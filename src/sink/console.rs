//! `connector = 'console'`: rows as a table on standard output. For looking, not for pipelines: rows that nobody reads are
//! dropped, and this is logged.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, StringArray, UInt64Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow::record_batch::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use async_trait::async_trait;

use super::writer::{Arrival, Opening, Sink, SinkWriter, Staged, Written};
use crate::delta::UpsertRows;
use crate::error::{Context, Error, Result};
use crate::output::Printer;

/// Standard output as a sink.
pub struct Console {
    pub output: Printer,
}

impl Sink for Console {
    fn kind(&self) -> &'static str {
        "console"
    }

    fn open(&self, opening: &Opening) -> Arc<dyn SinkWriter> {
        Arc::new(Printed { output: self.output.clone(), target: opening.target.clone(), retracts: opening.retracts })
    }
}

struct Printed {
    output: Printer,
    target: String,
    retracts: bool,
}

#[async_trait]
impl SinkWriter for Printed {
    async fn write(&self, _: Arrival, rows: Vec<UpsertRows>) -> Result<Written> {
        let rows: Vec<RecordBatch> = rows.into_iter().map(|rows| rows.rows).collect();
        match self.retracts {
            true => print_changes(&self.target, &rows, &self.output).await?,
            false => print(&self.target, &rows, &self.output).await?,
        }
        Ok(Written::default())
    }

    async fn close(&self) -> Result<Staged> {
        Ok(Staged::Nothing)
    }
}

/// Prints rows of a retracting stream. Their weight, the last column, is shown first, as `+` or `-`; a row with a larger
/// weight is repeated.
pub async fn print_changes(name: &str, rows: &[RecordBatch], output: &Printer) -> Result<()> {
    let rows = rows.iter().map(signed).collect::<Result<Vec<_>>>()?;
    print(name, &rows, output).await
}

fn signed(rows: &RecordBatch) -> Result<RecordBatch> {
    let fail = || "rows have no weights".to_owned();
    let last = rows.num_columns().saturating_sub(1);
    let weights = rows.columns().last().and_then(|column| column.as_primitive_opt::<Int64Type>());
    let weights = weights.ok_or_else(|| Error::internal(fail()))?;
    let times = weights.values().iter().enumerate();
    let times = times.flat_map(|(row, weight)| std::iter::repeat_n(row as u64, weight.unsigned_abs() as usize));
    let rows = &take_record_batch(rows, &UInt64Array::from_iter_values(times)).internal(fail)?;
    let weights = rows.column(last).as_primitive::<Int64Type>();
    let signs = weights.values().iter().map(|weight| if *weight > 0 { "+" } else { "-" });
    let mut fields = vec![Arc::new(Field::new("", DataType::Utf8, false))];
    fields.extend(rows.schema().fields().iter().take(last).cloned());
    let mut columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from_iter_values(signs))];
    columns.extend(rows.columns().iter().take(last).cloned());
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).internal(fail)
}

/// Prints `rows` under the sink's name; waits for room in the queue while the reader reads.
pub async fn print(name: &str, rows: &[RecordBatch], output: &Printer) -> Result<()> {
    output.print_patiently(table(name, rows)?).await;
    Ok(())
}

/// The printed form of `rows`. Errors: a value that has no text.
pub fn table(name: &str, rows: &[RecordBatch]) -> Result<String> {
    let shown = pretty_format_batches(rows).internal(|| format!("rows of `{name}` cannot be shown"))?;
    Ok(format!("-- {name}\n{shown}\n"))
}

/// One row as a line of JSON, for messages.
pub fn row(batch: &RecordBatch, row: usize) -> Result<String> {
    let mut text = Vec::new();
    let mut writer = crate::json::line_writer(&mut text);
    writer.write(&batch.slice(row, 1)).internal(|| "a row cannot be shown".to_owned())?;
    writer.finish().internal(|| "a row cannot be shown".to_owned())?;
    Ok(String::from_utf8_lossy(&text).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;

    use super::*;

    #[test]
    fn a_row_that_counts_twice_is_shown_twice() {
        let column = |values: Vec<i64>| Arc::new(Int64Array::from(values)) as ArrayRef;
        let rows = RecordBatch::try_from_iter([("n", column(vec![7, 8])), ("__weight", column(vec![2, -3]))]).unwrap();
        let shown = pretty_format_batches(&[signed(&rows).unwrap()]).unwrap().to_string();
        assert_eq!((shown.matches("| + | 7 |").count(), shown.matches("| - | 8 |").count()), (2, 3), "{shown}");
    }

    #[test]
    fn the_weight_is_shown_first_as_a_sign() {
        let column = |values: Vec<i64>| Arc::new(Int64Array::from(values)) as ArrayRef;
        let rows = RecordBatch::try_from_iter([("n", column(vec![7, 8])), ("__weight", column(vec![-1, 1]))]).unwrap();
        let shown = pretty_format_batches(&[signed(&rows).unwrap()]).unwrap().to_string();
        assert!(shown.contains("| - | 7 |") && shown.contains("| + | 8 |"), "{shown}");
        assert!(!shown.contains("__weight"), "{shown}");
    }
}
