//! Tables with a primary key, written by upserts: one row per key, whatever comes.
//!
//! [`UpsertTable`] knows where every key's row lies ([`index`]), so an epoch that touches k keys touches the files that hold
//! them and never scans the table. It stages an epoch's consolidated [`changes`] as files to add and remove ([`stage`]), which
//! the epoch's manifest names and [`Table::commit`] commits like any other. Old rows are marked in deletion vectors
//! ([`vectors`]) where the table has them, else their files are rewritten; [`layout`] decides which files are folded together, so
//! that their number and the work per epoch stay bounded.
//!
//! Promises: what is staged is computed from exactly the version that it names. The index follows a commit only once that
//! commit is known to stand; a commit that another writer's files have overtaken is staged again from the epoch's own rows.
//! The index is rebuilt from the key columns of the table at the first use. It is in memory, and what does not fit there on local disk.

mod changes;
mod doubles;
mod files;
mod index;
mod key;
mod layout;
mod run;
mod stage;
mod stored;
#[cfg(test)]
mod tests;
pub(super) mod vectors;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::Mutex;

use self::changes::decode_keys;
pub use self::changes::{Change, Changes, Place, UpsertRows};
use self::files::{FileReader, LiveFiles, moved_files};
pub use self::index::IndexRoom;
use self::index::RowLocations;
use self::key::{KeyHasher, Location};
pub use self::layout::UpsertPolicy;
use self::stage::{Plan, Stager};
#[cfg(test)]
pub use self::vectors::write as write_vectors;
use super::commit::CommitOutcome;
use super::judge::Entry;
use super::listing;
use super::log::read_entry;
use super::table::Table;
use super::writer::{StagedFiles, UpsertCommit, WriterOptions};
use super::{actions::Add, metadata::TableMetadata};
use crate::error::{Context, Error, Result};

/// Files whose keys are read at the same time when the index is built.
const READ_AHEAD: usize = 4;

/// Size of full files of upserted tables, with deletion vectors and without.
const UPSERT_FILE_SIZE: u64 = 32 << 20;
const COPIED_FILE_SIZE: u64 = 4 << 20;

/// The cost of a table's index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UpsertUsage {
    pub keys: u64,
    pub files: u64,
    /// Memory of the index and of the deletion vectors.
    pub bytes: u64,
}

impl WriterOptions {
    /// These options for a table that is upserted: smaller files, since files are rewritten, and smaller still where that is
    /// the only way to change a row; unless the table's properties ask for a size.
    pub fn for_upserts(&self, table: &Table) -> Result<Self> {
        let most = if table.has_deletion_vectors() { UPSERT_FILE_SIZE } else { COPIED_FILE_SIZE };
        Self { target_file_size: self.target_file_size.min(most), ..*self }.for_table(&table.properties())
    }
}

/// A table that is upserted; cheap to clone, all clones share the index.
#[derive(Clone, Debug)]
pub struct UpsertTable {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    table: Table,
    key: Vec<String>,
    options: WriterOptions,
    hasher: KeyHasher,
    /// The index's share of memory, and the folder for the rest.
    room: Option<IndexRoom>,
    state: Mutex<State>,
}

/// The table as of `version`.
#[derive(Debug, Default)]
struct State {
    loaded: bool,
    version: u64,
    files: LiveFiles,
    index: RowLocations,
    /// Changes of the commit under way.
    pending: Option<Plan>,
}

