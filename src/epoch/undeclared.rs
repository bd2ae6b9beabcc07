//! Tables that recent manifests name and that the SQL no longer names: an edit has dropped them, and each may hold the
//! newest epoch, or be owed it.

use super::looked::Looked;
use super::protocol::SinkFact;
use crate::delta::{Table, WriterOptions};
use crate::env::Env;
use crate::error::{Error, Result};
use crate::run::sinks::{Sinks, TableSink};
use crate::state::{Manifest, SinkRecord, TableCommit, TablePlace};

/// The sinks that a manifest, or a table's commit, names.
#[derive(Clone, Default)]
pub struct Named {
    pub records: Vec<SinkRecord>,
    /// An older version of weir wrote them: they are only the tables that take part, without what each had before or where it is
    /// below the warehouse.
    pub by_older_version: bool,
}

impl Named {
    /// The sinks of a manifest.
    pub fn by(manifest: &Manifest) -> Self {
        match &manifest.sinks {
            Some(records) => Self { records: records.clone(), by_older_version: false },
            None => Self { records: manifest.tables.iter().map(unrecorded).collect(), by_older_version: true },
        }
    }

    /// The record of an undeclared table that takes part.
    pub fn part_of(&self, table: &Undeclared, sinks: &Sinks) -> Option<&SinkRecord> {
        let (location, path) = (&table.location, sinks.home.path_of(&table.location));
        let is_it =
            |record: &&SinkRecord| record.table.as_ref().is_some_and(|place| place.is(location, path.as_deref()));
        self.records.iter().filter(|record| record.takes_part).find(is_it)
    }
}

/// A table in a manifest of an older version.
fn unrecorded(commit: &TableCommit) -> SinkRecord {
    let version = commit.upsert.as_ref().map_or(0, |upsert| upsert.read_version);
    let place = TablePlace { location: commit.location.clone(), path: None, version, id: None };
    SinkRecord { name: commit.name.clone(), table: Some(place), before: None, takes_part: true }
}

/// One of these tables.
pub struct Undeclared {
    pub name: String,
    pub location: String,
    pub found: Found,
}

/// The contents of its location.
pub enum Found {
    Table(Box<(Looked, Table)>),
    Nothing,
    /// It cannot be looked at.
    Unknown(Error),
}

impl Undeclared {
    /// Its name in errors: the SQL may name another table like it.
    pub fn shown(&self) -> String {
        format!("{} at {}", self.name, self.location)
    }

    /// Its facts so far.
    pub fn fact(&self) -> Option<SinkFact> {
        match &self.found {
            Found::Table(table) => Some(table.0.fact(&self.shown())),
            Found::Nothing | Found::Unknown(_) => None,
        }
    }

    /// As a sink, to which a pending commit can be made.
    pub fn sink(&self, table: &Table) -> TableSink {
        let (name, location) = (self.shown(), self.location.clone());
        TableSink { name, location, table: table.clone(), options: WriterOptions::default(), upsert: None }
    }
}

/// Looks at each table that is `named`, that the SQL does not name, and that is not among `known`. Returns whether there were any.
pub async fn look_at(known: &mut Vec<Undeclared>, named: &Named, pipeline: &str, sinks: &Sinks, env: &Env) -> bool {
    let (before, home) = (known.len(), &sinks.home);
    for record in &named.records {
        let Some(place) = &record.table else { continue };
        let is_at = |location: &str| place.is(location, home.path_of(location).as_deref());
        let is_declared =
            |sink: &TableSink| is_at(&sink.location) || (named.by_older_version && sink.name == record.name);
        if sinks.tables.iter().any(is_declared) || known.iter().any(|table| is_at(&table.location)) {
            continue;
        }
        let location = home.location_of(place);
        let found = match look(&location, pipeline, sinks, env).await {
            Ok(Some(table)) => Found::Table(Box::new(table)),
            Ok(None) => Found::Nothing,
            Err(error) => Found::Unknown(error),
        };
        known.push(Undeclared { name: record.name.clone(), location, found });
    }
    known.len() > before
}

async fn look(location: &str, pipeline: &str, sinks: &Sinks, env: &Env) -> Result<Option<(Looked, Table)>> {
    let store = sinks.home.open(location, env)?;
    if !store.is_table().await? {
        return Ok(None);
    }
    let table = Table::open(store).await?;
    Ok(Some((Looked::at(location, &table, pipeline).await?, table)))
}
