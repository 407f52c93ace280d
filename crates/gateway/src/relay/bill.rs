//! What an answer cost: each pool's share of it, however many pools it took.

use std::sync::Arc;

use super::usage::Usage;
use crate::money::Money;
use crate::pools::Pool;

/// Who made how many tokens of one answer.
#[derive(Default)]
pub(super) struct Bill {
    shares: Vec<Share>,
}

struct Share {
    pool: Arc<Pool>,
    completion_tokens: u64,
}

/// The sum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Total {
    pub cost: Money,
    pub energy_joules: Option<f64>,
}

impl Bill {
    /// A pool made the tokens up to the `generated`-th.
    pub fn add(&mut self, pool: &Arc<Pool>, generated: u64) {
        let before: u64 = self.shares.iter().map(|share| share.completion_tokens).sum();
        let completion_tokens = generated.saturating_sub(before);
        // A pool that could not even begin has no share.
        if completion_tokens > 0 {
            self.shares.push(Share { pool: Arc::clone(pool), completion_tokens });
        }
    }

    /// With all that is not another's for `last`, the pool that ended the answer. The prompt counts
    /// once, where the answer began: that a supplier failed is not the tenant's fault.
    pub fn total(&self, last: Option<&Arc<Pool>>, usage: &Usage) -> Total {
        let before: u64 = self.shares.iter().map(|share| share.completion_tokens).sum();
        let rest = usage.completion_tokens.saturating_sub(before);
        let shares = self.shares.iter().map(|share| (&share.pool, share.completion_tokens));
        let shares = shares.chain(last.map(|pool| (pool, rest)));
        let mut total = Total { cost: Money::ZERO, energy_joules: Some(0.0) };
        let mut prompt = (usage.prompt_tokens, usage.cached_tokens());
        let mut is_empty = true;
        for (pool, completion) in shares {
            let (tokens, cached) = std::mem::take(&mut prompt);
            total.cost += pool.cost(tokens, cached, completion);
            let energy = pool.energy_joules(tokens, cached, completion);
            total.energy_joules = total.energy_joules.zip(energy).map(|(sum, energy)| sum + energy);
            is_empty = false;
        }
        if is_empty {
            total.energy_joules = None;
        }
        total
    }
}
