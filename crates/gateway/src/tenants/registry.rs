//! All tenants in memory, as the database has them: found by key or by name, changed, and asked
//! whether a request may come. What another process changes is seen within a second.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::account::Account;
use super::keys::KeyRing;
use super::shared::Shared;
use super::{
    Estimate, KeyView, Known, NewKey, Reservation, ReserveError, StoredKey, Tenant, TenantView,
};
use crate::calendar::{Day, now_milliseconds};
use crate::ledger::postgres::PostgresStore;
use crate::ledger::{Change, LedgerError, Spent, Store, StoredTenants};
use crate::meter::Meter;

/// How often the database is asked whether tenants or keys were changed.
const LOOK: Duration = Duration::from_millis(500);

pub struct Tenants {
    store: Store,
    directory: RwLock<Arc<Directory>>,
    /// By tenant, also of tenants that are in no database, such as `anonymous`. None is ever
    /// removed: what a tenant has spent stays spent if it is removed and added again.
    accounts: RwLock<HashMap<String, Arc<Account>>>,
    /// One change of this process at a time, each with what it read before.
    changing: tokio::sync::Mutex<()>,
    watch: Mutex<Option<AbortHandle>>,
    /// With a database that several gateways share.
    shared: OnceLock<Arc<Shared>>,
}

/// Everything that one version of the database says.
struct Directory {
    version: i64,
    tenants: BTreeMap<String, Arc<Tenant>>,
    keys: KeyRing,
    stored_keys: Vec<StoredKey>,
    loaded: Instant,
    loaded_milliseconds: i64,
}

