//! Decodes blocks of quantized numbers to `f32`. Pure arithmetic: no files, no names, no threads.
//!
//! Formulas are those of ggml's `dequantize_row_*`: each block carries an f16 scale `d` (and an f16
//! minimum `m` in the `_1` and `_K` kinds), and a number is `d * q`, `d * q + m` or, in the `_K`
//! kinds, `d * scale * q - m * minimum`. Products and sums are rounded separately (no fused
//! multiply-add), so results equal the reference bit for bit.

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use super::encoding::Encoding;

/// Decodes `raw` into `out`. The caller guarantees that `raw` holds exactly the blocks of
/// `out.len()` numbers; what does not fit on either side is left untouched.
pub(super) fn decode(encoding: Encoding, raw: &[u8], out: &mut [f32]) {
    match encoding {
        Encoding::F32 => {
            for (bytes, value) in raw.as_chunks::<4>().0.iter().zip(out) {
                *value = f32::from_le_bytes(*bytes);
            }
        }
        Encoding::F16 => decode_f16(raw, out),
        Encoding::Bf16 => {
            for (bytes, value) in raw.as_chunks::<2>().0.iter().zip(out) {
                *value = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            }
        }
        Encoding::Q8_0 => each_block(raw, out, q8_0),
        Encoding::Q4_0 => each_block(raw, out, q4_0),
        Encoding::Q4_1 => each_block(raw, out, q4_1),
        Encoding::Q5_0 => each_block(raw, out, q5_0),
        Encoding::Q5_1 => each_block(raw, out, q5_1),
        Encoding::Q4K => each_block(raw, out, q4_k),
        Encoding::Q5K => each_block(raw, out, q5_k),
        Encoding::Q6K => each_block(raw, out, q6_k),
    }
}

fn each_block<const BYTES: usize, const ELEMENTS: usize>(
    raw: &[u8],
    out: &mut [f32],
    block: impl Fn(&[u8; BYTES], &mut [f32; ELEMENTS]),
) {
    for (bytes, values) in raw.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<ELEMENTS>().0)
    {
        block(bytes, values);
    }
}

fn decode_f16(raw: &[u8], out: &mut [f32]) {
    // The slice conversion uses the processor's instruction, eight at a time, but wants aligned
    // input.
    match bytemuck::try_cast_slice::<u8, u16>(raw) {
        Ok(bits) if cfg!(target_endian = "little") && bits.len() == out.len() => {
            bits.reinterpret_cast::<f16>().convert_to_f32_slice(out);
        }
        _ => {
            for (bytes, value) in raw.as_chunks::<2>().0.iter().zip(out) {
                *value = f16::from_le_bytes(*bytes).to_f32();
            }
        }
    }
}

/// The f16 at the start of `bytes`.
pub(super) fn scale(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = scale([block[0], block[1]]);
    for (value, quantized) in out.iter_mut().zip(&block[2..]) {
        *value = f32::from(*quantized as i8) * d;
    }
}

fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = scale([block[0], block[1]]);
    let (low, high) = out.split_at_mut(16);
    for ((byte, low), high) in block[2..].iter().zip(low).zip(high) {
        *low = f32::from((byte & 0x0f) as i8 - 8) * d;
        *high = f32::from((byte >> 4) as i8 - 8) * d;
    }
}

fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let d = scale([block[0], block[1]]);
    let m = scale([block[2], block[3]]);
    let (low, high) = out.split_at_mut(16);
    for ((byte, low), high) in block[4..].iter().zip(low).zip(high) {
        *low = f32::from(byte & 0x0f) * d + m;
        *high = f32::from(byte >> 4) * d + m;
    }
}

/// The fifth bit of number `index`, moved to where it belongs.
pub(super) fn fifth_bit(bits: u32, index: usize) -> u8 {
    (((bits >> index) & 1) << 4) as u8
}

fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = scale([block[0], block[1]]);
    let fifth = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    let (low, high) = out.split_at_mut(16);
    for (index, ((byte, low), high)) in block[6..].iter().zip(low).zip(high).enumerate() {
        *low = f32::from(((byte & 0x0f) | fifth_bit(fifth, index)) as i8 - 16) * d;
        *high = f32::from(((byte >> 4) | fifth_bit(fifth, index + 16)) as i8 - 16) * d;
    }
}

fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let d = scale([block[0], block[1]]);
    let m = scale([block[2], block[3]]);
    let fifth = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    let (low, high) = out.split_at_mut(16);
    for (index, ((byte, low), high)) in block[8..].iter().zip(low).zip(high).enumerate() {
        *low = f32::from((byte & 0x0f) | fifth_bit(fifth, index)) * d + m;
        *high = f32::from((byte >> 4) | fifth_bit(fifth, index + 16)) * d + m;
    }
}

/// The 6-bit scale and minimum of sub-block `index` (0..8). The first four of each have their own
/// byte; the upper two bits of those bytes complete the last four, whose lower four bits share
/// bytes 8..12.
pub(super) fn scale_and_minimum(packed: &[u8], index: usize) -> (f32, f32) {
    let (scale, minimum) = if index < 4 {
        (packed[index] & 63, packed[index + 4] & 63)
    } else {
        let shared = packed[index + 4];
        (
            (shared & 0x0f) | ((packed[index - 4] >> 6) << 4),
            (shared >> 4) | ((packed[index] >> 6) << 4),
        )
    };
    (f32::from(scale), f32::from(minimum))
}

/// 256 numbers as eight sub-blocks of 32: pairs of sub-blocks share 32 bytes, low halves first.
fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let d = scale([block[0], block[1]]);
    let dmin = scale([block[2], block[3]]);
    let (packed, quants) = (&block[4..16], &block[16..]);
    for ((pair, bytes), values) in quants.chunks_exact(32).enumerate().zip(out.chunks_exact_mut(64))
    {
        let (low, high) = values.split_at_mut(32);
        let (scale_low, minimum_low) = scale_and_minimum(packed, 2 * pair);
        let (scale_high, minimum_high) = scale_and_minimum(packed, 2 * pair + 1);
        let (d_low, m_low, d_high, m_high) =
            (d * scale_low, dmin * minimum_low, d * scale_high, dmin * minimum_high);
        for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
            *low = f32::from(byte & 0x0f) * d_low - m_low;
            *high = f32::from(byte >> 4) * d_high - m_high;
        }
    }
}

/// As `Q4_K`, with the fifth bit of sub-block `s`, number `i` in bit `s` of byte `i` of a 32-byte
/// table.
fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let d = scale([block[0], block[1]]);
    let dmin = scale([block[2], block[3]]);
    let (packed, fifths, quants) = (&block[4..16], &block[16..48], &block[48..]);
    for ((pair, bytes), values) in quants.chunks_exact(32).enumerate().zip(out.chunks_exact_mut(64))
    {
        let (low, high) = values.split_at_mut(32);
        let (scale_low, minimum_low) = scale_and_minimum(packed, 2 * pair);
        let (scale_high, minimum_high) = scale_and_minimum(packed, 2 * pair + 1);
        let (d_low, m_low, d_high, m_high) =
            (d * scale_low, dmin * minimum_low, d * scale_high, dmin * minimum_high);
        for (((byte, fifth), low), high) in bytes.iter().zip(fifths).zip(low).zip(high) {
            let fifth = fifth >> (2 * pair);
            *low = f32::from((byte & 0x0f) | ((fifth & 1) << 4)) * d_low - m_low;
            *high = f32::from((byte >> 4) | ((fifth & 2) << 3)) * d_high - m_high;
        }
    }
}

/// 256 numbers as two halves of 128; in each half, number `32 * group + i` takes its low four bits
/// from a nibble of byte `i` (groups 0 and 2) or `32 + i` (groups 1 and 3) and its high two from
/// bits `2 * group` of the table's byte `i`. One signed 8-bit scale per 16 numbers.
fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = scale([block[208], block[209]]);
    for (half, values) in out.chunks_exact_mut(128).enumerate() {
        let low = &block[64 * half..64 * half + 64];
        let high = &block[128 + 32 * half..128 + 32 * half + 32];
        let scales = &block[192 + 8 * half..192 + 8 * half + 8];
        for (group, values) in values.chunks_exact_mut(32).enumerate() {
            let nibbles = &low[32 * (group % 2)..32 * (group % 2) + 32];
            let nibble_shift = 4 * (group / 2);
            let high_shift = 2 * group;
            for (part, values) in values.chunks_exact_mut(16).enumerate() {
                let d = d * f32::from(scales[2 * group + part] as i8);
                for (index, value) in values.iter_mut().enumerate() {
                    let index = 16 * part + index;
                    let low = (nibbles[index] >> nibble_shift) & 0x0f;
                    let high = (high[index] >> high_shift) & 3;
                    *value = d * f32::from((low | (high << 4)) as i8 - 32);
                }
            }
        }
    }
}
