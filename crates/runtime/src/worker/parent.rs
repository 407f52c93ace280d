//! The caller's side: starts the worker, watches its time and memory, and turns whatever becomes of
//! it into an outcome or an error.

use std::fs;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::crash::Crash;
use super::job::{Job, Outcome, write_piece};
use super::{WORKER, is_available};
use crate::environment::Variable;
use crate::folders::{CacheFolder, FolderError, unique_name};
use crate::host_memory;

/// Tells the worker where to put its outcome. Not standard output: vendors' libraries print there.
pub(super) const RESULT: &str = "FUNGIBLE_COMPILE_RESULT";

/// The exit code of a worker that could not write its outcome. On a full disk it cannot log the reason
/// either.
pub(super) const CANNOT_WRITE: i32 = 74;

const POLL_MIN: Duration = Duration::from_millis(1);
const POLL_MAX: Duration = Duration::from_millis(50);
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60 * 60);
/// How much of what a crashed worker said is looked at: its trace of calls can be long.
const TAIL_BYTES: u64 = 16 << 10;

/// What a worker may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerLimits {
    pub timeout: Duration,
    /// Enforced where the system tells a process's memory (Linux).
    pub memory_bytes: Option<u64>,
}

impl Default for WorkerLimits {
    /// An hour, and nine tenths of the machine's memory: a compiler that takes more would take the
    /// machine, and this program, down with it.
    fn default() -> WorkerLimits {
        let memory_bytes = host_memory::total_bytes().map(|bytes| bytes / 10 * 9);
        WorkerLimits { timeout: TIMEOUT_DEFAULT, memory_bytes }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error(
        "this program cannot be started as a compile worker: call runtime::worker::main_if_worker first thing in main"
    )]
    NotAvailable,
    #[error("cannot start the compile worker: {source}")]
    Start { source: std::io::Error },
    #[error("the compiler crashed ({}){}", .0.how, .0.words())]
    Crashed(Crash),
    #[error(
        "the compiler was stopped after {seconds} s, the time limit; raise it or try fewer devices or a smaller program"
    )]
    TimedOut { seconds: u64 },
    #[error(
        "the compiler was stopped at {used_bytes} bytes of memory, over its limit of {limit_bytes}; raise it or compile on a machine with more memory"
    )]
    OverMemory { used_bytes: u64, limit_bytes: u64 },
    #[error(
        "the compiled program cannot be written below {folder}; free some space or point FUNGIBLE_CACHE at another disk"
    )]
    CannotWrite { folder: PathBuf },
    #[error("the compile worker's answer cannot be read: {source}")]
    Answer { source: std::io::Error },
    #[error(transparent)]
    Folder(#[from] FolderError),
}

/// Compiles in a worker process with `environment` added to this process's. Blocks.
///
/// # Errors
/// When there is no outcome: the worker could not be started, crashed, or was over a limit. A
/// program that the compiler refuses is an outcome.
pub fn run(
    job: &Job,
    environment: &[Variable],
    limits: WorkerLimits,
    cache: &CacheFolder,
) -> Result<Outcome, WorkerError> {
    if !is_available() {
        return Err(WorkerError::NotAvailable);
    }
    let folder = cache.temporary()?;
    let result = folder.path().join("result");
    let log = folder.path().join("log");
    let start = |source| WorkerError::Start { source };
    let log_file = fs::File::create(&log).map_err(|source| FolderError::from_io(&log, source))?;
    let mut command = Command::new(std::env::current_exe().map_err(start)?);
    command.env(WORKER, "1").env(RESULT, &result);
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log_file);
    let mut child = command.spawn().map_err(start)?;
    let nonce = unique_name();
    // Locals go in reverse: the worker is gone before its input ends, which it would take for our
    // death. The end of its input is for when we do not get to the end of this function.
    let _input = send(job, &nonce, child.stdin.take());
    let mut worker = Worker { child, nonce, result, log };
    worker.wait(limits)
}

