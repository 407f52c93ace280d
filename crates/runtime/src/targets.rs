//! What `v6e-16` or `h200-8` means: a chip, a number of them, and what the plugin's compiler is
//! told so that it compiles for them. Loads no plugin.

use std::fmt;
use std::str::FromStr;

use crate::chips::{self, Chip, Hosting, Slice, names};
use crate::discover::PluginKind;
use crate::gpu_target;
use crate::settings::{Setting, Settings};

/// Virtual CPU devices share one machine; more than this many help no one.
const CPU_DEVICES_MAX: usize = 256;

/// A number of chips of one kind that can be compiled for. Spelled `<chip>-<number of chips>`.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub chip: &'static Chip,
    pub chips: usize,
    plugin: PluginKind,
}

/// Chips are told apart by name.
impl PartialEq for Target {
    fn eq(&self, other: &Target) -> bool {
        (&self.chip.name, self.chips) == (&other.chip.name, other.chips)
    }
}

/// What a plugin is asked for in order to compile without a device.
#[derive(Clone, Debug, PartialEq)]
pub struct TopologyRequest {
    pub name: String,
    pub options: Settings,
}

#[derive(Debug, PartialEq, thiserror::Error)]
pub enum TargetError {
    #[error(
        "there is no target `{name}`; did you mean `{nearest}`? Known chips: {known}, each followed by a number of chips, such as v5e-8"
    )]
    UnknownChip { name: String, nearest: String, known: String },
    #[error("`{name}` does not say how many chips; write `{chip}-` and one of {legal}")]
    NoCount { name: String, chip: &'static str, legal: String },
    #[error(
        "{chip} does not come in {count} chips; use one of {legal} (counts are chips, not cores)"
    )]
    IllegalCount { chip: &'static str, count: usize, legal: String },
    /// A name of a provider's, whose counts mean something else there.
    #[error("`{name}` is {provider}'s name for what is called `{ours}` here: {counts}")]
    ForeignName { name: String, provider: &'static str, ours: String, counts: String },
    /// It is in the catalog for its figures and prices.
    #[error(
        "nothing here compiles for {chip} ({description}), so {target} cannot be sized or timed; `fungible chips {chip}` shows its figures and prices"
    )]
    NoCompiler { target: String, chip: &'static str, description: &'static str },
}

impl Target {
    /// # Errors
    /// A number that the chip does not come in, and a chip that nothing here compiles for.
    pub fn new(chip: &'static Chip, chips: usize) -> Result<Target, TargetError> {
        if !legal_counts(chip).contains(&chips) {
            let legal = spell_counts(chip);
            return Err(TargetError::IllegalCount { chip: &chip.name, count: chips, legal });
        }
        match chip.plugin {
            Some(plugin) => Ok(Target { chip, chips, plugin }),
            None => Err(TargetError::NoCompiler {
                target: format!("{}-{chips}", chip.name),
                chip: &chip.name,
                description: &chip.description,
            }),
        }
    }

    /// Devices that the plugin shows for it.
    pub fn devices(&self) -> usize {
        self.chips * self.chip.devices_per_chip
    }

    pub fn plugin(&self) -> PluginKind {
        self.plugin
    }

    /// Machines that it takes.
    pub fn hosts(&self) -> usize {
        let per_host = match &self.chip.hosting {
            Hosting::Processor => return 1,
            Hosting::Torus { slices, .. } => {
                let slice = slices.iter().find(|slice| slice.chips == self.chips);
                slice.map_or(self.chip.chips_per_host(), Slice::chips_per_host)
            }
            Hosting::Hosts { gpus_per_host, .. } => *gpus_per_host,
        };
        self.chips.div_ceil(per_host)
    }

    /// Memory of one device, in bytes, as the data sheet says; nothing for the processor.
    pub fn memory_bytes_per_device(&self) -> Option<u64> {
        let per_device = self.chip.memory_bytes / self.chip.devices_per_chip as u64;
        (per_device > 0).then_some(per_device)
    }

    /// What to create a topology from; nothing for the processor, which needs none.
    pub fn topology(&self) -> Option<TopologyRequest> {
        let mut options = Settings::new();
        let mut set = |name: &str, setting| options.push((name.to_string(), setting));
        let name = match &self.chip.hosting {
            Hosting::Processor => return None,
            Hosting::Torus { slices, config } => {
                let slice = slices.iter().find(|slice| slice.chips == self.chips)?;
                // Always given: older libtpus refuse slices smaller than a host without it.
                set("chips_per_host_bounds", Setting::Integers(slice.host.to_vec()));
                if let Some(config) = config {
                    set("chip_config_name", Setting::Text(config.clone()));
                }
                format!("{}:{}", self.chip.compiles_as, slice.bounds)
            }
            Hosting::Hosts { gpus_per_host, gpu, .. } => {
                let gpu = gpu.as_ref()?;
                let hosts = self.chips.div_ceil(*gpus_per_host);
                let per_host = self.chips.min(*gpus_per_host);
                // partitions x hosts x devices per host
                set("topology", Setting::Text(format!("1x{hosts}x{per_host}")));
                set("target_config", Setting::Text(gpu_target::target_config(gpu)));
                self.to_string()
            }
        };
        Some(TopologyRequest { name, options })
    }
}

