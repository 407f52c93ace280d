//! `fungible bench serve`: how fast a server answers under load.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use serve::load::{
    self, Distribution, Endpoint, Load, Pace, Progress, Slo, Summary, Target, Until, Work,
};

use crate::arguments::{BenchEndpoint, BenchServeArguments};
use crate::console;
use crate::failure::{Exit, Failure, Outcome};

/// Requests per client, and the fewest of a level, where neither a number nor a time is given.
const REQUESTS_PER_CLIENT: usize = 4;
const REQUESTS_MIN: usize = 8;
/// Seconds of requests at a rate.
const SECONDS_OF_RATE: f64 = 30.0;
/// Reasons for failures that are shown; a server can find many words.
const REASONS_MAX: usize = 5;

pub fn run(arguments: &BenchServeArguments) -> Outcome {
    let dataset = match &arguments.dataset {
        Some(path) => {
            let text = fs::read_to_string(path).map_err(|error| {
                Failure::new(Exit::Failure, format!("cannot read {}: {error}", path.display()))
            })?;
            Some(load::from_jsonl(&text)?)
        }
        None => None,
    };
    let work = Work {
        input_tokens: arguments.input,
        output_tokens: arguments.output,
        shared_prefix_tokens: arguments.shared_prefix,
        dataset,
        temperature: arguments.temperature,
        ignore_eos: arguments.ignore_eos,
        seed: arguments.seed,
    };
    let target = Target {
        url: arguments.url.clone(),
        endpoint: match arguments.endpoint {
            BenchEndpoint::Completions => Endpoint::Completions,
            BenchEndpoint::Chat => Endpoint::Chat,
        },
        model: arguments.model.clone(),
        api_key: arguments.api_key.clone(),
        timeout_seconds: arguments.timeout,
    };
    let progress = Arc::new(console::Progress::new());
    progress.spin("asking the server how long prompts are");
    let connected = Load::connect(&target, work);
    progress.clear();
    let mut load = connected?;
    let stop = on_signal(progress.clone())?;
    let title = format!("{} at {}", load.model(), load.url());
    console::remark(format_args!("{title}{}", note(arguments, &load)));
    let paces = paces(arguments);
    if let (Some(first), true) = (paces.first(), arguments.warm_up > 0) {
        let until = Until::Requests(arguments.warm_up);
        level(&mut load, *first, until, "warming up", &stop, &progress)?;
    }
    let mut summaries = Vec::new();
    for pace in paces {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let until = until(arguments, pace);
        let name = match pace {
            Pace::Clients(clients) => format!("concurrency {clients}"),
            Pace::Rate(rate) => format!("{rate} requests/s"),
        };
        let summary = level(&mut load, pace, until, &name, &stop, &progress)?;
        summaries.push(Summary::of(&summary, arguments.slo.as_ref()));
    }
    progress.clear();
    if !summaries.is_empty() {
        show(arguments, &load, &title, &summaries)?;
    }
    if stop.load(Ordering::Relaxed) {
        return Err(Failure::silent(Exit::Interrupted));
    }
    match summaries.iter().all(|summary| summary.succeeded == 0) {
        true => Err(Failure::new(Exit::Failure, "no request succeeded")),
        false => Ok(()),
    }
}

/// What a reader of the figures should know of the prompts.
fn note(arguments: &BenchServeArguments, load: &Load) -> &'static str {
    match (&arguments.dataset, load.is_exact()) {
        (None, false) => {
            ": it does not say how long prompts are before it gets them, so their \
             length is estimated"
        }
        _ => "",
    }
}

fn paces(arguments: &BenchServeArguments) -> Vec<Pace> {
    match arguments.rate.is_empty() {
        true => arguments.concurrency.iter().map(|clients| Pace::Clients(*clients)).collect(),
        false => arguments.rate.iter().map(|rate| Pace::Rate(*rate)).collect(),
    }
}

fn until(arguments: &BenchServeArguments, pace: Pace) -> Until {
    match (arguments.requests, arguments.duration, pace) {
        (Some(requests), _, _) => Until::Requests(requests),
        (None, Some(seconds), _) => Until::Seconds(seconds),
        (None, None, Pace::Clients(clients)) => {
            Until::Requests(clients.saturating_mul(REQUESTS_PER_CLIENT).max(REQUESTS_MIN))
        }
        (None, None, Pace::Rate(_)) => Until::Seconds(SECONDS_OF_RATE),
    }
}

fn level(
    load: &mut Load,
    pace: Pace,
    until: Until,
    name: &str,
    stop: &AtomicBool,
    progress: &console::Progress,
) -> Result<load::Measured, Failure> {
    let mut report = |now: Progress| {
        let (done, total) = match until {
            Until::Requests(count) => (now.done as u64, count as u64),
            Until::Seconds(seconds) => (now.seconds.min(seconds) as u64, seconds as u64),
        };
        let failed =
            if now.failed > 0 { format!(", {} failed", now.failed) } else { String::new() };
        let rate = now.output_tokens as f64 / now.seconds.max(1e-9);
        let message = format!("{name}: {} running{failed}, {rate:.1} tokens/s", now.running);
        progress.steps(done, total, &message);
    };
    if !progress.is_visible() {
        console::remark(format_args!("{name} ..."));
    }
    Ok(load.measure(pace, until, stop, &mut report)?)
}

