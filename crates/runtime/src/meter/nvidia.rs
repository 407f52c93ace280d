//! The power of NVIDIA GPUs, as `nvidia-smi` prints it several times a second, added up. A process
//! rather than a binding of the vendor's library: the driver brings it wherever there is a GPU, and
//! the binding (`nvml-wrapper`) would be ten more packages for a counter that needs no precision.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Sensors give an average of so long anyway.
const PRINT_EVERY_MILLISECONDS: u32 = 200;

/// Counts until it is stopped.
#[derive(Debug)]
pub(super) struct Counting {
    child: Child,
    started: Instant,
    power: Arc<Mutex<Power>>,
}

/// The first so many GPUs that CUDA shows to this process, as `nvidia-smi` selects them.
pub(super) fn ids(devices: usize) -> String {
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    select(&visible, devices)
}

fn select(visible: &str, devices: usize) -> String {
    let named: Vec<&str> =
        visible.split(',').map(str::trim).filter(|id| !id.is_empty()).take(devices).collect();
    match named.is_empty() {
        true => (0..devices).map(|index| index.to_string()).collect::<Vec<_>>().join(","),
        false => named.join(","),
    }
}

impl Counting {
    /// None where the program is not there.
    pub fn start(program: &Path, ids: &str) -> Option<Counting> {
        let mut child = Command::new(program)
            .args(["--query-gpu=index,power.draw", "--format=csv,noheader,nounits"])
            .arg(format!("--id={ids}"))
            .arg(format!("--loop-ms={PRINT_EVERY_MILLISECONDS}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let started = Instant::now();
        let power = Arc::new(Mutex::new(Power::default()));
        if let Some(lines) = child.stdout.take() {
            let power = Arc::clone(&power);
            let read = move || {
                // Ends with the child.
                for line in BufReader::new(lines).lines().map_while(Result::ok) {
                    let mut power = power.lock().unwrap_or_else(PoisonError::into_inner);
                    power.line(started.elapsed().as_secs_f64(), &line);
                }
            };
            // Without the thread nothing arrives, and there is no figure.
            let _ = std::thread::Builder::new().name("energy meter".to_string()).spawn(read);
        }
        Some(Counting { child, started, power })
    }

    /// Joules, and what they are of; none where no GPU said anything.
    pub fn stop(self) -> Option<(f64, String)> {
        let seconds = self.started.elapsed().as_secs_f64();
        let power = self.power.lock().unwrap_or_else(PoisonError::into_inner);
        let joules = power.joules(seconds)?;
        let count = power.gpus.len();
        let gpus = if count == 1 { "one GPU" } else { &format!("{count} GPUs") };
        Some((joules, format!("power of {gpus} by nvidia-smi, without the host")))
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Power over time.
#[derive(Debug, Default)]
struct Power {
    gpus: Vec<Gpu>,
    /// A GPU that does not say what it draws makes the sum of the others a wrong figure.
    silent: bool,
}

#[derive(Debug)]
struct Gpu {
    index: u32,
    seconds: f64,
    watts: f64,
    joules: f64,
}

impl Power {
    /// A line such as `0, 345.12`, that many seconds after the start.
    fn line(&mut self, seconds: f64, line: &str) {
        let Some((index, watts)) = line.split_once(',') else { return };
        let Ok(index) = index.trim().parse() else { return };
        let Some(watts) = watts.trim().parse().ok().filter(|watts: &f64| watts.is_finite()) else {
            self.silent = true;
            return;
        };
        match self.gpus.iter_mut().find(|gpu| gpu.index == index) {
            Some(gpu) => {
                gpu.joules += (seconds - gpu.seconds) * (gpu.watts + watts) / 2.0;
                (gpu.seconds, gpu.watts) = (seconds, watts);
            }
            // It takes a moment until the first line.
            None => self.gpus.push(Gpu { index, seconds, watts, joules: seconds * watts }),
        }
    }

    fn joules(&self, seconds: f64) -> Option<f64> {
        if self.gpus.is_empty() || self.silent {
            return None;
        }
        let upto = |gpu: &Gpu| gpu.joules + (seconds - gpu.seconds).max(0.0) * gpu.watts;
        Some(self.gpus.iter().map(upto).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_over_time_is_energy() {
        let mut power = Power::default();
        power.line(1.0, "0, 100.00");
        power.line(1.0, "1, 50.00");
        power.line(3.0, "0, 300.00");
        power.line(3.0, "1, 50.00");
        // 100 for the first second, 200 on average for two, 300 for the last; 50 for all four.
        assert_eq!(power.joules(4.0), Some(100.0 + 400.0 + 300.0 + 200.0));
    }

    #[test]
    fn what_is_no_power_is_no_figure() {
        let mut power = Power::default();
        assert_eq!(power.joules(1.0), None);
        for line in ["", "no devices were found", "x, 3", "NVIDIA-SMI has failed, sorry"] {
            power.line(1.0, line);
            assert_eq!(power.joules(1.0), None);
        }
        power.line(1.0, "0, 100.0");
        power.line(1.0, "1, [N/A]");
        assert_eq!(power.joules(1.0), None);
    }

    #[test]
    fn gpus_are_those_that_cuda_shows() {
        assert_eq!(select("", 2), "0,1");
        assert_eq!(select("3,GPU-8a, 1", 2), "3,GPU-8a");
    }

    #[test]
    fn a_program_that_is_not_there_is_no_meter() {
        assert!(Counting::start("/nowhere/nvidia-smi".as_ref(), "0").is_none());
    }

    /// The program of a machine without a GPU, which ends at once.
    #[cfg(unix)]
    #[test]
    fn a_program_that_says_nothing_is_no_figure() {
        let counting = Counting::start("false".as_ref(), "0");
        assert!(counting.is_some_and(|counting| counting.stop().is_none()));
    }
}
