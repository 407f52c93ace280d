//! What one device can do per second, from the table of chips.

use crate::chips::{Chip, Generation, Gpu, Hosting};

use super::ProfileError;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    pub memory_bytes_per_second: f64,
    /// Nothing where the compiler gives no cycles.
    pub clock_hertz: Option<f64>,
    bf16_flops_per_second: f64,
    /// Products in f32, where the matrix units do not make them.
    f32_flops_per_second: f64,
}

impl Rates {
    /// # Errors
    /// [`ProfileError::NoFigures`] for a chip without peaks: this machine's processor.
    pub fn of(chip: &Chip) -> Result<Rates, ProfileError> {
        let devices = chip.devices_per_chip as f64;
        let bf16_flops_per_second = chip.bf16_flops_per_second / devices;
        let rates = Rates {
            memory_bytes_per_second: chip.memory_bandwidth_bytes_per_second / devices,
            clock_hertz: chip.clock_hertz,
            bf16_flops_per_second,
            f32_flops_per_second: match &chip.hosting {
                Hosting::Hosts { gpu: Some(gpu), .. } => vector_flops_per_second(gpu),
                // Nothing compiles for it, so there is no program to look at.
                Hosting::Hosts { gpu: None, .. } => {
                    return Err(ProfileError::NoFigures(chip.name.clone()));
                }
                Hosting::Torus { .. } | Hosting::Processor => bf16_flops_per_second,
            },
        };
        match rates.memory_bytes_per_second > 0.0 && bf16_flops_per_second > 0.0 {
            true => Ok(rates),
            false => Err(ProfileError::NoFigures(chip.name.clone())),
        }
    }

    /// The peak rate of products of a type.
    pub fn flops_per_second(&self, element_bits: u64) -> f64 {
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
