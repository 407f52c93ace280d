//! How long data takes from device to device. Knows no program but who takes part and with how many
//! bytes; what links there are is `torus`'s and `hosts`'s.

use crate::chips::{Chip, Hosting};

use super::hosts::Hosts;
use super::proto::{HloInstruction, Shape, SourceTarget};
use super::torus::Torus;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collective {
    AllGather,
    AllReduce,
    ReduceScatter,
    AllToAll,
    /// From each device to one other.
    Send,
}

impl Collective {
    /// What an opcode, synchronous or starting, does over the links.
    pub fn of(opcode: &str) -> Option<Collective> {
        match opcode.strip_suffix("-start").unwrap_or(opcode) {
            "all-gather" => Some(Collective::AllGather),
            "all-reduce" => Some(Collective::AllReduce),
            "reduce-scatter" => Some(Collective::ReduceScatter),
            "all-to-all" | "ragged-all-to-all" => Some(Collective::AllToAll),
            "collective-permute" | "collective-broadcast" | "send" => Some(Collective::Send),
            _ => None,
        }
    }
}

/// One collective, as each device sees it.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    pub collective: Collective,
    /// That each device hands in.
    pub bytes: f64,
    /// The devices of one group; the others do the same among themselves.
    pub members: &'a [usize],
    /// Who sends to whom, of a [`Collective::Send`]; neighbours if empty.
    pub pairs: &'a [SourceTarget],
    /// Whether the compiler says that all goes around one ring, however many axes the group has.
    pub one_ring: bool,
}

impl Job<'_> {
    /// Bytes that a part of the group lacks, when `parts` of them exchange what they have.
    pub fn moved(&self, parts: f64) -> f64 {
        let lacking = (parts - 1.0).max(0.0) / parts.max(1.0);
        match self.collective {
            Collective::AllGather => self.bytes * self.members.len() as f64 * lacking,
            Collective::ReduceScatter | Collective::AllToAll => self.bytes * lacking,
            Collective::AllReduce => 2.0 * self.bytes * lacking,
            Collective::Send => self.bytes,
        }
    }
}

/// What a collective takes, the part that no rate would shorten by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Passage {
    pub seconds: f64,
    /// Of these, for beginning and for the way of the first byte.
    pub latency_seconds: f64,
}

/// How the devices of a target are joined.
#[derive(Clone, Debug, PartialEq)]
pub enum Links {
    Torus(Torus),
    Hosts(Hosts),
}

impl Links {
    pub fn of(chip: &Chip, chips: usize) -> Links {
        match &chip.hosting {
            Hosting::Torus { slices, .. } => Links::Torus(Torus::of(chip, slices, chips)),
            Hosting::Processor | Hosting::Hosts { .. } => Links::Hosts(Hosts::of(chip)),
        }
    }

    pub fn passage(&self, job: &Job<'_>) -> Passage {
        match self {
            Links::Torus(torus) => torus.passage(job),
            Links::Hosts(hosts) => hosts.passage(job),
        }
    }
}

/// Whether the TPU compiler says that it sends a collective around one ring: it names the emitter or
/// strategy that it chose (`1DAllGatherOnMajorDim`, `UniDirection1DRingStrategy`, `StrategyRing`; those
/// over several axes have `ND` in their names).
pub fn goes_around_one_ring(config: &[u8]) -> bool {
    const MARKS: [&[u8]; 4] =
        [b"\"emitter\":\"1D", b"1DRingStrategy", b"\"StrategyRing\"", b"SinglePhaseRingSum"];
    MARKS.iter().any(|mark| config.windows(mark.len()).any(|part| part == *mark))
}

/// Bytes that each device hands in.
pub fn operand_bytes<'a>(operands: impl Iterator<Item = &'a HloInstruction>) -> u64 {
    let shapes = operands.filter_map(|operand| operand.shape.as_ref());
    shapes.map(Shape::logical_bytes).fold(0, u64::saturating_add)
}
