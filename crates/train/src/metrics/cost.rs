//! What a run cost: money from the catalog of chips, energy from a meter where there is one, else from
//! the catalog.

use std::fmt;

use runtime::chips::{Chip, Hosting};
use runtime::meter::Reading;
use serde::{Deserialize, Serialize};

/// Chip time, money and energy of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// As the catalog calls it; none for a chip that it does not know.
    pub chip: Option<String>,
    /// Seconds times chips.
    pub chip_seconds: f64,
    /// At the lowest and at the highest list price on demand; none where there is no list price.
    pub dollars: Option<(f64, f64)>,
    /// As `measured` says, else at the chips' highest power all the time, without hosts and cooling;
    /// none where that is not known either.
    pub kilowatt_hours: Option<f64>,
    #[serde(default)]
    pub measured: Option<Measured>,
    /// Where the figures are from, or why there are none.
    pub source: String,
}

/// That energy was measured, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// What counted, and what is in it.
    pub meter: String,
    /// Over which time: less than the run's where it was resumed.
    pub seconds: f64,
}

impl RunSummary {
    /// `seconds` on `devices` devices of that chip, as the plugin counts devices. All virtual
    /// devices of a processor are that one processor.
    pub fn new(chip: Option<&Chip>, devices: usize, seconds: f64) -> RunSummary {
        let Some(chip) = chip else {
            return RunSummary {
                chip: None,
                chip_seconds: seconds * devices as f64,
                dollars: None,
                kilowatt_hours: None,
                measured: None,
                source: "the chip is not in the catalog".to_string(),
            };
        };
        let chips = match chip.hosting {
            Hosting::Processor => 1.0,
            _ => devices as f64 / chip.devices_per_chip as f64,
        };
        let chip_seconds = seconds * chips;
        let hours = chip_seconds / 3600.0;
        let prices = chip.on_demand();
        RunSummary {
            chip: Some(chip.name.clone()),
            chip_seconds,
            dollars: prices.map(|prices| {
                let (low, high) = prices.dollars();
                (hours * low, hours * high)
            }),
            kilowatt_hours: chip.power_watts.map(|watts| hours * watts / 1000.0),
            measured: None,
            source: match prices {
                Some(prices) => {
                    format!("{prices} per chip-hour on demand, {}", prices.sources())
                }
                None => format!("no list price for {}", chip.description),
            },
        }
    }

    /// With what a meter counted in place of what chips draw at most.
    #[must_use]
    pub fn with_measured(mut self, reading: Reading) -> RunSummary {
        self.kilowatt_hours = Some(reading.joules / 3.6e6);
        self.measured = Some(Measured { meter: reading.meter, seconds: reading.seconds });
        self
    }

    /// The money in words, such as `$3.10`; none where there is no list price.
    pub fn money(&self) -> Option<String> {
        self.dollars.map(dollars)
    }

    /// The energy in words, with where it is from; none where it is not known.
    pub fn energy(&self) -> Option<String> {
        let energy = match self.kilowatt_hours? {
            hours if hours < 0.1 => format!("{:.1} Wh", hours * 1000.0),
            hours => format!("{hours:.2} kWh"),
        };
        Some(match &self.measured {
            Some(Measured { meter, seconds }) => {
                format!("{energy} measured in {seconds:.0} s ({meter})")
            }
            None => {
                format!("at most {energy}: the chips' highest power all the time, without hosts")
            }
        })
    }

    /// The chip time in words, such as `2.5 chip-hours`.
    pub fn chip_time(&self) -> String {
        match self.chip_seconds {
            seconds if seconds < 3600.0 => format!("{seconds:.0} chip-seconds"),
            seconds => format!("{:.1} chip-hours", seconds / 3600.0),
        }
    }
}

/// One line: chip time, money and its source, energy.
impl fmt::Display for RunSummary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.chip_time())?;
        if let Some(chip) = &self.chip {
            write!(formatter, " ({chip})")?;
        }
        match self.money() {
            Some(money) => write!(formatter, ", about {money} ({})", self.source)?,
            None => write!(formatter, ", {}", self.source)?,
        }
        match self.energy() {
            Some(energy) => write!(formatter, ", {energy}"),
            None => write!(formatter, ", no meter and power not known"),
        }
    }
}

/// A range of dollars, or one figure where both ends are the same to the cent.
fn dollars((low, high): (f64, f64)) -> String {
    let figure = |dollars: f64| match dollars {
        small if small > 0.0 && small < 0.1 => format!("${small:.4}"),
        dollars => format!("${dollars:.2}"),
    };
    let (low, high) = (figure(low), figure(high));
    if low == high { low } else { format!("{low} to {high}") }
}
