//! Filling the memory of operators that are new from a table that holds the history of the pipeline's input, instead of from the
//! source's past (which a broker may no longer have).
//!
//! The table's rows go through the dataflow in order of time, as the source's would, up to the operators that are new: through
//! fragments, and through copies of the operators that stand in front of them, made for this and dropped again. What the new operators give is
//! thrown away, since its time has passed; what they remember is then what they would, had they been there from the beginning.
//!
//! Exactly the rows that the pipeline has read are taken, or none: see [`Cut`]. Rows without an event time are left out.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, new_null_array};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use futures::TryStreamExt;

use super::job::{Job, SeedTable};
use super::prepare::Surroundings;
use super::recovery::Resumed;
use crate::catalog::{ColumnOrigin, Metadata, SourceConnector, SourceDef, TableDef};
use crate::delta::{AppId, Table, TableStore, rows_in_order};
use crate::error::{Context, Error, Result};
use crate::plan::{Dataflow, Makers, SourceInput, keeps_data};
use crate::run::memory::{Limits, Memory};
use crate::source::chunk::Offsets;
use crate::sql::types::sql_name;
use crate::state::MemoryBudget;
use crate::time::{EventTime, Watermark};

/// Result of seeding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seeded {
    /// The operators' addresses.
    pub operators: Vec<String>,
    pub rows: u64,
    /// The first row's event time.
    pub oldest: Option<EventTime>,
}

/// Rows are passed on at least so many at a time, where there are as many.
const STEP_ROWS: usize = 32_768;

/// Rule that tells the table's rows from those that are still to be read.
enum Cut {
    /// The pipeline itself writes the table, in the same epochs: it has the rows of what was read and no others.
    Own,
    /// Rows carry their source position.
    Positions(Positions),
}

/// The table's columns with a row's source position.
struct Positions {
    offset: String,
    partition: Option<String>,
    topic: Option<String>,
}

/// The source whose history fills `fresh` operators. Looks at the plan only.
///
/// Errors: operators that cannot be seeded, with the remedy.
pub fn seeded_source(dataflow: &Dataflow, fresh: &[usize]) -> Result<usize> {
    let nodes = || fresh.iter().map(|index| &dataflow.operators[*index]);
    if let Some(node) = nodes().find(|node| node.retract) {
        return Err(Error::sql(format!("operator `{}` cannot be filled by `seed_from`", node.id))
            .with_detail("Its rows are updates without a time of their own, so those of the past would have to be written, too.")
            .with_hint("Give the pipeline another name to read everything again, or start once with `--allow-rebuild` and empty memory."));
    }
    let sources: BTreeSet<usize> = nodes().flat_map(|node| node.sources.iter().copied()).collect();
    let [source] = sources.iter().copied().collect::<Vec<_>>()[..] else {
        let names: Vec<_> = sources.iter().map(|source| dataflow.sources[*source].def.name.as_str()).collect();
        return Err(Error::sql(format!("new operators read `{}`, and `seed_from` fills those of one source", names.join("`, `")))
            .with_detail("A table holds the history of one source; a join of two cannot be filled.")
            .with_hint("Add what reads one source, run the pipeline once, then add what reads the next; or start once with `--allow-rebuild` and empty memory."));
    };
    if dataflow.sources[source].def.watermark.is_none() {
        return Err(Error::sql(format!(
            "`seed_from` needs a WATERMARK on source `{}`",
            dataflow.sources[source].def.name
        ))
        .with_detail("History is read in order of event time."));
    }
    Ok(source)
}

/// Everything that seeding the operators `fresh` would refuse, without doing it. Errors: as [`seed`].
pub async fn check_seed(dataflow: &Dataflow, fresh: &[usize], def: &TableDef, around: &Surroundings) -> Result<()> {
    let source = seeded_source(dataflow, fresh)?;
    let store = TableStore::open(&around.table_location(def), &around.storage_of(def), &around.env)?;
    let table = Table::open(store).await.map_err(|error| {
        error.with_hint(format!(
            "`seed_from` names table `{}`: it must exist before new operators are filled from it.",
            def.name
        ))
    })?;
    let seed = SeedTable { name: def.name.clone(), table };
    cut(dataflow, &seed, source).await?;
    let makers = dataflow.makers(fresh.iter().map(|index| dataflow.operators[*index].output));
    Replay::new(dataflow, source, makers, &seed).map(drop)
}

