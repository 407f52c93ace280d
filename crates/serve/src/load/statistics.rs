//! Means and percentiles.

use serde::Serialize;

/// How values are spread. All in the values' own unit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Distribution {
    pub count: usize,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

impl Distribution {
    /// None for no values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Distribution> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let max = *values.last()?;
        Some(Distribution {
            count: values.len(),
            mean: values.iter().sum::<f64>() / values.len() as f64,
            p50: percentile(&values, 0.5),
            p90: percentile(&values, 0.9),
            p99: percentile(&values, 0.99),
            max,
        })
    }
}

/// What `share` of the values do not exceed; between two values, on the line from one to the other,
/// as NumPy's `percentile` does. NaN for no values.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = share * sorted.len().saturating_sub(1) as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    match (sorted.get(low), sorted.get(high)) {
        (Some(low_value), Some(high_value)) => {
            low_value + (high_value - low_value) * (place - low as f64)
        }
        _ => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_numpy() {
        // numpy.percentile([4, 1, 3, 2, 10], [50, 90, 99])
        let spread = Distribution::of([4.0, 1.0, 3.0, 2.0, 10.0]).unwrap();
        assert_eq!((spread.count, spread.mean, spread.p50, spread.max), (5, 4.0, 3.0, 10.0));
        assert!((spread.p90 - 7.6).abs() < 1e-12 && (spread.p99 - 9.76).abs() < 1e-12);
        assert_eq!(Distribution::of([]), None);
        let one = Distribution::of([2.5]).unwrap();
        assert_eq!((one.p50, one.p99), (2.5, 2.5));
    }
}
