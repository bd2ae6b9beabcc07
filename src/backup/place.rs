//! The place that keeps backups: `files/<xx>/<sha256>` holds every file once, `backups/<id>.json` lists the files of a
//! backup.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::delta::TableStore;
use crate::error::{Context, Error, Result};

/// The layout of [`Backup`] that this version writes, and the only one it reads.
const FORMAT: u32 = 1;

/// Files up to this size are copied in one piece; larger ones in pieces of this size.
const PIECE: u64 = 16 << 20;

/// A complete backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    pub format: u32,
    /// Ids sort by time.
    pub id: String,
    /// Milliseconds since 1970 UTC.
    pub created_ms: i64,
    /// The version of weir that took it.
    pub weir: String,
    /// The location of the warehouse.
    pub warehouse: String,
    /// Each pipeline's epoch; a pipeline that had committed none is not listed.
    pub pipelines: BTreeMap<String, PipelineAt>,
    /// The version of each table, by its folder below the warehouse.
    pub tables: BTreeMap<String, u64>,
    /// The locations in manifests, each with its folder below the warehouse.
    pub locations: BTreeMap<String, String>,
    pub files: Vec<BackupFile>,
}

/// A pipeline's position in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipelineAt {
    pub epoch: u64,
    /// As in the manifest's name.
    pub manifest: String,
}

/// A file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupFile {
    /// Below the warehouse.
    pub path: String,
    pub bytes: u64,
    /// Hexadecimal.
    pub sha256: String,
    /// Time at which the warehouse's file was written, milliseconds since 1970 UTC.
    pub modified_ms: i64,
}

impl Backup {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// The backups in a place, oldest first.
#[derive(Debug, Default)]
pub struct ListedBackups {
    pub backups: Vec<Backup>,
    /// Ids of backups whose list is damaged, of a newer version or not readable, with the reason.
    pub unreadable: Vec<(String, Error)>,
}

/// The result of copying a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Copied {
    /// The place has the file; `new` if it did not have it before.
    Kept { sha256: String, new: bool },
    /// The file was deleted, or no longer has the listed size.
    Changed,
}

/// A folder or URL that holds backups.
#[derive(Debug, Clone)]
pub struct BackupPlace {
    location: String,
    folder: TableStore,
    store: Arc<dyn ObjectStore>,
}

impl BackupPlace {
    /// Backups at the root of `store`.
    pub fn new(store: &TableStore) -> Self {
        Self { location: store.location().to_owned(), folder: store.clone(), store: store.object_store() }
    }

    /// The location as the user wrote it.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// Errors: the place and the warehouse are one folder, or one contains the other: replacing the warehouse would delete
    /// backups.
    pub fn apart_from(&self, warehouse: &TableStore) -> Result<()> {
        let folders = [self.folder.clone(), self.folder.child("files")?, self.folder.child("backups")?];
        if folders.iter().all(|folder| !folder.overlaps(warehouse)) {
            return Ok(());
        }
        let (place, warehouse) = (&self.location, warehouse.location());
        Err(Error::config(format!("backups in `{place}` and the warehouse `{warehouse}` lie in one another"))
            .with_detail("Whatever replaces or removes the warehouse would take the backups with it.")
            .with_hint("Keep backups in a folder of their own, neither in the warehouse nor around it."))
    }

