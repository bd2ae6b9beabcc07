//! Sources, tables and sinks from their statements.

use std::collections::BTreeMap;
use std::time::Duration;

use super::columns::{checks, columns, known, watermark};
use super::definition::{
    ChangeEncoding, ChangeFormat, ColumnDef, FileSourceOptions, KafkaSinkOptions, Metadata, OnError, Secret,
    SinkConnector, SinkDef, SourceConnector, SourceDef, TableDef, TableFeed,
};
use super::file_format::{CsvDialect, TimestampUnit};
use super::options::{
    OptionReader, Scope, delta_source, eventhubs_sink, eventhubs_source, feed_columns, file_sink, file_source,
    generator_columns, generator_source, kafka_sink, kafka_source, message_format, nexmark_columns, nexmark_source,
    resolve, substituted,
};
use super::value::{Value, duration, idle};
use crate::sql::statement::{CreateRelation, Options};
use crate::sql::suggest::{did_you_mean, list};
use crate::sql::types::sql_name;
use crate::sql::{Diagnostic, Span};

use super::Format;

/// Connectors of sources and sinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connector {
    Kafka,
    UpsertKafka,
    EventHubs,
    File,
    Generator,
    Nexmark,
    Delta,
    Console,
    Blackhole,
}

const SOURCES: &[(&str, Connector)] = &[
    ("kafka", Connector::Kafka),
    ("eventhubs", Connector::EventHubs),
    ("file", Connector::File),
    ("generator", Connector::Generator),
    ("nexmark", Connector::Nexmark),
    ("delta", Connector::Delta),
    ("event_hubs", Connector::EventHubs),
    ("filesystem", Connector::File),
];

const SINKS: &[(&str, Connector)] = &[
    ("kafka", Connector::Kafka),
    ("eventhubs", Connector::EventHubs),
    ("console", Connector::Console),
    ("file", Connector::File),
    ("blackhole", Connector::Blackhole),
    ("upsert-kafka", Connector::UpsertKafka),
    ("event_hubs", Connector::EventHubs),
    ("filesystem", Connector::File),
    ("print", Connector::Console),
];

/// Connectors that are part of the language but cannot run yet.
const LATER: &[&str] = &["kinesis", "pulsar", "jdbc", "s3", "http", "websocket", "mqtt", "nats"];

/// `None` if errors were reported.
type Built<T> = Option<T>;

