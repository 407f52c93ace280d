//! The flags of `fungible usage`.

use std::path::PathBuf;

use clap::Args;
use gateway::calendar::Day;
use gateway::usage::By;

use super::tenants::DatabaseArguments;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  fungible usage --by tenant,pool,day
  fungible usage --by model --from 2026-11-01 --to 2026-12-01 --tenant acme
  fungible usage --by month --json
  fungible usage --from 2026-11-01 --csv november.csv --parquet november.parquet
Days are of the calendar in UTC. Saved is what the same tokens would have cost on top at the dearest pool.")]
pub struct UsageArguments {
    /// What to group by, separated by commas: tenant, key, model, pool, backend, day, hour, month
    #[arg(long, value_name = "WHAT", value_delimiter = ',', default_value = "tenant")]
    pub by: Vec<By>,
    /// From the beginning of this day, or month, on: 2026-11-23 or 2026-11
    #[arg(long, value_name = "DAY", value_parser = day)]
    pub from: Option<Day>,
    /// Up to the beginning of this day, or month
    #[arg(long, value_name = "DAY", value_parser = day)]
    pub to: Option<Day>,
    /// Only what this tenant asked for
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
    /// Write every single record into this file, as CSV
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write every single record into this file, as Parquet
    #[arg(long, value_name = "FILE")]
    pub parquet: Option<PathBuf>,
    #[command(flatten)]
    pub database: DatabaseArguments,
}

fn day(text: &str) -> Result<Day, String> {
    Day::parse(text)
        .ok_or_else(|| "write a day such as 2026-11-23, or a month such as 2026-11".into())
}
