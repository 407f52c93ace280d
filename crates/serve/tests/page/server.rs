//! A server of the page, and of answers that a script decides: what is asked says how it is answered.
//! It sends the headers that the real one is to send.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use serve::page::{CONTENT_SECURITY_POLICY, asset};

#[derive(Default)]
pub struct Seen {
    /// Bodies of requests for answers.
    pub bodies: Mutex<Vec<Value>>,
    /// Answers whose reader went away.
    pub left: AtomicUsize,
    pub refused: AtomicUsize,
}

pub struct Server {
    pub url: String,
    pub seen: Arc<Seen>,
}

impl Server {
    /// Answers `prompts` as they say, and wants `key` if there is one.
    pub fn start(models: &'static [&'static str], key: Option<&'static str>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let seen: Arc<Seen> = Arc::default();
        let for_threads = seen.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = for_threads.clone();
                thread::spawn(move || serve(stream, &seen, models, key));
            }
        });
        Server { url, seen }
    }

    pub fn last(&self) -> Value {
        self.seen.bodies.lock().unwrap().last().cloned().unwrap_or_default()
    }
}

/// None wherever the other side is gone.
fn serve(stream: TcpStream, seen: &Seen, models: &[&str], key: Option<&str>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length, mut given) = (String::new(), 0, String::new());
    reader.read_line(&mut first).ok()?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? <= 2 {
            break;
        }
        let (name, value) = line.split_once(':')?;
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok()?,
            "authorization" => given = value.trim().to_string(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut stream = reader.into_inner();
    let path = first.split(' ').nth(1)?;
    if let Some(asset) = asset(path) {
        let policy = format!(
            "content-security-policy: {CONTENT_SECURITY_POLICY}\r\n\
            x-content-type-options: nosniff\r\nreferrer-policy: no-referrer\r\n"
        );
        return reply(&mut stream, "200 OK", asset.content_type, &policy, asset.bytes);
    }
    if path.starts_with("/v1/") && key.is_some_and(|key| given != format!("Bearer {key}")) {
        seen.refused.fetch_add(1, Ordering::SeqCst);
        return refuse(&mut stream, "401 Unauthorized", "", "the API key is missing or wrong");
    }
    match path {
        "/v1/models" => {
            let data: Vec<Value> =
                models.iter().map(|id| json!({"id": id, "object": "model"})).collect();
            json_reply(&mut stream, &json!({"object": "list", "data": data}))
        }
        "/version" => json_reply(
            &mut stream,
            &json!({"version": "0.1.0", "chip": "Example chip", "devices": 8}),
        ),
        "/v1/chat/completions" => {
            let body: Value = serde_json::from_slice(&body).ok()?;
            let times = {
                let mut bodies = seen.bodies.lock().unwrap();
                bodies.push(body.clone());
                bodies.iter().filter(|other| question(other) == question(&body)).count()
            };
            let answered = answer(&mut stream, &body, times);
            if answered.is_none() {
                seen.left.fetch_add(1, Ordering::SeqCst);
            }
            answered
        }
        _ => refuse(&mut stream, "404 Not Found", "", "there is nothing here"),
    }
}

fn reply(
    stream: &mut TcpStream,
    status: &str,
    content_type: &str,
    headers: &str,
    body: &[u8],
) -> Option<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\n{headers}\
        content-length: {length}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body).ok()
}

fn json_reply(stream: &mut TcpStream, body: &Value) -> Option<()> {
    reply(stream, "200 OK", "application/json", "", body.to_string().as_bytes())
}

fn refuse(stream: &mut TcpStream, status: &str, headers: &str, message: &str) -> Option<()> {
    let body = json!({"error": {"message": message, "type": "x", "param": null, "code": null}});
    reply(stream, status, "application/json", headers, body.to_string().as_bytes())
}

/// The last line of what the user said last.
fn question(body: &Value) -> String {
    let messages = body["messages"].as_array().unwrap();
    let asked = messages.iter().rev().find(|message| message["role"] == "user").unwrap();
    asked["content"].as_str().unwrap().lines().last().unwrap().to_string()
}

struct Stream<'a> {
    stream: &'a mut TcpStream,
    tokens: usize,
}

impl Stream<'_> {
    fn begin(stream: &mut TcpStream) -> Option<Stream<'_>> {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\n\
            connection: close\r\n\r\n";
        stream.write_all(head.as_bytes()).ok()?;
        let mut begun = Stream { stream, tokens: 0 };
        begun.event(
            &json!({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}),
        )?;
        Some(begun)
    }

    fn event(&mut self, value: &Value) -> Option<()> {
        self.stream.write_all(format!("data: {value}\n\n").as_bytes()).ok()?;
        self.stream.flush().ok()
    }

    fn delta(&mut self, delta: Value) -> Option<()> {
        self.tokens += 1;
        let token = 100 + self.tokens;
        self.event(&json!({"choices": [{"index": 0, "delta": delta, "token_ids": [token]}]}))
    }

    /// A few characters at a time, so that marks are cut anywhere.
    fn text(&mut self, text: &str) -> Option<()> {
        let characters: Vec<char> = text.chars().collect();
        for piece in characters.chunks(3) {
            self.delta(json!({"content": piece.iter().collect::<String>()}))?;
        }
        Some(())
    }

    fn end(&mut self, reason: &str) -> Option<()> {
        self.event(&json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}))?;
        let usage = json!({"prompt_tokens": 12, "completion_tokens": self.tokens});
        self.event(&json!({"choices": [], "usage": usage}))?;
        self.stream.write_all(b"data: [DONE]\n\n").ok()
    }
}

fn answer(stream: &mut TcpStream, body: &Value, times: usize) -> Option<()> {
    let question = question(body);
    if question == "busy" && times == 1 {
        return refuse(stream, "429 Too Many Requests", "retry-after: 1\r\n", "too many requests");
    }
    if question == "broken" {
        return refuse(stream, "400 Bad Request", "", "the template refuses this conversation");
    }
    let continued = body["continue_token_ids"].as_array().map_or(0, Vec::len);
    let mut stream = Stream::begin(stream)?;
    match question.as_str() {
        "slow" => loop {
            stream.delta(json!({"content": "word "}))?;
            thread::sleep(Duration::from_millis(10));
        },
        "lost" if continued == 0 => {
            stream.text("one two ")?;
            // Without an end.
            return Some(());
        }
        "lost" => {
            stream.tokens = continued;
            stream.text("three")?;
        }
        "think" => {
            stream.delta(json!({"reasoning_content": "The user wants "}))?;
            stream.delta(json!({"reasoning_content": "a *thought*."}))?;
            stream.text("So be it.")?;
        }
        "tool" => {
            let function = json!({"name": "weather", "arguments": ""});
            stream.delta(
                json!({"tool_calls": [{"index": 0, "id": "call_1", "function": function}]}),
            )?;
            for part in ["{\"city\":", "\"Bern\"}"] {
                let function = json!({"arguments": part});
                stream.delta(json!({"tool_calls": [{"index": 0, "function": function}]}))?;
            }
            return stream.end("tool_calls");
        }
        "short" => {
            stream.text("cut")?;
            return stream.end("length");
        }
        "hostile" => stream.text(include_str!("hostile.md"))?,
        "markdown" => stream.text(include_str!("rich.md"))?,
        "How does quicksort work?" => {
            for line in include_str!("rich.md").split_inclusive('\n') {
                stream.text(line)?;
                thread::sleep(Duration::from_millis(20));
            }
        }
        _ => stream.text(&format!("Answer {times} to **{question}**."))?,
    }
    stream.end("stop")
}
