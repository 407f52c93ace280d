//! Which checkpoints stay, and removing the others, and what interrupted saves left. Nothing is removed
//! that could be a checkpoint someone relies on: manifests go first, and files without a manifest go
//! only if their names are ours.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::error::CheckpointError;
use super::load::Checkpoint;
use super::names::{self, MANIFEST};
use super::store::Store;

/// Which checkpoints to keep. The one just saved always stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// So many of the newest; 0 counts as 1.
    pub last: usize,
    /// Besides, so many of those with the lowest metric.
    pub best: usize,
}

impl Keep {
    pub const ALL: Keep = Keep { last: usize::MAX, best: 0 };
}

/// The steps that need not stay, now that `saved` is there. Later steps are from another attempt of
/// the run and not judged.
pub(super) fn superfluous(
    metrics: &BTreeMap<u64, Option<f64>>,
    saved: u64,
    keep: Keep,
) -> Vec<u64> {
    let mut kept: Vec<u64> =
        metrics.range(..=saved).rev().map(|(step, _)| *step).take(keep.last.max(1)).collect();
    let known = metrics.range(..=saved).filter_map(|(step, metric)| Some((*step, (*metric)?)));
    let mut best: Vec<(u64, f64)> = known.filter(|(_, metric)| !metric.is_nan()).collect();
    // Of equals the later one: it has seen more data.
    best.sort_by(|left, right| left.1.total_cmp(&right.1).then(right.0.cmp(&left.0)));
    kept.extend(best.iter().take(keep.best).map(|(step, _)| step));
    metrics.range(..=saved).map(|(step, _)| *step).filter(|step| !kept.contains(step)).collect()
}

/// Removes a checkpoint: first the manifest, so that it is never half a checkpoint.
pub(super) fn remove(store: &dyn Store, step: u64) -> Result<(), CheckpointError> {
    let folder = names::folder(step);
    store.delete(&format!("{folder}/{MANIFEST}"))?;
    for name in store.files(&folder)? {
        if names::is_unfinished(&name) {
            store.delete(&format!("{folder}/{name}"))?;
        }
    }
    Ok(store.delete_empty_folder(&folder)?)
}

/// Removes what interrupted saves left: in folders of ours, files with names of ours that no manifest
/// mentions. Nobody may be saving meanwhile.
pub(super) fn sweep(store: &Arc<dyn Store>) -> Result<(), CheckpointError> {
    for folder in store.folders()? {
        if let Some(step) = names::step(&folder) {
            sweep_step(store, step)?;
        }
    }
    Ok(())
}

/// As [`sweep`], of one step.
pub(super) fn sweep_step(store: &Arc<dyn Store>, step: u64) -> Result<(), CheckpointError> {
    let folder = names::folder(step);
    let files = store.files(&folder)?;
    let unfinished = files.iter().filter(|name| names::is_unfinished(name));
    let mut unfinished: Vec<&String> = unfinished.collect();
    if files.iter().any(|name| name == MANIFEST) {
        // A damaged manifest does not say what is its own: then nothing is touched.
        let Ok(checkpoint) = Checkpoint::open(store, step) else { return Ok(()) };
        let own = &checkpoint.manifest().files;
        unfinished.retain(|name| own.iter().all(|file| file.name != **name));
    }
    for name in unfinished {
        store.delete(&format!("{folder}/{name}"))?;
    }
    Ok(store.delete_empty_folder(&folder)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn metrics(of: &[(u64, f64)]) -> BTreeMap<u64, Option<f64>> {
        of.iter().map(|&(step, metric)| (step, (metric >= 0.0).then_some(metric))).collect()
    }

    #[test]
    fn the_newest_and_the_best_stay() {
        let of = metrics(&[(10, 3.0), (20, 1.0), (30, 2.0), (40, 1.0), (50, -1.0), (60, 4.0)]);
        let superfluous = |last, best| superfluous(&of, 60, Keep { last, best });
        assert_eq!(superfluous(2, 0), [10, 20, 30, 40]);
        assert_eq!(superfluous(2, 1), [10, 20, 30]);
        assert_eq!(superfluous(2, 3), [10]);
        assert_eq!(superfluous(0, 0), [10, 20, 30, 40, 50]);
        assert_eq!(super::superfluous(&of, 60, Keep::ALL), [0; 0]);
    }

    #[test]
    fn later_steps_are_another_attempts() {
        let of = metrics(&[(10, 3.0), (20, 3.0), (90, 1.0), (100, 1.0)]);
        assert_eq!(superfluous(&of, 20, Keep { last: 1, best: 1 }), [10]);
    }

    proptest! {
        #[test]
        fn what_was_just_saved_stays(
            steps in proptest::collection::btree_map(0u64..20, proptest::option::of(0.0..9.0), 1..9),
            last in 0usize..4, best in 0usize..4, saved: prop::sample::Index,
        ) {
            let saved = *steps.keys().nth(saved.index(steps.len())).unwrap();
            let gone = superfluous(&steps, saved, Keep { last, best });
            prop_assert!(gone.iter().all(|step| *step < saved));
            let before = steps.range(..=saved).count();
            prop_assert!(before - gone.len() <= last.max(1) + best);
            prop_assert!(before - gone.len() >= before.min(last.max(1)));
        }
    }
}
