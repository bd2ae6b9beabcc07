//! `weir restore --epoch n`: all tables of a pipeline, its state and its offsets go back to one epoch together.
//!
//! Everything is looked at before anything is changed. Then, in commit order: a mark that keeps every run away, each table
//! by a RESTORE commit that records its epoch, Kafka's record, the manifests of later epochs, the mark. A restore that dies
//! in between is run again. State needs no work: the manifest of the epoch names its files, which are never changed.
//!
//! Messages in Kafka stay: a topic cannot be taken back.

use std::collections::BTreeMap;

use super::prepare::{Surroundings, open_transaction};
use super::recovery::txns_of;
use super::refusal::restore_command;
use super::rewind_plan::{PipelineRewind, TableRewind, TableWay};
use crate::catalog::{Catalog, PipelineDef};
use crate::delta::{AppId, PipelineTxns, Table};
use crate::error::{Error, Result};
use crate::run::lease::Lease;
use crate::sink::dead_letters;
use crate::state::{Epoch, Manifest, ManifestId, ManifestStore, Pins, Standing};

/// The result for one sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestoredSink {
    Table {
        name: String,
        /// The epoch that it holds now; none if it joined the pipeline later.
        epoch: Option<Epoch>,
        /// The version whose files it has again, and the version of the commit; `None` when it was left alone.
        restored: Option<(u64, u64)>,
        /// Other writers' commits that were undone, too.
        foreign: u64,
    },
    /// The table of dead letters was gone; it is empty now.
    MadeAgain {
        name: String,
    },
    Kafka,
}

/// Takes `pipeline` back to the end of `epoch`. `sql` is the pipeline's own definition, where that is known: it is needed for
/// Kafka sinks, for tables outside of the warehouse, and for those with storage options of their own.
///
/// Errors: the pipeline runs; an epoch whose manifest, state, log entries or files are gone; tables that other pipelines write
/// to as well. Nothing is changed then.
pub async fn rewind(
    pipeline: &str,
    epoch: Epoch,
    around: &Surroundings,
    sql: Option<(&Catalog, &PipelineDef)>,
) -> Result<Vec<RestoredSink>> {
    let declared = match sql {
        Some((catalog, _)) => Some(around.declared_tables(catalog)?),
        None => None,
    };
    let scope = around.rewind_scope(pipeline, declared);
    let _lease = Lease::exclusive(pipeline, &scope.location())?;
    Pins::new(scope.folder("pins")?.object_store(), around.env.clone()).refuse_held(pipeline).await?;
    let manifests = ManifestStore::new(scope.folder("manifests")?.object_store());
    let later = read_from(&manifests, epoch, pipeline).await?;
    let has_kafka = later.iter().flat_map(|manifest| manifest.sinks.iter().flatten()).any(|sink| sink.table.is_none());
    if has_kafka && sql.is_none() {
        return Err(Error::config(format!("pipeline `{pipeline}` has exactly-once Kafka sinks: name its SQL file"))
            .with_hint(format!("`{}`", restore_command(pipeline, epoch, true))));
    }
    let PipelineRewind { manifest, tables } = scope.plan(epoch, &manifests, &later).await?;
    let kafka = match sql {
        Some((catalog, def)) => open_transaction(catalog, def, around).await?,
        None => None,
    };
    manifests.begin_restore(epoch).await?;
    let mut done = Vec::new();
    for table in &tables {
        around.env.failpoint("restore.before_table").await?;
        done.push(carry_out(pipeline, table, &manifest).await?);
    }
    if let Some(kafka) = kafka {
        kafka.record(manifest.standing()).await?;
        done.push(RestoredSink::Kafka);
    }
    around.env.failpoint("restore.before_manifests").await?;
    manifests.remove_after(epoch).await?;
    manifests.end_restore().await?;
    Ok(done)
}

/// All manifests from `epoch` on, oldest first. Errors: there is none.
async fn read_from(manifests: &ManifestStore, epoch: Epoch, pipeline: &str) -> Result<Vec<Manifest>> {
    let listed = manifests.list().await?;
    let mut found = Vec::new();
    for Standing { epoch, manifest } in listed.iter().filter(|manifest| manifest.epoch >= epoch) {
        match manifests.read(*epoch, *manifest).await {
            Ok(manifest) => found.extend(manifest.map(|(manifest, _)| manifest)),
            Err(error) => tracing::warn!(epoch = epoch.0, %error, "a manifest cannot be read"),
        }
    }
    if found.iter().any(|manifest| manifest.epoch == epoch) {
        return Ok(found);
    }
    let error =
        Error::config(format!("pipeline `{pipeline}` cannot be taken back to epoch {epoch}: it has no manifest"));
    Err(match (listed.first(), listed.last()) {
        (Some(first), Some(last)) => error.with_hint(format!(
            "This warehouse has manifests of epochs {} to {} (`maintenance.keep_manifests`).",
            first.epoch, last.epoch
        )),
        _ => error.with_hint("The pipeline has not run in this warehouse, or its `_weir` folder is gone."),
    })
}

async fn carry_out(pipeline: &str, rewind: &TableRewind, manifest: &Manifest) -> Result<RestoredSink> {
    let TableRewind { name, way, holds, .. } = rewind;
    // Epoch 0: a table that joined later holds none.
    let held = holds.unwrap_or(Standing { epoch: Epoch(0), manifest: ManifestId(0) });
    let (table, plan) = match way {
        TableWay::Restore(table, plan) => (table, plan),
        TableWay::MakeAgain(store) => {
            let definition = dead_letters::definition(store.location().to_owned(), BTreeMap::new());
            let table = Table::open_or_create(store.clone(), &definition).await?;
            table.record(&txns_of(pipeline, held, manifest, &BTreeMap::new()), manifest.epoch.0).await?;
            return Ok(RestoredSink::MadeAgain { name: name.clone() });
        }
    };
    let known = table.transactions(AppId::PREFIX).await?;
    let txns = txns_of(pipeline, held, manifest, &known);
    let is_recorded = known.get(&PipelineTxns::epoch_app_id(pipeline)).copied().unwrap_or(0) == txns.epoch;
    let restored = match (plan.is_done(), is_recorded) {
        (true, true) => None,
        // Another writer has dropped the `txn` actions.
        (true, false) => Some((plan.target, table.record(&txns, manifest.epoch.0).await?)),
        (false, _) => Some((plan.target, table.rewind(plan, &txns, manifest.epoch.0).await?)),
    };
    let epoch = holds.map(|holds| holds.epoch);
    Ok(RestoredSink::Table { name: name.clone(), epoch, restored, foreign: plan.foreign })
}
