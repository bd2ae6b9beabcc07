//! State of a running pipeline: the shards of its operators, and the routing of a micro-batch's rows to them.
//!
//! A row goes to the shard that owns its key group, so any number of shards gives the same rows. Shards of one operator run side by side;
//! operators run one after the other, in the dataflow's order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::record_batch::RecordBatch;

use super::ordered::{SPREAD_ROWS, in_order};
use crate::delta::TableStore;
use crate::error::{Context, Error, Result};
use crate::memory::MemoryPool;
use crate::operator::spec::OutputOrder;
use crate::operator::{Cells, CellsSpec, Lookup, Operator, PART_BYTES, StateUsage, Stepped, Tick, numbered, restore};
use crate::plan::{Dataflow, OperatorNode, OperatorSpec};
use crate::state::{
    MemoryBudget, MemoryShare, OperatorSnapshot, Pressure, SpillFolder, SpillStore, StateChange, StateFile, StateStore,
    StateTable, key_groups, shard_of,
};
use crate::time::{EventTime, Watermark};

/// Rows looked up at a time: each may find many.
const LOOKUP_ROWS: usize = 8_192;

/// The operators of a dataflow, with their memory.
pub struct Memory {
    operators: Vec<Remembering>,
    limits: Limits,
    /// Set once cold state goes to disk.
    divided: bool,
    /// Of the operators until then.
    whole: MemoryShare,
}

/// Limits of memory, and the place of what exceeds them.
#[derive(Clone)]
pub struct Limits {
    /// Bytes that state may take before cold keys leave memory.
    pub bytes: u64,
    /// The reason, if there is none: nothing leaves memory.
    pub spill: Result<SpillFolder, String>,
    pub budget: MemoryBudget,
    pub pool: MemoryPool,
    /// Number of pipelines that share the pool.
    pub pipelines: usize,
    /// Bytes that librdkafka may hold of a source or sink.
    pub kafka_queue: u64,
}

impl Limits {
    /// A place on disk; else why there is none.
    fn room(&self) -> Result<SpillStore, String> {
        let folder = self.spill.as_ref().map_err(Clone::clone)?;
        folder.store().map_err(|error| {
            tracing::warn!(%error, "state stays in memory");
            format!("{}, so it cannot go to disk", error.message())
        })
    }
}

/// Parts that a shard's keys are divided into when some of them leave memory.
const CELLS: usize = 16;

/// Approximate memory of state for each byte and each row of its files.
const RESTORED_FACTOR: u64 = 3;
const RESTORED_ROW_BYTES: u64 = 64;

/// One operator, in shards; or a table that is looked up.
struct Remembering {
    shards: Vec<Box<dyn Operator>>,
    lookup: Option<Box<Lookup>>,
    routing: Vec<Vec<usize>>,
    /// The order that its rows are given in.
    order: Option<OutputOrder>,
    /// W of the last step.
    watermark: Watermark,
    late: u64,
    duplicates: u64,
    /// Remainder of the last step: shards that are not done, rows that are not looked up.
    unfinished: Vec<usize>,
    unasked: VecDeque<RecordBatch>,
}

/// Changes that an operator has to write down at the end of an epoch.
#[derive(Debug)]
pub struct OperatorChanges {
    pub operator: String,
    pub tables: Vec<StateTable>,
    /// Per shard.
    pub changes: Vec<Vec<StateChange>>,
}

impl Memory {
    /// Empty shards for every operator of `dataflow`; tables that are looked up are read, each from its store.
    pub async fn new(
        dataflow: &Dataflow,
        shards: usize,
        tables: &BTreeMap<String, TableStore>,
        limits: Limits,
    ) -> Result<Self> {
        let mut operators = Vec::with_capacity(dataflow.operators.len());
        for node in &dataflow.operators {
            let routing = node.spec.routing();
            let (mut built, mut lookup) = (Vec::new(), None);
            if let OperatorSpec::Lookup(spec) = &node.spec {
                let store = tables.get(&spec.table).cloned();
                let store = store.ok_or_else(|| Error::internal(format!("table `{}` was not opened", spec.table)))?;
                lookup = Some(Box::new(Lookup::open(spec.clone(), store, limits.budget.pinned_share()).await?));
            } else {
                // Without a routing key every row belongs to one shard.
                let count = if routing.iter().all(Vec::is_empty) { 1 } else { shards.max(1) };
                built = (0..count).map(|_| built_as(node).build()).collect::<Result<Vec<_>>>()?;
            }
            let (watermark, unfinished, unasked) = (Watermark::NONE, Vec::new(), VecDeque::new());
            let (late, duplicates) = (0, 0);
            operators.push(Remembering {
                shards: built,
                lookup,
                routing,
                order: node.order.clone(),
                watermark,
                late,
                duplicates,
                unfinished,
                unasked,
            });
        }
        let whole = limits.budget.whole_share();
        Ok(Self { operators, limits, divided: false, whole })
    }

