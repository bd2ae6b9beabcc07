//! Errors of a query, as a weir [`Error`] and as a gRPC status.
//!
//! DataFusion's errors name their origin; a user needs to know what to write instead. Failures outside of the statement are
//! classified by [`beside`].

mod values;

use std::error::Error as StdError;

use arrow::error::ArrowError;
use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use datafusion::parquet::errors::ParquetError;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use self::values::{of_condition, state_of};
use crate::error::{Error, ErrorKind, SqlState, beside, out_of_memory, sentence};
use crate::sql::unsupported;

/// Classifies an error of planning or running a query: caused by the SQL, by the environment, or by a defect.
pub fn query_error(error: DataFusionError) -> Error {
    match error {
        DataFusionError::SQL(parser, _) => {
            Error::sql("statement is not valid SQL").with_state(SqlState::SYNTAX).with_detail(sentence(&parser))
        }
        DataFusionError::Plan(message) if unsupported(&message).is_some() => of_construct(&message),
        DataFusionError::Plan(message) => Error::sql(lower_first(&message)).with_state(state_of_plan(&message)),
        DataFusionError::ArrowError(ref arrow, _) if unsupported(&arrow.to_string()).is_some() => {
            of_construct(&arrow.to_string())
        }
        DataFusionError::NotImplemented(ref message) | DataFusionError::Internal(ref message)
            if unsupported(message).is_some() =>
        {
            of_construct(message)
        }
        DataFusionError::NotImplemented(message) => Error::sql("statement uses what is not supported")
            .with_state(SqlState::UNSUPPORTED)
            .with_detail(sentence(&message)),
        DataFusionError::SchemaError(schema, _) => schema_error(&schema),
        DataFusionError::Configuration(message) => Error::sql(lower_first(&message)),
        DataFusionError::Execution(message) => Error::sql(lower_first(&message)).with_state(state_of(&message)),
        DataFusionError::ArrowError(arrow, _) => arrow_error(&arrow),
        DataFusionError::Internal(ref message) if of_statement(message).is_some() => {
            of_statement(message).unwrap_or_else(|| Error::internal("query execution failed"))
        }
        DataFusionError::Internal(message) if state_of(&message) == SqlState::REGEX => {
            of_value(message.lines().next().unwrap_or_default(), SqlState::REGEX)
        }
        DataFusionError::ParquetError(source) => parquet_error(&source),
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
        DataFusionError::External(source) if !source.is::<Error>() => {
            foreign_error(source.as_ref()).unwrap_or_else(|| Error::from(DataFusionError::External(source)))
        }
        // Also a panic in one of the query's tasks.
        other => Error::from(other),
    }
}

/// The error for what DataFusion reports as a defect of its own, but the statement causes: `1 BETWEEN true AND 2`, `array_max` of MAPs, `array_resize(a, -1)`.
fn of_statement(message: &str) -> Option<Error> {
    let first = message.lines().next().unwrap_or_default();
    let first = first.split(". This issue was likely caused").next().unwrap_or_default();
    let says = |text: &str| first.contains(text);
    let has_no_order = says("not implemented for type") || says("Cannot run range queries on datatype");
    if has_no_order && says("Map(") {
        let error = Error::sql("a MAP has no order: it cannot be compared, sorted or aggregated by `min` and `max`");
        return Some(error.with_state(SqlState::TYPES));
    }
    if says("coerce") || has_no_order {
        return Some(Error::sql(lower_first(first)).with_state(SqlState::TYPES));
    }
    says("failed to convert size to usize")
        .then(|| Error::sql("the size given to `array_resize` is negative").with_state(SqlState::PARAMETER))
}

/// The error for a construct that DataFusion reports in its internal terms.
fn of_construct(text: &str) -> Error {
    let (message, hint) =
        unsupported(text).unwrap_or(("statement uses what is not supported", "Write it in another way."));
    Error::sql(message).with_state(SqlState::UNSUPPORTED).with_hint(hint)
}

