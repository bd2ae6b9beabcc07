//! The process's configuration: one typed struct, read from `config/weir.yaml`.
//!
//! Owns the keys, their defaults, their checks and the text that documents them ([`Config::documented`], which is the
//! file `config/weir.yaml` itself; a test compares it with [`Config::default`]). Promises that values are valid: sizes are
//! bytes, addresses are addresses, unknown keys are errors. The effect of a value is up to its readers.

mod reference;
mod substitute;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use parquet::basic::{Compression, ZstdLevel};
use serde::Deserialize;

use crate::error::{Context, Error, ErrorKind, Result};

pub use reference::{BadReference, Reference};
pub use value::{ByteSize, Interval, MemoryLimit, Parallelism, Secret, parse_compression};

/// Path of the configuration when none is given, relative to the working directory.
pub const DEFAULT_PATH: &str = "config/weir.yaml";

/// Everything that can be configured for a process.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A folder or the URL of an object store: holds tables without a location, manifests, dead letters, progress.
    pub warehouse: String,
    /// Options for object stores under their own names, as `object_store` spells them.
    pub storage: BTreeMap<String, Secret>,
    /// Memory for rows in flight; beyond it reading pauses, or state spills.
    pub memory_limit: MemoryLimit,
    /// Folder for state that does not fit into its share of `memory_limit`; empty = none.
    pub spill_folder: String,
    /// Plan partitions that run at the same time.
    pub parallelism: Parallelism,
    /// Arrow Flight SQL.
    pub flight: FlightConfig,
    /// Metrics, health, progress.
    pub http: HttpConfig,
    /// Upkeep of the Delta log and of manifests.
    pub maintenance: MaintenanceConfig,
    /// Default settings for writing Delta files.
    pub delta: DeltaConfig,
    /// Logging.
    pub log: LogConfig,
    /// Default settings of Kafka clients.
    pub kafka: KafkaConfig,
}

/// The Flight SQL server.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlightConfig {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// The bearer token that clients must send; `None` = no login. An empty one is refused.
    #[serde(deserialize_with = "value::token")]
    pub token: Option<Secret>,
    /// PEM file; given together with `tls_key` or not at all.
    #[serde(deserialize_with = "value::path")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file; given together with `tls_cert` or not at all.
    #[serde(deserialize_with = "value::path")]
    pub tls_key: Option<PathBuf>,
    /// Serves the network without login or encryption.
    pub insecure: bool,
    /// Queries that run at a time.
    pub max_queries: NonZeroUsize,
    /// Queries that wait for their turn; more are refused.
    pub max_waiting: usize,
    /// Connections at a time; more are refused.
    pub max_connections: NonZeroUsize,
    /// The longest time that a query may wait, be planned, run and have its rows read.
    pub query_timeout: Interval,
    /// The longest time that a client may leave ready rows unread.
    pub idle_timeout: Interval,
}

/// The HTTP server for metrics and health.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Serves the network, without login and encryption: HTTP has neither.
    pub insecure: bool,
    /// The longest silence of a source's brokers at which `/health/ready` still answers 200.
    pub max_source_silence: Interval,
}

/// Upkeep that runs beside the commits.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaintenanceConfig {
    /// Commits to a table between two log checkpoints; at least 1.
    pub checkpoint_every_commits: u64,
    /// `true` if log entries beyond the table's retention are deleted after a checkpoint.
    pub log_cleanup: bool,
    /// `true` if files that upserts have replaced are deleted once the table's retention is over.
    pub remove_expired_files: bool,
    /// Newest manifests kept per pipeline; at least 2, because epoch N-1's is needed until every sink has N.
    pub keep_manifests: u64,
}

/// Settings for writing Delta files.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeltaConfig {
    /// A writer begins a new file beyond this size.
    pub target_file_size: ByteSize,
    /// Parquet compression with its level.
    #[serde(deserialize_with = "value::compression")]
    pub compression: Compression,
}

/// Format and level of the log.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Text for people or JSON for machines.
    pub format: LogFormat,
    /// A level or a filter in `RUST_LOG`'s syntax.
    pub level: String,
}

