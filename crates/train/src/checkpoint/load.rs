//! Reads a checkpoint: any part of any array, and no more bytes of the files than that takes. Which
//! mesh wrote it does not matter.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use graph::{Shape, Sharding};
use runtime::{Array, DeviceMesh};
use serde_json::{Map, Value};

use super::checksum::{Checksum, Checksummer};
use super::error::CheckpointError;
use super::manifest::{ArrayEntry, Chunk, Fault, Manifest};
use super::names::{self, MANIFEST};
use super::overlap::{Run, elements, intersection, runs};
use super::store::{Store, StoreError};

/// Larger ones are damaged. A model on a thousand chips needs some hundred megabytes.
const MANIFEST_BYTES_MAX: u64 = 1 << 30;

/// A complete checkpoint, of which only the manifest is in memory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    store: Arc<dyn Store>,
    folder: String,
    manifest: Arc<Manifest>,
    places: Arc<HashMap<String, usize>>,
}

/// Which part of the checks is whose, where several processes share them.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    pub index: usize,
    pub count: usize,
}

impl Share {
    pub const ALL: Share = Share { index: 0, count: 1 };
}

impl Checkpoint {
    /// Reads and checks the manifest.
    pub(super) fn open(store: &Arc<dyn Store>, step: u64) -> Result<Checkpoint, CheckpointError> {
        let folder = names::folder(step);
        let path = format!("{folder}/{MANIFEST}");
        let shown = || store.display(&path);
        let damaged = |reason: String| CheckpointError::Manifest { path: shown(), reason };
        let missing = || StoreError::Missing { path: shown() };
        let size_bytes = store.size_bytes(&path)?.ok_or_else(missing)?;
        if size_bytes > MANIFEST_BYTES_MAX {
            return Err(damaged(format!("it has {size_bytes} bytes, more than any manifest")));
        }
        let mut bytes = vec![0; size_bytes as usize];
        store.read(&path, 0, &mut bytes)?;
        let manifest = Manifest::parse(&bytes).map_err(|fault| match fault {
            Fault::Damaged(reason) => damaged(reason),
            Fault::Foreign { format, version } => {
                CheckpointError::Foreign { path: shown(), format, version }
            }
        })?;
        if manifest.step != step {
            return Err(damaged(format!("it is the manifest of step {}", manifest.step)));
        }
        let places = Arc::new(manifest.index());
        Ok(Checkpoint { store: Arc::clone(store), folder, manifest: Arc::new(manifest), places })
    }

    pub fn step(&self) -> u64 {
        self.manifest.step
    }

    /// Where it is, as a user would type it.
    pub fn location(&self) -> String {
        self.store.display(&self.folder)
    }

    pub fn arrays(&self) -> &[ArrayEntry] {
        &self.manifest.arrays
    }

    pub fn array(&self, name: &str) -> Option<&ArrayEntry> {
        self.places.get(name).map(|&place| &self.manifest.arrays[place])
    }

    /// What was saved beside the arrays.
    pub fn sections(&self) -> &Map<String, Value> {
        &self.manifest.sections
    }

