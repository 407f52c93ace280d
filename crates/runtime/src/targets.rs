//! What `v6e-16` or `h200-8` means: a chip, a number of them, and what the plugin's compiler is
//! told so that it compiles for them. Loads no plugin.

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;

use crate::chips::{self, Chip, Hosting};
use crate::discover::PluginKind;
use crate::gpu_target;
use crate::settings::{Setting, Settings};

/// Virtual CPU devices share one machine; more than this many help no one.
const CPU_DEVICES_MAX: usize = 256;

/// A number of chips of one kind. Spelled `<chip>-<number of chips>`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    pub chip: &'static Chip,
    pub chips: usize,
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
}

impl Target {
    /// Devices that the plugin shows for it.
    pub fn devices(&self) -> usize {
        self.chips * self.chip.devices_per_chip
    }

    /// Machines that it is spread over.
    pub fn hosts(&self) -> usize {
        match &self.chip.hosting {
            Hosting::Processor => 1,
            Hosting::Torus { slices, .. } => {
                let slice = slices.iter().find(|slice| slice.chips == self.chips);
                let per_host = slice.map_or(4, |slice| slice.host.iter().product::<i64>());
                self.chips.div_ceil(usize::try_from(per_host).unwrap_or(1).max(1))
            }
            Hosting::Hosts { gpus_per_host, .. } => self.chips.div_ceil(*gpus_per_host),
        }
    }

    pub fn plugin(&self) -> PluginKind {
        self.chip.plugin
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
                    set("chip_config_name", Setting::Text((*config).to_string()));
                }
                format!("{}:{}", self.chip.name, slice.bounds)
            }
            Hosting::Hosts { gpus_per_host, gpu, .. } => {
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
        Hosting::Hosts { counts, .. } => counts.to_vec(),
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
            (Hosting::Processor, 1) => formatter.write_str(self.chip.name),
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
            let known: Vec<&str> = chips::CHIPS.iter().map(|chip| chip.name).collect();
            return Err(TargetError::UnknownChip {
                name: name.to_string(),
                nearest: nearest(chip_name, count, &known),
                known: known.join(", "),
            });
        };
        let legal = || spell_counts(chip);
        let missing =
            || TargetError::NoCount { name: name.to_string(), chip: chip.name, legal: legal() };
        let count = match count {
            Some(count) => count.parse().map_err(|_| missing())?,
            None if chip.hosting == Hosting::Processor => 1,
            None => return Err(missing()),
        };
        if !legal_counts(chip).contains(&count) {
            return Err(TargetError::IllegalCount { chip: chip.name, count, legal: legal() });
        }
        Ok(Target { chip, chips: count })
    }
}

/// The known chip whose name is the fewest edits away, the longer common beginning deciding (`v6` is
/// as close to `v4` as to `v6e`), with the count that was asked for if it comes in that many.
fn nearest(chip: &str, count: Option<&str>, known: &[&str]) -> String {
    let in_common = |name: &str| chip.chars().zip(name.chars()).take_while(|(a, b)| a == b).count();
    let closeness = |name: &&&str| (edit_distance(chip, name), Reverse(in_common(name)));
    let best = known.iter().min_by_key(closeness).copied().unwrap_or("cpu");
    let count = count.and_then(|count| count.parse::<usize>().ok());
    let legal = chips::find(best).map(legal_counts).unwrap_or_default();
    match (count.filter(|count| legal.contains(count)), legal.first()) {
        (Some(count), _) | (None, Some(&count)) => format!("{best}-{count}"),
        (None, None) => best.to_string(),
    }
}

/// Levenshtein's distance in characters, ignoring case.
pub fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, character) in left.to_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, other) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(character != *other);
            diagonal = row[column + 1];
            row[column + 1] = substituted.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(name: &str) -> String {
        name.parse::<Target>().unwrap_err().to_string()
    }

    #[test]
    fn names_go_there_and_back() {
        for chip in chips::CHIPS {
            for count in legal_counts(chip) {
                let target = Target { chip, chips: count };
                assert_eq!(target.to_string().parse::<Target>().unwrap(), target);
            }
        }
    }

    #[test]
    fn slices_hold_as_many_chips_as_they_say() {
        for chip in chips::CHIPS {
            let Hosting::Torus { slices, .. } = &chip.hosting else { continue };
            for slice in *slices {
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
    fn distances() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("V5E", "v5e"), 0);
    }
}
