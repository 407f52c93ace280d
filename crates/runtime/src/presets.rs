//! Options of each chip's compiler that this program always sets, each with its reason. All were seen
//! to be accepted (libtpu refuses names that it does not know) and to change the compiler's own
//! estimate; options that are on by default anyway, such as the latency-hiding scheduler, are left
//! out. Estimates are sums of `estimated_cycles` over four layers of a 4096-wide bf16 product with
//! weights gathered from eight chips, compiled with libtpu 0.0.52.

use crate::chips::Chip;
use crate::settings::{Setting, Settings};

/// Memory of the vector unit that one operation may use for its tiles, in KiB. More of it means
/// larger tiles and fewer passes over memory, until too little is left to fetch operands ahead.
const SCOPED_MEMORY: &str = "xla_tpu_scoped_vmem_limit_kib";

/// What is set for a chip; nothing for one that is not in the table.
pub fn presets(chip: Option<&Chip>) -> Settings {
    let scoped_memory_kibibytes = match chip.map(|chip| chip.name) {
        // 26% fewer cycles than with the default of 16 MiB; beyond, compiling takes three times as long.
        Some("v5e") => 64 << 10,
        // 26% fewer cycles than with the default; twice as much is worse again.
        Some("v5p") => 32 << 10,
        // v4: no effect. v6e and tpu7x: the default is as good as anything or better.
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
        assert_eq!(presets(chips::of_device("TPU v5 lite")), v5e);
        assert_eq!(presets(chips::of_device("cpu")), Settings::new());
    }
}