/// The gRPC status with everything in the error: message, detail and hint.
pub fn status(error: &Error) -> Status {
    let code = match error.kind() {
        _ if error.state() == SqlState::CANCELLED => Code::Cancelled,
        _ if matches!(error.state(), SqlState::OUT_OF_MEMORY | SqlState::TOO_MANY) => Code::ResourceExhausted,
        ErrorKind::Sql if error.state() == SqlState::UNDEFINED_TABLE => Code::NotFound,
        ErrorKind::Sql | ErrorKind::Config => Code::InvalidArgument,
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
    let mut status = Status::new(code, text);
    status.metadata_mut().insert(SQLSTATE, MetadataValue::from_static(error.state().code()));
    status
}

/// The trailer that carries an error's SQLSTATE.
pub const SQLSTATE: &str = "sqlstate";

/// The SQLSTATE of a status that has only a code.
pub fn state_of_code(code: Code) -> SqlState {
    match code {
        Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition => SqlState::PROTOCOL,
        Code::Unauthenticated | Code::PermissionDenied => SqlState::LOGIN,
        Code::Unimplemented => SqlState::UNSUPPORTED,
        Code::NotFound => SqlState::UNDEFINED_OBJECT,
        Code::Cancelled | Code::DeadlineExceeded => SqlState::CANCELLED,
        Code::ResourceExhausted => SqlState::LIMIT,
        Code::Unavailable => SqlState::SYSTEM,
        Code::Aborted => SqlState::FENCED,
        Code::DataLoss => SqlState::DAMAGED,
        _ => SqlState::INTERNAL,
    }
}

/// The SQLSTATE of a planning error; DataFusion distinguishes these only by their messages.
fn state_of_plan(message: &str) -> SqlState {
    let message = message.to_lowercase();
    let says = |text: &str| message.contains(text);
    if says("not found") && says("table") {
        SqlState::UNDEFINED_TABLE
    } else if says("no built-in encoding") {
        SqlState::PARAMETER
    } else if says("invalid function") || says("no function matches") || says("function") && says("not found") {
        SqlState::UNDEFINED_FUNCTION
    } else if says("coerc") || says("cast") || says("type") || says("cannot infer") {
        SqlState::TYPES
    } else {
        SqlState::RULE
    }
}

fn arrow_error(error: &ArrowError) -> Error {
    let text = error.to_string();
    if let Some(found) = error.source().and_then(inside) {
        return found;
    }
    if let Some((state, message)) = of_condition(&text) {
        return of_value(&message, state);
    }
    if let Some(found) = beside(error) {
        return found;
    }
    let state = match (error, state_of(&text)) {
        (ArrowError::CastError(_) | ArrowError::ParseError(_), SqlState::DATA) => SqlState::INVALID_TEXT,
        (_, state) => state,
    };
    of_value(&text, state)
}

/// The error of a value, or of a function's result.
fn of_value(message: &str, state: SqlState) -> Error {
    match state {
        SqlState::OUT_OF_MEMORY => out_of_memory(message),
        _ => Error::sql(lower_first(message)).with_state(state),
    }
}

/// The error of a file that cannot be read, or of a condition that was computed while reading it.
fn parquet_error(error: &ParquetError) -> Error {
    let text = error.to_string();
    match of_condition(&text) {
        Some((state, message)) => of_value(&message, state),
        None => error.source().and_then(inside).or_else(|| beside(error)).unwrap_or_else(|| failed(&text)),
    }
}

/// The error of the statement inside another error, or the failure beside it.
fn inside(error: &(dyn StdError + 'static)) -> Option<Error> {
    let mut open = Some(error).filter(|error| !error.is::<Error>());
    while let Some(carried) = open {
        if let Some(found) = carried.downcast_ref::<DataFusionError>() {
            return Some(shared_error(found));
        }
        if let Some(found) = carried.downcast_ref::<ArrowError>() {
            return Some(arrow_error(found));
        }
        open = carried.source();
    }
    beside(error)
}

/// The fallback for other errors: an error with the statement's SQLSTATE if the text describes a bad value.
fn foreign_error(error: &(dyn StdError + 'static)) -> Option<Error> {
    inside(error).or_else(|| {
        let text = error.to_string();
        let state = state_of(&text);
        (state == SqlState::REGEX).then(|| of_value(&text, state))
    })
}

fn schema_error(error: &SchemaError) -> Error {
    let SchemaError::FieldNotFound { field, valid_fields } = error else {
        let state = match error {
            SchemaError::AmbiguousReference { .. } => SqlState::AMBIGUOUS_COLUMN,
            _ => SqlState::RULE,
        };
        return Error::sql(lower_first(&error.to_string())).with_state(state);
    };
    let refused = Error::sql(format!("column `{}` does not exist", field.name)).with_state(SqlState::UNDEFINED_COLUMN);
    let names: Vec<&str> = valid_fields.iter().map(|field| field.name.as_str()).collect();
    match nearest(&field.name, &names) {
        Some(name) if name.chars().any(char::is_uppercase) => {
            refused.with_hint(format!("Did you mean `\"{name}\"`? Names with capitals want double quotes."))
        }
        Some(name) => refused.with_hint(format!("Did you mean `{name}`?")),
        None => refused.with_hint(format!("The columns are {}.", quoted(&names))),
    }
}

/// Converts an error that other streams of the same query share, so that it cannot be consumed.
fn shared_error(error: &DataFusionError) -> Error {
    match error.find_root() {
        DataFusionError::Plan(message) => Error::sql(lower_first(message)).with_state(state_of_plan(message)),
        DataFusionError::Execution(message) => Error::sql(lower_first(message)).with_state(state_of(message)),
        DataFusionError::ArrowError(arrow, _) => arrow_error(arrow),
        DataFusionError::ParquetError(source) => parquet_error(source),
        DataFusionError::Internal(message) if state_of(message) == SqlState::REGEX => {
            of_value(message.lines().next().unwrap_or_default(), SqlState::REGEX)
        }
        DataFusionError::Internal(message) if of_statement(message).is_some() => {
            of_statement(message).unwrap_or_else(|| failed(message))
        }
        DataFusionError::External(other) => foreign_error(other.as_ref()).unwrap_or_else(|| failed(other)),
        other => beside(other).unwrap_or_else(|| failed(other)),
    }
}

fn failed(reason: &impl std::fmt::Display) -> Error {
    Error::internal("query execution failed").with_detail(sentence(reason))
}

/// The name most similar to `wanted`, if one is similar enough.
pub fn nearest<'a>(wanted: &str, names: &[&'a str]) -> Option<&'a str> {
    let wanted = wanted.to_lowercase();
    names
        .iter()
        .map(|name| (strsim::jaro_winkler(&wanted, &name.to_lowercase()), *name))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, name)| name)
}

