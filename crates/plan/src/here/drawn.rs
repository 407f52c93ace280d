//! What the processor draws while a job is measured, where its counter (RAPL) can be read.

use runtime::PluginKind;
use runtime::meter::{Meter, Reading};
use serde::{Deserialize, Serialize};

/// A mean over the time in which programs ran.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Drawn {
    pub watts: f64,
    /// What counted, and what is in it.
    pub meter: String,
}

impl Drawn {
    /// Nothing of a reading without time or energy, which says that the counter stood still.
    fn of(reading: Reading) -> Option<Drawn> {
        let watts = reading.joules / reading.seconds;
        let counts = watts.is_finite() && watts > 0.0;
        counts.then_some(Drawn { watts, meter: reading.meter })
    }
}

/// For the end of a sentence that says how something was measured.
pub fn words(drawn: Option<&Drawn>) -> String {
    match drawn {
        Some(Drawn { watts, meter }) => format!(", at {watts:.0} W ({meter})"),
        None => ", without a meter of power that can be read".to_string(),
    }
}

/// Runs what is measured beside the meter, if there is one.
///
/// # Errors
/// Those of `work`.
pub fn beside_meter<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<(T, Option<Drawn>), E> {
    let meter = Meter::start(PluginKind::Cpu, 1);
    let done = work()?;
    Ok((done, meter.and_then(Meter::stop).and_then(Drawn::of)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_is_energy_over_time() {
        let reading =
            |joules, seconds| Reading { joules, seconds, meter: "RAPL of a test".to_string() };
        let drawn = Drawn::of(reading(300.0, 4.0)).unwrap();
        assert_eq!((drawn.watts, drawn.meter.as_str()), (75.0, "RAPL of a test"));
        assert_eq!(words(Some(&drawn)), ", at 75 W (RAPL of a test)");
        assert!(words(None).contains("without a meter"));
        assert_eq!(Drawn::of(reading(0.0, 4.0)), None);
        assert_eq!(Drawn::of(reading(1.0, 0.0)), None);
    }
}
