//! Every backend asked once, for those who want to know before anything is served: is it there, does it
//! know its models, how does it continue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Limited};
use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use super::{Backend, Pools, price};

/// How long a backend may take to answer.
const LIMIT: Duration = Duration::from_secs(5);
const BODY_BYTES_MAX: usize = 4 << 20;

/// What one backend said.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Probe {
    pub pool: String,
    pub provider: String,
    pub chip: String,
    pub chips: u32,
    pub price: String,
    pub backend: String,
    pub url: String,
    /// Of `/v1/models`, whose answer takes the backend no work.
    pub answered_milliseconds: Option<f64>,
    pub models: Vec<String>,
    /// Names that the config's models have there and that it does not list.
    pub missing: Vec<String>,
    /// Why it cannot be used; nothing if it can.
    pub problem: Option<String>,
}

#[derive(Deserialize)]
struct Models {
    data: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

impl Pools {
    /// Asks all backends at once, each for a few seconds at most; in the order of the config.
    pub async fn probe(&self) -> Vec<Probe> {
        let table = self.table();
        let mut asking = Vec::new();
        for pool in &table.pools {
            let config = pool.config();
            // What the config's models are called there.
            let mut wanted: Vec<Arc<str>> = Vec::new();
            for member in table.entries.iter().flat_map(|entry| entry.members.iter()) {
                if member.pool.name() == pool.name() && !wanted.contains(&member.model_name) {
                    wanted.push(Arc::clone(&member.model_name));
                }
            }
            for backend in pool.backends() {
                let probe = Probe {
                    pool: config.name.clone(),
                    provider: config.provider.clone(),
                    chip: config.chip.clone(),
                    chips: config.chips,
                    price: price::text(&pool.price()),
                    backend: backend.name().to_owned(),
                    url: backend.url().to_owned(),
                    answered_milliseconds: None,
                    models: Vec::new(),
                    missing: Vec::new(),
                    problem: None,
                };
                asking.push(tokio::spawn(ask(Arc::clone(backend), wanted.clone(), probe)));
            }
        }
        let mut probes = Vec::new();
        for asked in asking {
            // A probe does not panic, and nobody aborts it.
            probes.extend(asked.await.ok());
        }
        probes
    }
}

async fn ask(backend: Arc<Backend>, wanted: Vec<Arc<str>>, mut probe: Probe) -> Probe {
    let begun = Instant::now();
    match models(&backend).await {
        Ok(models) => {
            probe.answered_milliseconds = Some(begun.elapsed().as_secs_f64() * 1e3);
            let is_listed = |name: &str| models.iter().any(|model| model == name);
            let missing = wanted.iter().filter(|name| !is_listed(name));
            probe.missing = missing.map(|name| name.to_string()).collect();
            probe.models = models;
        }
        Err(problem) => probe.problem = Some(problem),
    }
    probe
}

async fn models(backend: &Backend) -> Result<Vec<String>, String> {
    let key = backend.config().api_key.as_ref();
    let client = backend.client();
    let answer = client.get(backend.name(), key, backend.secrets(), "/v1/models", LIMIT).await?;
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            return Err(format!("it refuses our key ({})", answer.status().as_u16()));
        }
        status => return Err(format!("it answers /v1/models with status {}", status.as_u16())),
    }
    let body = Limited::new(answer.into_body(), BODY_BYTES_MAX);
    let body = tokio::time::timeout(LIMIT, body.collect()).await;
    let body = body.map_err(|_| "its list of models does not come to an end".to_owned())?;
    let body = body.map_err(|error| format!("its list of models broke off: {error}"))?;
    let models: Models = serde_json::from_slice(&body.to_bytes())
        .map_err(|_| "what it says at /v1/models is no list of models".to_owned())?;
    Ok(models.data.into_iter().map(|model| model.id).collect())
}
