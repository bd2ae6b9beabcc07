//! Compaction: several files of a table become one, so that their number stays small and dead rows are removed.
//!
//! The choice of files is a pure decision over their sizes ([`choose`]): a file is rewritten together with everything newer
//! once that is at least half its size, so each rewriting makes a row's file at least 1.5 times as large and a row is
//! rewritten O(log n) times; the files that stay are each more than twice as large as everything newer, so there are O(log
//! n) of them. Small tables wait until there are [`ENOUGH`] files.
//!
//! It works on an immutable snapshot, concurrently with the epochs; [`Compaction::apply`] then puts the new file into the
//! snapshot of any later epoch.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;

use super::file::{Encoding, FileReader, FileWriter, Kind};
use super::key_group::KEY_GROUPS;
use super::newest::{Newest, Older, alive};
use super::snapshot::{OperatorSnapshot, StateFile, TableSnapshot};
use super::store::{StateStore, within, write_rows};
use super::table::StateTable;
use crate::error::Result;
use crate::standing::Epoch;
use crate::time::{EventTime, Watermark};

/// With fewer files nothing is merged, unless one is mostly dead.
const ENOUGH: usize = 8;
/// Smaller files count as this large: opening them costs more than rewriting them.
const FLOOR: u64 = 64 << 10;
/// A merge takes at least this many files, unless one file is mostly dead.
const RUN: usize = 4;
/// Rows and bytes of files merged at a time; they bound the memory of a compaction.
const ROWS_AT_ONCE: u64 = 1 << 17;
const BYTES_AT_ONCE: u64 = 4 << 20;

/// Result of a compaction: per table, the merged files and the file that replaces them.
#[derive(Debug, Clone)]
pub struct Compaction {
    operator: String,
    merged: Vec<Merged>,
}

#[derive(Debug, Clone)]
struct Merged {
    table: String,
    from: Vec<String>,
    /// `None` when no row was left.
    into: Option<StateFile>,
}

impl Compaction {
    /// The snapshot with the merged files in place of those they were made from; `snapshot` is that of the compacted epoch
    /// or any later one.
    #[must_use]
    pub fn apply(&self, snapshot: &OperatorSnapshot) -> OperatorSnapshot {
        let mut compacted = snapshot.clone();
        if compacted.operator != self.operator {
            return compacted;
        }
        for merged in &self.merged {
            let files = &mut compacted.table_mut(&merged.table).files;
            // Files in between may have been dropped since because all their rows are dead; the order never changes.
            let Some(place) = files.iter().position(|file| merged.from.contains(&file.path)) else { continue };
            files.retain(|file| !merged.from.contains(&file.path));
            if let Some(into) = &merged.into {
                files.insert(place, into.clone());
            }
        }
        compacted
    }
}

impl OperatorSnapshot {
    /// `true` if [`StateStore::compact`] would merge any of its files.
    pub fn is_worth_compacting(&self, tables: &[StateTable]) -> bool {
        tables.iter().any(|table| self.table(table.name).is_some_and(|stored| choose(stored, table).is_some()))
    }
}

impl StateStore {
    /// Merges files of a snapshot where worthwhile; otherwise `None`. `epoch` is the one under way. Must run once at a time
    /// per operator; the result must be [applied](Compaction::apply).
    pub async fn compact(
        &self,
        snapshot: &OperatorSnapshot,
        tables: &[StateTable],
        epoch: Epoch,
    ) -> Result<Option<Compaction>> {
        self.adopted(snapshot);
        let mut merged = Vec::new();
        for table in tables {
            let Some(stored) = snapshot.table(table.name) else { continue };
            let Some(range) = choose(stored, table) else { continue };
            let into = self.merge(&snapshot.operator, stored, table, range.clone(), epoch).await?;
            let from = stored.files[range].iter().map(|file| file.path.clone()).collect();
            merged.push(Merged { table: stored.name.clone(), from, into });
        }
        Ok((!merged.is_empty()).then(|| Compaction { operator: snapshot.operator.clone(), merged }))
    }

