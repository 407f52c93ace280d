//! An axis: from values to places, and round numbers along it. Knows no picture.

/// From this ratio of the highest to the lowest on, an axis is logarithmic.
const LOGARITHMIC_FROM: f64 = 10.0;

/// Decades from which on only powers of ten have ticks.
const DECADES_MANY: f64 = 2.5;

/// Values are above zero and finite.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Axis {
    /// Around values; those that no axis has are left out.
    pub(super) fn around(values: impl Iterator<Item = f64>) -> Axis {
        let known: Vec<f64> = values.filter(|value| value.is_finite() && *value > 0.0).collect();
        let low = known.iter().copied().fold(f64::INFINITY, f64::min);
        let high = known.iter().copied().fold(0.0, f64::max);
        if known.is_empty() {
            return Axis { low: 0.0, high: 1.0, logarithmic: false };
        }
        match high / low > LOGARITHMIC_FROM {
            true => Axis { low: low / 1.4, high: high * 1.4, logarithmic: true },
            false => Axis { low: 0.0, high: high * 1.12, logarithmic: false },
        }
    }

    pub(super) fn is_logarithmic(&self) -> bool {
        self.logarithmic
    }

    /// From 0 at the low end to 1 at the high one; within them for whatever value.
    pub(super) fn place(&self, value: f64) -> f64 {
        let place = match self.logarithmic {
            true => (value / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        };
        if place.is_nan() { 0.0 } else { place.clamp(0.0, 1.0) }
    }

    /// Round numbers within the axis; on a linear one, about `count`.
    pub(super) fn ticks(&self, count: usize) -> Vec<f64> {
        if !self.logarithmic {
            let distance = round_up((self.high - self.low) / count.max(1) as f64);
            let found = (self.high / distance).floor() as usize;
            return (0..=found).map(|index| index as f64 * distance).collect();
        }
        let many = (self.high / self.low).log10() > DECADES_MANY;
        let factors: &[f64] = if many { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().floor() as i32);
        (first..=last)
            .flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powi(power)))
            .filter(|tick| (self.low..=self.high).contains(tick))
            .collect()
    }
}

/// The next of 1, 2 and 5 times a power of ten.
fn round_up(rough: f64) -> f64 {
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= rough * 0.999);
    factor.unwrap_or(10.0) * power
}

/// A round number without needless digits: `0.05`, `20`, `1,000`.
pub(super) fn plain(value: f64) -> String {
    if value >= 1000.0 {
        let digits = format!("{value:.0}");
        let mut grouped = String::new();
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        return grouped;
    }
    if value == 0.0 {
        return "0".to_string();
    }
    let digits = (1.0 - value.abs().log10().floor()).clamp(0.0, 9.0) as usize;
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain_ticks(values: &[f64]) -> Vec<String> {
        Axis::around(values.iter().copied()).ticks(5).into_iter().map(plain).collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(plain_ticks(&[3.0, 9.0]), ["0", "5", "10"]);
        assert_eq!(plain_ticks(&[0.02, 0.3]), ["0.02", "0.05", "0.1", "0.2"]);
        assert_eq!(plain_ticks(&[1.0, 900.0]), ["1", "10", "100", "1,000"]);
        assert_eq!(plain_ticks(&[]), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        assert_eq!(plain_ticks(&[0.034]), ["0", "0.01", "0.02", "0.03"]);
    }

    #[test]
    fn places_are_within() {
        let axis = Axis::around([1.0, 100.0].into_iter());
        assert!(axis.is_logarithmic());
        assert!((axis.place(10.0) - 0.5).abs() < 1e-9);
        for value in [0.0, -1.0, f64::INFINITY, f64::NAN] {
            assert!((0.0..=1.0).contains(&axis.place(value)), "{value}");
        }
    }
}
