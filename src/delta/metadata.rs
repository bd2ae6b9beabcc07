//! A table's description and its demands on writers, read from its `protocol` and `metaData` actions.
//!
//! Promises: a [`TableMetadata`] that was read for writing describes a table that weir can append to without breaking
//! the Delta protocol; what cannot be honoured is refused here with a reason. Also makes both actions for a new table.
//! The rules it lists (CHECK constraints, invariants, generated columns) are enforced by [`validate`](super::validate).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use delta_kernel::engine::arrow_conversion::{TryIntoArrow, TryIntoKernel};
use delta_kernel::schema::StructType;
use delta_kernel::table_properties::TableProperties;
use serde::Deserialize;
use serde_json::{Value, json};

use super::lengths::TextLengths;
use super::shown::FileColumns;
use crate::catalog::TableDef;
use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};

const DELETION_VECTORS: &str = "delta.enableDeletionVectors";
const APPEND_ONLY: &str = "delta.appendOnly";
/// The key of a field's metadata that holds the expression of a generated column.
pub const GENERATED: &str = "delta.generationExpression";
const CONSTRAINT_PREFIX: &str = "delta.constraints.";
/// Would let log checkpoints forget a pipeline's progress.
const TXN_RETENTION: &str = "delta.setTransactionRetentionDuration";

/// Features that an append must honour and does, or that do not concern it.
const APPENDABLE: [&str; 15] = [
    "appendOnly",
    "invariants",
    "checkConstraints",
    "changeDataFeed",
    "generatedColumns",
    "columnMapping",
    "identityColumns",
    "timestampNtz",
    "deletionVectors",
    "v2Checkpoint",
    "checkpointProtection",
    "vacuumProtocolCheck",
    // New files have the types that the table has now.
    "typeWidening",
    "typeWidening-preview",
    // Allowed if no column is of that type: delta-rs adds it to a protocol with every change of a property.
    "variantType",
];

/// Properties that switch on what an append cannot honour.
const REFUSED_PROPERTIES: [&str; 5] = [
    "delta.enableRowTracking",
    "delta.enableInCommitTimestamps",
    "delta.enableIcebergCompatV1",
    "delta.enableIcebergCompatV2",
    "delta.enableIcebergCompatV3",
];

/// A condition that every row must fulfil.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The constraint's name.
    pub name: String,
    /// An expression over the table's columns in Spark's SQL, which must be true.
    pub sql: String,
    /// The column that must hold what the expression gives instead, of a generated column.
    pub generates: Option<String>,
}

impl Rule {
    /// An expression that must be true.
    pub fn condition(name: &str, sql: &str) -> Self {
        Self { name: name.to_owned(), sql: sql.to_owned(), generates: None }
    }
}

/// A table's schema, partitioning, properties and rules.
#[derive(Debug, Clone, PartialEq)]
pub struct TableMetadata {
    /// Tells the table from any other, wherever its folder is; a copy has the same one.
    pub id: Option<String>,
    pub schema: SchemaRef,
    pub partition_columns: Vec<String>,
    pub properties: BTreeMap<String, String>,
    pub rules: Vec<Rule>,
    /// The expressions of generated columns, by column.
    pub generated: BTreeMap<String, String>,
    pub(super) file_columns: FileColumns,
    pub(super) lengths: TextLengths,
    protocol: Protocol,
    /// Why it cannot be appended to, if so.
    refusal: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Protocol {
    #[serde(default)]
    min_reader_version: i32,
    #[serde(default)]
    min_writer_version: i32,
    #[serde(default)]
    reader_features: Option<Vec<String>>,
    #[serde(default)]
    writer_features: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    id: Option<String>,
    schema_string: String,
    #[serde(default)]
    partition_columns: Vec<String>,
    #[serde(default)]
    configuration: BTreeMap<String, Option<String>>,
}

impl TableMetadata {
    /// Reads both actions, which `table` names in errors.
    pub fn read(table: &str, protocol: &Value, metadata: &Value) -> Result<Self> {
        let damaged = || format!("the metadata of table `{table}` cannot be read");
        let protocol = Protocol::deserialize(protocol).context(ErrorKind::Damaged, damaged)?;
        Self::assemble(table, protocol, metadata)
    }

