//! Takes a backup: pins, chooses a cut, copies new files, writes the list.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt};

use super::cut::{Cut, choose};
use super::place::{Backup, BackupFile, BackupPlace, Copied, ListedBackups, PipelineAt};
use super::survey::{Survey, Warehouse};
use crate::delta::parts;
use crate::error::{Context, Error, Result};
use crate::state::{Epoch, ManifestId, Pins};

/// Attempts at finding a cut, and the pause between them.
const LOOKS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(300);

/// Attempts at copying, which begins again if files changed meanwhile.
const ATTEMPTS: u32 = 5;

/// Files copied concurrently.
const AT_ONCE: usize = 8;

/// Files that may change while they are copied.
const MUTABLE: &[&str] = &["progress.jsonl"];

/// The result of taking a backup.
#[derive(Debug)]
pub struct Taken {
    pub backup: Backup,
    /// Number and bytes of the files that the place did not have.
    pub new_files: u64,
    pub new_bytes: u64,
}

/// A file that belongs to the backup; its path is below the warehouse.
struct Wanted {
    path: String,
    object: ObjectMeta,
}

/// Backs up the warehouse. Pipelines may run; a process that is killed leaves no backup and nothing that disturbs the next.
///
/// Errors: place and warehouse contain one another; no cut can be found, since a pipeline stopped in the middle of an epoch;
/// a file that a table needs is missing; a store fails.
pub async fn take(warehouse: &Warehouse, place: &BackupPlace) -> Result<Taken> {
    place.apart_from(&warehouse.store)?;
    let env = warehouse.store.env();
    let id = format!("{}-{:08x}", timestamp(env.unix_ms()), env.random_u64() as u32);
    let mut pins = Vec::new();
    for pipeline in warehouse.pipelines().await? {
        let folder = warehouse.folder(&format!("_weir/{pipeline}/pins"))?;
        let pin = Pins::new(folder.object_store(), env.clone());
        pin.hold(&id).await?;
        pins.push(pin);
    }
    let taken = copy_all(warehouse, place, &id, &pins).await;
    for pin in &pins {
        if let Err(error) = pin.release(&id).await {
            tracing::warn!(%error, "a pin stays until it runs out");
        }
    }
    taken
}

/// `20260131T120000000Z`: sorts by time.
fn timestamp(unix_ms: i64) -> String {
    let at = chrono::DateTime::from_timestamp_millis(unix_ms).unwrap_or_default();
    at.format("%Y%m%dT%H%M%S%3fZ").to_string()
}

async fn copy_all(warehouse: &Warehouse, place: &BackupPlace, id: &str, pins: &[Pins]) -> Result<Taken> {
    let ListedBackups { backups: before, unreadable } = place.list().await?;
    for (id, error) in unreadable {
        tracing::warn!(id, %error, "an earlier backup cannot be read; what only it has is copied again");
    }
    let mut known: HashMap<(&str, u64, i64), &str> = HashMap::new();
    // A file that the place has lost since an earlier backup is copied again.
    let kept = if before.is_empty() { HashSet::new() } else { place.kept().await? };
    let is_kept = |file: &&BackupFile| kept.contains(&(file.sha256.clone(), file.bytes));
    for file in before.iter().flat_map(|backup| &backup.files).filter(is_kept) {
        known.insert((&file.path, file.bytes, file.modified_ms), &file.sha256);
    }
    let (mut changed, mut without_state) = (String::new(), None);
    for _ in 0..ATTEMPTS {
        let (survey, cut) = settled(warehouse).await?;
        let wanted = match wanted(warehouse, &survey, &cut).await? {
            Ok(wanted) => wanted,
            Err(gone) => {
                without_state = Some(gone);
                continue;
            }
        };
        if wanted.is_empty() {
            return Err(empty(warehouse));
        }
        let mut copying = Copying { warehouse, place, known: &known, pins, id, new_files: 0, new_bytes: 0 };
        match copying.files(wanted).await? {
            Ok(files) => {
                let backup = listed(warehouse, id, survey, cut, files);
                warehouse.store.env().failpoint("backup.before_list").await?;
                place.finish(&backup).await?;
                return Ok(Taken { backup, new_files: copying.new_files, new_bytes: copying.new_bytes });
            }
            Err(path) => (changed, without_state) = (path, None),
        }
    }
    if let Some(file) = without_state {
        return Err(Error::damaged(format!("state file `{file}` does not exist"))
            .with_detail("The pipeline's newest manifest names it: a backup without it could not be continued.")
            .with_hint("Bring the file back, or start the pipeline: the error says what it can do without the file."));
    }
    Err(Error::environment("the warehouse changes faster than it can be copied")
        .with_detail(format!("`{changed}` was removed or written again while it was copied."))
        .with_hint("Take the backup again; if it happens again, stop what vacuums or rewrites tables meanwhile."))
}

