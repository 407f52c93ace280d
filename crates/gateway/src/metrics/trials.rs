//! Pools on trial: what became of copies and of canaries' requests.

use web::exposition::{Kind, Page, labels};

use crate::pools::{CanaryView, MirrorView};

/// Nothing for what there is not: most gateways have no pool on trial.
pub(super) fn write(page: &mut Page, mirrors: &[MirrorView], canaries: &[CanaryView]) {
    if !mirrors.is_empty() {
        write_mirrors(page, mirrors);
    }
    if !canaries.is_empty() {
        write_canaries(page, canaries);
    }
}

fn write_mirrors(page: &mut Page, mirrors: &[MirrorView]) {
    let name = "fungible_gateway_mirror_requests_total";
    let help =
        "copies of requests to a pool on trial; left out ones were not sent for want of room";
    page.head(name, help, Kind::Counter);
    for one in mirrors {
        for (outcome, count) in [
            ("complete", one.requests - one.failures),
            ("failed", one.failures),
            ("left-out", one.left_out),
        ] {
            let all = [("model", &*one.model), ("pool", &*one.pool), ("outcome", outcome)];
            page.line(name, &labels(&all), count);
        }
    }
    let name = "fungible_gateway_mirror_compared_total";
    let help = "copies of greedy requests whose answer was compared with the client's";
    page.head(name, help, Kind::Counter);
    for one in mirrors {
        for (result, count) in
            [("same", one.same_total), ("different", one.compared_total - one.same_total)]
        {
            let all = [("model", &*one.model), ("pool", &*one.pool), ("result", result)];
            page.line(name, &labels(&all), count);
        }
    }
}

fn write_canaries(page: &mut Page, canaries: &[CanaryView]) {
    let name = "fungible_gateway_canary_requests_total";
    page.head(name, "requests that a canary was asked first", Kind::Counter);
    for one in canaries {
        for (outcome, count) in
            [("complete", one.requests_total - one.failures_total), ("failed", one.failures_total)]
        {
            let all = [("model", &*one.model), ("pool", &*one.pool), ("outcome", outcome)];
            page.line(name, &labels(&all), count);
        }
    }
    let name = "fungible_gateway_canary_rolled_back";
    page.head(name, "1 for a canary that did worse and gets nothing more", Kind::Gauge);
    for one in canaries {
        let all = labels(&[("model", &*one.model), ("pool", &*one.pool)]);
        page.line(name, &all, u8::from(one.verdict == "rolled back"));
    }
}