/// Every number of chips that the chip comes in; for the processor, up to how many devices.
pub fn legal_counts(chip: &Chip) -> Vec<usize> {
    match &chip.hosting {
        Hosting::Processor => (1..=CPU_DEVICES_MAX).collect(),
        Hosting::Torus { slices, .. } => slices.iter().map(|slice| slice.chips).collect(),
        Hosting::Hosts { counts, .. } => counts.clone(),
    }
}

fn spell_counts(chip: &Chip) -> String {
    if chip.hosting == Hosting::Processor {
        return format!("1 to {CPU_DEVICES_MAX}");
    }
    let counts: Vec<String> = legal_counts(chip).iter().map(usize::to_string).collect();
    counts.join(", ")
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.chip.hosting, self.chips) {
            (Hosting::Processor, 1) => formatter.write_str(&self.chip.name),
            (_, chips) => write!(formatter, "{}-{chips}", self.chip.name),
        }
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(name: &str) -> Result<Target, TargetError> {
        let (chip_name, count) = match name.rsplit_once('-') {
            Some((chip, count)) => (chip, Some(count)),
            None => (name, None),
        };
        let Some(chip) = chips::find(chip_name) else {
            if let Some(foreign) = foreign_name(name) {
                return Err(foreign);
            }
            let known = chips::chips().iter().filter(|chip| chip.plugin.is_some());
            let known: Vec<&str> = known.map(|chip| chip.name.as_str()).collect();
            return Err(TargetError::UnknownChip {
                name: name.to_string(),
                nearest: nearest(chip_name, count, &known),
                known: known.join(", "),
            });
        };
        let count = match count {
            Some(count) => count.parse().ok(),
            None if chip.hosting == Hosting::Processor => Some(1),
            None => None,
        };
        let Some(count) = count else {
            let legal = spell_counts(chip);
            return Err(TargetError::NoCount { name: name.to_string(), chip: &chip.name, legal });
        };
        Target::new(chip, count)
    }
}

/// What a name means that is not ours but a provider's.
fn foreign_name(name: &str) -> Option<TargetError> {
    let lower = name.to_ascii_lowercase();
    let (kind, count) = lower.rsplit_once('-')?;
    let count: usize = count.parse().ok()?;
    // Google's names with and without the prefix that SkyPilot gives them, in chips or in cores, of
    // which these chips have two.
    let (chip, cores_per_chip) = match kind {
        "v5litepod" | "v5lite" | "tpu-v5litepod" => ("v5e", 1),
        "tpu-v6e" => ("v6e", 1),
        "tpu-v4" => ("v4", 2),
        "tpu-v5p" => ("v5p", 2),
        "tpu-7x" | "tpu-tpu7x" => ("tpu7x", 2),
        _ => return None,
    };
    let counts = match cores_per_chip {
        1 => "both count chips".to_string(),
        _ => format!("{count} counts cores there and chips here, two cores each"),
    };
    let chips = count.div_ceil(cores_per_chip);
    let ours = format!("{chip}-{chips}");
    Some(TargetError::ForeignName { name: name.to_string(), provider: "Google", ours, counts })
}

