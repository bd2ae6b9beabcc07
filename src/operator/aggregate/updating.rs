//! GROUP BY whose groups keep changing: at every step the old rows of the changed groups are retracted and new ones emitted.
//!
//! The rows of a step are aggregated by themselves; then the states of their groups are read, merged and written back, so a
//! step costs the rows and groups it touches. Over a retracting input COUNT, SUM and AVG add weights ([`super::weighted`]);
//! the other aggregates are computed again from the group's rows ([`super::multiset`]). With a closing key nothing is
//! emitted until a group is complete; then it is emitted once and deleted.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, UInt32Array};
use arrow::compute::{concat, kernels::cmp, or, take};
use arrow::datatypes::{DataType, Field, Int64Type};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;

use crate::equality::key_values;
use crate::error::{Error, Result};
use crate::operator::spec::{AggregateSpec, TimeColumn};
use crate::operator::{Operator, StateUsage, Stepped, Tick};
use crate::state::{KeyEquality, KeyedTable, StateChange, StateTable};
use crate::time::{EventTime, Watermark};

use super::call::{Call, Calls};
use super::expiry::Expiry;
use super::groups::Groups;
use super::layout::{batch, key_fields, state_schema};
use super::multiset::Multiset;
use super::times::{ClosingKey, microseconds};
use super::weighted::{row_count, weighted};

/// The stamp of a group without a time.
const NO_STAMP: i64 = i64::MIN;

/// The GROUP BY whose groups stay open.
pub(super) struct Updating {
    spec: AggregateSpec,
    keys: Vec<Field>,
    closing: Option<ClosingKey>,
    /// The calls with accumulators; the first counts rows if the input retracts.
    calls: Calls,
    /// Source of each aggregate's result.
    sources: Vec<Source>,
    multiset: Option<Multiset>,
    states: Vec<StateTable>,
    /// The groups of the current step.
    partial: Groups,
    /// Keys; states, then the last touch (with a TTL), then the last emitted results of the sources that keep them.
    table: KeyedTable,
    /// Number of columns that hold states.
    width: usize,
    expiry: Option<Expiry>,
    /// Slots by the value of their closing key.
    open: BTreeMap<EventTime, Vec<u32>>,
    cutoff: Watermark,
    /// Rows were restored and no step followed yet.
    restored: bool,
}

/// Source of an aggregate's result.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// A call's state.
    State(usize),
    /// A call's state; evaluating it twice may give different results, so the last result is kept in this column.
    Remembered { call: usize, column: usize },
    /// The multiset's result with this number; the last result is kept in this column.
    Rows { number: usize, column: usize },
}

/// The groups that a step touched, in the order of their first row.
struct Touched {
    keys: Vec<ArrayRef>,
    slots: Vec<u32>,
    /// Groups that existed before the step.
    known: Vec<usize>,
    /// Columns of the known groups before the step.
    before: Vec<ArrayRef>,
    /// Columns of all touched groups after the step.
    after: Vec<ArrayRef>,
    /// `true` if the group has rows left.
    alive: Vec<bool>,
}

/// The calls computed by state and those computed by rows.
#[derive(Default)]
struct Chosen {
    calls: Calls,
    by_rows: Calls,
    /// Per aggregate: `true` if by state, and its index among those.
    chosen: Vec<(bool, usize)>,
}

impl Chosen {
    fn of(spec: &AggregateSpec) -> Result<Self> {
        let weight = spec.retract.then(|| {
            let last = spec.input.fields().len() - 1;
            Arc::new(Column::new(spec.input.field(last).name(), last)) as Arc<dyn PhysicalExpr>
        });
        let mut all = Self::default();
        all.calls.0.extend(weight.as_ref().map(row_count));
        for (function, filter) in spec.aggregates.iter().zip(&spec.filters) {
            let by_state = match &weight {
                Some(weight) => weighted(function, filter.as_ref(), weight)?,
                None => Some(Call::native(function, filter.clone())?),
            };
            let target = if by_state.is_some() { &mut all.calls } else { &mut all.by_rows };
            all.chosen.push((by_state.is_some(), target.0.len()));
            target.0.push(by_state.map_or_else(|| Call::native(function, filter.clone()), Ok)?);
        }
        Ok(all)
    }
}

