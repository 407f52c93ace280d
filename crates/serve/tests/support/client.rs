//! A small HTTP/1.1 client that keeps what it reads.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::Running;

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{}", self.text()))
    }

    /// A success's JSON.
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()
    }

    /// The error object, which every error must have with all its fields.
    pub fn error(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        let error = self.json()["error"].clone();
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
        assert!(error["type"].is_string(), "{error}");
        assert!(error.get("param").is_some() && error.get("code").is_some(), "{error}");
        error
    }

    /// The events of a stream: their names and data, `[DONE]` as it is.
    pub fn events(&self) -> Vec<(Option<String>, String)> {
        events(self.text())
    }

    /// The JSON of all events but the last word.
    pub fn chunks(&self) -> Vec<Value> {
        let events = self.events().into_iter().filter(|(_, data)| data != "[DONE]");
        events.map(|(_, data)| serde_json::from_str(&data).unwrap()).collect()
    }
}

pub fn events(text: &str) -> Vec<(Option<String>, String)> {
    let mut found = Vec::new();
    for block in text.split_terminator("\n\n") {
        let (mut name, mut data) = (None, None);
        for line in block.lines() {
            if let Some(value) = line.strip_prefix("event: ") {
                name = Some(value.to_owned());
            } else if let Some(value) = line.strip_prefix("data: ") {
                assert!(data.replace(value.to_owned()).is_none(), "two data lines: {block}");
            } else {
                assert!(line.starts_with(':'), "{line:?} is no line of an event");
            }
        }
        found.extend(data.map(|data| (name, data)));
    }
    found
}

/// A connection on which requests are sent by hand.
pub struct Connection {
    pub stream: BufReader<TcpStream>,
}

impl Connection {
    pub fn to(address: SocketAddr) -> Connection {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_nodelay(true).unwrap();
        Connection { stream: BufReader::new(stream) }
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) {
        self.write(&request(method, path, headers, body));
    }

    pub fn read_head(&mut self) -> (u16, Vec<(String, String)>) {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {line:?}"));
        let status = status.parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        (status, headers)
    }

    /// One piece of a chunked body; none at its end.
    pub fn read_chunk(&mut self) -> Option<Vec<u8>> {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        let length =
            usize::from_str_radix(line.trim(), 16).unwrap_or_else(|_| panic!("no chunk: {line:?}"));
        let mut chunk = vec![0; length + 2];
        self.stream.read_exact(&mut chunk).unwrap();
        chunk.truncate(length);
        (length > 0).then_some(chunk)
    }

    pub fn read_reply(&mut self, has_body: bool) -> Reply {
        let (status, headers) = self.read_head();
        let mut reply = Reply { status, headers, body: Vec::new() };
        if !has_body {
        } else if reply.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.read_chunk() {
                reply.body.extend(chunk);
            }
        } else if let Some(length) = reply.header("content-length") {
            reply.body = vec![0; length.parse().unwrap()];
            self.stream.read_exact(&mut reply.body).unwrap();
        }
        reply
    }

    /// Whether the server has closed the connection: waits for that.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => rest.is_empty(),
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || method == "POST" {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

const JSON: (&str, &str) = ("content-type", "application/json");

/// One request on a connection of its own.
pub fn send(
    server: &Running,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Reply {
    let mut connection = Connection::to(server.address);
    connection.request(method, path, headers, body);
    connection.read_reply(method != "HEAD")
}

pub fn get(server: &Running, path: &str) -> Reply {
    send(server, "GET", path, &[], b"")
}

pub fn post(server: &Running, path: &str, body: &Value) -> Reply {
    post_raw(server, path, body.to_string().as_bytes())
}

pub fn post_raw(server: &Running, path: &str, body: &[u8]) -> Reply {
    send(server, "POST", path, &[JSON], body)
}

/// A request whose answer is read piece by piece.
pub fn post_stream(server: &Running, path: &str, body: &Value) -> Connection {
    let mut connection = Connection::to(server.address);
    connection.request("POST", path, &[JSON], body.to_string().as_bytes());
    connection
}
