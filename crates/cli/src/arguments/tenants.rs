//! The flags of `fungible tenants`, and those that say where the database is.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use gateway::tenants::Budget;

/// Where tenants and records are.
#[derive(Args, Clone, Debug)]
pub struct DatabaseArguments {
    /// Take the database of this config of a gateway [default: gateway.toml, if it is here]
    #[arg(long, value_name = "FILE", conflicts_with = "database")]
    pub config: Option<PathBuf>,
    /// Take this database: a SQLite file, or postgres://user:password@host/name
    #[arg(
        long,
        env = "FUNGIBLE_GATEWAY_DATABASE",
        hide_env_values = true,
        value_name = "FILE|ADDRESS"
    )]
    pub database: Option<String>,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  fungible tenants add acme --budget 50usd/month --rpm 600 --tpm 200k --models \"chat-*\"
  fungible tenants list
  fungible tenants change acme --budget 20usd/day --budget 300usd/month --tpm none
  fungible tenants rotate acme --grace 7d
  fungible tenants revoke acme key-1
  fungible tenants change acme --suspend
A running gateway sees changes within a second. Keys are stored as digests: nobody can show one again.")]
pub struct TenantsArguments {
    #[command(subcommand)]
    pub command: TenantsCommand,
}

#[derive(Subcommand, Debug)]
pub enum TenantsCommand {
    /// Add a tenant and print its key, once
    Add(AddArguments),
    /// Show all tenants, their limits and what they have spent
    List(ListArguments),
    /// Show everything about one tenant
    Show(ShowArguments),
    /// Change what is given, and nothing else
    Change(AddArguments),
    /// Remove a tenant and its keys; its records stay
    Remove(RemoveArguments),
    /// Give a tenant one more key and print it, once
    AddKey(AddKeyArguments),
    /// Put a new key in place of one, and print it, once
    Rotate(RotateArguments),
    /// End a key at once
    Revoke(RevokeArguments),
}

#[derive(Args, Debug)]
pub struct AddArguments {
    /// Letters, digits, `-`, `_` and `.`
    pub tenant: String,
    #[command(flatten)]
    pub settings: SettingsArguments,
    #[command(flatten)]
    pub database: DatabaseArguments,
}

#[derive(Args, Debug)]
pub struct SettingsArguments {
    /// At most this much money a day or month of the calendar (UTC), such as 50usd/month; may be
    /// given twice; `none` lifts it
    #[arg(long, value_name = "AMOUNT", value_parser = setting::<Budget>)]
    pub budget: Vec<Setting<Budget>>,
    /// At most so many requests a minute, such as 600; `none` lifts it
    #[arg(long, value_name = "COUNT", value_parser = setting::<Count>)]
    pub rpm: Option<Setting<Count>>,
    /// At most so many tokens a minute, such as 200k; `none` lifts it
    #[arg(long, value_name = "COUNT", value_parser = setting::<Count>)]
    pub tpm: Option<Setting<Count>>,
    /// At most so many requests at once; `none` lifts it
    #[arg(long, value_name = "COUNT", value_parser = setting::<u32>)]
    pub concurrency: Option<Setting<u32>>,
    /// Whose requests go first when there is no room for all: the highest [default: 0]
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub priority: Option<i32>,
    /// The models it may ask, by their public names, separated by commas; `*` stands for any text
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub models: Option<Vec<String>>,
    /// The pools that its requests are kept to, separated by commas; `*` stands for all
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub pools: Option<Vec<String>>,
    /// Allow its prompts and answers in the gateway's log (=false takes it back)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub log_prompts: Option<bool>,
    /// Refuse all its requests (=false takes it back)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub suspend: Option<bool>,
}

#[derive(Args, Debug)]
pub struct ListArguments {
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub database: DatabaseArguments,
}

#[derive(Args, Debug)]
pub struct ShowArguments {
    pub tenant: String,
    /// Print one JSON object instead
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub database: DatabaseArguments,
}

#[derive(Args, Debug)]
pub struct RemoveArguments {
    pub tenant: String,
    #[command(flatten)]
    pub database: DatabaseArguments,
}

#[derive(Args, Debug)]
pub struct AddKeyArguments {
    pub tenant: String,
    /// What the key is called in lists and records [default: the next of key-1, key-2 and so on]
    #[arg(long)]
    pub name: Option<String>,
    #[command(flatten)]
    pub database: DatabaseArguments,
}

#[derive(Args, Debug)]
pub struct RotateArguments {
    pub tenant: String,
    /// Which key [default: the only one that is valid]
    pub key: Option<String>,
    /// How long the old key is taken beside the new one, such as 30m, 24h or 7d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
    pub grace: Duration,
    #[command(flatten)]
    pub database: DatabaseArguments,
}

#[derive(Args, Debug)]
pub struct RevokeArguments {
    pub tenant: String,
    /// The key's name, as `fungible tenants show` has it
    pub key: String,
    #[command(flatten)]
    pub database: DatabaseArguments,
}

/// What is put in place of a limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Setting<T> {
    Lifted,
    To(T),
}

impl<T> Setting<T> {
    pub fn value(self) -> Option<T> {
        match self {
            Setting::Lifted => None,
            Setting::To(value) => Some(value),
        }
    }
}

fn setting<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<Setting<T>, String> {
    match text {
        "none" => Ok(Setting::Lifted),
        text => text.parse().map(Setting::To).map_err(|error: T::Err| error.to_string()),
    }
}

/// A number, with `k`, `M` or `G` behind it if it is large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count(pub u64);

impl std::str::FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Count, String> {
        let (number, unit) = match text.find(|c: char| c.is_ascii_alphabetic()) {
            Some(at) => text.split_at(at),
            None => (text, ""),
        };
        let factor = match unit {
            "" => 1.0,
            "k" | "K" => 1e3,
            "m" | "M" => 1e6,
            "g" | "G" => 1e9,
            _ => return Err(format!("`{unit}` is no unit; write k, M or G, as in 200k")),
        };
        let number: f64 = number.parse().map_err(|_| "write a number such as 200k".to_string())?;
        let count = number * factor;
        match (0.0..=1e18).contains(&count) && count.fract() == 0.0 {
            true => Ok(Count(count as u64)),
            false => Err("write a whole number such as 600 or 200k".to_string()),
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write a whole number with s, m, h or d, such as 24h".to_string();
    let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(at);
    let seconds: u64 = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    // A hundred years are more than anybody means.
    match number.checked_mul(seconds).filter(|seconds| *seconds <= 100 * 366 * 86_400) {
        Some(seconds) => Ok(Duration::from_secs(seconds)),
        None => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_times_have_units() {
        assert_eq!("200k".parse(), Ok(Count(200_000)));
        assert_eq!("1.5M".parse(), Ok(Count(1_500_000)));
        for wrong in ["", "k", "-1", "1.5", "1e400", "nan", "inf", "5x"] {
            assert!(wrong.parse::<Count>().is_err(), "{wrong}");
        }
        assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
        for wrong in ["", "7", "d", "-1h", "1.5h", "99999999999999999999d", "1000000000d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
