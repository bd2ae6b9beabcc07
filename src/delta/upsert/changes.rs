//! An epoch's rows, reduced to what they leave behind: per key its last row, or that it is gone.
//!
//! Rows count in their order. A row given replaces what the key had. A row taken back makes the key go if it is the one that the
//! key has, or if the epoch has given it none; else it is an older one, and whoever gave the newer has replaced it. So the order
//! of "old row back" and "new row given" does not matter, which a retracting stream leaves open.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, ListArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::super::writer::conform;
use super::key::{Key, KeyHasher, KeyMap};
use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};

/// Rows as they came, without their weights.
#[derive(Debug, Clone)]
pub struct UpsertRows {
    pub rows: RecordBatch,
    /// Positive to give a row, negative to take it back; `None` = all are given.
    pub weights: Option<Int64Array>,
}

/// Position of a row among the batches.
pub type Place = (usize, usize);

/// The fate of one key.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    pub key: Key,
    /// Its row now; `None` = it is gone.
    pub row: Option<Place>,
    /// The row that it had before the epoch, where one was taken back.
    pub before: Option<Place>,
    /// A row that has the key's values.
    pub seen: Place,
}

/// The effect of an epoch on a table.
#[derive(Debug, Default)]
pub struct Changes {
    /// In the table's schema, but nullable.
    pub batches: Vec<RecordBatch>,
    /// At most one per key, in the order of the keys' first rows.
    pub changes: Vec<Change>,
    /// Columns of the key.
    key: Vec<usize>,
}

impl Changes {
    /// Reduces `rows` to one change per key of the columns `key` of `schema`. Columns are matched by name.
    pub fn of(rows: Vec<UpsertRows>, schema: &SchemaRef, key: &[String], env: &Env) -> Result<Self> {
        let columns = key.iter().map(|name| schema.field_with_name(name).cloned());
        let columns = columns
            .collect::<Result<Vec<_>, _>>()
            .context(ErrorKind::Sql, || format!("key `{}` is not among the columns", key.join(", ")))?;
        let hasher = KeyHasher::new(&Arc::new(Schema::new(columns)), env)?;
        Self::consolidate(rows, schema, key, &hasher)
    }

    /// As [`Changes::of`], with the hashes that an index has.
    pub fn consolidate(rows: Vec<UpsertRows>, schema: &SchemaRef, key: &[String], hasher: &KeyHasher) -> Result<Self> {
        let retracts = rows.iter().any(|rows| rows.weights.as_ref().is_some_and(takes_back));
        let mut reduced = Reducer::new(schema, key, hasher, retracts)?;
        for UpsertRows { rows, weights } in rows {
            reduced.take(&rows, weights.as_ref())?;
        }
        Ok(reduced.changes)
    }

    /// The effect of an epoch, read back: its rows, one per key, and the keys that it deletes.
    pub fn again(
        rows: &[RecordBatch],
        deleted: &[RecordBatch],
        schema: &SchemaRef,
        key: &[String],
        hasher: &KeyHasher,
    ) -> Result<Self> {
        let mut reduced = Reducer::new(schema, key, hasher, false)?;
        for batch in rows {
            reduced.take(batch, None)?;
        }
        for batch in deleted {
            reduced.delete(batch)?;
        }
        Ok(reduced.changes)
    }

    /// The keys that are gone, as text for the manifest; `None` when there is none.
    pub fn encode_deleted(&self) -> Result<Option<String>> {
        let fail = || "deleted keys cannot be written".to_owned();
        let gone: Vec<Place> = self.changes.iter().filter(|c| c.row.is_none()).map(|c| c.seen).collect();
        if gone.is_empty() {
            return Ok(None);
        }
        let keys = self.batches.iter().map(|batch| batch.project(&self.key)).collect::<Result<Vec<_>, _>>();
        let keys = keys.internal(fail)?;
        let keys = arrow::compute::interleave_record_batch(&keys.iter().collect::<Vec<_>>(), &gone).internal(fail)?;
        let mut writer = StreamWriter::try_new(Vec::new(), &keys.schema()).internal(fail)?;
        writer.write(&keys).and_then(|()| writer.finish()).internal(fail)?;
        Ok(Some(hex::encode(writer.into_inner().internal(fail)?)))
    }
}

/// The keys that [`Changes::encode_deleted`] wrote.
pub fn decode_keys(text: &str) -> Result<Vec<RecordBatch>> {
    let fail = || "the deleted keys in a manifest cannot be read".to_owned();
    let bytes = hex::decode(text).context(ErrorKind::Damaged, fail)?;
    let reader = StreamReader::try_new(bytes.as_slice(), None).context(ErrorKind::Damaged, fail)?;
    reader.collect::<Result<Vec<_>, _>>().context(ErrorKind::Damaged, fail)
}

/// The first row as text.
pub fn show_row(row: &RecordBatch) -> String {
    let options = FormatOptions::default().with_null("NULL");
    let shown = row.columns().iter().map(|column| {
        ArrayFormatter::try_new(column, &options).map_or_else(|_| "?".to_owned(), |text| text.value(0).to_string())
    });
    format!("({})", shown.collect::<Vec<_>>().join(", "))
}

fn takes_back(weights: &Int64Array) -> bool {
    weights.values().iter().any(|weight| *weight < 0)
}