/// Set by the first Ctrl-C; a second one ends at once.
fn on_signal(progress: Arc<console::Progress>) -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::Relaxed) {
            runtime::end_process(Exit::Interrupted as i32);
        }
        progress.clear();
        console::remark("stopping, with what was measured so far (once more ends at once)");
    })?;
    Ok(stop)
}

fn show(
    arguments: &BenchServeArguments,
    load: &Load,
    title: &str,
    summaries: &[Summary],
) -> Outcome {
    let rows = rows(summaries);
    let to_output = arguments.json.as_deref() == Some(Path::new("-"));
    if !to_output {
        console::table(&rows);
        if let Some(slo) = &arguments.slo {
            console::line(format_args!("goodput: requests with {slo}"));
        }
    }
    for summary in summaries {
        let mut reasons: Vec<_> = summary.failures.iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (reason, count) in reasons.iter().take(REASONS_MAX) {
            let reason = console::remarked_text(reason);
            console::warning(&format!("{}: {count} failed: {reason}", summary.name()));
        }
        if reasons.len() > REASONS_MAX {
            let more = reasons.len() - REASONS_MAX;
            console::warning(&format!("{}: {more} more reasons", summary.name()));
        }
    }
    if let Some(path) = &arguments.json {
        let value = json!({
            "url": load.url(),
            "model": load.model(),
            "endpoint": match arguments.endpoint {
                BenchEndpoint::Completions => "completions",
                BenchEndpoint::Chat => "chat",
            },
            "input_tokens": arguments.dataset.is_none().then_some(arguments.input),
            "output_tokens": arguments.output,
            "shared_prefix_tokens": arguments.shared_prefix,
            "ignore_eos": arguments.ignore_eos,
            "temperature": arguments.temperature,
            "seed": arguments.seed,
            "slo": arguments.slo.as_ref().map(Slo::to_string),
            "levels": summaries,
        });
        match to_output {
            true => console::line(&value),
            false => write(path, &format!("{value:#}\n"))?,
        }
    }
    if let Some(path) = &arguments.plot {
        let is_svg = path.extension().is_some_and(|extension| extension == "svg");
        let text = match is_svg {
            true => load::svg(title, summaries),
            false => load::html(title, summaries, &rows),
        };
        write(path, &text)?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Outcome {
    fs::write(path, text).map_err(|error| {
        Failure::new(Exit::Failure, format!("cannot write {}: {error}", path.display()))
    })?;
    console::remark(format_args!("wrote {}", path.display()));
    Ok(())
}

/// What a row of the table shows of a measurement.
type Show = fn(&Summary) -> Option<String>;
type Spread = fn(&Summary) -> Option<Distribution>;
type Part = fn(Distribution) -> f64;

/// A column for each measurement. Rows that no server's answers fill are left out.
fn rows(summaries: &[Summary]) -> Vec<Vec<String>> {
    let mut heading = vec![String::new()];
    heading.extend(summaries.iter().map(Summary::name));
    let mut rows = vec![heading];
    let shows: [(&str, Show); 13] = [
        ("requests ok", |summary| Some(summary.succeeded.to_string())),
        ("requests failed", |summary| Some(summary.failed.to_string())),
        ("requests dropped", |summary| (summary.dropped > 0).then(|| summary.dropped.to_string())),
        ("seconds", |summary| Some(figure(summary.seconds))),
        ("requests/s", |summary| Some(figure(summary.requests_per_second))),
        ("input tokens", |summary| Some(summary.input_tokens?.to_string())),
        ("  of them cached", |summary| {
            Some(summary.cached_input_tokens.filter(|tokens| *tokens > 0)?.to_string())
        }),
        ("output tokens", |summary| Some(summary.output_tokens.to_string())),
        ("input tokens/s", |summary| Some(figure(summary.input_tokens_per_second?))),
        ("output tokens/s", |summary| Some(figure(summary.output_tokens_per_second))),
        ("goodput, share", |summary| Some(format!("{:.1} %", summary.goodput?.share * 100.0))),
        ("goodput, requests/s", |summary| Some(figure(summary.goodput?.requests_per_second))),
        ("", |_| Some(String::new())),
    ];
    for (name, show) in shows {
        add(&mut rows, name, summaries.iter().map(show).collect());
    }
    let spreads: [(&str, Spread); 4] = [
        ("TTFT", |summary| summary.ttft_ms),
        ("TPOT", |summary| summary.tpot_ms),
        ("ITL", |summary| summary.itl_ms),
        ("latency", |summary| summary.latency_ms),
    ];
    let parts: [(&str, Part); 4] = [
        ("mean", |values| values.mean),
        ("p50", |values| values.p50),
        ("p90", |values| values.p90),
        ("p99", |values| values.p99),
    ];
    for (name, spread) in spreads {
        for (part, value) in parts {
            let cells =
                summaries.iter().map(|summary| Some(figure(value(spread(summary)?)))).collect();
            add(&mut rows, &format!("{name} {part}, ms"), cells);
        }
    }
    rows
}

fn add(rows: &mut Vec<Vec<String>>, name: &str, cells: Vec<Option<String>>) {
    if cells.iter().any(Option::is_some) {
        let cells = cells.into_iter().map(|cell| cell.unwrap_or_else(|| "-".to_string()));
        rows.push(std::iter::once(name.to_string()).chain(cells).collect());
    }
}

/// At least three digits that matter.
fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
