//! A profile as a row shows it.

use runtime::profile::{Profile, Share};

use crate::row::{Part, Time};

/// The time of a program's run.
pub fn of(profile: &Profile) -> Time {
    let parts = |shares: &[Share]| {
        let part = |share: &Share| Part { name: share.name.clone(), share: share.share };
        shares.iter().map(part).collect::<Vec<Part>>()
    };
    let sources = parts(&profile.by_source);
    Time {
        seconds: profile.total_seconds,
        low_seconds: profile.total_seconds,
        high_seconds: profile.total_seconds,
        source: String::new(),
        bound_by: String::new(),
        bounds: Vec::new(),
        sources,
        hidden_seconds: profile.hidden_seconds,
        not_estimated: Vec::new(),
    }
}
