//! The statements of a SQL file: syntax only. Resolving names and interpreting options is left to the catalog.

use arrow::datatypes::DataType;
use datafusion::sql::sqlparser::ast::{Expr, Query};

use super::Span;

/// A word with its span: an identifier (folded unless quoted) or a string's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    pub value: String,
    pub span: Span,
}

/// One statement.
#[derive(Debug, Clone)]
pub struct Statement {
    pub kind: StatementKind,
    pub span: Span,
}

/// The kind of a statement, with its contents.
#[derive(Debug, Clone)]
pub enum StatementKind {
    CreateSecret(CreateSecret),
    CreateSource(CreateRelation),
    CreateTable(CreateRelation),
    CreateSink(CreateRelation),
    CreateView(CreateView),
    CreateMaterializedView(CreateMaterializedView),
    CreateFunction(CreateFunction),
    CreateModel(CreateModel),
    CreatePipeline(CreatePipeline),
    Drop(Drop),
    Insert(Insert),
    Query(Box<Query>),
    Explain(Explain),
    Show(Show),
    Describe(Describe),
    ShowState(ShowState),
    Verify(Verify),
    Migration(Migration),
    /// A CREATE that could not be parsed. Its errors are reported; its name counts as declared, so that uses of it are not
    /// errors.
    Broken(Name),
    /// An INSERT that could not be parsed: its target, which still counts as written to.
    BrokenInsert(Name),
}

/// `CREATE [OR REPLACE] … [IF NOT EXISTS] name`.
#[derive(Debug, Clone)]
pub struct Head {
    pub on_existing: OnExisting,
    pub name: Name,
}

/// The effect of a CREATE if the name is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExisting {
    Fail,
    Replace,
    Keep,
}

/// `CREATE SECRET name FROM ENV variable | FROM FILE 'path'`.
#[derive(Debug, Clone)]
pub struct CreateSecret {
    pub head: Head,
    pub from: SecretOrigin,
}

/// The origin of a secret's text.
#[derive(Debug, Clone)]
pub enum SecretOrigin {
    Env(Name),
    File(Name),
}

/// `key = value`; keys in lower case.
#[derive(Debug, Clone)]
pub struct OptionEntry {
    pub key: Name,
    pub value: OptionValue,
    /// Span of the value.
    pub span: Span,
}

/// An option's value as written: `${…}` not yet replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OptionValue {
    Text(String),
    /// `SECRET name`.
    Secret(String),
}

/// `( key = value, … )` with its span.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub entries: Vec<OptionEntry>,
    pub span: Span,
}

impl Options {
    /// The entry with this key.
    pub fn get(&self, key: &str) -> Option<&OptionEntry> {
        self.entries.iter().find(|entry| entry.key.value == key)
    }
}

/// A column of a source, table or sink.
#[derive(Debug, Clone)]
pub struct Column {
    pub name: Name,
    pub data_type: DataType,
    pub nullable: bool,
    pub origin: Option<Origin>,
    /// From the name to the last constraint.
    pub span: Span,
}

/// The declared origin of a column's value.
#[derive(Debug, Clone)]
pub enum Origin {
    /// `FROM 'a.b'`.
    Field(Name),
    /// `METADATA [FROM 'key']`; without a key, the column's own name.
    Metadata(Name),
}

/// `WATERMARK FOR column AS expression`.
#[derive(Debug, Clone)]
pub struct WatermarkClause {
    pub column: Name,
    pub expression: Expr,
    pub span: Span,
}

/// `[CONSTRAINT name] CHECK (expression)`.
#[derive(Debug, Clone)]
pub struct Check {
    pub name: Option<Name>,
    pub expression: Expr,
    /// Span of the expression.
    pub span: Span,
}

/// `CREATE SOURCE | TABLE | SINK`.
#[derive(Debug, Clone)]
pub struct CreateRelation {
    pub head: Head,
    pub columns: Vec<Column>,
    pub watermark: Option<WatermarkClause>,
    pub primary_key: Vec<Name>,
    pub checks: Vec<Check>,
    pub partitioned_by: Vec<Name>,
    pub location: Option<Name>,
    /// `TBLPROPERTIES (…)`.
    pub properties: Option<Options>,
    /// `OPTIONS (…)`.
    pub storage: Option<Options>,
    /// `WITH (…)`.
    pub with: Option<Options>,
}