/// Seeds the operators `fresh`, which have no state, in `memory`.
///
/// Errors: as [`seeded_source`]; a table that lacks a column or whose rows cannot be told from those to be read.
pub async fn seed(job: &Job, resumed: &Resumed, fresh: &[usize], memory: &mut Memory) -> Result<Option<Seeded>> {
    // Without its manifest a pipeline does not know how far event time has come, and all of the past would come out again.
    let known = !fresh.is_empty() && resumed.state_known;
    let Some(seed) = job.seed.as_ref().filter(|_| known) else { return Ok(None) };
    let dataflow = &job.dataflow;
    let source = seeded_source(dataflow, fresh)?;
    let makers = dataflow.makers(fresh.iter().map(|index| dataflow.operators[*index].output));
    let cut = cut(dataflow, seed, source).await?;
    let replay = Replay::new(dataflow, source, makers, seed)?;
    // Its tables are gone again when reading begins: a budget of its own keeps them from counting twice.
    let limits = Limits { budget: MemoryBudget::new(job.limits.bytes), ..job.limits.clone() };
    let mut scratch = Memory::new(dataflow, job.lanes, &job.lookups, limits).await?;
    let name = &replay.source.def.name;
    let watermark = resumed.times.get(name).map_or(Watermark::NONE, |time| time.watermark);
    let offsets = resumed.positions.get(name).cloned().unwrap_or_default();
    let mut seeded = Seeded { operators: Vec::new(), rows: 0, oldest: None };
    let mut rows = replay.read(&seed.table, &cut, Arc::clone(dataflow.runtime())).await?;
    let now = EventTime::of_millis(job.env.unix_ms());
    let mut held: Vec<RecordBatch> = Vec::new();
    loop {
        let next = rows.try_next().await?;
        let ended = next.is_none();
        if let Some(batch) = next {
            let batch = match &cut {
                Cut::Own => batch,
                Cut::Positions(positions) => positions.read_already(&batch, &replay.source.def, &offsets)?,
            };
            seeded.rows += batch.num_rows() as u64;
            held.extend(Some(batch).filter(|batch| batch.num_rows() > 0));
        }
        if ended || held.iter().map(RecordBatch::num_rows).sum::<usize>() >= STEP_ROWS {
            let batches = std::mem::take(&mut held);
            let (first, last) = replay.times(&batches)?;
            seeded.oldest = seeded.oldest.or(first);
            // Rows come in order of time, so each is the watermark of those after it.
            let reached = if ended { Some(watermark) } else { last.map(|last| Watermark::at(last).min(watermark)) };
            let Some(reached) = reached else { continue };
            replay.step(batches, reached, now, &mut scratch).await?;
        }
        if ended {
            break;
        }
    }
    for index in fresh {
        memory.adopt(*index, &mut scratch, watermark);
        seeded.operators.push(dataflow.operators[*index].id.clone());
    }
    Ok(Some(seeded))
}

/// Finds out how the table's rows end where the pipeline's reading does.
async fn cut(dataflow: &Dataflow, seed: &SeedTable, source: usize) -> Result<Cut> {
    let pipeline = &dataflow.pipeline;
    let def = &dataflow.sources[source].def;
    if let Some(positions) = Positions::of(def, &seed.table.schema()) {
        return Ok(Cut::Positions(positions));
    }
    let branches: Vec<_> = dataflow.branches.iter().filter(|branch| branch.target == seed.name).collect();
    let whole = !branches.is_empty() && branches.iter().all(|branch| branch.sources == BTreeSet::from([source]));
    let app = AppId::epoch(pipeline).to_string();
    let written = whole && seed.table.transactions(&app).await?.contains_key(&app);
    if !written {
        return Err(Error::sql(format!("where the rows of table `{}` end and those still to be read begin is not known", seed.name))
            .with_detail(format!("Pipeline `{pipeline}` has not written them from source `{}`, and they do not say where they come from; some would count twice, or not at all.", def.name))
            .with_hint("Let the pipeline write the table (`INSERT INTO … SELECT * FROM …`) and run it once before the new window is added; or keep the source's METADATA columns `offset`, `partition` and `topic` in it, under their names; or name another table in `seed_from`."));
    }
    for branch in branches {
        let makers = dataflow.makers(branch.reads.iter().copied());
        if let Some(waits) =
            makers.operators.iter().map(|index| &dataflow.operators[*index]).find(|node| node.spec.holds_back())
        {
            return Err(Error::sql(format!("table `{}` does not have all rows that pipeline `{pipeline}` has read", seed.name))
                .with_detail(format!("It is written behind operator `{}`, which holds rows back until their time is complete.", waits.id))
                .with_hint("Write a table straight from the source and name that in `seed_from`; or keep the source's METADATA columns `offset`, `partition` and `topic` in it, under their names."));
        }
    }
    Ok(Cut::Own)
}

