//! A whole gateway in front of stub backends: who is let in, what is refused with which words, budgets under
//! many clients at once, and a config that changes while a stream goes on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/raw.rs"]
mod raw;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gateway::config::Config;
use gateway::gateway::{Gateway, Reloader};
use gateway::money::Money;
use gateway::shared::Shared;
use gateway::stub::{Stub, StubSettings};
use gateway::tenants::{Budget, Limits, Period, Tenant};
use gateway::usage::{Span, UsageQuery};
use raw::{Answer, ask};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

/// A gateway that runs, with two stubs behind it.
struct Running {
    runtime: Runtime,
    address: SocketAddr,
    shared: Arc<Shared>,
    reloader: Reloader,
    stubs: Vec<(Arc<Stub>, SocketAddr)>,
    file: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    ended: Option<tokio::task::JoinHandle<usize>>,
    _folder: tempfile::TempDir,
}

fn config(backends: &[SocketAddr], more: &str) -> String {
    let mut text = format!("database = \"gateway.db\"\n{more}\n");
    for (number, address) in backends.iter().enumerate() {
        text.push_str(&format!(
            "[pools.pool{number}]\nprice = {{ input = \"1 usd/million\", output = \"1000 usd/million\" }}\n\
             backends = [{{ url = \"http://{address}\", continues = \"tokens\" }}]\n"
        ));
    }
    text.push_str("[models.chat]\npools = [\"pool0\"]\n[models.other]\npools = [\"pool0\"]\n");
    text
}

impl Running {
    fn start(more: &str) -> Running {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gateway.toml");
        let mut stubs = Vec::new();
        for _ in 0..2 {
            let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
            let address = listener.local_addr().unwrap();
            let stub = Stub::new(StubSettings::default());
            runtime.spawn(Arc::clone(&stub).serve(listener));
            stubs.push((stub, address));
        }
        let addresses: Vec<SocketAddr> = stubs.iter().map(|(_, address)| *address).collect();
        std::fs::write(&file, config(&addresses, more)).unwrap();
        let (stop, stopped) = oneshot::channel();
        let (address, shared, reloader, ended) = runtime.block_on(async {
            let gateway = Gateway::open(Config::read(&file).unwrap()).await.unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (shared, reloader) = (Arc::clone(gateway.shared()), gateway.reloader());
            let ended = tokio::spawn(gateway.run(listener, None, async {
                let _ = stopped.await;
            }));
            (address, shared, reloader, ended)
        });
        let (stop, ended) = (Some(stop), Some(ended));
        Running { runtime, address, shared, reloader, stubs, file, stop, ended, _folder: folder }
    }

    /// A tenant's key.
    fn add(&self, change: impl FnOnce(&mut Tenant)) -> String {
        let mut tenant = Tenant {
            name: "acme".to_owned(),
            models: Vec::new(),
            priority: 0,
            limits: Limits::default(),
            budgets: Vec::new(),
            pools: Vec::new(),
            logs_prompts: false,
            is_suspended: false,
        };
        change(&mut tenant);
        let key = self.runtime.block_on(self.shared.tenants().add(tenant)).unwrap();
        key.plain().to_owned()
    }

    fn chat(&self, key: &str, model: &str, max_tokens: u64) -> Answer {
        chat(self.address, key, model, max_tokens)
    }

    /// Stops it, and says how many answers were cut off.
    fn stop(&mut self) -> usize {
        drop(self.stop.take());
        self.runtime.block_on(self.ended.take().unwrap()).unwrap()
    }
}

fn chat(address: SocketAddr, key: &str, model: &str, max_tokens: u64) -> Answer {
    let key = format!("authorization: Bearer {key}");
    let body = format!(
        r#"{{"model":"{model}","messages":[{{"role":"user","content":"hi"}}],"max_tokens":{max_tokens}}}"#
    );
    ask(address, "POST /v1/chat/completions", &["content-type: application/json", &key], &body)
}

#[test]
fn only_tenants_are_let_in_and_only_to_their_models() {
    let running = Running::start("");
    let key = running.add(|tenant| tenant.models = vec!["ch*".to_owned()]);
    let idle = running.add(|tenant| {
        tenant.name = "idle".to_owned();
        tenant.is_suspended = true;
    });
    let wrong = format!("{}x", &key[..key.len() - 1]);
    for key in ["", "secret", &wrong] {
        let answer = running.chat(key, "chat", 4);
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")));
        assert!(answer.body.contains("invalid_api_key"), "{}", answer.body);
    }
    assert_eq!(running.chat(&idle, "chat", 4).status, 403);
    let answer = running.chat(&key, "chat", 4);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.header("x-fungible-pool"), Some("pool0"));
    assert!(answer.header("x-request-id").is_some());
    // A model that it must not use is a model that there is not.
    let forbidden = running.chat(&key, "other", 4);
    let unknown = running.chat(&key, "other2", 4);
    assert_eq!((forbidden.status, unknown.status), (404, 404));
    let alike = |answer: &Answer, name: &str| answer.body.replace(&format!("`{name}`"), "`X`");
    assert_eq!(alike(&forbidden, "other"), alike(&unknown, "other2"));
    let key = format!("authorization: Bearer {key}");
    let models = ask(running.address, "GET /v1/models", &[&key], "");
    assert!(models.body.contains("\"chat\"") && !models.body.contains("other"), "{}", models.body);
    assert_eq!(ask(running.address, "GET /v1/models/other", &[&key], "").status, 404);
    assert_eq!(ask(running.address, "GET /v1/models", &[], "").status, 401);
    // Nothing but the accepted request reached a backend.
    assert_eq!(running.stubs[0].0.asked(), 1);
    for path in ["/v1/../metrics", "/v1/%2e%2e/x", "/v1//x", "/misbehave", "/v1"] {
        let answer = ask(running.address, &format!("POST {path}"), &[&key], "{}");
        assert_eq!(answer.status, 404, "{path}");
    }
}

