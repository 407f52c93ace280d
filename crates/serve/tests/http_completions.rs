//! Completions, embeddings, token ids, models and adapters.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use serve::http::ServerSettings;
use support::{MODEL, Script, get, post, start, start_with};

const PATH: &str = "/v1/completions";

#[test]
fn prompts_are_texts_or_token_ids_one_or_several() {
    let server = start(Script::saying(" time"));
    for (prompt, count) in [
        (json!("Once"), 1),
        (json!(["Once", "Twice"]), 2),
        (json!([5, 6.0, 7]), 1),
        (json!([[5, 6], [7]]), 2),
    ] {
        let answer = post(&server, PATH, &json!({"prompt": prompt})).ok();
        let choices = answer["choices"].as_array().unwrap();
        assert_eq!(choices.len(), count, "{prompt}");
        for (index, choice) in choices.iter().enumerate() {
            assert_eq!((&choice["index"], &choice["text"]), (&json!(index), &json!(" time")));
        }
    }
    assert_eq!(server.engine.last_seen().prompt, [7]);
    let limit = server.engine.last_seen().max_tokens;
    assert_eq!(limit, 16, "OpenAI's default");
}

#[test]
fn a_stream_is_exactly_this() {
    let server = start(Script::saying("Hé"));
    let reply = post(&server, PATH, &json!({"prompt": "a", "stream": true, "echo": true}));
    let first = &reply.chunks()[0];
    let (id, created) = (first["id"].as_str().unwrap(), first["created"].as_u64().unwrap());
    assert!(id.starts_with("cmpl-"));
    let chunk = |text: &str, finish: &str| {
        format!(
            "data: {{\"id\":\"{id}\",\"object\":\"text_completion\",\"created\":{created},\
             \"model\":\"tiny\",\"system_fingerprint\":\"fp_test\",\"choices\":[{{\"index\":0,\
             \"text\":\"{text}\",\"logprobs\":null,\"finish_reason\":{finish},\
             \"stop_reason\":null}}]}}\n\n"
        )
    };
    let expected = [
        chunk("a", "null"),
        chunk("H", "null"),
        chunk("é", "null"),
        chunk("", "\"stop\""),
        "data: [DONE]\n\n".to_owned(),
    ];
    assert_eq!(reply.text(), expected.concat());
}

#[test]
fn log_probs_are_parallel_lists() {
    let server = start(Script::saying("Hé!"));
    let answer = post(&server, PATH, &json!({"prompt": "a", "logprobs": 2})).ok();
    let found = &answer["choices"][0]["logprobs"];
    let count = server.engine.encode("Hé!").len();
    for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(found[list].as_array().unwrap().len(), count, "{list}");
    }
    assert_eq!((&found["tokens"][0], &found["text_offset"][0]), (&json!("H"), &json!(0)));
    assert_eq!(found["top_logprobs"][0]["H"], -0.5);
    let none = post(&server, PATH, &json!({"prompt": "a", "logprobs": 0})).ok();
    assert_eq!(none["choices"][0]["logprobs"]["top_logprobs"], Value::Null);
}

#[test]
fn several_answers_are_in_order_and_counted_once() {
    let server = start(Script::saying("x"));
    let body = json!({"prompt": ["a", "b"], "n": 2, "echo": true, "return_token_ids": true});
    let answer = post(&server, PATH, &body).ok();
    let texts: Vec<&Value> =
        answer["choices"].as_array().unwrap().iter().map(|choice| &choice["text"]).collect();
    assert_eq!(texts, ["ax", "ax", "bx", "bx"]);
    let prompt = server.engine.encode("a");
    assert_eq!(answer["choices"][1]["prompt_token_ids"], json!(prompt));
    assert_eq!(answer["usage"]["prompt_tokens"], prompt.len() * 2);
    assert_eq!(answer["usage"]["completion_tokens"], 4);
}

#[test]
fn settings_bound_the_length() {
    let settings = ServerSettings {
        max_tokens_default: Some(100),
        max_tokens_cap: Some(50),
        ..ServerSettings::default()
    };
    let server = start_with(Script::saying("x"), settings);
    for body in [json!({"prompt": "a"}), json!({"prompt": "a", "max_tokens": 1000})] {
        post(&server, PATH, &body).ok();
        assert_eq!(server.engine.last_seen().max_tokens, 50);
    }
    post(&server, PATH, &json!({"prompt": "a", "max_tokens": 7})).ok();
    assert_eq!(server.engine.last_seen().max_tokens, 7);
}

