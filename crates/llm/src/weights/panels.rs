//! Matrices read straight into panels of 16 rows, the layout of the processor's own kernels, without
//! becoming numbers on the way where the file's codes can stay as they are.
//!
//! A row is a sequence of 4-byte words: an f32, two bf16, four 8-bit codes, or eight 4-bit ones (the
//! low halves the first four columns, the high halves the four behind). A panel holds the words of 16
//! rows side by side, `[panel, word, row]`; scales and offsets, one per group of columns, stand
//! likewise. The last panel is filled up with zeros. A quantized weight is `scale * code + offset`.
//! Knows no graph and no device.

use std::ops::Range;

use super::codes::{self, Grouping};
use super::float_type::{all_finite, position_of_non_finite_bits, round_to_16_bits};
use super::levels::Levels;
use super::packing::{LANES, Packing, PanelPart};
use super::read::{CHUNK_ELEMENTS, Destination, Reading, THREAD_ELEMENTS_MIN, on_threads};
use super::{Checkpoint, FloatType, RowOrder, WeightsError, blocks};

/// Bytes of a word of values.
const WORD: usize = 4;
/// Words of a row that are taken at a time: a cache line's.
const TILE_WORDS: usize = 16;

impl Checkpoint {
    /// How a matrix is best held without changing any number: what its file holds, as it is. Reads
    /// nothing.
    ///
    /// # Errors
    /// When the checkpoint has no such tensor.
    pub fn packing(&self, name: &str) -> Result<Packing, WeightsError> {
        let info = self.info(name)?;
        let pairs = Packing::Bf16.refusal(info.row_elements()).is_none();
        Ok(match codes::grouping(info.encoding) {
            Some(Grouping { bits: 4, group, scales }) => Packing::Q4 { group, scales },
            Some(Grouping { group, scales, .. }) => Packing::Q8 { group, scales },
            None if info.encoding == FloatType::Bf16.encoding() && pairs => Packing::Bf16,
            None => Packing::F32,
        })
    }

    /// Reads one part of the matrix made of the rows of `names`, one tensor behind the other, into
    /// `out`, which has [`Packing::bytes`]; in the machine's byte order.
    ///
    /// Codes of a file stay as they are where they fit: they have no more bits than `packing`, and
    /// groups that are whole groups of it. Scales and offsets are then exact in f32, and in f16 where
    /// [`Checkpoint::packing`] says f16. All else is decoded, and then rounded to bf16 or quantized: to
    /// 8 bits symmetrically, to 4 bits from the least to the greatest of a group, each number within
    /// half a step (a scale).
    ///
    /// # Errors
    /// As [`Checkpoint::read`]; that a scale is not finite is found in the parts that hold scales and
    /// offsets. When the tensors are no matrices of the same number of columns, or `packing` cannot hold
    /// so many. When a scale or an offset is beyond the range of its type: the offset of `Q8_0` is 128
    /// scales, which an f16 need not hold.
    pub fn read_panels(
        &self,
        names: &[&str],
        packing: Packing,
        part: PanelPart,
        out: &mut [u8],
    ) -> Result<(), WeightsError> {
        let matrix = Matrix::new(self, names, packing, part)?;
        let needed_bytes = packing.bytes(matrix.rows, matrix.inputs, part);
        let name = || names.join("`, `");
        if out.len() != needed_bytes {
            let given_bytes = out.len();
            return Err(WeightsError::Destination { name: name(), needed_bytes, given_bytes });
        }
        if out.is_empty() {
            return Ok(());
        }
        let threads = matrix.rows * matrix.inputs / THREAD_ELEMENTS_MIN;
        let threads = threads.clamp(1, self.threads.get());
        let rows = matrix.rows.div_ceil(threads).next_multiple_of(LANES);
        let shares = out.chunks_mut(rows * matrix.row_bytes).enumerate().collect();
        on_threads(name, shares, |(index, share)| matrix.read(index * rows, share))
    }
}

/// A part of a matrix in panels, being read.
struct Matrix<'a> {
    packing: Packing,
    part: PanelPart,
    rows: usize,
    inputs: usize,
    /// Of a row in `part`.
    row_bytes: usize,
    sources: Vec<Source<'a>>,
}

/// A tensor, and its rows in the matrix.
struct Source<'a> {
    reading: Reading<'a>,
    rows: Range<usize>,
}

/// A row of a tensor as its file holds it.
struct StoredRow<'a> {
    reading: &'a Reading<'a>,
    raw: &'a [u8],
    /// The place of its first number in the tensor.
    first: usize,
}

/// Memory for a row, used again for the next one.
#[derive(Default)]
struct Scratch {
    numbers: Vec<f32>,
    codes: Vec<u8>,
    scales: Vec<f32>,
    offsets: Vec<f32>,
}

