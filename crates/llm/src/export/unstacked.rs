//! From the arrays of a program back to the tensors of a checkpoint: layers that lie stacked in one
//! array come apart, heads and their dimensions become rows again. The inverse of how the engine
//! loads weights.

use std::iter::once;
use std::ops::Range;

use super::TensorSource;
use crate::models::{EVERY_LAYER, ParameterSpec};
use crate::weights::{ReadError, TensorShape};

/// Where one tensor of a checkpoint lies among a program's parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorPart {
    pub tensor: TensorShape,
    /// The place of its parameter in the list.
    pub parameter: usize,
    /// Its place in a stack.
    pub layer: Option<usize>,
    /// Its first row in an array of several matrices joined.
    pub first_row: usize,
}

/// The checkpoint's tensors of these parameters: one for each layer of a stack, each part of a
/// joined matrix, all others as they are.
pub fn unstack(specs: &[ParameterSpec]) -> Vec<TensorPart> {
    let mut parts = Vec::new();
    for (parameter, spec) in specs.iter().enumerate() {
        if !spec.joined.is_empty() {
            let mut first_row = 0;
            for (name, shape) in &spec.joined {
                let tensor = TensorShape::new(name, shape);
                parts.push(TensorPart { tensor, parameter, layer: None, first_row });
                first_row += shape.first().copied().unwrap_or(1);
            }
            continue;
        }
        let part = |name: String, layer: Option<usize>| {
            let tensor = TensorShape::new(name, &spec.checkpoint_shape);
            TensorPart { tensor, parameter, layer, first_row: 0 }
        };
        match spec.layers {
            None => parts.push(part(spec.name.clone(), None)),
            Some(layers) => parts.extend((0..layers).map(|layer| {
                let (stack, own) = (format!(".{EVERY_LAYER}."), format!(".{layer}."));
                part(spec.name.replace(&stack, &own), Some(layer))
            })),
        }
    }
    parts
}

/// A program's parameters as the tensors of a checkpoint.
pub struct Unstacked<R> {
    parts: Vec<TensorPart>,
    /// For each parameter its name, and the sizes of its array's axes.
    arrays: Vec<(String, Vec<usize>)>,
    read: R,
}

/// `read` fills memory with a box of the array `name` as `f32`, row-major: one range for each of its
/// axes, that of the layers included.
impl<R> Unstacked<R>
where
    R: FnMut(&str, &[Range<usize>], &mut [f32]) -> Result<(), ReadError>,
{
    /// Each parameter comes with the sizes of its array's axes, outermost first.
    pub fn new(parameters: Vec<(ParameterSpec, Vec<usize>)>, read: R) -> Unstacked<R> {
        let (specs, sizes): (Vec<ParameterSpec>, Vec<Vec<usize>>) = parameters.into_iter().unzip();
        let parts = unstack(&specs);
        let arrays = specs.into_iter().map(|spec| spec.name).zip(sizes).collect();
        Unstacked { parts, arrays, read }
    }

    fn part(&self, name: &str) -> Result<&TensorPart, ReadError> {
        let part = self.parts.iter().find(|part| part.tensor.name == name);
        part.ok_or_else(|| format!("no parameter of the program is the tensor `{name}`").into())
    }
}

