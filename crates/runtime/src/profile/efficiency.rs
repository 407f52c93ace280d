//! What chips reach of their peaks, from published measurements of single operations, and how wrong
//! each kind of estimate may be. All constants of the time model are here. None comes from the speed
//! of whole training steps or servers: those are what the model is compared with.
//!
//! Sources, by their short names below:
//! - MAMF: "Maximum Achievable Matmul FLOPS", the best of many shapes, in github.com/stas00/ml-engineering,
//!   `compute/accelerator/README.md`, August 2026.
//! - NCCL runs: all-reduce, all-gather and reduce-scatter of 16 GiB on 8 GPUs and between hosts, same
//!   repository, `network/README.md`.
//! - NCCL's own model: the latencies in github.com/NVIDIA/nccl, `src/graph/tuning.cc`.
//! - Ironwood: github.com/AI-Hypercomputer/accelerator-microbenchmarks, `Ironwood/`.
//! - Scaling book: github.com/jax-ml/scaling-book, `sharding.md`.

use crate::chips::{Chip, Generation, Hosting};
use crate::discover::PluginKind;

use super::Source;

/// What a chip reaches of its peaks, as shares of them, and what starting costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Efficiency {
    /// Large products of matrices of 16 bits and more.
    pub products: f64,
    /// Large products of 8 bits.
    pub products_8_bit: f64,
    /// Streaming through the memory.
    pub memory: f64,
    /// Seconds of each kernel beside its work: its start, and the time until all cores are busy.
    pub launch_seconds: f64,
    /// Rings over the links between chips, or over NVLink.
    pub ring: f64,
    /// Sums that the switch computes, where it can and the group is [`IN_SWITCH_GROUP_MIN`].
    pub sum_in_switch: Option<f64>,
    /// The network between hosts.
    pub network: f64,
}

impl Efficiency {
    pub fn of(chip: &Chip) -> Efficiency {
        match &chip.hosting {
            Hosting::Torus { .. } | Hosting::Processor => Efficiency {
                products: tpu_products(&chip.compiles_as),
                products_8_bit: tpu_products(&chip.compiles_as),
                // Assumed; as GPUs reach.
                memory: 0.87,
                // In the compiler's cycles.
                launch_seconds: 0.0,
                // Ironwood: all-gather of 4 chips without wrap-around, 178.8 of 2 x 100 GB/s. For the
                // other TPUs assumed to be the same.
                ring: 0.89,
                sum_in_switch: None,
                // Slices of several pods are no target.
                network: 1.0,
            },
            Hosting::Hosts { gpu, .. } => {
                gpu_efficiency(chip, gpu.as_ref().map(|gpu| gpu.generation))
            }
        }
    }
}

/// For kernels that state their own operations: what the compiler's own cycles come to for two large
/// products (v5e, v5p, v6e), and on TPU7x Ironwood's product of 16384 (950 of 1153.5 TFLOP/s).
fn tpu_products(name: &str) -> f64 {
    match name {
        "v5e" => 0.94,
        "v5p" => 0.88,
        "v6e" => 0.83,
        "tpu7x" => 0.82,
        // Assumed.
        _ => 0.85,
    }
}

fn gpu_efficiency(chip: &Chip, generation: Option<Generation>) -> Efficiency {
    // MAMF in bf16 and, where the chip has it, fp8: 271.2 of 312; 794.5 of 989, 1402.6 of 1979 (H100);
    // 1453.4 of 1979 (H200); 1745 of 2250, 3432.5 of 4500 (B200); 1822 of 2500, 3615.6 of 5000 (GB200).
    let (products, products_8_bit) = match (chip.compiles_as.as_str(), generation) {
        ("a100", _) => (0.869, 0.869),
        ("h100", _) => (0.803, 0.709),
        ("h200", _) => (0.803, 0.734),
        ("gb200", _) => (0.729, 0.723),
        (_, Some(Generation::Blackwell)) => (0.776, 0.763),
        // Assumed.
        _ => (0.80, 0.70),
    };
    // NCCL runs: A100 234.9 of 300 GB/s; H200 361.4 (all-gather), 362.9 (reduce-scatter), 367.2 (sum
    // in a ring) and 480 (sum in the switch) of 450; B200 682.2 and 838 of 900.
    let (ring, sum_in_switch) = match generation {
        Some(Generation::Ampere) => (0.78, None),
        Some(Generation::Hopper) => (0.80, Some(1.07)),
        Some(Generation::Blackwell) => (0.758, Some(0.93)),
        // Assumed.
        None => (0.78, None),
    };
    Efficiency {
        products,
        products_8_bit,
        // Copies within an H100's memory: 2903 of 3350 GB/s (github.com/aigatech/vpbenchmarking). For
        // the other GPUs assumed to be the same.
        memory: 0.87,
        // In a CUDA graph, as XLA's command buffers are, a kernel cost 0.5 us more than its work
        // ("Getting Started with CUDA Graphs", NVIDIA's blog, on a V100). As much again for filling and
        // draining the cores is assumed.
        launch_seconds: 1e-6,
        ring,
        sum_in_switch,
        // NCCL runs: sums of 4 GiB and more over 4 hosts of 8 B200, 36.5 of 50 GB/s of each GPU's
        // adapter, the part within the hosts included. Assumed for other networks.
        network: 0.73,
    }
}

