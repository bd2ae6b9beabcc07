//! Statements to a catalog, in their order: CREATE adds, DROP removes, INSERTs gather into pipelines. An error in one
//! statement does not stop the next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::definition::{FunctionDef, ModelDef, PipelineDef, PipelineOptions, Secret, ViewDef};
use super::folders::check_folders;
use super::materialized::primary_key;
use super::names::{Claim, Names, Namespace};
use super::options::{OptionReader, Scope, pipeline as pipeline_options};
use super::pipelines::{check_cycles, check_insert, check_seeds};
use super::weight::check_weights;
use super::{Catalog, relations};
use crate::sql::statement::{
    CreateFunction, CreateMaterializedView, CreateModel, CreatePipeline, CreateRelation, CreateSecret, CreateView,
    Drop, Head, Insert, ObjectKind, SecretOrigin,
};
use crate::sql::{Diagnostic, Files, SourceFile, Span, StatementKind, parse};

/// See [`Catalog::read`].
pub fn read(files: &[Arc<SourceFile>], lookup: &dyn Fn(&str) -> Option<String>) -> (Catalog, Vec<Diagnostic>) {
    let mut loader = Loader {
        lookup,
        files: Files::new(files),
        catalog: Catalog { files: Files::new(files), ..Catalog::default() },
        names: Names::default(),
        secrets: BTreeMap::new(),
        foreign: Vec::new(),
        inserts: Vec::new(),
        unread_targets: BTreeSet::new(),
        errors: Vec::new(),
    };
    for (index, file) in files.iter().enumerate() {
        let Ok(number) = u16::try_from(index) else {
            loader.errors.push(Diagnostic::new(Span::default(), "more than 65,536 SQL files"));
            break;
        };
        let (statements, errors) = parse(file, number);
        loader.errors.extend(errors);
        let mut bare = Vec::new();
        for statement in statements {
            match statement.kind {
                StatementKind::Insert(insert) => bare.push(insert),
                StatementKind::Query(_)
                | StatementKind::Explain(_)
                | StatementKind::Show(_)
                | StatementKind::ShowState(_)
                | StatementKind::Verify(_)
                | StatementKind::Migration(_)
                | StatementKind::Describe(_) => {
                    loader.catalog.statements.push(statement);
                }
                StatementKind::CreateMaterializedView(create) => bare.extend(loader.materialized_view(create)),
                kind => loader.run(kind),
            }
        }
        bare.retain(|insert| loader.fills(insert));
        loader.bare_inserts(file, bare);
    }
    loader.finish()
}

struct Loader<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    files: Files,
    catalog: Catalog,
    names: Names,
    secrets: BTreeMap<String, Result<Secret, String>>,
    /// `CREATE TABLE … WITH (connector = …)`: sources or sinks, which is decided at the end.
    foreign: Vec<CreateRelation>,
    /// Every INSERT, checked once all objects are known.
    inserts: Vec<Insert>,
    /// Targets of INSERTs that could not be parsed.
    unread_targets: BTreeSet<String>,
    errors: Vec<Diagnostic>,
}

