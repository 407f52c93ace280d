//! What a gateway with three pools says of itself on a working day, and what it says on a bad one.

use serde_json::{Value, json};

/// The answers by path, as the page asks for them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Day {
    Working,
    /// The database is away, one model has no server that is well, a canary was rolled back.
    Bad,
    /// A gateway that has just been started.
    First,
    /// Names are markup, and as long as they may be.
    Hostile,
}

const MARKUP: &str = "<img src=x onerror=window.pwned=1>";

pub fn answer(day: Day, path: &str) -> Option<Value> {
    Some(match path {
        "overview" => overview(day),
        "pools" => json!({"data": pools(day)}),
        "traffic" => traffic(day),
        "tenants" => json!({"data": tenants(day)}),
        "mirrors" => json!({"data": mirrors(day)}),
        "canaries" => json!({"data": canaries(day)}),
        _ => return None,
    })
}

fn overview(day: Day) -> Value {
    let bad = day == Day::Bad;
    let model =
        |name: &str, pools: &[&str], policy: &str, ttft: Option<f64>, well: u32, all: u32| {
            json!({"name": name, "pools": pools, "policy": policy, "ttft_seconds": ttft,
            "tpot_seconds": ttft.map(|_| 0.05), "well": well, "backends": all})
        };
    let models = match day {
        Day::First => vec![model("chat", &["tpu"], "cheapest", None, 1, 1)],
        Day::Hostile => vec![model(MARKUP, &[MARKUP], MARKUP, Some(0.5), 0, 1)],
        _ => vec![
            model("chat", &["tpu-v6e", "h200", "cpu"], "cheapest", Some(0.5), 5, 6),
            model("chat-large", &["h200"], "fastest", Some(1.0), if bad { 0 } else { 2 }, 2),
            model("embed", &["cpu"], "ordered", None, 1, 1),
        ],
    };
    let today = match day {
        Day::First => json!({"requests": 0, "failed": 0, "cost_usd": 0.0, "saved_usd": 0.0}),
        _ => json!({"requests": 1_204_310, "failed": 97, "cost_usd": 412.07, "saved_usd": 655.2}),
    };
    json!({"version": "0.1.0", "up_seconds": 302_400.0, "waiting": if bad { 41 } else { 0 },
        "database": {"kind": "PostgreSQL", "is_away": bad, "records_waiting": if bad { 8_312 } else { 0 }, "records_max": 100_000},
        "today": today, "models": models, "config_error": null})
}

fn backend(name: &str, state: &str, why: &str, figures: [f64; 3]) -> Value {
    json!({"name": name, "url": format!("https://{name}"), "state": state, "why": why, "in_flight": 11,
        "concurrency": 64, "ttft_p50_seconds": figures[0], "ttft_p99_seconds": figures[1],
        "tpot_p50_seconds": figures[2], "failure_share": if state == "well" { 0.0004 } else { 0.62 }})
}

fn pools(day: Day) -> Vec<Value> {
    let bad = day == Day::Bad;
    let tpu = json!({"name": "tpu-v6e", "provider": "gcp", "chip": "v6e", "region": "us-east5", "chips": 12,
        "price": "2.70 usd/chip-hour", "usd_per_million_input": 0.041, "usd_per_million_output": 0.19,
        "price_age_seconds": if bad { 190_000.0 } else { 840.0 }, "is_price_stale": bad,
        "requests_per_second": 9.41, "tokens_per_second": 12_800.0, "share": 0.67, "in_flight": 33,
        "backends": [backend("10.0.0.7:8000", "well", "", [0.18, 0.39, 0.021]),
            backend("10.0.0.8:8000", "well", "", [0.17, 0.41, 0.02]),
            backend("10.0.0.9:8000", "open", "7 of the last 20 requests failed, the last with 500; tried again in 12 s", [0.31, 1.9, 0.034])]});
    let state = if bad { "ill" } else { "well" };
    let refused = "the last 3 probes failed: connection refused";
    let h200 = json!({"name": "h200", "provider": "nebius", "chip": "h200", "region": "eu-north1", "chips": 2,
        "price": "3.20 usd/chip-hour", "usd_per_million_input": 0.06, "usd_per_million_output": 0.27,
        "price_age_seconds": 840.0, "is_price_stale": false, "requests_per_second": 4.2,
        "tokens_per_second": 6_100.0, "share": 0.3, "in_flight": 14,
        "backends": [backend("h200-a.internal:8000", state, refused, [0.12, 0.28, 0.011]),
            backend("h200-b.internal:8000", state, refused, [0.13, 0.31, 0.012])]});
    let cpu = json!({"name": "cpu", "provider": "own", "chip": "cpu", "region": "", "chips": 1,
        "price": "0.35 usd/chip-hour", "usd_per_million_input": 0.9, "usd_per_million_output": 4.1,
        "price_age_seconds": null, "is_price_stale": false, "requests_per_second": 0.4,
        "tokens_per_second": 38.0, "share": 0.03, "in_flight": 2,
        "backends": [backend("localhost:8000", "draining", "drained by an operator; 2 requests are left", [0.6, 1.4, 0.08])]});
    match day {
        Day::First => {
            vec![json!({"name": "tpu", "provider": "gcp", "chip": "v6e", "region": "", "chips": 4,
            "price": "", "usd_per_million_input": null, "usd_per_million_output": null, "price_age_seconds": null,
            "is_price_stale": false, "requests_per_second": 0.0, "tokens_per_second": 0.0, "share": null, "in_flight": 0,
            "backends": [{"name": "10.0.0.7:8000", "url": "http://10.0.0.7:8000", "state": "well", "why": "", "in_flight": 0,
                "concurrency": 64, "ttft_p50_seconds": null, "ttft_p99_seconds": null, "tpot_p50_seconds": null, "failure_share": null}]})]
        }
        Day::Hostile => {
            let mut pool = tpu;
            for name in ["name", "provider", "chip", "region", "price"] {
                pool[name] = json!(MARKUP);
            }
            pool["backends"] = json!([backend(MARKUP, "ill", &MARKUP.repeat(20), [0.1, 0.2, 0.3])]);
            vec![pool]
        }
        _ => vec![tpu, h200, cpu],
    }
}