/// Takes rows in their order.
struct Reducer<'a> {
    /// The schema with every column nullable: keys that are gone have no other column, and rows are checked elsewhere.
    lenient: SchemaRef,
    hasher: &'a KeyHasher,
    /// Of whole rows, when some are taken back.
    whole: Option<KeyHasher>,
    places: KeyMap<usize>,
    /// Per change.
    rows: Vec<Given>,
    changes: Changes,
}

/// Rows that an epoch has given a key, as hashes of whole rows.
struct Given {
    /// The row that it has, or had last.
    row: Key,
    /// Rows that were replaced and not yet taken back.
    replaced: Vec<Key>,
}

impl<'a> Reducer<'a> {
    fn new(schema: &SchemaRef, key: &[String], hasher: &'a KeyHasher, retracts: bool) -> Result<Self> {
        let columns = key.iter().map(|name| schema.index_of(name));
        let columns = columns.collect::<Result<Vec<_>, _>>().internal(|| "a key column is missing".to_owned())?;
        let lenient = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
        let lenient = Arc::new(Schema::new(lenient.collect::<Vec<_>>()));
        let whole = retracts.then(|| hasher.of_types(&comparable_schema(schema))).transpose()?;
        Ok(Self {
            lenient,
            hasher,
            whole,
            places: KeyMap::default(),
            rows: Vec::new(),
            changes: Changes { key: columns, ..Changes::default() },
        })
    }

    fn take(&mut self, rows: &RecordBatch, weights: Option<&Int64Array>) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let rows = conform(rows, &self.lenient)?;
        let keys: Vec<ArrayRef> = self.changes.key.iter().map(|index| Arc::clone(rows.column(*index))).collect();
        let keys = self.hasher.hash(&keys)?;
        let whole = match &self.whole {
            Some(whole) => whole.hash(&rows.columns().iter().map(comparable).collect::<Vec<_>>())?,
            None => Vec::new(),
        };
        let batch = self.changes.batches.len();
        for (row, key) in keys.into_iter().enumerate() {
            let given = weights.is_none_or(|weights| weights.value(row) > 0);
            let hash = whole.get(row).copied().unwrap_or(key);
            self.change(key, (batch, row), given, hash);
        }
        self.changes.batches.push(rows);
        Ok(())
    }

    fn change(&mut self, key: Key, at: Place, given: bool, hash: Key) {
        let changes = &mut self.changes.changes;
        let index = match self.places.entry(key) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(free) => {
                free.insert(changes.len());
                changes.push(Change { key, row: given.then_some(at), before: (!given).then_some(at), seen: at });
                self.rows.push(Given { row: hash, replaced: Vec::new() });
                return;
            }
        };
        let (change, held) = (&mut changes[index], &mut self.rows[index]);
        if given {
            if change.row.is_some() && self.whole.is_some() {
                held.replaced.push(held.row);
            }
            (change.row, held.row) = (Some(at), hash);
        } else if change.row.is_some() && held.row == hash {
            change.row = None;
        } else if let Some(replaced) = held.replaced.iter().position(|replaced| *replaced == hash) {
            held.replaced.swap_remove(replaced);
        } else {
            change.before.get_or_insert(at);
        }
    }

    /// Notes that these keys are gone.
    fn delete(&mut self, keys: &RecordBatch) -> Result<()> {
        let rows = conform(keys, &self.lenient)?;
        let columns: Vec<ArrayRef> = self.changes.key.iter().map(|index| Arc::clone(rows.column(*index))).collect();
        let batch = self.changes.batches.len();
        for (row, key) in self.hasher.hash(&columns)?.into_iter().enumerate() {
            self.change(key, (batch, row), false, key);
        }
        self.changes.batches.push(rows);
        Ok(())
    }
}

/// The types that [`comparable`] gives.
fn comparable_schema(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| match field.data_type() {
        DataType::Map(entries, _) => Field::new(field.name(), DataType::List(Arc::clone(entries)), field.is_nullable()),
        _ => field.as_ref().clone(),
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// A column in a form whose values can be compared: a map becomes the list of its entries.
fn comparable(column: &ArrayRef) -> ArrayRef {
    let Some(map) = column.as_map_opt() else { return Arc::clone(column) };
    let DataType::Map(entries, _) = map.data_type() else { return Arc::clone(column) };
    let list = ListArray::try_new(
        Arc::clone(entries),
        map.offsets().clone(),
        Arc::new(map.entries().clone()),
        map.nulls().cloned(),
    );
    match list {
        Ok(list) => Arc::new(list),
        Err(_) => Arc::clone(column),
    }
}

/// The rows at these places, as one batch in `schema`.
pub fn gather(batches: &[RecordBatch], places: &[Place], schema: &SchemaRef) -> Result<RecordBatch> {
    let fail = || "rows of an epoch cannot be gathered".to_owned();
    if let [only] = batches
        && places.len() == only.num_rows()
        && places.iter().enumerate().all(|(row, place)| place.1 == row)
    {
        return conform(only, schema);
    }
    let rows = arrow::compute::interleave_record_batch(&batches.iter().collect::<Vec<_>>(), places).internal(fail)?;
    let missing = schema
        .fields()
        .iter()
        .enumerate()
        .find(|(index, field)| !field.is_nullable() && rows.column(*index).null_count() > 0);
    if let Some((_, field)) = missing {
        return Err(Error::internal(format!("a row without `{}` reached its table", field.name())));
    }
    conform(&rows, schema)
}