/// Why tenants or keys cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum TenantError {
    #[error(
        "`{0}` is no name for a tenant or a key; use 1 to 64 letters, digits, `-`, `_` and `.`"
    )]
    Name(String),
    #[error("there is a tenant `{0}` already; change it, or choose another name")]
    TenantExists(String),
    #[error("there is no tenant `{0}`")]
    NoTenant(String),
    #[error("the tenant `{tenant}` has a key `{key}` already; choose another name")]
    KeyExists { tenant: String, key: String },
    #[error("the tenant `{tenant}` has no key `{key}` that is taken")]
    NoKey { tenant: String, key: String },
    #[error("somebody else changed the tenant `{0}` at the same time; try again")]
    Raced(String),
    #[error("the operating system gives no random bits for a key")]
    Random(#[source] getrandom::Error),
    #[error(transparent)]
    Database(#[from] LedgerError),
}

impl Tenants {
    pub(crate) async fn load(store: Store) -> Result<Arc<Tenants>, LedgerError> {
        let stored = store.tenants().await?;
        let tenants = Arc::new(Tenants {
            store,
            accounts: RwLock::default(),
            directory: RwLock::new(Arc::new(Directory::default())),
            changing: tokio::sync::Mutex::default(),
            watch: Mutex::default(),
            shared: OnceLock::new(),
        });
        tenants.set_spent(&stored.spent);
        tenants.show(stored);
        let watched = Arc::downgrade(&tenants);
        let task = tokio::spawn(async move {
            let mut ticks = interval(LOOK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut was_away = false;
            loop {
                ticks.tick().await;
                let Some(tenants) = watched.upgrade() else { return };
                match tenants.refresh().await {
                    Ok(()) => was_away = false,
                    Err(error) if !was_away => {
                        was_away = true;
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(
                            target: "fungible::gateway",
                            error,
                            "the database cannot be read; tenants stay as they were last known"
                        );
                    }
                    Err(_) => {}
                }
            }
        });
        let mut watch = tenants.watch.lock().unwrap_or_else(PoisonError::into_inner);
        *watch = Some(task.abort_handle());
        drop(watch);
        Ok(tenants)
    }

    /// From now on, limits and budgets are those of all gateways at this database together.
    pub(crate) async fn share(
        self: &Arc<Tenants>,
        store: PostgresStore,
        meter: Meter,
    ) -> Result<(), LedgerError> {
        let tenants = Arc::downgrade(self);
        let hear = move |spent: Vec<Spent>| {
            let tenants = tenants.upgrade();
            tenants.is_some_and(|tenants| {
                tenants.set_spent(&spent);
                true
            })
        };
        let shared = Shared::start(store, meter, hear).await?;
        // Set once, by who opened the ledger.
        let _ = self.shared.set(shared);
        Ok(())
    }

    pub(crate) async fn close(&self) {
        let watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = watch {
            task.abort();
        }
        if let Some(shared) = self.shared.get() {
            shared.close().await;
        }
    }

    /// Whose key this is; nothing for one that is not known, or not taken any more.
    pub fn find(&self, presented_key: &str) -> Option<Known> {
        self.directory().keys.find(presented_key, Instant::now())
    }

    pub fn named(&self, name: &str) -> Option<Arc<Tenant>> {
        self.directory().tenants.get(name).cloned()
    }

    /// All of them by name, with what they do and have spent. What is under way is known to their
    /// gateway alone; another process sees none.
    pub fn list(&self) -> Vec<TenantView> {
        let directory = self.directory();
        let view = |tenant: &Arc<Tenant>| {
            let keys = directory.keys_of(&tenant.name).map(|key| directory.view(key)).collect();
            TenantView::new(tenant, keys, &self.account(&tenant.name))
        };
        directory.tenants.values().map(view).collect()
    }

    /// Takes what a request may need of its tenant's limits, or nothing.
    ///
    /// # Errors
    /// The first limit that does not allow it.
    pub async fn reserve(
        &self,
        tenant: &Arc<Tenant>,
        estimate: Estimate,
    ) -> Result<Reservation, ReserveError> {
        let account = self.account(&tenant.name);
        let day = Day::today();
        if let Some(shared) = self.shared.get()
            && let Some(answer) = shared.reserve(tenant, estimate, day).await
        {
            let hold = answer?;
            let held = account.take(estimate, day);
            return Ok(Reservation::new(account, held, Some(hold)));
        }
        let held = account.reserve(tenant, estimate, day)?;
        Ok(Reservation::new(account, held, None))
    }

    /// A new tenant with its first key.
    ///
    /// # Errors
    /// If there is one of that name, the name is none, or the database cannot be written.
    pub async fn add(&self, tenant: Tenant) -> Result<NewKey, TenantError> {
        let _changing = self.changing.lock().await;
        check_name(&tenant.name)?;
        let key = new_key("key-1".to_string())?;
        let stored = key.stored(&tenant.name, now_milliseconds());
        let name = tenant.name.clone();
        match self.write(Change::AddTenant { tenant, key: stored }).await? {
            true => Ok(key),
            false => Err(TenantError::TenantExists(name)),
        }
    }

    /// Puts these settings in place of what the tenant of that name had.
    ///
    /// # Errors
    /// If there is none, or the database cannot be written.
    pub async fn change(&self, tenant: Tenant) -> Result<(), TenantError> {
        let _changing = self.changing.lock().await;
        let name = tenant.name.clone();
        match self.write(Change::SetTenant(tenant)).await? {
            true => Ok(()),
            false => Err(TenantError::NoTenant(name)),
        }
    }

    /// Removes it with its keys. Its records stay, and what it has spent.
    ///
    /// # Errors
    /// If there is none, or the database cannot be written.
    pub async fn remove(&self, name: &str) -> Result<(), TenantError> {
        let _changing = self.changing.lock().await;
        match self.write(Change::RemoveTenant(name.to_string())).await? {
            true => Ok(()),
            false => Err(TenantError::NoTenant(name.to_string())),
        }
    }

    /// One more key; `key-2` and so on if nobody names it.
    ///
    /// # Errors
    /// If there is no such tenant, it has a key of that name (a revoked one too), or the database
    /// cannot be written.
    pub async fn add_key(&self, tenant: &str, name: Option<&str>) -> Result<NewKey, TenantError> {
        let _changing = self.changing.lock().await;
        let directory = self.fresh(tenant).await?;
        let key = new_key(directory.key_name(tenant, name)?)?;
        let stored = key.stored(tenant, now_milliseconds());
        match self.write(Change::AddKey(stored)).await? {
            true => Ok(key),
            false => Err(TenantError::Raced(tenant.to_string())),
        }
    }

    /// A new key in place of another, which is taken for a grace period more.
    ///
    /// # Errors
    /// If there is no such tenant or valid key, or the database cannot be written.
    pub async fn rotate_key(
        &self,
        tenant: &str,
        key: &str,
        grace: Duration,
    ) -> Result<NewKey, TenantError> {
        let _changing = self.changing.lock().await;
        let directory = self.fresh(tenant).await?;
        directory.valid_key(tenant, key)?;
        let new = new_key(directory.key_name(tenant, None)?)?;
        let now = now_milliseconds();
        let grace = i64::try_from(grace.as_millis()).unwrap_or(i64::MAX);
        let change = Change::RotateKey {
            old: key.to_string(),
            ends_milliseconds: now.saturating_add(grace),
            new: new.stored(tenant, now),
        };
        match self.write(change).await? {
            true => Ok(new),
            false => Err(TenantError::Raced(tenant.to_string())),
        }
    }

    /// Ends a key at once.
    ///
    /// # Errors
    /// If there is no such tenant or valid key, or the database cannot be written.
    pub async fn revoke_key(&self, tenant: &str, key: &str) -> Result<(), TenantError> {
        let _changing = self.changing.lock().await;
        let directory = self.fresh(tenant).await?;
        directory.valid_key(tenant, key)?;
        let change = Change::RevokeKey {
            tenant: tenant.to_string(),
            name: key.to_string(),
            ends_milliseconds: now_milliseconds(),
        };
        self.write(change).await?;
        Ok(())
    }

    async fn write(&self, change: Change) -> Result<bool, LedgerError> {
        let is_done = self.store.change(change).await?;
        // Who changed something sees it at once.
        self.refresh().await?;
        Ok(is_done)
    }

    /// What the database says now, which has this tenant.
    async fn fresh(&self, tenant: &str) -> Result<Arc<Directory>, TenantError> {
        self.refresh().await?;
        let directory = self.directory();
        match directory.tenants.contains_key(tenant) {
            true => Ok(directory),
            false => Err(TenantError::NoTenant(tenant.to_string())),
        }
    }

    async fn refresh(&self) -> Result<(), LedgerError> {
        if self.store.version().await? != self.directory().version {
            self.show(self.store.tenants().await?);
        }
        Ok(())
    }

    fn show(&self, stored: StoredTenants) {
        let directory = Arc::new(Directory::new(stored));
        let mut shown = self.directory.write().unwrap_or_else(PoisonError::into_inner);
        // Two may have read at once; the newer one stays.
        if directory.version >= shown.version {
            *shown = directory;
        }
    }

    fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.directory.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_spent(&self, spent: &[Spent]) {
        for Spent { tenant, day, cost } in spent {
            self.account(tenant).set_spent(*cost, *day);
        }
    }

    fn account(&self, tenant: &str) -> Arc<Account> {
        let accounts = self.accounts.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = accounts.get(tenant) {
            return Arc::clone(account);
        }
        drop(accounts);
        let mut accounts = self.accounts.write().unwrap_or_else(PoisonError::into_inner);
        let made = accounts.entry(tenant.to_string()).or_insert_with(|| Arc::new(Account::new()));
        Arc::clone(made)
    }
}

impl Default for Directory {
    fn default() -> Directory {
        Directory {
            version: 0,
            tenants: BTreeMap::new(),
            keys: KeyRing::default(),
            stored_keys: Vec::new(),
            loaded: Instant::now(),
            loaded_milliseconds: now_milliseconds(),
        }
    }
}

impl Directory {
    fn new(stored: StoredTenants) -> Directory {
        let mut directory = Directory { version: stored.version, ..Directory::default() };
        for tenant in stored.tenants {
            directory.tenants.insert(tenant.name.clone(), Arc::new(tenant));
        }
        for key in &stored.keys {
            let Some(tenant) = directory.tenants.get(&key.tenant) else { continue };
            let ends = match key.ends_milliseconds {
                None => None,
                Some(ends) => {
                    let left = ends.saturating_sub(directory.loaded_milliseconds);
                    if left <= 0 {
                        continue;
                    }
                    // Past what the clock can say it is as good as never.
                    directory.loaded.checked_add(Duration::from_millis(left.unsigned_abs()))
                }
            };
            let known = Known { tenant: Arc::clone(tenant), key: key.name.as_str().into() };
            directory.keys.insert(key.digest, known, ends);
        }
        directory.stored_keys = stored.keys;
        directory
    }

    fn keys_of(&self, tenant: &str) -> impl Iterator<Item = &StoredKey> {
        self.stored_keys.iter().filter(move |key| key.tenant == tenant)
    }

    fn view(&self, key: &StoredKey) -> KeyView {
        let passed = self.loaded.elapsed().as_millis();
        let now =
            self.loaded_milliseconds.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX));
        KeyView {
            name: key.name.clone(),
            last_four: key.last_four.clone(),
            created_milliseconds: key.created_milliseconds,
            ends_milliseconds: key.ends_milliseconds,
            is_valid: key.ends_milliseconds.is_none_or(|ends| ends > now),
        }
    }

    fn valid_key(&self, tenant: &str, name: &str) -> Result<(), TenantError> {
        let is_it = |key: &StoredKey| key.name == name && self.view(key).is_valid;
        match self.keys_of(tenant).any(is_it) {
            true => Ok(()),
            false => Err(TenantError::NoKey { tenant: tenant.to_string(), key: name.to_string() }),
        }
    }

    /// The name if it is free, or the first `key-N` after all there are.
    fn key_name(&self, tenant: &str, name: Option<&str>) -> Result<String, TenantError> {
        let is_free = |name: &str| !self.keys_of(tenant).any(|key| key.name == name);
        let Some(name) = name else {
            let mut number = self.keys_of(tenant).count() + 1;
            while !is_free(&format!("key-{number}")) {
                number += 1;
            }
            return Ok(format!("key-{number}"));
        };
        check_name(name)?;
        match is_free(name) {
            true => Ok(name.to_string()),
            false => {
                Err(TenantError::KeyExists { tenant: tenant.to_string(), key: name.to_string() })
            }
        }
    }
}

fn new_key(name: String) -> Result<NewKey, TenantError> {
    NewKey::random(name).map_err(TenantError::Random)
}

fn check_name(name: &str) -> Result<(), TenantError> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match (1..=64).contains(&name.len()) && name.bytes().all(is_part) {
        true => Ok(()),
        false => Err(TenantError::Name(name.to_string())),
    }
}
