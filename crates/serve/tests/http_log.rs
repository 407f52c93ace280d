//! What a request leaves in the log.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use serde_json::json;
use serve::http::ServerSettings;
use support::log::Lines;
use support::{MODEL, Script, get, post, start, start_with};

/// One test, since there is one log.
#[test]
fn each_request_leaves_one_line_and_no_prompt_unless_asked_for() {
    let lines = Lines::keep();
    let take = || lines.take();
    let body = json!({"model": MODEL, "user": "me", "prompt": "a secret", "max_tokens": 3});
    let settings = ServerSettings { logs_prompts: true, ..ServerSettings::default() };
    for (server, shows_prompt) in [
        (start(Script::saying("an answer")), false),
        (start_with(Script::saying("an answer"), settings), true),
    ] {
        get(&server, "/health").ok();
        get(&server, "/metrics");
        assert_eq!(take(), Vec::<String>::new(), "probes say nothing");
        post(&server, "/v1/completions", &body).ok();
        let found = take();
        assert_eq!(found.len(), 1, "{found:?}");
        let tokens = server.engine.encode("a secret").len();
        for part in [
            "path=\"/v1/completions\"",
            "model=\"tiny\"",
            "owner=\"me\"",
            "status=200",
            "finish=\"length\"",
            &format!("prompt_tokens={tokens}"),
            "cached_tokens=0",
            "completion_tokens=3",
            "queue_ms=",
            "ttft_ms=",
            "total_ms=",
        ] {
            assert!(found[0].contains(part), "{part} in {}", found[0]);
        }
        assert_eq!(found[0].contains("secret"), shows_prompt, "{}", found[0]);
        assert!(!found[0].contains("an answer"));
    }
    let server = start(Script::saying("x"));
    post(&server, "/v1/completions", &json!({"prompt": 5})).error(400);
    let found = take();
    assert!(found[0].contains("status=400") && found[0].contains("error="), "{found:?}");
}
