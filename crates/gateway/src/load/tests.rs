//! The load generator against a stub.

use super::*;
use crate::stub::{Stub, StubSettings};
use std::net::SocketAddr;

/// A stub on a thread of its own, until the process ends.
fn stub() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            Stub::new(StubSettings::default()).serve(listener).await;
        });
    });
    address
}

fn load(path: &str, body: &'static str, pace: Pace) -> Load {
    let url = format!("http://{}{path}", stub()).parse().unwrap();
    let target = Target::new(url, &[], body.to_owned()).unwrap();
    Load {
        target,
        pace,
        warm_up: Duration::ZERO,
        duration: Duration::from_millis(300),
        patience: Duration::from_secs(60),
        connections_max: 4,
    }
}

const WHOLE: &str = r#"{"model":"stub","prompt":"a","max_tokens":3}"#;
// With ids, so that a token whose text is held back is an event as well.
const STREAM: &str =
    r#"{"model":"stub","prompt":"a","max_tokens":3,"stream":true,"return_token_ids":true}"#;

#[test]
fn requests_at_a_rate_are_all_answered_and_counted() {
    let outcome = run(&load("/v1/completions", WHOLE, Pace::Rate(100.0))).unwrap();
    assert!(outcome.due > 5, "{outcome:?}");
    assert_eq!((outcome.succeeded, outcome.failed, outcome.unanswered), (outcome.due, 0, 0));
    let (first, whole) = (outcome.first_byte_ms.unwrap(), outcome.whole_ms.unwrap());
    assert!(0.0 < first.p50 && first.max <= whole.max && outcome.events == [0, 0], "{outcome:?}");
}

#[test]
fn the_events_of_streams_are_counted() {
    let outcome = run(&load("/v1/completions", STREAM, Pace::Clients(2))).unwrap();
    assert!(outcome.succeeded > 1 && outcome.failed == 0, "{outcome:?}");
    // Text, its end, and the sign of the end: several tokens may make one character.
    assert!(outcome.events[0] >= 3 && outcome.events[0] == outcome.events[1], "{outcome:?}");
    assert!(outcome.events_ms.windows(2).all(|pair| pair[0].max <= pair[1].max));
}

#[test]
fn a_server_that_refuses_is_not_measured() {
    let refused = run(&load("/nowhere", WHOLE, Pace::Clients(1))).unwrap_err();
    assert!(matches!(refused, LoadError::First(ProbeError::Refused { .. })), "{refused}");
    let wrong = run(&load("/", "", Pace::Rate(0.0))).unwrap_err();
    assert!(matches!(wrong, LoadError::Rate(_)));
}