    /// True when the state of all pipelines takes more than it may and cold keys of this one could leave memory. Little is left
    /// where it is: that would cost more than it gains.
    pub fn should_divide(&mut self) -> bool {
        let shards = self.operators.iter().flat_map(|operator| &operator.shards);
        let bytes = shards.map(|shard| shard.usage().bytes).sum::<u64>();
        let could = !self.divided && bytes > self.limits.bytes / 8;
        self.whole.set(if could { bytes } else { 0 });
        could && self.limits.budget.is_exceeded()
    }

    /// Makes every operator anew from what was written of it, in parts that can leave memory one by one. The snapshots must be those
    /// of this very moment.
    pub async fn divide(
        &mut self,
        dataflow: &Dataflow,
        states: &StateStore,
        snapshots: &[OperatorSnapshot],
    ) -> Result<()> {
        self.divided = true;
        self.whole.set(0);
        for (node, operator) in dataflow.operators.iter().zip(&mut self.operators) {
            let snapshot = snapshots.iter().find(|snapshot| snapshot.operator == node.id);
            let Some(snapshot) = snapshot.filter(|_| operator.lookup.is_none()) else { continue };
            let shards = operator.shards.len();
            operator.shards.clear();
            for shard in 0..shards {
                let mut cells = divided(node, Some(snapshot), operator.routing.clone(), (shard, shards), &self.limits)?;
                restore(&mut cells, states, snapshot, (shard, shards), operator.watermark).await?;
                operator.shards.push(Box::new(cells));
            }
        }
        Ok(())
    }

    /// Makes every operator, which is still empty, ready for what is going to be restored: in the layout that was written, and in parts
    /// that can leave memory if it may not fit.
    pub fn expect(&mut self, dataflow: &Dataflow, snapshots: &[OperatorSnapshot]) -> Result<()> {
        let file = |file: &StateFile| (file.bytes * RESTORED_FACTOR).max(file.rows * RESTORED_ROW_BYTES);
        let bytes: u64 = snapshots.iter().flat_map(OperatorSnapshot::files).map(file).sum();
        let divide = bytes > self.limits.bytes && self.limits.spill.is_ok();
        self.divided |= divide;
        for (node, operator) in dataflow.operators.iter().zip(&mut self.operators) {
            let snapshot = snapshots.iter().find(|snapshot| snapshot.operator == node.id);
            let shards = operator.shards.len();
            for (shard, empty) in operator.shards.iter_mut().enumerate() {
                if divide {
                    let (routing, shard) = (operator.routing.clone(), (shard, shards));
                    *empty = Box::new(divided(node, snapshot, routing, shard, &self.limits)?);
                } else if snapshot.is_some_and(|snapshot| has_other_tables(empty.as_ref(), snapshot)) {
                    *empty = empty_shard(&built_as(node), &tables_of(snapshot))?;
                }
            }
        }
        Ok(())
    }

    /// True once cold state goes to disk.
    pub fn is_divided(&self) -> bool {
        self.divided
    }

    /// Why reading should slow down, if it should.
    pub fn pressure(&self) -> Option<Pressure> {
        self.limits.budget.pressure()
    }

    /// Brings tables that are looked up to their newest version; between epochs.
    pub async fn refresh(&mut self) -> Result<()> {
        for operator in &mut self.operators {
            if let Some(lookup) = &mut operator.lookup {
                lookup.refresh().await?;
                lookup.forget(operator.watermark)?;
            }
        }
        Ok(())
    }

    /// The version that each table is looked up at.
    pub fn lookup_versions(&self) -> BTreeMap<String, u64> {
        let lookups = self.operators.iter().filter_map(|operator| operator.lookup.as_ref());
        lookups.map(|lookup| lookup.version()).map(|(table, version)| (table.to_owned(), version)).collect()
    }

    /// True when nothing is ever remembered.
    pub fn is_empty(&self) -> bool {
        self.operators.is_empty()
    }

