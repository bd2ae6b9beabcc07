//! The lease on a pipeline of a local warehouse: runs share it, a restore needs it alone.
//!
//! A lock of the operating system on `_weir/<pipeline>/lock`, which ends with the process. Object stores have none: there a
//! run that a restore overtakes is fenced by its next commit.

use std::fs::{File, TryLockError};

use crate::error::{Context, Error, Result};

/// The file below the pipeline's folder.
const LOCK: &str = "lock";

/// Held as long as this lives.
#[derive(Debug)]
pub struct Lease {
    _file: Option<File>,
}

impl Lease {
    /// For a run; any number of them. Errors: a restore is under way.
    pub fn shared(pipeline: &str, folder: &str) -> Result<Self> {
        let Some(file) = open(pipeline, folder)? else { return Ok(Self { _file: None }) };
        match file.try_lock_shared() {
            Ok(()) => Ok(Self { _file: Some(file) }),
            Err(TryLockError::WouldBlock) => {
                Err(Error::environment(format!("pipeline `{pipeline}` is being restored"))
                    .with_hint("Start it when `weir restore` has ended."))
            }
            // A file system without locks: as an object store.
            Err(TryLockError::Error(_)) => Ok(Self { _file: None }),
        }
    }

    /// For a restore. Errors: the pipeline runs.
    pub fn exclusive(pipeline: &str, folder: &str) -> Result<Self> {
        let Some(file) = open(pipeline, folder)? else { return Ok(Self { _file: None }) };
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: Some(file) }),
            Err(TryLockError::WouldBlock) => Err(Error::config(format!("pipeline `{pipeline}` is running"))
                .with_hint("Stop it first (SIGTERM commits and ends), and run the restore again.")),
            Err(TryLockError::Error(_)) => Ok(Self { _file: None }),
        }
    }
}

impl Lease {
    /// As [`Lease::exclusive`], but makes no file: `None` for a pipeline that has never run here, or in an object store.
    pub fn exclusive_if_known(pipeline: &str, folder: &str) -> Result<Option<Self>> {
        let known = crate::delta::local_folder(folder).is_some_and(|folder| folder.join(LOCK).exists());
        if known { Self::exclusive(pipeline, folder).map(Some) } else { Ok(None) }
    }
}

fn open(pipeline: &str, folder: &str) -> Result<Option<File>> {
    let Some(folder) = crate::delta::local_folder(folder) else { return Ok(None) };
    let failed = || format!("the folder of pipeline `{pipeline}` cannot be written");
    std::fs::create_dir_all(&folder).environment(failed)?;
    let path = folder.join(LOCK);
    let file = File::options().create(true).truncate(false).write(true).open(path).environment(failed)?;
    Ok(Some(file))
}