/// `CREATE VIEW name [(columns)] AS query`.
#[derive(Debug, Clone)]
pub struct CreateView {
    pub head: Head,
    pub columns: Vec<Name>,
    pub query: Box<Query>,
}

/// `CREATE MATERIALIZED VIEW name [(columns)] [clauses of a table] AS query`.
#[derive(Debug, Clone)]
pub struct CreateMaterializedView {
    /// The table; its columns are the query's.
    pub table: CreateRelation,
    /// Renames of the query's columns.
    pub columns: Vec<Name>,
    pub query: Box<Query>,
    /// `INSERT INTO name SELECT * FROM name`, which fills the table from the view.
    pub insert: Insert,
}

/// `CREATE FUNCTION … LANGUAGE sql AS $$ expression $$`.
#[derive(Debug, Clone)]
pub struct CreateFunction {
    pub head: Head,
    pub arguments: Vec<(Name, DataType)>,
    pub returns: DataType,
    pub body: Expr,
}

/// `CREATE MODEL name WITH (…)`.
#[derive(Debug, Clone)]
pub struct CreateModel {
    pub head: Head,
    pub with: Options,
}

/// `CREATE PIPELINE name [WITH (…)] AS BEGIN … END`.
#[derive(Debug, Clone)]
pub struct CreatePipeline {
    pub head: Head,
    pub with: Options,
    pub inserts: Vec<Insert>,
    /// Views declared in the block; they are filled together with its INSERTs.
    pub views: Vec<CreateMaterializedView>,
}

/// `INSERT INTO target [(columns)] query`.
#[derive(Debug, Clone)]
pub struct Insert {
    pub target: Name,
    pub columns: Vec<Name>,
    pub query: Box<Query>,
    pub span: Span,
}

/// Kinds of named objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKind {
    Secret,
    Source,
    Table,
    Sink,
    View,
    MaterializedView,
    Function,
    Model,
    Pipeline,
}

impl ObjectKind {
    /// The kind's name in a sentence.
    pub fn word(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Source => "source",
            Self::Table => "table",
            Self::Sink => "sink",
            Self::View => "view",
            Self::MaterializedView => "materialized view",
            Self::Function => "function",
            Self::Model => "model",
            Self::Pipeline => "pipeline",
        }
    }
}

/// `DROP kind [IF EXISTS] name`.
#[derive(Debug, Clone)]
pub struct Drop {
    pub object: ObjectKind,
    pub name: Name,
    pub if_exists: bool,
}

/// `EXPLAIN [VERBOSE] INSERT … | SELECT …`.
#[derive(Debug, Clone)]
pub struct Explain {
    pub verbose: bool,
    pub statement: Box<Statement>,
}

/// `SHOW what`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    Pipelines,
    Sources,
    Tables,
    Sinks,
    Views,
    MaterializedViews,
    Functions,
    Models,
    Secrets,
    Progress,
}

/// `SHOW STATE [FOR pipeline]`.
#[derive(Debug, Clone)]
pub struct ShowState {
    pub pipeline: Option<Name>,
}

/// `VERIFY PIPELINE name [AS OF 'time' | VERSION AS OF n | TIMESTAMP AS OF 'time']`: compares the streamed rows with a batch
/// over the same input.
#[derive(Debug, Clone)]
pub struct Verify {
    pub pipeline: Name,
    pub as_of: Option<AsOf>,
}

/// The point in the past that a statement refers to.
#[derive(Debug, Clone)]
pub enum AsOf {
    /// An epoch.
    Version(u64),
    /// A time as written.
    Timestamp(Name),
}

/// `EXPLAIN MIGRATION [FROM 'old.sql']`: how the state of the last run, or of the old file, would be used.
#[derive(Debug, Clone)]
pub struct Migration {
    /// `None` = the existing state.
    pub from: Option<Name>,
}

/// `DESCRIBE [DETAIL | HISTORY] [MODEL] name [LIMIT n]`.
#[derive(Debug, Clone)]
pub struct Describe {
    pub aspect: Aspect,
    /// `Some` if the statement names the kind of object.
    pub object: Option<ObjectKind>,
    pub name: Name,
    /// The maximum number of history entries, newest first.
    pub limit: Option<usize>,
}

/// Information that DESCRIBE shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aspect {
    Columns,
    Detail,
    History,
}
