//! The chips that programs can be compiled for: what they are and how many of them come together.
//! Pure data; how a plugin is told about them is `targets`.
//!
//! Counts are chips, never cores: a `tpu7x` chip is two devices, and Google's own `v4-8`, `v5p-8`
//! and `tpu7x-8` count cores and mean four chips.

use crate::discover::PluginKind;

/// One kind of chip.
#[derive(Clone, Debug, PartialEq)]
pub struct Chip {
    pub name: &'static str,
    pub description: &'static str,
    pub plugin: PluginKind,
    /// What plugins call a device of this kind ([`of_device`]), the usual name first; none where that
    /// varies.
    pub device_kinds: &'static [&'static str],
    /// Devices that the plugin shows per chip.
    pub devices_per_chip: usize,
    /// Memory of one chip, in bytes, as its data sheet says. What a program may use is less: a
    /// compiler's own figure replaces this one where it gives one.
    pub memory_bytes: u64,
    /// Peak memory bandwidth of one chip, in bytes per second.
    pub memory_bandwidth_bytes_per_second: f64,
    /// Peak dense bf16 rate of one chip, in operations per second (a multiply-add is two).
    pub bf16_flops_per_second: f64,
    /// Peak of one chip's links to other chips, one way, all links, in bytes per second.
    pub link_bytes_per_second: f64,
    /// Clock of the matrix units in Hz, to turn the compiler's cycles into seconds; see
    /// [`Chip::clock_was_checked`].
    pub clock_hertz: Option<f64>,
    /// What an hour of one chip costs; none where no list price was found.
    pub price: Option<Price>,
    /// The most that one chip draws, in watts, without its host and cooling; none where the vendor
    /// does not say.
    pub power_watts: Option<f64>,
    pub hosting: Hosting,
}

/// Dollars per chip-hour, lowest and highest over regions and providers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Price {
    pub on_demand: (f64, f64),
    /// Of capacity that can be taken back at any time; none where none is listed.
    pub spot: Option<(f64, f64)>,
}

/// Where the prices are from and when they were read.
pub const PRICES_FROM: &str = "SkyPilot's catalog, autumn 2026";

impl Chip {
    /// Whether the clock makes the compiler's cycles of known programs plausible; other clocks are as
    /// reported elsewhere.
    pub fn clock_was_checked(&self) -> bool {
        matches!(self.name, "v5e" | "v5p" | "v6e")
    }
}

/// How chips are put together into machines.
#[derive(Clone, Debug, PartialEq)]
pub enum Hosting {
    /// Virtual devices of this machine's processor.
    Processor,
    /// A torus: for each legal count its bounds, and the part of it on one host.
    Torus { slices: &'static [Slice], config: Option<&'static str> },
    /// Hosts of up to this many GPUs.
    Hosts {
        gpus_per_host: usize,
        /// GPUs that the fast links join; beyond, data goes over the network.
        gpus_per_domain: usize,
        /// Of the network between domains, one way, for each GPU, in bytes per second.
        network_bytes_per_second: f64,
        counts: &'static [usize],
        gpu: &'static Gpu,
    },
}

/// A number of TPU chips that can be rented together, or a part of one host of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    pub chips: usize,
    /// As in the topology's name, such as `2x2x4`.
    pub bounds: &'static str,
    /// Chips of one host in each direction.
    pub host: [i64; 3],
}

const fn slice(chips: usize, bounds: &'static str, host: [i64; 3]) -> Slice {
    Slice { chips, bounds, host }
}

/// v5e and v6e: one, four or eight chips on one host; beyond, hosts of four in a 2-D grid.
const FLAT_SLICES: &[Slice] = &[
    slice(1, "1x1", [1, 1, 1]),
    slice(4, "2x2", [2, 2, 1]),
    slice(8, "2x4", [2, 4, 1]),
    slice(16, "4x4", [2, 2, 1]),
    slice(32, "4x8", [2, 2, 1]),
    slice(64, "8x8", [2, 2, 1]),
    slice(128, "8x16", [2, 2, 1]),
    slice(256, "16x16", [2, 2, 1]),
];

