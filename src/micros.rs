//! Functions of times in microseconds, over all years that can be shown: DataFusion's own go through nanoseconds.

mod date_trunc;
mod to_char;
mod zone;

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};

pub use date_trunc::date_trunc_in_micros;
pub use to_char::to_char_in_micros;
pub use zone::OneInstant;

/// TIMESTAMP in a zone.
pub fn micros_in(zone: Option<Arc<str>>) -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, zone)
}

/// TIMESTAMP.
pub fn instant() -> DataType {
    micros_in(Some(Arc::from("UTC")))
}
