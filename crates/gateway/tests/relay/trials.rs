//! Pools that are not trusted yet: copies that nobody notices, and canaries that are rolled back before
//! anybody does.

use std::time::Duration;

use gateway::config::Config;
use gateway::pools::{CanaryView, MirrorView};
use gateway::stub::{Misbehaviour, Mode, Pace, StubSettings};
use gateway::tenants::Tenant;
use gateway::usage::RecordQuery;
use http_body_util::BodyExt;
use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::events::told;
use crate::setting::{Plan, Setting, Whole, send};

const CHAT: &str = "/v1/chat/completions";

fn chat(is_streamed: bool) -> Value {
    json!({
        "model": "chat", "messages": [{"role": "user", "content": "Tell me of rivers."}],
        "max_tokens": 12, "ignore_eos": true, "seed": 5, "temperature": 0, "stream": is_streamed,
    })
}

/// Pool `p0` answers, `p1` is on trial.
async fn on_trial(model: &'static str) -> Setting {
    Setting::new(Plan { model, apart: 1, ..Plan::default() }).await
}

fn mirror(setting: &Setting) -> MirrorView {
    setting.shared.pools.mirrors().remove(0)
}

fn canary(setting: &Setting) -> CanaryView {
    setting.shared.pools.canaries().remove(0)
}

