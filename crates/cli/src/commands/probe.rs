//! Loads one plugin and says what it is. A process of its own, started by `doctor`: a vendor's library
//! writes to standard error as it likes, may wait for minutes, and may abort.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use runtime::environment::{compile_only_environment, required_environment};
use runtime::{CacheFolder, Discovery, PluginKind, PluginLocation, Runtime, RuntimeOptions};
use serde::{Deserialize, Serialize};

use crate::arguments::{Device, ProbeArguments};
use crate::console;
use crate::failure::{Failure, Outcome};

const TIMEOUT: Duration = Duration::from_secs(60);

/// What a probe prints as JSON.
#[derive(Debug, Deserialize, Serialize)]
pub struct Findings {
    pub api: String,
    /// Kind and number of devices, or why there are none; nothing where no hardware shows.
    pub devices: Option<Result<String, String>>,
}

pub fn run(arguments: &ProbeArguments) -> Outcome {
    let kind = match arguments.device {
        Device::Tpu => PluginKind::Tpu,
        Device::Cuda => PluginKind::Cuda,
        Device::Auto | Device::Cpu => PluginKind::Cpu,
    };
    let discovery = Discovery::new(CacheFolder::from_environment()?);
    let location = discovery.find(kind)?;
    let api = pjrt::Plugin::load(&location.path)?.api_version();
    let devices = has_hardware(kind).then(|| {
        let runtime = Runtime::open(&discovery, &RuntimeOptions::new(kind));
        let runtime = runtime.map_err(|error| Failure::from(error).to_string())?;
        let devices = runtime.devices();
        let first = devices.first().map_or("none", |device| device.kind());
        Ok(format!("{} x {first}", devices.len()))
    });
    let findings = Findings { api: format!("{}.{}", api.major, api.minor), devices };
    console::line(serde_json::to_string(&findings)?);
    Ok(())
}

/// Whether a device file says that the hardware is here.
pub fn has_hardware(kind: PluginKind) -> bool {
    let files: &[&str] = match kind {
        PluginKind::Cpu => return true,
        PluginKind::Tpu => &["/dev/accel0", "/dev/vfio/0"],
        PluginKind::Cuda => &["/dev/nvidia0"],
    };
    files.iter().any(|file| Path::new(file).exists())
}

/// Starts a probe of the plugin and waits for it; the sentence says why nothing came back.
pub fn start(location: &PluginLocation) -> Result<Findings, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.args(["probe", location.kind.name()]).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.envs(required_environment(location, 1));
    if !has_hardware(location.kind) {
        command.envs(compile_only_environment(location));
    }
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let started = Instant::now();
    loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(_) => break,
            None if started.elapsed() > TIMEOUT => {
                // It may end by itself in this moment; either way it is gone.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("it did not load within {} s", TIMEOUT.as_secs()));
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let found = text.lines().find_map(|line| serde_json::from_str(line).ok());
    found.ok_or_else(|| {
        let errors = String::from_utf8_lossy(&output.stderr);
        let ours = errors.lines().rev().find_map(|line| line.strip_prefix("error: "));
        ours.map_or_else(|| format!("it ended with {}", output.status), str::to_string)
    })
}
