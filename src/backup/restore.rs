//! Restores a backup as a warehouse.
//!
//! The logs of tables are written last. Manifests get the new locations of their tables. During a restore, the file
//! [`UNFINISHED`](crate::epoch::UNFINISHED) is in the warehouse, and no pipeline starts there.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::place::{Backup, BackupFile, BackupPlace};
use crate::delta::TableStore;
use crate::epoch::{Lease, UNFINISHED, below, pipelines};
use crate::error::{Context, Error, Result};
use crate::state::{ManifestStore, Pins};

/// Files restored concurrently.
const AT_ONCE: usize = 8;

/// The treatment of a warehouse that is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreInto {
    Empty,
    /// Everything in it is deleted first.
    Replaced,
}

/// Writes a backup's files into `warehouse`, each verified by its SHA-256.
///
/// Errors: the warehouse is not empty, contains backups, or has a running pipeline; a file of the backup is missing or
/// damaged.
pub async fn restore(place: &BackupPlace, backup: &Backup, warehouse: &TableStore, into: RestoreInto) -> Result<()> {
    place.apart_from(warehouse)?;
    let store = warehouse.object_store();
    let failed = || format!("warehouse `{}` cannot be restored", warehouse.location());
    let first = store.list(None).next().await.transpose().environment(failed)?;
    if first.is_some() && into == RestoreInto::Empty {
        return Err(Error::config(format!("warehouse `{}` is not empty", warehouse.location()))
            .with_hint("Restore to another place with `--to`, or add `--replace` to delete everything in it first."));
    }
    drop(leases(warehouse).await?);
    let old: Vec<_> = store.list(None).try_collect().await.environment(failed)?;
    if let Some(list) = old.iter().find(|object| BackupPlace::is_list(&object.location)) {
        return Err(Error::config(format!(
            "warehouse `{}` has backups in it, which are not deleted",
            warehouse.location()
        ))
        .with_detail(format!("`{}` is the list of one.", list.location))
        .with_hint("Move the backups elsewhere, with their `files`, or restore to another place with `--to`."));
    }
    // If there is anything to delete, every byte of the backup is read first: a damaged backup must not cost the warehouse.
    verify(place, backup, warehouse, first.is_some()).await?;
    // The marker is written before anything is deleted, so that no pipeline starts in a mixture of both warehouses.
    let unfinished = Path::from(UNFINISHED);
    store.put(&unfinished, backup.id.clone().into()).await.environment(failed)?;
    // A pipeline that has started meanwhile holds its lease, so the restore is refused; one that starts from now on sees the
    // marker.
    let _leases = match leases(warehouse).await {
        Ok(leases) => leases,
        Err(error) => {
            store.delete(&unfinished).await.environment(failed)?;
            return Err(error);
        }
    };
    for object in old.into_iter().filter(|object| object.location != unfinished) {
        match store.delete(&object.location).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error).environment(failed),
        }
    }
    let (logs, others): (Vec<&BackupFile>, Vec<&BackupFile>) =
        backup.files.iter().partition(|file| file.path.contains("/_delta_log/"));
    for files in [others, logs] {
        let restored = files.into_iter().map(|file| one(place, backup, warehouse, &store, file));
        let mut restored = futures::stream::iter(restored).buffer_unordered(AT_ONCE);
        while restored.try_next().await?.is_some() {}
    }
    store.delete(&unfinished).await.environment(failed)
}

/// Locks every pipeline of a warehouse. Errors: one runs, or is being backed up.
async fn leases(warehouse: &TableStore) -> Result<Vec<Lease>> {
    let mut leases = Vec::new();
    for pipeline in pipelines(&warehouse.object_store(), warehouse.location()).await? {
        let folder = warehouse.child(&format!("_weir/{pipeline}"))?;
        leases.extend(Lease::exclusive_if_known(&pipeline, folder.location())?);
        Pins::new(folder.child("pins")?.object_store(), warehouse.env().clone()).refuse_held(&pipeline).await?;
    }
    Ok(leases)
}

