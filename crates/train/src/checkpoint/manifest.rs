//! The manifest: what a checkpoint holds and where. It is written last, so a checkpoint with one is
//! complete. Reads and checks untrusted text; knows no file and no device.
//!
//! ```text
//! {"checksum": "<of the bytes below>", "manifest": {
//!   "format": "fungible-checkpoint", "version": 1, "step": 40, "metric": 1.25,
//!   "files":  [{"name": "data-00000-of-00001-….safetensors", "bytes": 1000, "header_bytes": 200, "header_checksum": "…"}],
//!   "arrays": [{"name": "model/model.norm.weight", "dtype": "f32", "axes": [["embed", 192]],
//!               "role": "parameter", "extent": [96],
//!               "chunks": [{"start": [0], "file": 0, "offset": 200, "checksum": "…"}, …]}, …],
//!   "sections": {…}}}
//! ```
//!
//! Chunks are in logical coordinates: `start` and `extent` count elements of the whole array. The
//! chunks of an array are all of one extent and make up the array without gap or overlap.

use std::collections::{HashMap, HashSet};

use graph::{DType, Shape};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::checksum::Checksum;
use super::names::is_data_file;

const FORMAT: &str = "fungible-checkpoint";
const VERSION: u32 = 1;

/// More than any model has; keeps a damaged length from asking for all memory.
const BYTES_MAX: u64 = 1 << 48;

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: String,
    version: u32,
    pub step: u64,
    /// What `keep best` compares, such as the validation loss.
    pub metric: Option<f64>,
    pub files: Vec<DataFile>,
    pub arrays: Vec<ArrayEntry>,
    /// Whatever the trainer wants to find again, by name.
    pub sections: Map<String, Value>,
}

