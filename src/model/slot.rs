//! The model version in use, replaceable while queries hold the slot.

use std::sync::{Arc, PoisonError, RwLock};

use super::{Model, listed};
use crate::error::{Error, Result};

/// Holds the version of a model in use. It may be replaced between epochs only: within an epoch all rows are scored alike.
#[derive(Debug)]
pub struct ModelSlot {
    current: RwLock<Arc<Model>>,
}

impl ModelSlot {
    /// A slot that uses `model`.
    pub fn new(model: Model) -> Arc<Self> {
        Arc::new(Self { current: RwLock::new(Arc::new(model)) })
    }

    /// The version in use.
    pub fn current(&self) -> Arc<Model> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the version, unless plans made for the old one would not fit the new one.
    pub fn replace(&self, model: Model) -> Result<()> {
        let old = self.current();
        if model.features() != old.features() || model.outputs() != old.outputs() {
            return Err(Error::config(format!("model `{}` does not match the one it would replace", model.origin()))
                .with_detail(format!(
                    "It has the features {} and {} outputs instead of {} and {}.",
                    listed(model.features()),
                    model.outputs(),
                    listed(old.features()),
                    old.outputs()
                )));
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(model);
        Ok(())
    }
}
