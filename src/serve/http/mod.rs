//! Metrics, health, progress and the dashboard, over plain HTTP.
//!
//! | path | answer |
//! |---|---|
//! | `/` | the dashboard: one page without external resources |
//! | `/metrics` | Prometheus text |
//! | `/health/live` | 200 as long as the process answers |
//! | `/health/ready` | 200 when pipelines run and commit, else 503 and why |
//! | `/progress?limit=120` | the last epochs of every pipeline as JSON |

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Value, json};

use super::warehouse::Warehouse;
use super::warehouse::progress::{last_epochs, pipelines};
use super::{BoundServer, bind, serve_until};
use crate::error::Result;
use crate::metrics::Metrics;

const DASHBOARD: &str = include_str!("dashboard.html");

/// Number of epochs that `/progress` returns, by default and at most.
const DEFAULT_EPOCHS: usize = 120;
const MAX_EPOCHS: usize = 5_000;

/// Readiness of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    /// Not ready (yet), with the reason in one line.
    NotReady(String),
}

/// Everything that the pages show.
#[derive(Clone)]
pub struct HttpState {
    pub metrics: Arc<Metrics>,
    pub warehouse: Arc<Warehouse>,
    /// Called for every `/health/ready`; must not block.
    pub readiness: Arc<dyn Fn() -> Readiness + Send + Sync>,
}

/// Listens at `addr` (port 0: any free one) until `shutdown` completes.
pub async fn serve(
    addr: SocketAddr,
    state: HttpState,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<BoundServer> {
    let (listener, addr) = bind(addr, "HTTP").await?;
    let router = Router::new()
        .route("/", get(async || Html(DASHBOARD)))
        .route("/metrics", get(metrics))
        .route("/health/live", get(async || "live\n"))
        .route("/health/ready", get(ready))
        .route("/progress", get(progress))
        .with_state(state);
    let task = tokio::spawn(serve_until(shutdown, async move |stop: super::Signal| {
        axum::serve(listener, router).with_graceful_shutdown(stop.wait()).await
    }));
    Ok(BoundServer { addr, task })
}

async fn metrics(State(state): State<HttpState>) -> impl IntoResponse {
    state.metrics.memory_reserved_bytes.with(["queries"]).set(state.warehouse.memory_reserved_bytes() as f64);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], state.metrics.render())
}

async fn ready(State(state): State<HttpState>) -> (StatusCode, String) {
    match (state.readiness)() {
        Readiness::Ready => (StatusCode::OK, "ready\n".to_owned()),
        Readiness::NotReady(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
    }
}

#[derive(Debug, Deserialize)]
struct ProgressQuery {
    limit: Option<usize>,
    pipeline: Option<String>,
}

/// `{"pipelines": [{"name": …, "epochs": [oldest … newest]}]}`; epochs have the form in which `epoch` wrote them.
async fn progress(State(state): State<HttpState>, Query(query): Query<ProgressQuery>) -> Response {
    let limit = query.limit.unwrap_or(DEFAULT_EPOCHS).min(MAX_EPOCHS);
    match read_progress(&state.warehouse, limit, query.pipeline.as_deref()).await {
        Ok(pipelines) => axum::Json(json!({ "pipelines": pipelines })).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

async fn read_progress(warehouse: &Warehouse, limit: usize, only: Option<&str>) -> Result<Vec<Value>> {
    let mut answer = Vec::new();
    for pipeline in pipelines(warehouse.location()).await? {
        if only.is_none_or(|only| only == pipeline.name) {
            let epochs = last_epochs(&pipeline, limit).await?;
            answer.push(json!({ "name": pipeline.name, "epochs": epochs }));
        }
    }
    Ok(answer)
}
