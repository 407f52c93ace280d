//! `fungible bench http`: one request again and again, timed to microseconds.

use std::time::Duration;

use gateway::load::{self, Load, Outcome as Measured, Pace, Spread, Target};
use plan::words::with_sources;

use crate::arguments::http::BenchHttpArguments;
use crate::console;
use crate::failure::{Exit, Failure, Outcome};

pub fn run(arguments: &BenchHttpArguments) -> Outcome {
    let pace = match (arguments.rate, arguments.clients) {
        (Some(rate), _) => Pace::Rate(rate),
        (None, clients) => Pace::Clients(clients.unwrap_or(1).max(1)),
    };
    let load = Load {
        target: target(arguments)?,
        pace,
        warm_up: seconds(arguments.warm_up)?,
        duration: seconds(arguments.duration)?,
        patience: seconds(arguments.patience)?,
        connections_max: arguments.connections,
    };
    let measured = load::run(&load)?;
    match arguments.json {
        true => console::line(serde_json::to_string(&measured)?),
        false => show(&measured),
    }
    match measured.succeeded {
        0 => Err(Failure::new(Exit::Failure, "no request succeeded")),
        _ => Ok(()),
    }
}

fn target(arguments: &BenchHttpArguments) -> Result<Target, Failure> {
    let wrong = |what: &str, error: &dyn std::error::Error| {
        Failure::usage(format!("{what}: {}", with_sources(error)))
    };
    let url = arguments.url.parse().map_err(|error| wrong(&arguments.url, &error))?;
    Target::new(url, &arguments.headers, arguments.body.clone())
        .map_err(|error| wrong("the request cannot be made", &error))
}

fn show(measured: &Measured) {
    let Measured { due, succeeded, failed, unanswered, .. } = measured;
    console::remark(format_args!(
        "{due} requests: {succeeded} answered, {failed} failed, {unanswered} unanswered; \
         {} answers/s",
        measured.answers_per_second
    ));
    for reason in &measured.failures {
        console::remark(format_args!("  {reason}"));
    }
    let mut rows = vec![["milliseconds", "p50", "p90", "p99", "max"].map(str::to_owned).to_vec()];
    let times = [
        ("to the first byte", &measured.first_byte_ms),
        ("to the end", &measured.whole_ms),
        ("of which the generator was late", &measured.late_ms),
    ];
    for (name, spread) in times {
        let Some(Spread { p50, p90, p99, max }) = spread else { continue };
        let figures = [p50, p90, p99, max].map(|value| format!("{value:.3}"));
        rows.push(std::iter::once(name.to_owned()).chain(figures).collect());
    }
    console::table(&rows);
}

fn seconds(value: f64) -> Result<Duration, Failure> {
    Duration::try_from_secs_f64(value)
        .map_err(|error| Failure::usage(format!("{value} is no time: {error}")))
}