    /// What it was saved with for [`super::Keep::best`].
    pub fn metric(&self) -> Option<f64> {
        self.manifest.metric
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Demands that the checkpoint has these arrays and no others, before any is read.
    ///
    /// # Errors
    /// [`CheckpointError::Missing`], [`CheckpointError::Shape`] or [`CheckpointError::Unexpected`] for
    /// the first that differs.
    pub fn expect(&self, arrays: &[(&str, &Shape)]) -> Result<(), CheckpointError> {
        for (name, shape) in arrays {
            self.entry(name, shape)?;
        }
        if self.places.len() == arrays.len() {
            return Ok(());
        }
        let known: Vec<&str> = arrays.iter().map(|(name, _)| *name).collect();
        let other = self.arrays().iter().find(|array| !known.contains(&array.name.as_str()));
        match other {
            Some(array) => Err(CheckpointError::Unexpected {
                path: self.location(),
                name: array.name.clone(),
                found: array.shape(),
            }),
            None => Ok(()),
        }
    }

    fn entry(&self, name: &str, shape: &Shape) -> Result<&ArrayEntry, CheckpointError> {
        let array = self.array(name).ok_or_else(|| CheckpointError::Missing {
            path: self.location(),
            name: name.to_string(),
            expected: shape.to_string(),
        })?;
        if array.is_shaped(shape) {
            return Ok(array);
        }
        Err(CheckpointError::Shape {
            path: self.location(),
            name: name.to_string(),
            found: array.shape(),
            expected: shape.to_string(),
        })
    }

    /// Puts an array onto a mesh, each process its own part. The array may be donated.
    ///
    /// # Errors
    /// [`CheckpointError::Missing`] or [`CheckpointError::Shape`] when it is not there as `shape`, what
    /// [`Checkpoint::read`] answers, or [`CheckpointError::Device`].
    pub fn restore(
        &self,
        name: &str,
        mesh: &DeviceMesh,
        shape: &Shape,
        sharding: &Sharding,
    ) -> Result<Array, CheckpointError> {
        self.entry(name, shape)?;
        let mut failure = None;
        let array = Array::fill_copied(mesh, shape, sharding, |ranges, part| {
            self.read(name, ranges, part).map_err(|error| {
                let sentence = error.sentence();
                failure = Some(error);
                sentence
            })
        });
        match failure {
            Some(error) => Err(error),
            None => Ok(array?),
        }
    }

    /// Reads these indices of an array, one range per dimension, row-major into `destination`.
    ///
    /// Chunks that are read in full are compared with their checksums on the way.
    ///
    /// # Errors
    /// [`CheckpointError::Read`] when there is no such part or the destination is not of its length,
    /// [`CheckpointError::Checksum`], or what the store answers.
    pub fn read(
        &self,
        name: &str,
        ranges: &[Range<usize>],
        destination: &mut [u8],
    ) -> Result<(), CheckpointError> {
        let wrong = |reason: String| CheckpointError::Read { name: name.to_string(), reason };
        let Some(array) = self.array(name) else {
            return Err(wrong(format!("{} has no such array", self.location())));
        };
        let inside = |(range, (_, size)): (&Range<usize>, &(String, usize))| {
            range.start <= range.end && range.end <= *size
        };
        if ranges.len() != array.axes.len() || !ranges.iter().zip(&array.axes).all(inside) {
            return Err(wrong(format!("it is {}, which has no part {ranges:?}", array.shape())));
        }
        let bytes = elements(ranges) * array.dtype.bytes();
        if destination.len() != bytes {
            let given = destination.len();
            return Err(wrong(format!(
                "the part takes {bytes} bytes and there is room for {given}"
            )));
        }
        let mut scratch = Vec::new();
        for chunk in &array.chunks {
            let stored = array.ranges(chunk);
            let Some(shared) = intersection(&stored, ranges) else { continue };
            let is_whole = shared == stored;
            let shared = runs(&stored, ranges, array.dtype.bytes());
            let checksum = self.read_chunk(chunk, shared, is_whole, destination, &mut scratch)?;
            if checksum.is_some_and(|found| found != chunk.checksum) {
                return Err(self.wrong_checksum(array, chunk));
            }
        }
        Ok(())
    }

    /// Reads runs of a chunk, neighbours together. Answers the chunk's checksum if it is read whole.
    fn read_chunk(
        &self,
        chunk: &Chunk,
        runs: impl Iterator<Item = Run>,
        is_whole: bool,
        destination: &mut [u8],
        scratch: &mut Vec<u8>,
    ) -> Result<Option<Checksum>, CheckpointError> {
        let sizes = self.store.read_sizes();
        let mut checksum = is_whole.then(Checksummer::new);
        // What one read will fetch; its bytes in the file are `start..end`.
        let mut together: Vec<Run> = Vec::new();
        let (mut start, mut end) = (0, 0);
        let pieces = runs.flat_map(|run| split(run, sizes.block_bytes));
        for piece in pieces.map(Some).chain([None]) {
            if let Some(piece) = piece
                && !together.is_empty()
                && piece.from - end <= sizes.gap_bytes
                && piece.from + piece.length - start <= sizes.block_bytes
            {
                end = piece.from + piece.length;
                together.push(piece);
                continue;
            }
            if !together.is_empty() {
                let offset = chunk.offset + start as u64;
                let bytes = match together[..] {
                    // The destination is where it goes anyway.
                    [Run { to, length, .. }] => {
                        let place = &mut destination[to..to + length];
                        self.read_file(chunk.file, offset, place)?;
                        &*place
                    }
                    _ => {
                        scratch.resize(end - start, 0);
                        self.read_file(chunk.file, offset, scratch)?;
                        for Run { from, to, length } in together.drain(..) {
                            let from = from - start;
                            destination[to..to + length]
                                .copy_from_slice(&scratch[from..from + length]);
                        }
                        &*scratch
                    }
                };
                if let Some(checksum) = &mut checksum {
                    checksum.add(bytes);
                }
                together.clear();
            }
            if let Some(piece) = piece {
                (start, end) = (piece.from, piece.from + piece.length);
                together.push(piece);
            }
        }
        Ok(checksum.map(|checksum| checksum.finish()))
    }

    fn read_file(&self, file: usize, offset: u64, to: &mut [u8]) -> Result<(), CheckpointError> {
        let path = format!("{}/{}", self.folder, self.manifest.files[file].name);
        Ok(self.store.read(&path, offset, to)?)
    }

    fn wrong_checksum(&self, array: &ArrayEntry, chunk: &Chunk) -> CheckpointError {
        let file = &self.manifest.files[chunk.file].name;
        CheckpointError::Checksum {
            path: self.store.display(&format!("{}/{file}", self.folder)),
            piece: format!("`{}` at {:?}", array.name, chunk.start),
        }
    }

    /// Reads every byte of this share, and compares it with what was saved.
    ///
    /// # Errors
    /// The first thing that is damaged, or what the store answers.
    pub fn verify(&self, share: Share) -> Result<(), CheckpointError> {
        let mine = |number: usize| number % share.count.max(1) == share.index;
        let block_bytes = self.store.read_sizes().block_bytes;
        let mut block = Vec::new();
        for (number, file) in self.manifest.files.iter().enumerate() {
            if !mine(number) {
                continue;
            }
            let path = format!("{}/{}", self.folder, file.name);
            let shown = || self.store.display(&path);
            let found_bytes = self
                .store
                .size_bytes(&path)?
                .ok_or_else(|| StoreError::Missing { path: shown() })?;
            if found_bytes != file.bytes {
                let expected_bytes = file.bytes;
                return Err(CheckpointError::Length { path: shown(), expected_bytes, found_bytes });
            }
            let header_bytes = file.header_bytes as usize;
            if self.checksum(number, 0, header_bytes, block_bytes, &mut block)?
                != file.header_checksum
            {
                let piece = "its header".to_string();
                return Err(CheckpointError::Checksum { path: shown(), piece });
            }
        }
        let arrays = self.manifest.arrays.iter();
        let chunks = arrays.flat_map(|array| array.chunks.iter().map(move |chunk| (array, chunk)));
        for (number, (array, chunk)) in chunks.enumerate() {
            if !mine(number) {
                continue;
            }
            let (file, length) = (chunk.file, array.chunk_bytes());
            if self.checksum(file, chunk.offset, length, block_bytes, &mut block)? != chunk.checksum
            {
                return Err(self.wrong_checksum(array, chunk));
            }
        }
        Ok(())
    }

    fn checksum(
        &self,
        file: usize,
        offset: u64,
        length: usize,
        block_bytes: usize,
        block: &mut Vec<u8>,
    ) -> Result<Checksum, CheckpointError> {
        let mut checksum = Checksummer::new();
        for start in (0..length).step_by(block_bytes) {
            block.resize(block_bytes.min(length - start), 0);
            self.read_file(file, offset + start as u64, block)?;
            checksum.add(block);
        }
        Ok(checksum.finish())
    }
}

/// A run in pieces that one read may fetch.
fn split(run: Run, bytes_max: usize) -> impl Iterator<Item = Run> {
    (0..run.length).step_by(bytes_max).map(move |start| Run {
        from: run.from + start,
        to: run.to + start,
        length: bytes_max.min(run.length - start),
    })
}