impl Updating {
    /// The operator of a spec that has no closing key or a retracting input.
    pub fn new(spec: AggregateSpec, closing: Option<ClosingKey>) -> Result<Self> {
        let keys = key_fields(&spec);
        let Chosen { calls, by_rows, chosen } = Chosen::of(&spec)?;
        let width = calls.state_types().len();
        let mut types = calls.state_types();
        let touched = spec.ttl.map(|_| Field::new("touched", DataType::Int64, true));
        types.extend(touched.iter().map(|field| field.data_type().clone()));
        let mut remembered = Vec::new();
        let source = |(linear, number): (bool, usize)| {
            let (call, column) =
                if linear { (&calls.0[number], types.len()) } else { (&by_rows.0[number], types.len()) };
            if linear && !call.fickle {
                return Source::State(number);
            }
            remembered.push(Field::new(format!("result_{column}"), call.result.clone(), true));
            types.push(call.result.clone());
            if linear { Source::Remembered { call: number, column } } else { Source::Rows { number, column } }
        };
        let sources = chosen.into_iter().map(source).collect();
        let multiset = if by_rows.0.is_empty() { None } else { Some(Multiset::new(&spec.input, by_rows)?) };
        let extra: Vec<Field> = touched.into_iter().chain(remembered).collect();
        let states = state_tables(&spec, &keys, extra, &calls, multiset.as_ref());
        let key_types: Vec<_> = keys.iter().map(|key| key.data_type().clone()).collect();
        Ok(Self {
            partial: Groups::new(&keys, &calls)?,
            table: KeyedTable::new(&key_types, &types)?,
            expiry: spec.ttl.map(Expiry::new),
            spec,
            keys,
            closing,
            calls,
            sources,
            multiset,
            states,
            width,
            open: BTreeMap::new(),
            cutoff: Watermark::NONE,
            restored: false,
        })
    }

