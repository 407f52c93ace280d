//! Spans, and how OTLP writes them as JSON: <https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::context::{TraceContext, random_id};

/// OTLP's `SPAN_KIND_SERVER`.
const SERVER: u8 = 2;
/// OTLP's `STATUS_CODE_ERROR`.
const ERROR: u8 = 2;

/// A value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    Text(String),
    Texts(Vec<String>),
    Number(u64),
    Decimal(f64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    Unset,
    Error(String),
}

/// A request, with the parts of its answers.
#[derive(Debug)]
pub struct RequestSpan {
    pub context: TraceContext,
    pub name: &'static str,
    pub begun: SystemTime,
    pub ended: SystemTime,
    pub attributes: Vec<(&'static str, Attribute)>,
    pub status: Status,
    pub parts: Vec<Part>,
}

/// A part of the time that an answer took.
#[derive(Debug)]
pub struct Part {
    pub name: &'static str,
    pub kind: PartKind,
    pub begun: SystemTime,
    pub ended: SystemTime,
    pub attributes: Vec<(&'static str, Attribute)>,
}

/// Who did a part of the work; the numbers are OTLP's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartKind {
    /// This process.
    Internal = 1,
    /// Another server, which this one asked.
    Client = 3,
}

impl Attribute {
    fn to_json(&self) -> Value {
        match self {
            Attribute::Text(text) => json!({"stringValue": text}),
            Attribute::Texts(texts) => {
                let values: Vec<Value> =
                    texts.iter().map(|text| json!({"stringValue": text})).collect();
                json!({"arrayValue": {"values": values}})
            }
            // 64-bit numbers are texts in this encoding.
            Attribute::Number(number) => json!({"intValue": number.to_string()}),
            Attribute::Decimal(number) => json!({"doubleValue": number}),
        }
    }
}

impl RequestSpan {
    /// The request's span, and those of its parts below it.
    fn to_json(&self, spans: &mut Vec<Value>) {
        let context = &self.context;
        let mut span = json!({
            "traceId": context.trace_id(),
            "spanId": context.span_id(),
            "name": self.name,
            "kind": SERVER,
            "startTimeUnixNano": nanoseconds(self.begun),
            "endTimeUnixNano": nanoseconds(self.ended),
            "attributes": attributes(&self.attributes),
        });
        if let Some(parent) = context.parent_id() {
            span["parentSpanId"] = json!(parent);
        }
        if !context.state().is_empty() {
            span["traceState"] = json!(context.state());
        }
        if let Status::Error(message) = &self.status {
            span["status"] = json!({"code": ERROR, "message": message});
        }
        spans.push(span);
        for part in &self.parts {
            spans.push(json!({
                "traceId": context.trace_id(),
                "spanId": format!("{:016x}", random_id()),
                "parentSpanId": context.span_id(),
                "name": part.name,
                "kind": part.kind as u8,
                "startTimeUnixNano": nanoseconds(part.begun),
                "endTimeUnixNano": nanoseconds(part.ended),
                "attributes": attributes(&part.attributes),
            }));
        }
    }
}

/// The body of a request to a collector: what `resource` did.
pub(super) fn body(resource: &[(String, String)], spans: &[RequestSpan]) -> Vec<u8> {
    let mut all = Vec::new();
    for span in spans {
        span.to_json(&mut all);
    }
    let resource: Vec<(&str, Attribute)> = resource
        .iter()
        .map(|(name, value)| (name.as_str(), Attribute::Text(value.clone())))
        .collect();
    let scope = json!({"name": "fungible", "version": env!("CARGO_PKG_VERSION")});
    json!({"resourceSpans": [{
        "resource": {"attributes": attributes(&resource)},
        "scopeSpans": [{"scope": scope, "spans": all}],
    }]})
    .to_string()
    .into_bytes()
}

fn attributes(list: &[(&str, Attribute)]) -> Vec<Value> {
    list.iter().map(|(key, value)| json!({"key": key, "value": value.to_json()})).collect()
}

fn nanoseconds(time: SystemTime) -> String {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}
