//! The commit of an epoch: one log entry, put if absent, until it stands or is known to stand.
//!
//! Promises: [`CommitOutcome`] is told only of what was seen in the log or acknowledged by the store. Every entry between
//! the last version this process knew and its own is read and judged; nothing is assumed of an unclear answer. The cost is
//! one small object, however long the log is: nothing of the table's files is kept in memory. Retries are bounded.

use object_store::ObjectStoreExt;
use serde_json::{Map, Value, json};

use super::actions::{Add, AddCDCFile, Remove};
use super::judge::{Entry, PipelineTxns, Verdict, judge, judge_progress, overtakes};
use super::log::{entry_path, read_entry, read_entry_patiently};
use super::metadata::uuid_like;
use super::store::TableStore;
use super::store::retry::pause;
use super::store::whole::is_blank;
use super::table::{Progress, Table};
use super::writer::{StagedFiles, UpsertCommit};
use crate::env::Env;
use crate::error::{Context, Error, Result};
use crate::standing::CommitPermit;

/// Consecutive failures of the store before a commit gives up.
const MAX_FAILURES: u32 = 10;
/// Versions lost to other writers before a commit gives up.
const MAX_LOST: u32 = 1000;

/// An epoch's share of one table.
#[derive(Debug, Clone)]
pub struct CommitRequest {
    pub(super) app: PipelineTxns,
    /// Staged files; may be empty.
    pub adds: Vec<Add>,
    /// Files that go.
    pub removes: Vec<Remove>,
    /// Files of the change feed.
    pub cdc: Vec<AddCDCFile>,
    /// The upsert's part of the commit; `None` for an append.
    pub upsert: Option<UpsertCommit>,
    /// More for DESCRIBE HISTORY; goes into `userMetadata` beside pipeline, epoch, manifest and offsets.
    pub info: Map<String, Value>,
}

impl CommitRequest {
    /// The commit of staged files by a pipeline. `offsets` are the end offsets of what the epoch has read, by application id.
    pub fn new(
        permit: CommitPermit,
        pipeline: &str,
        offsets: Vec<(String, i64)>,
        staged: StagedFiles,
        info: Map<String, Value>,
    ) -> Self {
        let (epoch, manifest_id) = (permit.epoch().0 as i64, permit.manifest().0);
        let app = PipelineTxns { pipeline: pipeline.to_owned(), epoch, manifest_id, offsets };
        Self::again(app, staged, info)
    }

    /// The same commit with newly staged files.
    #[must_use]
    pub fn restaged(self, staged: StagedFiles) -> Self {
        Self::again(self.app, staged, self.info)
    }

    fn again(app: PipelineTxns, staged: StagedFiles, info: Map<String, Value>) -> Self {
        let StagedFiles { adds, removes, cdc, upsert, .. } = staged;
        Self { app, adds, removes, cdc, upsert, info }
    }

    fn read_version(&self) -> Option<u64> {
        self.upsert.as_ref().map(|upsert| upsert.read_version)
    }
}

/// The outcome of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitOutcome {
    /// This call committed.
    Committed { version: u64 },
    /// The same epoch under the same manifest had been committed before; by this version at the latest.
    AlreadyCommitted { version: u64 },
    /// Nothing was committed: by this version another writer had moved files that an upsert was computed from.
    Overtaken { version: u64 },
}

impl CommitOutcome {
    /// The version it speaks of; one that holds the epoch, unless overtaken.
    pub fn version(self) -> i64 {
        let (Self::Committed { version } | Self::AlreadyCommitted { version } | Self::Overtaken { version }) = self;
        i64::try_from(version).unwrap_or(i64::MAX)
    }
}

/// The answer of the store to a put-if-absent.
enum Put {
    Done,
    /// Taken, or not known; look.
    Unclear(Option<object_store::Error>),
}

