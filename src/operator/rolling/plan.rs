//! A compiled [`RollingSpec`]: distinct bounds, frames, arguments and references; how long rows wait and how long they are
//! kept.
//!
//! `lag` and `lead` are the first row of a ROWS frame of one row. A frame without a beginning reaches back exactly as far as
//! the TTL, if there is one; so does a ROWS frame: the rows in a frame then depend on event time only, not on when rows were
//! dropped.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::compute::nullif;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column as ColumnExpr;

use super::bound::{Bound, CUT, Extent, Shift};
use super::column::Kind;
use super::shown::Shown;
use super::store::{Keep, Needed};
use super::view::Function;
use crate::error::{Context, Error, Result};
use crate::operator::spec::{RollingEmit, RollingFunction, RollingSpec, TimeColumn};
use crate::state::{KeyEquality, StateTable};
use crate::time::{EventTime, Lag, Watermark};

/// An aggregate's argument where its filter holds, null elsewhere.
#[derive(Debug)]
pub(super) struct Argument {
    expression: Arc<dyn PhysicalExpr>,
    filter: Option<Arc<dyn PhysicalExpr>>,
    pub(super) kind: Kind,
    pub(super) nullable: bool,
    of: DataType,
}

/// Indices of bounds; `floor` is one that `start` may not be below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) floor: Option<usize>,
}

/// The conditions for a row to be complete, beyond its own time.
#[derive(Debug, Default)]
pub(super) struct Wait {
    shifts: Vec<Shift>,
    /// Number of later rows of its key that must exist.
    pub(super) rows: usize,
    /// The row waits for the end of input.
    end: bool,
}

impl Wait {
    /// `true` if rows are emitted later than their time is complete.
    pub(super) fn is_any(&self) -> bool {
        !self.shifts.is_empty() || self.rows > 0 || self.end
    }

    /// `true` if all times around `time` that its frames reach are complete; monotone.
    pub(super) fn is_over(&self, time: EventTime, watermark: Watermark) -> bool {
        let is_complete = |time: EventTime| time.is_complete(watermark);
        watermark == Watermark::END
            || (!self.end && is_complete(time) && self.shifts.iter().all(|shift| is_complete(shift.upper(time))))
    }

    /// Lower bound of the times that are not over.
    fn open(&self, watermark: Watermark) -> Watermark {
        let time = watermark.time();
        let before = |shift: &Shift| match shift {
            Shift::Micros(by) => time.saturating_sub(*by),
            // At least the length of the calendar shift and the rest of the day.
            Shift::After(by) | Shift::Before(by) => {
                let days = i64::from(by.months) * 31 + i64::from(by.days) + 2;
                time.saturating_sub(Lag(days * 86_400_000_000)).saturating_sub(Lag(by.nanoseconds / 1000))
            }
        };
        match self.end && watermark != Watermark::END {
            true => Watermark::NONE,
            false => Watermark::at(self.shifts.iter().map(before).fold(time, EventTime::min)),
        }
    }
}

/// A spec, compiled.
pub(super) struct Plan {
    pub(super) input: SchemaRef,
    pub(super) output: SchemaRef,
    pub(super) keys: Vec<usize>,
    pub(super) time: usize,
    event_time: TimeColumn,
    pub(super) emit: RollingEmit,
    pub(super) emits_late: bool,
    /// Late rows that are emitted are counted.
    pub(super) counts_late: bool,
    ttl: Option<Lag>,
    /// Maximum number of rows in a frame that is read again for every row.
    pub(super) collect_limit: usize,
    /// The condition for rows to be emitted, if there is one.
    pub(super) shown: Option<Shown>,
    pub(super) bounds: Vec<Bound>,
    pub(super) frames: Vec<Frame>,
    pub(super) arguments: Vec<Argument>,
    /// Expressions whose values are stored, by reference.
    pub(super) references: Vec<Arc<dyn PhysicalExpr>>,
    /// The functions, each with the index of its frame.
    pub(super) functions: Vec<(usize, Box<dyn Function>)>,
    pub(super) wait: Wait,
    pub(super) keep: Keep,
}

/// Makes the function for an output column, which is counted from the first function; with the index of its frame.
pub(super) type Compile = fn(&mut Plan, &RollingFunction, usize) -> Result<(usize, Box<dyn Function>)>;

