//! Flight SQL and HTTP beside running pipelines.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::Printing;
use super::project::Project;
use super::serve::{ServeOptions, Servers, start, warehouse_of};
use crate::config::Config;
use crate::epoch::{Stop, Surroundings};
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::serve::http::Readiness;

/// The servers of a process that also runs pipelines.
pub struct Server {
    pub flight: SocketAddr,
    pub http: SocketAddr,
    servers: Servers,
    stop: Stop,
}

impl Server {
    /// Serves the warehouse and every declared table at the configured addresses.
    pub async fn start(
        config: &Config,
        around: &Surroundings,
        project: &Project,
        metrics: Arc<Metrics>,
    ) -> Result<Self> {
        let options = ServeOptions::from_config(config)?;
        config.check_exposure(options.flight_listen, options.http_listen)?;
        Self::start_at(options, config, around, project, metrics).await
    }

    /// As [`Server::start`], at free ports if the configured ones are taken.
    pub async fn start_anywhere(
        config: &Config,
        around: &Surroundings,
        project: &Project,
        metrics: Arc<Metrics>,
    ) -> Result<Self> {
        let mut options = ServeOptions::from_config(config)?;
        let free = |wanted: SocketAddr| match std::net::TcpListener::bind(wanted) {
            Ok(_) => wanted,
            Err(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        };
        options.flight_listen = options.flight_listen.map(free);
        options.http_listen = options.http_listen.map(free);
        config.check_exposure(options.flight_listen, options.http_listen)?;
        Self::start_at(options, config, around, project, metrics).await
    }

    async fn start_at(
        options: ServeOptions,
        config: &Config,
        around: &Surroundings,
        project: &Project,
        metrics: Arc<Metrics>,
    ) -> Result<Self> {
        // The queries' share of the memory limit, so that they cannot starve the pipelines.
        let memory = around.limits.pool.queries();
        let warehouse = warehouse_of(project, project.declared(), config, None, &around.env, memory)?;
        let stop = Stop::default();
        let stopped = stop.clone();
        let ready = Arc::new(readiness(Arc::clone(&metrics), config.http.max_source_silence.0));
        let servers = start(options, warehouse, metrics, ready, async move { stopped.wait().await }).await?;
        let (Some(flight), Some(http)) = (&servers.flight, &servers.http) else {
            return Err(Error::internal("a server was not started"));
        };
        Ok(Self { flight: flight.addr, http: http.addr, servers, stop })
    }

    /// Logs the addresses of the servers.
    pub fn announce(&self, printing: &Printing) {
        if printing.json {
            tracing::info!(flight = %self.flight, http = %self.http, "serving");
        } else {
            for line in self.servers.addresses() {
                printing.log.print(format!("{line}\n"));
            }
        }
    }

    /// Ends the servers; waits at most 1.5 s for open queries.
    pub async fn stop(self) {
        self.stop.now();
        let ended = tokio::time::timeout(std::time::Duration::from_millis(1_500), self.servers.join()).await;
        if let Ok(Err(error)) = ended {
            tracing::warn!(%error, "a server ended with an error");
        }
    }
}

/// Ready while the brokers of every source have answered within `most`.
fn readiness(metrics: Arc<Metrics>, most: Duration) -> impl Fn() -> Readiness + Send + Sync {
    move || {
        let silent =
            metrics.sources.silent_seconds.all().into_iter().find(|(_, seconds)| seconds.get() > most.as_secs_f64());
        match silent {
            None => Readiness::Ready,
            Some(([pipeline, source], seconds)) => Readiness::NotReady(format!(
                "the brokers of source `{source}` of pipeline `{pipeline}` have not answered for {:.0} s",
                seconds.get()
            )),
        }
    }
}