/// Errors: a file of the backup is missing or has another size, or, with `read`, is damaged. Changes nothing.
async fn verify(place: &BackupPlace, backup: &Backup, warehouse: &TableStore, read: bool) -> Result<()> {
    let files = backup.files.iter().map(|file| async move {
        place.verify(file, read).await?;
        if read && is_manifest(&file.path) {
            moved_manifest(place, backup, warehouse, file).await?;
        }
        Path::parse(&file.path).map(drop).internal(|| format!("bad path `{}`", file.path))
    });
    let mut verified = futures::stream::iter(files).buffer_unordered(AT_ONCE);
    while verified.try_next().await?.is_some() {}
    Ok(())
}

async fn moved_manifest(
    place: &BackupPlace,
    backup: &Backup,
    warehouse: &TableStore,
    file: &BackupFile,
) -> Result<Vec<u8>> {
    moved(&place.content(file).await?, &backup.locations, warehouse.location())
        .ok_or_else(|| Error::damaged(format!("manifest `{}` of the backup is damaged", file.path)))
}

async fn one(
    place: &BackupPlace,
    backup: &Backup,
    warehouse: &TableStore,
    store: &Arc<dyn ObjectStore>,
    file: &BackupFile,
) -> Result<()> {
    let path = Path::parse(&file.path).internal(|| format!("bad path `{}`", file.path))?;
    if !is_manifest(&file.path) {
        return place.bring(file, store, &path).await;
    }
    let moved = moved_manifest(place, backup, warehouse, file).await?;
    store.put(&path, moved.into()).await.map(drop).environment(|| format!("file `{path}` cannot be written"))
}

fn is_manifest(path: &str) -> bool {
    let mut parts = path.rsplit('/');
    let is_named = parts.next().is_some_and(|name| ManifestStore::named(name).is_some());
    is_named && parts.next() == Some("manifests") && path.starts_with("_weir/")
}

/// The manifest with its tables below another warehouse: each gets its new location and its folder.
fn moved(manifest: &[u8], locations: &BTreeMap<String, String>, warehouse: &str) -> Option<Vec<u8>> {
    let mut manifest: serde_json::Value = serde_json::from_slice(manifest).ok()?;
    let relocate = |location: &mut serde_json::Value| {
        let folder = locations.get(location.as_str()?)?;
        *location = below(warehouse, folder).into();
        Some(folder.clone())
    };
    let tables = manifest.get_mut("tables").and_then(serde_json::Value::as_array_mut).into_iter().flatten();
    for table in tables {
        table.get_mut("location").map(relocate);
    }
    let sinks = manifest.get_mut("sinks").and_then(serde_json::Value::as_array_mut).into_iter().flatten();
    for place in sinks.filter_map(|sink| sink.get_mut("table")) {
        if let Some(folder) = place.get_mut("location").and_then(relocate) {
            place["path"] = folder.into();
        }
    }
    let reads = manifest.get_mut("reads").and_then(serde_json::Value::as_object_mut).into_iter().flatten();
    for (_, location) in reads {
        relocate(location);
    }
    serde_json::to_vec(&manifest).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_given_the_new_places_of_its_tables_and_nothing_else_changes() {
        let manifest = br#"{"epoch":3,"tables":[{"name":"t","location":"old/t"},{"name":"o","location":"/else/o"}],"reads":{"s":"old/t"},"sinks":[{"name":"kafka"},{"name":"t","table":{"location":"old/t","version":3}}],"new":1}"#;
        let locations = BTreeMap::from([("old/t".to_owned(), "t".to_owned())]);
        let moved: serde_json::Value =
            serde_json::from_slice(&moved(manifest, &locations, "s3://b/w/").unwrap()).unwrap();
        assert_eq!(moved["tables"][0]["location"], "s3://b/w/t");
        assert_eq!(moved["tables"][1]["location"], "/else/o");
        let table = serde_json::json!({ "location": "s3://b/w/t", "path": "t", "version": 3 });
        assert_eq!(moved["sinks"][1]["table"], table);
        assert_eq!(
            (&moved["reads"]["s"], &moved["epoch"], &moved["new"]),
            (&"s3://b/w/t".into(), &3.into(), &1.into())
        );
    }

    #[test]
    fn only_manifests_are_changed() {
        assert!(is_manifest("_weir/p/manifests/00000000000000000003-0a.json"));
        assert!(is_manifest("_weir/a/b:c/manifests/00000000000000000003-0a.json"));
        assert!(
            !is_manifest("_weir/p/id") && !is_manifest("t/_delta_log/manifests") && !is_manifest("_weir/manifests/x")
        );
    }
}
