//! The file actions of a table's log: what a commit adds, removes and says in the change feed.
//!
//! Promises: a path keeps the exact spelling of the log entry that named it first, so an action about the same file repeats
//! it letter by letter. The protocol has paths as URIs, and writers spell one file differently: for the partition `ü d`
//! Spark writes `p=ü%20d/…`, delta-rs `p=%25C3%25BC%2520d/…`. Readers compare the spelling, so a `remove` with another one
//! removes nothing. Only [`LogPath::object`] decodes, to open the file.

use std::collections::BTreeMap;
use std::fmt;

use deltalake::kernel::DeletionVectorDescriptor;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Context, Error, ErrorKind, Result};

/// Partition column to value; a missing column and `None` are null.
pub type PartitionValues = BTreeMap<String, Option<String>>;

/// A path as the log spells it: a URI, relative to the table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogPath(String);

impl LogPath {
    /// The spelling of a log entry.
    pub fn spelled(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// A spelling for an object at this path below the table, for a file that no log has named yet. What could be spelled in two
    /// ways is escaped, `~` included: delta-rs's DELETE and UPDATE compare escaped spellings.
    pub fn of_object(path: &str) -> Self {
        let mut text = String::with_capacity(path.len());
        for byte in path.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'/' | b'=' => {
                    text.push(char::from(byte));
                }
                _ => text.push_str(&format!("%{byte:02X}")),
            }
        }
        Self(text)
    }

    /// As the log has it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The object's path, relative to the table. Errors: the path is no relative URI.
    pub fn object(&self) -> Result<Path> {
        if self.0.contains("://") || self.0.starts_with('/') {
            return Err(Error::config(format!("file `{self}` lies outside of its table"))
                .with_hint("Shallow clones cannot be read file by file: copy the table."));
        }
        Path::from_url_path(&self.0).context(ErrorKind::Damaged, || format!("the path `{self}` of a file is no path"))
    }
}

impl fmt::Display for LogPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A data file that a commit adds, or adds again with another deletion vector.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Add {
    pub path: LogPath,
    #[serde(default)]
    pub partition_values: PartitionValues,
    /// Bytes.
    pub size: i64,
    /// Milliseconds since 1970 UTC.
    #[serde(default)]
    pub modification_time: i64,
    /// False when the rows were in the table before, in other files.
    pub data_change: bool,
    /// Statistics as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeMap<String, Option<String>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_vector: Option<DeletionVectorDescriptor>,
    /// Fields that concern other writers, repeated as they are.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

impl Add {
    /// A file that delta-rs has written and no log has named yet.
    pub fn of_written(add: deltalake::kernel::Add) -> Self {
        Self {
            path: LogPath::of_object(&add.path),
            partition_values: add.partition_values.into_iter().collect(),
            size: add.size,
            modification_time: add.modification_time,
            data_change: add.data_change,
            stats: add.stats,
            ..Self::default()
        }
    }

    /// The action that takes the file out of the table.
    pub fn removal(&self, now_ms: i64, data_change: bool) -> Remove {
        Remove {
            path: self.path.clone(),
            data_change,
            deletion_timestamp: Some(now_ms),
            extended_file_metadata: Some(true),
            partition_values: Some(self.partition_values.clone()),
            size: Some(self.size),
            deletion_vector: self.deletion_vector.clone(),
            others: BTreeMap::new(),
        }
    }
}

/// A data file that a commit takes out of the table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remove {
    pub path: LogPath,
    pub data_change: bool,
    /// Milliseconds since 1970 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extended_file_metadata: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_values: Option<PartitionValues>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_vector: Option<DeletionVectorDescriptor>,
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

/// A file of the change feed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddCDCFile {
    pub path: LogPath,
    pub size: i64,
    #[serde(default)]
    pub partition_values: PartitionValues,
    pub data_change: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_keeps_the_spelling_of_the_log() {
        for path in ["p=ü%20d/part-0", "p=%25C3%25BC%2520d/part-0", "p=a+b,@$/part-0", "p=é🦀/x", "p=~%60!/y"] {
            let line = serde_json::json!({
                "path": path, "partitionValues": {"p": null}, "size": 3, "modificationTime": 1, "dataChange": true,
                "clusteringProvider": "liquid",
            });
            let add: Add = serde_json::from_value(line.clone()).unwrap();
            assert_eq!(serde_json::to_value(&add).unwrap(), line);
            assert_eq!(serde_json::to_value(add.removal(5, true)).unwrap()["path"], path);
        }
    }

    #[test]
    fn a_new_path_is_a_uri_that_leads_back_to_the_object() {
        for object in ["p=%C3%BC%20d/part-0", "ü=a%2520b/x", "p=~'!/y", "p=%2F/z", "p q=1/part#2?"] {
            let path = LogPath::of_object(object);
            assert!(path.as_str().is_ascii() && !path.as_str().contains([' ', '#', '?']), "{path}");
            assert_eq!(path.object().unwrap().as_ref(), object);
        }
    }

    #[test]
    fn what_lies_outside_of_the_table_is_refused() {
        for path in ["s3://bucket/x.parquet", "/abs/x.parquet", "../x.parquet", "a//b", "p=%ff/x"] {
            assert!(LogPath::spelled(path).object().is_err(), "{path}");
        }
    }
}
