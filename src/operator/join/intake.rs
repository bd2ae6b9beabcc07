//! Rows that arrive at one port: combined into one batch, without the late ones and those that can never match.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::{concat_batches, filter, filter_record_batch, not};
use arrow::datatypes::{DataType, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::common::hash_utils::{RandomState, create_hashes};
use std::sync::Arc;

use super::consolidate::consolidate;
use super::segments::refused;
use crate::equality::key_values;
use crate::error::{Context, Error, Result};
use crate::operator::spec::TimeColumn;
use crate::time::{EventTime, Watermark};

/// Reads a port's rows.
pub(super) struct Intake {
    schema: SchemaRef,
    row: SchemaRef,
    keys: Vec<usize>,
    null_equals_null: bool,
    retract: bool,
    time: Option<TimeColumn>,
    /// `true` if rows are joined by time: late ones are then set aside, and rows without a time never match.
    timed: bool,
}

/// Options of [`Intake::new`].
pub(super) struct IntakeOptions<'a> {
    pub(super) schema: &'a SchemaRef,
    pub(super) keys: &'a [usize],
    pub(super) null_equals_null: bool,
    pub(super) retract: bool,
    pub(super) time: Option<TimeColumn>,
    pub(super) timed: bool,
}

/// Rows, with one time and (where the port retracts) one weight each.
pub(super) struct Rows {
    pub(super) rows: RecordBatch,
    /// Microseconds.
    pub(super) times: Vec<i64>,
    pub(super) weights: Vec<i64>,
}

/// A step's rows of one port.
pub(super) struct Taken {
    pub(super) rows: Rows,
    /// Hashes of the keys.
    pub(super) hashes: Vec<u64>,
    /// Rows that can never match, because of a null in their key or no time.
    pub(super) lonely: Option<Rows>,
    /// In the input's schema.
    pub(super) late: Option<RecordBatch>,
}

impl Intake {
    /// Errors: a time column of another type, a key or time column that does not exist.
    pub(super) fn new(options: &IntakeOptions<'_>) -> Result<Self> {
        let schema = options.schema;
        let columns = schema.fields().len().saturating_sub(usize::from(options.retract));
        let known = options.keys.iter().copied().chain(options.time.map(|time| time.column)).all(|c| c < columns);
        if !known {
            return Err(Error::internal("join on a column that its input does not have"));
        }
        if let Some(time) = options.time {
            let kind = schema.field(time.column).data_type();
            if !matches!(kind, DataType::Int64 | DataType::Timestamp(TimeUnit::Microsecond, _)) {
                return Err(Error::internal(format!("time of a join has type {kind}")));
            }
        }
        Ok(Self {
            schema: Arc::clone(schema),
            row: Arc::new(Schema::new(schema.fields()[..columns].to_vec())),
            keys: options.keys.to_vec(),
            null_equals_null: options.null_equals_null,
            retract: options.retract,
            time: options.time,
            timed: options.timed,
        })
    }

    /// The columns without weight.
    pub(super) fn row(&self) -> &SchemaRef {
        &self.row
    }

    /// Takes a step's batches. `before`: see [`super::super::Tick`]; `now` is the time of rows where there is no time
    /// column.
    pub(super) fn take(&self, batches: &[RecordBatch], before: Watermark, now: EventTime) -> Result<Option<Taken>> {
        let Some(mut all) = self.together(batches)? else { return Ok(None) };
        let mut late = None;
        if self.timed
            && let Some(time) = self.time
        {
            let bound = time.bound(before);
            let column = times(all.column(time.column))?;
            if column.values.iter().any(|&value| EventTime(value).is_late(bound)) {
                let is_late =
                    (0..all.num_rows()).map(|row| column.is_valid(row) && EventTime(column.values[row]).is_late(bound));
                let is_late: BooleanArray = is_late.map(Some).collect();
                late = Some(filter_record_batch(&all, &is_late).internal(refused)?).filter(|late| late.num_rows() > 0);
                all = filter_record_batch(&all, &not(&is_late).internal(refused)?).internal(refused)?;
            }
        }
        let rows = self.rows(all, now)?;
        let (rows, lonely) = self.part(rows)?;
        let hashes = self.hashes(&rows.rows)?;
        Ok(Some(Taken { rows, hashes, lonely, late }))
    }

    /// The hashes of the rows' keys.
    pub(super) fn hashes(&self, rows: &RecordBatch) -> Result<Vec<u64>> {
        let keys: Vec<&ArrayRef> = self.keys.iter().map(|&key| rows.column(key)).collect();
        hash(&keys, rows.num_rows())
    }

