//! What went wrong with somebody's query, as a weir [`Error`] and as a gRPC status.
//!
//! DataFusion's errors say where they arose; a person needs to know whether to mend the SQL or to look at the machine.

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use tonic::{Code, Status};

use crate::error::{Error, ErrorKind};

/// Sorts an error of planning or running a query: the SQL's fault, the environment's, or ours.
pub fn query_error(error: DataFusionError) -> Error {
    match error {
        DataFusionError::SQL(parser, _) => Error::sql("statement is not valid SQL").with_detail(sentence(&parser)),
        DataFusionError::Plan(message) => Error::sql(lower_first(&message)),
        DataFusionError::NotImplemented(message) => {
            Error::sql("statement uses what is not supported").with_detail(sentence(&message))
        }
        DataFusionError::SchemaError(schema, _) => schema_error(&schema),
        DataFusionError::Configuration(message) => Error::sql(lower_first(&message)),
        DataFusionError::Execution(message) => Error::sql(lower_first(&message)),
        DataFusionError::ArrowError(arrow, _) => Error::sql(lower_first(&arrow.to_string())),
        DataFusionError::ResourcesExhausted(message) => memory_error(&message),
        DataFusionError::ObjectStore(source) => Error::environment("object store failed").with_source(source),
        DataFusionError::IoError(source) => Error::environment("reading failed").with_source(source),
        DataFusionError::ParquetError(source) => Error::damaged("data file cannot be read")
            .with_detail(sentence(&source))
            .with_source(source)
            .with_hint("The file may have been removed by VACUUM while the query ran: run it again."),
        DataFusionError::Diagnostic(planned, inner) => {
            let error = query_error(*inner);
            match planned.helps.first().filter(|_| error.hint().is_none()) {
                Some(help) => error.with_hint(sentence(&help.message)),
                None => error,
            }
        }
        DataFusionError::Context(_, inner) => query_error(*inner),
        DataFusionError::Collection(mut errors) if !errors.is_empty() => query_error(errors.swap_remove(0)),
        DataFusionError::Shared(shared) => {
            std::sync::Arc::try_unwrap(shared).map_or_else(|shared| shared_error(&shared), query_error)
        }
        other => Error::from(other),
    }
}

/// The gRPC status that tells a client all that the error tells: message, detail and hint.
pub fn status(error: &Error) -> Status {
    let code = match error.kind() {
        ErrorKind::Sql | ErrorKind::Config => Code::InvalidArgument,
        ErrorKind::Environment if error.message().contains("memory") => Code::ResourceExhausted,
        ErrorKind::Environment => Code::Unavailable,
        ErrorKind::Fenced => Code::Aborted,
        ErrorKind::Damaged => Code::DataLoss,
        ErrorKind::Internal => Code::Internal,
    };
    let mut text = error.message().to_owned();
    if let Some(detail) = error.detail() {
        text = format!("{text}\n{detail}");
    } else if let Some(source) = std::error::Error::source(error) {
        text = format!("{text}\n{}", sentence(source));
    }
    if let Some(hint) = error.hint() {
        text = format!("{text}\nhint: {hint}");
    }
    Status::new(code, text)
}

fn schema_error(error: &SchemaError) -> Error {
    let SchemaError::FieldNotFound { field, valid_fields } = error else {
        return Error::sql(lower_first(&error.to_string()));
    };
    let refused = Error::sql(format!("column `{}` does not exist", field.name));
    let names: Vec<&str> = valid_fields.iter().map(|field| field.name.as_str()).collect();
    match nearest(&field.name, &names) {
        Some(name) if name.chars().any(char::is_uppercase) => {
            refused.with_hint(format!("Did you mean `\"{name}\"`? Names with capitals want double quotes."))
        }
        Some(name) => refused.with_hint(format!("Did you mean `{name}`?")),
        None => refused.with_hint(format!("The columns are {}.", quoted(&names))),
    }
}

/// An error that other streams of the same query hold as well, so that it cannot be taken apart.
fn shared_error(error: &DataFusionError) -> Error {
    match error.find_root() {
        DataFusionError::ResourcesExhausted(message) => memory_error(message),
        DataFusionError::Plan(message) | DataFusionError::Execution(message) => Error::sql(lower_first(message)),
        DataFusionError::ArrowError(arrow, _) => Error::sql(lower_first(&arrow.to_string())),
        other => Error::internal("query execution failed").with_detail(sentence(other)),
    }
}

fn memory_error(message: &str) -> Error {
    Error::environment("memory limit reached")
        .with_detail(sentence(message))
        .with_hint("Read fewer rows or columns at a time, or raise `memory_limit` in the configuration.")
}

/// The name most like `wanted`, if one is like it.
pub fn nearest<'a>(wanted: &str, names: &[&'a str]) -> Option<&'a str> {
    let wanted = wanted.to_lowercase();
    names
        .iter()
        .map(|name| (strsim::jaro_winkler(&wanted, &name.to_lowercase()), *name))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, name)| name)
}

/// `a`, `b`, `c` in backticks, cut after a dozen.
pub fn quoted(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(12).map(|name| format!("`{name}`")).collect();
    let more = if names.len() > 12 { " …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

fn lower_first(text: &str) -> String {
    let text = text.trim().trim_end_matches('.');
    let mut chars = text.chars();
    match (chars.next(), chars.clone().next()) {
        // `SELECT …` and other words in capitals stay as they are.
        (Some(first), second) if !second.is_some_and(char::is_uppercase) => first.to_lowercase().chain(chars).collect(),
        _ => text.to_owned(),
    }
}

fn sentence(text: &(impl std::fmt::Display + ?Sized)) -> String {
    let text = text.to_string();
    if text.ends_with(['.', '!', '?']) { text } else { format!("{text}.") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_message_detail_and_hint() {
        let error = Error::sql("column `amont` does not exist").with_hint("Did you mean `amount`?");
        let status = status(&error);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "column `amont` does not exist\nhint: Did you mean `amount`?");
    }

    #[test]
    fn exhausted_memory_is_not_the_fault_of_the_sql() {
        let error = query_error(DataFusionError::Shared(std::sync::Arc::new(DataFusionError::ResourcesExhausted(
            "no more".to_owned(),
        ))));
        assert_eq!(status(&error).code(), Code::ResourceExhausted);
    }

    #[test]
    fn the_nearest_name_ignores_case_and_refuses_strangers() {
        assert_eq!(nearest("SCORE", &["scored", "alerts"]), Some("scored"));
        assert_eq!(nearest("xyz", &["scored", "alerts"]), None);
    }
}