    /// The metadata after a foreign commit that changed one or both actions.
    pub fn changed(&self, table: &str, protocol: Option<&Value>, metadata: Option<&Value>) -> Result<Self> {
        let damaged = || format!("the metadata of table `{table}` cannot be read");
        let protocol = match protocol {
            Some(protocol) => Protocol::deserialize(protocol).context(ErrorKind::Damaged, damaged)?,
            None => self.protocol.clone(),
        };
        match metadata {
            Some(metadata) => Self::assemble(table, protocol, metadata),
            None => {
                let refusal = refusal(&protocol, &self.properties, "");
                Ok(Self { refusal: refusal.or_else(|| self.refusal.clone()), protocol, ..self.clone() })
            }
        }
    }

    fn assemble(table: &str, protocol: Protocol, metadata: &Value) -> Result<Self> {
        let damaged = || format!("the metadata of table `{table}` cannot be read");
        let metadata = Metadata::deserialize(metadata).context(ErrorKind::Damaged, damaged)?;
        let kernel: StructType = serde_json::from_str(&metadata.schema_string).context(ErrorKind::Damaged, damaged)?;
        let arrow: Schema = (&kernel).try_into_arrow().context(ErrorKind::Damaged, damaged)?;
        let fields: Vec<_> =
            arrow.fields().iter().map(|f| f.as_ref().clone().with_metadata(Default::default())).collect();
        let properties: BTreeMap<_, _> =
            metadata.configuration.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        let mut refusal = refusal(&protocol, &properties, &metadata.schema_string);
        let rules = match rules(&metadata.schema_string, &properties) {
            Ok(rules) => rules,
            Err(reason) => {
                refusal = refusal.or(Some(reason));
                Vec::new()
            }
        };
        let schema = Arc::new(Schema::new(fields));
        let generated = generated(&metadata.schema_string);
        let logged: Value = serde_json::from_str(&metadata.schema_string).unwrap_or_default();
        let partition_columns = metadata.partition_columns;
        let file_columns = FileColumns::new(partition_columns.clone(), &logged);
        Ok(Self {
            id: metadata.id,
            schema,
            partition_columns,
            properties,
            rules,
            generated,
            file_columns,
            lengths: TextLengths::of(&logged),
            protocol,
            refusal,
        })
    }

    /// Delta's own properties, typed.
    pub fn table_properties(&self) -> TableProperties {
        TableProperties::from(self.properties.iter())
    }

    /// Refuses a table that weir cannot append to.
    pub fn check_appendable(&self, table: &str) -> Result<()> {
        match &self.refusal {
            None => Ok(()),
            Some(reason) => Err(Error::config(format!("table `{table}` cannot be written by weir"))
                .with_detail(format!("The table {reason}."))),
        }
    }

    /// Refuses a table whose rows must not be changed or removed.
    pub fn check_upsertable(&self, table: &str) -> Result<()> {
        if !self.is_on(APPEND_ONLY) {
            return Ok(());
        }
        Err(Error::sql(format!("table `{table}` is append-only and cannot be upserted"))
            .with_detail(format!("Its property `{APPEND_ONLY}` is `true`; a primary key means that rows are replaced."))
            .with_hint("Declare it without a primary key, or switch the property off."))
    }

    /// `true` if rows may be marked in deletion vectors.
    pub fn has_deletion_vectors(&self) -> bool {
        let allowed = self.protocol.writer_features.iter().flatten().any(|feature| feature == "deletionVectors");
        allowed && self.is_on(DELETION_VECTORS)
    }

    /// `true` if changes must be written for readers of the change feed.
    pub fn has_change_feed(&self) -> bool {
        self.is_on("delta.enableChangeDataFeed")
    }

