//! The flags of planning.

use clap::{Args, Subcommand};

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
  fungible plan check --only training
  fungible plan check --shape deep --shape decode-8 --json
Steps of training and a server's steps are predicted from a few layers, then run whole with weights that \
are made up. Other work on the machine shows in both; let it rest meanwhile.")]
pub struct CheckArguments {
    /// Check this shape only; may be given several times
    #[arg(long, value_name = "NAME")]
    pub shape: Vec<String>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}
