//! What a gateway is told by its file: pools of chips, models over pools, limits. Data only; how it
//! is read and checked is in the modules below.
//!
//! ```toml
//! listen = "0.0.0.0:8080"
//!
//! [admin]
//! listen = "127.0.0.1:8081"
//! key = { file = "secrets/admin-key" }
//!
//! [pools.tpu]
//! provider = "gcp"
//! chip = "v6e"
//! chips = 8
//! price = "2.70 usd/chip-hour"
//! backends = [{ url = "https://10.0.0.7:8000", api_key = { file = "secrets/tpu-key" } }]
//!
//! [models.chat]
//! pools = { tpu = {}, h200 = { model = "meta-llama/Llama-3.1-8B-Instruct" } }
//! policy = "cheapest"
//! ttft = "500ms"
//! ```

mod error;
mod file;
mod read;
mod values;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use web::tls::TlsFiles;

use crate::money::Money;
pub use error::{ConfigError, nearest};
pub use values::parse_money;

/// A whole file, checked: every pool that a model names exists, and there is at least one of each.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The file, for messages and to read it again.
    pub file: PathBuf,
    /// Where clients come.
    pub listen: SocketAddr,
    pub tls: Option<TlsFiles>,
    pub admin: Option<AdminConfig>,
    pub database: Database,
    pub limits: RequestLimits,
    /// Whether requests without a key are answered, as the tenant `anonymous`.
    pub anonymous: bool,
    pub pools: Vec<PoolConfig>,
    pub models: Vec<ModelConfig>,
    pub prices: Option<PriceFeed>,
}

/// The page and interface of those who run the gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct AdminConfig {
    pub listen: SocketAddr,
    pub key: Secret,
    pub tls: Option<TlsFiles>,
}

/// Where tenants and records are kept.
#[derive(Clone, Debug, PartialEq)]
pub enum Database {
    /// A file, for one gateway.
    Sqlite(PathBuf),
    /// `postgres://user:password@host/name`, for several that share limits and budgets.
    Postgres(Secret),
}

/// A text that must not be shown, and that can change while the gateway runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// Read anew when the file changes; white space around it does not count.
    File(PathBuf),
    /// Of the environment at the start.
    Variable(String),
}

/// What one request, and all of them together, may take of the gateway.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RequestLimits {
    pub body_bytes_max: usize,
    pub connections_max: usize,
    /// Requests at backends at once; further ones wait by their tenants' priority.
    pub in_flight_max: usize,
    /// Requests that may wait; beyond, those of the lowest priority are refused.
    pub waiting_max: usize,
    /// How long a request may wait for its turn.
    pub wait_max: Duration,
    /// How long streams under way may take when the gateway stops.
    pub drain: Duration,
    /// Records that may be in memory while the database is away; then requests are refused.
    pub records_max: usize,
}

/// Chips of one kind at one provider, and the servers on them.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolConfig {
    pub name: String,
    pub provider: String,
    /// As the catalog of chips calls it; empty if nobody said.
    pub chip: String,
    pub region: String,
    /// Of the whole pool.
    pub chips: u32,
    pub price: Price,
    /// Of one chip under load, host included.
    pub watts_per_chip: Option<f64>,
    /// Tokens per second of the whole pool under load, until more has been measured.
    pub tokens_per_second: Option<f64>,
    pub backends: Vec<BackendConfig>,
    pub health: HealthConfig,
    pub breaker: BreakerConfig,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Price {
    /// Of one chip.
    ChipHour(Money),
    /// Of a million tokens each.
    Tokens { input: Money, cached_input: Money, output: Money },
    /// Such a pool is never the cheapest.
    Unknown,
}