    /// Adds the rows of a batch to this step's groups.
    fn add(&mut self, rows: &RecordBatch, stamps: &mut Vec<i64>) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let keys: Vec<ArrayRef> = self.spec.keys.iter().map(|key| key_values(rows.column(*key))).collect();
        self.partial.update(&keys, &self.calls.arguments(rows)?, rows.num_rows())?;
        if let Some(multiset) = &mut self.multiset {
            multiset.take(rows, &self.partial.ids);
        }
        if let (Some(_), Some(time)) = (&self.expiry, self.spec.time) {
            stamps.resize(self.partial.len(), NO_STAMP);
            let times = microseconds(rows.column(time.column))?;
            for (group, time) in self.partial.ids.iter().zip(times.iter()) {
                stamps[*group] = stamps[*group].max(time.unwrap_or(NO_STAMP));
            }
        }
        Ok(())
    }

    /// Merges the step's groups with their stored states.
    fn merge(&mut self, stamps: Vec<i64>, tick: Tick) -> Result<Touched> {
        let groups = self.partial.len();
        let keys = self.partial.take_keys()?;
        let mut after = self.partial.take_states(&self.calls)?;
        let slots = self.table.intern(&keys, groups)?;
        let known: Vec<usize> = (0..groups).filter(|group| self.table.is_live(slots[*group])).collect();
        let known_slots: Vec<u32> = known.iter().map(|group| slots[*group]).collect();
        let before = self.table.gather(&known_slots)?;
        if !known.is_empty() {
            after = self.calls.merge(&before[..self.width], &known, &after, groups)?;
        }
        let alive = if self.spec.retract && !keys.is_empty() {
            after[0].as_primitive::<Int64Type>().values().iter().map(|rows| *rows > 0).collect()
        } else {
            vec![true; groups]
        };
        let mut touched = Touched { keys, slots, known, before, after, alive };
        if self.expiry.is_some() {
            let stamps = self.stamp(&touched, stamps, tick);
            touched.after.push(Arc::new(Int64Array::from(stamps)));
        }
        Ok(touched)
    }

    /// The times at which the touched groups were last touched.
    fn stamp(&mut self, touched: &Touched, mut stamps: Vec<i64>, tick: Tick) -> Vec<i64> {
        let Some(expiry) = &mut self.expiry else { return stamps };
        match self.spec.time {
            None => stamps = vec![tick.now.0; touched.slots.len()],
            // Rows without a time are as old as the watermark.
            Some(_) => stamps.iter_mut().filter(|stamp| **stamp == NO_STAMP).for_each(|stamp| *stamp = tick.before.0),
        }
        let mut before = vec![None; touched.slots.len()];
        for (position, group) in touched.known.iter().enumerate() {
            let last = touched.before[self.width].as_primitive::<Int64Type>().value(position);
            before[*group] = Some(last);
            stamps[*group] = stamps[*group].max(last);
        }
        for (group, slot) in touched.slots.iter().enumerate() {
            if touched.alive[group] {
                expiry.touch(*slot, EventTime(stamps[group]), before[group].map(EventTime));
            }
        }
        stamps
    }

    /// The current results of all touched groups, and the previous results of the known ones.
    fn results(&self, touched: &Touched) -> Result<(Vec<ArrayRef>, Vec<ArrayRef>)> {
        let after = self.calls.results_of(&touched.after[..self.width], touched.slots.len())?;
        let before = self.calls.results_of(&touched.before[..self.width], touched.known.len())?;
        let by_rows =
            self.multiset.as_ref().map(|multiset| multiset.evaluate(&touched.slots)).transpose()?.unwrap_or_default();
        let now = |source: &Source| match source {
            Source::State(call) | Source::Remembered { call, .. } => after[*call].clone(),
            Source::Rows { number, .. } => by_rows[*number].clone(),
        };
        let then = |source: &Source| match source {
            Source::State(call) => before[*call].clone(),
            Source::Remembered { column, .. } | Source::Rows { column, .. } => touched.before[*column].clone(),
        };
        Ok((self.sources.iter().map(now).collect(), self.sources.iter().map(then).collect()))
    }

    /// Writes the touched groups, and deletes those without rows.
    fn store(&mut self, touched: &Touched, results: &[ArrayRef]) -> Result<()> {
        let mut values = touched.after.clone();
        let remembered = self.sources.iter().zip(results).filter(|(source, _)| !matches!(source, Source::State(_)));
        values.extend(remembered.map(|(_, result)| result.clone()));
        if touched.alive.iter().all(|alive| *alive) {
            return self.table.put(&touched.slots, &values);
        }
        let (kept, gone): (Vec<usize>, Vec<usize>) = (0..touched.slots.len()).partition(|group| touched.alive[*group]);
        let values = pick(&values, &kept)?;
        let slots = |groups: &[usize]| groups.iter().map(|group| touched.slots[*group]).collect::<Vec<_>>();
        self.table.put(&slots(&kept), &values)?;
        self.table.delete(&slots(&gone))
    }

    /// Retracted rows, then new rows.
    fn difference(&self, touched: &Touched, now: &[ArrayRef], then: &[ArrayRef]) -> Result<Option<RecordBatch>> {
        let groups = touched.slots.len();
        let differs = differs(&pick(now, &touched.known)?, then, touched.known.len())?;
        let mut give = touched.alive.clone();
        let mut back = Vec::new();
        for (position, group) in touched.known.iter().enumerate() {
            if differs.value(position) || !touched.alive[*group] {
                back.push(position);
            } else {
                give[*group] = false;
            }
        }
        let given: Vec<usize> = (0..groups).filter(|group| give[*group]).collect();
        if back.is_empty() && given.is_empty() {
            return Ok(None);
        }
        let back_groups: Vec<usize> = back.iter().map(|position| touched.known[*position]).collect();
        let mut old = pick(&touched.keys, &back_groups)?;
        old.extend(pick(then, &back)?);
        let mut new = pick(&touched.keys, &given)?;
        new.extend(pick(now, &given)?);
        let mut columns = Vec::with_capacity(old.len() + 1);
        for (old, new) in old.iter().zip(&new) {
            columns.push(concat(&[old.as_ref(), new.as_ref()]).map_err(DataFusionError::from)?);
        }
        let weights = std::iter::repeat_n(-1, back.len()).chain(std::iter::repeat_n(1, given.len()));
        columns.push(Arc::new(weights.collect::<Int64Array>()));
        Ok(Some(batch(&self.spec.output, columns, back.len() + given.len())?))
    }

    /// Records when new groups will be complete.
    fn open(&mut self, slots: &[u32], keys: &[ArrayRef], groups: impl Iterator<Item = usize>) -> Result<()> {
        let Some(closing) = self.closing else { return Ok(()) };
        let times = microseconds(&keys[closing.key])?;
        for group in groups {
            self.open.entry(EventTime(times.value(group))).or_default().push(slots[group]);
        }
        Ok(())
    }

    /// Emits and deletes the groups that are complete.
    fn close(&mut self, watermark: Watermark) -> Result<Vec<RecordBatch>> {
        let mut rows = Vec::new();
        let Some(closing) = self.closing else { return Ok(rows) };
        while let Some(entry) = self.open.first_entry() {
            let value = *entry.key();
            if !closing.is_complete(value, watermark) {
                break;
            }
            let listed = entry.remove();
            let slots = self.complete(closing, value, listed)?;
            if slots.is_empty() {
                continue;
            }
            let held = self.table.gather(&slots)?;
            let states = self.calls.results_of(&held[..self.width], slots.len())?;
            let mut columns = self.table.keys(&slots)?;
            columns.extend(self.sources.iter().map(|source| match source {
                Source::State(call) => states[*call].clone(),
                Source::Remembered { column, .. } | Source::Rows { column, .. } => held[*column].clone(),
            }));
            rows.push(batch(&self.spec.output, columns, slots.len())?);
            self.remove(&slots)?;
        }
        Ok(rows)
    }

    /// The listed slots whose groups have `value` as their closing key: a group that lost all its rows may have been created
    /// again and be listed twice, or its slot may now belong to another group.
    fn complete(&self, closing: ClosingKey, value: EventTime, mut slots: Vec<u32>) -> Result<Vec<u32>> {
        slots.sort_unstable();
        slots.dedup();
        slots.retain(|slot| self.table.is_live(*slot));
        let times = microseconds(&self.table.keys(&slots)?[closing.key])?;
        Ok(slots.into_iter().zip(times.values()).filter(|(_, time)| **time == value.0).map(|(slot, _)| slot).collect())
    }

    fn remove(&mut self, slots: &[u32]) -> Result<()> {
        if let Some(multiset) = &mut self.multiset {
            multiset.drop_groups(slots)?;
        }
        self.table.delete(slots)
    }

    /// Drops restored rows whose group was not restored: a cutoff may have removed the group while its rows were on disk.
    fn adopt(&mut self) -> Result<()> {
        if std::mem::take(&mut self.restored)
            && let Some(multiset) = &self.multiset
        {
            let orphans: Vec<u32> = multiset.groups().filter(|group| !self.table.is_live(*group)).collect();
            self.remove(&orphans)?;
        }
        Ok(())
    }

    /// Deletes groups that were not touched for the TTL.
    fn expire(&mut self, tick: Tick) -> Result<()> {
        let Some(expiry) = &mut self.expiry else { return Ok(()) };
        if self.spec.time.is_some() && !tick.watermark.is_known() {
            return Ok(());
        }
        let limit = expiry.limit(TimeColumn::clock(self.spec.time, tick.watermark, tick.now));
        self.cutoff = self.cutoff.max(limit);
        let mut due = expiry.due(limit);
        due.retain(|slot| self.table.is_live(*slot));
        let touched = self.table.gather_column(self.width, &due)?;
        let touched = touched.as_primitive::<Int64Type>();
        let due: Vec<u32> = due
            .iter()
            .zip(touched.values())
            .filter(|(_, time)| EventTime(**time).is_below(limit))
            .map(|(slot, _)| *slot)
            .collect();
        if self.multiset.is_some() {
            // The keys of the groups are needed to report which of their rows are deleted.
            return self.remove(&due);
        }
        if due.is_empty() { Ok(()) } else { self.table.forget(&due) }
    }
}

