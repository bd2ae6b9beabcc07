//! Options of `connector = 'nexmark'`: the benchmark's auction, whose columns are fixed.

use arrow::datatypes::DataType;

use super::super::definition::{ColumnDef, ColumnOrigin, NexmarkOptions, NexmarkTable};
use super::super::value::{count, number, rate};
use super::OptionReader;
use crate::sql::Span;
use crate::sql::types::timestamp;

/// Options of a source; `None` if errors were reported.
pub fn source(reader: &mut OptionReader<'_>) -> Option<NexmarkOptions> {
    const TABLES: &[(&str, NexmarkTable)] =
        &[("person", NexmarkTable::Person), ("auction", NexmarkTable::Auction), ("bid", NexmarkTable::Bid)];
    if !reader.has("table") {
        reader.missing("table");
    }
    let table = reader.choice(&["table"], TABLES);
    let options = NexmarkOptions {
        table: table.unwrap_or(NexmarkTable::Bid),
        events: reader.parsed(&["events"], count).map(|events| events as u64),
        rate: reader.parsed(&["rate", "rows_per_second", "rows-per-second"], rate).flatten(),
        events_per_second: reader.parsed(&["first_event_rate", "events_per_second"], count).unwrap_or(10_000) as u64,
        seed: reader.parsed(&["seed"], number).unwrap_or(0),
    };
    table.map(|_| options)
}

/// The columns of a kind of event, named as in Flink's Nexmark.
pub fn columns(table: NexmarkTable, span: Span) -> Vec<ColumnDef> {
    let (text, number, time) = (|| DataType::Utf8, || DataType::Int64, timestamp);
    let columns = match table {
        NexmarkTable::Person => vec![
            ("id", number()),
            ("name", text()),
            ("email_address", text()),
            ("credit_card", text()),
            ("city", text()),
            ("state", text()),
            ("date_time", time()),
            ("extra", text()),
        ],
        NexmarkTable::Auction => vec![
            ("id", number()),
            ("item_name", text()),
            ("description", text()),
            ("initial_bid", number()),
            ("reserve", number()),
            ("date_time", time()),
            ("expires", time()),
            ("seller", number()),
            ("category", number()),
            ("extra", text()),
        ],
        NexmarkTable::Bid => vec![
            ("auction", number()),
            ("bidder", number()),
            ("price", number()),
            ("channel", text()),
            ("url", text()),
            ("date_time", time()),
            ("extra", text()),
        ],
    };
    columns
        .into_iter()
        .map(|(name, data_type)| ColumnDef {
            name: name.to_owned(),
            data_type,
            nullable: false,
            origin: ColumnOrigin::Field(vec![name.to_owned()]),
            span,
        })
        .collect()
}
