//! The declarations of SQL files as tables of schema `weir`.
//!
//! Secrets are shown by name only, and of a connector's options only those that name what it reads or writes.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::logical_expr::ScalarUDF;

use super::columns::{integers, memory, strings};
use crate::catalog::{
    Catalog, ChangeFormat, Delivery, Format, OnError, SinkConnector, SinkDef, SourceConnector, SourceDef, TableFeed,
};
use crate::error::Result;
use crate::model::ModelSlot;
use crate::sql::Span;
use crate::sql::types::sql_name;

/// True if the system table shows only declarations of files.
pub fn is_declared(table: &str) -> bool {
    !matches!(table, "state" | "progress" | "pipelines" | "tables" | "dead_letters")
}

/// The catalog of a set of SQL files with the models that it names.
#[derive(Debug, Default)]
pub struct Declared {
    pub catalog: Catalog,
    pub models: BTreeMap<String, Arc<ModelSlot>>,
    /// The models as functions.
    pub functions: Vec<Arc<ScalarUDF>>,
    /// `true` if declared tables that were not written yet can be read, as empty ones.
    pub empty_tables: bool,
}

impl Declared {
    /// The table `name` of the declarations; `None` if there is no such table.
    pub fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let table = match name {
            "sources" => self.sources(),
            "sinks" => self.sinks(),
            "views" => self.views(),
            "materialized_views" => self.materialized_views(),
            "functions" => self.functions(),
            "models" => self.models(),
            "secrets" => memory(vec![("secret", strings(self.catalog.secrets.iter().cloned().map(Some)))]),
            _ => return Ok(None),
        };
        table.map(Some)
    }

    /// `file:line:column` of a declaration.
    fn place(&self, span: Span) -> Option<String> {
        self.catalog.files.place(span)
    }

    fn sources(&self) -> Result<Arc<dyn TableProvider>> {
        let all: Vec<&SourceDef> = self.catalog.sources.values().collect();
        let of = |read: &dyn Fn(&SourceDef) -> Option<String>| strings(all.iter().map(|def| read(def)));
        memory(vec![
            ("source", of(&|def| Some(def.name.clone()))),
            ("connector", of(&|def| Some(source_connector(def).0.to_owned()))),
            ("reads", of(&|def| Some(source_connector(def).1))),
            ("format", of(&|def| source_format(def))),
            ("watermark", of(&|def| watermark(def))),
            ("on_error", of(&|def| Some(on_error(def.on_error).to_owned()))),
            ("declared_at", of(&|def| self.place(def.span))),
        ])
    }

    fn sinks(&self) -> Result<Arc<dyn TableProvider>> {
        let all: Vec<&SinkDef> = self.catalog.sinks.values().collect();
        let of = |read: &dyn Fn(&SinkDef) -> Option<String>| strings(all.iter().map(|def| read(def)));
        memory(vec![
            ("sink", of(&|def| Some(def.name.clone()))),
            ("connector", of(&|def| Some(sink_connector(def).0.to_owned()))),
            ("writes", of(&|def| sink_connector(def).1)),
            ("format", of(&|def| sink_format(def))),
            ("delivery", of(&|def| delivery(def))),
            ("declared_at", of(&|def| self.place(def.span))),
        ])
    }

    fn views(&self) -> Result<Arc<dyn TableProvider>> {
        let names = self.catalog.view_order.iter().filter(|name| !self.catalog.materialized.contains_key(*name));
        let all: Vec<_> = names.filter_map(|name| self.catalog.views.get(name)).collect();
        memory(vec![
            ("view", strings(all.iter().map(|view| Some(view.name.clone())))),
            ("query", strings(all.iter().map(|view| Some(view.query.to_string())))),
            ("declared_at", strings(all.iter().map(|view| self.place(view.span)))),
        ])
    }

    fn materialized_views(&self) -> Result<Arc<dyn TableProvider>> {
        let names = self.catalog.view_order.iter().filter(|name| self.catalog.materialized.contains_key(*name));
        let all: Vec<_> = names.filter_map(|name| self.catalog.views.get(name)).collect();
        let key = |name: &str| {
            let key = &self.catalog.tables.get(name)?.primary_key;
            (!key.is_empty()).then(|| key.join(", "))
        };
        memory(vec![
            ("materialized_view", strings(all.iter().map(|view| Some(view.name.clone())))),
            ("primary_key", strings(all.iter().map(|view| key(&view.name)))),
            ("query", strings(all.iter().map(|view| Some(view.query.to_string())))),
            ("declared_at", strings(all.iter().map(|view| self.place(view.span)))),
        ])
    }

    fn functions(&self) -> Result<Arc<dyn TableProvider>> {
        let all: Vec<_> = self.catalog.functions.values().collect();
        let arguments = |def: &crate::catalog::FunctionDef| {
            let each = def.arguments.iter().map(|(name, kind)| format!("{name} {}", sql_name(kind)));
            each.collect::<Vec<_>>().join(", ")
        };
        memory(vec![
            ("function", strings(all.iter().map(|def| Some(def.name.clone())))),
            ("arguments", strings(all.iter().map(|def| Some(arguments(def))))),
            ("returns", strings(all.iter().map(|def| Some(sql_name(&def.returns))))),
            ("body", strings(all.iter().map(|def| Some(def.body.to_string())))),
            ("declared_at", strings(all.iter().map(|def| self.place(def.span)))),
        ])
    }

    fn models(&self) -> Result<Arc<dyn TableProvider>> {
        let all: Vec<_> =
            self.models.iter().map(|(name, slot)| (name, slot.current(), self.catalog.models.get(name))).collect();
        let count = |count: usize| i64::try_from(count).ok();
        memory(vec![
            ("model", strings(all.iter().map(|(name, ..)| Some((*name).clone())))),
            ("objective", strings(all.iter().map(|(_, model, _)| Some(model.objective().to_string())))),
            ("features", integers(all.iter().map(|(_, model, _)| count(model.features().len())))),
            ("trees", integers(all.iter().map(|(_, model, _)| count(model.trees())))),
            ("leaves", integers(all.iter().map(|(_, model, _)| count(model.leaves())))),
            ("evaluator", strings(all.iter().map(|(_, model, _)| Some(model.evaluator().to_owned())))),
            ("path", strings(all.iter().map(|(_, model, _)| Some(model.origin().to_owned())))),
            ("sha256", strings(all.iter().map(|(_, model, _)| Some(model.hash().to_owned())))),
            ("declared_at", strings(all.iter().map(|(.., def)| self.place(def.as_ref()?.span)))),
        ])
    }
}