/// A safetensors file: an 8-byte length, a JSON header, and chunks.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DataFile {
    pub name: String,
    pub bytes: u64,
    /// Bytes before the first chunk.
    pub header_bytes: u64,
    pub header_checksum: Checksum,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ArrayEntry {
    pub name: String,
    #[serde(with = "dtype_name")]
    pub dtype: DType,
    /// Names and sizes, outermost first.
    pub axes: Vec<(String, usize)>,
    /// What it was to the program that saved it; for information.
    pub role: String,
    /// The sizes of every chunk.
    pub extent: Vec<usize>,
    pub chunks: Vec<Chunk>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Chunk {
    /// The first element's indices in the whole array.
    pub start: Vec<usize>,
    /// Which of the manifest's files.
    pub file: usize,
    /// Where the chunk starts in the file, in bytes.
    pub offset: u64,
    pub checksum: Checksum,
}

impl ArrayEntry {
    /// `f32[embed 192]`.
    pub fn shape(&self) -> String {
        let axes: Vec<String> =
            self.axes.iter().map(|(name, size)| format!("{name} {size}")).collect();
        format!("{}[{}]", self.dtype, axes.join(", "))
    }

    /// Whether element type, names and sizes of the axes are the same.
    pub fn is_shaped(&self, shape: &Shape) -> bool {
        let axes = shape.axes.iter().map(|&(name, size)| (name, size));
        self.dtype == shape.dtype
            && self.axes.iter().map(|(name, size)| (name.as_str(), *size)).eq(axes)
    }

    /// Bytes of each chunk. Fits, as the manifest was checked.
    pub fn chunk_bytes(&self) -> usize {
        self.extent.iter().product::<usize>() * self.dtype.bytes()
    }

    /// Indices of the whole array that a chunk holds.
    pub fn ranges(&self, chunk: &Chunk) -> Vec<std::ops::Range<usize>> {
        chunk.start.iter().zip(&self.extent).map(|(&start, &size)| start..start + size).collect()
    }
}

impl Manifest {
    pub(super) fn new(
        step: u64,
        metric: Option<f64>,
        files: Vec<DataFile>,
        arrays: Vec<ArrayEntry>,
        sections: Map<String, Value>,
    ) -> Manifest {
        // JSON has no infinity and no NaN.
        let metric = metric.filter(|metric| metric.is_finite());
        Manifest {
            format: FORMAT.to_string(),
            version: VERSION,
            step,
            metric,
            files,
            arrays,
            sections,
        }
    }

    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, String> {
        let text = serde_json::to_string(self).map_err(|error| error.to_string())?;
        let manifest = RawValue::from_string(text).map_err(|error| error.to_string())?;
        let checksum = Checksum::of(manifest.get().as_bytes());
        let sealed = Sealed { checksum, manifest: &manifest };
        serde_json::to_vec(&sealed).map_err(|error| error.to_string())
    }

    /// Reads and checks everything that later code relies on.
    ///
    /// # Errors
    /// Why these bytes are no manifest, as part of a sentence.
    pub(super) fn parse(bytes: &[u8]) -> Result<Manifest, Fault> {
        let garbage = |error| Fault::Damaged(format!("it is not a manifest ({error})"));
        let sealed: Sealed<'_> = serde_json::from_slice(bytes).map_err(garbage)?;
        let text = sealed.manifest.get();
        if Checksum::of(text.as_bytes()) != sealed.checksum {
            let reason = "its contents do not have the checksum that it states";
            return Err(Fault::Damaged(reason.to_string()));
        }
        // Looked at before anything else: another version may have other fields.
        let kind: Kind = serde_json::from_str(text).map_err(garbage)?;
        if kind.format != FORMAT || kind.version != VERSION {
            return Err(Fault::Foreign { format: kind.format, version: kind.version });
        }
        let manifest: Manifest = serde_json::from_str(text).map_err(garbage)?;
        manifest.check().map_err(Fault::Damaged)?;
        Ok(manifest)
    }

    /// That chunks are in files, and make up their arrays.
    pub(super) fn check(&self) -> Result<(), String> {
        for file in &self.files {
            if !is_data_file(&file.name) {
                return Err(format!("`{}` is no name of a data file", file.name));
            }
            if file.bytes > BYTES_MAX || file.header_bytes > file.bytes {
                return Err(format!("`{}` has an impossible length", file.name));
            }
        }
        let mut names = HashSet::new();
        for array in &self.arrays {
            if !names.insert(array.name.as_str()) {
                return Err(format!("`{}` is there twice", array.name));
            }
            self.check_array(array).map_err(|reason| format!("`{}` {reason}", array.name))?;
        }
        Ok(())
    }

    fn check_array(&self, array: &ArrayEntry) -> Result<(), String> {
        let sizes: Vec<usize> = array.axes.iter().map(|(_, size)| *size).collect();
        let bytes = sizes.iter().try_fold(array.dtype.bytes() as u64, |bytes, &size| {
            bytes.checked_mul(size as u64).filter(|&bytes| bytes <= BYTES_MAX)
        });
        if bytes.is_none() {
            return Err("is impossibly large".to_string());
        }
        let is_part = |(&size, &extent): (&usize, &usize)| {
            if size == 0 { extent == 0 } else { extent > 0 && size.is_multiple_of(extent) }
        };
        if array.extent.len() != sizes.len() || !sizes.iter().zip(&array.extent).all(is_part) {
            return Err(format!("is cut into {:?}, which do not make up {sizes:?}", array.extent));
        }
        let pieces = sizes.iter().zip(&array.extent).map(|(size, &extent)| size / extent.max(1));
        let expected = if sizes.contains(&0) { 1 } else { pieces.product::<usize>() };
        if array.chunks.len() != expected {
            return Err(format!("has {} chunks instead of {expected}", array.chunks.len()));
        }
        // As many chunks as are needed, each on the grid, none twice: so all are there.
        let mut starts = HashSet::new();
        let chunk_bytes = array.chunk_bytes() as u64;
        for chunk in &array.chunks {
            let on_grid = |((&start, &size), &extent): ((&usize, &usize), &usize)| {
                start == 0 || (start < size && extent > 0 && start.is_multiple_of(extent))
            };
            let places = chunk.start.iter().zip(&sizes).zip(&array.extent);
            if chunk.start.len() != sizes.len() || !places.into_iter().all(on_grid) {
                return Err(format!("has a chunk at {:?}, where none can be", chunk.start));
            }
            if !starts.insert(&chunk.start) {
                return Err(format!("has two chunks at {:?}", chunk.start));
            }
            let file = self.files.get(chunk.file);
            let end = chunk.offset.checked_add(chunk_bytes);
            let inside = file
                .zip(end)
                .is_some_and(|(file, end)| chunk.offset >= file.header_bytes && end <= file.bytes);
            if !inside {
                return Err(format!("has a chunk at {:?} that is in no file", chunk.start));
            }
        }
        Ok(())
    }

    /// Where each array is in the list.
    pub(super) fn index(&self) -> HashMap<String, usize> {
        let places = self.arrays.iter().enumerate();
        places.map(|(place, array)| (array.name.clone(), place)).collect()
    }
}

/// Why bytes are no manifest.
#[derive(Debug)]
pub(super) enum Fault {
    /// As part of a sentence.
    Damaged(String),
    /// Intact, and not for this program.
    Foreign { format: String, version: u32 },
}

#[derive(Deserialize, Serialize)]
struct Sealed<'a> {
    checksum: Checksum,
    #[serde(borrow)]
    manifest: &'a RawValue,
}

