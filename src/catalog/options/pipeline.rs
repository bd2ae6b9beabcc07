//! Options of `CREATE PIPELINE … WITH (…)`.

use super::super::definition::{AtEnd, Emit, Late, OnRowError, PipelineOptions, SeedFrom};
use super::super::value::{count, delay, state_ttl, trigger};
use super::OptionReader;
use crate::sql::lexer::fold;

const EMISSIONS: &[(&str, Emit)] = &[("on_watermark", Emit::OnWatermark), ("on_arrival", Emit::OnArrival)];
const LATE: &[(&str, Late)] = &[("drop", Late::Drop), ("dead_letter", Late::DeadLetter), ("emit", Late::Emit)];
const ON_ROW_ERROR: &[(&str, OnRowError)] =
    &[("dead_letter", OnRowError::DeadLetter), ("null", OnRowError::Null), ("fail", OnRowError::Fail)];
const AT_END: &[(&str, AtEnd)] = &[("flush", AtEnd::Flush), ("keep", AtEnd::Keep)];

/// The options, with defaults for those that are not given.
pub fn pipeline(reader: &mut OptionReader<'_>) -> PipelineOptions {
    let default = PipelineOptions::default();
    PipelineOptions {
        trigger: reader.parsed(&["trigger"], trigger),
        max_rows_per_micro_batch: reader
            .parsed(&["max_rows_per_micro_batch"], count)
            .unwrap_or(default.max_rows_per_micro_batch),
        max_delay: reader.parsed(&["max_delay"], delay).unwrap_or(default.max_delay),
        parallelism: reader.parsed(&["parallelism"], count),
        rolling_emit: reader.choice(&["rolling_emit"], EMISSIONS).unwrap_or_default(),
        rolling_collect_limit: reader
            .parsed(&["rolling_collect_limit"], count)
            .unwrap_or(default.rolling_collect_limit),
        late: reader.choice(&["late"], LATE).unwrap_or_default(),
        on_row_error: reader.choice(&["on_row_error"], ON_ROW_ERROR).unwrap_or_default(),
        state_ttl: reader.parsed(&["state_ttl"], state_ttl),
        at_end: reader.choice(&["at_end"], AT_END),
        seed_from: reader.text(&["seed_from"]).map(|text| SeedFrom { table: fold(&text.value), span: text.span }),
    }
}
