//! The meaning of a foreign log entry for a commit that wants to go behind it. Pure: entries in, a verdict out.
//!
//! The rule (docs/architecture.md, "Exactly once", 5): the pipeline's epoch under our manifest = the commit is done, by whomever; anything else of
//! the same pipeline = another run has taken over; a change of the table's metadata or protocol = the table must be
//! looked at again; a RESTORE = the files of our own epochs may be gone, so the run ends and the next start decides;
//! everything else does not concern an append that reads nothing. An upsert was computed from the
//! table's files: any file that another writer has added or removed since then overtakes it ([`overtakes`]), whichever it
//! is, since a file that was added may hold a key that the upsert takes for new. So does a change of the table itself:
//! whether it has a change feed and deletion vectors decides what files an upsert writes.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::app_id::AppId;
use crate::error::{Error, Result};

/// A pipeline's progress as of a commit; becomes `txn` actions, which survive log checkpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineTxns {
    /// The pipeline's name.
    pub pipeline: String,
    /// The epoch that is committed; grows by one.
    pub epoch: i64,
    /// Identifies the manifest the epoch is committed under; not negative.
    pub manifest_id: i64,
    /// End offsets by full application id, `weir:<pipeline>:<source>:<partition>`; only those that advanced.
    pub offsets: Vec<(String, i64)>,
}

impl PipelineTxns {
    /// The application id whose version is the epoch.
    pub fn epoch_app_id(pipeline: &str) -> String {
        AppId::epoch(pipeline).to_string()
    }

    /// The application id whose version is the manifest id.
    pub fn manifest_app_id(pipeline: &str) -> String {
        AppId::manifest(pipeline).to_string()
    }

    /// Another pipeline that has committed to the table of these `txn` actions, and records under one id what `pipeline` means otherwise.
    pub fn confused_with(pipeline: &str, transactions: &BTreeMap<String, i64>) -> Option<String> {
        let shorter = pipeline.strip_suffix(":manifest");
        let shorter = shorter.filter(|shorter| transactions.contains_key(&Self::epoch_app_id(shorter)));
        let longer = Some(format!("{pipeline}:manifest"))
            .filter(|longer| transactions.contains_key(&Self::manifest_app_id(longer)));
        shorter.map(str::to_owned).or(longer).or_else(|| Self::offset_confused_with(pipeline, transactions))
    }

    /// The same where `weir:p:s:0` is the epoch of a pipeline `p:s:0` and an offset of `p`.
    fn offset_confused_with(pipeline: &str, transactions: &BTreeMap<String, i64>) -> Option<String> {
        let has_committed = |name: &str| transactions.contains_key(&Self::manifest_app_id(name));
        let Some((shorter, rest)) = pipeline.split_once(':') else {
            let named = transactions.keys().filter_map(|id| id.strip_prefix("weir:"));
            let is_offset = |name: &&str| {
                let rest = name.strip_prefix(pipeline).and_then(|rest| rest.strip_prefix(':'));
                rest.is_some_and(is_source_and_partition) && has_committed(name)
            };
            return named.filter(is_offset).map(str::to_owned).next();
        };
        let is_offset = is_source_and_partition(rest)
            && transactions.contains_key(&Self::epoch_app_id(pipeline))
            && !has_committed(pipeline);
        (is_offset && has_committed(shorter)).then(|| shorter.to_owned())
    }

    /// All `txn` actions: application id and version.
    pub fn actions(&self) -> impl Iterator<Item = (String, i64)> {
        [(Self::epoch_app_id(&self.pipeline), self.epoch), (Self::manifest_app_id(&self.pipeline), self.manifest_id)]
            .into_iter()
            .chain(self.offsets.iter().cloned())
    }
}

/// `true` if an offset's application id ends like this, see [`OffsetId`](super::offset_id::OffsetId).
fn is_source_and_partition(rest: &str) -> bool {
    rest.matches(':').count() == 1 && !rest.ends_with(":manifest")
}

