//! Products with matrices of f32 and bf16: every lane is an output, every input is broadcast.

use std::ops::Range;

use super::{Kernel, LANES, Place, Simd, tile_rows};

/// How far ahead memory is asked for, in loads of 64 bytes.
const AHEAD: usize = 32;

/// Some panels, and the rows they are multiplied with.
pub(super) struct Part<'a> {
    /// `[rows, k]`.
    pub(super) x: &'a [f32],
    pub(super) rows: usize,
    pub(super) k: usize,
    pub(super) panels: Range<usize>,
    pub(super) place: Place<'a>,
}

/// With `[panels, k, 16]`.
pub(super) struct F32<'a>(pub(super) Part<'a>, pub(super) &'a [f32]);

/// With `[panels, k / 2, 16, 2]`.
pub(super) struct Bf16<'a>(pub(super) Part<'a>, pub(super) &'a [u16]);

/// How a kind of number is read.
trait Weights: Copy {
    type Number: Copy;
    /// Columns that one load yields.
    const COLUMNS: usize;

    /// `COLUMNS` columns of a panel, from the numbers of these.
    fn load<S: Simd>(s: S, from: &[Self::Number]) -> [S::Floats; 2];
}

#[derive(Clone, Copy)]
struct OfF32;

impl Weights for OfF32 {
    type Number = f32;
    const COLUMNS: usize = 1;

    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[f32]) -> [S::Floats; 2] {
        let value = s.load(&from.as_chunks().0[0]);
        [value, value]
    }
}

#[derive(Clone, Copy)]
struct OfBf16;

impl Weights for OfBf16 {
    type Number = u16;
    const COLUMNS: usize = 2;

    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[u16]) -> [S::Floats; 2] {
        let (first, second) = s.load_bf16_pairs(&from.as_chunks().0[0]);
        [first, second]
    }
}

impl Kernel for F32<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        all::<S, OfF32>(s, &self.0, self.1);
    }
}

impl Kernel for Bf16<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        all::<S, OfBf16>(s, &self.0, self.1);
    }
}

#[inline(always)]
fn all<S: Simd, W: Weights>(s: S, part: &Part<'_>, values: &[W::Number]) {
    // Few rows need several panels at once, or each addition waits for the one before it; many rows need
    // the registers themselves. A panel stays in the second cache while all rows go by.
    let panels_at_once = match (S::IS_WIDE, part.rows) {
        (true, 8..) => 2,
        (true, _) | (false, ..2) => 4,
        (false, _) => 1,
    };
    let mut panel = part.panels.start;
    while panel < part.panels.end {
        let count = if panel + panels_at_once <= part.panels.end { panels_at_once } else { 1 };
        match (S::IS_WIDE, count) {
            (true, 4) => tile_rows!(part.rows, [4, 2, 1], |row, R| tile::<S, W, R, 4>(
                s, part, values, row, panel
            )),
            (true, 2) => tile_rows!(part.rows, [8, 4, 2, 1], |row, R| tile::<S, W, R, 2>(
                s, part, values, row, panel
            )),
            (true, _) => tile_rows!(part.rows, [8, 4, 2, 1], |row, R| tile::<S, W, R, 1>(
                s, part, values, row, panel
            )),
            (false, 4) => {
                tile_rows!(part.rows, [1], |row, R| tile::<S, W, R, 4>(s, part, values, row, panel))
            }
            (false, _) => tile_rows!(part.rows, [4, 2, 1], |row, R| tile::<S, W, R, 1>(
                s, part, values, row, panel
            )),
        }
        panel += count;
    }
}

/// `R` rows with `P` panels.
#[inline(always)]
fn tile<S: Simd, W: Weights, const R: usize, const P: usize>(
    s: S,
    part: &Part<'_>,
    values: &[W::Number],
    first_row: usize,
    first_panel: usize,
) {
    let k = part.k;
    let mut x: [&[f32]; R] = [&[]; R];
    for (row, x) in x.iter_mut().enumerate() {
        *x = &part.x[(first_row + row) * k..][..k];
    }
    let mut panels: [&[W::Number]; P] = [&[]; P];
    for (panel, values_of) in panels.iter_mut().enumerate() {
        *values_of = &values[(first_panel + panel) * k * LANES..][..k * LANES];
    }
    let mut sums = [[s.splat(0.0); P]; R];
    let width = W::COLUMNS * LANES;
    for load in 0..k / W::COLUMNS {
        let mut weights = [[s.splat(0.0); 2]; P];
        for (place, (weights, panel)) in weights.iter_mut().zip(&panels).enumerate() {
            if first_row == 0 {
                s.prefetch(values, (first_panel + place) * k * LANES + (load + AHEAD) * width);
            }
            *weights = W::load(s, &panel[load * width..(load + 1) * width]);
        }
        for within in 0..W::COLUMNS {
            for row in 0..R {
                let input = s.splat(x[row][load * W::COLUMNS + within]);
                for panel in 0..P {
                    sums[row][panel] = s.mul_add(input, weights[panel][within], sums[row][panel]);
                }
            }
        }
    }
    for row in 0..R {
        for panel in 0..P {
            part.place.write(s, first_row + row, first_panel + panel, sums[row][panel]);
        }
    }
}
