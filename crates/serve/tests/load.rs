//! The load generator against a server of a few lines, which answers as real ones do and as broken
//! ones do.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use serve::load::{Endpoint, Load, LoadError, Pace, Slo, Summary, Target, Until, Work, from_jsonl};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// How the server behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// `/tokenize` and usage, and every chunk in pieces of five bytes.
    Good,
    /// Neither `/tokenize` nor usage in streams, but usage elsewhere, and two tokens per chunk.
    Plain,
    /// Every third request is refused, every third is cut off, every third fails on its way.
    Broken,
    /// Keeps a connection open, and closes it as soon as it is used again.
    Hasty,
    /// Never answers.
    Silent,
    /// Wants a key.
    Guarded,
}

struct Server {
    url: String,
    bodies: Arc<Mutex<Vec<Value>>>,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    fn start(kind: Kind) -> Server {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let bodies: Arc<Mutex<Vec<Value>>> = Arc::default();
        let seen = bodies.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let seen = seen.clone();
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    while connection(&mut stream, kind, &seen).await.is_some() {
                        if kind == Kind::Hasty {
                            let _ = stream.fill_buf().await;
                            break;
                        }
                    }
                });
            }
        });
        Server { url, bodies, _runtime: runtime }
    }

    fn target(&self) -> Target {
        Target {
            url: self.url.clone(),
            endpoint: Endpoint::Completions,
            model: None,
            api_key: None,
            timeout_seconds: 60.0,
        }
    }

    /// The bodies of requests for streams.
    fn streams(&self) -> Vec<Value> {
        let bodies = self.bodies.lock().unwrap();
        bodies.iter().filter(|body| body["stream"] == true).cloned().collect()
    }
}

/// One request and its answer; none where the connection ends.
async fn connection(
    stream: &mut BufReader<TcpStream>,
    kind: Kind,
    seen: &Mutex<Vec<Value>>,
) -> Option<()> {
    let (mut first, mut length, mut has_key) = (String::new(), 0, false);
    stream.read_line(&mut first).await.ok().filter(|read| *read > 0)?;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        has_key |= line == "authorization: bearer secret";
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let path = first.split(' ').nth(1)?.to_string();
    if kind == Kind::Guarded && !has_key {
        let error = json!({"error": {"message": "give a key", "type": "invalid_request_error"}});
        return reply(stream, "401 Unauthorized", &error).await;
    }
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let number = {
        let mut seen = seen.lock().unwrap();
        seen.push(body.clone());
        seen.iter().filter(|body| body["stream"] == true).count()
    };
    let prompt = match body["prompt"].as_str() {
        Some(prompt) => prompt,
        None => body["messages"][0]["content"].as_str().unwrap_or_default(),
    };
    // A token per word and one before all.
    let tokens = 1 + prompt.split(' ').count();
    match path.as_str() {
        "/v1/models" => reply(stream, "200 OK", &json!({"data": [{"id": "tiny"}]})).await,
        "/tokenize" if kind != Kind::Plain => {
            reply(stream, "200 OK", &json!({"count": tokens, "tokens": []})).await
        }
        _ if body["stream"] == true => answer(stream, kind, number, tokens, &body).await,
        "/v1/completions" | "/v1/chat/completions" => {
            let usage = json!({"prompt_tokens": tokens, "completion_tokens": 1});
            reply(stream, "200 OK", &json!({"choices": [], "usage": usage})).await
        }
        _ => reply(stream, "404 Not Found", &json!({"detail": "Not Found"})).await,
    }
}

async fn reply(stream: &mut BufReader<TcpStream>, status: &str, body: &Value) -> Option<()> {
    let body = body.to_string();
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(head.as_bytes()).await.ok()
}

