//! Curves: smoothing them, and making them light enough to draw without losing their extremes.

/// Steps and values; a value may be NaN.
pub(super) type Points = Vec<(usize, f64)>;

/// The mean over a twentieth of the curve around each place; less near the beginning, where curves
/// fall fast, so that the smooth curve lies in the middle of the rough one. At the end it is the mean
/// of the last fortieth. Values that are not finite are left out; NaN where there is no other.
pub(super) fn smoothed(values: &[f64]) -> Vec<f64> {
    let reach = (values.len() / 40).min(1000);
    // Sums and counts of the finite values before each place.
    let mut sums = vec![(0.0, 0usize)];
    let (mut sum, mut count) = (0.0, 0);
    for value in values.iter().copied() {
        if value.is_finite() {
            sum += value;
            count += 1;
        }
        sums.push((sum, count));
    }
    (0..values.len())
        .map(|place| {
            let reach = reach.min(place);
            let (before, after) =
                (sums[place - reach], sums[(place + reach + 1).min(values.len())]);
            (after.0 - before.0) / (after.1 - before.1) as f64
        })
        .collect()
}

/// At most about `points_max` points: of each run of neighbours the least and the greatest, in their
/// order, so that a spike of one step stays; and the ends.
pub(super) fn thinned(points: &Points, points_max: usize) -> Points {
    if points.len() <= points_max {
        return points.clone();
    }
    let size = points.len().div_ceil(points_max / 2);
    let mut thin = Points::new();
    let mut push = |point: (usize, f64)| {
        if thin.last().is_none_or(|&(step, _)| step < point.0) {
            thin.push(point);
        }
    };
    push(points[0]);
    for chunk in points.chunks(size) {
        let finite = || chunk.iter().copied().filter(|(_, value)| value.is_finite());
        let by_value = |a: &(usize, f64), b: &(usize, f64)| a.1.total_cmp(&b.1);
        match finite().min_by(by_value).zip(finite().max_by(by_value)) {
            Some((least, greatest)) if least.0 <= greatest.0 => [least, greatest].map(&mut push),
            Some((least, greatest)) => [greatest, least].map(&mut push),
            // A gap in the curve.
            None => [(); 2].map(|()| push(chunk[0])),
        };
    }
    push(points[points.len() - 1]);
    thin
}

/// Round numbers within the range, about `count` of them, at least one from 3 on.
pub(super) fn ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let rough = (high - low) / count.max(1) as f64;
    if !(rough > 0.0 && rough.is_finite()) {
        return vec![low];
    }
    let power = 10f64.powf(rough.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    let factor = factors.into_iter().find(|factor| factor * power >= rough).unwrap_or(10.0);
    let distance = factor * power;
    let first = (low / distance).ceil();
    let found = ((high / distance).floor() - first + 1.0).max(0.0) as usize;
    (0..found).map(|index| (first + index as f64) * distance).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn smoothing_stays_in_the_middle_and_skips_gaps() {
        assert_eq!(smoothed(&[3.0]), [3.0]);
        assert!(smoothed(&[f64::NAN])[0].is_nan());
        let line: Vec<f64> = (0..400).map(f64::from).collect();
        let smooth = smoothed(&line);
        assert_eq!((smooth[0], smooth[5], smooth[200]), (0.0, 5.0, 200.0));
        // The last eleven: 389 to 399.
        assert_eq!(smooth[399], 394.0);
        let mut gaps = vec![2.0; 400];
        gaps[100..105].fill(f64::NAN);
        assert!(smoothed(&gaps).iter().all(|&value| value == 2.0));
    }

    #[test]
    fn thinning_keeps_ends_and_extremes() {
        let mut points: Points = (1..=100_000).map(|step| (step, 1.0)).collect();
        points[54_321].1 = 9.0;
        points[54_322].1 = -9.0;
        for gap in &mut points[1000..2000] {
            gap.1 = f64::NAN;
        }
        let thin = thinned(&points, 2000);
        assert!(thin.len() <= 2004, "{}", thin.len());
        assert!(thin.contains(&(54_322, 9.0)) && thin.contains(&(54_323, -9.0)));
        assert!(thin.iter().any(|(_, value)| value.is_nan()));
        assert_eq!((thin[0].0, thin[thin.len() - 1].0), (1, 100_000));
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(ticks(0.0, 500.0, 5), [0.0, 100.0, 200.0, 300.0, 400.0, 500.0]);
        assert_eq!(ticks(1.3, 3.1, 4), [1.5, 2.0, 2.5, 3.0]);
        assert_eq!(ticks(2.0, 2.0, 4), [2.0]);
    }

    proptest! {
        #[test]
        fn thin_curves_are_in_order(values in prop::collection::vec(any::<f64>(), 0..300), most in 4usize..50) {
            let points: Points = values.into_iter().enumerate().collect();
            let thin = thinned(&points, most);
            prop_assert!(thin.windows(2).all(|pair| pair[0].0 < pair[1].0));
            prop_assert!(thin.len() <= most + 4);
        }

        #[test]
        fn ticks_lie_within(low in -1e6f64..1e6, size in 1e-6f64..1e6, count in 3usize..10) {
            let found = ticks(low, low + size, count);
            prop_assert!(!found.is_empty() && found.len() <= count + 2, "{found:?}");
            let slack = (low.abs() + size) * 1e-9;
            prop_assert!(found.iter().all(|&tick| tick >= low - slack && tick <= low + size + slack));
        }
    }
}