impl Plan {
    pub(super) fn new(spec: RollingSpec, compile: Compile) -> Result<Self> {
        if !matches!(spec.input.field(spec.time.column).data_type(), DataType::Timestamp(TimeUnit::Microsecond, _)) {
            return Err(Error::internal(
                "a rolling window is ordered by something that is no timestamp in microseconds",
            ));
        }
        let read = spec.functions.iter().flat_map(|function| function.function.columns());
        let read = read.chain(spec.keys.iter().copied()).chain([spec.time.column]).collect();
        let shown = spec.shown.map(|condition| Shown::new(condition, &spec.input, read));
        let mut plan = Self {
            input: spec.input,
            output: spec.output,
            keys: spec.keys,
            time: spec.time.column,
            event_time: spec.time,
            emit: spec.emit,
            emits_late: spec.emits_late || spec.emit == RollingEmit::OnArrival,
            counts_late: spec.emits_late,
            ttl: spec.ttl,
            collect_limit: spec.collect_limit,
            shown,
            bounds: Vec::new(),
            frames: Vec::new(),
            arguments: Vec::new(),
            references: Vec::new(),
            functions: Vec::new(),
            wait: Wait::default(),
            keep: Keep::default(),
        };
        for (index, function) in spec.functions.iter().enumerate() {
            let compiled = compile(&mut plan, function, index)?;
            plan.functions.push(compiled);
        }
        if plan.emit == RollingEmit::OnArrival {
            plan.wait = Wait::default();
        }
        // Rows that are kept by count are deleted by tombstones, which need their keys.
        if plan.is_counted() {
            for key in plan.keys.clone() {
                plan.reference(&plan.column(key));
            }
        }
        Ok(plan)
    }

    pub(super) fn column(&self, column: usize) -> Arc<dyn PhysicalExpr> {
        Arc::new(ColumnExpr::new(self.input.field(column).name(), column))
    }

    /// The type of an output column, counted from the first function.
    pub(super) fn output_type(&self, function: usize) -> DataType {
        self.output.field(self.input.fields().len() + function).data_type().clone()
    }

    /// The index of a frame; extends the plan's waiting and keeping accordingly.
    pub(super) fn frame(&mut self, extent: Extent) -> usize {
        let mut extent = extent;
        let back = self.ttl.map(|ttl| Bound::Time { shift: Shift::Micros(Lag(-ttl.0)), past: false });
        let mut floor = None;
        match (extent.start, back) {
            (Bound::First, None) => self.keep.all = true,
            (Bound::First, Some(back)) => extent.start = back,
            (Bound::Row(_), Some(back)) => floor = Some(back),
            (Bound::Row(by), None) => {
                let rows = usize::try_from(-by).unwrap_or(0);
                self.keep.rows = Some(self.keep.rows.unwrap_or(0).max(rows));
            }
            _ => {}
        }
        for bound in [Some(extent.start), floor] {
            if let Some(Bound::Time { shift, .. }) = bound
                && !self.keep.shifts.contains(&shift)
            {
                self.keep.shifts.push(shift);
            }
        }
        self.await_end(extent.end);
        let frame = Frame {
            start: self.bound(extent.start),
            end: self.bound(extent.end),
            floor: floor.map(|floor| self.bound(floor)),
        };
        index_of(&mut self.frames, frame)
    }

    /// The frame of the current row alone, for `row_number` over all rows ever, which only needs the row's ordinal.
    pub(super) fn ordinal_frame(&mut self) -> usize {
        self.keep.rows = Some(self.keep.rows.unwrap_or(0).max(1));
        let frame = Frame { start: self.bound(Bound::Row(0)), end: self.bound(Bound::Row(1)), floor: None };
        index_of(&mut self.frames, frame)
    }

    pub(super) fn has_ttl(&self) -> bool {
        self.ttl.is_some()
    }