/// The error for an empty warehouse. Its backup would be the newest, which `weir restore --from` takes by default.
fn empty(warehouse: &Warehouse) -> Error {
    Error::config(format!("warehouse `{}` is empty: there is nothing to back up", warehouse.store.location()))
        .with_hint("Name another warehouse in the configuration, or run a pipeline first.")
}

/// Repeats the survey until its facts have a cut.
async fn settled(warehouse: &Warehouse) -> Result<(Survey, Cut)> {
    let mut misfit = String::new();
    for _ in 0..LOOKS {
        let survey = warehouse.survey().await?;
        let begun = warehouse.pipelines().await?.into_iter().find(|name| !survey.facts.pipelines.contains_key(name));
        match (begun, choose(&survey.facts)) {
            (None, Ok(cut)) => return Ok((survey, cut)),
            // Tables may hold epochs of it, about which the survey has no facts.
            (Some(begun), _) => misfit = format!("pipeline `{begun}` has just begun"),
            (None, Err(why)) => misfit = why,
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(Error::environment("the warehouse is not at rest, and no state of it is whole")
        .with_detail(format!("{}.", capitalised(&misfit)))
        .with_hint("A pipeline that was killed in the middle of an epoch finishes it when it is started: start it, then back up again."))
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Lists the files of the backup. The inner `Err` names a file that was deleted meanwhile.
async fn wanted(warehouse: &Warehouse, survey: &Survey, cut: &Cut) -> Result<Result<Vec<Wanted>, String>> {
    let mut wanted = Vec::new();
    for (folder, version) in &cut.versions {
        let store = warehouse.folder(folder)?;
        let files = parts(&store, *version).await?.into_iter();
        wanted.extend(files.map(|object| Wanted { path: format!("{folder}/{}", object.location), object }));
        wanted.extend(last_checkpoint(warehouse, folder, *version).await?);
    }
    for (pipeline, at) in &cut.epochs {
        if let Err(gone) = of_pipeline(warehouse, survey, pipeline, *at, &mut wanted).await? {
            return Ok(Err(gone));
        }
    }
    let own = warehouse.store.object_store().list_with_delimiter(Some(&Path::from("_weir"))).await;
    let own = own.environment(|| "`_weir` cannot be listed".to_owned())?.objects;
    wanted.extend(own.into_iter().map(|object| Wanted { path: object.location.to_string(), object }));
    Ok(Ok(wanted))
}

/// The pointer to the newest checkpoint, unless it points beyond the version.
async fn last_checkpoint(warehouse: &Warehouse, folder: &str, version: u64) -> Result<Option<Wanted>> {
    let path = format!("{folder}/_delta_log/_last_checkpoint");
    let failed = || format!("file `{path}` cannot be read");
    let object = Path::parse(&path).internal(failed)?;
    let found = match warehouse.store.object_store().get(&object).await {
        Ok(found) => found,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error).environment(failed),
    };
    let object = found.meta.clone();
    let content = found.bytes().await.environment(failed)?;
    let points = serde_json::from_slice::<serde_json::Value>(&content).ok().and_then(|last| last["version"].as_u64());
    Ok(points.is_some_and(|points| points <= version).then_some(Wanted { path, object }))
}

/// A pipeline's own files: manifests up to its epoch, the state that the newest of them names, and all others.
async fn of_pipeline(
    warehouse: &Warehouse,
    survey: &Survey,
    pipeline: &str,
    at: Option<(Epoch, ManifestId)>,
    wanted: &mut Vec<Wanted>,
) -> Result<Result<(), String>> {
    let base = format!("_weir/{pipeline}");
    let manifests = survey.manifests.get(pipeline).map_or(&[][..], Vec::as_slice);
    // A pipeline that has committed to no table has its progress elsewhere: then all its manifests are kept.
    let newest = at.or_else(|| manifests.last().map(|(epoch, id, _)| (*epoch, *id)));
    for (epoch, id, object) in manifests {
        let counts = at.is_none_or(|(chosen, chosen_id)| *epoch < chosen || (*epoch, *id) == (chosen, chosen_id));
        if counts {
            wanted.push(Wanted { path: format!("{base}/manifests/{}", object.location), object: object.clone() });
        }
    }
    if let Some((epoch, _)) = at.filter(|at| !manifests.iter().any(|(epoch, id, _)| (*epoch, *id) == *at)) {
        return Ok(Err(format!("{base}/manifests, the manifest of epoch {epoch}")));
    }
    let manifest = newest.and_then(|(epoch, id)| survey.read.get(&(pipeline.to_owned(), epoch, id)));
    let mut named: HashSet<&str> = HashSet::new();
    named.extend(manifest.iter().flat_map(|m| &m.state).flat_map(|state| state.files()).map(|file| file.path.as_str()));
    let folder = warehouse.folder(&base)?;
    let failed = || format!("the folder of pipeline `{pipeline}` cannot be listed");
    // Prefixes of pipelines whose names begin with this one's and a slash.
    let others: Vec<String> = survey
        .facts
        .pipelines
        .keys()
        .filter_map(|name| name.strip_prefix(&format!("{pipeline}/")))
        .map(|name| format!("{name}/"))
        .collect();
    let listed: Vec<ObjectMeta> = folder.object_store().list(None).try_collect().await.environment(failed)?;
    for object in listed {
        let path = object.location.to_string();
        let state = path.strip_prefix("state/");
        let is_others = others.iter().any(|other| path.starts_with(other));
        if is_others || is_elsewhere(&path) || state.is_some_and(|state| !named.remove(state)) {
            continue;
        }
        wanted.push(Wanted { path: format!("{base}/{path}"), object });
    }
    Ok(match named.into_iter().next() {
        None => Ok(()),
        Some(gone) => Err(format!("{base}/state/{gone}")),
    })
}

/// True for files that are listed elsewhere or belong to no backup.
fn is_elsewhere(path: &str) -> bool {
    ["manifests/", "dead_letters/", "pins/"].iter().any(|folder| path.starts_with(folder))
        || path == "lock"
        || path.contains('#')
}

struct Copying<'a> {
    warehouse: &'a Warehouse,
    place: &'a BackupPlace,
    /// SHA-256 of files in earlier backups, by path, size and time.
    known: &'a HashMap<(&'a str, u64, i64), &'a str>,
    pins: &'a [Pins],
    id: &'a str,
    new_files: u64,
    new_bytes: u64,
}

