//! DESCRIBE, and EXPLAIN of streaming plans: answered here instead of being planned by DataFusion.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use serde_json::Value;

use super::columns::{integers, memory, micros as of_rfc3339, strings, timestamps};
use super::declared::{
    Declared, delivery, on_error, sink_connector, sink_format, source_connector, source_format, watermark,
};
use super::{Warehouse, location::Location};
use crate::catalog::{Catalog, InsertDef, PipelineDef, PipelineOptions, Trigger};
use crate::delta::{AsOf, detail, history};
use crate::error::{Error, Result, SqlState};
use crate::model::Model;
use crate::plan::RelationMode;
use crate::plan::{FunctionSet, Targets, columns_of, compile, explain, reads_stream, session_and_problems};
use crate::sql::statement::{Aspect, Describe, Explain, Insert, Name, ObjectKind};
use crate::sql::suggest::did_you_mean;
use crate::sql::types::sql_name;
use crate::sql::{Diagnostic, Diagnostics, Failure, SourceFile, Span, StatementKind};

/// The rows of an answer, or the refusal.
type Answer = Result<Option<Arc<dyn TableProvider>>, Failure>;

/// The position of a statement.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub files: &'a [Arc<SourceFile>],
    pub span: Span,
}

impl Place<'_> {
    fn refuse<T>(&self, diagnostic: Diagnostic) -> Result<T, Failure> {
        Err(Failure::at(self.files, diagnostic))
    }
}

impl Warehouse {
    /// The rows that answer `asked`; `None` if DataFusion has to plan it.
    pub(super) async fn answer(&self, asked: &StatementKind, place: Place<'_>) -> Answer {
        match asked {
            StatementKind::Describe(describe) => self.describe(describe, place).await,
            StatementKind::Explain(asked) => self.explain(asked, place).await,
            StatementKind::Verify(verify) => place.refuse(
                Diagnostic::new(place.span, "`VERIFY PIPELINE` reads the sources again, which a query cannot")
                    .with_hint(format!("Run `weir verify file.sql --pipeline {}`.", verify.pipeline.value)),
            ),
            StatementKind::Migration(_) => place.refuse(
                Diagnostic::new(place.span, "`EXPLAIN MIGRATION` compares SQL files, which a query cannot").with_hint(
                    "Run `weir check file.sql --against-state`, or `weir explain new.sql --migration old.sql`.",
                ),
            ),
            _ => Ok(None),
        }
    }

    async fn describe(&self, asked: &Describe, place: Place<'_>) -> Answer {
        let Describe { aspect, object, name, limit } = asked;
        let table = self.named(&name.value).await?;
        match (aspect, object) {
            (Aspect::History, Some(ObjectKind::Model)) => place.refuse(
                Diagnostic::new(name.span, "a model has no history")
                    .with_hint("A model is one file; `weir status` and `DESCRIBE HISTORY` of its tables tell which one scored what."),
            ),
            (Aspect::History, None | Some(ObjectKind::Table | ObjectKind::MaterializedView)) => match table {
                Some((location, _)) => self.history(&location, *limit).await.map(Some),
                None => self.unknown(asked, place, "table").await,
            },
            (Aspect::History, Some(kind)) => {
                place.refuse(Diagnostic::new(name.span, format!("a {} has no history", kind.word())).with_hint("Tables have one."))
            }
            (Aspect::Detail, None | Some(ObjectKind::Table | ObjectKind::MaterializedView)) if table.is_some() => match table {
                Some((location, _)) => table_detail(&name.value, &location).await.map(Some),
                None => Ok(None),
            },
            (Aspect::Columns, None | Some(ObjectKind::Table | ObjectKind::MaterializedView)) if table.is_some() => match table {
                Some((_, schema)) => Ok(Some(columns(&schema)?)),
                None => Ok(None),
            },
            (aspect, kind) => match self.declared_object(*aspect, *kind, &name.value).await? {
                Some(found) => Ok(Some(found)),
                None => self.unknown(asked, place, kind.map_or("object", ObjectKind::word)).await,
            },
        }
    }