impl Table {
    /// Commits an epoch once. An error of kind `Fenced` says that another run of the pipeline has taken over; after any
    /// other error the commit may stand or not, and the same request may be made again.
    pub async fn commit(&self, request: CommitRequest) -> Result<CommitOutcome> {
        let mut progress = self.progress().lock().await;
        if !progress.loaded {
            self.load_progress(&mut progress).await?;
        }
        if let Some((epoch, manifest_id)) = progress.of(&request.app.pipeline)
            && epoch >= request.app.epoch
        {
            return match judge_progress(epoch, manifest_id, &request.app) {
                Verdict::Ours => Ok(CommitOutcome::AlreadyCommitted { version: progress.version }),
                _ => Err(fenced(self.name(), &request, epoch, manifest_id)),
            };
        }
        self.check_writable(&request)?;
        if self.moved_since(request.read_version(), progress.version).await? {
            return Ok(CommitOutcome::Overtaken { version: progress.version });
        }
        self.check_log(progress.version).await?;
        if !progress.newest_has_actions {
            self.fill_blank(progress.version).await?;
            progress.newest_has_actions = true;
        }
        let outcome = self.put_entry(&request, &mut progress).await?;
        if !matches!(outcome, CommitOutcome::Overtaken { .. }) {
            progress.record(&request.app);
        }
        Ok(outcome)
    }

    /// Refuses what the table does not allow, as far as this process knows it.
    fn check_writable(&self, request: &CommitRequest) -> Result<()> {
        let metadata = self.metadata();
        metadata.check_appendable(self.name())?;
        match request.upsert {
            Some(_) => metadata.check_upsertable(self.name()),
            None => Ok(()),
        }
    }

