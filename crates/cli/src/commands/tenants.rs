//! `fungible tenants`: who may use a gateway, with which keys and within which limits.

mod show;

use std::path::{Path, PathBuf};

use gateway::config::{Config, Database};
use gateway::ledger::{Ledger, OpenDatabase};
use gateway::secrets::Secrets;
use gateway::tenants::{NewKey, Tenant, TenantView};

use crate::arguments::tenants::{
    AddArguments, DatabaseArguments, RotateArguments, Setting, SettingsArguments, TenantsArguments,
    TenantsCommand,
};
use crate::console;
use crate::failure::{Failure, Outcome};

/// The config that is taken where none is named.
const CONFIG: &str = "gateway.toml";

pub fn run(arguments: &TenantsArguments) -> Outcome {
    match &arguments.command {
        TenantsCommand::Add(arguments) => add(arguments),
        TenantsCommand::List(arguments) => on(&arguments.database, Make::No, async |ledger| {
            show::list(&ledger.tenants().list(), arguments.json);
            Ok(())
        }),
        TenantsCommand::Show(arguments) => on(&arguments.database, Make::No, async |ledger| {
            show::one(&found(ledger, &arguments.tenant)?, arguments.json);
            Ok(())
        }),
        TenantsCommand::Change(arguments) => on(&arguments.database, Make::No, async |ledger| {
            let tenants = ledger.tenants();
            let tenant = tenants.named(&arguments.tenant);
            let Some(tenant) = tenant else { return Err(unknown(ledger, &arguments.tenant)) };
            let mut tenant = tenant.as_ref().clone();
            apply(&mut tenant, &arguments.settings);
            tenants.change(tenant).await?;
            show::one(&found(ledger, &arguments.tenant)?, false);
            Ok(())
        }),
        TenantsCommand::Remove(arguments) => on(&arguments.database, Make::No, async |ledger| {
            found(ledger, &arguments.tenant)?;
            ledger.tenants().remove(&arguments.tenant).await?;
            console::remark(format_args!("removed {} and its keys", arguments.tenant));
            Ok(())
        }),
        TenantsCommand::AddKey(arguments) => on(&arguments.database, Make::No, async |ledger| {
            found(ledger, &arguments.tenant)?;
            let name = arguments.name.as_deref();
            let key = ledger.tenants().add_key(&arguments.tenant, name).await?;
            print_once(&arguments.tenant, &key);
            Ok(())
        }),
        TenantsCommand::Rotate(arguments) => {
            on(&arguments.database, Make::No, async |ledger| rotate(ledger, arguments).await)
        }
        TenantsCommand::Revoke(arguments) => on(&arguments.database, Make::No, async |ledger| {
            found(ledger, &arguments.tenant)?;
            ledger.tenants().revoke_key(&arguments.tenant, &arguments.key).await?;
            console::remark(format_args!("revoked {} of {}", arguments.key, arguments.tenant));
            Ok(())
        }),
    }
}

fn add(arguments: &AddArguments) -> Outcome {
    let mut tenant = Tenant::named(&arguments.tenant);
    apply(&mut tenant, &arguments.settings);
    on(&arguments.database, Make::Yes, async |ledger| {
        let key = ledger.tenants().add(tenant).await?;
        print_once(&arguments.tenant, &key);
        Ok(())
    })
}

async fn rotate(ledger: &Ledger, arguments: &RotateArguments) -> Outcome {
    let tenant = found(ledger, &arguments.tenant)?;
    let valid: Vec<&str> = tenant
        .keys
        .iter()
        .filter(|key| key.is_valid && key.ends_milliseconds.is_none())
        .map(|key| key.name.as_str())
        .collect();
    let old = match (&arguments.key, valid.as_slice()) {
        (Some(key), _) => key,
        (None, [only]) => *only,
        (None, []) => {
            let message = format!(
                "{0} has no valid key; fungible tenants add-key {0} makes one",
                tenant.name
            );
            return Err(Failure::usage(message));
        }
        (None, several) => {
            let names = several.join(", ");
            return Err(Failure::usage(format!("{} has the keys {names}; name one", tenant.name)));
        }
    };
    let key = ledger.tenants().rotate_key(&tenant.name, old, arguments.grace).await?;
    print_once(&tenant.name, &key);
    let grace = console::duration(arguments.grace.as_secs_f64());
    console::remark(format_args!("{old} is taken for {grace} more"));
    Ok(())
}

