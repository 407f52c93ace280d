//! The flags of planning.

use clap::{Args, Subcommand};

use super::Device;

#[derive(Args, Debug)]
pub struct PlanArguments {
    #[command(subcommand)]
    pub command: PlanCommand,
}

#[derive(Debug, Subcommand)]
pub enum PlanCommand {
    /// Predict, run, and compare: how far the planner is off on this machine
    Check(CheckArguments),
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
