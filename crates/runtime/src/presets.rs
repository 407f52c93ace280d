//! Options of each chip's compiler that this program always sets, each with its reason. All were seen
//! to be accepted (libtpu refuses names that it does not know) and to change the compiler's own
//! estimate; options that are on by default anyway, such as the latency-hiding scheduler, are left
//! out. Estimates are sums of `estimated_cycles` over four layers of a 4096-wide bf16 product with
//! weights gathered from eight chips, compiled with libtpu 0.0.52.

use crate::chips::Chip;
use crate::compile::Purpose;
use crate::settings::{Setting, Settings};

/// Memory of the vector unit that one operation may use for its tiles, in KiB. More of it means
/// larger tiles and fewer passes over memory, until too little is left to fetch operands ahead.
const SCOPED_MEMORY: &str = "xla_tpu_scoped_vmem_limit_kib";

/// What is set for a program of so many devices of a chip; nothing for a chip that is not in the table.
pub fn presets(chip: Option<&Chip>, purpose: Purpose, devices: usize) -> Settings {
    let scoped_memory_kibibytes =
        match (chip.map(|chip| chip.compiles_as.as_str()), purpose, devices) {
            // 26% fewer cycles than with the default of 16 MiB; beyond, compiling takes three times as long.
            (Some("v5e"), ..) => 64 << 10,
            // 26% fewer cycles than with the default; twice as much is worse again.
            (Some("v5p"), ..) => 32 << 10,
            // A training step of the Llama-3-1B shape: 11% fewer cycles than with the default of 32 MiB, for
            // twice as long a compilation; beyond, hardly fewer. With 64 MiB a step of the 8B shape over 16
            // chips needs 7% more and a prefill 9%; with 48 MiB decoding of the 8B over four needs 1% more.
            (Some("v6e"), Purpose::Training, 1) => 48 << 10,
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
}
