//! Which part of an array each device of a mesh holds, how such parts are cut out of the whole and
//! put together again, and the printable table of a program's layout. Pure arithmetic on bytes;
//! knows no device.

use std::fmt;
use std::ops::Range;

use graph::{Mesh, Program, Shape, Sharding};

use crate::error::Error;

/// Indices along one dimension of the whole array.
pub type IndexRange = Range<usize>;

/// The part of an array of these sizes that the device at `position` of the mesh (counted row-major)
/// holds, one range per dimension.
///
/// # Errors
/// [`Error::Uneven`] when the pieces do not divide a dimension, [`Error::BadSharding`] when the
/// sharding does not belong to the array or the mesh.
pub fn shard_ranges(
    sizes: &[usize],
    sharding: &Sharding,
    mesh: &Mesh,
    position: usize,
) -> Result<Vec<IndexRange>, Error> {
    if sharding.dimensions.len() != sizes.len() {
        return Err(Error::BadSharding {
            reason: format!(
                "it lays out {} dimensions of an array that has {}",
                sharding.dimensions.len(),
                sizes.len()
            ),
        });
    }
    let coordinates = coordinates(mesh, position);
    let mut ranges = Vec::with_capacity(sizes.len());
    for (&size, axes) in sizes.iter().zip(&sharding.dimensions) {
        let mut pieces = 1;
        let mut index = 0;
        for axis in axes {
            let place = mesh.axes.iter().position(|(name, _)| name == axis);
            let place = place.ok_or_else(|| Error::BadSharding {
                reason: format!("it uses the axis {axis}, which the mesh ({mesh}) does not have"),
            })?;
            let axis_size = mesh.axes[place].1;
            pieces *= axis_size;
            index = index * axis_size + coordinates[place];
        }
        if !size.is_multiple_of(pieces) {
            return Err(Error::Uneven { size, pieces, axes: axes.join(", ") });
        }
        let length = size / pieces;
        ranges.push(index * length..(index + 1) * length);
    }
    Ok(ranges)
}

/// Whether no earlier position of the mesh holds the same part of an array as `position` does.
pub fn is_first_holder(shape: &Shape, sharding: &Sharding, mesh: &Mesh, position: usize) -> bool {
    // A part depends on the coordinates along the axes that split the array, so positions with equal
    // parts differ along the others only. Of an empty array, all parts are the same.
    let splits = |axis: &str| sharding.dimensions.iter().flatten().any(|used| used == axis);
    let axes = mesh.axes.iter().zip(coordinates(mesh, position));
    axes.filter(|((axis, _), _)| shape.elements() == 0 || !splits(axis))
        .all(|(_, coordinate)| coordinate == 0)
}

/// Where a device stands along each axis of the mesh.
fn coordinates(mesh: &Mesh, position: usize) -> Vec<usize> {
    let mut rest = position;
    let mut coordinates: Vec<usize> = mesh
        .axes
        .iter()
        .rev()
        .map(|(_, size)| {
            let coordinate = rest % size;
            rest /= size;
            coordinate
        })
        .collect();
    coordinates.reverse();
    coordinates
}

/// Number of elements in a part.
pub fn elements(ranges: &[IndexRange]) -> usize {
    ranges.iter().map(ExactSizeIterator::len).product()
}

/// Calls `copy` for every run of bytes that lies together both in the whole (first range) and in
/// the part (second range).
fn runs(
    sizes: &[usize],
    element_bytes: usize,
    ranges: &[IndexRange],
    mut copy: impl FnMut(Range<usize>, Range<usize>),
) {
    // The innermost dimensions that the part holds in full lie together in the whole as well.
    let whole = sizes.iter().zip(ranges).rev().take_while(|(size, range)| range.len() == **size);
    let split = sizes.len() - whole.count();
    // The dimension that is cut still is one run of consecutive indices.
    let outer = split.saturating_sub(1);
    let run: usize = ranges[outer..].iter().map(ExactSizeIterator::len).product();
    let mut strides = vec![element_bytes; sizes.len()];
    for dimension in (0..sizes.len().saturating_sub(1)).rev() {
        strides[dimension] = strides[dimension + 1] * sizes[dimension + 1];
    }
    let run_bytes = run * element_bytes;
    let count: usize = ranges[..outer].iter().map(ExactSizeIterator::len).product();
    if run_bytes == 0 {
        return;
    }
    for number in 0..count {
        let mut rest = number;
        let mut start = ranges.get(outer).map_or(0, |range| range.start * strides[outer]);
        for dimension in (0..outer).rev() {
            let length = ranges[dimension].len();
            start += (ranges[dimension].start + rest % length) * strides[dimension];
            rest /= length;
        }
        let at = number * run_bytes;
        copy(start..start + run_bytes, at..at + run_bytes);
    }
}

/// Copies a part out of the whole, both row-major.
pub fn cut(
    whole: &[u8],
    sizes: &[usize],
    element_bytes: usize,
    ranges: &[IndexRange],
    part: &mut [u8],
) {
    runs(sizes, element_bytes, ranges, |from, to| part[to].copy_from_slice(&whole[from]));
}

