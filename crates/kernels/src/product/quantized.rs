//! Products with matrices of 4-bit and 8-bit numbers: every lane is an output, four inputs at a time are
//! broadcast to all.
//!
//! With weights `scale * q + offset` and inputs `d * x`, a group gives
//! `d * scale * sum(q * x) + offset * (d * sum(x))`. The first sum is of whole numbers and exact.

use std::ops::Range;

use super::inputs::Inputs;
use super::{Kernel, LANES, Place, Quantized, Simd, tile_rows};
use crate::panels::STEP;

/// Loads of four columns in a step.
const LOADS: usize = STEP / 4;

/// How far ahead memory is asked for, in vectors of numbers: a processor that reads several streams this narrow does not
/// run ahead far enough by itself.
const AHEAD: usize = 64;

/// Some panels, and the rows they are multiplied with.
pub(super) struct Part<'a> {
    pub(super) inputs: &'a Inputs,
    pub(super) rows: usize,
    pub(super) k: usize,
    pub(super) panels: Range<usize>,
    pub(super) place: Place<'a>,
    pub(super) values: Quantized<'a>,
}

/// With numbers of four bits if `SMALL`, else of eight.
pub(super) struct Product<'a, const SMALL: bool>(pub(super) Part<'a>);

impl<const SMALL: bool> Kernel for Product<'_, SMALL> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if self.0.values.group == STEP {
            all::<S, SMALL, LOADS>(s, &self.0);
        } else {
            all::<S, SMALL, { LOADS / 2 }>(s, &self.0);
        }
    }
}

/// `G` loads share a scale.
#[inline(always)]
fn all<S: Simd, const SMALL: bool, const G: usize>(s: S, part: &Part<'_>) {
    for panel in part.panels.clone() {
        if S::IS_WIDE {
            tile_rows!(part.rows, [8, 4, 2, 1], |row, R| tile::<S, SMALL, G, R>(
                s, part, row, panel
            ));
        } else {
            tile_rows!(part.rows, [4, 1], |row, R| tile::<S, SMALL, G, R>(s, part, row, panel));
        }
    }
}

/// `R` rows with one panel.
#[inline(always)]
fn tile<S: Simd, const SMALL: bool, const G: usize, const R: usize>(
    s: S,
    part: &Part<'_>,
    first_row: usize,
    panel: usize,
) {
    let steps = part.k / STEP;
    let loads_kept = if SMALL { LOADS / 2 } else { LOADS };
    let vectors = part.values.numbers.as_chunks::<{ 4 * LANES }>().0;
    let start = panel * steps * loads_kept;
    let (all, vectors) = (vectors, &vectors[start..][..steps * loads_kept]);
    let groups = steps * LOADS / G;
    let mut words: [&[i32]; R] = [&[]; R];
    let mut scales: [&[f32]; R] = [&[]; R];
    let mut sums: [&[f32]; R] = [&[]; R];
    for row in 0..R {
        words[row] = &part.inputs.words[(first_row + row) * steps * LOADS..][..steps * LOADS];
        scales[row] = &part.inputs.scales[(first_row + row) * groups..][..groups];
        sums[row] = &part.inputs.sums[(first_row + row) * groups..][..groups];
    }
    let mut totals = [s.splat(0.0); R];
    for step in 0..steps {
        let mut bytes = [s.load_bytes(&vectors[step * loads_kept]); LOADS];
        for load in 0..loads_kept {
            if first_row == 0 {
                s.prefetch(all, start + step * loads_kept + load + AHEAD);
            }
            let kept = s.load_bytes(&vectors[step * loads_kept + load]);
            if SMALL {
                bytes[2 * load] = s.low_halves(kept);
                bytes[2 * load + 1] = s.high_halves(kept);
            } else {
                bytes[load] = kept;
            }
        }
        for part_of_step in 0..LOADS / G {
            let group = step * (LOADS / G) + part_of_step;
            let scale = part.values.scales.load(s, panel * groups + group);
            let offset = part.values.offsets.load(s, panel * groups + group);
            for row in 0..R {
                let mut dots = s.zero_ints();
                for load in part_of_step * G..(part_of_step + 1) * G {
                    let word = words[row][step * LOADS + load];
                    dots = if SMALL {
                        s.dot_small(dots, bytes[load], word)
                    } else {
                        s.dot(dots, bytes[load], word)
                    };
                }
                let scaled = s.mul(s.to_floats(dots), scale);
                let total = s.mul_add(offset, s.splat(sums[row][group]), totals[row]);
                totals[row] = s.mul_add(scaled, s.splat(scales[row][group]), total);
            }
        }
    }
    for row in 0..R {
        part.place.write(s, first_row + row, panel, totals[row]);
    }
}
