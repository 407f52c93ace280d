//! `fungible gateway`: one endpoint over many suppliers' servers.

mod check;

use std::net::SocketAddr;
use std::path::Path;

use gateway::config::{Config, Price};
use gateway::gateway::{Gateway, Reloader, TraceSettings};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::serve::{open_files, start_log};
use crate::arguments::gateway::{GatewayArguments, GatewayCommand};
use crate::console;
use crate::failure::{Exit, Failure, Outcome};

pub fn run(arguments: &GatewayArguments) -> Outcome {
    let path = match (&arguments.command, &arguments.config) {
        (Some(GatewayCommand::Check(check)), _) => return check::run(check),
        (None, Some(path)) => path,
        (None, None) => {
            return Err(Failure::usage("name a config, as in fungible gateway gateway.toml"));
        }
    };
    let mut config = read(path)?;
    config.limits.connections_max = open_files::make_room(config.limits.connections_max);
    start_log(arguments.log_json);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(config))
}

/// A config that is wrong is wrong usage: the gateway did not fail.
fn read(path: &Path) -> Result<Config, Failure> {
    Config::read(path).map_err(|error| {
        let failure = Failure::from(error);
        Failure::usage(failure.to_string())
    })
}

/// Pools whose tokens cost nothing as far as budgets know.
fn remark_costs(config: &Config) {
    for pool in &config.pools {
        let why = match pool.price {
            Price::Unknown => "has no price",
            Price::ChipHour(_) if pool.tokens_per_second.is_none() => {
                "has a price per chip-hour and no `tokens_per_second`"
            }
            Price::ChipHour(_) | Price::Tokens { .. } => continue,
        };
        let until = match pool.price {
            Price::Unknown => "",
            _ => " until it has been measured under load for a minute",
        };
        console::remark(format!(
            "the pool {} {why}: what it answers counts as free for budgets{until}",
            pool.name
        ));
    }
}

async fn serve(config: Config) -> Outcome {
    // Listening comes first: a port that is taken is known before anything is opened.
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let listener = listen(config.listen).await?;
    let address = listener.local_addr()?;
    let admin = match &config.admin {
        Some(admin) => Some(listen(admin.listen).await?),
        None => None,
    };
    let names: Vec<&str> = config.models.iter().map(|model| model.name.as_str()).collect();
    let summary = format!("{} over {} pools", names.join(", "), config.pools.len());
    let admin_scheme = config.admin.as_ref().map(|admin| match admin.tls {
        Some(_) => "https",
        None => "http",
    });
    remark_costs(&config);
    let mut gateway = Gateway::open(config).await?;
    match TraceSettings::find(None, |name| std::env::var(name).ok()) {
        Ok(Some(settings)) => {
            console::remark(format!("traces go to {}", settings.shown()));
            gateway.trace_to(settings);
        }
        Ok(None) => {}
        // Variables are often set for all programs of a machine: no reason not to serve.
        Err(error) => {
            let name = "OpenTelemetry's variables (OTEL_...) cannot be followed";
            console::warning(&format!("{name}, so no traces are sent: {error}"));
        }
    }
    console::line(format!("{scheme}://{address}/v1"));
    console::remark(summary);
    if let (Some(admin), Some(scheme)) = (&admin, admin_scheme) {
        console::remark(format!("admin page {scheme}://{}/admin", admin.local_addr()?));
    }
    if gateway.has_no_tenants() {
        console::remark("nobody has a key yet: fungible tenants add NAME prints one");
    }
    let reloading = tokio::spawn(reload_on_signal(gateway.reloader()));
    let cut_off = gateway.run(listener, admin, stop_signal()?).await;
    reloading.abort();
    if cut_off > 0 {
        let message =
            format!("{cut_off} answers were not finished within the drain time and were cut off");
        return Err(Failure::new(Exit::Failure, message));
    }
    Ok(())
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        let message =
            format!("{address} cannot be listened on: {error}; give another in the config");
        Failure::new(Exit::Failure, message)
    })
}

/// Returns with the first SIGINT or SIGTERM; the second ends the process.
fn stop_signal() -> Result<impl Future<Output = ()>, Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        console::remark("stopping: answers under way are finished first");
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            runtime::end_process(Exit::Interrupted as i32);
        });
    })
}

async fn reload_on_signal(reloader: Reloader) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    while hangup.recv().await.is_some() {
        match reloader.reload() {
            Ok(reloaded) if reloaded.needs_restart.is_empty() => {
                console::remark("the config was read again")
            }
            Ok(reloaded) => console::remark(format!(
                "the config was read again; what it says of {} takes effect with the next start",
                reloaded.needs_restart.join(", ")
            )),
            Err(error) => console::error(&format!(
                "{}; the gateway goes on as before",
                plan::words::with_sources(&error)
            )),
        }
    }
}
