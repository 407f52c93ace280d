//! Plain rows into panels, by the definition of their layout.

use half::{bf16, f16};

use super::{Factors, Matrix, Quantized, STEP, Values};
use crate::simd::LANES;

/// The memory of a matrix.
#[derive(Clone, Debug)]
pub struct Packed {
    rows: usize,
    columns: usize,
    kept: Kept,
}

#[derive(Clone, Debug)]
enum Kept {
    F32(Vec<f32>),
    Bf16(Vec<u16>),
    Quantized { bits: usize, numbers: Vec<u8>, factors: Kind, group: usize },
}

#[derive(Clone, Debug)]
enum Kind {
    F32 { scales: Vec<f32>, offsets: Vec<f32> },
    F16 { scales: Vec<u16>, offsets: Vec<u16> },
}

impl Packed {
    /// The matrix that is kept here.
    ///
    /// # Errors
    /// A message when it was packed from no such matrix.
    pub fn matrix(&self) -> Result<Matrix<'_>, String> {
        Matrix::new(self.rows, self.columns, self.values())
    }

    /// Its parts.
    pub fn values(&self) -> Values<'_> {
        match &self.kept {
            Kept::F32(numbers) => Values::F32(numbers),
            Kept::Bf16(numbers) => Values::Bf16(numbers),
            Kept::Quantized { bits, numbers, factors, group } => {
                let (scales, offsets) = match factors {
                    Kind::F32 { scales, offsets } => (Factors::F32(scales), Factors::F32(offsets)),
                    Kind::F16 { scales, offsets } => (Factors::F16(scales), Factors::F16(offsets)),
                };
                let quantized = Quantized { numbers, scales, offsets, group: *group };
                if *bits == 4 { Values::Q4(quantized) } else { Values::Q8(quantized) }
            }
        }
    }
}

/// Panels of `[rows, columns]` numbers.
///
/// # Panics
/// If there are not that many.
pub fn pack_f32(rows: usize, columns: usize, numbers: &[f32]) -> Packed {
    let mut kept = vec![0.0; rows.div_ceil(LANES) * columns * LANES];
    each(rows, columns, numbers, |row, column, number| {
        kept[(row / LANES * columns + column) * LANES + row % LANES] = number;
    });
    Packed { rows, columns, kept: Kept::F32(kept) }
}

/// Panels of `[rows, columns]` numbers rounded to bf16; `columns` is even.
///
/// # Panics
/// If there are not that many.
pub fn pack_bf16(rows: usize, columns: usize, numbers: &[f32]) -> Packed {
    let mut kept = vec![0; rows.div_ceil(LANES) * columns * LANES];
    each(rows, columns, numbers, |row, column, number| {
        let pair = (row / LANES * (columns / 2) + column / 2) * LANES + row % LANES;
        kept[2 * pair + column % 2] = bf16::from_f32(number).to_bits();
    });
    Packed { rows, columns, kept: Kept::Bf16(kept) }
}

/// Panels of `[rows, columns]` numbers from 0 to 15, with scales and offsets `[rows, columns / group]`, kept in
/// half precision if `halves`.
///
/// # Panics
/// If there are not that many.
pub fn pack_q4(
    [rows, columns, group]: [usize; 3],
    numbers: &[u8],
    scales: &[f32],
    offsets: &[f32],
    halves: bool,
) -> Packed {
    let mut kept = vec![0; rows.div_ceil(LANES) * columns * LANES / 2];
    each(rows, columns, numbers, |row, column, number| {
        let step = row / LANES * (columns / STEP) + column / STEP;
        let place = ((step * 4 + column % STEP / 8) * LANES + row % LANES) * 4 + column % 4;
        kept[place] |= (number & 15) << (column % 8 / 4 * 4);
    });
    let factors = factors(rows, columns / group, scales, offsets, halves);
    Packed { rows, columns, kept: Kept::Quantized { bits: 4, numbers: kept, factors, group } }
}

/// Panels of `[rows, columns]` numbers from 0 to 255, with scales and offsets `[rows, columns / group]`, kept in
/// half precision if `halves`.
///
/// # Panics
/// If there are not that many.
pub fn pack_q8(
    [rows, columns, group]: [usize; 3],
    numbers: &[u8],
    scales: &[f32],
    offsets: &[f32],
    halves: bool,
) -> Packed {
    let mut kept = vec![0; rows.div_ceil(LANES) * columns * LANES];
    each(rows, columns, numbers, |row, column, number| {
        let step = row / LANES * (columns / STEP) + column / STEP;
        let place = ((step * 8 + column % STEP / 4) * LANES + row % LANES) * 4 + column % 4;
        kept[place] = number;
    });
    let factors = factors(rows, columns / group, scales, offsets, halves);
    Packed { rows, columns, kept: Kept::Quantized { bits: 8, numbers: kept, factors, group } }
}

fn factors(rows: usize, groups: usize, scales: &[f32], offsets: &[f32], halves: bool) -> Kind {
    let pack = |numbers: &[f32]| {
        let mut kept = vec![0.0; rows.div_ceil(LANES) * groups * LANES];
        each(rows, groups, numbers, |row, group, number| {
            kept[(row / LANES * groups + group) * LANES + row % LANES] = number;
        });
        kept
    };
    let (scales, offsets) = (pack(scales), pack(offsets));
    if !halves {
        return Kind::F32 { scales, offsets };
    }
    let round = |numbers: Vec<f32>| numbers.into_iter().map(|x| f16::from_f32(x).to_bits());
    Kind::F16 { scales: round(scales).collect(), offsets: round(offsets).collect() }
}

fn each<T: Copy>(
    rows: usize,
    columns: usize,
    numbers: &[T],
    mut place: impl FnMut(usize, usize, T),
) {
    assert_eq!(numbers.len(), rows * columns, "not {rows} rows of {columns} numbers");
    for (at, number) in numbers.iter().enumerate() {
        place(at / columns, at % columns, *number);
    }
}
