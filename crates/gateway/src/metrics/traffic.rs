//! What went through each pool in the last hour, in steps of ten seconds, for the admin page. In memory
//! only; who wants more has the records.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::money::Money;
use crate::record::Record;

const STEP: Duration = Duration::from_secs(10);
const STEPS: usize = 360;

/// Requests by the step in which they ended, with all of their tokens.
#[derive(Debug)]
pub struct Traffic {
    begun: Instant,
    hour: Mutex<Hour>,
}

#[derive(Debug, Default)]
struct Hour {
    /// Names of pools that answered in this hour; places in a step's list.
    pools: Vec<String>,
    /// The newest is last; its number counts steps since the start.
    steps: VecDeque<Vec<Flow>>,
    newest: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    requests: u64,
    tokens: u64,
    cost: Money,
}

/// The hour as the page draws it: per pool one value for each step, the oldest first; the last step is
/// not over yet.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrafficView {
    pub step_seconds: u64,
    /// Of the last step, how much is over.
    pub last_seconds: f64,
    pub pools: Vec<PoolTraffic>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PoolTraffic {
    /// Empty for requests that no pool answered.
    pub name: String,
    pub requests: Vec<u64>,
    pub tokens: Vec<u64>,
    pub usd: Vec<f64>,
}

impl Default for Traffic {
    fn default() -> Traffic {
        Traffic { begun: Instant::now(), hour: Mutex::default() }
    }
}

impl Traffic {
    pub(super) fn add(&self, record: &Record) {
        let number = self.number();
        let mut hour = self.hour.lock().unwrap_or_else(PoisonError::into_inner);
        hour.go_to(number);
        let found = hour.pools.iter().position(|pool| *pool == record.pool);
        let place = found.unwrap_or_else(|| {
            hour.pools.push(record.pool.clone());
            hour.pools.len() - 1
        });
        let Some(step) = hour.steps.back_mut() else { return };
        if step.len() <= place {
            step.resize(place + 1, Flow::default());
        }
        step[place].requests += 1;
        step[place].tokens += record.prompt_tokens + record.completion_tokens;
        step[place].cost += record.cost;
    }

    pub fn view(&self) -> TrafficView {
        let number = self.number();
        let mut hour = self.hour.lock().unwrap_or_else(PoisonError::into_inner);
        hour.go_to(number);
        let pools = hour.pools.iter().enumerate().filter_map(|(place, name)| {
            let flows = hour.steps.iter().map(|step| step.get(place).copied().unwrap_or_default());
            let is_used = flows.clone().any(|flow| flow.requests > 0);
            is_used.then(|| PoolTraffic {
                name: name.clone(),
                requests: flows.clone().map(|flow| flow.requests).collect(),
                tokens: flows.clone().map(|flow| flow.tokens).collect(),
                usd: flows.map(|flow| flow.cost.dollars()).collect(),
            })
        });
        let into_step = self.begun.elapsed().as_secs_f64() % STEP.as_secs_f64();
        TrafficView {
            step_seconds: STEP.as_secs(),
            last_seconds: into_step,
            pools: pools.collect(),
        }
    }

    fn number(&self) -> u64 {
        self.begun.elapsed().as_secs() / STEP.as_secs()
    }
}

impl Hour {
    /// Makes the newest step that of `number`, and forgets those that are older than an hour.
    fn go_to(&mut self, number: u64) {
        if self.steps.is_empty() {
            self.steps.push_back(Vec::new());
            self.newest = number;
        }
        // After an hour without requests nothing of the old one is left.
        let missing = number.saturating_sub(self.newest);
        for _ in 0..missing.min(STEPS as u64) {
            if self.steps.len() == STEPS {
                self.steps.pop_front();
            }
            self.steps.push_back(Vec::new());
        }
        self.newest = self.newest.max(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(pool: &str) -> Record {
        Record {
            pool: pool.to_owned(),
            prompt_tokens: 10,
            completion_tokens: 5,
            cost: Money::from_dollars(0.5),
            ..Record::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_hour_is_kept_and_no_more() {
        let traffic = Traffic::default();
        assert_eq!(traffic.view().pools, []);
        traffic.add(&record("tpu"));
        traffic.add(&record("tpu"));
        tokio::time::advance(Duration::from_secs(25)).await;
        traffic.add(&record("cpu"));
        let view = traffic.view();
        assert_eq!((view.step_seconds, view.last_seconds), (10, 5.0));
        let [tpu, cpu] = &view.pools[..] else { panic!("{view:?}") };
        assert_eq!((tpu.name.as_str(), &tpu.requests[..]), ("tpu", &[2, 0, 0][..]));
        assert_eq!((&tpu.tokens[..], &tpu.usd[..]), (&[30, 0, 0][..], &[1.0, 0.0, 0.0][..]));
        assert_eq!((cpu.name.as_str(), &cpu.requests[..]), ("cpu", &[0, 0, 1][..]));
        // The first step is forgotten, the third is the oldest.
        tokio::time::advance(Duration::from_secs(3590)).await;
        let view = traffic.view();
        assert_eq!(view.pools.len(), 1);
        assert_eq!((view.pools[0].requests.len(), view.pools[0].requests[0]), (STEPS, 1));
        tokio::time::advance(Duration::from_secs(86_400)).await;
        assert_eq!(traffic.view().pools, []);
    }
}
