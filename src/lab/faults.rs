//! A store that misbehaves on purpose: errors, writes that take effect but report failure, slowness.
//!
//! For tests of everything above the stores, and for drills with the real program (`WEIR_STORE_FAULTS`). Faults are drawn
//! from the environment's randomness, so a seed repeats them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::env::{Env, StoreWrapper};

/// A fault of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It fails and has no effect.
    Error,
    /// A write takes effect and fails; other operations just fail.
    Ambiguous,
    /// It takes this much longer.
    Slow(Duration),
}

/// The operation that is about to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// A whole object is written.
    Put(&'a Path),
    /// A large upload begins.
    Upload(&'a Path),
    /// An object, or part of it, is read.
    Get(&'a Path),
    /// Objects are listed.
    List,
}

type Choose = Arc<dyn Fn(Operation<'_>) -> Fault + Send + Sync>;

/// Rates of faults; probabilities between 0 and 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FaultRates {
    /// Failures without effect.
    pub error: f64,
    /// Writes that take effect and fail.
    pub ambiguous: f64,
    /// Slow operations.
    pub slow: f64,
    /// Delay of slow ones, in milliseconds.
    pub slow_ms: u64,
}

impl FaultRates {
    /// Reads `error=0.1,ambiguous=0.05,slow=0.1,slow_ms=50`; what is not named is 0.
    pub fn parse(text: &str) -> crate::error::Result<Self> {
        let bad = |part: &str| crate::error::Error::config(format!("bad store fault `{part}`"));
        let mut rates = Self::default();
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            let (name, value) = part.trim().split_once('=').ok_or_else(|| bad(part))?;
            let value: f64 = value.parse().map_err(|_| bad(part))?;
            match name {
                "error" => rates.error = value,
                "ambiguous" => rates.ambiguous = value,
                "slow" => rates.slow = value,
                "slow_ms" => rates.slow_ms = value as u64,
                _ => return Err(bad(part)),
            }
        }
        Ok(rates)
    }

    /// A wrapper for [`Env::with_store_wrapper`] that draws faults at these rates.
    pub fn wrapper(self, env: &Env) -> StoreWrapper {
        let env = env.clone();
        Arc::new(move |store| {
            let env = env.clone();
            Arc::new(FaultyStore::new(store, move |_| self.draw(&env)))
        })
    }

    fn draw(self, env: &Env) -> Fault {
        let chance = (env.random_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        if chance < self.error {
            Fault::Error
        } else if chance < self.error + self.ambiguous {
            Fault::Ambiguous
        } else if chance < self.error + self.ambiguous + self.slow {
            Fault::Slow(Duration::from_millis(self.slow_ms))
        } else {
            Fault::None
        }
    }
}

/// A store with faults.
#[derive(Clone)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    choose: Choose,
}

impl FaultyStore {
    /// Asks `choose` before every operation on `inner`.
    pub fn new(inner: Arc<dyn ObjectStore>, choose: impl Fn(Operation<'_>) -> Fault + Send + Sync + 'static) -> Self {
        Self { inner, choose: Arc::new(choose) }
    }

    async fn before(&self, operation: Operation<'_>) -> Result<()> {
        match (self.choose)(operation) {
            Fault::None => Ok(()),
            Fault::Error | Fault::Ambiguous => Err(injected()),
            Fault::Slow(by) => {
                tokio::time::sleep(by).await;
                Ok(())
            }
        }
    }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyStore").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStore({})", self.inner)
    }
}

fn injected() -> Error {
    Error::Generic { store: "FaultyStore", source: "injected fault".into() }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        match (self.choose)(Operation::Put(location)) {
            Fault::Error => return Err(injected()),
            Fault::Ambiguous => {
                self.inner.put_opts(location, payload, options).await?;
                return Err(injected());
            }
            Fault::Slow(by) => tokio::time::sleep(by).await,
            Fault::None => {}
        }
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.before(Operation::Upload(location)).await?;
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.before(Operation::Get(location)).await?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, entries) = (self.clone(), self.inner.list(prefix));
        let first = async move { store.before(Operation::List).await.err().map(Err) };
        stream::once(first).filter_map(|error| async { error }).chain(entries).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.before(Operation::List).await?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.before(Operation::Put(to)).await?;
        self.inner.copy_opts(from, to, options).await
    }
}
