//! The admin port on real sockets: who gets in, what may be changed, what is said.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/raw.rs"]
mod raw;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gateway::admin::Admin;
use gateway::config::Config;
use gateway::ledger::{Ledger, OpenDatabase};
use gateway::metrics::Metrics;
use gateway::money::Money;
use gateway::pools::Pools;
use gateway::record::Record;
use gateway::secrets::Secrets;
use gateway::shared::Shared;
use raw::Answer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use web::connections::{self, ConnectionLimits};
use web::flight::Flights;

const KEY: &str = "the key of the admin, which is long";

/// A gateway whose admin port is open.
struct Open {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Whether reading the config again fails.
    is_config_wrong: Arc<AtomicBool>,
    _runtime: tokio::runtime::Runtime,
    _stop: watch::Sender<bool>,
    folder: tempfile::TempDir,
}

fn open() -> Open {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("admin-key", &format!("{KEY}\n"));
    write(
        "gateway.toml",
        "listen = \"127.0.0.1:0\"\ndatabase = \"gateway.db\"\n\
         [admin]\nkey = { file = \"admin-key\" }\n\
         [pools.near]\nprovider = \"own\"\nchip = \"cpu\"\nchips = 1\nprice = \"0.36 usd/chip-hour\"\n\
         backends = [{ url = \"http://127.0.0.1:9\", name = \"near-1\" }]\n\
         [models.chat]\npools = [\"near\"]\nttft = \"500ms\"\n\
         mirror = { pool = \"near\", share = 0.02 }\n\
         canary = { pool = \"new\", share = 0.05 }\n\
         [pools.new]\nprice = { input = \"1 usd/million\", output = \"2 usd/million\" }\n\
         backends = [{ url = \"http://127.0.0.1:10\", name = \"new-1\" }]\n",
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (address, shared, stop, is_config_wrong) = runtime.block_on(async {
        let config = Config::read(&folder.path().join("gateway.toml")).unwrap();
        let secrets = Arc::new(Secrets::new());
        let pools = Pools::new(&config, &secrets).unwrap();
        let database = OpenDatabase::Sqlite(folder.path().join("gateway.db"));
        let ledger = Ledger::open(database, 1000).await.unwrap();
        let key = config.admin.clone().unwrap().key;
        let shared = Arc::new(Shared::new(config, pools, ledger, Arc::new(Metrics::default())));
        let is_wrong = Arc::new(AtomicBool::new(false));
        let wrong = Arc::clone(&is_wrong);
        let reload = move || match wrong.load(Ordering::SeqCst) {
            true => Err("line 3: `pols` is no key; did you mean `pools`?".to_owned()),
            false => Ok(vec!["listen"]),
        };
        let admin = Admin::new(Arc::clone(&shared), secrets, key, Box::new(reload));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = ConnectionLimits {
            connections_max: 64,
            idle: Duration::from_secs(30),
            write: Duration::from_secs(30),
        };
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(connections::serve(listener, None, admin, Flights::new(), limits, stopped));
        (address, shared, stop, is_wrong)
    });
    Open { address, shared, is_config_wrong, _runtime: runtime, _stop: stop, folder }
}

impl Open {
    fn get(&self, path: &str) -> Answer {
        let key = format!("authorization: Bearer {KEY}");
        raw::ask(self.address, &format!("GET {path}"), &[&key], "")
    }

    fn value(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        serde_json::from_str(&answer.body).unwrap()
    }

    /// The status, and what was said.
    fn send(&self, first: &str, body: &Value) -> (u16, Value) {
        let key = format!("authorization: Bearer {KEY}");
        let lines = [key.as_str(), "content-type: application/json"];
        let answer = raw::ask(self.address, first, &lines, &body.to_string());
        (answer.status, serde_json::from_str(&answer.body).unwrap_or_default())
    }
}

#[test]
fn only_its_own_key_opens_it() {
    let open = open();
    let (status, made) = open.send("POST /admin/api/tenants", &json!({"name": "acme"}));
    assert_eq!(status, 200, "{made}");
    let tenants_key = made["key"]["key"].as_str().unwrap();
    let with_tenants = format!("authorization: Bearer {tenants_key}");
    let refused = raw::ask(open.address, "GET /admin/api/tenants", &[&with_tenants], "");
    let nothing = raw::ask(open.address, "GET /admin/api/tenants", &[], "");
    assert_eq!((refused.status, nothing.status), (401, 401));
    assert_eq!(refused.body, nothing.body, "a tenant's key is told nothing more");
    let everywhere = [
        "GET /metrics",
        "GET /admin/api/overview",
        "GET /admin/api/pools",
        "GET /admin/api/traffic",
        "GET /admin/api/usage",
        "GET /admin/api/mirrors",
        "GET /admin/api/canaries",
        "GET /nothing",
        "POST /admin/api/tenants",
        "POST /admin/api/reload",
        "POST /admin/api/drain",
        "POST /admin/api/canaries",
        "DELETE /admin/api/tenants/acme",
        "PATCH /admin/api/tenants/acme",
        "OPTIONS /admin/api/tenants",
    ];
    for first in everywhere {
        let twice = [&*format!("authorization: Bearer {KEY}"), "authorization: Bearer x"];
        for lines in [&[&*with_tenants][..], &["authorization: Bearer "], &[], &twice] {
            let answer = raw::ask(open.address, first, lines, "");
            assert_eq!((answer.status, &answer.body), (401, &nothing.body), "{first} {lines:?}");
        }
    }
    // A key in the address opens nothing: addresses end up in logs.
    let query = KEY.replace(' ', "%20");
    let answer = raw::ask(open.address, &format!("GET /admin/api/tenants?key={query}"), &[], "");
    assert_eq!(answer.status, 401);
    // A new key is taken once it is read.
    std::fs::write(open.folder.path().join("admin-key"), "another").unwrap();
    assert_eq!(open.get("/admin/api/tenants").status, 200);
}

#[test]
fn the_page_is_served_to_everybody_and_says_nothing() {
    let open = open();
    let page = raw::ask(open.address, "GET /admin", &[], "");
    assert_eq!(page.status, 200);
    assert!(page.body.contains("Admin key") && !page.body.contains("near-1"));
    for (name, part) in [
        ("content-security-policy", "default-src 'none'"),
        ("content-security-policy", "frame-ancestors 'none'"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
    ] {
        assert!(page.header(name).is_some_and(|value| value.contains(part)), "{name} {page:?}");
    }
    assert!(
        !page.body.contains("style=") && !page.body.contains("<script>"),
        "its policy forbids both"
    );
    assert_eq!(raw::ask(open.address, "GET /health", &[], "").body, "ok\n");
    let answer = open.get("/admin/api/overview");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert!(answer.header("access-control-allow-origin").is_none());
}

#[test]
fn tenants_and_keys_live_their_lives() {
    let open = open();
    let settings = json!({"name": "acme", "models": ["chat-*"], "requests_per_minute_max": 600,
        "budgets": [{"usd": 50.0, "period": "month"}], "priority": 3});
    let (_, made) = open.send("POST /admin/api/tenants", &settings);
    let first = made["key"]["key"].as_str().unwrap().to_owned();
    let tenants = open.shared.tenants();
    assert_eq!(tenants.find(&first).unwrap().tenant.name, "acme");
    let list = open.value("/admin/api/tenants");
    let acme = &list["data"][0];
    assert_eq!((&acme["requests_per_minute_max"], &acme["priority"]), (&json!(600), &json!(3)));
    assert!(!list.to_string().contains(&first), "a key is shown once");
    // What is left out stays, what is null goes.
    let change = json!({"requests_per_minute_max": null, "concurrency_max": 4});
    assert_eq!(open.send("PATCH /admin/api/tenants/acme", &change).0, 200);
    let acme = tenants.named("acme").unwrap();
    assert_eq!((acme.limits.requests_per_minute, acme.limits.concurrency), (None, Some(4)));
    assert_eq!((acme.priority, acme.budgets.len()), (3, 1));
    // The old key is taken as long as was said, the new one at once.
    let key = made["key"]["name"].as_str().unwrap();
    let (status, rotated) = open.send(
        &format!("POST /admin/api/tenants/acme/keys/{key}/rotate"),
        &json!({"grace_seconds": 3600}),
    );
    assert_eq!(status, 200, "{rotated}");
    let second = rotated["key"]["key"].as_str().unwrap();
    assert!(tenants.find(&first).is_some() && tenants.find(second).is_some());
    let revoke =
        format!("DELETE /admin/api/tenants/acme/keys/{}", rotated["key"]["name"].as_str().unwrap());
    assert_eq!(open.send(&revoke, &json!({})).0, 200);
    assert!(tenants.find(second).is_none());
    assert_eq!(open.send("DELETE /admin/api/tenants/acme", &json!({})).0, 200);
    assert!(tenants.find(&first).is_none());
    for (first, body, status) in [
        ("POST /admin/api/tenants", json!({}), 400),
        ("POST /admin/api/tenants", json!({"name": "a b"}), 400),
        ("POST /admin/api/tenants", json!({"name": "b", "budget": 5}), 400),
        (
            "POST /admin/api/tenants",
            json!({"name": "b", "budgets": [{"usd": -1, "period": "day"}]}),
            400,
        ),
        (
            "POST /admin/api/tenants",
            json!({"name": "b", "budgets": [{"usd": 1, "period": "day"}, {"usd": 2, "period": "day"}]}),
            400,
        ),
        ("PATCH /admin/api/tenants/nobody", json!({}), 404),
        ("PATCH /admin/api/tenants/nobody", json!({"name": "x"}), 400),
        ("DELETE /admin/api/tenants/nobody", json!({}), 404),
        ("POST /admin/api/tenants/nobody/keys", json!({}), 404),
        ("PUT /admin/api/tenants", json!({}), 404),
    ] {
        let (found, said) = open.send(first, &body);
        assert_eq!(found, status, "{first} {body}: {said}");
        assert!(said["error"]["message"].as_str().is_some_and(|text| text.len() > 10), "{said}");
    }
    assert_eq!(open.send("POST /admin/api/tenants", &json!({"name": "b"})).0, 200);
    assert_eq!(open.send("POST /admin/api/tenants", &json!({"name": "b"})).0, 409);
}

#[test]
fn what_is_written_is_json_and_short() {
    let open = open();
    let key = format!("authorization: Bearer {KEY}");
    // What a form of somebody else's page could send.
    for media in ["", "content-type: text/plain", "content-type: application/x-www-form-urlencoded"]
    {
        let lines = [key.as_str(), media];
        let lines = if media.is_empty() { &lines[..1] } else { &lines[..] };
        let answer = raw::ask(open.address, "POST /admin/api/tenants", lines, "{\"name\":\"a\"}");
        assert_eq!(answer.status, 415, "{media}");
    }
    let lines = [key.as_str(), "content-type: application/json"];
    for (body, status) in [("{", 400), ("[]", 400), ("{\"name\":1}", 400)] {
        assert_eq!(raw::ask(open.address, "POST /admin/api/tenants", &lines, body).status, status);
    }
    let long = format!("{{\"name\":\"{}\"}}", "a".repeat(100_000));
    assert_eq!(raw::ask(open.address, "POST /admin/api/tenants", &lines, &long).status, 413);
    let chunked = [key.as_str(), "content-type: application/json", "transfer-encoding: chunked"];
    let mut text =
        format!("POST /admin/api/tenants HTTP/1.1\r\nhost: x\r\n{}\r\n\r\n", chunked.join("\r\n"));
    for _ in 0..100 {
        text.push_str(&format!("1000\r\n{}\r\n", " ".repeat(0x1000)));
    }
    assert_eq!(raw::parse(&raw::exchange(open.address, text.as_bytes())).status, 413);
    assert!(open.shared.tenants().list().is_empty());
}

#[test]
fn sums_and_metrics_tell_what_was_asked_for() {
    let open = open();
    let now = gateway::calendar::now_milliseconds();
    for (number, tenant) in [(1, "acme"), (2, "acme"), (3, "other")] {
        let record = Record {
            id: format!("r{number}"),
            time_milliseconds: now,
            tenant: tenant.to_owned(),
            model: "chat".to_owned(),
            pool: "near".to_owned(),
            backend: "near-1".to_owned(),
            path: "/v1/chat/completions".to_owned(),
            status: 200,
            prompt_tokens: 10,
            completion_tokens: 20,
            cost: Money::from_dollars(0.25),
            attempts: 1,
            ..Record::default()
        };
        open.shared.metrics.ended(&record);
        open._runtime.block_on(open.shared.meter().write(record)).unwrap();
    }
    let rows = open.value("/admin/api/usage?by=tenant");
    let acme = &rows["data"][0];
    assert_eq!(
        (&acme["tenant"], &acme["requests"], &acme["cost_usd"]),
        (&json!("acme"), &json!(2), &json!(0.5))
    );
    assert_eq!(open.value("/admin/api/usage?by=pool&tenant=other")["data"][0]["requests"], 1);
    assert_eq!(open.get("/admin/api/usage?by=colour").status, 400);
    let overview = open.value("/admin/api/overview");
    assert_eq!(
        (&overview["today"]["requests"], &overview["today"]["cost_usd"]),
        (&json!(3), &json!(0.75))
    );
    assert_eq!(
        (&overview["database"]["kind"], &overview["database"]["is_away"]),
        (&json!("SQLite"), &json!(false))
    );
    let traffic = open.value("/admin/api/traffic");
    assert_eq!(traffic["pools"][0]["name"], "near");
    let metrics = open.get("/metrics");
    assert_eq!(metrics.header("content-type"), Some(web::exposition::CONTENT_TYPE));
    let line = r#"fungible_gateway_requests_total{model="chat",pool="near",outcome="complete",status="200"} 3"#;
    assert!(metrics.body.contains(line), "{}", metrics.body);
}

#[test]
fn pools_are_shown_and_drained() {
    let open = open();
    let near = || open.value("/admin/api/pools")["data"][0].clone();
    let pool = near();
    assert_eq!((&pool["name"], &pool["chips"]), (&json!("near"), &json!(1)));
    // What the page reads is there, if only to be nothing.
    for name in [
        "provider",
        "chip",
        "region",
        "price",
        "usd_per_million_input",
        "usd_per_million_output",
        "price_age_seconds",
        "is_price_stale",
        "requests_per_second",
        "tokens_per_second",
        "share",
        "in_flight",
    ] {
        assert!(pool.get(name).is_some(), "{name} in {pool}");
    }
    for name in [
        "name",
        "url",
        "state",
        "why",
        "in_flight",
        "concurrency",
        "ttft_p50_seconds",
        "ttft_p99_seconds",
        "tpot_p50_seconds",
        "failure_share",
    ] {
        assert!(pool["backends"][0].get(name).is_some(), "{name} in {pool}");
    }
    let models = &open.value("/admin/api/overview")["models"];
    assert_eq!((&models[0]["name"], &models[0]["backends"]), (&json!("chat"), &json!(1)));
    assert_eq!(
        (&models[0]["policy"], &models[0]["ttft_seconds"]),
        (&json!("cheapest"), &json!(0.5))
    );
    assert_eq!(open.send("POST /admin/api/drain", &json!({"backend": "near-1"})).0, 200);
    assert_eq!(near()["backends"][0]["state"], "draining");
    let line = r#"fungible_gateway_backend_state{pool="near",backend="near-1",state="draining"} 1"#;
    assert!(open.get("/metrics").body.contains(line));
    let back = json!({"backend": "near-1", "drain": false});
    assert_eq!(open.send("POST /admin/api/drain", &back).0, 200);
    assert_ne!(near()["backends"][0]["state"], "draining");
    assert_eq!(open.send("POST /admin/api/drain", &json!({"backend": "nobody"})).0, 404);
    let mirrors = open.value("/admin/api/mirrors")["data"].clone();
    let mirror = &mirrors.as_array().unwrap()[..1][0];
    for (name, expected) in [
        ("model", json!("chat")),
        ("pool", json!("near")),
        ("share", json!(0.02)),
        ("verdict", json!("on trial")),
        ("requests", json!(0)),
        ("ttft_p50_seconds", Value::Null),
        ("usual_ttft_p50_seconds", Value::Null),
    ] {
        assert_eq!(mirror.get(name), Some(&expected), "{name} of {mirror}");
    }
    let canaries = open.value("/admin/api/canaries")["data"].clone();
    assert_eq!(canaries[0]["pool"], "new");
    assert_eq!(canaries[0]["why"], "judged after 200 requests, 0 so far");
    let again = "POST /admin/api/canaries";
    assert_eq!(open.send(again, &json!({"model": "chat"})), (200, json!({"model": "chat"})));
    assert_eq!(open.send(again, &json!({"model": "nothing"})).0, 404);
    assert_eq!(open.send(again, &json!({"pool": "new"})).0, 400);
    let metrics = open.get("/metrics").body;
    for line in [
        r#"mirror_requests_total{model="chat",pool="near",outcome="left-out"} 0"#,
        r#"mirror_compared_total{model="chat",pool="near",result="same"} 0"#,
        r#"canary_requests_total{model="chat",pool="new",outcome="failed"} 0"#,
        r#"canary_rolled_back{model="chat",pool="new"} 0"#,
    ] {
        assert!(metrics.contains(&format!("\nfungible_gateway_{line}\n")), "{line} in {metrics}");
    }
}

#[test]
fn a_config_that_is_not_taken_is_said_to_be() {
    let open = open();
    let (status, said) = open.send("POST /admin/api/reload", &json!({}));
    assert_eq!((status, said), (200, json!({"needs_restart": ["listen"]})));
    open.is_config_wrong.store(true, Ordering::SeqCst);
    let (status, said) = open.send("POST /admin/api/reload", &json!({}));
    assert!(
        status == 400 && said["error"]["message"].as_str().unwrap().contains("line 3"),
        "{said}"
    );
    let overview = open.value("/admin/api/overview");
    assert!(overview["config_error"].as_str().unwrap().contains("line 3"), "{overview}");
    open.is_config_wrong.store(false, Ordering::SeqCst);
    assert_eq!(open.send("POST /admin/api/reload", &json!({})).0, 200);
    assert_eq!(open.value("/admin/api/overview")["config_error"], Value::Null);
}