impl Loader<'_> {
    fn run(&mut self, kind: StatementKind) {
        match kind {
            StatementKind::CreateSecret(create) => self.secret(&create),
            StatementKind::CreateSource(create) => self.relation(create, ObjectKind::Source),
            StatementKind::CreateTable(create) => self.relation(create, ObjectKind::Table),
            StatementKind::CreateSink(create) => self.relation(create, ObjectKind::Sink),
            StatementKind::CreateView(create) => self.view(create),
            StatementKind::CreateFunction(create) => self.function(create),
            StatementKind::CreateModel(create) => self.model(&create),
            StatementKind::CreatePipeline(create) => self.pipeline(create),
            StatementKind::Drop(drop) => self.drop(&drop),
            StatementKind::Broken(name) => self.names.set_broken(name.value),
            StatementKind::BrokenInsert(target) => drop(self.unread_targets.insert(target.value)),
            // `read` handles these.
            StatementKind::CreateMaterializedView(_)
            | StatementKind::ShowState(_)
            | StatementKind::Verify(_)
            | StatementKind::Migration(_)
            | StatementKind::Insert(_)
            | StatementKind::Query(_)
            | StatementKind::Explain(_)
            | StatementKind::Show(_)
            | StatementKind::Describe(_) => {}
        }
    }

    /// True if the statement takes effect; an object that it replaces has then been removed.
    fn claim(&mut self, head: &Head, kind: ObjectKind) -> bool {
        match self.names.claim(head, kind, &self.files) {
            Ok(Claim::New) => true,
            Ok(Claim::Replace) => {
                self.remove(kind, &head.name.value);
                true
            }
            Ok(Claim::Keep) => false,
            Err(error) => {
                self.errors.push(error);
                // The name could mean either kind, so errors about it are suppressed.
                if matches!(Namespace::of(kind), Namespace::Relations | Namespace::Callables)
                    && self.names.kind(kind, &head.name.value) != Some(kind)
                {
                    self.names.set_broken(head.name.value.clone());
                }
                false
            }
        }
    }

    fn remove(&mut self, kind: ObjectKind, name: &str) {
        let catalog = &mut self.catalog;
        match kind {
            ObjectKind::Secret => drop(self.secrets.remove(name)),
            ObjectKind::Source => drop(catalog.sources.remove(name)),
            ObjectKind::Table => {
                catalog.tables.remove(name);
                self.foreign.retain(|create| create.head.name.value != name);
            }
            ObjectKind::Sink => drop(catalog.sinks.remove(name)),
            ObjectKind::View => {
                catalog.views.remove(name);
                catalog.view_order.retain(|view| view != name);
            }
            ObjectKind::MaterializedView => {
                catalog.tables.remove(name);
                catalog.views.remove(name);
                catalog.view_order.retain(|view| view != name);
                let gone = catalog.materialized.remove(name);
                for pipeline in &mut catalog.pipelines {
                    pipeline.inserts.retain(|insert| Some(insert.span) != gone);
                }
            }
            ObjectKind::Function => drop(catalog.functions.remove(name)),
            ObjectKind::Model => drop(catalog.models.remove(name)),
            ObjectKind::Pipeline => {
                catalog.pipelines.retain(|pipeline| {
                    let stays = pipeline.name != name;
                    if !stays {
                        self.inserts.retain(|insert| !pipeline.inserts.iter().any(|gone| gone.span == insert.span));
                    }
                    stays
                });
            }
        }
    }

    fn drop(&mut self, statement: &Drop) {
        match self.names.release(&statement.name, statement.object, statement.if_exists) {
            Ok(true) => self.remove(statement.object, &statement.name.value),
            Ok(false) => {}
            Err(error) => self.errors.push(error),
        }
    }

    /// Reads a secret's text now; a missing one is an error only where it is used.
    fn secret(&mut self, create: &CreateSecret) {
        if !self.claim(&create.head, ObjectKind::Secret) {
            return;
        }
        let text = match &create.from {
            SecretOrigin::Env(name) => match (self.lookup)(&name.value) {
                Some(text) if !text.is_empty() => Ok(Secret::new(text)),
                Some(_) => Err(format!("Environment variable `{}` is empty.", name.value)),
                None => Err(format!("Environment variable `{}` is not set.", name.value)),
            },
            SecretOrigin::File(path) => std::fs::read_to_string(&path.value)
                .map(|text| Secret::new(text.trim_end_matches(['\r', '\n'])))
                .map_err(|error| format!("File `{}`: {error}.", path.value)),
        };
        self.secrets.insert(create.head.name.value.clone(), text);
    }

    fn relation(&mut self, create: CreateRelation, kind: ObjectKind) {
        if !self.claim(&create.head, kind) {
            return;
        }
        let name = create.head.name.value.clone();
        let scope = Scope { files: &self.files, lookup: self.lookup, secrets: &self.secrets };
        let built = match kind {
            ObjectKind::Source => relations::source(&create, &scope, &mut self.errors)
                .map(|source| drop(self.catalog.sources.insert(name.clone(), source))),
            ObjectKind::Sink => relations::sink(&create, false, &scope, &mut self.errors)
                .map(|sink| drop(self.catalog.sinks.insert(name.clone(), sink))),
            _ if create.with.is_some() => {
                self.foreign.push(create);
                return;
            }
            _ => relations::table(&create, &scope, &mut self.errors)
                .map(|table| drop(self.catalog.tables.insert(name.clone(), table))),
        };
        if built.is_none() {
            self.stand_in(name, kind, &create);
        }
    }

    /// Declares a source or table whose options are wrong by its columns, so that queries over it can be checked.
    fn stand_in(&mut self, name: String, kind: ObjectKind, create: &CreateRelation) {
        match kind {
            ObjectKind::Source => match relations::declared_source(create) {
                Some(source) => drop(self.catalog.sources.insert(name, source)),
                None => self.names.set_broken(name),
            },
            ObjectKind::Table => match relations::declared_table(create) {
                Some(table) => drop(self.catalog.tables.insert(name, table)),
                None => self.names.set_broken(name),
            },
            _ => self.names.set_broken(name),
        }
    }

    fn view(&mut self, create: CreateView) {
        if !self.claim(&create.head, ObjectKind::View) {
            return;
        }
        let name = create.head.name.value;
        let columns = create.columns.into_iter().map(|column| column.value).collect();
        let view = ViewDef { name: name.clone(), columns, query: create.query, span: create.head.name.span };
        self.catalog.view_order.push(name.clone());
        self.catalog.views.insert(name, view);
    }

    /// Adds a table, its view, and the INSERT that fills the table from the view; returns the INSERT for the pipeline that
    /// contains the statement. Queries of the same files read the view.
    fn materialized_view(&mut self, create: CreateMaterializedView) -> Option<Insert> {
        let CreateMaterializedView { mut table, columns, query, insert } = create;
        if !self.claim(&table.head, ObjectKind::MaterializedView) {
            return None;
        }
        let name = table.head.name.clone();
        if table.primary_key.is_empty() {
            match primary_key(&name, &query, &columns) {
                Ok(keys) => table.primary_key = keys,
                Err(error) => {
                    self.errors.push(error);
                    // Without a key the INSERT cannot be checked.
                    self.catalog.broken.inserts.push(insert.target.span);
                }
            }
        }
        let scope = Scope { files: &self.files, lookup: self.lookup, secrets: &self.secrets };
        let Some(table) = relations::table(&table, &scope, &mut self.errors) else {
            self.names.set_broken(name.value);
            return None;
        };
        let columns = columns.into_iter().map(|column| column.value).collect();
        let view = ViewDef { name: name.value.clone(), columns, query, span: name.span };
        self.catalog.tables.insert(name.value.clone(), table);
        self.catalog.view_order.push(name.value.clone());
        self.catalog.views.insert(name.value.clone(), view);
        self.catalog.materialized.insert(name.value, insert.span);
        Some(insert)
    }

    /// The INSERTs written in the files: all but those that fill materialized views.
    fn written(&self, inserts: &[Insert]) -> Vec<Insert> {
        let is_own = |insert: &&Insert| self.catalog.materialized.values().any(|own| *own == insert.span);
        inserts.iter().filter(|insert| !is_own(insert)).cloned().collect()
    }

    /// False for the INSERT of a materialized view that was dropped or replaced later.
    fn fills(&self, insert: &Insert) -> bool {
        let is_own = insert.span.contains(insert.target.span) && insert.span.start == insert.target.span.start;
        !is_own || self.catalog.materialized.get(&insert.target.value) == Some(&insert.span)
    }

    fn function(&mut self, create: CreateFunction) {
        if !self.claim(&create.head, ObjectKind::Function) {
            return;
        }
        let name = create.head.name.value;
        let arguments = create.arguments.into_iter().map(|(name, data_type)| (name.value, data_type)).collect();
        let span = create.head.name.span;
        let function = FunctionDef { name: name.clone(), arguments, returns: create.returns, body: create.body, span };
        self.catalog.functions.insert(name, function);
    }

    fn model(&mut self, create: &CreateModel) {
        if !self.claim(&create.head, ObjectKind::Model) {
            return;
        }
        let name = &create.head.name;
        let scope = Scope { files: &self.files, lookup: self.lookup, secrets: &self.secrets };
        let mut reader = OptionReader::new(format!("model `{}`", name.value), &create.with, name.span, &scope);
        let provider = reader.required(&["provider"]).is_some();
        let provider = provider && reader.choice(&["provider"], &[("lightgbm", ())]).is_some();
        let path = reader.required(&["path"]);
        let errors = reader.finish();
        let model = path.filter(|_| provider && errors.is_empty()).map(|path| ModelDef {
            name: name.value.clone(),
            path: path.value,
            span: name.span,
            path_span: path.span,
        });
        self.errors.extend(errors);
        match model {
            Some(model) => drop(self.catalog.models.insert(name.value.clone(), model)),
            None => drop(self.catalog.broken.models.insert(name.value.clone())),
        }
    }

    fn pipeline(&mut self, mut create: CreatePipeline) {
        if !self.claim(&create.head, ObjectKind::Pipeline) {
            return;
        }
        for view in create.views {
            create.inserts.extend(self.materialized_view(view));
        }
        let name = create.head.name;
        let scope = Scope { files: &self.files, lookup: self.lookup, secrets: &self.secrets };
        let mut reader = OptionReader::new(format!("pipeline `{}`", name.value), &create.with, name.span, &scope);
        let options = pipeline_options(&mut reader);
        self.errors.extend(reader.finish());
        self.add_pipeline(name.value, name.span, options, create.inserts);
    }

    fn add_pipeline(&mut self, name: String, span: Span, options: PipelineOptions, inserts: Vec<Insert>) {
        self.inserts.extend(self.written(&inserts));
        let inserts = inserts.into_iter().map(Into::into).collect();
        self.catalog.pipelines.push(PipelineDef { name, options, inserts, span });
    }

    /// Makes a pipeline, named after the file, of the INSERTs outside of CREATE PIPELINE.
    fn bare_inserts(&mut self, file: &SourceFile, inserts: Vec<Insert>) {
        use crate::sql::statement::{Name, OnExisting};
        let Some(first) = inserts.first() else { return };
        let span = first.target.span;
        let head = Head { on_existing: OnExisting::Fail, name: Name { value: file.stem(), span } };
        match self.names.claim(&head, ObjectKind::Pipeline, &self.files) {
            Ok(_) => self.add_pipeline(head.name.value, span, PipelineOptions::default(), inserts),
            Err(error) => {
                let mut error = error.with_hint("Put these INSERTs into a `CREATE PIPELINE` of another name.");
                error.message =
                    format!("the INSERTs of this file form pipeline `{}`, which exists already", head.name.value);
                self.errors.push(error);
                self.inserts.extend(self.written(&inserts));
            }
        }
    }

    /// Turns tables of Flink's form into sinks if an INSERT writes to them, else into sources.
    fn foreign(&mut self) {
        let read = self.inserts.iter().map(|insert| insert.target.value.as_str());
        let targets: BTreeSet<&str> = read.chain(self.unread_targets.iter().map(String::as_str)).collect();
        let scope = Scope { files: &self.files, lookup: self.lookup, secrets: &self.secrets };
        for create in &self.foreign {
            let name = create.head.name.value.clone();
            let is_target = targets.contains(name.as_str());
            refuse_clauses(create, is_target, &mut self.errors);
            let built = if is_target {
                self.names.set_relation(&name, ObjectKind::Sink);
                relations::sink(create, true, &scope, &mut self.errors)
                    .map(|sink| drop(self.catalog.sinks.insert(name.clone(), sink)))
            } else {
                self.names.set_relation(&name, ObjectKind::Source);
                relations::source(create, &scope, &mut self.errors)
                    .map(|source| drop(self.catalog.sources.insert(name.clone(), source)))
            };
            if built.is_none() {
                match relations::declared_source(create).filter(|_| !is_target) {
                    Some(source) => drop(self.catalog.sources.insert(name, source)),
                    None => self.names.set_broken(name),
                }
            }
        }
    }

    fn finish(mut self) -> (Catalog, Vec<Diagnostic>) {
        self.foreign();
        for insert in &self.inserts {
            let before = self.errors.len();
            check_insert(insert, &self.catalog, &self.names, &mut self.errors);
            if self.errors.len() > before {
                self.catalog.broken.inserts.push(insert.target.span);
            }
        }
        check_folders(&self.catalog, &mut self.errors);
        check_seeds(&self.catalog, &self.names, &mut self.errors);
        let cyclic = check_cycles(&self.catalog.views, &mut self.errors);
        let broken = &mut self.catalog.broken;
        broken.relations.extend(cyclic);
        check_weights(&mut self.catalog, &mut self.errors);
        let broken = &mut self.catalog.broken;
        broken.relations.extend(self.names.broken().iter().cloned());
        // A model with wrong options is still known as a model.
        let models = &broken.models;
        broken.callables.extend(self.names.broken().iter().filter(|name| !models.contains(*name)).cloned());
        self.catalog.secrets = self.secrets.into_keys().collect();
        (self.catalog, self.errors)
    }
}

/// Clauses of Delta tables that a table with a connector cannot have.
fn refuse_clauses(create: &CreateRelation, is_target: bool, errors: &mut Vec<Diagnostic>) {
    let mut refuse = |span: Span, what: &str| {
        let error = Diagnostic::new(span, format!("a table with a connector has no {what}"));
        errors.push(error.with_hint("Leave it out, or leave `WITH (connector = …)` out for a Delta table."));
    };
    if let Some(name) = create.partitioned_by.first() {
        refuse(name.span, "partitions");
    }
    // A sink may have one; `relations::sink` checks which sinks do.
    if let Some(name) = create.primary_key.first().filter(|_| !is_target) {
        refuse(name.span, "primary key");
    }
    if let Some(check) = create.checks.first() {
        refuse(check.span, "checks");
    }
    for (span, what) in [
        (create.location.as_ref().map(|location| location.span), "location"),
        (create.properties.as_ref().map(|options| options.span), "properties"),
        (create.storage.as_ref().map(|options| options.span), "store options"),
    ] {
        if let Some(span) = span {
            refuse(span, what);
        }
    }
}