/// v4, v5p, tpu7x: hosts of four chips in a 3-D torus. One and two chips are parts of a host: not
/// rented alone, but the smallest thing to size a program with.
const CUBE_SLICES: &[Slice] = &[
    slice(1, "1x1x1", [1, 1, 1]),
    slice(2, "1x2x1", [1, 2, 1]),
    slice(4, "2x2x1", [2, 2, 1]),
    slice(8, "2x2x2", [2, 2, 1]),
    slice(16, "2x2x4", [2, 2, 1]),
    slice(32, "2x4x4", [2, 2, 1]),
    slice(64, "4x4x4", [2, 2, 1]),
    slice(128, "4x4x8", [2, 2, 1]),
    slice(192, "4x4x12", [2, 2, 1]),
    slice(256, "4x8x8", [2, 2, 1]),
    slice(512, "8x8x8", [2, 2, 1]),
    slice(768, "8x8x12", [2, 2, 1]),
    slice(1024, "8x8x16", [2, 2, 1]),
    slice(2048, "8x16x16", [2, 2, 1]),
    slice(4096, "16x16x16", [2, 2, 1]),
];

/// Parts of one node of eight, then whole nodes.
const EIGHT_PER_HOST: &[usize] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
/// A GB200 tray holds four GPUs; eighteen trays share one NVLink domain.
const FOUR_PER_HOST: &[usize] = &[1, 2, 4, 8, 16, 32, 64, 72];

const GIBIBYTE: u64 = 1 << 30;

