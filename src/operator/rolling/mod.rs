//! `f(…) OVER (PARTITION BY k ORDER BY time …)`, several frames at once over one stream.
//!
//! The path of a row: it waits whole ([`waiting`]) until its time is complete; then the values that the functions need are
//! placed among the rows of its key ([`store`]), where frames are runs of slots ([`evaluate`], [`bound`], [`view`]), and summarised
//! ([`summary`], [`functions`]) or followed by bags ([`sliding`]). Rows that no frame can reach any more are dropped: a
//! key's own when it gets rows, all keys' by a sweep over a few keys in every step.
//!
//! Promises. On watermark: each row is emitted once, in order of (time, arrival) within a step and over steps, with the
//! results of DataFusion's batch operator over all rows, with one exception: where DataFusion subtracts from sums, a NaN
//! stays in them; here it leaves with its row. A late row is reported as late and counts nowhere; or, if late rows are to be
//! emitted, it is emitted at once (or when the rows after it that its frames reach are complete), computed from the rows
//! that arrived before it and are still in state: rows already emitted do not change, later ones count it. On arrival: rows are emitted in the order of
//! arrival, each computed from the rows that arrived before it ([`arrival`]). Rows without a time have no position: they are
//! late. Rows that the query filters out by their own columns count for others, but nothing is computed for them.
//!
//! Leaves to others: refusing frames without an end, or without both a beginning and a TTL.

pub mod spec;
mod arrival;
mod bag;
mod bound;
mod chunks;
mod collect;
mod column;
mod evaluate;
mod functions;
mod journal;
mod keys;
mod merged;
mod plan;
mod ranked;
mod recovery;
mod retractable;
mod shown;
mod sliding;
mod store;
mod summary;
#[cfg(test)]
mod tests;
mod view;
mod waiting;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;

use self::column::{Column, Place};
use self::journal::Journal;
use self::keys::Keys;
use self::plan::{Plan, SEQUENCE};
use self::store::Store;
use self::waiting::{Released, Waiting, times};
use super::spec::{RollingEmit, RollingKind, RollingSpec};
use super::{Operator, StateUsage, Stepped, Tick};
use crate::error::{Context, Error, Result};
use crate::state::{StateChange, StateTable};
use crate::time::{EventTime, Watermark};

/// The operator for a spec. Fails on GROUPS frames.
pub fn rolling(spec: RollingSpec) -> Result<Box<dyn Operator>> {
    Ok(Box::new(Rolling::new(spec)?))
}

/// The aggregates of a spec that read their whole frame again for every row, as written in SQL.
pub fn collecting(spec: &RollingSpec) -> Vec<String> {
    let functions = spec.functions.iter().filter_map(|function| match &function.function {
        RollingKind::Aggregate(aggregate, _) if retractable::collects(aggregate, &spec.input) => Some(aggregate.name()),
        _ => None,
    });
    functions.map(str::to_owned).collect()
}

/// Minimum number of keys per step that are searched for rows to drop.
const SWEEP: usize = 64;

struct Rolling {
    plan: Plan,
    /// The input with the sequence: the schema of waiting rows.
    sequenced: SchemaRef,
    keys: Keys,
    store: Store,
    /// Rows whose time is not complete.
    early: Waiting,
    /// Rows whose time is complete, but not everything that their frames reach.
    open: Waiting,
    /// The watermark of the ordering column.
    watermark: Watermark,
    /// The next sequence number.
    sequence: i64,
    /// The earliest time ever placed.
    earliest: EventTime,
    journal: Journal,
}

/// Rows that have been placed: their keys and places.
struct Settled {
    keys: Vec<u32>,
    places: Vec<Place>,
}

impl Rolling {
    fn new(spec: RollingSpec) -> Result<Self> {
        let plan = Plan::new(spec, functions::compile)?;
        let types: Vec<_> = plan.keys.iter().map(|key| plan.input.field(*key).data_type().clone()).collect();
        let columns = plan.arguments.iter().map(|argument| Column::new(argument.kind, argument.nullable)).collect();
        let fields = plan.input.fields().iter().cloned();
        let fields: Vec<_> = fields.chain([Arc::new(Field::new(SEQUENCE, DataType::Int64, false))]).collect();
        Ok(Self {
            keys: Keys::new(&types)?,
            store: Store::new(columns, !plan.references.is_empty(), plan.is_counted(), plan.bounds.len()),
            sequenced: Arc::new(Schema::new(fields)),
            early: Waiting::new(plan.time),
            open: Waiting::new(plan.time),
            watermark: Watermark::NONE,
            sequence: 0,
            earliest: EventTime::MAX,
            journal: Journal::default(),
            plan,
        })
    }

