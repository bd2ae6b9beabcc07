//! Memory of the indexes of upserted tables within the budget. They go to disk by themselves; where there is none, who can put state
//! elsewhere makes room for them, and if that is not enough reading slows down and says why.

use super::progress::OperatorProgress;
use crate::delta::{UpsertTable, UpsertUsage};
use crate::run::sinks::Sinks;
use crate::state::{MemoryBudget, MemoryShare};

/// The indexes of a pipeline.
pub struct Indexes {
    each: Vec<Index>,
}

struct Index {
    table: String,
    upsert: UpsertTable,
    share: MemoryShare,
    usage: UpsertUsage,
}

impl Indexes {
    /// Those of every table that is upserted, as large as they are now.
    pub async fn of(sinks: &Sinks, budget: &MemoryBudget) -> Self {
        let upserted = sinks.tables.iter().filter_map(|sink| Some((sink.name.clone(), sink.upsert.clone()?)));
        let index = |(table, upsert)| Index { table, upsert, share: budget.share(), usage: UpsertUsage::default() };
        let mut indexes = Self { each: upserted.map(index).collect() };
        indexes.measure().await;
        indexes
    }

    /// Tells the budget what they take now.
    pub async fn measure(&mut self) {
        for index in &mut self.each {
            index.usage = index.upsert.usage().await;
            index.share.set(index.usage.bytes);
        }
        for index in &mut self.each {
            let why = format!("the index of upserted table `{}` has no folder to go to", index.table);
            let over = !index.upsert.has_room() && index.share.must_shrink(0);
            index.share.set_stuck(Some(why.as_str()).filter(|_| over));
        }
    }

    /// For SHOW STATE, beside the operators.
    pub fn progress(&self) -> impl Iterator<Item = OperatorProgress> {
        self.each.iter().map(|index| OperatorProgress {
            operator: format!("upsert_index_{}", index.table),
            kind: "upsert_index".to_owned(),
            num_rows_total: index.usage.keys,
            memory_used_bytes: index.usage.bytes,
            ..OperatorProgress::default()
        })
    }
}