impl Operator for Updating {
    fn step(&mut self, inputs: Vec<Vec<RecordBatch>>, tick: Tick) -> Result<Stepped> {
        self.adopt()?;
        let mut stepped = Stepped::default();
        let mut stamps = Vec::new();
        for rows in inputs.into_iter().flatten() {
            let rows = match &self.closing {
                Some(closing) => {
                    let (rows, late) = closing.part(rows, tick)?;
                    stepped.late.extend(late.map(|late| (0, late)));
                    rows
                }
                None => rows,
            };
            self.add(&rows, &mut stamps)?;
        }
        if self.partial.len() > 0 {
            let touched = self.merge(stamps, tick)?;
            if let Some(multiset) = &mut self.multiset {
                multiset.settle(&touched.slots)?;
            }
            let (now, then) = self.results(&touched)?;
            if self.closing.is_none() {
                stepped.rows.extend(self.difference(&touched, &now, &then)?);
            }
            self.store(&touched, &now)?;
            let mut known = vec![false; touched.slots.len()];
            touched.known.iter().for_each(|group| known[*group] = true);
            let new = (0..touched.slots.len()).filter(|group| !known[*group] && touched.alive[*group]);
            self.open(&touched.slots, &touched.keys, new)?;
        }
        stepped.rows.extend(self.close(tick.watermark)?);
        self.expire(tick)?;
        Ok(stepped)
    }

