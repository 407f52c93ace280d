//! Clients that leave, do not read, or send nothing; draining; TLS.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::io::Read;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use serve::http::{ServerSettings, TlsFiles};
use support::client::{Connection, events};
use support::{
    Gate, Running, Script, get, post, post_stream, send, start, start_closed, start_with,
};

const CHAT: &str = "/v1/chat/completions";

fn chat(stream: bool) -> Value {
    json!({"messages": [{"role": "user", "content": "Hi"}], "stream": stream})
}

fn gated(text: &str) -> (Script, Gate) {
    let gate = Gate::closed();
    (Script { gate: Some(gate.clone()), ..Script::saying(text) }, gate)
}

fn metric(server: &Running, line: &str) -> f64 {
    let page = get(server, "/metrics");
    let found = page.text().lines().find_map(|found| found.strip_prefix(line)).unwrap();
    found.trim().parse().unwrap()
}

#[test]
fn a_client_that_leaves_cancels_its_answer() {
    let (script, gate) = gated("one two three");
    let server = start(script);
    // While it waits for a whole answer.
    let mut connection = post_stream(&server, CHAT, &chat(false));
    while server.engine.seen().is_empty() {
        std::thread::yield_now();
    }
    drop(connection);
    server.engine.wait_for_cancelled(1);
    // Before a stream's first token, and in the middle of one.
    connection = post_stream(&server, CHAT, &chat(true));
    assert_eq!(connection.read_head().0, 200);
    drop(connection);
    server.engine.wait_for_cancelled(2);
    connection = post_stream(&server, CHAT, &chat(true));
    connection.read_head();
    gate.open(1);
    connection.read_chunk().unwrap();
    connection.read_chunk().unwrap();
    drop(connection);
    server.engine.wait_for_cancelled(3);
    let aborted = "vllm:request_success_total{model_name=\"tiny\",finished_reason=\"abort\"}";
    while metric(&server, aborted) < 3.0 {
        std::thread::yield_now();
    }
    assert_eq!(metric(&server, "fungible:disconnects_total{model_name=\"tiny\"}"), 3.0);
}

#[test]
fn all_choices_are_cancelled_with_their_client() {
    let (script, _gate) = gated("one");
    let server = start(script);
    let mut body = chat(true);
    body["n"] = json!(4);
    let mut connection = post_stream(&server, CHAT, &body);
    connection.read_head();
    drop(connection);
    server.engine.wait_for_cancelled(4);
}

#[test]
fn tokens_are_sent_as_they_come() {
    let (script, gate) = gated("one two");
    let server = start(script);
    let mut connection = post_stream(&server, CHAT, &chat(true));
    connection.read_head();
    let mut read = || events(std::str::from_utf8(&connection.read_chunk().unwrap()).unwrap());
    assert!(read()[0].1.contains("\"role\":\"assistant\""));
    for _ in 0..server.engine.encode("one two").len() {
        gate.open(1);
        let events = read();
        assert_eq!(events.len(), 1, "{events:?}");
        assert!(events[0].1.contains("\"content\":\""));
    }
    gate.open(1);
    let last = read();
    assert!(last[0].1.contains("\"finish_reason\":\"stop\""));
}

#[test]
fn a_client_that_does_not_read_is_left() {
    let mut script = Script::saying("a long answer that never ends ");
    script.endless = true;
    script.context = 1 << 30;
    let settings =
        ServerSettings { write_limit: Duration::from_millis(300), ..ServerSettings::default() };
    let server = start_with(script, settings);
    let mut body = chat(true);
    body["return_token_ids"] = json!(true);
    // Never reads: the socket's buffers fill, and then nothing is taken any more.
    let _deaf = post_stream(&server, CHAT, &body);
    server.engine.wait_for_cancelled(1);
    body["max_tokens"] = json!(5);
    assert_eq!(post(&server, CHAT, &body).status, 200);
}

