//! What goes into a compile worker and what comes out, and how it is written down.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::crash::Crash;
use crate::settings::Settings;

/// One compilation.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Job {
    /// The plugin's library.
    pub plugin: PathBuf,
    pub device: JobDevice,
    /// Whether the optimized program is wanted.
    pub optimized_program: bool,
    /// Whether the executable is wanted in a form that can be loaded.
    pub executable: bool,
    /// A serialized `CompileOptionsProto`.
    #[serde(skip)]
    pub options: Vec<u8>,
    /// StableHLO text.
    #[serde(skip)]
    pub program: String,
}

/// What to compile for.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub enum JobDevice {
    /// Devices that a client of the worker's own shows: virtual CPU devices.
    Client { options: Settings },
    /// Devices that need not be here.
    Topology { name: String, options: Settings },
}

/// How a compilation ended.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub enum Outcome {
    Compiled(Report),
    /// The compiler refused; `out_of_memory` when it said that the program does not fit.
    Refused {
        out_of_memory: bool,
        message: String,
    },
    /// The compiler crashed, as it would again. A worker that crashes says nothing, so this is what its
    /// parent keeps.
    Crashed(Crash),
}

/// What is known of a compiled program. All memory figures are per device.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Report {
    pub compile_seconds: f64,
    /// Devices of the topology or client.
    pub devices: usize,
    /// What the compiler lets a program use, where the plugin says so.
    pub device_memory_bytes: Option<u64>,
    /// Nothing where the plugin keeps no account.
    pub memory: Option<MemoryUse>,
    /// As the plugin names them, such as `flops`; empty where it has none.
    pub cost: Cost,
    /// The format of `optimized_program`, such as `hlo_with_config`.
    pub optimized_program_format: String,
    #[serde(skip)]
    pub optimized_program: Vec<u8>,
    #[serde(skip)]
    pub executable: Vec<u8>,
}

/// Figures by name.
pub type Cost = Vec<(String, f64)>;

/// Bytes of one device that a compiled program uses.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct MemoryUse {
    pub argument_bytes: u64,
    pub output_bytes: u64,
    /// Outputs that take over the memory of arguments.
    pub alias_bytes: u64,
    pub temporary_bytes: u64,
    pub generated_code_bytes: u64,
    /// The most at any time, where the plugin knows it.
    pub peak_bytes: Option<u64>,
}

impl MemoryUse {
    /// The most that the program needs at any time: the plugin's figure, else everything at once.
    /// At least the arguments and the new outputs, which some plugins leave out of their peak.
    pub fn needed_bytes(&self) -> u64 {
        let resident = self.argument_bytes + self.output_bytes.saturating_sub(self.alias_bytes);
        match self.peak_bytes.filter(|&peak| peak > 0) {
            Some(peak) => peak.max(resident),
            None => resident + self.temporary_bytes + self.generated_code_bytes,
        }
    }
}

/// Larger than any program or executable; a length beyond it means damage.
const PIECE_BYTES_MAX: u64 = 1 << 36;

pub(super) fn write_piece(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(&(bytes.len() as u64).to_le_bytes())?;
    to.write_all(bytes)
}

pub(super) fn read_piece(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 8];
    from.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > PIECE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a piece is impossibly long"));
    }
    let mut bytes = Vec::new();
    from.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

impl Job {
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        write_piece(to, &serde_json::to_vec(self)?)?;
        write_piece(to, &self.options)?;
        write_piece(to, self.program.as_bytes())?;
        to.flush()
    }

    pub fn read(from: &mut impl Read) -> io::Result<Job> {
        let mut job: Job = serde_json::from_slice(&read_piece(from)?)?;
        job.options = read_piece(from)?;
        job.program = String::from_utf8(read_piece(from)?)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(job)
    }
}

impl Outcome {
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        write_piece(&mut bytes, &serde_json::to_vec(self)?)?;
        if let Outcome::Compiled(report) = self {
            write_piece(&mut bytes, &report.optimized_program)?;
            write_piece(&mut bytes, &report.executable)?;
        }
        Ok(bytes)
    }

    pub fn from_bytes(mut bytes: &[u8]) -> io::Result<Outcome> {
        let mut outcome: Outcome = serde_json::from_slice(&read_piece(&mut bytes)?)?;
        if let Outcome::Compiled(report) = &mut outcome {
            report.optimized_program = read_piece(&mut bytes)?;
            report.executable = read_piece(&mut bytes)?;
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn jobs_and_outcomes_go_there_and_back() {
        let job = Job {
            plugin: "plugin.so".into(),
            device: JobDevice::Topology { name: "v5e:1x1".into(), options: Settings::new() },
            optimized_program: true,
            executable: false,
            options: vec![1, 2, 3],
            program: "module {}".into(),
        };
        let mut bytes = Vec::new();
        job.write(&mut bytes).unwrap();
        assert_eq!(Job::read(&mut bytes.as_slice()).unwrap(), job);

        let outcome = Outcome::Compiled(Report {
            compile_seconds: 0.5,
            executable: vec![7; 10],
            optimized_program: vec![8; 20],
            ..Report::default()
        });
        assert_eq!(Outcome::from_bytes(&outcome.to_bytes().unwrap()).unwrap(), outcome);
    }

    #[test]
    fn needed_memory_counts_aliased_outputs_once() {
        let memory = MemoryUse {
            argument_bytes: 100,
            output_bytes: 80,
            alias_bytes: 70,
            temporary_bytes: 5,
            ..MemoryUse::default()
        };
        assert_eq!(memory.needed_bytes(), 115);
        assert_eq!(MemoryUse { peak_bytes: Some(200), ..memory }.needed_bytes(), 200);
        assert_eq!(MemoryUse { peak_bytes: Some(20), ..memory }.needed_bytes(), 110);
    }

    proptest! {
        #[test]
        fn damaged_bytes_are_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Outcome::from_bytes(&bytes);
            let _ = Job::read(&mut bytes.as_slice());
        }
    }
}