/// Copies are under way when clients have their answers already.
async fn until(is_so: impl Fn() -> bool) {
    let long = Duration::from_secs(60);
    let waited = tokio::time::timeout(long, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("it never was so");
}

fn text(answer: &Whole, is_streamed: bool) -> String {
    assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
    if !is_streamed {
        return answer.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    }
    let told = told(answer);
    assert!(told.is_done && told.error.is_none(), "{told:?}");
    told.texts[0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_a_share_of_requests_and_no_client_knows() {
    let setting = on_trial("mirror = { pool = \"p1\", model = \"inner-1\", share = 0.25 }").await;
    for number in 0..80 {
        let mut body = chat(number % 8 < 4);
        if number >= 40 {
            // What is drawn by lot is not compared.
            body["temperature"] = json!(0.7);
        }
        let answer = setting.ask(CHAT, &body).await;
        assert!(!text(&answer, number % 8 < 4).is_empty());
        assert_eq!(answer.headers["x-fungible-pool"], "p0");
        assert_eq!(answer.headers["x-fungible-attempts"], "1");
        assert_eq!(setting.record(&answer).await.pool, "p0");
    }
    until(|| mirror(&setting).requests == 20 && mirror(&setting).compared == 10).await;
    assert_eq!((setting.stubs[0].asked(), setting.stubs[1].asked()), (80, 20));
    let view = mirror(&setting);
    assert_eq!((view.failures, view.left_out, view.same), (0, 0, 10), "{view:?}");
    assert_eq!(view.agreed_share, Some(1.0));
    assert_eq!((view.pool.as_str(), view.verdict), ("p1", "on trial"));
    let figures = view.figures;
    assert!(figures.ttft_p50_seconds.is_some() && figures.usual_ttft_p50_seconds.is_some());
    assert!(figures.tpot_p50_seconds.is_some() && figures.usual_tpot_p50_seconds.is_some());
    assert!(figures.whole_tpot_p50_seconds.is_some());
    assert!(figures.usual_whole_tpot_p50_seconds.is_some());
    let times = figures.usd_per_million.unwrap() / figures.usual_usd_per_million.unwrap();
    assert!((9.9..10.1).contains(&times), "it costs ten times as much: {times}");
    let records = setting.shared.ledger.records(&RecordQuery::default(), 1_000).await.unwrap();
    assert_eq!(records.len(), 80, "no tenant pays for copies");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_fails_or_hangs_does_no_harm() {
    for mode in [Mode::Refuse, Mode::Failing, Mode::Garbage, Mode::Cut, Mode::Stall] {
        let model = "silence = \"300ms\"\nmirror = { pool = \"p1\", share = 1.0 }";
        let setting = on_trial(model).await;
        let after_bytes = Some(20);
        setting.stubs[1].misbehave(Misbehaviour { mode, after_bytes, ..Misbehaviour::default() });
        for number in 0..10 {
            let is_streamed = number % 2 == 0;
            let answer = setting.ask(CHAT, &chat(is_streamed)).await;
            assert!(!text(&answer, is_streamed).is_empty());
            assert_eq!(answer.headers["x-fungible-pool"], "p0", "{mode:?}");
        }
        // A breaker may open before all were sent.
        until(|| mirror(&setting).failures + mirror(&setting).left_out == 10).await;
        let view = mirror(&setting);
        assert!(view.failures >= 5 && view.requests == view.failures, "{mode:?}: {view:?}");
        assert_eq!(view.compared, 0, "{mode:?}");
        assert_eq!(view.figures.usual_failure_share, Some(0.0), "{mode:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_that_hang_are_few() {
    let setting = on_trial("mirror = { pool = \"p1\", share = 1.0 }").await;
    setting.stubs[1].misbehave(Misbehaviour { mode: Mode::Stall, ..Misbehaviour::default() });
    for _ in 0..50 {
        assert!(!text(&setting.ask(CHAT, &chat(true)).await, true).is_empty());
    }
    until(|| setting.stubs[1].asked() == 32).await;
    assert_eq!(mirror(&setting).left_out, 18);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_and_who_asks_wrongly_is_no_fault_of_the_mirror() {
    let setting = on_trial("mirror = { pool = \"p1\", share = 1.0 }").await;
    let mut wrong = chat(false);
    wrong["messages"] = json!("no list");
    assert_eq!(setting.ask(CHAT, &wrong).await.status, StatusCode::BAD_REQUEST);
    until(|| mirror(&setting).requests == 1).await;
    let figures = mirror(&setting).figures;
    assert_eq!((figures.failure_share, figures.usual_failure_share), (Some(1.0), Some(1.0)));
    // A client that is gone before its answer leaves its copy alone.
    drop(setting.send(CHAT, &chat(true)).await);
    until(|| mirror(&setting).requests == 2).await;
    assert_eq!(mirror(&setting).failures, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_fails_is_rolled_back_and_no_client_knows() {
    for mode in [Mode::Failing, Mode::Refuse, Mode::Rejecting, Mode::Garbage, Mode::Cut] {
        // Not even where nothing may be tried twice.
        let model = "retries = 0\n\
             canary = { pool = \"p1\", model = \"inner-1\", share = 0.5, requests = 40 }";
        let setting = on_trial(model).await;
        let expected = [false, true].map(async |is_streamed| {
            let whole = Setting::new(Plan::default()).await;
            text(&whole.ask(CHAT, &chat(is_streamed)).await, is_streamed)
        });
        let [whole, streamed] = expected;
        let expected = [whole.await, streamed.await];
        // Behind the first tokens of a stream, and not so often that the breaker opens.
        let (after_bytes, times) = (Some(900), None);
        setting.stubs[1].misbehave(Misbehaviour { mode, probability: 0.6, times, after_bytes });
        let mut asked = 0;
        while canary(&setting).verdict != "rolled back" {
            let is_streamed = asked % 4 < 2;
            let answer = setting.ask(CHAT, &chat(is_streamed)).await;
            assert_eq!(text(&answer, is_streamed), expected[usize::from(is_streamed)], "{mode:?}");
            asked += 1;
            assert!(asked <= 80, "{mode:?}: {:?}", canary(&setting));
        }
        let view = canary(&setting);
        assert!((15..30).contains(&view.failures_total), "{mode:?} {view:?}");
        assert_eq!(view.figures.usual_failure_share, Some(0.0), "{mode:?}");
        assert!(view.why.contains("of its requests failed, 0.0 %"), "{}", view.why);
        let before = setting.stubs[1].asked();
        for _ in 0..10 {
            let answer = setting.ask(CHAT, &chat(true)).await;
            assert_eq!(answer.headers["x-fungible-attempts"], "1");
        }
        assert_eq!(setting.stubs[1].asked(), before, "it gets nothing more");
        assert_eq!(canary(&setting), view);
    }
}

/// Asks so often, ten at a time.
async fn ask_often(setting: &Setting, times: usize, is_streamed: bool) {
    let mut asking = JoinSet::new();
    for number in 0..times {
        if number >= 10 {
            asking.join_next().await.unwrap().unwrap();
        }
        let address = setting.address;
        asking.spawn(async move {
            let (head, body) = send(address, CHAT, &chat(is_streamed)).await.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let answer = Whole { status: head.status, headers: head.headers, body };
            assert!(!text(&answer, is_streamed).is_empty());
        });
    }
    while let Some(asked) = asking.join_next().await {
        asked.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_is_slow_is_rolled_back() {
    let model = "canary = { pool = \"p1\", share = 0.5, requests = 40, slower = 3.0 }";
    for (is_streamed, what) in [(true, "to the first token"), (false, "whole answers")] {
        let pace = Pace { first: Duration::from_millis(400), each: Duration::ZERO };
        let stubs = vec![StubSettings::default(), StubSettings { pace, ..Default::default() }];
        let setting = Setting::new(Plan { stubs, model, apart: 1, ..Plan::default() }).await;
        ask_often(&setting, 120, is_streamed).await;
        let view = canary(&setting);
        assert_eq!((view.verdict, view.failures_total), ("rolled back", 0), "{view:?}");
        assert!(view.why.contains(what), "{}", view.why);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_does_well_keeps_its_share() {
    let model = "canary = { pool = \"p1\", share = 0.25, requests = 30, slower = 50.0 }";
    let setting = on_trial(model).await;
    assert_eq!(canary(&setting).why, "judged after 30 requests, 0 so far");
    ask_often(&setting, 100, true).await;
    ask_often(&setting, 100, false).await;
    assert_eq!((setting.stubs[0].asked(), setting.stubs[1].asked()), (150, 50));
    let view = canary(&setting);
    assert_eq!((view.verdict, view.requests, view.failures_total), ("as good", 50, 0), "{view:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_ends_when_somebody_says_so() {
    let model = "canary = { pool = \"p1\", share = 1.0, requests = 20, slower = 50.0 }";
    let setting = on_trial(model).await;
    let well = Misbehaviour::default();
    setting.stubs[1].misbehave(Misbehaviour { mode: Mode::Failing, probability: 0.7, ..well });
    // All go there first, so there is nobody to compare it with.
    ask_often(&setting, 40, false).await;
    let config = setting.shared.config();
    let pools = &setting.shared.pools;
    assert_eq!(canary(&setting).verdict, "rolled back");
    pools.reload(&config).unwrap();
    assert_eq!(canary(&setting).verdict, "rolled back", "nothing has changed");
    setting.stubs[1].misbehave(well);
    assert!(!pools.try_again("nobody") && pools.try_again("chat"));
    assert_eq!(canary(&setting).verdict, "on trial");
    let before = setting.stubs[1].asked();
    ask_often(&setting, 30, false).await;
    assert_eq!(setting.stubs[1].asked(), before + 30);
    assert_eq!(canary(&setting).verdict, "as good");
    // A canary that is told anything new begins anew.
    let mut changed = Config::clone(&config);
    changed.models[0].canary.as_mut().unwrap().share = 0.5;
    pools.reload(&changed).unwrap();
    let view = canary(&setting);
    assert_eq!((view.verdict, view.requests, view.share), ("on trial", 0, 0.5));
    changed.models[0].canary = None;
    pools.reload(&changed).unwrap();
    assert!(pools.canaries().is_empty() && !pools.try_again("chat"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_tried_on_no_pool_that_is_not_theirs() {
    for model in [
        "mirror = { pool = \"p1\", share = 1.0 }",
        "canary = { pool = \"p1\", share = 1.0, slower = 50.0 }",
    ] {
        let setting = on_trial(model).await;
        let tenants = setting.shared.tenants();
        let kept = Tenant { pools: vec!["p0".to_owned()], ..Tenant::named("anonymous") };
        tenants.add(kept.clone()).await.unwrap();
        ask_often(&setting, 10, true).await;
        assert_eq!(setting.stubs[1].asked(), 0, "{model}");
        tenants
            .change(Tenant { pools: vec!["p0".to_owned(), "p1".to_owned()], ..kept })
            .await
            .unwrap();
        ask_often(&setting, 10, true).await;
        until(|| setting.stubs[1].asked() == 10).await;
    }
}