#[test]
fn embeddings_come_as_numbers_or_base64() {
    let server = start(Script::saying("x"));
    let ask = |body: Value| post(&server, "/v1/embeddings", &body);
    let answer = ask(json!({"model": MODEL, "input": ["Once", [5, 6, 7]]})).ok();
    let tokens = server.engine.encode("Once").len();
    assert_eq!(answer["data"][0]["embedding"][7].as_f64(), Some(tokens as f64));
    assert_eq!(answer["data"][1]["embedding"][7], 3.0);
    assert_eq!(answer["usage"]["prompt_tokens"], tokens + 3);
    let encoded = ask(json!({"input": "Once", "encoding_format": "base64"})).ok();
    let bytes = STANDARD.decode(encoded["data"][0]["embedding"].as_str().unwrap()).unwrap();
    let numbers: Vec<f32> =
        bytes.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
    assert_eq!((numbers.len(), numbers[0]), (8, 0.6));
    let short = ask(json!({"input": [5], "dimensions": 1})).ok();
    assert_eq!(short["data"][0]["embedding"], json!([1.0]));
    for (body, param) in [
        (json!({"input": [5], "dimensions": 9}), "dimensions"),
        (json!({"input": []}), "input"),
        (json!({"input": ""}), "input"),
        (json!({"input": [[5], []]}), "input"),
        (json!({"input": ["a", {}]}), "input[1]"),
        (json!({"input": [1, "a"]}), "input"),
        (json!({"input": "a", "encoding_format": "hex"}), "encoding_format"),
        (json!({}), "input"),
    ] {
        assert_eq!(ask(body.clone()).error(400)["param"], param, "{body}");
    }
    let long = vec![5; 5000];
    assert_eq!(ask(json!({"input": long})).error(400)["code"], "context_length_exceeded");
}

#[test]
fn texts_become_token_ids_and_back() {
    let server = start(Script::saying("x"));
    let body = json!({"prompt": "Once upon", "return_token_strs": true});
    let found = post(&server, "/tokenize", &body).ok();
    let ids = server.engine.encode("Once upon");
    assert_eq!(found["tokens"], json!(ids));
    assert_eq!(found["count"], ids.len());
    assert_eq!(found["max_model_len"], 4096);
    assert_eq!(found["token_strs"].as_array().unwrap().len(), ids.len());
    let text = post(&server, "/detokenize", &json!({"tokens": ids})).ok();
    assert_eq!(text["prompt"], "Once upon");
    let chat = json!({"messages": [{"role": "user", "content": "Hi"}]});
    let chat = post(&server, "/tokenize", &chat).ok();
    let prompt = server.engine.tokenizer.encode("<|im_start|>assistant\n", false).unwrap();
    let tokens: Vec<u32> = serde_json::from_value(chat["tokens"].clone()).unwrap();
    assert!(tokens.ends_with(&prompt));
    post(&server, "/detokenize", &json!({"tokens": [99999]})).error(400);
    post(&server, "/tokenize", &json!({})).error(400);
    post(&server, "/tokenize", &json!({"prompt": "a", "messages": []})).error(400);
}

#[test]
fn adapters_are_models() {
    let settings = ServerSettings { adapters_at_run_time: true, ..ServerSettings::default() };
    let server = start_with(Script::saying("x"), settings);
    let load = |name: &str, path: &str| {
        let body = json!({"lora_name": name, "lora_path": path});
        post(&server, "/v1/load_lora_adapter", &body)
    };
    assert_eq!(load("sql", "good").status, 200);
    assert_eq!(load("sql", "good").error(400)["param"], "lora_name");
    assert_eq!(load("other", "bad").error(400)["param"], "lora_path");
    let ids: Vec<String> = get(&server, "/v1/models").ok()["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids, [MODEL, "org/other-name", "sql"]);
    assert_eq!(get(&server, "/v1/models/sql").ok()["parent"], MODEL);
    assert_eq!(get(&server, "/v1/models/org%2Fother-name").ok()["id"], "org/other-name");
    assert_eq!(get(&server, "/v1/models/org/other-name").ok()["id"], "org/other-name");
    assert_eq!(get(&server, "/v1/models/none").error(404)["code"], "model_not_found");
    let answer = post(&server, PATH, &json!({"model": "sql", "prompt": "a"})).ok();
    assert_eq!(answer["model"], "sql");
    assert_eq!(server.engine.last_seen().adapter.as_deref(), Some("sql"));
    let unload = |name: &str| post(&server, "/v1/unload_lora_adapter", &json!({"lora_name": name}));
    assert_eq!(unload("sql").status, 200);
    unload("sql").error(404);
    post(&server, PATH, &json!({"model": "sql", "prompt": "a"})).error(404);
}

#[test]
fn adapters_are_loaded_only_where_that_is_allowed() {
    let server = start(Script::saying("x"));
    let body = json!({"lora_name": "sql", "lora_path": "good"});
    post(&server, "/v1/load_lora_adapter", &body).error(403);
    post(&server, "/v1/unload_lora_adapter", &body).error(403);
}