#[test]
fn limits_say_which_they_are_and_for_how_long() {
    let running = Running::start("limits = { body_megabytes = 0.001 }");
    let key = running.add(|tenant| tenant.limits.requests_per_minute = Some(2));
    let poor = running.add(|tenant| {
        tenant.name = "poor".to_owned();
        tenant.budgets = vec![Budget { amount: Money::from_dollars(0.01), period: Period::Day }];
    });
    assert_eq!(running.chat(&key, "chat", 1).status, 200);
    assert_eq!(running.chat(&key, "chat", 1).status, 200);
    let third = running.chat(&key, "chat", 1);
    assert_eq!(third.status, 429);
    assert!(third.body.contains("rate_limit_exceeded") && third.header("retry-after").is_some());
    // A thousand tokens would cost a dollar.
    let dear = running.chat(&poor, "chat", 1000);
    assert_eq!(dear.status, 429);
    assert!(dear.body.contains("insufficient_quota"), "{}", dear.body);
    assert_eq!(running.chat(&poor, "chat", 1).status, 200);
    let authorization = format!("authorization: Bearer {poor}");
    let lines = ["content-type: application/json", authorization.as_str()];
    let long = format!(r#"{{"model":"chat","prompt":"{}"}}"#, "x".repeat(2000));
    assert_eq!(ask(running.address, "POST /v1/completions", &lines, &long).status, 413);
    let broken = ask(running.address, "POST /v1/completions", &lines, "{\"model\":");
    assert_eq!(broken.status, 400);
    assert!(broken.body.contains("not valid JSON"), "{}", broken.body);
}

#[test]
fn two_hundred_clients_do_not_overspend_a_budget() {
    let mut running = Running::start("");
    // Some thirty answers of 10 tokens, at a thousandth of a dollar each.
    let budget = Money::from_dollars(0.3);
    let key = running.add(|tenant| {
        tenant.budgets = vec![Budget { amount: budget, period: Period::Month }];
    });
    let address = running.address;
    let clients: Vec<_> = (0..200)
        .map(|_| {
            let key = key.clone();
            std::thread::spawn(move || chat(address, &key, "chat", 10).status)
        })
        .collect();
    let statuses: Vec<u16> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    let count = |status: u16| statuses.iter().filter(|&&other| other == status).count();
    assert_eq!(count(200) + count(429), 200, "{statuses:?}");
    assert!(count(200) >= 20, "{} were answered", count(200));
    let query = UsageQuery { by: Vec::new(), span: Span::default() };
    let usage = running.runtime.block_on(running.shared.ledger.usage(&query)).unwrap();
    assert!(usage[0].cost <= budget, "{} of {budget}", usage[0].cost);
    assert_eq!(usage[0].requests, count(200) as u64);
    assert_eq!(running.stop(), 0);
}

#[test]
fn a_new_config_takes_effect_without_dropping_a_stream() {
    let mut running = Running::start("");
    let key = running.add(|_| {});
    let body = r#"{"model":"chat","stream":true,"messages":[{"role":"user","content":"hi"}],"max_tokens":40}"#;
    let mut stream = TcpStream::connect(running.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         authorization: Bearer {key}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    // Slow enough that the change comes in the middle.
    let slow = gateway::stub::Misbehaviour {
        mode: gateway::stub::Mode::Slow,
        probability: 1.0,
        ..Default::default()
    };
    running.stubs[0].0.misbehave(slow);
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = vec![0; 600];
    stream.read_exact(&mut text).unwrap();
    assert_eq!(running.stubs[0].0.under_way(), 1);

    let addresses: Vec<SocketAddr> = running.stubs.iter().map(|(_, address)| *address).collect();
    let changed = config(&addresses, "").replace("pools = [\"pool0\"]", "pools = [\"pool1\"]");
    std::fs::write(&running.file, &changed).unwrap();
    assert!(running.reloader.reload().unwrap().needs_restart.is_empty());
    let answer = running.chat(&key, "chat", 4);
    assert_eq!(answer.header("x-fungible-pool"), Some("pool1"));
    // A config that is wrong changes nothing.
    std::fs::write(&running.file, changed.replace("[models.chat]", "[models.chat]\npolcy = 1"))
        .unwrap();
    assert!(running.reloader.reload().unwrap_err().to_string().contains("did you mean `policy`"));
    assert_eq!(running.chat(&key, "chat", 4).status, 200);
    // The stream ends as it should, also while the gateway drains.
    let reading = std::thread::spawn(move || {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).map(|_| String::from_utf8_lossy(&rest).into_owned())
    });
    assert_eq!(running.stop(), 0);
    let rest = reading.join().unwrap().unwrap();
    assert!(rest.contains("data: [DONE]"), "{rest}");
}