/// Text for people or JSON for machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Settings of Kafka clients; `None` = the source's default.
#[derive(Debug, Clone, PartialEq, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaConfig {
    /// librdkafka's `fetch.wait.max.ms`.
    pub fetch_wait_ms: Option<u32>,
    /// librdkafka's `queued.max.messages.kbytes`, in bytes, for a whole source.
    pub queued_bytes: Option<ByteSize>,
}

impl KafkaConfig {
    /// The properties that were set, under librdkafka's names; a source's own `properties.*` override them.
    pub fn properties(&self) -> Vec<(&'static str, String)> {
        let wait = self.fetch_wait_ms.map(|ms| ("fetch.wait.max.ms", ms.to_string()));
        let queue = self.queued_bytes.map(|size| ("queued.max.messages.kbytes", size.0.div_ceil(1024).to_string()));
        wait.into_iter().chain(queue).collect()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            warehouse: "./warehouse".to_owned(),
            storage: BTreeMap::new(),
            memory_limit: MemoryLimit::Percent(60),
            spill_folder: "/tmp/weir-spill".to_owned(),
            parallelism: Parallelism::Auto,
            flight: FlightConfig::default(),
            http: HttpConfig::default(),
            maintenance: MaintenanceConfig::default(),
            delta: DeltaConfig::default(),
            log: LogConfig::default(),
            kafka: KafkaConfig::default(),
        }
    }
}

impl Default for FlightConfig {
    fn default() -> Self {
        const fn count(count: usize) -> NonZeroUsize {
            NonZeroUsize::MIN.saturating_add(count - 1)
        }
        Self {
            listen: loopback(50051),
            token: None,
            tls_cert: None,
            tls_key: None,
            insecure: false,
            max_queries: count(8),
            max_waiting: 100,
            max_connections: count(1_000),
            query_timeout: Interval::from_secs(300),
            idle_timeout: Interval::from_secs(60),
        }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { listen: loopback(9090), insecure: false, max_source_silence: Interval::from_secs(30) }
    }
}

impl Default for MaintenanceConfig {
    fn default() -> Self {
        Self { checkpoint_every_commits: 50, log_cleanup: true, remove_expired_files: true, keep_manifests: 100 }
    }
}

impl Default for DeltaConfig {
    fn default() -> Self {
        Self { target_file_size: ByteSize(128 << 20), compression: Compression::ZSTD(ZstdLevel::default()) }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Auto, level: "info".to_owned() }
    }
}

impl Config {
    /// Reads the file at `path`; without a path, [`DEFAULT_PATH`] if it exists, else the defaults.
    ///
    /// Errors are of kind `Config` and name the file, the line and, for a mistyped key, the likely one.
    pub fn load(path: Option<&Path>) -> Result<Self> {
        let path = match path {
            Some(path) => path,
            None if Path::new(DEFAULT_PATH).exists() => Path::new(DEFAULT_PATH),
            None => return Ok(Self::default()),
        };
        let text = std::fs::read_to_string(path)
            .context(ErrorKind::Config, || format!("cannot read the configuration `{}`", path.display()))?;
        Self::parse(&text, &path.display().to_string(), &|name| std::env::var(name).ok())
    }

