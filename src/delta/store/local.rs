//! Local files as an object store whose acknowledged writes survive a power cut.
//!
//! Promises: a write is acknowledged after the file and every directory entry that leads to it are on the disk; a file
//! appears under its name whole or not at all; put-if-absent is a hard link, so that of two writers one wins; losing that
//! race is reported only when the winner's file is as durable as one's own would have been.
//! Leaves reading, listing and deleting to [`LocalFileSystem`], whose convention for unfinished files (`name#1`, hidden
//! from listings) it shares; its own numbers begin with a zero (`name#01`), and [`leftovers`] of writers that died are removed.
//! It knows nothing of Delta's log protocol.

pub mod leftovers;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::{Path, PathPart};
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, RenameTargetMode,
    Result, UploadPart,
};
use tokio::sync::Semaphore;

/// First digit of an unfinished file's number if it is ours: other programs' numbers begin with 1 to 9.
const OURS: &str = "0";

/// Reads at a time, at least.
const MIN_READS: usize = 4;
/// Objects up to this size are read while they are opened.
const SMALL_READ: u64 = 1 << 20;

/// The call that forces a file or directory to the disk: `fsync` in production, something observable in tests.
pub type SyncFile = Arc<dyn Fn(&File, &FsPath) -> io::Result<()> + Send + Sync>;

/// Local files, rooted at `/`.
#[derive(Clone)]
pub struct LocalStore {
    inner: Arc<LocalFileSystem>,
    sync: SyncFile,
    /// Reads at a time. Each takes a thread, and threads keep memory: a replay asks for hundreds of log entries at once.
    reads: Arc<Semaphore>,
}

impl LocalStore {
    /// A store that forces files and directories to the disk with `sync`.
    pub fn new(sync: SyncFile) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        let reads = Arc::new(Semaphore::new(cores.max(MIN_READS)));
        Self { inner: Arc::new(LocalFileSystem::new()), sync, reads }
    }

    /// A store that survives a power cut.
    pub fn durable() -> Self {
        Self::new(Arc::new(|file, _| file.sync_all()))
    }

    /// A store that leaves writing back to the operating system.
    pub fn cached() -> Self {
        Self::new(Arc::new(|_, _| Ok(())))
    }
}

impl fmt::Debug for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalStore").finish_non_exhaustive()
    }
}

