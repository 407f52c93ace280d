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

#[test]
fn reasoning_and_calls_are_taken_out_of_the_text() {
    let text = "[r]hm[/r]Well[c:add]{\"a\":1}[/c][c:sub]{}[/c]";
    let server = start(Script::saying(text));
    let tools = json!([
        {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}},
        {"type": "function", "function": {"name": "sub", "description": "takes off"}},
    ]);
    let answer = post(&server, PATH, &ask(json!({"tools": tools}))).ok();
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], "Well");
    assert_eq!(choice["message"]["reasoning_content"], "hm");
    let calls = &choice["message"]["tool_calls"];
    let function = json!({"name": "add", "arguments": "{\"a\":1}"});
    assert_eq!(calls[0], json!({"id": "call_0", "type": "function", "function": function}));
    assert_eq!(calls[1]["function"]["name"], "sub");
    assert!(answer["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap() > 0);

    let streamed = post(&server, PATH, &ask(json!({"tools": tools, "stream": true})));
    let mut first = None;
    let mut arguments = String::new();
    for chunk in streamed.chunks() {
        for call in chunk["choices"][0]["delta"]["tool_calls"].as_array().into_iter().flatten() {
            if call["index"] != 0 {
                continue;
            }
            if first.is_none() {
                first = Some(call.clone());
            } else {
                assert_eq!((call.get("id"), call["function"].get("name")), (None, None));
            }
            arguments.push_str(call["function"]["arguments"].as_str().unwrap());
        }
    }
    let first = first.unwrap();
    assert_eq!((&first["id"], &first["function"]["name"]), (&json!("call_0"), &json!("add")));
    assert_eq!(first["type"], "function");
    assert_eq!(arguments, "{\"a\":1}");
    let last = streamed.chunks().pop().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "tool_calls");
}

#[test]
fn tools_decide_whether_the_answer_is_constrained() {
    let server = start(Script::saying("x"));
    let tool = |strict| json!([{"type": "function", "function": {"name": "f", "strict": strict}}]);
    for (body, constrained) in [
        (json!({"tools": tool(false)}), false),
        (json!({"tools": tool(true)}), true),
        (json!({"tools": tool(true), "tool_choice": "none"}), false),
        (json!({"tools": tool(false), "tool_choice": "required"}), true),
        (
            json!({"tools": tool(false),
                "tool_choice": {"type": "function", "function": {"name": "f"}}}),
            true,
        ),
        (json!({"response_format": {"type": "json_object"}}), true),
        (json!({"response_format": {"type": "text"}}), false),
        (json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}), true),
        (json!({"guided_regex": "a+"}), true),
        (json!({"structured_outputs": {"choice": ["a", "b"]}}), true),
    ] {
        post(&server, PATH, &ask(body.clone())).ok();
        assert_eq!(server.engine.last_seen().has_constraint, constrained, "{body}");
    }
}

#[test]
fn every_choice_is_a_request_of_its_own() {
    let mut script = Script::saying("one");
    script.texts = vec!["one".to_owned(), "four".to_owned()];
    script.cached_tokens = 3;
    let server = start(script);
    let answer = post(&server, PATH, &ask(json!({"n": 2, "seed": 40}))).ok();
    let contents: Vec<&Value> =
        answer["choices"].as_array().unwrap().iter().map(|c| &c["message"]["content"]).collect();
    assert_eq!(contents, [&json!("one"), &json!("four")]);
    let seen = server.engine.seen();
    assert_eq!(seen.iter().map(|seen| seen.sampling.seed).collect::<Vec<_>>(), [40, 41]);
    let tokens = server.engine.encode("one").len() + server.engine.encode("four").len();
    assert_eq!(answer["usage"]["completion_tokens"], tokens);
    assert_eq!(answer["usage"]["prompt_tokens"], seen[0].prompt.len());
    assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 3);
    let streamed = post(&server, PATH, &ask(json!({"n": 3, "stream": true}))).chunks();
    for index in 0..3 {
        let of_index = |chunk: &&Value| chunk["choices"][0]["index"] == index;
        let last = streamed.iter().rfind(of_index).unwrap();
        assert_eq!(last["choices"][0]["finish_reason"], "stop");
    }
}

#[test]
fn log_probs_have_tokens_and_their_bytes() {
    let server = start(Script::saying("Hé"));
    let body = ask(json!({"logprobs": true, "top_logprobs": 2}));
    let answer = post(&server, PATH, &body).ok();
    let content = answer["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    let bytes: Vec<u8> = content
        .iter()
        .flat_map(|entry| entry["bytes"].as_array().unwrap())
        .map(|byte| byte.as_u64().unwrap() as u8)
        .collect();
    assert_eq!(bytes, "Hé".as_bytes());
    assert_eq!(content[0]["token"], "H");
    assert_eq!(content[0]["logprob"], -0.5);
    let top = content[0]["top_logprobs"].as_array().unwrap();
    assert_eq!((top.len(), &top[0]["token"]), (2, &json!("H")));
    // The same in a stream, each with the chunk that its token came in.
    let mut streaming = body;
    streaming["stream"] = json!(true);
    let chunks = post(&server, PATH, &streaming).chunks();
    let streamed: Vec<Value> = chunks
        .iter()
        .flat_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array().cloned())
        .flatten()
        .collect();
    assert_eq!(streamed, content);
}

