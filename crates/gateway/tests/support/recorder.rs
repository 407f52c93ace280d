//! A backend that writes down every byte it is sent, and answers each request as strictly as it is framed:
//! what it counts as a request is what a supplier's server would.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

const ANSWER: &str = r#"{"id":"1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"yes"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}"#;

#[derive(Clone)]
pub struct Recorder {
    pub address: SocketAddr,
    posts: Arc<Mutex<Vec<Post>>>,
}

/// A request for an answer, as it arrived.
#[derive(Clone, Debug)]
pub struct Post {
    pub first: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Post {
    /// Every value of a header.
    pub fn values(&self, name: &str) -> Vec<&str> {
        let of = self.headers.iter().filter(|(key, _)| key == name);
        of.map(|(_, value)| value.as_str()).collect()
    }
}

impl Recorder {
    pub fn start() -> Recorder {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let recorder = Recorder { address, posts: Arc::default() };
        let posts = Arc::clone(&recorder.posts);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let posts = Arc::clone(&posts);
                thread::spawn(move || drop(speak(stream, &posts)));
            }
        });
        recorder
    }

    pub fn posts(&self) -> Vec<Post> {
        self.posts.lock().unwrap().clone()
    }
}

fn speak(mut stream: TcpStream, posts: &Mutex<Vec<Post>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let length = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        let length: usize = length.and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let body = String::from_utf8_lossy(&body).into_owned();
        // Probes are not what is counted.
        if !first.starts_with("GET ") {
            posts.lock().unwrap().push(Post { first: first.trim_end().to_owned(), headers, body });
        }
        write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{ANSWER}",
            ANSWER.len()
        )?;
    }
}
