//! Requests that two servers could understand differently, sent byte for byte to the gateway's port: each is
//! refused, or reaches the backend as exactly one request that says what was counted.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/raw.rs"]
#[allow(dead_code, reason = "shared with the tests of the admin port, which use all of it")]
mod raw;
#[path = "support/recorder.rs"]
mod recorder;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gateway::config::Config;
use gateway::front::Front;
use gateway::ledger::{Ledger, OpenDatabase};
use gateway::metrics::Metrics;
use gateway::pools::Pools;
use gateway::secrets::Secrets;
use gateway::shared::Shared;
use gateway::tenants::{Limits, Tenant};
use recorder::{Post, Recorder};
use tokio::net::TcpListener;
use tokio::sync::watch;
use web::connections::{self, ConnectionLimits};
use web::flight::Flights;

const CHAT: &str = r#"{"model":"chat","messages":[{"role":"user","content":"hi"}]}"#;
const BODY_BYTES_MAX: usize = 1 << 20;

struct Open {
    address: SocketAddr,
    key: String,
    recorder: Recorder,
    _runtime: tokio::runtime::Runtime,
    _stop: watch::Sender<bool>,
    _folder: tempfile::TempDir,
}

fn open() -> Open {
    let recorder = Recorder::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    std::fs::write(folder.path().join("key"), "the-suppliers-key").unwrap();
    let text = format!(
        "listen = \"127.0.0.1:0\"\ndatabase = \"gateway.db\"\nlimits = {{ body_megabytes = 1 }}\n\
         [pools.near]\nprice = {{ input = \"1 usd/million\", output = \"1 usd/million\" }}\n\
         backends = [{{ url = \"http://{}\", api_key = {{ file = \"key\" }} }}]\n\
         [models.chat]\npools = [\"near\"]\nretries = 0\n",
        recorder.address
    );
    std::fs::write(&file, text).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (address, key, stop) = runtime.block_on(async {
        let config = Config::read(&file).unwrap();
        let pools = Pools::new(&config, &Arc::new(Secrets::new())).unwrap();
        let database = OpenDatabase::Sqlite(folder.path().join("gateway.db"));
        let ledger = Ledger::open(database, 1000).await.unwrap();
        let tenant = Tenant {
            name: "acme".to_owned(),
            models: Vec::new(),
            priority: 0,
            limits: Limits::default(),
            budgets: Vec::new(),
            pools: Vec::new(),
            logs_prompts: false,
            is_suspended: false,
        };
        let key = ledger.tenants().add(tenant).await.unwrap().plain().to_owned();
        let shared = Shared::new(config, pools, ledger, Arc::new(Metrics::default()));
        let front = Arc::new(Front::new(Arc::new(shared)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = ConnectionLimits {
            connections_max: 64,
            idle: Duration::from_secs(2),
            write: Duration::from_secs(30),
        };
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(connections::serve(listener, None, front, Flights::new(), limits, stopped));
        (address, key, stop)
    });
    Open { address, key, recorder, _runtime: runtime, _stop: stop, _folder: folder }
}

impl Open {
    /// What comes back for a request with these lines, and what the backend was sent meanwhile.
    fn send(&self, first: &str, lines: &[&str], body: &str) -> (String, Vec<Post>) {
        let key = &self.key;
        let mut text = format!("{first}\r\nhost: gateway\r\nauthorization: Bearer {key}\r\n");
        for line in lines {
            text.push_str(line);
            text.push_str("\r\n");
        }
        text.push_str("\r\n");
        text.push_str(body);
        let before = self.recorder.posts().len();
        let answer = raw::exchange(self.address, text.as_bytes());
        (answer, self.recorder.posts().split_off(before))
    }
}

const POST: &str = "POST /v1/chat/completions HTTP/1.1";
const JSON: &str = "content-type: application/json";
const CLOSE: &str = "connection: close";

fn status(answer: &str) -> u16 {
    raw::parse(answer).status
}

/// Answers in what came back.
fn answers(answer: &str) -> usize {
    answer.matches("HTTP/1.1 ").count()
}

fn length(body: &str) -> String {
    format!("content-length: {}", body.len())
}

#[test]
fn an_ordinary_request_is_passed_on_with_the_suppliers_key_only() {
    let open = open();
    let lines = [
        JSON,
        CLOSE,
        &length(CHAT),
        "cookie: session=1",
        "proxy-authorization: Basic eA==",
        "te: trailers",
        "openai-beta: kept",
        "keep-alive: timeout=5",
        "upgrade: h2c",
        "x-api-key: other",
        "x-forwarded-for: 10.1.2.3",
        "x-own: 1",
    ];
    let (answer, posts) = open.send(POST, &lines, CHAT);
    assert_eq!(status(&answer), 200, "{answer}");
    let [post] = &posts[..] else { panic!("{posts:?}") };
    assert_eq!(post.first, POST);
    assert_eq!(post.values("authorization"), ["Bearer the-suppliers-key"]);
    assert_eq!(post.values("host"), [open.recorder.address.to_string()]);
    assert_eq!(post.values("openai-beta"), ["kept"]);
    for name in [
        "cookie",
        "proxy-authorization",
        "te",
        "keep-alive",
        "upgrade",
        "x-api-key",
        "x-forwarded-for",
        "x-own",
        "transfer-encoding",
    ] {
        assert!(post.values(name).is_empty(), "{name} in {post:?}");
    }
    let everything = format!("{post:?}");
    assert!(!everything.contains(&open.key) && !everything.contains("acme"), "{everything}");
}

#[test]
fn lengths_that_disagree_reach_nobody_twice() {
    let open = open();
    let chunked = format!("{:x}\r\n{CHAT}\r\n0\r\n\r\n", CHAT.len());
    let smuggled = format!("{chunked}POST /v1/completions HTTP/1.1\r\nhost: x\r\n\r\n");
    let refused: [&[&str]; 8] = [
        &[JSON, "content-length: 5", &length(CHAT)],
        &[JSON, "content-length: 5, 6"],
        &[JSON, "content-length: +61"],
        &[JSON, "content-length: 0x3d"],
        &[JSON, "content-length: -1"],
        &[JSON, "transfer-encoding: chunked, identity"],
        &[JSON, "transfer-encoding: xchunked"],
        &[JSON, "transfer-encoding : chunked"],
    ];
    for lines in refused {
        let (answer, posts) = open.send(POST, lines, &chunked);
        assert!((400..500).contains(&status(&answer)), "{lines:?}: {answer}");
        assert!(posts.is_empty(), "{lines:?}: {posts:?}");
    }
    // Both at once: refused, or understood as one request in chunks (RFC 9112, 6.3), and never as two.
    for both in [
        ["content-length: 4", "transfer-encoding: chunked"],
        ["transfer-encoding: chunked", "content-length: 4"],
    ] {
        let (answer, posts) = open.send(POST, &[JSON, CLOSE, both[0], both[1]], &smuggled);
        match status(&answer) {
            200 => {
                let [post] = &posts[..] else { panic!("{posts:?}") };
                assert_eq!(post.values("content-length"), [post.body.len().to_string()]);
                assert!(post.values("transfer-encoding").is_empty());
                assert!(
                    post.body.contains("\"messages\"") && !post.body.contains("/v1/completions")
                );
            }
            400 => assert!(posts.is_empty(), "{posts:?}"),
            _ => panic!("{answer}"),
        }
        assert_eq!(answers(&answer), 1, "{answer}");
    }
    // A chunk whose size is no number, or that is not ended, or longer than it says.
    for body in
        ["zz\r\n{}\r\n0\r\n\r\n", "5\r\n{}", "1\r\n{}}}\r\n0\r\n\r\n", "FFFFFFFFFFFFFFFFF\r\n{}"]
    {
        let (answer, posts) = open.send(POST, &[JSON, CLOSE, "transfer-encoding: chunked"], body);
        assert_ne!(status(&answer), 200, "{body}: {answer}");
        assert!(posts.is_empty(), "{body}: {posts:?}");
    }
}

#[test]
fn lines_that_are_none_are_refused() {
    let open = open();
    let folded = "x-folded: one\r\n two";
    let long_name = format!("{}: 1", "n".repeat(70_000));
    let long_value = format!("x-long: {}", "v".repeat(70_000));
    let many: Vec<String> = (0..2000).map(|number| format!("x-{number}: 1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let plain_length = length(CHAT);
    for lines in [
        &[folded][..],
        &["x-null: a\0b"],
        &["no colon at all"],
        &[": no name"],
        &["sp ace: 1"],
        &["x-cr: a\rb: 1"],
        &[&long_name],
        &[&long_value],
        &many,
    ] {
        let lines: Vec<&str> = [&[JSON, CLOSE, &plain_length], lines].concat();
        let (answer, posts) = open.send(POST, &lines, CHAT);
        assert!(
            (400..500).contains(&status(&answer)),
            "{:?}: {answer}",
            &lines[3][..lines[3].len().min(40)]
        );
        assert!(posts.is_empty(), "{posts:?}");
    }
    for first in [
        "POST  /v1/chat/completions HTTP/1.1",
        "POST /v1/chat/completions HTTP/9.1",
        "POST /v1/chat completions HTTP/1.1",
        "\u{1}\u{2}\u{3}",
    ] {
        let (answer, posts) = open.send(first, &[JSON, CLOSE, &plain_length], CHAT);
        assert!(status(&answer) != 200 && posts.is_empty(), "{first}: {answer}");
    }
}

#[test]
fn no_spelling_leads_out_of_the_interface() {
    let open = open();
    let length = length(CHAT);
    for path in [
        "/v1/../admin",
        "/v1/..%2fadmin",
        "/v1/%2e%2e/admin",
        "/v1//chat/completions",
        "//v1/chat/completions",
        "/v1/./chat/completions",
        "/v1/chat%2fcompletions",
        "/v1/chat/completions\\..\\x",
        "/V1/chat/completions",
        "/metrics",
        "/version",
        "/v1",
        "/",
        "*",
        "/v1/chat/completions%00",
        "/v1/chat/completions;x=1",
    ] {
        let (answer, posts) =
            open.send(&format!("POST {path} HTTP/1.1"), &[JSON, CLOSE, &length], CHAT);
        assert!((400..500).contains(&status(&answer)), "{path}: {answer}");
        assert!(posts.is_empty(), "{path}: {posts:?}");
    }
    let long = format!("POST /v1/{} HTTP/1.1", "p".repeat(80_000));
    let (answer, posts) = open.send(&long, &[JSON, CLOSE, &length], CHAT);
    assert!((400..500).contains(&status(&answer)) && posts.is_empty(), "{}", answer.len());
    // Whoever is named in an absolute address is not who is asked.
    let absolute = "POST http://elsewhere.example/v1/chat/completions HTTP/1.1";
    let (answer, posts) = open.send(absolute, &[JSON, CLOSE, &length], CHAT);
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!(posts[0].first, POST);
    assert_eq!(posts[0].values("host"), [open.recorder.address.to_string()]);
    for method in ["CONNECT elsewhere.example:443", "TRACE /v1/chat/completions"] {
        let (answer, posts) = open.send(&format!("{method} HTTP/1.1"), &[CLOSE], "");
        assert!((400..500).contains(&status(&answer)) && posts.is_empty(), "{method}: {answer}");
    }
}

#[test]
fn what_follows_a_request_is_a_request_of_its_own() {
    let open = open();
    let whole = length(CHAT);
    let junk = format!("{CHAT}\x16\x03\x01 junk that is no request\r\n\r\n");
    let (answer, posts) = open.send(POST, &[JSON, &whole], &junk);
    assert_eq!((status(&answer), posts.len()), (200, 1), "{answer}");
    assert!(!answer[10..].contains("HTTP/1.1 200"), "junk is not answered: {answer}");
    // A second request without a key is refused, whoever's connection it comes on.
    let second = format!("{CHAT}{POST}\r\nhost: x\r\n{JSON}\r\n{whole}\r\n{CLOSE}\r\n\r\n{CHAT}");
    let (answer, posts) = open.send(POST, &[JSON, &whole], &second);
    assert_eq!((answers(&answer), posts.len()), (2, 1), "{answer}");
    assert!(answer.contains("HTTP/1.1 401"), "{answer}");
    // Who names headers as the connection's own does not take them away from the backend.
    let named = "connection: close, content-length, host, authorization";
    let (answer, posts) = open.send(POST, &[JSON, named, &whole], CHAT);
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!(posts[0].values("authorization"), ["Bearer the-suppliers-key"]);
    assert_eq!(posts[0].values("content-length").len(), 1);
}

#[test]
fn bodies_beyond_the_limit_are_refused() {
    let open = open();
    let (answer, posts) = open.send(POST, &[JSON, "content-length: 1000000000000"], "{");
    assert_eq!((status(&answer), posts.len()), (413, 0), "{answer}");
    let padding = " ".repeat(BODY_BYTES_MAX + 1);
    let (answer, posts) = open.send(POST, &[JSON, CLOSE, &length(&padding)], &padding);
    assert_eq!((status(&answer), posts.len()), (413, 0), "{answer}");
    let mut chunks = String::new();
    for _ in 0..(BODY_BYTES_MAX >> 16) + 1 {
        chunks.push_str(&format!("10000\r\n{}\r\n", " ".repeat(0x10000)));
    }
    let (answer, posts) = open.send(POST, &[JSON, CLOSE, "transfer-encoding: chunked"], &chunks);
    assert_eq!((status(&answer), posts.len()), (413, 0), "{answer}");
    let (answer, posts) = open.send(POST, &[JSON, CLOSE, "content-length: 100"], "{}");
    assert!(status(&answer) != 200 && posts.is_empty(), "a body that ends too early: {answer}");
}

/// A stream of HTTP/2 by hand: the headers as they are given, then the body; what came back of it, as its
/// frames' types and their contents.
fn http2(open: &Open, headers: &[(&str, &str)], body: &str) -> Vec<(u8, Vec<u8>)> {
    let mut block = Vec::new();
    for (name, value) in headers {
        // Literal, not indexed, with a new name (RFC 7541, 6.2.2).
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    let frame = |kind: u8, flags: u8, stream: u8, content: &[u8]| {
        let length = (content.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, stream], content].concat()
    };
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes.extend(frame(1, 4, 1, &block));
    bytes.extend(frame(0, 1, 1, body.as_bytes()));
    let mut stream = std::net::TcpStream::connect(open.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    use std::io::{Read, Write};
    let _ = stream.write_all(&bytes);
    let mut frames = Vec::new();
    let mut head = [0; 9];
    while stream.read_exact(&mut head).is_ok() {
        let mut content = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        if stream.read_exact(&mut content).is_err() {
            break;
        }
        let (kind, is_end) = (head[3], head[4] & 1 == 1);
        frames.push((kind, content));
        // The answer's end, the stream's, or the connection's.
        if (matches!(kind, 0 | 1) && is_end) || matches!(kind, 3 | 7) {
            break;
        }
    }
    frames
}

#[test]
fn http2_is_held_to_its_rules() {
    let open = open();
    let key = format!("Bearer {}", open.key);
    let usual = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/v1/chat/completions"),
        (":authority", "gateway"),
        ("authorization", key.as_str()),
        ("content-type", "application/json"),
    ];
    // 8 is the index of `:status: 200` (RFC 7541, appendix A).
    let is_answered = |frames: &[(u8, Vec<u8>)]| {
        frames.iter().any(|(kind, content)| *kind == 1 && content.first() == Some(&0x88))
    };
    let frames = http2(&open, &usual, CHAT);
    assert!(is_answered(&frames), "{frames:?}");
    assert_eq!(open.recorder.posts().len(), 1);
    let with = |more: &[(&'static str, &'static str)]| {
        let mut all: Vec<(&str, &str)> = usual.to_vec();
        all.extend_from_slice(more);
        all
    };
    let wrong_length = with(&[("content-length", "5")]);
    let no_path: Vec<(&str, &str)> =
        usual.iter().copied().filter(|(name, _)| *name != ":path").collect();
    let mut path = usual.to_vec();
    path[2].1 = "v1/chat/completions";
    let mut injected = usual.to_vec();
    injected[2].1 = "/v1/chat/completions HTTP/1.1\r\nx: y";
    for headers in [
        with(&[(":path", "/v1/completions")]),
        with(&[(":odd", "1")]),
        with(&[("Upper", "1")]),
        with(&[("connection", "close")]),
        with(&[("transfer-encoding", "chunked")]),
        with(&[("te", "gzip")]),
        with(&[("x-lines", "a\r\nb: c")]),
        with(&[("x y", "1")]),
        wrong_length,
        no_path,
        path,
        injected,
    ] {
        let frames = http2(&open, &headers, CHAT);
        assert!(!is_answered(&frames), "{headers:?}: {frames:?}");
        assert_eq!(open.recorder.posts().len(), 1, "{headers:?}");
    }
}