    fn state(&self) -> Vec<StateTable> {
        self.states.clone()
    }

    fn changes(&mut self) -> Result<Vec<StateChange>> {
        let mut all = Vec::new();
        // Rows first: the table still has the keys of deleted groups.
        if let Some(multiset) = &mut self.multiset {
            let (written, gone) = multiset.changes()?;
            let mut upserts = self.table.keys(&written.groups)?;
            upserts.extend(written.columns);
            let mut deletes = self.table.keys(&gone.groups)?;
            deletes.extend(gone.columns);
            all.push(change(
                &self.states[1],
                1,
                (upserts, written.groups.len()),
                (deletes, gone.groups.len()),
                Watermark::NONE,
            )?);
        }
        let changes = self.table.changes()?;
        let mut upserts = self.table.keys(&changes.upserts)?;
        upserts.extend(self.table.gather(&changes.upserts)?);
        let cutoff = if self.expiry.is_some() { self.cutoff } else { Watermark::NONE };
        let deletes = (changes.deletes, changes.deleted);
        all.push(change(&self.states[0], 0, (upserts, changes.upserts.len()), deletes, cutoff)?);
        all.reverse();
        Ok(all)
    }

    fn restore(&mut self, table: usize, rows: RecordBatch, _watermark: Watermark) -> Result<()> {
        self.restored = true;
        let (keys, values) = rows.columns().split_at(self.keys.len());
        if table == 1 {
            let Some(multiset) = &mut self.multiset else {
                return Err(Error::damaged("rows of an aggregate were stored that keeps none"));
            };
            let groups = self.table.intern(keys, rows.num_rows())?;
            return multiset.restore(&groups, values);
        }
        // The last touch precedes the kept results, as in memory.
        let slots = self.table.restore(keys, values, rows.num_rows())?;
        if let Some(expiry) = &mut self.expiry {
            let touched = values[self.width].as_primitive::<Int64Type>();
            for (slot, time) in slots.iter().zip(touched.values()) {
                expiry.touch(*slot, EventTime(*time), None);
            }
        }
        self.open(&slots, keys, 0..slots.len())
    }

    fn due(&self) -> Watermark {
        // Without a closing key a step without rows emits nothing.
        self.closing.map_or(Watermark::END, |closing| closing.due(self.open.keys().next().copied()))
    }

