//! Every Nexmark query and the fraud features: streamed by the program, beside DataFusion in batch over the same rows.
//!
//! `cargo bench --bench nexmark -- --events 1000000`. Both sides make the rows (that cost is shown) and throw the result away: the stream into a
//! blackhole sink. CPU time is that of whole processes, user and system, from `/proc`; pin with `taskset -c 0`.

#![allow(clippy::allow_attributes, reason = "which of these are needed changes with the measurement")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a measurement that cannot be made stops"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::execution::TaskContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use weir::catalog::Catalog;
use weir::delta::{Table, TableStore};
use weir::env::Env;
use weir::plan::{FunctionSet, Targets, batch};
use weir::source::chunk::{Payload, Poll, PollLimit, ReadFrom};
use weir::sql::SourceFile;

/// Makes the table that q13 joins bids to.
const SIDE_INPUT: &str = "side_input.sql";

fn main() {
    let argument = |name: &str| {
        let mut arguments = std::env::args().skip_while(move |argument| argument != name);
        arguments.nth(1).and_then(|value| value.parse::<u64>().ok())
    };
    let events = argument("--events").unwrap_or(1_000_000);
    let days = argument("--days").unwrap_or(183);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    println!("{events} Nexmark events, {days} days of transactions; CPU-seconds\n");
    println!("| | input rows | making rows | batch | stream | stream / (rows + batch) | k events/s/core |");
    println!("|---|---|---|---|---|---|---|");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(root.join("sql/nexmark")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| !path.ends_with(SIDE_INPUT));
    files.sort_by_key(|path| number(path));
    files.push(root.join("sql/features.sql"));
    for file in files {
        runtime.block_on(measure(&file, events, days));
    }
}

fn number(path: &Path) -> u32 {
    path.file_stem().unwrap().to_string_lossy()[1..].parse().unwrap_or(u32::MAX)
}

async fn measure(file: &Path, events: u64, days: u64) {
    let name = file.file_stem().unwrap().to_string_lossy().into_owned();
    let text = blackholes(&std::fs::read_to_string(file).unwrap());
    let variables = BTreeMap::from([
        ("EVENTS", events.to_string()),
        ("DAYS", days.to_string()),
        ("CUSTOMERS", "5000".to_owned()),
        ("TERMINALS", "10000".to_owned()),
    ]);
    let source = Arc::new(SourceFile::new(name.clone(), text.clone()));
    let catalog = Catalog::load(&[source], &|name| variables.get(name).cloned())
        .unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    let pipeline = &catalog.pipelines[0];

    let start = cpu(false);
    let mut inputs: BTreeMap<String, Arc<dyn TableProvider>> = BTreeMap::new();
    let mut rows = 0;
    for def in catalog.sources.values() {
        let batches = read(def).await;
        rows += batches.iter().map(RecordBatch::num_rows).sum::<usize>();
        inputs.insert(def.name.clone(), Arc::new(MemTable::try_new(def.schema(), vec![batches]).unwrap()));
    }
    let making = cpu(false) - start;

    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("weir.yaml");
    let warehouse = folder.path().join("warehouse");
    std::fs::write(&config, format!("warehouse: {}\nparallelism: 1\n", warehouse.display())).unwrap();
    let run = |path: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.arg("-c").arg(&config).args(["--log", "json", "run"]).arg(path).envs(&variables);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
    };
    if !catalog.tables.is_empty() {
        run(&file.with_file_name(SIDE_INPUT));
    }
    for table in catalog.tables.keys() {
        let location = warehouse.join(table).display().to_string();
        let store = TableStore::open(&location, &BTreeMap::new(), &Env::system().unwrap()).unwrap();
        inputs.insert(table.clone(), Table::open(store).await.unwrap().provider(None).await.unwrap());
    }

    let start = cpu(false);
    let runtime = Arc::new(RuntimeEnv::default());
    let planned = batch(&catalog, pipeline, &FunctionSet::default(), &Targets::new(), inputs, runtime).await.unwrap();
    for insert in &planned.inserts {
        let plan = planned.session.create_physical_plan(&insert.plan).await.unwrap();
        let context = Arc::new(TaskContext::from(&planned.session));
        drop(datafusion::physical_plan::collect(plan, context).await.unwrap());
    }
    let in_batch = cpu(false) - start;
    drop(planned);

    let path = folder.path().join(format!("{name}.sql"));
    std::fs::write(&path, text).unwrap();
    let start = cpu(true);
    run(&path);
    let streamed = cpu(true) - start;
    println!(
        "| {name} | {rows} | {making:.2} | {in_batch:.2} | {streamed:.2} | {:.2} | {:.0} |",
        streamed / (making + in_batch),
        rows.max(if name == "features" { 0 } else { events as usize }) as f64 / 1_000.0 / streamed
    );
}

/// The file with every table that is written as a sink that throws rows away.
fn blackholes(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("CREATE TABLE ") {
        out.push_str(&rest[..at]);
        let name = rest[at + "CREATE TABLE ".len()..].split_whitespace().next().unwrap();
        let end = at + rest[at..].find("USING DELTA;").unwrap() + "USING DELTA;".len();
        match text.contains(&format!("INSERT INTO {name}\n")) {
            true => out.push_str(&format!("CREATE SINK {name} WITH (connector = 'blackhole');")),
            false => out.push_str(&rest[at..end]),
        }
        rest = &rest[end..];
    }
    out + rest
}

async fn read(def: &weir::catalog::SourceDef) -> Vec<RecordBatch> {
    let env = Env::system().unwrap();
    let from = ReadFrom { bounded: true, ..ReadFrom::default() };
    let mut reader = weir::source::open(def, "bench", from, &env).await.unwrap();
    let limit = PollLimit { rows: 100_000, bytes: usize::MAX, wait: Duration::from_millis(10), linger: Duration::ZERO };
    let mut rows = Vec::new();
    loop {
        match reader.poll(limit).await.unwrap() {
            Poll::Finished => return rows,
            Poll::Idle => {}
            Poll::Chunks(chunks) => {
                for chunk in chunks {
                    if let Payload::Rows(batch) = chunk.payload {
                        rows.push(batch);
                    }
                }
            }
        }
    }
}

/// CPU-seconds of this process, or of its ended children.
fn cpu(children: bool) -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let first = if children { 13 } else { 11 };
    let ticks: f64 = fields[first..first + 2].iter().map(|field| field.parse::<f64>().unwrap()).sum();
    ticks / 100.0
}
