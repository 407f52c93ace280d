//! Traces as a collector receives them: over a socket, from the real server.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};
use serve::engine::Failure;
use serve::http::{ServerSettings, TraceSettings};
use support::log::Lines;
use support::{Gate, MODEL, Running, Script, get, post, post_stream, send, start_with};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// Takes what is sent to it; says the statuses in turn, and then always 200.
struct Collector {
    address: SocketAddr,
    bodies: Receiver<(String, Value)>,
}

impl Collector {
    fn start(mut statuses: Vec<u16>) -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, bodies) = channel();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let mut stream = BufReader::new(stream);
                while let Some((head, body)) = read_request(&mut stream) {
                    let status = if statuses.is_empty() { 200 } else { statuses.remove(0) };
                    let answer = format!(
                        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}"
                    );
                    let _ = sender.send((head, serde_json::from_slice(&body).unwrap()));
                    stream.get_mut().write_all(answer.as_bytes()).unwrap();
                }
            }
        });
        Collector { address, bodies }
    }

    fn settings(&self) -> ServerSettings {
        settings(self.address)
    }

    /// The spans of one message, and of the messages after it until there are so many.
    fn spans(&self, count: usize) -> Vec<Value> {
        let mut spans = Vec::new();
        while spans.len() < count {
            let (head, body) = self.bodies.recv_timeout(Duration::from_secs(60)).unwrap();
            assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
            assert!(head.to_lowercase().contains("content-type: application/json"), "{head}");
            assert!(head.contains("a secret"), "{head}");
            let resource = &body["resourceSpans"][0];
            assert_eq!(value(&resource["resource"], "service.name"), json!("chat server"));
            spans.extend(resource["scopeSpans"][0]["spans"].as_array().unwrap().iter().cloned());
        }
        spans
    }
}

fn settings(collector: SocketAddr) -> ServerSettings {
    let traces = TraceSettings::find(Some(&format!("http://{collector}")), |name| match name {
        "OTEL_SERVICE_NAME" => Some("chat server".to_owned()),
        "OTEL_EXPORTER_OTLP_HEADERS" => Some("x-key=a%20secret".to_owned()),
        _ => None,
    });
    ServerSettings { traces: traces.unwrap(), ..ServerSettings::default() }
}

fn read_request(stream: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).unwrap() == 0 {
            return None;
        }
    }
    let lower = head.to_lowercase();
    let length = lower.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    Some((head, body))
}

/// An attribute's value, as plain JSON.
fn value(of: &Value, key: &str) -> Value {
    let attributes = of["attributes"].as_array().unwrap();
    let found: Vec<&Value> = attributes.iter().filter(|one| one["key"] == key).collect();
    assert!(found.len() < 2, "{key} is there twice: {of}");
    let Some(found) = found.first() else { return Value::Null };
    let (kind, value) = found["value"].as_object().unwrap().iter().next().unwrap();
    match kind.as_str() {
        "intValue" => json!(value.as_str().unwrap().parse::<u64>().unwrap()),
        "arrayValue" => {
            value["values"].as_array().unwrap().iter().map(|v| v["stringValue"].clone()).collect()
        }
        _ => value.clone(),
    }
}

fn nanoseconds(span: &Value, key: &str) -> u128 {
    span[key].as_str().unwrap().parse().unwrap()
}

