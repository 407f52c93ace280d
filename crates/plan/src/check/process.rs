//! This program run as a user would run it, watched until there is enough to compare with.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::CheckError;
use crate::here::{Measurer, peak_bytes};

/// Names the cache folder to a process.
const CACHE_FOLDER: &str = "FUNGIBLE_CACHE";

const POLL: Duration = Duration::from_millis(20);

/// A command that has not shown anything after this will not.
const TIMEOUT: Duration = Duration::from_secs(600);

/// The most memory that a command had, where the system tells.
pub struct Seen {
    pub peak_bytes: Option<u64>,
    /// What it printed.
    pub said: String,
}

/// Runs a command of this program in `folder` until it ends or `enough` says so, looking every few
/// milliseconds.
///
/// # Errors
/// A command that does not start, or that fails.
pub fn watch(
    measurer: &Measurer,
    arguments: &[&str],
    folder: &Path,
    enough: impl Fn() -> bool,
) -> Result<Seen, CheckError> {
    let command = format!("{} {}", measurer.program.display(), arguments.join(" "));
    let (out, errors) = (folder.join("output.txt"), folder.join("errors.txt"));
    let create = |path: &Path| {
        let write = |source| CheckError::Write { path: path.to_path_buf(), source };
        File::create(path).map_err(write)
    };
    let child = Command::new(&measurer.program)
        .args(arguments)
        .env(CACHE_FOLDER, measurer.cache.root())
        .stdin(Stdio::null())
        .stdout(create(&out)?)
        .stderr(create(&errors)?)
        .spawn()
        .map_err(|source| CheckError::Start { command: command.clone(), source })?;
    let mut running = Running(child);
    let status = format!("/proc/{}/status", running.0.id());
    let started = Instant::now();
    let mut peak = None;
    loop {
        // One that has ended has none any more.
        let now = fs::read_to_string(&status).ok().and_then(|status| peak_bytes(&status));
        peak = peak.max(now);
        let ended = running
            .0
            .try_wait()
            .map_err(|source| CheckError::Start { command: command.clone(), source })?;
        match ended {
            Some(how) if how.success() => break,
            Some(how) => {
                let said = fs::read_to_string(&errors).unwrap_or_default();
                let said = said.lines().last().unwrap_or("it said nothing").to_string();
                return Err(CheckError::Ended { command, how: how.to_string(), said });
            }
            None if enough() => break,
            None if started.elapsed() > TIMEOUT => {
                return Err(CheckError::TimedOut { command, seconds: TIMEOUT.as_secs() });
            }
            None => std::thread::sleep(POLL),
        }
    }
    Ok(Seen { peak_bytes: peak, said: fs::read_to_string(&out).unwrap_or_default() })
}

/// Ends with whoever looks at it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
