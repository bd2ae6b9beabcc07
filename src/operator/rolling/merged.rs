//! Aggregates by DataFusion's accumulators, using their states over aligned blocks of rows.
//!
//! For a key with long frames a [`Tree`] keeps the state of every 32 rows, of every 32 such blocks, and so on: a frame of n
//! rows merges O(log n) states and reads at most 62 rows, in their order, and nothing is ever subtracted from a state. This
//! serves every aggregate whose state does not grow with the number of rows; the others are left to [`super::collect`].

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, new_null_array};
use arrow::compute::{concat, filter};
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Accumulator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;

use super::plan::Plan;
use super::sliding::mask_of;
use super::store::Block;
use super::summary::SHORT;
use super::view::{Function, View};
use crate::error::{Context, Error, Result};
use crate::evaluate::{is_of_row, out_of_range};

const WIDTH: u64 = 32;

/// An aggregate whose arguments and filter are stored as values, by reference.
pub(super) struct Call {
    aggregate: Arc<AggregateFunctionExpr>,
    arguments: Vec<usize>,
    types: Vec<DataType>,
    filter: Option<usize>,
    /// The result for an empty frame.
    pub(super) empty: ScalarValue,
}

impl Call {
    pub(super) fn new(
        plan: &mut Plan,
        aggregate: &Arc<AggregateFunctionExpr>,
        filter: Option<&Arc<dyn PhysicalExpr>>,
    ) -> Result<Self> {
        let arguments = aggregate.expressions();
        Ok(Self {
            arguments: arguments.iter().map(|argument| plan.reference(argument)).collect(),
            filter: filter.map(|filter| plan.reference(filter)),
            empty: aggregate.default_value(aggregate.field().data_type())?,
            aggregate: Arc::clone(aggregate),
            types: arguments
                .iter()
                .map(|argument| argument.data_type(&plan.input))
                .collect::<Result<_, _>>()
                .internal(|| "an argument has no type".to_owned())?,
        })
    }

    /// The call as written in SQL.
    pub(super) fn name(&self) -> &str {
        self.aggregate.name()
    }

    pub(super) fn accumulator(&self) -> Result<Box<dyn Accumulator>> {
        Ok(self.aggregate.create_accumulator()?)
    }

    /// The result; a substitute value where it does not fit its type.
    pub(super) fn result(&self, accumulator: &mut dyn Accumulator) -> Result<ScalarValue> {
        match (accumulator.evaluate(), out_of_range(self.aggregate.fun().name(), self.aggregate.field().data_type())) {
            (Err(error), Some(instead)) if is_of_row(&error) => Ok(instead),
            (result, _) => Ok(result?),
        }
    }

    /// Adds the rows of slots to an accumulator.
    pub(super) fn update(
        &self,
        accumulator: &mut dyn Accumulator,
        view: &View,
        slots: std::ops::Range<usize>,
    ) -> Result<()> {
        if slots.is_empty() {
            return Ok(());
        }
        let references = &view.store.references()[slots];
        let gather = |column: usize, of: &DataType| {
            let picks = references.iter().map(|reference| Some(*reference));
            view.store.chunks.gather(column, picks, &new_null_array(of, 1))
        };
        let arguments = self.arguments.iter().zip(&self.types).map(|(column, of)| gather(*column, of));
        let mut arguments = arguments.collect::<Result<Vec<_>>>()?;
        if let Some(column) = self.filter {
            let mask = gather(column, &DataType::Boolean)?;
            let mask = mask_of(&mask)?;
            for argument in &mut arguments {
                *argument = filter(argument, mask).internal(|| "a FILTER cannot be applied".to_owned())?;
            }
        }
        if arguments.first().is_some_and(|first| first.is_empty()) {
            return Ok(());
        }
        Ok(accumulator.update_batch(&arguments)?)
    }
}