/// The known chip that is meant, with the count that was asked for if it comes in that many.
fn nearest(chip: &str, count: Option<&str>, known: &[&str]) -> String {
    let best = names::nearest(chip, known.iter().copied()).unwrap_or("cpu");
    let count = count.and_then(|count| count.parse::<usize>().ok());
    let legal = chips::find(best).map(legal_counts).unwrap_or_default();
    match (count.filter(|count| legal.contains(count)), legal.first()) {
        (Some(count), _) | (None, Some(&count)) => format!("{best}-{count}"),
        (None, None) => best.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(name: &str) -> String {
        name.parse::<Target>().unwrap_err().to_string()
    }

    #[test]
    fn names_go_there_and_back() {
        for chip in chips::chips().iter().filter(|chip| chip.plugin.is_some()) {
            for count in legal_counts(chip) {
                let target = Target::new(chip, count).unwrap();
                assert_eq!(target.to_string().parse::<Target>().unwrap(), target);
            }
        }
    }

    #[test]
    fn slices_hold_as_many_chips_as_they_say() {
        for chip in chips::chips() {
            let Hosting::Torus { slices, .. } = &chip.hosting else { continue };
            for slice in slices {
                let product: usize =
                    slice.bounds.split('x').map(|part| part.parse::<usize>().unwrap()).product();
                assert_eq!(product, slice.chips, "{} {}", chip.name, slice.bounds);
                let host: i64 = slice.host.iter().product();
                assert_eq!(slice.chips as i64 % host, 0, "{} {}", chip.name, slice.bounds);
            }
        }
    }

    #[test]
    fn a_misspelt_chip_gets_a_suggestion() {
        assert!(error("v6-16").contains("did you mean `v6e-16`?"), "{}", error("v6-16"));
        assert!(error("H100x-8").contains("did you mean `h100-8`?"), "{}", error("H100x-8"));
        assert!(error("tpu7-3").contains("did you mean `tpu7x-1`?"), "{}", error("tpu7-3"));
    }

    #[test]
    fn an_illegal_count_lists_the_legal_ones() {
        assert_eq!(
            error("v5e-3"),
            "v5e does not come in 3 chips; use one of 1, 4, 8, 16, 32, 64, 128, 256 (counts are chips, not cores)"
        );
        assert!(error("h100").contains("write `h100-` and one of 1, 2, 4, 8"), "{}", error("h100"));
        assert!(error("cpu-0").contains("use one of 1 to 256"), "{}", error("cpu-0"));
    }

    #[test]
    fn topologies_are_what_the_plugins_take() {
        let topology = |name: &str| name.parse::<Target>().unwrap().topology().unwrap();
        assert_eq!(topology("v5e-8").name, "v5e:2x4");
        assert_eq!(topology("tpu7x-4").name, "tpu7x:2x2x1");
        let nodes = |name: &str| topology(name).options[0].clone();
        let text = |text: &str| ("topology".to_string(), Setting::Text(text.to_string()));
        assert_eq!(nodes("h100-8"), text("1x1x8"));
        assert_eq!(nodes("h100-16"), text("1x2x8"));
        assert_eq!(nodes("gb200-8"), text("1x2x4"));
        assert!("cpu-8".parse::<Target>().unwrap().topology().is_none());
    }

    #[test]
    fn names_of_providers_are_explained() {
        assert_eq!(
            error("v5litepod-16"),
            "`v5litepod-16` is Google's name for what is called `v5e-16` here: both count chips"
        );
        assert_eq!(
            error("tpu-v5p-16"),
            "`tpu-v5p-16` is Google's name for what is called `v5p-8` here: 16 counts cores there and chips here, two cores each"
        );
        assert!(error("v5lite-x").contains("did you mean `v5e-1`?"), "{}", error("v5lite-x"));
    }

    #[test]
    fn a_chip_without_a_compiler_is_no_target() {
        assert_eq!(
            error("mi300x-8"),
            "nothing here compiles for mi300x (AMD Instinct MI300X), so mi300x-8 cannot be sized or timed; `fungible chips mi300x` shows its figures and prices"
        );
        assert!(error("mi300x-3").contains("does not come in 3 chips"));
    }

    #[test]
    fn a_chip_of_ones_own_is_compiled_as_the_one_that_it_is_like() {
        let text = "[[chip]]\nname = \"v6e.ours\"\nlike = \"v6e\"\n\
                    [[chip]]\nname = \"h100-nvl\"\nlike = \"h100\"\nmemory = \"94 GB\"\n";
        let catalog = chips::Catalog::with("my.toml".as_ref(), text).unwrap();
        // Chips live as long as the process, as those of its own catalog do.
        let catalog: &'static chips::Catalog = Box::leak(Box::new(catalog));
        let topology = |name: &str| {
            let target = Target::new(catalog.find(name).unwrap(), 8).unwrap();
            (target.to_string(), target.topology().unwrap())
        };
        let (name, request) = topology("v6e.ours");
        assert_eq!((name.as_str(), request.name.as_str()), ("v6e.ours-8", "v6e:2x4"));
        let (name, request) = topology("h100-nvl");
        assert_eq!(name, "h100-nvl-8");
        let Setting::Text(config) = &request.options[1].1 else { panic!("{request:?}") };
        assert!(config.contains("device_memory_size: 94000000000"), "{config}");
        assert!(config.contains("name: \"NVIDIA H100 80GB HBM3\""), "{config}");
    }

    #[test]
    fn hosts_are_counted() {
        let hosts = |name: &str| name.parse::<Target>().unwrap().hosts();
        for (name, count) in [
            ("cpu-8", 1),
            ("v5e-1", 1),
            ("v5e-8", 1),
            ("v5e-16", 4),
            ("v5p-2", 1),
            ("tpu7x-64", 16),
            ("h100-4", 1),
            ("h100-16", 2),
            ("gb200-72", 18),
        ] {
            assert_eq!(hosts(name), count, "{name}");
        }
    }
}
