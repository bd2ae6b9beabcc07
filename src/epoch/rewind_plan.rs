//! Plans the way back to an epoch without changing anything: for `weir restore --epoch`, which carries it out, and
//! for refused starts, which advise only an epoch that can be restored.
//!
//! Promises: a plan exists only where the manifest, the state, the log entries and the data files that it needs exist. It names no
//! table outside of the warehouse that the SQL does not name: that may be one of another warehouse.

use super::refusal::{files, restore_command};
use super::survey::exchanged;
use crate::delta::{RewindPlan, Table, TableStore, folder_below};
use crate::env::Env;
use crate::error::{Error, Result};
use crate::run::sinks::{Home, Sinks, below};
use crate::sink::dead_letters;
use crate::state::{Epoch, Manifest, ManifestId, ManifestStore, SinkRecord, Standing, StateStore, TablePlace};

/// Epochs that are tried, newest first, before none counts as restorable.
const CANDIDATES: usize = 32;

/// A pipeline and its warehouse.
pub struct RewindScope<'a> {
    pub pipeline: &'a str,
    pub home: Home,
    pub env: Env,
    /// The tables that the pipeline's SQL names; `None` where the SQL is not known.
    pub declared: Option<Vec<TableStore>>,
}

/// Everything that goes back.
pub struct PipelineRewind {
    pub manifest: Manifest,
    /// In commit order.
    pub tables: Vec<TableRewind>,
}

/// A table on its way back.
pub struct TableRewind {
    pub name: String,
    pub place: TablePlace,
    pub way: TableWay,
    /// The epoch that it holds afterwards.
    pub holds: Option<Standing>,
}

/// The way back of a table.
pub enum TableWay {
    Restore(Table, RewindPlan),
    /// The table of dead letters is gone: it is made again, empty.
    MakeAgain(TableStore),
}

impl<'a> RewindScope<'a> {
    /// Of a pipeline whose sinks are open.
    pub fn of(pipeline: &'a str, sinks: &Sinks, env: &Env) -> Self {
        let written = sinks.tables.iter().map(|sink| sink.table.store());
        let declared = written.chain(&sinks.home.declared).cloned().collect();
        Self { pipeline, home: sinks.home.clone(), env: env.clone(), declared: Some(declared) }
    }

    /// A folder of the pipeline's own.
    pub fn folder(&self, name: &str) -> Result<TableStore> {
        TableStore::open(&below(&self.location(), name), &self.home.storage, &self.env)
    }

    /// The pipeline's own folder.
    pub fn location(&self) -> String {
        below(&below(&self.home.warehouse, "_weir"), self.pipeline)
    }

    /// The newest epoch that can be restored.
    pub async fn newest_possible(&self) -> Option<Epoch> {
        let manifests = ManifestStore::new(self.folder("manifests").ok()?.object_store());
        let mut listed = manifests.list().await.ok()?;
        let mut later = Vec::new();
        for _ in 0..CANDIDATES {
            let epoch = listed.last()?.epoch;
            let before = listed.partition_point(|manifest| manifest.epoch < epoch);
            for Standing { epoch, manifest } in listed.split_off(before) {
                if let Ok(Some((manifest, _))) = manifests.read(epoch, manifest).await {
                    later.insert(0, manifest);
                }
            }
            match self.plan(epoch, &manifests, &later).await {
                Ok(_) => return Some(epoch),
                Err(error) => tracing::debug!(pipeline = self.pipeline, epoch = epoch.0, %error, "cannot be restored"),
            }
        }
        None
    }

    /// Plans to go back to the end of `epoch`. `later` are the manifests from it on, oldest first.
    ///
    /// Errors: what is missing, or stands in the way.
    pub async fn plan(&self, epoch: Epoch, manifests: &ManifestStore, later: &[Manifest]) -> Result<PipelineRewind> {
        let pipeline = self.pipeline;
        let mut tables = Vec::new();
        let places = self.places(later);
        for (name, place) in &places {
            let table = self.plan_table(epoch, name, place.clone()).await?;
            self.refuse_exchanged(&table, &places)?;
            tables.push(table);
        }
        let manifest = self.chosen(epoch, &tables, manifests, later).await?;
        self.check(&manifest, &mut tables)?;
        let states = StateStore::new(self.folder("state")?.object_store(), self.env.clone());
        if let Some(file) = states.missing(&manifest.state).await? {
            return Err(Error::damaged(format!("the state of pipeline `{pipeline}` after epoch {epoch} is gone"))
                .with_detail(format!(
                    "State file `{file}` does not exist; state is kept for the last epochs only. Nothing was changed."
                ))
                .with_hint("Choose a newer epoch, or restore the whole warehouse from a backup."));
        }
        Ok(PipelineRewind { manifest, tables })
    }

