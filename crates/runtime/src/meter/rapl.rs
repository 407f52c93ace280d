//! The energy counter of processors (RAPL), as Linux shows it: one folder for each zone, with a counter
//! in microjoules that begins again when it is full. Knows no program.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

pub(super) const FOLDER: &str = "/sys/class/powercap";

/// A counter of a large machine is full after ten minutes or so; once per round is enough to see it.
const READ_EVERY: Duration = Duration::from_secs(60);

/// Counts until it is stopped.
#[derive(Debug)]
pub(super) struct Counting {
    stop: Sender<()>,
    thread: JoinHandle<Option<Zones>>,
}

impl Counting {
    /// None where there is no zone, or it cannot be read: many systems let only root do it.
    pub fn start(folder: &Path) -> Option<Counting> {
        let mut zones = Zones::open(folder)?;
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new().name("energy meter".to_string());
        let thread = thread.spawn(move || {
            loop {
                let last = stopped.recv_timeout(READ_EVERY) != Err(RecvTimeoutError::Timeout);
                zones.read()?;
                if last {
                    return Some(zones);
                }
            }
        });
        Some(Counting { stop, thread: thread.ok()? })
    }

    /// Joules, and what they are of.
    pub fn stop(self) -> Option<(f64, String)> {
        // A thread that is gone has found a counter that it cannot read any more.
        let _ = self.stop.send(());
        let zones = self.thread.join().ok()??;
        Some((zones.joules(), zones.label()))
    }
}

/// The zones that are counted: processors with their caches, and memory where it has one of its own.
#[derive(Debug)]
struct Zones(Vec<Zone>);

#[derive(Debug)]
struct Zone {
    name: String,
    counter: PathBuf,
    /// What the counter holds when it is full, in microjoules.
    range: u64,
    last: u64,
    /// In microjoules.
    total: u64,
}

impl Zones {
    fn open(folder: &Path) -> Option<Zones> {
        let mut zones = Vec::new();
        for entry in fs::read_dir(folder).ok()? {
            let entry = entry.ok()?;
            let path = entry.path();
            // `intel-rapl-mmio:0` is the same counter seen another way.
            if !entry.file_name().to_string_lossy().starts_with("intel-rapl:") {
                continue;
            }
            let Ok(name) = fs::read_to_string(path.join("name")) else { continue };
            let name = name.trim().to_string();
            // The others are parts of these, or all of the machine again.
            if !name.starts_with("package") && name != "dram" {
                continue;
            }
            let counter = path.join("energy_uj");
            let (last, range) = (number(&counter)?, number(&path.join("max_energy_range_uj"))?);
            zones.push(Zone { name, counter, range, last, total: 0 });
        }
        zones.sort_by(|a, b| a.counter.cmp(&b.counter));
        (!zones.is_empty()).then_some(Zones(zones))
    }

    /// Adds what was counted since the last time.
    fn read(&mut self) -> Option<()> {
        for zone in &mut self.0 {
            let now = number(&zone.counter)?;
            let passed = match now >= zone.last {
                true => now - zone.last,
                false => zone.range.saturating_sub(zone.last).saturating_add(now),
            };
            zone.total = zone.total.saturating_add(passed);
            zone.last = now;
        }
        Some(())
    }

    fn joules(&self) -> f64 {
        self.0.iter().map(|zone| zone.total as f64 / 1e6).sum()
    }

    fn label(&self) -> String {
        let memory = match self.0.iter().any(|zone| zone.name == "dram") {
            true => "processors and memory",
            false => "processors without memory",
        };
        format!("RAPL, {memory}, with all else that the machine did")
    }
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folders::unique_name;

    /// A folder as Linux has it, with one processor and its memory.
    struct Machine(PathBuf);

    impl Machine {
        fn new() -> Machine {
            let root = std::env::temp_dir().join(format!("fungible-rapl-{}", unique_name()));
            let machine = Machine(root);
            fs::create_dir_all(machine.0.join("intel-rapl")).unwrap();
            machine.zone("intel-rapl:0", "package-0", 900_000_000);
            machine.zone("intel-rapl:0:0", "core", 5);
            machine.zone("intel-rapl:0:1", "dram", 1_000_000);
            machine.zone("intel-rapl:1", "psys", 5);
            machine.zone("intel-rapl-mmio:0", "package-0", 5);
            machine
        }

        fn zone(&self, folder: &str, name: &str, energy: u64) {
            fs::create_dir_all(self.0.join(folder)).unwrap();
            fs::write(self.0.join(folder).join("name"), format!("{name}\n")).unwrap();
            let range = self.0.join(folder).join("max_energy_range_uj");
            fs::write(range, "1000000000\n").unwrap();
            self.count(folder, energy);
        }

        fn count(&self, folder: &str, energy: u64) {
            fs::write(self.0.join(folder).join("energy_uj"), format!("{energy}\n")).unwrap();
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn processors_and_their_memory_are_counted_once() {
        let machine = Machine::new();
        let mut zones = Zones::open(&machine.0).unwrap();
        machine.count("intel-rapl:0", 950_000_000);
        machine.count("intel-rapl:0:0", 40_000_000);
        machine.count("intel-rapl:0:1", 3_500_000);
        zones.read().unwrap();
        assert_eq!(zones.joules(), 52.5);
        assert!(zones.label().contains("processors and memory"), "{}", zones.label());
    }

    #[test]
    fn a_full_counter_begins_again() {
        let machine = Machine::new();
        let mut zones = Zones::open(&machine.0).unwrap();
        for energy in [990_000_000, 20_000_000, 30_000_000] {
            machine.count("intel-rapl:0", energy);
            zones.read().unwrap();
        }
        // 90 to there, 10 to the end, 30 from the beginning.
        assert_eq!(zones.joules(), 130.0);
    }

    #[test]
    fn a_run_is_counted_from_start_to_stop() {
        let machine = Machine::new();
        let counting = Counting::start(&machine.0).unwrap();
        machine.count("intel-rapl:0", 907_000_000);
        assert_eq!(counting.stop().unwrap().0, 7.0);
        // What cannot be read any more is no figure, rather than a wrong one.
        let counting = Counting::start(&machine.0).unwrap();
        fs::remove_file(machine.0.join("intel-rapl:0/energy_uj")).unwrap();
        assert_eq!(counting.stop(), None);
    }

    #[test]
    fn where_nothing_counts_there_is_no_meter() {
        assert!(Zones::open(Path::new("/nowhere")).is_none());
        let machine = Machine::new();
        fs::write(machine.0.join("intel-rapl:0/energy_uj"), "").unwrap();
        assert!(Zones::open(&machine.0).is_none());
        fs::remove_dir_all(&machine.0).unwrap();
        fs::create_dir_all(machine.0.join("intel-rapl")).unwrap();
        assert!(Zones::open(&machine.0).is_none());
    }
}