/// Adjacent blocks of a level that have the same parent.
struct Siblings {
    /// The number of the first block.
    from: u64,
    /// The blocks' states, a column per field.
    states: Vec<ArrayRef>,
}

impl Siblings {
    fn len(&self) -> u64 {
        self.states.first().map_or(0, |field| field.len() as u64)
    }
}

#[derive(Default)]
struct Level {
    groups: VecDeque<Siblings>,
    /// The first block after the stored ones.
    next: u64,
    bytes: usize,
}

impl Level {
    /// The first stored block.
    fn first(&self) -> u64 {
        self.groups.front().map_or(self.next, |group| group.from)
    }

    fn push(&mut self, state: &[ScalarValue]) -> Result<()> {
        let state = state.iter().map(ScalarValue::to_array).collect::<Result<Vec<_>, _>>()?;
        let block = self.next;
        self.next += 1;
        if let Some(last) = self.groups.back_mut()
            && last.from / WIDTH == block / WIDTH
        {
            self.bytes -= memory(&last.states);
            for (field, new) in last.states.iter_mut().zip(&state) {
                *field = concat(&[field.as_ref(), new.as_ref()]).internal(|| "states cannot be joined".to_owned())?;
            }
            self.bytes += memory(&last.states);
            return Ok(());
        }
        self.bytes += memory(&state);
        self.groups.push_back(Siblings { from: block, states: state });
        Ok(())
    }

    fn drop_front(&mut self) {
        if let Some(gone) = self.groups.pop_front() {
            self.bytes -= memory(&gone.states);
        }
    }

    /// Drops blocks from `end` on.
    fn truncate(&mut self, end: u64) {
        while let Some(last) = self.groups.back_mut()
            && self.next > end
        {
            self.bytes -= memory(&last.states);
            if last.from >= end {
                self.next = last.from;
                self.groups.pop_back();
                continue;
            }
            let kept = (end - last.from) as usize;
            last.states.iter_mut().for_each(|field| *field = field.slice(0, kept));
            self.bytes += memory(&last.states);
            self.next = end;
        }
    }

    /// Merges blocks `start..end` in their order; all of them must be stored.
    fn merge(&self, into: &mut dyn Accumulator, start: u64, end: u64) -> Result<()> {
        let Some(first) = self.groups.front() else { return Ok(()) };
        let mut at = start;
        while at < end {
            let index = (at / WIDTH - first.from / WIDTH) as usize;
            let group = self.groups.get(index).ok_or_else(|| Error::internal("a block of states is missing"))?;
            let until = end.min(group.from + group.len());
            let slice = |field: &ArrayRef| field.slice((at - group.from) as usize, (until - at) as usize);
            into.merge_batch(&group.states.iter().map(slice).collect::<Vec<_>>())?;
            at = until;
        }
        Ok(())
    }
}

fn memory(states: &[ArrayRef]) -> usize {
    states.iter().map(|field| field.get_array_memory_size()).sum()
}

/// States of aligned blocks of one key's rows, by ordinal.
#[derive(Default)]
struct Tree {
    levels: Vec<Level>,
}

impl Tree {
    /// Adds blocks of new rows, and drops blocks of rows that have been retired.
    fn follow(&mut self, call: &Call, view: &View, block: Block) -> Result<()> {
        let (mut first, mut end) = (block.gone(), block.gone() + block.len() as u64);
        for depth in 0.. {
            if depth == self.levels.len() {
                if end - first < 2 * WIDTH {
                    return Ok(());
                }
                self.levels.push(Level::default());
            }
            let (below, here) = self.levels.split_at_mut(depth);
            let (below, level) = (below.last(), &mut here[0]);
            while level.groups.front().is_some_and(|group| (group.from + group.len()) * WIDTH <= first) {
                level.drop_front();
            }
            if level.groups.is_empty() {
                level.next = first.div_ceil(WIDTH);
            }
            while (level.next + 1) * WIDTH <= end {
                let mut accumulator = call.accumulator()?;
                let (from, until) = (level.next * WIDTH, (level.next + 1) * WIDTH);
                match below {
                    None => {
                        let slot = |ordinal: u64| block.first() + (ordinal - block.gone()) as usize;
                        call.update(accumulator.as_mut(), view, slot(from)..slot(until))?;
                    }
                    Some(below) => below.merge(accumulator.as_mut(), from, until)?,
                }
                level.push(&accumulator.state()?)?;
            }
            (first, end) = (level.first(), level.next);
        }
        Ok(())
    }

