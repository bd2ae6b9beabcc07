//! `weir serve`: Flight SQL and HTTP over the warehouse, without pipelines, until Ctrl-C.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::FutureExt;

use super::project::Project;
use super::{Failure, Printing};
use crate::config::{Config, Secret};
use crate::delta::TableStore;
use crate::env::Env;
use crate::error::{Context, ErrorKind, Result};
use crate::memory::QueryMemory;
use crate::metrics::Metrics;
use crate::serve::BoundServer;
use crate::serve::engine::QueryLimits;
use crate::serve::flight::{self, FlightOptions, TlsIdentity};
use crate::serve::http::{self, HttpState, Readiness};
use crate::serve::warehouse::location::Location;
use crate::serve::warehouse::{Declared, Warehouse, WarehouseOptions};
use crate::source::delta::Reach;

/// Arguments of `weir serve`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The warehouse's folder; default: the configuration's
    #[arg(long, value_name = "PATH")]
    warehouse: Option<String>,
    /// A SQL file whose sources, views, models … can be described and whose functions can be called; may be repeated
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Address of Flight SQL; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    flight_listen: Option<SocketAddr>,
    /// Address of HTTP; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    http_listen: Option<SocketAddr>,
}

/// Addresses and settings of the two servers.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// `None` = no Flight SQL.
    pub flight_listen: Option<SocketAddr>,
    pub flight: FlightOptions,
    /// `None` = no HTTP.
    pub http_listen: Option<SocketAddr>,
}

/// The servers that were started.
#[derive(Debug)]
pub struct Servers {
    pub flight: Option<BoundServer>,
    pub http: Option<BoundServer>,
}

impl Servers {
    /// Waits for both to end and returns the first error.
    pub async fn join(self) -> Result<()> {
        for server in [self.flight, self.http].into_iter().flatten() {
            server.task.await.context(ErrorKind::Internal, || "server task failed".to_owned())??;
        }
        Ok(())
    }

    /// One line per server, for people.
    pub fn addresses(&self) -> Vec<String> {
        let flight = self.flight.as_ref().map(|server| format!("Flight SQL  grpc://{}", server.addr));
        let http = self.http.as_ref().map(|server| format!("dashboard   http://{}/", server.addr));
        [flight, http].into_iter().flatten().collect()
    }
}

