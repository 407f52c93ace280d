//! `fungible doctor`: what is here, what is missing, and how to get it.

use std::process::Command;

use runtime::registry::{self, PackageKind};
use runtime::{CacheFolder, Compiler, Discovery, PluginKind, chips, targets};
use serde_json::{Value, json};

use super::probe;
use crate::arguments::DoctorArguments;
use crate::console::{self, GREEN, YELLOW, styled};
use crate::failure::{Failure, Outcome};

/// One finding: good, or what to do about it.
struct Finding {
    what: String,
    state: String,
    advice: Option<String>,
}

impl Finding {
    fn good(what: impl Into<String>, state: impl Into<String>) -> Finding {
        Finding { what: what.into(), state: state.into(), advice: None }
    }

    fn missing(
        what: impl Into<String>,
        state: impl Into<String>,
        advice: impl Into<String>,
    ) -> Finding {
        Finding { what: what.into(), state: state.into(), advice: Some(advice.into()) }
    }
}

pub fn run(arguments: &DoctorArguments) -> Outcome {
    let cache = CacheFolder::from_environment()?;
    let discovery = Discovery::new(cache.clone());
    let mut findings = vec![Finding::good("fungible", env!("CARGO_PKG_VERSION")), machine(), pip()];
    let mut targets = Vec::new();
    for kind in PluginKind::ALL {
        findings.extend(plugin(kind, &discovery));
        if discovery.find(kind).is_ok() {
            targets.extend(chips::chips().iter().filter(|chip| chip.plugin == Some(kind)));
        }
    }
    findings.extend(models(&cache));
    findings.push(caches(&cache)?);
    if arguments.json {
        let findings: Vec<Value> = findings
            .iter()
            .map(|f| json!({"what": f.what, "state": f.state, "advice": f.advice}))
            .collect();
        let targets: Vec<Value> = targets
            .iter()
            .map(|chip| json!({"chip": chip.name, "chips": targets::legal_counts(chip)}))
            .collect();
        console::line(json!({"findings": findings, "targets": targets}));
        return Ok(());
    }
    for finding in &findings {
        let mark = match finding.advice {
            None => styled(GREEN, "ok"),
            Some(_) => styled(YELLOW, "--"),
        };
        console::styled_line(format_args!("{mark}  {:<22} {}", finding.what, finding.state));
        if let Some(advice) = &finding.advice {
            let advice = styled(console::DIM, advice);
            console::styled_line(format_args!("    {:<22} {advice}", ""));
        }
    }
    console::line("\nTargets that can be compiled for (counts are chips):");
    for chip in targets {
        let counts: Vec<String> =
            targets::legal_counts(chip).iter().take(12).map(|count| count.to_string()).collect();
        let more = if targets::legal_counts(chip).len() > 12 { ", ..." } else { "" };
        console::line(format_args!("    {:<8} {}{more}", chip.name, counts.join(", ")));
    }
    Ok(())
}

fn machine() -> Finding {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(console::gibibytes(kibibytes * 1024))
    });
    let memory = memory.map_or_else(String::new, |memory| format!(", {memory}"));
    Finding::good("machine", format!("{cores} processor cores{memory}"))
}

fn pip() -> Finding {
    let python = std::env::var("FUNGIBLE_PYTHON").unwrap_or_else(|_| "python3".to_string());
    match Command::new(&python).args(["-m", "pip", "--version"]).output() {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout).trim().to_string();
            let words: Vec<&str> = text.split_whitespace().take(2).collect();
            Finding::good("pip", format!("{} ({python})", words.join(" ")))
        }
        _ => Finding::missing(
            "pip",
            "not found",
            "needed to fetch plugins: install Python's pip, or point FUNGIBLE_PYTHON at a Python that has it",
        ),
    }
}

fn plugin(kind: PluginKind, discovery: &Discovery) -> Vec<Finding> {
    let name = format!("{kind} plugin");
    let location = match discovery.find(kind) {
        Ok(location) => location,
        Err(error) => {
            let advice = format!("fungible plugin install {}", kind.package());
            return vec![Finding::missing(name, error.to_string(), advice)];
        }
    };
    let version = location.version.clone().map_or_else(String::new, |v| format!(" {v}"));
    let place = format!("{}{version}, {}", location.source, location.path.display());
    let found = match probe::start(&location) {
        Ok(found) => found,
        Err(reason) => {
            let advice = format!("fungible plugin install {}", kind.package());
            return vec![Finding::missing(name, format!("{place}: {reason}"), advice)];
        }
    };
    let devices = format!("{kind} devices");
    let devices = match found.devices {
        Some(Ok(state)) => Finding::good(devices, state),
        Some(Err(reason)) => {
            let advice = "the plugin is here but its devices are not usable; see the message";
            Finding::missing(devices, reason, advice)
        }
        None => Finding::good(devices, "none here; programs can be compiled for them all the same"),
    };
    vec![Finding::good(name, format!("PJRT {}, {place}", found.api)), devices]
}

fn models(cache: &CacheFolder) -> Vec<Finding> {
    let installer = runtime::install::Installer::new(cache.clone());
    let models = registry::packages().iter().filter(|p| p.kind == PackageKind::Model);
    models
        .map(|package| match installer.installed(package) {
            Some(installed) => {
                Finding::good(package.name.as_str(), installed.main_file.display().to_string())
            }
            None => Finding::missing(
                package.name.as_str(),
                format!("not fetched yet ({})", console::decimal_size(package.download_bytes())),
                "fetched by itself when first used",
            ),
        })
        .collect()
}

fn caches(cache: &CacheFolder) -> Result<Finding, Failure> {
    let statistics = Compiler::new(cache.clone())?.cache().statistics();
    let state = format!(
        "{} programs, {} of at most {}, in {}",
        statistics.entries,
        console::decimal_size(statistics.bytes),
        console::decimal_size(statistics.limit_bytes),
        cache.root().display()
    );
    Ok(Finding::good("compile cache", state))
}
