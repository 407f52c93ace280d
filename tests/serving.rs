//! `fungible serve` on the real model, as clients see it: what they rely on, what they do wrong, and
//! what is left of their answers when the server is asked to stop or is killed.

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

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use binary::fungible_with_kept_cache;
use client::{Connection, get, post, post_raw, post_stream, send};
use running::Running;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const MODEL: &str = "smollm2";
const CONTEXT: usize = 1024;

/// A server of the real model, once it is ready; `None` after saying that `test` is skipped.
fn start(test: &str, more: &[&str]) -> Option<Running> {
    let model = shared::smollm2(test)?;
    let mut command = fungible_with_kept_cache(test)?;
    command.arg("serve").arg(model).args(["--served-model-name", MODEL, "--port", "0"]);
    command.args(["--device", "cpu", "--context", "1024", "--max-num-seqs", "8"]);
    command.args(["--kv-cache-memory", "256M"]).args(more);
    Some(Running::launch(&mut command))
}

trait Metrics {
    fn metric(&self, name: &str) -> f64;
    fn settle(&self);
}

impl Metrics for Running {
    fn metric(&self, name: &str) -> f64 {
        let page = get(self, "/metrics");
        let line = page.text().lines().find(|line| line.starts_with(&format!("{name}{{")));
        line.unwrap_or_else(|| panic!("no {name}")).rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Waits until no request is left.
    fn settle(&self) {
        let busy = || {
            ["vllm:num_requests_running", "vllm:num_requests_waiting"]
                .map(|name| self.metric(name))
                .iter()
                .sum::<f64>()
        };
        while busy() > 0.0 {
            thread::yield_now();
        }
    }
}

fn question(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

fn with(mut body: Value, more: &Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// Greedy and of a fixed length unless `more` says otherwise.
fn story(more: &Value) -> Value {
    let messages = question("Tell me a short story about a fox.");
    with(json!({"messages": messages, "temperature": 0, "max_tokens": 24}), more)
}

fn content(answer: &Value) -> String {
    answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

/// A stream's text, its tokens and how it ended.
fn joined(chunks: &[Value]) -> (String, Vec<u64>, Vec<String>) {
    let (mut text, mut ids, mut ends) = (String::new(), Vec::new(), Vec::new());
    for choice in chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap()) {
        text += choice["delta"]["content"].as_str().unwrap_or_default();
        ids.extend(
            choice["token_ids"].as_array().into_iter().flatten().map(|id| id.as_u64().unwrap()),
        );
        ends.extend(choice["finish_reason"].as_str().map(str::to_owned));
    }
    (text, ids, ends)
}

fn capital(server: &Running) -> String {
    let body = json!({"prompt": "The capital of France is", "max_tokens": 8, "temperature": 0});
    let answer = post(server, COMPLETIONS, &body).ok();
    answer["choices"][0]["text"].as_str().unwrap().to_owned()
}

/// One server for all of it: most of the time goes into its start.
#[test]
fn clients_get_what_they_rely_on_and_errors_they_understand() {
    let test = "clients_get_what_they_rely_on_and_errors_they_understand";
    let Some(server) = start(test, &[]) else { return };
    let server = &server;
    assert_eq!(get(server, "/ready").status, 200);
    let tokens_before = server.metric("vllm:generation_tokens_total");
    assert!(capital(server).starts_with(" Paris"), "{}", capital(server));
    whole_and_streamed_answers_are_the_same(server);
    answers_go_on_where_they_broke_off(server);
    seeds_decide_whatever_else_runs(server);
    choices_log_probs_and_stop_strings(server);
    beginnings_are_remembered(server);
    structure_is_kept(server);
    embeddings_tokens_and_responses(server);
    the_page_is_there(server);
    nonsense_is_refused_and_harms_nobody(server);
    idle_and_slow_clients_harm_nobody(server);
    server.settle();
    assert!(server.metric("vllm:generation_tokens_total") > tokens_before + 100.0);
    assert_eq!(server.metric("fungible:kv_pages_used"), 0.0);
    assert_eq!(server.metric("fungible:compiled_after_ready_total"), 0.0);
    assert_eq!(server.metric("fungible:device_failures_total"), 0.0);
}

fn whole_and_streamed_answers_are_the_same(server: &Running) {
    let ask = story(&json!({"temperature": 0.8, "seed": 5}));
    let whole = post(server, CHAT, &ask).ok();
    let usage = &whole["usage"];
    assert_eq!(usage["completion_tokens"], 24);
    let total = usage["prompt_tokens"].as_u64().unwrap() + 24;
    assert_eq!(usage["total_tokens"], total);
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    let streamed = json!({"stream": true, "stream_options": {"include_usage": true}});
    let reply = post(server, CHAT, &with(ask, &streamed));
    assert_eq!(reply.events().last().unwrap().1, "[DONE]");
    let chunks = reply.chunks();
    let (text, _, ends) = joined(&chunks);
    assert_eq!((text, ends), (content(&whole), vec!["length".to_owned()]));
    let last = chunks.last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["total_tokens"], total);
}

fn answers_go_on_where_they_broke_off(server: &Running) {
    for sampling in [json!({}), json!({"temperature": 0.9, "seed": 11, "frequency_penalty": 0.5})] {
        let ask = with(story(&sampling), &json!({"stream": true, "return_token_ids": true}));
        let chunks = post(server, CHAT, &ask).chunks();
        let (text, ids, ends) = joined(&chunks);
        assert_eq!(ids.len(), 24, "{ids:?}");
        for broken in [2, chunks.len() / 2, chunks.len() - 2] {
            let (before, known, _) = joined(&chunks[..broken]);
            let rest = with(ask.clone(), &json!({"continue_token_ids": known}));
            let (after, new, ends_after) = joined(&post(server, CHAT, &rest).chunks());
            assert_eq!(before + &after, text, "broken off after {broken} chunks: {sampling}");
            assert_eq!(([known, new].concat(), &ends_after), (ids.clone(), &ends));
        }
    }
}

fn seeds_decide_whatever_else_runs(server: &Running) {
    let ask = |seed: u64| {
        let ask = story(&json!({"temperature": 1.2, "seed": seed}));
        content(&post(server, CHAT, &ask).ok())
    };
    let (alone, other) = (ask(1), ask(2));
    assert_ne!(alone, other);
    thread::scope(|scope| {
        let together: Vec<_> =
            (0..8).map(|index| scope.spawn(move || ask(1 + index % 2))).collect();
        for (index, text) in together.into_iter().enumerate() {
            let expected = if index % 2 == 0 { &alone } else { &other };
            assert_eq!(&text.join().unwrap(), expected);
        }
    });
}

fn choices_log_probs_and_stop_strings(server: &Running) {
    let ask = story(&json!({"n": 2, "logprobs": true, "top_logprobs": 3}));
    let answer = post(server, CHAT, &ask).ok();
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!((choices.len(), &choices[1]["index"]), (2, &json!(1)));
    assert_eq!(answer["usage"]["completion_tokens"], 48);
    assert_eq!(choices[0]["message"], choices[1]["message"]);
    let entries = choices[0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(entries.len(), 24);
    for entry in entries {
        let top = entry["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        // Greedy takes the likeliest.
        assert_eq!(entry["logprob"], top[0]["logprob"]);
        assert!(entry["logprob"].as_f64().unwrap() <= 0.0);
    }
    let text = content(&answer);
    let stop = text.split(' ').nth(5).unwrap();
    let stopped = post(server, CHAT, &story(&json!({"stop": [stop]}))).ok();
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    assert_eq!(content(&stopped), text[..text.find(stop).unwrap()]);
}

fn beginnings_are_remembered(server: &Running) {
    let prompt = "A list of all the rivers that run from the hills to the sea. ".repeat(20);
    let ask = json!({"prompt": prompt, "max_tokens": 4, "temperature": 0});
    let [first, second] = [(); 2].map(|()| post(server, COMPLETIONS, &ask).ok());
    let cached = |answer: &Value| {
        answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    assert_eq!(cached(&first), 0);
    let prompt_tokens = second["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(cached(&second) > prompt_tokens / 2 && cached(&second) < prompt_tokens, "{second}");
    assert_eq!(first["choices"][0]["text"], second["choices"][0]["text"]);
}

fn structure_is_kept(server: &Running) {
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "kind": {"enum": ["fox", "hen"]},
            "age": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["name", "kind", "age"],
        "additionalProperties": false,
    });
    let form = json!({"type": "json_schema",
        "json_schema": {"name": "animal", "schema": schema, "strict": true}});
    for sampling in [json!({}), json!({"temperature": 1.5, "seed": 3})] {
        let more = with(json!({"response_format": form, "max_tokens": 200}), &sampling);
        let answer = post(server, CHAT, &story(&more)).ok();
        assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
        let animal: Value = serde_json::from_str(&content(&answer)).unwrap();
        assert_eq!(animal.as_object().unwrap().len(), 3, "{animal}");
        assert!(animal["name"].as_str().unwrap().chars().count() <= 12, "{animal}");
        assert!(["fox", "hen"].contains(&animal["kind"].as_str().unwrap()), "{animal}");
        assert!(animal["age"].as_u64().unwrap() <= 99, "{animal}");
    }
    let number = json!({"type": "integer", "minimum": 0, "maximum": 99});
    let parameters = json!({"type": "object", "properties": {"a": number, "b": number},
        "required": ["a", "b"], "additionalProperties": false});
    let tools = json!([{"type": "function",
        "function": {"name": "add", "parameters": parameters}}]);
    let ask = json!({"messages": question("What is 2 + 3?"), "tools": tools, "temperature": 0,
        "tool_choice": "required", "parallel_tool_calls": false, "max_tokens": 200});
    let answer = post(server, CHAT, &ask).ok();
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
    let calls = choice["message"]["tool_calls"].as_array().unwrap();
    assert_eq!((calls.len(), &calls[0]["function"]["name"]), (1, &json!("add")));
    let given = calls[0]["function"]["arguments"].as_str().unwrap();
    let given: Value = serde_json::from_str(given).unwrap();
    assert!(given["a"].as_u64().unwrap() <= 99 && given["b"].as_u64().unwrap() <= 99, "{given}");
    assert_eq!(given.as_object().unwrap().len(), 2);
}

fn embeddings_tokens_and_responses(server: &Running) {
    assert_eq!(get(server, "/v1/models").ok()["data"][0]["id"], MODEL);
    let embed = |input: Value, format: &str| {
        let body = json!({"input": input, "encoding_format": format});
        post(server, "/v1/embeddings", &body).ok()["data"].clone()
    };
    let floats = embed(json!(["a fox", "a hen", "a fox"]), "float");
    let vector = |index: usize| floats[index]["embedding"].as_array().unwrap();
    assert!(vector(0).iter().all(|value| value.as_f64().is_some_and(f64::is_finite)));
    assert_eq!((vector(0).len(), vector(0)), (576, vector(2)));
    assert_ne!(vector(0), vector(1));
    // Four bytes a number, three bytes in four letters.
    let letters = embed(json!("a fox"), "base64")[0]["embedding"].as_str().unwrap().len();
    assert_eq!(letters, 576 * 4 / 3 * 4);
    let tokens =
        post(server, "/tokenize", &json!({"prompt": "a fox, Füchse"})).ok()["tokens"].clone();
    let text = post(server, "/detokenize", &json!({"tokens": tokens})).ok();
    assert_eq!(text["prompt"], "a fox, Füchse");
    let ask = json!({"input": "Say hello.", "max_output_tokens": 8, "temperature": 0});
    let answer = post(server, "/v1/responses", &ask).ok();
    assert_eq!(answer["usage"]["output_tokens"].as_u64().unwrap().min(8), 8, "{answer}");
}

fn the_page_is_there(server: &Running) {
    let page = get(server, "/");
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").unwrap().starts_with("text/html"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'"), "{policy}");
    assert!(page.text().contains("<html"));
}

/// While one client does wrong, another is answered as before.
fn beside_a_witness(server: &Running, wrong: impl FnOnce()) {
    let expected = capital(server);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let witness = scope.spawn(|| {
            loop {
                let is_last = over.load(Ordering::Relaxed);
                assert_eq!(capital(server), expected);
                if is_last {
                    return;
                }
            }
        });
        wrong();
        over.store(true, Ordering::Relaxed);
        witness.join().unwrap();
    });
}