/// A source from its statement.
pub fn source(create: &CreateRelation, scope: &Scope<'_>, errors: &mut Vec<Diagnostic>) -> Built<SourceDef> {
    let before = errors.len();
    let name = &create.head.name;
    let with = with_of(create, "source", errors)?;
    let (connector, word, anchor) = connector(with, SOURCES, name.span, scope, errors)?;
    let mut reader = OptionReader::new(format!("connector `{word}`"), with, anchor, scope);
    reader.skip(&["connector"]);
    let (made, format) = match connector {
        Connector::Kafka => (kafka_source(&mut reader).map(SourceConnector::Kafka), message_format(&mut reader)),
        Connector::EventHubs => {
            (eventhubs_source(&mut reader).map(SourceConnector::Kafka), message_format(&mut reader))
        }
        Connector::File => match file_source(&mut reader) {
            Some((options, format)) => (Some(SourceConnector::File(options)), format),
            None => (None, Format::Json),
        },
        Connector::Nexmark => (nexmark_source(&mut reader).map(SourceConnector::Nexmark), Format::Json),
        Connector::Delta => (delta_source(&mut reader).map(SourceConnector::Delta), Format::Parquet),
        _ => (Some(SourceConnector::Generator(generator_source(&mut reader))), Format::Json),
    };
    let on_error = match connector {
        Connector::Generator | Connector::Nexmark => OnError::default(),
        _ => on_error(&mut reader),
    };
    // A file that is read to its end is idle at once, unless `idle_after` allows it time to grow.
    let otherwise = if matches!(connector, Connector::File) { Duration::ZERO } else { IDLE_AFTER };
    let idle_after = time_option(&mut reader, create, "idle_after", idle).unwrap_or(otherwise);
    let max_drift = time_option(&mut reader, create, "max_drift", duration);
    let timestamp_unit = timestamp_unit(&mut reader);
    let max_future = match connector {
        Connector::Generator | Connector::Nexmark => None,
        _ => Some(time_option(&mut reader, create, "max_future", idle).unwrap_or(MAX_FUTURE)),
    };
    let max_future = max_future.filter(|most| *most != Duration::MAX);
    errors.extend(reader.finish());
    let fixed = match (&made, connector) {
        (Some(SourceConnector::Nexmark(options)), _) => Some(nexmark_columns(options.table, name.span)),
        (Some(SourceConnector::Generator(options)), _) => Some(generator_columns(options.table, name.span)),
        (_, Connector::Nexmark) => Some(Vec::new()),
        _ => None,
    };
    let mut columns = source_columns(create, connector, format, fixed, errors);
    if let Some(SourceConnector::Delta(options)) = &made
        && options.feed == TableFeed::Changes
        && !columns.is_empty()
    {
        let declared = |name: &str| columns.iter().any(|column| column.name == name);
        let missing: Vec<_> = feed_columns(name.span).into_iter().filter(|column| !declared(&column.name)).collect();
        columns.extend(missing);
    }
    let watermark = create.watermark.as_ref().and_then(|found| watermark(found, &columns, errors));
    if errors.len() > before {
        return None;
    }
    Some(SourceDef {
        name: name.value.clone(),
        columns,
        watermark,
        connector: made?,
        format,
        on_error,
        idle_after,
        max_drift,
        timestamp_unit,
        max_future,
        span: name.span,
    })
}

/// A source with trusted columns only, for checking queries: nothing reads it.
pub fn declared_source(create: &CreateRelation) -> Built<SourceDef> {
    let mut errors = Vec::new();
    let columns = columns(&create.columns, ALL_METADATA, &mut errors);
    let watermark = create.watermark.as_ref().and_then(|found| watermark(found, &columns, &mut errors));
    if columns.is_empty() || !errors.is_empty() {
        return None;
    }
    let connector = SourceConnector::File(FileSourceOptions {
        path: String::new(),
        poll_interval: Duration::ZERO,
        csv: CsvDialect::default(),
    });
    let name = &create.head.name;
    Some(SourceDef {
        name: name.value.clone(),
        columns,
        watermark,
        connector,
        format: Format::Json,
        on_error: OnError::default(),
        idle_after: IDLE_AFTER,
        max_drift: None,
        timestamp_unit: None,
        max_future: None,
        span: name.span,
    })
}

/// A table with trusted columns and key only, for checking queries: nothing opens it.
pub fn declared_table(create: &CreateRelation) -> Built<TableDef> {
    let mut errors = Vec::new();
    let mut columns = columns(&create.columns, &[], &mut errors);
    let primary_key = known(&create.primary_key, &columns, &mut errors);
    key_columns(create, &mut columns, &mut errors);
    if columns.is_empty() || !errors.is_empty() {
        return None;
    }
    let name = &create.head.name;
    Some(TableDef {
        name: name.value.clone(),
        columns,
        partitioned_by: Vec::new(),
        location: None,
        properties: BTreeMap::new(),
        storage: BTreeMap::new(),
        primary_key,
        checks: Vec::new(),
        span: name.span,
    })
}

/// Default of `idle_after`.
const IDLE_AFTER: Duration = Duration::from_secs(30);
const MAX_FUTURE: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads a duration that concerns watermarks; an error without a watermark.
fn time_option(
    reader: &mut OptionReader<'_>,
    create: &CreateRelation,
    name: &'static str,
    parse: fn(&str) -> Value<Duration>,
) -> Option<Duration> {
    let value = reader.parsed(&[name], parse);
    if value.is_some() && create.watermark.is_none() {
        let span =
            create.with.as_ref().and_then(|with| with.get(name)).map_or(create.head.name.span, |entry| entry.key.span);
        let error = Diagnostic::new(span, format!("option `{name}` needs a watermark"));
        reader.report(error.with_hint("Declare `WATERMARK FOR ts AS ts - INTERVAL '5 seconds'` among the columns."));
    }
    value
}