impl Copying<'_> {
    /// Copies files. The inner `Err` names a file that changed.
    async fn files(&mut self, wanted: Vec<Wanted>) -> Result<Result<Vec<BackupFile>, String>> {
        let store = self.warehouse.store.object_store();
        let (place, known) = (self.place, self.known);
        let mut files = Vec::with_capacity(wanted.len());
        let copies = wanted.into_iter().map(|Wanted { path, object }| {
            let store = &store;
            async move {
                let (bytes, modified_ms) = (object.size, object.last_modified.timestamp_millis());
                let copied = match known.get(&(path.as_str(), bytes, modified_ms)) {
                    Some(sha256) if !is_mutable(&path) => Copied::Kept { sha256: (*sha256).to_owned(), new: false },
                    _ => {
                        let from = Path::parse(&path).internal(|| format!("bad path `{path}`"))?;
                        place.keep(store, &from, bytes).await?
                    }
                };
                Ok::<_, Error>((path, bytes, modified_ms, copied))
            }
        });
        let mut copies = futures::stream::iter(copies).buffer_unordered(AT_ONCE);
        let mut renewed = self.warehouse.store.env().instant();
        while let Some((path, bytes, modified_ms, copied)) = copies.try_next().await? {
            match copied {
                Copied::Kept { sha256, new } => {
                    self.new_files += u64::from(new);
                    self.new_bytes += if new { bytes } else { 0 };
                    files.push(BackupFile { path, bytes, sha256, modified_ms });
                }
                Copied::Changed if MUTABLE.iter().any(|name| path.ends_with(name)) => {}
                Copied::Changed => return Ok(Err(path)),
            }
            if renewed.elapsed() > Duration::from_secs(60) {
                renewed = self.warehouse.store.env().instant();
                for pin in self.pins {
                    pin.hold(self.id).await?;
                }
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Ok(files))
    }
}

fn is_mutable(path: &str) -> bool {
    path.ends_with("_last_checkpoint") || MUTABLE.iter().any(|name| path.ends_with(name))
}

fn listed(warehouse: &Warehouse, id: &str, survey: Survey, cut: Cut, files: Vec<BackupFile>) -> Backup {
    let at = |(pipeline, at): (String, Option<(Epoch, ManifestId)>)| {
        at.map(|(epoch, id)| (pipeline, PipelineAt { epoch: epoch.0, manifest: id.to_string() }))
    };
    let pipelines: BTreeMap<String, PipelineAt> = cut.epochs.into_iter().filter_map(at).collect();
    Backup {
        format: 1,
        id: id.to_owned(),
        created_ms: warehouse.store.env().unix_ms(),
        weir: env!("CARGO_PKG_VERSION").to_owned(),
        warehouse: warehouse.store.location().to_owned(),
        pipelines,
        tables: cut.versions,
        locations: survey.locations,
        files,
    }
}