    /// The rows' times: from the time column (null: the end of time), otherwise `now`; microseconds.
    pub(super) fn times(&self, rows: &RecordBatch, now: EventTime) -> Result<Vec<i64>> {
        let Some(time) = self.time else { return Ok(vec![now.0; rows.num_rows()]) };
        let column = times(rows.column(time.column))?;
        Ok((0..rows.num_rows()).map(|row| if column.is_valid(row) { column.values[row] } else { i64::MAX }).collect())
    }

    fn together(&self, batches: &[RecordBatch]) -> Result<Option<RecordBatch>> {
        let all = match batches {
            [one] => batch(&self.schema, one.columns().to_vec(), one.num_rows()),
            more => concat_batches(&self.schema, more),
        };
        Ok(Some(all.internal(refused)?).filter(|all| all.num_rows() > 0))
    }

    /// Removes the weights; equal rows become one, rows that cancel out none.
    fn rows(&self, all: RecordBatch, now: EventTime) -> Result<Rows> {
        if !self.retract {
            let times = self.times(&all, now)?;
            return Ok(Rows { rows: all, times, weights: Vec::new() });
        }
        let weights = all.column(self.row.fields().len()).as_primitive_opt::<Int64Type>();
        let weights = weights.ok_or_else(|| Error::internal("weights of a join's input are not BIGINT"))?;
        let columns = all.columns()[..self.row.fields().len()].to_vec();
        let rows = batch(&self.row, columns, all.num_rows()).internal(refused)?;
        let (rows, weights) = consolidate(&rows, weights.values())?;
        let times = self.times(&rows, now)?;
        Ok(Rows { rows, times, weights })
    }

    fn part(&self, rows: Rows) -> Result<(Rows, Option<Rows>)> {
        let mut nulls: Option<NullBuffer> = None;
        let mut look_at =
            |column: &ArrayRef| nulls = NullBuffer::union(nulls.as_ref(), column.logical_nulls().as_ref());
        if !self.null_equals_null {
            self.keys.iter().for_each(|&key| look_at(rows.rows.column(key)));
        }
        if let Some(time) = self.time.filter(|_| self.timed) {
            look_at(rows.rows.column(time.column));
        }
        let Some(nulls) = nulls.filter(|nulls| nulls.null_count() > 0) else { return Ok((rows, None)) };
        let lonely = rows.only(&BooleanArray::new(!nulls.inner(), None))?;
        Ok((rows.only(&BooleanArray::new(nulls.into_inner(), None))?, Some(lonely)))
    }
}

impl Rows {
    fn only(&self, wanted: &BooleanArray) -> Result<Self> {
        let rows = filter_record_batch(&self.rows, wanted).internal(refused)?;
        Ok(Self { rows, times: pick(&self.times, wanted.values()), weights: pick(&self.weights, wanted.values()) })
    }
}

/// The selected values; none if `values` is empty.
pub(super) fn pick<T: Copy>(values: &[T], wanted: &BooleanBuffer) -> Vec<T> {
    if values.is_empty() { Vec::new() } else { wanted.set_indices().map(|row| values[row]).collect() }
}

/// Rows of a schema, which may have no columns: `rows` is then all there is.
pub(super) fn batch(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

/// Hashes of rows; not stable across builds.
pub(super) fn hash(columns: &[&ArrayRef], rows: usize) -> Result<Vec<u64>> {
    let mut hashes = vec![0; rows];
    let keys: Vec<ArrayRef> = columns.iter().map(|column| key_values(column)).collect();
    create_hashes(&keys, &RandomState::with_seed(0), &mut hashes)?;
    Ok(hashes)
}

struct Times<'a> {
    values: &'a [i64],
    nulls: Option<&'a NullBuffer>,
}

impl Times<'_> {
    fn is_valid(&self, row: usize) -> bool {
        self.nulls.is_none_or(|nulls| nulls.is_valid(row))
    }
}

fn times(column: &ArrayRef) -> Result<Times<'_>> {
    let values = if let Some(column) = column.as_primitive_opt::<TimestampMicrosecondType>() {
        column.values()
    } else if let Some(column) = column.as_primitive_opt::<Int64Type>() {
        column.values()
    } else {
        return Err(Error::internal(format!("time of a join has type {}", column.data_type())));
    };
    Ok(Times { values, nulls: column.nulls() })
}

/// The selected values of each column.
pub(super) fn only(columns: &[ArrayRef], wanted: &BooleanArray) -> Result<Vec<ArrayRef>> {
    columns.iter().map(|column| filter(column, wanted).internal(refused)).collect()
}
