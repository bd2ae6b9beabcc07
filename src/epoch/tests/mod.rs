//! Random pipelines over random input, streamed with restarts, against DataFusion in batch over all rows that count.
//!
//! `WEIR_COMBINATIONS=1000..2000 cargo test --release --lib generated_pipelines` runs other seeds than those that always run; with one seed,
//! `WEIR_COMBINATIONS_SQL=file` runs other SQL over its input, to find out what a difference hangs on.

mod found;
mod input;
mod joins;
mod queries;
mod steps;
mod stream;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arrow::datatypes::DataType;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use self::input::{Log, dim};
use self::queries::{Queries, generate};
use self::stream::{Ended, Run, Setup};
use super::verify::{Withheld, compare};
use crate::catalog::Catalog;
use crate::delta::testing::{WrittenTable, declared};
use crate::env::Env;
use crate::memory::MemoryPool;
use crate::plan::{FunctionSet, Targets, batch};
use crate::run::memory::Limits;
use crate::sql::SourceFile;
use crate::state::{MemoryBudget, SpillFolder, StateStore};

/// Pipelines that always run.
const WANTED: usize = 200;

/// So many failures are shown.
const FAILURES: usize = 40;

/// Result of a seed.
enum Outcome {
    /// Streamed and batch rows are the same.
    Agreed(Ended),
    /// The planner said no, as the reference says.
    Refused,
    /// DataFusion cannot plan the batch.
    Unanswered,
    /// Seed, SQL, and the rows that differ.
    Failed(String),
}

/// Rows that the reference refuses.
const REFUSALS: [&str; 5] = [
    "over rows that may be taken back",
    "rows that may be taken back, joined to table `dim` as it is now",
    "needs event time",
    "which is not event time",
    "NOT IN over columns that may be null",
];

#[test]
fn two_hundred_generated_pipelines_stream_what_their_batch_says() {
    let (seeds, wanted) = match std::env::var("WEIR_COMBINATIONS") {
        Ok(range) => (parse(&range), 0),
        Err(_) => (0..u64::MAX, WANTED),
    };
    let next = AtomicU64::new(seeds.start);
    let tally = Mutex::new(Tally::default());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let enough = |tally: &Tally| (wanted > 0 && tally.agreed >= wanted) || tally.failed.len() >= FAILURES;
            if seed >= seeds.end || enough(&tally.lock().unwrap()) {
                return;
            }
            let outcome = run(seed);
            tally.lock().unwrap().add(outcome);
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
    });
    let Tally { agreed, refused, unanswered, restarts, failed } = tally.into_inner().unwrap();
    println!(
        "{agreed} pipelines agree with their batch over {restarts} restarts; {refused} are refused, {unanswered} have no batch"
    );
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    assert!(agreed >= wanted && (refused + unanswered) * 10 <= agreed.max(10), "{agreed}, {refused}, {unanswered}");
}

/// Results of the seeds.
#[derive(Default)]
struct Tally {
    agreed: usize,
    refused: usize,
    unanswered: usize,
    restarts: usize,
    failed: Vec<String>,
}

impl Tally {
    fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Agreed(ended) => {
                self.agreed += 1;
                self.restarts += ended.restarts;
            }
            Outcome::Refused => self.refused += 1,
            Outcome::Unanswered => self.unanswered += 1,
            Outcome::Failed(text) => self.failed.push(text),
        }
    }
}

fn parse(range: &str) -> Range<u64> {
    let (from, to) = range.split_once("..").unwrap_or((range, ""));
    let from: u64 = from.parse().expect("WEIR_COMBINATIONS is a range such as 1000..2000");
    from..to.parse().unwrap_or(from + 1)
}

/// Runs the pipeline of a seed.
fn run(seed: u64) -> Outcome {
    let mut random = StdRng::seed_from_u64(seed);
    let mut queries = generate(&mut random);
    if let Ok(file) = std::env::var("WEIR_COMBINATIONS_SQL") {
        queries.sql = std::fs::read_to_string(file).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (shape, sql) = (queries.shape, queries.sql.clone());
    let told = std::panic::AssertUnwindSafe(|| runtime.block_on(streamed_and_batch(seed, queries, &mut random)));
    match std::panic::catch_unwind(told) {
        Ok(outcome) => outcome,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("?");
            Outcome::Failed(format!("WEIR_COMBINATIONS={seed} {shape:?}\n{sql}\n{text}"))
        }
    }
}

