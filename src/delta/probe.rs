//! Trials of `weir check --connect` at a table's place, and the place of a location on this machine.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Table, TableStore};
use crate::catalog::{Secret, TableDef};
use crate::env::Env;
use crate::error::{Error, Result};

/// One step that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeStep {
    /// `location`, `permissions` or `table`.
    pub name: &'static str,
    /// The finding or failure, in a line.
    pub outcome: Result<String, String>,
    /// The remedy, as a sentence.
    pub hint: Option<String>,
}

/// Tries to reach `location`, to list, write, read and delete there, and to open the table; stops at the first failure.
/// Leaves nothing behind and makes no table.
pub async fn probe(location: &str, storage: &BTreeMap<String, Secret>, def: &TableDef, env: &Env) -> Vec<ProbeStep> {
    let mut steps = Vec::new();
    let store = match TableStore::open(location, storage, env) {
        Ok(store) => store,
        Err(error) => return vec![failed("location", &error, "Correct the LOCATION or the warehouse.")],
    };
    steps.push(ProbeStep { name: "location", outcome: Ok(location.to_owned()), hint: None });
    if let Err(error) = store.probe().await {
        steps.push(failed("permissions", &error, "Grant list, write, read and delete on the table's folder."));
        return steps;
    }
    steps.push(ProbeStep { name: "permissions", outcome: Ok("list, write, read, delete".to_owned()), hint: None });
    let found = async {
        if !store.is_table().await? {
            return match def.columns.is_empty() {
                true => Err(Error::sql(format!("table `{}` does not exist", def.name))
                    .with_hint("Declare its columns to have it created.")),
                false => Ok("will be created".to_owned()),
            };
        }
        let table = Table::open_or_create(store, def).await?;
        Ok(format!("version {}", table.version().await))
    };
    match found.await {
        Ok(found) => steps.push(ProbeStep { name: "table", outcome: Ok(found), hint: None }),
        Err(error) => steps.push(failed("table", &error, "Make the declaration match the table.")),
    }
    steps
}

fn failed(name: &'static str, error: &Error, hint: &str) -> ProbeStep {
    let mut text = error.message().to_owned();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    ProbeStep { name, outcome: Err(text), hint: Some(error.hint().unwrap_or(hint).to_owned()) }
}

/// The folder that a location names on this machine; `None` for other stores.
pub fn local_folder(location: &str) -> Option<PathBuf> {
    match location.split_once("://") {
        None => Some(PathBuf::from(location)),
        Some(("file", path)) => {
            let url = url::Url::parse(location).ok();
            Some(url.and_then(|url| url.to_file_path().ok()).unwrap_or_else(|| PathBuf::from(path)))
        }
        Some(_) => None,
    }
}
