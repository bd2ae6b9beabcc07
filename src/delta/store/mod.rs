//! Object stores of tables' locations.
//!
//! Promises: one [`TableStore`] per location, rooted at the table, with the layers every caller needs in place (durable
//! local writes, the environment's wrapper, retries) and with the same store handed to delta-rs and to DataFusion.
//! A location is a file path, `file://`, `memory://name/…` (shared within an [`Env`]), `s3://`, `abfss://`, `az://` or `gs://`.

mod alias;
mod local;
mod remote;
pub(crate) mod retry;
pub(crate) mod whole;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use deltalake::logstore::{LogStoreRef, StorageConfig, default_logstore};
use futures::StreamExt;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt};
use url::Url;

pub use self::alias::known_as;
use self::local::{LocalStore, leftovers};
use self::retry::RetryStore;
use crate::catalog::Secret;
use crate::env::{Durability, Env};
use crate::error::{Context, Error, ErrorKind, Result};

/// A folder of an object store that holds a table, or a warehouse of tables; cheap to clone.
#[derive(Clone)]
pub struct TableStore {
    /// As the user wrote it, for messages.
    location: String,
    /// Names the store and the folder; ends with `/`. Its host tells stores apart (see [`remote::identity`]).
    place: Url,
    /// From the root of the bucket, container or file system.
    bucket: Arc<dyn ObjectStore>,
    /// Under these delta-rs and DataFusion know the folder (see [`known_as`]).
    url: Url,
    root: Arc<dyn ObjectStore>,
    table: Arc<dyn ObjectStore>,
    env: Env,
}

impl TableStore {
    /// Opens `location` with the store options of the SQL; makes no connection.
    pub fn open(location: &str, options: &BTreeMap<String, Secret>, env: &Env) -> Result<Self> {
        let url = parse_location(location)?;
        let root: Arc<dyn ObjectStore> = match url.scheme() {
            "file" => match env.durability() {
                Durability::PowerCut => Arc::new(LocalStore::durable()),
                Durability::Process => Arc::new(LocalStore::cached()),
            },
            "memory" => env.memory_store(url.host_str().unwrap_or_default()),
            scheme => remote::open(&url, options)?.ok_or_else(|| unknown_scheme(location, scheme))?,
        };
        let root = Arc::new(RetryStore::new(env.wrap_store(root), env.clone()));
        Self::rooted(location.to_owned(), internal_url(&url)?, root, env.clone())
    }

    /// The folder at `url`, which ends with `/`, of a store that is open.
    pub(super) fn at(url: &Url, root: Arc<dyn ObjectStore>) -> Result<Self> {
        Self::rooted(url.to_string(), url.clone(), root, Env::system()?)
    }

    fn rooted(location: String, place: Url, bucket: Arc<dyn ObjectStore>, env: Env) -> Result<Self> {
        let prefix = Path::from_url_path(place.path())
            .context(ErrorKind::Config, || format!("bad path in location `{location}`"))?;
        let (url, root) = known_as(&place, &prefix, &bucket)?;
        let table = Arc::new(PrefixStore::new(Arc::clone(&bucket), prefix));
        Ok(Self { location, place, bucket, url, root, table, env })
    }

    /// The folder `name` below this one, in the same store.
    pub fn child(&self, name: &str) -> Result<Self> {
        let mut place = self.place.clone();
        if let Ok(mut segments) = place.path_segments_mut() {
            segments.pop_if_empty().extend(name.split('/')).push("");
        }
        let location = format!("{}/{name}", self.location.trim_end_matches('/'));
        Self::rooted(location, place, Arc::clone(&self.bucket), self.env.clone())
    }

    /// The folder's own name: the last part of its path.
    pub fn name(&self) -> &str {
        self.location.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
    }

    /// The location as the user wrote it.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// `true` if it is in this machine's file system.
    pub fn is_local(&self) -> bool {
        self.place.scheme() == "file"
    }