    /// Errors: the folder holds another of the pipeline's tables.
    fn refuse_exchanged(&self, table: &TableRewind, places: &[(String, TablePlace)]) -> Result<()> {
        let TableWay::Restore(found, _) = &table.way else { return Ok(()) };
        let known = places.iter().map(|(_, place)| place);
        let Some(other) = table.place.exchanged_for(found.id().as_deref(), known) else { return Ok(()) };
        let name = places.iter().find(|(_, place)| place == other).map_or("", |(name, _)| name);
        Err(exchanged(self.pipeline, (&table.name, &table.place.location), (name, &other.location)))
    }

    /// Every table that took part in the pipeline since, once, in commit order.
    fn places(&self, manifests: &[Manifest]) -> Vec<(String, TablePlace)> {
        let mut places: Vec<(String, TablePlace)> = Vec::new();
        for manifest in manifests {
            let of_record = |record: &SinkRecord| Some((record.name.clone(), record.table.clone()?));
            let mut named: Vec<_> = manifest.sinks.iter().flatten().filter_map(of_record).collect();
            named.extend(manifest.tables.iter().filter(|_| manifest.sinks.is_none()).map(|commit| {
                let location = commit.location.clone();
                (commit.name.clone(), TablePlace { path: self.home.path_of(&location), location, version: 0, id: None })
            }));
            for (name, place) in named {
                if !places.iter().any(|(_, known)| known.is(&place.location, place.path.as_deref())) {
                    places.push((name, place));
                }
            }
        }
        places
    }

    /// The table, opened as its SQL says. Errors: it is outside of the warehouse, and the SQL does not name it.
    fn open(&self, epoch: Epoch, name: &str, place: &TablePlace) -> Result<TableStore> {
        let location = self.home.location_of(place);
        let is_it =
            |store: &&TableStore| folder_below(store.location(), &location).is_some_and(|below| below.is_empty());
        if let Some(declared) = self.declared.iter().flatten().find(is_it) {
            return Ok(declared.clone());
        }
        if self.home.path_of(&location).is_some() {
            return TableStore::open(&location, &self.home.storage, &self.env);
        }
        let error =
            Error::config(format!("table `{name}` of pipeline `{}` lies outside of the warehouse", self.pipeline));
        Err(match &self.declared {
            None => error
                .with_detail(format!("It is at `{location}`. Such a table is restored only if the pipeline's SQL names it. Nothing was changed."))
                .with_hint(format!("`{}`", restore_command(self.pipeline, epoch, true))),
            Some(_) => error
                .with_detail(format!("It is at `{location}`, and the SQL names no table there: it may be another warehouse's. Nothing was changed."))
                .with_hint("If it is this pipeline's, declare it with this LOCATION in the SQL file for the restore."),
        })
    }

    async fn plan_table(&self, epoch: Epoch, name: &str, place: TablePlace) -> Result<TableRewind> {
        let pipeline = self.pipeline;
        let store = self.open(epoch, name, &place)?;
        let nothing = "Nothing was changed.";
        let name = name.to_owned();
        if !store.is_table().await? {
            if name == dead_letters::NAME {
                return Ok(TableRewind { name, place, way: TableWay::MakeAgain(store), holds: None });
            }
            let location = store.location();
            return Err(Error::damaged(format!(
                "table `{name}` of pipeline `{pipeline}` does not exist at `{location}`"
            ))
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
                .with_hint("Choose an epoch at which the table did not have them, or restore the whole warehouse from a backup."));
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
        Ok(TableRewind { name, place, way: TableWay::Restore(table, plan), holds })
    }

    /// The manifest that the tables name: several runs may have written one for this epoch.
    async fn chosen(
        &self,
        epoch: Epoch,
        tables: &[TableRewind],
        manifests: &ManifestStore,
        later: &[Manifest],
    ) -> Result<Manifest> {
        let pipeline = self.pipeline;
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

    /// Makes sure that each table's log has what the manifest says. Dead letters that are lost, all of them, keep nothing back.
    fn check(&self, manifest: &Manifest, tables: &mut [TableRewind]) -> Result<()> {
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
            if name == dead_letters::NAME && holds.is_none() {
                *holds = expected;
            }
            if *holds != expected {
                return Err(differs(self.pipeline, epoch.epoch, name, *holds, expected));
            }
        }
        Ok(())
    }
}

fn differs(pipeline: &str, epoch: Epoch, table: &str, holds: Option<Standing>, expected: Option<Standing>) -> Error {
    let number = |standing: Option<Standing>| standing.map_or(0, |standing| standing.epoch.0);
    let (holds, expected) = (number(holds), number(expected));
    let error = Error::damaged(format!("table `{table}` cannot be taken to epoch {epoch} of pipeline `{pipeline}`"))
        .with_detail(format!(
            "Its log ends with epoch {holds}, and it had epoch {expected} then. Nothing was changed."
        ));
    error.with_hint(match holds {
        0 => "Bring the table's newest log and files back.".to_owned(),
        _ => format!("Choose epoch {holds} or an older one, or bring the table's newest log and files back."),
    })
}
