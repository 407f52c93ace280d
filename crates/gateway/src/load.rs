//! A load generator for anything that answers HTTP/1.1, made to see microseconds: the same request
//! again and again, at given times or as fast as answers come back.
//!
//! A time counts from when its request was due, whatever kept the request from going out then, so
//! that a server which holds up its clients cannot hide it. One thread sends and reads, since the
//! generator shares its cores with what it measures; what it reads is not looked into beyond where
//! events end. Knows nothing of the gateway and prints nothing.

mod arrivals;
mod client;
mod outcome;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::sync::Semaphore;
use tokio::task::LocalSet;

pub use client::{HeaderError, ProbeError, Target};
pub use outcome::{Outcome, Spread};

use client::{Answer, Client};

/// What is measured, and for how long.
#[derive(Clone, Debug)]
pub struct Load {
    pub target: Target,
    pub pace: Pace,
    /// Requests that were due in the first seconds do not count.
    pub warm_up: Duration,
    pub duration: Duration,
    /// After the last request was due: what is not answered by then counts as unanswered.
    pub patience: Duration,
    /// At a rate, requests beyond so many wait for a connection, and their time runs.
    pub connections_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Requests per second, answered or not, at the times of a Poisson process.
    Rate(f64),
    /// So many clients, each of which waits for an answer before it asks again.
    Clients(usize),
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("a rate must be above 0 requests/s, not {0}")]
    Rate(f64),
    #[error("the load generator could not start")]
    Start(#[source] std::io::Error),
    /// One request is sent before all others, to see whether there is anything to measure.
    #[error("the first request failed")]
    First(#[source] ProbeError),
}

/// What was seen so far.
#[derive(Debug, Default)]
struct Seen {
    answers: Vec<Answer>,
    failures: Vec<String>,
    failed: usize,
    due: usize,
    /// Seconds by which requests at a rate were late to be looked after.
    late: Vec<f64>,
}

struct Run {
    client: Client,
    slots: Semaphore,
    seen: RefCell<Seen>,
    /// Requests that were due in between count.
    from: Instant,
    to: Instant,
}

/// Kinds of failures that are kept; a server can find many words.
const FAILURES_MAX: usize = 5;

/// Blocks until all is measured.
///
/// # Errors
/// When the first request is not answered well. Later failures are counted.
pub fn run(load: &Load) -> Result<Outcome, LoadError> {
    if let Pace::Rate(rate) = load.pace
        && !(rate > 0.0 && rate.is_finite())
    {
        return Err(LoadError::Rate(rate));
    }
    let runtime = Builder::new_current_thread().enable_all().build().map_err(LoadError::Start)?;
    LocalSet::new().block_on(&runtime, measure(load))
}

async fn measure(load: &Load) -> Result<Outcome, LoadError> {
    let client = Client::new(load.target.clone());
    client.ask(Instant::now()).await.map_err(LoadError::First)?;
    let begin = Instant::now();
    let from = begin + load.warm_up;
    let run = Rc::new(Run {
        client,
        slots: Semaphore::new(load.connections_max.max(1)),
        seen: RefCell::default(),
        from,
        to: from + load.duration,
    });
    match load.pace {
        Pace::Rate(rate) => {
            let mut arrivals = arrivals::start(rate, begin, run.to).map_err(LoadError::Start)?;
            while let Some(due) = arrivals.recv().await {
                let run = Rc::clone(&run);
                tokio::task::spawn_local(async move {
                    run.note_due(due);
                    // A semaphore that nobody closes.
                    if let Ok(_slot) = run.slots.acquire().await {
                        run.ask(due).await;
                    }
                });
            }
        }
        Pace::Clients(clients) => {
            for _ in 0..clients {
                let run = Rc::clone(&run);
                tokio::task::spawn_local(async move {
                    while Instant::now() < run.to {
                        let due = Instant::now();
                        run.note_due(due);
                        run.ask(due).await;
                    }
                });
            }
            tokio::time::sleep_until(run.to.into()).await;
        }
    }
    let give_up = run.to + load.patience;
    while run.is_waiting() && Instant::now() < give_up {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let seen = run.seen.take();
    Ok(Outcome::of(seen, run.to, load.duration))
}

impl Run {
    fn counts(&self, due: Instant) -> bool {
        self.from <= due && due < self.to
    }

    fn note_due(&self, due: Instant) {
        if self.counts(due) {
            let mut seen = self.seen.borrow_mut();
            seen.due += 1;
            seen.late.push(due.elapsed().as_secs_f64());
        }
    }

    async fn ask(&self, due: Instant) {
        let answered = self.client.ask(due).await;
        if !self.counts(due) {
            return;
        }
        let mut seen = self.seen.borrow_mut();
        match answered {
            Ok(answer) => seen.answers.push(answer),
            Err(error) => {
                seen.failed += 1;
                let reason = error.to_string();
                if seen.failures.len() < FAILURES_MAX && !seen.failures.contains(&reason) {
                    seen.failures.push(reason);
                }
            }
        }
    }

    fn is_waiting(&self) -> bool {
        let seen = self.seen.borrow();
        seen.answers.len() + seen.failed < seen.due
    }
}

#[cfg(test)]
mod tests;
