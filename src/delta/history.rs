//! A table's log for display: the commits that are still in it, and the table's current state.

use std::sync::Arc;

use deltalake::DeltaTableError;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::Value;
use url::Url;

use super::listing::files_of;
use super::log::{kernel_table, open_snapshot};
use crate::error::{Context, Error, Result};

/// Log entries that are read at a time.
const CONCURRENCY: usize = 16;

/// A commit: its version and its `commitInfo`, null where the writer left none.
#[derive(Debug, Clone, PartialEq)]
pub struct LoggedCommit {
    pub version: u64,
    pub info: Value,
}

/// A table as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct TableDetail {
    pub version: u64,
    pub files: u64,
    pub bytes: u64,
    /// The log's `metaData` and `protocol`.
    pub metadata: Value,
    pub protocol: Value,
}

/// The commits of the table in `folder` of `store`, newest first, at most `limit`. Entries that the log's cleanup has removed
/// are not among them.
pub async fn history(store: &dyn ObjectStore, folder: &Path, limit: Option<usize>) -> Result<Vec<LoggedCommit>> {
    let log = folder.clone().join("_delta_log");
    let failed = || format!("log `{log}` cannot be read");
    let listed = store.list_with_delimiter(Some(&log)).await.environment(failed)?;
    let mut entries: Vec<(u64, Path)> = listed
        .objects
        .into_iter()
        .filter_map(|object| {
            let version = object.location.filename()?.strip_suffix(".json")?;
            let version = (version.len() == 20).then(|| version.parse().ok()).flatten()?;
            Some((version, object.location))
        })
        .collect();
    entries.sort_unstable_by_key(|(version, _)| std::cmp::Reverse(*version));
    entries.truncate(limit.unwrap_or(usize::MAX));
    stream::iter(entries)
        .map(|(version, path)| async move {
            let bytes = match store.get(&path).await {
                Ok(found) => found.bytes().await.environment(failed)?,
                // Removed since it was listed.
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Err(error) => {
                    let damage = Error::behind(&error);
                    return Err(damage.unwrap_or_else(|| Error::environment(failed()).with_source(error)));
                }
            };
            let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            let mut actions = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
            let info = actions.find_map(|mut action| action.get_mut("commitInfo").map(Value::take));
            Ok::<_, Error>(Some(LoggedCommit { version, info: info.unwrap_or_default() }))
        })
        .buffered(CONCURRENCY)
        .try_filter_map(|found| futures::future::ready(Ok(found)))
        .try_collect()
        .await
}

/// The table at `url` in `root`, the store from the root of its bucket.
pub async fn detail(url: &Url, root: Arc<dyn ObjectStore>) -> Result<TableDetail> {
    let failed = || format!("cannot read table `{url}`");
    let unread = |error: DeltaTableError| Error::environment(failed()).with_source(error);
    let (snapshot, log_store) = open_snapshot(url, &root, None, unread).await?;
    let table = kernel_table(url.clone(), url.to_string(), &log_store, Some(snapshot.version())).await?;
    let files = tokio::task::spawn_blocking(move || files_of(&table)).await.internal(failed)??;
    Ok(TableDetail {
        version: snapshot.version(),
        files: files.len() as u64,
        bytes: files.iter().map(|file| file.size.unsigned_abs()).sum(),
        metadata: serde_json::to_value(snapshot.metadata()).internal(failed)?,
        protocol: serde_json::to_value(snapshot.protocol()).internal(failed)?,
    })
}