impl<'a> Matrix<'a> {
    fn new(
        checkpoint: &'a Checkpoint,
        names: &[&'a str],
        packing: Packing,
        part: PanelPart,
    ) -> Result<Matrix<'a>, WeightsError> {
        let mut matrix =
            Matrix { packing, part, rows: 0, inputs: 0, row_bytes: 0, sources: Vec::new() };
        for &name in names {
            let info = checkpoint.info(name)?;
            let refused = |reason: String| {
                let path = checkpoint.path_of(info).to_owned();
                Err(WeightsError::Packing { name: name.to_owned(), path, packing, reason })
            };
            let &[rows, inputs] = info.shape.as_slice() else {
                return refused(format!("its shape {:?} is no matrix's", info.shape));
            };
            if !inputs.is_multiple_of(info.encoding.block_elements()) {
                return refused(format!("its rows are no whole blocks of {}", info.encoding));
            }
            if let Some(reason) = packing.refusal(inputs) {
                return refused(reason);
            }
            if !matrix.sources.is_empty() && inputs != matrix.inputs {
                let (first, columns) = (names[0], matrix.inputs);
                return refused(format!("it has {inputs} columns, `{first}` before it {columns}"));
            }
            let own = matrix.rows..matrix.rows + rows;
            (matrix.rows, matrix.inputs) = (own.end, inputs);
            let reading = Reading { checkpoint, name, info };
            matrix.sources.push(Source { reading, rows: own });
        }
        matrix.row_bytes = packing.row_bytes(matrix.inputs, part);
        Ok(matrix)
    }

    /// Reads the panels that begin with row `first_row`, as many as `out` holds.
    fn read(&self, first_row: usize, out: &mut [u8]) -> Result<(), WeightsError> {
        // At least a head, whose rows come from anywhere within it.
        let heads = self.sources.iter().map(|source| match source.reading.info.row_order {
            RowOrder::Natural => 1,
            RowOrder::InterleavedHeads { head_dim } => head_dim,
        });
        let rows = (CHUNK_ELEMENTS / self.inputs).max(heads.max().unwrap_or(1));
        let rows = rows.next_multiple_of(LANES).min(out.len() / self.row_bytes);
        let wide = self.part == PanelPart::Values
            || self.packing.grouping().is_some_and(|own| own.scales == FloatType::F32);
        let panel_bytes = LANES * self.row_bytes;
        // Whole words, so that numbers in it are aligned.
        let mut staged = vec![0_u32; rows * self.row_bytes / WORD];
        let (mut raw, mut scratch) = (Vec::new(), Scratch::default());
        for (index, piece) in out.chunks_mut(rows * self.row_bytes).enumerate() {
            let staged = &mut bytemuck::cast_slice_mut(&mut staged)[..piece.len()];
            self.stage(first_row + index * rows, staged, &mut raw, &mut scratch)?;
            let panels = staged.chunks_exact(panel_bytes).zip(piece.chunks_exact_mut(panel_bytes));
            for (rows, panel) in panels {
                match wide {
                    true => interleave::<WORD>(rows, panel),
                    false => interleave::<{ size_of::<u16>() }>(rows, panel),
                }
            }
        }
        Ok(())
    }

    /// Packs the rows from `first_row` on, one behind the other, with zeros behind the last.
    fn stage(
        &self,
        first_row: usize,
        staged: &mut [u8],
        raw: &mut Vec<u8>,
        scratch: &mut Scratch,
    ) -> Result<(), WeightsError> {
        let end_row = first_row + staged.len() / self.row_bytes;
        if end_row > self.rows {
            staged.fill(0);
        }
        for Source { reading, rows } in &self.sources {
            let own = rows.start.max(first_row)..rows.end.min(end_row);
            if own.is_empty() {
                continue;
            }
            let staged = &mut staged[(own.start - first_row) * self.row_bytes..];
            let mut places = staged.chunks_exact_mut(self.row_bytes);
            let own = own.start - rows.start..own.end - rows.start;
            reading.raw_rows(own, raw, |row, raw| match places.next() {
                Some(place) => {
                    let row = StoredRow { reading, raw, first: row * self.inputs };
                    self.pack(&row, place, scratch)
                }
                None => Ok(()),
            })?;
        }
        Ok(())
    }

    fn pack(
        &self,
        row: &StoredRow<'_>,
        place: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<(), WeightsError> {
        let out = match (self.packing.grouping(), self.packing) {
            (Some(wanted), _) if self.part == PanelPart::Values => {
                return row.codes(wanted, place, scratch);
            }
            (Some(wanted), _) => return row.scaling(wanted, self.part, place, scratch),
            (None, Packing::Bf16) => {
                Destination::Bits16(FloatType::Bf16, bytemuck::cast_slice_mut(place))
            }
            (None, _) => Destination::F32(bytemuck::cast_slice_mut(place)),
        };
        row.reading.convert(row.raw, &mut scratch.numbers, out, row.first)
    }
}

impl StoredRow<'_> {
    /// The file's own grouping, if its codes are codes of the `wanted` one too.
    fn kept(&self, wanted: Grouping) -> Option<Grouping> {
        codes::grouping(self.reading.info.encoding)
            .filter(|own| own.bits <= wanted.bits && own.group.is_multiple_of(wanted.group))
    }

