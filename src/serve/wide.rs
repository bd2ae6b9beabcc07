//! Limits the memory of joins with wide rows.
//!
//! A join builds a batch before its memory is counted: 8,192 rows of 100 KB are 800 MB. So the widest row of each side is
//! recorded before the join reads it ([`MeasuredExec`]), and the memory for a batch of such rows is reserved before it is
//! built. A query whose batches would be large is restarted with small ones ([`WideRows::is_exceeded`]).

use std::fmt::{self, Formatter};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arrow::array::{Array, ArrayRef, AsArray, OffsetSizeTrait};
use arrow::datatypes::DataType;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties};
use futures::StreamExt;

use crate::error::{Error, SqlState};

/// The maximum bytes of a join's batch if a smaller one could be built.
const MAX_BATCH_BYTES: usize = 32 << 20;
/// Rows of a batch if rows are wide.
pub const FEW_ROWS: usize = 16;

/// Facts about the rows of a query's joins. Clones belong to the same query.
#[derive(Debug, Clone, Default)]
pub struct WideRows {
    exceeded: Arc<AtomicBool>,
}

impl WideRows {
    /// True once a batch was too large to be built, and smaller ones may fit.
    pub fn is_exceeded(&self) -> bool {
        self.exceeded.load(Ordering::Relaxed)
    }

    /// `join` with both sides measured.
    pub fn measure(&self, join: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let partitions = join.output_partitioning().partition_count();
        let shared = Arc::new(JoinedRows {
            widest: [AtomicUsize::new(0), AtomicUsize::new(0)],
            partitions,
            reserved: OnceLock::new(),
            query: self.clone(),
        });
        let sides = join.children().into_iter().enumerate().map(|(side, input)| {
            let (inner, shared) = (Arc::clone(input), Arc::clone(&shared));
            Arc::new(MeasuredExec { inner, side, shared }) as Arc<dyn ExecutionPlan>
        });
        let sides = sides.collect();
        replace_children_if_necessary(join, sides)
    }
}

/// The widths of the rows that a join combines.
#[derive(Debug)]
struct JoinedRows {
    /// Bytes of the widest row of each side.
    widest: [AtomicUsize; 2],
    partitions: usize,
    reserved: OnceLock<MemoryReservation>,
    query: WideRows,
}

impl JoinedRows {
    /// Records that a side has a row of `width` bytes. Errors: a batch of such rows is too large.
    fn note(&self, side: usize, width: usize, context: &TaskContext) -> Result<()> {
        let Some(widest) = self.widest.get(side) else { return Ok(()) };
        if widest.fetch_max(width, Ordering::Relaxed) >= width {
            return Ok(());
        }
        let rows = context.session_config().batch_size();
        let both: usize = self.widest.iter().map(|widest| widest.load(Ordering::Relaxed)).sum();
        let bytes = rows.saturating_mul(both);
        if bytes > MAX_BATCH_BYTES && rows > FEW_ROWS {
            self.query.exceeded.store(true, Ordering::Relaxed);
            return Err(too_wide(both).into());
        }
        let reserved =
            self.reserved.get_or_init(|| MemoryConsumer::new("rows of a join").register(context.memory_pool()));
        reserved.try_resize(bytes.saturating_mul(self.partitions))
    }
}

/// The error for wide rows; a query that has not sent rows yet is restarted instead.
fn too_wide(bytes: usize) -> Error {
    Error::environment("rows of a join are too wide")
        .with_state(SqlState::OUT_OF_MEMORY)
        .with_detail(format!("A row has up to {bytes} bytes."))
        .with_hint("Join only the columns that are needed, and add the wide ones afterwards.")
}

/// One side of a join, which records the widest row before the join reads it.
#[derive(Debug)]
struct MeasuredExec {
    inner: Arc<dyn ExecutionPlan>,
    side: usize,
    shared: Arc<JoinedRows>,
}