impl Positions {
    /// `Some` when a source's position is in columns of its own and the table has them, too.
    fn of(def: &SourceDef, table: &SchemaRef) -> Option<Self> {
        let column = |wanted: Metadata| {
            let found = def.columns.iter().find(|column| column.origin == ColumnOrigin::Metadata(wanted))?;
            table.index_of(&found.name).is_ok().then(|| found.name.clone())
        };
        let positions = Self {
            offset: column(Metadata::Offset)?,
            partition: column(Metadata::Partition),
            topic: column(Metadata::Topic),
        };
        let known = match &def.connector {
            SourceConnector::Kafka(_) => positions.partition.is_some(),
            SourceConnector::File(_) => positions.topic.is_some(),
            SourceConnector::Generator(_) | SourceConnector::Nexmark(_) => true,
            // The positions of a Delta source count in its versions, which rows do not carry.
            SourceConnector::Delta(_) => false,
        };
        known.then_some(positions)
    }

    fn columns(&self) -> impl Iterator<Item = &str> {
        [Some(&self.offset), self.partition.as_ref(), self.topic.as_ref()].into_iter().flatten().map(String::as_str)
    }

    /// The rows that lie before `offsets`.
    fn read_already(&self, rows: &RecordBatch, def: &SourceDef, offsets: &Offsets) -> Result<RecordBatch> {
        let wrong = || "source positions in the table of `seed_from` cannot be read".to_owned();
        let of = |name: &str, kind: &DataType| -> Result<ArrayRef> {
            let column = rows.column_by_name(name).ok_or_else(|| Error::internal(wrong()))?;
            cast(column, kind).internal(wrong)
        };
        let longs = |name: &str| Ok::<_, Error>(of(name, &DataType::Int64)?.as_primitive::<Int64Type>().clone());
        let at = longs(&self.offset)?;
        let partitions = self.partition.as_ref().map(|name| longs(name)).transpose()?;
        let topics = self.topic.as_ref().map(|name| of(name, &DataType::Utf8)).transpose()?;
        let kafka = matches!(def.connector, SourceConnector::Kafka(_));
        let end = |row: usize| {
            let topic = topics.as_ref().map(|topics| topics.as_string::<i32>().value(row));
            let number = partitions.as_ref().map_or(0, |partitions| partitions.value(row));
            match topic {
                Some(topic) if kafka => offsets.get(format!("{topic}/{number}").as_str()),
                Some(file) => offsets.get(file),
                None if kafka => {
                    let ends = format!("/{number}");
                    offsets.iter().find(|(id, _)| id.ends_with(&ends)).map(|(_, end)| end)
                }
                None => offsets.values().next(),
            }
        };
        let read = |row: usize| at.is_valid(row) && end(row).is_some_and(|end| at.value(row) < *end);
        let read: BooleanArray = (0..rows.num_rows()).map(|row| Some(read(row))).collect();
        filter_record_batch(rows, &read).internal(wrong)
    }
}

/// A part of a dataflow, run over a table's rows.
struct Replay<'a> {
    dataflow: &'a Dataflow,
    source: &'a SourceInput,
    makers: Makers,
    time: String,
    /// The columns that are read, of the table.
    columns: BTreeSet<String>,
    /// The rows as the source gives them; columns that are not read are null.
    schema: SchemaRef,
}

impl<'a> Replay<'a> {
    /// Errors: a table that lacks a column that is read, or has it with values that the source's type does not hold.
    fn new(dataflow: &'a Dataflow, source: usize, makers: Makers, seed: &SeedTable) -> Result<Self> {
        let source = &dataflow.sources[source];
        let mut columns = dataflow.columns_read(&makers, source);
        let time = source.def.watermark.as_ref().map(|watermark| watermark.column.clone()).unwrap_or_default();
        columns.insert(time.clone());
        let table = seed.table.schema();
        let wrong: Vec<String> = columns.iter().filter_map(|name| mismatch(name, &source.def, &table)).collect();
        if !wrong.is_empty() {
            return Err(Error::sql(format!("table `{}` cannot stand for source `{}`", seed.name, source.def.name))
                .with_detail(wrong.join(" "))
                .with_hint(format!(
                    "`seed_from` takes the columns that new operators read from the table, by name. Add them to it, `ALTER TABLE {} ADD COLUMNS (…)` in Spark or `DeltaTable(path).alter.add_columns(…)` in Python, and to the INSERT that fills it; or name another table in `seed_from`.",
                    seed.name
                )));
        }
        let field = |field: &Arc<Field>| field.as_ref().clone().with_nullable(true);
        let schema = Schema::new(source.def.schema().fields().iter().map(field).collect::<Vec<_>>());
        Ok(Self { dataflow, source, makers, time, columns, schema: Arc::new(schema) })
    }

