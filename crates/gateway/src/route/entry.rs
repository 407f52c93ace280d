//! A public name at run time: the pools behind it, those on trial beside them, and what its traffic has
//! shown.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::canary::CanaryTrial;
use super::figures::{Did, Side, Time};
use super::memory::Memory;
use super::mirror::MirrorTrial;
use crate::config::ModelConfig;
use crate::pools::Pool;
use crate::pools::lease::{Fault, Served};

pub(crate) struct Entry {
    pub(crate) model: Arc<ModelConfig>,
    /// Those that the policy chooses among.
    pub(crate) members: Vec<Member>,
    pub(crate) mirror: Option<OnTrial<MirrorTrial>>,
    pub(crate) canary: Option<OnTrial<CanaryTrial>>,
    pub(crate) memory: Arc<Memory>,
}

/// A pool behind a model.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) pool: Arc<Pool>,
    /// What the model is called there.
    pub(crate) model_name: Arc<str>,
    pub(crate) weight: f64,
}

/// A pool that is not trusted yet, and what is known of it.
pub(crate) struct OnTrial<T> {
    pub(crate) member: Member,
    pub(crate) trial: Arc<T>,
}

/// What a lease is for, so that its outcome is told to whom it concerns.
#[derive(Default)]
pub(crate) struct Purpose {
    /// Nothing for copies: what they show is not the clients' experience.
    pub(crate) memory: Option<Arc<Memory>>,
    pub(crate) canary: Option<(Arc<CanaryTrial>, Side)>,
    pub(crate) mirror: Option<(Arc<MirrorTrial>, Side)>,
    /// Its backend is of a pool that is not trusted yet.
    pub(crate) is_on_trial: bool,
    /// A copy's room among all copies.
    pub(crate) _room: Option<OwnedSemaphorePermit>,
}

impl Purpose {
    pub(crate) fn succeeded(
        &self,
        pool: &Pool,
        served: &Served,
        first: Option<Duration>,
        whole: Duration,
        now: Instant,
    ) {
        if let Some(memory) = &self.memory {
            memory.served(served, first.is_some(), whole, now);
        }
        if self.canary.is_none() && self.mirror.is_none() {
            return;
        }
        let (prompt, completion) = (served.prompt_tokens, served.completion_tokens);
        let each = |time: Duration, tokens: u64| time.div_f64(tokens.max(1) as f64);
        let time = match first {
            Some(ttft) => {
                let tpot = served.generation.filter(|_| completion > 1);
                Time::Stream { ttft, tpot: tpot.map(|time| each(time, completion - 1)) }
            }
            None => Time::Whole { per_token: each(whole, completion) },
        };
        let cost = pool.known_cost(prompt, served.cached_tokens, completion);
        self.tell(&Did::Served { time, tokens: prompt + completion, cost });
    }

    pub(crate) fn failed(&self, fault: &Fault) {
        // Who has too much to do is not ill.
        if !matches!(fault, Fault::RateLimited(_)) {
            self.tell(&Did::Failed);
        }
    }

    /// The backend finds the request wrong. One that others find right fails here, which is seen when
    /// the shares of both sides are compared.
    pub(crate) fn refused(&self) {
        self.tell(&Did::Failed);
    }

    fn tell(&self, did: &Did) {
        if let Some((trial, side)) = &self.canary {
            trial.note(*side, did);
        }
        if let Some((trial, side)) = &self.mirror {
            trial.note(*side, did);
        }
    }
}
