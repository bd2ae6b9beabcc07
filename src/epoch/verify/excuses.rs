//! Reasons why a table need not have the rows that its query gives in batch, looked for once they differ.

use super::reread::Reread;
use super::written::epoch_of;
use super::{Comparison, Question};
use crate::delta::{Table, TableStore};
use crate::error::Result;
use crate::operator::spec::{DeduplicateEmit, RollingEmit};
use crate::plan::OperatorSpec;
use crate::run::sinks::below;

impl Question<'_> {
    /// The reason for which a table that differs cannot be compared.
    pub(super) async fn excuse(&self, compared: &Comparison) -> Result<Option<String>> {
        let target = compared.target.as_str();
        if let Some(reason) = self.depends_on_arrival(target) {
            return Ok(Some(reason));
        }
        let is_keyed = self.catalog.tables.get(target).is_some_and(|def| !def.primary_key.is_empty());
        if (is_keyed || compared.missing == 0)
            && let Some(other) = self.other_writer(target).await?
        {
            return Ok(Some(format!("pipeline `{other}` writes this table, too")));
        }
        let unknown_before = self.tables.get(target).and_then(|written| written.unknown_before.as_ref());
        if let Some(reason) = unknown_before.filter(|_| compared.missing == 0) {
            return Ok(Some(reason.clone()));
        }
        if compared.missing > 0 && self.begins_later(target).await? {
            let pipeline = &self.pipeline.name;
            return Ok(Some(format!("it was added when `{pipeline}` had already run, so it begins after its sources")));
        }
        Ok(None)
    }

    /// The operator that gives other rows to another order of arrival.
    fn depends_on_arrival(&self, target: &str) -> Option<String> {
        let branches = self.dataflow.branches.iter().filter(|branch| branch.target == target);
        let makers = self.dataflow.makers(branches.flat_map(|branch| branch.reads.iter().copied()));
        makers.operators.into_iter().find_map(|index| {
            let node = &self.dataflow.operators[index];
            match &node.spec {
                OperatorSpec::Rolling(spec) if spec.emit == RollingEmit::OnArrival => {
                    Some("with `rolling_emit = 'on_arrival'` rows see what arrived before them".to_owned())
                }
                OperatorSpec::Rolling(spec) if spec.emits_late => {
                    Some("with `late = 'emit'` late rows see what was still in state".to_owned())
                }
                OperatorSpec::Deduplicate(spec)
                    if spec.emit == DeduplicateEmit::OnArrival
                        && spec.keys.len() < spec.input.fields().len()
                        && !self.is_in_order(node.sources.iter().copied()) =>
                {
                    Some("of rows with one key the first that arrives is taken, and its sources are not in order of event time".to_owned())
                }
                _ => None,
            }
        })
    }

    /// The reason for which a table that has other rows in another order cannot be compared.
    pub(super) fn about_order(&self) -> String {
        let reason = "its rows depend on the order of those that its ORDER BY or its windows take for equal";
        match self.sources.values().map(Reread::ties).sum::<u64>() {
            0 => reason.to_owned(),
            ties => format!("{reason} ({ties} rows of its sources share their event time with another)"),
        }
    }

    fn is_in_order(&self, mut sources: impl Iterator<Item = usize>) -> bool {
        let read = |source: usize| self.sources.get(self.dataflow.sources[source].def.name.as_str());
        sources.all(|source| read(source).is_none_or(|read| read.is_in_order))
    }

    /// Another pipeline that has committed to the table.
    async fn other_writer(&self, target: &str) -> Result<Option<String>> {
        let Some(written) = self.tables.get(target) else { return Ok(None) };
        let history = written.table.history(usize::MAX).await?;
        let mut pipelines =
            history.iter().filter_map(|(_, info)| Some(epoch_of(info)?["pipeline"].as_str()?.to_owned()));
        Ok(pipelines.find(|pipeline| *pipeline != self.pipeline.name))
    }

    /// True if the pipeline has committed epochs in which the table was none of its sinks.
    async fn begins_later(&self, target: &str) -> Result<bool> {
        let letters = below(&self.around.pipeline_location(&self.pipeline.name), "dead_letters");
        let letters = TableStore::open(&letters, &self.around.storage, &self.around.env)?;
        let letters = if letters.is_table().await? { Some(Table::open(letters).await?) } else { None };
        for table in self.tables.values().map(|written| &written.table).chain(&letters) {
            for (_, info) in table.history(usize::MAX).await? {
                let epoch = epoch_of(&info).unwrap_or_default();
                let (Some(pipeline), Some(sinks)) = (epoch["pipeline"].as_str(), epoch["sinks"].as_array()) else {
                    continue;
                };
                if pipeline == self.pipeline.name && !sinks.iter().any(|sink| sink["name"].as_str() == Some(target)) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}
