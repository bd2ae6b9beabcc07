//! Log entries are whole, or they are not read.
//!
//! Readers of a Delta log take an entry without actions for a commit that did nothing. A write that got lost leaves just that: a file
//! that is empty, blank, or cut off. Its rows would be missing without a word, so every entry is looked at as it is read: each
//! line is an action, and there is at least one. An entry that weir wrote ends with a line end and has as many files as it counts;
//! other writers count differently, and some leave out the last line end, so theirs may lack whole lines unnoticed.
//!
//! The newest entry may be blank: a writer died in it, or is still writing. It is no commit yet.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::stream;
use object_store::path::Path;
use object_store::{GetOptions, GetResult, GetResultPayload};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::Error;

/// Remedy for an entry that is lost.
pub const PUT_BACK: &str =
    "Put the file back from a backup, or bring the whole warehouse back from one (`weir restore --from`).";

/// A file of a Delta log that holds actions as lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFile {
    /// The entry of this version.
    Entry(u64),
    /// Several entries in one file.
    Compacted,
}

impl LogFile {
    /// The file at `path`; `None` if it is another object.
    pub fn at(path: &Path) -> Option<Self> {
        let mut parts = path.as_ref().rsplit('/');
        let name = parts.next()?.strip_suffix(".json")?;
        parts.next().filter(|folder| *folder == "_delta_log")?;
        let is_version = |digits: &&str| digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
        match name.split('.').collect::<Vec<_>>().as_slice() {
            [version] if is_version(version) => version.parse().ok().map(Self::Entry),
            [from, to, "compacted"] if is_version(from) && is_version(to) => Some(Self::Compacted),
            _ => None,
        }
    }
}

/// `true` if a read gives all of an object.
pub fn reads_all(options: &GetOptions) -> bool {
    !options.head && options.range.is_none()
}

/// `true` if nothing was written: blanks and zeros are what file systems leave of a write that got lost.
pub fn is_blank(entry: &[u8]) -> bool {
    entry.iter().all(|byte| byte.is_ascii_whitespace() || *byte == 0)
}

/// An object that was read.
pub fn as_read(bytes: Bytes, from: GetResult) -> GetResult {
    let payload = GetResultPayload::Stream(Box::pin(stream::once(async { Ok(bytes) })));
    GetResult { payload, ..from }
}

