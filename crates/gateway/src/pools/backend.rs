//! One server: its config, its client, and what is known of it. A slot is the right to have one
//! request there.

use std::sync::Arc;

use tokio::time::Instant;

use super::client::{Client, ClientError};
use super::vitals::Vitals;
use super::waiting::Waiting;
use crate::config::{BackendConfig, BreakerConfig, Continues, HealthConfig};
use crate::secrets::Secrets;

pub struct Backend {
    config: BackendConfig,
    breaker: BreakerConfig,
    health: HealthConfig,
    client: Arc<Client>,
    vitals: Arc<Vitals>,
    secrets: Arc<Secrets>,
    waiting: Arc<Waiting>,
}

impl Backend {
    /// `before` is the same backend under the config until now.
    pub(super) fn new(
        config: &BackendConfig,
        breaker: &BreakerConfig,
        health: &HealthConfig,
        secrets: &Arc<Secrets>,
        waiting: &Arc<Waiting>,
        before: Option<&Arc<Backend>>,
    ) -> Result<Backend, ClientError> {
        let before = before.filter(|before| before.config.url == config.url);
        let same_tls = before.filter(|before| {
            before.config.authority == config.authority
                && before.config.certificate == config.certificate
        });
        Ok(Backend {
            config: config.clone(),
            breaker: breaker.clone(),
            health: health.clone(),
            client: match same_tls {
                Some(before) => Arc::clone(&before.client),
                None => Arc::new(Client::new(config)?),
            },
            vitals: before.map_or_else(Arc::default, |before| Arc::clone(&before.vitals)),
            secrets: Arc::clone(secrets),
            waiting: Arc::clone(waiting),
        })
    }

    pub fn name(&self) -> &str {
        &self.config.name
    }

    pub fn url(&self) -> &str {
        &self.config.url
    }

    /// How an answer that broke off elsewhere can go on here; `Ask` only before it was ever reached.
    pub fn continues(&self) -> Continues {
        match self.config.continues {
            Continues::Ask => self.vitals.continues().unwrap_or(Continues::Ask),
            told => told,
        }
    }

    /// Resolves when its probes find it ill: what waits for its answer may ask elsewhere. (An open
    /// breaker says nothing about answers that are under way, and a trial runs while it is open.)
    pub async fn until_ill(&self) {
        self.vitals.until_ill().await;
    }

    /// What is free here goes to those who wait for it.
    pub(super) fn offer(self: &Arc<Backend>) {
        self.waiting.offer(self);
    }

    pub(crate) fn config(&self) -> &BackendConfig {
        &self.config
    }

    pub(crate) fn breaker(&self) -> &BreakerConfig {
        &self.breaker
    }

    pub(crate) fn health(&self) -> &HealthConfig {
        &self.health
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn vitals(&self) -> &Arc<Vitals> {
        &self.vitals
    }

    pub(super) fn secrets(&self) -> &Secrets {
        &self.secrets
    }
}

/// The right to one request at a backend; given back, and offered to who waits, when dropped.
pub(crate) struct Slot {
    backend: Arc<Backend>,
    /// Nothing once it is known what became of it.
    untold_trial: bool,
}

impl Slot {
    pub(super) fn take(backend: &Arc<Backend>) -> Option<Slot> {
        let untold_trial = backend.vitals.take(&backend.config, Instant::now())?;
        Some(Slot { backend: Arc::clone(backend), untold_trial })
    }

    pub(crate) fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// Whether this is the one request that tries a half-open breaker; asked when its outcome is
    /// told, and then no more.
    pub(super) fn settle_trial(&mut self) -> bool {
        std::mem::take(&mut self.untold_trial)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.backend.vitals.release(self.untold_trial, Instant::now());
        self.backend.offer();
    }
}
