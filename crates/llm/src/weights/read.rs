//! Reads ranges of rows, decodes them and converts them into the caller's memory, on several
//! threads.
//!
//! Work goes chunk by chunk, so scratch memory stays in the processor's caches and does not grow
//! with the tensor.

use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::float_type::{all_finite, position_of_non_finite_bits, round_to_16_bits, widen};
use super::{Checkpoint, Encoding, FloatType, RowOrder, TensorInfo, WeightsError, blocks};

/// Numbers decoded at a time: 256 KiB as `f32`, which with its source fits the second-level cache.
pub(super) const CHUNK_ELEMENTS: usize = 64 << 10;
/// Below this many numbers a thread costs more to start than it saves.
pub(super) const THREAD_ELEMENTS_MIN: usize = 128 << 10;

/// The caller's memory, as numbers where its alignment allows.
pub(super) enum Destination<'a> {
    F32(&'a mut [f32]),
    Bits16(FloatType, &'a mut [u16]),
}

impl<'a> Destination<'a> {
    fn len(&self) -> usize {
        match self {
            Destination::F32(values) => values.len(),
            Destination::Bits16(_, values) => values.len(),
        }
    }

    fn float_type(&self) -> FloatType {
        match self {
            Destination::F32(_) => FloatType::F32,
            Destination::Bits16(float_type, _) => *float_type,
        }
    }

    /// Whether its bytes are those of a file.
    fn stored_as(&self, encoding: Encoding) -> bool {
        encoding == self.float_type().encoding() && cfg!(target_endian = "little")
    }

    fn bytes(&mut self) -> &mut [u8] {
        match self {
            Destination::F32(values) => bytemuck::cast_slice_mut(values),
            Destination::Bits16(_, values) => bytemuck::cast_slice_mut(values),
        }
    }

    fn split(self, middle: usize) -> (Destination<'a>, Destination<'a>) {
        match self {
            Destination::F32(values) => {
                let (left, right) = values.split_at_mut(middle);
                (Destination::F32(left), Destination::F32(right))
            }
            Destination::Bits16(float_type, values) => {
                let (left, right) = values.split_at_mut(middle);
                (Destination::Bits16(float_type, left), Destination::Bits16(float_type, right))
            }
        }
    }

    fn part(&mut self, range: Range<usize>) -> Destination<'_> {
        match self {
            Destination::F32(values) => Destination::F32(&mut values[range]),
            Destination::Bits16(float_type, values) => {
                Destination::Bits16(*float_type, &mut values[range])
            }
        }
    }
}

impl Checkpoint {
    /// Reads `rows` of a tensor (all of them for `None`) into `out` as `f32`, row-major.
    ///
    /// # Errors
    /// As [`Checkpoint::read`].
    pub fn read_f32(
        &self,
        name: &str,
        rows: Option<Range<usize>>,
        out: &mut [f32],
    ) -> Result<(), WeightsError> {
        self.read_into(name, rows, Destination::F32(out))
    }

    /// Reads `rows` of a tensor (all of them for `None`) into `out` as `float_type` in the
    /// machine's byte order, row-major. Rounds to nearest even.
    ///
    /// # Errors
    /// When the tensor is missing, the range or the size or alignment of `out` does not fit, the
    /// file cannot be read, or a weight is not finite, before or after the conversion.
    pub fn read(
        &self,
        name: &str,
        rows: Option<Range<usize>>,
        float_type: FloatType,
        out: &mut [u8],
    ) -> Result<(), WeightsError> {
        let given_bytes = out.len();
        let destination = match float_type {
            FloatType::F32 => bytemuck::try_cast_slice_mut(out).map(Destination::F32),
            FloatType::F16 | FloatType::Bf16 => bytemuck::try_cast_slice_mut(out)
                .map(|values| Destination::Bits16(float_type, values)),
        };
        match destination {
            Ok(destination) => self.read_into(name, rows, destination),
            // Odd addresses or lengths: no number of this type can be stored there.
            Err(_) => {
                let needed_bytes =
                    self.info(name)?.elements().saturating_mul(float_type.size_bytes());
                Err(WeightsError::Destination { name: name.to_owned(), needed_bytes, given_bytes })
            }
        }
    }

    /// Reads a whole tensor as `f32`; for small ones, since it allocates.
    ///
    /// # Errors
    /// As [`Checkpoint::read`].
    pub fn read_to_vec(&self, name: &str) -> Result<Vec<f32>, WeightsError> {
        let mut values = vec![0.0; self.info(name)?.elements()];
        self.read_f32(name, None, &mut values)?;
        Ok(values)
    }

