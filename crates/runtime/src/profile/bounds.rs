//! What a program waits for: the part of the machine that its time would shrink with. Knows no
//! instruction but by its bytes, operations and seconds.

use serde::Serialize;

use super::rates::Rates;
use super::work::Flops;

/// Below this share of an instruction's time, neither memory nor matrix units keep it busy.
const BUSY_MIN: f64 = 1.0 / 3.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The matrix units.
    Products,
    /// The device's main memory.
    Memory,
    /// Vector units, and whatever else keeps neither of the two busy.
    Vectors,
    /// Data between devices that is waited for.
    Links,
    /// Starting kernels and collectives, and the way of the first byte.
    Starts,
}

impl Bound {
    pub const ALL: [Bound; 5] =
        [Bound::Products, Bound::Memory, Bound::Vectors, Bound::Links, Bound::Starts];

    pub fn name(self) -> &'static str {
        match self {
            Bound::Products => "matrix units",
            Bound::Memory => "memory",
            Bound::Vectors => "vector units and other",
            Bound::Links => "links",
            Bound::Starts => "starts and latency",
        }
    }

    /// What an instruction that takes so long is busy with: the one of memory and matrix units that
    /// would take longer at its peak.
    pub fn of(rates: &Rates, seconds: f64, bytes: u64, flops: &Flops) -> Bound {
        let (moving, computing) = rates.shortest_seconds(bytes as f64, flops);
        match moving.max(computing) < BUSY_MIN * seconds {
            true => Bound::Vectors,
            false if computing > moving => Bound::Products,
            false => Bound::Memory,
        }
    }
}