    fn await_end(&mut self, end: Bound) {
        match end {
            Bound::Last => self.wait.end = true,
            Bound::Row(by) if by > 1 => {
                self.wait.rows = self.wait.rows.max(usize::try_from(by - 1).unwrap_or(usize::MAX));
            }
            Bound::Time { shift, .. } => {
                let waits = match shift {
                    Shift::Micros(by) => by > Lag::ZERO,
                    Shift::After(_) => true,
                    Shift::Before(_) => false,
                };
                if waits && !self.wait.shifts.contains(&shift) {
                    self.wait.shifts.push(shift);
                }
                // The target of a calendar shift depends on the days before.
                let days = Shift::Micros(CUT.saturating_neg());
                if !matches!(shift, Shift::Micros(_)) && !self.keep.shifts.contains(&days) {
                    self.keep.shifts.push(days);
                }
            }
            _ => {}
        }
    }

    fn bound(&mut self, bound: Bound) -> usize {
        index_of(&mut self.bounds, bound)
    }

    /// The index of an argument that is stored at least as `kind`; `None` if every row has a value.
    pub(super) fn argument(
        &mut self,
        expression: &Arc<dyn PhysicalExpr>,
        filter: Option<&Arc<dyn PhysicalExpr>>,
        kind: Kind,
    ) -> Result<Option<usize>> {
        let nullable = filter.is_some() || expression.nullable(&self.input).unwrap_or(true);
        if kind == Kind::Presence && !nullable {
            return Ok(None);
        }
        let known = self.arguments.iter().position(|known| {
            known.expression.as_ref() == expression.as_ref()
                && match (&known.filter, filter) {
                    (Some(known), Some(filter)) => known.as_ref() == filter.as_ref(),
                    (None, None) => true,
                    _ => false,
                }
        });
        if let Some(known) = known {
            if self.arguments[known].kind == Kind::Presence {
                self.arguments[known].kind = kind;
            }
            return Ok(Some(known));
        }
        let of = expression.data_type(&self.input).internal(|| "an argument has no type".to_owned())?;
        let (expression, filter) = (Arc::clone(expression), filter.cloned());
        self.arguments.push(Argument { expression, filter, kind, nullable, of });
        Ok(Some(self.arguments.len() - 1))
    }

    /// The index of an expression whose values are stored.
    pub(super) fn reference(&mut self, expression: &Arc<dyn PhysicalExpr>) -> usize {
        let known = self.references.iter().position(|known| known.as_ref() == expression.as_ref());
        known.unwrap_or_else(|| {
            self.references.push(Arc::clone(expression));
            self.references.len() - 1
        })
    }

    /// `true` if rows are also kept by count, so that they are deleted one by one.
    pub(super) fn is_counted(&self) -> bool {
        self.keep.rows.is_some() && !self.keep.all
    }

    /// Converts a watermark of event time to one of the ordering column: future rows have values at or after it.
    pub(super) fn complete(&self, watermark: Watermark) -> Watermark {
        self.event_time.bound(watermark)
    }

    /// The first watermark that affects a row of `time` that waits for its time.
    pub(super) fn due(&self, time: EventTime) -> Watermark {
        self.event_time.past(Some(time))
    }

    /// The first watermark at which a row of `time` that waits for later times may be emitted. If it waits for rows of its
    /// key, any watermark may do.
    pub(super) fn due_open(&self, time: EventTime) -> Watermark {
        match &self.wait {
            Wait { rows: 1.., .. } => Watermark::NONE,
            Wait { end: true, .. } => Watermark::END,
            wait => self.due(wait.shifts.iter().map(|shift| shift.upper(time)).fold(time, EventTime::max)),
        }
    }

    /// Lower bound of the (ordering) times of rows that wait to be emitted, other than for rows of their key.
    fn open(&self, watermark: Watermark) -> Watermark {
        let open = self.wait.open(watermark);
        match self.ttl {
            Some(ttl) if self.wait.rows > 0 && watermark != Watermark::END => {
                open.min(Watermark::at(watermark.time().saturating_sub(ttl)))
            }
            _ => open,
        }
    }

    /// `true` if a row may be emitted although rows after it are missing.
    pub(super) fn gives_up(&self, time: EventTime, watermark: Watermark) -> bool {
        watermark == Watermark::END || self.ttl.is_some_and(|ttl| time.saturating_add(ttl).is_complete(watermark))
    }

