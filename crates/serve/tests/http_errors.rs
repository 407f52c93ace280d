//! What is wrong with a request is said in one shape, and harms nobody else.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use proptest::prelude::*;
use serde_json::{Value, json};
use serve::engine::Refusal;
use serve::http::{ApiKey, ServerSettings};
use support::client::Connection;
use support::{MODEL, Script, get, post, post_raw, send, start, start_with};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";
const JSON: (&str, &str) = ("content-type", "application/json");

#[test]
fn wrong_fields_are_named() {
    let server = start(Script::saying("x"));
    let tool = json!({"type": "function", "function": {"name": "f"}});
    let with = |extra: Value| {
        let mut body = json!({"messages": [{"role": "user", "content": "Hi"}]});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    for (extra, param) in [
        (json!({"messages": null}), "messages"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": "Hi"}), "messages"),
        (json!({"messages": ["Hi"]}), "messages[0]"),
        (json!({"messages": [{"content": "Hi"}]}), "messages[0].role"),
        (json!({"messages": [{"role": "robot", "content": "Hi"}]}), "messages[0].role"),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
        (json!({"messages": [{"role": "user", "content": 5}]}), "messages[0].content"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            "messages[0].content[0].type",
        ),
        (json!({"temperature": -1}), "temperature"),
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"top_p": 1.5}), "top_p"),
        (json!({"top_k": -2}), "top_k"),
        (json!({"presence_penalty": 3}), "presence_penalty"),
        (json!({"repetition_penalty": 0}), "repetition_penalty"),
        (json!({"logit_bias": {"a": 1}}), "logit_bias"),
        (json!({"logit_bias": {"5": 101}}), "logit_bias.5"),
        (json!({"logit_bias": {"5": null}}), "logit_bias.5"),
        (json!({"n": 0}), "n"),
        (json!({"n": 129}), "n"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_tokens": 1.5}), "max_tokens"),
        (json!({"max_completion_tokens": "5"}), "max_completion_tokens"),
        (json!({"max_tokens": 5, "min_tokens": 6}), "min_tokens"),
        (json!({"stop": 5}), "stop"),
        (json!({"stop": [5]}), "stop[0]"),
        (json!({"stop": ""}), "stop"),
        (json!({"stop": vec!["x"; 17]}), "stop"),
        (json!({"stop_token_ids": [-1]}), "stop_token_ids"),
        (json!({"seed": 0.5}), "seed"),
        (json!({"seed": -9223372036854775809.0}), "seed"),
        (json!({"stream": "yes"}), "stream"),
        (json!({"top_logprobs": 5}), "top_logprobs"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        (json!({"best_of": 2}), "best_of"),
        (json!({"functions": []}), "functions"),
        (json!({"response_format": {"type": "xml"}}), "response_format.type"),
        (json!({"response_format": {}}), "response_format.type"),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}),
            "response_format.json_schema.schema",
        ),
        (json!({"guided_json": "no json"}), "guided_json"),
        (json!({"guided_choice": []}), "guided_choice"),
        (
            json!({"structured_outputs": {"structural_tag": {}}}),
            "structured_outputs.structural_tag",
        ),
        (json!({"tools": [{"type": "search"}]}), "tools[0].type"),
        (json!({"tools": [{"type": "function"}]}), "tools[0].function"),
        (
            json!({"tools": [{"type": "function", "function": {"name": "a b"}}]}),
            "tools[0].function.name",
        ),
        (json!({"tools": [tool, tool]}), "tools[1].function.name"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"tools": [tool], "tool_choice": "maybe"}), "tool_choice"),
        (
            json!({"tools": [tool],
                "tool_choice": {"type": "function", "function": {"name": "g"}}}),
            "tool_choice",
        ),
        (
            json!({"tools": [tool], "tool_choice": "required",
                "response_format": {"type": "json_object"}}),
            "tool_choice",
        ),
        (
            json!({"continue_final_message": true, "add_generation_prompt": true}),
            "continue_final_message",
        ),
        (json!({"model": 5}), "model"),
    ] {
        let error = post(&server, CHAT, &with(extra.clone())).error(400);
        assert_eq!(error["param"], param, "{extra}: {error}");
    }
    let several = with(json!({"guided_regex": "a", "guided_choice": ["a"]}));
    post(&server, CHAT, &several).error(400);
    let unsatisfiable = with(json!({"guided_json": false}));
    assert_eq!(post(&server, CHAT, &unsatisfiable).error(400)["code"], "invalid_structure");
    for extra in [json!({"suffix": "x"}), json!({"echo": true, "logprobs": 1})] {
        let mut body = json!({"prompt": "a"});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        post(&server, TEXT, &body).error(400);
    }
    for prompt in [json!([]), json!(5), json!([[5], "a", null]), json!([5, "a"]), json!({})] {
        let error = post(&server, TEXT, &json!({"prompt": prompt})).error(400);
        assert!(error["param"].as_str().unwrap().starts_with("prompt"), "{prompt}: {error}");
    }
    let many = json!({"prompt": vec!["a"; 1025]});
    assert_eq!(post(&server, TEXT, &many).error(400)["param"], "prompt");
    assert!(server.engine.seen().is_empty());
}