fn on_error(reader: &mut OptionReader<'_>) -> OnError {
    const WORDS: &[(&str, OnError)] =
        &[("dead_letter", OnError::DeadLetter), ("fail", OnError::Fail), ("drop", OnError::Drop)];
    reader.choice(&["on_error"], WORDS).unwrap_or_default()
}

fn timestamp_unit(reader: &mut OptionReader<'_>) -> Option<TimestampUnit> {
    const WORDS: &[(&str, TimestampUnit)] = &[
        ("seconds", TimestampUnit::Seconds),
        ("millis", TimestampUnit::Millis),
        ("micros", TimestampUnit::Micros),
        ("nanos", TimestampUnit::Nanos),
        ("auto", TimestampUnit::Auto),
    ];
    reader.choice(&["timestamp_unit"], WORDS)
}

/// Metadata of a record from a message broker.
const ALL_METADATA: &[Metadata] =
    &[Metadata::Key, Metadata::Partition, Metadata::Offset, Metadata::Timestamp, Metadata::Headers, Metadata::Topic];

/// A source's columns: the declared ones, or the fixed ones of a generator; none for a Delta table that will be asked for
/// them.
fn source_columns(
    create: &CreateRelation,
    connector: Connector,
    format: Format,
    fixed: Option<Vec<ColumnDef>>,
    errors: &mut Vec<Diagnostic>,
) -> Vec<ColumnDef> {
    let name = &create.head.name;
    let available = match (connector, format) {
        (Connector::Kafka | Connector::EventHubs, _) => ALL_METADATA,
        (Connector::File, Format::Json | Format::Csv) => &[Metadata::Offset, Metadata::Topic],
        _ => &[],
    };
    let declared = columns(&create.columns, available, errors);
    if let Some(fixed) = fixed {
        if !create.columns.is_empty() {
            same_columns(&declared, &fixed, name.span, errors);
        }
        return fixed;
    }
    if create.columns.is_empty() && connector != Connector::Delta {
        errors.push(
            Diagnostic::new(name.span, format!("source `{}` has no columns", name.value))
                .with_hint(format!("Declare them: `CREATE SOURCE {} (id STRING NOT NULL, …) WITH (…)`.", name.value)),
        );
    }
    declared
}

/// Errors: a generator's declared columns are not the ones it generates.
fn same_columns(declared: &[ColumnDef], fixed: &[ColumnDef], span: Span, errors: &mut Vec<Diagnostic>) {
    let is_same = |(a, b): (&ColumnDef, &ColumnDef)| a.name == b.name && a.data_type == b.data_type;
    if declared.len() == fixed.len() && declared.iter().zip(fixed).all(is_same) {
        return;
    }
    let wrong = declared.iter().enumerate().find(|(index, column)| {
        fixed.get(*index).is_none_or(|fixed| fixed.name != column.name || fixed.data_type != column.data_type)
    });
    let span = wrong.map_or(span, |(_, column)| column.span);
    let columns = fixed.iter().map(|column| format!("{} {}", column.name, sql_name(&column.data_type)));
    errors.push(
        Diagnostic::new(span, "a generator's columns are fixed")
            .with_detail(format!("They are {}.", columns.collect::<Vec<_>>().join(", ")))
            .with_hint("Leave the column list out; choose columns in a view."),
    );
}