#[test]
fn stop_strings_wait_for_the_least_tokens() {
    let script = Script { endless: true, ..Script::saying("one two, one two, ") };
    let server = start(script);
    let period = server.engine.encode("one two, one two, ").len();
    let first = server.engine.encode("one two").len();
    for stream in [false, true] {
        let given = |min: usize, stop: &str| {
            let reply = post(
                &server,
                PATH,
                &ask(json!({"stop": stop, "min_tokens": min,
                "max_tokens": 4 * period, "stream": stream})),
            );
            if !stream {
                return reply.ok()["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
            }
            let content = |chunk: &Value| {
                chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned()
            };
            reply.chunks().iter().map(content).collect()
        };
        assert_eq!(given(0, "two"), "one ");
        // It must end behind them: the token that completes it is not one of the least.
        assert_eq!(given(first - 1, "two"), "one ");
        assert_eq!(given(first, "two"), "one two, one ");
        assert_eq!(given(period, "two"), "one two, one two, one ");
        // It may have begun among them.
        assert_eq!(given(first, "two, one"), "one ");
    }
}

#[test]
fn stop_strings_end_an_answer_and_cancel_the_rest() {
    let mut script = Script::saying("one two three");
    script.endless = true;
    let server = start(script);
    let body = ask(json!({"stop": ["four", " three"], "max_tokens": 500}));
    let answer = post(&server, PATH, &body).ok();
    assert_eq!(answer["choices"][0]["message"]["content"], "one two");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["choices"][0]["stop_reason"], " three");
    server.engine.wait_for_cancelled(1);
    let streamed = post(&server, PATH, &ask(json!({"stop": " three", "stream": true})));
    let text: String = streamed
        .chunks()
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(text, "one two");
}

#[test]
fn limits_and_ends_have_their_reasons() {
    let server = start(Script::saying("one two three"));
    let reason = |extra: Value| {
        let answer = post(&server, PATH, &ask(extra)).ok();
        answer["choices"][0]["finish_reason"].clone()
    };
    assert_eq!(reason(json!({"max_tokens": 2})), "length");
    assert_eq!(reason(json!({"max_completion_tokens": 2, "max_tokens": 500})), "length");
    assert_eq!(reason(json!({"max_tokens": null})), "stop");
    assert_eq!(reason(json!({"ignore_eos": true})), "length");
    let token = server.engine.encode(" two")[0];
    let answer = post(&server, PATH, &ask(json!({"stop_token_ids": [token]}))).ok();
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["choices"][0]["stop_reason"], token);
}

#[test]
fn messages_come_in_many_forms() {
    let server = start(Script::saying("x"));
    let prompt_of = |messages: Value, extra: Value| {
        let mut body = ask(extra);
        body["messages"] = messages;
        post(&server, PATH, &body).ok();
        let seen = server.engine.last_seen();
        server.engine.tokenizer.decode(&seen.prompt, false).unwrap()
    };
    let parts = json!([
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "42"},
    ]);
    let prompt = prompt_of(parts, json!({}));
    let expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na\nb<|im_end|>\n\
                    <|im_start|>assistant\n<|im_end|>\n<|im_start|>tool\n42<|im_end|>\n\
                    <|im_start|>assistant\n";
    assert_eq!(prompt, expected);
    let open = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "Once "}]);
    let continued = json!({"add_generation_prompt": false, "continue_final_message": true});
    assert!(prompt_of(open.clone(), continued).ends_with("<|im_start|>assistant\nOnce"));
    let ended = prompt_of(open, json!({"add_generation_prompt": false}));
    assert!(ended.ends_with("Once<|im_end|>\n"), "{ended}");
}

#[test]
fn failures_after_the_beginning_are_events() {
    let mut script = Script::saying("one two three");
    script.failure = Some((3, serve::engine::Failure::Device("it is gone".to_owned())));
    let server = start(script);
    let whole = post(&server, PATH, &ask(json!({}))).error(500);
    assert_eq!(whole["type"], "server_error");
    let reply = post(&server, PATH, &ask(json!({"stream": true})));
    assert_eq!(reply.status, 200);
    let last = reply.events().pop().unwrap().1;
    let last: Value = serde_json::from_str(&last).unwrap();
    assert_eq!(last["error"]["message"], "the device failed: it is gone");
}
