//! Every Nexmark query and the fraud features: streamed by the program, beside DataFusion in batch over the same rows.
//!
//! `cargo bench --bench nexmark -- --events 1000000 [--only q4,q20] [--runs 3]`. Both sides make the rows (that cost is shown) and throw the
//! result away: the stream into a blackhole sink. Starting the program, with the same query over one event, is shown by itself. CPU time is that of
//! whole processes, user and system, from `/proc`: the median of the runs. Pin with `taskset -c 0`.

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

/// A run is so many rounds that they take this long: the kernel counts in hundredths of a second.
const SAMPLE_SECONDS: f64 = 0.25;

fn main() {
    let argument = |name: &str| std::env::args().skip_while(|argument| argument != name).nth(1);
    let number = |name: &str, default: u64| argument(name).and_then(|value| value.parse().ok()).unwrap_or(default);
    let size = Size { events: number("--events", 1_000_000), days: number("--days", 183) };
    let runs = number("--runs", 3) as usize;
    let only: Option<Vec<String>> = argument("--only").map(|names| names.split(',').map(str::to_owned).collect());
    println!("{} Nexmark events, {} days of transactions; CPU-seconds, medians of {runs}\n", size.events, size.days);
    println!(
        "| | input rows | making rows | batch | start | stream | stream / (rows + batch) | without start | k events/s/core |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(root.join("sql/nexmark")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| !path.ends_with(SIDE_INPUT));
    files.sort_by_key(|path| query(path));
    files.push(root.join("sql/features.sql"));
    files.retain(|path| only.as_ref().is_none_or(|only| only.contains(&stem(path))));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for file in files {
        measure(&runtime, &file, size, runs);
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap().to_string_lossy().into_owned()
}

fn query(path: &Path) -> u32 {
    stem(path)[1..].parse().unwrap_or(u32::MAX)
}

/// How much there is to read.
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

fn measure(runtime: &tokio::runtime::Runtime, file: &Path, size: Size, runs: usize) {
    let name = stem(file);
    let text = blackholes(&std::fs::read_to_string(file).unwrap());
    let variables = size.variables();
    let source = Arc::new(SourceFile::new(name.clone(), text.clone()));
    let catalog = Catalog::load(&[source], &|name| variables.get(name).cloned())
        .unwrap_or_else(|problems| panic!("{}", problems.render(false)));

    let mut inputs: BTreeMap<String, Arc<dyn TableProvider>> = BTreeMap::new();
    let mut rows = 0;
    let making = median(runs, || {
        inputs.clear();
        rows = 0;
        timed(false, || {
            for def in catalog.sources.values() {
                let batches = runtime.block_on(read(def));
                rows += batches.iter().map(RecordBatch::num_rows).sum::<usize>();
                inputs.insert(def.name.clone(), Arc::new(MemTable::try_new(def.schema(), vec![batches]).unwrap()));
            }
        })
    });

    let tables = Place::new();
    if !catalog.tables.is_empty() {
        tables.run(&file.with_file_name(SIDE_INPUT), size);
    }
    for table in catalog.tables.keys() {
        let location = tables.warehouse().join(table).display().to_string();
        let store = TableStore::open(&location, &BTreeMap::new(), &Env::system().unwrap()).unwrap();
        let provider = async { Table::open(store).await.unwrap().provider(None).await.unwrap() };
        inputs.insert(table.clone(), runtime.block_on(provider));
    }
    let in_batch = median(runs, || timed(false, || runtime.block_on(run_batch(&catalog, inputs.clone()))));
    drop(inputs);

    let path = tables.folder.path().join(format!("{name}.sql"));
    std::fs::write(&path, text).unwrap();
    let streaming = |size: Size| {
        median(runs, || {
            let place = Place::new();
            if !catalog.tables.is_empty() {
                place.run(&file.with_file_name(SIDE_INPUT), size);
            }
            timed(true, || place.run(&path, size))
        })
    };
    let start = streaming(Size { events: 1, days: 1 });
    let streamed = streaming(size);
    println!(
        "| {name} | {rows} | {making:.2} | {in_batch:.2} | {start:.2} | {streamed:.2} | {:.2} | {:.2} | {:.0} |",
        streamed / (making + in_batch),
        (streamed - start) / (making + in_batch),
        rows.max(if name == "features" { 0 } else { size.events as usize }) as f64 / 1_000.0 / streamed
    );
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

/// The median of what `sample` gives, where a sample is the mean of enough rounds.
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

/// CPU-seconds that `work` takes in this process, or in its children.
fn timed(children: bool, work: impl FnOnce()) -> f64 {
    let start = cpu(children);
    work();
    cpu(children) - start
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
