//! A profile as a row shows it.

use runtime::profile::{Profile, Share, Source};

use crate::row::{NotEstimated, Part, Time};

/// Shares below this are left out of lists.
const SHARE_MIN: f64 = 0.0005;

/// The time of a program's run.
pub fn of(profile: &Profile) -> Time {
    let part = |share: &Share| Part { name: share.name.clone(), share: share.share };
    let compiler = Source::Compiler.name();
    let of_compiler = profile.by_source.iter().find(|share| share.name == compiler);
    Time {
        seconds: profile.total_seconds,
        low_seconds: profile.low_seconds,
        high_seconds: profile.high_seconds,
        source: match of_compiler {
            Some(share) => format!(
                "the compiler's schedule ({:.0} % of it by its own cycles)",
                share.share * 100.0
            ),
            None => "a roofline over the compiled program".to_string(),
        },
        bound_by: profile.bound_by().map_or_else(String::new, |bound| bound.name().to_string()),
        bounds: profile
            .bounds
            .iter()
            .map(|one| Part { name: one.bound.name().to_string(), share: one.share })
            .collect(),
        sources: profile.by_source.iter().map(part).collect(),
        hidden_seconds: profile.hidden_seconds,
        not_estimated: profile
            .unestimated
            .iter()
            .filter(|kind| kind.share >= SHARE_MIN || kind.hidden_seconds > 0.0)
            .map(|kind| NotEstimated {
                name: kind.kind.to_string(),
                instructions: kind.count,
                bytes: kind.bytes,
                share: kind.share,
                model: kind.model.to_string(),
            })
            .collect(),
    }
}
