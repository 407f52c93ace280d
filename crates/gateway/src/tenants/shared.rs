//! Limits and budgets that several gateways share through PostgreSQL.
//!
//! A reservation is one round trip to a function in the database, which does one at a time of each
//! tenant, so no two gateways can spend the same money. What was spent is what records say, and
//! records are written before their reservation is released; so between the two a request counts
//! twice rather than not at all. A gateway says every two seconds that it lives; the reservations of
//! one that has not for half a minute no longer count.
//!
//! While the database is away, each gateway decides by what it knew last and what it did since: it
//! serves on, and several may together exceed a limit by what they do in that time.
//!
//! Requests and tokens per minute go by the database's clock: if that is set ahead, the last minute
//! is forgotten once, if it is set back, too.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::{Budget, Estimate, LimitError, Limits, Period, Tenant};
use crate::calendar::Day;
use crate::ledger::postgres::{PostgresStore, in_time};
use crate::ledger::{LedgerError, Spent};
use crate::meter::Meter;
use crate::money::Money;

/// How often a gateway says that it lives, and hears what was spent.
const PULSE: Duration = Duration::from_secs(2);
/// How long a request waits for the database before its gateway decides alone.
const PATIENCE: Duration = Duration::from_secs(1);
/// For how long the gateway then goes on to decide alone before it asks again.
const ALONE: Duration = Duration::from_secs(1);
/// How often what the database did not take is tried again.
const RETRY: Duration = Duration::from_millis(250);
/// Reservations that are released together.
const RELEASED_MAX: usize = 256;

pub(crate) struct Shared {
    store: Arc<PostgresStore>,
    /// Of this process, random.
    gateway: i64,
    next_number: AtomicI64,
    releases: mpsc::UnboundedSender<Release>,
    alone_until: Mutex<Option<Instant>>,
}

/// What the database has of a request until this is dropped.
pub(crate) struct SharedHold {
    releases: mpsc::UnboundedSender<Release>,
    number: i64,
    tenant: String,
    tokens: u64,
    /// In which of the database's seconds it was counted; nothing until that has answered.
    second: Option<i64>,
    /// Of a request that was settled.
    used_tokens: Option<u64>,
    /// Then there is nothing to release.
    is_refused: bool,
}

struct Release {
    number: i64,
    tenant: String,
    second: i64,
    /// To take off the second's counts; tokens may be negative.
    requests: i64,
    tokens: i64,
}

impl Shared {
    /// `hear` is told what tenants have spent, and says whether it still listens.
    pub(crate) async fn start(
        store: PostgresStore,
        meter: Meter,
        hear: impl Fn(Vec<Spent>) -> bool + Send + 'static,
    ) -> Result<Arc<Shared>, LedgerError> {
        let gateway = getrandom::u64().map_err(|_| LedgerError::Random)?.cast_signed();
        let store = Arc::new(store);
        // Reservations of a gateway that is not known would not count.
        pulse(&store, gateway).await?;
        let (releases, released) = mpsc::unbounded_channel();
        tokio::spawn(pulses(Arc::clone(&store), gateway, hear));
        tokio::spawn(release(Arc::clone(&store), gateway, meter, released));
        let (next_number, alone_until) = (AtomicI64::new(0), Mutex::default());
        Ok(Arc::new(Shared { store, gateway, next_number, releases, alone_until }))
    }

    /// What the database says, or nothing while it is away.
    pub(crate) async fn reserve(
        &self,
        tenant: &Tenant,
        estimate: Estimate,
        day: Day,
    ) -> Option<Result<SharedHold, LimitError>> {
        let is_alone = self.alone_until().is_some_and(|until| Instant::now() < until);
        if is_alone {
            return None;
        }
        match in_time(PATIENCE, self.ask(tenant, estimate, day)).await {
            Ok(answer) => Some(answer),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    target: "fungible::gateway",
                    error,
                    "limits cannot be shared at present; this gateway decides alone"
                );
                *self.alone_until() = Some(Instant::now() + ALONE);
                None
            }
        }
    }

    async fn ask(
        &self,
        tenant: &Tenant,
        estimate: Estimate,
        day: Day,
    ) -> Result<Result<SharedHold, LimitError>, LedgerError> {
        let whole = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let (limits, budgets) = (&tenant.limits, &tenant.budgets);
        let from = |budget: &Budget| match budget.period {
            Period::Day => day,
            Period::Month => day.month_start(),
        };
        let to = |budget: &Budget| match budget.period {
            Period::Day => Day(day.0 + 1),
            Period::Month => day.next_month(),
        };
        let amounts: Vec<i64> = budgets.iter().map(|budget| budget.amount.0).collect();
        let starts: Vec<i64> = budgets.iter().map(|budget| from(budget).0).collect();
        let ends: Vec<i64> = budgets.iter().map(|budget| to(budget).0).collect();
        let link = self.store.link().await?;
        // From here on, whoever stops waiting drops it, which releases what may have been taken: on
        // the same connection, so after it.
        let mut hold = SharedHold {
            releases: self.releases.clone(),
            number: self.next_number.fetch_add(1, Ordering::Relaxed),
            tenant: tenant.name.clone(),
            tokens: estimate.tokens,
            second: None,
            used_tokens: None,
            is_refused: false,
        };
        let row = link
            .one(
                "SELECT refused, amount, place \
                 FROM reserve($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
                &[
                    &self.gateway,
                    &hold.number,
                    &tenant.name,
                    &day.0,
                    &whole(estimate.tokens),
                    &estimate.cost.0,
                    &limits.concurrency.map(i64::from),
                    &limits.requests_per_minute.map(whole),
                    &limits.tokens_per_minute.map(whole),
                    &amounts,
                    &starts,
                    &ends,
                ],
            )
            .await?;
        let (refused, amount): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
        let place: i32 = row.try_get(2)?;
        let retry_after = Duration::from_secs(amount.clamp(0, 61).unsigned_abs());
        let budget = usize::try_from(place - 1).ok().and_then(|place| budgets.get(place));
        let refusal = match (refused.as_str(), limits, budget) {
            ("concurrency", Limits { concurrency: Some(limit), .. }, _) => {
                LimitError::Concurrency { limit: *limit }
            }
            ("requests", Limits { requests_per_minute: Some(limit), .. }, _) => {
                LimitError::Requests { limit: *limit, retry_after }
            }
            ("tokens", Limits { tokens_per_minute: Some(limit), .. }, _) => {
                LimitError::Tokens { limit: *limit, asked: estimate.tokens, retry_after }
            }
            ("budget", _, Some(&Budget { amount: whole, period })) => LimitError::Budget {
                amount: whole,
                period,
                left: Money(amount),
                asked: estimate.cost,
            },
            _ => {
                hold.second = Some(amount);
                return Ok(Ok(hold));
            }
        };
        hold.is_refused = true;
        Ok(Err(refusal))
    }

    /// Its reservations count no more from now on.
    pub(crate) async fn close(&self) {
        let goodbye = async {
            let link = self.store.link().await?;
            link.all("DELETE FROM gateways WHERE id = $1", &[&self.gateway]).await
        };
        // If it is not heard, they expire.
        let _ = in_time(PATIENCE, goodbye).await;
    }

    fn alone_until(&self) -> MutexGuard<'_, Option<Instant>> {
        self.alone_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SharedHold {
    pub(crate) fn settle(mut self, tokens: u64) {
        self.used_tokens = Some(tokens);
    }
}