    /// Location and columns of a table of the warehouse.
    async fn named(&self, name: &str) -> Result<Option<(Location, SchemaRef)>> {
        let found = self.find(name, AsOf::Newest).await?;
        let Some(found) = found else { return Ok(None) };
        let location = self.location_of(name).await?;
        Ok(Some((location, found.provider.schema())))
    }

    async fn declared_object(
        &self,
        aspect: Aspect,
        kind: Option<ObjectKind>,
        name: &str,
    ) -> Result<Option<Arc<dyn TableProvider>>> {
        let Some(declared) = self.declared_files() else { return Ok(None) };
        let catalog = &declared.catalog;
        let is = |wanted: ObjectKind| kind.is_none_or(|kind| kind == wanted);
        let details = aspect == Aspect::Detail;
        let found = if let Some(slot) = declared.models.get(name).filter(|_| is(ObjectKind::Model)) {
            properties(&model(&slot.current()))
        } else if let Some(def) = catalog.sources.get(name).filter(|_| is(ObjectKind::Source)) {
            if details { properties(&source(declared, name)) } else { columns(&def.schema()) }
        } else if let Some(def) = catalog.sinks.get(name).filter(|_| is(ObjectKind::Sink)) {
            if details || def.columns.is_empty() {
                properties(&sink(declared, name))
            } else {
                columns(&sink_schema(def))
            }
        } else if catalog.views.contains_key(name) && (is(ObjectKind::View) || is(ObjectKind::MaterializedView)) {
            match (details, view_columns(declared, name).await) {
                (false, Some(schema)) => columns(&schema),
                _ => properties(&view(declared, name)),
            }
        } else if let Some(def) = catalog.tables.get(name).filter(|_| is(ObjectKind::Table)) {
            if details { properties(&table(declared, name)) } else { columns(&def.schema()) }
        } else if catalog.functions.contains_key(name) && is(ObjectKind::Function) {
            properties(&function(declared, name))
        } else if catalog.pipeline(name).is_some() && is(ObjectKind::Pipeline) {
            properties(&pipeline(catalog, name))
        } else if catalog.secrets.iter().any(|secret| secret == name) && is(ObjectKind::Secret) {
            properties(&[("kind", "secret".to_owned()), ("text", "never shown".to_owned())])
        } else {
            return Ok(None);
        };
        found.map(Some)
    }

    async fn unknown(&self, asked: &Describe, place: Place<'_>, kind: &str) -> Answer {
        let name = &asked.name;
        let mut known: Vec<String> = self.list_tables().await?.into_iter().map(|entry| entry.name).collect();
        if let Some(declared) = self.declared_files() {
            let catalog = &declared.catalog;
            known.extend(catalog.sources.keys().chain(catalog.tables.keys()).chain(catalog.sinks.keys()).cloned());
            known.extend(catalog.views.keys().chain(catalog.functions.keys()).chain(catalog.models.keys()).cloned());
            known.extend(catalog.pipelines.iter().map(|pipeline| pipeline.name.clone()));
        }
        let hint = did_you_mean(&name.value, known.iter().map(String::as_str));
        let files = "Sources, sinks, views, functions and models are known to `weir query --file file.sql` and to `weir run --serve`.";
        let hint = hint.or_else(|| self.declared_files().is_none().then(|| files.to_owned()));
        let error = Diagnostic::new(name.span, format!("{kind} `{}` does not exist", name.value));
        let state = if kind == "table" { SqlState::UNDEFINED_TABLE } else { SqlState::UNDEFINED_OBJECT };
        place.refuse(error.with_state(state).or_hint(hint))
    }

