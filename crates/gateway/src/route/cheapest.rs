//! The least money among the pools that keep the objectives, without flapping.
//!
//! Two things are decided apart from each other, by what was measured since the last look:
//!
//! - **The order by cost** changes when another pool has been cheaper by [`MARGIN`] for [`HOLD`]: prices that
//!   wobble around each other move nothing, and caches of prompts stay where they are.
//! - **How much each pool is given** follows its times, as TCP's senders follow losses: a pool that misses an
//!   objective gets a part less, one that keeps it with room to spare a little more (additive increase,
//!   multiplicative decrease). So one that is too slow for all of the traffic keeps what it can do, one
//!   that is too slow for any keeps [`SHARE_MIN`], by which it is seen to recover, and what it does not get
//!   goes to the next by cost.
//!
//! Knows names, costs and times; neither backends nor requests.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::money::Money;
use crate::pools::vitals::Means;

/// Another pool must be cheaper by this share,
pub(crate) const MARGIN: f64 = 0.05;
/// and for so long.
pub(crate) const HOLD: Duration = Duration::from_secs(10);
/// Shares are looked at so often,
const LOOK: Duration = Duration::from_secs(1);
/// and lowered so often at most: times are averages over some seconds and show later what it did.
const LOWER: Duration = Duration::from_secs(3);
/// A step down is by how much the objective is missed, within these.
const FACTOR: (f64, f64) = (0.3, 0.95);
/// A step up, while times are below this part of the objectives.
const STEP: f64 = 0.02;
const ROOM: f64 = 0.85;
/// What a pool is given at least.
pub(crate) const SHARE_MIN: f64 = 0.02;

/// A pool as it is now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing<'a> {
    pub(crate) pool: &'a str,
    /// Of a usual request; nothing if the price, or what the pool can do, is not known.
    pub(crate) cost: Option<Money>,
    pub(crate) means: Means,
}

/// In seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Objectives {
    pub(crate) ttft: Option<f64>,
    pub(crate) tpot: Option<f64>,
}

impl Objectives {
    /// The largest of a pool's times by its objective: above 1 it misses one. Nothing if none was measured.
    fn missed_by(&self, means: &Means) -> Option<f64> {
        let ratio = |objective: Option<f64>, mean: Option<f64>| Some(mean? / objective?);
        let (ttft, tpot) = (ratio(self.ttft, means.ttft), ratio(self.tpot, means.tpot));
        [ttft, tpot].into_iter().flatten().reduce(f64::max)
    }
}

/// What a model's traffic has been told so far.
#[derive(Debug, Default)]
pub(crate) struct Steering {
    carrier: Option<String>,
    /// Who has been cheaper than the carrier, and since when.
    challenger: Option<(String, Instant)>,
    given: HashMap<String, Given>,
    looked: Option<Instant>,
}

#[derive(Debug)]
struct Given {
    share: f64,
    /// Grows by the share with each request; a whole one is a request that goes there.
    credit: f64,
    lowered: Option<Instant>,
    /// When the newest time that was looked at came.
    seen: Option<Instant>,
}

impl Default for Given {
    fn default() -> Given {
        Given { share: 1.0, credit: 0.0, lowered: None, seen: None }
    }
}

impl Steering {
    /// Whether it is time to look at the pools again.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK)
    }

    /// Takes notice of costs and times.
    pub(crate) fn look(
        &mut self,
        standings: &[Standing<'_>],
        objectives: Objectives,
        now: Instant,
    ) {
        self.looked = Some(now);
        self.given.retain(|pool, _| standings.iter().any(|standing| standing.pool == pool));
        for standing in standings {
            let given = self.given.entry(standing.pool.to_owned()).or_default();
            given.look(&standing.means, objectives, now);
        }
        self.challenge(standings, now);
    }

    fn challenge(&mut self, standings: &[Standing<'_>], now: Instant) {
        let known = standings.iter().filter_map(|standing| Some((standing.pool, standing.cost?)));
        let Some((cheapest, least)) = known.clone().min_by_key(|(_, cost)| *cost) else {
            (self.carrier, self.challenger) = (None, None);
            return;
        };
        let carried = known.clone().find(|(pool, _)| Some(*pool) == self.carrier.as_deref());
        let Some((_, cost)) = carried else {
            (self.carrier, self.challenger) = (Some(cheapest.to_owned()), None);
            return;
        };
        if least.dollars() >= cost.dollars() * (1.0 - MARGIN) {
            self.challenger = None;
            return;
        }
        match &self.challenger {
            Some((_, since)) if now.saturating_duration_since(*since) >= HOLD => {
                tracing::info!(
                    target: "fungible::gateway", from = self.carrier, to = cheapest,
                    "the cheapest pool is another one now"
                );
                (self.carrier, self.challenger) = (Some(cheapest.to_owned()), None);
            }
            // Whoever is the cheapest: the carrier has not been for so long.
            Some((challenger, _)) if challenger == cheapest => {}
            Some((_, since)) => self.challenger = Some((cheapest.to_owned(), *since)),
            None => self.challenger = Some((cheapest.to_owned(), now)),
        }
    }

    /// The pools' places in `standings`, the one first that this request is to go to. `standings` may be
    /// fewer than those that were looked at: a tenant may be kept to some.
    pub(crate) fn order(&mut self, standings: &[Standing<'_>]) -> Vec<usize> {
        let carrier = self.carrier.as_deref();
        let mut order: Vec<usize> = (0..standings.len()).collect();
        order.sort_by_key(|&index| {
            let Standing { pool, cost, .. } = standings[index];
            (Some(pool) != carrier, cost.unwrap_or(Money::MAX))
        });
        let share = |steering: &Steering, index: usize| {
            steering.given.get(standings[index].pool).map_or(1.0, |given| given.share)
        };
        let taken = (0..order.len()).find(|&place| {
            let given = self.given.get_mut(standings[order[place]].pool);
            given.is_none_or(Given::take)
        });
        // Where all are too slow, the one that is the least.
        let taken = taken.or_else(|| {
            (0..order.len()).max_by(|&left, &right| {
                share(self, order[left]).total_cmp(&share(self, order[right]))
            })
        });
        if let Some(place) = taken {
            let first = order.remove(place);
            // Those that keep their objectives are asked next if this one fails.
            order.sort_by_key(|&index| share(self, index) < 0.5);
            order.insert(0, first);
        }
        order
    }

    #[cfg(test)]
    pub(crate) fn share(&self, pool: &str) -> f64 {
        self.given.get(pool).map_or(1.0, |given| given.share)
    }
}

impl Given {
    fn look(&mut self, means: &Means, objectives: Objectives, now: Instant) {
        let Some(missed_by) = objectives.missed_by(means) else {
            // Nothing is asked of it any more, or nothing was measured.
            self.share = 1.0;
            return;
        };
        // Without news it stays as it is.
        if means.newest <= self.seen {
            return;
        }
        self.seen = means.newest;
        if missed_by <= ROOM {
            self.share = (self.share + STEP).min(1.0);
        } else if missed_by > 1.0
            && self.lowered.is_none_or(|at| now.saturating_duration_since(at) >= LOWER)
        {
            self.lowered = Some(now);
            let factor = (1.0 / missed_by).clamp(FACTOR.0, FACTOR.1);
            self.share = (self.share * factor).max(SHARE_MIN);
        }
    }

    fn take(&mut self) -> bool {
        if self.share >= 1.0 {
            return true;
        }
        self.credit += self.share;
        let is_whole = self.credit >= 1.0;
        if is_whole {
            self.credit -= 1.0;
        }
        is_whole
    }
}

#[cfg(test)]
mod tests;