    /// The rows that count. Late are rows without a time and, unless late rows are emitted, rows whose time was complete
    /// `before`.
    fn in_time(&self, batch: RecordBatch, before: Watermark, stepped: &mut Stepped) -> Result<RecordBatch> {
        let time = batch.column(self.plan.time);
        if self.plan.counts_late && before != Watermark::NONE {
            let is_behind = |(row, at): (usize, &i64)| EventTime(*at).is_late(before) && time.is_valid(row);
            stepped.late_emitted += times(time).iter().enumerate().filter(|row| is_behind(*row)).count() as u64;
        }
        let before = if self.plan.emits_late { Watermark::NONE } else { before };
        let is_late = |at: &i64| EventTime(*at).is_late(before);
        if time.null_count() == 0 && !times(time).iter().any(is_late) {
            return Ok(batch);
        }
        let late = times(time).iter().enumerate().map(|(row, at)| Some(time.is_null(row) || is_late(at)));
        let late: BooleanArray = late.collect();
        let in_time: BooleanArray = late.values().iter().map(|late| Some(!late)).collect();
        let of = |mask: &BooleanArray| {
            filter_record_batch(&batch, mask).internal(|| "rows cannot be parted by their time".to_owned())
        };
        stepped.late.push((0, of(&late)?));
        of(&in_time)
    }

    fn sequenced(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let next = self.sequence + batch.num_rows() as i64;
        let sequence: ArrayRef = Arc::new(Int64Array::from_iter_values(self.sequence..next));
        self.sequence = next;
        let columns = batch.columns().iter().cloned().chain([sequence]).collect();
        RecordBatch::try_new(Arc::clone(&self.sequenced), columns).internal(|| "a row cannot be numbered".to_owned())
    }

    /// The rows in the input's schema.
    fn plain(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns = batch.columns()[..self.plan.input.fields().len()].to_vec();
        RecordBatch::try_new(Arc::clone(&self.plan.input), columns).internal(|| "a row lost its shape".to_owned())
    }

    /// Releases the rows that `watermark` completes.
    fn advance(&mut self, watermark: Watermark, stepped: &mut Stepped) -> Result<()> {
        let released = self.early.release(|time| time.is_complete(watermark))?;
        if !self.plan.wait.is_any() {
            if let Some(released) = released {
                stepped.rows.push(self.settle_and_show(released)?);
            }
            return Ok(());
        }
        if let Some(released) = released {
            let rows = released.rows()?;
            self.settle(&self.plain(&rows)?)?;
            self.open.push(rows);
        }
        self.close(watermark, stepped)
    }

    /// Places rows and emits them at once.
    fn settle_and_show(&mut self, released: Released) -> Result<RecordBatch> {
        let Some(condition) = &self.plan.shown else {
            let rows = self.plain(&released.rows()?)?;
            let settled = self.settle(&rows)?;
            let positions = self.positions(&settled);
            return self.with_functions(&rows, &settled.keys, &positions);
        };
        let rows = condition.narrowed(&released)?;
        let shown = condition.of(&rows)?;
        let settled = self.settle(&rows)?;
        let positions = self.positions(&settled);
        let Some(shown) = shown else {
            let rows = self.plain(&released.rows()?)?;
            return self.with_functions(&rows, &settled.keys, &positions);
        };
        self.with_functions_where(&shown, &settled.keys, &positions, || released.only(&shown).rows())
    }

    /// Emits the rows whose frames are complete.
    fn close(&mut self, watermark: Watermark, stepped: &mut Stepped) -> Result<()> {
        if self.plan.wait.rows == 0 {
            let wait = &self.plan.wait;
            let Some(released) = self.open.release(|time| wait.is_over(time, watermark))? else { return Ok(()) };
            let rows = self.plain(&released.rows()?)?;
            let keys = self.numbers(&rows)?;
            let positions = self.locate(&keys, times(rows.column(self.plan.time)));
            stepped.rows.push(self.output(&rows, &keys, &positions)?);
            return Ok(());
        }
        let mut open = std::mem::replace(&mut self.open, Waiting::new(self.plan.time));
        let (mut keys, mut positions) = (Vec::new(), Vec::new());
        let released = open.release_some(|all| {
            let numbers = self.numbers(all)?;
            let times = times(all.column(self.plan.time));
            let located = self.locate(&numbers, times);
            let mut complete = Vec::with_capacity(times.len());
            for ((key, time), position) in numbers.iter().zip(times).zip(&located) {
                let time = EventTime(*time);
                let followed = *position as usize + self.plan.wait.rows < self.store.block(*key).len();
                let is = self.plan.wait.is_over(time, watermark) && (followed || self.plan.gives_up(time, watermark));
                if is {
                    keys.push(*key);
                    positions.push(*position);
                }
                complete.push(is);
            }
            Ok(complete)
        });
        self.open = open;
        if let Some(released) = released? {
            let released = released.rows()?;
            let rows = self.plain(&released)?;
            stepped.rows.push(self.output(&rows, &keys, &positions)?);
            self.journal.left(released);
        }
        Ok(())
    }

