//! The interface for responses.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use support::{MODEL, Script, post, start};

const PATH: &str = "/v1/responses";

fn tools() -> Value {
    json!([{"type": "function", "name": "add", "parameters": {"type": "object"}}])
}

#[test]
fn a_whole_response_has_its_items() {
    let server = start(Script::saying("[r]hm[/r]Well[c:add]{\"a\":1}[/c]"));
    let body = json!({"model": MODEL, "input": "Hi", "instructions": "Be brief.", "tools": tools(),
        "metadata": {"a": "b"}, "max_output_tokens": 300});
    let response = post(&server, PATH, &body).ok();
    assert_eq!(
        (&response["object"], &response["status"]),
        (&json!("response"), &json!("completed"))
    );
    assert_eq!(response["instructions"], "Be brief.");
    assert_eq!(response["metadata"], json!({"a": "b"}));
    assert_eq!((&response["store"], &response["error"]), (&json!(false), &Value::Null));
    let output = response["output"].as_array().unwrap();
    let kinds: Vec<&Value> = output.iter().map(|item| &item["type"]).collect();
    assert_eq!(kinds, ["reasoning", "message", "function_call"]);
    assert_eq!(output[0]["content"][0]["text"], "hm");
    let part = json!({"type": "output_text", "text": "Well", "annotations": [], "logprobs": []});
    assert_eq!(output[1]["content"], json!([part]));
    assert_eq!((&output[2]["name"], &output[2]["call_id"]), (&json!("add"), &json!("call_0")));
    assert_eq!(output[2]["arguments"], "{\"a\":1}");
    let seen = server.engine.last_seen();
    assert_eq!(seen.max_tokens, 300);
    assert_eq!(response["usage"]["input_tokens"], seen.prompt.len());
    let prompt = server.engine.tokenizer.decode(&seen.prompt, false).unwrap();
    assert!(prompt.starts_with("<|im_start|>system\nBe brief.<|im_end|>"), "{prompt}");
}

#[test]
fn events_come_in_order_and_numbered() {
    let server = start(Script::saying("[r]h[/r]Hé[c:add]{}[/c]"));
    let body = json!({"input": "Hi", "stream": true, "tools": tools()});
    let reply = post(&server, PATH, &body);
    let events = reply.events();
    let mut names = Vec::new();
    for (number, (name, data)) in events.iter().enumerate() {
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["sequence_number"], number);
        assert_eq!(data["type"], name.as_deref().unwrap());
        names.push(name.clone().unwrap().trim_start_matches("response.").to_owned());
    }
    names.dedup();
    let expected = [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ];
    assert_eq!(names, expected);
    let chunks = reply.chunks();
    let text: String = chunks
        .iter()
        .filter(|event| event["type"] == "response.output_text.delta")
        .map(|event| event["delta"].as_str().unwrap())
        .collect();
    assert_eq!(text, "Hé");
    let places: Vec<&Value> = chunks.iter().filter_map(|event| event.get("output_index")).collect();
    assert!(places.is_sorted_by_key(|place| place.as_u64().unwrap()));
    // The last word is the whole response, as it would have come without a stream.
    let last = chunks.last().unwrap()["response"].clone();
    let whole = post(&server, PATH, &json!({"input": "Hi", "tools": tools()})).ok();
    assert_eq!(last["output"].as_array().unwrap().len(), 3);
    assert_eq!(last["usage"], whole["usage"]);
    assert_eq!(last["output"][1]["content"], whole["output"][1]["content"]);
    assert_eq!(last["output"][2]["arguments"], whole["output"][2]["arguments"]);
}

#[test]
fn an_answer_that_is_cut_off_is_incomplete() {
    let server = start(Script::saying("one two three"));
    let body = json!({"input": "Hi", "max_output_tokens": 2});
    let response = post(&server, PATH, &body).ok();
    assert_eq!(response["status"], "incomplete");
    assert_eq!(response["incomplete_details"], json!({"reason": "max_output_tokens"}));
    let mut streamed = body;
    streamed["stream"] = json!(true);
    let (name, _) = post(&server, PATH, &streamed).events().pop().unwrap();
    assert_eq!(name.as_deref(), Some("response.incomplete"));
}

#[test]
fn a_failure_is_the_last_event() {
    let mut script = Script::saying("one two three");
    script.failure = Some((2, serve::engine::Failure::NotFinite { position: 9 }));
    let server = start(script);
    let reply = post(&server, PATH, &json!({"input": "Hi", "stream": true}));
    let last = reply.chunks().pop().unwrap();
    assert_eq!(last["type"], "response.failed");
    assert_eq!(last["response"]["status"], "failed");
    assert!(last["response"]["error"]["message"].as_str().unwrap().contains("token 9"));
}

#[test]
fn the_input_is_a_conversation_with_calls() {
    let server = start(Script::saying("x"));
    let input = json!([
        {"role": "user", "content": [{"type": "input_text", "text": "1+1?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "role": "assistant", "content": "Let me see."},
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": "{\"a\":1}"},
        {"type": "function_call", "call_id": "c2", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "2"},
    ]);
    post(&server, PATH, &json!({"input": input})).ok();
    let seen = server.engine.last_seen();
    let prompt = server.engine.tokenizer.decode(&seen.prompt, false).unwrap();
    let expected = "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\nLet me see.<|im_end|>\n\
                    <|im_start|>tool\n2<|im_end|>\n<|im_start|>assistant\n";
    assert!(prompt.ends_with(expected), "{prompt}");
}

#[test]
fn what_would_have_to_be_kept_is_refused() {
    let server = start(Script::saying("x"));
    for (extra, param) in [
        (json!({"previous_response_id": "resp_1"}), "previous_response_id"),
        (json!({"background": true}), "background"),
        (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
        (json!({"input": [{"type": "item_reference", "id": "x"}]}), "input[0].type"),
        (json!({"input": []}), "input"),
        (json!({"input": [{"type": "reasoning"}]}), "input"),
        (
            json!({"input": [{"type": "function_call", "call_id": "1", "name": "f"}]}),
            "input[0].arguments",
        ),
        (json!({"input": 5}), "input"),
        (json!({"text": {"format": {"type": "yaml"}}}), "text.format.type"),
    ] {
        let mut body = json!({"input": "Hi"});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        assert_eq!(post(&server, PATH, &body).error(400)["param"], param, "{extra}");
    }
}

#[test]
fn log_probs_lie_in_the_text_parts() {
    let server = start(Script::saying("Hé"));
    let include = json!(["message.output_text.logprobs"]);
    let body = json!({"input": "Hi", "include": include, "top_logprobs": 1});
    let response = post(&server, PATH, &body).ok();
    let log_probs = response["output"][0]["content"][0]["logprobs"].as_array().unwrap();
    assert_eq!(log_probs.len(), server.engine.encode("Hé").len());
    assert_eq!(log_probs[0]["top_logprobs"].as_array().unwrap().len(), 1);
}
