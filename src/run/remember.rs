//! The durable side of memory: each epoch's changes become files, files are merged beside the epochs, and what no manifest
//! that counts names is removed.

use std::collections::VecDeque;

use arrow::record_batch::RecordBatch;
use tokio::sync::Mutex;

use super::memory::OperatorChanges;
use crate::env::Env;
use crate::error::Result;
use crate::state::{
    Background, Compaction, Epoch, ManifestStore, OperatorSnapshot, StateChange, StateStore, StateTable,
};

/// Epochs whose state is kept beside the newest one: a sink may still be behind by one, and `weir restore` goes back to them.
const KEPT_EPOCHS: usize = 8;

/// Files are looked through for what can go after so many epochs.
const TIDY_EVERY: u64 = 32;

/// Changes of so many rows are written in the background: more of them come with input that is read as fast as it can be, and writing
/// that steps back for reading would fall ever farther behind.
const FEW_ROWS: usize = 1 << 16;

/// State of a pipeline's operators, as files.
pub struct Remembered {
    store: StateStore,
    env: Env,
    /// Folder in which earlier processes recorded the files that they kept.
    manifests: Option<ManifestStore>,
    /// Behind a lock only because commits run as tasks; they come one at a time.
    inner: Mutex<Inner>,
}

struct Inner {
    newest: Vec<OperatorSnapshot>,
    older: VecDeque<Vec<OperatorSnapshot>>,
    compacting: Option<Background<Vec<Compaction>>>,
    epochs: u64,
    /// This process has written.
    begun: bool,
}

impl Remembered {
    /// Goes on from what the last manifest names.
    pub fn new(store: StateStore, newest: Vec<OperatorSnapshot>, env: Env) -> Self {
        let inner = Inner { newest, older: VecDeque::new(), compacting: None, epochs: 0, begun: false };
        Self { store, env, manifests: None, inner: Mutex::new(inner) }
    }

    /// Also keeps the state that the last manifests of earlier processes name.
    #[must_use]
    pub fn keeping(self, manifests: ManifestStore) -> Self {
        Self { manifests: Some(manifests), ..self }
    }

    /// The files.
    pub fn store(&self) -> &StateStore {
        &self.store
    }

    /// State files that the newest epoch's manifest names.
    pub async fn newest(&self) -> Vec<OperatorSnapshot> {
        self.inner.lock().await.newest.clone()
    }