    /// The rows that are needed while the ordering column is complete to `watermark`.
    pub(super) fn needed(&self, watermark: Watermark) -> Needed<'_> {
        let open = self.open(watermark);
        // At least one row of each key stays: ordinals continue from it.
        let last = self.is_counted().then(|| (self.keep.rows.unwrap_or(0).max(1), self.wait.rows));
        Needed { from: Watermark::at(self.keep.earliest(open.time())), open, last, keep: &self.keep }
    }

    /// Rows of the waiting table before this time are dead.
    pub(super) fn waiting_cutoff(&self, watermark: Watermark) -> Watermark {
        if self.wait.rows > 0 { Watermark::NONE } else { self.open(watermark) }
    }

    /// The values of each argument, as stored in memory and in state.
    pub(super) fn evaluate_arguments(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
        self.arguments.iter().map(|argument| argument.evaluate(batch)).collect()
    }

    pub(super) fn evaluate_references(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
        self.references.iter().map(|expression| evaluate(expression, batch)).collect()
    }

    /// The tables of waiting rows (on watermark only) and of the history.
    pub(super) fn tables(&self) -> Vec<StateTable> {
        let mut tables = Vec::new();
        if self.emit == RollingEmit::OnWatermark {
            let fields = self.keys.iter().map(|key| self.input.field(*key).clone());
            let fields = fields.chain([Field::new(SEQUENCE, DataType::Int64, false)]);
            let rest = (0..self.input.fields().len()).filter(|column| !self.keys.contains(column));
            let fields: Vec<_> = fields.chain(rest.clone().map(|column| self.input.field(column).clone())).collect();
            let time = rest.clone().position(|column| column == self.time).map(|at| self.keys.len() + 1 + at);
            tables.push(StateTable {
                name: "waiting",
                schema: Arc::new(Schema::new(fields)),
                routing: self.keys.len(),
                key: (0..=self.keys.len()).collect(),
                time: time.or_else(|| self.keys.iter().position(|key| *key == self.time)),
                equality: KeyEquality::Bits,
                append_only: self.wait.rows == 0,
            });
        }
        tables.push(self.history());
        tables
    }

    /// The table of placed rows: keys, time, ordinal, arguments, references.
    fn history(&self) -> StateTable {
        let mut fields: Vec<_> = self.keys.iter().map(|key| self.input.field(*key).clone()).collect();
        fields.push(self.input.field(self.time).clone());
        fields.push(Field::new(SEQUENCE, DataType::Int64, false));
        for (index, argument) in self.arguments.iter().enumerate() {
            let of = if argument.kind == Kind::Presence { DataType::Boolean } else { argument.of.clone() };
            fields.push(Field::new(format!("argument_{index}"), of, true));
        }
        for (index, expression) in self.references.iter().enumerate() {
            let of = expression.data_type(&self.input).unwrap_or(DataType::Null);
            fields.push(Field::new(format!("value_{index}"), of, true));
        }
        StateTable {
            name: "history",
            schema: Arc::new(Schema::new(fields)),
            routing: self.keys.len(),
            key: (0..self.keys.len() + 2).collect(),
            time: Some(self.keys.len()),
            equality: KeyEquality::Bits,
            append_only: !self.is_counted(),
        }
    }
}

/// The column that makes the rows of a key unique.
pub(super) const SEQUENCE: &str = "__sequence";

impl Argument {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let values = evaluate(&self.expression, batch)?;
        let values = match self.kind {
            Kind::Presence => {
                Arc::new(BooleanArray::new(arrow::buffer::BooleanBuffer::new_set(values.len()), values.logical_nulls()))
            }
            _ => values,
        };
        let Some(filter) = &self.filter else { return Ok(values) };
        let mask = evaluate(filter, batch)?;
        let mask = mask.as_any().downcast_ref::<BooleanArray>();
        let mask = mask.ok_or_else(|| Error::internal("a FILTER is not boolean"))?;
        let out: BooleanArray = mask.iter().map(|holds| Some(holds != Some(true))).collect();
        nullif(&values, &out).internal(|| "a FILTER cannot be applied".to_owned())
    }
}

fn evaluate(expression: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef> {
    Ok(expression.evaluate(batch)?.into_array(batch.num_rows())?)
}

fn index_of<T: PartialEq>(known: &mut Vec<T>, item: T) -> usize {
    known.iter().position(|other| *other == item).unwrap_or_else(|| {
        known.push(item);
        known.len() - 1
    })
}