    fn usage(&self) -> StateUsage {
        let rows = self.multiset.as_ref().map_or((0, 0), Multiset::usage);
        let expiry = self.expiry.as_ref().map_or(0, Expiry::bytes);
        StateUsage {
            rows: (self.table.len() + rows.0) as u64,
            bytes: (self.table.bytes() + rows.1 + expiry + self.partial.bytes()) as u64,
            oldest: self.expiry.as_ref().and_then(Expiry::oldest).or_else(|| self.open.keys().next().copied()),
        }
    }
}

fn state_tables(
    spec: &AggregateSpec,
    keys: &[Field],
    extra: Vec<Field>,
    calls: &Calls,
    multiset: Option<&Multiset>,
) -> Vec<StateTable> {
    let key: Vec<usize> = (0..keys.len()).collect();
    let schema = state_schema(keys, Vec::new(), calls);
    let time = spec.ttl.map(|_| schema.fields().len());
    let schema = arrow::datatypes::Schema::new(
        schema.fields().iter().map(|field| field.as_ref().clone()).chain(extra).collect::<Vec<_>>(),
    );
    let groups = StateTable {
        name: "groups",
        schema: Arc::new(schema),
        routing: spec.routing,
        key,
        time,
        equality: KeyEquality::Bits,
        append_only: false,
    };
    let rows = multiset.map(|multiset| {
        let fields: Vec<Field> = keys.iter().cloned().chain(multiset.fields()).collect();
        let key = (0..fields.len() - 1).collect();
        let schema = Arc::new(arrow::datatypes::Schema::new(fields));
        StateTable {
            name: "rows",
            schema,
            routing: spec.routing,
            key,
            time: None,
            equality: KeyEquality::Bits,
            append_only: false,
        }
    });
    std::iter::once(groups).chain(rows).collect()
}

/// A change of a state table from columns and their row counts.
fn change(
    state: &StateTable,
    table: usize,
    upserts: (Vec<ArrayRef>, usize),
    deletes: (Vec<ArrayRef>, usize),
    cutoff: Watermark,
) -> Result<StateChange> {
    let of = |schema: &arrow::datatypes::SchemaRef, (columns, rows): (Vec<ArrayRef>, usize)| {
        if rows == 0 { Ok(Vec::new()) } else { Ok::<_, Error>(vec![batch(schema, columns, rows)?]) }
    };
    let key_schema = Arc::new(state.schema.project(&state.key).map_err(DataFusionError::from)?);
    Ok(StateChange { table, upserts: of(&state.schema, upserts)?, deletes: of(&key_schema, deletes)?, cutoff })
}

fn pick(columns: &[ArrayRef], rows: &[usize]) -> Result<Vec<ArrayRef>> {
    if columns.first().is_some_and(|column| column.len() == rows.len()) && rows.iter().enumerate().all(|(a, b)| a == *b)
    {
        return Ok(columns.to_vec());
    }
    let rows = UInt32Array::from_iter_values(rows.iter().map(|row| *row as u32));
    Ok(columns
        .iter()
        .map(|column| take(column, &rows, None))
        .collect::<Result<_, _>>()
        .map_err(DataFusionError::from)?)
}

/// A flag per row: `true` where any column differs.
fn differs(a: &[ArrayRef], b: &[ArrayRef], rows: usize) -> Result<BooleanArray> {
    let mut differs = BooleanArray::from(vec![false; rows]);
    for (a, b) in a.iter().zip(b) {
        let column = if a.data_type().is_nested() {
            nested_differs(a, b)?
        } else {
            cmp::distinct(a, b).map_err(DataFusionError::from)?
        };
        differs = or(&differs, &column).map_err(DataFusionError::from)?;
    }
    Ok(differs)
}

fn nested_differs(a: &ArrayRef, b: &ArrayRef) -> Result<BooleanArray> {
    let rows = || {
        let converter = RowConverter::new(vec![SortField::new(a.data_type().clone())])?;
        let (a, b) =
            (converter.convert_columns(std::slice::from_ref(a))?, converter.convert_columns(std::slice::from_ref(b))?);
        Ok(a.iter().zip(b.iter()).map(|(a, b)| Some(a != b)).collect())
    };
    Ok(rows().map_err(|error: arrow::error::ArrowError| DataFusionError::from(error))?)
}