async fn answer(
    stream: &mut BufReader<TcpStream>,
    kind: Kind,
    number: usize,
    tokens: usize,
    body: &Value,
) -> Option<()> {
    if kind == Kind::Silent {
        return std::future::pending().await;
    }
    if kind == Kind::Broken && number % 3 == 1 {
        let error = json!({"error": {"message": "too many requests are waiting"}});
        return reply(stream, "429 Too Many Requests", &error).await;
    }
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.ok()?;
    let is_chat = body["messages"].is_array();
    let count = body["max_tokens"].as_u64()?;
    let mut events = vec![": hello\r\n\r\n".to_string()];
    let event = |value: Value| format!("data: {value}\n\n");
    for index in 0..count {
        let end = if index + 1 == count { json!("length") } else { Value::Null };
        events.push(event(match (is_chat, kind) {
            (true, _) => {
                json!({"choices": [{"delta": {"content": "a \u{e9}"}, "finish_reason": end}]})
            }
            (false, Kind::Plain) => {
                json!({"choices": [{"text": "a", "token_ids": [1, 2], "finish_reason": end}]})
            }
            (false, _) => json!({"choices": [{"text": "a", "finish_reason": end}]}),
        }));
        if kind == Kind::Broken && index == 1 {
            if number.is_multiple_of(3) {
                events.push(event(json!({"error": {"message": "the device failed"}})));
                break;
            }
            for event in &events {
                chunk(stream, event.as_bytes()).await?;
            }
            return None;
        }
    }
    if kind == Kind::Good {
        let details = json!({"cached_tokens": 3});
        events.push(event(json!({"choices": [], "usage": {"prompt_tokens": tokens,
            "completion_tokens": count, "prompt_tokens_details": details}})));
    }
    events.push("data: [DONE]\n\n".to_string());
    for piece in events.concat().as_bytes().chunks(5) {
        chunk(stream, piece).await?;
    }
    stream.write_all(b"0\r\n\r\n").await.ok()
}

async fn chunk(stream: &mut BufReader<TcpStream>, bytes: &[u8]) -> Option<()> {
    let mut framed = format!("{:x}\r\n", bytes.len()).into_bytes();
    framed.extend_from_slice(bytes);
    framed.extend_from_slice(b"\r\n");
    stream.write_all(&framed).await.ok()
}

fn work(input_tokens: usize, output_tokens: usize) -> Work {
    Work {
        input_tokens,
        output_tokens,
        shared_prefix_tokens: 0,
        dataset: None,
        temperature: 0.0,
        ignore_eos: true,
        seed: 5,
    }
}

fn measure(load: &mut Load, pace: Pace, until: Until) -> Summary {
    let measured = load.measure(pace, until, &AtomicBool::new(false), &mut |_| {}).unwrap();
    Summary::of(&measured, Some(&"ttft=60s".parse::<Slo>().unwrap()))
}

#[test]
fn a_closed_loop_counts_what_the_server_says() {
    let server = Server::start(Kind::Good);
    let mut load = Load::connect(&server.target(), work(40, 6)).unwrap();
    assert_eq!((load.model(), load.is_exact()), ("tiny", true));
    let summary = measure(&mut load, Pace::Clients(3), Until::Requests(10));
    assert_eq!((summary.succeeded, summary.failed), (10, 0), "{:?}", summary.failures);
    assert_eq!((summary.input_tokens, summary.output_tokens), (Some(400), 60));
    assert_eq!(summary.cached_input_tokens, Some(30));
    assert_eq!(summary.ttft_ms.unwrap().count, 10);
    assert_eq!(summary.itl_ms.unwrap().count, 50);
    assert!(summary.seconds > 0.0 && summary.output_tokens_per_second > 0.0);
    assert_eq!(summary.goodput.unwrap().requests, 10);
    // A second measurement repeats no prompt, or a prefix cache would flatter it.
    measure(&mut load, Pace::Clients(2), Until::Requests(4));
    let streams = server.streams();
    assert_eq!(streams.len(), 14);
    let mut prompts: Vec<&str> =
        streams.iter().map(|body| body["prompt"].as_str().unwrap()).collect();
    prompts.sort_unstable();
    prompts.dedup();
    assert_eq!(prompts.len(), 14);
    let body = &streams[0];
    assert_eq!(body["stream_options"]["include_usage"], true);
    assert_eq!((&body["ignore_eos"], &body["max_tokens"]), (&json!(true), &json!(6)));
    assert_ne!(streams[0]["seed"], streams[1]["seed"]);
}

#[test]
fn chats_are_measured_too_and_paced_by_a_rate() {
    let server = Server::start(Kind::Good);
    let target = Target { endpoint: Endpoint::Chat, ..server.target() };
    let mut load = Load::connect(&target, work(30, 4)).unwrap();
    let summary = measure(&mut load, Pace::Rate(500.0), Until::Requests(20));
    assert_eq!((summary.succeeded, summary.output_tokens), (20, 80), "{:?}", summary.failures);
    assert_eq!((summary.rate, summary.input_tokens), (Some(500.0), Some(600)));
    assert!(server.streams()[0]["messages"][0]["content"].is_string());
    let summary = measure(&mut load, Pace::Clients(2), Until::Seconds(0.05));
    assert!(summary.succeeded >= 2);
    let wrong =
        load.measure(Pace::Rate(0.0), Until::Requests(1), &AtomicBool::new(false), &mut |_| {});
    assert!(matches!(wrong, Err(LoadError::Rate { .. })));
}