    fn codes(
        &self,
        wanted: Grouping,
        place: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<(), WeightsError> {
        let encoding = self.reading.info.encoding;
        scratch.codes.resize(place.len() * 8 / wanted.bits as usize, 0);
        if self.kept(wanted).is_some() {
            codes::codes(encoding, self.raw, &mut scratch.codes);
        } else {
            self.decode(scratch.codes.len(), &mut scratch.numbers)?;
            let groups = scratch.numbers.chunks_exact(wanted.group);
            for (numbers, codes) in groups.zip(scratch.codes.chunks_exact_mut(wanted.group)) {
                levels(wanted, numbers).codes(numbers, codes);
            }
        }
        match wanted.bits {
            8 => place.copy_from_slice(&scratch.codes),
            _ => halve(&scratch.codes, place),
        }
        Ok(())
    }

    /// Scales or offsets, as `part` says.
    fn scaling(
        &self,
        wanted: Grouping,
        part: PanelPart,
        place: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<(), WeightsError> {
        let encoding = self.reading.info.encoding;
        let Scratch { numbers, scales, offsets, .. } = scratch;
        let groups = place.len() / wanted.scales.size_bytes();
        scales.resize(groups, 0.0);
        offsets.resize(groups, 0.0);
        let kept = self.kept(wanted);
        if let Some(own) = kept {
            codes::scaling(encoding, self.raw, scales, offsets);
            spread(scales, own.group / wanted.group);
            spread(offsets, own.group / wanted.group);
        } else {
            self.decode(groups * wanted.group, numbers)?;
            let places = scales.iter_mut().zip(offsets.iter_mut());
            for (numbers, (scale, offset)) in numbers.chunks_exact(wanted.group).zip(places) {
                let levels = levels(wanted, numbers);
                (*scale, *offset) = (levels.scale, levels.offset);
            }
        }
        let chosen = if part == PanelPart::Scales { scales } else { offsets };
        if kept.is_some() {
            self.reading.check_groups(chosen, wanted.group, self.first)?;
        }
        let beyond = match wanted.scales {
            FloatType::F32 => {
                place.copy_from_slice(bytemuck::cast_slice(chosen));
                (!all_finite(chosen)).then(|| chosen.iter().position(|value| !value.is_finite()))
            }
            float_type => {
                let bits = bytemuck::cast_slice_mut(place);
                round_to_16_bits(float_type, chosen, bits);
                Some(position_of_non_finite_bits(float_type, bits))
            }
        };
        match beyond.flatten() {
            // Broken in the file, and let pass.
            Some(index) if kept.is_some() && !chosen[index].is_finite() => Ok(()),
            Some(index) => Err(WeightsError::Scale {
                name: self.reading.name.to_owned(),
                path: self.reading.checkpoint.path_of(self.reading.info).to_owned(),
                element: self.first + index * wanted.group,
                value: chosen[index],
                float_type: wanted.scales,
            }),
            None => Ok(()),
        }
    }

    /// The numbers themselves, to be quantized.
    fn decode(&self, count: usize, numbers: &mut Vec<f32>) -> Result<(), WeightsError> {
        numbers.resize(count, 0.0);
        blocks::decode(self.reading.info.encoding, self.raw, numbers);
        // Also where NaN is let pass: no code stands for it.
        self.reading.refuse_non_finite(numbers, 1, self.first)
    }
}

fn levels(wanted: Grouping, numbers: &[f32]) -> Levels {
    match wanted.bits {
        8 => Levels::symmetric(numbers, wanted.scales),
        _ => Levels::between_extremes(numbers, wanted.scales),
    }
}

/// Puts two codes of 4 bits into a byte: of eight codes the first four below, the others above.
fn halve(codes: &[u8], out: &mut [u8]) {
    for (codes, bytes) in codes.as_chunks::<8>().0.iter().zip(out.as_chunks_mut::<4>().0) {
        let [low @ .., e, f, g, h] = *codes;
        *bytes = (u32::from_le_bytes(low) | u32::from_le_bytes([e, f, g, h]) << 4).to_le_bytes();
    }
}

/// Every number so many times, in place: the first ones of `values` are what is repeated.
fn spread(values: &mut [f32], times: usize) {
    if times > 1 {
        for index in (0..values.len()).rev() {
            values[index] = values[index / times];
        }
    }
}

/// 16 rows of elements of so many bytes, one row behind the other, into a panel: first elements of all
/// rows, then second ones.
fn interleave<const BYTES: usize>(rows: &[u8], panel: &mut [u8]) {
    let row_bytes = panel.len() / LANES;
    for (tile, elements) in panel.chunks_mut(TILE_WORDS * LANES * BYTES).enumerate() {
        let start = tile * TILE_WORDS * BYTES;
        for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
            let places = elements.as_chunks_mut::<BYTES>().0.chunks_exact_mut(LANES);
            for (place, element) in places.zip(row[start..].as_chunks::<BYTES>().0) {
                place[lane] = *element;
            }
        }
    }
}
