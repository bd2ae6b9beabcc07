//! Options of `connector = 'generator'`: the card-fraud simulator, whose columns are fixed.

use arrow::datatypes::DataType;

use super::super::definition::{ColumnDef, ColumnOrigin, GeneratorOptions};
use super::super::value::{count, number, rate, small_count};
use super::OptionReader;
use crate::sql::Span;
use crate::sql::types::timestamp;

/// Options of a source; the defaults are the published simulation's.
pub fn source(reader: &mut OptionReader<'_>) -> GeneratorOptions {
    GeneratorOptions {
        rate: reader.parsed(&["rate", "rows_per_second", "rows-per-second"], rate).flatten(),
        seed: reader.parsed(&["seed"], number).unwrap_or(0),
        customers: reader.parsed(&["customers"], small_count).unwrap_or(5_000),
        terminals: reader.parsed(&["terminals"], small_count).unwrap_or(10_000),
        rows: reader.parsed(&["rows", "number-of-rows"], count).map(|rows| rows as u64),
        days: reader.parsed(&["days"], small_count),
    }
}

/// The columns that the simulator makes.
pub fn columns(span: Span) -> Vec<ColumnDef> {
    [
        ("transaction_id", DataType::Utf8, false),
        ("user_id", DataType::Utf8, true),
        ("amount", DataType::Float64, true),
        ("ts", timestamp(), true),
        ("terminal_id", DataType::Utf8, true),
        ("location", DataType::Utf8, true),
        ("is_fraud", DataType::Boolean, true),
        ("fraud_scenario", DataType::Int32, true),
    ]
    .into_iter()
    .map(|(name, data_type, nullable)| ColumnDef {
        name: name.to_owned(),
        data_type,
        nullable,
        origin: ColumnOrigin::Field(vec![name.to_owned()]),
        span,
    })
    .collect()
}
