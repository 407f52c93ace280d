//! Routes over pools as configs have them, without a server: where requests go, whom they wait for, and what
//! a changed config does to both.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::config::Config;

const POOLS: &str = r#"
[pools.a]
region = "eu"
price = { input = "1 usd/million", output = "2 usd/million" }
backends = [{ url = "http://a1" }, { url = "http://a2" }]
[pools.b]
region = "us"
price = { input = "3 usd/million", output = "4 usd/million" }
backends = [{ url = "http://b1", concurrency = 1 }]
"#;

fn config(pools: &str, model: &str) -> Config {
    let text = format!("{pools}\n[models.m]\npools = [\"a\", \"b\"]\n{model}\n");
    Config::parse(Path::new("/gateway.toml"), &text).unwrap()
}

fn pools(model: &str) -> Arc<Pools> {
    Pools::new(&config(POOLS, model), &Arc::new(Secrets::new())).unwrap()
}

fn route(pools: &Arc<Pools>, allowed: &[&str], prefix: u64) -> Result<Route, RouteError> {
    let allowed: Vec<String> = allowed.iter().map(|name| (*name).to_owned()).collect();
    let ask =
        RouteAsk { model: "m", allowed_pools: &allowed, prefix, prompt_tokens: 10, max_tokens: 10 };
    pools.route(&ask)
}

fn names(mut route: Route) -> Vec<String> {
    let leases: Vec<Lease> = std::iter::from_fn(|| route.next()).collect();
    leases.iter().map(|lease| lease.backend().name().to_owned()).collect()
}

#[tokio::test]
async fn every_backend_is_offered_once_the_preferred_pool_first() {
    let sorted = |mut names: Vec<String>| {
        names[..2].sort();
        names
    };
    for policy in ["ordered", "cheapest"] {
        let pools = pools(&format!("policy = \"{policy}\""));
        let found = sorted(names(route(&pools, &[], 0).unwrap()));
        assert_eq!(found, ["a1", "a2", "b1"], "{policy}");
    }
}

#[tokio::test]
async fn a_tenant_can_be_kept_to_pools_and_regions() {
    for policy in ["ordered", "cheapest", "fastest", "affinity", "weighted"] {
        let pools = pools(&format!("policy = \"{policy}\""));
        for allowed in [["b"], ["region:us"]] {
            assert_eq!(names(route(&pools, &allowed, 0).unwrap()), ["b1"], "{policy}");
        }
        let none = route(&pools, &["region:mars"], 0).err();
        assert_eq!(none, Some(RouteError::NoPool { model: "m".to_owned() }));
        // What is reserved is of the pools that it may go to.
        let dearest = |allowed: &[&str]| route(&pools, allowed, 0).unwrap().dearest(1_000_000, 0);
        assert!(dearest(&["a"]) < dearest(&[]));
    }
}

#[tokio::test]
async fn the_same_beginning_finds_the_same_backend() {
    let pools = pools("policy = \"affinity\"");
    let first =
        |prefix| route(&pools, &[], prefix).unwrap().next().unwrap().backend().name().to_owned();
    for prefix in 0..50 {
        assert_eq!(first(prefix), first(prefix));
    }
    let homes: std::collections::HashSet<String> = (0..50).map(first).collect();
    assert_eq!(homes.len(), 3);
}

#[tokio::test]
async fn who_waits_gets_the_next_free_place() {
    let pools = pools("policy = \"ordered\"");
    let held = route(&pools, &["b"], 0).unwrap().next().unwrap();
    let mut second = route(&pools, &["b"], 0).unwrap();
    assert!(second.next().is_none(), "one at once");
    let waits = tokio::spawn(async move {
        let until = Instant::now() + Duration::from_secs(60);
        second.wait(until).await.map(|lease| lease.backend().name().to_owned())
    });
    tokio::task::yield_now().await;
    drop(held);
    assert_eq!(waits.await.unwrap().as_deref(), Some("b1"));
}

#[tokio::test]
async fn a_changed_config_keeps_what_is_known_of_what_stays() {
    let pools = pools("policy = \"ordered\"");
    let under_way = route(&pools, &["b"], 0).unwrap().next().unwrap();
    let lease = route(&pools, &["a"], 0).unwrap().next().unwrap();
    let known = lease.backend().name().to_owned();
    lease.backend().vitals().first_token(Duration::from_millis(200), Instant::now());
    drop(lease);
    let mut old = route(&pools, &[], 0).unwrap();

    // The one that is not known goes, another comes, and the order is another.
    let gone = if known == "a1" { "a2" } else { "a1" };
    let changed = POOLS.replace(&format!("http://{gone}"), "http://a3");
    let mut new = config(&changed, "policy = \"ordered\"");
    new.models[0].pools.reverse();
    pools.reload(&new).unwrap();

    let view = pools.view();
    let backend =
        |name: &str| view.iter().flat_map(|pool| &pool.backends).find(|it| it.name == name);
    assert!(backend(&known).is_some_and(|it| it.ttft_p50_seconds.is_some()));
    assert_eq!(backend("b1").map(|it| it.in_flight), Some(1));
    assert!(backend(gone).is_none());
    // A route from before finds its way in the new order; the place at b is still taken.
    let found = names(route(&pools, &[], 0).unwrap());
    assert_eq!(found.len(), 2);
    assert!(!found.iter().any(|name| name == gone) && found.contains(&"a3".to_owned()));
    assert!(old.next().is_some_and(|lease| lease.backend().name() != gone));
    drop(under_way);
    assert_eq!(names(route(&pools, &[], 0).unwrap())[0], "b1", "the order is the new one");
}
