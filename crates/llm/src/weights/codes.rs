//! The codes in blocks of quantized numbers as they are, and the scale and offset of each group of
//! them: a number is `scale * code + offset`. Pure arithmetic: no files, no names, no threads.
//! ([`super::blocks`] decodes the same blocks in one go: `Q4_1` in 0.6 of the time that codes take.)
//!
//! Layouts and formulas are those of ggml's `dequantize_row_*`: each block carries an f16 scale `d`
//! (and an f16 minimum in the `_1` and `_K` kinds), and the `_K` kinds a small integer per group by
//! which that is multiplied. Codes are unsigned here: what ggml subtracts from them (8, 16, 32 or 128)
//! is in the offset. Nothing but the last sum can round, since an f32 holds every product of an f16
//! and two such integers.

use super::FloatType;
use super::blocks::{fifth_bit, scale, scale_and_minimum};
use super::encoding::Encoding;

/// How an encoding groups its codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grouping {
    /// 4 or 8; codes of 5 and 6 bits go into 8.
    pub(super) bits: u32,
    /// Codes that share a scale and an offset.
    pub(super) group: usize,
    /// The narrowest type that holds scales and offsets as they are (in f16, of ordinary size).
    pub(super) scales: FloatType,
}

/// `None` for plain floats, which have no codes.
pub(super) fn grouping(encoding: Encoding) -> Option<Grouping> {
    let (bits, group, scales) = match encoding {
        Encoding::F32 | Encoding::F16 | Encoding::Bf16 => return None,
        Encoding::Q4_0 | Encoding::Q4_1 => (4, 32, FloatType::F16),
        Encoding::Q5_0 | Encoding::Q5_1 | Encoding::Q8_0 => (8, 32, FloatType::F16),
        Encoding::Q4K => (4, 32, FloatType::F32),
        Encoding::Q5K => (8, 32, FloatType::F32),
        Encoding::Q6K => (8, 16, FloatType::F32),
    };
    Some(Grouping { bits, group, scales })
}

/// Writes the codes of the blocks in `raw` into `out`, one in a byte, in the order of the numbers.
/// Nothing for plain floats.
pub(super) fn codes(encoding: Encoding, raw: &[u8], out: &mut [u8]) {
    match encoding {
        Encoding::F32 | Encoding::F16 | Encoding::Bf16 => {}
        Encoding::Q8_0 => each_block(raw, out, |block: &[u8; 34], codes: &mut [u8; 32]| {
            for (code, signed) in codes.iter_mut().zip(&block[2..]) {
                // 128 more than the signed byte.
                *code = signed ^ 0x80;
            }
        }),
        Encoding::Q4_0 => each_block(raw, out, |block: &[u8; 18], codes: &mut [u8; 32]| {
            nibbles(&block[2..], codes);
        }),
        Encoding::Q4_1 => each_block(raw, out, |block: &[u8; 20], codes: &mut [u8; 32]| {
            nibbles(&block[4..], codes);
        }),
        Encoding::Q5_0 => each_block(raw, out, |block: &[u8; 22], codes: &mut [u8; 32]| {
            nibbles(&block[6..], codes);
            fifth_bits([block[2], block[3], block[4], block[5]], codes);
        }),
        Encoding::Q5_1 => each_block(raw, out, |block: &[u8; 24], codes: &mut [u8; 32]| {
            nibbles(&block[8..], codes);
            fifth_bits([block[4], block[5], block[6], block[7]], codes);
        }),
        Encoding::Q4K => each_block(raw, out, |block: &[u8; 144], codes: &mut [u8; 256]| {
            for (bytes, codes) in block[16..].chunks_exact(32).zip(codes.chunks_exact_mut(64)) {
                nibbles(bytes, codes);
            }
        }),
        Encoding::Q5K => each_block(raw, out, q5_k),
        Encoding::Q6K => each_block(raw, out, q6_k),
    }
}

