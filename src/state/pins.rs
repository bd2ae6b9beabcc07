//! Pins: while a pipeline's folder holds one, none of the pipeline's manifests and state files is removed because of its
//! age.
//!
//! A backup holds one while it copies. The process that runs the pipeline, which may be another, checks for pins before it
//! removes anything, and `weir restore` refuses to start. (A start that finds all tables RESTOREd still removes the
//! manifests of later epochs: a backup that had chosen one of them starts over.) A pin holds the time of its expiry, so that
//! one left behind does no lasting harm.

use std::sync::Arc;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::env::Env;
use crate::error::{Context, Error, Result};

/// The lifetime of a pin that is not renewed, milliseconds.
const HOLDS_MS: i64 = 10 * 60 * 1000;

/// The pins of one pipeline.
#[derive(Debug, Clone)]
pub struct Pins {
    store: Arc<dyn ObjectStore>,
    env: Env,
}

impl Pins {
    /// Pins at the root of `store`.
    pub fn new(store: Arc<dyn ObjectStore>, env: Env) -> Self {
        Self { store, env }
    }

    /// Sets or renews a pin.
    pub async fn hold(&self, name: &str) -> Result<()> {
        let until = self.env.unix_ms() + HOLDS_MS;
        let written = self.store.put(&Path::from(name), until.to_string().into()).await;
        written.map(drop).environment(|| format!("pin `{name}` cannot be set"))
    }

    /// Removes a pin.
    pub async fn release(&self, name: &str) -> Result<()> {
        match self.store.delete(&Path::from(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error).environment(|| format!("pin `{name}` cannot be taken away")),
        }
    }

    /// Errors: a pin holds.
    pub async fn refuse_held(&self, pipeline: &str) -> Result<()> {
        let Some(name) = self.held().await? else { return Ok(()) };
        Err(Error::config(format!("pipeline `{pipeline}` is being backed up")).with_hint(format!(
            "Wait until `weir backup` has ended. If it was killed, wait ten minutes, or remove its pin `_weir/{pipeline}/pins/{name}`."
        )))
    }

    /// `true` if any pin holds now. Expired pins are removed.
    pub async fn any(&self) -> Result<bool> {
        Ok(self.held().await?.is_some())
    }

    async fn held(&self) -> Result<Option<String>> {
        let failed = || "pins cannot be read".to_owned();
        let listed: Vec<_> = self.store.list(None).try_collect().await.environment(failed)?;
        for object in listed {
            let pin = match self.store.get(&object.location).await {
                Ok(pin) => pin.bytes().await.environment(failed)?,
                Err(object_store::Error::NotFound { .. }) => continue,
                Err(error) => return Err(error).environment(failed),
            };
            let until = std::str::from_utf8(&pin).ok().and_then(|text| text.trim().parse::<i64>().ok());
            if until.is_some_and(|until| until > self.env.unix_ms()) {
                return Ok(Some(object.location.to_string()));
            }
            self.release(object.location.as_ref()).await?;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn a_pin_holds_until_it_is_released_or_has_run_out() {
        let env = Env::manual(1_000_000, 1);
        let pins = Pins::new(Arc::new(InMemory::new()), env.clone());
        assert!(!pins.any().await.unwrap());
        pins.hold("a").await.unwrap();
        pins.hold("b").await.unwrap();
        pins.release("a").await.unwrap();
        assert!(pins.any().await.unwrap());
        assert!(pins.refuse_held("p").await.unwrap_err().hint().unwrap().contains("`_weir/p/pins/b`"));
        env.advance(Duration::from_millis(HOLDS_MS as u64 + 1));
        assert!(!pins.any().await.unwrap());
        pins.refuse_held("p").await.unwrap();
        pins.release("b").await.unwrap();
    }
}