    /// The store, with paths relative to this folder.
    pub fn object_store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.table)
    }

    /// The folder's address; ends with `/`.
    pub fn place(&self) -> &Url {
        &self.place
    }

    /// The store, with paths relative to its bucket, container or `/`.
    pub fn bucket(&self) -> &Arc<dyn ObjectStore> {
        &self.bucket
    }

    /// The URL under which delta-rs and DataFusion know this folder, in [`Self::root_store`]; ends with `/`.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The store that has this folder at the path of [`Self::url`].
    pub fn root_store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.root)
    }

    /// The surroundings it was opened in.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// The log store, on this very store, that delta-rs takes.
    pub(super) fn log_store(&self) -> LogStoreRef {
        default_logstore(self.object_store(), self.root_store(), &self.url, &StorageConfig::default())
    }

    /// Removes unfinished files below this folder that writers left when they died; only in this machine's file system.
    /// A failure is logged: leftovers only cost space.
    pub async fn remove_leftovers(&self) {
        let Some(folder) = self.is_local().then(|| self.place.to_file_path().ok()).flatten() else { return };
        let now_ms = self.env.unix_ms();
        let (removed, location) =
            (tokio::task::spawn_blocking(move || leftovers::remove_below(&folder, now_ms)).await, &self.location);
        match removed {
            Ok(Ok(0)) => {}
            Ok(Ok(files)) => tracing::info!(location, files, "removed unfinished files of writers that died"),
            Ok(Err(error)) => tracing::warn!(location, %error, "cannot remove unfinished files"),
            Err(error) => tracing::warn!(location, %error, "cannot remove unfinished files"),
        }
    }

    /// `true` if the two folders are one, or one lies in the other, links followed.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (own, others) = (real_path(&self.place), real_path(&other.place));
        remote::may_be_one(&self.place, &other.place) && (own.starts_with(&others) || others.starts_with(&own))
    }

    /// `true` if a Delta table lies here.
    pub async fn is_table(&self) -> Result<bool> {
        let mut entries = self.table.list(Some(&Path::from("_delta_log")));
        while let Some(entry) = entries.next().await {
            let entry = entry.environment(|| format!("cannot list `{}`", self.location))?;
            let name = entry.location.filename().unwrap_or_default();
            if name.ends_with(".json") || name.ends_with(".parquet") {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Lists, writes, reads and deletes a small object, and says which of these failed.
    pub async fn probe(&self) -> Result<()> {
        let failed = |action: &str| format!("cannot {action} `{}`", self.location);
        if let Some(entry) = self.table.list(None).next().await {
            entry.environment(|| failed("list"))?;
        }
        let path = Path::from(format!("_weir_probe_{:016x}", self.env.random_id()));
        self.table.put(&path, "weir".into()).await.environment(|| failed("write to"))?;
        self.table.get(&path).await.environment(|| failed("read from"))?;
        self.table.delete(&path).await.environment(|| failed("delete from"))
    }

    /// The tables directly below this folder, by name; folders whose names begin with `_` or `.` are passed over.
    pub async fn tables(&self) -> Result<Vec<(String, Self)>> {
        let listing = self.table.list_with_delimiter(None).await;
        let listing = listing.environment(|| format!("cannot list `{}`", self.location))?;
        let mut tables = Vec::new();
        for folder in listing.common_prefixes {
            let Some(name) = folder.filename().filter(|name| !name.starts_with(['_', '.'])) else { continue };
            let store = self.child(name)?;
            if store.is_table().await? {
                tables.push((name.to_owned(), store));
            }
        }
        tables.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(tables)
    }
}

impl fmt::Debug for TableStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableStore").field("location", &self.location).finish_non_exhaustive()
    }
}

/// The folder that `location` is below `base`, empty when they are one; `None` for one elsewhere. Relative and absolute paths
/// are one, and links are followed.
pub fn folder_below(base: &str, location: &str) -> Option<String> {
    let resolved = |location: &str| internal_url(&parse_location(location).ok()?).ok();
    let (base, url) = (resolved(base)?, resolved(location)?);
    if (base.scheme(), base.host_str()) != (url.scheme(), url.host_str()) {
        return None;
    }
    let path = |url: &Url| Path::from_url_path(url.path()).ok();
    let as_written = path(&url)?.prefix_match(&path(&base)?).map(|parts| {
        let parts: Vec<String> = parts.map(|part| part.as_ref().to_owned()).collect();
        parts.join("/")
    });
    as_written.or_else(|| Some(real_path(&url).strip_prefix(real_path(&base)).ok()?.to_str()?.to_owned()))
}

/// A location as a URL; plain paths are made absolute.
fn parse_location(location: &str) -> Result<Url> {
    let bad = || format!("bad location `{location}`");
    if location.contains("://") {
        return Url::parse(location).context(ErrorKind::Config, bad);
    }
    let path = std::path::absolute(location).context(ErrorKind::Config, bad)?;
    Url::from_directory_path(path).map_err(|()| Error::config(bad()))
}

/// The URL with a host that is unique to the store and a path that ends with `/`.
fn internal_url(url: &Url) -> Result<Url> {
    let mut internal = Url::parse(&format!("{}://{}", url.scheme(), remote::identity(url)))
        .context(ErrorKind::Config, || format!("bad location `{url}`"))?;
    internal.set_path(&format!("{}/", url.path().trim_end_matches('/')));
    Ok(internal)
}

/// The path in its store. In this machine's file system links are followed, as far as the path exists.
fn real_path(url: &Url) -> PathBuf {
    let Some(path) = (url.scheme() == "file").then(|| url.to_file_path().ok()).flatten() else {
        return url.path_segments().into_iter().flatten().filter(|part| !part.is_empty()).collect();
    };
    let (mut at, mut missing) = (path.as_path(), Vec::new());
    loop {
        if let Ok(real) = at.canonicalize() {
            return missing.into_iter().rev().fold(real, |real, name| real.join(name));
        }
        let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else { return path };
        missing.push(name);
        at = parent;
    }
}

fn unknown_scheme(location: &str, scheme: &str) -> Error {
    Error::config(format!("unknown scheme `{scheme}` in location `{location}`"))
        .with_hint("A location is a path, `file://`, `memory://name/`, `s3://`, `abfss://`, `az://` or `gs://`.")
}

#[cfg(test)]
mod tests;