fn traffic(day: Day) -> Value {
    let wave = |at: usize, high: f64, shift: f64| {
        let turn = at as f64 / 57.0 + shift;
        (high * (1.0 + 0.35 * turn.sin() + 0.08 * (turn * 9.0).cos())).round()
    };
    let pool = |name: &str, high: f64, tokens: f64, usd: f64, shift: f64| {
        let requests: Vec<f64> = (0..360).map(|at| wave(at, high, shift)).collect();
        json!({"name": name, "requests": requests, "tokens": requests.iter().map(|n| n * tokens).collect::<Vec<_>>(),
            "usd": requests.iter().map(|n| n * usd).collect::<Vec<_>>()})
    };
    let pools = match day {
        Day::First => vec![],
        Day::Hostile => vec![pool(MARKUP, 9.0, 900.0, 0.0003, 0.0)],
        _ => vec![
            pool("tpu-v6e", 94.0, 1360.0, 0.000_26, 0.0),
            pool("h200", 42.0, 1450.0, 0.000_41, 2.0),
            pool("cpu", 4.0, 95.0, 0.000_3, 4.0),
        ],
    };
    json!({"step_seconds": 10, "last_seconds": 4.0, "pools": pools})
}

fn tenants(day: Day) -> Vec<Value> {
    let key = json!({"name": "key-1", "last_four": "x7Qf", "created_milliseconds": 1_760_000_000_000_i64, "ends_milliseconds": null, "is_valid": true});
    let tenant = |name: &str, budgets: Value, limits: [Option<u64>; 3], suspended: bool| {
        json!({"name": name, "models": [], "pools": [], "priority": 0, "requests_per_minute_max": limits[0],
            "tokens_per_minute_max": limits[1], "concurrency_max": limits[2], "budgets": budgets,
            "logs_prompts": false, "is_suspended": suspended, "keys": [key], "spent_day_usd": 3.2,
            "spent_month_usd": 41.7, "requests": 212, "tokens": 88_410, "in_flight": 7})
    };
    let budget = |usd: f64, period: &str, spent: f64| json!({"usd": usd, "period": period, "spent_usd": spent, "reserved_usd": 0.02});
    match day {
        Day::First => vec![],
        Day::Hostile => vec![tenant(&"w".repeat(64), json!([]), [None; 3], false)],
        _ => vec![
            tenant(
                "acme",
                json!([budget(50.0, "month", 41.71), budget(5.0, "day", 1.2)]),
                [Some(600), Some(200_000), Some(32)],
                false,
            ),
            tenant(
                "batch-nightly",
                json!([budget(20.0, "day", 20.0)]),
                [None, Some(2_000_000), None],
                false,
            ),
            tenant("research", json!([]), [None; 3], false),
            tenant(
                "trial-17",
                json!([budget(1.0, "month", 0.01)]),
                [Some(20), Some(10_000), Some(2)],
                true,
            ),
        ],
    }
}

fn mirrors(day: Day) -> Vec<Value> {
    match day {
        Day::First | Day::Hostile => vec![],
        _ => vec![
            json!({"model": "chat", "pool": "trainium", "share": 0.02, "requests": 8_213, "failures": 9,
            "left_out": 41, "failure_share": 0.0011, "usual_failure_share": 0.0004, "ttft_p50_seconds": 0.21,
            "usual_ttft_p50_seconds": 0.17, "tpot_p50_seconds": 0.024, "usual_tpot_p50_seconds": 0.02,
            "whole_tpot_p50_seconds": 0.031, "usual_whole_tpot_p50_seconds": 0.027, "usd_per_million": 0.083,
            "usual_usd_per_million": 0.19, "compared": 308, "same": 302, "compared_total": 3_108,
            "same_total": 3_061, "agreed_share": 0.991, "verdict": "as good", "why": "by the last 1416 copies"}),
        ],
    }
}

fn canaries(day: Day) -> Vec<Value> {
    let (requests, verdict, why) = match day {
        Day::First | Day::Hostile => return vec![],
        Day::Working => (418, "on trial", "judged after 500 requests, 418 so far"),
        Day::Bad => (518, "rolled back", "3.1 % of its requests failed, 0.1 % of the others'"),
    };
    vec![
        json!({"model": "chat-large", "pool": "mi300x", "share": 0.05, "requests": requests, "failure_share": 0.031,
        "usual_failure_share": 0.001, "ttft_p50_seconds": 0.42, "usual_ttft_p50_seconds": 0.3,
        "requests_total": requests, "failures_total": 16, "tpot_p50_seconds": null, "usual_tpot_p50_seconds": null,
        "whole_tpot_p50_seconds": 0.013, "usual_whole_tpot_p50_seconds": 0.012, "usd_per_million": 0.21,
        "usual_usd_per_million": 0.27, "verdict": verdict, "why": why}),
    ]
}
