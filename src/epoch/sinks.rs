//! A pipeline's opened targets, branch by branch, and the order in which they commit.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::catalog::{ChangeEncoding, Format, KafkaConnection};
use crate::delta::{Table, UpsertTable, WriterOptions};
use crate::output::Printer;
use crate::sink::kafka::{DirectProducer, TransactionalProducer};

/// A Delta table that takes part in the commit.
#[derive(Debug)]
pub struct TableSink {
    pub name: String,
    pub location: String,
    pub table: Table,
    pub options: WriterOptions,
    /// Where a primary key is declared.
    pub upsert: Option<UpsertTable>,
}

/// Where one branch's rows go.
#[derive(Clone)]
pub enum BranchSink {
    /// Index into [`Sinks::tables`].
    Table(usize),
    /// Likewise, of a table with a primary key: rows wait until the epoch closes.
    Upsert(usize),
    /// Buffered until the epoch's transaction.
    Transaction {
        topic: String,
        key: Option<String>,
        /// Where rows are changes: they wait until the epoch closes and are consolidated first.
        changes: Option<ChangeEncoding>,
    },
    /// Sent with each micro-batch.
    Direct {
        producer: Arc<DirectProducer>,
        key: Option<String>,
        changes: Option<ChangeEncoding>,
    },
    Console(Printer),
    File {
        folder: PathBuf,
        format: Format,
    },
    Blackhole,
}

impl BranchSink {
    /// Whether rows wait until the epoch closes, to be consolidated by key.
    pub fn consolidates(&self) -> bool {
        match self {
            Self::Upsert(_) => true,
            Self::Transaction { changes, .. } | Self::Direct { changes, .. } => changes.is_some(),
            Self::Table(_) | Self::Console(_) | Self::File { .. } | Self::Blackhole => false,
        }
    }

    /// The word that progress shows.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Table(_) => "delta",
            Self::Upsert(_) => "delta upsert",
            Self::Transaction { .. } => "kafka exactly_once",
            Self::Direct { .. } => "kafka at_least_once",
            Self::Console(_) => "console",
            Self::File { .. } => "file",
            Self::Blackhole => "blackhole",
        }
    }
}

/// Everything a pipeline writes to.
pub struct Sinks {
    /// In the order of the dataflow's branches.
    pub branches: Vec<BranchSink>,
    /// In commit order: by name, dead letters last.
    pub tables: Vec<TableSink>,
    /// Index of the dead letters in `tables`.
    pub dead_letters: usize,
    /// One per pipeline: a transaction cannot span clusters.
    pub transaction: Option<TransactionalProducer>,
}

/// The cluster of the `exactly_once` sinks, when there is exactly one.
///
/// Errors: the two clusters, when a pipeline names more than one.
pub fn one_cluster<'a>(
    connections: impl Iterator<Item = &'a KafkaConnection>,
) -> Result<Option<&'a KafkaConnection>, [String; 2]> {
    let mut by_servers: BTreeMap<&str, &KafkaConnection> = BTreeMap::new();
    for connection in connections {
        by_servers.insert(&connection.bootstrap_servers, connection);
    }
    let mut clusters = by_servers.into_iter();
    match (clusters.next(), clusters.next()) {
        (first, None) => Ok(first.map(|(_, connection)| connection)),
        (Some((a, _)), Some((b, _))) => Err([a.to_owned(), b.to_owned()]),
        (None, Some(_)) => Ok(None),
    }
}
