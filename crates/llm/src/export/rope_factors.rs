//! Finds the rule behind a list of rotary factors. GGUF files store what the Llama 3 rule computes,
//! one divisor per frequency; `config.json` can only name the rule.

use std::f64::consts::TAU;

use crate::config::RopeScaling;

/// Factors are stored as f32 and were computed with more digits.
const RELATIVE_ERROR_MAX: f64 = 1e-5;
/// What all of Llama 3.1 to 3.3 have, for when too few frequencies lie between the bands to tell.
const USUAL_HIGH_FREQ_FACTOR: f64 = 4.0;

/// The rule that gives these factors, one for each of the `head_dim / 2` frequencies; `None` when
/// none of those known does.
pub(super) fn rule(factors: &[f32], rope_theta: f64) -> Option<RopeScaling> {
    let factors: Vec<f64> = factors.iter().map(|factor| f64::from(*factor)).collect();
    let factor = factors.iter().copied().fold(0.0, f64::max);
    if factors.iter().all(|other| close(*other, factor)) {
        let scaled = !close(factor, 1.0);
        return Some(if scaled { RopeScaling::Linear { factor } } else { RopeScaling::None });
    }
    let wavelengths = wavelengths(factors.len(), rope_theta);
    // Between the bands, `1 / factor` goes linearly from the one end to the other:
    // smooth = (original / wavelength - low) / (high - low).
    let between: Vec<(f64, f64)> = factors
        .iter()
        .zip(&wavelengths)
        .filter(|(own, _)| !close(**own, 1.0) && !close(**own, factor))
        .map(|(own, wavelength)| {
            let smooth = (1.0 / own - 1.0 / factor) / (1.0 - 1.0 / factor);
            (1.0 / wavelength, smooth)
        })
        .collect();
    // Only the ratios of `original`, `low` and `high` matter; `low` is 1 in every known model.
    let low_freq_factor = 1.0;
    let (original, high) = match between[..] {
        [] => return None,
        [(frequency, smooth)] => {
            let high = USUAL_HIGH_FREQ_FACTOR;
            ((smooth * (high - low_freq_factor) + low_freq_factor) / frequency, high)
        }
        [(first, first_smooth), .., (last, last_smooth)] => {
            let slope = (first_smooth - last_smooth) / (first - last);
            let at_zero = slope * first - first_smooth;
            (slope / at_zero, low_freq_factor + 1.0 / at_zero)
        }
    };
    let original_max_position_embeddings = original.round() as usize;
    let high_freq_factor = (high * 1e3).round() / 1e3;
    let original = original_max_position_embeddings as f64;
    let explained = factors.iter().zip(&wavelengths).all(|(own, wavelength)| {
        let smooth =
            (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
        let smooth = smooth.clamp(0.0, 1.0);
        close(*own, 1.0 / ((1.0 - smooth) / factor + smooth))
    });
    explained.then_some(RopeScaling::Llama3 {
        factor,
        low_freq_factor,
        high_freq_factor,
        original_max_position_embeddings,
    })
}

/// Positions in which each frequency turns once.
fn wavelengths(count: usize, rope_theta: f64) -> Vec<f64> {
    (0..count).map(|index| TAU * rope_theta.powf(index as f64 / count as f64)).collect()
}

fn close(one: f64, other: f64) -> bool {
    (one - other).abs() <= RELATIVE_ERROR_MAX * other.abs()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As llama.cpp's converter computes them.
    fn factors(
        head_dim: usize,
        theta: f64,
        (factor, high, original): (f64, f64, usize),
    ) -> Vec<f32> {
        let of = |wavelength: f64| {
            if wavelength < original as f64 / high {
                1.0
            } else if wavelength > original as f64 {
                factor
            } else {
                let smooth = (original as f64 / wavelength - 1.0) / (high - 1.0);
                1.0 / ((1.0 - smooth) / factor + smooth)
            }
        };
        wavelengths(head_dim / 2, theta).into_iter().map(|length| of(length) as f32).collect()
    }

    #[test]
    fn llama_3_is_recognized() {
        for (head_dim, factor) in [(128, 8.0), (64, 32.0), (128, 32.0)] {
            let found = rule(&factors(head_dim, 500_000.0, (factor, 4.0, 8192)), 500_000.0);
            let expected = RopeScaling::Llama3 {
                factor,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 8192,
            };
            assert_eq!(found, Some(expected));
        }
    }

    #[test]
    fn equal_factors_are_linear_scaling_and_odd_ones_no_rule() {
        assert_eq!(rule(&[4.0, 4.0], 1e4), Some(RopeScaling::Linear { factor: 4.0 }));
        assert_eq!(rule(&[1.0, 1.0], 1e4), Some(RopeScaling::None));
        assert_eq!(rule(&[1.0, 8.0], 1e4), None);
        let mut odd = factors(128, 500_000.0, (8.0, 4.0, 8192));
        odd[40] = 2.0;
        assert_eq!(rule(&odd, 500_000.0), None);
    }

    proptest! {
        /// Whatever is found gives the factors again, and nothing divides by zero.
        #[test]
        fn a_rule_that_is_found_gives_the_same_factors(
            head_dim in (1usize..64).prop_map(|half| 2 * half), factor in 1.5f64..64.0,
            high in 1.5f64..16.0, original in 32usize..1 << 17,
        ) {
            let theta = 500_000.0;
            let given = factors(head_dim, theta, (factor, high, original));
            let found = rule(&given, theta);
            if let Some(RopeScaling::Llama3 {
                factor, high_freq_factor, original_max_position_embeddings: original, ..
            }) = found {
                let again = factors(head_dim, theta, (factor, high_freq_factor, original));
                for (own, other) in given.iter().zip(again) {
                    prop_assert!((own - other).abs() <= 3e-5 * own, "{own} {other}");
                }
            }
        }

        #[test]
        fn any_list_is_answered(factors in prop::collection::vec(1e-3f32..1e3, 1..64)) {
            let _ = rule(&factors, 1e4);
        }
    }
}