/// The names in backticks, at most twelve.
pub fn quoted(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(12).map(|name| format!("`{name}`")).collect();
    let more = if names.len() > 12 { " …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

fn lower_first(text: &str) -> String {
    let text = text.trim().trim_end_matches('.');
    let mut chars = text.chars();
    match (chars.next(), chars.clone().next()) {
        // `SELECT …` and other words in capitals are not changed.
        (Some(first), second) if !second.is_some_and(char::is_uppercase) => first.to_lowercase().chain(chars).collect(),
        _ => text.to_owned(),
    }
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
        let missing = Error::sql("table `t` does not exist").with_state(SqlState::UNDEFINED_TABLE);
        assert_eq!(super::status(&missing).code(), Code::NotFound);
    }

    #[test]
    fn exhausted_memory_is_not_the_fault_of_the_sql() {
        let error = query_error(DataFusionError::Shared(std::sync::Arc::new(DataFusionError::ResourcesExhausted(
            "no more".to_owned(),
        ))));
        assert_eq!(status(&error).code(), Code::ResourceExhausted);
    }

    #[test]
    fn what_datafusion_takes_for_its_own_defect_is_the_statements() {
        for (message, told) in [
            (
                "array_resize: failed to convert size to usize.\nThis issue",
                "the size given to `array_resize` is negative",
            ),
            (
                "Min/Max accumulator not implemented for type Map(x). This issue was likely caused by a bug",
                "a MAP has no order: it cannot be compared, sorted or aggregated by `min` and `max`",
            ),
        ] {
            let shared = DataFusionError::Shared(std::sync::Arc::new(DataFusionError::Internal(message.to_owned())));
            for error in [DataFusionError::Internal(message.to_owned()), shared] {
                let error = query_error(error);
                assert_eq!((error.kind(), error.message()), (ErrorKind::Sql, told));
            }
        }
    }

    #[test]
    fn the_nearest_name_ignores_case_and_refuses_strangers() {
        assert_eq!(nearest("SCORE", &["scored", "alerts"]), Some("scored"));
        assert_eq!(nearest("xyz", &["scored", "alerts"]), None);
    }
}
