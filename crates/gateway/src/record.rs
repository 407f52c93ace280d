//! What is written down of a request: who asked what of whom, how long it took, what it cost. Never
//! its text.

use serde::{Deserialize, Serialize};

use crate::money::Money;

/// One request, from its arrival to its end. One is written for every request that was accepted, also
/// for those that failed; what was refused is only counted.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Record {
    /// The answer's `x-request-id` and a number that makes it unique.
    pub id: String,
    /// Milliseconds since 1970 at its arrival, by the system's clock.
    pub time_milliseconds: i64,
    pub tenant: String,
    /// Which of the tenant's keys: its public name, never the key.
    pub key: String,
    /// As the tenant called it.
    pub model: String,
    /// `/v1/chat/completions` and so on.
    pub path: String,
    /// The pool that finished the answer; empty if none did.
    pub pool: String,
    pub backend: String,
    /// What the client was told: HTTP's status, 499 for a client that left.
    pub status: u16,
    pub outcome: Outcome,
    pub streamed: bool,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    /// Of the prompt's.
    pub cached_tokens: u64,
    /// Whether a backend counted the tokens, or the gateway had to estimate.
    pub tokens_estimated: bool,
    pub duration_milliseconds: u64,
    /// Until the first byte of the answer's body.
    pub first_byte_milliseconds: Option<u64>,
    /// Backends that were asked, the last one included.
    pub attempts: u32,
    /// How often the answer went on at another backend after bytes had been sent.
    pub continuations: u32,
    pub cost: Money,
    /// What the same tokens would have cost at the dearest healthy pool of the model, less `cost`.
    pub saved: Money,
    /// Estimated from the pool's power and the share of its throughput; nothing if that is unknown.
    pub energy_joules: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Answered in full, an error of the request's own making included.
    #[default]
    Complete,
    /// Refused by the gateway: a limit, a budget, no room.
    Refused,
    /// No backend could answer, or the answer broke off.
    Failed,
    /// The client left before the end.
    Left,
}

impl Outcome {
    pub const ALL: [Outcome; 4] =
        [Outcome::Complete, Outcome::Refused, Outcome::Failed, Outcome::Left];

    pub fn name(self) -> &'static str {
        match self {
            Outcome::Complete => "complete",
            Outcome::Refused => "refused",
            Outcome::Failed => "failed",
            Outcome::Left => "left",
        }
    }

    pub fn from_name(name: &str) -> Option<Outcome> {
        Outcome::ALL.into_iter().find(|outcome| outcome.name() == name)
    }
}