    async fn merge(
        &self,
        operator: &str,
        stored: &TableSnapshot,
        table: &StateTable,
        range: Range<usize>,
        epoch: Epoch,
    ) -> Result<Option<StateFile>> {
        let files = &stored.files[range.clone()];
        let readers = self.open_files(operator, files.iter().rev(), table).await?;
        let parts = parts(files);
        let oldest = range.start == 0;
        let encoding = Encoding { aside: false, compressed: true };
        let mut writer = self.begin(operator, epoch, table, encoding);
        let mut written = Ok(());
        for part in 0..parts {
            let groups = super::groups_of(part, parts);
            let cutoff = if oldest || table.append_only { stored.cutoff } else { Watermark::NONE };
            written = merge_part(&readers, table, groups, cutoff, oldest, &mut writer).await;
            if written.is_err() {
                break;
            }
        }
        self.end(written, writer, epoch).await
    }
}

/// Number of parts of the key groups, which are merged one after the other.
pub(super) fn parts(files: &[StateFile]) -> usize {
    let rows: u64 = files.iter().map(|file| file.rows + file.deletes).sum();
    let bytes: u64 = files.iter().map(|file| file.bytes).sum();
    (rows / ROWS_AT_ONCE + 1).max(bytes / BYTES_AT_ONCE + 1).min(KEY_GROUPS.into()) as usize
}

/// Merges the rows of some key groups. Dead rows below `cutoff` are dropped. If the merge includes the `oldest` file,
/// deletes are dropped, too; otherwise deletes and dead upserts must stay to hide the rows of older files.
async fn merge_part(
    readers: &[Arc<FileReader>],
    table: &StateTable,
    groups: Range<u16>,
    cutoff: Watermark,
    oldest: bool,
    writer: &mut FileWriter,
) -> Result<()> {
    let mut newest = Newest::new(table, Watermark::NONE)?;
    let (mut upserts, mut deletes) = (Vec::new(), Vec::new());
    for (age, reader) in readers.iter().enumerate() {
        let last = age + 1 == readers.len();
        let older = if last { Older::None } else { Older::Follow };
        let beneath = !(last && oldest);
        if beneath && !table.append_only {
            for rows in decoded(reader, Kind::Deletes, table, &groups).await? {
                let kept = newest.deletes(&rows)?;
                if !oldest {
                    deletes.push(kept);
                }
            }
        }
        for rows in decoded(reader, Kind::Upserts, table, &groups).await? {
            upserts.push(alive(newest.upserts(&rows, older)?, table.time, cutoff)?);
        }
    }
    write_rows(writer, table, Kind::Upserts, &upserts).await?;
    write_rows(writer, table, Kind::Deletes, &deletes).await
}

async fn decoded(reader: &FileReader, kind: Kind, table: &StateTable, groups: &Range<u16>) -> Result<Vec<RecordBatch>> {
    let mut rows = Vec::new();
    for run in reader.runs(kind, groups, Watermark::NONE) {
        let bytes = reader.fetch(&run).await?;
        for block in &run {
            rows.push(within(reader.decode(&run, &bytes, block)?, block, table, groups)?);
        }
    }
    Ok(rows)
}

/// The neighbouring files to merge, if any.
pub(super) fn choose(stored: &TableSnapshot, table: &StateTable) -> Option<Range<usize>> {
    let files = &stored.files;
    let sizes: Vec<u64> = files.iter().map(|file| file.bytes.max(FLOOR)).collect();
    if files.len() >= ENOUGH {
        let mut newer: u64 = sizes.iter().sum();
        for (index, size) in sizes.iter().enumerate() {
            newer -= size;
            let enough = files.len() - index >= RUN;
            if enough && *size <= newer * 2 {
                return Some(index..files.len());
            }
        }
    }
    let mostly_dead = |file: &&StateFile| {
        file.bytes > FLOOR && file.times.is_some_and(|(oldest, newest)| dead_part(oldest, newest, stored.cutoff) > 0.5)
    };
    let rewritable = if table.append_only { files.len() } else { files.len().min(1) };
    let index = files[..rewritable].iter().position(|file| mostly_dead(&file))?;
    Some(index..index + 1)
}

/// Dead fraction of a file, if its times are spread evenly.
fn dead_part(EventTime(oldest): EventTime, EventTime(newest): EventTime, Watermark(cutoff): Watermark) -> f64 {
    let whole = newest as f64 - oldest as f64;
    if whole <= 0.0 { 0.0 } else { ((cutoff as f64 - oldest as f64) / whole).clamp(0.0, 1.0) }
}