    /// Makes the changes of an epoch durable; returns what its manifest names.
    pub async fn write(&self, epoch: Epoch, changes: Vec<OperatorChanges>) -> Result<Vec<OperatorSnapshot>> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        let mut inner = self.inner.lock().await;
        if std::mem::replace(&mut inner.begun, true) {
            inner.adopt_compactions();
        } else {
            inner.catch_up(&self.store, &changes, epoch).await;
        }
        let mut next = Vec::with_capacity(changes.len());
        let mut tables = Vec::with_capacity(changes.len());
        for OperatorChanges { operator, tables: kept, changes } in changes {
            self.env.failpoint("epoch.before_state").await?;
            let before = inner.newest.iter().find(|snapshot| snapshot.operator == operator).cloned();
            let (store, of) = (self.store.clone(), kept.clone());
            let few = rows(&changes) <= FEW_ROWS;
            let write = async move { store.write(&operator, epoch, &of, before.as_ref(), changes).await };
            next.push(if few { Background::start("weir-state", write)?.result().await?? } else { write.await? });
            tables.push(kept);
        }
        let before = std::mem::replace(&mut inner.newest, next.clone());
        inner.older.push_back(before);
        while inner.older.len() > KEPT_EPOCHS {
            inner.older.pop_front();
        }
        if inner.compacting.is_none() {
            inner.compacting = self.compact(next.clone(), tables, epoch);
        }
        Ok(next)
    }

    /// Merges files in the background, if any are worth it.
    fn compact(
        &self,
        snapshots: Vec<OperatorSnapshot>,
        tables: Vec<Vec<StateTable>>,
        epoch: Epoch,
    ) -> Option<Background<Vec<Compaction>>> {
        if !snapshots.iter().zip(&tables).any(|(snapshot, tables)| snapshot.is_worth_compacting(tables)) {
            return None;
        }
        let store = self.store.clone();
        let work = async move {
            let mut done = Vec::new();
            for (snapshot, tables) in snapshots.iter().zip(&tables) {
                match store.compact(snapshot, tables, epoch).await {
                    Ok(compaction) => done.extend(compaction),
                    // The files as they are stay good; the next round tries again.
                    Err(error) => tracing::warn!(operator = snapshot.operator, %error, "state was not compacted"),
                }
            }
            done
        };
        let started = Background::start("weir-compaction", work);
        started.map_err(|error| tracing::warn!(%error, "state was not compacted")).ok()
    }

    /// Removes files that no kept epoch names, now and then; called when `epoch` is committed everywhere. Failures are logged.
    pub async fn tidy(&self, epoch: Epoch) {
        let mut inner = self.inner.lock().await;
        inner.epochs += 1;
        if inner.newest.is_empty() || inner.epochs % TIDY_EVERY != 1 {
            return;
        }
        let before = Epoch(epoch.0.saturating_sub(KEPT_EPOCHS as u64));
        if let Some(manifests) = self.manifests.as_ref().filter(|_| inner.epochs == 1) {
            match earlier(manifests, before, epoch).await {
                Ok(earlier) => earlier.into_iter().for_each(|state| inner.older.push_front(state)),
                Err(error) => {
                    tracing::warn!(%error, "old state files stay");
                    inner.epochs = 0;
                    return;
                }
            }
        }
        let live: Vec<&OperatorSnapshot> = inner.older.iter().flatten().chain(&inner.newest).collect();
        if let Err(error) = self.store.remove_unneeded(&live, before).await {
            tracing::warn!(%error, "old state files stay");
        }
    }
}

/// The state that manifests of epochs from `first` to before `last` name, the newest first. One that cannot be read keeps nothing.
async fn earlier(manifests: &ManifestStore, first: Epoch, last: Epoch) -> Result<Vec<Vec<OperatorSnapshot>>> {
    let mut found = Vec::new();
    for old in manifests.list().await?.into_iter().rev().filter(|old| (first..last).contains(&old.epoch)) {
        match manifests.read(old.epoch, old.manifest).await {
            Ok(manifest) => found.extend(manifest.map(|(manifest, _)| manifest.state)),
            Err(error) => tracing::warn!(epoch = old.epoch.0, %error, "a manifest cannot be read"),
        }
    }
    Ok(found)
}

/// Number of rows to be written.
fn rows(changes: &[Vec<StateChange>]) -> usize {
    let batches = changes.iter().flatten().flat_map(|change| change.upserts.iter().chain(&change.deletes));
    batches.map(RecordBatch::num_rows).sum()
}

impl Inner {
    /// Merges what earlier processes have left. Runs of a single epoch, one after the other, never see the end of a merge in the background.
    async fn catch_up(&mut self, store: &StateStore, changes: &[OperatorChanges], epoch: Epoch) {
        for change in changes {
            let of = self.newest.iter_mut().find(|snapshot| snapshot.operator == change.operator);
            let Some(snapshot) = of else { continue };
            match store.compact(snapshot, &change.tables, epoch).await {
                Ok(Some(compaction)) => *snapshot = compaction.apply(snapshot),
                Ok(None) => {}
                Err(error) => tracing::warn!(operator = snapshot.operator, %error, "state was not compacted"),
            }
        }
    }

    /// Puts merged files in the place of those they were made from.
    fn adopt_compactions(&mut self) {
        let Some(finished) = self.compacting.as_mut().and_then(Background::finished) else { return };
        self.compacting = None;
        let compactions = finished.unwrap_or_else(|error| {
            // The files as they are stay good.
            tracing::warn!(%error, "state was not compacted");
            Vec::new()
        });
        for compaction in compactions {
            for snapshot in &mut self.newest {
                *snapshot = compaction.apply(snapshot);
            }
        }
    }
}