/// Errors: the entry at `path` is not whole. Of the kind that is not worth a retry.
pub fn check(path: &Path, entry: &[u8]) -> object_store::Result<()> {
    let Err(reason) = check_lines(entry) else { return Ok(()) };
    let (name, folder) = (path.filename().unwrap_or_default(), path.as_ref());
    let table = folder.rsplit_once("/_delta_log/").map_or("", |(table, _)| table);
    let error = Error::damaged(format!("log entry `_delta_log/{name}` of the table at `{table}` is damaged"));
    let error = error.with_detail(reason).with_hint(PUT_BACK);
    Err(object_store::Error::Generic { store: "Delta log", source: Box::new(error) })
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Info {
    operation: Option<String>,
    engine_info: Option<String>,
    operation_metrics: Option<BTreeMap<String, serde_json::Value>>,
}

impl Info {
    /// A number of files that weir's own commits count.
    fn counted(&self, name: &str) -> Option<usize> {
        self.operation_metrics.as_ref()?.get(name)?.as_str()?.parse().ok()
    }
}

fn check_lines(entry: &[u8]) -> Result<(), String> {
    if is_blank(entry) {
        return Err(format!("It is empty: {} bytes, and no action.", entry.len()));
    }
    let (mut actions, mut info) = (BTreeMap::<String, usize>::new(), Info::default());
    let lines = entry.split(|byte| *byte == b'\n').enumerate();
    for (at, line) in lines.filter(|(_, line)| !line.trim_ascii().is_empty()) {
        let line: BTreeMap<String, Option<&RawValue>> =
            serde_json::from_slice(line).map_err(|error| format!("Line {} is no action: {error}.", at + 1))?;
        for (name, action) in line.into_iter().filter_map(|(name, action)| Some((name, action?))) {
            if name == "commitInfo" {
                info = serde_json::from_str(action.get()).unwrap_or_default();
            }
            *actions.entry(name).or_default() += 1;
        }
    }
    if actions.is_empty() {
        return Err("It holds no action.".to_owned());
    }
    if info.engine_info.as_deref().is_some_and(|engine| engine.starts_with("weir/")) {
        return check_own(entry, &actions, &info);
    }
    Ok(())
}

/// Entries that weir wrote have a line end behind each action, and their `commitInfo` counts the files.
fn check_own(entry: &[u8], actions: &BTreeMap<String, usize>, info: &Info) -> Result<(), String> {
    if !entry.ends_with(b"\n") {
        return Err("It is cut off: its last line has no end.".to_owned());
    }
    let counts: &[(&str, &str)] = match info.operation.as_deref() {
        Some("STREAMING UPDATE") => &[("numAddedFiles", "add")],
        Some("MERGE") => {
            &[("numTargetFilesAdded", "add"), ("numTargetFilesRemoved", "remove"), ("numTargetChangeFilesAdded", "cdc")]
        }
        _ => &[],
    };
    for (metric, action) in counts {
        let found = actions.get(*action).copied().unwrap_or_default();
        if let Some(counted) = info.counted(metric).filter(|counted| *counted != found) {
            return Err(format!("It is cut off: it says that it has {counted} actions `{action}`, and has {found}."));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_known_by_their_place() {
        let at = |path: &str| LogFile::at(&Path::from(path));
        assert_eq!(at("wh/a/_delta_log/00000000000000000012.json"), Some(LogFile::Entry(12)));
        assert_eq!(at("_delta_log/00000000000000000000.json"), Some(LogFile::Entry(0)));
        let compacted = "_delta_log/00000000000000000000.00000000000000000012.compacted.json";
        assert_eq!(at(compacted), Some(LogFile::Compacted));
        for other in [
            "wh/00000000000000000012.json",
            "_delta_log/12.json",
            "_delta_log/_last_checkpoint",
            "_delta_log/00000000000000000012.checkpoint.parquet",
            "_delta_log/x/00000000000000000012.json",
        ] {
            assert_eq!(at(other), None, "{other}");
        }
    }

    #[test]
    fn an_entry_without_actions_or_with_a_cut_line_is_not_whole() {
        let theirs = r#"{"add":{"path":"a"}}"#;
        for whole in [theirs.to_owned(), format!("{theirs}\n"), format!("{theirs}\n\n{{\"new\":1}}\n")] {
            assert_eq!(check_lines(whole.as_bytes()), Ok(()), "{whole}");
        }
        for cut in ["", "\n", "   ", "\0\0\0\0", "{}", "{\"add\":null}\n", "[]", "null", "7", &theirs[..9]] {
            check_lines(cut.as_bytes()).expect_err(cut);
        }
        for at in 1..theirs.len() {
            check_lines(format!("{theirs}\n{}", &theirs[..at]).as_bytes()).expect_err("cut");
        }
    }

    #[test]
    fn an_entry_of_ours_is_cut_nowhere() {
        let info = r#"{"commitInfo":{"operation":"STREAMING UPDATE","engineInfo":"weir/0.1.0","operationMetrics":{"numAddedFiles":"2"}}}"#;
        let whole = format!("{info}\n{{\"txn\":{{}}}}\n{{\"add\":{{}}}}\n{{\"add\":{{}}}}\n");
        assert_eq!(check_lines(whole.as_bytes()), Ok(()));
        for at in 0..whole.len() {
            check_lines(&whole.as_bytes()[..at]).expect_err("cut");
        }
        let merge = whole.replace("STREAMING UPDATE", "MERGE").replace("numAddedFiles", "numTargetFilesRemoved");
        check_lines(merge.as_bytes()).expect_err("two files that go are not there");
    }
}
