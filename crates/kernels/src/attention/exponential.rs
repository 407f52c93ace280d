//! The exponential function, and the hyperbolic tangent made of it.

use crate::simd::Simd;

/// Below this the result is zero; above [`GREATEST`] it stays what it is there. Between the two, powers of two
/// are normal numbers.
const LEAST: f32 = -87.0;
const GREATEST: f32 = 88.0;

/// The logarithm of two, in two parts: the first has so few bits that multiples of it are exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// `e` to the power of each lane, with a relative error below 2.5e-7 between -87 and 88. Zero below, so for
/// negative infinity too, and where a lane is not a number.
#[inline(always)]
pub(super) fn exponential<S: Simd>(s: S, x: S::Floats) -> S::Floats {
    let within = s.min(s.max(x, s.splat(LEAST)), s.splat(GREATEST));
    // exp(x) = 2^n * exp(r), with r at most half of ln(2).
    let n = s.round(s.mul(within, s.splat(std::f32::consts::LOG2_E)));
    let r = s.mul_add(n, s.splat(-LN_2_HIGH), within);
    let r = s.mul_add(n, s.splat(-LN_2_LOW), r);
    // Taylor's series; what is left out is below r^8 / 8! = 6e-9.
    let mut sum = s.splat(1.0 / 5040.0);
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = s.mul_add(sum, r, s.splat(coefficient));
    }
    s.where_greater(x, LEAST, s.mul(sum, s.power_of_two(n)))
}

/// The hyperbolic tangent: `1 - 2 / (exp(2 x) + 1)`. Absolute error about 1e-7.
#[inline(always)]
pub(super) fn hyperbolic_tangent<S: Simd>(s: S, x: S::Floats) -> S::Floats {
    let one = s.splat(1.0);
    let denominator = s.add(exponential(s, s.add(x, x)), one);
    s.sub(one, s.div(s.splat(2.0), denominator))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Kernel, LANES, Level};

    struct Compare(f64);

    impl Kernel for Compare {
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let mut worst = 0.0_f64;
            let mut worst_tangent = 0.0_f64;
            let steps = 200_000;
            for step in 0..steps {
                let x = LEAST + 0.01 + (GREATEST - LEAST - 0.02) * step as f32 / steps as f32;
                let got = f64::from(s.lanes(exponential(s, s.splat(x)))[step % LANES]);
                let expected = f64::from(x).exp();
                worst = worst.max(((got - expected) / expected).abs());
                let x = x / 10.0;
                let got = f64::from(s.lanes(hyperbolic_tangent(s, s.splat(x)))[step % LANES]);
                worst_tangent = worst_tangent.max((got - f64::from(x).tanh()).abs());
            }
            assert!(worst < self.0, "{worst}");
            assert!(worst_tangent < 3e-7, "{worst_tangent}");
            for (x, expected) in [
                (0.0, 1.0),
                (f32::NEG_INFINITY, 0.0),
                (-100.0, 0.0),
                (f32::NAN, 0.0),
                (200.0, s.lanes(exponential(s, s.splat(GREATEST)))[0]),
            ] {
                assert_eq!(s.lanes(exponential(s, s.splat(x))), [expected; LANES], "{x}");
            }
        }
    }

    #[test]
    fn it_is_as_near_as_promised() {
        for level in Level::available() {
            level.run(Compare(2.5e-7));
        }
    }
}
