//! What chips draw while a job runs, where no meter says it.

use runtime::chips::Chip;
use runtime::profile::Bound;

use crate::row::{Energy, Time};

/// What a chip waits for without computing.
const WAITING: [Bound; 2] = [Bound::Links, Bound::Starts];

/// The chips' highest power over the share of the time in which they compute, for so many tokens a second
/// over so many chips.
pub fn of_chips(chip: &Chip, chips: f64, time: &Time, tokens_per_second: f64) -> Energy {
    let Some(watts) = chip.power_watts else {
        return Energy {
            kilowatt_hours_per_million_tokens: None,
            source: format!("the power of {} is not published", chip.name),
        };
    };
    let waiting: f64 = time
        .bounds
        .iter()
        .filter(|part| WAITING.iter().any(|bound| bound.name() == part.name))
        .map(|part| part.share)
        .sum();
    let busy = (1.0 - waiting).clamp(0.0, 1.0);
    let joules_per_token = watts * chips * busy / tokens_per_second.max(f64::MIN_POSITIVE);
    Energy {
        kilowatt_hours_per_million_tokens: Some(joules_per_token * 1e6 / 3.6e6),
        source: format!(
            "estimated: {watts:.0} W per chip at most, {:.0} % of the time; without hosts and cooling",
            busy * 100.0
        ),
    }
}
