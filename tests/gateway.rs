//! `fungible gateway` in front of two `fungible serve` with the real model: one is killed in the middle of an
//! answer, and the client reads on. And what the gateway's user does wrong.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/binary.rs"]
mod binary;
#[path = "../crates/serve/tests/support/client.rs"]
#[allow(dead_code, reason = "shared with the server's own tests")]
mod client;
#[path = "support/running.rs"]
#[allow(dead_code, reason = "each test uses what it needs")]
mod running;
#[path = "support/mod.rs"]
mod shared;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Mutex;

use binary::{Sandbox, fungible_with_kept_cache, run};
use client::{Connection, get, post_stream};
use running::Running;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const MODEL: &str = "smollm2";

fn server(test: &str) -> Option<Running> {
    let model = shared::smollm2(test)?;
    let mut command = fungible_with_kept_cache(test)?;
    command.arg("serve").arg(model).args(["--served-model-name", MODEL, "--port", "0"]);
    command.args(["--device", "cpu", "--context", "1024", "--max-num-seqs", "8"]);
    command.args(["--kv-cache-memory", "256M"]);
    Some(Running::launch(&mut command))
}

fn write_config(folder: &Path, backends: &[String]) -> std::path::PathBuf {
    let mut text = "listen = \"127.0.0.1:0\"\nanonymous = true\n".to_owned();
    for (number, backend) in backends.iter().enumerate() {
        text.push_str(&format!(
            "[pools.p{number}]\nprice = {{ input = \"1 usd/million\", output = \"2 usd/million\" }}\n\
             backends = [{{ url = \"http://{backend}\", continues = \"tokens\" }}]\n"
        ));
    }
    let pools = (0..backends.len()).map(|number| format!("p{number} = {{ model = \"{MODEL}\" }}"));
    let pools: Vec<String> = pools.collect();
    text.push_str(&format!(
        "[models.chat]\npolicy = \"ordered\"\npools = {{ {} }}\n",
        pools.join(", ")
    ));
    let file = folder.join("gateway.toml");
    std::fs::write(&file, text).unwrap();
    file
}

fn gateway(config: &Path) -> Running {
    let mut command = binary::fungible(&std::env::temp_dir());
    command.arg("gateway").arg(config);
    Running::launch(&mut command)
}

/// The text of a streamed chat, its ends, and its usage.
fn told(chunks: &[Value]) -> (String, Vec<&str>, &Value) {
    let choices = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap());
    let mut text = String::new();
    let mut ends = Vec::new();
    for choice in choices {
        text.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        ends.extend(choice["finish_reason"].as_str());
    }
    let usages = chunks.iter().map(|chunk| &chunk["usage"]).filter(|usage| !usage.is_null());
    let usages: Vec<&Value> = usages.collect();
    assert_eq!(usages.len(), 1, "{usages:?}");
    (text, ends, usages[0])
}

fn rest_of(stream: &mut Connection, mut bytes: Vec<u8>) -> Vec<Value> {
    while let Some(piece) = stream.read_chunk() {
        bytes.extend(piece);
    }
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    let data = client::events(&text).into_iter().map(|(_, data)| data);
    let data = data.filter(|data| !data.is_empty() && data != "[DONE]");
    data.map(|data| serde_json::from_str(&data).unwrap_or_else(|_| panic!("{data}"))).collect()
}