    /// True for the path of a backup's list, in any folder.
    pub fn is_list(path: &Path) -> bool {
        let mut parts: Vec<_> = path.parts().collect();
        let name = parts.pop();
        let folder = parts.pop();
        let id = name.as_ref().and_then(|name| name.as_ref().strip_suffix(".json"));
        let is_id = id.and_then(|id| id.split_once('-')).is_some_and(|(time, random)| {
            time.ends_with('Z')
                && time.get(8..9) == Some("T")
                && random.len() == 8
                && random.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        is_id && folder.is_some_and(|folder| folder.as_ref() == "backups")
    }

    fn path_of(sha256: &str) -> Path {
        Path::from(format!("files/{}/{sha256}", sha256.get(..2).unwrap_or_default()))
    }

    /// The complete backups, and those that cannot be read. Errors: the place cannot be listed.
    pub async fn list(&self) -> Result<ListedBackups> {
        let failed = || format!("backups in `{}` cannot be listed", self.location);
        let listed: Vec<_> = self.store.list(Some(&Path::from("backups"))).try_collect().await.environment(failed)?;
        let mut ids: Vec<String> = listed
            .iter()
            .filter_map(|object| Some(object.location.filename()?.strip_suffix(".json")?.to_owned()))
            .collect();
        ids.sort();
        let read = ids.into_iter().map(|id| async move { (self.read(&id).await, id) });
        let mut found = ListedBackups::default();
        for (backup, id) in futures::stream::iter(read).buffered(8).collect::<Vec<_>>().await {
            match backup {
                Ok(backup) => found.backups.push(backup),
                Err(error) => found.unreadable.push((id, error)),
            }
        }
        Ok(found)
    }

    async fn read(&self, id: &str) -> Result<Backup> {
        let path = Path::from(format!("backups/{id}.json"));
        let failed = || format!("backup `{path}` in `{}` cannot be read", self.location);
        let bytes = self.store.get(&path).await.environment(failed)?.bytes().await.environment(failed)?;
        let damaged = || Error::damaged(format!("backup `{path}` in `{}` is damaged", self.location));
        let backup: Backup = serde_json::from_slice(&bytes).map_err(|error| damaged().with_source(error))?;
        if backup.format != FORMAT {
            return Err(Error::config(format!("backup `{}` has format {}", backup.id, backup.format))
                .with_hint("A newer weir has taken it: restore it with that version."));
        }
        match backup.id == id {
            true => Ok(backup),
            false => Err(damaged().with_detail(format!("It is the list of backup `{}`.", backup.id))),
        }
    }

    /// Writes the backup's list of files, which makes it complete.
    pub async fn finish(&self, backup: &Backup) -> Result<()> {
        let bytes = serde_json::to_vec(backup).internal(|| "a backup cannot be written down".to_owned())?;
        let path = Path::from(format!("backups/{}.json", backup.id));
        let written = self.store.put(&path, bytes.into()).await;
        written.map(drop).environment(|| format!("backup `{path}` cannot be written to `{}`", self.location))
    }

    /// The SHA-256 and the size of all files in the place.
    pub async fn kept(&self) -> Result<HashSet<(String, u64)>> {
        let failed = || format!("files of backups in `{}` cannot be listed", self.location);
        let listed: Vec<_> = self.store.list(Some(&Path::from("files"))).try_collect().await.environment(failed)?;
        let named = listed.iter().filter_map(|object| Some((object.location.filename()?.to_owned(), object.size)));
        Ok(named.collect())
    }

    /// True if the place has the file, judged by name and size.
    pub async fn has(&self, sha256: &str, bytes: u64) -> Result<bool> {
        match self.store.head(&Self::path_of(sha256)).await {
            Ok(found) => Ok(found.size == bytes),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error).environment(|| format!("`{}` cannot be read", self.location)),
        }
    }

    /// Copies a file of `bytes` bytes to the place unless it is there already.
    pub async fn keep(&self, from: &Arc<dyn ObjectStore>, path: &Path, bytes: u64) -> Result<Copied> {
        if bytes <= PIECE {
            // Read once, so that a file that grows is kept as it was at that moment.
            let Some(whole) = piece(from, path, 0..bytes).await? else { return Ok(Copied::Changed) };
            let sha256 = hex::encode(Sha256::digest(&whole));
            if self.has(&sha256, bytes).await? {
                return Ok(Copied::Kept { sha256, new: false });
            }
            let written = self.store.put(&Self::path_of(&sha256), whole.into()).await;
            written.environment(|| format!("a file cannot be written to `{}`", self.location))?;
            return Ok(Copied::Kept { sha256, new: true });
        }
        let Some(sha256) = hash(from, path, bytes).await? else { return Ok(Copied::Changed) };
        if self.has(&sha256, bytes).await? {
            return Ok(Copied::Kept { sha256, new: false });
        }
        let target = Self::path_of(&sha256);
        if copy(from, path, &self.store, &target, bytes).await?.as_ref() == Some(&sha256) {
            return Ok(Copied::Kept { sha256, new: true });
        }
        // A file whose contents do not match its name must not stay.
        match self.store.delete(&target).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(Copied::Changed),
            Err(error) => {
                Err(error).environment(|| format!("file `{target}` of `{}` is wrong and stays", self.location))
            }
        }
    }

    /// Copies a backup's file to `path` in another store. Errors: it is missing or damaged.
    pub async fn bring(&self, file: &BackupFile, to: &Arc<dyn ObjectStore>, path: &Path) -> Result<()> {
        let from = Self::path_of(&file.sha256);
        self.judge(file, copy(&self.store, &from, to, path, file.bytes).await?)
    }

