//! The flags of `fungible plan`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

const EXAMPLES: &str = "\
Examples:
  fungible plan train run.toml --targets v5e-256,v6e-256,h100-64
  fungible plan train llama3-8b --targets v6e-256,h200-64 --tokens 15T --minimize time
  fungible plan serve llama3-8b --input 1024 --output 256 --ttft 500ms --tpot 30ms --qps 20 --targets all
  fungible plan check
  fungible plan train run.toml --targets v6e-64 --set training.batch_size=512 --html plan.html";

use super::Device;

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct PlanArguments {
    #[command(subcommand)]
    pub command: PlanCommand,
}

impl PlanArguments {
    pub fn catalog(&self) -> Option<&Path> {
        let shared = match &self.command {
            PlanCommand::Train(arguments) => &arguments.shared,
            PlanCommand::Serve(arguments) => &arguments.shared,
            PlanCommand::Check(_) => return None,
        };
        shared.catalog.catalog.as_deref()
    }
}

#[derive(Debug, Subcommand)]
pub enum PlanCommand {
    /// Where to train: time, memory, money and energy of a training step on each target
    Train(PlanTrainArguments),
    /// Where to serve: response times, throughput, chips needed and money on each target
    Serve(PlanServeArguments),
    /// Predict, run, and compare: how far the planner is off on this machine
    Check(CheckArguments),
}

const TRAIN_EXAMPLES: &str = "\
Examples:
  fungible plan train run.toml --targets v5e-256,v6e-256,h100-64,h200-64
  fungible plan train llama3-8b --targets v6e-256,tpu7x-64 --tokens 15T
  fungible plan train llama3-70b --targets v6e-256 --set training.batch_size=1024 --budget 10m
  fungible plan train run.toml --targets cpu,v6e-16 --minimize energy --json
  fungible plan train run.toml --targets all

A target is a chip with a number (v6e-256), a chip alone (v6e: the fewest that it fits on), or `all`. Each \
target's vendor's compiler compiles the step for as many chips as there would be; none of them is needed here. \
Where it does not fit, what would make it fit is compiled before it is proposed.";

#[derive(Args, Debug)]
#[command(after_help = TRAIN_EXAMPLES)]
pub struct PlanTrainArguments {
    #[arg(
        help = "A training config (.toml), or a known shape such as llama3-8b: then batches of 512 sequences of 8192 tokens in bf16, with training.remat = \"full\""
    )]
    pub config: String,
    /// Change a key of the config, such as `training.batch_size=512`; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Tokens to train on, such as 15T or 300B; those of the config's steps if not given
    #[arg(long, value_name = "COUNT", value_parser = tokens)]
    pub tokens: Option<f64>,
    /// What is left of this time once every target is known goes to other meshes than those that look
    /// best: 90s, 10m, 1h
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub budget: Option<Duration>,
    #[command(flatten)]
    pub shared: PlanShared,
}

const SERVE_EXAMPLES: &str = "\
Examples:
  fungible plan serve llama3-8b --input 1024 --output 256 --ttft 500ms --tpot 30ms --qps 20 --targets all
  fungible plan serve llama3-70b --targets v6e-8,h100-8,h200-4 --qps 5 --quantization int8
  fungible plan serve ./my-model --targets v6e,h100 --minimize time --html report.html

A target is a chip with a number (v6e-8: rented whole, and split into instances as it is best), a chip
alone (v6e: as many as take the least chip time), or `all`. Steps are compiled for each; waiting times follow from them.";

#[derive(Args, Debug)]
#[command(after_help = SERVE_EXAMPLES)]
pub struct PlanServeArguments {
    #[arg(
        help = "A known name or shape (smollm2-135m, llama3-8b, ...), a model folder, a config.json, or a .gguf file"
    )]
    pub model: String,
    /// Tokens of a prompt
    #[arg(long, value_name = "TOKENS", default_value_t = 1024, value_parser = super::at_least_one)]
    pub input: usize,
    /// Tokens of an answer
    #[arg(long, value_name = "TOKENS", default_value_t = 256, value_parser = super::at_least_one)]
    pub output: usize,
    /// Time to the first token that is promised, on average: 500ms, 2s
    #[arg(long, value_name = "TIME", value_parser = short_time)]
    pub ttft: Option<f64>,
    /// Time per token after it that is promised, on average: 30ms
    #[arg(long, value_name = "TIME", value_parser = short_time)]
    pub tpot: Option<f64>,
    /// Requests per second, all instances together; if not given, as many as one instance can answer
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub qps: Option<f64>,
    /// Sequences that an instance decodes at once, at most
    #[arg(long, value_name = "COUNT", value_parser = super::at_least_one)]
    pub max_num_seqs: Option<usize>,
    /// Tokens of a prompt that are computed at once
    #[arg(long, value_name = "TOKENS", default_value_t = 512, value_parser = super::at_least_one)]
    pub max_num_batched_tokens: usize,
    /// How the matrices of the layers are held
    #[arg(long, value_enum, default_value_t = super::serve::Quantization::Auto)]
    pub quantization: super::serve::Quantization,
    /// Type of weights, activations and cache; f32 on the CPU, bf16 elsewhere, if not given
    #[arg(long, value_enum)]
    pub dtype: Option<super::Dtype>,
    #[command(flatten)]
    pub shared: PlanShared,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  fungible plan check
  fungible plan check --shape deep --shape serving
  fungible plan check --json
