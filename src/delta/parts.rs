//! The files that make up a table at one version, as objects of its folder: for copies of whole tables.
//!
//! They are the log up to the version, and every file that the log still names there, also those that were removed but are kept for
//! readers of older versions. Files of later versions and files that no version names are left out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use delta_kernel::DeltaResult;
use delta_kernel::engine::arrow_data::ArrowEngineData;
use delta_kernel::schema::{DataType, StructField, StructType};
use futures::TryStreamExt;
use object_store::ObjectMeta;

use super::damage::compacted_to;
use super::log::{KernelTable, with_snapshot};
use super::store::TableStore;
use crate::error::{Context, Error, Result};

/// Lists the files of the table at `version`, paths relative to the table.
///
/// Errors: no such version (any more); a file that the version needs is gone.
pub async fn parts(store: &TableStore, version: u64) -> Result<Vec<ObjectMeta>> {
    let failed = || format!("cannot read version {version} of `{}`", store.location());
    let named = with_snapshot(store, Some(version), move |table| {
        named(table).environment(|| format!("cannot read the files of version {version}"))
    });
    let named = named.await?;
    let listed: Vec<ObjectMeta> = store.object_store().list(None).try_collect().await.environment(failed)?;
    let names: HashSet<String> = named.keys().flat_map(|path| file_names(path)).collect();
    let parts: Vec<ObjectMeta> = listed.into_iter().filter(|object| is_part(object, &names, version)).collect();
    let found: HashSet<&str> = parts.iter().filter_map(|object| object.location.filename()).collect();
    let lost = named.iter().filter(|(_, live)| **live).map(|(path, _)| path);
    let lost = lost.filter(|path| !path.contains("://")).find(|path| {
        let names = file_names(path);
        !names.iter().any(|name| found.contains(name.as_str()))
    });
    match lost {
        None => Ok(parts),
        Some(path) => Err(Error::damaged(format!("file `{path}` of `{}` is gone", store.location()))
            .with_detail(format!("Version {version} of the table needs it."))),
    }
}

/// The last part of a path in the log, as it may be called in the store.
fn file_names(path: &str) -> [String; 2] {
    let name = path.rsplit('/').next().unwrap_or(path);
    [name.to_owned(), percent_decoded(name)]
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn is_part(object: &ObjectMeta, names: &HashSet<String>, version: u64) -> bool {
    let path = object.location.as_ref();
    let Some(name) = object.location.filename() else { return false };
    if let Some(log) = path.strip_prefix("_delta_log/") {
        return is_log_part(log, version);
    }
    // Files of the change feed and deletion vectors are few, and those that no version names do no harm.
    let vector = name.starts_with("deletion_vector_") && name.ends_with(".bin");
    names.contains(name) || path.starts_with("_change_data/") || vector
}

/// Entries, checkpoints, checksums and compacted entries up to the version; of checkpoints in parts, all parts.
fn is_log_part(name: &str, version: u64) -> bool {
    if name.starts_with("_sidecars/") {
        return true;
    }
    if name.contains('/') || !name.is_ascii() {
        return false;
    }
    let Some(first) = name.get(..20).and_then(|number| number.parse::<u64>().ok()) else { return false };
    let rest = &name[20..];
    let last = compacted_to(name);
    let known = [".json", ".crc"].contains(&rest) || rest.starts_with(".checkpoint") || last.is_some();
    known && first <= version && last.is_none_or(|last| last <= version)
}

/// Every path that the log names at a version, and whether its newest mention adds it.
fn named(table: &KernelTable) -> DeltaResult<HashMap<String, bool>> {
    let action = || StructType::try_new([StructField::not_null("path", DataType::STRING)]);
    let schema =
        StructType::try_new([StructField::nullable("add", action()?), StructField::nullable("remove", action()?)])?;
    let mut named: HashMap<String, bool> = HashMap::new();
    // The newest batches come first.
    for batch in table.snapshot.log_segment().read_actions(table.engine.as_ref(), Arc::new(schema))? {
        let data = ArrowEngineData::try_from_engine_data(batch?.actions)?;
        let mut mentioned: HashMap<String, bool> = HashMap::new();
        for (column, adds) in [(0, true), (1, false)] {
            let Some(action) = data.record_batch().column(column).as_struct_opt() else { continue };
            let paths = action.column(0).as_string::<i32>();
            for row in (0..paths.len()).filter(|row| action.is_valid(*row) && paths.is_valid(*row)) {
                *mentioned.entry(paths.value(row).to_owned()).or_default() |= adds;
            }
        }
        for (path, adds) in mentioned {
            named.entry(path).or_insert(adds);
        }
    }
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_up_to_a_version_is_part_of_it() {
        let of = |name: &str| is_log_part(name, 12);
        assert!(of("00000000000000000012.json") && !of("00000000000000000013.json"));
        assert!(of("00000000000000000010.checkpoint.parquet") && !of("00000000000000000020.checkpoint.parquet"));
        assert!(of("00000000000000000010.checkpoint.0000000001.0000000002.parquet"));
        assert!(of("00000000000000000003.00000000000000000012.compacted.json"));
        assert!(!of("00000000000000000003.00000000000000000013.compacted.json"));
        assert!(of("_sidecars/abc.parquet") && of("00000000000000000012.crc"));
        assert!(!of("_last_checkpoint") && !of("00000000000000000012.json#1") && !of("_commits/x.json"));
    }

    #[test]
    fn names_are_found_encoded_or_not() {
        assert_eq!(file_names("p=a%2520b/part-1%20.parquet"), ["part-1%20.parquet", "part-1 .parquet"]);
        assert_eq!(percent_decoded("100%"), "100%");
    }
}