impl DisplayAs for MeasuredExec {
    fn fmt_as(&self, _form: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("MeasuredExec")
    }
}

impl ExecutionPlan for MeasuredExec {
    fn name(&self) -> &'static str {
        "MeasuredExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.inner.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.inner]
    }

    fn apply_expressions(
        &self,
        _visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let inner = children.into_iter().next().unwrap_or_else(|| Arc::clone(&self.inner));
        Ok(Arc::new(Self { inner, side: self.side, shared: Arc::clone(&self.shared) }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let batches = self.inner.execute(partition, Arc::clone(&context))?;
        let (side, shared) = (self.side, Arc::clone(&self.shared));
        let measured = batches.map(move |batch| {
            let batch = batch?;
            let width = batch.columns().iter().map(widest).fold(0, usize::saturating_add);
            shared.note(side, width, &context)?;
            Ok(batch)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.inner.schema(), measured)))
    }
}

/// Bytes of the widest value of a column, or an upper bound.
fn widest(column: &ArrayRef) -> usize {
    let longest = match column.data_type() {
        DataType::Utf8 => longest(column.as_string::<i32>().value_offsets()),
        DataType::LargeUtf8 => longest(column.as_string::<i64>().value_offsets()),
        DataType::Binary => longest(column.as_binary::<i32>().value_offsets()),
        DataType::LargeBinary => longest(column.as_binary::<i64>().value_offsets()),
        DataType::Utf8View => longest_view(column.as_string_view().views()),
        DataType::BinaryView => longest_view(column.as_binary_view().views()),
        DataType::List(_) => {
            let list = column.as_list::<i32>();
            longest(list.value_offsets()).saturating_mul(widest(list.values()))
        }
        DataType::LargeList(_) => {
            let list = column.as_list::<i64>();
            longest(list.value_offsets()).saturating_mul(widest(list.values()))
        }
        DataType::Map(..) => {
            let map = column.as_map();
            let entry = widest(map.keys()).saturating_add(widest(map.values()));
            longest(map.value_offsets()).saturating_mul(entry)
        }
        DataType::FixedSizeList(_, length) => {
            let values = widest(column.as_fixed_size_list().values());
            usize::try_from(*length).unwrap_or_default().saturating_mul(values)
        }
        DataType::FixedSizeBinary(bytes) => usize::try_from(*bytes).unwrap_or_default(),
        DataType::Struct(_) => column.as_struct().columns().iter().map(widest).fold(0, usize::saturating_add),
        DataType::Dictionary(..) => widest(column.as_any_dictionary().values()),
        other => other.primitive_width().unwrap_or(1),
    };
    // Offsets and validity.
    longest.saturating_add(8)
}

fn longest<O: OffsetSizeTrait>(offsets: &[O]) -> usize {
    offsets.windows(2).map(|pair| pair[1].as_usize() - pair[0].as_usize()).max().unwrap_or_default()
}

/// A view begins with its length in 32 bits.
fn longest_view(views: &[u128]) -> usize {
    views.iter().map(|view| (view & u128::from(u32::MAX)) as usize).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, ListArray, StringArray, StringViewArray};
    use arrow::datatypes::Int64Type;

    use super::*;

    #[test]
    fn the_widest_value_counts() {
        let columns: [(ArrayRef, usize); 4] = [
            (Arc::new(Int64Array::from(vec![1, 2])), 8),
            (Arc::new(StringArray::from(vec!["", "four", "a"])), 4),
            (Arc::new(StringViewArray::from(vec!["", "longer than twelve bytes"])), 24),
            (
                Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>([
                    Some(vec![Some(1)]),
                    Some(vec![Some(1), None, Some(2)]),
                ])),
                3 * 16,
            ),
        ];
        for (column, bytes) in columns {
            assert_eq!(widest(&column), bytes + 8, "{:?}", column.data_type());
        }
    }
}
