//! What the files and folders of a checkpoint are called, and which of them are therefore ours.

use super::store::UNFINISHED;

pub(super) const MANIFEST: &str = "manifest.json";

/// `step-00000040`. Later steps come later in the alphabet, up to a hundred million.
pub(super) fn folder(step: u64) -> String {
    format!("step-{step:08}")
}

/// The step that a folder is named after, if it is one of ours.
pub(super) fn step(name: &str) -> Option<u64> {
    let step = name.strip_prefix("step-")?.parse().ok()?;
    // Other spellings of the number are not ours.
    (folder(step) == name).then_some(step)
}

/// The file of one process. `attempt` sets it apart from those of other attempts at the same step, so
/// that an existing checkpoint is never written over.
pub(super) fn data_file(process_index: usize, process_count: usize, attempt: u32) -> String {
    format!("data-{process_index:05}-of-{process_count:05}-{attempt:08x}.safetensors")
}

/// Whether the name is one that [`data_file`] gives.
pub(super) fn is_data_file(name: &str) -> bool {
    let parsed = || {
        let inner = name.strip_prefix("data-")?.strip_suffix(".safetensors")?;
        let (index, rest) = inner.split_once("-of-")?;
        let (count, attempt) = rest.split_once('-')?;
        let attempt = u32::from_str_radix(attempt, 16).ok()?;
        Some(data_file(index.parse().ok()?, count.parse().ok()?, attempt))
    };
    parsed().as_deref() == Some(name)
}

/// Whether a file of this name stays behind when a save is interrupted.
pub(super) fn is_unfinished(name: &str) -> bool {
    is_data_file(name) || name.strip_suffix(UNFINISHED) == Some(MANIFEST)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_our_own_names_are_ours() {
        assert_eq!(folder(40), "step-00000040");
        assert_eq!(step("step-123456789"), Some(123_456_789));
        for other in ["step-40", "step-+0000040", "step-", "step-00000040x", "steps", ""] {
            assert_eq!(step(other), None, "{other}");
        }
        for other in [
            "data-00000-of-00002.safetensors",
            "data-0-of-2-12345678.safetensors",
            "data-00000-of-00002-1234567G.safetensors",
            "data-00000-of-00002-12345678.safetensors.bak",
            "../data-00000-of-00002-12345678.safetensors",
            "manifest.json",
            "notes.txt",
        ] {
            assert!(!is_unfinished(other), "{other}");
        }
        assert!(is_unfinished("manifest.json.new"));
    }

    proptest! {
        #[test]
        fn what_is_named_is_recognized(at in 0u64..u64::MAX, index in 0usize..200_000, attempt: u32) {
            prop_assert_eq!(step(&folder(at)), Some(at));
            let name = data_file(index, index + 1, attempt);
            prop_assert!(is_data_file(&name));
        }

        #[test]
        fn any_name_is_survived(name in "\\PC*") {
            let _ = (step(&name), is_unfinished(&name));
        }
    }
}