impl UpsertTable {
    /// An upsert table over `table` with these key columns. Reads nothing yet.
    ///
    /// Errors: a key column that the table lacks or that cannot be a key.
    pub fn new(table: Table, key: &[String], options: &WriterOptions, room: Option<IndexRoom>) -> Result<Self> {
        table.metadata().check_upsertable(table.name())?;
        let fields = key_schema(&table, &table.metadata(), key)?;
        let metadata = table.metadata();
        let chars = (0..key.len()).filter(|place| metadata.lengths.is_char(&key[*place])).collect();
        let hasher = KeyHasher::new(&fields, table.store().env())?.with_chars(chars);
        let shared = Shared { table, key: key.to_vec(), options: *options, hasher, room, state: Mutex::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Builds the index if there is none. Cost: one read of the key columns of the whole table.
    pub async fn load(&self) -> Result<()> {
        let mut state = self.shared.state.lock().await;
        self.shared.catch_up(&mut state).await
    }

    /// Stages an epoch's rows, in their order. They become visible by a commit of what is returned, which must be told to
    /// [`UpsertTable::committed`] before the next epoch is staged.
    ///
    /// Errors: the store; a table that holds a key twice.
    pub async fn stage(&self, rows: Vec<UpsertRows>) -> Result<StagedFiles> {
        let mut state = self.shared.state.lock().await;
        self.shared.catch_up(&mut state).await?;
        let schema = self.shared.table.schema();
        let rows = self.shared.as_stored(rows)?;
        let changes = Changes::consolidate(rows, &schema, &self.shared.key, &self.shared.hasher)?;
        self.shared.stage(&mut state, &changes).await
    }

    /// Stages an epoch once more, from what it staged before: another writer's commit has overtaken that.
    pub async fn restage(&self, commit: &UpsertCommit, adds: &[Add]) -> Result<StagedFiles> {
        let mut state = self.shared.state.lock().await;
        let before = (state.loaded, state.version);
        self.shared.catch_up(&mut state).await?;
        if before == (true, state.version) && state.version <= commit.read_version {
            // The log says nothing new, so what overtook us is no longer in it entry by entry.
            state.loaded = false;
            self.shared.catch_up(&mut state).await?;
        }
        let reader = self.shared.reader();
        let mut rows = Vec::new();
        for add in adds.iter().take(commit.fresh) {
            let file = reader.open(add.clone()).await?;
            let read: Vec<RecordBatch> = reader.live_rows(&file, reader.schema()).await?.try_collect().await?;
            rows.extend(read);
        }
        let deleted = commit.deleted.as_deref().map(decode_keys).transpose()?.unwrap_or_default();
        let schema = Arc::clone(reader.schema());
        let changes = Changes::again(&rows, &deleted, &schema, &self.shared.key, &self.shared.hasher)?;
        self.shared.stage(&mut state, &changes).await
    }

    /// Says how the commit of what was staged last ended.
    pub async fn committed(&self, outcome: CommitOutcome) {
        let mut state = self.shared.state.lock().await;
        let Some(plan) = state.pending.take() else { return };
        match outcome {
            CommitOutcome::Committed { version } => {
                let State { files, index, .. } = &mut *state;
                plan.apply(files, index);
                self.shared.shrink(index);
                state.version = version;
            }
            // By another process, perhaps with other files: look again.
            CommitOutcome::AlreadyCommitted { .. } => *state = State::default(),
            CommitOutcome::Overtaken { .. } => {}
        }
    }

    /// `true` if the index may go to disk.
    pub fn has_room(&self) -> bool {
        self.shared.room.is_some()
    }

    /// The present cost of the index.
    pub async fn usage(&self) -> UpsertUsage {
        let state = self.shared.state.lock().await;
        UpsertUsage {
            keys: state.files.live_rows(),
            files: state.files.len() as u64,
            bytes: state.index.bytes() + state.files.bytes(),
        }
    }
}

impl Shared {
    fn reader(&self) -> FileReader {
        FileReader::new(self.table.store().clone(), &self.table.metadata())
    }

    /// The rows as the table will hold them, whether they are given or taken back: the index and the change feed must agree
    /// with it.
    fn as_stored(&self, rows: Vec<UpsertRows>) -> Result<Vec<UpsertRows>> {
        let stored = rows
            .into_iter()
            .map(|UpsertRows { rows, weights }| Ok(UpsertRows { rows: self.table.as_stored(&rows)?, weights }));
        stored.collect()
    }

    async fn stage(&self, state: &mut State, changes: &Changes) -> Result<StagedFiles> {
        state.pending = None;
        let metadata = self.table.metadata();
        metadata.check_upsertable(self.table.name())?;
        let stager = Stager {
            table: &self.table,
            key: &self.key,
            hasher: &self.hasher,
            options: &self.options,
            policy: UpsertPolicy::new(self.options.target_file_size, metadata.has_deletion_vectors()),
            reader: self.reader(),
            metadata,
            files: &state.files,
            index: &state.index,
        };
        let (mut staged, plan) = stager.stage(changes).await?;
        if let Some(upsert) = &mut staged.upsert {
            upsert.read_version = state.version;
            state.pending = Some(plan);
        }
        Ok(staged)
    }

    /// Brings files and index to the newest version.
    async fn catch_up(&self, state: &mut State) -> Result<()> {
        if !state.loaded {
            return self.build(state).await;
        }
        while let Some(bytes) = read_entry(self.table.store(), state.version + 1).await? {
            let entry = Entry::parse(state.version + 1, &bytes)?;
            if entry.metadata.is_some() || entry.protocol.is_some() {
                self.table.adopt(&entry)?;
            }
            if entry.moves_data {
                self.follow(state, &bytes).await?;
            }
            state.version += 1;
        }
        Ok(())
    }

    /// Takes over another writer's files.
    async fn follow(&self, state: &mut State, entry: &[u8]) -> Result<()> {
        let (removes, adds) = moved_files(entry)?;
        for path in removes.iter().map(|remove| &remove.path).chain(adds.iter().map(|add| &add.path)) {
            if let Some(id) = state.files.remove_path(path) {
                state.index.forget_file(id, self.room.as_ref())?;
            }
        }
        let reader = self.reader();
        for add in adds {
            self.take_in(state, &reader, add).await?;
        }
        self.settle(state).await
    }

    /// Lets the index keep no more in memory than it may. Where the disk is full it stays as it is, and reading slows down.
    fn shrink(&self, index: &mut RowLocations) {
        let shrunk = self.room.as_ref().map(|room| index.shrink(room));
        if let Some(Err(error)) = shrunk {
            tracing::warn!(table = self.table.name(), %error, "the index of an upserted table stays in memory");
        }
    }

    /// Once files were taken in: what memory holds of them meets what is on disk. Errors: a key was in both.
    async fn settle(&self, state: &mut State) -> Result<()> {
        let Some(room) = &self.room else { return Ok(()) };
        let replaced = state.index.settle(room)?;
        self.resolve(state, replaced).await
    }

    async fn build(&self, state: &mut State) -> Result<()> {
        *state = State::default();
        let (version, adds) = listing::active(&self.table).await?;
        let reader = self.reader();
        let keys = key_schema(&self.table, &self.table.metadata(), &self.key)?;
        let reading = futures::stream::iter(adds).map(|add| async {
            let file = reader.open(add).await?;
            let rows: Vec<RecordBatch> = reader.live_rows(&file, &keys).await?.try_collect().await?;
            Ok::<_, Error>((file, rows))
        });
        let mut reading = reading.buffered(READ_AHEAD);
        while let Some(read) = reading.next().await {
            let (file, rows) = read?;
            self.insert(state, file, &rows).await?;
            if let Some(room) = &self.room {
                let replaced = state.index.shrink(room)?;
                self.resolve(state, replaced).await?;
            }
        }
        drop(reading);
        self.settle(state).await?;
        (state.version, state.loaded) = (version, true);
        Ok(())
    }

    async fn take_in(&self, state: &mut State, reader: &FileReader, add: Add) -> Result<()> {
        let keys = key_schema(&self.table, &self.table.metadata(), &self.key)?;
        let file = reader.open(add).await?;
        let rows: Vec<RecordBatch> = reader.live_rows(&file, &keys).await?.try_collect().await?;
        self.insert(state, file, &rows).await
    }

    /// Enters a file's keys into the index. `rows` are the key columns of its live rows, in order.
    async fn insert(&self, state: &mut State, file: files::LiveFile, rows: &[RecordBatch]) -> Result<()> {
        let mut hashes = Vec::with_capacity(file.rows as usize);
        for batch in rows {
            hashes.extend(self.hasher.hash(batch.columns())?);
        }
        let positions: Vec<u32> = file.live_positions().collect();
        if positions.len() != hashes.len() {
            return Err(Error::damaged(format!("file `{}` has another number of rows than it says", file.add.path)));
        }
        let id = state.files.add(file);
        let mut replaced = Vec::new();
        for (key, row) in hashes.into_iter().zip(positions) {
            replaced.extend(state.index.insert(key, Location { file: id, row }));
        }
        self.resolve(state, replaced).await
    }
}

/// The key columns, in the declared order.
fn key_schema(table: &Table, metadata: &TableMetadata, key: &[String]) -> Result<SchemaRef> {
    let fields = key.iter().map(|name| {
        let field = metadata.schema.field_with_name(name);
        field.cloned().context(crate::error::ErrorKind::Sql, || {
            format!("primary key column `{name}` is not in table `{}`", table.name())
        })
    });
    Ok(Arc::new(Schema::new(fields.collect::<Result<Vec<_>>>()?)))
}

impl Plan {
    /// Makes the plan's changes: the commit stands.
    fn apply(self, files: &mut LiveFiles, index: &mut RowLocations) {
        for id in self.removed {
            files.remove(id);
        }
        for (id, add, dead) in self.revised {
            files.revise(id, add, dead);
        }
        for (id, file) in self.added {
            files.add_as(id, file);
        }
        for key in self.gone {
            index.remove(&key);
        }
        for (key, at) in self.moves {
            index.insert(key, at);
        }
    }
}
