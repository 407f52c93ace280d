//! Decodes the numbers of a file, floats or blocks of quantized ones, to `f32`. Pure arithmetic: no
//! files, no names, no threads.
//!
//! A quantized number is `scale * code + offset` ([`super::codes`]), product and sum rounded
//! separately (no fused multiply-add), so results equal those of ggml's `dequantize_row_*` bit for bit.

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use super::codes::{self, Grouping};
use super::encoding::Encoding;

/// Numbers whose codes are taken out at a time: a whole number of blocks of every encoding.
const PIECE: usize = 256;
/// The smallest group of an encoding.
const GROUP_MIN: usize = 16;

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
        _ => {
            if let Some(grouping) = codes::grouping(encoding) {
                decode_codes(encoding, grouping, raw, out);
            }
        }
    }
}

fn decode_codes(encoding: Encoding, grouping: Grouping, raw: &[u8], out: &mut [f32]) {
    let piece_bytes = PIECE / encoding.block_elements() * encoding.block_bytes();
    let mut codes = [0; PIECE];
    let (mut scales, mut offsets) = ([0.0; PIECE / GROUP_MIN], [0.0; PIECE / GROUP_MIN]);
    for (raw, values) in raw.chunks(piece_bytes).zip(out.chunks_mut(PIECE)) {
        codes::codes(encoding, raw, &mut codes);
        codes::scaling(encoding, raw, &mut scales, &mut offsets);
        let groups = values.chunks_mut(grouping.group).zip(codes.chunks(grouping.group));
        for ((values, codes), (scale, offset)) in groups.zip(scales.iter().zip(&offsets)) {
            for (value, code) in values.iter_mut().zip(codes) {
                *value = f32::from(*code) * scale + offset;
            }
        }
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
