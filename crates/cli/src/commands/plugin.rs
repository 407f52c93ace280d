//! `fungible plugin install|list`.

use runtime::registry::{self, PackageKind};
use runtime::{CacheFolder, Discovery, PluginKind};
use serde_json::json;

use crate::arguments::{PluginArguments, PluginCommand};
use crate::console::{self, Progress};
use crate::failure::{Failure, Outcome};
use crate::model;

pub fn run(arguments: &PluginArguments) -> Outcome {
    match &arguments.command {
        PluginCommand::Install { name } => install(name),
        PluginCommand::List { json } => list(*json),
    }
}

fn install(name: &str) -> Outcome {
    let Some(package) = registry::find(name).filter(|p| p.kind == PackageKind::Plugin) else {
        let known: Vec<&str> = registry::plugins().map(|package| package.name.as_str()).collect();
        let nearest = known.iter().min_by_key(|k| runtime::chips::names::edit_distance(name, k));
        return Err(Failure::usage(format!(
            "there is no plugin `{name}`; did you mean `{}`? Known: {}",
            nearest.copied().unwrap_or("cpu"),
            known.join(", ")
        )));
    };
    let progress = Progress::new();
    let path = model::install(package, &CacheFolder::from_environment()?, &progress)?;
    console::line(format_args!(
        "{} {} is installed: {}",
        package.name,
        package.version,
        path.display()
    ));
    Ok(())
}

fn list(json: bool) -> Outcome {
    let cache = CacheFolder::from_environment()?;
    let installer = runtime::install::Installer::new(cache.clone());
    let discovery = Discovery::new(cache);
    let mut rows =
        vec![["plugin", "version", "license", "state", "what it is"].map(str::to_string).to_vec()];
    let mut values = Vec::new();
    for package in registry::plugins() {
        let installed = installer.installed(package);
        let state = match &installed {
            Some(_) => "installed".to_string(),
            None => format!("{} to fetch", console::decimal_size(package.download_bytes())),
        };
        values.push(json!({
            "name": package.name,
            "version": package.version,
            "license": package.license,
            "path": installed.map(|installed| installed.main_file),
            "download_bytes": package.download_bytes(),
        }));
        let cells =
            [&package.name, &package.version, &package.license, &state, &package.description];
        rows.push(cells.map(Clone::clone).to_vec());
    }
    let found: Vec<_> =
        PluginKind::ALL.iter().filter_map(|&kind| discovery.find(kind).ok()).collect();
    if json {
        let found: Vec<_> = found
            .iter()
            .map(|l| json!({"kind": l.kind.name(), "path": l.path, "source": l.source.to_string()}))
            .collect();
        console::line(json!({"packages": values, "found": found}));
        return Ok(());
    }
    console::table(&rows);
    for location in found {
        console::line(format_args!(
            "{} is taken from {} ({})",
            location.kind,
            location.path.display(),
            location.source
        ));
    }
    Ok(())
}