impl fmt::Display for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalStore")
    }
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let destination = self.inner.path_to_filesystem(location)?;
        let sync = Arc::clone(&self.sync);
        blocking(move || {
            let mut staged = Staged::create(destination, sync)?;
            staged.write(&payload)?;
            match options.mode {
                PutMode::Overwrite => staged.replace(),
                PutMode::Create => staged.link(),
                PutMode::Update(_) => Err(Error::NotImplemented {
                    operation: "put with mode update".to_owned(),
                    implementer: "LocalStore".to_owned(),
                }),
            }
        })
        .await
    }

    async fn put_multipart_opts(&self, location: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let destination = self.inner.path_to_filesystem(location)?;
        let sync = Arc::clone(&self.sync);
        let staged = blocking(move || Staged::create(destination, sync)).await?;
        Ok(Box::new(Upload { file: Arc::clone(&staged.file), staged: Some(staged), offset: 0 }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let _permit = self.reads.acquire().await;
        let head = options.head;
        let found = self.inner.get_opts(location, options).await?;
        if head || found.range.end - found.range.start > SMALL_READ {
            return Ok(found);
        }
        let (meta, range, attributes) = (found.meta.clone(), found.range.clone(), found.attributes.clone());
        let bytes = found.bytes().await?;
        let payload = GetResultPayload::Stream(futures::stream::once(std::future::ready(Ok(bytes))).boxed());
        Ok(GetResult { payload, meta, range, attributes })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let _permit = self.reads.acquire().await;
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    /// In the order of names, as other stores list: readers of a log rely on it where the address does not say that files are local.
    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let listed = self.inner.list_with_offset(prefix, offset);
        let sorted = async move {
            let mut found: Vec<ObjectMeta> = listed.try_collect().await?;
            found.sort_unstable_by(|a, b| a.location.cmp(&b.location));
            Ok::<_, Error>(futures::stream::iter(found.into_iter().map(Ok)))
        };
        futures::stream::once(sorted).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        match self.inner.list_with_delimiter(prefix).await {
            Err(Error::InvalidPath { .. }) => list_nameable(&self.inner, prefix).await,
            listed => listed,
        }
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let payload = PutPayload::from(self.inner.get_opts(from, GetOptions::default()).await?.bytes().await?);
        let mode = match options.mode {
            CopyMode::Overwrite => PutMode::Overwrite,
            CopyMode::Create => PutMode::Create,
        };
        self.put_opts(to, payload, PutOptions::from(mode)).await.map(|_| ())
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let mode = match options.target_mode {
            RenameTargetMode::Overwrite => CopyMode::Overwrite,
            RenameTargetMode::Create => CopyMode::Create,
        };
        self.copy_opts(from, to, CopyOptions::new().with_mode(mode)).await?;
        object_store::ObjectStoreExt::delete(self, from).await
    }
}

/// A file that is being written beside its destination; removed when dropped unfinished.
struct Staged {
    file: Arc<File>,
    path: PathBuf,
    destination: PathBuf,
    sync: SyncFile,
    finished: bool,
}

impl Staged {
    fn create(destination: PathBuf, sync: SyncFile) -> Result<Self> {
        let mut suffix = 1_u64;
        loop {
            let mut name = destination.clone().into_os_string();
            name.push(format!("#{OURS}{suffix}"));
            let path = PathBuf::from(name);
            match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
                Ok(file) if !leftovers::claim(&file) => {}
                Ok(file) => return Ok(Self { file: Arc::new(file), path, destination, sync, finished: false }),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => suffix += 1,
                Err(error) if error.kind() == ErrorKind::NotFound => create_directories(parent(&path), &sync)?,
                Err(error) => return Err(failure("create", &path, &error)),
            }
        }
    }

    fn write(&mut self, payload: &PutPayload) -> Result<()> {
        let mut file = self.file.as_ref();
        payload.iter().try_for_each(|chunk| file.write_all(chunk)).map_err(|e| failure("write", &self.path, &e))
    }

    /// Takes the destination's name, whatever was there.
    fn replace(mut self) -> Result<PutResult> {
        (self.sync)(&self.file, &self.path).map_err(|e| failure("sync", &self.path, &e))?;
        std::fs::rename(&self.path, &self.destination).map_err(|e| failure("rename", &self.destination, &e))?;
        self.finished = true;
        sync_directory(parent(&self.destination), &self.sync)?;
        Ok(PutResult { e_tag: None, version: None })
    }

    /// Takes the destination's name unless it is taken.
    fn link(self) -> Result<PutResult> {
        (self.sync)(&self.file, &self.path).map_err(|e| failure("sync", &self.path, &e))?;
        match std::fs::hard_link(&self.path, &self.destination) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                // The winner's name may not be on the disk yet; who acts on having lost must be able to rely on it.
                sync_directory(parent(&self.destination), &self.sync)?;
                return Err(Error::AlreadyExists {
                    path: self.destination.display().to_string(),
                    source: Box::new(error),
                });
            }
            Err(error) => return Err(failure("link", &self.destination, &error)),
        }
        sync_directory(parent(&self.destination), &self.sync)?;
        Ok(PutResult { e_tag: None, version: None })
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.finished {
            // A leftover is hidden from listings and goes at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A large file arriving in parts.
struct Upload {
    file: Arc<File>,
    staged: Option<Staged>,
    offset: u64,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").field("offset", &self.offset).finish_non_exhaustive()
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let mut offset = self.offset;
        self.offset += data.content_length() as u64;
        let file = Arc::clone(&self.file);
        Box::pin(blocking(move || {
            for chunk in data.iter() {
                file.write_all_at(chunk, offset).map_err(|e| failure("write", FsPath::new("upload"), &e))?;
                offset += chunk.len() as u64;
            }
            Ok(())
        }))
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let staged = self.staged.take().ok_or_else(finished_upload)?;
        blocking(move || staged.replace()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.staged.take().map(drop).ok_or_else(finished_upload)
    }
}

/// Contents of a folder, without names that no object can have, such as one with a line break.
async fn list_nameable(inner: &LocalFileSystem, prefix: Option<&Path>) -> Result<ListResult> {
    let prefix = prefix.cloned().unwrap_or_default();
    let directory = match prefix.as_ref() {
        "" => PathBuf::from("/"),
        _ => inner.path_to_filesystem(&prefix)?,
    };
    let read = move || -> Result<Vec<(Path, bool)>> {
        let failed = |error: io::Error| failure("list", &directory, &error);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            match name.to_str().and_then(|name| PathPart::parse(name).ok()) {
                Some(part) => found.push((prefix.clone().join(part), entry.path().is_dir())),
                None => tracing::debug!(folder = %directory.display(), ?name, "a name that no store has is skipped"),
            }
        }
        Ok(found)
    };
    let (mut common_prefixes, mut objects) = (Vec::new(), Vec::new());
    for (path, is_directory) in blocking(read).await? {
        if is_directory {
            common_prefixes.push(path);
        } else if let Ok(object) = object_store::ObjectStoreExt::head(inner, &path).await {
            objects.push(object);
        }
    }
    common_prefixes.sort_unstable();
    Ok(ListResult { common_prefixes, objects })
}

fn finished_upload() -> Error {
    Error::Generic { store: "LocalStore", source: "the upload has ended already".into() }
}

/// Creates `directory` and what is missing above it, each entry synced in its parent.
fn create_directories(directory: &FsPath, sync: &SyncFile) -> Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    create_directories(parent(directory), sync)?;
    match std::fs::create_dir(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failure("create", directory, &error)),
    }
    sync_directory(parent(directory), sync)
}

fn sync_directory(directory: &FsPath, sync: &SyncFile) -> Result<()> {
    let file = File::open(directory).map_err(|e| failure("open", directory, &e))?;
    sync(&file, directory).map_err(|e| failure("sync", directory, &e))
}

