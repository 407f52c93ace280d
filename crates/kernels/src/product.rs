//! Rows times the transpose of a matrix in panels. Decides who computes what; knows no instruction.
//!
//! What a row gets depends on nothing but that row and the matrix, to the last bit: each output is one sum,
//! taken along the inputs in one order, wherever tiles of rows and panels begin and end.

mod inputs;
mod quantized;
mod whole;

use inputs::Inputs;

use crate::panels::{Matrix, Quantized, Values};
use crate::pool::{self, Shared};
use crate::simd::{Kernel, LANES, Level, Simd};

/// Multiplications that are worth waking another thread for: some microseconds of them.
const WORK_MIN: usize = 1 << 16;

/// Rows that are multiplied with a part of the matrix before the next part is read: their inputs stay in the
/// second cache.
const ROWS_AT_ONCE: usize = 512;

/// `out [m, n] = x [m, k] * transpose(matrix [n, k])`.
///
/// With quantized values, each row of `x` is rounded to whole numbers from -127 to 127 per group of columns,
/// as llama.cpp does, and products of those are added up exactly within a group.
///
/// # Errors
/// A message when sizes do not fit.
pub fn product(
    level: Level,
    x: &[f32],
    matrix: &Matrix<'_>,
    out: &mut [f32],
) -> Result<(), String> {
    let (n, k) = (matrix.rows(), matrix.columns());
    let m = x.len() / k;
    if x.len() != m * k || Some(out.len()) != m.checked_mul(n) {
        return Err(format!(
            "{} inputs and {} outputs do not fit a matrix of {n} x {k}",
            x.len(),
            out.len()
        ));
    }
    if out.is_empty() {
        return Ok(());
    }
    let out = Shared::new(out);
    let mut first = 0;
    while first < m {
        let rows = ROWS_AT_ONCE.min(m - first);
        let place = Place { out: &out, first, n };
        let x = &x[first * k..(first + rows) * k];
        match matrix.values() {
            Values::F32(values) => over_panels(matrix, rows, |panels| {
                let part = whole::Part { x, rows, k, panels, place };
                level.run(whole::F32(part, values));
            }),
            Values::Bf16(values) => over_panels(matrix, rows, |panels| {
                let part = whole::Part { x, rows, k, panels, place };
                level.run(whole::Bf16(part, values));
            }),
            Values::Q4(values) => quantized_product::<true>(level, x, matrix, values, rows, place),
            Values::Q8(values) => quantized_product::<false>(level, x, matrix, values, rows, place),
        }
        first += rows;
    }
    Ok(())
}

fn quantized_product<const SMALL: bool>(
    level: Level,
    x: &[f32],
    matrix: &Matrix<'_>,
    values: Quantized<'_>,
    rows: usize,
    place: Place<'_>,
) {
    let k = matrix.columns();
    let inputs = Inputs::round(level, x, k, values.group);
    let inputs = &inputs;
    over_panels(matrix, rows, |panels| {
        let part = quantized::Part { inputs, rows, k, panels, place, values };
        level.run(quantized::Product::<SMALL>(part));
    });
}

/// Calls `part` with ranges of panels that together are all.
fn over_panels(matrix: &Matrix<'_>, rows: usize, part: impl Fn(std::ops::Range<usize>) + Sync) {
    let panels = matrix.panels();
    let work = panels * LANES * matrix.columns() * rows;
    // Some more parts than threads, since threads lose their processors to others now and then.
    let parts = (pool::threads() * 4).min(work / WORK_MIN).max(1);
    // Whole tiles: kernels take up to four panels at once.
    let each = panels.div_ceil(parts).next_multiple_of(4);
    pool::run(panels.div_ceil(each), &|number| {
        part(number * each..((number + 1) * each).min(panels));
    });
}

/// Where results go.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// `[m, n]`.
    out: &'a Shared<'a, f32>,
    /// The row of `out` that a part's first row is.
    first: usize,
    n: usize,
}

impl Place<'_> {
    /// Writes the 16 results of a row and a panel.
    #[inline(always)]
    fn write<S: Simd>(self, s: S, row: usize, panel: usize, value: S::Floats) {
        let column = panel * LANES;
        let count = LANES.min(self.n - column);
        // SAFETY: panels are shared out, each to one thread, and these places belong to this panel.
        let to = unsafe { self.out.slice((self.first + row) * self.n + column, count) };
        if let Ok(to) = <&mut [f32; LANES]>::try_from(&mut *to) {
            s.store(value, to);
        } else {
            to.copy_from_slice(&s.lanes(value)[..count]);
        }
    }
}

/// Calls a method of `$self` for tiles of `$rows` rows: as many as its const argument says, the largest first.
macro_rules! tile_rows {
    ($rows:expr, [$($height:literal),+], |$row:ident, $HEIGHT:ident| $tile:expr) => {{
        let mut $row = 0;
        $(
            while $rows - $row >= $height {
                const $HEIGHT: usize = $height;
                $tile;
                $row += $height;
            }
        )+
    }};
}
use tile_rows;