#[test]
fn idle_connections_are_closed_and_harm_nobody() {
    let settings =
        ServerSettings { idle_limit: Duration::from_secs(3), ..ServerSettings::default() };
    let server = start_with(Script::saying("x"), settings);
    let mut idle: Vec<Connection> = (0..200).map(|_| Connection::to(server.address)).collect();
    // One stops in the middle of a head, one after a request.
    idle[0].write(b"POST /v1/completions HTTP/1.1\r\nhost:");
    idle[1].request("GET", "/health", &[], b"");
    assert_eq!(idle[1].read_reply(true).status, 200);
    assert_eq!(post(&server, CHAT, &chat(false)).status, 200);
    for connection in &mut idle[1..] {
        assert!(connection.is_closed());
    }
    let mut rest = Vec::new();
    idle[0].stream.read_to_end(&mut rest).unwrap();
}

#[test]
fn more_connections_than_allowed_wait_for_their_turn() {
    let settings = ServerSettings { connections_max: 2, ..ServerSettings::default() };
    let server = start_with(Script::saying("x"), settings);
    let mut first = Connection::to(server.address);
    let second = Connection::to(server.address);
    first.request("GET", "/health", &[], b"");
    first.read_reply(true);
    let mut third = Connection::to(server.address);
    third.request("GET", "/health", &[], b"");
    drop(second);
    assert_eq!(third.read_reply(true).status, 200);
}

