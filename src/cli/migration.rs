//! The effect of an edit of the SQL on the operators' state.

use std::path::Path;
use std::sync::Arc;

use super::Failure;
use super::output::say;
use super::project::{Project, runtime};
use crate::catalog::{PipelineDef, TableDef};
use crate::config::Config;
use crate::delta::TableStore;
use crate::epoch::{
    Fate, Surroundings, below, check_seed, declared_targets, known_lookups, known_targets, migration, other_topics,
    plan,
};
use crate::error::Result;
use crate::plan::{Dataflow, Targets, with_view_columns};
use crate::state::{Manifest, ManifestStore};

/// An operator's id with its fate and, if known, the number of rows in its state.
struct Line {
    operator: String,
    fate: Fate,
    rows: Option<u64>,
    /// The consequence of beginning with empty state.
    empty: &'static str,
}

impl Line {
    fn new(dataflow: &Dataflow, operator: String, fate: Fate, rows: Option<u64>) -> Self {
        let node = dataflow.operators.iter().find(|node| node.id == operator);
        Self { fate, rows, empty: node.map_or("", |node| node.spec.begins_empty()), operator }
    }
}

/// Plans a pipeline for comparison. Errors: as `weir check`.
pub async fn planned(
    project: &Project,
    pipeline: &PipelineDef,
    known: &Targets,
    config: &Config,
) -> Result<Dataflow, Failure> {
    let mut targets = declared_targets(&project.catalog, pipeline);
    targets.extend(known.clone());
    let planned = plan(&project.catalog, pipeline, &project.functions(), &targets, runtime(config)?).await;
    planned.map_err(|list| Failure::Sql(project.diagnostics(list)))
}

/// Plans a pipeline that has run; tables that streams are joined to have their real columns. Errors: as `weir check`; a
/// table that cannot be opened.
pub async fn planned_as_run(
    project: &Project,
    pipeline: &PipelineDef,
    around: &Surroundings,
) -> Result<Dataflow, Failure> {
    let (known, mut unopened) = known_lookups(&project.catalog, pipeline, around).await;
    let mut targets = declared_targets(&project.catalog, pipeline);
    targets.extend(known);
    let runtime = Arc::clone(&around.runtime);
    let planned = plan(&project.catalog, pipeline, &project.functions(), &targets, runtime).await;
    planned.map_err(|list| match unopened.pop() {
        // Without the table's columns, nothing that reads it can be planned.
        Some((_, error)) => error.into(),
        None => Failure::Sql(project.diagnostics(list)),
    })
}

/// Plans a pipeline as `weir run` would now, with the real columns of every table that it reads or writes. Errors: those of
/// a start.
pub async fn planned_as_started(
    project: &Project,
    pipeline: &PipelineDef,
    around: &Surroundings,
) -> Result<Dataflow, Failure> {
    let planned = planned_as_run(project, pipeline, around).await?;
    let catalog = with_view_columns(&project.catalog, &planned);
    let records =
        newest_manifest(around, &pipeline.name).await?.and_then(|manifest| manifest.sinks).unwrap_or_default();
    let mut targets = declared_targets(&catalog, pipeline);
    targets.extend(known_targets(&catalog, pipeline, &records, around).await?);
    targets.extend(known_lookups(&project.catalog, pipeline, around).await.0);
    let planned = plan(&catalog, pipeline, &project.functions(), &targets, Arc::clone(&around.runtime)).await;
    planned.map_err(|list| Failure::Sql(project.diagnostics(list)))
}

/// The newest manifest of a pipeline; `None` if it has never run.
pub async fn newest_manifest(around: &Surroundings, pipeline: &str) -> Result<Option<Manifest>> {
    let folder = below(&around.pipeline_location(pipeline), "manifests");
    let store = TableStore::open(&folder, &around.storage, &around.env)?;
    ManifestStore::new(store.object_store()).newest().await
}