    fn numbers(&mut self, rows: &RecordBatch) -> Result<Vec<u32>> {
        let columns: Vec<_> = self.plan.keys.iter().map(|key| Arc::clone(rows.column(*key))).collect();
        let numbers = self.keys.numbers(&columns, rows.num_rows())?;
        self.store.know(self.keys.bound());
        Ok(numbers)
    }

    /// Places rows, which are in order of time, among the rows of their keys.
    fn settle(&mut self, rows: &RecordBatch) -> Result<Settled> {
        let keys = self.numbers(rows)?;
        let arguments = self.plan.evaluate_arguments(rows)?;
        let references = self.plan.evaluate_references(rows)?;
        let time = Arc::clone(rows.column(self.plan.time));
        let (places, ordinals) = self.place(&keys, &time, &arguments, &references, None)?;
        let keyed = self.plan.keys.iter().map(|key| Arc::clone(rows.column(*key)));
        let ordinals: ArrayRef = Arc::new(Int64Array::from(ordinals));
        let columns = keyed.chain([time, ordinals]).chain(arguments).chain(references).collect();
        self.journal.placed(columns, if self.plan.is_counted() { keys.clone() } else { Vec::new() });
        Ok(Settled { keys, places })
    }

    fn place(
        &mut self,
        keys: &[u32],
        time: &ArrayRef,
        arguments: &[ArrayRef],
        references: &[ArrayRef],
        restored: Option<&[i64]>,
    ) -> Result<(Vec<Place>, Vec<i64>)> {
        if self.store.slots() + 4 * keys.len() > u32::MAX as usize / 2 {
            return Err(Error::environment("a rolling window remembers more rows than one shard can")
                .with_hint("Raise `parallelism`, or shorten the frames."));
        }
        let reference = match references {
            [] => None,
            columns => Some(self.store.chunks.push(columns.to_vec(), keys.len())?),
        };
        let times = times(time);
        self.earliest = times.first().map_or(self.earliest, |first| self.earliest.min(EventTime(*first)));
        let needed = self.plan.needed(self.watermark);
        let (places, ordinals) = self.store.place(keys, times, reference, &needed, restored);
        for (column, argument) in self.store.columns.iter_mut().zip(arguments) {
            column.write(&places, argument)?;
        }
        Ok((places, ordinals))
    }

    fn positions(&self, settled: &Settled) -> Vec<u32> {
        let position = |(place, key): (&Place, &u32)| place.slot - self.store.block(*key).first() as u32;
        settled.places.iter().zip(&settled.keys).map(position).collect()
    }

    /// The positions of rows that were placed before: the given rows are all rows of a key and time that have not been
    /// emitted, in order. They are the last ones of that time, since rows are emitted in order.
    fn locate(&self, keys: &[u32], times: &[i64]) -> Vec<u32> {
        let mut positions = vec![0; keys.len()];
        let mut after: HashMap<u32, u32> = HashMap::new();
        for row in (0..keys.len()).rev() {
            let time = times[row];
            if times.get(row + 1) != Some(&time) {
                after.clear();
            }
            let end = self.store.times(self.store.block(keys[row])).partition_point(|other| *other <= time);
            let later = after.entry(keys[row]).or_default();
            positions[row] = (end as u32).saturating_sub(1 + *later);
            *later += 1;
        }
        positions
    }

    /// The rows to show, with their functions.
    fn output(&mut self, rows: &RecordBatch, keys: &[u32], positions: &[u32]) -> Result<RecordBatch> {
        let shown = self.plan.shown.as_ref().map_or(Ok(None), |condition| condition.of(rows))?;
        let Some(shown) = shown else { return self.with_functions(rows, keys, positions) };
        self.with_functions_where(&shown, keys, positions, || {
            filter_record_batch(rows, &shown).internal(|| "rows cannot be left out".to_owned())
        })
    }

