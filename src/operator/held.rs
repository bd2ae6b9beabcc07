//! The leaf of every plan: rows of one micro-batch, stored once and read by every branch.
//!
//! A plan is made once and run for each micro-batch. Its input is not part of the plan but of the task context: [`Held`] has
//! a slot per stream (a decoded source, or a view that several branches share) and a [`HeldExec`] yields the rows of its
//! slot. A lane, the part of a micro-batch that one task carries through the whole dataflow, has its own `Held`, so nothing
//! here locks.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::source_as_provider;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Expr, TableScan, TableType};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions,
};
use datafusion::physical_plan::memory::MemoryStream;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PhysicalExpr, PlanProperties, SendableRecordBatchStream,
};

/// Number of a stream in a dataflow: sources first, then fragments, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamId(pub usize);

/// One lane's rows per stream; each slot is filled once.
#[derive(Debug)]
pub struct Held {
    slots: Vec<OnceLock<Vec<RecordBatch>>>,
    /// Bytes of lists that were unfolded.
    unfolded: AtomicU64,
}

impl Held {
    /// Empty slots for `streams` streams.
    pub fn new(streams: usize) -> Self {
        Self { slots: (0..streams).map(|_| OnceLock::new()).collect(), unfolded: AtomicU64::new(0) }
    }

    /// Fills a stream's slot. Filling it twice is a defect and reported as such.
    pub fn fill(&self, stream: StreamId, rows: Vec<RecordBatch>) -> Result<()> {
        let slot = self.slots.get(stream.0).ok_or_else(|| defect(format!("no stream {}", stream.0)))?;
        slot.set(rows).map_err(|_| defect(format!("stream {} filled twice", stream.0)))
    }

    /// Adds the bytes of lists that are about to be unfolded.
    pub fn unfold(&self, bytes: u64) {
        self.unfolded.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes of all lists that were unfolded.
    pub fn unfolded(&self) -> u64 {
        self.unfolded.load(Ordering::Relaxed)
    }

    /// `true` if no stream has rows.
    pub fn is_empty(&self) -> bool {
        self.slots.iter().all(|slot| slot.get().is_none_or(Vec::is_empty))
    }

    /// The stream's rows; none if its slot was not filled.
    pub fn rows(&self, stream: StreamId) -> &[RecordBatch] {
        self.slots.get(stream.0).and_then(|slot| slot.get()).map_or(&[], Vec::as_slice)
    }
}

fn defect(message: String) -> DataFusionError {
    DataFusionError::Internal(message)
}

/// The column with the number of a row, counted from 0.
pub const NUMBER: &str = "__number";

/// The field of [`NUMBER`].
pub fn number_field() -> FieldRef {
    Arc::new(Field::new(NUMBER, DataType::Int64, false))
}

/// The schema with [`NUMBER`] as column `at`.
pub fn with_number(schema: &SchemaRef, at: usize) -> SchemaRef {
    let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
    fields.insert(at, number_field());
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// The rows with their numbers behind the last column.
pub fn numbered(rows: Vec<RecordBatch>) -> Result<Vec<RecordBatch>, ArrowError> {
    let mut next = 0_i64;
    let mut number = |batch: RecordBatch| {
        let end = next + batch.num_rows() as i64;
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(next..end));
        next = end;
        let schema = batch.schema();
        let fields: Vec<_> = schema.fields().iter().cloned().chain([number_field()]).collect();
        let columns = batch.columns().iter().cloned().chain([numbers]).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
    };
    rows.into_iter().map(&mut number).collect()
}

/// Yields the rows that [`Held`] has for a stream, as one partition.
#[derive(Debug)]
pub struct HeldExec {
    name: String,
    stream: StreamId,
    projection: Option<Vec<usize>>,
    /// Rows carry [`NUMBER`] as their last column.
    numbered: bool,
    properties: Arc<PlanProperties>,
}

impl HeldExec {
    fn new(name: &str, stream: StreamId, schema: &SchemaRef, projection: Option<Vec<usize>>) -> Result<Self> {
        let schema = match &projection {
            Some(columns) => Arc::new(schema.project(columns)?),
            None => Arc::clone(schema),
        };
        let (name, numbered) = (name.to_owned(), false);
        Ok(Self { name, stream, projection, numbered, properties: Self::properties_of(schema) })
    }

    fn properties_of(schema: SchemaRef) -> Arc<PlanProperties> {
        Arc::new(PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ))
    }

    /// The same, with each row's number in the stream as an additional last column.
    pub fn with_numbers(&self) -> Self {
        let fields = self.properties.eq_properties.schema().fields().iter().cloned();
        let schema = Arc::new(Schema::new(fields.chain([number_field()]).collect::<Vec<_>>()));
        Self {
            name: self.name.clone(),
            stream: self.stream,
            projection: self.projection.clone(),
            numbered: true,
            properties: Self::properties_of(schema),
        }
    }

    /// The stream that is read; the plan's schema has the projected columns.
    pub fn stream(&self) -> StreamId {
        self.stream
    }

    /// The rows of its stream in `held`, projected to its columns. Slots are shared buffers, so this copies pointers only.
    pub fn rows(&self, held: &Held) -> Result<Vec<RecordBatch>> {
        let rows = held.rows(self.stream);
        let rows = match &self.projection {
            None => rows.to_vec(),
            Some(columns) => {
                rows.iter().map(|batch| batch.project(columns)).collect::<Result<_, arrow::error::ArrowError>>()?
            }
        };
        if self.numbered { Ok(numbered(rows)?) } else { Ok(rows) }
    }
}

impl DisplayAs for HeldExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let columns: Vec<_> =
            self.properties.eq_properties.schema().fields().iter().map(|c| c.name().as_str()).collect();
        write!(f, "HeldExec: stream={}, columns=[{}]", self.name, columns.join(", "))
    }
}

impl ExecutionPlan for HeldExec {
    fn name(&self) -> &'static str {
        "HeldExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        if partition != 0 {
            return Err(defect(format!("stream `{}` has one partition, not {partition}", self.name)));
        }
        let held = context
            .session_config()
            .get_extension::<Held>()
            .ok_or_else(|| defect(format!("stream `{}` was run outside a micro-batch", self.name)))?;
        Ok(Box::pin(MemoryStream::try_new(self.rows(&held)?, self.schema(), None)?))
    }
}

/// A stream as a table for SQL.
#[derive(Debug)]
pub struct HeldTable {
    name: String,
    stream: StreamId,
    schema: SchemaRef,
}

impl HeldTable {
    /// The stream that a scan of a plan reads; `None` for other tables.
    pub fn scanned_by(scan: &TableScan) -> Option<StreamId> {
        let provider = source_as_provider(&scan.source).ok()?;
        provider.downcast_ref::<Self>().map(Self::stream)
    }

    /// The stream `stream`, called `name` in plans.
    pub fn new(name: impl Into<String>, stream: StreamId, schema: SchemaRef) -> Self {
        Self { name: name.into(), stream, schema }
    }

    /// The stream that is read.
    pub fn stream(&self) -> StreamId {
        self.stream
    }
}

#[async_trait]
impl TableProvider for HeldTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(HeldExec::new(&self.name, self.stream, &self.schema, projection.cloned())?))
    }
}
