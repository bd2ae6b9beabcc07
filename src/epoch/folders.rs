//! The folders that pipelines have in a warehouse: `_weir/<pipeline>`, where a slash in the name makes folders in folders.

use object_store::ObjectStore;
use object_store::path::Path;

use crate::error::{Context, Result};

/// Folders in a pipeline's own folder; no part of a name behind a slash is one of these.
const OWN: [&str; 4] = ["manifests", "state", "dead_letters", "pins"];

/// Slashes in a name, at most.
const DEPTH: usize = 16;

/// The names of all pipelines that have a folder in `warehouse`, which is at `location`, sorted.
pub async fn pipelines(warehouse: &dyn ObjectStore, location: &str) -> Result<Vec<String>> {
    let (mut found, mut open) = (Vec::new(), vec![String::new()]);
    while let Some(name) = open.pop() {
        let path = format!("_weir/{name}");
        let failed = || format!("cannot list `{path}` in `{location}`");
        let prefix = Path::parse(&path).internal(failed)?;
        let listed = warehouse.list_with_delimiter(Some(&prefix)).await.environment(failed)?;
        let folders: Vec<&str> = listed.common_prefixes.iter().filter_map(Path::filename).collect();
        let is_own = |folder: &str| !name.is_empty() && OWN.contains(&folder);
        if !name.is_empty() && (!listed.objects.is_empty() || folders.iter().any(|folder| is_own(folder))) {
            found.push(name.clone());
        }
        if name.matches('/').count() < DEPTH {
            let below = |folder: &&str| if name.is_empty() { (*folder).to_owned() } else { format!("{name}/{folder}") };
            open.extend(folders.iter().filter(|folder| !is_own(folder)).map(below));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use object_store::ObjectStoreExt;

    use super::*;
    use crate::delta::TableStore;
    use crate::env::Env;

    #[tokio::test]
    async fn pipelines_are_found_whatever_their_names_hold() {
        let env = Env::manual(1_000, 1);
        let warehouse = TableStore::open("memory://w/", &BTreeMap::new(), &env).unwrap();
        let warehouse = warehouse.object_store();
        assert!(pipelines(&warehouse, "w").await.unwrap().is_empty());
        for path in [
            "_weir/restore-unfinished",
            "_weir/p/manifests/1.json",
            "_weir/a/progress.jsonl",
            "_weir/a/b/c/state/0/x",
            "_weir/a:b/id",
            "_weir/p:manifest/dead_letters/_delta_log/0.json",
            "_weir/ü 100%/pins/x",
            "_weir/state/lock",
            "t/_delta_log/0.json",
        ] {
            warehouse.put(&Path::parse(path).unwrap(), "x".into()).await.unwrap();
        }
        let found = pipelines(&warehouse, "w").await.unwrap();
        assert_eq!(found, ["a", "a/b/c", "a:b", "p", "p:manifest", "state", "ü 100%"]);
    }
}