fn parent(path: &FsPath) -> &FsPath {
    path.parent().unwrap_or(FsPath::new("/"))
}

fn failure(action: &str, path: &FsPath, error: &io::Error) -> Error {
    let source = io::Error::new(error.kind(), format!("cannot {action} `{}`: {error}", path.display()));
    match error.kind() {
        ErrorKind::PermissionDenied => {
            Error::PermissionDenied { path: path.display().to_string(), source: Box::new(source) }
        }
        _ => Error::Generic { store: "LocalStore", source: Box::new(source) },
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Generic { store: "LocalStore", source: Box::new(error) }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use object_store::ObjectStoreExt;

    use super::*;

    type Log = Arc<Mutex<Vec<String>>>;

    /// A store that records what is synced, relative to `root`, in order.
    fn recording(root: &FsPath) -> (LocalStore, Log) {
        let log = Log::default();
        let (seen, root) = (Arc::clone(&log), root.to_path_buf());
        let store = LocalStore::new(Arc::new(move |_, path| {
            let name = path.strip_prefix(&root).map_or_else(|_| "outside".into(), |p| p.display().to_string());
            seen.lock().unwrap().push(name);
            Ok(())
        }));
        (store, log)
    }

    fn location(root: &FsPath, name: &str) -> Path {
        Path::from_absolute_path(root.join(name)).unwrap()
    }

    #[tokio::test]
    async fn a_put_syncs_new_directories_then_the_file_then_its_directory() {
        let root = tempfile::tempdir().unwrap();
        let (store, log) = recording(root.path());
        store.put(&location(root.path(), "a/b/data"), "x".into()).await.unwrap();
        assert_eq!(*log.lock().unwrap(), ["", "a", "a/b/data#01", "a/b"]);
    }

    #[tokio::test]
    async fn a_put_if_absent_syncs_the_file_before_the_name_appears_and_the_directory_after() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("0.json");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, name) = (Arc::clone(&seen), target.clone());
        let store = LocalStore::new(Arc::new(move |_, _| {
            log.lock().unwrap().push(name.exists());
            Ok(())
        }));
        store.put_opts(&location(root.path(), "0.json"), "x".into(), PutMode::Create.into()).await.unwrap();
        assert_eq!(*seen.lock().unwrap(), [false, true]);
        assert_eq!(std::fs::read_to_string(target).unwrap(), "x");
    }

    #[tokio::test]
    async fn who_loses_a_put_if_absent_syncs_the_winners_name_and_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let (store, log) = recording(root.path());
        let at = location(root.path(), "0.json");
        store.put_opts(&at, "first".into(), PutMode::Create.into()).await.unwrap();
        log.lock().unwrap().clear();
        let error = store.put_opts(&at, "second".into(), PutMode::Create.into()).await.unwrap_err();
        assert!(matches!(error, Error::AlreadyExists { .. }), "{error}");
        assert_eq!(*log.lock().unwrap(), ["0.json#01", ""]);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
        assert_eq!(store.get(&at).await.unwrap().bytes().await.unwrap(), "first");
    }

    #[tokio::test]
    async fn a_large_file_arrives_in_parts_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let (store, log) = recording(root.path());
        let at = location(root.path(), "large");
        let mut upload = store.put_multipart(&at).await.unwrap();
        let (second, first) = {
            let first = upload.put_part("first ".into());
            (upload.put_part("second".into()), first)
        };
        second.await.unwrap();
        first.await.unwrap();
        assert!(store.list(Some(&location(root.path(), ""))).try_collect::<Vec<_>>().await.unwrap().is_empty());
        upload.complete().await.unwrap();
        assert_eq!(store.get(&at).await.unwrap().bytes().await.unwrap(), "first second");
        assert_eq!(*log.lock().unwrap(), ["large#01", ""]);

        let mut dropped = store.put_multipart(&location(root.path(), "dropped")).await.unwrap();
        dropped.put_part("x".into()).await.unwrap();
        drop(dropped);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_folder_that_no_store_can_name_hides_no_others() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["a b", "x\ny", "c"] {
            std::fs::create_dir(root.path().join(folder)).unwrap();
        }
        std::fs::write(root.path().join("f"), "12").unwrap();
        std::fs::write(root.path().join("g#1"), "").unwrap();
        let prefix = Path::from_filesystem_path(root.path()).unwrap();
        let listed = LocalStore::cached().list_with_delimiter(Some(&prefix)).await.unwrap();
        let folders: Vec<_> = listed.common_prefixes.iter().filter_map(Path::filename).collect();
        assert_eq!(folders, ["a b", "c"]);
        let files: Vec<_> = listed.objects.iter().map(|file| (file.location.filename(), file.size)).collect();
        assert_eq!(files, [(Some("f"), 2)]);
    }

    #[tokio::test]
    async fn a_failing_sync_fails_the_put_and_leaves_no_file() {
        let root = tempfile::tempdir().unwrap();
        let store = LocalStore::new(Arc::new(|_, _| Err(io::Error::other("disk gone"))));
        store.put(&location(root.path(), "data"), "x".into()).await.unwrap_err();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
