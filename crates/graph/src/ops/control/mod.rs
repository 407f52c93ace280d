//! Operations with traced regions inside: loops and branches. What a region uses from around it is
//! an explicit operand (a capture), appended after the operation's own.

mod checkpoint;
mod conditional;
mod scan;
mod scan_gradient;
mod while_loop;

pub use checkpoint::Remat;

use crate::graph::{Graph, RegionId, Tensor};
use crate::operation::Sample;

/// The captures of several regions of one operation as one list of operands, and for each region
/// where its own captures stand in that list.
fn join_captures<'g>(graph: &'g Graph, regions: &[RegionId]) -> (Vec<Tensor<'g>>, Vec<Vec<usize>>) {
    let mut joined: Vec<Tensor<'g>> = Vec::new();
    let mut places = Vec::with_capacity(regions.len());
    for &region in regions {
        let own = graph.captures(region);
        let place = |tensor: &Tensor<'g>, joined: &mut Vec<Tensor<'g>>| {
            joined.iter().position(|other| other.same_as(*tensor)).unwrap_or_else(|| {
                joined.push(*tensor);
                joined.len() - 1
            })
        };
        places.push(own.iter().map(|tensor| place(tensor, &mut joined)).collect());
    }
    (joined, places)
}

/// The elements of `all` at `places`.
fn pick<T: Clone>(all: &[T], places: &[usize]) -> Vec<T> {
    places.iter().map(|&place| all[place].clone()).collect()
}

pub(crate) fn samples() -> Vec<Sample> {
    let mut samples = conditional::samples();
    samples.extend(checkpoint::samples());
    samples.extend(scan::samples());
    samples.extend(while_loop::samples());
    samples
}
