//! The flags of `fungible chips`, and the one that takes a catalog of one's own.

use std::path::PathBuf;

use clap::Args;

/// A file of one's own over the built-in catalog of chips.
#[derive(Args, Clone, Debug)]
pub struct CatalogArguments {
    /// Take figures, chips and prices of this file over the built-in catalog
    #[arg(long, env = "FUNGIBLE_CHIPS", value_name = "FILE")]
    pub catalog: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  fungible chips
  fungible chips h100
  fungible chips --json
  fungible chips --catalog ours.toml
Names are a chip and a number of chips, never cores: v5p-8 and tpu7x-8 are eight chips, where Google's \
own names of that spelling are four. docs/chips.md says how a file of one's own looks.")]
pub struct ChipsArguments {
    /// Show everything about one chip, such as h100
    pub chip: Option<String>,
    #[command(flatten)]
    pub catalog: CatalogArguments,
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub json: bool,
}
