//! Streams that break off: the client must not be able to tell.

use std::time::Duration;

use gateway::record::Outcome;
use gateway::stub::{Misbehaviour, Mode, Pace, StubSettings};
use http_body_util::BodyExt;
use hyper::StatusCode;
use serde_json::{Value, json};

use crate::events::{Told, told};
use crate::setting::{Plan, Setting};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

fn chat(tokens: u64) -> Value {
    json!({
        "model": "chat", "messages": [{"role": "user", "content": "Tell me of rivers."}],
        "max_tokens": tokens, "stream": true, "ignore_eos": true, "seed": 5,
        "stream_options": {"include_usage": true},
    })
}

fn text(tokens: u64) -> Value {
    json!({
        "model": "chat", "prompt": "Tell me of rivers.\n", "max_tokens": tokens, "stream": true,
        "ignore_eos": true, "seed": 5, "stream_options": {"include_usage": true},
    })
}

fn breaks(mode: Mode, after_bytes: u64, times: u64) -> Misbehaviour {
    let (after_bytes, times) = (Some(after_bytes), Some(times));
    Misbehaviour { mode, probability: 1.0, times, after_bytes }
}

async fn stream(setting: &Setting, path: &str, body: &Value) -> Told {
    let answer = setting.ask(path, body).await;
    assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
    told(&answer)
}

