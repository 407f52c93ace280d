//! Matrices as the kernels read them: cut into panels of 16 rows, so that a vector holds one input's weights
//! for 16 outputs. Knows no instruction and no thread.
//!
//! A matrix of `n` rows (outputs) and `k` columns (inputs) has `ceil(n / 16)` panels; rows that are not
//! there are zeros. What lies in a panel depends on the kind of number, see [`Values`].

mod pack;

use half::f16;

pub use pack::{Packed, pack_bf16, pack_f32, pack_q4, pack_q8};

use crate::simd::{LANES, Simd};

/// Columns that one step through quantized values covers, and the inputs that share a scale when the input is
/// quantized, unless the groups are smaller.
pub(crate) const STEP: usize = 32;

/// A factor per row and group of columns.
#[derive(Clone, Copy, Debug)]
pub enum Factors<'a> {
    /// `[panels, k / group, 16]`.
    F32(&'a [f32]),
    /// `[panels, k / group, 16]`, the bits of half-precision numbers.
    F16(&'a [u16]),
}

/// The numbers of a matrix, all row-major.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// `[panels, k, 16]`.
    F32(&'a [f32]),
    /// `[panels, k / 2, 16, 2]`, the bits of bf16; `k` is even.
    Bf16(&'a [u16]),
    /// `[panels, k / 32, 4, 16, 4]`: the byte at `[p, g, j, c, i]` has the number of row `16 p + c` and column
    /// `32 g + 8 j + i` in its lower half, that of column `32 g + 8 j + 4 + i` in its upper half. A weight is
    /// `scale * number + offset`.
    Q4(Quantized<'a>),
    /// `[panels, k / 32, 8, 16, 4]`: the byte at `[p, g, j, c, i]` is the number of row `16 p + c` and column
    /// `32 g + 4 j + i`. A weight is `scale * number + offset`.
    Q8(Quantized<'a>),
}

/// Whole numbers with a scale and an offset per row and group of columns.
#[derive(Clone, Copy, Debug)]
pub struct Quantized<'a> {
    /// The numbers, unsigned.
    pub numbers: &'a [u8],
    /// What a number is multiplied with.
    pub scales: Factors<'a>,
    /// What is added then.
    pub offsets: Factors<'a>,
    /// How many columns share them: 32 or 16.
    pub group: usize,
}

/// A matrix whose parts were found to have the sizes they must have.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    rows: usize,
    columns: usize,
    values: Values<'a>,
}

impl Factors<'_> {
    fn len(&self) -> usize {
        match self {
            Factors::F32(values) => values.len(),
            Factors::F16(values) => values.len(),
        }
    }

    /// Vector number `place` of 16 rows.
    #[inline(always)]
    pub(crate) fn load<S: Simd>(self, s: S, place: usize) -> S::Floats {
        match self {
            Factors::F32(values) => s.load(&values.as_chunks().0[place]),
            Factors::F16(values) => s.load_f16(&values.as_chunks().0[place]),
        }
    }

    fn at(self, place: usize) -> f32 {
        match self {
            Factors::F32(values) => values[place],
            Factors::F16(values) => f16::from_bits(values[place]).to_f32(),
        }
    }
}

impl<'a> Matrix<'a> {
    /// A matrix of `rows` times `columns`.
    ///
    /// # Errors
    /// A message when a part has another size than these ask for, or there are no such columns of this kind.
    pub fn new(rows: usize, columns: usize, values: Values<'a>) -> Result<Matrix<'a>, String> {
        let panels = rows.div_ceil(LANES);
        let multiple = match values {
            Values::F32(_) => 1,
            Values::Bf16(_) => 2,
            Values::Q4(_) | Values::Q8(_) => STEP,
        };
        if columns == 0 || !columns.is_multiple_of(multiple) {
            return Err(format!(
                "a matrix of this kind cannot have {columns} columns, only multiples of {multiple}"
            ));
        }
        let padded = panels
            .checked_mul(LANES)
            .and_then(|rows| rows.checked_mul(columns))
            .ok_or_else(|| format!("a matrix of {rows} x {columns} is larger than memory"))?;
        let (numbers, expected) = match values {
            Values::F32(numbers) => (numbers.len(), padded),
            Values::Bf16(numbers) => (numbers.len(), padded),
            Values::Q4(quantized) => (quantized.numbers.len(), padded / 2),
            Values::Q8(quantized) => (quantized.numbers.len(), padded),
        };
        if numbers != expected {
            return Err(format!(
                "panels of {numbers} numbers are no matrix of {rows} x {columns}, which takes {expected}"
            ));
        }
        if let Values::Q4(quantized) | Values::Q8(quantized) = values {
            if ![16, 32].contains(&quantized.group) {
                return Err(format!(
                    "groups of {} columns are not supported, only 16 and 32",
                    quantized.group
                ));
            }
            let expected = padded / quantized.group;
            for (name, factors) in [("scales", quantized.scales), ("offsets", quantized.offsets)] {
                if factors.len() != expected {
                    return Err(format!(
                        "{} {name} do not fit a matrix of {rows} x {columns} in groups of {}, which takes {expected}",
                        factors.len(),
                        quantized.group
                    ));
                }
            }
        }
        Ok(Matrix { rows, columns, values })
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    pub(crate) fn panels(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    pub(crate) fn values(&self) -> Values<'a> {
        self.values
    }

    /// Writes one row, as `columns` plain numbers; zeros if there is no such row.
    ///
    /// # Panics
    /// If `to` has another length.
    pub fn read_row(&self, row: usize, to: &mut [f32]) {
        assert_eq!(to.len(), self.columns, "a row has as many numbers as the matrix has columns");
        if row >= self.rows {
            return to.fill(0.0);
        }
        let (panel, lane) = (row / LANES, row % LANES);
        let columns = self.columns;
        match self.values {
            Values::F32(numbers) => {
                for (column, to) in to.iter_mut().enumerate() {
                    *to = numbers[(panel * columns + column) * LANES + lane];
                }
            }
            Values::Bf16(numbers) => {
                for (column, to) in to.iter_mut().enumerate() {
                    let pair = (panel * columns + column / 2 * 2) / 2 * LANES + lane;
                    *to = f32::from_bits(u32::from(numbers[2 * pair + column % 2]) << 16);
                }
            }
            Values::Q4(quantized) => quantized.read_row(panel, lane, to, |numbers, column| {
                let place = (panel * columns + column / 8 * 8) / 2 * LANES + 4 * lane + column % 4;
                numbers[place] >> (column % 8 / 4 * 4) & 15
            }),
            Values::Q8(quantized) => quantized.read_row(panel, lane, to, |numbers, column| {
                numbers[(panel * columns + column / 4 * 4) * LANES + 4 * lane + column % 4]
            }),
        }
    }
}

impl Quantized<'_> {
    fn read_row(
        &self,
        panel: usize,
        lane: usize,
        to: &mut [f32],
        number: impl Fn(&[u8], usize) -> u8,
    ) {
        let groups = to.len() / self.group;
        for (group, part) in to.chunks_exact_mut(self.group).enumerate() {
            let place = (panel * groups + group) * LANES + lane;
            let (scale, offset) = (self.scales.at(place), self.offsets.at(place));
            for (within, to) in part.iter_mut().enumerate() {
                let number = number(self.numbers, group * self.group + within);
                *to = scale * f32::from(number) + offset;
            }
        }
    }
}
