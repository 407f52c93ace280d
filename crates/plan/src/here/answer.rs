//! The process that measures: told a job on its input, it compiles the programs, makes weights up, runs
//! what it is asked to, and says how long that took. A process of its own, so that its memory is the
//! job's alone, its environment what the plugin wants, and a crash in a vendor's library an error of the
//! planner.

mod serving;
mod training;

use std::io::{BufRead, Write};

use llm::ModelConfig;
use runtime::worker::{MemoryUse, Register};
use runtime::{CacheFolder, Discovery, PluginKind, Runtime, RuntimeOptions};

use crate::words::with_sources;

use super::job::{ANSWER, Answer, Case, Job, Question, Work};

/// Why a measurement failed, in a sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Broken(String);

fn broken(error: impl std::error::Error) -> Broken {
    Broken(with_sources(&error))
}

/// A job's programs on their device.
trait Measured {
    fn memory(&self) -> Option<MemoryUse>;
    /// Of the arrays that stay between runs, the bytes that a run replaces.
    fn changing_bytes(&self) -> u64;
    fn load(&mut self) -> Result<(), Broken>;
    /// Makes ready for a case what is not part of its time.
    fn begin(&mut self, case: Case) -> Result<(), Broken>;
    /// Runs it, and answers with its seconds.
    fn run(&mut self, case: Case) -> Result<f64, Broken>;
}

/// Reads a job and questions from `input` until it ends, and writes answers to `output`. `register`
/// brings native functions to the plugin, for servers.
///
/// # Errors
/// When there is nobody to answer to any more. All else is an answer.
pub fn answer(
    input: impl BufRead,
    mut output: impl Write,
    register: Register,
) -> Result<(), std::io::Error> {
    let mut lines = input.lines();
    let Some(first) = lines.next().transpose()? else { return Ok(()) };
    let (mut measured, opened_bytes) = match begin(&first, register) {
        Ok(begun) => begun,
        Err(Broken(message)) => return say(&mut output, &Answer::Failed { message }),
    };
    let (memory, changing_bytes) = (measured.memory(), measured.changing_bytes());
    let resident_bytes = bytes(&own_status(), "VmRSS:").unwrap_or(0);
    let compiled = Answer::Compiled { memory, changing_bytes, opened_bytes, resident_bytes };
    say(&mut output, &compiled)?;
    for line in lines {
        let answer = match reply(&mut *measured, &line?) {
            Ok(answer) => answer,
            Err(Broken(message)) => Answer::Failed { message },
        };
        say(&mut output, &answer)?;
    }
    Ok(())
}

fn say(output: &mut impl Write, answer: &Answer) -> Result<(), std::io::Error> {
    writeln!(output, "{ANSWER}{}", serde_json::to_string(answer)?)?;
    output.flush()
}

/// The job's programs, and what was resident before there were any.
fn begin(line: &str, register: Register) -> Result<(Box<dyn Measured>, u64), Broken> {
    let job: Job = serde_json::from_str(line).map_err(broken)?;
    let model = ModelConfig::from_json(&job.model).map_err(broken)?;
    let cache = CacheFolder::at(&job.cache);
    let discovery = Discovery::new(cache).with_plugin(PluginKind::Cpu, &job.plugin);
    let mut opened_bytes = 0;
    let open = |devices: usize, register: Option<Register>| {
        let mut options = RuntimeOptions::new(PluginKind::Cpu).with_cpu_devices(devices);
        if let Some(register) = register {
            options.register = register;
        }
        let runtime = Runtime::open(&discovery, &options).map_err(broken)?;
        opened_bytes = bytes(&own_status(), "VmRSS:").unwrap_or(0);
        Ok(runtime)
    };
    let measured: Box<dyn Measured> = match &job.work {
        Work::Training { config } => Box::new(training::Training::new(model, config, open)?),
        Work::Serving(shapes) => {
            let mut open = open;
            Box::new(serving::Serving::new(model, shapes, open(1, Some(register))?)?)
        }
    };
    Ok((measured, opened_bytes))
}

fn reply(measured: &mut dyn Measured, line: &str) -> Result<Answer, Broken> {
    Ok(match serde_json::from_str(line).map_err(broken)? {
        Question::Load => {
            measured.load()?;
            Answer::Loaded
        }
        Question::Run { case, times, between_bytes } => {
            // Written, so that the system gives it memory of its own.
            let between = vec![1_u8; usize::try_from(between_bytes).unwrap_or(0)];
            measured.begin(case)?;
            let mut seconds = Vec::with_capacity(times);
            for run in 0..=times {
                walk(&between);
                let took = measured.run(case)?;
                // The first finds its memory not yet there.
                seconds.extend((run > 0).then_some(took));
            }
            Answer::Ran { seconds }
        }
        Question::Memory => Answer::Memory { peak_bytes: peak_bytes(&own_status()) },
    })
}

/// Bytes that a processor's cache brings in at once.
const CACHE_LINE_BYTES: usize = 64;

/// Fills the processor's caches with something else. Reads only: what was written would have to be brought
/// back to memory during the run that follows. Every core reads it all: those of one machine need not
/// share a cache, and a system in a virtual machine is not always told which do.
fn walk(bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let walk_once = || {
        let lines = bytes.iter().step_by(CACHE_LINE_BYTES);
        std::hint::black_box(lines.fold(0, |sum: u8, byte| sum.wrapping_add(*byte)));
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        // This thread is one.
        for _ in 1..cores {
            scope.spawn(walk_once);
        }
        walk_once();
    });
}

/// The most that was resident, from a process's `/proc/<id>/status`.
pub fn peak_bytes(status: &str) -> Option<u64> {
    bytes(status, "VmHWM:")
}

fn own_status() -> String {
    std::fs::read_to_string("/proc/self/status").unwrap_or_default()
}

fn bytes(status: &str, label: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(label))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_answered_with_a_sentence() {
        for input in ["", "{}\n", "nonsense\n"] {
            let mut output = Vec::new();
            answer(input.as_bytes(), &mut output, |_| Ok(())).unwrap();
            let text = String::from_utf8(output).unwrap();
            assert_eq!(text.is_empty(), input.is_empty());
            assert!(input.is_empty() || text.contains("Failed"), "{text}");
        }
    }

    #[test]
    fn the_peak_is_read_from_what_the_system_says() {
        let status = "Name:\tx\nVmPeak:\t  900 kB\nVmHWM:\t  512 kB\nVmRSS:\t 100 kB\n";
        assert_eq!(peak_bytes(status), Some(512 * 1024));
        assert_eq!(peak_bytes("Name:\tx\n"), None);
    }
}
