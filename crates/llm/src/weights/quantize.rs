//! Matrices as int8 with one scale per row, made while they are read, some rows at a time: a model is
//! never in memory in a wider type. Knows no device.

use std::ops::Range;

use super::{Checkpoint, WeightsError};

/// Numbers widened at a time: 4 MiB as f32, enough for the reader's threads.
const PIECE_ELEMENTS: usize = 1 << 20;
/// The largest int8 that is used; -128 is not, so that the range is symmetric.
const LARGEST: f32 = 127.0;
/// 1.5 · 2^23: a number of at most 2^22 loses exactly its fraction when this is added, to the nearest
/// and to even between two. A call per number would take longer than reading it.
const ROUND: f32 = 12_582_912.0;

impl Checkpoint {
    /// Reads `rows` of a matrix (all of them for `None`) into `out` as int8, row-major: each number
    /// divided by its row's scale ([`Checkpoint::read_scales`]) and rounded.
    ///
    /// # Errors
    /// As [`Checkpoint::read`].
    pub fn read_int8(
        &self,
        name: &str,
        rows: Option<Range<usize>>,
        out: &mut [u8],
    ) -> Result<(), WeightsError> {
        let columns = self.info(name)?.row_elements();
        self.expect_size(name, rows.clone(), columns, out)?;
        let mut places = out.chunks_mut(columns.max(1));
        self.each_row(name, rows, |row| {
            let scale = scale(row);
            for (place, value) in places.next().into_iter().flatten().zip(row) {
                *place = quantized(*value, scale).cast_unsigned();
            }
        })
    }

    /// Reads the scales of a matrix's rows into `out` as f32 in the machine's byte order: the greatest
    /// magnitude of the row by 127, zero for a row of zeros.
    ///
    /// # Errors
    /// As [`Checkpoint::read`].
    pub fn read_scales(
        &self,
        name: &str,
        rows: Option<Range<usize>>,
        out: &mut [u8],
    ) -> Result<(), WeightsError> {
        self.expect_size(name, rows.clone(), size_of::<f32>(), out)?;
        let mut places = out.as_chunks_mut::<{ size_of::<f32>() }>().0.iter_mut();
        self.each_row(name, rows, |row| {
            if let Some(place) = places.next() {
                *place = scale(row).to_ne_bytes();
            }
        })
    }

    fn expect_size(
        &self,
        name: &str,
        rows: Option<Range<usize>>,
        row_bytes: usize,
        out: &[u8],
    ) -> Result<(), WeightsError> {
        let needed_bytes = rows.map_or(self.info(name)?.rows(), |rows| rows.len()) * row_bytes;
        match out.len() == needed_bytes {
            true => Ok(()),
            false => {
                let (name, given_bytes) = (name.to_owned(), out.len());
                Err(WeightsError::Destination { name, needed_bytes, given_bytes })
            }
        }
    }

    fn each_row(
        &self,
        name: &str,
        rows: Option<Range<usize>>,
        mut each: impl FnMut(&[f32]),
    ) -> Result<(), WeightsError> {
        let info = self.info(name)?;
        let (columns, rows) = (info.row_elements(), rows.unwrap_or(0..info.rows()));
        if columns == 0 {
            return Ok(());
        }
        let at_once = (PIECE_ELEMENTS / columns).max(1);
        let mut piece = Vec::new();
        for start in rows.clone().step_by(at_once) {
            let own = start..rows.end.min(start + at_once);
            piece.resize(own.len() * columns, 0.0);
            self.read_f32(name, Some(own), &mut piece)?;
            piece.chunks_exact(columns).for_each(&mut each);
        }
        Ok(())
    }
}

/// Zero where the row's numbers are too small for a scale that is a normal number.
fn scale(row: &[f32]) -> f32 {
    let greatest = row.iter().fold(0.0_f32, |greatest, value| greatest.max(value.abs()));
    match greatest / LARGEST {
        scale if scale.is_normal() => scale,
        _ => 0.0,
    }
}

fn quantized(value: f32, scale: f32) -> i8 {
    match scale > 0.0 {
        true => (value / scale + ROUND - ROUND) as i8,
        false => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_to_the_nearest_step_of_their_row() {
        let row = [127.0, -127.0, 0.5, 1.5, -2.49, 0.0];
        assert_eq!(scale(&row), 1.0);
        assert_eq!(row.map(|value| quantized(value, 1.0)), [127, -127, 0, 2, -2, 0]);
        let row = [-0.3_f32, 0.1, 0.0];
        let scale = scale(&row);
        assert_eq!(row.map(|value| quantized(value, scale)), [-127, 42, 0]);
    }

    #[test]
    fn rows_without_a_scale_are_zeros() {
        for row in [[0.0, -0.0], [f32::MIN_POSITIVE, 1e-45]] {
            assert_eq!(scale(&row), 0.0);
            assert_eq!(row.map(|value| quantized(value, 0.0)), [0, 0]);
        }
        // The greatest numbers still have one.
        assert_eq!(quantized(f32::MAX, scale(&[f32::MAX])), 127);
        assert_eq!(quantized(f32::MIN, scale(&[f32::MAX])), -127);
    }
}