    /// Merges blocks `start..end` of a level; all of them must be stored.
    fn merge(&self, into: &mut dyn Accumulator, depth: usize, start: u64, end: u64) -> Result<()> {
        let Some(level) = self.levels.get(depth) else { return Ok(()) };
        let (from, until) = (start.div_ceil(WIDTH), end / WIDTH);
        if depth + 1 == self.levels.len() || from >= until {
            return level.merge(into, start, end);
        }
        level.merge(into, start, from * WIDTH)?;
        self.merge(into, depth + 1, from, until)?;
        level.merge(into, until * WIDTH, end)
    }

    fn size(&self) -> usize {
        self.levels.iter().map(|level| level.bytes + level.groups.capacity() * size_of::<Siblings>()).sum()
    }
}

/// An aggregate of small state.
pub(super) struct Merged {
    call: Call,
    trees: HashMap<u32, Tree>,
    held: usize,
}

impl Merged {
    pub(super) fn new(call: Call) -> Self {
        Self { call, trees: HashMap::new(), held: 0 }
    }

    fn frame(&mut self, view: &View, key: u32, start: usize, end: usize) -> Result<ScalarValue> {
        if start == end {
            return Ok(self.call.empty.clone());
        }
        let mut accumulator = self.call.accumulator()?;
        if end - start <= SHORT {
            self.call.update(accumulator.as_mut(), view, start..end)?;
            return self.call.result(accumulator.as_mut());
        }
        let block = view.store.block(key);
        let ordinal = |slot: usize| block.gone() + (slot - block.first()) as u64;
        let slot = |ordinal: u64| block.first() + (ordinal - block.gone()) as usize;
        let tree = self.trees.entry(key).or_default();
        let before = tree.size();
        tree.follow(&self.call, view, block)?;
        self.held = self.held + tree.size() - before;
        let (from, until) = (ordinal(start).div_ceil(WIDTH), ordinal(end) / WIDTH);
        self.call.update(accumulator.as_mut(), view, start..slot(from * WIDTH))?;
        tree.merge(accumulator.as_mut(), 0, from, until)?;
        self.call.update(accumulator.as_mut(), view, slot(until * WIDTH)..end)?;
        self.call.result(accumulator.as_mut())
    }
}

impl Function for Merged {
    fn column(&mut self, view: View) -> Result<ArrayRef> {
        let mut results: Vec<ScalarValue> = Vec::with_capacity(view.keys.len());
        let mut last = (usize::MAX, usize::MAX);
        for (row, (start, end)) in view.frames().enumerate() {
            // Peers share their frame.
            let result = match results.last() {
                Some(same) if last == (start, end) => same.clone(),
                _ => self.frame(&view, view.keys[row], start, end)?,
            };
            results.push(result);
            last = (start, end);
        }
        Ok(ScalarValue::iter_to_array(results)?)
    }

    fn squeezed(&mut self, key: u32, ordinal: u64) {
        let Some(tree) = self.trees.get_mut(&key) else { return };
        let before = tree.size();
        let mut whole = ordinal;
        for level in &mut tree.levels {
            whole /= WIDTH;
            level.truncate(whole);
        }
        self.held = self.held + tree.size() - before;
    }

    fn forget(&mut self, key: u32) {
        if let Some(tree) = self.trees.remove(&key) {
            self.held -= tree.size();
        }
    }

    fn size(&self) -> usize {
        self.held
    }
}