    fn read_into(
        &self,
        name: &str,
        rows: Option<Range<usize>>,
        out: Destination<'_>,
    ) -> Result<(), WeightsError> {
        let info = self.info(name)?;
        let rows = rows.unwrap_or(0..info.rows());
        if rows.start > rows.end || rows.end > info.rows() {
            return Err(WeightsError::Rows {
                name: name.to_owned(),
                start: rows.start,
                end: rows.end,
                rows: info.rows(),
            });
        }
        let needed = rows.len() * info.row_elements();
        if out.len() != needed {
            let size_bytes = out.float_type().size_bytes();
            return Err(WeightsError::Destination {
                name: name.to_owned(),
                needed_bytes: needed * size_bytes,
                given_bytes: out.len() * size_bytes,
            });
        }
        if needed == 0 {
            return Ok(());
        }
        let reading = Reading { checkpoint: self, name, info };
        match info.row_order {
            RowOrder::Natural => {
                let unit = info.encoding.block_elements();
                let start = rows.start * info.row_elements();
                if !start.is_multiple_of(unit) || !needed.is_multiple_of(unit) {
                    return Err(WeightsError::BlockBoundary {
                        name: name.to_owned(),
                        row: if start.is_multiple_of(unit) { rows.end } else { rows.start },
                        encoding: info.encoding,
                    });
                }
                reading.parallel(out, unit, |from, part| reading.natural(start + from, part))
            }
            RowOrder::InterleavedHeads { head_dim } => {
                let unit = info.row_elements();
                if !unit.is_multiple_of(info.encoding.block_elements()) {
                    let (name, encoding) = (name.to_owned(), info.encoding);
                    return Err(WeightsError::BlockBoundary { name, row: rows.start, encoding });
                }
                reading.parallel(out, unit, |from, part| {
                    reading.interleaved(head_dim, rows.start + from / unit, part)
                })
            }
        }
    }
}

/// One tensor being read.
pub(super) struct Reading<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) name: &'a str,
    pub(super) info: &'a TensorInfo,
}