/// Writes the scale and the offset of every group of the blocks in `raw`. Nothing for plain floats.
pub(super) fn scaling(encoding: Encoding, raw: &[u8], scales: &mut [f32], offsets: &mut [f32]) {
    /// Of numbers `d * (code - middle)`.
    fn centred(d: f32, middle: f32) -> (f32, f32) {
        (d, -middle * d)
    }
    match encoding {
        Encoding::F32 | Encoding::F16 | Encoding::Bf16 => {}
        Encoding::Q8_0 => {
            each_scaling(raw, scales, offsets, |block: &[u8; 34]| {
                [centred(float(block, 0), 128.0)]
            });
        }
        Encoding::Q4_0 => {
            each_scaling(raw, scales, offsets, |block: &[u8; 18]| [centred(float(block, 0), 8.0)]);
        }
        Encoding::Q5_0 => {
            each_scaling(raw, scales, offsets, |block: &[u8; 22]| [centred(float(block, 0), 16.0)]);
        }
        Encoding::Q4_1 => {
            each_scaling(raw, scales, offsets, |block: &[u8; 20]| {
                [(float(block, 0), float(block, 2))]
            });
        }
        Encoding::Q5_1 => {
            each_scaling(raw, scales, offsets, |block: &[u8; 24]| {
                [(float(block, 0), float(block, 2))]
            });
        }
        Encoding::Q4K => {
            each_scaling(raw, scales, offsets, |block: &[u8; 144]| scales_and_minima(block));
        }
        Encoding::Q5K => {
            each_scaling(raw, scales, offsets, |block: &[u8; 176]| scales_and_minima(block));
        }
        Encoding::Q6K => each_scaling(raw, scales, offsets, |block: &[u8; 210]| {
            let d = float(block, 208);
            std::array::from_fn::<_, 16, _>(|group| {
                centred(d * f32::from(block[192 + group].cast_signed()), 32.0)
            })
        }),
    }
}

fn each_block<const BYTES: usize, const ELEMENTS: usize>(
    raw: &[u8],
    out: &mut [u8],
    block: impl Fn(&[u8; BYTES], &mut [u8; ELEMENTS]),
) {
    for (bytes, codes) in raw.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<ELEMENTS>().0) {
        block(bytes, codes);
    }
}

fn each_scaling<const BYTES: usize, const GROUPS: usize>(
    raw: &[u8],
    scales: &mut [f32],
    offsets: &mut [f32],
    block: impl Fn(&[u8; BYTES]) -> [(f32, f32); GROUPS],
) {
    let places = scales.as_chunks_mut::<GROUPS>().0.iter_mut();
    let places = places.zip(offsets.as_chunks_mut::<GROUPS>().0);
    for (bytes, (scales, offsets)) in raw.as_chunks::<BYTES>().0.iter().zip(places) {
        for ((scale, offset), own) in scales.iter_mut().zip(offsets).zip(block(bytes)) {
            (*scale, *offset) = own;
        }
    }
}

/// The f16 at byte `start`.
fn float(block: &[u8], start: usize) -> f32 {
    scale([block[start], block[start + 1]])
}

/// The low halves of all bytes, then the high ones.
fn nibbles(bytes: &[u8], codes: &mut [u8]) {
    let (low, high) = codes.split_at_mut(bytes.len());
    for (code, byte) in low.iter_mut().zip(bytes) {
        *code = byte & 0x0f;
    }
    for (code, byte) in high.iter_mut().zip(bytes) {
        *code = byte >> 4;
    }
}

/// Adds the fifth bit of each code: code `i` has bit `i`.
fn fifth_bits(bits: [u8; 4], codes: &mut [u8; 32]) {
    let bits = u32::from_le_bytes(bits);
    for (index, code) in codes.iter_mut().enumerate() {
        *code |= fifth_bit(bits, index);
    }
}

/// As `Q4_K`, with the fifth bit of sub-block `s`, number `i` in bit `s` of byte `i` of a 32-byte
/// table.
fn q5_k(block: &[u8; 176], codes: &mut [u8; 256]) {
    let (fifths, quants) = (&block[16..48], &block[48..]);
    for (bytes, codes) in quants.chunks_exact(32).zip(codes.chunks_exact_mut(64)) {
        nibbles(bytes, codes);
    }
    for (sub_block, codes) in codes.chunks_exact_mut(32).enumerate() {
        for (code, fifth) in codes.iter_mut().zip(fifths) {
            *code |= ((fifth >> sub_block) & 1) << 4;
        }
    }
}

/// 256 numbers as two halves of 128, with the low four bits of each in 64 bytes and the high two of
/// number `32 * part + i` in bits `2 * part` of byte `i` of a 32-byte table.
fn q6_k(block: &[u8; 210], codes: &mut [u8; 256]) {
    for (half, codes) in codes.chunks_exact_mut(128).enumerate() {
        nibbles(&block[64 * half..64 * half + 64], codes);
        let high = &block[128 + 32 * half..128 + 32 * half + 32];
        for (part, codes) in codes.chunks_exact_mut(32).enumerate() {
            for (code, high) in codes.iter_mut().zip(high) {
                *code |= ((high >> (2 * part)) & 3) << 4;
            }
        }
    }
}

/// Of the eight sub-blocks of `Q4_K` and `Q5_K`.
fn scales_and_minima(block: &[u8]) -> [(f32, f32); 8] {
    let (d, minimum_d, packed) = (float(block, 0), float(block, 2), &block[4..16]);
    std::array::from_fn(|index| {
        let (scale, minimum) = scale_and_minimum(packed, index);
        (d * scale, -(minimum_d * minimum))
    })
}
