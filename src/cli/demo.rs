//! `weir demo`: everything in one process, so that a new user sees a pipeline run within a minute of installing weir.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, Float32Array, new_null_array};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Float32Type, Schema};
use arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::prelude::SessionContext;

use super::project::{Project, runtime, surroundings};
use super::report::{Report, grouped};
use super::run::{Runner, run_all};
use super::server::Server;
use super::{Failure, Printing, signals};
use crate::catalog::Catalog;
use crate::config::Config;
use crate::env::Env;
use crate::epoch::Stop;
use crate::error::{Context, Error, Result};
use crate::lab::broker::Broker;
use crate::lab::generator::{Rendering, Simulator};
use crate::lab::produce::{Pace, Target, send};
use crate::plan::{FunctionSet, views};
use crate::sql::SourceFile;

const PIPELINE: &str = include_str!("../../sql/fraud.sql");
const HISTORY_DAYS: u32 = 30;
const SEED: u64 = 42;

/// Arguments of `weir demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// End after this many seconds [default: until Ctrl-C]
    #[arg(long)]
    seconds: Option<u64>,
    /// Transactions a second
    #[arg(long, default_value_t = 2000.0)]
    rate: f64,
    /// Keep tables and model here [default: a fresh folder under the system's temporary one]
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Runs the demo. Errors: those of its parts.
pub async fn run(args: Args, config: &Config, printing: &Printing) -> Result<(), Failure> {
    // A demo writes for people, even through a pipe, unless JSON was requested.
    let (json, output) = (printing.asked_for_json, &printing.output);
    let env = Env::system()?.with_output(output.clone());
    let stop = Stop::default();
    signals::listen(stop.clone(), printing.log.clone())?;
    let dir = folder(args.dir, &env)?;
    let say = |text: &str| {
        if !json {
            output.print(format!("{text}\n"));
        }
    };
    say("weir demo: card transactions -> Kafka -> SQL with a fraud model -> Delta Lake, in one process\n");

    let broker = Broker::start(&[("transactions", 4), ("alerts", 1)])?;
    say(&format!("1. a development broker at {}, topics `transactions` and `alerts`", broker.bootstrap_servers()));

    let model = dir.join("models").join("fraud.txt");
    let mut simulator = Simulator::new(SEED, 5000, 10_000);
    let trained = train(&mut simulator, &model, runtime(config)?).await?;
    say(&format!("2. {trained}"));

    let mut config = config.clone();
    config.warehouse = fresh_warehouse(&dir).display().to_string();
    let variables = BTreeMap::from([
        ("KAFKA".to_owned(), broker.bootstrap_servers().to_owned()),
        ("MODEL".to_owned(), model.display().to_string()),
        ("TOPIC".to_owned(), "transactions".to_owned()),
        ("ALERTS".to_owned(), "alerts".to_owned()),
    ]);
    let file = Arc::new(SourceFile::new("sql/fraud.sql", PIPELINE));
    let project = Project::from_files(&[file], &|name| variables.get(name).cloned())?;
    let around = surroundings(&config, env)?.shared_by(&project.catalog);
    let metrics = Arc::clone(&around.metrics);
    let runner = Runner { around, report: Arc::new(Report::new(json, output.clone())) };
    let jobs = runner.jobs(&project, None, None).await?;
    let server = Server::start_anywhere(&config, &runner.around, &project, metrics).await?;
    say(&format!(
        "3. sql/fraud.sql runs: every transaction scored, `scored` and `fraud_alerts` committed together each second\n   tables, manifests and the model are in {}",
        dir.display()
    ));
    say(&format!("4. Flight SQL at grpc://{}, dashboard and metrics at http://{}\n", server.flight, server.http));
    say(&next_steps(&server));

    let producer = produce(simulator, broker.bootstrap_servers(), args.rate, stop.clone());
    if let Some(seconds) = args.seconds {
        let stop = stop.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            stop.now();
        });
    }
    let upkeep = runner.upkeep(&config, &jobs, stop.clone());
    let finish = run_all(jobs, stop.clone()).await;
    stop.now();
    let _ended = upkeep.await;
    runner.report.end();
    server.stop().await;
    let sent = producer.await.internal(|| "the simulator ended abnormally".to_owned())??;
    let finish = finish?;
    say(&format!(
        "\n{} transactions sent, {} read and scored in {} epochs. Look at what is left:\n  {} query --warehouse {} 'SELECT count(*), max(score) FROM scored'",
        grouped(sent),
        grouped(finish.records),
        finish.epochs,
        program(),
        config.warehouse
    ));
    // The broker ends with the process: stopping it earlier would make clients that are still closing log errors.
    std::mem::forget(broker);
    Ok(())
}

