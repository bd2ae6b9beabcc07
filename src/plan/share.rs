//! The choice of views that are computed once and held; the others are written into their one reader.
//!
//! A view with one reader costs nothing as part of it; a view with two would be computed twice. So a view that the
//! pipeline reads in more than one place becomes a fragment of its own.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::sql::sqlparser::ast::Query;

use crate::catalog::{Catalog, PipelineDef};
pub use crate::sql::relations::relations as relation_names;

/// Relations that a pipeline reads, in dependency order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Sources, in order of first use.
    pub sources: Vec<String>,
    /// Delta tables that streams are joined to.
    pub tables: Vec<String>,
    /// Views, each after those it reads.
    pub views: Vec<String>,
    /// Of these, the ones with more than one reader.
    pub shared: BTreeSet<String>,
}

/// Follows every query of `pipeline` through the catalog's views.
pub fn reading(catalog: &Catalog, pipeline: &PipelineDef) -> Reading {
    let mut walk = Walk { catalog, readers: BTreeMap::new(), found: Reading::default(), open: BTreeSet::new() };
    for insert in &pipeline.inserts {
        walk.query(&insert.query);
    }
    let Walk { readers, mut found, .. } = walk;
    found.shared = readers.into_iter().filter(|(_, count)| *count > 1).map(|(name, _)| name).collect();
    found
}

/// Every source and view, each after those it reads, and the tables that views read.
pub fn everything(catalog: &Catalog) -> Reading {
    let mut walk = Walk { catalog, readers: BTreeMap::new(), found: Reading::default(), open: BTreeSet::new() };
    for name in catalog.sources.keys().chain(&catalog.view_order) {
        walk.name(name);
    }
    walk.found
}

/// True when the query reads a source or a view, as a pipeline does.
pub fn reads_stream(catalog: &Catalog, query: &Query) -> bool {
    let is_stream = |name: &String| catalog.sources.contains_key(name) || catalog.views.contains_key(name);
    relation_names(query).iter().any(is_stream)
}

/// The Delta tables that `pipeline` joins streams to, by name.
pub fn lookup_tables(catalog: &Catalog, pipeline: &PipelineDef) -> Vec<String> {
    reading(catalog, pipeline).tables
}

struct Walk<'a> {
    catalog: &'a Catalog,
    readers: BTreeMap<String, usize>,
    found: Reading,
    open: BTreeSet<String>,
}

impl Walk<'_> {
    fn query(&mut self, query: &Query) {
        for name in relation_names(query) {
            self.name(&name);
        }
    }

    fn name(&mut self, name: &str) {
        if self.catalog.sources.contains_key(name) {
            if !self.found.sources.iter().any(|known| known == name) {
                self.found.sources.push(name.to_owned());
            }
            return;
        }
        let Some(view) = self.catalog.views.get(name) else {
            if self.catalog.tables.contains_key(name) && !self.found.tables.iter().any(|known| known == name) {
                self.found.tables.push(name.to_owned());
            }
            return;
        };
        *self.readers.entry(name.to_owned()).or_default() += 1;
        // A view that reads itself is refused by the catalog; `open` only keeps this walk finite.
        if self.found.views.iter().any(|known| known == name) || !self.open.insert(name.to_owned()) {
            return;
        }
        self.query(&view.query);
        self.open.remove(name);
        self.found.views.push(name.to_owned());
    }
}