#[test]
fn servers_that_say_little_are_estimated_and_counted() {
    let server = Server::start(Kind::Plain);
    let mut load = Load::connect(&server.target(), work(50, 6)).unwrap();
    assert!(!load.is_exact());
    let summary = measure(&mut load, Pace::Clients(1), Until::Requests(2));
    // Six chunks of two token ids each.
    assert_eq!((summary.output_tokens, summary.input_tokens), (24, None));
    let words = server.streams()[0]["prompt"].as_str().unwrap().split(' ').count();
    assert!(words.abs_diff(50) <= 2, "{words}");
}

#[test]
fn failures_are_counted_by_their_reason() {
    let server = Server::start(Kind::Broken);
    let mut load = Load::connect(&server.target(), work(40, 6)).unwrap();
    let summary = measure(&mut load, Pace::Clients(1), Until::Requests(9));
    assert_eq!((summary.succeeded, summary.failed), (0, 9));
    let count = |part: &str| {
        let found = summary.failures.iter().filter(|(reason, _)| reason.contains(part));
        found.map(|(_, count)| *count).sum::<usize>()
    };
    assert_eq!(count("429 Too Many Requests: too many requests are waiting"), 3);
    assert_eq!(count("the device failed"), 3);
    assert_eq!(count("the connection broke"), 3, "{:?}", summary.failures);
    assert_eq!((summary.ttft_ms, summary.goodput.unwrap().requests), (None, 0));
}

#[test]
fn a_connection_that_was_closed_meanwhile_is_no_failure() {
    let server = Server::start(Kind::Hasty);
    let mut load = Load::connect(&server.target(), work(40, 6)).unwrap();
    let summary = measure(&mut load, Pace::Clients(2), Until::Requests(8));
    assert_eq!((summary.succeeded, summary.failed), (8, 0), "{:?}", summary.failures);
}

#[test]
fn a_stopped_measurement_drops_what_is_under_way() {
    let server = Server::start(Kind::Silent);
    let mut load = Load::connect(&server.target(), work(40, 6)).unwrap();
    let stop = AtomicBool::new(false);
    let mut report = |progress: serve::load::Progress| {
        assert_eq!((progress.done, progress.running), (0, 4));
        stop.store(true, Ordering::Relaxed);
    };
    let measured =
        load.measure(Pace::Clients(4), Until::Requests(100), &stop, &mut report).unwrap();
    assert_eq!((measured.records.len(), measured.dropped), (0, 4));
}

#[test]
fn a_request_may_take_only_so_long() {
    let server = Server::start(Kind::Silent);
    let timeout_seconds = Duration::from_millis(50).as_secs_f64();
    let target = Target { timeout_seconds, model: Some("tiny".to_string()), ..server.target() };
    let dataset = Some(from_jsonl("{\"prompt\": \"Hello\"}").unwrap());
    let mut load = Load::connect(&target, Work { dataset, ..work(1, 6) }).unwrap();
    let summary = measure(&mut load, Pace::Clients(1), Until::Requests(1));
    assert_eq!(summary.failures.keys().next().unwrap(), "no end within the time limit");
    assert_eq!(server.streams()[0]["prompt"], "Hello");
}

#[test]
fn what_keeps_a_measurement_from_beginning_is_said() {
    let server = Server::start(Kind::Guarded);
    let error = Load::connect(&server.target(), work(40, 6)).unwrap_err().to_string();
    assert!(error.contains("401 Unauthorized: give a key"), "{error}");
    let target = Target { api_key: Some("secret".to_string()), ..server.target() };
    assert!(Load::connect(&target, work(40, 6)).is_ok());
    let nobody = Target { url: "http://127.0.0.1:9".to_string(), ..server.target() };
    let error = Load::connect(&nobody, work(40, 6)).unwrap_err().to_string();
    assert!(error.contains("cannot reach http://127.0.0.1:9; is the server running"), "{error}");
    let dataset = Some(from_jsonl("{\"messages\": [{\"content\": \"Hello\"}]}").unwrap());
    let error = Load::connect(&target, Work { dataset, ..work(1, 6) }).unwrap_err();
    assert!(matches!(error, LoadError::Conversations));
}
