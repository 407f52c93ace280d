//! The flags of `fungible gateway`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  fungible gateway gateway.toml
  fungible gateway check gateway.toml        # probe every backend and print a table
  kill -HUP PID                              # take the config as it is now, without dropping a stream
A config with two suppliers behind one model:
  [pools.ours]
  chip = \"h100\"
  chips = 8
  price = \"2.50 usd/chip-hour\"
  backends = [{ url = \"http://10.0.0.5:8000\" }]
  [pools.tpu]
  chip = \"v6e\"
  chips = 8
  price = \"2.70 usd/chip-hour\"
  backends = [{ url = \"https://10.1.0.5:8000\", api_key = { file = \"tpu-key\" } }]
  [models.chat]
  pools = [\"ours\", \"tpu\"]
  policy = \"cheapest\"
  ttft = \"500ms\"
docs/gateway.md has every key. Keys for clients: fungible tenants add --help"
)]
pub struct GatewayArguments {
    #[command(subcommand)]
    pub command: Option<GatewayCommand>,
    /// The config
    #[arg(required = true)]
    pub config: Option<PathBuf>,
    /// Write the log as JSON, one object a line
    #[arg(long)]
    pub log_json: bool,
}

#[derive(Subcommand, Debug)]
pub enum GatewayCommand {
    /// Validate a config, ask every backend, and print what was found
    Check(CheckArguments),
}

#[derive(Args, Debug)]
pub struct CheckArguments {
    /// The config
    pub config: PathBuf,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  fungible bench backend --port 9001 --tokens-per-second 50 --ttft 20ms
  curl localhost:9001/misbehave -d '{\"mode\": \"cut\", \"probability\": 0.1}'")]
pub struct BenchBackendArguments {
    /// Where it listens, on this machine only; 0 for any free port
    #[arg(long, default_value_t = 9001)]
    pub port: u16,

    /// Names that it lists; it answers to any
    #[arg(long, value_delimiter = ',', default_value = "stub")]
    pub models: Vec<String>,

    /// How fast one answer grows; without it, as fast as it can be written
    #[arg(long, value_name = "RATE")]
    pub tokens_per_second: Option<f64>,

    /// Time before the first token
    #[arg(long, value_name = "TIME", value_parser = super::plan::time, default_value = "0ms")]
    pub ttft: Duration,

    /// Do not say that answers can go on by token ids
    #[arg(long)]
    pub text_only: bool,

    /// Threads that answer; without it, one for each processor
    #[arg(long)]
    pub threads: Option<usize>,
}
