//! A table's past, as far as it can still be read: which versions there are, when each was made, which files each of them has.
//!
//! When a version was made is what its `commitInfo` says; a version is never older than the one before. A version can be read while
//! the log reaches back to it and VACUUM has left its files. Joins `FOR SYSTEM_TIME AS OF` a time rest on this, in streams
//! and in queries alike, so that both mean the same version.

use std::collections::{HashMap, HashSet};

use deltalake::kernel::DeletionVectorDescriptor;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::ObjectStore;
use object_store::path::Path;

use super::changes::Commit;
use super::files::{DataFile, files_at, is_there};
use super::store::TableStore;
use crate::error::{Context, Result};

/// Log entries that are read at a time.
const READ_AHEAD: u64 = 16;

/// A version, and the time from which on it was the newest, microseconds since 1970 UTC.
pub type TimedVersion = (i64, u64);

/// A data file and the versions that have it.
#[derive(Debug)]
pub struct FileLife {
    /// As it first came.
    pub file: DataFile,
    /// The first version that has it.
    pub from: u64,
    /// The versions in which other rows of it were deleted than before, ascending, and which those are.
    pub marks: Vec<(u64, Option<DeletionVectorDescriptor>)>,
    /// The first version that has it no more.
    pub until: Option<u64>,
}

/// The readable past of a table.
#[derive(Debug)]
pub struct TablePast {
    /// Ascending; the first is the oldest that can be read and has rows.
    pub versions: Vec<TimedVersion>,
    pub files: Vec<FileLife>,
}

impl TablePast {
    /// The past of version `newest`, as far back as it can be read.
    pub async fn read(store: &TableStore, newest: u64) -> Result<Self> {
        let commits = commits_back_to(store, newest, i64::MIN).await?;
        if commits.is_empty() {
            // A checkpoint covers the entry: nothing is known of when it was made, so it answers for all times.
            let files = files_at(store, newest).await?.into_iter().map(|file| began(file, newest)).collect();
            return Ok(Self { versions: vec![(i64::MIN, newest)], files });
        }
        let (first, files) = oldest_with_rows(store, &commits).await?;
        Ok(Self::of(&commits, first, files))
    }

    /// The history that `commits` (ascending, without a gap) add to version `first`, which has these files.
    pub fn of(commits: &[Commit], first: u64, files: Vec<DataFile>) -> Self {
        let versions = version_times(commits).into_iter().filter(|(_, version)| *version >= first).collect();
        let mut past = Self { versions, files: files.into_iter().map(|file| began(file, first)).collect() };
        let alive = past.files.iter().enumerate().map(|(at, life)| (life.file.path.clone(), at));
        let mut alive: HashMap<String, usize> = alive.collect();
        for commit in commits.iter().filter(|commit| commit.version > first) {
            past.follow(commit, &mut alive);
        }
        past
    }

    /// The time at which a version became the newest.
    pub fn time_of(&self, version: u64) -> i64 {
        let at = self.versions.partition_point(|(_, known)| *known < version);
        self.versions.get(at).map_or(i64::MAX, |(time, _)| *time)
    }

    fn follow(&mut self, commit: &Commit, alive: &mut HashMap<String, usize>) {
        let again: HashSet<&str> = commit.adds.iter().map(|(file, _)| file.path.as_str()).collect();
        for (file, _) in commit.removes.iter().filter(|(file, _)| !again.contains(file.path.as_str())) {
            if let Some(at) = alive.remove(&file.path) {
                self.files[at].until = Some(commit.version);
            }
        }
        for (file, _) in &commit.adds {
            match alive.get(&file.path) {
                Some(at) => self.files[*at].revise(commit.version, file),
                None => {
                    alive.insert(file.path.clone(), self.files.len());
                    self.files.push(began(file.clone(), commit.version));
                }
            }
        }
    }
}

impl FileLife {
    /// The identity of the file with its newest deletion vector.
    pub fn identity(&self) -> String {
        let vector = self.marks.last().map_or(&self.file.deletion_vector, |(_, vector)| vector);
        DataFile { deletion_vector: vector.clone(), ..self.file.clone() }.identity()
    }

    /// The same file comes again: with other deleted rows, or only with other statistics.
    fn revise(&mut self, version: u64, file: &DataFile) {
        let before = self.marks.last().map_or(&self.file.deletion_vector, |(_, vector)| vector);
        if *before != file.deletion_vector {
            self.marks.push((version, file.deletion_vector.clone()));
        }
    }
}

