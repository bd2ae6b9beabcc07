//! From an epoch's changes to files: what is written, which files go, and how the index will follow.
//!
//! The epoch's own rows go into files of their own, so that they can be found again if the commit is overtaken. Rows that
//! other files are relieved of go into files beside them. Nothing here changes what is known of the table: that is the
//! [`Plan`], applied when the commit stands.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Schema};
use futures::TryStreamExt;
use roaring::RoaringBitmap;

use super::super::actions::{Add, AddCDCFile, LogPath, Remove};
use super::super::metadata::TableMetadata;
use super::super::table::Table;
use super::super::writer::{CHANGE_TYPE, StagedFiles, TableWriter, UpsertCommit, WriterOptions};
use super::changes::{Changes, Place, gather};
use super::files::{FileReader, LiveFile, LiveFiles};
use super::index::RowLocations;
use super::key::{Key, KeyHasher, Location};
use super::layout::{Candidate, UpsertPolicy, rewrites};
use super::vectors;
use crate::error::{Context, Error, Result};

/// Changes of files and index once the commit stands.
#[derive(Debug, Default)]
pub struct Plan {
    pub removed: Vec<u32>,
    pub added: Vec<(u32, LiveFile)>,
    pub revised: Vec<(u32, Add, RoaringBitmap)>,
    pub gone: Vec<Key>,
    pub moves: Vec<(Key, Location)>,
}

/// Everything that staging looks at.
pub struct Stager<'a> {
    pub table: &'a Table,
    pub key: &'a [String],
    pub hasher: &'a KeyHasher,
    pub options: &'a WriterOptions,
    pub policy: UpsertPolicy,
    pub reader: FileReader,
    pub metadata: Arc<TableMetadata>,
    pub files: &'a LiveFiles,
    pub index: &'a RowLocations,
}

/// The changes, with where the keys' old rows lie.
#[derive(Default)]
struct Located {
    /// Rows that become dead, by file.
    dead: BTreeMap<u32, RoaringBitmap>,
    /// Those of them that no row replaces.
    deleted: BTreeMap<u32, RoaringBitmap>,
    fresh: Vec<(Key, Place)>,
    /// Per fresh row whether its key is new.
    is_new: Vec<bool>,
    gone: Vec<Key>,
    /// Rows that are deleted for another row of the same key.
    doubles: u64,
}

/// Files staged so far.
#[derive(Default)]
struct Out {
    staged: StagedFiles,
    plan: Plan,
    next: u32,
}

