//! Chooses the state of a warehouse that a backup holds: facts in, a cut out. No I/O.
//!
//! A cut names an epoch of every pipeline and a version of every table that are consistent: a table holds exactly the epochs
//! of each pipeline up to the pipeline's own, every one of them whole, and no pipeline has read beyond a table's version.
//! Pipelines continue while the facts are gathered; if the facts do not fit together, older epochs are tried, and then newer
//! facts are gathered.

use std::collections::BTreeMap;

use crate::state::{Epoch, ManifestId};

/// A commit of a pipeline's epoch to a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochCommit {
    pub version: u64,
    pub pipeline: String,
    pub epoch: Epoch,
    pub manifest: ManifestId,
}

/// The facts of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableFacts {
    pub latest: u64,
    /// The last epoch of each pipeline in the table.
    pub standing: BTreeMap<String, (Epoch, ManifestId)>,
    /// Commits of epochs among the newest log entries, oldest first.
    pub tail: Vec<EpochCommit>,
    /// The oldest log entry that `tail` covers.
    pub tail_from: u64,
}

/// The facts of a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ManifestFacts {
    /// The tables that its epoch commits to.
    pub tables: Vec<String>,
    /// The version of each table that the pipeline has read into.
    pub reads: Vec<(String, u64)>,
}

/// The facts of a pipeline: its newest manifests.
pub type PipelineFacts = BTreeMap<(Epoch, ManifestId), ManifestFacts>;

/// All known facts.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub tables: BTreeMap<String, TableFacts>,
    pub pipelines: BTreeMap<String, PipelineFacts>,
}

/// Epochs and versions that are consistent with each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cut {
    /// `None` for a pipeline that has committed nothing to any table.
    pub epochs: BTreeMap<String, Option<(Epoch, ManifestId)>>,
    pub versions: BTreeMap<String, u64>,
}

/// Chooses the newest cut that the facts allow. `Err` describes a contradiction; later facts may resolve it.
pub fn choose(facts: &Facts) -> Result<Cut, String> {
    let mut limits: BTreeMap<&str, Epoch> = BTreeMap::new();
    for pipeline in facts.pipelines.keys() {
        let newest = facts.tables.values().filter_map(|table| table.standing.get(pipeline)).map(|(epoch, _)| *epoch);
        limits.insert(pipeline, newest.max().unwrap_or(Epoch(0)));
    }
    // Ends, because every round lowers a limit.
    loop {
        let mut epochs = BTreeMap::new();
        for (pipeline, limit) in &limits {
            epochs.insert((*pipeline).to_owned(), newest_whole(facts, pipeline, *limit)?);
        }
        let mut versions = BTreeMap::new();
        for (name, table) in &facts.tables {
            versions.insert(name.clone(), version_of(name, table, &epochs)?);
        }
        let cut = Cut { epochs, versions };
        let Some((pipeline, below)) = misfit(facts, &cut) else { return Ok(cut) };
        if let Some((pipeline, limit)) = limits.iter_mut().find(|(name, _)| **name == pipeline) {
            *limit = below;
            if below == Epoch(0) {
                return Err(format!("the first epoch of pipeline `{pipeline}` is not whole"));
            }
        }
    }
}

/// The pipeline's newest epoch up to `limit` that is in every table to which its manifest commits.
fn newest_whole(facts: &Facts, pipeline: &str, limit: Epoch) -> Result<Option<(Epoch, ManifestId)>, String> {
    if limit == Epoch(0) {
        return Ok(None);
    }
    let mut committed: Vec<(Epoch, ManifestId)> = Vec::new();
    for table in facts.tables.values() {
        committed.extend(table.standing.get(pipeline));
        let of = table.tail.iter().filter(|commit| commit.pipeline == pipeline);
        committed.extend(of.map(|commit| (commit.epoch, commit.manifest)));
    }
    committed.retain(|(epoch, _)| *epoch <= limit);
    committed.sort_unstable();
    committed.dedup();
    let manifests = &facts.pipelines[pipeline];
    let has = |table: &String, epoch: Epoch| {
        let standing = facts.tables.get(table).and_then(|facts| facts.standing.get(pipeline));
        standing.is_some_and(|(has, _)| *has >= epoch)
    };
    let whole = committed.iter().rev().find(|(epoch, id)| {
        manifests.get(&(*epoch, *id)).is_some_and(|manifest| manifest.tables.iter().all(|table| has(table, *epoch)))
    });
    match whole {
        Some(whole) => Ok(Some(*whole)),
        None => Err(format!("pipeline `{pipeline}` has no whole epoch up to {limit} whose manifest is there")),
    }
}

