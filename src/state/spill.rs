//! The folder on local disk for cold state of a running process.
//!
//! Nothing in it outlives the process: state is durable in its snapshots, and the files of a killed process are removed by
//! the next one. A locked file tells a running process's folder from a dead one's.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use object_store::local::LocalFileSystem;

use super::store::StateStore;
use crate::env::Env;
use crate::error::{Context, Result};

const PREFIX: &str = "weir-spill-";
const LOCK: &str = "lock";

/// A process's own folder below the configured one; removed when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct SpillFolder {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    env: Env,
    next: AtomicU64,
    /// Locked while the process lives.
    _lock: File,
}

impl SpillFolder {
    /// Creates a folder below `parent` and removes those that dead processes left there.
    pub fn create(parent: &Path, env: &Env) -> Result<Self> {
        let context = || format!("spill folder below `{}` cannot be made", parent.display());
        fs::create_dir_all(parent).environment(context)?;
        remove_abandoned(parent);
        let folder = parent.join(format!("{PREFIX}{:016x}", env.random_id()));
        fs::create_dir(&folder).environment(context)?;
        // The file gets its final name only once locked, so that no one takes a new folder for an abandoned one.
        let lock = File::create(folder.join("making")).environment(context)?;
        lock.lock().environment(context)?;
        fs::rename(folder.join("making"), folder.join(LOCK)).environment(context)?;
        Ok(Self { inner: Arc::new(Inner { folder, env: env.clone(), next: AtomicU64::new(0), _lock: lock }) })
    }

    /// A store in a subfolder of its own. It is not durable, and need not be.
    pub fn store(&self) -> Result<SpillStore> {
        let number = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let folder = self.inner.folder.join(number.to_string());
        let context = || format!("spill folder `{}` cannot be made", folder.display());
        fs::create_dir_all(&folder).environment(context)?;
        let store = LocalFileSystem::new_with_prefix(&folder).environment(context)?;
        Ok(SpillStore { state: StateStore::new(Arc::new(store), self.inner.env.clone()), folder: Some(folder) })
    }

    /// Path of the folder.
    pub fn path(&self) -> &Path {
        &self.inner.folder
    }
}

/// State that need not outlive its owner; its folder, if any, is removed on drop.
#[derive(Debug)]
pub struct SpillStore {
    state: StateStore,
    folder: Option<PathBuf>,
}

impl SpillStore {
    /// The store of its files.
    pub fn state(&self) -> &StateStore {
        &self.state
    }
}

impl From<StateStore> for SpillStore {
    /// A store that someone else cleans up.
    fn from(state: StateStore) -> Self {
        Self { state, folder: None }
    }
}

impl Drop for SpillStore {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            remove(folder);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        remove(&self.folder);
    }
}

fn remove(folder: &Path) {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!(folder = %folder.display(), %error, "spill folder stays");
        }
        _ => {}
    }
}

/// Best effort: another process may be making or removing folders at the same time.
fn remove_abandoned(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        // A folder without a lock file is being created, or its process was killed while creating it: a few bytes.
        let Ok(lock) = File::open(entry.path().join(LOCK)) else { continue };
        match lock.try_lock() {
            Ok(()) => remove(&entry.path()),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => {
                tracing::warn!(folder = %entry.path().display(), %error, "spill folder cannot be looked at");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_goes_with_its_process_and_abandoned_ones_go_with_the_next() {
        let parent = tempfile::tempdir().unwrap();
        let env = Env::manual(0, 1);
        let running = SpillFolder::create(parent.path(), &env).unwrap();
        let abandoned = parent.path().join("weir-spill-0000");
        fs::create_dir(&abandoned).unwrap();
        fs::write(abandoned.join(LOCK), "").unwrap();
        fs::write(abandoned.join("rows"), "left").unwrap();
        fs::create_dir(parent.path().join("other")).unwrap();
        let next = SpillFolder::create(parent.path(), &env).unwrap();
        assert!(running.path().exists() && next.path().exists() && !abandoned.exists());
        assert!(parent.path().join("other").exists());
        let path = running.path().to_owned();
        drop(running);
        assert!(!path.exists() && next.path().exists());

        let stores = [next.store().unwrap(), next.store().unwrap()];
        assert_eq!(fs::read_dir(next.path()).unwrap().count(), 3);
        drop(stores);
        assert_eq!(fs::read_dir(next.path()).unwrap().count(), 1, "stores stay");
    }
}
