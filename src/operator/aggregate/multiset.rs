//! The rows of groups with their counts, for aggregates that cannot retract rows by arithmetic.
//!
//! Only the columns that those aggregates read are kept. MIN and MAX look up their result ([`super::extremes`]). All others
//! are computed again over the rows of each touched group, in the order of their encoded values, so that the result depends
//! on the rows alone and not on the order of their arrival.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, UInt32Array, new_empty_array};
use arrow::compute::{concat, take};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, UInt32Type};
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;

use crate::error::{Error, Result};
use crate::state::{KeyedChanges, KeyedTable};

use super::call::{Call, Calls};
use super::extremes::Extreme;
use super::layout::batch;

/// Weighted rows by group.
pub(super) struct Multiset {
    /// The input columns that are kept.
    columns: Vec<usize>,
    schema: SchemaRef,
    /// Source of each call's result.
    answers: Vec<Answer>,
    extremes: Vec<Extreme>,
    /// Calls that are computed over all rows of a group.
    calls: Calls,
    /// Keyed by the group's slot and the kept columns; the value is the weight.
    rows: KeyedTable,
    /// Per group slot, the slots of its rows.
    members: Vec<Vec<u32>>,
    /// Per row slot, its position in its group's list.
    places: Vec<u32>,
    pending: Vec<Pending>,
}

/// Source of a result.
#[derive(Debug, Clone, Copy)]
enum Answer {
    Extreme(usize),
    Computed(usize),
}

/// Rows of the current step, whose groups have no slot yet.
struct Pending {
    columns: Vec<ArrayRef>,
    weights: Int64Array,
    groups: Vec<usize>,
}

impl Multiset {
    /// Keeps the columns that `calls` read; they are over the columns of `input`.
    pub fn new(input: &Schema, calls: Calls) -> Result<Self> {
        let expressions = calls.0.iter().flat_map(|call| call.arguments.iter().chain(&call.filter));
        let mut columns: Vec<usize> = expressions.flat_map(collect_columns).map(|column| column.index()).collect();
        columns.sort_unstable();
        columns.dedup();
        let fields: Vec<Field> =
            columns.iter().map(|column| input.field(*column).clone().with_nullable(true)).collect();
        let schema = Arc::new(Schema::new(fields.clone()));
        let (mut answers, mut extremes, mut computed) = (Vec::new(), Vec::new(), Calls::default());
        for mut call in calls.0 {
            Self::rebase(&mut call, &columns)?;
            if let Some(extreme) = Extreme::of(&call, &schema)? {
                answers.push(Answer::Extreme(extremes.len()));
                extremes.push(extreme);
            } else {
                answers.push(Answer::Computed(computed.0.len()));
                computed.0.push(call);
            }
        }
        let key_types: Vec<DataType> =
            std::iter::once(DataType::UInt32).chain(fields.iter().map(|field| field.data_type().clone())).collect();
        Ok(Self {
            columns,
            schema,
            answers,
            extremes,
            calls: computed,
            rows: KeyedTable::new(&key_types, &[DataType::Int64])?,
            members: Vec::new(),
            places: Vec::new(),
            pending: Vec::new(),
        })
    }

    /// Changes a call's expressions to refer to the kept columns.
    fn rebase(call: &mut Call, columns: &[usize]) -> Result<()> {
        let rebased = |expression: &Arc<dyn PhysicalExpr>| {
            let moved = Arc::clone(expression).transform_down(|node| {
                let Some(column) = node.downcast_ref::<Column>() else { return Ok(Transformed::no(node)) };
                let index = columns
                    .binary_search(&column.index())
                    .map_err(|_| DataFusionError::Internal(format!("column `{}` is not kept", column.name())))?;
                Ok(Transformed::yes(Arc::new(Column::new(column.name(), index)) as _))
            });
            moved.map(|moved| moved.data)
        };
        call.arguments = call.arguments.iter().map(rebased).collect::<Result<_, _>>()?;
        call.filter = call.filter.as_ref().map(rebased).transpose()?;
        Ok(())
    }

    /// The kept columns, and the weight.
    pub fn fields(&self) -> Vec<Field> {
        let kept = self.schema.fields().iter().map(|field| field.as_ref().clone());
        kept.chain([Field::new(crate::operator::WEIGHT, DataType::Int64, false)]).collect()
    }

    /// Takes rows of a step; `groups` holds the number of each row's group within the step.
    pub fn take(&mut self, rows: &RecordBatch, groups: &[usize]) {
        let columns = self.columns.iter().map(|column| rows.column(*column).clone()).collect();
        let weights = rows.column(rows.num_columns() - 1).as_primitive::<Int64Type>().clone();
        self.pending.push(Pending { columns, weights, groups: groups.to_vec() });
    }