#[test]
fn a_slow_body_is_not_waited_for() {
    let settings =
        ServerSettings { body_limit: Duration::from_millis(200), ..ServerSettings::default() };
    let server = start_with(Script::saying("x"), settings);
    let mut connection = Connection::to(server.address);
    connection.write(
        b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
          content-length: 100\r\n\r\n{",
    );
    connection.read_reply(true).error(408);
}

#[test]
fn a_slow_answer_is_cut_off() {
    let (script, gate) = gated("one two");
    let settings =
        ServerSettings { request_limit: Duration::from_millis(300), ..ServerSettings::default() };
    let server = start_with(script, settings);
    gate.open(1);
    assert_eq!(post(&server, CHAT, &chat(false)).error(408)["code"], "timeout");
    server.engine.wait_for_cancelled(1);
    let reply = post(&server, CHAT, &chat(true));
    let last: Value = serde_json::from_str(&reply.events().pop().unwrap().1).unwrap();
    assert_eq!(last["error"]["code"], "timeout");
    server.engine.wait_for_cancelled(2);
}

#[test]
fn draining_finishes_what_was_accepted() {
    let (script, gate) = gated("one two three");
    let mut server = start(script);
    let mut stream = post_stream(&server, CHAT, &chat(true));
    stream.read_head();
    stream.read_chunk().unwrap();
    let mut whole = post_stream(&server, CHAT, &chat(false));
    let mut kept = Connection::to(server.address);
    kept.request("GET", "/ready", &[], b"");
    assert_eq!(kept.read_reply(true).status, 200);
    while server.engine.seen().len() < 2 {
        std::thread::yield_now();
    }
    server.stop();
    // The listener stays open, so that whoever asks is told.
    while get(&server, "/ready").status != 503 {
        std::thread::yield_now();
    }
    assert_eq!(get(&server, "/health").status, 200);
    post(&server, CHAT, &chat(false)).error(503);
    kept.request("POST", CHAT, &[("content-type", "application/json")], b"{}");
    let refused = kept.read_reply(true);
    assert_eq!(refused.error(503)["code"], "stopping");
    assert_eq!(refused.header("connection"), Some("close"));
    gate.open(100);
    let mut text = String::new();
    while let Some(chunk) = stream.read_chunk() {
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    assert_eq!(whole.read_reply(true).ok()["choices"][0]["finish_reason"], "stop");
    assert_eq!(server.join(), 0);
    assert!(TcpStream::connect(server.address).is_err(), "the listener is closed");
}

#[test]
fn draining_has_a_limit() {
    let (script, _gate) = gated("one");
    let settings =
        ServerSettings { drain_limit: Duration::from_millis(100), ..ServerSettings::default() };
    let mut server = start_with(script, settings);
    let mut stream = post_stream(&server, CHAT, &chat(true));
    stream.read_head();
    server.stop();
    assert_eq!(server.join(), 1, "one was cut off");
    server.engine.wait_for_cancelled(1);
}

#[test]
fn a_server_that_starts_is_alive_but_not_ready() {
    let server = start_closed(Script::saying("x"), ServerSettings::default());
    assert_eq!(get(&server, "/health").status, 200);
    get(&server, "/ready").error(503);
    let reply = post(&server, CHAT, &chat(false));
    assert_eq!(reply.error(503)["code"], "starting");
    assert!(reply.header("retry-after").is_some());
    assert_eq!(get(&server, "/metrics").status, 200);
    server.open();
    assert_eq!(get(&server, "/ready").status, 200);
    post(&server, CHAT, &chat(false)).ok();
}

#[test]
fn files_of_the_page_are_for_everybody() {
    let key = serve::http::ApiKey::new("key", None).unwrap();
    let settings = ServerSettings { api_keys: vec![key], ..ServerSettings::default() };
    let server = start_with(Script::saying("x"), settings);
    let reply = get(&server, "/");
    assert_eq!(reply.status, 200);
    assert!(reply.text().starts_with("<!doctype html>"));
    let policy = serve::page::CONTENT_SECURITY_POLICY;
    assert_eq!(reply.header("content-security-policy"), Some(policy));
    assert_eq!(reply.header("content-type"), Some("text/html; charset=utf-8"));
    send(&server, "POST", "/", &[], b"").error(405);
}

#[test]
fn metrics_count_what_happened() {
    let server = start(Script::saying("one two three"));
    post(&server, CHAT, &chat(false)).ok();
    assert_eq!(post(&server, CHAT, &chat(true)).status, 200);
    post(&server, CHAT, &json!({})).error(400);
    let tokens = server.engine.encode("one two three").len();
    let labels = "{model_name=\"tiny\"}";
    assert_eq!(metric(&server, &format!("vllm:time_to_first_token_seconds_count{labels}")), 2.0);
    let between = metric(&server, &format!("vllm:inter_token_latency_seconds_count{labels}"));
    assert_eq!(between, 2.0 * (tokens as f64 - 1.0));
    assert_eq!(
        metric(&server, &format!("vllm:request_generation_tokens_sum{labels}")),
        2.0 * tokens as f64
    );
    let reason = "vllm:request_success_total{model_name=\"tiny\",finished_reason=\"stop\"}";
    assert_eq!(metric(&server, reason), 2.0);
    let status = "fungible:http_responses_total{model_name=\"tiny\",status=\"400\"}";
    assert_eq!(metric(&server, status), 1.0);
    assert_eq!(metric(&server, &format!("vllm:kv_cache_usage_perc{labels}")), 0.25);
}

#[test]
fn connections_can_be_encrypted() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let files = TlsFiles {
        certificates: folder.path().join("certificates.pem"),
        key: folder.path().join("key.pem"),
    };
    std::fs::write(&files.certificates, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let settings = ServerSettings { tls: Some(files.clone()), ..ServerSettings::default() };
    let server = start_with(Script::saying("x"), settings);

    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    let client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let socket = TcpStream::connect(server.address).unwrap();
    let mut stream = rustls::StreamOwned::new(client, socket);
    std::io::Write::write_all(
        &mut stream,
        b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");

    std::fs::write(&files.key, "no key").unwrap();
    let settings = ServerSettings { tls: Some(files), ..ServerSettings::default() };
    let error = serve::http::Server::starting(settings).err().unwrap();
    assert!(error.to_string().contains("key.pem"), "{error}");
}

#[test]
fn http_2_is_spoken_on_the_same_port() {
    use http_body_util::{BodyExt, Full};
    use hyper::Request;
    use hyper::body::Bytes;
    use hyper_util::rt::{TokioExecutor, TokioIo};

    let mut server = start(Script::saying("one two"));
    let address = server.address;
    let read = async move {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        let request = Request::post(format!("http://{address}{CHAT}"))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(chat(true).to_string())))
            .unwrap();
        let reply = sender.send_request(request).await.unwrap();
        assert_eq!(reply.status(), 200);
        reply.into_body().collect().await.unwrap().to_bytes()
    };
    let body = server.runtime().block_on(read);
    assert!(body.ends_with(b"data: [DONE]\n\n"));
    server.stop();
    assert_eq!(server.join(), 0);
}