#[test]
fn unknown_fields_and_nulls_are_nobodys_business() {
    let server = start(Script::saying("x"));
    let body = json!({"messages": [{"role": "user", "content": "Hi", "future": 1, "name": null}],
        "store": true, "metadata": {}, "temperature": null, "stop": null, "tools": null,
        "response_format": null, "whatever": [1, {"a": null}]});
    post(&server, CHAT, &body).ok();
}

#[test]
fn bodies_that_are_no_json_are_refused() {
    let server = start(Script::saying("x"));
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for body in [
        &b""[..],
        b"{",
        b"[]",
        b"\"text\"",
        b"{\"prompt\": \"\xff\xfe\"}",
        b"{\"prompt\": 1e999}",
        b"{\"prompt\": \"a\"} x",
        b"{\"prompt\": \"\\ud800\"}",
        deep.as_bytes(),
    ] {
        assert_eq!(post_raw(&server, TEXT, body).status, 400, "{:?}", body.get(..30));
        post_raw(&server, CHAT, body).error(400);
    }
    let body = b"{\"prompt\": \"a\"}";
    for headers in [&[][..], &[("content-type", "text/plain")], &[("content-type", "x")]] {
        send(&server, "POST", TEXT, headers, body).error(415);
    }
    let charset = [("content-type", "application/json; charset=utf-8")];
    assert_eq!(send(&server, "POST", TEXT, &charset, body).status, 200);
}

#[test]
fn long_bodies_and_long_prompts_are_refused() {
    let settings = ServerSettings { body_bytes_max: 20 << 20, ..ServerSettings::default() };
    let server = start_with(Script::saying("x"), settings);
    let long = "word ".repeat(2_000_000);
    let error = post(&server, TEXT, &json!({"prompt": long})).error(400);
    assert_eq!(error["code"], "context_length_exceeded");
    let chat = json!({"messages": [{"role": "user", "content": long}]});
    post(&server, CHAT, &chat).error(400);
    post(&server, TEXT, &json!({"prompt": vec![5; 3_000_000]})).error(400);
    let words = "word ".repeat(5000);
    let error = post(&server, TEXT, &json!({"prompt": words})).error(400);
    assert_eq!(error["code"], "context_length_exceeded", "{error}");
    post(&server, TEXT, &json!({"prompt": "a"})).ok();

    let settings = ServerSettings { body_bytes_max: 1000, ..ServerSettings::default() };
    let server = start_with(Script::saying("x"), settings);
    let body = json!({"prompt": "a".repeat(1000)});
    post(&server, TEXT, &body).error(413);
    // Without a length, only counting tells.
    let mut connection = Connection::to(server.address);
    connection.write(
        b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
          transfer-encoding: chunked\r\n\r\n",
    );
    connection.write(format!("7d0\r\n{}\r\n", "a".repeat(2000)).as_bytes());
    connection.read_reply(true).error(413);
}