/// The newest version of a table that holds no epoch beyond those chosen.
fn version_of(
    name: &str,
    table: &TableFacts,
    epochs: &BTreeMap<String, Option<(Epoch, ManifestId)>>,
) -> Result<u64, String> {
    let chosen = |pipeline: &str| epochs.get(pipeline).copied().flatten().map_or(Epoch(0), |(epoch, _)| epoch);
    let ahead = |pipeline: &str, epoch: Epoch| epochs.contains_key(pipeline) && epoch > chosen(pipeline);
    for (pipeline, (epoch, _)) in table.standing.iter().filter(|(pipeline, (epoch, _))| ahead(pipeline, *epoch)) {
        let known = table.tail.iter().any(|commit| commit.pipeline == *pipeline && !ahead(pipeline, commit.epoch));
        if !known && table.tail_from > 0 {
            return Err(format!(
                "table `{name}` has epoch {epoch} of pipeline `{pipeline}`, and since when is too long ago"
            ));
        }
    }
    let first = table.tail.iter().find(|commit| ahead(&commit.pipeline, commit.epoch));
    match first {
        None => Ok(table.latest),
        Some(commit) => commit.version.checked_sub(1).ok_or_else(|| format!("table `{name}` was just made")),
    }
}

/// A pipeline whose chosen epoch does not fit the versions, and the largest epoch that may fit.
fn misfit(facts: &Facts, cut: &Cut) -> Option<(String, Epoch)> {
    for (pipeline, chosen) in &cut.epochs {
        let Some((epoch, id)) = chosen else { continue };
        let beyond = facts.tables.iter().flat_map(|(name, table)| {
            let version = cut.versions[name];
            table.tail.iter().filter(move |commit| {
                commit.pipeline == *pipeline && commit.version > version && commit.epoch <= *epoch
            })
        });
        if let Some(first) = beyond.map(|commit| commit.epoch).min() {
            return Some((pipeline.clone(), Epoch(first.0.saturating_sub(1))));
        }
        let reads = facts.pipelines.get(pipeline).and_then(|manifests| manifests.get(&(*epoch, *id)));
        let reads_ahead = reads.is_some_and(|manifest| {
            manifest.reads.iter().any(|(table, version)| cut.versions.get(table).is_some_and(|has| has < version))
        });
        if reads_ahead {
            return Some((pipeline.clone(), Epoch(epoch.0.saturating_sub(1))));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(version: u64, pipeline: &str, epoch: u64) -> EpochCommit {
        EpochCommit { version, pipeline: pipeline.into(), epoch: Epoch(epoch), manifest: ManifestId(epoch as i64 * 10) }
    }

    fn table(commits: Vec<EpochCommit>) -> TableFacts {
        let latest = commits.iter().map(|commit| commit.version).max().unwrap_or(0);
        let standing = commits.iter().map(|c| (c.pipeline.clone(), (c.epoch, c.manifest))).collect();
        TableFacts { latest, standing, tail: commits, tail_from: 0 }
    }

    fn pipeline(epochs: std::ops::RangeInclusive<u64>, tables: &[&str], reads: &[(&str, u64)]) -> PipelineFacts {
        let manifest = ManifestFacts {
            tables: tables.iter().map(|table| (*table).to_owned()).collect(),
            reads: reads.iter().map(|(table, version)| ((*table).to_owned(), *version)).collect(),
        };
        epochs.map(|epoch| ((Epoch(epoch), ManifestId(epoch as i64 * 10)), manifest.clone())).collect()
    }

    fn facts(tables: Vec<(&str, TableFacts)>, pipelines: Vec<(&str, PipelineFacts)>) -> Facts {
        Facts {
            tables: tables.into_iter().map(|(name, table)| (name.to_owned(), table)).collect(),
            pipelines: pipelines.into_iter().map(|(name, pipeline)| (name.to_owned(), pipeline)).collect(),
        }
    }

    fn chosen(cut: &Cut, pipeline: &str) -> Option<u64> {
        cut.epochs[pipeline].map(|(epoch, _)| epoch.0)
    }

    #[test]
    fn a_pipeline_at_rest_is_taken_as_it_stands() {
        let a = table(vec![commit(1, "p", 1), commit(2, "p", 2)]);
        let b = table(vec![commit(1, "p", 1), commit(2, "p", 2)]);
        let cut = choose(&facts(vec![("a", a), ("b", b)], vec![("p", pipeline(1..=2, &["a", "b"], &[]))])).unwrap();
        assert_eq!((chosen(&cut, "p"), cut.versions["a"], cut.versions["b"]), (Some(2), 2, 2));
    }

    #[test]
    fn an_epoch_that_one_table_lacks_is_left_out_of_the_others() {
        let a = table(vec![commit(1, "p", 1), commit(3, "p", 2)]);
        let b = table(vec![commit(1, "p", 1)]);
        let cut = choose(&facts(vec![("a", a), ("b", b)], vec![("p", pipeline(1..=2, &["a", "b"], &[]))])).unwrap();
        assert_eq!((chosen(&cut, "p"), cut.versions["a"], cut.versions["b"]), (Some(1), 2, 1));
    }

    #[test]
    fn a_table_of_two_pipelines_is_cut_where_both_are_whole() {
        // p has epoch 2 in `shared` but not in `own`; q's epoch 5 came after it, so q is cut at 4.
        let shared = table(vec![commit(1, "p", 1), commit(2, "q", 4), commit(3, "p", 2), commit(4, "q", 5)]);
        let own = table(vec![commit(1, "p", 1)]);
        let pipelines = vec![("p", pipeline(1..=2, &["own", "shared"], &[])), ("q", pipeline(4..=5, &["shared"], &[]))];
        let cut = choose(&facts(vec![("own", own), ("shared", shared)], pipelines)).unwrap();
        assert_eq!((chosen(&cut, "p"), chosen(&cut, "q"), cut.versions["shared"]), (Some(1), Some(4), 2));
    }

    #[test]
    fn who_reads_a_table_stays_behind_who_writes_it() {
        // The writer's epoch 2 is half done, and the reader has already read it in its epoch 8.
        let a = table(vec![commit(1, "w", 1), commit(2, "w", 2)]);
        let b = table(vec![commit(1, "w", 1)]);
        let c = table(vec![commit(1, "r", 7), commit(2, "r", 8)]);
        let mut reader = pipeline(7..=7, &["c"], &[("a", 1)]);
        reader.extend(pipeline(8..=8, &["c"], &[("a", 2)]));
        let pipelines = vec![("w", pipeline(1..=2, &["a", "b"], &[])), ("r", reader)];
        let cut = choose(&facts(vec![("a", a), ("b", b), ("c", c)], pipelines)).unwrap();
        assert_eq!((chosen(&cut, "w"), chosen(&cut, "r")), (Some(1), Some(7)));
        assert_eq!((cut.versions["a"], cut.versions["c"]), (1, 1));
    }

    #[test]
    fn without_a_manifest_of_a_whole_epoch_there_is_no_cut() {
        let a = table(vec![commit(1, "p", 1)]);
        let error = choose(&facts(vec![("a", a)], vec![("p", PipelineFacts::new())])).unwrap_err();
        assert!(error.contains("no whole epoch"), "{error}");
    }

    #[test]
    fn a_log_that_was_not_read_far_enough_is_not_guessed_at() {
        let mut a = table(vec![commit(90, "p", 2)]);
        a.tail_from = 80;
        let b = table(vec![commit(1, "p", 1)]);
        let found = choose(&facts(vec![("a", a), ("b", b)], vec![("p", pipeline(1..=2, &["a", "b"], &[]))]));
        assert!(found.unwrap_err().contains("too long ago"));
    }

    #[test]
    fn commits_of_others_and_pipelines_that_have_not_run_do_not_matter() {
        let cut = choose(&facts(
            vec![("a", TableFacts { latest: 9, ..TableFacts::default() })],
            vec![("p", PipelineFacts::new())],
        ));
        let cut = cut.unwrap();
        assert_eq!((chosen(&cut, "p"), cut.versions["a"]), (None, 9));
    }
}
