//! Running sums, written in simpler operations: log2(n) shifted additions, which every compiler
//! handles well (a reduce-window of n is quadratic on some).

use crate::DType;
use crate::graph::Tensor;
use crate::operation::{Fill, Sample};
use crate::shape::{Axis, Shape};

impl<'g> Tensor<'g> {
    /// Element i of the result is the sum of elements 0..=i along `axis`.
    #[track_caller]
    pub fn cumulative_sum(self, axis: Axis) -> Tensor<'g> {
        let size = self.size(axis);
        let mut total = self;
        let mut distance = 1;
        while distance < size {
            total = total + total.slice(axis, 0, size - distance).pad(axis, distance, 0, 0.0);
            distance *= 2;
        }
        total
    }
}

pub(crate) fn samples() -> Vec<Sample> {
    let floats = (Shape::new(DType::F32, &[("batch", 2), ("seq", 7)]), Fill::Uniform(-1.0, 1.0));
    let integers = (Shape::new(DType::S32, &[("seq", 8)]), Fill::Uniform(-5.0, 5.0));
    vec![Sample::new("cumulative_sum", &[floats.clone(), integers], |x| {
        vec![x[0].cumulative_sum("seq"), x[1].cumulative_sum("seq")]
    })]
}