Three steps of training and three of serving are predicted from a few of their layers, then run whole, as \
`fungible train` and `fungible bench engine` do, with weights that are made up. It takes some minutes; other \
work on the machine shows in what is measured, so let it rest meanwhile. Exits with 1 if a prediction is off \
by more than 15 % (times) or 5 % (memory). On a GPU the predictions are those of the time model; that was \
never run, for want of one.")]
pub struct CheckArguments {
    /// Check this shape only: smollm2, wide, deep, serving, tiny-training or tiny-serving; may be given
    /// several times
    #[arg(long, value_name = "NAME")]
    pub shape: Vec<String>,
    /// The kind of device: an NVIDIA GPU if there is one, else the CPU
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    pub device: Device,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// What all plans have in common.
#[derive(Args, Debug)]
pub struct PlanShared {
    /// Targets, such as v5e-256,h100-64 (counts are chips), v6e, or all
    #[arg(long, required = true, value_delimiter = ',')]
    pub targets: Vec<String>,
    /// What to rank by
    #[arg(long, value_enum, default_value_t = Minimize::Cost)]
    pub minimize: Minimize,
    /// Which prices count
    #[arg(long, value_enum, default_value_t = Purchase::OnDemand)]
    pub purchase: Purchase,
    /// Only prices of this provider, such as gcp (`fungible chips` lists them)
    #[arg(long, value_name = "NAME")]
    pub provider: Option<String>,
    /// Compilations at once; as many as processors and memory allow if not given
    #[arg(long, value_name = "COUNT", value_parser = super::at_least_one)]
    pub jobs: Option<usize>,
    /// Write a report with pictures to this file: one page that needs nothing else
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    #[command(flatten)]
    pub catalog: super::chips::CatalogArguments,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Minimize {
    /// Dollars per token
    Cost,
    /// Seconds of a step, or of an answer
    Time,
    /// Kilowatt-hours per token
    Energy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Purchase {
    /// By the hour, kept until given back
    OnDemand,
    /// By the hour, and taken back at any time: what is lost to that is in the price
    Spot,
    /// For a whole term
    Committed,
}

/// `15T`, `300B`, `2.5M`, `1000`.
fn tokens(text: &str) -> Result<f64, String> {
    let (number, scale) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1e3),
        Some((at, 'M')) => (&text[..at], 1e6),
        Some((at, 'B' | 'G')) => (&text[..at], 1e9),
        Some((at, 'T')) => (&text[..at], 1e12),
        _ => (text, 1.0),
    };
    match number.trim().parse::<f64>() {
        Ok(count) if count.is_finite() && count * scale >= 1.0 => Ok(count * scale),
        _ => Err("write a number of tokens such as 15T, 300B, 2.5M or 100000".to_string()),
    }
}

/// `30ms`, `2s`, in seconds.
fn short_time(text: &str) -> Result<f64, String> {
    let (number, scale) = match text.strip_suffix("ms") {
        Some(number) => (number, 1e-3),
        None => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    let seconds = number.trim().parse::<f64>().map(|number| number * scale);
    match seconds {
        Ok(seconds) if seconds.is_finite() && seconds > 0.0 => Ok(seconds),
        _ => Err("write a time such as 500ms or 2s".to_string()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("write how many requests a second there are, such as 20 or 0.5".to_string()),
    }
}

/// `20ms`, `90s`, `10m`, `1h`; a bare number is seconds.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let (number, scale) = match text.char_indices().last() {
        Some((at, 's')) if text.ends_with("ms") => (&text[..at - 1], 1e-3),
        Some((at, 's')) => (&text[..at], 1.0),
        Some((at, 'm')) => (&text[..at], 60.0),
        Some((at, 'h')) => (&text[..at], 3600.0),
        _ => (text, 1.0),
    };
    let seconds = number.trim().parse::<f64>().ok().filter(|seconds| *seconds >= 0.0);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds * scale).ok())
        .ok_or_else(|| "write a time such as 20ms, 90s, 10m or 1h".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_tokens_and_times() {
        assert_eq!(tokens("15T"), Ok(15e12));
        assert_eq!(tokens("2.5M"), Ok(2.5e6));
        assert_eq!(tokens("1000"), Ok(1000.0));
        for wrong in ["", "T", "0", "-3B", "1e400", "nan", "ten"] {
            assert!(tokens(wrong).is_err(), "{wrong}");
        }
        assert_eq!(short_time("30ms"), Ok(0.03));
        assert_eq!(short_time("2s"), Ok(2.0));
        assert_eq!(short_time("0.5"), Ok(0.5));
        assert!(short_time("0ms").is_err() && short_time("ms").is_err());
        assert!(rate("0").is_err() && rate("x").is_err() && rate("0.5") == Ok(0.5));
        assert_eq!(time("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(time("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(time("1.5s"), Ok(Duration::from_millis(1500)));
        for wrong in ["", "m", "-1s", "1e300h", "soon"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
