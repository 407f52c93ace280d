//! The flags of the quickstart.

use std::path::PathBuf;

use clap::Args;

use super::{Device, at_least_one};

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  fungible quickstart
  fungible quickstart --port 8080 --output my-first-run
  fungible quickstart --no-serve                # ends after the answers
It can be interrupted at any time; the same command goes on from there. Config, data, checkpoints and the \
model stay in the output folder.")]
pub struct QuickstartArguments {
    /// The folder of the run
    #[arg(long, value_name = "FOLDER", default_value = "runs/quickstart")]
    pub output: PathBuf,
    /// Steps of the fine-tune
    #[arg(long, value_name = "COUNT", default_value_t = 30, value_parser = at_least_one)]
    pub steps: usize,
    /// Start anew where an earlier quickstart is, and remove its checkpoints
    #[arg(long)]
    pub overwrite: bool,
    /// End after the answers
    #[arg(long)]
    pub no_serve: bool,
    /// The port to serve on
    #[arg(long, default_value_t = 8000)]
    pub port: u16,
    /// The kind of device
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    pub device: Device,
    /// A PJRT plugin on disk to use for the device
    #[arg(long, value_name = "FILE")]
    pub plugin: Option<PathBuf>,
}