impl Stager<'_> {
    /// Writes the files. Without any change there are none, and no [`StagedFiles::upsert`].
    pub async fn stage(&self, changes: &Changes) -> Result<(StagedFiles, Plan)> {
        let located = self.locate(changes)?;
        if located.fresh.is_empty() && located.gone.is_empty() {
            return Ok((StagedFiles::default(), Plan::default()));
        }
        let mut out = Out { next: self.files.next(), ..Out::default() };
        let fresh = gather(&changes.batches, &places(&located), &self.metadata.schema)?;
        self.write_fresh(&fresh, &located, &mut out).await?;
        let count = out.staged.adds.len();
        self.rewrite(&located, &mut out).await?;
        self.mark(&located, &mut out).await?;
        if self.metadata.has_change_feed() && !out.staged.removes.is_empty() {
            self.change_feed(&fresh, &located, &mut out).await?;
        }
        let inserted = located.is_new.iter().filter(|new| **new).count() as u64;
        out.staged.rows = located.fresh.len() as u64;
        out.staged.upsert = Some(UpsertCommit {
            read_version: 0,
            key: self.key.to_vec(),
            fresh: count,
            deleted: changes.encode_deleted()?,
            rows_inserted: inserted,
            rows_updated: located.fresh.len() as u64 - inserted,
            rows_deleted: located.gone.len() as u64 + located.doubles,
        });
        out.plan.gone = located.gone;
        Ok((out.staged, out.plan))
    }

    fn locate(&self, changes: &Changes) -> Result<Located> {
        let mut located = Located::default();
        let keys: Vec<Key> = changes.changes.iter().map(|change| change.key).collect();
        for (change, old) in changes.changes.iter().zip(self.index.locate(&keys)?) {
            if let Some(old) = old {
                located.dead.entry(old.file).or_default().insert(old.row);
                if change.row.is_none() {
                    located.deleted.entry(old.file).or_default().insert(old.row);
                    located.gone.push(change.key);
                }
            }
            if let Some(row) = change.row {
                located.fresh.push((change.key, row));
                located.is_new.push(old.is_none());
            }
        }
        if !located.fresh.is_empty() || !located.gone.is_empty() {
            for (id, file) in self.files.iter().filter(|(_, file)| !file.doubles.is_empty()) {
                *located.dead.entry(id).or_default() |= &file.doubles;
                *located.deleted.entry(id).or_default() |= &file.doubles;
                located.doubles += file.doubles.len();
            }
        }
        Ok(located)
    }

    /// Writes the epoch's rows, partition by partition.
    async fn write_fresh(&self, fresh: &RecordBatch, located: &Located, out: &mut Out) -> Result<()> {
        if fresh.num_rows() == 0 {
            return Ok(());
        }
        let keys: Vec<Key> = located.fresh.iter().map(|(key, _)| *key).collect();
        let per_file = self.rows_per_file(fresh.get_array_memory_size() as u64 / 4, fresh.num_rows() as u64);
        let Some(groups) = self.reader.partitions()?.groups(fresh)? else {
            let mut writer = RowsWriter::new(self, per_file);
            writer.write(fresh, &keys, out).await?;
            return writer.finish(out).await;
        };
        let mut parts: BTreeMap<Vec<u8>, Vec<u32>> = BTreeMap::new();
        for (row, group) in groups.into_iter().enumerate() {
            parts.entry(group).or_default().push(row as u32);
        }
        for rows in parts.into_values() {
            let keys: Vec<Key> = rows.iter().map(|row| keys[*row as usize]).collect();
            let part = take_record_batch(fresh, &UInt32Array::from(rows));
            let part = part.internal(|| "rows cannot be divided into partitions".to_owned())?;
            let mut writer = RowsWriter::new(self, per_file);
            writer.write(&part, &keys, out).await?;
            writer.finish(out).await?;
        }
        Ok(())
    }

    /// Rewrites the files whose turn it is, without their dead rows, partition by partition.
    async fn rewrite(&self, located: &Located, out: &mut Out) -> Result<()> {
        let chosen = self.choose(located);
        let mut groups: BTreeMap<&[u8], Vec<(u32, &LiveFile)>> = BTreeMap::new();
        for (id, file) in chosen.iter().filter_map(|id| Some((*id, self.files.get(*id)?))) {
            groups.entry(&file.group).or_default().push((id, file));
            out.staged.removes.push(self.remove(file));
            out.plan.removed.push(id);
        }
        let none = RoaringBitmap::new();
        for files in groups.into_values() {
            let bytes = files.iter().map(|(_, file)| file.add.size.unsigned_abs()).sum();
            let rows = files.iter().map(|(_, file)| u64::from(file.rows)).sum();
            let mut writer = RowsWriter::new(self, self.rows_per_file(bytes, rows));
            for (id, file) in files {
                let dead = located.dead.get(&id).unwrap_or(&none);
                if file.dead.union_len(dead) >= u64::from(file.rows) {
                    continue;
                }
                let mut rows = self.reader.rows_without(file, dead).await?;
                while let Some(batch) = rows.try_next().await? {
                    let keys = self.hasher.hash(&self.key_columns(&batch)?)?;
                    writer.write(&batch, &keys, out).await?;
                }
            }
            writer.finish(out).await?;
        }
        Ok(())
    }

    fn choose(&self, located: &Located) -> BTreeSet<u32> {
        let candidates: Vec<Candidate<'_>> = self
            .files
            .iter()
            .map(|(id, file)| {
                let dying = located.dead.get(&id);
                Candidate {
                    id,
                    group: &file.group,
                    rows: u64::from(file.rows),
                    dead: file.dead.len() + dying.map_or(0, RoaringBitmap::len),
                    bytes: file.add.size.unsigned_abs(),
                    touched: dying.is_some(),
                }
            })
            .collect();
        rewrites(&candidates, self.policy)
    }

    /// Marks dead rows of the files that stay.
    async fn mark(&self, located: &Located, out: &mut Out) -> Result<()> {
        let stays = |id: &u32| !out.plan.removed.contains(id);
        let touched: Vec<(u32, &LiveFile, RoaringBitmap)> = located
            .dead
            .iter()
            .filter(|(id, _)| stays(id))
            .filter_map(|(id, dying)| self.files.get(*id).map(|file| (*id, file, &file.dead | dying)))
            .collect();
        if touched.is_empty() {
            return Ok(());
        }
        let dead: Vec<RoaringBitmap> = touched.iter().map(|(_, _, dead)| dead.clone()).collect();
        let (descriptors, bytes) = vectors::write(self.table.store(), &dead).await?;
        out.staged.bytes += bytes;
        for ((id, file, dead), descriptor) in touched.into_iter().zip(descriptors) {
            let add = vectors::revised(&file.add, file.rows, descriptor);
            out.staged.removes.push(self.remove(file));
            out.staged.adds.push(add.clone());
            out.plan.revised.push((id, add, dead));
        }
        Ok(())
    }

    /// Writes what changed, row by row with its kind of change, for readers of the change feed.
    async fn change_feed(&self, fresh: &RecordBatch, located: &Located, out: &mut Out) -> Result<()> {
        let mut writer = TableWriter::change_feed(self.table.store(), &self.metadata, &self.file_options())?;
        for (id, rows) in &located.dead {
            let Some(file) = self.files.get(*id) else { continue };
            let deleted = located.deleted.get(id);
            let mut positions = rows.iter();
            let mut read = self.reader.these_rows(file, self.reader.schema(), rows).await?;
            while let Some(batch) = read.try_next().await? {
                let kinds = positions.by_ref().take(batch.num_rows()).map(|row| {
                    match deleted.is_some_and(|deleted| deleted.contains(row)) {
                        true => "delete",
                        false => "update_preimage",
                    }
                });
                writer.write(&with_kinds(&batch, kinds)?).await?;
            }
        }
        let kinds = located.is_new.iter().map(|new| if *new { "insert" } else { "update_postimage" });
        writer.write(&with_kinds(fresh, kinds)?).await?;
        let files = writer.close().await?;
        out.staged.bytes += files.bytes;
        out.staged.cdc = files
            .adds
            .into_iter()
            .map(|add| AddCDCFile {
                path: LogPath::spelled(format!("_change_data/{}", add.path)),
                size: add.size,
                partition_values: add.partition_values,
                data_change: false,
            })
            .collect();
        Ok(())
    }

    fn remove(&self, file: &LiveFile) -> Remove {
        file.remove_action(self.table.store().env().unix_ms())
    }

    fn key_columns(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let column = |name: &String| rows.column_by_name(name).map(Arc::clone);
        let columns = self.key.iter().map(column).collect::<Option<Vec<_>>>();
        columns.ok_or_else(|| Error::internal("a key column was not read"))
    }

    /// Rows after which a file is full, judged by rows like them.
    fn rows_per_file(&self, bytes: u64, rows: u64) -> u64 {
        let per_row = (bytes / rows.max(1)).max(1);
        (self.policy.target / per_row).clamp(1, 1 << 30)
    }

    /// One file per writer: files end where their rows are counted, here.
    fn file_options(&self) -> WriterOptions {
        WriterOptions { target_file_size: 0, ..*self.options }
    }
}