/// A sink from its statement; with `is_flink`, options of the reading half are skipped.
pub fn sink(
    create: &CreateRelation,
    is_flink: bool,
    scope: &Scope<'_>,
    errors: &mut Vec<Diagnostic>,
) -> Built<SinkDef> {
    let before = errors.len();
    let name = &create.head.name;
    let with = with_of(create, "sink", errors)?;
    let (connector, word, anchor) = connector(with, SINKS, name.span, scope, errors)?;
    let mut reader = OptionReader::new(format!("connector `{word}`"), with, anchor, scope);
    reader.skip(&["connector"]);
    if is_flink {
        reader.skip(&["scan.startup.mode", "scan.startup.timestamp-millis", "starting_offsets", "on_error"]);
        reader.skip(&["properties.group.id", "group_id", "on_data_loss", "source.monitor-interval"]);
        reader.skip(&["idle_after", "max_drift"]);
    }
    let (made, format) = match connector {
        Connector::Kafka | Connector::UpsertKafka => (kafka_sink(&mut reader).map(SinkConnector::Kafka), Format::Json),
        Connector::EventHubs => (eventhubs_sink(&mut reader).map(SinkConnector::Kafka), Format::Json),
        Connector::File => match file_sink(&mut reader) {
            Some((path, format)) => (Some(SinkConnector::File { path }), format),
            None => (None, Format::Json),
        },
        Connector::Console => (Some(SinkConnector::Console), Format::Json),
        _ => (Some(SinkConnector::Blackhole), Format::Json),
    };
    errors.extend(reader.finish());
    let columns = columns(&create.columns, &[], errors);
    let mut made = made;
    match &mut made {
        Some(SinkConnector::Kafka(options)) => {
            declared_key(create, options, connector == Connector::UpsertKafka, anchor, errors);
            keys_exist(with, options, &columns, errors);
        }
        _ => refuse_key(create, errors),
    }
    if errors.len() > before {
        return None;
    }
    Some(SinkDef { name: name.value.clone(), columns, connector: made?, format, span: name.span })
}

/// Applies the `PRIMARY KEY (…)` of Flink's form. Errors: it contradicts option `primary_key`; an upsert topic without a
/// key.
fn declared_key(
    create: &CreateRelation,
    options: &mut KafkaSinkOptions,
    upserts: bool,
    anchor: Span,
    errors: &mut Vec<Diagnostic>,
) {
    let declared: Vec<String> = create.primary_key.iter().map(|name| name.value.clone()).collect();
    if !declared.is_empty() {
        let format = options.changes.as_ref().map_or(ChangeFormat::Upsert, |changes| changes.format);
        let given = options.changes.take();
        if let (Some(given), Some(first)) = (&given, create.primary_key.first())
            && !given.key.is_empty()
            && given.key != declared
        {
            let error = Diagnostic::new(first.span, "the primary key and option `primary_key` differ");
            errors.push(error.with_hint("Leave one of them out."));
        }
        let key_format = given.map(|given| given.key_format).unwrap_or_default();
        options.changes = Some(ChangeEncoding { format, key: declared, key_format });
    }
    if upserts && options.changes.as_ref().is_none_or(|changes| changes.key.is_empty()) {
        let error = Diagnostic::new(anchor, "connector `upsert-kafka` needs a key");
        errors.push(error.with_hint("Add `primary_key = 'column'` to `WITH (…)`."));
    }
}

/// Errors: a key column that is not among the columns, if columns are declared.
fn keys_exist(with: &Options, options: &KafkaSinkOptions, columns: &[ColumnDef], errors: &mut Vec<Diagnostic>) {
    let of_changes = options.changes.iter().flat_map(|changes| &changes.key).map(|key| (key, "primary_key"));
    for (key, option) in options.key.iter().map(|key| (key, "key")).chain(of_changes) {
        if let Some(entry) = with.get(option)
            && !columns.is_empty()
            && !columns.iter().any(|column| column.name == *key)
        {
            let names = columns.iter().map(|column| column.name.as_str());
            let error = Diagnostic::new(entry.span, format!("unknown column `{key}`"));
            errors.push(error.or_hint(did_you_mean(key, names)));
        }
    }
}