    /// `true` if an entry after `read`, up to `known`, has made files computed from `read` useless.
    async fn moved_since(&self, read: Option<u64>, known: u64) -> Result<bool> {
        let Some(read) = read else { return Ok(false) };
        for version in read + 1..=known {
            // An entry that was cleaned up cannot be judged.
            let Some(bytes) = read_entry(self.store(), version).await? else { return Ok(true) };
            if overtakes(&Entry::parse(version, &bytes)?, version, Some(read)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes sure that the log still holds the newest version that this process knows. A folder that was removed, renamed or
    /// copied back would otherwise get an entry that no reader can make sense of.
    async fn check_log(&self, known: u64) -> Result<()> {
        match self.store().object_store().head(&entry_path(known)).await {
            Err(object_store::Error::NotFound { .. }) => {}
            // Any other trouble shows at the write.
            _ => return Ok(()),
        }
        // An entry that was cleaned up is covered by a checkpoint.
        let newest = super::log::load(self.store(), self.name(), super::log::Transactions::Skip).await;
        if newest.as_ref().is_ok_and(|log| log.version >= known) {
            return Ok(());
        }
        let (name, location) = (self.name(), self.store().location());
        Err(Error::damaged(format!("the log of table `{name}` at `{location}` no longer holds version {known}"))
            .with_detail("Its folder was removed, renamed or copied back while the pipeline runs. Nothing was committed to it.")
            .with_hint("Bring the folder back as it was, or see what each table holds: `weir run` compares them when it starts."))
    }

    /// Gives the newest entry an action if it is blank: its writer died in it, and behind a later one it would be damage.
    pub(super) async fn fill_blank(&self, version: u64) -> Result<()> {
        let store = self.store();
        if !read_entry_patiently(store, version).await?.is_some_and(|entry| is_blank(&entry)) {
            return Ok(());
        }
        let info = json!({
            "timestamp": store.env().unix_ms(),
            "operation": "EMPTY ENTRY",
            "operationParameters": {},
            "engineInfo": format!("weir/{}", env!("CARGO_PKG_VERSION")),
            "txnId": uuid_like(store.env()),
        });
        let entry = format!("{}\n", json!({ "commitInfo": info }));
        let failed = || format!("cannot write log entry {version} of `{}`", store.location());
        store.object_store().put(&entry_path(version), entry.into()).await.environment(failed)?;
        let (table, location) = (self.name(), store.location());
        tracing::warn!(
            table,
            location,
            version,
            "the newest log entry was empty: its writer died. It now says that it changed nothing"
        );
        Ok(())
    }

    async fn put_entry(&self, request: &CommitRequest, progress: &mut Progress) -> Result<CommitOutcome> {
        let (store, env) = (self.store(), self.store().env());
        let bytes = entry_bytes(request, env)?;
        let (mut failures, mut lost) = (0, 0);
        loop {
            let next = progress.version + 1;
            env.failpoint("delta.before_put").await?;
            let failure = match put(store, next, bytes.clone()).await {
                Put::Done => {
                    progress.version = next;
                    return Ok(CommitOutcome::Committed { version: next });
                }
                Put::Unclear(failure) => failure,
            };
            match self.catch_up(request, progress).await? {
                CaughtUp::Found(version) => return self.found(store, version, &bytes).await,
                CaughtUp::Overtaken(version) => return Ok(CommitOutcome::Overtaken { version }),
                CaughtUp::Passed => {
                    (failures, lost) = (0, lost + 1);
                    if lost >= MAX_LOST {
                        return Err(Error::environment(format!("table `{}` is too busy to commit to", self.name())));
                    }
                }
                CaughtUp::Nothing => {
                    failures += 1;
                    if failures >= MAX_FAILURES {
                        let error = Error::environment(format!("cannot commit to table `{}`", self.name()));
                        return Err(match failure {
                            Some(failure) => error.with_source(failure),
                            None => error,
                        });
                    }
                    tokio::time::sleep(pause(env, failures)).await;
                }
            }
        }
    }

    /// Our epoch stands at `version`: through this call if it is the very entry we wrote.
    async fn found(&self, store: &TableStore, version: u64, bytes: &bytes::Bytes) -> Result<CommitOutcome> {
        let stands = read_entry(store, version).await?;
        Ok(match stands.is_some_and(|stands| stands == bytes) {
            true => CommitOutcome::Committed { version },
            false => CommitOutcome::AlreadyCommitted { version },
        })
    }

    /// Reads and judges every entry beyond the last one known.
    async fn catch_up(&self, request: &CommitRequest, progress: &mut Progress) -> Result<CaughtUp> {
        let before = progress.version;
        loop {
            let version = progress.version + 1;
            let Some(mut bytes) = read_entry(self.store(), version).await? else {
                return Ok(if version > before + 1 { CaughtUp::Passed } else { CaughtUp::Nothing });
            };
            if is_blank(&bytes) {
                self.fill_blank(version).await?;
                bytes = read_entry(self.store(), version).await?.unwrap_or_default();
            }
            let entry = Entry::parse(version, &bytes)?;
            match judge(&entry, &request.app) {
                Verdict::Ours => {
                    progress.version = version;
                    return Ok(CaughtUp::Found(version));
                }
                Verdict::Fenced { epoch, manifest_id } => return Err(fenced(self.name(), request, epoch, manifest_id)),
                Verdict::Restored => return Err(restored(self.name(), version)),
                Verdict::TableChanged => {
                    self.adopt(&entry)?;
                    self.check_writable(request)?;
                }
                Verdict::Unrelated => {}
            }
            progress.see(&entry);
            progress.version = version;
            if overtakes(&entry, version, request.read_version()) {
                return Ok(CaughtUp::Overtaken(version));
            }
        }
    }

    /// Takes over changed metadata if the staged files still fit.
    pub(super) fn adopt(&self, entry: &Entry) -> Result<()> {
        let known = self.metadata();
        let next = known.changed(self.name(), entry.protocol.as_ref(), entry.metadata.as_ref())?;
        known.check_successor(self.name(), &next)?;
        self.set_metadata(next);
        Ok(())
    }
}

enum CaughtUp {
    Found(u64),
    Overtaken(u64),
    Passed,
    Nothing,
}

async fn put(store: &TableStore, version: u64, bytes: bytes::Bytes) -> Put {
    let options = object_store::PutMode::Create.into();
    match store.object_store().put_opts(&entry_path(version), bytes.into(), options).await {
        // The failpoint stands for an answer that got lost.
        Ok(_) => match store.env().failpoint("delta.after_put").await {
            Ok(()) => Put::Done,
            Err(_) => Put::Unclear(None),
        },
        Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Put::Unclear(None),
        Err(failure) => {
            tracing::warn!(version, %failure, table = store.location(), "unclear answer to a commit, looking");
            Put::Unclear(Some(failure))
        }
    }
}

fn fenced(table: &str, request: &CommitRequest, epoch: i64, manifest_id: Option<i64>) -> Error {
    let ours = &request.app;
    let by = manifest_id.map_or_else(String::new, |id| format!(" under manifest {id:016x}"));
    Error::fenced(format!("pipeline `{}` is run by another process", ours.pipeline))
        .with_detail(format!(
            "Table `{table}` has epoch {epoch}{by}; this process wanted epoch {} under manifest {:016x}.",
            ours.epoch, ours.manifest_id
        ))
        .with_hint("Stop the other process or this one; the data is intact.")
}

/// The next start looks at what the table holds now, and continues where nothing of the pipeline is gone.
fn restored(table: &str, version: u64) -> Error {
    Error::environment(format!("table `{table}` was restored by another writer while the pipeline runs"))
        .with_detail(format!("Version {version} of its log is a RESTORE. Nothing was committed to the table after it."))
        .with_hint("Start the pipeline again: it compares all tables and says whether it can continue.")
}

/// The log entry: `commitInfo`, the `txn` actions, the files.
fn entry_bytes(request: &CommitRequest, env: &Env) -> Result<bytes::Bytes> {
    let app = &request.app;
    let now = env.unix_ms();
    let mut lines = vec![json!({ "commitInfo": commit_info(request, env)? }).to_string()];
    for (app_id, version) in app.actions() {
        lines.push(json!({ "txn": { "appId": app_id, "version": version, "lastUpdated": now } }).to_string());
    }
    for remove in &request.removes {
        lines.push(action("remove", remove)?);
    }
    for add in &request.adds {
        lines.push(action("add", add)?);
    }
    for cdc in &request.cdc {
        lines.push(action("cdc", cdc)?);
    }
    lines.push(String::new());
    Ok(lines.join("\n").into())
}

fn action(name: &str, action: &impl serde::Serialize) -> Result<String> {
    let action = serde_json::to_string(action).internal(|| format!("cannot write an action `{name}`"))?;
    Ok(format!("{{\"{name}\":{action}}}"))
}

fn commit_info(request: &CommitRequest, env: &Env) -> Result<Value> {
    let app = &request.app;
    let mut user = Map::new();
    user.insert("pipeline".into(), app.pipeline.clone().into());
    user.insert("epoch".into(), app.epoch.into());
    user.insert("manifest".into(), format!("{:016x}", app.manifest_id).into());
    user.insert("offsets".into(), app.offsets.iter().map(|(id, end)| (id.clone(), Value::from(*end))).collect());
    user.extend(request.info.clone());
    let user = serde_json::to_string(&user).internal(|| "cannot write commit information".to_owned())?;
    let mut parameters = json!({ "queryId": app.pipeline, "epochId": app.epoch.to_string() });
    match &request.upsert {
        Some(upsert) => {
            let columns = upsert.key.iter().map(|key| format!("target.`{key}` = source.`{key}`"));
            parameters["predicate"] = columns.collect::<Vec<_>>().join(" AND ").into();
        }
        None => parameters["outputMode"] = "Append".into(),
    }
    Ok(json!({
        "timestamp": env.unix_ms(),
        "operation": if request.upsert.is_some() { "MERGE" } else { "STREAMING UPDATE" },
        "operationParameters": parameters,
        "operationMetrics": metrics(request),
        "isBlindAppend": request.upsert.is_none(),
        "engineInfo": format!("weir/{}", env!("CARGO_PKG_VERSION")),
        "userMetadata": user,
        "txnId": uuid_like(env),
    }))
}

/// The operation metrics of DESCRIBE HISTORY, under Spark's names.
fn metrics(request: &CommitRequest) -> Value {
    let bytes: i64 = request.adds.iter().map(|add| add.size).sum();
    match &request.upsert {
        None => json!({
            "numAddedFiles": request.adds.len().to_string(),
            "numRemovedFiles": "0",
            "numOutputRows": request.adds.iter().filter_map(rows_of).sum::<u64>().to_string(),
            "numOutputBytes": bytes.to_string(),
        }),
        Some(upsert) => json!({
            "numTargetFilesAdded": request.adds.len().to_string(),
            "numTargetFilesRemoved": request.removes.len().to_string(),
            "numTargetChangeFilesAdded": request.cdc.len().to_string(),
            "numTargetRowsInserted": upsert.rows_inserted.to_string(),
            "numTargetRowsUpdated": upsert.rows_updated.to_string(),
            "numTargetRowsDeleted": upsert.rows_deleted.to_string(),
            "numOutputRows": (upsert.rows_inserted + upsert.rows_updated).to_string(),
        }),
    }
}

/// The number of rows that a file's statistics name.
fn rows_of(add: &Add) -> Option<u64> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Stats {
        num_records: u64,
    }
    serde_json::from_str::<Stats>(add.stats.as_deref()?).ok().map(|stats| stats.num_records)
}