/// One server.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendConfig {
    /// `http://host:port` or `https://...`, with a path before `/v1` if it has one.
    pub url: String,
    /// `host:port` of the address if nobody gave a name.
    pub name: String,
    pub api_key: Option<Secret>,
    /// What its certificate is checked against, instead of the system's authorities.
    pub authority: Option<PathBuf>,
    /// The certificate and key that the gateway shows to it.
    pub certificate: Option<TlsFiles>,
    /// Requests at once; further ones go elsewhere or wait.
    pub concurrency: u32,
    /// How an answer that broke off elsewhere can go on here.
    pub continues: Continues,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Continues {
    /// By `continue_token_ids`, as `fungible serve` does; found out by asking it if nobody says.
    Tokens,
    /// By an assistant's message that is left open (`continue_final_message`): best effort.
    Text,
    Never,
    /// Found out at the first probe: `Tokens` if `/version` names fungible, else `Text`.
    Ask,
}

/// When a backend counts as ill, by asking it.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthConfig {
    pub path: String,
    pub interval: Duration,
    pub timeout: Duration,
    /// So many failures in a row make it ill, so many successes well again.
    pub failures: u32,
    pub successes: u32,
}

/// When a backend counts as ill, by what becomes of requests.
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerConfig {
    /// Opens when at least so large a share of the last `window` requests failed.
    pub failure_share: f64,
    pub window: u32,
    /// How long it stays open before one request may try; doubles up to 16 times that.
    pub open_for: Duration,
}

/// A public name, and the pools behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    pub name: String,
    pub pools: Vec<ModelPool>,
    pub policy: Policy,
    /// Objectives: time to the first token, and of each further one.
    pub ttft: Option<Duration>,
    pub tpot: Option<Duration>,
    /// A request is given up after so long, whatever it tries.
    pub deadline: Duration,
    /// Without a byte from a backend for so long, it counts as broken.
    pub silence: Duration,
    /// Further backends that may be asked before bytes were sent.
    pub retries: u32,
    pub hedge: Option<Hedge>,
    /// Whether answers that broke off go on elsewhere.
    pub continues: bool,
    /// The most tokens of an answer that names no limit, for reservations.
    pub max_tokens: u64,
    pub mirror: Option<Mirror>,
    pub canary: Option<Canary>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ModelPool {
    pub pool: String,
    /// Share of the traffic with the policy `weighted`.
    pub weight: f64,
    /// What the model is called there; the public name if nobody says.
    pub model: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// The least money per token among those that meet the objectives.
    Cheapest,
    /// The least expected time: two at random, the better one by its peak-EWMA.
    Fastest,
    /// The same backend for the same beginning of a prompt, unless that has too much to do.
    Affinity,
    Weighted,
    /// In the order of writing: the next only when one cannot.
    Ordered,
}

/// A second backend is asked after this quantile of usual times, whole answers only.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hedge {
    pub quantile: f64,
    /// Of all requests, at most.
    pub share_max: f64,
}

/// Copies of requests for a pool that is not trusted yet. Clients never see its answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    pub pool: String,
    pub model: String,
    pub share: f64,
}

/// A share of requests for a pool that is being adopted, given back when it does worse.
#[derive(Clone, Debug, PartialEq)]
pub struct Canary {
    pub pool: String,
    pub model: String,
    pub share: f64,
    /// Judged after so many of its requests.
    pub requests_min: u32,
    /// Rolled back if its share of failures is higher by more than this.
    pub failures_max: f64,
    /// Rolled back if its median time to the first token, or per token, is longer by this factor.
    pub slower_max: f64,
}

impl Canary {
    /// What is not said.
    pub const REQUESTS_MIN: u32 = 200;
    pub const FAILURES_MAX: f64 = 0.01;
    pub const SLOWER_MAX: f64 = 1.5;
}

/// A file or address with prices of pools, looked at again and again.
#[derive(Clone, Debug, PartialEq)]
pub struct PriceFeed {
    /// `https://...` or a path.
    pub source: String,
    pub interval: Duration,
    /// Older prices do not steer.
    pub age_max: Duration,
}