fn refuse_key(create: &CreateRelation, errors: &mut Vec<Diagnostic>) {
    if let Some(key) = create.primary_key.first() {
        let error = Diagnostic::new(key.span, "a sink of this connector has no primary key");
        errors.push(error.with_hint("Keys belong to Delta tables and to Kafka topics."));
    }
}

/// The `WITH (…)` that a source or sink needs. Errors: it is missing.
fn with_of<'a>(create: &'a CreateRelation, word: &str, errors: &mut Vec<Diagnostic>) -> Option<&'a Options> {
    if create.with.is_none() {
        let name = &create.head.name;
        let error = Diagnostic::new(name.span, format!("{word} `{}` has no `WITH (connector = …)`", name.value));
        errors.push(error.with_hint("Say what it is connected to: `WITH (connector = 'kafka', …)`."));
    }
    create.with.as_ref()
}

/// The connector that the options name, with its name and span as written.
fn connector(
    with: &Options,
    known: &[(&'static str, Connector)],
    name: Span,
    scope: &Scope<'_>,
    errors: &mut Vec<Diagnostic>,
) -> Option<(Connector, String, Span)> {
    let names =
        || known.iter().map(|(name, _)| *name).filter(|name| !matches!(*name, "event_hubs" | "filesystem" | "print"));
    let Some(entry) = with.get("connector") else {
        let keys = with.entries.iter().map(|entry| entry.key.value.as_str());
        let near = did_you_mean("connector", keys).map(|_| "Did you mean `connector`?".to_owned());
        errors.push(
            Diagnostic::new(name, "option `connector` is missing")
                .with_detail(format!("Connectors are {}.", list(names())))
                .or_hint(near),
        );
        return None;
    };
    let text = resolve(entry, scope).map_err(|error| errors.push(error)).ok()?;
    let word = text.value.trim().to_lowercase();
    if let Some((_, connector)) = known.iter().find(|(name, _)| *name == word) {
        return Some((*connector, word, entry.span));
    }
    let error = if LATER.contains(&word.as_str()) {
        Diagnostic::new(entry.span, format!("connector `{word}` is not supported yet"))
    } else if SOURCES.iter().chain(SINKS).any(|(name, _)| *name == word) {
        Diagnostic::new(entry.span, format!("connector `{word}` cannot be used here"))
    } else {
        Diagnostic::new(entry.span, format!("unknown connector `{word}`")).or_hint(did_you_mean(&word, names()))
    };
    errors.push(error.with_detail(format!("Connectors here are {}.", list(names()))));
    None
}

/// A Delta table from its statement.
pub fn table(create: &CreateRelation, scope: &Scope<'_>, errors: &mut Vec<Diagnostic>) -> Built<TableDef> {
    let before = errors.len();
    let name = &create.head.name;
    let mut columns = columns(&create.columns, &[], errors);
    let partitioned_by = known(&create.partitioned_by, &columns, errors);
    let primary_key = known(&create.primary_key, &columns, errors);
    key_columns(create, &mut columns, errors);
    let checks = checks(&create.checks, &columns, scope.files, errors);
    if !columns.is_empty() && columns.iter().all(|column| partitioned_by.contains(&column.name)) {
        let error = Diagnostic::new(name.span, format!("every column of `{}` is a partition column", name.value));
        errors.push(error.with_hint("A table needs a column that is not in `PARTITIONED BY`."));
    }
    let location = create.location.as_ref().and_then(|location| {
        substituted(&location.value, location.span, scope).map_err(|error| errors.push(error)).ok()
    });
    let properties = properties(create.properties.as_ref(), scope, errors);
    if let Some(key) = create.primary_key.first()
        && properties.get("delta.appendOnly").is_some_and(|value| value.eq_ignore_ascii_case("true"))
    {
        let error = Diagnostic::new(key.span, "a table with a primary key cannot be append-only");
        errors.push(error.with_hint("Leave out the key or `'delta.appendOnly'`."));
    }
    let storage = storage(create.storage.as_ref(), scope, errors);
    if errors.len() > before {
        return None;
    }
    Some(TableDef {
        name: name.value.clone(),
        columns,
        partitioned_by,
        location,
        properties,
        storage,
        primary_key,
        checks,
        span: name.span,
    })
}

/// Makes the columns of a primary key NOT NULL. Errors: one is named twice, or its type cannot be a key.
fn key_columns(create: &CreateRelation, columns: &mut [ColumnDef], errors: &mut Vec<Diagnostic>) {
    for (index, name) in create.primary_key.iter().enumerate() {
        if create.primary_key[..index].iter().any(|earlier| earlier.value == name.value) {
            errors.push(Diagnostic::new(name.span, format!("column `{}` is in the key twice", name.value)));
        }
        let Some(column) = columns.iter_mut().find(|column| column.name == name.value) else { continue };
        column.nullable = false;
        if column.data_type.is_nested() {
            let message = format!("column `{}` is {} and cannot be a key", name.value, sql_name(&column.data_type));
            errors.push(Diagnostic::new(name.span, message).with_hint("Choose columns of simple types."));
        }
    }
}

/// The table properties that weir reads. Others may have any name that does not look like one of weir's or Delta's.
const PROPERTIES: &[&str] = &[
    "weir.auto_compact",
    "weir.compression",
    "weir.target_file_size",
    "delta.appendOnly",
    "delta.autoOptimize.autoCompact",
    "delta.autoOptimize.optimizeWrite",
    "delta.checkpointInterval",
    "delta.checkpointPolicy",
    "delta.columnMapping.mode",
    "delta.dataSkippingNumIndexedCols",
    "delta.dataSkippingStatsColumns",
    "delta.deletedFileRetentionDuration",
    "delta.enableChangeDataFeed",
    "delta.enableDeletionVectors",
    "delta.enableExpiredLogCleanup",
    "delta.enableInCommitTimestamps",
    "delta.isolationLevel",
    "delta.logRetentionDuration",
    "delta.minReaderVersion",
    "delta.minWriterVersion",
    "delta.parquet.compression.codec",
    "delta.randomizeFilePrefixes",
    "delta.randomPrefixLength",
    "delta.setTransactionRetentionDuration",
    "delta.targetFileSize",
    "delta.tuneFileSizesForRewrites",
];

fn properties(options: Option<&Options>, scope: &Scope<'_>, errors: &mut Vec<Diagnostic>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in options.into_iter().flat_map(|options| &options.entries) {
        let key = &entry.key.value;
        let is_ours = key.to_lowercase().starts_with("weir.") || key.to_lowercase().starts_with("delta.");
        if is_ours && !PROPERTIES.contains(&key.as_str()) && !key.starts_with("delta.feature.") {
            let error = Diagnostic::new(entry.key.span, format!("unknown table property `{key}`"));
            errors.push(error.or_hint(did_you_mean(key, PROPERTIES.iter().copied())));
            continue;
        }
        match resolve(entry, scope) {
            Ok(text) if text.is_secret() => errors.push(
                Diagnostic::new(entry.span, format!("table property `{key}` cannot be a secret"))
                    .with_hint("Properties are stored in the table; credentials belong in `OPTIONS (…)`."),
            ),
            Ok(text) => {
                found.insert(key.clone(), text.value);
            }
            Err(error) => errors.push(error),
        }
    }
    found
}

fn storage(options: Option<&Options>, scope: &Scope<'_>, errors: &mut Vec<Diagnostic>) -> BTreeMap<String, Secret> {
    let mut found = BTreeMap::new();
    for entry in options.into_iter().flat_map(|options| &options.entries) {
        match resolve(entry, scope) {
            Ok(text) => {
                found.insert(entry.key.value.clone(), Secret::new(text.value));
            }
            Err(error) => errors.push(error),
        }
    }
    found
}
