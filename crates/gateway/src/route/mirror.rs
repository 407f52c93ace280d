//! A pool that gets copies of a share of a model's requests, and how it did with them beside the pools
//! that did answer.
//!
//! Knows what became of copies; who sends them is `relay/mirror.rs`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::figures::{Comparison, Did, FiguresView, Side};
use super::verdict::{Bounds, worse};
use super::weighted::Share;
use crate::config::{Canary, Mirror};

/// Copies under way at once.
const COPIES_MAX: usize = 32;
/// Figures are of so many copies, to twice that.
const PERIOD: u64 = 1_000;

pub(crate) struct MirrorTrial {
    model: String,
    config: Mirror,
    share: Share,
    room: Arc<Semaphore>,
    state: Mutex<State>,
}

struct State {
    comparison: Comparison,
    totals: Totals,
}

/// Since the config has it.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    requests: u64,
    failures: u64,
    left_out: u64,
    compared: u64,
    same: u64,
}

/// What the page and the metrics show of a mirror.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MirrorView {
    pub model: String,
    pub pool: String,
    /// Of the model's requests.
    pub share: f64,
    /// What a canary would be, with the model's bounds or the usual ones: `on trial` before it is
    /// judged, `as good`, or `worse`. Nothing follows from it.
    pub verdict: &'static str,
    pub why: String,
    /// Copies that were answered or failed, since the config has the mirror.
    pub requests: u64,
    pub failures: u64,
    /// Copies that were not made for want of room.
    pub left_out: u64,
    /// Answers whose texts could be compared, and those that were equal.
    pub compared_total: u64,
    pub same_total: u64,
    /// The same, and what is below, of the last copies only.
    pub compared: u64,
    pub same: u64,
    /// The mean share of a text in which both are the same, from its beginning on.
    pub agreed_share: Option<f64>,
    /// `usual_`: of the requests that were copied, at the pools that answered the client.
    #[serde(flatten)]
    pub figures: FiguresView,
}

impl MirrorTrial {
    pub(crate) fn new(model: &str, config: &Mirror) -> MirrorTrial {
        MirrorTrial {
            model: model.to_owned(),
            config: config.clone(),
            share: Share::default(),
            room: Arc::new(Semaphore::new(COPIES_MAX)),
            state: Mutex::new(State {
                comparison: Comparison::new(PERIOD),
                totals: Totals::default(),
            }),
        }
    }

    pub(crate) fn config(&self) -> &Mirror {
        &self.config
    }

    /// Whether the next request is to be copied.
    pub(crate) fn hit(&self) -> bool {
        self.share.hit(self.config.share)
    }

    /// Held while a copy is under way.
    pub(crate) fn room(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.room).try_acquire_owned().ok()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy that there was no room for.
    pub(crate) fn left_out(&self) {
        self.lock().totals.left_out += 1;
    }

    /// A copy, or the first try of a request that was copied.
    pub(crate) fn note(&self, side: Side, did: &Did) {
        let mut state = self.lock();
        if side == Side::Candidate {
            state.totals.requests += 1;
            state.totals.failures += u64::from(*did == Did::Failed);
        }
        state.comparison.note(side, did);
    }

    /// Two texts; `agreed` is the share of the longer one in which both are the same.
    pub(crate) fn compared(&self, is_same: bool, agreed: f64) {
        let mut state = self.lock();
        state.totals.compared += 1;
        state.totals.same += u64::from(is_same);
        state.comparison.compared(is_same, agreed);
    }

    /// `canary`: the model's, whose bounds it is held to; the usual ones without it.
    pub(crate) fn view(&self, canary: Option<&Canary>) -> MirrorView {
        let needed = canary.map_or(Canary::REQUESTS_MIN, |canary| canary.requests_min);
        let bounds = Bounds {
            failures_max: canary.map_or(Canary::FAILURES_MAX, |canary| canary.failures_max),
            slower_max: canary.map_or(Canary::SLOWER_MAX, |canary| canary.slower_max),
        };
        let state = self.lock();
        let (lately, totals) = (state.comparison.lately(), state.totals);
        let so_far = lately.candidate.requests;
        let (verdict, why) = match worse(lately, bounds) {
            _ if so_far < u64::from(needed).min(PERIOD) => {
                ("on trial", format!("judged after {needed} copies, {so_far} so far"))
            }
            Some(why) => ("worse", why),
            None => ("as good", format!("by the last {so_far} copies")),
        };
        MirrorView {
            model: self.model.clone(),
            pool: self.config.pool.clone(),
            share: self.config.share,
            verdict,
            why,
            requests: totals.requests,
            failures: totals.failures,
            left_out: totals.left_out,
            compared_total: totals.compared,
            same_total: totals.same,
            compared: lately.agreement.compared,
            same: lately.agreement.same,
            agreed_share: lately.agreement.mean_agreed(),
            figures: FiguresView::of(lately),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_judged_and_nothing_follows() {
        let config = Mirror { pool: "new".to_owned(), model: "chat".to_owned(), share: 0.1 };
        let trial = MirrorTrial::new("chat", &config);
        assert_eq!(trial.view(None).verdict, "on trial");
        for _ in 0..300 {
            trial.note(Side::Candidate, &Did::Failed);
        }
        assert_eq!(trial.view(None).verdict, "worse");
        assert_eq!((0..100).filter(|_| trial.hit()).count(), 10);
        trial.compared(true, 1.0);
        trial.compared(false, 0.5);
        let view = trial.view(None);
        assert_eq!((view.compared, view.same, view.agreed_share), (2, 1, Some(0.75)));
        let rooms: Vec<_> = (0..40).filter_map(|_| trial.room()).collect();
        assert_eq!(rooms.len(), COPIES_MAX);
    }
}
