//! Numbers that nobody can guess.

use std::hash::{BuildHasher, Hasher, RandomState};

/// The standard library's hash keys come from the system.
pub fn random_number() -> u64 {
    RandomState::new().build_hasher().finish()
}
