//! Options of `connector = 'generator'`: the card-fraud simulator, whose columns are fixed.

use std::time::Duration;

use arrow::datatypes::DataType;

use super::super::definition::{ColumnDef, ColumnOrigin, GeneratorOptions, GeneratorTable};
use super::super::value::{count, delay, number, rate, small_count};
use super::OptionReader;
use crate::sql::Span;
use crate::sql::types::timestamp;

/// Options of a source; the defaults are the published simulation's.
pub fn source(reader: &mut OptionReader<'_>) -> GeneratorOptions {
    const TABLES: &[(&str, GeneratorTable)] =
        &[("transactions", GeneratorTable::Transactions), ("labels", GeneratorTable::Labels)];
    GeneratorOptions {
        table: reader.choice(&["table"], TABLES).unwrap_or_default(),
        label_delay: reader.parsed(&["label_delay"], delay).unwrap_or(Duration::from_secs(7 * 86_400)),
        rate: reader.parsed(&["rate", "rows_per_second", "rows-per-second"], rate).flatten(),
        seed: reader.parsed(&["seed"], number).unwrap_or(0),
        customers: reader.parsed(&["customers"], small_count).unwrap_or(5_000),
        terminals: reader.parsed(&["terminals"], small_count).unwrap_or(10_000),
        rows: reader.parsed(&["rows", "number-of-rows"], count).map(|rows| rows as u64),
        days: reader.parsed(&["days"], small_count),
    }
}

/// The columns that the simulator generates.
pub fn columns(table: GeneratorTable, span: Span) -> Vec<ColumnDef> {
    let columns = match table {
        GeneratorTable::Transactions => transactions(),
        // `ts` is the time of the label, `transaction_ts` that of the transaction.
        GeneratorTable::Labels => vec![
            ("transaction_id", DataType::Utf8, false),
            ("terminal_id", DataType::Utf8, true),
            ("user_id", DataType::Utf8, true),
            ("is_fraud", DataType::Boolean, true),
            ("ts", timestamp(), true),
            ("transaction_ts", timestamp(), true),
        ],
    };
    columns
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

fn transactions() -> Vec<(&'static str, DataType, bool)> {
    vec![
        ("transaction_id", DataType::Utf8, false),
        ("user_id", DataType::Utf8, true),
        ("amount", DataType::Float64, true),
        ("ts", timestamp(), true),
        ("terminal_id", DataType::Utf8, true),
        ("location", DataType::Utf8, true),
        ("is_fraud", DataType::Boolean, true),
        ("fraud_scenario", DataType::Int32, true),
    ]
}
