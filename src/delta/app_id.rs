//! The application ids of weir's `txn` actions in a table's log.
//!
//! | id | version of the action |
//! |---|---|
//! | `weir:<pipeline>` | the pipeline's epoch |
//! | `weir:<pipeline>:manifest` | the id of that epoch's manifest |
//! | `weir:<pipeline>:<source>:<partition>` (see [`OffsetId`]) | the end offset of a partition |

use std::fmt;

use super::offset_id::{OffsetId, PLAIN};

/// An application id of weir.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum AppId {
    /// Of a pipeline's epoch.
    Epoch(String),
    /// Of the manifest of a pipeline's epoch.
    Manifest(String),
    Offset(OffsetId),
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Epoch(pipeline) => write!(f, "{PLAIN}{pipeline}"),
            Self::Manifest(pipeline) => write!(f, "{PLAIN}{pipeline}{}", Self::MANIFEST),
            Self::Offset(id) => f.write_str(&id.app_id()),
        }
    }
}

impl AppId {
    /// All ids begin with it.
    pub const PREFIX: &'static str = "weir";
    const MANIFEST: &'static str = ":manifest";

    /// The id of `pipeline`'s epoch.
    pub fn epoch(pipeline: &str) -> Self {
        Self::Epoch(pipeline.to_owned())
    }

    /// The id of the manifest of `pipeline`'s epoch.
    pub fn manifest(pipeline: &str) -> Self {
        Self::Manifest(pipeline.to_owned())
    }

    /// Parses an id; `has` tells whether its table, or its commit, has another. A pipeline's name may hold colons: `weir:a:b`
    /// is an epoch where `weir:a:b:manifest` exists, since offsets have no manifest.
    ///
    /// `None`: not an id of weir, or an offset of an older version whose names hold colons (see [`OffsetId::among`]).
    pub fn parse(id: &str, has: impl Fn(&str) -> bool) -> Option<Self> {
        if let Some(offset) = OffsetId::of_list(id) {
            return Some(Self::Offset(offset));
        }
        let name = id.strip_prefix(PLAIN)?;
        if !name.contains(':') || has(&Self::manifest(name).to_string()) {
            return Some(Self::epoch(name));
        }
        if let Some(pipeline) =
            name.strip_suffix(Self::MANIFEST).filter(|pipeline| has(&Self::epoch(pipeline).to_string()))
        {
            return Some(Self::manifest(pipeline));
        }
        match name.split(':').collect::<Vec<_>>()[..] {
            [pipeline, source, partition] => Some(Self::Offset(OffsetId::new(pipeline, source, partition))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_parsed_as_what_they_were_written_for() {
        let mut ids = Vec::new();
        for pipeline in ["p", "a:b", "a:b:c", "ü%"] {
            ids.extend([AppId::epoch(pipeline), AppId::manifest(pipeline)]);
            for (source, partition) in [("s", "0"), ("s:t", "in/a.jsonl"), ("manifest", "manifest")] {
                ids.push(AppId::Offset(OffsetId::new(pipeline, source, partition)));
            }
        }
        let written: BTreeSet<String> = ids.iter().map(ToString::to_string).collect();
        assert_eq!(written.len(), ids.len());
        for id in ids {
            assert_eq!(AppId::parse(&id.to_string(), |other| written.contains(other)), Some(id));
        }
    }

    #[test]
    fn ids_of_others_are_none_of_ours() {
        for id in ["weird", "spark:1", "", "weir", "weir:p:a:b:c", "weir-offset:[1]"] {
            assert_eq!(AppId::parse(id, |_| false), None, "{id}");
        }
    }
}
