//! Describes a GPU that is not there to XLA's compiler: a `GpuTargetConfigProto` in protobuf's text
//! form, rendered from our own table. Field names and the numbers shared by all chips follow
//! openxla/xla (`stream_executor/device_description.proto`, `target_config/specs`).

use std::fmt::Write;

use crate::chips::{Generation, Gpu};

/// What differs between generations rather than between chips.
struct GenerationFacts {
    major: u32,
    shared_memory_per_core_bytes: u32,
    shared_memory_per_block_optin_bytes: u32,
    fpus_per_core: u32,
    /// Whether the instructions of exactly this architecture (`sm_90a`) may be used.
    accelerated: bool,
}

fn facts(generation: Generation) -> GenerationFacts {
    match generation {
        Generation::Ampere => GenerationFacts {
            major: 8,
            shared_memory_per_core_bytes: 167_936,
            shared_memory_per_block_optin_bytes: 166_912,
            fpus_per_core: 64,
            accelerated: false,
        },
        Generation::Hopper => GenerationFacts {
            major: 9,
            shared_memory_per_core_bytes: 233_472,
            shared_memory_per_block_optin_bytes: 232_448,
            fpus_per_core: 128,
            accelerated: true,
        },
        Generation::Blackwell => GenerationFacts {
            major: 10,
            shared_memory_per_core_bytes: 233_472,
            shared_memory_per_block_optin_bytes: 232_448,
            fpus_per_core: 128,
            accelerated: true,
        },
    }
}

/// The text that the CUDA plugin takes as its topology's `target_config`.
pub fn target_config(gpu: &Gpu) -> String {
    let facts = facts(gpu.generation);
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = render(&mut text, gpu, &facts);
    text
}

fn render(text: &mut String, gpu: &Gpu, facts: &GenerationFacts) -> std::fmt::Result {
    let [dnn_major, dnn_minor, dnn_patch] = gpu.dnn_version;
    writeln!(text, "gpu_device_info {{")?;
    for (name, value) in [
        ("threads_per_block_limit", 1024),
        ("threads_per_warp", 32),
        ("shared_memory_per_block", 49_152),
        ("shared_memory_per_core", u64::from(facts.shared_memory_per_core_bytes)),
        ("threads_per_core_limit", 2048),
        ("core_count", u64::from(gpu.cores)),
        ("fpus_per_core", u64::from(facts.fpus_per_core)),
        ("block_dim_limit_x", 2_147_483_647),
        ("block_dim_limit_y", 65_535),
        ("block_dim_limit_z", 65_535),
        ("thread_dim_limit_x", 1024),
        ("thread_dim_limit_y", 1024),
        ("thread_dim_limit_z", 64),
        ("memory_bandwidth", gpu.memory_bandwidth_bytes_per_second),
        ("l2_cache_size", gpu.l2_cache_bytes),
        ("device_memory_size", gpu.memory_bytes),
        ("shared_memory_per_block_optin", u64::from(facts.shared_memory_per_block_optin_bytes)),
        ("registers_per_core_limit", 65_536),
        ("registers_per_block_limit", 65_536),
        ("device_address_bits", 64),
    ] {
        writeln!(text, "  {name}: {value}")?;
    }
    writeln!(text, "  clock_rate_ghz: {}", gpu.clock_gigahertz)?;
    let extension = if facts.accelerated { "ACCELERATED_FEATURES" } else { "NONE" };
    let major = facts.major;
    writeln!(
        text,
        "  cuda_compute_capability {{ major: {major} minor: 0 feature_extension: {extension} }}"
    )?;
    writeln!(text, "  ecc_enabled: true")?;
    writeln!(text, "  name: \"{}\"", gpu.description)?;
    writeln!(text, "  device_vendor: \"NVIDIA Corporation\"")?;
    let suffix = if facts.accelerated { "a" } else { "" };
    writeln!(text, "  platform_version: \"Compute Capability {major}.0{suffix}\"")?;
    writeln!(text, "  driver_version: \"13.0.0\"")?;
    writeln!(text, "  runtime_version: \"12.8.0\"")?;
    writeln!(text, "  compile_time_toolkit_version: \"12.8.0\"")?;
    writeln!(text, "  dnn_version: \"{dnn_major}.{dnn_minor}.{dnn_patch}\"")?;
    if gpu.pcie_bandwidth_bytes_per_second > 0 {
        writeln!(text, "  pcie_bandwidth: {}", gpu.pcie_bandwidth_bytes_per_second)?;
    }
    if facts.accelerated {
        writeln!(text, "  device_interconnect_info {{ active_links: 18 }}")?;
    }
    units(text, "scalar_unit_description", &scalar_units(gpu))?;
    units(text, "matrix_unit_description", &matrix_units(gpu))?;
    writeln!(text, "}}")?;
    writeln!(text, "platform_name: \"CUDA\"")?;
    writeln!(
        text,
        "dnn_version_info {{ major: {dnn_major} minor: {dnn_minor} patch: {dnn_patch} }}"
    )?;
    writeln!(text, "device_description_str: \"{}\"", gpu.description)
}

