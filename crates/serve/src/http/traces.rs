//! One OpenTelemetry span for each request that asks something of the model, for those who collect traces.
//!
//! Requests only note what happened and put it into a queue that has an end: whatever becomes of the
//! collector, they neither wait nor fail. Knows of the model nothing but numbers, and no text of anybody's.

use std::time::{Duration, Instant, SystemTime};

use hyper::Method;
use hyper::header::HeaderMap;
use web::traces::{Attribute, Part, PartKind, RequestSpan, Status, TraceContext, Tracer};

use super::generation::End;
use super::parameters::Parameters;

/// Of so many answers to one request the parts are told; of all, sums and times are.
const ANSWERS_MAX: usize = 16;

/// One request that is being noted.
#[derive(Debug)]
pub(crate) struct Trace {
    tracer: Tracer,
    context: TraceContext,
    method: Method,
    begun: SystemTime,
    asked: Vec<(&'static str, Attribute)>,
    /// Answers to each prompt.
    n: usize,
    parts: Vec<Part>,
    finishes: Vec<&'static str>,
    ended: usize,
    prefill: Option<Duration>,
    decode: Option<Duration>,
}

/// What only the end of a request shows.
pub(crate) struct Summary<'a> {
    pub path: &'static str,
    pub id: &'a str,
    pub model: &'a str,
    pub arrived: Instant,
    /// None for a client that left.
    pub status: Option<u16>,
    pub error: Option<&'a str>,
    pub prompt_tokens: usize,
    pub cached_tokens: usize,
    pub answer_tokens: usize,
    pub queued: Option<Duration>,
    pub first_token: Option<Duration>,
}

impl Trace {
    /// Begins to note a request, unless whoever sent it leaves its trace out.
    pub fn begin(tracer: &Tracer, method: &Method, headers: &HeaderMap) -> Option<Trace> {
        Some(Trace {
            tracer: tracer.clone(),
            context: TraceContext::of_request(headers)?,
            method: method.clone(),
            begun: SystemTime::now(),
            asked: Vec::new(),
            n: 1,
            parts: Vec::new(),
            finishes: Vec::new(),
            ended: 0,
            prefill: None,
            decode: None,
        })
    }

    /// The trace's id, as logs show it.
    pub fn id(&self) -> String {
        self.context.trace_id()
    }

    pub fn asked(&mut self, parameters: &Parameters) {
        let sampling = &parameters.sampling;
        let number = |value: usize| Attribute::Number(value as u64);
        let decimal = |value: f32| Attribute::Decimal(f64::from(value));
        self.n = parameters.n;
        self.asked = vec![
            ("gen_ai.request.n", number(parameters.n)),
            ("gen_ai.request.choice.count", number(parameters.n)),
            ("gen_ai.request.temperature", decimal(sampling.temperature)),
            ("gen_ai.request.top_p", decimal(sampling.top_p)),
            ("gen_ai.request.frequency_penalty", decimal(sampling.frequency_penalty)),
            ("gen_ai.request.presence_penalty", decimal(sampling.presence_penalty)),
        ];
        if sampling.top_k > 0 {
            self.asked.push(("gen_ai.request.top_k", number(sampling.top_k as usize)));
        }
        let length = parameters.max_tokens;
        self.asked.extend(length.map(|length| ("gen_ai.request.max_tokens", number(length))));
    }

    /// An answer has come to its end.
    pub fn saw_end(&mut self, arrived: Instant, end: &End) {
        let timing = end.timing;
        self.finishes.push(end.finish.name());
        self.prefill.get_or_insert(timing.prefill);
        self.decode.get_or_insert(timing.decode);
        if self.ended < ANSWERS_MAX {
            let mut at = self.begun + end.submitted.saturating_duration_since(arrived);
            for (name, took) in
                [("queue", timing.queued), ("prefill", timing.prefill), ("decode", timing.decode)]
            {
                self.parts.push(Part {
                    name,
                    kind: PartKind::Internal,
                    begun: at,
                    ended: at + took,
                    attributes: vec![("gen_ai.choice.index", Attribute::Number(self.ended as u64))],
                });
                at += took;
            }
        }
        self.ended += 1;
    }