/// The parts of one log entry that matter here.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Entry {
    /// Application ids and versions.
    pub txns: Vec<(String, i64)>,
    /// The new metadata action, if any.
    pub metadata: Option<serde_json::Value>,
    /// The new protocol action, if any.
    pub protocol: Option<serde_json::Value>,
    /// `true` if files were added or removed, for whatever reason.
    pub moves_data: bool,
    /// The entry is a RESTORE: its files are those of an older version, while `txn` actions stay as they are.
    pub restore: Option<RestoredTo>,
}

/// The version that a RESTORE names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoredTo {
    Version(u64),
    /// The newest version committed by then, milliseconds since 1970 UTC.
    Time(i64),
    /// Its writer does not say.
    Unclear,
}

impl Entry {
    /// Reads a log entry: one JSON action a line. Actions that do not matter are skipped without being built.
    pub fn parse(version: u64, bytes: &[u8]) -> Result<Self> {
        let mut entry = Self::default();
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
            let action: Action = serde_json::from_slice(line)
                .map_err(|error| Error::damaged(format!("log entry {version} cannot be read")).with_source(error))?;
            entry.txns.extend(action.txn.map(|txn| (txn.app_id, txn.version)));
            entry.metadata = action.meta_data.or(entry.metadata);
            entry.protocol = action.protocol.or(entry.protocol);
            entry.moves_data |= action.add.is_some() || action.remove.is_some();
            entry.restore = action.commit_info.and_then(CommitInfo::restore).or(entry.restore);
        }
        Ok(entry)
    }

    /// The version that this entry gives an application id.
    pub fn txn(&self, app_id: &str) -> Option<i64> {
        self.txns.iter().find(|(id, _)| id == app_id).map(|(_, version)| *version)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Action {
    txn: Option<Txn>,
    meta_data: Option<serde_json::Value>,
    protocol: Option<serde_json::Value>,
    add: Option<IgnoredAny>,
    remove: Option<IgnoredAny>,
    commit_info: Option<CommitInfo>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CommitInfo {
    operation: Option<String>,
    operation_parameters: Option<serde_json::Value>,
}

impl CommitInfo {
    /// Numbers may be strings: Spark and delta-rs write parameters so.
    fn restore(self) -> Option<RestoredTo> {
        self.operation.filter(|operation| operation.eq_ignore_ascii_case("RESTORE"))?;
        let parameters = self.operation_parameters.unwrap_or_default();
        let number = |value: &serde_json::Value| value.as_i64().or_else(|| value.as_str()?.parse().ok());
        let version = number(&parameters["version"]).and_then(|version| u64::try_from(version).ok());
        let time = ["datetime", "timestamp"].iter().find_map(|name| match &parameters[*name] {
            serde_json::Value::String(text) => number(&parameters[*name]).or_else(|| instant_ms(text)),
            value => number(value),
        });
        Some(match (version, time) {
            (Some(version), _) => RestoredTo::Version(version),
            (None, Some(ms)) => RestoredTo::Time(ms),
            (None, None) => RestoredTo::Unclear,
        })
    }
}

/// A moment as DESCRIBE HISTORY spells it, `2026-01-31 12:00:00.0` or RFC 3339, in UTC.
fn instant_ms(text: &str) -> Option<i64> {
    let rfc = chrono::DateTime::parse_from_rfc3339(text).map(|moment| moment.timestamp_millis());
    let plain = || chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").ok();
    rfc.ok().or_else(|| plain().map(|moment| moment.and_utc().timestamp_millis()))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Txn {
    app_id: String,
    version: i64,
}

/// The meaning of a foreign entry for our commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is our commit.
    Ours,
    /// Another run of the pipeline has committed.
    Fenced {
        /// Its epoch.
        epoch: i64,
        /// Its manifest, if it named one.
        manifest_id: Option<i64>,
    },
    /// The table was restored to an older version.
    Restored,
    /// The table's schema, properties or protocol may have changed.
    TableChanged,
    /// Nothing that concerns an append.
    Unrelated,
}

/// Judges an entry that stands where `ours` wanted to be, or before it.
pub fn judge(entry: &Entry, ours: &PipelineTxns) -> Verdict {
    if let Some(epoch) = entry.txn(&PipelineTxns::epoch_app_id(&ours.pipeline)) {
        let manifest_id = entry.txn(&PipelineTxns::manifest_app_id(&ours.pipeline));
        return judge_progress(epoch, manifest_id, ours);
    }
    if entry.restore.is_some() {
        return Verdict::Restored;
    }
    if entry.metadata.is_some() || entry.protocol.is_some() {
        return Verdict::TableChanged;
    }
    Verdict::Unrelated
}

/// Judges an epoch of our pipeline that we have not committed ourselves.
pub fn judge_progress(epoch: i64, manifest_id: Option<i64>, ours: &PipelineTxns) -> Verdict {
    if epoch == ours.epoch && manifest_id == Some(ours.manifest_id) {
        Verdict::Ours
    } else {
        Verdict::Fenced { epoch, manifest_id }
    }
}

/// `true` if the entry at `version` makes files useless that were computed from `read_version`; `None` = from nothing.
pub fn overtakes(entry: &Entry, version: u64, read_version: Option<u64>) -> bool {
    let changes = entry.moves_data || entry.metadata.is_some() || entry.protocol.is_some();
    changes && read_version.is_some_and(|read| version > read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> PipelineTxns {
        PipelineTxns { pipeline: "p".into(), epoch: 7, manifest_id: 70, offsets: vec![("weir:p:s:0".into(), 9)] }
    }

    fn entry(lines: &str) -> Entry {
        Entry::parse(3, lines.as_bytes()).unwrap()
    }

    fn progress(pipeline: &str, epoch: i64, manifest: i64) -> Entry {
        entry(&format!(
            "{{\"txn\":{{\"appId\":\"weir:{pipeline}\",\"version\":{epoch},\"lastUpdated\":1}}}}\n\
             {{\"txn\":{{\"appId\":\"weir:{pipeline}:manifest\",\"version\":{manifest}}}}}\n"
        ))
    }

    #[test]
    fn pipelines_whose_records_mean_two_things_are_told() {
        let ids = |pipelines: &[&str]| -> BTreeMap<String, i64> {
            let of = |name: &&str| [PipelineTxns::epoch_app_id(name), PipelineTxns::manifest_app_id(name)];
            pipelines.iter().flat_map(of).map(|id| (id, 1)).collect()
        };
        let confused = |pipeline: &str, table: &[&str]| PipelineTxns::confused_with(pipeline, &ids(table));
        assert_eq!(confused("p", &["p:manifest"]).as_deref(), Some("p:manifest"));
        assert_eq!(confused("p:manifest", &["p"]).as_deref(), Some("p"));
        for (pipeline, table) in [("p", ["p", "q"]), ("p:manifest", ["p:manifest", "q:manifest"]), ("a:b", ["a", "b"])]
        {
            assert_eq!(confused(pipeline, &table), None, "{pipeline}");
        }
        // An offset of `p`, and the epoch of `p:s:0`.
        assert_eq!(confused("p", &["p:s:0"]).as_deref(), Some("p:s:0"));
        let mut table = ids(&["p"]);
        assert_eq!(PipelineTxns::confused_with("p:s:0", &table), None, "`p` has no offset of that name yet");
        table.insert("weir:p:s:0".to_owned(), 7);
        assert_eq!(PipelineTxns::confused_with("p:s:0", &table).as_deref(), Some("p"));
        assert_eq!(PipelineTxns::confused_with("p", &table), None);
        assert_eq!(PipelineTxns::confused_with("p:s:1", &table), None);
        assert_eq!(confused("p:s:0", &["p:s:0"]), None);
        assert_eq!(confused("p:s:0", &["p:s:0", "q"]), None);
    }

    #[test]
    fn our_epoch_under_our_manifest_is_our_commit() {
        assert_eq!(judge(&progress("p", 7, 70), &ours()), Verdict::Ours);
    }

    #[test]
    fn our_epoch_under_another_manifest_fences_us() {
        assert_eq!(judge(&progress("p", 7, 71), &ours()), Verdict::Fenced { epoch: 7, manifest_id: Some(71) });
    }

    #[test]
    fn any_other_epoch_of_our_pipeline_fences_us() {
        for epoch in [6, 8] {
            assert_eq!(judge(&progress("p", epoch, 70), &ours()), Verdict::Fenced { epoch, manifest_id: Some(70) });
        }
    }

    #[test]
    fn an_epoch_without_a_manifest_fences_us() {
        let entry = entry(r#"{"txn":{"appId":"weir:p","version":7}}"#);
        assert_eq!(judge(&entry, &ours()), Verdict::Fenced { epoch: 7, manifest_id: None });
    }

    #[test]
    fn another_pipeline_does_not_concern_us_even_if_its_name_begins_with_ours() {
        assert_eq!(judge(&progress("p2", 7, 71), &ours()), Verdict::Unrelated);
        assert_eq!(judge(&progress("q", 7, 71), &ours()), Verdict::Unrelated);
    }

    #[test]
    fn metadata_or_protocol_means_looking_at_the_table_again() {
        assert_eq!(judge(&entry(r#"{"metaData":{"id":"x"}}"#), &ours()), Verdict::TableChanged);
        assert_eq!(judge(&entry(r#"{"protocol":{"minReaderVersion":1}}"#), &ours()), Verdict::TableChanged);
    }

    #[test]
    fn a_restore_stops_the_commit_and_names_its_version() {
        let restore = |parameters: &str| {
            let line = format!(r#"{{"commitInfo":{{"operation":"RESTORE","operationParameters":{parameters}}}}}"#);
            entry(&format!("{line}\n{{\"metaData\":{{\"id\":\"x\"}}}}"))
        };
        assert_eq!(judge(&restore("{}"), &ours()), Verdict::Restored);
        let spark = restore(r#"{"version":5,"timestamp":null}"#);
        assert_eq!(spark.restore, Some(RestoredTo::Version(5)));
        assert_eq!(restore(r#"{"version":"5"}"#).restore, Some(RestoredTo::Version(5)));
        assert_eq!(restore(r#"{"datetime":"1796042657008"}"#).restore, Some(RestoredTo::Time(1_796_042_657_008)));
        let time = restore(r#"{"version":null,"timestamp":"1970-01-01 00:00:01.5"}"#);
        assert_eq!(time.restore, Some(RestoredTo::Time(1500)));
        assert_eq!(restore("{}").restore, Some(RestoredTo::Unclear));
        assert_eq!(entry(r#"{"commitInfo":{"operation":"MERGE"}}"#).restore, None);
    }

    #[test]
    fn adds_and_removes_of_others_do_not_concern_an_append() {
        let lines = "{\"add\":{\"path\":\"a\"}}\n{\"remove\":{\"path\":\"b\"}}\n{\"commitInfo\":{\"operation\":\"x\"}}";
        assert_eq!(judge(&entry(lines), &ours()), Verdict::Unrelated);
    }

    #[test]
    fn files_that_others_moved_overtake_what_was_computed_before() {
        let moved = [r#"{"add":{"path":"a"}}"#, r#"{"remove":{"path":"b","dataChange":false}}"#];
        for lines in moved.into_iter().chain([r#"{"metaData":{"id":"x"}}"#, r#"{"protocol":{"minReaderVersion":1}}"#]) {
            let entry = entry(lines);
            assert!(overtakes(&entry, 8, Some(7)));
            assert!(!overtakes(&entry, 7, Some(7)), "what was read is known");
            assert!(!overtakes(&entry, 8, None), "an append reads nothing");
        }
        assert!(!overtakes(&entry(r#"{"commitInfo":{}}"#), 8, Some(7)));
    }

    #[test]
    fn an_unreadable_entry_is_damage_not_nothing() {
        let error = Entry::parse(3, b"{\"txn\":{\"appId\":").unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Damaged);
        assert_eq!(error.message(), "log entry 3 cannot be read");
    }
}