#[test]
fn paths_and_methods_that_do_not_exist() {
    let server = start(Script::saying("x"));
    get(&server, "/v1/nothing").error(404);
    get(&server, "/page/nothing.js").error(404);
    get(&server, "/v1/models/").error(404);
    let wrong = get(&server, CHAT);
    wrong.error(405);
    assert_eq!(wrong.header("allow"), Some("POST"));
    let wrong = send(&server, "DELETE", "/health", &[], b"");
    wrong.error(405);
    assert_eq!(wrong.header("allow"), Some("GET, HEAD"));
    assert_eq!(send(&server, "HEAD", "/health", &[], b"").status, 200);
    let unknown = json!({"model": "gpt-17", "prompt": "a"});
    let error = post(&server, TEXT, &unknown).error(404);
    assert_eq!((&error["code"], &error["param"]), (&json!("model_not_found"), &json!("model")));
}

#[test]
fn refusals_have_their_status() {
    for (refusal, status, retry_after) in [
        (Refusal::QueueFull { waiting: 9, retry_after_seconds: 7 }, 429, Some("7")),
        (Refusal::Stopping, 503, None),
        (Refusal::UnknownToken { token: 9, vocab_size: 5 }, 400, None),
        (Refusal::UnknownAdapter("a".to_owned()), 404, None),
        (
            Refusal::OutOfRange {
                parameter: "top_k",
                value: "9".to_owned(),
                wanted: "it must be less than 5",
            },
            400,
            None,
        ),
    ] {
        let server = start(Script { refusal: Some(refusal), ..Script::saying("x") });
        for stream in [false, true] {
            let reply = post(&server, TEXT, &json!({"prompt": "a", "stream": stream}));
            let error = reply.error(status);
            assert_eq!(reply.header("retry-after"), retry_after, "{error}");
        }
    }
}

#[test]
fn keys_protect_what_costs_something() {
    let keys = vec![
        ApiKey::new("first", None).unwrap(),
        ApiKey::new("second", Some("team".to_owned())).unwrap(),
    ];
    let settings = ServerSettings { api_keys: keys, ..ServerSettings::default() };
    let server = start_with(Script::saying("x"), settings);
    for path in ["/health", "/ready", "/metrics", "/version", "/docs", "/openapi.json"] {
        assert_eq!(get(&server, path).status, 200, "{path}");
    }
    for path in ["/v1/models", "/v1/models/tiny"] {
        let reply = get(&server, path);
        assert_eq!(reply.error(401)["code"], "invalid_api_key");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
    }
    for path in [
        TEXT,
        CHAT,
        "/v1/responses",
        "/v1/embeddings",
        "/tokenize",
        "/detokenize",
        "/v1/load_lora_adapter",
    ] {
        post(&server, path, &json!({})).error(401);
    }
    let body = json!({"prompt": "a", "user": "me"}).to_string();
    let ask = |authorization: &str| {
        let headers = [JSON, ("authorization", authorization)];
        send(&server, "POST", TEXT, &headers, body.as_bytes())
    };
    for wrong in ["Bearer firs", "Bearer firstt", "Basic first", "first", "Bearer "] {
        ask(wrong).error(401);
    }
    ask("Bearer first").ok();
    assert_eq!(server.engine.last_seen().owner, "me");
    ask("bearer second").ok();
    assert_eq!(server.engine.last_seen().owner, "team", "the key says whose it is");
}

#[test]
fn keys_are_read_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        ApiKey::read_file(&path)
    };
    let keys = read("# ours\nplain\n\n  the team   other \n").unwrap();
    let owners: Vec<_> = keys.iter().map(ApiKey::owner).collect();
    assert_eq!(owners, [None, Some("the team")]);
    assert!(read("# none\n").unwrap_err().to_string().contains("has none"));
    assert!(read("ok\nschl\u{fc}ssel\n").unwrap_err().to_string().starts_with("line 2"));
    assert!(ApiKey::read_file(&folder.path().join("missing")).is_err());
}

#[test]
fn every_answer_has_a_request_id() {
    let server = start(Script::saying("x"));
    let own = send(&server, "GET", "/health", &[("x-request-id", "abc-1")], b"");
    assert_eq!(own.header("x-request-id"), Some("abc-1"));
    let made = get(&server, "/v1/nothing");
    assert_eq!(made.header("x-request-id").map(str::len), Some(32));
    let unfit = send(&server, "GET", "/health", &[("x-request-id", &"a".repeat(129))], b"");
    assert_eq!(unfit.header("x-request-id").map(str::len), Some(32));
    let headers = [JSON, ("x-request-id", "abc-2")];
    let body = json!({"model": MODEL, "prompt": "a", "n": 2}).to_string();
    let answer = send(&server, "POST", TEXT, &headers, body.as_bytes()).ok();
    assert_eq!(answer["id"], "cmpl-abc-2");
    let ids: Vec<String> = server.engine.seen().into_iter().map(|seen| seen.id).collect();
    assert_eq!(ids, ["abc-2", "abc-2-1"]);
}

