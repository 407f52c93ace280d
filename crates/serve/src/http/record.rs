//! What is known of one request when it is over: the one place for its log line and its metrics.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::generation::{End, Pace, Step};
use super::metrics::Metrics;
use super::parameters::Parameters;
use super::traces::{Summary, Trace};

/// Stands for "the client left", as nginx has it; never sent.
const CLIENT_LEFT: u16 = 499;

const UNAVAILABLE: u16 = 503;

/// One request from its head to the end of its answer. Dropping it writes it down.
#[derive(Debug)]
pub(crate) struct Record {
    metrics: Arc<Metrics>,
    pub path: &'static str,
    /// Ours or the client's.
    pub id: String,
    pub model: String,
    pub owner: String,
    /// Only where prompts may be logged.
    pub prompt: Option<String>,
    pub prompt_tokens: usize,
    pub arrived: Instant,
    status: Option<u16>,
    cached_tokens: usize,
    answer_tokens: usize,
    queued: Option<Duration>,
    first_token: Option<Duration>,
    finish: Option<&'static str>,
    error: Option<String>,
    /// Whether it asked the model for an answer.
    answers: usize,
    ended: usize,
    /// Where somebody collects traces, and wants this one.
    trace: Option<Trace>,
}

impl Record {
    pub fn new(
        metrics: Arc<Metrics>,
        path: &'static str,
        id: String,
        trace: Option<Trace>,
    ) -> Record {
        Record {
            metrics,
            path,
            id,
            model: String::new(),
            owner: String::new(),
            prompt: None,
            prompt_tokens: 0,
            arrived: Instant::now(),
            status: None,
            cached_tokens: 0,
            answer_tokens: 0,
            queued: None,
            first_token: None,
            finish: None,
            error: None,
            answers: 0,
            ended: 0,
            trace,
        }
    }

    /// How answers shall be drawn.
    pub fn asked(&mut self, parameters: &Parameters) {
        if let Some(trace) = &mut self.trace {
            trace.asked(parameters);
        }
    }

    /// So many answers were begun, to prompts of so many tokens.
    pub fn began(&mut self, answers: usize, prompt_tokens: &[usize]) {
        self.answers = answers;
        self.prompt_tokens = prompt_tokens.iter().sum();
        for tokens in prompt_tokens {
            self.metrics.prompt_tokens.observe(*tokens as f64);
        }
    }

    pub fn saw(&mut self, step: &Step) {
        match step.pace {
            Some(Pace::First) => {
                let first = self.arrived.elapsed();
                self.first_token.get_or_insert(first);
                self.metrics.first_token.observe_time(first);
            }
            Some(Pace::Next(waited)) => self.metrics.inter_token.observe_time(waited),
            None => {}
        }
        if let Some(end) = &step.end {
            self.saw_end(end);
        }
    }

    fn saw_end(&mut self, end: &End) {
        let timing = end.timing;
        if let Some(trace) = &mut self.trace {
            trace.saw_end(self.arrived, end);
        }
        self.ended += 1;
        self.cached_tokens += end.counts.cached;
        self.answer_tokens += end.counts.answer;
        self.queued.get_or_insert(timing.queued);
        self.finish = Some(end.finish.name());
        self.metrics.count_finish(end.finish.name());
        self.metrics.answer_tokens.observe(end.counts.answer as f64);
        self.metrics.queued.observe_time(timing.queued);
        self.metrics.prefill.observe_time(timing.prefill);
        self.metrics.decode.observe_time(timing.decode);
        self.metrics.whole.observe_time(self.arrived.elapsed());
    }

    pub fn failed(&mut self, message: &str) {
        self.error = Some(message.to_owned());
        for _ in self.ended..self.answers {
            self.metrics.count_finish("error");
        }
        self.ended = self.answers;
    }

    /// What the client was told.
    pub fn answered(&mut self, status: u16) {
        self.status = Some(status);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let status = self.status.unwrap_or(CLIENT_LEFT);
        self.metrics.count_status(status);
        if status == CLIENT_LEFT {
            self.metrics.disconnects.fetch_add(1, Ordering::Relaxed);
        }
        for _ in self.ended..self.answers {
            self.metrics.count_finish("abort");
        }
        let milliseconds = |time: Duration| time.as_micros() as f64 / 1000.0;
        let total_ms = milliseconds(self.arrived.elapsed());
        // Probes and lists are many and say little, also while the server starts or stops.
        if self.model.is_empty() && (self.error.is_none() || status == UNAVAILABLE) {
            tracing::debug!(
                target: "fungible::http",
                path = self.path,
                id = self.id,
                status,
                total_ms,
                "request"
            );
            return;
        }
        let trace_id = self.trace.as_ref().map(Trace::id);
        if let Some(trace) = self.trace.take() {
            trace.finish(&Summary {
                path: self.path,
                id: &self.id,
                model: &self.model,
                arrived: self.arrived,
                status: self.status,
                error: self.error.as_deref(),
                prompt_tokens: self.prompt_tokens,
                cached_tokens: self.cached_tokens,
                answer_tokens: self.answer_tokens,
                queued: self.queued,
                first_token: self.first_token,
            });
        }
        tracing::info!(
            target: "fungible::http",
            path = self.path,
            id = self.id,
            trace_id,
            model = self.model,
            owner = self.owner,
            status,
            finish = self.finish,
            error = self.error,
            prompt = self.prompt,
            prompt_tokens = self.prompt_tokens,
            cached_tokens = self.cached_tokens,
            completion_tokens = self.answer_tokens,
            queue_ms = self.queued.map(milliseconds),
            ttft_ms = self.first_token.map(milliseconds),
            total_ms,
            "request"
        );
    }
}