/// How fast one element type is computed with: the key is XLA's number for the type.
struct Rate {
    primitive_type: u32,
    clock_gigahertz: f64,
    units_per_core: u32,
    operations_per_clock: u32,
}

fn units(text: &mut String, name: &str, rates: &[Rate]) -> std::fmt::Result {
    if rates.is_empty() {
        return Ok(());
    }
    writeln!(text, "  {name} {{")?;
    for rate in rates {
        let Rate { primitive_type, clock_gigahertz, units_per_core, operations_per_clock } = rate;
        writeln!(
            text,
            "    rate_infos {{ key: {primitive_type} value {{ clock_rate_ghz: {clock_gigahertz} \
             units_per_core: {units_per_core} ops_per_clock: {operations_per_clock} }} }}"
        )?;
    }
    writeln!(text, "  }}")
}

/// XLA's numbers for element types.
const S32: u32 = 4;
const U32: u32 = 8;
const F16: u32 = 10;
const F32: u32 = 11;
const F64: u32 = 12;
const BF16: u32 = 16;
const S8: u32 = 2;
const U8: u32 = 6;
/// The 8-bit floats, of which every variant runs at one rate.
const F8: [u32; 8] = [19, 20, 23, 24, 25, 28, 29, 33];
const WIDER_FLOAT8: [u32; 2] = [35, 36];
const F4: u32 = 32;

/// Published for Hopper and later only; without it the compiler falls back on its own defaults.
fn scalar_units(gpu: &Gpu) -> Vec<Rate> {
    let half_operations = match gpu.generation {
        Generation::Ampere => return Vec::new(),
        Generation::Hopper => 2,
        Generation::Blackwell => 1,
    };
    let rate = |primitive_type, units_per_core, operations_per_clock| Rate {
        primitive_type,
        clock_gigahertz: gpu.clock_gigahertz,
        units_per_core,
        operations_per_clock,
    };
    vec![
        rate(S32, 64, 1),
        rate(U32, 64, 1),
        rate(F16, 128, half_operations),
        rate(F32, 128, 1),
        rate(F64, 64, 1),
        rate(BF16, 128, half_operations),
    ]
}

fn matrix_units(gpu: &Gpu) -> Vec<Rate> {
    let (narrow, double) = match gpu.generation {
        Generation::Ampere => return Vec::new(),
        Generation::Hopper => (1024, 32),
        Generation::Blackwell => (2048, 16),
    };
    let rate = |primitive_type, operations_per_clock| Rate {
        primitive_type,
        clock_gigahertz: gpu.matrix_clock_gigahertz,
        units_per_core: 4,
        operations_per_clock,
    };
    let eight_bits = [S8, U8].into_iter().chain(F8).chain(WIDER_FLOAT8);
    let mut rates: Vec<Rate> = eight_bits.map(|kind| rate(kind, narrow)).collect();
    rates.push(rate(F16, narrow / 2));
    rates.push(rate(BF16, narrow / 2));
    rates.push(rate(F32, narrow / 4));
    rates.push(Rate { clock_gigahertz: gpu.clock_gigahertz, ..rate(F64, double) });
    if gpu.generation == Generation::Blackwell {
        rates.push(rate(F4, narrow * 2));
    }
    rates
}