/// Starts the servers, as `weir run --serve` does beside its pipelines. Both end when `shutdown` completes.
pub async fn start(
    options: ServeOptions,
    warehouse: Arc<Warehouse>,
    metrics: Arc<Metrics>,
    readiness: Arc<dyn Fn() -> Readiness + Send + Sync>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<Servers> {
    let shutdown = shutdown.shared();
    let flight = match options.flight_listen {
        Some(addr) => {
            let (warehouse, metrics) = (Arc::clone(&warehouse), Arc::clone(&metrics));
            Some(flight::serve(addr, warehouse, metrics, options.flight, shutdown.clone()).await?)
        }
        None => None,
    };
    let http = match options.http_listen {
        Some(addr) => Some(http::serve(addr, HttpState { metrics, warehouse, readiness }, shutdown).await?),
        None => None,
    };
    Ok(Servers { flight, http })
}

impl ServeOptions {
    /// Both servers with their configured settings. Errors: a certificate or key that cannot be read.
    pub fn from_config(config: &Config) -> Result<Self> {
        let read = |path: &Path| {
            std::fs::read_to_string(path)
                .context(ErrorKind::Config, || format!("file `{}` cannot be read", path.display()))
        };
        let tls = match (&config.flight.tls_cert, &config.flight.tls_key) {
            (Some(certificate), Some(key)) => {
                Some(TlsIdentity { certificate_pem: read(certificate)?, key_pem: Secret::new(read(key)?) })
            }
            _ => None,
        };
        Ok(Self {
            flight_listen: Some(config.flight.listen),
            flight: FlightOptions { token: config.flight.token.clone(), tls, limits: limits(config) },
            http_listen: Some(config.http.listen),
        })
    }
}

/// The configured warehouse, or the one at `path`, a folder or an object store's URL; with the declarations of `files`.
///
/// Errors: those in the files.
pub async fn open_warehouse(config: &Config, path: Option<&str>, files: &[PathBuf]) -> Result<Arc<Warehouse>, Failure> {
    let env = Env::system()?;
    let memory = config.memory_limit_bytes();
    if files.is_empty() {
        let store = TableStore::open(path.unwrap_or(&config.warehouse), &config.storage, &env)?;
        return Ok(Arc::new(Warehouse::new(Location::of(&store)?, options(config, memory))?));
    }
    let project = Project::complete_from(files, Reach::Anywhere, config, &env).await?;
    Ok(warehouse_of(&project, project.declared(), config, path, &env, QueryMemory::new(memory))?)
}

/// A warehouse with the declarations in `declared`; its queries use `memory`.
pub fn warehouse_of(
    project: &Project,
    declared: Declared,
    config: &Config,
    path: Option<&str>,
    env: &Env,
    memory: QueryMemory,
) -> Result<Arc<Warehouse>> {
    let store = TableStore::open(path.unwrap_or(&config.warehouse), &config.storage, env)?;
    let options = options(config, memory.limit() as u64);
    let warehouse = Warehouse::sharing(Location::of(&store)?, options, memory)?.declaring(declared)?;
    for table in project.catalog.tables.values() {
        let Some(location) = &table.location else { continue };
        let mut storage = config.storage.clone();
        storage.extend(table.storage.clone());
        warehouse.declare(&table.name, Location::of(&TableStore::open(location, &storage, env)?)?);
    }
    Ok(Arc::new(warehouse))
}

/// A process may use 150 MiB above `memory_limit`; at this excess its queries end.
const ABOVE_LIMIT: u64 = 100 << 20;
/// Below this limit the promise does not hold: the program itself needs more.
const LEAST_LIMIT: u64 = 256 << 20;

/// Resident bytes at which queries are ended.
pub fn brake_bytes(config: &Config) -> u64 {
    config.memory_limit_bytes().max(LEAST_LIMIT) + ABOVE_LIMIT
}

fn limits(config: &Config) -> QueryLimits {
    let flight = &config.flight;
    QueryLimits {
        running: flight.max_queries.get(),
        waiting: flight.max_waiting,
        timeout: flight.query_timeout.0,
        idle_timeout: flight.idle_timeout.0,
        connections: flight.max_connections.get(),
        memory_bytes: Some(brake_bytes(config)),
    }
}

fn options(config: &Config, memory: u64) -> WarehouseOptions {
    let memory_limit_bytes = usize::try_from(memory).unwrap_or(usize::MAX);
    WarehouseOptions { memory_limit_bytes, parallelism: Some(config.partitions()), functions: Vec::new() }
}

/// Serves until Ctrl-C or SIGTERM. Prints the addresses to standard error.
pub async fn run(args: Args, config: &Config, printing: &Printing) -> Result<(), Failure> {
    let stop = crate::epoch::Stop::default();
    super::signals::listen(stop.clone(), printing.log.clone())?;
    let warehouse = tokio::select! {
        biased;
        () = stop.wait() => return Ok(()),
        opened = open_warehouse(config, args.warehouse.as_deref(), &args.files) => opened?,
    };
    let mut options = ServeOptions::from_config(config)?;
    options.flight_listen = args.flight_listen.or(options.flight_listen);
    options.http_listen = args.http_listen.or(options.http_listen);
    config.check_exposure(options.flight_listen, options.http_listen)?;
    let interrupted = async move { stop.wait().await };
    let metrics = Arc::new(Metrics::new());
    let servers = start(options, warehouse, metrics, Arc::new(|| Readiness::Ready), interrupted).await?;
    for line in servers.addresses() {
        printing.log.print(format!("{line}\n"));
    }
    Ok(servers.join().await?)
}
