//! `fungible bench model`: seconds per decode step and per prefill.

mod backend;
mod engine;
mod http;
mod null;
mod serve;

use serde_json::json;

use crate::arguments::{BenchArguments, BenchCommand, BenchModelArguments};
use crate::console;
use crate::failure::Outcome;
use crate::open::{self, Opened};

/// Tokens in the cache before decode steps are timed, and steps that are not timed.
const PROMPT_TOKENS: usize = 8;
const WARM_UP_STEPS: usize = 4;

pub fn run(arguments: &BenchArguments) -> Outcome {
    match &arguments.command {
        BenchCommand::Model(arguments) => model(arguments),
        BenchCommand::Engine(arguments) => engine::run(arguments),
        BenchCommand::Backend(arguments) => backend::run(arguments),
        BenchCommand::Serve(arguments) => serve::run(arguments),
        BenchCommand::Http(arguments) => http::run(arguments),
    }
}

fn model(arguments: &BenchModelArguments) -> Outcome {
    let Opened { engine, progress, .. } = open::open(&arguments.model, &arguments.device)?;
    let mut decode = Vec::new();
    for &batch in &arguments.batch {
        let warm_up = WARM_UP_STEPS;
        let seconds = engine.time_decode(batch.max(1), PROMPT_TOKENS, warm_up, arguments.steps)?;
        decode.push((batch, seconds));
    }
    let mut prefill = Vec::new();
    for &tokens in &arguments.prefill {
        prefill.push((tokens, engine.time_prefill(tokens, arguments.repeat)?));
    }
    progress.clear();
    let weights_bytes = engine.weight_bytes();
    if arguments.json {
        let decode: Vec<_> = decode
            .iter()
            .map(|(batch, seconds)| json!({"batch": batch, "seconds": seconds}))
            .collect();
        let prefill: Vec<_> = prefill
            .iter()
            .map(|(tokens, seconds)| json!({"tokens": tokens, "seconds": seconds}))
            .collect();
        let value = json!({"decode": decode, "prefill": prefill, "weights_bytes": weights_bytes});
        console::line(value);
        return Ok(());
    }
    let heading = ["what", "median", "tokens/s", "weights read"].map(str::to_string).to_vec();
    let mut rows = vec![heading];
    for (batch, seconds) in &decode {
        let median = median(seconds);
        rows.push(vec![
            format!("decode, batch {batch}"),
            format!("{:.1} ms", median * 1e3),
            format!("{:.1}", *batch as f64 / median),
            format!("{:.1} GB/s", weights_bytes as f64 / median / 1e9),
        ]);
    }
    for (tokens, seconds) in &prefill {
        let median = median(seconds);
        let rate = *tokens as f64 / median;
        rows.push(vec![
            format!("prefill, {tokens} tokens"),
            format!("{:.1} ms", median * 1e3),
            format!("{rate:.1}"),
            String::new(),
        ]);
    }
    console::table(&rows);
    Ok(())
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