    /// The most shards of any operator.
    pub fn widest(&self) -> usize {
        self.operators.iter().map(|operator| operator.shards.len()).max().unwrap_or(0)
    }

    /// Gives operator `index` back what a snapshot holds; `watermark` is the W that it was written under.
    pub async fn restore(
        &mut self,
        index: usize,
        states: &StateStore,
        snapshot: &OperatorSnapshot,
        watermark: Watermark,
    ) -> Result<()> {
        let shards = self.operators[index].shards.len();
        for (shard, operator) in self.operators[index].shards.iter_mut().enumerate() {
            restore(operator.as_mut(), states, snapshot, (shard, shards), watermark).await?;
        }
        Ok(())
    }

    /// Begins operator `index` anew, with nothing remembered.
    pub fn forget(&mut self, index: usize, node: &OperatorNode) -> Result<()> {
        for shard in &mut self.operators[index].shards {
            *shard = built_as(node).build()?;
        }
        Ok(())
    }

    /// Takes operator `index` of `from`, another memory of the same dataflow with as many shards, as it stands at `watermark`.
    pub fn adopt(&mut self, index: usize, from: &mut Self, watermark: Watermark) {
        std::mem::swap(&mut self.operators[index].shards, &mut from.operators[index].shards);
        self.operators[index].watermark = watermark;
    }

    /// True when these watermarks of the sources would move some operator's.
    pub fn would_move(&self, dataflow: &Dataflow, times: &[Watermark]) -> bool {
        dataflow.operators.iter().zip(&self.operators).any(|(node, operator)| {
            let watermark = node.sources.iter().map(|source| times[*source]).min();
            watermark.is_some_and(|watermark| watermark > operator.watermark)
        })
    }

    /// Goes on at a watermark after everything is restored.
    pub fn resume(&mut self, index: usize, watermark: Watermark) {
        self.operators[index].watermark = watermark;
    }

    /// The watermark that operator `index` has reached.
    pub fn watermark(&self, index: usize) -> Watermark {
        self.operators[index].watermark
    }

    /// Rows that came too late for operator `index`, so far.
    pub fn late(&self, index: usize) -> u64 {
        self.operators[index].late
    }

    /// Rows that operator `index` left out as duplicates, so far.
    pub fn duplicates(&self, index: usize) -> u64 {
        self.operators[index].duplicates
    }

    /// Rows of operator `index`, a lookup, that were older than every version of the table that can be read, so far.
    pub fn too_early(&self, index: usize) -> u64 {
        self.operators[index].lookup.as_ref().map_or(0, |lookup| lookup.too_early())
    }

