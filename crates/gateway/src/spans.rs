//! One OpenTelemetry span for each request that was accepted, with a part for each backend that was asked.
//!
//! Names are those of OpenTelemetry's conventions for generative AI and for HTTP; what those have no name
//! for begins with `fungible.`. Knows numbers and names, and no text of anybody's.

use std::time::SystemTime;

use hyper::header::HeaderMap;
use web::traces::{Attribute, Part, PartKind, RequestSpan, Status, TraceContext, Tracer};

use crate::ask::Kind;
use crate::record::{Outcome, Record};

/// Of so many tries the parts are told.
const PARTS_MAX: usize = 16;

/// One request that is being noted.
#[derive(Debug)]
pub struct Trace {
    tracer: Tracer,
    context: TraceContext,
    begun: SystemTime,
    parts: Vec<Part>,
    /// Whether the last part is still open.
    is_asking: bool,
}

impl Trace {
    /// Begins to note a request, unless whoever sent it leaves its trace out. What is sent on with
    /// `headers` belongs to this span from here on.
    pub fn begin(tracer: &Tracer, headers: &mut HeaderMap) -> Option<Trace> {
        let context = TraceContext::of_request(headers)?;
        context.write_to(headers);
        let begun = SystemTime::now();
        Some(Trace { tracer: tracer.clone(), context, begun, parts: Vec::new(), is_asking: false })
    }

    /// A backend is asked.
    pub fn asked(&mut self, pool: &str, backend: &str) {
        self.ended(None);
        if self.parts.len() == PARTS_MAX {
            return;
        }
        let now = SystemTime::now();
        self.parts.push(Part {
            name: "attempt",
            kind: PartKind::Client,
            begun: now,
            ended: now,
            attributes: vec![
                ("fungible.pool", Attribute::Text(pool.to_owned())),
                ("fungible.backend", Attribute::Text(backend.to_owned())),
                ("fungible.attempt", Attribute::Number(self.parts.len() as u64 + 1)),
            ],
        });
        self.is_asking = true;
    }

    /// The backend that was asked last has answered, or failed.
    pub fn ended(&mut self, error: Option<String>) {
        if !std::mem::take(&mut self.is_asking) {
            return;
        }
        if let Some(part) = self.parts.last_mut() {
            part.ended = SystemTime::now();
            part.attributes.extend(error.map(|error| ("error.type", Attribute::Text(error))));
        }
    }

    /// Hands the span over.
    pub fn finish(mut self, record: &Record) {
        self.ended(None);
        let text = |value: &str| Attribute::Text(value.to_owned());
        let mut attributes = vec![
            ("http.request.method", text("POST")),
            ("http.route", text(&record.path)),
            ("http.response.status_code", Attribute::Number(record.status.into())),
            ("gen_ai.request.model", text(&record.model)),
            ("gen_ai.usage.input_tokens", Attribute::Number(record.prompt_tokens)),
            ("gen_ai.usage.output_tokens", Attribute::Number(record.completion_tokens)),
            ("fungible.request_id", text(&record.id)),
            ("fungible.tenant", text(&record.tenant)),
            ("fungible.pool", text(&record.pool)),
            ("fungible.attempts", Attribute::Number(record.attempts.into())),
            ("fungible.continuations", Attribute::Number(record.continuations.into())),
            ("fungible.cost_usd", Attribute::Decimal(record.cost.dollars())),
        ];
        if let Some(operation) = operation(&record.path) {
            attributes.push(("gen_ai.operation.name", text(operation)));
        }
        if let Some(milliseconds) = record.first_byte_milliseconds {
            let seconds = milliseconds as f64 / 1000.0;
            attributes.push(("gen_ai.latency.time_to_first_token", Attribute::Decimal(seconds)));
        }
        let status = match record.outcome {
            Outcome::Failed => {
                attributes.push(("error.type", Attribute::Text(record.status.to_string())));
                Status::Error("no backend could answer, or the answer broke off".to_owned())
            }
            Outcome::Left => {
                attributes.push(("error.type", text("cancelled")));
                Status::Unset
            }
            Outcome::Complete | Outcome::Refused => Status::Unset,
        };
        self.tracer.take(RequestSpan {
            context: self.context,
            name: "gateway_request",
            begun: self.begun,
            ended: SystemTime::now(),
            attributes,
            status,
            parts: self.parts,
        });
    }
}

fn operation(path: &str) -> Option<&'static str> {
    match Kind::of_path(path) {
        Kind::Chat | Kind::Responses => Some("chat"),
        Kind::Completions => Some("text_completion"),
        Kind::Embeddings => Some("embeddings"),
        Kind::Other => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_request_is_a_span_of_its_clients_trace_and_backends_spans_are_below_it() {
        let (tracer, mut spans) = Tracer::new();
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", PARENT.parse().unwrap());
        let mut trace = Trace::begin(&tracer, &mut headers).unwrap();
        let sent_on = headers["traceparent"].to_str().unwrap().to_owned();
        trace.asked("tpu", "a:1");
        trace.ended(Some("timeout".to_owned()));
        trace.asked("h200", "b:1");
        trace.finish(&Record {
            path: "/v1/chat/completions".to_owned(),
            model: "chat".to_owned(),
            status: 200,
            completion_tokens: 7,
            ..Record::default()
        });
        let span = spans.try_recv().unwrap();
        assert_eq!(span.context.parent_id().as_deref(), Some("b7ad6b7169203331"));
        let here = format!("00-{}-{}-01", span.context.trace_id(), span.context.span_id());
        assert_eq!(sent_on, here, "the backend's span belongs to this one");
        assert!(span.attributes.contains(&("gen_ai.usage.output_tokens", Attribute::Number(7))));
        assert!(
            span.attributes.contains(&("gen_ai.operation.name", Attribute::Text("chat".into())))
        );
        assert_eq!((span.parts.len(), span.status), (2, Status::Unset));
        let failed = ("error.type", Attribute::Text("timeout".into()));
        assert!(span.parts[0].attributes.contains(&failed));
        assert!(!span.parts[1].attributes.contains(&failed));
    }

    #[test]
    fn who_wants_no_trace_gets_none() {
        let (tracer, _spans) = Tracer::new();
        let mut headers = HeaderMap::new();
        let unsampled = PARENT.replace("-01", "-00");
        headers.insert("traceparent", unsampled.parse().unwrap());
        assert!(Trace::begin(&tracer, &mut headers).is_none());
        assert_eq!(headers["traceparent"], unsampled.as_str(), "which is passed on");
    }
}