    async fn history(&self, table: &Location, limit: Option<usize>) -> Result<Arc<dyn TableProvider>, Failure> {
        let commits = history(table.store().as_ref(), table.path(), limit).await?;
        let infos: Vec<&Value> = commits.iter().map(|commit| &commit.info).collect();
        let user: Vec<Value> = infos.iter().map(|info| user_metadata(info)).collect();
        let of = |key: &'static str| strings(infos.iter().map(move |info| text(info, key)));
        Ok(memory(vec![
            ("version", integers(commits.iter().map(|commit| i64::try_from(commit.version).ok()))),
            ("timestamp", timestamps(infos.iter().map(|info| micros(info.get("timestamp"))))),
            ("operation", of("operation")),
            ("pipeline", strings(user.iter().map(|user| text(user, "pipeline")))),
            ("epoch", integers(user.iter().map(|user| integer(user, "epoch")))),
            ("operation_parameters", of("operationParameters")),
            ("operation_metrics", of("operationMetrics")),
            ("engine_info", of("engineInfo")),
            ("user_metadata", of("userMetadata")),
        ])?)
    }

    async fn explain(&self, asked: &Explain, place: Place<'_>) -> Answer {
        let (insert, is_insert) = match &asked.statement.kind {
            StatementKind::Insert(insert) => (insert.clone(), true),
            StatementKind::Query(query) => {
                let target = Name { value: "the reader".to_owned(), span: asked.statement.span };
                (Insert { target, columns: Vec::new(), query: query.clone(), span: asked.statement.span }, false)
            }
            _ => return Ok(None),
        };
        let streams =
            self.declared_files().filter(|declared| is_insert || reads_stream(&declared.catalog, &insert.query));
        let Some(declared) = streams else {
            if !is_insert {
                return Ok(None);
            }
            let error =
                Diagnostic::new(insert.target.span, "`EXPLAIN INSERT` needs the files that declare what it reads");
            return place.refuse(error.with_hint("Name them: `weir query --file file.sql 'EXPLAIN INSERT …'`."));
        };
        let mut catalog = declared.catalog.clone();
        catalog.files = crate::sql::Files::new(place.files);
        let is_target = |name: &str| catalog.tables.contains_key(name) || catalog.sinks.contains_key(name);
        let target = &insert.target.value;
        if is_insert && !is_target(target) && !catalog.broken.relations.contains(target) {
            let known = catalog.tables.keys().chain(catalog.sinks.keys()).map(String::as_str);
            let error = Diagnostic::new(insert.target.span, format!("unknown table or sink `{target}`"));
            return place.refuse(error.or_hint(did_you_mean(target, known)));
        }
        let pipeline = explained(&catalog, insert);
        let targets: Targets = crate::epoch::declared_targets(&catalog, &pipeline);
        let functions = FunctionSet { models: declared.functions.clone(), ..FunctionSet::default() };
        let runtime = Arc::clone(self.runtime());
        let (session, _) = session_and_problems(&catalog, &functions, runtime, RelationMode::Stream);
        match compile(&catalog, &pipeline, &targets, session).await {
            Ok(dataflow) => {
                let plan = explain(&dataflow);
                Ok(Some(memory(vec![("plan", strings(plan.trim_end().lines().map(|line| Some(line.to_owned()))))])?))
            }
            Err(problems) => Err(Failure::Sql(Diagnostics::new(place.files, problems))),
        }
    }
}

/// A pipeline of one INSERT, with the options of the pipeline that writes the same target.
fn explained(catalog: &Catalog, insert: Insert) -> PipelineDef {
    let writes = |pipeline: &&PipelineDef| pipeline.inserts.iter().any(|other| other.target == insert.target.value);
    let like = catalog.pipelines.iter().find(writes).or(match catalog.pipelines.as_slice() {
        [only] => Some(only),
        _ => None,
    });
    let options = like.map_or_else(PipelineOptions::default, |pipeline| pipeline.options.clone());
    let span = insert.span;
    PipelineDef { name: "explain".to_owned(), options, inserts: vec![InsertDef::from(insert)], span }
}

