//! Repeats what may be repeated when a store fails for a moment.
//!
//! Promises: reads, listings, deletes and whole-object writes are tried a few times with growing pauses. A conditional
//! write is passed on untouched: whether it took effect is for its caller to find out, because a repetition would
//! find its own first attempt. Parts of large uploads are left to the store's own client. Entries of Delta logs are whole, or an
//! error ([`whole`]).

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::whole::{self, LogFile};
use crate::env::Env;

const ATTEMPTS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Passed between a log checkpoint and the pointer to it.
const CHECKPOINT_FAILPOINT: &str = "delta.checkpoint";

/// A store that tries again.
#[derive(Clone, Debug)]
pub struct RetryStore {
    inner: Arc<dyn ObjectStore>,
    env: Env,
}

impl RetryStore {
    /// Repeats failed operations on `inner`.
    pub fn new(inner: Arc<dyn ObjectStore>, env: Env) -> Self {
        Self { inner, env }
    }

    async fn repeat<T, F: Future<Output = Result<T>>>(&self, mut operation: impl FnMut() -> F) -> Result<T> {
        let mut attempt = 0;
        loop {
            match operation().await {
                Err(error) if is_transient(&error) && attempt + 1 < ATTEMPTS => {
                    tracing::debug!(%error, attempt, "object store failed, trying again");
                    tokio::time::sleep(pause(&self.env, attempt)).await;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    /// An object's content, and the rest of what the store says of it.
    async fn get_all(&self, location: &Path, options: GetOptions) -> Result<(Bytes, GetResult)> {
        let found = self.inner.get_opts(location, options).await?;
        let nothing = GetResultPayload::Stream(stream::empty().boxed());
        let rest = GetResult {
            payload: nothing,
            meta: found.meta.clone(),
            range: found.range.clone(),
            attributes: found.attributes.clone(),
        };
        Ok((found.bytes().await?, rest))
    }

    /// `true` if the log entry of this version, not the first, has no successor.
    async fn is_newest(&self, entry: &Path, version: u64) -> Result<bool> {
        let name = format!("{:020}.json", version + 1);
        let next =
            entry.as_ref().rsplit_once('/').map_or_else(|| name.clone(), |(folder, _)| format!("{folder}/{name}"));
        let next = Path::parse(next)?;
        match self.repeat(|| self.inner.head(&next)).await {
            Ok(_) => Ok(false),
            Err(Error::NotFound { .. }) => Ok(version > 0),
            Err(error) => Err(error),
        }
    }

    /// A listing that begins anew while it fails before its first entry.
    fn listing(
        &self,
        begin: impl Fn(&dyn ObjectStore) -> BoxStream<'static, Result<ObjectMeta>> + Send + 'static,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = self.clone();
        stream::once(async move {
            let mut attempt = 0;
            loop {
                // Fused: some streams must not be asked again once they have ended.
                let mut entries = begin(store.inner.as_ref()).fuse();
                match entries.next().await {
                    Some(Err(error)) if is_transient(&error) && attempt + 1 < ATTEMPTS => {
                        tokio::time::sleep(pause(&store.env, attempt)).await;
                        attempt += 1;
                    }
                    first => return stream::iter(first).chain(entries),
                }
            }
        })
        .flatten()
        .boxed()
    }
}

/// Puts a small object that is made once and never changed, unless it is there; returns its content, whoever has written it.
///
/// An answer that fails may follow a write that took effect, which only a look tells.
pub async fn put_once(store: &dyn ObjectStore, path: &Path, content: Bytes, env: &Env) -> Result<Bytes> {
    let mut attempt = 0;
    loop {
        let put = store.put_opts(path, content.clone().into(), PutMode::Create.into()).await;
        let found = match store.get(path).await {
            Ok(found) => found.bytes().await,
            Err(error) => Err(error),
        };
        let error = match (put, found) {
            (_, Ok(found)) => return Ok(found),
            (Err(error), Err(Error::NotFound { .. })) | (_, Err(error)) => error,
        };
        if !is_transient(&error) || attempt + 1 >= ATTEMPTS {
            return Err(error);
        }
        tracing::debug!(%error, attempt, "object store failed, trying again");
        tokio::time::sleep(pause(env, attempt)).await;
        attempt += 1;
    }
}

/// `true` if trying again may help.
pub fn is_transient(error: &Error) -> bool {
    matches!(error, Error::Generic { .. })
}

/// The wait after the failed attempt of this number, counted from 0: doubling, with jitter, at most 2 s.
pub fn pause(env: &Env, attempt: u32) -> Duration {
    let full = (FIRST_PAUSE * 2_u32.saturating_pow(attempt.min(10))).min(Duration::from_secs(2));
    let jitter = (env.random_u64() % 1000) as f64 / 2000.0;
    full.mul_f64(0.5 + jitter)
}

impl fmt::Display for RetryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for RetryStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if location.filename() == Some("_last_checkpoint") {
            let passed = self.env.failpoint(CHECKPOINT_FAILPOINT).await;
            passed.map_err(|error| Error::NotSupported { source: Box::new(error) })?;
        }
        if options.mode != PutMode::Overwrite {
            return self.inner.put_opts(location, payload, options).await;
        }
        self.repeat(|| self.inner.put_opts(location, payload.clone(), options.clone())).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.repeat(|| self.inner.put_multipart_opts(location, options.clone())).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let file = LogFile::at(location).filter(|_| whole::reads_all(&options));
        let Some(file) = file else { return self.repeat(|| self.inner.get_opts(location, options.clone())).await };
        let (bytes, rest) = self.repeat(|| self.get_all(location, options.clone())).await?;
        let is_no_commit_yet = match file {
            LogFile::Entry(version) => whole::is_blank(&bytes) && self.is_newest(location, version).await?,
            LogFile::Compacted => false,
        };
        if is_no_commit_yet {
            return Ok(whole::as_read(Bytes::new(), rest));
        }
        whole::check(location, &bytes)?;
        Ok(whole::as_read(bytes, rest))
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.repeat(|| self.inner.get_ranges(location, ranges)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .map(move |location| {
                let store = store.clone();
                async move {
                    let location = location?;
                    match store.repeat(|| store.inner.delete(&location)).await {
                        // A delete that was repeated after it had succeeded.
                        Ok(()) | Err(Error::NotFound { .. }) => Ok(location),
                        Err(error) => Err(error),
                    }
                }
            })
            .buffered(10)
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.cloned();
        self.listing(move |store| store.list(prefix.as_ref()))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let (prefix, offset) = (prefix.cloned(), offset.clone());
        self.listing(move |store| store.list_with_offset(prefix.as_ref(), &offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.repeat(|| self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        if options.mode != CopyMode::Overwrite {
            return self.inner.copy_opts(from, to, options).await;
        }
        self.repeat(|| self.inner.copy_opts(from, to, options.clone())).await
    }
}
