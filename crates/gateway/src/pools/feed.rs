//! Prices of pools from a file or an address that somebody else keeps, looked at again and again.
//!
//! A wrong or missing feed changes nothing but the age of what is known: [`FedPrice`] says how old that may
//! become. Knows prices and pools' names, not what follows from them.

mod parse;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use tokio::time::{Instant, sleep, timeout};

use self::parse::{Feed, FeedError};
use super::client::{Client, with_causes};
use super::pool::FedPrice;
use super::{Pools, Table};
use crate::calendar::now_milliseconds;
use crate::config::{BackendConfig, Continues, PriceFeed};
use crate::secrets::Secrets;

const BYTES_MAX: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

/// What was said already, so that it is said once.
#[derive(Default)]
struct Said {
    wrong: Option<String>,
    unknown: BTreeSet<String>,
}

/// Looks at the feed of the config, whichever that is at the time.
pub(super) async fn follow(pools: Arc<Pools>) {
    let mut tables = pools.tables();
    let mut said = Said::default();
    loop {
        let table = Arc::clone(&tables.borrow_and_update());
        let feeding = async {
            match &table.prices {
                Some(feed) => feed_again_and_again(&table, feed, &pools.secrets, &mut said).await,
                None => {
                    table.pools.iter().for_each(|pool| pool.meter().feed(None));
                    std::future::pending().await
                }
            }
        };
        tokio::select! {
            () = feeding => {}
            changed = tables.changed() => if changed.is_err() {
                return;
            }
        }
    }
}

async fn feed_again_and_again(
    table: &Table,
    feed: &PriceFeed,
    secrets: &Arc<Secrets>,
    said: &mut Said,
) {
    loop {
        let got = match read(feed, secrets).await {
            Ok(bytes) => {
                parse::parse(&bytes, now_milliseconds()).map_err(|error| with_causes(&error))
            }
            Err(why) => Err(why),
        };
        match got {
            Ok(got) => {
                if said.wrong.take().is_some() {
                    tracing::info!(target: "fungible::gateway", source = feed.source, "the feed of prices is right again");
                }
                take(table, feed, got, said);
            }
            Err(why) if said.wrong.as_ref() != Some(&why) => {
                tracing::warn!(
                    target: "fungible::gateway", source = feed.source, why,
                    "the feed of prices cannot be used; what it said before is kept until it is too old"
                );
                said.wrong = Some(why);
            }
            Err(_) => {}
        }
        sleep(feed.interval.max(Duration::from_secs(1)).mul_f64(0.9 + 0.2 * fastrand::f64())).await;
    }
}

/// Gives each pool its price.
fn take(table: &Table, feed: &PriceFeed, got: Feed, said: &mut Said) {
    let received = Instant::now();
    for (name, price) in got.prices {
        match table.pool(&name) {
            Some(pool) => pool.meter().feed(Some(FedPrice {
                price,
                age: got.age,
                received,
                age_max: feed.age_max,
            })),
            None if said.unknown.len() < 100 && said.unknown.insert(name.clone()) => {
                tracing::warn!(target: "fungible::gateway", pool = name, "the feed of prices names a pool that there is not");
            }
            None => {}
        }
    }
}

/// The feed as it is now, or why not.
async fn read(feed: &PriceFeed, secrets: &Arc<Secrets>) -> Result<Vec<u8>, String> {
    let bytes = match feed.source.split_once("://") {
        None => {
            let path = feed.source.clone();
            let too_long = || Err(FeedError::TooLong.to_string());
            let read = move || match std::fs::metadata(&path) {
                Ok(about) if about.len() > BYTES_MAX as u64 => too_long(),
                _ => std::fs::read(&path)
                    .map_err(|error| format!("{path} could not be read: {error}")),
            };
            tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())??
        }
        Some((scheme, rest)) => {
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            let (address, path) = (format!("{scheme}://{host}"), format!("/{path}"));
            let answer = timeout(PATIENCE, get(&address, &path, secrets));
            answer.await.map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))??
        }
    };
    Ok(bytes)
}

async fn get(address: &str, path: &str, secrets: &Secrets) -> Result<Vec<u8>, String> {
    let server = BackendConfig {
        url: address.to_owned(),
        name: "the feed of prices".to_owned(),
        api_key: None,
        authority: None,
        certificate: None,
        concurrency: 1,
        continues: Continues::Never,
    };
    // Anew each time: a connection that stays open for one page a minute helps nobody.
    let client = Client::new(&server).map_err(|error| with_causes(&error))?;
    let response = client.get(&server.name, None, secrets, path, PATIENCE).await?;
    if !response.status().is_success() {
        return Err(format!("it answers {}", response.status().as_u16()));
    }
    let body = Limited::new(response.into_body(), BYTES_MAX).collect().await;
    body.map(|body| body.to_bytes().to_vec()).map_err(|error| format!("it broke off: {error}"))
}

#[cfg(test)]
mod tests;