    fn is_on(&self, property: &str) -> bool {
        self.properties.get(property).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// `true` if a writer that does not keep checkpoints readable by older ones may delete old log entries.
    pub fn allows_log_cleanup(&self) -> bool {
        !self.protocol.writer_features.iter().flatten().any(|feature| feature == "checkpointProtection")
    }

    /// Refuses a declaration that does not fit the table.
    pub fn check_declaration(&self, def: &TableDef) -> Result<()> {
        let misfit = |detail: String| {
            Error::sql(format!("table `{}` exists and differs from its declaration", def.name))
                .with_detail(detail)
                .with_hint("Declare the columns as they are, or leave them out, or choose another location.")
        };
        if def.columns.is_empty() {
            return Ok(());
        }
        // VARIANT, which is read as text, can be declared so.
        let shown = self.file_columns.shown_schema(&self.schema);
        for column in &def.columns {
            let Ok(field) = shown.field_with_name(&column.name) else {
                return Err(misfit(format!("The table has no column `{}`.", column.name)).with_hint(format!(
                    "Add it to the table, `ALTER TABLE {} ADD COLUMNS (…)` in Spark or `DeltaTable(path).alter.add_columns(…)` in Python; or leave it out of the declaration.",
                    def.name
                )));
            };
            if !same_type(field.data_type(), &column.data_type) {
                let (is, declared) = (field.data_type(), &column.data_type);
                return Err(misfit(format!("Column `{}` has type {is}, not {declared}.", column.name)));
            }
            if field.is_nullable() && !column.nullable {
                return Err(misfit(format!("Column `{}` may be null in the table.", column.name)));
            }
        }
        let declared: BTreeSet<_> = def.columns.iter().map(|column| column.name.as_str()).collect();
        let unknown =
            |field: &Field| !declared.contains(field.name().as_str()) && !self.generated.contains_key(field.name());
        let missing = self.schema.fields().iter().find(|field| !field.is_nullable() && unknown(field));
        if let Some(field) = missing {
            return Err(misfit(format!("The table's column `{}` is NOT NULL and is not declared.", field.name())));
        }
        // Columns that the table computes by itself need not be known.
        let computes = |column: &String| self.generated.contains_key(column) && !declared.contains(column.as_str());
        let computes_all = def.partitioned_by.is_empty() && self.partition_columns.iter().all(computes);
        if self.partition_columns != def.partitioned_by && !computes_all {
            return Err(misfit(format!("The table is partitioned by ({}).", self.partition_columns.join(", "))));
        }
        Ok(())
    }

    /// Refuses a change under a running writer whose staged files would not fit any more.
    pub fn check_successor(&self, table: &str, next: &Self) -> Result<()> {
        next.check_appendable(table)?;
        let kept = self.schema.fields().iter().all(|field| {
            let now = next.schema.field_with_name(field.name());
            now.is_ok_and(|now| now.data_type() == field.data_type() && (now.is_nullable() || !field.is_nullable()))
        });
        let added_required = next
            .schema
            .fields()
            .iter()
            .any(|field| !field.is_nullable() && self.schema.field_with_name(field.name()).is_err());
        let same_rules = next.rules.iter().all(|rule| self.rules.contains(rule));
        if kept && !added_required && same_rules && self.partition_columns == next.partition_columns {
            return Ok(());
        }
        Err(Error::environment(format!("table `{table}` was altered by another writer"))
            .with_detail("Its columns, constraints or partitioning no longer fit the files of the running epoch.")
            .with_hint("Adapt the SQL if needed and start the pipeline again."))
    }
}

/// The `protocol` and `metaData` actions of a new table.
pub fn creation_actions(def: &TableDef, env: &Env) -> Result<(Value, Value)> {
    let schema = def.schema();
    let kernel: StructType = schema
        .as_ref()
        .try_into_kernel()
        .context(ErrorKind::Sql, || format!("table `{}` has a column type that Delta does not know", def.name))?;
    let unknown = def.partitioned_by.iter().find(|name| schema.field_with_name(name).is_err());
    if let Some(name) = unknown {
        return Err(Error::sql(format!("table `{}` is partitioned by unknown column `{name}`", def.name)));
    }
    let mut properties = def.properties.clone();
    if !def.primary_key.is_empty() {
        // Otherwise an epoch rewrites every file that holds one of its keys.
        properties.entry(DELETION_VECTORS.to_owned()).or_insert_with(|| "true".to_owned());
    }
    for check in &def.checks {
        properties.insert(format!("{CONSTRAINT_PREFIX}{}", check.name), check.text.clone());
    }
    let protocol = protocol_for(&schema, &properties);
    let metadata = json!({
        "id": uuid_like(env),
        "name": def.name,
        "format": { "provider": "parquet", "options": {} },
        "schemaString": serde_json::to_string(&kernel).internal(|| "cannot write a schema".to_owned())?,
        "partitionColumns": def.partitioned_by,
        "configuration": properties,
        "createdTime": env.unix_ms(),
    });
    TableMetadata::read(&def.name, &protocol, &metadata)?.check_appendable(&def.name)?;
    Ok((protocol, metadata))
}

/// The first column that Delta has no type for.
pub fn unstorable(schema: &Schema) -> Option<FieldRef> {
    let is_unknown = |field: &&FieldRef| {
        let kernel: Result<StructType, _> = (&Schema::new(vec![Arc::clone(field)])).try_into_kernel();
        kernel.is_err()
    };
    schema.fields().iter().find(is_unknown).cloned()
}

/// A random (version 4) UUID from the environment's randomness.
pub fn uuid_like(env: &Env) -> String {
    uuid::Builder::from_random_bytes((u128::from(env.random_u64()) << 64 | u128::from(env.random_u64())).to_be_bytes())
        .into_uuid()
        .to_string()
}

/// The lowest protocol that the schema and the properties need.
fn protocol_for(schema: &Schema, properties: &BTreeMap<String, String>) -> Value {
    let is_true = |key: &str| properties.get(key).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let checks = properties.keys().any(|key| key.starts_with(CONSTRAINT_PREFIX));
    let change_feed = is_true("delta.enableChangeDataFeed");
    let ntz = schema.fields().iter().any(|field| contains_ntz(field.data_type()));
    let vectors = is_true(DELETION_VECTORS);
    if !ntz && !vectors {
        let writer = if change_feed {
            4
        } else if checks {
            3
        } else {
            2
        };
        return json!({ "minReaderVersion": 1, "minWriterVersion": writer });
    }
    let both: Vec<&str> = [(ntz, "timestampNtz"), (vectors, "deletionVectors")]
        .into_iter()
        .filter_map(|(needed, feature)| needed.then_some(feature))
        .collect();
    let mut writer = vec!["appendOnly", "invariants"];
    writer.extend(checks.then_some("checkConstraints"));
    writer.extend(change_feed.then_some("changeDataFeed"));
    writer.extend(&both);
    json!({ "minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": both, "writerFeatures": writer })
}

fn contains_ntz(data_type: &DataType) -> bool {
    match data_type {
        DataType::Timestamp(TimeUnit::Microsecond, None) => true,
        DataType::List(field) | DataType::LargeList(field) | DataType::Map(field, _) => contains_ntz(field.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| contains_ntz(field.data_type())),
        _ => false,
    }
}

/// Why weir must not append, if so; completes the sentence "The table …".
fn refusal(protocol: &Protocol, properties: &BTreeMap<String, String>, schema: &str) -> Option<String> {
    if protocol.min_writer_version > 7 || protocol.min_reader_version > 3 {
        let (reader, writer) = (protocol.min_reader_version, protocol.min_writer_version);
        return Some(format!("needs reader version {reader} and writer version {writer}"));
    }
    let mut features = protocol.reader_features.iter().chain(&protocol.writer_features).flatten();
    if let Some(feature) = features.find(|feature| !APPENDABLE.contains(&feature.as_str())) {
        return Some(format!("needs the feature `{feature}`"));
    }
    if schema.replace(' ', "").contains("ype\":\"variant\"") {
        return Some("has columns of type VARIANT".to_owned());
    }
    if let Some(mode) = properties.get("delta.columnMapping.mode").filter(|mode| *mode != "none") {
        return Some(format!("maps its columns (`delta.columnMapping.mode` = `{mode}`)"));
    }
    let refused =
        REFUSED_PROPERTIES.iter().find(|key| properties.get(**key).is_some_and(|v| v.eq_ignore_ascii_case("true")));
    if let Some(key) = refused {
        return Some(format!("has `{key}` switched on"));
    }
    if properties.contains_key(TXN_RETENTION) {
        return Some(format!("sets `{TXN_RETENTION}`, which would make it forget the progress of pipelines"));
    }
    schema.contains("\"delta.identity.").then(|| "has identity columns".to_owned())
}

/// CHECK constraints from the properties; invariants and generated columns from the schema's field metadata.
fn rules(schema: &str, properties: &BTreeMap<String, String>) -> Result<Vec<Rule>, String> {
    let mut rules: Vec<Rule> = properties
        .iter()
        .filter_map(|(key, sql)| Some(Rule::condition(key.strip_prefix(CONSTRAINT_PREFIX)?, sql)))
        .collect();
    let schema_json: Value = serde_json::from_str(schema).map_err(|error| format!("has a bad schema ({error})"))?;
    let mut found = 0;
    for field in schema_json["fields"].as_array().into_iter().flatten() {
        let (name, metadata) = (field["name"].as_str().unwrap_or_default(), &field["metadata"]);
        if let Some(invariant) = metadata["delta.invariants"].as_str() {
            let invariant: Value = serde_json::from_str(invariant).unwrap_or_default();
            let sql = invariant["expression"]["expression"].as_str();
            let sql = sql.ok_or_else(|| format!("has an unreadable invariant on column `{name}`"))?;
            rules.push(Rule::condition(&format!("invariant of {name}"), sql));
            found += 1;
        }
        if let Some(expression) = metadata["delta.generationExpression"].as_str() {
            let generates = Some(name.to_owned());
            rules.push(Rule { generates, ..Rule::condition(&format!("generated column {name}"), expression) });
            found += 1;
        }
    }
    let mentioned = schema.matches("delta.invariants").count() + schema.matches("delta.generationExpression").count();
    if mentioned != found {
        return Err("has invariants on nested columns".to_owned());
    }
    Ok(rules)
}

/// The expressions of generated columns in the schema's field metadata.
fn generated(schema: &str) -> BTreeMap<String, String> {
    let schema: Value = serde_json::from_str(schema).unwrap_or_default();
    let fields = schema["fields"].as_array().into_iter().flatten();
    let generated = fields.filter_map(|field| {
        let expression = field["metadata"][GENERATED].as_str()?;
        Some((field["name"].as_str()?.to_owned(), expression.to_owned()))
    });
    generated.collect()
}

/// `true` if two types are the same but for the names of list and map entries.
pub fn same_type(a: &DataType, b: &DataType) -> bool {
    let same_field = |a: &Field, b: &Field| same_type(a.data_type(), b.data_type());
    match (a, b) {
        (DataType::List(a), DataType::List(b)) => same_field(a, b),
        (DataType::Map(a, _), DataType::Map(b, _)) => match (a.data_type(), b.data_type()) {
            (DataType::Struct(a), DataType::Struct(b)) => a.iter().zip(b.iter()).all(|(a, b)| same_field(a, b)),
            _ => false,
        },
        (DataType::Struct(a), DataType::Struct(b)) => {
            a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.name() == b.name() && same_field(a, b))
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests;