    /// Present size of the state of operator `index`.
    pub fn usage(&self, index: usize) -> StateUsage {
        let mut sum = StateUsage::default();
        let operator = &self.operators[index];
        let lookup = operator.lookup.iter().map(|lookup| lookup.usage());
        for usage in operator.shards.iter().map(|shard| shard.usage()).chain(lookup) {
            sum.rows += usage.rows;
            sum.bytes += usage.bytes;
            sum.oldest = match (sum.oldest, usage.oldest) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        sum
    }

    /// Runs operator `index` over `inputs`, rows per port; returns what each shard gave. That may be a part: see [`Memory::next_part`].
    pub async fn step(
        &mut self,
        index: usize,
        mut inputs: Vec<Vec<RecordBatch>>,
        watermark: Watermark,
        now: EventTime,
    ) -> Result<Vec<Stepped>> {
        let operator = &mut self.operators[index];
        let watermark = watermark.max(operator.watermark);
        let idle = inputs.iter().all(|rows| rows.iter().all(|batch| batch.num_rows() == 0));
        if idle && watermark == operator.watermark {
            return Ok(Vec::new());
        }
        if let Some(lookup) = &mut operator.lookup {
            operator.watermark = watermark;
            let rows = inputs.into_iter().next().unwrap_or_default();
            lookup.prepare(&rows).await?;
            operator.unasked.extend(rows.iter().flat_map(|rows| cut(rows, LOOKUP_ROWS)));
            return operator.look_up();
        }
        let tick = Tick { before: operator.watermark, watermark, now };
        operator.watermark = watermark;
        let rows: usize = inputs.iter().flatten().map(RecordBatch::num_rows).sum();
        if let Some(OutputOrder::Arrival(_)) = operator.order {
            inputs = inputs
                .into_iter()
                .map(numbered)
                .collect::<Result<_, _>>()
                .internal(|| "rows cannot be numbered".to_owned())?;
        }
        let parts = route(inputs, &operator.routing, operator.shards.len())?;
        let stepped = match operator.shards.len() > 1 && rows >= SPREAD_ROWS {
            true => side_by_side(&mut operator.shards, parts, tick).await?,
            false => {
                let shards = operator.shards.iter_mut().zip(parts);
                shards.map(|(shard, part)| shard.step(part, tick)).collect::<Result<Vec<_>>>()?
            }
        };
        let unfinished = stepped.iter().enumerate().filter(|(_, stepped)| stepped.more);
        operator.unfinished = unfinished.map(|(shard, _)| shard).collect();
        let stepped = match &operator.order {
            Some(order) => in_order(stepped, order).await?,
            None => stepped,
        };
        let late: usize = stepped.iter().flat_map(|out| &out.late).map(|(_, rows)| rows.num_rows()).sum();
        let emitted: u64 = stepped.iter().map(|out| out.late_emitted).sum();
        operator.late += late as u64 + emitted;
        operator.duplicates += stepped.iter().map(|out| out.duplicates).sum::<u64>();
        Ok(stepped)
    }

    /// Continues a step of operator `index` that gave a part of its rows; `None` when it has given all.
    pub async fn next_part(&mut self, index: usize) -> Result<Option<Vec<Stepped>>> {
        let operator = &mut self.operators[index];
        if !operator.unasked.is_empty() {
            return operator.look_up().map(Some);
        }
        if operator.unfinished.is_empty() {
            return Ok(None);
        }
        let mut parts = Vec::with_capacity(operator.unfinished.len());
        for shard in std::mem::take(&mut operator.unfinished) {
            let part = operator.shards[shard].resume()?;
            operator.unfinished.extend(Some(shard).filter(|_| part.more));
            parts.push(part);
        }
        Ok(Some(match &operator.order {
            Some(order) => in_order(parts, order).await?,
            None => parts,
        }))
    }

    /// Changes that every operator has to write down.
    pub fn changes(&mut self, dataflow: &Dataflow) -> Result<Vec<OperatorChanges>> {
        let mut all = Vec::with_capacity(self.operators.len());
        let remembering =
            dataflow.operators.iter().zip(&mut self.operators).filter(|(_, operator)| operator.lookup.is_none());
        for (node, operator) in remembering {
            let tables = operator.shards.first().map(|shard| shard.state()).unwrap_or_default();
            let changes = operator.shards.iter_mut().map(|shard| shard.changes()).collect::<Result<_>>()?;
            all.push(OperatorChanges { operator: node.id.clone(), tables, changes });
        }
        Ok(all)
    }
}

impl Remembering {
    /// Looks rows up until there is a part of the result.
    fn look_up(&mut self) -> Result<Vec<Stepped>> {
        let Some(lookup) = &mut self.lookup else { return Ok(Vec::new()) };
        let (mut part, mut bytes) = (Stepped::default(), 0);
        while let Some(rows) = self.unasked.pop_front() {
            let found = lookup.apply(&[rows])?;
            bytes += found.iter().map(RecordBatch::get_array_memory_size).sum::<usize>();
            part.rows.extend(found);
            if bytes >= PART_BYTES {
                break;
            }
        }
        part.more = !self.unasked.is_empty();
        Ok(vec![part])
    }
}

/// The rows in batches of at most so many.
pub(super) fn cut(rows: &RecordBatch, most: usize) -> impl Iterator<Item = RecordBatch> {
    let starts = (0..rows.num_rows()).step_by(most.max(1));
    starts.map(move |start| rows.slice(start, most.min(rows.num_rows() - start)))
}

/// The spec that the shards of an operator are made from.
fn built_as(node: &OperatorNode) -> OperatorSpec {
    match node.order {
        Some(OutputOrder::Arrival(_)) => node.spec.numbered(),
        _ => node.spec.clone(),
    }
}

/// The names of the tables that an operator's state was written in.
fn tables_of(snapshot: Option<&OperatorSnapshot>) -> Vec<String> {
    snapshot.iter().flat_map(|snapshot| &snapshot.tables).map(|table| table.name.clone()).collect()
}

/// True when a snapshot has a table that the operator, as it was made, does not know.
fn has_other_tables(operator: &dyn Operator, snapshot: &OperatorSnapshot) -> bool {
    let own = operator.state();
    snapshot.tables.iter().any(|written| own.iter().all(|table| table.name != written.name))
}

/// An empty shard for state in `tables`.
fn empty_shard(spec: &OperatorSpec, tables: &[String]) -> Result<Box<dyn Operator>> {
    spec.build_for(&tables.iter().map(String::as_str).collect::<Vec<_>>())
}

/// A shard of an operator in parts that can leave memory; in the layout of `snapshot`, if there is one.
fn divided(
    node: &OperatorNode,
    snapshot: Option<&OperatorSnapshot>,
    routing: Vec<Vec<usize>>,
    (shard, shards): (usize, usize),
    limits: &Limits,
) -> Result<Cells> {
    let (spec, tables) = (built_as(node), tables_of(snapshot));
    Cells::new(CellsSpec {
        make: Box::new(move || empty_shard(&spec, &tables)),
        routing,
        shard,
        shards,
        cells: CELLS,
        budget: limits.budget.clone(),
        disk: limits.room(),
    })
}

async fn side_by_side(
    shards: &mut Vec<Box<dyn Operator>>,
    parts: Vec<Vec<Vec<RecordBatch>>>,
    tick: Tick,
) -> Result<Vec<Stepped>> {
    let tasks: Vec<_> = std::mem::take(shards)
        .into_iter()
        .zip(parts)
        .map(|(mut shard, part)| {
            tokio::spawn(async move {
                let stepped = shard.step(part, tick);
                (shard, stepped)
            })
        })
        .collect();
    let mut stepped = Vec::with_capacity(tasks.len());
    for task in tasks {
        let (shard, out) = task.await.internal(|| "an operator ended abnormally".to_owned())?;
        shards.push(shard);
        stepped.push(out);
    }
    stepped.into_iter().collect()
}

/// Per shard and port the rows whose key group the shard owns.
fn route(inputs: Vec<Vec<RecordBatch>>, routing: &[Vec<usize>], shards: usize) -> Result<Vec<Vec<Vec<RecordBatch>>>> {
    if shards == 1 {
        return Ok(vec![inputs]);
    }
    let ports = inputs.len();
    let mut parts: Vec<Vec<Vec<RecordBatch>>> = (0..shards).map(|_| vec![Vec::new(); ports]).collect();
    for (port, (rows, columns)) in inputs.into_iter().zip(routing).enumerate() {
        for batch in rows {
            let keys: Vec<ArrayRef> = columns.iter().map(|column| Arc::clone(batch.column(*column))).collect();
            let mut chosen: Vec<Vec<u32>> = vec![Vec::new(); shards];
            for (row, group) in key_groups(&keys, batch.num_rows())?.into_iter().enumerate() {
                chosen[shard_of(group, shards)].push(row as u32);
            }
            for (shard, rows) in chosen.into_iter().enumerate() {
                if rows.len() == batch.num_rows() {
                    parts[shard][port].push(batch.clone());
                } else if !rows.is_empty() {
                    let picked = take_record_batch(&batch, &UInt32Array::from(rows));
                    parts[shard][port].push(picked.internal(|| "rows cannot be routed".to_owned())?);
                }
            }
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use arrow::compute::SortOptions;
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;
    use crate::operator::WEIGHT;
    use crate::operator::spec::{RankFunction, TopNSpec};

    #[test]
    fn an_empty_shard_takes_the_layout_of_the_state_that_it_is_restored_from() {
        let field = |name: &str| Field::new(name, DataType::Int64, false);
        let spec = OperatorSpec::TopN(TopNSpec {
            input: Arc::new(Schema::new(vec![field("k"), field("v")])),
            retract: false,
            function: RankFunction::RowNumber,
            keys: vec![0],
            routing: 1,
            order: vec![(1, SortOptions::default())],
            limit: 3,
            with_rank: false,
            closing: None,
            ttl: None,
            time: None,
            output: Arc::new(Schema::new(vec![field("k"), field("v"), field(WEIGHT)])),
        });
        let tables = serde_json::json!([{ "name": "ranked", "files": [], "cutoff": 0 }]);
        let tables = serde_json::from_value(tables).unwrap();
        let snapshot = OperatorSnapshot { tables, ..OperatorSnapshot::empty("top_n") };
        let new = spec.build().unwrap();
        assert!(has_other_tables(new.as_ref(), &snapshot), "new state is kept in another layout");
        let empty = empty_shard(&spec, &tables_of(Some(&snapshot))).unwrap();
        assert!(!has_other_tables(empty.as_ref(), &snapshot));
    }
}
