//! What a run cost, estimated from the catalog of chips.

use std::fmt;

use runtime::chips::{Chip, Hosting};
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
    /// At the chips' highest power, without hosts and cooling; none where that is not known.
    pub kilowatt_hours: Option<f64>,
    /// Where the figures are from, or why there are none.
    pub source: String,
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
            source: match prices {
                Some(prices) => {
                    format!("{prices} per chip-hour on demand, {}", prices.sources())
                }
                None => format!("no list price for {}", chip.description),
            },
        }
    }

    /// The money in words, such as `$3.10`; none where there is no list price.
    pub fn money(&self) -> Option<String> {
        self.dollars.map(dollars)
    }

    /// The energy in words, such as `0.71 kWh`; none where the chip's power is not known.
    pub fn energy(&self) -> Option<String> {
        self.kilowatt_hours.map(|hours| match hours {
            hours if hours < 0.1 => format!("{:.1} Wh", hours * 1000.0),
            hours => format!("{hours:.2} kWh"),
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
            Some(energy) => write!(formatter, ", at most {energy} in the chips"),
            None => write!(formatter, ", power not known"),
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
