//! What one instruction takes by itself, whatever runs beside it: the compiler's own figure where it
//! gives one, else bytes, operations and links by what the chip reaches. Knows no order of execution.

use crate::discover::PluginKind;
use crate::targets::Target;

use super::bounds::Bound;
use super::efficiency::Band;
use super::estimate::Estimate;
use super::links::{self, Collective, Job, Links};
use super::module::{Computation, Module};
use super::proto::HloInstruction;
use super::rates::Rates;
use super::work::{self, Flops};
use super::{ProfileError, Source, groups};

/// One run of an instruction.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    pub seconds: Estimate,
    pub source: Source,
    pub bound: Bound,
    /// Of the seconds, from 0 to 1: for starting.
    pub starting: f64,
    /// Bytes of main memory, or handed to the links.
    pub bytes: u64,
    pub flops: f64,
}

impl Cost {
    pub fn nothing() -> Cost {
        Cost {
            seconds: Estimate::default(),
            source: Source::Bytes,
            bound: Bound::Memory,
            starting: 0.0,
            bytes: 0,
            flops: 0.0,
        }
    }
}

pub struct Costs<'m, 'a> {
    pub module: &'m Module<'a>,
    rates: Rates,
    links: Links,
    plugin: PluginKind,
    devices: usize,
}

impl<'m, 'a> Costs<'m, 'a> {
    /// # Errors
    /// [`ProfileError::NoFigures`] for a chip without peaks.
    pub fn new(module: &'m Module<'a>, target: &Target) -> Result<Costs<'m, 'a>, ProfileError> {
        Ok(Costs {
            module,
            rates: Rates::of(target.chip)?,
            links: Links::of(target.chip, target.chips),
            plugin: target.plugin(),
            devices: target.devices(),
        })
    }

    /// An instruction that no data between devices belongs to.
    pub fn local(&self, computation: &Computation<'a>, instruction: &HloInstruction) -> Cost {
        let config = &instruction.backend_config;
        let stated = (instruction.opcode == "custom-call").then(|| stated_cost(config)).flatten();
        let (bytes, flops) = stated.unwrap_or_else(|| {
            let bytes = work::bytes(self.module, computation, instruction);
            (bytes, work::flops(self.module, computation, instruction))
        });
        let clock = self.rates.clock_hertz;
        if let (Some(cycles), Some(hertz)) = (estimated_cycles(config), clock) {
            let seconds = cycles as f64 / hertz;
            return self.cost(seconds, Source::Compiler, 0.0, bytes, &flops);
        }
        self.by_peaks(bytes, &flops)
    }

    /// A copy that runs by itself once it is started: its result is (destination, source, context), so
    /// both ends are counted.
    pub fn copy(&self, instruction: &HloInstruction) -> Cost {
        self.by_peaks(self.module.stored(instruction), &Flops::default())
    }

    /// Nothing if the instruction is no collective.
    pub fn collective(
        &self,
        computation: &Computation<'a>,
        instruction: &HloInstruction,
    ) -> Option<Cost> {
        let collective = match Collective::of(&instruction.opcode)? {
            // A sum of which each device then cuts out its part, as TPU compilers write it.
            Collective::AllReduce if computation.proto.name.starts_with("all-reduce-scatter") => {
                Collective::ReduceScatter
            }
            collective => collective,
        };
        let bytes = links::operand_bytes(computation.operands(instruction));
        let members = groups::members(instruction, self.devices);
        let passage = self.links.passage(&Job {
            collective,
            bytes: bytes as f64,
            members: &members,
            pairs: &instruction.source_target_pairs,
            one_ring: links::goes_around_one_ring(&instruction.backend_config),
        });
        let (seconds, latency) = (passage.seconds, passage.latency_seconds);
        Some(self.cost(seconds, Source::Links, latency, bytes, &Flops::default()))
    }

    /// What the chip reaches, and the start of a kernel.
    fn by_peaks(&self, bytes: u64, flops: &Flops) -> Cost {
        let moving = self.rates.moving_seconds(bytes as f64);
        let computing = self.rates.computing_seconds(flops);
        let source = if flops.count > 0.0 { Source::Roofline } else { Source::Bytes };
        let launch = self.rates.launch_seconds();
        let mut cost = self.cost(launch + moving.max(computing), source, launch, bytes, flops);
        cost.bound = if computing > moving { Bound::Products } else { Bound::Memory };
        cost
    }

    fn cost(
        &self,
        seconds: f64,
        source: Source,
        starting_seconds: f64,
        bytes: u64,
        flops: &Flops,
    ) -> Cost {
        let band = Band::of(source, self.plugin);
        let bound = match source {
            Source::Links => Bound::Links,
            _ => Bound::of(&self.rates, seconds, bytes, flops),
        };
        Cost {
            seconds: Estimate {
                low: seconds * band.low,
                likely: seconds,
                high: seconds * band.high,
            },
            source,
            bound,
            starting: if seconds > 0.0 { starting_seconds / seconds } else { 0.0 },
            bytes,
            flops: flops.count,
        }
    }
}

/// The compiler's own figure, wherever in its config; enormous ones say that it has none.
fn estimated_cycles(config: &[u8]) -> Option<u64> {
    const KEY: &[u8] = b"\"estimated_cycles\":\"";
    let start = config.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
    let digits = config[start..].split(|&byte| byte == b'"').next()?;
    let cycles: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (1..1 << 50).contains(&cycles).then_some(cycles)
}

/// Bytes and operations that a kernel of its own says it takes (Pallas's `cost_estimate`). The type
/// is not said, so the products count as bf16's.
fn stated_cost(config: &[u8]) -> Option<(u64, Flops)> {
    let config: serde_json::Value = serde_json::from_slice(config).ok()?;
    let cost = config.get("custom_call_config")?.get("cost_estimate")?;
    let figure = |name| {
        let value = cost.get(name)?;
        value.as_u64().or_else(|| value.as_str()?.parse().ok())
    };
    let count = figure("flops").unwrap_or(0) as f64;
    Some((figure("bytes_accessed")?, Flops::whole(count, 16)))
}
