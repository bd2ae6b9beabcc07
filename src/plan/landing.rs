//! A try of what an INSERT writes to, before anything runs: a row is put through the encoder of the sink, and a table's columns through
//! Delta's list of types. What `weir check` accepts can then be written.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::datatypes::SchemaRef;

use super::rehearsal::default_row;
use crate::catalog::{Catalog, SinkConnector, SinkDef};
use crate::delta::unstorable;
use crate::error::{Error, Result};
use crate::evaluate::{cause, panicked};
use crate::sink;
use crate::sql::types::sql_name;

/// Writes one row of `schema` to nowhere, as `target` would be written.
///
/// Errors: a type that the target cannot hold.
pub fn land(catalog: &Catalog, target: &str, schema: &SchemaRef) -> Result<()> {
    match catalog.sinks.get(target) {
        Some(sink) => encode(sink, schema),
        None => match unstorable(schema) {
            None => Ok(()),
            Some(field) => {
                let kind = sql_name(field.data_type());
                let (target, column) = (target, field.name());
                Err(Error::sql(format!("column `{column}` of `{target}` is of type {kind}, which Delta does not have"))
                    .with_hint(format!(
                        "Convert it in the query, to a type that tables have: `CAST({column} AS STRING)`."
                    )))
            }
        },
    }
}

fn encode(sink: &SinkDef, schema: &SchemaRef) -> Result<()> {
    let Some(row) = default_row(schema) else { return Ok(()) };
    let tried = catch_unwind(AssertUnwindSafe(|| match &sink.connector {
        SinkConnector::Kafka(options) => {
            let key = options.key.as_deref().filter(|_| options.changes.is_none());
            sink::kafka::encode(&row, key).map(drop)
        }
        SinkConnector::Console => sink::console::table(&sink.name, std::slice::from_ref(&row)).map(drop),
        SinkConnector::File { .. } => sink::file::try_row(sink.format, &row),
        SinkConnector::Blackhole => Ok(()),
    }));
    let error = match tried {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error,
        Err(panic) => Error::internal(cause(&panicked(panic.as_ref()))),
    };
    let mut reason = error.message().to_owned();
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        reason = inner.to_string();
        source = inner.source();
    }
    let reason = reason.lines().next().unwrap_or_default().trim_end_matches('.').to_owned();
    Err(Error::sql(format!("sink `{}` cannot be written with these columns", sink.name))
        .with_detail(format!("{reason}."))
        .with_hint("Convert the column in the query, with CAST say, or leave it out."))
}
