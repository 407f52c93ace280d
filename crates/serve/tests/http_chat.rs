//! Chats, whole and as streams.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use support::{MODEL, Script, get, post, start};

const PATH: &str = "/v1/chat/completions";

fn ask(extra: Value) -> Value {
    let mut body = json!({"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

#[test]
fn a_whole_answer_has_all_that_clients_read() {
    let server = start(Script { cached_tokens: 5, ..Script::saying("Hello there!") });
    let reply = post(&server, PATH, &ask(json!({"seed": 7, "user": "me"})));
    let answer = reply.ok();
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], MODEL);
    assert_eq!(answer["system_fingerprint"], "fp_test");
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!(choice["message"]["content"], "Hello there!");
    assert_eq!(choice["finish_reason"], "stop");
    assert_eq!(choice["logprobs"], Value::Null);
    let seen = server.engine.last_seen();
    let rendered = "<|im_start|>system\nYou are a tiny model.<|im_end|>\n<|im_start|>user\nHi\
                    <|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(server.engine.tokenizer.decode(&seen.prompt, false).unwrap(), rendered);
    assert_eq!((seen.sampling.seed, seen.owner.as_str()), (7, "me"));
    assert_eq!(seen.max_tokens, 4096 - seen.prompt.len());
    let answer_tokens = server.engine.encode("Hello there!").len();
    let usage = &answer["usage"];
    assert_eq!(usage["prompt_tokens"], seen.prompt.len());
    assert_eq!(usage["completion_tokens"], answer_tokens);
    assert_eq!(usage["total_tokens"], seen.prompt.len() + answer_tokens);
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 5);
}

#[test]
fn a_stream_is_exactly_this() {
    let server = start(Script::saying("Hé\n"));
    let body = ask(json!({"stream": true, "stream_options": {"include_usage": true}}));
    let reply = post(&server, PATH, &body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    let chunks = reply.chunks();
    let id = chunks[0]["id"].as_str().unwrap();
    let created = chunks[0]["created"].as_u64().unwrap();
    let chunk = |rest: String| {
        format!(
            "data: {{\"id\":\"{id}\",\"object\":\"chat.completion.chunk\",\"created\":{created},\
             \"model\":\"tiny\",\"system_fingerprint\":\"fp_test\",{rest}}}\n\n"
        )
    };
    let piece = |delta: &str| {
        chunk(format!(
            "\"choices\":[{{\"index\":0,\"delta\":{delta},\"logprobs\":null,\
             \"finish_reason\":null}}],\"usage\":null"
        ))
    };
    let prompt = server.engine.last_seen().prompt.len();
    let answer = server.engine.encode("Hé\n").len();
    let expected = [
        piece("{\"role\":\"assistant\",\"content\":\"\"}"),
        piece("{\"content\":\"H\"}"),
        piece("{\"content\":\"é\"}"),
        piece("{\"content\":\"\\n\"}"),
        chunk(
            "\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\",\
             \"stop_reason\":null}],\"usage\":null"
                .to_owned(),
        ),
        chunk(format!(
            "\"choices\":[],\"usage\":{{\"prompt_tokens\":{prompt},\"completion_tokens\":{answer},\
             \"total_tokens\":{},\"prompt_tokens_details\":{{\"cached_tokens\":0}},\
             \"completion_tokens_details\":{{\"reasoning_tokens\":0}}}}",
            prompt + answer
        )),
        "data: [DONE]\n\n".to_owned(),
    ];
    assert_eq!(reply.text(), expected.concat());
}

#[test]
fn models_are_listed_and_the_server_is_ready() {
    let server = start(Script::saying("x"));
    let list = get(&server, "/v1/models").ok();
    assert_eq!(list["data"][0]["id"], MODEL);
    assert_eq!(get(&server, "/health").status, 200);
    assert_eq!(get(&server, "/ready").status, 200);
    let metrics = get(&server, "/metrics");
    assert!(metrics.text().contains("vllm:num_requests_running{model_name=\"tiny\"} 3\n"));
}