/// The key alone is the result, so that a script can take it.
fn print_once(tenant: &str, key: &NewKey) {
    console::remark(format_args!(
        "{} of {tenant}; this is the only time that it can be read:",
        key.name
    ));
    console::line(key.plain());
}

fn apply(tenant: &mut Tenant, settings: &SettingsArguments) {
    if !settings.budget.is_empty() {
        tenant.budgets = settings.budget.iter().filter_map(|budget| budget.value()).collect();
    }
    let limits = &mut tenant.limits;
    if let Some(rpm) = settings.rpm {
        limits.requests_per_minute = rpm.value().map(|count| count.0);
    }
    if let Some(tpm) = settings.tpm {
        limits.tokens_per_minute = tpm.value().map(|count| count.0);
    }
    limits.concurrency = settings.concurrency.map_or(limits.concurrency, Setting::value);
    tenant.priority = settings.priority.unwrap_or(tenant.priority);
    // Without any name, all are meant.
    let names = |names: &Vec<String>| match names.as_slice() {
        [all] if all == "*" => Vec::new(),
        names => names.to_vec(),
    };
    if let Some(models) = &settings.models {
        tenant.models = names(models);
    }
    if let Some(pools) = &settings.pools {
        tenant.pools = names(pools);
    }
    tenant.logs_prompts = settings.log_prompts.unwrap_or(tenant.logs_prompts);
    tenant.is_suspended = settings.suspend.unwrap_or(tenant.is_suspended);
}

fn found(ledger: &Ledger, name: &str) -> Result<TenantView, Failure> {
    let tenant = ledger.tenants().list().into_iter().find(|tenant| tenant.name == name);
    tenant.ok_or_else(|| unknown(ledger, name))
}

fn unknown(ledger: &Ledger, name: &str) -> Failure {
    let known: Vec<String> =
        ledger.tenants().list().into_iter().map(|tenant| tenant.name).collect();
    match known.is_empty() {
        true => Failure::usage(format!(
            "there is no tenant `{name}`, nor any other; fungible tenants add {name} makes it"
        )),
        false => {
            Failure::usage(format!("there is no tenant `{name}`; there are {}", known.join(", ")))
        }
    }
}

/// Whether a database that is not there is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Make {
    Yes,
    No,
}

/// Does it with the database that the arguments name, beside a gateway that may be running.
pub fn on(
    arguments: &DatabaseArguments,
    make: Make,
    work: impl AsyncFnOnce(&Ledger) -> Outcome,
) -> Outcome {
    let database = database(arguments)?;
    if let OpenDatabase::Sqlite(path) = &database
        && make == Make::No
        && !path.exists()
    {
        return Err(Failure::usage(format!(
            "there is no database {}; a gateway makes it when it starts, or fungible tenants add",
            path.display()
        )));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let ledger = Ledger::open_beside(database).await?;
        let outcome = work(&ledger).await;
        ledger.close().await;
        outcome
    })
}

fn database(arguments: &DatabaseArguments) -> Result<OpenDatabase, Failure> {
    let path = match (&arguments.config, &arguments.database) {
        (Some(path), _) => path.clone(),
        (None, Some(database)) => return Ok(OpenDatabase::parse(database)),
        (None, None) if Path::new(CONFIG).exists() => PathBuf::from(CONFIG),
        (None, None) => {
            return Err(Failure::usage(format!(
                "there is no {CONFIG} here; say --config FILE, or --database FILE"
            )));
        }
    };
    let config =
        Config::read(&path).map_err(|error| Failure::usage(Failure::from(error).to_string()))?;
    match &config.database {
        Database::Sqlite(path) => Ok(OpenDatabase::Sqlite(path.clone())),
        Database::Postgres(secret) => match Secrets::new().get(secret) {
            Some(address) => Ok(OpenDatabase::Postgres(address.to_string())),
            None => Err(Failure::usage(format!(
                "the address of the database, which {} names, cannot be read or is empty",
                path.display()
            ))),
        },
    }
}
