//! The worker's side: reads one job, compiles, writes the outcome, ends.

use std::io::{self, Read, stdin};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use pjrt::{Client, ClientOptions, Code, Executable, Plugin, Topology, Value};

use super::Register;
use super::job::{Job, JobDevice, MemoryUse, Outcome, Report, read_piece};
use super::parent::{CANNOT_WRITE, RESULT};
use crate::folders::write_whole;
use crate::settings::to_values;

/// Set when all that is left to do is to write the outcome and end.
static FINISHING: AtomicBool = AtomicBool::new(false);

/// Never returns: the process was made for this.
pub fn main(register: Register) -> ! {
    let result = std::env::var_os(RESULT).map(PathBuf::from);
    let code = match (result, read_job()) {
        (Some(result), Ok((nonce, job))) => {
            end_with_parent();
            let outcome = compile(&job, register);
            FINISHING.store(true, Ordering::SeqCst);
            if write_outcome(&nonce, &outcome, &result) { 0 } else { CANNOT_WRITE }
        }
        _ => 1,
    };
    pjrt::end_process(code);
}

fn read_job() -> io::Result<(Vec<u8>, Job)> {
    let mut input = stdin();
    Ok((read_piece(&mut input)?, Job::read(&mut input)?))
}

/// The nonce says which job this is the outcome of.
fn write_outcome(nonce: &[u8], outcome: &Outcome, result: &Path) -> bool {
    outcome.to_bytes().is_ok_and(|bytes| write_whole(result, &[nonce, &bytes]).is_ok())
}

/// The parent keeps our standard input open as long as it lives and wants the result.
fn end_with_parent() {
    std::thread::spawn(|| {
        let mut rest = [0; 64];
        let mut input = stdin();
        while input.read(&mut rest).is_ok_and(|count| count > 0) {}
        // A process that is about to end well must not be seen to crash.
        if !FINISHING.load(Ordering::SeqCst) {
            // Not `exit`, which would run the compiler's own clean-up while it is compiling.
            std::process::abort();
        }
    });
}

fn refused(error: &pjrt::Error) -> Outcome {
    let out_of_memory = error.code() == Some(Code::ResourceExhausted);
    let message = match error {
        pjrt::Error::Status { message, .. } => message.clone(),
        other => other.to_string(),
    };
    Outcome::Refused { out_of_memory, message }
}

fn compile(job: &Job, register: Register) -> Outcome {
    let plugin = match Plugin::load(&job.plugin) {
        Ok(plugin) => plugin,
        Err(error) => return refused(&error),
    };
    match register(&plugin) {
        Ok(()) => {
            compile_with(job, &plugin).map_or_else(|error| refused(&error), Outcome::Compiled)
        }
        Err(message) => Outcome::Refused { out_of_memory: false, message },
    }
}

fn compile_with(job: &Job, plugin: &Plugin) -> pjrt::Result<Report> {
    match &job.device {
        JobDevice::Client { options } => {
            let options = ClientOptions { options: to_values(options), ..ClientOptions::default() };
            with_client(job, &Client::create(plugin, &options)?)
        }
        JobDevice::Topology { name, options } => {
            let topology = Topology::create(plugin, name, &to_values(options))?;
            let devices = topology.devices()?;
            let limit = devices.first().and_then(|device| {
                match device.attribute("device_memory_bytes_limit") {
                    Some(Value::Int64(bytes)) => u64::try_from(*bytes).ok(),
                    _ => None,
                }
            });
            let start = Instant::now();
            let executable = topology.compile(&job.program, &job.options)?;
            let seconds = start.elapsed().as_secs_f64();
            report(job, &executable, devices.len(), limit, seconds)
        }
    }
}

fn with_client(job: &Job, client: &Client) -> pjrt::Result<Report> {
    let start = Instant::now();
    let loaded = client.compile(&job.program, &job.options)?;
    let seconds = start.elapsed().as_secs_f64();
    report(job, loaded.executable(), client.devices().len(), None, seconds)
}

/// Compiles in this process, for devices that it holds. The job's own device and plugin are not
/// looked at.
pub fn compile_with_client(job: &Job, client: &Client) -> Outcome {
    with_client(job, client).map_or_else(|error| refused(&error), Outcome::Compiled)
}

fn report(
    job: &Job,
    executable: &Executable,
    devices: usize,
    device_memory_bytes: Option<u64>,
    compile_seconds: f64,
) -> pjrt::Result<Report> {
    let mut report = Report {
        compile_seconds,
        devices,
        device_memory_bytes,
        memory: optional(executable.memory_stats())?.map(memory_use),
        cost: optional(executable.cost_analysis())?
            .unwrap_or_default()
            .iter()
            .filter_map(figure)
            .collect(),
        ..Report::default()
    };
    if job.optimized_program
        && let Some(program) = optional(executable.optimized_program())?
    {
        report.optimized_program_format = program.format;
        report.optimized_program = program.code;
    }
    if job.executable {
        report.executable = executable.serialize()?;
    }
    Ok(report)
}

/// Plugins differ in what they can tell; what one leaves out is no failure of the compilation.
fn optional<T>(answer: pjrt::Result<T>) -> pjrt::Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(pjrt::Error::MissingFunction { .. }) => Ok(None),
        Err(error) if error.code() == Some(Code::Unimplemented) => Ok(None),
        Err(error) => Err(error),
    }
}

fn memory_use(stats: pjrt::CompiledMemoryStats) -> MemoryUse {
    MemoryUse {
        argument_bytes: stats.argument_bytes,
        output_bytes: stats.output_bytes,
        alias_bytes: stats.alias_bytes,
        temporary_bytes: stats.temporary_bytes,
        generated_code_bytes: stats.generated_code_bytes,
        peak_bytes: stats.peak_bytes,
    }
}

fn figure((name, value): &(String, Value)) -> Option<(String, f64)> {
    let value = match value {
        Value::Float(number) => f64::from(*number),
        Value::Int64(number) => *number as f64,
        Value::String(_) | Value::Int64List(_) | Value::Bool(_) => return None,
    };
    Some((name.clone(), value))
}