    /// The rows that are `shown`, provided by `rows`, with their functions.
    fn with_functions_where(
        &mut self,
        shown: &BooleanArray,
        keys: &[u32],
        positions: &[u32],
        rows: impl FnOnce() -> Result<RecordBatch>,
    ) -> Result<RecordBatch> {
        if shown.true_count() == 0 {
            evaluate::squeeze(&mut self.plan, &mut self.store);
            return Ok(RecordBatch::new_empty(Arc::clone(&self.plan.output)));
        }
        let of = |values: &[u32]| -> Vec<u32> {
            values.iter().zip(shown.values()).filter(|(_, shown)| *shown).map(|(value, _)| *value).collect()
        };
        let rows = self.plain(&rows()?)?;
        self.with_functions(&rows, &of(keys), &of(positions))
    }

    fn with_functions(&mut self, rows: &RecordBatch, keys: &[u32], positions: &[u32]) -> Result<RecordBatch> {
        let times = times(rows.column(self.plan.time));
        let results = evaluate::columns(&mut self.plan, &mut self.store, keys, times, positions)?;
        let columns = rows.columns().iter().cloned().chain(results).collect();
        RecordBatch::try_new(Arc::clone(&self.plan.output), columns)
            .internal(|| "rolling results do not fit their schema".to_owned())
    }

    /// Drops rows that are no longer needed.
    fn tidy(&mut self, rows: usize) -> Result<()> {
        let needed = self.plan.needed(self.watermark);
        let from = needed.from;
        for key in self.store.sweep(rows.max(SWEEP), &needed) {
            self.keys.remove(key);
            for (_, function) in &mut self.plan.functions {
                function.forget(key);
            }
        }
        // Rows that need tombstones keep their references until the tombstones are written.
        if self.plan.is_counted() {
            return Ok(());
        }
        self.journal.forget(self.plan.keys.len(), from);
        self.store.tidy()
    }
}

impl Operator for Rolling {
    fn step(&mut self, inputs: Vec<Vec<RecordBatch>>, tick: Tick) -> Result<Stepped> {
        self.take_restored()?;
        let mut stepped = Stepped::default();
        let mut arrived = Vec::new();
        for batch in inputs.into_iter().flatten().filter(|batch| batch.num_rows() > 0) {
            arrived.push(self.in_time(batch, self.plan.complete(tick.before), &mut stepped)?);
        }
        let rows = arrived.iter().map(RecordBatch::num_rows).sum();
        let watermark = self.plan.complete(tick.watermark);
        match self.plan.emit {
            RollingEmit::OnArrival => self.arrive(&arrived, &mut stepped)?,
            RollingEmit::OnWatermark => {
                let before = self.plan.complete(tick.before);
                for batch in arrived {
                    let batch = self.emit_late(batch, before, &mut stepped)?;
                    let sequenced = self.sequenced(&batch)?;
                    self.early.push(sequenced);
                }
                self.advance(watermark, &mut stepped)?;
            }
        }
        self.watermark = watermark;
        self.tidy(rows)?;
        Ok(stepped)
    }

    fn state(&self) -> Vec<StateTable> {
        self.plan.tables()
    }

    fn changes(&mut self) -> Result<Vec<StateChange>> {
        self.take_restored()?;
        self.take_changes()
    }

    fn restore(&mut self, table: usize, rows: RecordBatch, watermark: Watermark) -> Result<()> {
        self.watermark = self.plan.complete(watermark);
        self.journal.restored(table, rows);
        Ok(())
    }

    fn due(&self) -> Watermark {
        let early = self.early.oldest().map(|time| self.plan.due(time));
        let open = self.open.oldest().map(|time| self.plan.due_open(time));
        [early, open].into_iter().flatten().min().unwrap_or(Watermark::END)
    }

    fn usage(&self) -> StateUsage {
        let functions: usize = self.plan.functions.iter().map(|(_, function)| function.size()).sum();
        let bytes = self.store.size() + self.keys.size() + self.early.size() + self.open.size() + functions;
        let remembered =
            (self.store.rows() > 0).then(|| self.earliest.max(self.plan.needed(self.watermark).from.time()));
        let oldest = [remembered, self.early.oldest(), self.open.oldest()].into_iter().flatten().min();
        // Rows whose frames are open are in the store, too, and counted once.
        StateUsage { rows: (self.store.rows() + self.early.rows()) as u64, bytes: bytes as u64, oldest }
    }
}
