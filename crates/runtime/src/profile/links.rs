//! How long a collective takes: its bytes over the links of a ring, and the way of the first byte
//! around it. Knows no program.

use crate::chips::{Chip, Hosting};

use super::proto::{HloInstruction, Shape};

/// One hop, which is what small messages cost. Of the order that chips show; nothing here measures
/// it, but without it a sum of a few numbers would take no time.
const HOP_SECONDS: f64 = 1e-6;

/// How a device is joined to the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Links {
    /// One way, all that a ring (both directions of it) can use.
    ring_bytes_per_second: f64,
    /// One way, to one neighbour.
    neighbour_bytes_per_second: f64,
    /// Every device reaches every other at full speed.
    switched: bool,
}

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

impl Links {
    /// # Notes
    /// In a torus of `d` dimensions a chip has `2 d` links, of which a ring uses two. GPUs are taken
    /// to be joined by NVLink through switches, however many there are.
    pub fn of(chip: &Chip) -> Links {
        let all = chip.link_bytes_per_second / chip.devices_per_chip as f64;
        match &chip.hosting {
            Hosting::Torus { slices, .. } => {
                let bounds = slices.first().map_or("1x1", |slice| slice.bounds.as_str());
                let dimensions = bounds.split('x').count() as f64;
                Links {
                    ring_bytes_per_second: all / dimensions,
                    neighbour_bytes_per_second: all / dimensions / 2.0,
                    switched: false,
                }
            }
            Hosting::Processor | Hosting::Hosts { .. } => Links {
                ring_bytes_per_second: all,
                neighbour_bytes_per_second: all,
                switched: true,
            },
        }
    }

    /// Seconds of a collective in which each of `group` devices hands in `bytes`.
    pub fn seconds(&self, collective: Collective, bytes: f64, group: f64) -> f64 {
        let others = (group - 1.0).max(0.0);
        let share = others / group.max(1.0);
        // Both directions of the ring at once, so the far side is half the way round.
        let around = if self.switched { 1.0 } else { (others / 2.0).ceil() };
        let (moved, rate, hops) = match collective {
            Collective::AllGather => (bytes * others, self.ring_bytes_per_second, around),
            Collective::ReduceScatter => (bytes * share, self.ring_bytes_per_second, around),
            Collective::AllReduce => {
                (2.0 * bytes * share, self.ring_bytes_per_second, 2.0 * around)
            }
            // On a ring every byte passes a quarter of the devices on average.
            Collective::AllToAll if self.switched => {
                (bytes * share, self.ring_bytes_per_second, around)
            }
            Collective::AllToAll => (bytes * group / 4.0, self.ring_bytes_per_second, around),
            Collective::Send => (bytes, self.neighbour_bytes_per_second, 1.0),
        };
        HOP_SECONDS * hops.max(1.0) + moved / rate
    }
}

/// How many devices take part in each group of a collective; all if the program does not say.
pub fn group_size(instruction: &HloInstruction, devices: usize) -> f64 {
    let lists = &instruction.replica_groups;
    let listed = instruction.collective_devices.as_ref();
    let lists =
        listed.map(|devices| &devices.replica_groups).filter(|_| lists.is_empty()).unwrap_or(lists);
    let largest = lists.iter().map(|group| group.replica_ids.len()).max();
    let iota = instruction.iota_groups.as_ref().or_else(|| listed?.iota.as_ref());
    let iota = iota.and_then(|groups| usize::try_from(groups.devices_per_group).ok());
    let stated = largest.or(iota).or_else(|| mesh_group(instruction)).filter(|&size| size > 0);
    stated.unwrap_or(devices).min(devices.max(1)) as f64
}

/// The product of the axes that a group runs along.
fn mesh_group(instruction: &HloInstruction) -> Option<usize> {
    let groups = instruction.mesh_groups.as_ref()?;
    let axes = &groups.mesh.as_ref()?.axes;
    let mut size = 1usize;
    for axis in &groups.axes {
        let whole = || axes.get(usize::try_from(axis.index).ok()?).map(|axis| axis.size);
        let part = axis.part.as_ref().map(|part| part.size).or_else(whole)?;
        size = size.saturating_mul(usize::try_from(part).ok()?);
    }
    Some(size)
}

/// Bytes that each device hands in.
pub fn operand_bytes<'a>(operands: impl Iterator<Item = &'a HloInstruction>) -> u64 {
    let shapes = operands.filter_map(|operand| operand.shape.as_ref());
    shapes.map(Shape::logical_bytes).fold(0, u64::saturating_add)
}
