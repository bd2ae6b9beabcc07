//! `connector = 'blackhole'`: rows are computed and dropped.

use std::sync::Arc;

use async_trait::async_trait;

use super::writer::{Arrival, Opening, Sink, SinkWriter, Staged, Written};
use crate::delta::UpsertRows;
use crate::error::Result;

/// The sink that keeps nothing; it is its own writer.
#[derive(Debug, Clone, Copy)]
pub struct Blackhole;

impl Sink for Blackhole {
    fn kind(&self) -> &'static str {
        "blackhole"
    }

    fn open(&self, _: &Opening) -> Arc<dyn SinkWriter> {
        Arc::new(*self)
    }
}

#[async_trait]
impl SinkWriter for Blackhole {
    async fn write(&self, _: Arrival, _: Vec<UpsertRows>) -> Result<Written> {
        Ok(Written::default())
    }

    async fn close(&self) -> Result<Staged> {
        Ok(Staged::Nothing)
    }
}
