//! Weights for a measurement: numbers of a sensible size, the same every time, made quickly. How long a
//! step takes does not depend on them, as long as they are neither zero nor beyond a type's range.
//! Knows no model.

use std::convert::Infallible;

use graph::{DType, Input};
use runtime::{Array, DeviceMesh, Error};

/// About the size of a trained model's weights.
const SIZE: f32 = 0.02;

/// An array for an argument of a program. `donated`: whether a run takes it over, for which the plugin
/// needs memory of its own.
///
/// # Errors
/// What the plugin reports, such as too little memory.
pub fn array(mesh: &DeviceMesh, input: &Input, donated: bool) -> Result<Array, Error> {
    let (shape, sharding) = (&input.shape, &input.sharding);
    // Norms are vectors, and begin as ones.
    let ones = shape.axes.len() < 2;
    let fill = |_: &[std::ops::Range<usize>], bytes: &mut [u8]| {
        fill(shape.dtype, ones, bytes);
        Ok::<(), Infallible>(())
    };
    match donated {
        true => Array::fill_copied(mesh, shape, sharding, fill),
        false => Array::fill(mesh, shape, sharding, fill),
    }
}

fn fill(dtype: DType, ones: bool, bytes: &mut [u8]) {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    // Marsaglia, "Xorshift RNGs", 2003.
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut number = || match ones {
        true => 1.0,
        false => SIZE * ((random() >> 40) as f32 / (1 << 23) as f32 - 1.0),
    };
    match dtype {
        DType::F32 => {
            let places = bytes.as_chunks_mut::<4>().0;
            places.iter_mut().for_each(|place| *place = number().to_le_bytes());
        }
        DType::Bf16 => {
            let places = bytes.as_chunks_mut::<2>().0;
            let bits = |number: f32| (number.to_bits() >> 16) as u16;
            places.iter_mut().for_each(|place| *place = bits(number()).to_le_bytes());
        }
        // 0.0078125 with either sign: nothing else of f16 is needed than scales.
        DType::F16 => {
            let places = bytes.as_chunks_mut::<2>().0;
            places.iter_mut().for_each(|place| {
                let sign = u16::from(number() < 0.0) << 15;
                *place = (0x2000 | sign).to_le_bytes();
            });
        }
        // Codes of quantized weights.
        _ => bytes.iter_mut().for_each(|byte| *byte = random() as u8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_small_and_not_all_the_same() {
        let mut bytes = vec![0; 4000];
        fill(DType::F32, false, &mut bytes);
        let numbers: Vec<f32> =
            bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        assert!(numbers.iter().all(|number| number.abs() <= SIZE));
        assert!(numbers.iter().any(|&number| number > 0.0 && number != numbers[0]));
        let mean = numbers.iter().sum::<f32>() / numbers.len() as f32;
        assert!(mean.abs() < SIZE / 10.0, "{mean}");
        fill(DType::F32, true, &mut bytes);
        assert_eq!(bytes[..4], 1.0_f32.to_le_bytes());
        let mut codes = vec![0; 64];
        fill(DType::U8, false, &mut codes);
        assert!(codes.iter().any(|&code| code != codes[0]));
    }
}