    /// The commented configuration file with every key at its default.
    pub fn documented() -> &'static str {
        include_str!("../config/weir.yaml")
    }

    /// [`Config::memory_limit`] in bytes on this machine.
    pub fn memory_limit_bytes(&self) -> u64 {
        self.memory_limit.bytes()
    }

    /// [`Config::parallelism`] on this machine; never 0.
    pub fn partitions(&self) -> usize {
        match self.parallelism {
            Parallelism::Auto => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            Parallelism::Count(count) => count.get(),
        }
    }

    /// Reads `text`; `origin` is the file's name for errors, `environment` looks variables up.
    fn parse(text: &str, origin: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let text = substitute::substitute(text, environment).map_err(|(line, error)| locate(&error, origin, line))?;
        let empty = serde_yaml::from_str::<serde_yaml::Value>(&text).is_ok_and(|value| value.is_null());
        let config: Self = if empty {
            Self::default()
        } else {
            serde_yaml::from_str(&text).map_err(|error| explain(&error, origin))?
        };
        config.check().map_err(|error| Error::config(format!("{} in `{origin}`", error.message())))?;
        Ok(config)
    }

    /// Checks that these addresses may be served as configured. Loopback always may; the network only with login and
    /// encryption, or with `insecure`.
    ///
    /// Errors: of kind `Config`, naming the key.
    pub fn check_exposure(&self, flight: Option<SocketAddr>, http: Option<SocketAddr>) -> Result<()> {
        let network = |addr: Option<SocketAddr>| addr.filter(|addr| !addr.ip().is_loopback());
        let missing = match (&self.flight.token, &self.flight.tls_cert) {
            (Some(_), Some(_)) => None,
            (None, Some(_)) => Some("without a login"),
            (Some(_), None) => Some("without encryption, so that anyone on the way can read the token"),
            (None, None) => Some("without login and encryption"),
        };
        if let (Some(addr), Some(missing), false) = (network(flight), missing, self.flight.insecure) {
            return Err(Error::config(format!("Flight SQL would serve the network at `{addr}` {missing}")).with_hint(
                "Set `flight.token`, `flight.tls_cert` and `flight.tls_key`, or listen at 127.0.0.1; `flight.insecure: true` \
                 if something else protects the port.",
            ));
        }
        if let (Some(addr), false) = (network(http), self.http.insecure) {
            return Err(Error::config(format!("HTTP would serve the network at `{addr}`"))
                .with_detail("Metrics, health and progress have neither login nor encryption.")
                .with_hint("Listen at 127.0.0.1, or set `http.insecure: true` if something else protects the port."));
        }
        Ok(())
    }

    /// Checks that involve several values.
    fn check(&self) -> Result<()> {
        if self.flight.tls_cert.is_some() != self.flight.tls_key.is_some() {
            return Err(Error::config("`flight.tls_cert` and `flight.tls_key` must be given together"));
        }
        if self.maintenance.checkpoint_every_commits == 0 {
            return Err(Error::config("`maintenance.checkpoint_every_commits` must be at least 1"));
        }
        if self.maintenance.keep_manifests < 2 {
            return Err(Error::config("`maintenance.keep_manifests` must be at least 2"));
        }
        if self.warehouse.trim().is_empty() {
            return Err(Error::config("`warehouse` is empty"));
        }
        Ok(())
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Prefixes the error's message with the location.
fn locate(error: &Error, origin: &str, line: usize) -> Error {
    let located = Error::config(format!("{} in `{origin}`, line {line}", error.message()));
    match error.hint() {
        Some(hint) => located.with_hint(hint),
        None => located,
    }
}

/// A YAML error in our words: location first; with a suggestion if a key is nearly right.
fn explain(error: &serde_yaml::Error, origin: &str) -> Error {
    let text = error.to_string();
    let (what, line) = match (error.location(), text.rsplit_once(" at line ")) {
        (Some(location), Some((what, _))) => (what, Some(location.line())),
        (Some(location), None) => (text.as_str(), Some(location.line())),
        _ => (text.as_str(), None),
    };
    let explained = match line {
        Some(line) => Error::config(format!("{what} in `{origin}`, line {line}")),
        None => Error::config(format!("{what} in `{origin}`")),
    };
    match suggestion(what) {
        Some(known) => explained.with_hint(format!("Did you mean `{known}`?")),
        None => explained.with_hint("`weir config` prints every key with its meaning."),
    }
}

/// The expected name that is nearest to the given one, from serde's ``unknown field `x`, expected one of `a`, `b` ``.
fn suggestion(what: &str) -> Option<&str> {
    let (_, rest) = what.split_once("unknown field ").or_else(|| what.split_once("unknown variant "))?;
    let mut quoted = rest.split('`').skip(1).step_by(2);
    let given = quoted.next()?;
    let distance = |known: &str| strsim::damerau_levenshtein(given, known);
    let nearest = quoted.min_by_key(|known| distance(known))?;
    (distance(nearest) <= nearest.len().max(given.len()) / 3 + 1).then_some(nearest)
}
