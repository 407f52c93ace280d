//! `GET /metrics`: Prometheus' text format, with vLLM's names, so that its dashboards carry over.
//!
//! What the engine counts comes from its [`Stats`]; what only requests know is counted here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::engine::Stats;
use web::exposition::{Histogram, Kind, Page, labels};
use web::traces::SpanCounts;

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
        let all = labels(&[("model_name", model)]);
        let mut page = Page::new();
        write_engine(&mut page, &all, stats);
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
            page.head(name, help, Kind::Histogram);
            histogram.write(&mut page, name, &all);
        }
        let name = "vllm:request_success_total";
        page.head(name, "answers by why they ended", Kind::Counter);
        for (reason, count) in self.finished.lock().iter().flat_map(|finished| finished.iter()) {
            page.line(name, &labels(&[("model_name", model), ("finished_reason", reason)]), count);
        }
        let name = "fungible:http_responses_total";
        page.head(name, "answers by HTTP status", Kind::Counter);
        for (status, count) in self.statuses.lock().iter().flat_map(|statuses| statuses.iter()) {
            let status = status.to_string();
            page.line(name, &labels(&[("model_name", model), ("status", &status)]), count);
        }
        let disconnects = self.disconnects.load(Ordering::Relaxed);
        let help = "clients that left before their answer's end";
        page.value(Kind::Counter, "fungible:disconnects_total", help, &all, disconnects);
        if let Some(spans) = spans {
            for (name, help, count) in [
                ("fungible:traces_sent_total", "traces that a collector took", &spans.delivered),
                ("fungible:traces_lost_total", "traces that none took", &spans.lost),
            ] {
                page.value(Kind::Counter, name, help, &all, count.load(Ordering::Relaxed));
            }
        }
        page.into_text()
    }
}

/// In vLLM's form: what there is to know is in the labels, the value is the time.
fn write_adapters(page: &mut Page, stats: &Stats) {
    let names =
        |names: &BTreeSet<String>| names.iter().map(String::as_str).collect::<Vec<_>>().join(",");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let all = labels(&[
        ("max_lora", &stats.adapters_max.to_string()),
        ("waiting_lora_adapters", &names(&stats.adapters_waiting)),
        ("running_lora_adapters", &names(&stats.adapters_running)),
    ]);
    let help = "adapters of running and waiting requests";
    page.value(Kind::Gauge, "vllm:lora_requests_info", help, &all, now.as_secs_f64());
}

fn write_engine(page: &mut Page, all: &str, stats: &Stats) {
    let used = match stats.pages_total {
        0 => 0.0,
        total => stats.pages_used as f64 / total as f64,
    };
    let gauges = [
        ("vllm:num_requests_running", "requests in the batch", stats.running as f64),
        ("vllm:num_requests_waiting", "requests in the queue", stats.waiting as f64),
        ("vllm:kv_cache_usage_perc", "share of KV pages in use, 1 is all", used),
        ("fungible:kv_pages_used", "KV pages in use", stats.pages_used as f64),
        ("fungible:kv_pages_total", "KV pages", stats.pages_total as f64),
    ];
    for (name, help, value) in gauges {
        page.value(Kind::Gauge, name, help, all, value);
    }
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
        page.value(Kind::Counter, name, help, all, value);
    }
    let times = [
        ("fungible:host_seconds_total", "the host's time around launches", stats.host_seconds),
        ("fungible:device_seconds_total", "the device's time", stats.device_seconds),
    ];
    for (name, help, value) in times {
        page.value(Kind::Counter, name, help, all, value);
    }
    if stats.adapters_max > 0 {
        write_adapters(page, stats);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_says_which_model_it_is_of() {
        let metrics = Metrics::new();
        metrics.whole.observe(0.31);
        metrics.count_status(404);
        let page = metrics.render("a \"b\"", &Stats { running: 3, ..Stats::default() }, None);
        for line in [
            r#"vllm:e2e_request_latency_seconds_bucket{model_name="a \"b\"",le="0.5"} 1"#,
            r#"vllm:num_requests_running{model_name="a \"b\""} 3"#,
            r#"fungible:http_responses_total{model_name="a \"b\"",status="404"} 1"#,
        ] {
            assert!(page.contains(&format!("{line}\n")), "{line} in\n{page}");
        }
        let values = page.lines().filter(|line| !line.starts_with('#'));
        assert!(values.clone().count() > 100);
        for line in values {
            assert!(line.contains(r#"{model_name="a \"b\"""#), "{line}");
        }
    }
}
