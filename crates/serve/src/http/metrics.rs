//! `GET /metrics`: Prometheus' text format, with vLLM's names, so that its dashboards carry over.
//!
//! What the engine counts comes from its [`Stats`]; what only requests know is counted here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::traces::SpanCounts;
use crate::engine::Stats;

/// Seconds; vLLM's steps.
const FIRST_TOKEN: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
const PER_TOKEN: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
    5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
const WHOLE: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];
const TOKENS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0,
    20_000.0, 50_000.0, 100_000.0,
];

/// How values were spread.
#[derive(Debug)]
pub(crate) struct Histogram {
    bounds: &'static [f64],
    observed: Mutex<Observed>,
}

#[derive(Debug)]
struct Observed {
    /// One more than there are bounds; not cumulative.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Histogram {
        let observed = Observed { counts: vec![0; bounds.len() + 1], sum: 0.0 };
        Histogram { bounds, observed: Mutex::new(observed) }
    }

    pub fn observe(&self, value: f64) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        // Nothing can panic while it holds the lock.
        if let Ok(mut observed) = self.observed.lock() {
            observed.counts[place] += 1;
            observed.sum += value;
        }
    }

    pub fn observe_time(&self, time: Duration) {
        self.observe(time.as_secs_f64());
    }

    fn write(&self, page: &mut Page<'_>, name: &str, help: &str) {
        page.head(name, help, "histogram");
        let Ok(observed) = self.observed.lock() else { return };
        let labels = page.labels;
        let mut total = 0;
        for (bound, count) in self.bounds.iter().zip(&observed.counts) {
            total += count;
            page.line(format_args!("{name}_bucket{{{labels},le=\"{bound:?}\"}} {total}"));
        }
        total += observed.counts.last().copied().unwrap_or(0);
        page.line(format_args!("{name}_bucket{{{labels},le=\"+Inf\"}} {total}"));
        page.line(format_args!("{name}_sum{{{labels}}} {}", observed.sum));
        page.line(format_args!("{name}_count{{{labels}}} {total}"));
    }
}

/// What is counted of requests.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub first_token: Histogram,
    pub inter_token: Histogram,
    pub whole: Histogram,
    pub queued: Histogram,
    pub prefill: Histogram,
    pub decode: Histogram,
    pub prompt_tokens: Histogram,
    pub answer_tokens: Histogram,
    /// Answers by why they ended.
    finished: Mutex<BTreeMap<&'static str, u64>>,
    /// Answers of the HTTP side by status.
    statuses: Mutex<BTreeMap<u16, u64>>,
    /// Clients that left before their answer's end.
    pub disconnects: AtomicU64,
}

impl Metrics {
    pub fn new() -> Metrics {
        let finished = ["stop", "length", "tool_calls", "abort", "error"].map(|name| (name, 0));
        Metrics {
            first_token: Histogram::new(FIRST_TOKEN),
            inter_token: Histogram::new(PER_TOKEN),
            whole: Histogram::new(WHOLE),
            queued: Histogram::new(WHOLE),
            prefill: Histogram::new(WHOLE),
            decode: Histogram::new(WHOLE),
            prompt_tokens: Histogram::new(TOKENS),
            answer_tokens: Histogram::new(TOKENS),
            finished: Mutex::new(finished.into()),
            statuses: Mutex::new(BTreeMap::new()),
            disconnects: AtomicU64::new(0),
        }
    }

    pub fn count_finish(&self, reason: &'static str) {
        if let Ok(mut finished) = self.finished.lock() {
            *finished.entry(reason).or_default() += 1;
        }
    }

    pub fn count_status(&self, status: u16) {
        if let Ok(mut statuses) = self.statuses.lock() {
            *statuses.entry(status).or_default() += 1;
        }
    }

    /// The whole page.
    pub fn render(&self, model: &str, stats: &Stats, spans: Option<&SpanCounts>) -> String {
        let labels = format!("model_name=\"{}\"", escaped(model));
        let mut page = Page { text: String::with_capacity(16 << 10), labels: &labels };
        page.engine(stats);
        let histograms = [
            (&self.first_token, "vllm:time_to_first_token_seconds", "from request to first token"),
            (&self.inter_token, "vllm:inter_token_latency_seconds", "between two tokens"),
            (&self.inter_token, "vllm:time_per_output_token_seconds", "between two tokens"),
            (&self.whole, "vllm:e2e_request_latency_seconds", "from request to the answer's end"),
            (&self.queued, "vllm:request_queue_time_seconds", "waiting in the queue"),
            (&self.prefill, "vllm:request_prefill_time_seconds", "from there to the first token"),
            (&self.decode, "vllm:request_decode_time_seconds", "from first to last token"),
            (&self.prompt_tokens, "vllm:request_prompt_tokens", "tokens of a prompt"),
            (&self.answer_tokens, "vllm:request_generation_tokens", "tokens of an answer"),
        ];
        for (histogram, name, help) in histograms {
            histogram.write(&mut page, name, help);
        }
        page.head("vllm:request_success_total", "answers by why they ended", "counter");
        for (reason, count) in self.finished.lock().iter().flat_map(|finished| finished.iter()) {
            page.line(format_args!(
                "vllm:request_success_total{{{labels},finished_reason=\"{reason}\"}} {count}"
            ));
        }
        page.head("fungible:http_responses_total", "answers by HTTP status", "counter");
        for (status, count) in self.statuses.lock().iter().flat_map(|statuses| statuses.iter()) {
            page.line(format_args!(
                "fungible:http_responses_total{{{labels},status=\"{status}\"}} {count}"
            ));
        }
        let disconnects = self.disconnects.load(Ordering::Relaxed);
        let help = "clients that left before their answer's end";
        page.counter("fungible:disconnects_total", help, disconnects as f64);
        if let Some(spans) = spans {
            for (name, help, count) in [
                ("fungible:traces_sent_total", "traces that a collector took", &spans.delivered),
                ("fungible:traces_lost_total", "traces that none took", &spans.lost),
            ] {
                page.counter(name, help, count.load(Ordering::Relaxed) as f64);
            }
        }
        page.text
    }
}

