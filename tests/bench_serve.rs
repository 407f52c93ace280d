//! `fungible bench serve` as a user runs it, against a server of a few lines.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/binary.rs"]
mod binary;
#[path = "support/mod.rs"]
mod shared;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;

use binary::{Sandbox, run};
use serde_json::{Value, json};

/// The address of a server that streams as many tokens as are asked for, or never answers.
fn server(silent: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream, silent));
        }
    });
    address
}

fn serve(stream: TcpStream, silent: bool) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).ok()?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? <= 2 {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let words = body["prompt"].as_str().unwrap_or_default().split(' ').count();
    let answer = match first.split(' ').nth(1)? {
        "/v1/models" => json!({"data": [{"id": "tiny"}]}).to_string(),
        "/tokenize" => json!({"count": words + 1}).to_string(),
        // Until the client gives up.
        _ if silent => return reader.read(&mut [0]).ok().map(|_| ()),
        _ => {
            let count = body["max_tokens"].as_u64()?;
            let token = json!({"choices": [{"text": "a"}]});
            let usage = json!({"prompt_tokens": words + 1, "completion_tokens": count});
            let mut events = format!("data: {token}\n\n").repeat(count as usize);
            events += &format!("data: {}\n\n", json!({"choices": [], "usage": usage}));
            events + "data: [DONE]\n\n"
        }
    };
    let length = answer.len();
    let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    reader.get_mut().write_all((head + &answer).as_bytes()).ok()
}

fn bench(sandbox: &Sandbox, arguments: &[&str]) -> Command {
    let mut command = sandbox.fungible();
    command.env_remove("OPENAI_API_KEY");
    command.args(["bench", "serve"]).args(arguments);
    command
}

#[test]
fn figures_come_as_table_json_and_picture() {
    let (sandbox, server) = (Sandbox::new(), server(false));
    let paths = ["load.json", "load.svg", "load.html"].map(|name| sandbox.path(name));
    let [json, svg, html] = paths.each_ref().map(|path| path.to_str().unwrap());
    let arguments = [
        &server,
        "--input",
        "32",
        "--output",
        "5",
        "--concurrency",
        "1,3",
        "--requests",
        "6",
        "--slo",
        "ttft=60s",
        "--json",
        json,
        "--plot",
        svg,
    ];
    let table = run(&mut bench(&sandbox, &arguments)).success();
    for part in ["1 client", "3 clients", "output tokens/s", "TTFT p99, ms", "100.0 %"] {
        assert!(table.contains(part), "{part} is not in {table}");
    }
    let figures: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!((&figures["model"], &figures["endpoint"]), (&json!("tiny"), &json!("completions")));
    for level in figures["levels"].as_array().unwrap() {
        assert_eq!((&level["succeeded"], &level["failed"]), (&json!(6), &json!(0)));
        assert_eq!((&level["input_tokens"], &level["output_tokens"]), (&json!(192), &json!(30)));
        assert_eq!(level["goodput"]["requests"], 6);
    }
    assert!(std::fs::read_to_string(svg).unwrap().starts_with("<svg"));
    let arguments = [
        &server,
        "--rate",
        "200",
        "--requests",
        "4",
        "--output",
        "2",
        "--json",
        "-",
        "--plot",
        html,
    ];
    let figures = run(&mut bench(&sandbox, &arguments)).json();
    assert_eq!(figures["levels"][0]["rate"], 200.0);
    assert!(std::fs::read_to_string(html).unwrap().contains("200/s"));
}

#[test]
fn what_is_wrong_is_said() {
    let (sandbox, server) = (Sandbox::new(), server(true));
    run(&mut bench(&sandbox, &["127.0.0.1:9"])).fails_with(&["cannot reach http://127.0.0.1:9"]);
    let slo = run(&mut bench(&sandbox, &[&server, "--slo", "ttft=5"]));
    assert!(slo.code == Some(2) && slo.stderr.contains("ttft=500ms"), "{slo:?}");
    let file = sandbox.path("prompts.jsonl");
    std::fs::write(&file, "{\"prompt\": \"a\"}\n{\"text\": \"b\"}\n").unwrap();
    let file = file.to_str().unwrap();
    let dataset = run(&mut bench(&sandbox, &[&server, "--dataset", file]));
    dataset.fails_with(&["line 2 of the data set has neither"]);
    let arguments = [&server, "--timeout", "0.05", "--requests", "1", "--concurrency", "1"];
    let late = run(&mut bench(&sandbox, &arguments));
    late.fails_with(&["no request succeeded"]);
    assert!(late.stderr.contains("1 failed: no end within the time limit"), "{late:?}");
}

/// Ctrl-C shows what there is.
#[test]
fn an_interrupted_measurement_is_shown() {
    let (sandbox, server) = (Sandbox::new(), server(true));
    let mut command = bench(&sandbox, &[&server, "--warm-up", "0", "--concurrency", "2"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    // The measurement has begun.
    assert!(lines.any(|line| line.unwrap().starts_with("concurrency 2")));
    let process = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &process]).status().unwrap().success());
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{rest:?}");
    assert!(rest[0].starts_with("stopping"), "{rest:?}");
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("requests dropped  2"), "{table}");
}