/// Prints the effect on the state in the warehouse; returns true if nothing is lost. Operators without state are filled from
/// the table `seed`, if given.
///
/// Errors: operators that cannot be filled from it.
pub async fn against_state(dataflow: &Dataflow, seed: Option<&TableDef>, around: &Surroundings) -> Result<bool> {
    let Some(manifest) = newest_manifest(around, &dataflow.pipeline).await? else {
        say!("migration of {}  the pipeline has not run yet", dataflow.pipeline);
        return Ok(true);
    };
    let rows = |operator: &str| {
        let snapshot = manifest.state.iter().find(|snapshot| snapshot.operator == operator)?;
        Some(crate::state::usage(snapshot).iter().map(|table| table.rows).sum())
    };
    let fates = migration(dataflow, &manifest.state, &manifest.positions).into_iter();
    let lines: Vec<Line> = fates.map(|(id, fate)| Line::new(dataflow, id.clone(), fate, rows(&id))).collect();
    let builds = |id: &str| lines.iter().any(|line| line.fate == Fate::Build && line.operator == id);
    let operators = dataflow.operators.iter().enumerate();
    let fresh: Vec<usize> = operators.filter(|(_, node)| builds(&node.id)).map(|(index, _)| index).collect();
    if let Some(seed) = seed.filter(|_| !fresh.is_empty()) {
        check_seed(dataflow, &fresh, seed, around).await?;
    }
    say!("migration of {}  from epoch {}", dataflow.pipeline, manifest.epoch);
    let lossless = print(&lines, seed.map(|seed| seed.name.as_str()));
    for source in other_topics(dataflow, &manifest.positions, &manifest.topics) {
        say!("  {source}");
    }
    Ok(lossless)
}

/// Prints the effect on the operators of `old` if `new` replaces it; returns true if nothing is lost.
fn between(old: &Dataflow, new: &Dataflow, seed: Option<&str>) -> bool {
    let has = |dataflow: &Dataflow, id: &str| dataflow.operators.iter().any(|node| node.id == id);
    let mut lines: Vec<Line> = Vec::new();
    for node in &new.operators {
        let fate = if has(old, &node.id) { Fate::Keep } else { Fate::Build };
        lines.push(Line::new(new, node.id.clone(), fate, None));
    }
    for node in old.operators.iter().filter(|node| !has(new, &node.id)) {
        lines.push(Line::new(old, node.id.clone(), Fate::Drop, None));
    }
    say!("migration of {}", new.pipeline);
    print(&lines, seed)
}

/// Prints the effect on the operators of the file `old` if `new` replaces it.
pub async fn from_file(new: &Project, old: &Path, only: Option<&str>, config: &Config) -> Result<(), Failure> {
    let old = Project::load(&[old.to_owned()])?;
    for pipeline in new.pipelines(only)? {
        let after = planned(new, pipeline, &Targets::new(), config).await?;
        match old.catalog.pipelines.iter().find(|other| other.name == pipeline.name) {
            Some(before) => {
                let before = planned(&old, before, &Targets::new(), config).await?;
                let _lossless = between(&before, &after, seed_of(pipeline));
            }
            None => say!("migration of {}  the old file has no such pipeline", pipeline.name),
        }
    }
    Ok(())
}

/// The declaration of the table of a pipeline's `seed_from`.
pub fn seed_table<'a>(project: &'a Project, pipeline: &PipelineDef) -> Option<&'a TableDef> {
    project.catalog.tables.get(seed_of(pipeline)?)
}

/// The table of a pipeline's `seed_from`.
pub fn seed_of(pipeline: &PipelineDef) -> Option<&str> {
    pipeline.options.seed_from.as_ref().map(|seed| seed.table.as_str())
}

fn print(lines: &[Line], seed: Option<&str>) -> bool {
    if lines.is_empty() {
        say!("  no operator remembers anything");
    }
    for line in lines {
        let rows = line.rows.map_or_else(String::new, |rows| format!("  {} rows", super::report::grouped(rows)));
        let (word, meaning) = match (&line.fate, seed) {
            (Fate::Keep, _) => ("keep", "goes on with its state".to_owned()),
            (Fate::Begin, _) => {
                ("begin", "begins empty, as it may: it reads a source that is new, or knows what it lacks".to_owned())
            }
            (Fate::Build, Some(table)) => {
                ("rebuild", format!("has no state: is filled from table {table} (seed_from)"))
            }
            (Fate::Build, None) => ("rebuild", format!("has no state and would begin empty: {}", line.empty)),
            (Fate::Drop, _) => ("drop", "no longer wanted: its state would go".to_owned()),
        };
        say!("  {word:<8} {:<40} {meaning}{rows}", line.operator);
    }
    lines.iter().all(|line| match line.fate {
        Fate::Keep | Fate::Begin => true,
        Fate::Build => seed.is_some(),
        Fate::Drop => false,
    })
}
