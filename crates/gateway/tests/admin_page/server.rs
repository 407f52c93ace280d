//! Serves the page with figures that the test chooses. One thread for each connection, one request each.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use gateway::admin::page::{CONTENT_SECURITY_POLICY, asset};
use serde_json::{Value, json};

use crate::sample::{self, Day};

pub const KEY: &str = "the-admin-key";

pub struct Server {
    pub url: String,
    pub state: Arc<Mutex<State>>,
}

pub struct State {
    pub day: Day,
    /// Whether it closes connections without an answer.
    pub is_away: bool,
    /// Paths of the interface, in the order in which they were asked for.
    pub asked: Vec<String>,
    /// Path and body of what was posted.
    pub posted: Vec<(String, Value)>,
}

impl Server {
    pub fn start(day: Day) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state =
            Arc::new(Mutex::new(State { day, is_away: false, asked: vec![], posted: vec![] }));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                // A browser that goes away is no failure of the test.
                thread::spawn(move || drop(answer(stream, &state)));
            }
        });
        Server { url, state }
    }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let path = words.next().unwrap_or_default().to_owned();
    let (mut length, mut is_allowed, mut is_json) = (0, false, false);
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap_or(0),
            "authorization" => is_allowed = value.trim() == format!("Bearer {KEY}"),
            "content-type" => is_json = value.trim() == "application/json",
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut state = state.lock().unwrap();
    if state.is_away && path.starts_with("/admin/api/") {
        return Ok(());
    }
    let (status, kind, bytes) = match (asset(&path), path.strip_prefix("/admin/api/")) {
        (Some(asset), _) => (200, asset.content_type, asset.bytes.to_vec()),
        (None, Some(_)) if !is_allowed => (401, "application/json", b"{}".to_vec()),
        (None, Some(name)) if method == "POST" => {
            assert!(is_json, "{name} was posted without its type");
            state.posted.push((name.to_owned(), serde_json::from_slice(&body)?));
            (200, "application/json", b"{}".to_vec())
        }
        (None, Some(name)) => {
            state.asked.push(name.to_owned());
            match sample::answer(state.day, name) {
                Some(answer) => (200, "application/json", answer.to_string().into_bytes()),
                None => (
                    404,
                    "application/json",
                    json!({"error": {"message": "no such path"}}).to_string().into(),
                ),
            }
        }
        (None, None) => (404, "text/plain", Vec::new()),
    };
    drop(state);
    write!(
        stream,
        "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\
         content-security-policy: {CONTENT_SECURITY_POLICY}\r\n\r\n",
        bytes.len()
    )?;
    stream.write_all(&bytes)
}