fn began(file: DataFile, from: u64) -> FileLife {
    FileLife { file, from, marks: Vec::new(), until: None }
}

/// The commits up to version `newest`, ascending and without a gap, back to one from which on it was the newest at or before `earliest`
/// (microseconds); fewer where the log does not reach back so far, none where it lacks `newest` itself.
pub async fn commits_back_to(store: &TableStore, newest: u64, earliest: i64) -> Result<Vec<Commit>> {
    let mut commits: Vec<Commit> = Vec::new();
    let (mut next, mut count) = (Some(newest), 2);
    'log: while let Some(last) = next {
        let first = last.saturating_sub(count - 1);
        let entries: Vec<_> = (first..=last).rev().map(|version| Commit::read(store, version)).collect();
        let mut entries = stream::iter(entries).buffered(READ_AHEAD as usize);
        while let Some(commit) = entries.try_next().await? {
            let Some(commit) = commit else { break 'log };
            commits.push(commit);
            // No version is older than the one before, so two of them tell.
            if let [.., newer, older] = commits.as_slice()
                && newer.micros().max(older.micros()) <= earliest
            {
                break 'log;
            }
        }
        (next, count) = (first.checked_sub(1), READ_AHEAD);
    }
    commits.reverse();
    Ok(commits)
}

/// The versions of commits that follow one another, each with the time from which on it was the newest.
pub fn version_times(commits: &[Commit]) -> Vec<TimedVersion> {
    let mut latest = i64::MIN;
    let time = |commit: &Commit| {
        latest = latest.max(commit.micros());
        (latest, commit.version)
    };
    commits.iter().map(time).collect()
}

/// The oldest version among those of `commits` (some, ascending, without a gap) that can be read, with its files.
pub async fn oldest_readable(store: &TableStore, commits: &[Commit]) -> Result<(u64, Vec<DataFile>)> {
    let (first, newest) = match commits {
        [first, .., newest] => (first.version, newest.version),
        [only] => (only.version, only.version),
        [] => return Err(crate::error::Error::internal("the past of no versions was asked for")),
    };
    let (first, files) = match files_at(store, first).await {
        Ok(files) => (first, files),
        Err(error) => match base_after(store, first).await?.filter(|base| *base <= newest) {
            Some(base) => (base, files_at(store, base).await?),
            None => return Err(error),
        },
    };
    let later = commits.iter().filter(|commit| commit.version > first);
    let removed: Vec<(u64, &DataFile)> =
        later.flat_map(|commit| commit.removes.iter().map(|(file, _)| (commit.version, file))).collect();
    // VACUUM goes by when files were removed: those that are gone come first.
    let (mut low, mut high) = (0, removed.len());
    while low < high {
        let middle = usize::midpoint(low, high);
        match is_there(store, removed[middle].1).await? {
            true => high = middle,
            false => low = middle + 1,
        }
    }
    match low.checked_sub(1).map(|last| removed[last].0) {
        Some(version) => Ok((version, files_at(store, version).await?)),
        None => Ok((first, files)),
    }
}

/// As [`oldest_readable`], where that version has rows, and else the first one that has: a table is mostly made before it is filled.
pub async fn oldest_with_rows(store: &TableStore, commits: &[Commit]) -> Result<(u64, Vec<DataFile>)> {
    let (first, files) = oldest_readable(store, commits).await?;
    let filled = commits.iter().find(|commit| commit.version > first && !commit.adds.is_empty());
    match filled.filter(|_| files.is_empty()) {
        Some(commit) => Ok((commit.version, files_at(store, commit.version).await?)),
        None => Ok((first, files)),
    }
}

/// The first checkpoint after `version`, where the log lacks what came before `version`; `None` where it does not.
async fn base_after(store: &TableStore, version: u64) -> Result<Option<u64>> {
    let listed: Vec<_> = store
        .object_store()
        .list(Some(&Path::from("_delta_log")))
        .try_collect()
        .await
        .environment(|| format!("cannot list the log of `{}`", store.location()))?;
    let base = |name: &str| {
        let (number, rest) = name.split_at_checked(20)?;
        let version: u64 = number.parse().ok()?;
        (rest.starts_with(".checkpoint.") || (version == 0 && rest == ".json")).then_some(version)
    };
    let mut bases: Vec<u64> = listed.iter().filter_map(|entry| base(entry.location.filename()?)).collect();
    bases.sort_unstable();
    Ok(match bases.first() {
        Some(first) if *first > version => Some(*first),
        _ => None,
    })
}
