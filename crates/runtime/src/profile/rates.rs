//! What one device can do per second: the peaks of the table of chips, and what is reached of them.

use crate::chips::{Chip, Generation, Gpu, Hosting};

use super::ProfileError;
use super::efficiency::Efficiency;
use super::work::Flops;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    peak_memory_bytes_per_second: f64,
    /// Nothing where the compiler gives no cycles.
    pub clock_hertz: Option<f64>,
    bf16_flops_per_second: f64,
    /// Products in f32, where the matrix units do not make them.
    f32_flops_per_second: f64,
    reached: Efficiency,
    /// Multiprocessors of a GPU, among which a product's blocks are dealt out.
    cores: Option<f64>,
}

impl Rates {
    /// # Errors
    /// [`ProfileError::NoFigures`] for a chip without peaks: this machine's processor.
    pub fn of(chip: &Chip) -> Result<Rates, ProfileError> {
        let devices = chip.devices_per_chip as f64;
        let bf16_flops_per_second = chip.bf16_flops_per_second / devices;
        let gpu = match &chip.hosting {
            // Nothing compiles for a GPU without a description, so there is no program to look at.
            Hosting::Hosts { gpu: None, .. } => {
                return Err(ProfileError::NoFigures(chip.name.clone()));
            }
            Hosting::Hosts { gpu: Some(gpu), .. } => Some(gpu),
            Hosting::Torus { .. } | Hosting::Processor => None,
        };
        let rates = Rates {
            peak_memory_bytes_per_second: chip.memory_bandwidth_bytes_per_second / devices,
            clock_hertz: chip.clock_hertz,
            bf16_flops_per_second,
            f32_flops_per_second: gpu.map_or(bf16_flops_per_second, vector_flops_per_second),
            reached: Efficiency::of(chip),
            cores: gpu.map(|gpu| f64::from(gpu.cores)),
        };
        match rates.peak_memory_bytes_per_second > 0.0 && bf16_flops_per_second > 0.0 {
            true => Ok(rates),
            false => Err(ProfileError::NoFigures(chip.name.clone())),
        }
    }

    /// Seconds of moving bytes, at what is reached.
    pub fn moving_seconds(&self, bytes: f64) -> f64 {
        bytes / (self.peak_memory_bytes_per_second * self.reached.memory)
    }

    /// Seconds of products, at what is reached.
    pub fn computing_seconds(&self, flops: &Flops) -> f64 {
        if flops.count <= 0.0 {
            return 0.0;
        }
        let share = match flops.element_bits {
            0..=8 => self.reached.products_8_bit,
            _ => self.reached.products,
        };
        // Blocks are dealt out in rounds, and the last round takes as long as a full one. Fewer blocks
        // than cores are cut along the summed axis instead.
        let (work, rounds) = match self.cores {
            Some(cores) if flops.blocks > cores => {
                let rounds = flops.blocks / cores;
                (flops.padded, rounds.ceil() / rounds)
            }
            Some(_) => (flops.padded, 1.0),
            None => (flops.count, 1.0),
        };
        work * rounds / (self.peak_flops_per_second(flops.element_bits) * share)
    }

    /// Seconds that moving and computing would take at the very least.
    pub fn shortest_seconds(&self, bytes: f64, flops: &Flops) -> (f64, f64) {
        let computing = flops.count / self.peak_flops_per_second(flops.element_bits);
        (bytes / self.peak_memory_bytes_per_second, computing)
    }

    /// Seconds of each kernel beside its work.
    pub fn launch_seconds(&self) -> f64 {
        self.reached.launch_seconds
    }

    fn peak_flops_per_second(&self, element_bits: u64) -> f64 {
        match element_bits {
            0..=8 => 2.0 * self.bf16_flops_per_second,
            9..=16 => self.bf16_flops_per_second,
            _ => self.f32_flops_per_second,
        }
    }
}

/// f32 lanes of a multiprocessor, each a multiply-add per cycle.
fn vector_flops_per_second(gpu: &Gpu) -> f64 {
    let lanes = match gpu.generation {
        Generation::Ampere => 64.0,
        Generation::Hopper | Generation::Blackwell => 128.0,
    };
    f64::from(gpu.cores) * lanes * 2.0 * gpu.clock_gigahertz * 1e9
}