struct Page<'l> {
    text: String,
    labels: &'l str,
}

impl Page<'_> {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a text cannot fail.
        let _ = writeln!(self.text, "{line}");
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        // Counters are declared with their whole name in this version of the format.
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    }

    fn value(&mut self, name: &str, help: &str, kind: &str, value: f64) {
        self.head(name, help, kind);
        let labels = self.labels;
        self.line(format_args!("{name}{{{labels}}} {value}"));
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.value(name, help, "gauge", value);
    }

    fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.value(name, help, "counter", value);
    }

    /// In vLLM's form: what there is to know is in the labels, the value is the time.
    fn adapters(&mut self, stats: &Stats) {
        let names = |names: &BTreeSet<String>| {
            escaped(&names.iter().map(String::as_str).collect::<Vec<_>>().join(","))
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.head("vllm:lora_requests_info", "adapters of running and waiting requests", "gauge");
        self.line(format_args!(
            "vllm:lora_requests_info{{max_lora=\"{}\",waiting_lora_adapters=\"{}\",running_lora_adapters=\"{}\"}} {}",
            stats.adapters_max,
            names(&stats.adapters_waiting),
            names(&stats.adapters_running),
            now.as_secs_f64(),
        ));
    }

    fn engine(&mut self, stats: &Stats) {
        let used = match stats.pages_total {
            0 => 0.0,
            total => stats.pages_used as f64 / total as f64,
        };
        self.gauge("vllm:num_requests_running", "requests in the batch", stats.running as f64);
        self.gauge("vllm:num_requests_waiting", "requests in the queue", stats.waiting as f64);
        self.gauge("vllm:kv_cache_usage_perc", "share of KV pages in use, 1 is all", used);
        let counters: [(&str, &str, u64); 10] = [
            ("vllm:prompt_tokens_total", "tokens of prompts", stats.prompt_tokens),
            ("vllm:generation_tokens_total", "tokens of answers", stats.generation_tokens),
            (
                "vllm:prefix_cache_queries_total",
                "tokens looked up in the prefix cache",
                stats.prefix_queries,
            ),
            ("vllm:prefix_cache_hits_total", "tokens found there", stats.prefix_hits),
            ("vllm:num_preemptions_total", "requests that had to give way", stats.preemptions),
            ("vllm:spec_decode_num_draft_tokens_total", "tokens guessed ahead", stats.drafted),
            ("vllm:spec_decode_num_accepted_tokens_total", "right guesses", stats.accepted),
            (
                "fungible:compiled_after_ready_total",
                "programs compiled while serving; anything but 0 is a defect",
                stats.compiled_after_ready,
            ),
            (
                "fungible:device_failures_total",
                "times that a device failed and the engine recovered",
                stats.device_failures,
            ),
            ("fungible:steps_total", "launches of programs", stats.steps),
        ];
        for (name, help, value) in counters {
            self.counter(name, help, value as f64);
        }
        let host = "the host's time around launches";
        self.counter("fungible:host_seconds_total", host, stats.host_seconds);
        self.counter("fungible:device_seconds_total", "the device's time", stats.device_seconds);
        if stats.adapters_max > 0 {
            self.adapters(stats);
        }
        self.gauge("fungible:kv_pages_used", "KV pages in use", stats.pages_used as f64);
        self.gauge("fungible:kv_pages_total", "KV pages", stats.pages_total as f64);
    }
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_bounds_belong_to_them() {
        let metrics = Metrics::new();
        for value in [0.3, 0.31, 9999.0] {
            metrics.whole.observe(value);
        }
        let page = metrics.render("a \"b\"", &Stats { running: 3, ..Stats::default() }, None);
        let line = |end: &str| {
            let name = "vllm:e2e_request_latency_seconds";
            assert!(page.contains(&format!("{name}{end}\n")), "{end} in\n{page}");
        };
        line("_bucket{model_name=\"a \\\"b\\\"\",le=\"0.3\"} 1");
        line("_bucket{model_name=\"a \\\"b\\\"\",le=\"0.5\"} 2");
        line("_bucket{model_name=\"a \\\"b\\\"\",le=\"+Inf\"} 3");
        line("_count{model_name=\"a \\\"b\\\"\"} 3");
        assert!(page.contains("vllm:num_requests_running{model_name=\"a \\\"b\\\"\"} 3\n"));
    }
}
