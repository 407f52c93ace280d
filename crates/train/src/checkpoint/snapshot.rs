//! The state of a run in host memory: taken from devices, so that training can go on while it is
//! written. Knows no file.

use std::ops::Range;

use graph::{Role, Shape};
use runtime::Array;

use super::error::CheckpointError;

/// An array to be saved.
#[derive(Clone, Copy, Debug)]
pub struct SaveArray<'a> {
    /// Such as `model/model.norm.weight` or `adam.m/model.norm.weight`.
    pub name: &'a str,
    /// For information.
    pub role: Role,
    pub array: &'a Array,
}

/// Those parts of an array that this process saves.
#[derive(Debug)]
pub struct HostArray {
    pub name: String,
    pub role: Role,
    /// Of the whole array.
    pub shape: Shape,
    /// The sizes of every part, in this process and in others.
    pub extent: Vec<usize>,
    pub parts: Vec<HostPart>,
}

#[derive(Debug)]
pub struct HostPart {
    /// Indices of the whole array, one range per dimension.
    pub ranges: Vec<Range<usize>>,
    /// Row-major.
    pub bytes: Vec<u8>,
}

impl HostArray {
    /// An array that this process holds, and saves, as a whole.
    pub fn whole(name: &str, role: Role, shape: &Shape, bytes: Vec<u8>) -> HostArray {
        let ranges = shape.sizes().into_iter().map(|size| 0..size).collect();
        HostArray {
            name: name.to_string(),
            role,
            shape: shape.clone(),
            extent: shape.sizes(),
            parts: vec![HostPart { ranges, bytes }],
        }
    }

    /// Bytes of the parts.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes.len() as u64).sum()
    }
}

/// Copies to the host what is this process's to save. Blocks until that is complete, after which the
/// arrays may be donated.
///
/// # Errors
/// What made a copy, or the work that fills an array, fail.
pub(super) fn take(arrays: &[SaveArray<'_>]) -> Result<Vec<HostArray>, CheckpointError> {
    // All are started before the first is waited for.
    let copies: Vec<_> =
        arrays.iter().map(|saved| saved.array.own_parts_to_host()).collect::<Result<_, _>>()?;
    let hosts = arrays.iter().zip(copies).map(|(saved, copies)| {
        let (shape, mesh) = (saved.array.shape(), saved.array.mesh().mesh());
        let pieces = saved.array.sharding().pieces(mesh);
        let parts = copies.into_iter().map(|copy| {
            let ranges = copy.ranges.clone();
            Ok(HostPart { ranges, bytes: copy.wait()? })
        });
        Ok(HostArray {
            name: saved.name.to_string(),
            role: saved.role,
            shape: shape.clone(),
            extent: shape.sizes().iter().zip(pieces).map(|(size, pieces)| size / pieces).collect(),
            parts: parts.collect::<Result<_, CheckpointError>>()?,
        })
    });
    hosts.collect()
}
