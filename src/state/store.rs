//! The state of operators in an object store: an epoch's changes written as new immutable files, live rows read back.
//!
//! Files are never changed, and no two are ever written under one name (it contains a random number), so a crash or a second
//! process can leave unneeded files but never damage those of a snapshot. The choice of the valid snapshot is left to the
//! manifest.
//!
//! The root holds `<operator>/<table>/<epoch>-<random>.state`.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::SchemaRef;
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::file::{Block, Encoding, FileReader, FileWriter, Kind, block_schema};
use super::key_group::{KEY_GROUPS, groups_of};
use super::newest::{Newest, Older};
use super::pins::Pins;
use super::scatter::scatter_rows;
use super::snapshot::{OperatorSnapshot, STATE_FORMAT, StateFile, TableSnapshot};
use super::table::{StateChange, StateTable};
use super::views;
use crate::env::Env;
use crate::error::{Context, Error, Result};
use crate::standing::Epoch;
use crate::time::Watermark;

/// Files opened and tables written at a time.
const AT_ONCE: usize = 8;
/// Number of runs of blocks fetched ahead.
const AHEAD: usize = 3;
/// Upper bound for the rows of a block; blocks are cut between key groups at a 32nd of a file or this many rows.
const BLOCK_ROWS: usize = 1 << 16;
/// Approximate upper bound for the bytes of a block before compression: a block larger than the cache would pass through
/// main memory twice.
const BLOCK_BYTES: usize = 1 << 19;
/// Lower bound for the rows of a block, however wide they are.
const WIDE_ROWS: usize = 512;
/// Approximate number of bytes that are sorted by key group at a time: they should fit into a cache, and bound the memory.
const CHUNK_BYTES: usize = 8 << 20;
/// Smaller changes are one block, whatever their key groups.
const SORT_ROWS: usize = 1 << 12;

/// The state of a pipeline's operators. One per pipeline and process; cheap to clone.
#[derive(Debug, Clone)]
pub struct StateStore {
    pub(super) store: Arc<dyn ObjectStore>,
    env: Env,
    /// Remote store: transferring bytes costs more than compressing them.
    far: bool,
    /// Paths written here and not yet named by a snapshot, so not to be removed.
    pending: Arc<Mutex<HashSet<String>>>,
    pins: Option<Pins>,
}

impl StateStore {
    /// State at the root of `store`, which must make a write durable before it returns.
    pub fn new(store: Arc<dyn ObjectStore>, env: Env) -> Self {
        Self { store, env, far: false, pending: Arc::default(), pins: None }
    }

    /// For remote stores: compresses every file; otherwise only files from merges are compressed.
    #[must_use]
    pub fn far(self) -> Self {
        Self { far: true, ..self }
    }

    /// The same state; nothing is removed while a pin holds.
    #[must_use]
    pub fn pinned_by(self, pins: Pins) -> Self {
        Self { pins: Some(pins), ..self }
    }

    /// Writes the changes of an epoch, `changes[shard]` from each of the operator's shards. Durable when it returns.
    /// `before` is the snapshot of the previous epoch. Tables without changes get no file.
    ///
    /// Errors: changes that do not fit the tables; a store that cannot be written.
    pub async fn write(
        &self,
        operator: &str,
        epoch: Epoch,
        tables: &[StateTable],
        before: Option<&OperatorSnapshot>,
        changes: Vec<Vec<StateChange>>,
    ) -> Result<OperatorSnapshot> {
        let mut snapshot = before.cloned().unwrap_or_else(|| OperatorSnapshot::empty(operator));
        if snapshot.operator != operator || snapshot.format != STATE_FORMAT {
            return Err(Error::internal(format!("state of `{}` was given to `{operator}`", snapshot.operator)));
        }
        self.adopted(&snapshot);
        let mut merged: Vec<StateChange> = (0..tables.len()).map(empty_change).collect();
        for change in changes.into_iter().flatten() {
            let table = merged.get_mut(change.table);
            let into =
                table.ok_or_else(|| Error::internal(format!("`{operator}` has no state table {}", change.table)))?;
            into.upserts.extend(change.upserts);
            into.deletes.extend(change.deletes);
            into.cutoff = into.cutoff.max(change.cutoff);
        }
        let writes =
            merged.into_iter().zip(tables).map(|(change, table)| self.write_table(operator, epoch, table, change));
        let written: Vec<_> = stream::iter(writes.collect::<Vec<_>>()).buffered(AT_ONCE).try_collect().await?;
        for (table, (file, cutoff)) in tables.iter().zip(written) {
            let into = snapshot.table_mut(table.name);
            into.files.extend(file);
            into.cutoff = into.cutoff.max(cutoff);
            into.drop_dead_files(table);
        }
        Ok(snapshot)
    }

