//! The durable side of memory: each epoch's changes become files, files are merged beside the epochs, and what no manifest
//! that counts names is removed.

use std::collections::VecDeque;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::memory::OperatorChanges;
use crate::env::Env;
use crate::error::Result;
use crate::state::{Compaction, Epoch, OperatorSnapshot, StateStore, StateTable};

/// Epochs whose state is kept beside the newest one: a sink may still be behind by one.
const KEPT_EPOCHS: usize = 4;

/// Files are looked through for what can go after so many epochs.
const TIDY_EVERY: u64 = 32;

/// What a pipeline's operators remember, as files.
pub struct Remembered {
    store: StateStore,
    env: Env,
    /// Behind a lock only because commits run as tasks; they come one at a time.
    inner: Mutex<Inner>,
}

struct Inner {
    newest: Vec<OperatorSnapshot>,
    older: VecDeque<Vec<OperatorSnapshot>>,
    compacting: Option<JoinHandle<Vec<Compaction>>>,
    epochs: u64,
    /// This process has written.
    begun: bool,
}

impl Remembered {
    /// Goes on from what the last manifest names.
    pub fn new(store: StateStore, newest: Vec<OperatorSnapshot>, env: Env) -> Self {
        let inner = Inner { newest, older: VecDeque::new(), compacting: None, epochs: 0, begun: false };
        Self { store, env, inner: Mutex::new(inner) }
    }

    /// The files.
    pub fn store(&self) -> &StateStore {
        &self.store
    }

    /// What the newest epoch's manifest names.
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
            inner.adopt_compactions().await;
        } else {
            inner.catch_up(&self.store, &changes, epoch).await;
        }
        let mut next = Vec::with_capacity(changes.len());
        let mut tables = Vec::with_capacity(changes.len());
        for OperatorChanges { operator, tables: kept, changes } in changes {
            self.env.failpoint("epoch.before_state").await?;
            let before = inner.newest.iter().find(|snapshot| snapshot.operator == operator);
            next.push(self.store.write(&operator, epoch, &kept, before, changes).await?);
            tables.push(kept);
        }
        let before = std::mem::replace(&mut inner.newest, next.clone());
        inner.older.push_back(before);
        while inner.older.len() > KEPT_EPOCHS {
            inner.older.pop_front();
        }
        if inner.compacting.is_none() {
            inner.compacting = Some(self.compact(next.clone(), tables, epoch));
        }
        Ok(next)
    }

    /// Merges files in the background.
    fn compact(
        &self,
        snapshots: Vec<OperatorSnapshot>,
        tables: Vec<Vec<StateTable>>,
        epoch: Epoch,
    ) -> JoinHandle<Vec<Compaction>> {
        let store = self.store.clone();
        tokio::spawn(async move {
            let mut done = Vec::new();
            for (snapshot, tables) in snapshots.iter().zip(&tables) {
                match store.compact(snapshot, tables, epoch).await {
                    Ok(compaction) => done.extend(compaction),
                    // The files as they are stay good; the next round tries again.
                    Err(error) => tracing::warn!(operator = snapshot.operator, %error, "state was not compacted"),
                }
            }
            done
        })
    }

    /// Removes files that no kept epoch names, now and then; called when `epoch` is committed everywhere. Failures are logged.
    pub async fn tidy(&self, epoch: Epoch) {
        let mut inner = self.inner.lock().await;
        inner.epochs += 1;
        if inner.newest.is_empty() || inner.epochs % TIDY_EVERY != 1 {
            return;
        }
        let live: Vec<&OperatorSnapshot> = inner.older.iter().flatten().chain(&inner.newest).collect();
        let before = Epoch(epoch.0.saturating_sub(KEPT_EPOCHS as u64));
        if let Err(error) = self.store.remove_unneeded(&live, before).await {
            tracing::warn!(%error, "old state files stay");
        }
    }
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
    async fn adopt_compactions(&mut self) {
        if !self.compacting.as_ref().is_some_and(JoinHandle::is_finished) {
            return;
        }
        let Some(task) = self.compacting.take() else { return };
        let compactions = task.await.unwrap_or_else(|error| {
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
