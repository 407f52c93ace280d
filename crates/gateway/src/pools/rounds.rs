//! Asks backends how they are, again and again, for as long as they are in the config.
//!
//! Knows what an answer means; what follows from it is counted in `health.rs`.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::StatusCode;
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Pools;
use super::backend::Backend;
use super::client::with_causes;
use super::health::{Condition, Finding};
use crate::config::Continues;

const VERSION_BYTES_MAX: usize = 64 << 10;

/// What a server of ours says of itself.
#[derive(Deserialize)]
struct Version {
    #[serde(default)]
    name: String,
}

/// Probes everything; begins anew whenever the config has changed.
pub(super) async fn probe_all(pools: Arc<Pools>) {
    let mut tables = pools.tables();
    loop {
        let table = Arc::clone(&tables.borrow_and_update());
        let mut probes = JoinSet::new();
        for pool in &table.pools {
            for backend in pool.backends() {
                probes.spawn(probe(pool.name().to_owned(), Arc::clone(backend)));
            }
        }
        // Dropping the set at the end of the loop stops all of them.
        if tables.changed().await.is_err() {
            return;
        }
    }
}

async fn probe(pool: String, backend: Arc<Backend>) {
    let health = backend.health();
    let pause = || health.interval.mul_f64(0.9 + 0.2 * fastrand::f64());
    // One that is known already is not asked all over again at each change of the config.
    if backend.vitals().condition() != Condition::Unknown {
        sleep(pause()).await;
    }
    let mut was_well = None;
    loop {
        if let Err(error) = backend.client().refresh() {
            let error = with_causes(&error);
            tracing::warn!(target: "fungible::gateway", pool, backend = backend.name(), error,
                "the certificate to show cannot be read anew; the one before stays in use");
        }
        if !health.path.is_empty() {
            let finding = ask(&backend).await;
            backend.vitals().found(finding, health);
            let condition = backend.vitals().condition();
            let is_well = matches!(condition, Condition::Well);
            if was_well != Some(is_well) {
                tell(&pool, &backend, &condition);
                was_well = Some(is_well);
            }
        }
        if backend.config().continues == Continues::Ask && backend.vitals().continues().is_none() {
            find_out_how_it_continues(&backend).await;
        }
        // A breaker's time may be over as well.
        backend.offer();
        sleep(pause()).await;
    }
}

fn tell(pool: &str, backend: &Backend, condition: &Condition) {
    let name = backend.name();
    match condition {
        Condition::Ill(why) => {
            tracing::warn!(target: "fungible::gateway", pool, backend = name, why, "a backend is ill");
        }
        Condition::Draining => {
            tracing::info!(target: "fungible::gateway", pool, backend = name, "a backend drains");
        }
        Condition::Unknown | Condition::Well => {
            tracing::info!(target: "fungible::gateway", pool, backend = name, "a backend is well");
        }
    }
}

/// One probe.
async fn ask(backend: &Backend) -> Finding {
    let health = backend.health();
    let (config, path) = (backend.config(), &health.path);
    let key = config.api_key.as_ref();
    let answer = backend
        .client()
        .get(&config.name, key, backend.secrets(), path, health.timeout)
        .await
        .map(|response| response.status());
    match answer {
        // Too many requests is no illness.
        Ok(status) if status.is_success() || status == StatusCode::TOO_MANY_REQUESTS => {
            Finding::Well
        }
        Ok(StatusCode::SERVICE_UNAVAILABLE) => Finding::Draining,
        Ok(StatusCode::NOT_FOUND) => Finding::Ill(format!(
            "it has no page {path}; set `health.path` to one it has, or to \"\" for no probes"
        )),
        Ok(status) => Finding::Ill(format!("{path} answers {}", status.as_u16())),
        Err(why) => Finding::Ill(why),
    }
}

async fn find_out_how_it_continues(backend: &Backend) {
    let config = backend.config();
    let limit = backend.health().timeout;
    let key = config.api_key.as_ref();
    let version =
        backend.client().get(&config.name, key, backend.secrets(), "/version", limit).await;
    // Who cannot be reached is asked again.
    let Ok(response) = version else { return };
    // Nor is a server that is still starting, or a proxy without one behind it, believed.
    if response.status().is_server_error() {
        return;
    }
    let is_ours = response.status().is_success() && read_name(response, limit).await == "fungible";
    let continues = if is_ours { Continues::Tokens } else { Continues::Text };
    backend.vitals().set_continues(continues);
}

async fn read_name(response: hyper::Response<hyper::body::Incoming>, limit: Duration) -> String {
    let body = Limited::new(response.into_body(), VERSION_BYTES_MAX).collect();
    let Ok(Ok(body)) = timeout(limit, body).await else { return String::new() };
    serde_json::from_slice::<Version>(&body.to_bytes()).map(|it| it.name).unwrap_or_default()
}