/// The narrowest group for which NCCL lets the switch sum (NCCL runs: 5 on H200, 6 on B200).
pub const IN_SWITCH_GROUP_MIN: usize = 6;

/// One hop in a torus (Scaling book: "typically around 1 us").
pub const HOP_SECONDS: f64 = 1e-6;

/// Starting a collective on TPUs and agreeing to begin. A program of one all-gather over 4 chips took
/// 13 us beyond its bytes (Ironwood), hops and the program's own start included. Assumed: less than
/// half of it is the collective's.
pub const TORUS_START_SECONDS: f64 = 5e-6;

/// NCCL's own model: for each of its protocols (the fast one for short messages, the one for long
/// messages) seconds to begin, for each step over NVLink, for each step between hosts; and the share
/// of the rate that it reaches.
pub const NCCL_PROTOCOLS: [NcclProtocol; 2] = [
    NcclProtocol { begin: 6.6e-6, within_host: 0.6e-6, between_hosts: 2.7e-6, rate: 0.5 },
    NcclProtocol { begin: 8.4e-6, within_host: 3.4e-6, between_hosts: 14e-6, rate: 1.0 },
];

/// NCCL's own model: sums in the switch take this instead of steps.
pub const IN_SWITCH_SECONDS: f64 = 25e-6;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NcclProtocol {
    pub begin: f64,
    pub within_host: f64,
    pub between_hosts: f64,
    pub rate: f64,
}

/// The die-to-die link of a chip of two devices, in links of the torus: "six times faster than a 1D
/// ICI link" (Google Cloud's page on TPU7x).
pub const DIE_TO_DIE_LINKS: f64 = 6.0;

/// Rows and columns of the block of a product that one core of a GPU computes at a time, which is
/// what cuBLAS and Triton choose for large products; a last round of blocks that does not occupy all
/// cores takes as long as a full one.
pub const GPU_BLOCK: f64 = 128.0;
/// The least rows that the matrix units of a GPU work on.
pub const GPU_ROWS_MIN: f64 = 16.0;

/// How far off the times of a source may be: the shortest and the longest, as a factor of the likely.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Band {
    pub low: f64,
    pub high: f64,
    pub reason: &'static str,
}

impl Band {
    pub fn of(source: Source, plugin: PluginKind) -> Band {
        let tpu = plugin == PluginKind::Tpu;
        let (low, high, reason) = match source {
            // Ironwood's products of 1024 to 16384 took 0.83 to 1.05 of what libtpu's cycles say of the same
            // ones at 1.9 GHz. Waiting for others and falling clocks are assumed to add a fifth.
            Source::Compiler => (
                0.83,
                1.25,
                "products on TPU7x took 0.83 to 1.05 of the compiler's cycles; waiting for memory that others use comes on top",
            ),
            Source::Bytes if tpu => (
                0.87,
                1.5,
                "from peak bandwidth to what scattered reads reach; the compiler says nothing of these",
            ),
            Source::Bytes => (
                0.87,
                1.4,
                "from peak bandwidth to two thirds of what copies reach; generated kernels vary",
            ),
            Source::Roofline => (
                0.95,
                1.5,
                "from the best shape that was measured to products of odd shapes, and kernels nobody tuned for the chip",
            ),
            Source::Links if tpu => (
                0.8,
                1.5,
                "measured for one collective on one chip; which ways the bytes take is the compiler's choice",
            ),
            Source::Links => (
                0.8,
                1.6,
                "measured on few systems; other networks, topologies and neighbours differ",
            ),
        };
        Band { low, high, reason }
    }
}