/// Every chip, in the order in which lists show them. TPU figures: Google Cloud's TPU pages; GPU
/// figures: NVIDIA's data sheets (links one way, half of what they quote); prices: [`PRICES_FROM`].
pub const CHIPS: &[Chip] = &[
    Chip {
        name: "cpu",
        description: "this machine's processor",
        plugin: PluginKind::Cpu,
        device_kinds: &[],
        devices_per_chip: 1,
        // Unknown ahead of time; the machine is asked instead.
        memory_bytes: 0,
        memory_bandwidth_bytes_per_second: 0.0,
        bf16_flops_per_second: 0.0,
        link_bytes_per_second: 0.0,
        clock_hertz: None,
        price: None,
        power_watts: None,
        hosting: Hosting::Processor,
    },
    Chip {
        name: "v4",
        description: "Google TPU v4",
        plugin: PluginKind::Tpu,
        device_kinds: &["TPU v4"],
        devices_per_chip: 1,
        memory_bytes: 32 * GIBIBYTE,
        memory_bandwidth_bytes_per_second: 1.2e12,
        bf16_flops_per_second: 275e12,
        link_bytes_per_second: 270e9,
        clock_hertz: Some(1.05e9),
        price: Some(Price { on_demand: (3.22, 3.22), spot: Some((0.92, 0.92)) }),
        power_watts: Some(192.0),
        // Otherwise libtpu shows each of the two cores as a device, which no v4 host does.
        hosting: Hosting::Torus { slices: CUBE_SLICES, config: Some("megacore") },
    },
    Chip {
        name: "v5e",
        description: "Google TPU v5e",
        plugin: PluginKind::Tpu,
        device_kinds: &["TPU v5 lite", "TPU v5e"],
        devices_per_chip: 1,
        memory_bytes: 16 * GIBIBYTE,
        memory_bandwidth_bytes_per_second: 819e9,
        bf16_flops_per_second: 197e12,
        link_bytes_per_second: 200e9,
        clock_hertz: Some(1.5e9),
        price: Some(Price { on_demand: (1.20, 1.20), spot: Some((0.25, 0.60)) }),
        power_watts: None,
        hosting: Hosting::Torus { slices: FLAT_SLICES, config: None },
    },
    Chip {
        name: "v5p",
        description: "Google TPU v5p",
        plugin: PluginKind::Tpu,
        device_kinds: &["TPU v5", "TPU v5p"],
        devices_per_chip: 1,
        memory_bytes: 95 * GIBIBYTE,
        memory_bandwidth_bytes_per_second: 2.765e12,
        bf16_flops_per_second: 459e12,
        link_bytes_per_second: 600e9,
        clock_hertz: Some(1.75e9),
        price: Some(Price { on_demand: (4.20, 4.20), spot: Some((0.93, 1.68)) }),
        power_watts: None,
        hosting: Hosting::Torus { slices: CUBE_SLICES, config: None },
    },
    Chip {
        name: "v6e",
        description: "Google TPU v6e (Trillium)",
        plugin: PluginKind::Tpu,
        device_kinds: &["TPU v6 lite", "TPU v6e"],
        devices_per_chip: 1,
        memory_bytes: 32 * GIBIBYTE,
        memory_bandwidth_bytes_per_second: 1.638e12,
        bf16_flops_per_second: 918e12,
        link_bytes_per_second: 400e9,
        clock_hertz: Some(1.75e9),
        price: Some(Price { on_demand: (2.70, 2.70), spot: Some((0.54, 1.35)) }),
        power_watts: None,
        hosting: Hosting::Torus { slices: FLAT_SLICES, config: None },
    },
    Chip {
        name: "tpu7x",
        description: "Google TPU7x (Ironwood)",
        plugin: PluginKind::Tpu,
        device_kinds: &["TPU7x", "TPU v7x"],
        devices_per_chip: 2,
        memory_bytes: 192 * GIBIBYTE,
        memory_bandwidth_bytes_per_second: 7.38e12,
        bf16_flops_per_second: 2307e12,
        link_bytes_per_second: 600e9,
        clock_hertz: Some(1.9e9),
        price: None,
        // A pod of 9,216 draws 10 MW, probably with more in it than the chips.
        power_watts: Some(1100.0),
        hosting: Hosting::Torus { slices: CUBE_SLICES, config: None },
    },
    Chip {
        name: "a100",
        description: "NVIDIA A100 SXM 80 GB",
        plugin: PluginKind::Cuda,
        device_kinds: &[A100.description],
        devices_per_chip: 1,
        memory_bytes: A100.memory_bytes,
        memory_bandwidth_bytes_per_second: A100.memory_bandwidth_bytes_per_second as f64,
        bf16_flops_per_second: 312e12,
        link_bytes_per_second: 300e9,
        clock_hertz: None,
        price: None,
        power_watts: None,
        hosting: Hosting::Hosts {
            gpus_per_host: 8,
            gpus_per_domain: 8,
            network_bytes_per_second: 25e9,
            counts: EIGHT_PER_HOST,
            gpu: &A100,
        },
    },
    Chip {
        name: "h100",
        description: "NVIDIA H100 SXM 80 GB",
        plugin: PluginKind::Cuda,
        device_kinds: &[H100.description],
        devices_per_chip: 1,
        memory_bytes: H100.memory_bytes,
        memory_bandwidth_bytes_per_second: H100.memory_bandwidth_bytes_per_second as f64,
        bf16_flops_per_second: 989e12,
        link_bytes_per_second: 450e9,
        clock_hertz: None,
        price: Some(Price { on_demand: (2.95, 10.98), spot: Some((1.25, 2.34)) }),
        power_watts: Some(700.0),
        hosting: Hosting::Hosts {
            gpus_per_host: 8,
            gpus_per_domain: 8,
            network_bytes_per_second: 50e9,
            counts: EIGHT_PER_HOST,
            gpu: &H100,
        },
    },
    Chip {
        name: "h200",
        description: "NVIDIA H200 SXM 141 GB",
        plugin: PluginKind::Cuda,
        device_kinds: &["NVIDIA H200", H200.description],
        devices_per_chip: 1,
        memory_bytes: H200.memory_bytes,
        memory_bandwidth_bytes_per_second: H200.memory_bandwidth_bytes_per_second as f64,
        bf16_flops_per_second: 989e12,
        link_bytes_per_second: 450e9,
        clock_hertz: None,
        price: Some(Price { on_demand: (3.50, 9.31), spot: Some((1.45, 3.66)) }),
        power_watts: Some(700.0),
        hosting: Hosting::Hosts {
            gpus_per_host: 8,
            gpus_per_domain: 8,
            network_bytes_per_second: 50e9,
            counts: EIGHT_PER_HOST,
            gpu: &H200,
        },
    },
    Chip {
        name: "b200",
        description: "NVIDIA B200 SXM 192 GB",
        plugin: PluginKind::Cuda,
        device_kinds: &[B200.description],
        devices_per_chip: 1,
        memory_bytes: B200.memory_bytes,
        memory_bandwidth_bytes_per_second: B200.memory_bandwidth_bytes_per_second as f64,
        bf16_flops_per_second: 2250e12,
        link_bytes_per_second: 900e9,
        clock_hertz: None,
        price: Some(Price { on_demand: (5.50, 6.69), spot: None }),
        power_watts: Some(1000.0),
        hosting: Hosting::Hosts {
            gpus_per_host: 8,
            gpus_per_domain: 8,
            network_bytes_per_second: 50e9,
            counts: EIGHT_PER_HOST,
            gpu: &B200,
        },
    },
    Chip {
        name: "gb200",
        description: "NVIDIA GB200 (NVL72 trays of four)",
        plugin: PluginKind::Cuda,
        device_kinds: &[GB200.description],
        devices_per_chip: 1,
        memory_bytes: GB200.memory_bytes,
        memory_bandwidth_bytes_per_second: GB200.memory_bandwidth_bytes_per_second as f64,
        bf16_flops_per_second: 2500e12,
        link_bytes_per_second: 900e9,
        clock_hertz: None,
        price: None,
        power_watts: None,
        hosting: Hosting::Hosts {
            gpus_per_host: 4,
            gpus_per_domain: 72,
            network_bytes_per_second: 50e9,
            counts: FOUR_PER_HOST,
            gpu: &GB200,
        },
    },
];

