//! An answer that broke off goes on elsewhere, and nothing of it is lost or said twice.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use support::marks::{WAITING, WAITS};
use support::{MODEL, Running, Script, get, post, post_stream, start};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "[r]hm, 考える[/r]Sure é\u{1f600}\n\nEND no [c:add]{\"a\": [1]}[/c]bye";

/// What a client has understood of a stream, piece by piece.
#[derive(Clone, Debug, Default, PartialEq)]
struct Understood {
    text: String,
    reasoning: String,
    calls: String,
    roles: usize,
    ids: Vec<u32>,
    finish: Value,
}

impl Understood {
    fn take(&mut self, chunk: &Value) {
        let choice = &chunk["choices"][0];
        let delta = &choice["delta"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        self.text += &text(&delta["content"]);
        self.text += &text(&choice["text"]);
        self.reasoning += &text(&delta["reasoning_content"]);
        self.roles += usize::from(delta.get("role").is_some());
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            self.calls += &text(&call["id"]);
            self.calls += &text(&call["function"]["name"]);
            self.calls += &text(&call["function"]["arguments"]);
        }
        for id in choice["token_ids"].as_array().into_iter().flatten() {
            self.ids.push(id.as_u64().unwrap() as u32);
        }
        if !choice["finish_reason"].is_null() {
            self.finish = choice["finish_reason"].clone();
        }
    }
}

fn check(server: &Running, path: &str, body: &Value) {
    let mut body = body.clone();
    body["stream"] = json!(true);
    body["return_token_ids"] = json!(true);
    body["seed"] = json!(1);
    let chunks = post(server, path, &body).chunks();
    let mut whole = Understood::default();
    chunks.iter().for_each(|chunk| whole.take(chunk));
    assert!(chunks.len() > 10 && !whole.finish.is_null(), "{whole:?}");
    // The stream breaks off after every chunk in turn.
    for broken in 1..chunks.len() {
        let mut understood = Understood::default();
        chunks[..broken].iter().for_each(|chunk| understood.take(chunk));
        if !understood.finish.is_null() {
            break;
        }
        body["continue_token_ids"] = json!(understood.ids);
        let rest = post(server, path, &body).chunks();
        rest.iter().for_each(|chunk| understood.take(chunk));
        // With no ids there is nothing to continue: a whole new answer, with its role.
        understood.roles = understood.roles.min(1);
        assert_eq!(understood, whole, "broken off after chunk {broken}");
    }
}

#[test]
fn a_chat_goes_on_after_any_chunk() {
    let server = start(Script::saying(TEXT));
    let tools = json!([{"type": "function", "function": {"name": "add"}}]);
    let messages = json!([{"role": "user", "content": "Hi"}]);
    let body = json!({"model": MODEL, "messages": messages, "tools": tools});
    check(&server, CHAT, &body);
    let mut stopped = body;
    // Held back and let go, and found at last.
    stopped["stop"] = json!(["\n\nENDED", "}[/c]b"]);
    check(&server, CHAT, &stopped);
    let mut short = stopped;
    short["max_tokens"] = json!(30);
    check(&server, CHAT, &short);
}

#[test]
fn a_completion_goes_on_after_any_chunk() {
    let server = start(Script::saying(TEXT));
    let body = json!({"prompt": "Once", "max_tokens": 500, "stop": "\n\nENDED"});
    check(&server, "/v1/completions", &body);
}

#[test]
fn the_engine_is_given_what_was_generated_elsewhere() {
    let server = start(Script::saying("one two three"));
    let ids = server.engine.encode("one two");
    let body = json!({"messages": [{"role": "user", "content": "Hi"}], "continue_token_ids": ids,
        "return_token_ids": true});
    // Nothing of a whole answer was sent before, so it is whole.
    let answer = post(&server, CHAT, &body).ok();
    assert_eq!(server.engine.last_seen().continued, ids);
    assert_eq!(answer["choices"][0]["message"]["content"], "one two three");
    let all = server.engine.encode("one two three");
    assert_eq!(answer["choices"][0]["token_ids"], json!(all));
    assert_eq!(answer["usage"]["completion_tokens"], all.len());
}

#[test]
fn an_answer_that_was_complete_already_ends_at_once() {
    let server = start(Script::saying("one two three"));
    let ask = |extra: Value| {
        let mut body = json!({"messages": [{"role": "user", "content": "Hi"}], "stream": true});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let chunks = post(&server, CHAT, &body).chunks();
        assert_eq!(chunks.len(), 1, "{chunks:?}");
        chunks[0]["choices"][0]["finish_reason"].clone()
    };
    let ids = server.engine.encode("one two");
    let mut ended = ids.clone();
    ended.push(support::END_TOKEN);
    assert_eq!(ask(json!({"continue_token_ids": ids, "max_tokens": ids.len()})), "length");
    assert_eq!(ask(json!({"continue_token_ids": ids, "stop": "two"})), "stop");
    assert_eq!(ask(json!({"continue_token_ids": ended})), "stop");
    assert!(server.engine.seen().is_empty());
}

#[test]
fn only_one_answer_can_go_on() {
    let server = start(Script::saying("x"));
    let chat = json!({"messages": [{"role": "user", "content": "Hi"}], "n": 2,
        "continue_token_ids": [5]});
    assert_eq!(post(&server, CHAT, &chat).error(400)["param"], "continue_token_ids");
    let prompts = json!({"prompt": ["a", "b"], "continue_token_ids": [5]});
    let error = post(&server, "/v1/completions", &prompts).error(400);
    assert_eq!(error["param"], "continue_token_ids");
    let response = json!({"input": "a", "continue_token_ids": [5]});
    let error = post(&server, "/v1/responses", &response).error(400);
    assert_eq!(error["param"], "continue_token_ids");
}

/// As many as there are threads for connections go on from a beginning that takes long to replay, and
/// others are answered all the same.
#[test]
fn replaying_a_grammar_holds_up_nobody() {
    struct Release;
    impl Drop for Release {
        fn drop(&mut self) {
            WAITING.0.lock().unwrap().1 = true;
            WAITING.1.notify_all();
        }
    }
    let server = start(Script::saying("one two three"));
    let release = Release;
    let ids = server.engine.encode("one");
    let body = json!({"prompt": "a", "guided_regex": WAITS, "continue_token_ids": ids});
    let mut waiting: Vec<_> =
        [(); 2].map(|()| post_stream(&server, "/v1/completions", &body)).into();
    drop(WAITING.1.wait_while(WAITING.0.lock().unwrap(), |state| state.0 < 2).unwrap());
    get(&server, "/health").ok();
    get(&server, "/v1/models").ok();
    drop(release);
    for connection in &mut waiting {
        let answer = connection.read_reply(true).ok();
        assert_eq!(answer["choices"][0]["text"], "one two three");
    }
}