#[derive(Deserialize)]
struct Kind {
    format: String,
    version: u32,
}

/// An element type by the name that `graph` prints.
mod dtype_name {
    use graph::DType;
    use serde::{Deserialize, Deserializer, Serializer};

    const ALL: [DType; 13] = [
        DType::Bool,
        DType::S8,
        DType::S16,
        DType::S32,
        DType::S64,
        DType::U8,
        DType::U16,
        DType::U32,
        DType::U64,
        DType::F16,
        DType::Bf16,
        DType::F32,
        DType::F64,
    ];

    pub(super) fn serialize<S: Serializer>(dtype: &DType, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(dtype)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<DType, D::Error> {
        let name = String::deserialize(from)?;
        let known = ALL.into_iter().find(|dtype| dtype.to_string() == name);
        known.ok_or_else(|| serde::de::Error::custom(format!("unknown element type `{name}`")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn valid() -> Manifest {
        let checksum = Checksum::of(b"");
        let chunk = |start: [usize; 2], file: usize, offset: u64| Chunk {
            start: start.to_vec(),
            file,
            offset,
            checksum,
        };
        let file = |index: usize, bytes: u64| DataFile {
            name: super::super::names::data_file(index, 2, 7),
            bytes,
            header_bytes: 16,
            header_checksum: checksum,
        };
        let array = ArrayEntry {
            name: "model/w".to_string(),
            dtype: DType::F32,
            axes: vec![("mlp".to_string(), 4), ("embed".to_string(), 6)],
            role: "parameter".to_string(),
            extent: vec![2, 6],
            chunks: vec![chunk([0, 0], 0, 16), chunk([2, 0], 1, 24)],
        };
        let files = vec![file(0, 64), file(1, 72)];
        let sections = Map::from_iter([("seed".to_string(), json!(u64::MAX))]);
        Manifest::new(40, Some(1.25), files, vec![array], sections)
    }

    #[test]
    fn what_is_written_is_read_back() {
        let manifest = valid();
        let read = Manifest::parse(&manifest.to_bytes().unwrap()).unwrap();
        assert_eq!((read.step, read.metric), (40, Some(1.25)));
        assert_eq!(read.files, manifest.files);
        assert_eq!(read.arrays, manifest.arrays);
        assert_eq!(read.sections["seed"], json!(u64::MAX));
        assert_eq!(read.arrays[0].shape(), "f32[mlp 4, embed 6]");
    }

    #[test]
    fn a_metric_that_is_no_number_is_left_out() {
        let manifest = Manifest::new(1, Some(f64::NAN), Vec::new(), Vec::new(), Map::new());
        let read = Manifest::parse(&manifest.to_bytes().unwrap()).unwrap();
        assert_eq!(read.metric, None);
    }

    /// One thing wrong at a time, with the checksum right.
    #[test]
    fn contradictions_are_found() {
        let refuse = |change: &dyn Fn(&mut Manifest), part: &str| {
            let mut manifest = valid();
            change(&mut manifest);
            match Manifest::parse(&manifest.to_bytes().unwrap()) {
                Err(Fault::Damaged(reason)) => assert!(reason.contains(part), "{part}: {reason}"),
                other => panic!("{part}: {other:?}"),
            }
        };
        refuse(&|m| m.arrays[0].chunks.truncate(1), "has 1 chunks instead of 2");
        refuse(&|m| m.arrays[0].chunks[1].start = vec![0, 0], "two chunks at [0, 0]");
        refuse(&|m| m.arrays[0].chunks[1].start = vec![1, 0], "at [1, 0], where none can be");
        refuse(&|m| m.arrays[0].chunks[1].start = vec![4, 0], "at [4, 0], where none can be");
        refuse(&|m| m.arrays[0].chunks[1].start = vec![2], "at [2], where none can be");
        refuse(&|m| m.arrays[0].extent = vec![3, 6], "do not make up [4, 6]");
        refuse(&|m| m.arrays[0].extent = vec![0, 6], "do not make up [4, 6]");
        refuse(&|m| m.arrays[0].chunks[0].file = 2, "in no file");
        refuse(&|m| m.arrays[0].chunks[0].offset = 17, "in no file");
        refuse(&|m| m.arrays[0].chunks[0].offset = u64::MAX, "in no file");
        refuse(&|m| m.arrays[0].chunks[0].offset = 8, "in no file");
        refuse(&|m| m.arrays[0].axes[0].1 = usize::MAX, "impossibly large");
        refuse(&|m| m.files[0].name = "../../etc/passwd".to_string(), "no name of a data file");
        refuse(&|m| m.files[0].header_bytes = 65, "impossible length");
        let twice = |m: &mut Manifest| m.arrays.push(m.arrays[0].clone());
        refuse(&twice, "is there twice");
    }

    #[test]
    fn another_version_is_not_called_damaged() {
        let mut manifest = valid();
        manifest.version = 2;
        let read = Manifest::parse(&manifest.to_bytes().unwrap());
        assert!(matches!(read, Err(Fault::Foreign { version: 2, .. })), "{read:?}");
    }

    #[test]
    fn an_empty_array_and_a_scalar_have_one_chunk() {
        let mut manifest = valid();
        let array = &mut manifest.arrays[0];
        array.axes[0].1 = 0;
        array.extent = vec![0, 6];
        array.chunks.truncate(1);
        manifest.check().unwrap();
        let array = &mut manifest.arrays[0];
        (array.axes, array.extent, array.chunks[0].start) = (Vec::new(), Vec::new(), Vec::new());
        manifest.check().unwrap();
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let _ = Manifest::parse(&bytes);
        }

        /// Damage does not get past the checksum, whatever it hits.
        #[test]
        fn damage_is_noticed(place: prop::sample::Index, mask in 1u8..) {
            let bytes = valid().to_bytes().unwrap();
            let mut damaged = bytes.clone();
            let place = place.index(bytes.len());
            damaged[place] ^= mask;
            if let Ok(read) = Manifest::parse(&damaged) {
                // What does not matter may change, such as the case of the checksum's digits.
                prop_assert_eq!(read.to_bytes().unwrap(), bytes);
            }
        }

        /// Text that has the right form and the right checksum, with values that make no sense.
        #[test]
        fn any_values_are_survived(
            sizes in proptest::collection::vec(prop_oneof![0usize..9, any::<usize>()], 0..4),
            extent in proptest::collection::vec(prop_oneof![0usize..9, any::<usize>()], 0..4),
            start in proptest::collection::vec(prop_oneof![0usize..9, any::<usize>()], 0..4),
            (file, offset, bytes, header_bytes) in any::<(usize, u64, u64, u64)>(),
        ) {
            let mut manifest = valid();
            let array = &mut manifest.arrays[0];
            array.axes = sizes.into_iter().map(|size| ("x".to_string(), size)).collect();
            array.extent = extent;
            array.chunks[0].start = start;
            (array.chunks[0].file, array.chunks[0].offset) = (file % 3, offset);
            (manifest.files[1].bytes, manifest.files[1].header_bytes) = (bytes, header_bytes);
            if let Ok(read) = Manifest::parse(&manifest.to_bytes().unwrap()) {
                read.arrays[0].chunk_bytes();
            }
        }
    }
}