    async fn write_table(
        &self,
        operator: &str,
        epoch: Epoch,
        table: &StateTable,
        change: StateChange,
    ) -> Result<(Option<StateFile>, Watermark)> {
        if change.is_empty() {
            return Ok((None, change.cutoff));
        }
        let rows: usize = change.upserts.iter().chain(&change.deletes).map(RecordBatch::num_rows).sum();
        let encoding = Encoding { aside: rows > BLOCK_ROWS, compressed: self.far };
        let mut writer = self.begin(operator, epoch, table, encoding);
        let written = async {
            write_rows(&mut writer, table, Kind::Upserts, &change.upserts).await?;
            write_rows(&mut writer, table, Kind::Deletes, &change.deletes).await
        };
        let file = self.end(written.await, writer, epoch).await?;
        Ok((file, change.cutoff))
    }

    /// Begins a file under a unique name.
    pub(super) fn begin(&self, operator: &str, epoch: Epoch, table: &StateTable, encoding: Encoding) -> FileWriter {
        let id = self.env.random_id();
        let path = Path::from(format!("{operator}/{}/{:020}-{id:016x}.state", table.name, epoch.0));
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_string());
        FileWriter::new(Arc::clone(&self.store), path, operator, table, encoding)
    }

    /// Ends a file after its blocks were `written`; `None` if it has no blocks.
    pub(super) async fn end(&self, written: Result<()>, writer: FileWriter, epoch: Epoch) -> Result<Option<StateFile>> {
        match written {
            Ok(()) if writer.is_empty() => Ok(None),
            Ok(()) => writer.finish(epoch).await.map(Some),
            Err(error) => {
                writer.abort().await;
                Err(error)
            }
        }
    }

    /// Passes to `each` the live rows of a table that shard `shard` of `shards` owns: the newest version of each key,
    /// without dead ones. Every byte read is verified.
    ///
    /// Errors: of kind `Damaged` when a file is missing, was changed or does not fit the operator; errors of `each`.
    pub async fn read(
        &self,
        snapshot: &OperatorSnapshot,
        table: &StateTable,
        shard: usize,
        shards: usize,
        each: impl FnMut(RecordBatch) -> Result<()> + Send,
    ) -> Result<()> {
        let cutoff = snapshot.table(table.name).map_or(Watermark::NONE, |stored| stored.cutoff);
        self.read_beneath(snapshot, table, groups_of(shard, shards), &mut Newest::new(table, cutoff)?, each).await
    }

    /// Like [`StateStore::read`], for the keys in `groups` that `newest` has not seen yet.
    pub async fn read_beneath(
        &self,
        snapshot: &OperatorSnapshot,
        table: &StateTable,
        groups: Range<u16>,
        newest: &mut Newest,
        mut each: impl FnMut(RecordBatch) -> Result<()> + Send,
    ) -> Result<()> {
        let Some(stored) = snapshot.table(table.name).filter(|_| !groups.is_empty()) else { return Ok(()) };
        let readers = self.open(snapshot, stored, table).await?;
        let mut runs = Vec::new();
        for (age, reader) in readers.iter().enumerate() {
            let older = if age + 1 < readers.len() { Older::Follow } else { Older::None };
            if older == Older::Follow && !table.append_only {
                runs.extend(
                    reader.runs(Kind::Deletes, &groups, Watermark::NONE).into_iter().map(|run| (reader, run, older)),
                );
            }
            // Dead rows that hide older ones are still read, for their keys.
            let unread = if older == Older::None || table.append_only { stored.cutoff } else { Watermark::NONE };
            runs.extend(reader.runs(Kind::Upserts, &groups, unread).into_iter().map(|run| (reader, run, older)));
        }
        let fetches = runs.into_iter().map(|(reader, run, older)| {
            let reader = Arc::clone(reader);
            async move {
                let bytes = reader.fetch(&run).await?;
                Ok::<_, Error>((reader, bytes, run, older))
            }
        });
        let mut fetched = stream::iter(fetches.collect::<Vec<_>>()).buffered(AHEAD);
        while let Some((reader, bytes, run, older)) = fetched.try_next().await? {
            for block in &run {
                let rows = within(reader.decode(&run, &bytes, block)?, block, table, &groups)?;
                if block.kind == Kind::Deletes {
                    newest.deletes(&rows)?;
                    continue;
                }
                let live = newest.live(&rows, older)?;
                if live.num_rows() > 0 {
                    each(live)?;
                }
            }
        }
        Ok(())
    }

    /// Readers of a table's files, newest first.
    async fn open(
        &self,
        snapshot: &OperatorSnapshot,
        stored: &TableSnapshot,
        table: &StateTable,
    ) -> Result<Vec<Arc<FileReader>>> {
        if snapshot.format != STATE_FORMAT {
            return Err(Error::damaged(format!("state of operator `{}` has an unknown format", snapshot.operator))
                .with_detail(format!("It has format {}; this version reads {STATE_FORMAT}.", snapshot.format))
                .with_hint("Run the version of weir that wrote it, or rebuild the state with `--allow-rebuild`."));
        }
        self.open_files(&snapshot.operator, stored.files.iter().rev(), table).await
    }

    pub(super) async fn open_files<'a>(
        &self,
        operator: &str,
        files: impl Iterator<Item = &'a StateFile>,
        table: &StateTable,
    ) -> Result<Vec<Arc<FileReader>>> {
        let opened = files.map(|file| FileReader::open(Arc::clone(&self.store), file, operator, table));
        stream::iter(opened.collect::<Vec<_>>()).buffered(AT_ONCE).map_ok(Arc::new).try_collect().await
    }

    /// Removes the files that none of the `live` snapshots names and that were begun before epoch `before`. `live` must hold
    /// the newest snapshot and every other one that could still be resumed from; files written here that no snapshot has
    /// named yet are kept. Returns the number of files removed.
    pub async fn remove_unneeded(&self, live: &[&OperatorSnapshot], before: Epoch) -> Result<usize> {
        if let Some(pins) = &self.pins
            && pins.any().await?
        {
            return Ok(0);
        }
        let needed: HashSet<&str> =
            live.iter().flat_map(|snapshot| snapshot.files()).map(|f| f.path.as_str()).collect();
        let listed: Vec<_> =
            self.store.list(None).try_collect().await.environment(|| "state files cannot be listed".to_owned())?;
        let mut unneeded = Vec::new();
        {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            pending.retain(|path| !needed.contains(path.as_str()));
            for object in listed {
                let path = object.location;
                let begun = path.filename().and_then(|name| name.get(..20)).and_then(|e| e.parse::<u64>().ok());
                let old = begun.is_some_and(|epoch| epoch < before.0);
                if old && !needed.contains(path.as_ref()) && !pending.contains(path.as_ref()) {
                    unneeded.push(path);
                }
            }
        }
        let mut removed = 0;
        for path in unneeded {
            match self.store.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => removed += 1,
                Err(error) => tracing::warn!(%path, %error, "old state file stays"),
            }
        }
        Ok(removed)
    }

    /// A file that these snapshots name and that does not exist, if any.
    pub async fn missing(&self, snapshots: &[OperatorSnapshot]) -> Result<Option<String>> {
        for file in snapshots.iter().flat_map(OperatorSnapshot::files) {
            match self.store.head(&Path::from(file.path.as_str())).await {
                Ok(_) => {}
                Err(object_store::Error::NotFound { .. }) => return Ok(Some(file.path.clone())),
                Err(error) => {
                    return Err(error).environment(|| format!("state file `{}` cannot be looked at", file.path));
                }
            }
        }
        Ok(None)
    }

    /// Files named by a snapshot are managed by the owner of the snapshot from now on.
    pub(super) fn adopted(&self, snapshot: &OperatorSnapshot) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        for file in snapshot.files() {
            pending.remove(&file.path);
        }
    }

    /// Verifies every byte of a snapshot.
    #[cfg(test)]
    pub async fn verify(&self, snapshot: &OperatorSnapshot, tables: &[StateTable]) -> Result<()> {
        for stored in &snapshot.tables {
            let Some(table) = tables.iter().find(|table| table.name == stored.name) else {
                let path = stored.files.first().map_or("", |file| file.path.as_str());
                return Err(super::file::damaged(
                    path,
                    &snapshot.operator,
                    &format!("it has no state table `{}`", stored.name),
                ));
            };
            for reader in self.open(snapshot, stored, table).await? {
                for kind in [Kind::Upserts, Kind::Deletes] {
                    for run in reader.runs(kind, &(0..KEY_GROUPS), Watermark::NONE) {
                        let bytes = reader.fetch(&run).await?;
                        run.iter().try_for_each(|block| reader.decode(&run, &bytes, block).map(|_| ()))?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn empty_change(table: usize) -> StateChange {
    StateChange { table, upserts: Vec::new(), deletes: Vec::new(), cutoff: Watermark::NONE }
}

/// The rows of a block that are in `groups`.
pub(super) fn within(rows: RecordBatch, block: &Block, table: &StateTable, groups: &Range<u16>) -> Result<RecordBatch> {
    if block.within(groups) {
        return Ok(rows);
    }
    let mask: BooleanArray = table.groups(&rows)?.into_iter().map(|group| Some(groups.contains(&group))).collect();
    filter_record_batch(&rows, &mask).internal(|| "state rows cannot be filtered".to_owned())
}

/// Writes rows of one kind: sorts about [`CHUNK_BYTES`] at a time by key group and cuts them into blocks, between groups
/// where possible.
pub(super) async fn write_rows(
    writer: &mut FileWriter,
    table: &StateTable,
    kind: Kind,
    batches: &[RecordBatch],
) -> Result<()> {
    let mut chunk = Chunk::new(table, kind);
    for batch in batches {
        let pieces = bytes(batch).div_ceil(CHUNK_BYTES).clamp(1, batch.num_rows().max(1));
        let rows = batch.num_rows().div_ceil(pieces).max(1);
        for first in (0..batch.num_rows()).step_by(rows) {
            let piece = batch.slice(first, rows.min(batch.num_rows() - first));
            let size = bytes(&piece);
            if chunk.bytes + size > CHUNK_BYTES {
                std::mem::replace(&mut chunk, Chunk::new(table, kind)).write(writer).await?;
            }
            chunk.push(&piece, size)?;
        }
    }
    chunk.write(writer).await
}

/// Rows that are sorted together.
struct Chunk<'a> {
    table: &'a StateTable,
    kind: Kind,
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    groups: Vec<Vec<u16>>,
    bytes: usize,
}

impl<'a> Chunk<'a> {
    fn new(table: &'a StateTable, kind: Kind) -> Self {
        Self { table, kind, schema: block_schema(table, kind), batches: Vec::new(), groups: Vec::new(), bytes: 0 }
    }

    fn misfit(&self) -> impl FnOnce() -> String + use<> {
        let table = self.table.name;
        move || format!("rows do not fit state table `{table}`")
    }

    fn push(&mut self, rows: &RecordBatch, bytes: usize) -> Result<()> {
        self.groups.push(self.table.groups(rows)?);
        // Schemas may differ between shards in metadata and nullability.
        let fitting = RecordBatch::try_new(Arc::clone(&self.schema), rows.columns().to_vec());
        self.batches.push(fitting.internal(self.misfit())?);
        self.bytes += bytes;
        Ok(())
    }

    async fn write(self, writer: &mut FileWriter) -> Result<()> {
        let total: usize = self.groups.iter().map(Vec::len).sum();
        if total == 0 {
            return Ok(());
        }
        if total <= SORT_ROWS {
            let all = self.groups.iter().flatten();
            let groups = all.fold((KEY_GROUPS, 0), |(low, high), &group| (low.min(group), high.max(group)));
            let rows = match self.batches.as_slice() {
                [only] => only.clone(),
                batches => concat_batches(&self.schema, batches).internal(self.misfit())?,
            };
            return writer.block(self.kind, groups, rows).await;
        }
        let (places, ends) = by_group(&self.groups);
        let sorted = scatter_rows(&self.schema, &self.batches, &places).internal(self.misfit())?;
        let most = (total * BLOCK_BYTES / self.bytes.max(1)).clamp(WIDE_ROWS, BLOCK_ROWS);
        let kind = self.kind;
        drop(self);
        for (groups, range) in cut(&ends, (total / 32).clamp(SORT_ROWS, BLOCK_ROWS).min(most), most) {
            writer.block(kind, groups, sorted.slice(range.start, range.len())).await?;
        }
        Ok(())
    }
}

fn bytes(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(views::bytes).sum()
}

/// Each row's position in the order of the groups, and the end of each group.
fn by_group(groups: &[Vec<u16>]) -> (Vec<Vec<u32>>, Vec<usize>) {
    let mut ends = vec![0_usize; KEY_GROUPS.into()];
    for &group in groups.iter().flatten() {
        ends[usize::from(group)] += 1;
    }
    let mut total = 0;
    let mut next = Vec::with_capacity(ends.len());
    for end in &mut ends {
        next.push(total as u32);
        total += *end;
        *end = total;
    }
    let mut place = |&group: &u16| {
        let next = &mut next[usize::from(group)];
        *next += 1;
        *next - 1
    };
    (groups.iter().map(|groups| groups.iter().map(&mut place).collect()).collect(), ends)
}

/// Cuts sorted rows into blocks of about `aim` rows, none of more than `most`: small groups share a block, a large group
/// gets its own, in even pieces.
fn cut(ends: &[usize], aim: usize, most: usize) -> Vec<((u16, u16), Range<usize>)> {
    let mut blocks = Vec::new();
    let mut start = 0;
    let mut first = None;
    for (group, &end) in ends.iter().enumerate() {
        let group_start = if group == 0 { 0 } else { ends[group - 1] };
        if end == group_start {
            continue;
        }
        let group = group as u16;
        if let Some(open) = first.filter(|_| end - start > aim * 3 / 2) {
            blocks.push(((open, group - 1), start..group_start));
            (start, first) = (group_start, None);
        }
        let first_of = first.get_or_insert(group);
        let pieces = (end - start).div_ceil(most);
        for piece in (1..pieces).rev() {
            let rows = (end - start).div_ceil(piece + 1);
            blocks.push(((*first_of, group), start..start + rows));
            start += rows;
            if start >= group_start {
                *first_of = group;
            }
        }
        if end - start >= aim || pieces > 1 {
            blocks.push(((first.unwrap_or(group), group), start..end));
            (start, first) = (end, None);
        }
    }
    if let (Some(first), Some(&end)) = (first, ends.last().filter(|&&end| start < end)) {
        blocks.push(((first, ends.len() as u16 - 1), start..end));
    }
    blocks
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::cut;

    #[test]
    fn blocks_cover_the_rows_and_name_their_groups() {
        let mut rng = StdRng::seed_from_u64(5);
        for _ in 0..500 {
            let most = rng.random_range(1..60);
            let aim = rng.random_range(1..=most);
            let large = if rng.random_bool(0.5) { 300 } else { 12 };
            let sizes: Vec<usize> = (0..20).map(|_| rng.random_range(0..large)).collect();
            let group_of: Vec<u16> = (0..20).flat_map(|group| vec![group; sizes[usize::from(group)]]).collect();
            let ends: Vec<usize> = sizes.iter().scan(0, |sum, size| Some((*sum += size, *sum).1)).collect();
            let mut next = 0;
            for ((first, last), rows) in cut(&ends, aim, most) {
                assert_eq!(rows.start, next);
                assert!(!rows.is_empty() && rows.len() <= most, "{rows:?} with {aim} of {most}");
                assert!(
                    group_of[rows.clone()].iter().all(|group| (first..=last).contains(group)),
                    "{rows:?} {first} {last}"
                );
                next = rows.end;
            }
            assert_eq!(next, group_of.len());
        }
    }
}
