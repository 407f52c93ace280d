//! The chips that programs can be compiled for: what they are, how many of them come together, what
//! they cost. All of it is data, in `chips/catalog.toml` and `chips/prices.toml`, and a user's own file
//! goes over it; how a plugin is told about a chip is `targets`.
//!
//! Counts are chips, never cores: a `tpu7x` chip is two devices, and Google's own `v4-8`, `v5p-8`
//! and `tpu7x-8` count cores and mean four chips.

mod catalog;
mod document;
mod draft;
mod error;
mod hardware;
pub mod names;
mod price;
mod quantity;
mod read;
#[cfg(test)]
mod tests;

use crate::discover::PluginKind;

pub use catalog::{CATALOG_VARIABLE, Catalog, catalog, use_file};
pub use error::{CatalogError, Problem};
pub use price::{Basis, Price, PriceRange, Provider, Purchase, Stated};

/// One kind of chip.
#[derive(Clone, Debug, PartialEq)]
pub struct Chip {
    pub name: String,
    /// The chip of the same compiler that it is compiled as: its own name, but for a chip that a user
    /// describes as like another.
    pub compiles_as: String,
    pub description: String,
    /// Of which plugin the compiler is; none for a chip that nothing here compiles for.
    pub plugin: Option<PluginKind>,
    /// What plugins call a device of this kind ([`of_device`]), the usual name first; none where that
    /// varies.
    pub device_kinds: Vec<String>,
    /// Devices that the plugin shows per chip.
    pub devices_per_chip: usize,
    /// Memory of one chip, in bytes, as its data sheet says. What a program may use is less: a
    /// compiler's own figure replaces this one where it gives one.
    pub memory_bytes: u64,
    /// Peak memory bandwidth of one chip, in bytes per second.
    pub memory_bandwidth_bytes_per_second: f64,
    /// Peak dense bf16 rate of one chip, in operations per second (a multiply-add is two).
    pub bf16_flops_per_second: f64,
    /// As for bf16, of 8-bit integers; none where none is published.
    pub int8_operations_per_second: Option<f64>,
    /// As for bf16, of 8-bit floats; none where none is published.
    pub fp8_flops_per_second: Option<f64>,
    /// Peak of one chip's links to other chips, one way, all links, in bytes per second.
    pub link_bytes_per_second: f64,
    /// Of the network between hosts, one way, for each chip, in bytes per second; none where none is
    /// published.
    pub network_bytes_per_second: Option<f64>,
    /// Clock of the matrix units in Hz, to turn the compiler's cycles into seconds; see
    /// [`Chip::clock_was_checked`].
    pub clock_hertz: Option<f64>,
    clock_checked: bool,
    /// The most that one chip draws, in watts, without its host and cooling; none where the vendor
    /// does not say.
    pub power_watts: Option<f64>,
    /// What one chip draws while it holds a program and has nothing to do, in watts; none where nobody
    /// published a measurement.
    pub idle_watts: Option<f64>,
    pub hosting: Hosting,
    /// Every listed price, in the order of the catalog.
    pub prices: Vec<Price>,
    /// The figures as they were written, with their sources.
    pub figures: Vec<Figure>,
    /// Where it is from how many come together.
    pub hosts_basis: Option<Basis>,
}

/// A figure of a chip as the catalog has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// The key, such as `memory`.
    pub name: &'static str,
    /// In the unit that the program counts in.
    pub value: f64,
    /// With its unit, such as `32 GiB`.
    pub text: String,
    pub basis: Basis,
}

impl Chip {
    /// Whether the clock makes the compiler's cycles of known programs plausible; other clocks are as
    /// reported elsewhere.
    pub fn clock_was_checked(&self) -> bool {
        self.clock_checked
    }

    /// List prices of capacity by the hour that nobody takes back; none where none is listed.
    pub fn on_demand(&self) -> Option<PriceRange<'_>> {
        self.price_range(|price| price.purchase == Purchase::OnDemand)
    }

    /// Of capacity that can be taken back at any time; none where none is listed.
    pub fn spot(&self) -> Option<PriceRange<'_>> {
        self.price_range(|price| price.purchase == Purchase::Spot)
    }

    /// The range of the prices that are wanted.
    pub fn price_range(&self, wanted: impl Fn(&Price) -> bool) -> Option<PriceRange<'_>> {
        let wanted: Vec<&Price> = self.prices.iter().filter(|price| wanted(price)).collect();
        PriceRange::of(wanted.into_iter())
    }

    /// The most chips of one host.
    pub fn chips_per_host(&self) -> usize {
        match &self.hosting {
            Hosting::Processor => 1,
            Hosting::Torus { slices, .. } => {
                slices.iter().map(Slice::chips_per_host).max().unwrap_or(1)
            }
            Hosting::Hosts { gpus_per_host, .. } => *gpus_per_host,
        }
    }

    /// Whether a plugin's name for a device is one of this chip's.
    fn is_called(&self, device_kind: &str) -> bool {
        let wanted = words(device_kind);
        self.device_kinds.iter().any(|known| words(known) == wanted)
    }
}

/// How chips are put together into machines.
#[derive(Clone, Debug, PartialEq)]
pub enum Hosting {
    /// Virtual devices of this machine's processor.
    Processor,
    /// A torus: for each legal count its bounds, and the part of it on one host.
    Torus { slices: Vec<Slice>, config: Option<String> },
    /// Hosts of up to this many GPUs.
    Hosts {
        gpus_per_host: usize,
        /// GPUs that the fast links join; beyond, data goes over the network.
        gpus_per_domain: usize,
        /// Of the network between domains, one way, for each GPU, in bytes per second.
        network_bytes_per_second: f64,
        counts: Vec<usize>,
        /// None for a chip that nothing here compiles for.
        gpu: Option<Gpu>,
    },
}

/// A number of TPU chips that can be rented together, or a part of one host of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    pub chips: usize,
    /// As in the topology's name, such as `2x2x4`.
    pub bounds: String,
    /// Chips of one host in each direction.
    pub host: [i64; 3],
}

impl Slice {
    pub fn chips_per_host(&self) -> usize {
        self.host.iter().product::<i64>().unsigned_abs() as usize
    }
}

/// Every chip of the catalog, in the order in which lists show them.
pub fn chips() -> &'static [Chip] {
    &catalog().chips
}

pub fn find(name: &str) -> Option<&'static Chip> {
    catalog().find(name)
}

/// The chip that a plugin's device is of, by what the plugin calls it. Drivers differ in the vendor's
/// name, case, dashes and blanks, and in nothing else: a name with one word more or less is another chip
/// (`NVIDIA H100 PCIe` has three quarters of the rate, `NVIDIA A100-SXM4-40GB` half of the memory, a
/// part that MIG cuts off has less of everything), and for one that is not in the table there are no
/// figures rather than wrong ones.
pub fn of_device(device_kind: &str) -> Option<&'static Chip> {
    chips().iter().find(|chip| chip.is_called(device_kind))
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
    pub description: String,
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
