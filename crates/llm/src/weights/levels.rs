//! Quantizes groups of floats: the scale and offset of a group, and its codes. Pure arithmetic: no
//! files, no names, no threads.
//!
//! Every number comes out within half a step (its group's scale): scales are rounded up and offsets
//! down to their type before the codes are made, so that the codes reach all of the group.

use half::f16;

use super::FloatType;

/// 2^23: a number from 0 to 2^22 stands in the lowest bits of their sum, rounded to the nearest whole
/// number and to even between two. A call per number would take longer than reading it.
const ROUND: f32 = 8_388_608.0;

/// The numbers that the codes `0..=code_max` of a group stand for: `scale * code + offset`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Levels {
    /// Zero where the numbers differ by too little for a scale that is a normal number; infinite
    /// where a level would be beyond the range of f32.
    pub(super) scale: f32,
    pub(super) offset: f32,
    code_max: f32,
}

impl Levels {
    /// For 8 bits: zero is code 128, as far from both ends, so that zeros stay zeros.
    pub(super) fn symmetric(numbers: &[f32], float_type: FloatType) -> Levels {
        let (least, greatest) = extremes(numbers);
        let scale = usable(at_least(greatest.max(-least) / 127.0, float_type), 255.0);
        Levels { scale, offset: -128.0 * scale, code_max: 255.0 }
    }

    /// For 4 bits: from the least number to the greatest, since 16 levels are too few to waste any.
    pub(super) fn between_extremes(numbers: &[f32], float_type: FloatType) -> Levels {
        let (least, greatest) = extremes(numbers);
        let offset = -at_least(-least, float_type);
        let scale = usable(at_least((greatest - offset) / 15.0, float_type), 15.0);
        Levels { scale, offset, code_max: 15.0 }
    }

    /// The code of the nearest level, for each of the finite `numbers`.
    pub(super) fn codes(self, numbers: &[f32], codes: &mut [u8]) {
        let per_step = if self.scale > 0.0 { self.scale.recip() } else { 0.0 };
        for (code, value) in codes.iter_mut().zip(numbers) {
            // Not below zero, by more than is rounded away: the offset is not above any number.
            let steps = (value - self.offset) * per_step;
            *code = (lesser(steps, self.code_max) + ROUND).to_bits() as u8;
        }
    }
}

fn extremes(numbers: &[f32]) -> (f32, f32) {
    let least = numbers.iter().copied().fold(f32::INFINITY, lesser);
    (least, numbers.iter().copied().fold(f32::NEG_INFINITY, greater))
}

/// One instruction, which `f32::min` and its rule for NaN are not.
fn lesser(left: f32, right: f32) -> f32 {
    if left < right { left } else { right }
}

/// Likewise.
fn greater(left: f32, right: f32) -> f32 {
    if left > right { left } else { right }
}

fn usable(scale: f32, code_max: f32) -> f32 {
    if (scale * code_max).is_infinite() {
        f32::INFINITY
    } else if scale < f32::MIN_POSITIVE {
        0.0
    } else {
        scale
    }
}

/// The least number of the type that is not below `value`, which is rounded to f32 already.
fn at_least(value: f32, float_type: FloatType) -> f32 {
    if float_type == FloatType::F32 {
        return value;
    }
    let nearest = f16::from_f32(value);
    let bits = nearest.to_bits();
    match nearest.to_f32() < value {
        true if nearest.is_sign_negative() => f16::from_bits(bits - 1).to_f32(),
        true => f16::from_bits(bits + 1).to_f32(),
        false => nearest.to_f32(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_up_to_f16_takes_the_next_number_and_no_more() {
        for bits in 0..0x7bff {
            for sign in [0, 0x8000] {
                let exact = f16::from_bits(bits | sign).to_f32();
                let next = f16::from_bits((bits + 1) | sign).to_f32();
                let (low, high) = (exact.min(next), exact.max(next));
                assert_eq!(at_least(exact, FloatType::F16), exact);
                for part in [0.01, 0.5, 0.99] {
                    assert_eq!(at_least(low + part * (high - low), FloatType::F16), high);
                }
            }
        }
        assert_eq!(at_least(65_520.0, FloatType::F16), f32::INFINITY);
        assert_eq!(at_least(-70_000.0, FloatType::F16), -65_504.0);
    }

    /// The numbers over and over.
    fn group<const COUNT: usize>(numbers: [f32; COUNT]) -> [f32; 16] {
        std::array::from_fn(|index| numbers[index % COUNT])
    }

    #[test]
    fn groups_without_a_usable_scale_say_so() {
        for float_type in [FloatType::F32, FloatType::F16] {
            let zeros = Levels::symmetric(&group([0.0, -0.0]), float_type);
            assert_eq!((zeros.scale, zeros.offset), (0.0, 0.0));
            let same = Levels::between_extremes(&group([-1.5]), float_type);
            assert_eq!((same.scale, same.offset), (0.0, -1.5));
            assert!(Levels::symmetric(&group([1.0, f32::MAX]), float_type).scale.is_infinite());
        }
        // 15 steps from end to end are more than an f32 holds.
        let widest = Levels::between_extremes(&group([f32::MIN, f32::MAX]), FloatType::F32);
        assert!(widest.scale.is_infinite());
        let tiny = Levels::symmetric(&group([f32::MIN_POSITIVE]), FloatType::F32);
        assert_eq!(tiny.scale, 0.0);
        // In f16 the least step is a subnormal one, and reaches the greatest number.
        let small = group([6e-6, -6.1e-6]);
        let levels = Levels::symmetric(&small, FloatType::F16);
        assert_eq!(levels.scale, 2.0_f32.powi(-24));
        let mut codes = [0; 16];
        levels.codes(&small, &mut codes);
        assert_eq!(codes[..2], [128 + 101, 128 - 102]);
    }
}
