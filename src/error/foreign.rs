//! DataFusion's errors as ours: the one place that tells what failed beside a query (memory, a store, a file) from the rest.

use std::error::Error as StdError;
use std::fmt::Display;

use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use datafusion::parquet::errors::ParquetError;

use super::{Error, SqlState};

/// The beginning of what DataFusion's Parquet reader says of a condition that it computed while it read a file. The error of the
/// condition follows as a text.
pub const OF_CONDITION: &str = "Error evaluating filter predicate: ";

impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        Self::External(Box::new(error))
    }
}

impl From<DataFusionError> for Error {
    /// Unwraps a weir error that travelled through DataFusion, and names what failed beside the query; anything else is
    /// `Internal`.
    fn from(error: DataFusionError) -> Self {
        match error {
            DataFusionError::External(inner) => match inner.downcast::<Self>() {
                Ok(ours) => *ours,
                Err(other) => beside(other.as_ref()).unwrap_or_else(|| failed().with_source(other)),
            },
            DataFusionError::Context(message, inner) => {
                let inner = Self::from(*inner);
                Self::new(inner.kind(), message).with_state(inner.state()).with_source(inner)
            }
            other => beside(&other).unwrap_or_else(|| failed().with_source(other)),
        }
    }
}

fn failed() -> Error {
    Error::internal("query execution failed")
}

/// The error of ours that others carry, or what failed beside the query. `None`: the query itself, or a defect.
pub fn beside(error: &(dyn StdError + 'static)) -> Option<Error> {
    // Stores pass weir's own errors on inside of theirs.
    if let Some(ours) = Error::behind(error) {
        return Some(ours);
    }
    let mut open = Some(error);
    while let Some(error) = open {
        if let Some(DataFusionError::ResourcesExhausted(message)) = error.downcast_ref() {
            return Some(out_of_memory(message));
        }
        if let Some(ArrowError::ParquetError(text)) = error.downcast_ref() {
            return of_file(text);
        }
        if error.is::<object_store::Error>() {
            return Some(Error::environment("object store failed").with_detail(sentence(error)));
        }
        if error.is::<std::io::Error>() {
            return Some(Error::environment("reading failed").with_detail(sentence(error)));
        }
        open = error.source();
        match error.downcast_ref::<ParquetError>() {
            // Made of what it carries.
            Some(ParquetError::External(_)) | None => {}
            Some(parquet) => return of_file(&parquet.to_string()),
        }
    }
    None
}

/// A file that cannot be read, unless a condition failed that was computed while it was read.
fn of_file(text: &str) -> Option<Error> {
    (!text.contains(OF_CONDITION)).then(|| {
        Error::damaged("data file cannot be read")
            .with_detail(sentence(text))
            .with_hint("The file may have been removed by VACUUM while the query ran: run it again.")
    })
}

/// Memory that a query wanted and did not get.
pub fn out_of_memory(message: &str) -> Error {
    Error::environment("memory limit reached")
        .with_state(SqlState::OUT_OF_MEMORY)
        .with_detail(sentence(message))
        .with_hint("Read fewer rows or columns at a time (in a pipeline: a lower `max_rows_per_micro_batch`), or raise `memory_limit` in the configuration.")
}

/// The text as a sentence.
pub fn sentence(text: &(impl Display + ?Sized)) -> String {
    let text = text.to_string();
    if text.ends_with(['.', '!', '?']) { text } else { format!("{text}.") }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use super::super::ErrorKind;
    use super::*;

    fn lost() -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: "connection refused".into() }
    }

    /// Every way on which DataFusion passes an error on.
    fn wrapped(inner: fn() -> DataFusionError) -> Vec<DataFusionError> {
        vec![
            inner(),
            DataFusionError::Context("while reading".to_owned(), Box::new(inner())),
            DataFusionError::Shared(Arc::new(inner())),
            DataFusionError::Collection(vec![inner()]),
            DataFusionError::External(Box::new(inner())),
            DataFusionError::ArrowError(Box::new(ArrowError::ExternalError(Box::new(inner()))), None),
            DataFusionError::ParquetError(Box::new(ParquetError::External(Box::new(inner())))),
        ]
    }

    #[test]
    fn what_fails_beside_a_query_is_known_however_it_is_wrapped() {
        let ours: fn() -> DataFusionError = || Error::fenced("another run").into();
        let store: fn() -> DataFusionError = || DataFusionError::ObjectStore(Box::new(lost()));
        let in_parquet: fn() -> DataFusionError =
            || DataFusionError::ParquetError(Box::new(ParquetError::External(Box::new(lost()))));
        let disk: fn() -> DataFusionError = || DataFusionError::IoError(io::Error::other("disk"));
        let memory: fn() -> DataFusionError = || DataFusionError::ResourcesExhausted("none left".to_owned());
        let file: fn() -> DataFusionError =
            || DataFusionError::ParquetError(Box::new(ParquetError::EOF("3 bytes are missing".to_owned())));
        let defect: fn() -> DataFusionError = || DataFusionError::Internal("a defect".to_owned());
        for (inner, kind) in [
            (ours, ErrorKind::Fenced),
            (store, ErrorKind::Environment),
            (in_parquet, ErrorKind::Environment),
            (disk, ErrorKind::Environment),
            (memory, ErrorKind::Environment),
            (file, ErrorKind::Damaged),
            (defect, ErrorKind::Internal),
        ] {
            for error in wrapped(inner) {
                let shown = format!("{error:?}");
                assert_eq!(Error::from(error).kind(), kind, "{shown}");
            }
        }
    }

    #[test]
    fn a_condition_that_fails_while_a_file_is_read_does_not_damage_it() {
        let text = format!("{OF_CONDITION}ArrowError(DivideByZero)");
        let error = DataFusionError::ParquetError(Box::new(ParquetError::ArrowError(text)));
        assert_eq!(Error::from(error).kind(), ErrorKind::Internal);
    }
}
