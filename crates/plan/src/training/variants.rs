//! What of a config, or of a target, could be changed so that a step fits: the least first.

use runtime::Target;
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

/// As asked for; then with layers computed again; then in more parts; then on more chips, in the same
/// order.
pub fn variants(config: &Config, target: &Target) -> Vec<Variant> {
    let counts = legal_counts(target.chip).into_iter();
    // Virtual devices of one machine add no memory.
    let grows = target.memory_bytes_per_device().is_some();
    let targets = counts
        .filter(|&chips| chips == target.chips || grows && chips > target.chips)
        .filter_map(|chips| Target::new(target.chip, chips).ok());
    targets.flat_map(|larger| on(config, target, larger)).collect()
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
    found
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
            "v5e-256 instead of v5e-128",
        ];
        assert_eq!(found[..7], expected);
        assert_eq!(found.len(), 12);
    }

    #[test]
    fn one_machine_does_not_grow() {
        let set = ["training.batch_size=1", "training.remat=\"full\""];
        assert_eq!(changes(&set, "cpu"), [""]);
    }
}
