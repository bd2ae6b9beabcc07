//! The rows of an operator's shards, put back into the order of arrival or of time (see [`OutputOrder`]).

use std::sync::Arc;

use arrow::array::{Array, AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimeUnit, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;

use crate::error::{Context, Result};
use crate::memory::size::size_of_rows;
use crate::operator::Stepped;
use crate::operator::spec::OutputOrder;
use crate::state::interleave_rows;

/// Fewer rows than this are not worth a task per shard.
pub(super) const SPREAD_ROWS: usize = 4_096;

/// Rows are put together in batches of about this size.
const BATCH_BYTES: u64 = 16 << 20;

/// The rows of all shards in order, in as many parts as there are shards, one after the other; few rows in one part. Numbers are taken off,
/// of late rows too (they are the last column there).
pub(super) async fn in_order(mut shards: Vec<Stepped>, order: &OutputOrder) -> Result<Vec<Stepped>> {
    let mut batches: Vec<RecordBatch> = shards.iter_mut().flat_map(|shard| std::mem::take(&mut shard.rows)).collect();
    batches.retain(|batch| batch.num_rows() > 0);
    let keys = batches.iter().map(|batch| keys_of(batch, order)).collect::<Result<Vec<_>>>()?;
    if let OutputOrder::Arrival(number) = order {
        batches = batches.into_iter().map(|batch| without(batch, *number)).collect();
        for late in shards.iter_mut().flat_map(|shard| &mut shard.late) {
            let last = late.1.num_columns() - 1;
            late.1 = without(late.1.clone(), last);
        }
    }
    let Some(first) = shards.first_mut() else { return Ok(shards) };
    let all: Vec<i64> = keys.iter().flat_map(|keys| keys.values().iter().copied()).collect();
    if batches.len() < 2 && all.is_sorted() {
        first.rows = batches;
        return Ok(shards);
    }
    let mut rows: Vec<(i64, u32, u32)> = Vec::with_capacity(all.len());
    for (batch, keys) in keys.iter().enumerate() {
        rows.extend(keys.values().iter().enumerate().map(|(row, key)| (*key, batch as u32, row as u32)));
    }
    // A shard's rows are mostly in order, which a stable sort makes use of.
    rows.sort_by_key(|(key, ..)| *key);
    let parts = if rows.len() < SPREAD_ROWS { 1 } else { shards.len() };
    let bytes: u64 = batches.iter().map(size_of_rows).sum();
    let of_part = rows.len().div_ceil(parts).max(1);
    let of_batch = (BATCH_BYTES * rows.len() as u64 / bytes.max(1)).clamp(1, of_part as u64) as usize;
    let batches = Arc::new(batches);
    let work = rows.chunks(of_part).map(|part| {
        let (batches, part) = (Arc::clone(&batches), part.to_vec());
        async move { part.chunks(of_batch).map(|rows| gather(&batches, rows)).collect::<Result<Vec<_>>>() }
    });
    for (shard, rows) in shards.iter_mut().zip(side_by_side(work.collect()).await?) {
        shard.rows = rows;
    }
    Ok(shards)
}

fn gather(batches: &[RecordBatch], rows: &[(i64, u32, u32)]) -> Result<RecordBatch> {
    let picks: Vec<(usize, usize)> = rows.iter().map(|(_, batch, row)| (*batch as usize, *row as usize)).collect();
    let batches: Vec<&RecordBatch> = batches.iter().collect();
    interleave_rows(&batches, &picks).internal(|| "rows cannot be put in order".to_owned())
}

/// Runs the work in tasks of its own, unless it is one piece.
async fn side_by_side<T: Send + 'static>(
    work: Vec<impl Future<Output = Result<T>> + Send + 'static>,
) -> Result<Vec<T>> {
    let mut done = Vec::with_capacity(work.len());
    if work.len() < 2 {
        for one in work {
            done.push(one.await?);
        }
        return Ok(done);
    }
    let tasks: Vec<_> = work.into_iter().map(tokio::spawn).collect();
    for task in tasks {
        done.push(task.await.internal(|| "rows could not be put in order".to_owned())??);
    }
    Ok(done)
}

/// Sort key of the rows. Rows without a time come first.
fn keys_of(batch: &RecordBatch, order: &OutputOrder) -> Result<Int64Array> {
    match order {
        OutputOrder::Arrival(number) => Ok(batch.column(*number).as_primitive::<Int64Type>().clone()),
        OutputOrder::Time(columns) => {
            let mut greatest = vec![i64::MIN; batch.num_rows()];
            for column in columns {
                let times = cast(batch.column(*column), &DataType::Timestamp(TimeUnit::Microsecond, None))
                    .internal(|| "a time column cannot be read".to_owned())?;
                let times = times.as_primitive::<TimestampMicrosecondType>();
                for (row, greatest) in greatest.iter_mut().enumerate().filter(|(row, _)| times.is_valid(*row)) {
                    *greatest = (*greatest).max(times.value(row));
                }
            }
            Ok(Int64Array::from(greatest))
        }
    }
}

fn without(mut batch: RecordBatch, column: usize) -> RecordBatch {
    let _number = batch.remove_column(column);
    batch
}
