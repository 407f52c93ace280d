//! Answers that come whole.

use std::time::Duration;

use gateway::record::Outcome;
use gateway::stub::{Misbehaviour, Mode, Pace, StubSettings};
use hyper::StatusCode;
use serde_json::{Value, json};

use crate::setting::{Plan, Setting};

const CHAT: &str = "/v1/chat/completions";

fn chat() -> Value {
    json!({
        "model": "chat", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 9,
        "unknown_to_us": {"kept": [1, 2]},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_comes_with_its_price_and_the_public_name() {
    let setting = Setting::new(Plan::default()).await;
    let answer = setting.ask(CHAT, &chat()).await;
    let body = answer.json();
    assert_eq!((answer.status, &body["model"]), (StatusCode::OK, &json!("chat")));
    assert_eq!(answer.headers["x-fungible-pool"], "p0");
    assert_eq!(answer.headers["x-fungible-attempts"], "1");
    let usage = &body["usage"];
    let cost =
        usage["prompt_tokens"].as_u64().unwrap() + 2 * usage["completion_tokens"].as_u64().unwrap();
    assert_eq!(answer.headers["x-fungible-cost"], format!("0.{:09}", cost * 1_000));
    let record = setting.record(&answer).await;
    assert_eq!(record.cost.0 as u64, cost * 1_000);
    assert_eq!(record.saved.0 as u64, cost * 9_000, "the dearest pool costs ten times as much");
    assert_eq!((record.outcome, record.tokens_estimated), (Outcome::Complete, false));
    let vectors = json!({"model": "chat", "input": "some text"});
    let answer = setting.ask("/v1/embeddings", &vectors).await;
    assert_eq!(answer.json()["model"], "chat");
    assert!(setting.record(&answer).await.prompt_tokens > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_tried_elsewhere_before_the_client_knows() {
    for mode in [Mode::Refuse, Mode::Failing, Mode::Limited, Mode::Garbage, Mode::Cut] {
        for streamed in [false, true] {
            let setting = Setting::new(Plan::default()).await;
            setting.stubs[0].misbehave(Misbehaviour {
                mode,
                after_bytes: Some(20),
                ..Misbehaviour::default()
            });
            let mut body = chat();
            body["stream"] = json!(streamed);
            let answer = setting.ask(CHAT, &body).await;
            assert_eq!(answer.status, StatusCode::OK, "{mode:?} {:?}", answer.body);
            assert_eq!(answer.headers["x-fungible-pool"], "p1", "{mode:?}");
            assert_eq!(answer.headers["x-fungible-attempts"], "2", "{mode:?}");
            let record = setting.record(&answer).await;
            assert_eq!((record.attempts, record.continuations), (2, 0));
            assert_eq!(record.pool, "p1");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_nobody_can_answer_the_error_is_one() {
    for (mode, status) in [
        (Mode::Refuse, 502),
        (Mode::Failing, 502),
        (Mode::Limited, 429),
        (Mode::Garbage, 502),
        (Mode::Cut, 502),
    ] {
        for streamed in [false, true] {
            let setting = Setting::new(Plan::default()).await;
            for stub in &setting.stubs {
                let after_bytes = Some(20);
                stub.misbehave(Misbehaviour { mode, after_bytes, ..Misbehaviour::default() });
            }
            let mut body = chat();
            body["stream"] = json!(streamed);
            let answer = setting.ask(CHAT, &body).await;
            assert_eq!(answer.status.as_u16(), status, "{mode:?} {:?}", answer.body);
            let error = answer.json()["error"].clone();
            assert!(error["message"].is_string() && error["type"].is_string(), "{error}");
            assert!(!error.to_string().contains("127.0.0.1"), "backends are nobody's business");
            let record = setting.record(&answer).await;
            assert_eq!((record.outcome, record.status), (Outcome::Failed, status));
            assert_eq!(record.cost.0, 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_request_is_said_by_the_backend() {
    let setting = Setting::new(Plan::default()).await;
    let mut body = chat();
    body["messages"] = json!("no list");
    for streamed in [false, true] {
        body["stream"] = json!(streamed);
        let answer = setting.ask(CHAT, &body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert_eq!(answer.json()["error"]["type"], "stub_error");
        assert_eq!(setting.record(&answer).await.attempts, 1);
    }
    assert_eq!(setting.stubs[1].asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_ends_at_its_deadline() {
    let plan = Plan { model: "deadline = \"400ms\"\nsilence = \"10s\"", ..Plan::default() };
    let setting = Setting::new(plan).await;
    setting.stubs[0].misbehave(Misbehaviour { mode: Mode::Stall, ..Misbehaviour::default() });
    let answer = setting.ask(CHAT, &chat()).await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT, "{:?}", answer.body);
    assert_eq!(setting.record(&answer).await.outcome, Outcome::Failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_backend_is_asked_when_the_first_takes_unusually_long() {
    let plan = Plan { model: "hedge = { quantile = 0.9, share = 0.5 }", ..Plan::default() };
    let setting = Setting::new(plan).await;
    // Until it is known what is usual.
    for _ in 0..40 {
        assert_eq!(setting.ask(CHAT, &chat()).await.status, StatusCode::OK);
    }
    let asked = setting.stubs[1].asked();
    setting.stubs[0].misbehave(Misbehaviour { mode: Mode::Stall, ..Misbehaviour::default() });
    let answer = setting.ask(CHAT, &chat()).await;
    assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
    assert_eq!(answer.headers["x-fungible-pool"], "p1");
    assert_eq!(setting.stubs[1].asked(), asked + 1);
    assert_eq!(setting.record(&answer).await.pool, "p1");
    while setting.stubs[0].under_way() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_backend_is_waited_for() {
    let slow = StubSettings {
        pace: Pace { first: Duration::from_millis(20), each: Duration::ZERO },
        ..StubSettings::default()
    };
    let setting = Setting::new(Plan { stubs: vec![slow], ..Plan::default() }).await;
    let (setting, body) = (&setting, chat());
    let (one, other) = tokio::join!(setting.ask(CHAT, &body), setting.ask(CHAT, &body));
    assert_eq!((one.status, other.status), (StatusCode::OK, StatusCode::OK));
}