    /// Counts the rows taken, now that the step's groups have slots.
    pub fn settle(&mut self, groups: &[u32]) -> Result<()> {
        for pending in std::mem::take(&mut self.pending) {
            let of: Vec<u32> = pending.groups.iter().map(|group| groups[*group]).collect();
            self.count_extremes(&of, pending.columns.clone(), &pending.weights)?;
            self.count(&of, pending.columns, &pending.weights)?;
        }
        Ok(())
    }

    fn count_extremes(&mut self, groups: &[u32], columns: Vec<ArrayRef>, weights: &Int64Array) -> Result<()> {
        if self.extremes.is_empty() {
            return Ok(());
        }
        let rows = batch(&self.schema, columns, groups.len())?;
        for extreme in &mut self.extremes {
            extreme.add(&rows, groups, weights)?;
        }
        Ok(())
    }

    fn count(&mut self, groups: &[u32], columns: Vec<ArrayRef>, weights: &Int64Array) -> Result<()> {
        let mut keys: Vec<ArrayRef> = vec![Arc::new(UInt32Array::from(groups.to_vec()))];
        keys.extend(columns);
        let slots = self.rows.intern(&keys, groups.len())?;
        let mut order: Vec<usize> = (0..slots.len()).collect();
        order.sort_unstable_by_key(|row| slots[*row]);
        let mut distinct = Vec::new();
        let mut owners = Vec::new();
        let mut sums: Vec<i64> = Vec::new();
        for row in order {
            if distinct.last() != Some(&slots[row]) {
                distinct.push(slots[row]);
                owners.push(groups[row]);
                sums.push(0);
            }
            if let Some(sum) = sums.last_mut() {
                *sum += weights.value(row);
            }
        }
        let before = self.rows.gather_column(0, &distinct)?;
        let before = before.as_primitive::<Int64Type>();
        let (mut kept, mut kept_weights, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        for (position, slot) in distinct.iter().enumerate() {
            let was = self.rows.is_live(*slot);
            let weight = sums[position] + if was { before.value(position) } else { 0 };
            if weight == 0 {
                gone.push(*slot);
                if was {
                    self.leave(owners[position], *slot);
                }
                continue;
            }
            kept.push(*slot);
            kept_weights.push(weight);
            if !was {
                self.join(owners[position], *slot);
            }
        }
        self.rows.put(&kept, &[Arc::new(Int64Array::from(kept_weights))])?;
        self.rows.delete(&gone)
    }

    fn join(&mut self, group: u32, row: u32) {
        let group = group as usize;
        if self.members.len() <= group {
            self.members.resize_with(group + 1, Vec::new);
        }
        if self.places.len() <= row as usize {
            self.places.resize(row as usize + 1, 0);
        }
        self.places[row as usize] = self.members[group].len() as u32;
        self.members[group].push(row);
    }

    fn leave(&mut self, group: u32, row: u32) {
        let members = &mut self.members[group as usize];
        let place = self.places[row as usize];
        members.swap_remove(place as usize);
        if let Some(moved) = members.get(place as usize) {
            self.places[*moved as usize] = place;
        }
        if members.is_empty() {
            *members = Vec::new();
        }
    }

    /// The results of groups, over their rows.
    pub fn evaluate(&self, groups: &[u32]) -> Result<Vec<ArrayRef>> {
        let computed = if self.calls.0.is_empty() { Vec::new() } else { self.compute(groups)? };
        let answer = |answer: &Answer| match answer {
            Answer::Extreme(number) => Ok(self.extremes[*number].evaluate(groups)?),
            Answer::Computed(number) => Ok(computed[*number].clone()),
        };
        self.answers.iter().map(answer).collect()
    }

    fn compute(&self, groups: &[u32]) -> Result<Vec<ArrayRef>> {
        let mut slots = Vec::new();
        let mut ids = Vec::new();
        // Only groups with rows are passed to the accumulators; `sources` is the index of each group's result, `None`
        // without rows.
        let mut full = 0;
        let mut sources = Vec::with_capacity(groups.len());
        for group in groups {
            let start = slots.len();
            let members = self.members.get(*group as usize).map_or(&[][..], Vec::as_slice);
            if members.is_empty() {
                sources.push(None);
                continue;
            }
            slots.extend_from_slice(members);
            slots[start..].sort_unstable_by(|a, b| self.rows.key_bytes(*a).cmp(self.rows.key_bytes(*b)));
            ids.resize(slots.len(), full);
            sources.push(Some(full));
            full += 1;
        }
        let results = self.compute_rows(&slots, ids, full)?;
        if full == groups.len() {
            return Ok(results);
        }
        let spread = |(call, result): (&Call, &ArrayRef)| {
            let with_empty = concat(&[result.as_ref(), call.empty()?.as_ref()])?;
            let rows = UInt32Array::from_iter_values(sources.iter().map(|source| source.unwrap_or(full) as u32));
            Ok::<_, DataFusionError>(take(&with_empty, &rows, None)?)
        };
        Ok(self.calls.0.iter().zip(&results).map(spread).collect::<Result<_, _>>()?)
    }

    fn compute_rows(&self, slots: &[u32], mut ids: Vec<usize>, groups: usize) -> Result<Vec<ArrayRef>> {
        if groups == 0 {
            return Ok(self.calls.0.iter().map(|call| new_empty_array(&call.result)).collect());
        }
        let mut columns = self.rows.keys(slots)?.split_off(1);
        let weights = self.rows.gather_column(0, slots)?;
        let weights = weights.as_primitive::<Int64Type>().values();
        let once = self.calls.0.iter().all(|call| call.idempotent);
        let times = |weight: i64| if once { weight.clamp(0, 1) } else { weight.max(0) } as usize;
        if weights.iter().any(|weight| times(*weight) != 1) {
            let repeated =
                weights.iter().enumerate().flat_map(|(row, weight)| std::iter::repeat_n(row, times(*weight)));
            let repeated: Vec<usize> = repeated.collect();
            let rows = UInt32Array::from_iter_values(repeated.iter().map(|row| *row as u32));
            let repeat = |column: &ArrayRef| take(column, &rows, None).map_err(DataFusionError::from);
            columns = columns.iter().map(repeat).collect::<Result<_, _>>()?;
            ids = repeated.into_iter().map(|row| ids[row]).collect();
        }
        let arguments = self.calls.arguments(&batch(&self.schema, columns, ids.len())?)?;
        let mut accumulators = self.calls.accumulators()?;
        let inputs = arguments.values.iter().zip(&arguments.filters);
        for (accumulator, (values, filter)) in accumulators.iter_mut().zip(inputs) {
            accumulator.update_batch(values, &ids, filter.as_ref(), groups)?;
        }
        Ok(self.calls.results(&mut accumulators)?)
    }

    /// The slots of groups that have rows.
    pub fn groups(&self) -> impl Iterator<Item = u32> {
        (0..self.members.len() as u32).filter(|group| !self.members[*group as usize].is_empty())
    }

    /// Drops all rows of groups.
    pub fn drop_groups(&mut self, groups: &[u32]) -> Result<()> {
        self.extremes.iter_mut().for_each(|extreme| extreme.drop_groups(groups));
        for group in groups {
            let members = self.members.get_mut(*group as usize).map(std::mem::take).unwrap_or_default();
            self.rows.delete(&members)?;
        }
        Ok(())
    }

    /// Restores rows that were written before.
    pub fn restore(&mut self, groups: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let Some((weights, columns)) = columns.split_last() else {
            return Err(Error::damaged("rows of an aggregate were stored without weights"));
        };
        self.count_extremes(groups, columns.to_vec(), weights.as_primitive::<Int64Type>())?;
        let mut keys: Vec<ArrayRef> = vec![Arc::new(UInt32Array::from(groups.to_vec()))];
        keys.extend_from_slice(columns);
        let slots = self.rows.restore(&keys, std::slice::from_ref(weights), groups.len())?;
        for (group, slot) in groups.iter().zip(slots) {
            self.join(*group, slot);
        }
        Ok(())
    }

    /// The changes: of rows written, the groups and all columns; of deleted rows, the groups and the key columns.
    pub fn changes(&mut self) -> Result<(MultisetRows, MultisetRows)> {
        let KeyedChanges { upserts, deletes, .. } = self.rows.changes()?;
        let mut written = self.rows.keys(&upserts)?;
        written.push(self.rows.gather_column(0, &upserts)?);
        Ok((MultisetRows::new(written), MultisetRows::new(deletes)))
    }

    /// Rows and bytes.
    pub fn usage(&self) -> (usize, usize) {
        let lists = self.members.capacity() * size_of::<Vec<u32>>() + self.places.capacity() * 2 * size_of::<u32>();
        let extremes: usize = self.extremes.iter().map(Extreme::bytes).sum();
        (self.rows.len(), self.rows.bytes() + lists + extremes)
    }
}

/// Rows of the multiset as columns, and the slots of their groups.
pub(super) struct MultisetRows {
    pub groups: Vec<u32>,
    pub columns: Vec<ArrayRef>,
}

impl MultisetRows {
    fn new(mut columns: Vec<ArrayRef>) -> Self {
        if columns.is_empty() {
            return Self { groups: Vec::new(), columns };
        }
        let groups = columns.remove(0);
        Self { groups: groups.as_primitive::<UInt32Type>().values().to_vec(), columns }
    }
}