    /// Hands the span over. The names are those of OpenTelemetry's conventions for generative AI and for
    /// HTTP servers, and vLLM's where those have none or had others once.
    pub fn finish(self, summary: &Summary<'_>) {
        let text = |value: &str| Attribute::Text(value.to_owned());
        let number = |value: usize| Attribute::Number(value as u64);
        let seconds = |time: Duration| Attribute::Decimal(time.as_secs_f64());
        let operation = operation(summary.path);
        let mut attributes = vec![
            ("http.request.method", text(self.method.as_str())),
            ("http.route", text(summary.path)),
            ("gen_ai.request.id", text(summary.id)),
            ("gen_ai.latency.e2e", seconds(summary.arrived.elapsed())),
        ];
        attributes.extend(
            summary
                .status
                .map(|status| ("http.response.status_code", Attribute::Number(status.into()))),
        );
        if let Some(operation) = operation {
            attributes.push(("gen_ai.operation.name", text(operation)));
            attributes.push(("gen_ai.provider.name", text("fungible")));
        }
        if !summary.model.is_empty() {
            attributes.extend([
                ("gen_ai.request.model", text(summary.model)),
                ("gen_ai.response.model", text(summary.model)),
                ("gen_ai.usage.prompt_tokens", number(summary.prompt_tokens)),
                ("gen_ai.usage.input_tokens", number(summary.prompt_tokens)),
            ]);
        }
        if self.ended > 0 {
            let finishes = self.finishes.iter().map(|&reason| reason.to_owned()).collect();
            attributes.extend([
                ("gen_ai.usage.completion_tokens", number(summary.answer_tokens)),
                ("gen_ai.usage.output_tokens", number(summary.answer_tokens)),
                ("gen_ai.usage.num_sequences", number(self.ended)),
                ("gen_ai.response.finish_reasons", Attribute::Texts(finishes)),
            ]);
        }
        // Further answers to a prompt find all of it, which is no news.
        if self.ended > 0 && self.n == 1 {
            let cached = number(summary.cached_tokens);
            attributes.push(("gen_ai.usage.cache_read.input_tokens", cached));
        }
        let inference = self.prefill.zip(self.decode).map(|(prefill, decode)| prefill + decode);
        let times = [
            ("gen_ai.latency.time_in_queue", summary.queued),
            ("gen_ai.latency.time_to_first_token", summary.first_token),
            ("gen_ai.latency.time_in_model_prefill", self.prefill),
            ("gen_ai.latency.time_in_model_decode", self.decode),
            ("gen_ai.latency.time_in_model_inference", inference),
        ];
        attributes
            .extend(times.into_iter().filter_map(|(name, time)| Some((name, seconds(time?)))));
        attributes.extend(self.asked);
        let status = match (summary.status, summary.error) {
            (None, _) => {
                attributes.push(("error.type", text("cancelled")));
                Status::Unset
            }
            // A client's mistake is no failure of the server's.
            (Some(status @ 400..500), _) => {
                attributes.push(("error.type", Attribute::Text(status.to_string())));
                Status::Unset
            }
            (Some(status), Some(error)) => {
                // What fails within a stream has told the client 200 already.
                let kind = if status < 400 { "stream".to_owned() } else { status.to_string() };
                attributes.push(("error.type", Attribute::Text(kind)));
                Status::Error(error.to_owned())
            }
            (Some(_), None) => Status::Unset,
        };
        self.tracer.take(RequestSpan {
            context: self.context,
            name: if operation.is_some() { "llm_request" } else { summary.path },
            begun: self.begun,
            ended: self.begun + summary.arrived.elapsed(),
            attributes,
            status,
            parts: self.parts,
        });
    }
}

/// OpenTelemetry's name for what a path does with the model.
fn operation(path: &str) -> Option<&'static str> {
    match path {
        "/v1/chat/completions" | "/v1/responses" => Some("chat"),
        "/v1/completions" => Some("text_completion"),
        "/v1/embeddings" => Some("embeddings"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use web::traces::WAITING_MAX;

    use super::*;

    #[test]
    fn what_waits_has_an_end_and_what_is_lost_is_counted() {
        let (tracer, mut spans) = Tracer::new();
        let summary = Summary {
            path: "/v1/completions",
            id: "1",
            model: "m",
            arrived: Instant::now(),
            status: Some(200),
            error: None,
            prompt_tokens: 1,
            cached_tokens: 0,
            answer_tokens: 1,
            queued: None,
            first_token: None,
        };
        let request = || {
            let trace = Trace::begin(&tracer, &Method::POST, &HeaderMap::new());
            trace.expect("nobody left it out").finish(&summary);
        };
        (0..WAITING_MAX + 3).for_each(|_| request());
        assert_eq!(tracer.counts.lost.load(Ordering::Relaxed), 3);
        assert_eq!(spans.len(), WAITING_MAX);
        assert!(spans.try_recv().is_ok());
        request();
        assert_eq!(tracer.counts.lost.load(Ordering::Relaxed), 3);
    }
}