#[test]
fn a_server_that_is_killed_in_the_middle_of_an_answer_is_not_missed() {
    let test = "a_server_that_is_killed_in_the_middle_of_an_answer_is_not_missed";
    let (Some(first), Some(second)) = (server(test), server(test)) else { return };
    let folder = tempfile::tempdir().unwrap();
    let config =
        write_config(folder.path(), &[first.address.to_string(), second.address.to_string()]);
    let mut check = binary::fungible(folder.path());
    let table = run(check.args(["gateway", "check"]).arg(&config)).success();
    assert_eq!(table.matches("ok ").count(), 2, "{table}");

    let gateway = gateway(&config);
    let ask = |model: &str| {
        json!({
            "model": model, "stream": true, "stream_options": {"include_usage": true}, "temperature": 0,
            "messages": [{"role": "user", "content": "Tell me a short story about a fox."}],
            "max_tokens": 120, "ignore_eos": true,
        })
    };
    let mut direct = post_stream(&second, CHAT, &ask(MODEL));
    assert_eq!(direct.read_head().0, 200);
    let direct = rest_of(&mut direct, Vec::new());
    let expected = told(&direct);

    let mut stream = post_stream(&gateway, CHAT, &ask("chat"));
    assert_eq!(stream.read_head().0, 200);
    let mut begun = Vec::new();
    for _ in 0..20 {
        begun.extend(stream.read_chunk().unwrap());
    }
    first.signal("-KILL");
    let chunks = rest_of(&mut stream, begun);
    let (text, ends, usage) = told(&chunks);
    assert_eq!((text, ends), (expected.0, expected.1));
    for count in ["prompt_tokens", "completion_tokens"] {
        assert_eq!(usage[count], expected.2[count]);
    }
    // One answer: of one number, one name, and what was not asked for is not shown.
    for chunk in &chunks {
        assert_eq!((&chunk["id"], &chunk["model"]), (&chunks[0]["id"], &json!("chat")));
        assert!(!chunk.to_string().contains("token_ids"), "{chunk}");
    }
    let roles = chunks.iter().filter(|chunk| chunk["choices"][0]["delta"]["role"].is_string());
    assert_eq!(roles.count(), 1);

    // It is known to be gone, and the gateway lives on.
    let mut check = binary::fungible(folder.path());
    let said = run(check.args(["gateway", "check"]).arg(&config));
    said.fails_with(&["1 of 2 backends cannot be used"]);
    assert_eq!(get(&gateway, "/ready").status, 200);
    gateway.signal("-HUP");
    let mut again = post_stream(&gateway, CHAT, &ask("chat"));
    assert_eq!(again.read_head().0, 200);
    let again = rest_of(&mut again, Vec::new());
    assert_eq!(told(&again).0, told(&chunks).0);
    gateway.signal("-TERM");
    let mut gateway = gateway;
    assert_eq!(gateway.wait().code(), Some(0), "{}", gateway.said());
}

/// Asks once; the name of the answer if all of it came.
fn ask_once(gateway: SocketAddr) -> Option<String> {
    let body = r#"{"model":"chat","messages":[{"role":"user","content":"hi"}],"max_tokens":5}"#;
    let request = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(gateway).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let length: usize = header("content-length")?.parse().ok()?;
    if body.len() < length {
        return None;
    }
    header("x-request-id")
}

#[test]
fn a_gateway_that_is_killed_under_load_has_written_down_what_was_answered() {
    let folder = tempfile::tempdir().unwrap();
    let mut backend = binary::fungible(folder.path());
    let backend = Running::launch(backend.args(["bench", "backend", "--port", "0"]));
    let config = write_config(folder.path(), &[backend.address.to_string()]);
    for round in 0..3 {
        let gateway = gateway(&config);
        let answered = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    while let Some(id) = ask_once(gateway.address) {
                        answered.lock().unwrap().push(id);
                    }
                });
            }
            while answered.lock().unwrap().len() < 300 {
                std::thread::yield_now();
            }
            gateway.signal("-KILL");
        });
        let file = folder.path().join(format!("records-{round}.csv"));
        let mut usage = binary::fungible(folder.path());
        let database = folder.path().join("gateway.db");
        usage.arg("usage").arg("--database").arg(&database).arg("--csv").arg(&file);
        run(&mut usage).success();
        let records = std::fs::read_to_string(&file).unwrap();
        // A record's name begins with the answer's.
        let records: HashSet<&str> =
            records.split([',', '\n']).filter_map(|field| field.get(..32)).collect();
        let answered = answered.into_inner().unwrap();
        let lost = answered.iter().filter(|id| !records.contains(id.as_str())).count();
        assert_eq!(lost, 0, "of {}", answered.len());
    }
}

#[test]
fn a_config_that_is_wrong_is_named_with_its_line() {
    let sandbox = Sandbox::new();
    let file = sandbox.path("gateway.toml");
    std::fs::write(&file, "[pools.a]\nbackend = []\n").unwrap();
    for command in [["gateway"].as_slice(), &["gateway", "check"]] {
        let (said, code) = run(sandbox.fungible().args(command).arg(&file)).failure();
        assert!(
            said.contains("gateway.toml:2: unknown key `backend`; did you mean `backends`?"),
            "{said}"
        );
        assert_eq!(code, 2);
    }
    let (said, _) = run(sandbox.fungible().args(["gateway", "nowhere.toml"])).failure();
    assert!(said.contains("nowhere.toml could not be read"), "{said}");
    // A port that is taken is known before anything is opened.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let text = format!(
        "listen = \"{address}\"\n[pools.a]\nbackends = [{{ url = \"http://127.0.0.1:1\" }}]\n[models.m]\npools = [\"a\"]\n"
    );
    std::fs::write(&file, text).unwrap();
    let (said, _) = run(sandbox.fungible().arg("gateway").arg(&file)).failure();
    assert!(said.contains("cannot be listened on"), "{said}");
    assert!(!sandbox.path("gateway.db").exists());
}