fn folder(given: Option<PathBuf>, env: &Env) -> Result<PathBuf> {
    let dir = given.unwrap_or_else(|| std::env::temp_dir().join(format!("weir-demo-{:08x}", env.random_u64() >> 32)));
    std::fs::create_dir_all(dir.join("models")).environment(|| format!("folder `{}` cannot be made", dir.display()))?;
    Ok(dir)
}

/// An unused folder for the warehouse. The broker is new in every demo, so tables of an earlier one cannot continue.
fn fresh_warehouse(dir: &Path) -> PathBuf {
    let names = std::iter::once("warehouse".to_owned()).chain((2..).map(|number| format!("warehouse-{number}")));
    let mut free = names.map(|name| dir.join(name)).filter(|folder| !folder.exists());
    free.next().unwrap_or_else(|| dir.join("warehouse"))
}

/// The command by which the user calls this program: its name if it is in PATH, else its path, relative if it is below the
/// current folder.
fn program() -> String {
    let Ok(path) = std::env::current_exe() else { return "weir".to_owned() };
    let folders = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&folders).any(|folder| Some(folder.as_path()) == path.parent()) {
        return "weir".to_owned();
    }
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(&path).display().to_string()
}

fn next_steps(server: &Server) -> String {
    let weir = program();
    format!(
        "Each line below is an epoch: rows read, rows a second, records still in Kafka, worst time from arrival to written,\n\
         time to commit, files. About 1 in 1000 records is damaged on purpose and goes to the dead letters.\n\
         In another terminal:\n  \
         {weir} query --url grpc://{flight} 'SELECT count(*) AS n, avg(score) AS score FROM scored'\n  \
         {weir} query --url grpc://{flight} 'SELECT * FROM fraud_alerts ORDER BY score DESC LIMIT 10'\n  \
         {weir} query --url grpc://{flight} 'SELECT * FROM user_stats ORDER BY highest_score DESC LIMIT 10'\n  \
         {weir} query --url grpc://{flight} 'SHOW STATE'\n  \
         {weir} query --url grpc://{flight} 'SELECT reason, count(*) AS n FROM weir.dead_letters GROUP BY reason'\n",
        flight = server.flight
    )
}

fn produce(mut simulator: Simulator, servers: &str, rate: f64, stop: Stop) -> tokio::task::JoinHandle<Result<u64>> {
    let servers = servers.to_owned();
    tokio::task::spawn_blocking(move || {
        let mut target = Target::kafka(&servers, "transactions")?;
        let pace = Pace { rate: Some(rate), rows: None, days: None, broken_every: 1000 };
        send(&mut simulator, &mut target, pace, Rendering::default(), &|| stop.is_set())
    })
}

/// The columns of `features` on which the model is trained, in the order of the call in `sql/fraud.sql`.
const FEATURES: [&str; 11] = [
    "amount",
    "weekend",
    "night",
    "customer_n_1d",
    "customer_mean_1d",
    "customer_n_7d",
    "customer_mean_7d",
    "terminal_n_1d",
    "terminal_mean_1d",
    "terminal_n_7d",
    "terminal_mean_7d",
];

