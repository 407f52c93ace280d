//! A measurement: requests that are sent at a pace, and what became of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::arrivals::Arrivals;
use super::client::Client;
use super::prompts::{Maker, Prompt, Work};

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// So many clients, each of which sends a request when its last one is answered.
    Clients(usize),
    /// So many requests per second, at random times (a Poisson process), answered or not.
    Rate(f64),
}

/// When no more requests are sent. Those that were sent are waited for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Until {
    Requests(usize),
    Seconds(f64),
}

/// What became of one request. Times are in seconds since the measurement began.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    pub started: f64,
    /// When its first and its last token came.
    pub first: Option<f64>,
    pub last: Option<f64>,
    pub ended: f64,
    /// Times between chunks of the answer.
    pub gaps: Vec<f32>,
    /// As the server says.
    pub input_tokens: Option<usize>,
    /// How many of them it had computed before, if it says so.
    pub cached_tokens: Option<usize>,
    /// As the server says; else as its chunks do; else a token per chunk.
    pub output_tokens: usize,
    /// Why there is no whole answer.
    pub failure: Option<String>,
}

impl Record {
    /// Time to the first token.
    pub fn ttft_seconds(&self) -> Option<f64> {
        Some(self.first? - self.started)
    }

    /// Time per output token after the first; none for answers of one token.
    pub fn tpot_seconds(&self) -> Option<f64> {
        let later = self.output_tokens.checked_sub(1).filter(|later| *later > 0)?;
        Some((self.last? - self.first?) / later as f64)
    }

    /// From sending the request to the answer's end.
    pub fn latency_seconds(&self) -> f64 {
        self.ended - self.started
    }
}

/// All requests of one pace.
#[derive(Clone, Debug)]
pub struct Measured {
    pub pace: Pace,
    /// From the first request to the last answer.
    pub seconds: f64,
    pub records: Vec<Record>,
    /// Requests that were under way when the measurement was stopped.
    pub dropped: usize,
}

/// How far a measurement is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    pub done: usize,
    pub failed: usize,
    pub running: usize,
    pub output_tokens: u64,
    pub seconds: f64,
}

/// How often `stop` is looked at and progress is shown.
const TICK: Duration = Duration::from_millis(100);

/// What all requests of a load share.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) client: Client,
    pub(super) work: Work,
    /// None where a data set has the prompts.
    pub(super) maker: Option<Maker>,
}

impl Job {
    fn prompt(&self, number: u64) -> Prompt {
        match (&self.maker, &self.work.dataset) {
            (Some(maker), _) => Prompt::Text(maker.make(&self.work, number)),
            (None, Some(prompts)) if !prompts.is_empty() => {
                prompts[(number % prompts.len() as u64) as usize].clone()
            }
            (None, _) => Prompt::Text(String::new()),
        }
    }

    async fn request(
        self: Arc<Self>,
        number: u64,
        origin: Instant,
        tokens: Arc<AtomicU64>,
    ) -> Record {
        let body = self.client.streaming_body(&self.prompt(number), &self.work, number);
        self.client.stream(body, origin, &tokens).await
    }
}

/// Runs a measurement whose first request has the number `first`. Returns also how many were sent.
pub(super) async fn run(
    job: Arc<Job>,
    pace: Pace,
    until: Until,
    first: u64,
    stop: &AtomicBool,
    report: &mut dyn FnMut(Progress),
) -> (Measured, u64) {
    let origin = Instant::now();
    let tokens = Arc::new(AtomicU64::new(0));
    let mut arrivals = match pace {
        Pace::Clients(_) => None,
        // Another level is another sequence of arrivals.
        Pace::Rate(rate) => Some(Arrivals::new(rate, job.work.seed.wrapping_add(first))),
    };
    let mut next_arrival = arrivals.as_mut().and_then(Iterator::next);
    let (mut running, mut records, mut sent) = (JoinSet::new(), Vec::new(), 0u64);
    let (mut failed, mut shown) = (0, 0.0);
    while !stop.load(Ordering::Relaxed) {
        let elapsed = || origin.elapsed().as_secs_f64();
        let more = |sent: u64| match until {
            Until::Requests(count) => sent < count as u64,
            Until::Seconds(seconds) => elapsed() < seconds,
        };
        let due = |running: &JoinSet<Record>, next: Option<f64>| match pace {
            Pace::Clients(clients) => running.len() < clients,
            Pace::Rate(_) => next.is_some_and(|next| elapsed() >= next),
        };
        while more(sent) && due(&running, next_arrival) {
            running.spawn(job.clone().request(first + sent, origin, tokens.clone()));
            sent += 1;
            next_arrival = arrivals.as_mut().and_then(Iterator::next);
        }
        if running.is_empty() && !more(sent) {
            break;
        }
        let wait = match next_arrival {
            Some(next) if more(sent) => {
                TICK.min(Duration::from_secs_f64((next - elapsed()).max(0.0)))
            }
            _ => TICK,
        };
        if running.is_empty() {
            tokio::time::sleep(wait).await;
        } else if let Ok(Some(Ok(record))) = timeout(wait, running.join_next()).await {
            failed += usize::from(record.failure.is_some());
            records.push(record);
        }
        if elapsed() - shown >= TICK.as_secs_f64() {
            shown = elapsed();
            let output_tokens = tokens.load(Ordering::Relaxed);
            let (done, running) = (records.len(), running.len());
            report(Progress { done, failed, running, output_tokens, seconds: shown });
        }
    }
    let dropped = running.len();
    running.shutdown().await;
    let begun = records.iter().map(|record| record.started).fold(f64::MAX, f64::min);
    let ended = records.iter().map(|record| record.ended).fold(0.0, f64::max);
    (Measured { pace, seconds: (ended - begun).max(0.0), records, dropped }, sent)
}
