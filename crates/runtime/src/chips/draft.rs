//! A chip while files say more and more of it, and what must have been said in the end. Knows neither
//! files nor keys' spelling.

use super::error::{CatalogError, Problem};
use super::price::{Basis, Price};
use super::{Chip, Figure, Gpu, Hosting, Slice};
use crate::discover::PluginKind;

/// A chip of which some file may not have said everything yet.
#[derive(Clone, Default)]
pub(super) struct ChipDraft {
    pub name: String,
    pub compiles_as: String,
    pub description: String,
    pub plugin: Option<PluginKind>,
    pub device_kinds: Vec<String>,
    pub devices_per_chip: usize,
    pub figures: Vec<Figure>,
    pub clock_checked: bool,
    pub hosts: Option<Basis>,
    pub slices: Vec<Slice>,
    pub config: Option<String>,
    pub counts: Vec<usize>,
    pub chips_per_host: usize,
    pub chips_per_domain: usize,
    pub gpu: Option<Gpu>,
    /// Where the last file speaks of it, for messages.
    pub file: String,
    pub line: usize,
}

impl ChipDraft {
    /// # Errors
    /// When too little is said of it.
    pub fn finish(self, prices: Vec<Price>) -> Result<Chip, CatalogError> {
        let wrong = |problem| CatalogError::Wrong {
            file: self.file.clone(),
            line: self.line,
            problem: Box::new(problem),
        };
        let section = format!("the chip {}", self.name);
        let figure = |name| self.figures.iter().find(|figure| figure.name == name);
        let value = |name| figure(name).map(|figure| figure.value);
        let is_processor = self.plugin == Some(PluginKind::Cpu);
        // Nothing is listed of the processor: it is asked and measured.
        let required = |name: &'static str| match value(name).filter(|value| *value > 0.0) {
            Some(value) => Ok(value),
            None if is_processor => Ok(0.0),
            None => {
                let hint =
                    "add it with its unit; what it computes with cannot be guessed".to_string();
                Err(wrong(Problem::Missing { key: name, section: section.clone(), hint }))
            }
        };
        let memory_bytes = required("memory")? as u64;
        let bandwidth = required("memory_bandwidth")?;
        let network = value("network");
        let hosting = if is_processor {
            Hosting::Processor
        } else if !self.slices.is_empty() {
            Hosting::Torus { slices: self.slices.clone(), config: self.config.clone() }
        } else if !self.counts.is_empty() && self.chips_per_host > 0 {
            let gpu = self.gpu.clone().map(|gpu| Gpu {
                memory_bytes,
                memory_bandwidth_bytes_per_second: bandwidth as u64,
                ..gpu
            });
            if gpu.is_none() && self.plugin.is_some() {
                let hint = "add [chip.compiler], or plugin = \"none\"".to_string();
                return Err(wrong(Problem::Missing { key: "compiler", section, hint }));
            }
            Hosting::Hosts {
                gpus_per_host: self.chips_per_host,
                gpus_per_domain: self.chips_per_domain.max(self.chips_per_host),
                network_bytes_per_second: required("network")?,
                counts: self.counts.clone(),
                gpu,
            }
        } else {
            let hint = "give a list of [slices], or `counts` and `chips_per_host`".to_string();
            return Err(wrong(Problem::Missing { key: "slices", section, hint }));
        };
        Ok(Chip {
            plugin: self.plugin,
            devices_per_chip: self.devices_per_chip.max(1),
            memory_bytes,
            memory_bandwidth_bytes_per_second: bandwidth,
            bf16_flops_per_second: required("bf16")?,
            int8_operations_per_second: value("int8"),
            fp8_flops_per_second: value("fp8"),
            link_bytes_per_second: required("links")?,
            network_bytes_per_second: network,
            clock_hertz: value("clock"),
            clock_checked: self.clock_checked,
            power_watts: value("power"),
            idle_watts: value("idle_power"),
            hosting,
            prices,
            hosts_basis: self.hosts,
            name: self.name,
            compiles_as: self.compiles_as,
            description: self.description,
            device_kinds: self.device_kinds,
            figures: self.figures,
        })
    }
}
