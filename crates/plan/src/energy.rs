//! What chips draw while a job runs: by a meter where this machine has one, else from their power.

use runtime::chips::Chip;
use runtime::profile::Bound;

use crate::here::Drawn;
use crate::row::{Energy, Time};

/// What a chip waits for without computing.
const WAITING: [Bound; 2] = [Bound::Links, Bound::Starts];

const JOULES_PER_KILOWATT_HOUR: f64 = 3.6e6;

/// Of a program's time, the share in which its chips compute.
pub fn computing_share(time: &Time) -> f64 {
    let waits = |name: &str| WAITING.iter().any(|bound| bound.name() == name);
    let waiting: f64 =
        time.bounds.iter().filter(|part| waits(&part.name)).map(|part| part.share).sum();
    (1.0 - waiting).clamp(0.0, 1.0)
}

/// The chips' highest power over the share of all time in which they compute, and what they draw idle for
/// the rest where that is known, for so many tokens a second over so many chips.
pub fn of_chips(chip: &Chip, chips: f64, busy: f64, tokens_per_second: f64) -> Energy {
    let Some(watts) = chip.power_watts else {
        return Energy {
            kilowatt_hours_per_million_tokens: None,
            source: format!("the power of {} is not published", chip.name),
        };
    };
    let busy = busy.clamp(0.0, 1.0);
    let idle_watts = chip.idle_watts.unwrap_or(0.0);
    let mean_watts = watts * busy + idle_watts * (1.0 - busy);
    let rest = match chip.idle_watts {
        Some(idle) => format!("{idle:.0} W idle for the rest"),
        None => "what is drawn in the rest is not published and left out".to_string(),
    };
    Energy {
        kilowatt_hours_per_million_tokens: Some(per_million(mean_watts * chips, tokens_per_second)),
        source: format!(
            "estimated: {watts:.0} W per chip at most, {:.0} % of the time; {rest}; without hosts and cooling",
            busy * 100.0
        ),
    }
}

/// What a meter of this machine saw while a few layers ran, over the share of all time in which a job does.
pub fn of_meter(drawn: &Drawn, busy: f64, tokens_per_second: f64) -> Energy {
    let watts = drawn.watts * busy.clamp(0.0, 1.0);
    Energy {
        kilowatt_hours_per_million_tokens: Some(per_million(watts, tokens_per_second)),
        source: format!(
            "measured: {:.0} W while a few layers ran ({}), {:.0} % of the time",
            drawn.watts,
            drawn.meter,
            busy * 100.0
        ),
    }
}

fn per_million(watts: f64, tokens_per_second: f64) -> f64 {
    watts / tokens_per_second.max(f64::MIN_POSITIVE) * 1e6 / JOULES_PER_KILOWATT_HOUR
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Part;

    #[test]
    fn a_chip_that_waits_does_not_compute() {
        let part = |bound: Bound, share| Part { name: bound.name().to_string(), share };
        let mut time = Time::unknown();
        assert_eq!(computing_share(&time), 1.0);
        time.bounds = vec![
            part(Bound::Products, 0.5),
            part(Bound::Memory, 0.2),
            part(Bound::Links, 0.2),
            part(Bound::Starts, 0.1),
        ];
        assert!((computing_share(&time) - 0.7).abs() < 1e-9);
    }

    #[test]
    fn idle_power_counts_where_it_is_known_and_is_missed_where_not() {
        let mut chip = runtime::chips::find("h200").unwrap().clone();
        (chip.power_watts, chip.idle_watts) = (Some(720.0), Some(72.0));
        // 8 chips, half of the time at 720 W and half at 72 W: 3168 W; 880 tokens a second are 3.6 J each.
        let known = of_chips(&chip, 8.0, 0.5, 880.0);
        assert!((known.kilowatt_hours_per_million_tokens.unwrap() - 1.0).abs() < 1e-9, "{known:?}");
        assert!(known.source.contains("72 W idle"), "{}", known.source);
        chip.idle_watts = None;
        let unknown = of_chips(&chip, 8.0, 0.5, 800.0);
        assert!((unknown.kilowatt_hours_per_million_tokens.unwrap() - 1.0).abs() < 1e-9);
        assert!(unknown.source.contains("left out"), "{}", unknown.source);
        chip.power_watts = None;
        assert_eq!(of_chips(&chip, 8.0, 0.5, 800.0).kilowatt_hours_per_million_tokens, None);
    }

    #[test]
    fn a_meter_is_believed_while_there_is_work() {
        let drawn = Drawn { watts: 100.0, meter: "RAPL".to_string() };
        let energy = of_meter(&drawn, 0.5, 1.0 / 0.072);
        assert!((energy.kilowatt_hours_per_million_tokens.unwrap() - 1.0).abs() < 1e-9);
        assert!(energy.source.starts_with("measured: 100 W"), "{}", energy.source);
    }
}