/// A source's connector, and the object that it reads.
pub fn source_connector(def: &SourceDef) -> (&'static str, String) {
    match &def.connector {
        SourceConnector::Kafka(options) => {
            let connector = if options.event_hubs { "eventhubs" } else { "kafka" };
            (connector, format!("topic {} at {}", options.topic, options.connection.bootstrap_servers))
        }
        SourceConnector::File(options) => ("file", options.path.clone()),
        SourceConnector::Generator(options) => {
            ("generator", format!("{:?} seed {}", options.table, options.seed).to_lowercase())
        }
        SourceConnector::Nexmark(options) => {
            ("nexmark", format!("{:?} seed {}", options.table, options.seed).to_lowercase())
        }
        SourceConnector::Delta(options) => match options.feed {
            TableFeed::Append => ("delta", options.path.clone()),
            TableFeed::Changes => ("delta", format!("changes of {}", options.path)),
        },
    }
}

/// The encoding of a source's payloads, if it has any.
pub fn source_format(def: &SourceDef) -> Option<String> {
    let has_payload = matches!(def.connector, SourceConnector::Kafka(_) | SourceConnector::File(_));
    has_payload.then(|| format_word(def.format).to_owned())
}

/// `ts AS ts - INTERVAL '5 seconds'`.
pub fn watermark(def: &SourceDef) -> Option<String> {
    def.watermark.as_ref().map(|watermark| format!("{} AS {}", watermark.column, watermark.expression))
}

/// The option's value in SQL.
pub fn on_error(on_error: OnError) -> &'static str {
    match on_error {
        OnError::DeadLetter => "dead_letter",
        OnError::Fail => "fail",
        OnError::Drop => "drop",
    }
}

/// A sink's connector, and the object that it writes.
pub fn sink_connector(def: &SinkDef) -> (&'static str, Option<String>) {
    match &def.connector {
        SinkConnector::Kafka(options) => {
            ("kafka", Some(format!("topic {} at {}", options.topic, options.connection.bootstrap_servers)))
        }
        SinkConnector::Console => ("console", None),
        SinkConnector::File { path } => ("file", Some(path.clone())),
        SinkConnector::Blackhole => ("blackhole", None),
    }
}

/// The encoding of a sink's rows, if it has one.
pub fn sink_format(def: &SinkDef) -> Option<String> {
    match &def.connector {
        SinkConnector::Kafka(options) => Some(match options.changes.as_ref().map(|changes| changes.format) {
            Some(ChangeFormat::Debezium) => "debezium-json".to_owned(),
            Some(ChangeFormat::Upsert) | None => "json".to_owned(),
        }),
        SinkConnector::File { .. } => Some(format_word(def.format).to_owned()),
        SinkConnector::Console | SinkConnector::Blackhole => None,
    }
}

/// The delivery guarantee of a Kafka sink.
pub fn delivery(def: &SinkDef) -> Option<String> {
    let SinkConnector::Kafka(options) = &def.connector else { return None };
    Some(match options.delivery {
        Delivery::ExactlyOnce => "exactly_once".to_owned(),
        Delivery::AtLeastOnce => "at_least_once".to_owned(),
    })
}

fn format_word(format: Format) -> &'static str {
    match format {
        Format::Json => "json",
        Format::Csv => "csv",
        Format::Parquet => "parquet",
    }
}