/// Cuts the answer of the first backend after each number of bytes.
async fn at_every_byte(plan: Plan, path: &str, body: Value, mode: Mode, step: u64) {
    let mut setting = Setting::new(plan.clone()).await;
    let whole = stream(&setting, path, &body).await;
    assert!(whole.is_done && whole.error.is_none() && whole.finish == ["length"], "{whole:?}");
    let mut after = 0;
    let mut continued = 0;
    for round in 1.. {
        // Each gateway has its own budget for retries.
        if round % 50 == 0 {
            setting = Setting::new(plan.clone()).await;
        }
        setting.stubs[0].misbehave(breaks(mode, after, 1));
        let asked = setting.stubs[1].asked();
        let answer = setting.ask(path, &body).await;
        assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
        let broken = told(&answer);
        let has_broken = setting.stubs[1].asked() > asked;
        assert_eq!(broken.texts, whole.texts, "{mode:?} after {after} bytes");
        assert_eq!(broken.finish, whole.finish, "{mode:?} after {after} bytes");
        assert_eq!(broken.tokens(), whole.tokens(), "{mode:?} after {after} bytes");
        assert_eq!(broken.ids, whole.ids, "{mode:?} after {after} bytes");
        assert!(broken.is_done && broken.error.is_none());
        let record = setting.record(&answer).await;
        assert_eq!(record.outcome, Outcome::Complete);
        let tokens = [record.prompt_tokens, record.completion_tokens];
        assert_eq!(Some(tokens), whole.tokens(), "{mode:?} after {after} bytes");
        assert!(!record.tokens_estimated, "{mode:?} after {after} bytes");
        continued += u64::from(record.continuations);
        if !has_broken && after > 100 {
            break;
        }
        after += step;
    }
    assert!(after > 1000 && continued > 0, "{after} bytes, {continued} continued");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_cut_at_any_byte_goes_on_by_ids() {
    at_every_byte(Plan::default(), CHAT, chat(8), Mode::Cut, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_cut_at_any_byte_goes_on_by_ids() {
    at_every_byte(Plan::default(), TEXT, text(8), Mode::Cut, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_at_any_byte_goes_on_by_ids() {
    at_every_byte(Plan::default(), CHAT, chat(8), Mode::Garbage, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_the_client_wants_are_whole_too() {
    let mut body = chat(8);
    body["return_token_ids"] = json!(true);
    at_every_byte(Plan::default(), CHAT, body, Mode::Cut, 7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_cut_at_any_byte_goes_on_by_its_text() {
    let setting = Setting::new(Plan { continues: "text", ..Plan::default() }).await;
    let whole = stream(&setting, CHAT, &chat(12)).await;
    let mut continued = 0;
    for after in (0..2600).step_by(41) {
        setting.stubs[0].misbehave(breaks(Mode::Cut, after, 1));
        let answer = setting.ask(CHAT, &chat(12)).await;
        let broken = told(&answer);
        assert!(broken.is_done && broken.error.is_none(), "{broken:?}");
        let record = setting.record(&answer).await;
        continued += record.continuations;
        // Without ids the tokens so far are only estimated: the end may come some tokens sooner or
        // later, but what is said is the same.
        let (short, long) = match broken.texts[0].len() < whole.texts[0].len() {
            true => (&broken.texts[0], &whole.texts[0]),
            false => (&whole.texts[0], &broken.texts[0]),
        };
        assert!(long.starts_with(short.trim_end_matches('\u{fffd}')), "{broken:?}");
        assert_eq!(broken.finish.len(), 1);
    }
    assert!(continued > 10, "{continued}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_as_often_as_it_breaks() {
    let plan = Plan { stubs: vec![StubSettings::default(); 3], ..Plan::default() };
    let setting = Setting::new(plan).await;
    let whole = stream(&setting, CHAT, &chat(60)).await;
    for stub in &setting.stubs {
        stub.misbehave(breaks(Mode::Cut, 1_500, 2));
    }
    let answer = setting.ask(CHAT, &chat(60)).await;
    let broken = told(&answer);
    let record = setting.record(&answer).await;
    assert_eq!((&broken.texts, broken.tokens()), (&whole.texts, whole.tokens()));
    assert_eq!(record.continuations, 6);
    assert_eq!(record.attempts, 7);
    assert!(broken.is_done);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_pool_is_paid_for_its_share() {
    let setting = Setting::new(Plan::default()).await;
    let whole = setting.ask(CHAT, &chat(40)).await;
    let first_only = setting.record(&whole).await.cost;
    setting.stubs[0].misbehave(breaks(Mode::Cut, 4_000, 1));
    let answer = setting.ask(CHAT, &chat(40)).await;
    let record = setting.record(&answer).await;
    assert_eq!((record.continuations, record.pool.as_str()), (1, "p1"));
    // Two millionths of a dollar for each token of the first pool, twenty for each of the second.
    let [prompt, completion] = told(&answer).tokens().unwrap();
    assert_eq!(first_only.0 as u64, 1_000 * (prompt + 2 * completion));
    let of_second = (record.cost.0 - first_only.0) as u64 / 18_000;
    assert_eq!((record.cost.0 - first_only.0) as u64, of_second * 18_000);
    assert!((1..completion).contains(&of_second), "{of_second}");
    let comment = format!("x-fungible-cost 0.{:09}", record.cost.0);
    assert_eq!(told(&answer).comments, [comment]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_go_on_ends_with_an_error_that_is_one() {
    let several = json!({
        "model": "chat", "messages": [{"role": "user", "content": "hi"}], "n": 2,
        "max_tokens": 30, "stream": true, "ignore_eos": true,
    });
    let never = Plan { continues: "never", ..Plan::default() };
    let off = Plan { model: "continues = false", ..Plan::default() };
    for (plan, body) in [(Plan::default(), several), (never, chat(30)), (off, chat(30))] {
        let setting = Setting::new(plan).await;
        setting.stubs[0].misbehave(breaks(Mode::Cut, 3_000, 1));
        let answer = setting.ask(CHAT, &body).await;
        let broken = told(&answer);
        assert_eq!(answer.status, StatusCode::OK);
        assert!(!broken.is_done && broken.error.is_some(), "{broken:?}");
        let record = setting.record(&answer).await;
        assert_eq!(record.outcome, Outcome::Failed);
        assert!(record.completion_tokens > 0, "what came is paid for");
        assert_eq!(record.attempts, 1, "nobody is asked who could not go on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_stalls_goes_on_elsewhere() {
    let plan = Plan { model: "silence = \"300ms\"", ..Plan::default() };
    let setting = Setting::new(plan).await;
    let whole = stream(&setting, TEXT, &text(20)).await;
    for after in [0, 10, 600, 2_000] {
        setting.stubs[0].misbehave(breaks(Mode::Stall, after, 1));
        let broken = stream(&setting, TEXT, &text(20)).await;
        assert_eq!((&broken.texts, broken.tokens()), (&whole.texts, whole.tokens()));
        assert!(broken.is_done);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_gets_what_it_asked_for_and_no_more() {
    let setting = Setting::new(Plan::default()).await;
    let mut body = chat(10);
    body.as_object_mut().unwrap().remove("stream_options");
    let answer = setting.ask(CHAT, &body).await;
    let text = std::str::from_utf8(&answer.body).unwrap();
    for unwanted in
        ["token_ids", "usage", "inner-0", "\"delta\":{},\"logprobs\":null,\"finish_reason\":null"]
    {
        assert!(!text.contains(unwanted), "{unwanted} in {text}");
    }
    assert!(told(&answer).is_done);
    assert_eq!(answer.headers["x-fungible-pool"], "p0");
    assert_eq!(answer.headers["x-fungible-attempts"], "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_the_backends_work_and_pays_for_what_came() {
    let slow = StubSettings {
        pace: Pace { first: Duration::ZERO, each: Duration::from_millis(5) },
        ..StubSettings::default()
    };
    let setting = Setting::new(Plan { stubs: vec![slow], ..Plan::default() }).await;
    let response = setting.send(CHAT, &chat(4_000)).await;
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let mut body = response.into_body();
    for _ in 0..5 {
        body.frame().await.unwrap().unwrap();
    }
    assert_eq!(setting.stubs[0].under_way(), 1);
    drop(body);
    let record = loop {
        tokio::time::sleep(Duration::from_millis(5)).await;
        if let Some(record) = setting.record_of(&id).await {
            break record;
        }
    };
    assert_eq!((record.outcome, record.status), (Outcome::Left, 499));
    assert!(record.completion_tokens > 0 && record.cost.0 > 0, "{record:?}");
    while setting.stubs[0].under_way() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
