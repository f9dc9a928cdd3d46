//! The HTTP port: `/metrics`, `/livez`, `/readyz`.
//!
//! A router only: who starts the broker binds the socket and serves it, so that this
//! crate stays free of sockets outside its host.

use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::broker::Broker;
use crate::host::Host;

/// The media type of Prometheus' OpenMetrics text.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The routes over a running broker.
pub fn router<H: Host>(broker: Arc<Broker<H>>) -> Router {
    let of_metrics = broker.clone();
    let of_ready = broker;
    Router::new()
        .route(
            "/metrics",
            get(move || async move { ([(header::CONTENT_TYPE, METRICS_TYPE)], of_metrics.render_metrics()) }),
        )
        // Answering at all is being alive.
        .route("/livez", get(|| async { "live\n" }))
        .route(
            "/readyz",
            get(move || async move {
                match of_ready.not_ready_because() {
                    None => (StatusCode::OK, "ready\n".to_owned()).into_response(),
                    Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
                }
            }),
        )
}