fn metric(server: &Running, name: &str) -> f64 {
    let page = get(server, "/metrics");
    let line = page.text().lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_request_is_a_span_of_its_senders_trace() {
    let collector = Collector::start(Vec::new());
    let server = start_with(Script::saying("an answer"), collector.settings());
    get(&server, "/health").ok();
    get(&server, "/v1/models").ok();
    let body = json!({"model": MODEL, "messages": [{"role": "user", "content": "a question"}],
        "max_tokens": 4, "temperature": 0.5, "n": 2});
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let headers = [
        ("content-type", "application/json"),
        ("traceparent", &parent),
        ("tracestate", "vendor=1"),
        ("x-request-id", "mine"),
    ];
    let body = body.to_string();
    let reply = send(&server, "POST", "/v1/chat/completions", &headers, body.as_bytes()).ok();
    // One for the request, three for each of its answers, and none for the others.
    let spans = collector.spans(7);
    assert_eq!(spans.len(), 7);
    let span = &spans[0];
    assert_eq!((&span["traceId"], &span["parentSpanId"]), (&json!(TRACE), &json!(PARENT)));
    assert_eq!((&span["traceState"], &span["name"]), (&json!("vendor=1"), &json!("llm_request")));
    assert_eq!((&span["kind"], &span["status"]), (&json!(2), &Value::Null));
    let usage = &reply["usage"];
    for (key, expected) in [
        ("gen_ai.operation.name", json!("chat")),
        ("gen_ai.provider.name", json!("fungible")),
        ("gen_ai.request.id", json!("mine")),
        ("gen_ai.request.model", json!(MODEL)),
        ("gen_ai.response.model", json!(MODEL)),
        ("gen_ai.request.n", json!(2)),
        ("gen_ai.request.max_tokens", json!(4)),
        ("gen_ai.request.temperature", json!(0.5)),
        ("gen_ai.usage.prompt_tokens", usage["prompt_tokens"].clone()),
        ("gen_ai.usage.input_tokens", usage["prompt_tokens"].clone()),
        ("gen_ai.usage.completion_tokens", usage["completion_tokens"].clone()),
        ("gen_ai.usage.output_tokens", usage["completion_tokens"].clone()),
        ("gen_ai.usage.num_sequences", json!(2)),
        ("gen_ai.response.finish_reasons", json!(["length", "length"])),
        ("http.request.method", json!("POST")),
        ("http.route", json!("/v1/chat/completions")),
        ("http.response.status_code", json!(200)),
        ("error.type", Value::Null),
    ] {
        assert_eq!(value(span, key), expected, "{key}");
    }
    let seconds = |key: &str| value(span, key).as_f64().unwrap_or_else(|| panic!("no {key}"));
    let whole = seconds("gen_ai.latency.e2e");
    for part in [
        "time_in_queue",
        "time_to_first_token",
        "time_in_model_prefill",
        "time_in_model_decode",
        "time_in_model_inference",
    ] {
        let took = seconds(&format!("gen_ai.latency.{part}"));
        assert!((0.0..=whole).contains(&took), "{part}: {took} of {whole}");
    }
    assert!(nanoseconds(span, "endTimeUnixNano") > nanoseconds(span, "startTimeUnixNano"));
    // No text of the request or the answer.
    let text = serde_json::to_string(&spans).unwrap();
    assert!(!text.contains("question") && !text.contains("an answer"));
    let mut ids: Vec<&str> = spans.iter().map(|span| span["spanId"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 7);
    for (number, answer) in spans[1..].chunks(3).enumerate() {
        let names: Vec<&str> = answer.iter().map(|part| part["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["queue", "prefill", "decode"]);
        let mut before = nanoseconds(span, "startTimeUnixNano");
        for part in answer {
            assert_eq!((&part["traceId"], &part["parentSpanId"]), (&json!(TRACE), &span["spanId"]));
            assert_eq!(value(part, "gen_ai.choice.index"), json!(number));
            assert!(nanoseconds(part, "startTimeUnixNano") >= before);
            before = nanoseconds(part, "endTimeUnixNano");
        }
    }
}

#[test]
fn who_sends_no_trace_gets_one_and_who_wants_none_gets_none() {
    let collector = Collector::start(Vec::new());
    let script = Script { cached_tokens: 3, ..Script::saying("an answer") };
    let server = start_with(script, collector.settings());
    let body = json!({"model": MODEL, "prompt": "a", "max_tokens": 2}).to_string();
    let unwanted = format!("00-{TRACE}-{PARENT}-00");
    for parent in [unwanted.as_str(), "00-what-is-this"] {
        let headers = [("content-type", "application/json"), ("traceparent", parent)];
        send(&server, "POST", "/v1/completions", &headers, body.as_bytes()).ok();
    }
    let spans = collector.spans(4);
    assert_eq!(spans.len(), 4);
    assert_ne!(spans[0]["traceId"], json!(TRACE));
    assert_eq!(spans[0]["parentSpanId"], Value::Null);
    assert_eq!(value(&spans[0], "gen_ai.operation.name"), json!("text_completion"));
    assert_eq!(value(&spans[0], "gen_ai.usage.cache_read.input_tokens"), json!(3));
}

#[test]
fn failures_are_told_and_mistakes_of_clients_are_none() {
    let collector = Collector::start(Vec::new());
    let failure = Failure::Device("it broke".to_owned());
    let script = Script { failure: Some((1, failure)), ..Script::saying("an answer") };
    let server = start_with(script, collector.settings());
    let body = |stream: bool| json!({"model": MODEL, "prompt": "a", "stream": stream});
    post(&server, "/v1/completions", &body(false)).error(500);
    post(&server, "/v1/completions", &body(true));
    post(&server, "/v1/completions", &json!({"prompt": 5})).error(400);
    let spans = collector.spans(3);
    let told: Vec<(Value, Value, Value)> = spans
        .iter()
        .map(|span| {
            let status = value(span, "http.response.status_code");
            (status, value(span, "error.type"), span["status"]["code"].clone())
        })
        .collect();
    assert!(told.contains(&(json!(500), json!("500"), json!(2))), "{told:?}");
    assert!(told.contains(&(json!(200), json!("stream"), json!(2))), "{told:?}");
    assert!(told.contains(&(json!(400), json!("400"), Value::Null)), "{told:?}");
}

#[test]
fn who_leaves_is_told_as_cancelled() {
    let collector = Collector::start(Vec::new());
    let gate = Gate::closed();
    let script = Script { gate: Some(gate.clone()), endless: true, ..Script::saying("words") };
    let server = start_with(script, collector.settings());
    let body = json!({"model": MODEL, "prompt": "a", "max_tokens": 50, "stream": true});
    let mut client = post_stream(&server, "/v1/completions", &body);
    gate.open(1);
    client.read_head();
    client.read_chunk().unwrap();
    drop(client);
    let spans = collector.spans(1);
    assert_eq!(value(&spans[0], "error.type"), json!("cancelled"));
    assert_eq!(value(&spans[0], "http.response.status_code"), Value::Null);
}

#[test]
fn what_a_busy_collector_refuses_is_sent_again() {
    let collector = Collector::start(vec![503]);
    let server = start_with(Script::saying("x"), collector.settings());
    let body = json!({"model": MODEL, "prompt": "a", "max_tokens": 1});
    post(&server, "/v1/completions", &body).ok();
    let (refused, again) = (collector.spans(1), collector.spans(1));
    assert_eq!(refused, again);
    while metric(&server, "fungible:traces_sent_total") < 1.0 {
        std::thread::yield_now();
    }
    assert_eq!(metric(&server, "fungible:traces_lost_total"), 0.0);
}

#[test]
fn what_is_left_is_sent_when_the_server_stops() {
    let collector = Collector::start(Vec::new());
    let mut server = start_with(Script::saying("x"), collector.settings());
    let body = json!({"model": MODEL, "prompt": "a", "max_tokens": 1});
    for _ in 0..5 {
        post(&server, "/v1/completions", &body).ok();
    }
    server.stop();
    assert_eq!(server.join(), 0);
    // The server is gone, so all of it is here already.
    let mut spans = 0;
    while let Ok((_, body)) = collector.bodies.try_recv() {
        spans += body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().len();
    }
    assert_eq!(spans, 5 * 4);
}

/// The one test here that looks at the log, which there is one of.
#[test]
fn a_collector_that_is_away_harms_nobody_and_is_told_once() {
    let lines = Lines::keep();
    // A port that nobody listens on any more.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut server = start_with(Script::saying("x"), settings(address));
    let body = json!({"model": MODEL, "prompt": "a", "max_tokens": 1});
    // The first is given up after some tries, the others when the server stops.
    post(&server, "/v1/completions", &body).ok();
    while metric(&server, "fungible:traces_lost_total") == 0.0 {
        std::thread::yield_now();
    }
    for _ in 0..5 {
        post(&server, "/v1/completions", &body).ok();
    }
    server.stop();
    assert_eq!(server.join(), 0);
    let told = lines.take();
    let told: Vec<&String> =
        told.iter().filter(|line| line.contains(&format!("http://{address}/"))).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("traces do not arrive"), "{told:?}");
}