    async fn read(
        &self,
        table: &Table,
        cut: &Cut,
        runtime: Arc<datafusion::execution::runtime_env::RuntimeEnv>,
    ) -> Result<datafusion::execution::SendableRecordBatchStream> {
        let mut columns: BTreeSet<&str> = self.columns.iter().map(String::as_str).collect();
        let mut order = vec![self.time.as_str()];
        if let Cut::Positions(positions) = cut {
            columns.extend(positions.columns());
            order.extend(positions.columns());
        }
        let columns: Vec<&str> = columns.into_iter().collect();
        rows_in_order(table, &columns, &self.time, &order, runtime).await
    }

    /// The first and the last event time of rows that are in order.
    fn times(&self, rows: &[RecordBatch]) -> Result<(Option<EventTime>, Option<EventTime>)> {
        let time = |batch: &RecordBatch, row: usize| -> Result<EventTime> {
            let column =
                batch.column_by_name(&self.time).and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>());
            column
                .map(|column| EventTime(column.value(row)))
                .ok_or_else(|| Error::internal("history has no event time"))
        };
        let first = rows.first().map(|batch| time(batch, 0)).transpose()?;
        Ok((first, rows.last().map(|batch| time(batch, batch.num_rows() - 1)).transpose()?))
    }

    /// Runs rows through the operators of `scratch` up to `watermark`.
    async fn step(
        &self,
        rows: Vec<RecordBatch>,
        watermark: Watermark,
        now: EventTime,
        scratch: &mut Memory,
    ) -> Result<()> {
        let lane = self.dataflow.lane();
        let rows = rows.iter().map(|batch| self.as_source(batch)).collect::<Result<Vec<_>>>()?;
        lane.fill(self.source.stream, rows)?;
        for stage in 0..self.dataflow.stages {
            lane.run_fragments(self.dataflow, stage, |index| self.makers.fragments.contains(&index)).await?;
            for (index, node) in self.dataflow.operators_of(stage) {
                if !self.makers.operators.contains(&index) {
                    continue;
                }
                let mut inputs = Vec::with_capacity(node.inputs.len());
                for port in 0..node.inputs.len() {
                    inputs.push(lane.sound_rows(self.dataflow, index, port).await?);
                }
                let mut stepped = scratch.step(index, inputs, watermark, now).await?;
                while let Some(more) = scratch.next_part(index).await? {
                    stepped.extend(more);
                }
                lane.fill(node.output, stepped.into_iter().flat_map(|out| out.rows).collect())?;
            }
        }
        Ok(())
    }

    /// Rows of the table as the source would give them.
    fn as_source(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let wrong = || format!("rows of the table of `seed_from` do not fit source `{}`", self.source.def.name);
        let column = |field: &Arc<Field>| -> Result<ArrayRef> {
            match rows.column_by_name(field.name()).filter(|_| self.columns.contains(field.name())) {
                Some(column) => cast(column, field.data_type()).internal(wrong),
                None => Ok(new_null_array(field.data_type(), rows.num_rows())),
            }
        };
        let columns = self.schema.fields().iter().map(column).collect::<Result<Vec<_>>>()?;
        RecordBatch::try_new(Arc::clone(&self.schema), columns).internal(wrong)
    }
}

/// The fault of a column of the table, as a sentence.
fn mismatch(name: &str, def: &SourceDef, table: &SchemaRef) -> Option<String> {
    let wanted = def.columns.iter().find(|column| column.name == name)?;
    match table.field_with_name(name) {
        Err(_) => Some(format!("It has no column `{name}`.")),
        Ok(field) if !keeps_data(field.data_type(), &wanted.data_type) => {
            let (has, wanted) = (sql_name(field.data_type()), sql_name(&wanted.data_type));
            Some(format!("Its column `{name}` is {has}, the source's {wanted}."))
        }
        Ok(_) => None,
    }
}