impl Drop for SharedHold {
    fn drop(&mut self) {
        if self.is_refused {
            return;
        }
        let whole = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let (requests, tokens) = match (self.second, self.used_tokens) {
            // It is not known in which second it was counted, or whether at all.
            (None, _) => (0, 0),
            (Some(_), Some(used)) => (0, whole(self.tokens).saturating_sub(whole(used))),
            (Some(_), None) => (1, whole(self.tokens)),
        };
        let (number, tenant) = (self.number, std::mem::take(&mut self.tenant));
        let second = self.second.unwrap_or(0);
        // Nobody takes it once the gateway ends; then it expires.
        let _ = self.releases.send(Release { number, tenant, second, requests, tokens });
    }
}

async fn pulse(store: &PostgresStore, gateway: i64) -> Result<Vec<Spent>, LedgerError> {
    let link = store.link().await?;
    let alive = "INSERT INTO gateways VALUES ($1, clock_timestamp()) \
                 ON CONFLICT (id) DO UPDATE SET seen = excluded.seen";
    link.all(alive, &[&gateway]).await?;
    // Later than they stop to count, so that a gateway that was only slow keeps what it has.
    let dead = "DELETE FROM reservations WHERE gateway NOT IN ( \
                SELECT id FROM gateways WHERE seen > clock_timestamp() - interval '5 minutes')";
    link.all(dead, &[]).await?;
    let gone = "DELETE FROM gateways WHERE seen < clock_timestamp() - interval '5 minutes'";
    link.all(gone, &[]).await?;
    store.spent(Day::today().month_start()).await
}

async fn pulses(
    store: Arc<PostgresStore>,
    gateway: i64,
    hear: impl Fn(Vec<Spent>) -> bool + Send + 'static,
) {
    let mut ticks = interval(PULSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // What goes wrong is said by who needs an answer.
        let spent = in_time(PATIENCE, pulse(&store, gateway)).await.unwrap_or_default();
        if !hear(spent) {
            return;
        }
    }
}

/// Until everybody who could still send one is gone.
async fn release(
    store: Arc<PostgresStore>,
    gateway: i64,
    meter: Meter,
    mut released: mpsc::UnboundedReceiver<Release>,
) {
    let mut releases = Vec::new();
    while released.recv_many(&mut releases, RELEASED_MAX).await > 0 {
        // Records that are still in memory are not counted as spent yet: their reservations are.
        while meter.is_away() {
            sleep(RETRY).await;
        }
        while let Err(error) = in_time(PATIENCE, release_all(&store, gateway, &releases)).await {
            tracing::debug!(
                target: "fungible::gateway",
                error = &error as &dyn std::error::Error,
                "reservations are released later"
            );
            sleep(RETRY).await;
        }
        releases.clear();
    }
}

async fn release_all(
    store: &PostgresStore,
    gateway: i64,
    releases: &[Release],
) -> Result<(), LedgerError> {
    let numbers: Vec<i64> = releases.iter().map(|release| release.number).collect();
    let counted = releases.iter().filter(|release| (release.requests, release.tokens) != (0, 0));
    let mut columns = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for release in counted {
        columns.0.push(release.tenant.as_str());
        columns.1.push(release.second);
        columns.2.push(release.requests);
        columns.3.push(release.tokens);
    }
    let (tenants, seconds, requests, tokens) = columns;
    let link = store.link().await?;
    let text = "SELECT release($1, $2, $3, $4, $5, $6)";
    link.all(text, &[&gateway, &numbers, &tenants, &seconds, &requests, &tokens]).await?;
    Ok(())
}
