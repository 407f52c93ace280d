//! What of a config, or of a target, could be changed so that a step fits: the least first.

use runtime::Target;
use runtime::chips::{Chip, chips};
use runtime::targets::legal_counts;
use train::config::{Config, Remat};

/// A config for a target, and what was changed in it.
#[derive(Clone, Debug)]
pub struct Variant {
    pub target: Target,
    pub config: Config,
    /// As a user would write it: `training.remat = "full"`, `v5e-128 instead of v5e-64`.
    pub changes: Vec<String>,
}

impl Variant {
    pub fn as_asked(config: &Config, target: &Target) -> Variant {
        Variant { target: *target, config: config.clone(), changes: Vec::new() }
    }

    pub fn is_as_asked(&self) -> bool {
        self.changes.is_empty()
    }

    /// Whether so many bytes do not fit even if they are split evenly.
    pub fn is_hopeless(&self, total_bytes: u64) -> bool {
        let each = total_bytes / self.target.devices().max(1) as u64;
        self.target.memory_bytes_per_device().is_some_and(|has| each > has)
    }
}

/// As asked for; then with layers computed again; then in more parts; then in smaller batches; then on
/// more chips, in the same order; then on other chips of the same compiler that have more memory, the
/// fewest first.
pub fn variants(config: &Config, target: &Target) -> Vec<Variant> {
    let mut targets = vec![*target];
    // Virtual devices of one machine add no memory.
    if target.memory_bytes_per_device().is_some() {
        targets.extend(sizes(target.chip).filter(|larger| larger.chips > target.chips));
        let mut others: Vec<&'static Chip> = chips()
            .iter()
            .filter(|chip| chip.plugin == target.chip.plugin)
            .filter(|chip| chip.memory_bytes > target.chip.memory_bytes)
            .collect();
        others.sort_by_key(|chip| chip.memory_bytes);
        targets.extend(others.into_iter().flat_map(sizes));
    }
    targets.into_iter().flat_map(|other| on(config, target, other)).collect()
}

/// In every number that a chip comes in.
pub fn sizes(chip: &'static Chip) -> impl Iterator<Item = Target> {
    legal_counts(chip).into_iter().filter_map(move |chips| Target::new(chip, chips).ok())
}

fn on(config: &Config, asked: &Target, target: Target) -> Vec<Variant> {
    let more = (target != *asked).then(|| format!("{target} instead of {asked}"));
    let training = &config.training;
    let remats = match training.remat {
        Remat::Full => vec![Remat::Full],
        other => vec![other, Remat::Full],
    };
    let mut parts = vec![training.accumulation.max(1)];
    while let Some(&last) = parts.last()
        && training.batch_size.is_multiple_of(last * 2)
    {
        parts.push(last * 2);
    }
    let mut found = Vec::new();
    for &accumulation in &parts {
        for &remat in &remats {
            let mut changed = config.clone();
            let mut changes: Vec<String> = more.iter().cloned().collect();
            if remat != training.remat {
                changed.training.remat = remat;
                changes.push("training.remat = \"full\"".to_string());
            }
            if accumulation != training.accumulation.max(1) {
                changed.training.accumulation = accumulation;
                changes.push(format!("training.accumulation = {accumulation}"));
            }
            found.push(Variant { target, config: changed, changes });
        }
    }
    found.extend(smaller(config, target, &more));
    found
}

/// With layers computed again, and half of the batch, a quarter, and so on.
fn smaller(config: &Config, target: Target, more: &Option<String>) -> Vec<Variant> {
    let halves = |&size: &usize| (size % 2 == 0).then_some(size / 2);
    std::iter::successors(halves(&config.training.batch_size), halves)
        .filter(|size| size.is_multiple_of(config.training.accumulation.max(1)))
        .map(|size| {
            let mut changed = config.clone();
            let mut changes: Vec<String> = more.iter().cloned().collect();
            if config.training.remat != Remat::Full {
                changed.training.remat = Remat::Full;
                changes.push("training.remat = \"full\"".to_string());
            }
            changed.training.batch_size = size;
            changes.push(format!("training.batch_size = {size}"));
            Variant { target, config: changed, changes }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(set: &[&str]) -> Config {
        let sets: Vec<String> = set.iter().map(ToString::to_string).collect();
        let text = "[model]\nshape = \"llama3-8b\"\n[[data.sources]]\npath = \"x\"\n";
        Config::parse(text, &sets, "x").unwrap()
    }

    fn changes(set: &[&str], target: &str) -> Vec<String> {
        let found = variants(&config(set), &target.parse().unwrap());
        found.iter().map(|variant| variant.changes.join(", ")).collect()
    }

    #[test]
    fn the_least_change_comes_first() {
        let found = changes(&["training.batch_size=4"], "v5e-128");
        let expected = [
            "",
            "training.remat = \"full\"",
            "training.accumulation = 2",
            "training.remat = \"full\", training.accumulation = 2",
            "training.accumulation = 4",
            "training.remat = \"full\", training.accumulation = 4",
            "training.remat = \"full\", training.batch_size = 2",
            "training.remat = \"full\", training.batch_size = 1",
            "v5e-256 instead of v5e-128",
        ];
        assert_eq!(found[..9], expected);
        assert!(found[16].contains("instead of v5e-128"), "{:?}", &found[16..18]);
        assert!(found.iter().any(|changes| changes.starts_with("v6e-")), "{found:?}");
        assert!(!found.iter().any(|changes| changes.starts_with("h100")), "{found:?}");
    }

    #[test]
    fn one_machine_does_not_grow() {
        let set = ["training.batch_size=1", "training.remat=\"full\""];
        assert_eq!(changes(&set, "cpu"), [""]);
    }
}
