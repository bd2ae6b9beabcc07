//! A folder of an object store that holds a warehouse or a table.

use std::path::Path as FilePath;
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt};
use url::Url;

use crate::delta::{TableStore, known_as};
use crate::error::{Context, Error, ErrorKind, Result};

/// The location of a warehouse or a table.
#[derive(Debug, Clone)]
pub struct Location {
    /// Its address.
    place: Url,
    /// The store whose root is that of the bucket, container or file system.
    bucket: Arc<dyn ObjectStore>,
    /// The address for delta-rs and DataFusion.
    url: Url,
    store: Arc<dyn ObjectStore>,
    path: Path,
}

impl Location {
    /// The folder that `url` names in `bucket`, a store whose root is that of the URL's bucket, container or file system.
    pub fn new(mut place: Url, bucket: Arc<dyn ObjectStore>) -> Result<Self> {
        if !place.path().ends_with('/') {
            place.set_path(&format!("{}/", place.path()));
        }
        let bad = || format!("location `{place}` is not a folder's address");
        let prefix = Path::from_url_path(place.path()).context(ErrorKind::Config, bad)?;
        let (url, store) = known_as(&place, &prefix, &bucket)?;
        let path = Path::from_url_path(url.path()).context(ErrorKind::Config, bad)?;
        Ok(Self { place, bucket, url, store, path })
    }

    /// The folder of a table store.
    pub fn of(store: &TableStore) -> Result<Self> {
        Self::new(store.place().clone(), Arc::clone(store.bucket()))
    }

    /// A folder of the local file system; it need not exist yet.
    pub fn local(folder: impl AsRef<FilePath>) -> Result<Self> {
        let folder = folder.as_ref();
        let folder = std::path::absolute(folder)
            .context(ErrorKind::Config, || format!("folder `{}` cannot be found", folder.display()))?;
        let url = Url::from_directory_path(&folder)
            .map_err(|()| Error::config(format!("folder `{}` has no address", folder.display())))?;
        Self::new(url, Arc::new(LocalFileSystem::new()))
    }

    /// The folder `name` below this one.
    pub fn child(&self, name: &str) -> Self {
        let mut place = self.place.clone();
        if let Ok(mut segments) = place.path_segments_mut() {
            segments.pop_if_empty().push(name).push("");
        }
        // Built like a table store's address: joining a path would escape characters of the name.
        Self::new(place, Arc::clone(&self.bucket))
            .unwrap_or_else(|_| Self { path: self.path.clone().join(name), ..self.clone() })
    }

    /// The address, ending in a slash.
    pub fn place(&self) -> &Url {
        &self.place
    }

    /// The address of the folder in [`Self::store`] for delta-rs and DataFusion, ending in a slash.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The store that contains the folder at [`Self::path`].
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The folder's path in the store.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A store whose root is this folder.
    pub fn folder(&self) -> PrefixStore<Arc<dyn ObjectStore>> {
        PrefixStore::new(Arc::clone(&self.store), self.path.clone())
    }

    /// The names of the subfolders, sorted.
    pub async fn folders(&self) -> Result<Vec<String>> {
        let listed = self
            .store
            .list_with_delimiter(Some(&self.path))
            .await
            .environment(|| format!("folder `{}` cannot be listed", self.place))?;
        let mut names: Vec<String> =
            listed.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect();
        names.sort();
        Ok(names)
    }

    /// True if there is any object below this folder.
    pub async fn exists(&self) -> Result<bool> {
        let first = self.store.list(Some(&self.path)).try_next().await;
        Ok(first.environment(|| format!("folder `{}` cannot be listed", self.place))?.is_some())
    }

    /// The last `limit` bytes of the file `name`, and whether they are the whole file; `None` if the file does not exist.
    pub async fn tail(&self, name: &str, limit: u64) -> Result<Option<(bytes::Bytes, Complete)>> {
        let path = self.path.clone().join(name);
        let failed = || format!("file `{}{name}` cannot be read", self.place);
        let size = match self.store.head(&path).await {
            Ok(meta) => meta.size,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error).environment(failed),
        };
        if size == 0 {
            return Ok(Some((bytes::Bytes::new(), Complete::Yes)));
        }
        let start = size.saturating_sub(limit);
        let bytes = self.store.get_range(&path, start..size).await.environment(failed)?;
        Ok(Some((bytes, if start == 0 { Complete::Yes } else { Complete::No })))
    }
}

/// Tells whether a tail is the whole file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Complete {
    Yes,
    No,
}