/// Copies a part into its place in the whole, both row-major.
pub fn place(
    part: &[u8],
    sizes: &[usize],
    element_bytes: usize,
    ranges: &[IndexRange],
    whole: &mut [u8],
) {
    runs(sizes, element_bytes, ranges, |to, from| whole[to].copy_from_slice(&part[from]));
}

/// How every input of a program is laid out, one line each, with the bytes that one device holds.
pub struct LayoutTable<'a>(pub &'a Program);

impl fmt::Display for LayoutTable<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mesh = &self.0.mesh;
        writeln!(formatter, "mesh {mesh}")?;
        let width = self.0.inputs.iter().map(|input| input.name.len()).max().unwrap_or(0);
        for input in &self.0.inputs {
            let pieces = input.sharding.pieces(mesh);
            let axes = input.shape.axes.iter().zip(&input.sharding.dimensions);
            let axes: Vec<String> = axes
                .map(|((name, size), over)| match over[..] {
                    [] => format!("{name} {size}"),
                    _ => format!("{name} {size} over {}", over.join("*")),
                })
                .collect();
            let bytes = input.shape.bytes() / pieces.iter().product::<usize>().max(1);
            writeln!(
                formatter,
                "{:width$}  {:15}  {}[{}]  {bytes} bytes per device",
                input.name,
                input.role.to_string(),
                input.shape.dtype,
                axes.join(", "),
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use graph::DType;
    use proptest::prelude::*;

    use super::*;

    fn sharding(dimensions: &[&[&str]]) -> Sharding {
        let names = |axes: &&[&str]| axes.iter().map(ToString::to_string).collect();
        Sharding { dimensions: dimensions.iter().map(names).collect() }
    }

    #[test]
    fn the_first_axis_of_a_dimension_is_the_coarser_one() {
        let mesh = Mesh::new(&[("data", 2), ("tensor", 2)]);
        let layout = sharding(&[&["tensor", "data"], &[]]);
        let starts = |position| shard_ranges(&[8, 3], &layout, &mesh, position).unwrap();
        // Position 1 is data 0, tensor 1: the second half, first quarter of it.
        assert_eq!(starts(1), [4..6, 0..3]);
        assert_eq!(starts(2), [2..4, 0..3]);
    }

    #[test]
    fn uneven_pieces_are_refused() {
        let mesh = Mesh::new(&[("tensor", 2)]);
        let error = shard_ranges(&[3], &sharding(&[&["tensor"]]), &mesh, 0).unwrap_err();
        assert!(error.to_string().contains("3"), "{error}");
    }

    #[test]
    fn a_part_in_the_middle_is_cut_row_by_row() {
        let whole: Vec<u8> = (0..24).collect();
        let mut part = vec![0; 8];
        cut(&whole, &[2, 3, 4], 1, &[0..2, 1..2, 0..4], &mut part);
        assert_eq!(part, [4, 5, 6, 7, 16, 17, 18, 19]);
        let mut scalar = vec![0; 1];
        cut(&[9], &[], 1, &[], &mut scalar);
        assert_eq!(scalar, [9]);
    }

    #[test]
    fn an_empty_array_has_one_first_holder() {
        let mesh = Mesh::new(&[("data", 2), ("tensor", 2)]);
        let shape = Shape::new(DType::F32, &[("vocab", 0), ("embed", 4)]);
        let layout = sharding(&[&["tensor"], &[]]);
        let first = |&position: &usize| is_first_holder(&shape, &layout, &mesh, position);
        assert_eq!((0..4).filter(first).collect::<Vec<_>>(), [0]);
    }

    proptest! {
        /// The parts of all devices, put back, are the whole again; no byte is missed.
        #[test]
        fn parts_make_up_the_whole(
            rows in 1usize..4, columns in 1usize..4, layers in 1usize..3,
            over in 0usize..5, element_bytes in prop::sample::select(vec![1usize, 2, 4]),
        ) {
            let mesh = Mesh::new(&[("a", 2), ("b", 3)]);
            let layout = [
                sharding(&[&[], &[], &[]]),
                sharding(&[&[], &["a"], &["b"]]),
                sharding(&[&["a"], &[], &["b"]]),
                sharding(&[&["a", "b"], &[], &[]]),
                sharding(&[&["b"], &["a"], &[]]),
            ][over].clone();
            let sizes = [layers * 6, rows * 6, columns * 6];
            let bytes = sizes.iter().product::<usize>() * element_bytes;
            let whole: Vec<u8> = (0..bytes).map(|index| (index % 251) as u8).collect();
            let shape = Shape::new(DType::U8, &[("x", sizes[0]), ("y", sizes[1]), ("z", sizes[2])]);
            let mut again = vec![255; bytes];
            let mut first = Vec::new();
            for position in 0..mesh.devices() {
                let ranges = shard_ranges(&sizes, &layout, &mesh, position).unwrap();
                let mut part = vec![0; elements(&ranges) * element_bytes];
                cut(&whole, &sizes, element_bytes, &ranges, &mut part);
                place(&part, &sizes, element_bytes, &ranges, &mut again);
                // Every part has exactly one first holder.
                prop_assert_eq!(
                    is_first_holder(&shape, &layout, &mesh, position),
                    !first.contains(&ranges)
                );
                first.push(ranges);
            }
            prop_assert_eq!(whole, again);
        }
    }
}
