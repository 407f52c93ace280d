//! The ways in which the stub can be a bad server, one at a time, for tests of those who ask it.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::text::mix;

/// What goes wrong, and how often. As JSON it is the body of `POST /misbehave`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Misbehaviour {
    pub mode: Mode,
    /// Of requests that are affected.
    pub probability: f64,
    /// The number of requests that are affected at most; without it, all.
    pub times: Option<u64>,
    /// How much of an answer's body is sent before it is cut, stalls, or becomes garbage. Without it,
    /// a number up to 2,000 that changes with each request.
    pub after_bytes: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    #[default]
    None,
    /// Connections are closed without a word, those that exist and those that come.
    Refuse,
    #[serde(rename = "500")]
    Failing,
    /// Requests are found wrong that are right.
    #[serde(rename = "400")]
    Rejecting,
    #[serde(rename = "429")]
    Limited,
    /// The answer becomes nonsense.
    Garbage,
    /// The connection breaks off.
    Cut,
    /// Nothing more comes, while the connection stays open.
    Stall,
    /// Each token takes a twentieth of a second longer.
    Slow,
}

impl Default for Misbehaviour {
    fn default() -> Misbehaviour {
        Misbehaviour { mode: Mode::None, probability: 1.0, times: None, after_bytes: None }
    }
}

/// What is done to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fate {
    pub mode: Mode,
    pub after_bytes: u64,
}

const AFTER_BYTES_MAX: u64 = 2_000;

/// Draws what becomes of each request.
#[derive(Debug, Default)]
pub(super) struct Fates {
    current: Mutex<Misbehaviour>,
    drawn: AtomicU64,
}

impl Fates {
    pub fn set(&self, misbehaviour: Misbehaviour) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = misbehaviour;
    }

    /// Whether connections are closed as they come, which counts as no request.
    pub fn refuses(&self) -> bool {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.mode == Mode::Refuse && current.probability >= 1.0 && current.times.is_none()
    }

    pub fn draw(&self) -> Fate {
        let drawn = mix(self.drawn.fetch_add(1, Ordering::Relaxed));
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let well = Fate { mode: Mode::None, after_bytes: 0 };
        let share = (drawn >> 11) as f64 / (1_u64 << 53) as f64;
        if current.mode == Mode::None || share >= current.probability {
            return well;
        }
        match &mut current.times {
            Some(0) => return well,
            Some(times) => *times -= 1,
            None => {}
        }
        let after_bytes = current.after_bytes.unwrap_or(mix(drawn) % AFTER_BYTES_MAX);
        Fate { mode: current.mode, after_bytes }
    }
}