pub fn find(name: &str) -> Option<&'static Chip> {
    CHIPS.iter().find(|chip| chip.name == name)
}

/// The chip that a plugin's device is of, by what the plugin calls it. Drivers differ in the vendor's
/// name, case, dashes and blanks, and in nothing else: a name with one word more or less is another chip
/// (`NVIDIA H100 PCIe` has three quarters of the rate, `NVIDIA A100-SXM4-40GB` half of the memory, a
/// part that MIG cuts off has less of everything), and for one that is not in the table there are no
/// figures rather than wrong ones.
pub fn of_device(device_kind: &str) -> Option<&'static Chip> {
    let words = words(device_kind);
    CHIPS.iter().find(|chip| chip.device_kinds.iter().any(|known| self::words(known) == words))
}

fn words(device_kind: &str) -> Vec<String> {
    let kind = device_kind.to_ascii_lowercase();
    let words = kind.split([' ', '-', '_']).filter(|word| !word.is_empty() && *word != "nvidia");
    words.map(str::to_string).collect()
}

/// What XLA's compiler wants to know of a GPU that is not there (the fields of its
/// `GpuTargetConfigProto` that differ between chips).
#[derive(Clone, Debug, PartialEq)]
pub struct Gpu {
    pub description: &'static str,
    pub generation: Generation,
    pub cores: u32,
    pub memory_bytes: u64,
    pub memory_bandwidth_bytes_per_second: u64,
    pub l2_cache_bytes: u64,
    pub clock_gigahertz: f64,
    pub matrix_clock_gigahertz: f64,
    pub pcie_bandwidth_bytes_per_second: u64,
    /// major, minor, patch
    pub dnn_version: [u32; 3],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    Ampere,
    Hopper,
    Blackwell,
}

const A100: Gpu = Gpu {
    description: "NVIDIA A100-SXM4-80GB",
    generation: Generation::Ampere,
    cores: 108,
    memory_bytes: 85_100_068_864,
    memory_bandwidth_bytes_per_second: 2_039_040_000_000,
    l2_cache_bytes: 41_943_040,
    clock_gigahertz: 1.41,
    matrix_clock_gigahertz: 1.41,
    pcie_bandwidth_bytes_per_second: 0,
    dnn_version: [8, 9, 4],
};

const H100: Gpu = Gpu {
    description: "NVIDIA H100 80GB HBM3",
    generation: Generation::Hopper,
    cores: 132,
    memory_bytes: 84_942_979_072,
    memory_bandwidth_bytes_per_second: 3_352_320_000_000,
    l2_cache_bytes: 52_428_800,
    clock_gigahertz: 1.98,
    matrix_clock_gigahertz: 1.8295201,
    pcie_bandwidth_bytes_per_second: 34_359_738_368,
    dnn_version: [8, 9, 4],
};

