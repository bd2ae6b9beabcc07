//! `weir restore --epoch n`: all tables of a pipeline, its state and its offsets go back to one epoch together.
//!
//! Everything is looked at before anything is changed. Then, in commit order: a mark that keeps every run away, each table
//! by a RESTORE commit that records its epoch, Kafka's record, the manifests of later epochs, the mark. A restore that dies
//! in between is run again. State needs no work: the manifest of the epoch names its files, which are never changed.
//!
//! Messages in Kafka stay: a topic cannot be taken back.

use super::lease::Lease;
use super::prepare::{Surroundings, below, open_transaction};
use super::recovery::txns_of;
use super::refusal::files;
use crate::catalog::{Catalog, PipelineDef};
use crate::delta::{RewindPlan, Table, TableStore};
use crate::error::{Error, Result};
use crate::state::{Epoch, Manifest, ManifestId, ManifestStore, Pins, SinkRecord, Standing, StateStore, TablePlace};

/// What became of one sink.
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
    Kafka,
}

/// A table on its way back.
struct TableRewind {
    name: String,
    place: TablePlace,
    table: Table,
    plan: RewindPlan,
    holds: Option<Standing>,
}

/// Takes `pipeline` back to the end of `epoch`. `sql` is the pipeline's own definition, where that is known: it is needed for
/// Kafka sinks, and for tables with storage options of their own.
///
/// Errors: the pipeline runs; an epoch whose manifest, state, log entries or files are gone; tables that other pipelines write
/// to as well. Nothing is changed then.
pub async fn rewind(
    pipeline: &str,
    epoch: Epoch,
    around: &Surroundings,
    sql: Option<(&Catalog, &PipelineDef)>,
) -> Result<Vec<RestoredSink>> {
    let folder = around.pipeline_location(pipeline);
    let _lease = Lease::exclusive(pipeline, &folder)?;
    let open = |name: &str| TableStore::open(&below(&folder, name), &around.storage, &around.env);
    Pins::new(open("pins")?.object_store(), around.env.clone()).refuse_held(pipeline).await?;
    let manifests = ManifestStore::new(open("manifests")?.object_store());
    let later = read_from(&manifests, epoch, pipeline).await?;
    let has_kafka = later.iter().flat_map(|manifest| manifest.sinks.iter().flatten()).any(|sink| sink.table.is_none());
    if has_kafka && sql.is_none() {
        return Err(Error::config(format!("pipeline `{pipeline}` has exactly-once Kafka sinks: name its SQL file"))
            .with_hint(format!("weir restore --pipeline {pipeline} --epoch {epoch} FILE.sql")));
    }
    let mut tables = Vec::new();
    for (name, place) in places(&later, around) {
        tables.push(plan(pipeline, epoch, &name, &place, around, sql).await?);
    }
    let manifest = chosen(pipeline, epoch, &tables, &manifests, &later).await?;
    check(pipeline, &manifest, &tables)?;
    let states = StateStore::new(open("state")?.object_store(), around.env.clone());
    if let Some(file) = states.missing(&manifest.state).await? {
        return Err(Error::damaged(format!("the state of pipeline `{pipeline}` after epoch {epoch} is gone"))
            .with_detail(format!(
                "State file `{file}` does not exist; state is kept for the last epochs only. Nothing was changed."
            ))
            .with_hint("Choose a newer epoch, or restore the whole warehouse from a backup."));
    }
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
        kafka.commit(manifest.epoch.0, manifest.id.0, Vec::new()).await?;
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

/// Every table that took part in the pipeline since, once, in commit order.
fn places(manifests: &[Manifest], around: &Surroundings) -> Vec<(String, TablePlace)> {
    let home = around.home();
    let mut places: Vec<(String, TablePlace)> = Vec::new();
    for manifest in manifests {
        let of_record = |record: &SinkRecord| Some((record.name.clone(), record.table.clone()?));
        let mut named: Vec<_> = manifest.sinks.iter().flatten().filter_map(of_record).collect();
        named.extend(manifest.tables.iter().filter(|_| manifest.sinks.is_none()).map(|commit| {
            let location = commit.location.clone();
            (commit.name.clone(), TablePlace { path: home.path_of(&location), location, version: 0 })
        }));
        for (name, place) in named {
            if !places.iter().any(|(_, known)| known.is(&place.location, place.path.as_deref())) {
                places.push((name, place));
            }
        }
    }
    places
}

async fn plan(
    pipeline: &str,
    epoch: Epoch,
    name: &str,
    place: &TablePlace,
    around: &Surroundings,
    sql: Option<(&Catalog, &PipelineDef)>,
) -> Result<TableRewind> {
    let location = around.home().location_of(place);
    let declared =
        sql.and_then(|(catalog, _)| catalog.tables.values().find(|table| around.table_location(table) == location));
    let storage = declared.map_or_else(|| around.storage.clone(), |table| around.storage_of(table));
    let store = TableStore::open(&location, &storage, &around.env)?;
    let nothing = "Nothing was changed.";
    if !store.is_table().await? {
        return Err(Error::damaged(format!("table `{name}` of pipeline `{pipeline}` does not exist at `{location}`"))
            .with_detail(nothing)
            .with_hint("Bring its folder back from a backup, and run the restore again."));
    }
    let table = Table::open(store).await?;
    let Some(plan) = table.plan_rewind(pipeline, i64::try_from(epoch.0).unwrap_or(i64::MAX)).await? else {
        return Err(Error::damaged(format!("the log of table `{name}` does not reach back to epoch {epoch}"))
            .with_detail(format!("Older entries were removed (`delta.logRetentionDuration`). {nothing}"))
            .with_hint("Choose a newer epoch, or restore the whole warehouse from a backup."));
    };
    if !plan.missing.is_empty() {
        return Err(Error::damaged(format!("files that table `{name}` had after epoch {epoch} are gone"))
            .with_detail(format!("VACUUM or something else removed {}. {nothing}", files(&plan.missing)))
            .with_hint("Choose a newer epoch, or restore the whole warehouse from a backup."));
    }
    if let Some(other) = plan.pipelines.first() {
        return Err(Error::config(format!("table `{name}` is also written by pipeline `{other}`"))
            .with_detail(format!(
                "Taking it back to epoch {epoch} of `{pipeline}` would undo epochs of `{other}`. {nothing}"
            ))
            .with_hint("Restore the whole warehouse from a backup, or delete the rows by hand."));
    }
    let append_only = table.properties().get("delta.appendOnly").is_some_and(|on| on.eq_ignore_ascii_case("true"));
    if append_only && plan.files.1 > 0 {
        return Err(Error::config(format!("table `{name}` is append-only: no file may be taken out of it"))
            .with_detail(nothing)
            .with_hint("Switch `delta.appendOnly` off for the restore."));
    }
    let holds = plan.holds.and_then(|(epoch, manifest)| {
        Some(Standing { epoch: Epoch(u64::try_from(epoch).ok()?), manifest: ManifestId(manifest) })
    });
    Ok(TableRewind { name: name.to_owned(), place: place.clone(), table, plan, holds })
}

/// The manifest that the tables name: several runs may have written one for this epoch.
async fn chosen(
    pipeline: &str,
    epoch: Epoch,
    tables: &[TableRewind],
    manifests: &ManifestStore,
    later: &[Manifest],
) -> Result<Manifest> {
    let named = tables.iter().filter_map(|table| table.holds).find(|holds| holds.epoch == epoch);
    let Some(named) = named else {
        let newest = tables.iter().filter_map(|table| table.holds).map(|holds| holds.epoch.0).max().unwrap_or(0);
        return Err(Error::config(format!("no table of pipeline `{pipeline}` has epoch {epoch}"))
            .with_detail(format!("The newest that any had until then is {newest}. Nothing was changed.")));
    };
    let found = later.iter().find(|manifest| manifest.standing() == named).cloned();
    match found {
        Some(manifest) => Ok(manifest),
        None => match manifests.read(named.epoch, named.manifest).await? {
            Some((manifest, _)) => Ok(manifest),
            None => Err(Error::damaged(format!(
                "manifest {} of epoch {epoch} of pipeline `{pipeline}` is missing",
                named.manifest
            ))
            .with_detail("The tables name it. Nothing was changed.")
            .with_hint("Choose another epoch, or restore the warehouse's `_weir` folder from a backup.")),
        },
    }
}

/// Makes sure that each table's log has what the manifest says.
fn check(pipeline: &str, manifest: &Manifest, tables: &[TableRewind]) -> Result<()> {
    let epoch = manifest.standing();
    for TableRewind { name, holds, place, .. } in tables {
        let at = |known: &TablePlace| known.is(&place.location, place.path.as_deref());
        let record = manifest.sinks.iter().flatten().find(|record| record.table.as_ref().is_some_and(at));
        let takes_part =
            manifest.sinks.is_none() && manifest.tables.iter().any(|commit| commit.location == place.location);
        let expected = match record {
            Some(record) => record.after(epoch),
            None if takes_part => Some(epoch),
            None => continue,
        };
        if *holds != expected {
            let number = |standing: Option<Standing>| standing.map_or(0, |standing| standing.epoch.0);
            return Err(Error::damaged(format!(
                "table `{name}` cannot be taken to epoch {epoch} of pipeline `{pipeline}`",
                epoch = epoch.epoch
            ))
            .with_detail(format!(
                "Its log ends with epoch {}, and it had epoch {} then. Nothing was changed.",
                number(*holds),
                number(expected)
            ))
            .with_hint(format!(
                "Choose epoch {} or an older one, or bring the table's newest log and files back.",
                number(*holds)
            )));
        }
    }
    Ok(())
}

async fn carry_out(pipeline: &str, rewind: &TableRewind, manifest: &Manifest) -> Result<RestoredSink> {
    let TableRewind { name, table, plan, holds, .. } = rewind;
    let epoch = format!("weir:{pipeline}");
    let known = table.transactions("weir").await?;
    // Epoch 0: a table that joined later holds none.
    let held = holds.unwrap_or(Standing { epoch: Epoch(0), manifest: ManifestId(0) });
    let txns = txns_of(pipeline, held, manifest, &known);
    let is_recorded = known.get(&epoch).copied().unwrap_or(0) == txns.epoch;
    let restored = match (plan.is_done(), is_recorded) {
        (true, true) => None,
        // Another writer has dropped the `txn` actions.
        (true, false) => Some((plan.target, table.record(&txns, manifest.epoch.0).await?)),
        (false, _) => Some((plan.target, table.rewind(plan, &txns, manifest.epoch.0).await?)),
    };
    let epoch = holds.map(|holds| holds.epoch);
    Ok(RestoredSink::Table { name: name.clone(), epoch, restored, foreign: plan.foreign })
}
