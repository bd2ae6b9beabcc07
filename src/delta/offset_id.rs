//! The application ids under which a table holds a pipeline's offsets.
//!
//! `weir:<pipeline>:<source>:<partition>`, unless one of the three holds a colon or the partition is called `manifest`: then
//! `weir-offset:` and the three as a JSON list. Older versions wrote the first form always; such ids are read with the names
//! of the sources.

use std::collections::{BTreeMap, BTreeSet};

/// The beginning of ids that are not lists.
pub(super) const PLAIN: &str = "weir:";
const LISTED: &str = "weir-offset:";

/// The identity of an offset.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OffsetId {
    pub pipeline: String,
    pub source: String,
    pub partition: String,
}

impl OffsetId {
    pub fn new(pipeline: &str, source: &str, partition: &str) -> Self {
        let [pipeline, source, partition] = [pipeline, source, partition].map(str::to_owned);
        Self { pipeline, source, partition }
    }

    /// Parses the form that is a list.
    pub(super) fn of_list(id: &str) -> Option<Self> {
        let [pipeline, source, partition]: [String; 3] = serde_json::from_str(id.strip_prefix(LISTED)?).ok()?;
        Some(Self { pipeline, source, partition })
    }

    /// The application id.
    pub fn app_id(&self) -> String {
        let Self { pipeline, source, partition } = self;
        let parts = [pipeline, source, partition];
        // `weir:p:s:manifest` is the manifest of a pipeline `p:s`.
        match partition == "manifest" || parts.iter().any(|part| part.contains(':')) {
            true => format!("{LISTED}{}", serde_json::json!(parts)),
            false => format!("{PLAIN}{pipeline}:{source}:{partition}"),
        }
    }

    /// The offsets of `pipeline` among a table's `txn` actions, with their application ids. `sources` are names of its
    /// sources, as far as they are known: an id of an older version is of the longest that fits.
    pub fn among<'a>(
        pipeline: &str,
        sources: &BTreeSet<&str>,
        transactions: &'a BTreeMap<String, i64>,
    ) -> Vec<(Self, &'a str, i64)> {
        let epoch = format!("{PLAIN}{pipeline}:");
        // Pipelines whose names begin with this one's and a colon.
        let is_epoch = |id: &str| id.starts_with(&epoch) && transactions.contains_key(&format!("{id}:manifest"));
        let others: Vec<String> = transactions.keys().filter(|id| is_epoch(id)).map(|id| format!("{id}:")).collect();
        let of_pipeline = |(id, offset): (&'a String, &i64)| {
            if let Some(listed) = Self::of_list(id) {
                return (listed.pipeline == pipeline).then_some((listed, id.as_str(), *offset));
            }
            let rest = id.strip_prefix(&epoch)?;
            let is_plain = rest.matches(':').count() == 1 && !rest.ends_with(":manifest");
            if !is_plain && others.iter().any(|other| id.starts_with(other)) {
                return None;
            }
            let (source, partition) = split(rest, sources)?;
            Some((Self::new(pipeline, source, partition), id.as_str(), *offset))
        };
        transactions.iter().filter_map(of_pipeline).collect()
    }
}

/// Source and partition.
fn split<'a>(rest: &'a str, sources: &BTreeSet<&str>) -> Option<(&'a str, &'a str)> {
    let fits = |source: &&&str| rest.strip_prefix(**source).is_some_and(|rest| rest.starts_with(':'));
    let source = sources.iter().filter(fits).max_by_key(|source| source.len());
    source.map_or_else(|| rest.split_once(':'), |source| Some((&rest[..source.len()], &rest[source.len() + 1..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 7] = ["p", "so", "so:u rce", "manifest", "p:so", "a%3Ab\"", "ü:"];

    fn found(pipeline: &str, sources: &[&str], ids: &[String]) -> Vec<OffsetId> {
        let transactions = ids.iter().map(|id| (id.clone(), 1)).collect();
        let sources = sources.iter().copied().collect();
        OffsetId::among(pipeline, &sources, &transactions).into_iter().map(|(id, ..)| id).collect()
    }

    #[test]
    fn names_with_colons_round_trip_beside_those_of_other_pipelines() {
        let mut ids = Vec::new();
        let mut wanted = BTreeMap::<&str, Vec<OffsetId>>::new();
        for pipeline in NAMES {
            ids.extend([format!("weir:{pipeline}"), format!("weir:{pipeline}:manifest")]);
            for source in NAMES {
                for partition in ["0", "in/a:b.jsonl", "manifest", ""] {
                    let id = OffsetId::new(pipeline, source, partition);
                    ids.push(id.app_id());
                    wanted.entry(pipeline).or_default().push(id);
                }
            }
        }
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
        // "p:so" is a pipeline beside the source "so" of "p".
        for pipeline in NAMES {
            let mut found = found(pipeline, &NAMES, &ids);
            let wanted = wanted.get_mut(pipeline).unwrap();
            found.sort();
            wanted.sort();
            assert_eq!(&found, wanted, "{pipeline}");
        }
    }

    #[test]
    fn names_without_colons_keep_the_plain_form() {
        assert_eq!(OffsetId::new("p", "s", "in/a.jsonl").app_id(), "weir:p:s:in/a.jsonl");
    }

    #[test]
    fn ids_of_older_versions_are_of_the_longest_source_that_fits() {
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        let old = ids(&["weir:p", "weir:p:manifest", "weir:p:so:u rce:in/a:b", "weir:p:so:7"]);
        let wanted = [OffsetId::new("p", "so", "7"), OffsetId::new("p", "so:u rce", "in/a:b")];
        assert_eq!(found("p", &["so", "so:u rce"], &old), wanted);
        assert_eq!(found("p:", &["s"], &ids(&["weir:p::s:0", "weir:p:s:0"])), [OffsetId::new("p:", "s", "0")]);
        assert_eq!(found("p", &[], &ids(&["weir:p:s:0"])), [OffsetId::new("p", "s", "0")]);
        let other = ids(&["weir:p:x", "weir:p:x:manifest", "weir:p:x:s:0"]);
        assert_eq!(found("p", &["x", "s"], &other), []);
    }
}