#[test]
fn other_sites_may_ask_only_where_they_are_named() {
    let ask = |origins: &[&str], origin: &str| {
        let settings = ServerSettings {
            cors_origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
            ..ServerSettings::default()
        };
        let server = start_with(Script::saying("x"), settings);
        let headers = [("origin", origin), ("access-control-request-headers", "x-a, y-b")];
        let preflight = send(&server, "OPTIONS", CHAT, &headers, b"");
        assert_eq!(preflight.status, 204);
        let reply = send(&server, "GET", "/health", &headers, b"");
        let allowed = reply.header("access-control-allow-origin").map(str::to_owned);
        assert_eq!(preflight.header("access-control-allow-origin"), allowed.as_deref());
        if allowed.is_some() {
            assert_eq!(preflight.header("access-control-allow-headers"), Some("x-a, y-b"));
        }
        allowed
    };
    assert_eq!(ask(&[], "https://a.example"), None);
    assert_eq!(ask(&["https://a.example"], "https://a.example").unwrap(), "https://a.example");
    assert_eq!(ask(&["https://a.example"], "https://b.example"), None);
    assert_eq!(ask(&["*"], "https://b.example").unwrap(), "*");
}

#[test]
fn the_document_describes_the_answers() {
    let server = start(Script::saying("x"));
    let document = get(&server, "/openapi.json").ok();
    assert_eq!(document["components"]["schemas"]["ModelName"]["enum"][0], MODEL);
    let page = get(&server, "/docs");
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(!page.text().contains("http://") && !page.text().contains("https://"));
    // Every field that an example has is one that the schema has.
    for (path, methods) in document["paths"].as_object().unwrap() {
        let content = &methods["post"]["requestBody"]["content"]["application/json"];
        let Some(example) = content.get("example") else { continue };
        assert_eq!(post(&server, path, example).status, 200, "{path}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((field_name(), inner), 0..5)
                .prop_map(|fields| { Value::Object(fields.into_iter().collect()) }),
        ]
    })
}

/// Names that mean something somewhere.
fn field_name() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "model",
        "messages",
        "prompt",
        "input",
        "role",
        "content",
        "type",
        "text",
        "tools",
        "function",
        "name",
        "parameters",
        "tool_choice",
        "response_format",
        "json_schema",
        "schema",
        "stop",
        "n",
        "max_tokens",
        "logprobs",
        "top_logprobs",
        "temperature",
        "seed",
        "logit_bias",
        "stream",
        "stream_options",
        "guided_json",
        "structured_outputs",
        "json",
        "choice",
        "echo",
        "continue_token_ids",
        "continue_final_message",
        "chat_template_kwargs",
        "tool_calls",
        "arguments",
        "dimensions",
        "encoding_format",
        "tokens",
        "output",
        "call_id",
        "format",
        "reasoning",
        "effort",
        "metadata",
        "lora_name",
        "lora_path",
        "documents",
    ])
    .prop_map(str::to_owned)
}

#[test]
fn no_body_makes_the_server_fail() {
    let settings = ServerSettings { adapters_at_run_time: true, ..ServerSettings::default() };
    let server = start_with(Script::saying("x"), settings);
    let paths = [
        TEXT,
        CHAT,
        "/v1/responses",
        "/v1/embeddings",
        "/tokenize",
        "/detokenize",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
    ];
    let mut good = vec![
        json!({"prompt": "a"}),
        json!({"messages": [{"role": "user", "content": "a"}]}),
        json!({"input": "a"}),
    ];
    good.push(json!({}));
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) };
    proptest!(config, |(path in 0..paths.len(), base in 0..good.len(), extra in
        prop::collection::vec((field_name(), any_json()), 0..6))|
    {
        let mut body = good[base].clone();
        body.as_object_mut().unwrap().extend(extra);
        let reply = post(&server, paths[path], &body);
        prop_assert!(reply.status < 500, "{} {body}: {}", paths[path], reply.text());
    });
}
