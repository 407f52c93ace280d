//! The flags of `fungible plan`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

const EXAMPLES: &str = "\
Examples:
  fungible plan train run.toml --targets v5e-256,v6e-256,h100-64
  fungible plan train llama3-8b --targets v6e-256,h200-64 --tokens 15T --minimize time
  fungible plan train run.toml --targets v6e-64 --set training.batch_size=512 --html plan.html";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct PlanArguments {
    #[command(subcommand)]
    pub command: PlanCommand,
}

#[derive(Debug, Subcommand)]
pub enum PlanCommand {
    /// Where to train: time, memory, money and energy of a training step on each target
    Train(PlanTrainArguments),
}

const TRAIN_EXAMPLES: &str = "\
Examples:
  fungible plan train run.toml --targets v5e-256,v6e-256,h100-64,h200-64
  fungible plan train llama3-8b --targets v6e-256,tpu7x-64 --tokens 15T
  fungible plan train llama3-70b --targets v6e-256 --set training.batch_size=1024 --budget 10m
  fungible plan train run.toml --targets cpu,v6e-16 --minimize energy --json

Each target's vendor's compiler compiles the step for as many chips as there would be; none of them is
needed here. Where it does not fit, what would make it fit is compiled before it is proposed.";

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
    /// Also compile other meshes than the one that looks best, for so long: 90s, 10m, 1h
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub budget: Option<Duration>,
    #[command(flatten)]
    pub shared: PlanShared,
}

/// What all plans have in common.
#[derive(Args, Debug)]
pub struct PlanShared {
    /// Targets, such as v5e-256,h100-64 (counts are chips)
    #[arg(long, required = true, value_delimiter = ',')]
    pub targets: Vec<String>,
    /// What to rank by
    #[arg(long, value_enum, default_value_t = Minimize::Cost)]
    pub minimize: Minimize,
    /// Compilations at once; as many as processors and memory allow if not given
    #[arg(long, value_name = "COUNT", value_parser = super::at_least_one)]
    pub jobs: Option<usize>,
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

/// `90s`, `10m`, `1h`; a bare number is seconds.
fn time(text: &str) -> Result<Duration, String> {
    let (number, scale) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1.0),
        Some((at, 'm')) => (&text[..at], 60.0),
        Some((at, 'h')) => (&text[..at], 3600.0),
        _ => (text, 1.0),
    };
    let seconds = number.trim().parse::<f64>().ok().filter(|seconds| *seconds >= 0.0);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds * scale).ok())
        .ok_or_else(|| "write a time such as 90s, 10m or 1h".to_string())
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
        assert_eq!(time("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(time("1.5s"), Ok(Duration::from_millis(1500)));
        for wrong in ["", "m", "-1s", "1e300h", "soon"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
