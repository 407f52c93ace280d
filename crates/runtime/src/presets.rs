//! Options of each chip's compiler that this program always sets, each with its reason. All were seen
//! to be accepted (libtpu refuses names that it does not know) and to change what the compiler does;
//! options that are on by default anyway, such as the latency-hiding scheduler, are left out. Estimates
//! are sums of `estimated_cycles` over four layers of a 4096-wide bf16 product with weights gathered
//! from eight chips, compiled with libtpu 0.0.52.

use crate::chips::Chip;
use crate::compile::Purpose;
use crate::discover::PluginKind;
use crate::settings::{Setting, Settings};

/// Memory of the vector unit that one operation may use for its tiles, in KiB. More of it means
/// larger tiles and fewer passes over memory, until too little is left to fetch operands ahead.
const SCOPED_MEMORY: &str = "xla_tpu_scoped_vmem_limit_kib";

/// Which collectives of few bytes XLA writes kernels of its own for, in place of NCCL's: sums, if
/// nothing is said.
const COLLECTIVE_KERNELS: &str = "xla_gpu_experimental_use_collective_kernels";

/// The compiler crashes over such a kernel for this many GPUs ("size mismatch when packing elements for
/// LLVM struct expected 2 but got 1", plugin 0.12), even one that sums a single number; for 8, 16 and 32
/// it makes one, for 72 and 128 it leaves the sum to NCCL. A larger mesh can have an axis of 64.
const ALL_REDUCE_CRASHES: usize = 64;

/// What is set for a program of so many devices of a chip; nothing for a chip that is not in the table.
pub fn presets(chip: Option<&Chip>, purpose: Purpose, devices: usize) -> Settings {
    let Some(chip) = chip else { return Settings::new() };
    if chip.plugin == Some(PluginKind::Cuda) && devices >= ALL_REDUCE_CRASHES {
        // Sums within a host go by NCCL then too: microseconds each.
        return vec![(COLLECTIVE_KERNELS.to_string(), Setting::Text(String::new()))];
    }
    let scoped_memory_kibibytes = match (chip.compiles_as.as_str(), purpose, devices) {
        // 26% fewer cycles than with the default of 16 MiB; beyond, compiling takes three times as long.
        ("v5e", ..) => 64 << 10,
        // 26% fewer cycles than with the default; twice as much is worse again.
        ("v5p", ..) => 32 << 10,
        // A training step of the Llama-3-1B shape: 11% fewer cycles than with the default of 32 MiB, for
        // twice as long a compilation; beyond, hardly fewer. With 64 MiB a step of the 8B shape over 16
        // chips needs 7% more and a prefill 9%; with 48 MiB decoding of the 8B over four needs 1% more.
        ("v6e", Purpose::Training, 1) => 48 << 10,
        // v4: no effect. tpu7x: the default is as good as anything or better.
        _ => return Settings::new(),
    };
    vec![(SCOPED_MEMORY.to_string(), Setting::Integer(scoped_memory_kibibytes))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chips;

    #[test]
    fn presets_are_found_by_what_the_plugin_calls_the_device() {
        let v5e = vec![(SCOPED_MEMORY.to_string(), Setting::Integer(65536))];
        assert_eq!(presets(chips::of_device("TPU v5 lite"), Purpose::Serving, 4), v5e);
        assert_eq!(presets(chips::of_device("cpu"), Purpose::Training, 1), Settings::new());
    }

    #[test]
    fn training_on_one_v6e_is_a_case_of_its_own() {
        let v6e = chips::of_device("TPU v6 lite");
        assert!(v6e.is_some());
        assert_eq!(presets(v6e, Purpose::Training, 1).len(), 1);
        assert_eq!(presets(v6e, Purpose::Training, 16), Settings::new());
        assert_eq!(presets(v6e, Purpose::Serving, 1), Settings::new());
    }

    #[test]
    fn many_gpus_sum_with_nccl() {
        let none = vec![(COLLECTIVE_KERNELS.to_string(), Setting::Text(String::new()))];
        for name in ["h100", "gb200"] {
            let chip = chips::find(name);
            assert!(chip.is_some());
            assert_eq!(presets(chip, Purpose::Training, 32), Settings::new());
            assert_eq!(presets(chip, Purpose::Training, 64), none);
            assert_eq!(presets(chip, Purpose::Serving, 128), none);
        }
    }
}
