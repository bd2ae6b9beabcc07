//! Options of `CREATE PIPELINE … WITH (…)`.

use super::super::definition::PipelineOptions;
use super::super::value::{count, delay, trigger};
use super::OptionReader;
use crate::sql::Diagnostic;

/// The options, with defaults for what is not given.
pub fn pipeline(reader: &mut OptionReader<'_>) -> PipelineOptions {
    let default = PipelineOptions::default();
    for later in ["rolling_emit", "late"] {
        if let Some(text) = reader.text(&[later]) {
            reader.report(Diagnostic::new(text.span, format!("option `{later}` is not supported yet")));
        }
    }
    PipelineOptions {
        trigger: reader.parsed(&["trigger"], trigger),
        max_rows_per_micro_batch: reader
            .parsed(&["max_rows_per_micro_batch"], count)
            .unwrap_or(default.max_rows_per_micro_batch),
        max_delay: reader.parsed(&["max_delay"], delay).unwrap_or(default.max_delay),
        parallelism: reader.parsed(&["parallelism"], count),
    }
}