    /// Errors: a backup's file is missing or has another size; with `read`, its contents are damaged.
    pub async fn verify(&self, file: &BackupFile, read: bool) -> Result<()> {
        let found = match read {
            true => hash(&self.store, &Self::path_of(&file.sha256), file.bytes).await?,
            false => self.has(&file.sha256, file.bytes).await?.then(|| file.sha256.clone()),
        };
        self.judge(file, found)
    }

    fn judge(&self, file: &BackupFile, found: Option<String>) -> Result<()> {
        let what = match found {
            Some(sha256) if sha256 == file.sha256 => return Ok(()),
            Some(_) => "is damaged",
            None => "is missing or not of its size",
        };
        let from = Self::path_of(&file.sha256);
        Err(Error::damaged(format!("file `{from}` of the backups in `{}` {what}", self.location))
            .with_detail(format!("It holds `{}`.", file.path))
            .with_hint("Restore another one with `--backup ID`; `weir backup PLACE --list` shows them. While the warehouse still has the file, the next `weir backup` copies it again."))
    }

    /// The bytes of a backup's file, which must be small.
    pub async fn content(&self, file: &BackupFile) -> Result<Vec<u8>> {
        let from = Self::path_of(&file.sha256);
        let failed = || format!("file `{from}` of the backups in `{}` cannot be read", self.location);
        let bytes = self.store.get(&from).await.environment(failed)?.bytes().await.environment(failed)?;
        match hex::encode(Sha256::digest(&bytes)) == file.sha256 {
            true => Ok(bytes.to_vec()),
            false => Err(Error::damaged(format!("file `{from}` of the backups in `{}` is damaged", self.location))),
        }
    }
}

fn pieces(bytes: u64) -> impl Iterator<Item = Range<u64>> {
    (0..bytes.div_ceil(PIECE)).map(move |piece| piece * PIECE..((piece + 1) * PIECE).min(bytes))
}

/// A piece of a file; `None` if the file was deleted or is too short.
async fn piece(store: &Arc<dyn ObjectStore>, path: &Path, range: Range<u64>) -> Result<Option<bytes::Bytes>> {
    let wanted = range.end - range.start;
    if wanted == 0 {
        return Ok(Some(bytes::Bytes::new()));
    }
    match store.get_range(path, range).await {
        Ok(bytes) => Ok((bytes.len() as u64 == wanted).then_some(bytes)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error).environment(|| format!("file `{path}` cannot be read")),
    }
}

async fn has_size(store: &Arc<dyn ObjectStore>, path: &Path, bytes: u64) -> Result<bool> {
    match store.head(path).await {
        Ok(found) => Ok(found.size == bytes),
        Err(object_store::Error::NotFound { .. }) => Ok(false),
        Err(error) => Err(error).environment(|| format!("file `{path}` cannot be read")),
    }
}

async fn hash(store: &Arc<dyn ObjectStore>, path: &Path, bytes: u64) -> Result<Option<String>> {
    let mut hash = Sha256::new();
    for range in pieces(bytes) {
        let Some(piece) = piece(store, path, range).await? else { return Ok(None) };
        hash.update(&piece);
    }
    Ok(has_size(store, path, bytes).await?.then(|| hex::encode(hash.finalize())))
}

/// Copies a file; returns the SHA-256 of the copied bytes, `None` if the file was deleted or has another size.
async fn copy(
    from: &Arc<dyn ObjectStore>,
    path: &Path,
    to: &Arc<dyn ObjectStore>,
    target: &Path,
    bytes: u64,
) -> Result<Option<String>> {
    let failed = || format!("file `{target}` cannot be written");
    if !has_size(from, path, bytes).await? {
        return Ok(None);
    }
    let mut hash = Sha256::new();
    if bytes <= PIECE {
        let Some(whole) = piece(from, path, 0..bytes).await? else { return Ok(None) };
        hash.update(&whole);
        to.put(target, whole.into()).await.environment(failed)?;
        return Ok(Some(hex::encode(hash.finalize())));
    }
    let mut upload = to.put_multipart(target).await.environment(failed)?;
    for range in pieces(bytes) {
        let Some(piece) = piece(from, path, range).await? else {
            upload.abort().await.environment(failed)?;
            return Ok(None);
        };
        hash.update(&piece);
        upload.put_part(piece.into()).await.environment(failed)?;
    }
    upload.complete().await.environment(failed)?;
    Ok(Some(hex::encode(hash.finalize())))
}