fn nonsense_is_refused_and_harms_nobody(server: &Running) {
    beside_a_witness(server, || {
        let refused = |more: &Value| post(server, CHAT, &story(more)).error(400);
        let unknown = post(server, CHAT, &story(&json!({"model": "nobody"}))).error(404);
        assert_eq!(unknown["code"], "model_not_found");
        let long = refused(&json!({"messages": question(&"word ".repeat(CONTEXT))}));
        assert_eq!(long["code"], "context_length_exceeded");
        let far = json!({"prompt": "word ".repeat(2_000_000), "max_tokens": 1});
        let far = post(server, COMPLETIONS, &far).error(400);
        assert_eq!(far["code"], "context_length_exceeded");
        post_raw(server, CHAT, b"{\"messages\": [").error(400);
        post_raw(server, CHAT, b"{\"messages\": \"\xff\xfe\"}").error(400);
        post_raw(server, CHAT, "[".repeat(1 << 20).as_bytes()).error(400);
        let picture = json!([{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%"}}]}]);
        refused(&json!({"messages": picture}));
        let unknown_token = json!({"prompt": [1, 4_000_000_000u32], "max_tokens": 1});
        post(server, COMPLETIONS, &unknown_token).error(400);
        let format = json!({"input": "a", "encoding_format": "base65"});
        assert_eq!(post(server, "/v1/embeddings", &format).error(400)["param"], "encoding_format");
        for (field, value) in [("temperature", json!(-1)), ("top_p", json!(2)), ("n", json!(0))] {
            assert_eq!(refused(&json!({ field: value }))["param"], field);
        }
        let named = |name: usize| (format!("field_{name}"), json!({"type": "string"}));
        let huge: serde_json::Map<String, Value> = (0..200_000).map(named).collect();
        for schema in [
            json!(false),
            json!({"type": "string", "pattern": "("}),
            json!({"type": "integer", "minimum": 5, "maximum": 4}),
            json!({"type": "object", "properties": huge}),
        ] {
            let form =
                json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
            let error = refused(&json!({ "response_format": form }));
            assert_eq!(error["code"], "invalid_structure", "{error}");
        }
    });
}

fn idle_and_slow_clients_harm_nobody(server: &Running) {
    beside_a_witness(server, || {
        // Nearly as many as a process may have as a rule, here and there.
        let idle: Vec<TcpStream> =
            (0..900).map(|_| TcpStream::connect(server.address).unwrap()).collect();
        // Its window is soon full.
        let endless = json!({"stream": true, "max_tokens": 900, "ignore_eos": true, "n": 4,
            "logprobs": true, "top_logprobs": 20});
        let mut slow = post_stream(server, CHAT, &story(&endless));
        assert_eq!(slow.read_head().0, 200);
        // Half a head, and a body that does not come.
        let mut half = TcpStream::connect(server.address).unwrap();
        half.write_all(b"POST /v1/chat/comp").unwrap();
        let mut bodiless = Connection::to(server.address);
        bodiless.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n{");
        let answers: Vec<String> = (0..4).map(|_| capital(server)).collect();
        assert!(answers.iter().all(|answer| answer == &answers[0]));
        drop((idle, slow, half, bodiless));
    });
}

/// With keys; killed and started again; asked to stop while it is at work.
#[test]
fn a_server_that_is_killed_comes_back_and_one_that_is_stopped_finishes() {
    let test = "a_server_that_is_killed_comes_back_and_one_that_is_stopped_finishes";
    let key = ["--api-key", "the-key", "--drain-seconds", "600"];
    let Some(mut first) = start(test, &key) else { return };
    let ask = story(&json!({})).to_string();
    let authorized = [("content-type", "application/json"), ("authorization", "Bearer the-key")];
    for headers in [&authorized[..1], &[authorized[0], ("authorization", "Bearer the-kez")]] {
        let refused = send(&first, "POST", CHAT, headers, ask.as_bytes());
        assert_eq!(refused.error(401)["code"], "invalid_api_key");
    }
    let answer =
        |server: &Running| content(&send(server, "POST", CHAT, &authorized, ask.as_bytes()).ok());
    let text = answer(&first);
    // In the middle of an answer.
    let endless =
        story(&json!({"stream": true, "max_tokens": 800, "ignore_eos": true})).to_string();
    let begin = |server: &Running, body: &str| {
        let mut stream = Connection::to(server.address);
        stream.request("POST", CHAT, &authorized, body.as_bytes());
        assert_eq!(stream.read_head().0, 200);
        stream.read_chunk().unwrap();
        stream
    };
    let stream = begin(&first, &endless);
    first.signal("-KILL");
    assert_eq!(first.wait().code(), None);
    drop(stream);

    let mut second = start(test, &key).unwrap();
    let seconds = second.seconds_to_ready;
    let _ = writeln!(std::io::stderr(), "ready again {seconds:.1} s after it was killed");
    assert_eq!(answer(&second), text);

    let long = story(&json!({"stream": true, "max_tokens": 160, "ignore_eos": true})).to_string();
    let mut streams: Vec<Connection> = (0..8).map(|_| begin(&second, &long)).collect();
    second.signal("-TERM");
    // The signal may take a moment to arrive; until then requests are taken.
    let short = story(&json!({"max_tokens": 1})).to_string();
    let last_words = loop {
        let reply = send(&second, "POST", CHAT, &authorized, short.as_bytes());
        if reply.status != 200 {
            break reply;
        }
    };
    assert_eq!(last_words.error(503)["code"], "stopping");
    for stream in &mut streams {
        let mut rest = Vec::new();
        while let Some(piece) = stream.read_chunk() {
            rest.extend(piece);
        }
        let rest = String::from_utf8(rest).unwrap();
        assert!(rest.contains("\"finish_reason\":\"length\""), "{rest}");
        assert!(rest.ends_with("data: [DONE]\n\n"), "{rest}");
    }
    assert_eq!(second.wait().code(), Some(0));
}
