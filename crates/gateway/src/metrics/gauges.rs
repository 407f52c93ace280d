//! What is so at the moment: backends and their states, requests under way, records not yet written.

use std::sync::atomic::Ordering;

use web::exposition::{Kind, Page, labels};
use web::traces::SpanCounts;

use super::trials;
use crate::pools::{CanaryView, MirrorView};

/// Read when the page is asked for.
#[derive(Debug, Default)]
pub struct Gauges<'a> {
    pub backends: Vec<BackendGauge<'a>>,
    /// Pools on trial.
    pub mirrors: Vec<MirrorView>,
    pub canaries: Vec<CanaryView>,
    /// Records in memory because the database is away.
    pub records_waiting: usize,
    /// Requests that wait for their turn.
    pub waiting: usize,
    /// If traces are collected.
    pub spans: Option<&'a SpanCounts>,
}

#[derive(Clone, Copy, Debug)]
pub struct BackendGauge<'a> {
    pub pool: &'a str,
    pub backend: &'a str,
    /// One of [`STATES`].
    pub state: &'a str,
    pub in_flight: u64,
}

/// All that a backend can be; each has a line, which is 1 for what it is.
pub const STATES: [&str; 5] = ["well", "ill", "open", "half-open", "draining"];

impl Gauges<'_> {
    pub(super) fn write(&self, page: &mut Page) {
        let name = "fungible_gateway_backend_state";
        page.head(name, "1 for the state that a backend is in", Kind::Gauge);
        for one in &self.backends {
            for state in STATES {
                let all = labels(&[("pool", one.pool), ("backend", one.backend), ("state", state)]);
                page.line(name, &all, u8::from(one.state == state));
            }
        }
        let name = "fungible_gateway_in_flight";
        page.head(name, "requests at a backend", Kind::Gauge);
        for one in &self.backends {
            let all = labels(&[("pool", one.pool), ("backend", one.backend)]);
            page.line(name, &all, one.in_flight);
        }
        trials::write(page, &self.mirrors, &self.canaries);
        for (name, help, value) in [
            (
                "fungible_gateway_records_waiting",
                "records in memory until the database takes them",
                self.records_waiting,
            ),
            ("fungible_gateway_waiting", "requests that wait for their turn", self.waiting),
        ] {
            page.value(Kind::Gauge, name, help, "", value);
        }
        let Some(spans) = self.spans else { return };
        for (name, help, count) in [
            (
                "fungible_gateway_traces_sent_total",
                "traces that a collector took",
                &spans.delivered,
            ),
            ("fungible_gateway_traces_lost_total", "traces that none took", &spans.lost),
        ] {
            page.value(Kind::Counter, name, help, "", count.load(Ordering::Relaxed));
        }
    }
}