impl<R> TensorSource for Unstacked<R>
where
    R: FnMut(&str, &[Range<usize>], &mut [f32]) -> Result<(), ReadError>,
{
    fn shape(&self, name: &str) -> Result<Vec<usize>, ReadError> {
        Ok(self.part(name)?.tensor.shape.clone())
    }

    fn read(&mut self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<(), ReadError> {
        let part = self.part(name)?;
        let (array, sizes) = &self.arrays[part.parameter];
        let elements: usize = part.tensor.shape.iter().skip(1).product();
        // The array's outermost axes, down to single rows of the checkpoint.
        let (before, own) = match part.layer {
            Some(layer) => (Some(layer..layer + 1), sizes.get(1..).unwrap_or_default()),
            None => (None, sizes.as_slice()),
        };
        let row_axes =
            (0..=own.len()).rev().find(|&axes| own[axes..].iter().product::<usize>() == elements);
        let misfit = || format!("the array `{array}` of axes {sizes:?} is no stack of `{name}`");
        let (outer, inner) = own.split_at(row_axes.ok_or_else(misfit)?);
        let wanted = rows.start + part.first_row..rows.end + part.first_row;
        if wanted.end > outer.iter().product() || out.len() != rows.len() * elements {
            return Err(misfit().into());
        }
        let mut rest = out;
        for ranges in boxes(outer, wanted) {
            let count: usize = ranges.iter().map(ExactSizeIterator::len).product();
            let (own, remaining) = rest.split_at_mut(count * elements);
            let whole = inner.iter().map(|&size| 0..size);
            let ranges: Vec<Range<usize>> =
                before.iter().cloned().chain(ranges).chain(whole).collect();
            (self.read)(array, &ranges, own)?;
            rest = remaining;
        }
        Ok(())
    }
}

/// Cuts places `wanted`, counted row-major through axes of these sizes, into boxes that follow each
/// other.
fn boxes(sizes: &[usize], wanted: Range<usize>) -> Vec<Vec<Range<usize>>> {
    let [_, inner_sizes @ ..] = sizes else { return vec![Vec::new(); wanted.len()] };
    let inner: usize = inner_sizes.iter().product();
    let mut found = Vec::new();
    let mut start = wanted.start;
    while start < wanted.end {
        let (index, within) = (start / inner, start % inner);
        let whole = (wanted.end - start) / inner;
        if within == 0 && whole > 0 {
            let full = inner_sizes.iter().map(|&size| 0..size);
            found.push(once(index..index + whole).chain(full).collect());
            start += whole * inner;
        } else {
            let stop = wanted.end.min((index + 1) * inner);
            for ranges in boxes(inner_sizes, within..within + (stop - start)) {
                found.push(once(index..index + 1).chain(ranges).collect());
            }
            start = stop;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spec(name: &str, checkpoint_shape: &[usize], layers: Option<usize>) -> ParameterSpec {
        let (name, checkpoint_shape) = (name.to_owned(), checkpoint_shape.to_vec());
        ParameterSpec { name, checkpoint_shape, layers, joined: Vec::new(), panels: None }
    }

    /// The number at each place of an array is its place, row-major.
    fn places(sizes: &[usize], ranges: &[Range<usize>], out: &mut [f32]) {
        let mut index = 0;
        let mut place = vec![0; sizes.len()];
        fill(sizes, ranges, 0, &mut place, out, &mut index);
        assert_eq!(index, out.len());
    }

    fn fill(
        sizes: &[usize],
        ranges: &[Range<usize>],
        axis: usize,
        place: &mut Vec<usize>,
        out: &mut [f32],
        index: &mut usize,
    ) {
        if axis == sizes.len() {
            let flat = place.iter().zip(sizes).fold(0, |flat, (at, size)| flat * size + at);
            out[*index] = flat as f32;
            *index += 1;
            return;
        }
        for at in ranges[axis].clone() {
            place[axis] = at;
            fill(sizes, ranges, axis + 1, place, out, index);
        }
    }

    #[test]
    fn stacks_come_apart_under_the_names_of_layers() {
        let joined = ParameterSpec {
            joined: vec![("a".to_owned(), vec![2, 3]), ("b".to_owned(), vec![4, 3])],
            ..spec("a+b", &[6, 3], None)
        };
        let specs = [spec("model.layers.*.mlp.up_proj.weight", &[4, 3], Some(2)), joined];
        let parts = unstack(&specs);
        let names: Vec<&str> = parts.iter().map(|part| part.tensor.name.as_str()).collect();
        let layers = ["model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"];
        assert_eq!(names, [layers[0], layers[1], "a", "b"]);
        let arrays = specs.into_iter().zip([vec![2, 4, 3], vec![6, 3]]).collect();
        let mut source = Unstacked::new(arrays, |name, ranges, out| {
            places(if name == "a+b" { &[6, 3] } else { &[2, 4, 3] }, ranges, out);
            Ok(())
        });
        let mut out = [0.0; 3];
        source.read(layers[1], 2..3, &mut out).unwrap();
        assert_eq!(out, [18.0, 19.0, 20.0]);
        source.read("b", 1..2, &mut out).unwrap();
        assert_eq!(out, [9.0, 10.0, 11.0]);
        assert!(source.read("c", 0..1, &mut out).unwrap_err().to_string().contains("`c`"));
        assert!(source.read("b", 4..5, &mut out).unwrap_err().to_string().contains("a+b"));
    }

    proptest! {
        /// Any rows of any layer are the same numbers as in the array read as a whole.
        #[test]
        fn rows_of_a_stack_are_slices_of_the_whole(
            outer in prop::collection::vec(1usize..4, 0..4),
            inner in prop::collection::vec(1usize..4, 0..3),
            layers in prop::option::of(1usize..4), seed in 0usize..10_000,
        ) {
            let rows: usize = outer.iter().product();
            let row: usize = inner.iter().product();
            let shape = match (outer.len(), inner.len()) {
                (_, 0) => vec![rows],
                _ => vec![rows, row],
            };
            let sizes: Vec<usize> =
                layers.iter().copied().chain(outer.clone()).chain(inner.clone()).collect();
            let layer = layers.map(|layers| seed % layers);
            let (start, end) = (seed % (rows + 1), seed / 7 % (rows + 1));
            let wanted = start.min(end)..start.max(end);
            let read_sizes = sizes.clone();
            let parameter = (spec("x.*.w", &shape, layers), sizes);
            let mut source = Unstacked::new(vec![parameter], |_: &str, ranges: &[Range<usize>], out: &mut [f32]| {
                places(&read_sizes, ranges, out);
                Ok(())
            });
            let name = layer.map_or("x.*.w".to_owned(), |layer| format!("x.{layer}.w"));
            let mut out = vec![f32::NAN; wanted.len() * row];
            source.read(&name, wanted.clone(), &mut out).unwrap();
            let first = layer.unwrap_or(0) * rows * row + wanted.start * row;
            let expected: Vec<f32> = (first..first + out.len()).map(|place| place as f32).collect();
            prop_assert_eq!(out, expected);
        }
    }
}