const H200: Gpu = Gpu {
    description: "NVIDIA H200 141GB HBM3e",
    generation: Generation::Hopper,
    cores: 132,
    memory_bytes: 151_397_597_184,
    memory_bandwidth_bytes_per_second: 4_800_000_000_000,
    l2_cache_bytes: 52_428_800,
    clock_gigahertz: 1.98,
    matrix_clock_gigahertz: 1.8295201,
    pcie_bandwidth_bytes_per_second: 34_359_738_368,
    dnn_version: [9, 10, 0],
};

const B200: Gpu = Gpu {
    description: "NVIDIA B200",
    generation: Generation::Blackwell,
    cores: 148,
    memory_bytes: 191_514_411_008,
    memory_bandwidth_bytes_per_second: 7_672_320_000_000,
    l2_cache_bytes: 132_644_864,
    clock_gigahertz: 1.965,
    matrix_clock_gigahertz: 1.8353101,
    pcie_bandwidth_bytes_per_second: 68_719_476_736,
    dnn_version: [9, 7, 0],
};

const GB200: Gpu = Gpu {
    description: "NVIDIA GB200",
    generation: Generation::Blackwell,
    cores: 152,
    memory_bytes: 197_897_748_480,
    memory_bandwidth_bytes_per_second: 7_928_064_000_000,
    l2_cache_bytes: 135_528_448,
    clock_gigahertz: 2.062,
    matrix_clock_gigahertz: 1.9259081,
    pcie_bandwidth_bytes_per_second: 2_147_483_648,
    dnn_version: [9, 15, 0],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_of_the_chip_that_its_name_says() {
        for (device_kind, chip) in [
            ("TPU v4", "v4"),
            ("TPU v5 lite", "v5e"),
            ("TPU v5e", "v5e"),
            ("TPU v5", "v5p"),
            ("TPU v5p", "v5p"),
            ("TPU v6 lite", "v6e"),
            ("TPU v6e", "v6e"),
            ("TPU7x", "tpu7x"),
            ("NVIDIA A100-SXM4-80GB", "a100"),
            // Older drivers leave out the vendor.
            ("A100-SXM4-80GB", "a100"),
            ("NVIDIA H100 80GB HBM3", "h100"),
            ("nvidia h100 80gb hbm3", "h100"),
            ("NVIDIA H200", "h200"),
            ("NVIDIA H200 141GB HBM3e", "h200"),
            ("NVIDIA B200", "b200"),
            ("NVIDIA GB200", "gb200"),
        ] {
            assert_eq!(of_device(device_kind).map(|chip| chip.name), Some(chip), "{device_kind}");
        }
    }

    #[test]
    fn a_device_that_is_not_in_the_table_is_of_no_chip() {
        for device_kind in [
            "",
            "cpu",
            "NVIDIA",
            "TPU",
            "TPU v2",
            "TPU v3",
            "TPU v4 lite",
            "TPU v6",
            // Other memory, and with it other bandwidth.
            "NVIDIA A100-SXM4-40GB",
            "NVIDIA A100-SXM-64GB",
            "NVIDIA A100-PCIE-40GB",
            "NVIDIA A100 80GB PCIe",
            "NVIDIA H100 NVL",
            "NVIDIA H100 PCIe",
            "NVIDIA H200 NVL",
            "NVIDIA GH200 480GB",
            // As fast in some things only.
            "NVIDIA A800-SXM4-80GB",
            "NVIDIA H800",
            "NVIDIA H20",
            // A model that says nothing of its form.
            "NVIDIA A100",
            "NVIDIA H100",
            // A part of one.
            "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
            "NVIDIA GeForce RTX 4090",
            "NVIDIA B300 SXM6 AC",
        ] {
            assert_eq!(of_device(device_kind).map(|chip| chip.name), None, "{device_kind}");
        }
    }

    /// Or a device would be of the first of two chips.
    #[test]
    fn no_two_chips_have_a_name_in_common() {
        let mut names: Vec<Vec<String>> =
            CHIPS.iter().flat_map(|chip| chip.device_kinds).map(|kind| words(kind)).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
