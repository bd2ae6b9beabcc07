//! Sources: offset ranges in, decoded rows and dead letters out.
//!
//! A [`SourceReader`] returns [`Chunk`](chunk::Chunk)s of one partition each, in offset order and without gaps between
//! chunks (`end` of one is `start` of the next). Decoding is a pure function of a chunk ([`decode`]), so that it can run
//! anywhere.

pub mod chunk;
pub mod decode;
pub(crate) mod delta;
pub(crate) mod file;
mod generator;
pub mod kafka;
mod nexmark;
pub(crate) mod origin;
pub(crate) mod sample;

use chunk::{ReadFrom, SourceReader};

use crate::catalog::{ColumnOrigin, Metadata, OnError, SourceConnector, SourceDef};
use crate::env::Env;
use crate::error::Result;

/// Opens a source for `pipeline`. Errors: those that the connector can detect without waiting for a connection.
pub async fn open(def: &SourceDef, pipeline: &str, from: ReadFrom, env: &Env) -> Result<Box<dyn SourceReader>> {
    match &def.connector {
        SourceConnector::Kafka(options) => {
            let asks = |wanted| def.columns.iter().any(|column| column.origin == ColumnOrigin::Metadata(wanted));
            let wants = kafka::Wants {
                keys: asks(Metadata::Key) || def.on_error == OnError::DeadLetter,
                headers: asks(Metadata::Headers),
            };
            let group = options.group_id.clone().unwrap_or_else(|| format!("weir-{pipeline}"));
            Ok(Box::new(kafka::KafkaReader::open(&def.name, options, wants, group, from, env)?))
        }
        SourceConnector::File(options) => {
            let reader = file::FileReader::open(&def.name, options, def.format, &from, env)?;
            Ok(Box::new(match def.watermark {
                Some(_) => reader.in_order_of_time().growing_for(def.idle_after),
                None => reader,
            }))
        }
        SourceConnector::Generator(options) => Ok(Box::new(generator::GeneratorReader::open(options, &from, env)?)),
        SourceConnector::Nexmark(options) => Ok(Box::new(nexmark::NexmarkReader::open(options, &from, env)?)),
        SourceConnector::Delta(options) => Ok(Box::new(delta::DeltaReader::open(def, options, &from, env).await?)),
    }
}