async fn view_columns(declared: &Declared, name: &str) -> Option<SchemaRef> {
    let functions = FunctionSet { models: declared.functions.clone(), ..FunctionSet::default() };
    columns_of(&declared.catalog, &functions, name).await
}

fn sink_schema(def: &crate::catalog::SinkDef) -> SchemaRef {
    use arrow::datatypes::{Field, Schema};
    let fields = def.columns.iter().map(|column| Field::new(&column.name, column.data_type.clone(), column.nullable));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// A field of the JSON that any writer has put into the log.
fn text(noted: &Value, key: &str) -> Option<String> {
    match noted.get(key)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn integer(noted: &Value, key: &str) -> Option<i64> {
    noted.get(key)?.as_i64()
}

/// RFC 3339 text or milliseconds since 1970 UTC, as microseconds.
fn micros(noted: Option<&Value>) -> Option<i64> {
    match noted? {
        Value::String(text) => of_rfc3339(text),
        Value::Number(ms) => ms.as_i64()?.checked_mul(1000),
        _ => None,
    }
}

/// The JSON that weir writes into `userMetadata`, or null.
fn user_metadata(info: &Value) -> Value {
    let kept = info.get("userMetadata").and_then(Value::as_str);
    kept.and_then(|kept| serde_json::from_str(kept).ok()).unwrap_or_default()
}

/// Columns in the form of DataFusion's own DESCRIBE.
fn columns(schema: &SchemaRef) -> Result<Arc<dyn TableProvider>, Error> {
    let fields = schema.fields();
    memory(vec![
        ("column_name", strings(fields.iter().map(|field| Some(field.name().clone())))),
        ("data_type", strings(fields.iter().map(|field| Some(field.data_type().to_string())))),
        (
            "is_nullable",
            strings(fields.iter().map(|field| Some(if field.is_nullable() { "YES" } else { "NO" }.to_owned()))),
        ),
    ])
}

type Properties = Vec<(&'static str, String)>;

fn properties(properties: &[(&str, String)]) -> Result<Arc<dyn TableProvider>, Error> {
    memory(vec![
        ("property", strings(properties.iter().map(|(name, _)| Some((*name).to_owned())))),
        ("value", strings(properties.iter().map(|(_, value)| Some(value.clone())))),
    ])
}

fn model(model: &Model) -> Properties {
    let path = |name| if name == "origin" { "path" } else { name };
    model.describe().into_iter().map(|(name, value)| (path(name), value)).collect()
}

/// The properties that have a value.
fn present(all: Vec<(&'static str, Option<String>)>) -> Properties {
    all.into_iter().filter_map(|(name, value)| value.map(|value| (name, value))).collect()
}

fn source(declared: &Declared, name: &str) -> Properties {
    let Some(def) = declared.catalog.sources.get(name) else { return Vec::new() };
    let (connector, reads) = source_connector(def);
    present(vec![
        ("kind", Some("source".to_owned())),
        ("connector", Some(connector.to_owned())),
        ("reads", Some(reads)),
        ("format", source_format(def)),
        ("watermark", watermark(def)),
        ("on_error", Some(on_error(def.on_error).to_owned())),
        ("declared_at", declared.catalog.files.place(def.span)),
    ])
}

fn sink(declared: &Declared, name: &str) -> Properties {
    let Some(def) = declared.catalog.sinks.get(name) else { return Vec::new() };
    let (connector, writes) = sink_connector(def);
    present(vec![
        ("kind", Some("sink".to_owned())),
        ("connector", Some(connector.to_owned())),
        ("writes", writes),
        ("format", sink_format(def)),
        ("delivery", delivery(def)),
        ("declared_at", declared.catalog.files.place(def.span)),
    ])
}

fn view(declared: &Declared, name: &str) -> Properties {
    let catalog = &declared.catalog;
    let Some(def) = catalog.views.get(name) else { return Vec::new() };
    let kind = if catalog.materialized.contains_key(name) { "materialized view" } else { "view" };
    present(vec![
        ("kind", Some(kind.to_owned())),
        ("columns", (!def.columns.is_empty()).then(|| def.columns.join(", "))),
        ("query", Some(def.query.to_string())),
        ("declared_at", catalog.files.place(def.span)),
    ])
}

/// A table that nothing has written yet.
fn table(declared: &Declared, name: &str) -> Properties {
    let Some(def) = declared.catalog.tables.get(name) else { return Vec::new() };
    present(vec![
        ("kind", Some("table".to_owned())),
        ("state", Some("declared, not written yet".to_owned())),
        ("location", def.location.clone()),
        ("partition_columns", (!def.partitioned_by.is_empty()).then(|| def.partitioned_by.join(", "))),
        ("primary_key", (!def.primary_key.is_empty()).then(|| def.primary_key.join(", "))),
        ("declared_at", declared.catalog.files.place(def.span)),
    ])
}

fn function(declared: &Declared, name: &str) -> Properties {
    let Some(def) = declared.catalog.functions.get(name) else { return Vec::new() };
    let arguments = def.arguments.iter().map(|(name, kind)| format!("{name} {}", sql_name(kind)));
    present(vec![
        ("kind", Some("function".to_owned())),
        ("arguments", Some(arguments.collect::<Vec<_>>().join(", "))),
        ("returns", Some(sql_name(&def.returns))),
        ("body", Some(def.body.to_string())),
        ("declared_at", declared.catalog.files.place(def.span)),
    ])
}

fn pipeline(catalog: &Catalog, name: &str) -> Properties {
    let Some(def) = catalog.pipeline(name) else { return Vec::new() };
    let targets: Vec<&str> = def.inserts.iter().map(|insert| insert.target.as_str()).collect();
    present(vec![
        ("kind", Some("pipeline".to_owned())),
        ("writes", Some(targets.join(", "))),
        ("trigger", Some(trigger(def.options.trigger.unwrap_or_default()))),
        ("max_rows_per_micro_batch", Some(def.options.max_rows_per_micro_batch.to_string())),
        ("parallelism", def.options.parallelism.map(|lanes| lanes.to_string())),
        ("declared_at", catalog.files.place(def.span)),
    ])
}

/// A trigger in SQL form.
fn trigger(trigger: Trigger) -> String {
    match trigger {
        Trigger::Interval(interval) => format!("{interval:?}"),
        Trigger::AvailableNow => "available now".to_owned(),
        Trigger::Continuous => "continuous".to_owned(),
    }
}

/// One row about the table, with the columns of Delta's DESCRIBE DETAIL.
async fn table_detail(name: &str, location: &Location) -> Result<Arc<dyn TableProvider>, Failure> {
    let found = detail(location.url(), Arc::clone(location.store())).await?;
    let metadata = &found.metadata;
    let one = |value: Option<String>| strings(std::iter::once(value));
    let number = |value: u64| integers(std::iter::once(i64::try_from(value).ok()));
    let json = |value: Option<&Value>| one(value.map(Value::to_string));
    Ok(memory(vec![
        ("format", one(Some("delta".to_owned()))),
        ("id", one(text(metadata, "id"))),
        ("name", one(Some(name.to_owned()))),
        ("location", one(Some(location.place().to_string()))),
        ("version", number(found.version)),
        ("created_at", timestamps(std::iter::once(micros(metadata.get("createdTime"))))),
        ("partition_columns", json(metadata.get("partitionColumns"))),
        ("num_files", number(found.files)),
        ("size_in_bytes", number(found.bytes)),
        ("properties", json(metadata.get("configuration"))),
        ("min_reader_version", integers(std::iter::once(integer(&found.protocol, "minReaderVersion")))),
        ("min_writer_version", integers(std::iter::once(integer(&found.protocol, "minWriterVersion")))),
    ])?)
}