fn places(located: &Located) -> Vec<Place> {
    located.fresh.iter().map(|(_, place)| *place).collect()
}

/// The rows with the column that a change feed has besides.
fn with_kinds(rows: &RecordBatch, kinds: impl Iterator<Item = &'static str>) -> Result<RecordBatch> {
    let mut fields = rows.schema().fields().to_vec();
    fields.push(Arc::new(Field::new(CHANGE_TYPE, DataType::Utf8, false)));
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(StringArray::from_iter_values(kinds)));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).internal(|| "changes cannot be told apart".to_owned())
}

/// Writes rows of one partition into files of a bounded number of rows, and notes where each key went.
struct RowsWriter<'a> {
    stager: &'a Stager<'a>,
    per_file: u64,
    open: Option<TableWriter>,
    keys: Vec<Key>,
}

impl<'a> RowsWriter<'a> {
    fn new(stager: &'a Stager<'a>, per_file: u64) -> Self {
        Self { stager, per_file, open: None, keys: Vec::new() }
    }

    async fn write(&mut self, rows: &RecordBatch, keys: &[Key], out: &mut Out) -> Result<()> {
        let mut from = 0;
        while from < rows.num_rows() {
            let writer = match &mut self.open {
                Some(writer) => writer,
                None => self.open.insert(self.stager.table.writer(&self.stager.file_options())?),
            };
            let room = (self.per_file - (self.keys.len() as u64).min(self.per_file)).max(1);
            let count = (rows.num_rows() - from).min(usize::try_from(room).unwrap_or(usize::MAX));
            writer.write(&rows.slice(from, count)).await?;
            self.keys.extend_from_slice(&keys[from..from + count]);
            from += count;
            if self.keys.len() as u64 >= self.per_file {
                self.finish(out).await?;
            }
        }
        Ok(())
    }

    /// Ends the open file, if there is one.
    async fn finish(&mut self, out: &mut Out) -> Result<()> {
        let Some(writer) = self.open.take() else { return Ok(()) };
        let files = writer.close().await?;
        let mut adds = files.adds.into_iter();
        let (Some(add), None) = (adds.next(), adds.next()) else {
            return Err(Error::internal("rows of one partition were written into several files"));
        };
        let id = out.next;
        out.next += 1;
        let keys = std::mem::take(&mut self.keys);
        let rows = keys.len() as u32;
        out.plan.moves.extend(keys.into_iter().zip(0..).map(|(key, row)| (key, Location { file: id, row })));
        let (values, group) = self.stager.reader.partitions()?.of_file(&add)?;
        let file = LiveFile {
            add: add.clone(),
            rows,
            dead: RoaringBitmap::new(),
            doubles: RoaringBitmap::new(),
            group,
            values,
        };
        out.plan.added.push((id, file));
        out.staged.adds.push(add);
        out.staged.bytes += files.bytes;
        Ok(())
    }
}