/// Plans SQL, streams it and asks the batch.
async fn streamed_and_batch(seed: u64, queries: Queries, random: &mut StdRng) -> Outcome {
    let Queries { shape, sql, provoked } = queries;
    let files = [Arc::new(SourceFile::new("generated.sql", sql))];
    let catalog = Catalog::load(&files, &|_| None).unwrap_or_else(|found| panic!("{}", found.render(false)));
    let pipeline = &catalog.pipelines[0];
    let functions = FunctionSet::default();
    let memory = Arc::new(RuntimeEnv::default());
    let planned = super::plan(&catalog, pipeline, &functions, &Targets::new(), Arc::clone(&memory)).await;
    let dataflow = match planned {
        Ok(dataflow) => dataflow,
        Err(problems) => {
            let said: Vec<String> = problems.iter().map(|problem| problem.message.clone()).collect();
            let known = |text: &String| REFUSALS.iter().any(|refusal| text.contains(refusal));
            assert!(provoked && said.iter().all(known), "refused: {said:?} {problems:?}");
            return Outcome::Refused;
        }
    };
    let env = Env::manual(1_700_000_000_000, seed);
    let table = lookup_table(&env).await;
    let folder = tempfile::tempdir().unwrap();
    let divides = random.random_bool(0.15);
    let limits = limits(divides.then(|| SpillFolder::create(folder.path(), &env).unwrap()));
    let sources = dataflow.sources.iter().map(|source| {
        let number: usize = source.def.name[1..].parse().unwrap();
        Log::new(random, &source.def.schema(), number, shape)
    });
    let mut logs: Vec<Log> = sources.collect();
    let mut inputs: BTreeMap<String, Arc<dyn TableProvider>> = BTreeMap::new();
    for (source, log) in dataflow.sources.iter().zip(&logs) {
        let table = MemTable::try_new(source.def.schema(), vec![vec![log.counted()]]).unwrap();
        inputs.insert(source.def.name.clone(), Arc::new(table));
    }
    inputs.insert("dim".to_owned(), table.table.provider(None).await.unwrap());
    let in_batch = batch(&catalog, pipeline, &functions, &Targets::new(), inputs, memory).await.unwrap();

    let setup = Setup {
        states: StateStore::new(Arc::new(InMemory::new()), env.clone()),
        lookups: BTreeMap::from([("dim".to_owned(), table.store())]),
        dataflow: Arc::new(dataflow),
        env,
        shape,
        limits,
        divides,
    };
    let dataflow = Arc::clone(&setup.dataflow);
    let (streamed, ended) = Run::to_the_end(setup, &mut logs, random).await;
    for ((branch, insert), found) in dataflow.branches.iter().zip(&in_batch.inserts).zip(streamed) {
        let plan = match in_batch.session.create_physical_plan(&insert.plan).await {
            Ok(plan) => plan,
            // A union of sorted inputs whose order shows through one column twice.
            Err(DataFusionError::Context(rule, _)) if rule == "SanityCheckPlan" => return Outcome::Unanswered,
            Err(error) => panic!("{error}"),
        };
        let context = Arc::new(TaskContext::from(&in_batch.session));
        let expected = datafusion::physical_plan::collect(plan, context).await.unwrap();
        let compared = compare(&branch.target, &branch.schema, &[found], &expected, &Withheld::default()).unwrap();
        assert!(compared.agrees(), "{compared:#?}");
    }
    // A filter may take some of them away before anybody asks for their times.
    let late: usize = logs.iter().map(Log::late).sum();
    assert!(ended.late > 0 || late < 6, "{late} rows were late, none of them told");
    Outcome::Agreed(ended)
}

/// The table that streams are joined to, older than every row.
async fn lookup_table(env: &Env) -> WrittenTable {
    let columns = [("k", DataType::Int64, true), ("label", DataType::Utf8, true), ("rate", DataType::Float64, true)];
    let mut table = WrittenTable::create(&declared("dim", &columns, &[]), env).await;
    table.append(&[dim()]).await;
    table
}

/// Memory without a limit, or, where there is a folder for cold state, hardly any.
fn limits(spill: Option<SpillFolder>) -> Limits {
    let pool = MemoryPool::new(1 << 30);
    match spill {
        None => {
            let spill = Err("nothing is short of memory".to_owned());
            Limits {
                bytes: u64::MAX,
                spill,
                budget: MemoryBudget::new(u64::MAX),
                pool,
                pipelines: 1,
                kafka_queue: 32 << 20,
            }
        }
        Some(folder) => Limits {
            bytes: 100_000,
            spill: Ok(folder),
            // A table that is looked up has to fit.
            budget: MemoryBudget::new(12_000),
            pool,
            pipelines: 1,
            kafka_queue: 32 << 20,
        },
    }
}
