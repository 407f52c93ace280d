//! What a chip costs, by provider, and what else a provider's offer means for the price of a job.
//! Every statement says where it is from, and assumptions are told apart from what was looked up.

use std::fmt;

/// Where a figure is from.
#[derive(Clone, Debug, PartialEq)]
pub struct Basis {
    /// Of an assumption, its reason.
    pub source: String,
    pub link: Option<String>,
    /// When it was read there, such as `2026-11-23`; none for what a user's file states by itself.
    pub date: Option<String>,
    /// What to know of it beyond the figure.
    pub note: Option<String>,
    /// Nobody published it: it was set for want of a figure.
    pub assumed: bool,
}

/// The source and its date in one line.
impl fmt::Display for Basis {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.assumed {
            formatter.write_str("assumed: ")?;
        }
        formatter.write_str(&self.source)?;
        if let Some(date) = &self.date {
            write!(formatter, ", {date}")?;
        }
        match &self.note {
            Some(note) => write!(formatter, " ({note})"),
            None => Ok(()),
        }
    }
}

/// A value with where it is from.
#[derive(Clone, Debug, PartialEq)]
pub struct Stated<T> {
    pub value: T,
    pub basis: Basis,
}

/// How capacity is bought.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purchase {
    /// By the hour, kept until it is given back.
    OnDemand,
    /// By the hour, and taken back at any time.
    Spot,
    /// Paid for a whole term, such as `1 year`, used or not.
    Committed { term: String },
}

impl fmt::Display for Purchase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Purchase::OnDemand => formatter.write_str("on-demand"),
            Purchase::Spot => formatter.write_str("spot"),
            Purchase::Committed { term } => write!(formatter, "committed for {term}"),
        }
    }
}

/// One provider's price of one chip.
#[derive(Clone, Debug, PartialEq)]
pub struct Price {
    pub provider: String,
    /// None where it is the same everywhere, or the provider does not say.
    pub region: Option<String>,
    pub purchase: Purchase,
    pub dollars_per_chip_hour: f64,
    pub basis: Basis,
}

/// The cheapest and the dearest of some prices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PriceRange<'a> {
    pub low: &'a Price,
    pub high: &'a Price,
}

impl<'a> PriceRange<'a> {
    /// None of no prices.
    pub fn of(prices: impl Iterator<Item = &'a Price> + Clone) -> Option<PriceRange<'a>> {
        let by =
            |a: &&Price, b: &&Price| a.dollars_per_chip_hour.total_cmp(&b.dollars_per_chip_hour);
        Some(PriceRange { low: prices.clone().min_by(by)?, high: prices.max_by(by)? })
    }

    /// In dollars per chip-hour, lowest and highest.
    pub fn dollars(&self) -> (f64, f64) {
        (self.low.dollars_per_chip_hour, self.high.dollars_per_chip_hour)
    }

    /// Where the two ends are from, in words.
    pub fn sources(&self) -> String {
        match self.low.basis == self.high.basis {
            true => self.low.basis.to_string(),
            false => format!("{}; {}", self.low.basis, self.high.basis),
        }
    }
}

/// Such as `$2.29 (verda) to $10.98 (gcp)`.
impl fmt::Display for PriceRange<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, high) = self.dollars();
        write!(formatter, "${low:.2} ({})", self.low.provider)?;
        match low == high {
            true => Ok(()),
            false => write!(formatter, " to ${high:.2} ({})", self.high.provider),
        }
    }
}

/// What a provider's offer means for a job beyond the hours of its chips. None where nothing is
/// known.
#[derive(Clone, Debug, PartialEq)]
pub struct Provider {
    /// As prices name it.
    pub name: String,
    pub title: String,
    /// From asking for machines to a running program, in seconds; paid for as any other time.
    pub startup_seconds: Option<Stated<f64>>,
    /// For data that leaves the provider's network, in dollars per byte.
    pub egress_dollars_per_byte: Option<Stated<f64>>,
    /// How often a spot host is taken back, per hour of one host.
    pub spot_preemptions_per_host_hour: Option<Stated<f64>>,
    /// Whether the price of the chips has the machines in it that they are in.
    pub hosts_included: Option<Stated<bool>>,
}

impl Provider {
    pub(super) fn unknown(name: &str) -> Provider {
        Provider {
            name: name.to_string(),
            title: name.to_string(),
            startup_seconds: None,
            egress_dollars_per_byte: None,
            spot_preemptions_per_host_hour: None,
            hosts_included: None,
        }
    }

    /// This one, with what it does not state taken from another.
    pub(super) fn or(mut self, other: &Provider) -> Provider {
        fn fill<T: Clone>(own: &mut Option<T>, other: &Option<T>) {
            if own.is_none() {
                own.clone_from(other);
            }
        }
        fill(&mut self.startup_seconds, &other.startup_seconds);
        fill(&mut self.egress_dollars_per_byte, &other.egress_dollars_per_byte);
        fill(&mut self.spot_preemptions_per_host_hour, &other.spot_preemptions_per_host_hour);
        fill(&mut self.hosts_included, &other.hosts_included);
        self
    }
}
