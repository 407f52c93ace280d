//! From a file to a [`Config`]: defaults, paths beside the file, and everything that single keys do
//! not show.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Uri;
use toml::Spanned;
use web::tls::TlsFiles;

use super::error::nearest;
use super::values::Time;
use super::{
    AdminConfig, BackendConfig, BreakerConfig, Canary, Config, ConfigError, Continues, Database,
    HealthConfig, Hedge, Mirror, ModelConfig, ModelPool, Policy, PoolConfig, Price, PriceFeed,
    RequestLimits, Secret, file,
};

const PORT: u16 = 8080;
const ADMIN_PORT: u16 = 8081;
const DATABASE: &str = "gateway.db";
/// For those without one; OpenAI's interface has no limit of its own.
const MAX_TOKENS: u64 = 4096;

impl Config {
    /// # Errors
    /// With the file's name and the line of what is wrong.
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { file: path.to_owned(), source })?;
        Config::parse(path, &text)
    }

    /// # Errors
    /// As [`Config::read`].
    pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
        let reader = Reader { path, text };
        let file: file::File = toml::from_str(text).map_err(|error| reader.unreadable(&error))?;
        reader.config(file)
    }
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Reader<'_> {
    fn config(&self, file: file::File) -> Result<Config, ConfigError> {
        let pools = file.pools.0.into_iter().map(|(name, pool)| self.pool(name, pool));
        let pools = pools.collect::<Result<Vec<PoolConfig>, ConfigError>>()?;
        if pools.is_empty() {
            return Err(self.at(0, "there are no pools; name one, as in [pools.gpu]".to_owned()));
        }
        let models = file.models.0.into_iter().map(|(name, model)| self.model(name, model, &pools));
        let models = models.collect::<Result<Vec<ModelConfig>, ConfigError>>()?;
        if models.is_empty() {
            return Err(self.at(0, "there are no models; name one, as in [models.chat]".to_owned()));
        }
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let limits = file.limits;
        let megabytes = limits.body_megabytes.unwrap_or(16.0);
        if !(0.001..=4096.0).contains(&megabytes) {
            let message =
                format!("body_megabytes = {megabytes} is out of range; 0.001 to 4096 are possible");
            return Err(self.at(0, message));
        }
        Ok(Config {
            file: self.path.to_owned(),
            listen: file.listen.unwrap_or(local(PORT)),
            tls: file.tls.map(|tls| self.tls(tls)),
            admin: file.admin.map(|admin| AdminConfig {
                listen: admin.listen.unwrap_or(local(ADMIN_PORT)),
                key: self.secret(admin.key),
                tls: admin.tls.map(|tls| self.tls(tls)),
            }),
            database: self.database(file.database)?,
            limits: RequestLimits {
                body_bytes_max: (megabytes * f64::from(1 << 20)) as usize,
                connections_max: limits.connections.unwrap_or(10_000).max(1),
                in_flight_max: limits.in_flight.unwrap_or(4096).max(1),
                waiting_max: limits.waiting.unwrap_or(1024),
                wait_max: time(limits.wait, 10.0),
                drain: time(limits.drain, 30.0),
                records_max: limits.records.unwrap_or(100_000).max(1),
            },
            anonymous: file.anonymous,
            pools,
            models,
            prices: file.prices.map(|prices| PriceFeed {
                source: match prices.source.contains("://") {
                    true => prices.source,
                    false => self.beside(prices.source.into()).display().to_string(),
                },
                interval: time(prices.interval, 60.0),
                age_max: time(prices.age, 3600.0),
            }),
        })
    }

    fn database(&self, given: Option<Spanned<file::Database>>) -> Result<Database, ConfigError> {
        let Some(given) = given else { return Ok(Database::Sqlite(self.beside(DATABASE.into()))) };
        let at = given.span().start;
        match given.into_inner() {
            file::Database::Path(path) if path.contains("://") => Err(self.at(
                at,
                "an address with its password does not stand in the config; give database = { postgres = { file = \"PATH\" } }"
                    .to_owned(),
            )),
            file::Database::Path(path) => Ok(Database::Sqlite(self.beside(path.into()))),
            file::Database::Server { postgres } => Ok(Database::Postgres(self.secret(postgres))),
        }
    }

    fn pool(&self, name: Spanned<String>, pool: file::Pool) -> Result<PoolConfig, ConfigError> {
        let at = name.span().start;
        let name = name.into_inner();
        self.name(at, &name, "pool")?;
        if pool.backends.is_empty() {
            let message = format!(
                "the pool {name} has no backends; give backends = [{{ url = \"http://HOST:PORT\" }}]"
            );
            return Err(self.at(at, message));
        }
        for (key, number) in
            [("watts_per_chip", pool.watts_per_chip), ("tokens_per_second", pool.tokens_per_second)]
        {
            if number.is_some_and(|number| !(number > 0.0 && number.is_finite())) {
                return Err(self.at(at, format!("{key} of the pool {name} must be above 0")));
            }
        }
        let mut backends: Vec<BackendConfig> = Vec::new();
        for backend in pool.backends {
            let at = backend.name.as_ref().map_or(backend.url.span(), Spanned::span).start;
            let backend = self.backend(backend)?;
            if backends.iter().any(|other| other.name == backend.name) {
                let message = format!(
                    "the pool {name} has two backends called {}; give them names of their own",
                    backend.name
                );
                return Err(self.at(at, message));
            }
            backends.push(backend);
        }
        let chips = match pool.chips {
            Some(0) => return Err(self.at(at, format!("the pool {name} has no chips"))),
            Some(chips) => chips,
            // An hour of how many chips is paid for must be said.
            None if matches!(pool.price, Some(Price::ChipHour(_))) => {
                let message = format!(
                    "the pool {name} has a price per chip-hour; say how many chips it has, as in chips = 8"
                );
                return Err(self.at(at, message));
            }
            None => 1,
        };
        let health = pool.health;
        let path = health.path.unwrap_or_else(|| "/health".to_owned());
        if !path.is_empty() && !path.starts_with('/') {
            return Err(
                self.at(at, format!("the path of health in the pool {name} must begin with /"))
            );
        }
        Ok(PoolConfig {
            provider: pool.provider,
            chip: pool.chip,
            region: pool.region,
            chips,
            price: pool.price.unwrap_or(Price::Unknown),
            watts_per_chip: pool.watts_per_chip,
            tokens_per_second: pool.tokens_per_second,
            backends,
            health: HealthConfig {
                path,
                interval: time(health.interval, 2.0).max(Duration::from_millis(10)),
                timeout: time(health.timeout, 2.0).max(Duration::from_millis(10)),
                failures: health.failures.unwrap_or(3).max(1),
                successes: health.successes.unwrap_or(2).max(1),
            },
            breaker: BreakerConfig {
                failure_share: pool.breaker.failure_share.map_or(0.5, |share| share.0),
                window: pool.breaker.window.unwrap_or(20).max(1),
                open_for: time(pool.breaker.open_for, 5.0),
            },
            name,
        })
    }

    fn backend(&self, backend: file::Backend) -> Result<BackendConfig, ConfigError> {
        let at = backend.url.span().start;
        let url = backend.url.into_inner();
        let url = url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        let uri: Option<Uri> = url.parse().ok();
        let authority = uri
            .filter(|uri| {
                matches!(uri.scheme_str(), Some("http" | "https")) && uri.query().is_none()
            })
            .and_then(|uri| uri.authority().map(|authority| authority.as_str().to_owned()))
            .filter(|authority| !authority.contains('@'));
        let Some(authority) = authority else {
            let message = format!(
                "`{url}` is no address of a server; give one like http://HOST:PORT or https://HOST"
            );
            return Err(self.at(at, message));
        };
        Ok(BackendConfig {
            name: backend.name.map_or(authority, Spanned::into_inner),
            url,
            api_key: backend.api_key.map(|secret| self.secret(secret)),
            authority: backend.authority.map(|path| self.beside(path)),
            certificate: backend.certificate.map(|tls| self.tls(tls)),
            concurrency: backend.concurrency.unwrap_or(256).max(1),
            continues: backend.continues.unwrap_or(Continues::Ask),
        })
    }

    fn model(
        &self,
        name: Spanned<String>,
        model: file::Model,
        pools: &[PoolConfig],
    ) -> Result<ModelConfig, ConfigError> {
        let at = name.span().start;
        let name = name.into_inner();
        let known = |pool: Spanned<String>| self.known_pool(pool, pools);
        let given = model.pools.into_inner().0;
        if given.is_empty() {
            return Err(
                self.at(at, format!("the model {name} has no pools; give pools = [\"NAME\"]"))
            );
        }
        let mut its_pools: Vec<ModelPool> = Vec::new();
        for (pool, keys) in given {
            let at = pool.span().start;
            let weight = keys.weight.unwrap_or(1.0);
            if !(weight >= 0.0 && weight.is_finite()) {
                return Err(
                    self.at(at, format!("the weight {weight} is not possible; give 0 or more"))
                );
            }
            let pool = known(pool)?;
            if its_pools.iter().any(|other| other.pool == pool) {
                return Err(self.at(at, format!("the pool {pool} is there twice")));
            }
            its_pools.push(ModelPool {
                pool,
                weight,
                model: keys.model.unwrap_or_else(|| name.clone()),
            });
        }
        if its_pools.iter().all(|pool| pool.weight == 0.0) {
            return Err(self.at(at, format!("all pools of the model {name} have the weight 0")));
        }
        let there = |model: Option<String>| model.unwrap_or_else(|| name.clone());
        Ok(ModelConfig {
            policy: model.policy.unwrap_or(Policy::Cheapest),
            ttft: model.ttft.map(|time| time.0),
            tpot: model.tpot.map(|time| time.0),
            deadline: time(model.deadline, 600.0),
            silence: time(model.silence, 60.0),
            retries: model.retries.unwrap_or(3),
            hedge: model.hedge.map(|hedge| Hedge {
                quantile: hedge.quantile.map_or(0.95, |share| share.0),
                share_max: hedge.share.map_or(0.05, |share| share.0),
            }),
            continues: model.continues.unwrap_or(true),
            max_tokens: model.max_tokens.unwrap_or(MAX_TOKENS),
            mirror: match model.mirror {
                None => None,
                Some(mirror) => Some(Mirror {
                    pool: known(mirror.pool)?,
                    model: there(mirror.model),
                    share: mirror.share.0,
                }),
            },
            canary: match model.canary {
                None => None,
                Some(canary) => Some(Canary {
                    pool: self.apart(known, canary.pool, &its_pools)?,
                    model: there(canary.model),
                    share: canary.share.0,
                    requests_min: canary.requests.unwrap_or(Canary::REQUESTS_MIN).max(1),
                    failures_max: canary.failures.map_or(Canary::FAILURES_MAX, |share| share.0),
                    slower_max: canary.slower.unwrap_or(Canary::SLOWER_MAX),
                }),
            },
            pools: its_pools,
            name,
        })
    }

    /// A canary that the policy could choose anyway would get more than its share, and go on getting it
    /// after a rollback.
    fn apart(
        &self,
        known: impl Fn(Spanned<String>) -> Result<String, ConfigError>,
        pool: Spanned<String>,
        its_pools: &[ModelPool],
    ) -> Result<String, ConfigError> {
        let at = pool.span().start;
        let pool = known(pool)?;
        if its_pools.iter().any(|other| other.pool == pool) {
            let message = format!(
                "the canary's pool {pool} is one of the model's `pools`; take it out of one of them"
            );
            return Err(self.at(at, message));
        }
        Ok(pool)
    }

    fn known_pool(
        &self,
        pool: Spanned<String>,
        pools: &[PoolConfig],
    ) -> Result<String, ConfigError> {
        let at = pool.span().start;
        let pool = pool.into_inner();
        if pools.iter().any(|other| other.name == pool) {
            return Ok(pool);
        }
        let names = || pools.iter().map(|pool| pool.name.as_str());
        let message = match nearest(&pool, names()) {
            Some(near) => format!("there is no pool `{pool}`; did you mean `{near}`?"),
            None => {
                let all: Vec<&str> = names().collect();
                format!("there is no pool `{pool}`; there are: {}", all.join(", "))
            }
        };
        Err(self.at(at, message))
    }

    /// Names stand in metrics, headers and addresses.
    fn name(&self, at: usize, name: &str, of: &str) -> Result<(), ConfigError> {
        let is_right = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if !name.is_empty() && name.len() <= 64 && name.bytes().all(is_right) {
            return Ok(());
        }
        let message = format!(
            "`{name}` is no name for a {of}; use up to 64 letters, digits, `-`, `_` and `.`"
        );
        Err(self.at(at, message))
    }

    fn tls(&self, tls: file::Tls) -> TlsFiles {
        TlsFiles { certificates: self.beside(tls.certificate), key: self.beside(tls.key) }
    }

    fn secret(&self, secret: Secret) -> Secret {
        match secret {
            Secret::File(path) => Secret::File(self.beside(path)),
            variable @ Secret::Variable(_) => variable,
        }
    }

    /// Paths are beside the config, wherever the gateway is started.
    fn beside(&self, path: PathBuf) -> PathBuf {
        self.path.parent().map_or(path.clone(), |folder| folder.join(path))
    }

    fn at(&self, position: usize, message: String) -> ConfigError {
        let before = self.text.as_bytes().iter().take(position);
        let line = before.filter(|&&byte| byte == b'\n').count() + 1;
        ConfigError::Wrong { file: self.path.to_owned(), line, message }
    }

    fn unreadable(&self, error: &toml::de::Error) -> ConfigError {
        let at = error.span().map_or(self.text.len(), |span| span.start);
        let message = error.message().trim().replace('\n', "; ");
        self.at(at, with_nearest(&message).unwrap_or(message))
    }
}

/// serde says `unknown field `a`, expected one of `b`, `c``; people want to know which of them they meant.
fn with_nearest(message: &str) -> Option<String> {
    let (kind, rest) = message.split_once('`')?;
    let kind = kind.strip_prefix("unknown ")?.trim();
    let (name, rest) = rest.split_once('`')?;
    let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
    let what = if kind == "field" { "key" } else { "value" };
    Some(match nearest(name, known.iter().copied()) {
        Some(near) => format!("unknown {what} `{name}`; did you mean `{near}`?"),
        None if known.is_empty() => format!("unknown {what} `{name}`; there are none here"),
        None => format!("unknown {what} `{name}`; there are: {}", known.join(", ")),
    })
}

fn time(given: Option<Time>, default_seconds: f64) -> Duration {
    given.map_or(Duration::from_secs_f64(default_seconds), |time| time.0)
}

#[cfg(test)]
mod tests;