/// Trains on the simulator's first days with the features that `sql/fraud.sql` computes: the same SQL, in batch.
async fn train(simulator: &mut Simulator, path: &Path, runtime: Arc<RuntimeEnv>) -> Result<String> {
    let began = std::time::Instant::now();
    let days = (0..HISTORY_DAYS).map(|_| simulator.next_day()).collect::<Result<Vec<RecordBatch>>>()?;
    let first = days.first().ok_or_else(|| Error::internal("the simulator has no history"))?;
    let history = concat_batches(&first.schema(), &days).internal(|| "simulated days differ".to_owned())?;
    let rows = history.num_rows();
    let features = features(history, runtime).await?;
    let labels =
        cast(features.column(FEATURES.len()), &DataType::Float32).internal(|| "labels are not boolean".to_owned())?;
    let labels: Float32Array = labels.as_primitive::<Float32Type>().clone();
    let columns: Vec<usize> = (0..FEATURES.len()).collect();
    let inputs = features.project(&columns).internal(|| "features are missing".to_owned())?;
    let frauds = labels.iter().flatten().filter(|label| *label > 0.5).count();
    let parameters: BTreeMap<String, String> = [
        ("objective", "binary"),
        ("num_iterations", "100"),
        ("num_leaves", "31"),
        ("learning_rate", "0.1"),
        ("min_data_in_leaf", "5"),
        ("seed", "42"),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect();
    let task = tokio::task::spawn_blocking(move || crate::model::train(&inputs, labels.values(), &parameters));
    let text = task.await.internal(|| "training ended abnormally".to_owned())??;
    std::fs::write(path, text).environment(|| format!("model `{}` cannot be written", path.display()))?;
    Ok(format!(
        "a model trained on {HISTORY_DAYS} simulated days in {:.1} s: {} transactions, {} frauds",
        began.elapsed().as_secs_f64(),
        grouped(rows as u64),
        grouped(frauds as u64)
    ))
}

/// The features of every transaction of `history`, then its label.
async fn features(history: RecordBatch, runtime: Arc<RuntimeEnv>) -> Result<RecordBatch> {
    let file = Arc::new(SourceFile::new("sql/fraud.sql", PIPELINE));
    let catalog = Catalog::load(&[file], &|_| None).map_err(|problems| Error::internal(problems.render(false)))?;
    let schema = history.schema();
    // Columns that the simulator lacks, such as the offset, are null.
    let declared = catalog.sources["transactions"].schema();
    let null = |field: &Field| new_null_array(field.data_type(), history.num_rows());
    let column = |field: &Arc<Field>| history.column_by_name(field.name()).cloned().unwrap_or_else(|| null(field));
    let nullable = declared.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    let transactions = RecordBatch::try_new(
        Arc::new(Schema::new(nullable.collect::<Vec<_>>())),
        declared.fields().iter().map(column).collect(),
    );
    let transactions = transactions.internal(|| "simulated rows do not fit the source".to_owned())?;
    let transactions = MemTable::try_new(transactions.schema(), vec![vec![transactions]])?;
    let history = MemTable::try_new(schema, vec![vec![history]])?;
    let inputs = BTreeMap::from([
        ("transactions".to_owned(), Arc::new(transactions) as Arc<dyn TableProvider>),
        ("history".to_owned(), Arc::new(history) as Arc<dyn TableProvider>),
    ]);
    let session = views(&catalog, &FunctionSet::default(), inputs, runtime).await?;
    let names: Vec<String> = FEATURES.iter().map(|name| format!("f.{name}")).collect();
    let query = format!(
        "SELECT {}, h.is_fraud FROM features f JOIN history h ON f.transaction_id = h.transaction_id ORDER BY h.transaction_id",
        names.join(", ")
    );
    let found = SessionContext::new_with_state(session).sql(&query).await?.collect().await?;
    let schema = found.first().map(RecordBatch::schema).ok_or_else(|| Error::internal("no features"))?;
    concat_batches(&schema, &found).internal(|| "features differ".to_owned())
}