impl Reading<'_> {
    /// Splits `out` into one contiguous part per thread, at multiples of `unit` numbers; `work`
    /// gets the index of its part's first number and the part.
    fn parallel(
        &self,
        out: Destination<'_>,
        unit: usize,
        work: impl Fn(usize, Destination<'_>) -> Result<(), WeightsError> + Sync,
    ) -> Result<(), WeightsError> {
        let threads = self.checkpoint.threads.get().min(out.len() / THREAD_ELEMENTS_MIN).max(1);
        let part_elements = (out.len() / unit).div_ceil(threads) * unit;
        let mut parts = Vec::new();
        let (mut start, mut rest) = (0, out);
        while rest.len() > 0 {
            let count = part_elements.min(rest.len());
            let (part, remaining) = rest.split(count);
            parts.push((start, part));
            start += count;
            rest = remaining;
        }
        on_threads(|| self.name.to_owned(), parts, |(from, part)| work(from, part))
    }

    /// Reads numbers `first..` of the tensor, which lie in the file in the order of `out`.
    fn natural(&self, first: usize, mut out: Destination<'_>) -> Result<(), WeightsError> {
        let encoding = self.info.encoding;
        let mut raw = Vec::new();
        let mut decoded = Vec::new();
        let mut done = 0;
        while done < out.len() {
            let count = CHUNK_ELEMENTS.min(out.len() - done);
            let mut part = out.part(done..done + count);
            let start = first + done;
            if part.stored_as(encoding) {
                self.read_at(start, part.bytes())?;
                self.check_stored(&part, start)?;
            } else {
                raw.resize(count / encoding.block_elements() * encoding.block_bytes(), 0);
                self.read_at(start, &mut raw)?;
                self.convert(&raw, &mut decoded, part, start)?;
            }
            done += count;
        }
        Ok(())
    }

    /// Reads rows `first_row..` of a tensor whose heads are interleaved in the file.
    fn interleaved(
        &self,
        head_dim: usize,
        first_row: usize,
        mut out: Destination<'_>,
    ) -> Result<(), WeightsError> {
        let row_elements = self.info.row_elements();
        let end_row = first_row + out.len() / row_elements;
        let (mut raw, mut decoded) = (Vec::new(), Vec::new());
        let mut start = first_row;
        while start < end_row {
            // One head at a time: its rows come from anywhere within it.
            let end = end_row.min((start + 1).next_multiple_of(head_dim));
            self.raw_rows(start..end, &mut raw, |row, bytes| {
                let from = (row - first_row) * row_elements;
                let part = out.part(from..from + row_elements);
                self.convert(bytes, &mut decoded, part, row * row_elements)
            })?;
            start = end;
        }
        Ok(())
    }

    /// Reads `rows`, each a whole number of blocks, into `raw` as they are stored; `each` gets a row's
    /// number and its bytes, one row after the other.
    pub(super) fn raw_rows(
        &self,
        rows: Range<usize>,
        raw: &mut Vec<u8>,
        mut each: impl FnMut(usize, &[u8]) -> Result<(), WeightsError>,
    ) -> Result<(), WeightsError> {
        let (encoding, row_elements) = (self.info.encoding, self.info.row_elements());
        let row_bytes = row_elements / encoding.block_elements() * encoding.block_bytes();
        let stored = self.info.row_order.stored_rows(rows.clone());
        raw.resize(stored.len() * row_bytes, 0);
        self.read_at(stored.start * row_elements, raw)?;
        for row in rows {
            let start = (self.info.row_order.stored_row(row) - stored.start) * row_bytes;
            each(row, &raw[start..start + row_bytes])?;
        }
        Ok(())
    }

    /// Fills `bytes` from the file, starting at the block that holds number `first` of the tensor.
    fn read_at(&self, first: usize, bytes: &mut [u8]) -> Result<(), WeightsError> {
        let encoding = self.info.encoding;
        let offset = (first / encoding.block_elements() * encoding.block_bytes()) as u64;
        let read = match self.checkpoint.files.get(self.info.file_index) {
            Some(file) => file.file.read_exact_at(bytes, self.info.offset + offset),
            None => Err(std::io::ErrorKind::NotFound.into()),
        };
        read.map_err(|source| WeightsError::Read {
            name: self.name.to_owned(),
            path: self.checkpoint.path_of(self.info).to_owned(),
            source,
        })
    }

    /// Decodes `raw` and stores it in `out`, whose first number is number `first` of the tensor.
    pub(super) fn convert(
        &self,
        raw: &[u8],
        decoded: &mut Vec<f32>,
        mut out: Destination<'_>,
        first: usize,
    ) -> Result<(), WeightsError> {
        if out.stored_as(self.info.encoding) {
            out.bytes().copy_from_slice(raw);
            return self.check_stored(&out, first);
        }
        match out {
            Destination::F32(values) => {
                blocks::decode(self.info.encoding, raw, values);
                self.check(values, first)
            }
            Destination::Bits16(float_type, bits) => {
                decoded.resize(bits.len(), 0.0);
                blocks::decode(self.info.encoding, raw, decoded);
                self.check(decoded, first)?;
                round_to_16_bits(float_type, decoded, bits);
                let overflow = position_of_non_finite_bits(float_type, bits);
                match overflow {
                    Some(index) if !self.checkpoint.non_finite_allowed => {
                        Err(WeightsError::OutOfRange {
                            name: self.name.to_owned(),
                            path: self.checkpoint.path_of(self.info).to_owned(),
                            element: first + index,
                            value: decoded[index],
                            float_type,
                        })
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    fn check_stored(&self, out: &Destination<'_>, first: usize) -> Result<(), WeightsError> {
        match out {
            Destination::F32(values) => self.check(values, first),
            Destination::Bits16(float_type, bits) => {
                match position_of_non_finite_bits(*float_type, bits) {
                    Some(index) if !self.checkpoint.non_finite_allowed => {
                        Err(self.non_finite(first + index, widen(*float_type, bits[index])))
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    fn check(&self, values: &[f32], first: usize) -> Result<(), WeightsError> {
        self.check_groups(values, 1, first)
    }

    /// Checks `values` that each stand for `group` numbers, from number `first` of the tensor on.
    pub(super) fn check_groups(
        &self,
        values: &[f32],
        group: usize,
        first: usize,
    ) -> Result<(), WeightsError> {
        match self.checkpoint.non_finite_allowed {
            true => Ok(()),
            false => self.refuse_non_finite(values, group, first),
        }
    }

    /// The same, also where NaN is let pass otherwise.
    pub(super) fn refuse_non_finite(
        &self,
        values: &[f32],
        group: usize,
        first: usize,
    ) -> Result<(), WeightsError> {
        if all_finite(values) {
            return Ok(());
        }
        let index = values.iter().position(|value| !value.is_finite()).unwrap_or_default();
        Err(self.non_finite(first + index * group, values[index]))
    }

    fn non_finite(&self, element: usize, value: f32) -> WeightsError {
        let path = self.checkpoint.path_of(self.info).to_owned();
        WeightsError::NonFinite { name: self.name.to_owned(), path, element, value }
    }
}

impl RowOrder {
    /// The row of the file that holds `row`.
    fn stored_row(self, row: usize) -> usize {
        match self {
            RowOrder::Natural => row,
            RowOrder::InterleavedHeads { head_dim } => {
                let in_head = row % head_dim;
                let (half, index) = (in_head / (head_dim / 2), in_head % (head_dim / 2));
                row - in_head + 2 * index + half
            }
        }
    }

    /// A range of rows of the file that holds all of `rows`: whole heads.
    fn stored_rows(self, rows: Range<usize>) -> Range<usize> {
        match self {
            RowOrder::Natural => rows,
            RowOrder::InterleavedHeads { head_dim } => {
                rows.start / head_dim * head_dim..rows.end.next_multiple_of(head_dim)
            }
        }
    }
}

/// Does `work` on all parts at once: on the first here, on every other in a thread of its own. `name`
/// is what is read, for an error.
pub(super) fn on_threads<P: Send>(
    name: impl Fn() -> String,
    parts: Vec<P>,
    work: impl Fn(P) -> Result<(), WeightsError> + Sync,
) -> Result<(), WeightsError> {
    std::thread::scope(|scope| {
        let mut parts = parts.into_iter();
        let first = parts.next();
        let work = &work;
        let workers: Vec<_> = parts.map(|part| scope.spawn(move || work(part))).collect();
        let mut result = first.map_or(Ok(()), work);
        for worker in workers {
            let stopped = |_| WeightsError::ThreadStopped { name: name() };
            result = result.and(worker.join().map_err(stopped).flatten());
        }
        result
    })
}