/// Writes the job on a thread of its own, since a worker that does not read must not hold up its
/// own time limit, and keeps the pipe open until the returned value is dropped.
fn send(job: &Job, nonce: &str, input: Option<ChildStdin>) -> Option<mpsc::Sender<()>> {
    let mut input = input?;
    let mut bytes = Vec::new();
    write_piece(&mut bytes, nonce.as_bytes()).ok()?;
    job.write(&mut bytes).ok()?;
    let (keep_open, dropped) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        // A worker that died before reading it all is reported with its own words.
        let _ = input.write_all(&bytes).and_then(|()| input.flush());
        // Fails when the sender is gone, which is what is waited for.
        let _ = dropped.recv();
    });
    Some(keep_open)
}

struct Worker {
    child: Child,
    /// Must come back in front of the outcome: what another worker left there is not ours.
    nonce: String,
    result: PathBuf,
    log: PathBuf,
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Both fail only if it has ended already. One that has written its outcome is cut short in
        // tearing down a vendor's library, which costs time and sometimes crashes.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Worker {
    fn outcome(&self, answer: &[u8]) -> std::io::Result<Outcome> {
        let outcome = answer.strip_prefix(self.nonce.as_bytes()).ok_or_else(|| {
            std::io::Error::new(ErrorKind::InvalidData, "it is the answer to another job")
        })?;
        Outcome::from_bytes(outcome)
    }

    fn wait(&mut self, limits: WorkerLimits) -> Result<Outcome, WorkerError> {
        let start = Instant::now();
        let mut poll = POLL_MIN;
        loop {
            let ended = self.child.try_wait().map_err(|source| WorkerError::Start { source })?;
            // It is written in one step, so it counts even if the worker then fails to end well.
            if self.result.exists() {
                let bytes = fs::read(&self.result)
                    .map_err(|source| FolderError::from_io(&self.result, source))?;
                return self.outcome(&bytes).map_err(|source| WorkerError::Answer { source });
            }
            if let Some(status) = ended {
                if status.code() == Some(CANNOT_WRITE) {
                    let folder = self.result.parent().unwrap_or(&self.result).to_path_buf();
                    return Err(WorkerError::CannotWrite { folder });
                }
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let (how, said) = (describe(status), tail(&self.log));
                let crash = Crash::new(how, &said, from_outside(status), now.as_secs());
                return Err(WorkerError::Crashed(crash));
            }
            if start.elapsed() > limits.timeout {
                return Err(WorkerError::TimedOut { seconds: limits.timeout.as_secs() });
            }
            if let (Some(limit_bytes), Some(used_bytes)) =
                (limits.memory_bytes, resident_bytes(self.child.id()))
                && used_bytes > limit_bytes
            {
                return Err(WorkerError::OverMemory { used_bytes, limit_bytes });
            }
            std::thread::sleep(poll);
            poll = (poll * 2).min(POLL_MAX);
        }
    }
}

/// The end of what the worker wrote to standard error.
fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// Whether a worker was ended by somebody else: a user, or a system that is out of memory.
#[cfg(unix)]
fn from_outside(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt;
    // What a process brings on itself: illegal instruction, trap, abort, arithmetic, segmentation. A bus
    // error can be a disk without room.
    const OWN: [i32; 5] = [4, 5, 6, 8, 11];
    status.signal().is_some_and(|signal| !OWN.contains(&signal))
}

#[cfg(not(unix))]
fn from_outside(_: ExitStatus) -> bool {
    false
}

#[cfg(unix)]
fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    // The numbers that are the same on every Unix.
    const NAMES: [(i32, &str); 9] = [
        (2, "interrupted, SIGINT"),
        (4, "illegal instruction, SIGILL"),
        (5, "trap, SIGTRAP"),
        (6, "aborted, SIGABRT"),
        (8, "arithmetic error, SIGFPE"),
        (9, "killed, SIGKILL: often because memory ran out"),
        (11, "segmentation fault, SIGSEGV"),
        (13, "broken pipe, SIGPIPE"),
        (15, "terminated, SIGTERM"),
    ];
    match status.signal() {
        Some(signal) => NAMES
            .iter()
            .find(|(number, _)| *number == signal)
            .map_or_else(|| format!("signal {signal}"), |(_, name)| (*name).to_string()),
        None => status.to_string(),
    }
}

#[cfg(not(unix))]
fn describe(status: ExitStatus) -> String {
    status.to_string()
}

/// Resident memory of a process, where the system lists processes as files.
fn resident_bytes(process: u32) -> Option<u64> {
    host_memory::kibibytes(&format!("/proc/{process}/status"), "VmRSS:")
}
