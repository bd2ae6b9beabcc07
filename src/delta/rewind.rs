//! Taking a table back to what it held after an older epoch of a pipeline, by a commit of its own: a RESTORE that also says,
//! in `txn` actions, which epoch the table holds now.
//!
//! Promises: nothing is changed before [`Table::rewind`]; a plan names the files that it needs and that are gone. Other
//! writers' commits in between are undone with the epochs, which the plan counts.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use delta_kernel::actions::deletion_vector::DeletionVectorDescriptor as KernelDescriptor;
use deltalake::kernel::DeletionVectorDescriptor;
use futures::{StreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::{Value, json};

use super::actions::{Add, LogPath};
use super::app_id::AppId;
use super::judge::{Entry, PipelineTxns};
use super::listing::files_of;
use super::log::{entry_path, read_entry, with_snapshot};
use super::metadata::uuid_like;
use super::past::{Landmark, landmark, logged_epoch};
use super::table::Table;
use crate::error::{Context, Error, Result};

/// Files that are looked for at a time.
const CONCURRENCY: usize = 16;

/// Versions lost to other writers before [`Table::record`] gives up.
const MAX_LOST: u32 = 20;

/// The plan for taking a table back to an older version.
#[derive(Debug, Clone)]
pub struct RewindPlan {
    /// The version that is brought back.
    pub target: u64,
    /// The newest version, which the plan was made from.
    pub newest: u64,
    /// The pipeline's epoch at the target; `None` before the first.
    pub holds: Option<(i64, i64)>,
    /// Commits of others that are undone, too.
    pub foreign: u64,
    /// Other pipelines of weir whose epochs would be undone.
    pub pipelines: BTreeSet<String>,
    /// Files that the version needs and that do not exist any more.
    pub missing: Vec<String>,
    /// Files that come back, and files that go.
    pub files: (usize, usize),
    actions: Vec<Value>,
}

impl RewindPlan {
    /// `true` if the target is the newest version, so there is nothing to do.
    pub fn is_done(&self) -> bool {
        self.target == self.newest
    }
}

impl Table {
    /// Plans to bring back what the table held after `epoch` of `pipeline`. Other writers' commits stay, up to the pipeline's
    /// next one. `Ok(None)`: the log does not reach back that far.
    pub async fn plan_rewind(&self, pipeline: &str, epoch: i64) -> Result<Option<RewindPlan>> {
        let now = self.at(None).await?;
        let Some((target, holds)) = self.version_after(pipeline, epoch, now.version).await? else { return Ok(None) };
        let mut plan = RewindPlan {
            target,
            newest: now.version,
            holds,
            foreign: 0,
            pipelines: BTreeSet::new(),
            missing: Vec::new(),
            files: (0, 0),
            actions: Vec::new(),
        };
        if plan.is_done() {
            // The table is left as it is, and the pipeline goes on with it.
            plan.missing = self.missing_files(&now.files).await;
            return Ok(Some(plan));
        }
        for version in target + 1..=now.version {
            let Some(bytes) = read_entry(self.store(), version).await? else { return Ok(None) };
            let entry = Entry::parse(version, &bytes)?;
            let has = |id: &str| entry.txn(id).is_some();
            let others = entry.txns.iter().filter_map(|(id, _)| match AppId::parse(id, has)? {
                AppId::Epoch(other) if other != pipeline => Some(other),
                _ => None,
            });
            plan.pipelines.extend(others);
            let own = entry.txn(&PipelineTxns::epoch_app_id(pipeline)).is_some();
            plan.foreign += u64::from(!own && entry.restore.is_none());
        }
        let then = self.at(Some(target)).await?;
        let has = |files: &[Add]| files.iter().map(identity).collect::<HashSet<_>>();
        let (has_now, had_then) = (has(&now.files), has(&then.files));
        let back: Vec<&Add> = then.files.iter().filter(|file| !has_now.contains(&identity(file))).collect();
        let gone: Vec<&Add> = now.files.iter().filter(|file| !had_then.contains(&identity(file))).collect();
        // Every file of that version: one that both have may be gone, too, and then nobody can read the table.
        plan.missing = self.missing_files(&then.files).await;
        plan.files = (back.len(), gone.len());
        let now_ms = self.store().env().unix_ms();
        plan.actions.extend(gone.iter().map(|file| json!({ "remove": file.removal(now_ms, true) })));
        plan.actions.extend(back.iter().map(|file| json!({ "add": file })));
        if then.metadata != now.metadata {
            plan.actions.push(json!({ "metaData": then.metadata }));
        }
        Ok(Some(plan))
    }

    /// The newest version whose contents are those after `epoch`, and the pipeline's last epoch in it.
    async fn version_after(
        &self,
        pipeline: &str,
        epoch: i64,
        newest: u64,
    ) -> Result<Option<(u64, Option<(i64, i64)>)>> {
        let mut from = newest;
        loop {
            let version = match landmark(self.store(), pipeline, from).await? {
                Landmark::Own { version, entry, .. } => {
                    let holds = logged_epoch(pipeline, |id| entry.txn(id)).filter(|(holds, _)| *holds <= epoch);
                    if let Some((holds, manifest)) = holds {
                        let holds = Some((holds, manifest.unwrap_or(-1))).filter(|(holds, _)| *holds > 0);
                        return Ok(Some((from, holds)));
                    }
                    version
                }
                Landmark::Restore { version, .. } => version,
                Landmark::Beginning => return Ok(Some((from, None))),
                Landmark::CutOff { .. } => return Ok(None),
            };
            let Some(before) = version.checked_sub(1) else { return Ok(None) };
            from = before;
        }
    }

    /// Carries a plan out. Returns the version of the commit.
    ///
    /// Errors: another writer has committed since the plan was made.
    pub async fn rewind(&self, plan: &RewindPlan, txns: &PipelineTxns, epoch: u64) -> Result<u64> {
        let bytes = self.restore_entry(plan.target, txns, epoch, &plan.actions)?;
        let version = plan.newest + 1;
        self.fill_blank(plan.newest).await?;
        let put = object_store::PutMode::Create.into();
        let answer = self.store().object_store().put_opts(&entry_path(version), bytes.clone().into(), put).await;
        if answer.is_err() && read_entry(self.store(), version).await?.is_none_or(|stands| stands != bytes) {
            return Err(Error::environment(format!("table `{}` is being written to by another process", self.name()))
                .with_hint("Stop every pipeline and job that writes to the table, and run the restore again."));
        }
        self.reload().await?;
        Ok(version)
    }

    /// Records what the table holds since another writer has restored it, without moving a file. Returns the version.
    pub async fn record(&self, txns: &PipelineTxns, epoch: u64) -> Result<u64> {
        for _ in 0..MAX_LOST {
            let newest = self.reload().await?;
            self.fill_blank(newest).await?;
            let bytes = self.restore_entry(newest, txns, epoch, &[])?;
            let put = object_store::PutMode::Create.into();
            let answer = self.store().object_store().put_opts(&entry_path(newest + 1), bytes.clone().into(), put).await;
            if answer.is_ok() || read_entry(self.store(), newest + 1).await?.is_some_and(|stands| stands == bytes) {
                return self.reload().await;
            }
        }
        Err(Error::environment(format!("table `{}` is too busy to commit to", self.name())))
    }

    async fn reload(&self) -> Result<u64> {
        let mut progress = self.progress().lock().await;
        self.load_progress(&mut progress).await?;
        Ok(progress.version)
    }

    fn restore_entry(&self, target: u64, txns: &PipelineTxns, epoch: u64, actions: &[Value]) -> Result<Bytes> {
        let env = self.store().env();
        let user = json!({ "weir": { "pipeline": txns.pipeline, "restoredToEpoch": epoch } });
        let info = json!({
            "timestamp": env.unix_ms(),
            "operation": "RESTORE",
            "operationParameters": { "version": target },
            "isBlindAppend": false,
            "engineInfo": format!("weir/{}", env!("CARGO_PKG_VERSION")),
            "userMetadata": user.to_string(),
            "txnId": uuid_like(env),
        });
        let mut lines = vec![json!({ "commitInfo": info })];
        let now = env.unix_ms();
        lines.extend(
            txns.actions()
                .map(|(id, version)| json!({ "txn": { "appId": id, "version": version, "lastUpdated": now } })),
        );
        let lines = lines.iter().chain(actions).map(|line| serde_json::to_string(line).map(|line| line + "\n"));
        let entry = lines.collect::<Result<String, _>>().internal(|| "cannot write an action".to_owned())?;
        Ok(entry.into())
    }

    /// The files among `adds`, data and deletion vectors, that do not exist. What cannot be asked counts as existing: reading
    /// tells.
    pub async fn missing_files(&self, adds: &[Add]) -> Vec<String> {
        let named: Vec<(LogPath, Option<DeletionVectorDescriptor>)> =
            adds.iter().map(|add| (add.path.clone(), add.deletion_vector.clone())).collect();
        let looked = stream::iter(named).map(|(path, vector)| async move {
            let vector = vector.and_then(|vector| self.vector_file(vector));
            let (table, root) = (self.store().object_store(), self.store().root_store());
            let mut missing = Vec::new();
            if let Ok(object) = path.object()
                && is_missing(&table, &object).await
            {
                missing.push(path.as_str().to_owned());
            }
            if let Some(file) = vector
                && is_missing(&root, &file).await
            {
                missing.push(file.filename().unwrap_or_default().to_owned());
            }
            missing
        });
        let mut missing: Vec<String> = looked.buffered(CONCURRENCY).collect::<Vec<_>>().await.concat();
        missing.dedup();
        missing
    }

    /// The table at a version, or as it is now.
    async fn at(&self, version: Option<u64>) -> Result<VersionFiles> {
        with_snapshot(self.store(), version, |table| {
            let metadata = serde_json::to_value(table.snapshot.table_configuration().metadata());
            let metadata = metadata.internal(|| "cannot read a table's metadata".to_owned())?;
            Ok(VersionFiles { version: table.snapshot.version(), metadata, files: files_of(table)? })
        })
        .await
    }

    /// The path of a deletion vector's file, from the root of the store; `None` for one that is inline.
    fn vector_file(&self, vector: DeletionVectorDescriptor) -> Option<Path> {
        let descriptor = KernelDescriptor::try_from(vector).ok()?;
        let url = descriptor.absolute_path(self.store().url()).ok()??;
        Path::from_url_path(url.path()).ok()
    }
}

/// A version, its `metaData` action and its files.
struct VersionFiles {
    version: u64,
    metadata: Value,
    files: Vec<Add>,
}

/// As the protocol tells files apart: the path, with the id of the deletion vector.
fn identity(add: &Add) -> (String, String) {
    let vector = add.deletion_vector.as_ref().map(|vector| {
        let offset = vector.offset.map_or_else(String::new, |offset| format!("@{offset}"));
        format!("{:?}{}{offset}", vector.storage_type, vector.path_or_inline_dv)
    });
    (add.path.as_str().to_owned(), vector.unwrap_or_default())
}

async fn is_missing(store: &Arc<dyn ObjectStore>, path: &Path) -> bool {
    matches!(store.head(path).await, Err(object_store::Error::NotFound { .. }))
}
