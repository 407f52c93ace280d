//! The shape of a config file: every key with its default. What keys mean is said at the types of
//! [`super::Config`] that they become.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use toml::Spanned;

use super::values::{Share, Time};
use super::{Continues, Policy, Price, Secret};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub listen: Option<SocketAddr>,
    pub tls: Option<Tls>,
    pub admin: Option<Admin>,
    pub database: Option<Spanned<Database>>,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub anonymous: bool,
    #[serde(default)]
    pub pools: Entries<Pool>,
    #[serde(default)]
    pub models: Entries<Model>,
    pub prices: Option<Prices>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Admin {
    pub listen: Option<SocketAddr>,
    pub key: Secret,
    pub tls: Option<Tls>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Database {
    Path(String),
    Server { postgres: Secret },
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Limits {
    pub body_megabytes: Option<f64>,
    pub connections: Option<usize>,
    pub in_flight: Option<usize>,
    pub waiting: Option<usize>,
    pub wait: Option<Time>,
    pub drain: Option<Time>,
    pub records: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pool {
    #[serde(default)]
    pub provider: String,
    #[serde(default)]
    pub chip: String,
    #[serde(default)]
    pub region: String,
    pub chips: Option<u32>,
    pub price: Option<Price>,
    pub watts_per_chip: Option<f64>,
    pub tokens_per_second: Option<f64>,
    #[serde(default)]
    pub backends: Vec<Backend>,
    #[serde(default)]
    pub health: Health,
    #[serde(default)]
    pub breaker: Breaker,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Backend {
    pub url: Spanned<String>,
    pub name: Option<Spanned<String>>,
    pub api_key: Option<Secret>,
    pub authority: Option<PathBuf>,
    pub certificate: Option<Tls>,
    pub concurrency: Option<u32>,
    pub continues: Option<Continues>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Health {
    pub path: Option<String>,
    pub interval: Option<Time>,
    pub timeout: Option<Time>,
    pub failures: Option<u32>,
    pub successes: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Breaker {
    pub failure_share: Option<Share>,
    pub window: Option<u32>,
    pub open_for: Option<Time>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Model {
    pub pools: Spanned<Entries<ModelPool>>,
    pub policy: Option<Policy>,
    pub ttft: Option<Time>,
    pub tpot: Option<Time>,
    pub deadline: Option<Time>,
    pub silence: Option<Time>,
    pub retries: Option<u32>,
    pub hedge: Option<Hedge>,
    pub continues: Option<bool>,
    pub max_tokens: Option<u64>,
    pub mirror: Option<Mirror>,
    pub canary: Option<Canary>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ModelPool {
    pub weight: Option<f64>,
    pub model: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hedge {
    pub quantile: Option<Share>,
    pub share: Option<Share>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mirror {
    pub pool: Spanned<String>,
    pub model: Option<String>,
    pub share: Share,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Canary {
    pub pool: Spanned<String>,
    pub model: Option<String>,
    pub share: Share,
    pub requests: Option<u32>,
    pub failures: Option<Share>,
    pub slower: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Prices {
    pub source: String,
    pub interval: Option<Time>,
    pub age: Option<Time>,
}

/// Tables by name with the place of the name; an array of names stands for tables without keys.
pub(super) struct Entries<T>(pub Vec<(Spanned<String>, T)>);

impl<T> Default for Entries<T> {
    fn default() -> Entries<T> {
        Entries(Vec::new())
    }
}

impl<'de, T: Deserialize<'de> + MaybeDefault> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Entries<T>, D::Error> {
        struct Names<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de> + MaybeDefault> Visitor<'de> for Names<T> {
            type Value = Entries<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("tables by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<T>, A::Error> {
                let mut entries: Vec<(Spanned<String>, T)> = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                // In the order of writing, which is what some policies go by.
                entries.sort_by_key(|(name, _)| name.span().start);
                Ok(Entries(entries))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Entries<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = names.next_element()? {
                    let value = T::maybe_default().ok_or_else(|| {
                        de::Error::custom("expected tables by name, not an array of names")
                    })?;
                    entries.push((name, value));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_any(Names(std::marker::PhantomData))
    }
}

/// Whether a name alone says enough.
pub(super) trait MaybeDefault: Sized {
    fn maybe_default() -> Option<Self> {
        None
    }
}

impl MaybeDefault for Pool {}
impl MaybeDefault for Model {}
impl MaybeDefault for ModelPool {
    fn maybe_default() -> Option<ModelPool> {
        Some(ModelPool::default())
    }
}
