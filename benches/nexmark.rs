//! Every Nexmark query and the fraud features: streamed by the program, beside DataFusion in batch over the same rows.
//!
//! `cargo bench --bench nexmark -- --events 1000000 [--only q4,q20] [--runs 3]`. Both sides are processes that start empty,
//! make the rows and throw the result away, the stream into a blackhole sink. The batch makes all rows first (that cost is
//! shown), holds them in memory and runs the query over them. The start of either process, measured with the same query over
//! one event, is shown separately. CPU time is that of whole processes, user and system, from `/proc`: the median of the
//! runs. Pin with `taskset -c 0`.

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

/// The allocator of the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Makes the table that q13 joins bids to.
const SIDE_INPUT: &str = "side_input.sql";

/// CPU time of the rounds of one sample: the kernel counts in hundredths of a second.
const SAMPLE_SECONDS: f64 = 0.25;

fn main() {
    let argument = |name: &str| std::env::args().skip_while(|argument| argument != name).nth(1);
    let number = |name: &str, default: u64| argument(name).and_then(|value| value.parse().ok()).unwrap_or(default);
    let size = Size { events: number("--events", 1_000_000), days: number("--days", 183) };
    if let Some(file) = argument("--batch-of") {
        let tables = argument("--tables").unwrap();
        return in_batch(Path::new(&file), size, Path::new(&tables), argument("--rows-only").is_none());
    }
    let runs = number("--runs", 3) as usize;
    let only: Option<Vec<String>> = argument("--only").map(|names| names.split(',').map(str::to_owned).collect());
    println!("{} Nexmark events, {} days of transactions; CPU-seconds, medians of {runs}\n", size.events, size.days);
    println!(
        "| | making rows | batch with its rows | stream | stream / batch | start of batch | start of stream | without starts | k events/s/core |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(root.join("sql/nexmark")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| !path.ends_with(SIDE_INPUT));
    files.sort_by_key(|path| query(path));
    files.push(root.join("sql/features.sql"));
    files.retain(|path| only.as_ref().is_none_or(|only| only.contains(&stem(path))));
    for file in files {
        measure(&file, size, runs);
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap().to_string_lossy().into_owned()
}

fn query(path: &Path) -> u32 {
    stem(path)[1..].parse().unwrap_or(u32::MAX)
}

/// The amount of input.
#[derive(Clone, Copy)]
struct Size {
    events: u64,
    days: u64,
}

impl Size {
    fn variables(self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("EVENTS", self.events.to_string()),
            ("DAYS", self.days.to_string()),
            ("CUSTOMERS", if self.days > 1 { "5000" } else { "1" }.to_owned()),
            ("TERMINALS", if self.days > 1 { "10000" } else { "1" }.to_owned()),
        ])
    }
}

/// A folder with a configuration, in which the program runs.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        let config = format!("warehouse: {}\nparallelism: 1\n", place.warehouse().display());
        std::fs::write(place.folder.path().join("weir.yaml"), config).unwrap();
        place
    }

    fn warehouse(&self) -> PathBuf {
        self.folder.path().join("warehouse")
    }

    fn run(&self, path: &Path, size: Size) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.arg("-c").arg(self.folder.path().join("weir.yaml")).args(["--log", "json", "run"]).arg(path);
        let output = command.envs(size.variables()).output().unwrap();
        assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
    }
}

fn measure(file: &Path, size: Size, runs: usize) {
    let name = stem(file);
    let text = blackholes(&std::fs::read_to_string(file).unwrap());
    let tables = Place::new();
    let side = file.with_file_name(SIDE_INPUT);
    let joined = text.contains("CREATE TABLE ");
    if joined {
        tables.run(&side, size);
    }
    let path = tables.folder.path().join(format!("{name}.sql"));
    std::fs::write(&path, text).unwrap();
    let least = Size { events: 1, days: 1 };

    let batch = |size: Size, more: &[&str]| {
        median(runs, || {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.arg("--batch-of").arg(&path).arg("--tables").arg(tables.warehouse()).args(more);
            command.args(["--events", &size.events.to_string(), "--days", &size.days.to_string()]);
            timed(|| assert!(command.status().unwrap().success()))
        })
    };
    let stream = |size: Size| {
        median(runs, || {
            let place = Place::new();
            if joined {
                place.run(&side, size);
            }
            timed(|| place.run(&path, size))
        })
    };
    let making = batch(size, &["--rows-only", "yes"]);
    let (batch_start, batch) = (batch(least, &[]), batch(size, &[]));
    let (stream_start, stream) = (stream(least), stream(size));
    let speed = match name.as_str() {
        "features" => String::new(),
        _ => format!("{:.0}", size.events as f64 / 1_000.0 / stream),
    };
    println!(
        "| {name} | {making:.2} | {batch:.2} | {stream:.2} | {:.2} | {batch_start:.2} | {stream_start:.2} | {:.2} | {speed} |",
        stream / batch,
        (stream - stream_start) / (batch - batch_start),
    );
}

/// The work of a batch process: makes the rows of a file's sources, and runs its pipeline over them if `query`.
fn in_batch(file: &Path, size: Size, tables: &Path, query: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let variables = size.variables();
    let source = Arc::new(SourceFile::new(stem(file), std::fs::read_to_string(file).unwrap()));
    let catalog = Catalog::load(&[source], &|name| variables.get(name).cloned())
        .unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    let mut inputs: BTreeMap<String, Arc<dyn TableProvider>> = BTreeMap::new();
    for def in catalog.sources.values() {
        let batches = runtime.block_on(read(def));
        inputs.insert(def.name.clone(), Arc::new(MemTable::try_new(def.schema(), vec![batches]).unwrap()));
    }
    if !query {
        return;
    }
    for table in catalog.tables.keys() {
        let location = tables.join(table).display().to_string();
        let store = TableStore::open(&location, &BTreeMap::new(), &Env::system().unwrap()).unwrap();
        let provider = async { Table::open(store).await.unwrap().provider(None).await.unwrap() };
        inputs.insert(table.clone(), runtime.block_on(provider));
    }
    runtime.block_on(run_batch(&catalog, inputs));
}

async fn run_batch(catalog: &Catalog, inputs: BTreeMap<String, Arc<dyn TableProvider>>) {
    let runtime = Arc::new(RuntimeEnv::default());
    let (functions, targets) = (FunctionSet::default(), Targets::new());
    let planned = batch(catalog, &catalog.pipelines[0], &functions, &targets, inputs, runtime).await.unwrap();
    for insert in &planned.inserts {
        let plan = planned.session.create_physical_plan(&insert.plan).await.unwrap();
        let context = Arc::new(TaskContext::from(&planned.session));
        drop(datafusion::physical_plan::collect(plan, context).await.unwrap());
    }
}

/// The median of samples, each the mean of enough rounds of `sample`.
fn median(runs: usize, mut sample: impl FnMut() -> f64) -> f64 {
    let mut samples: Vec<f64> = (0..runs)
        .map(|_| {
            let (mut total, mut rounds) = (0.0, 0.0);
            while total < SAMPLE_SECONDS && rounds < 20.0 {
                total += sample();
                rounds += 1.0;
            }
            total / rounds
        })
        .collect();
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// CPU-seconds of the processes that `work` runs.
fn timed(work: impl FnOnce()) -> f64 {
    let start = cpu();
    work();
    cpu() - start
}

/// The file with a blackhole sink in place of every table that it writes.
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

/// CPU-seconds of the ended children of this process.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[13..15].iter().map(|field| field.parse::<f64>().unwrap()).sum();
    ticks / 100.0
}
