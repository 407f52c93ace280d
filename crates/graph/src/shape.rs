//! Shapes with named axes. An axis is found by its name, never by its position; the order of the
//! axes is the order in memory (row-major, last axis fastest).

use std::fmt;

use crate::dtype::DType;

/// The name of an axis, such as `batch`, `seq`, `embed`, `heads`, `head_dim`, `mlp`, `vocab`.
pub type Axis = &'static str;

/// Element type and named axes, outermost first. Two axes of one shape never share a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    pub dtype: DType,
    pub axes: Vec<(Axis, usize)>,
}

impl Shape {
    pub fn new(dtype: DType, axes: &[(Axis, usize)]) -> Shape {
        Shape { dtype, axes: axes.to_vec() }
    }

    pub fn scalar(dtype: DType) -> Shape {
        Shape { dtype, axes: Vec::new() }
    }

    pub fn rank(&self) -> usize {
        self.axes.len()
    }

    pub fn names(&self) -> Vec<Axis> {
        self.axes.iter().map(|&(name, _)| name).collect()
    }

    pub fn sizes(&self) -> Vec<usize> {
        self.axes.iter().map(|&(_, size)| size).collect()
    }

    /// Where the axis stands, counted from the outermost.
    pub fn position(&self, axis: Axis) -> Option<usize> {
        self.axes.iter().position(|&(name, _)| name == axis)
    }

    pub fn size(&self, axis: Axis) -> Option<usize> {
        self.position(axis).map(|position| self.axes[position].1)
    }

    pub fn has(&self, axis: Axis) -> bool {
        self.position(axis).is_some()
    }

    /// Number of elements; 1 for a scalar.
    pub fn elements(&self) -> usize {
        self.axes.iter().map(|&(_, size)| size).product()
    }

    /// Size in memory without padding, in bytes.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.bytes()
    }

    pub fn with_dtype(&self, dtype: DType) -> Shape {
        Shape { dtype, axes: self.axes.clone() }
    }

    /// Row-major strides, in elements.
    pub fn strides(&self) -> Vec<usize> {
        let mut strides = vec![1; self.rank()];
        for position in (0..self.rank().saturating_sub(1)).rev() {
            strides[position] = strides[position + 1] * self.axes[position + 1].1;
        }
        strides
    }

    /// The MLIR type, such as `tensor<8x128xf32>`.
    pub fn mlir(&self) -> String {
        let mut text = String::from("tensor<");
        for &(_, size) in &self.axes {
            text.push_str(&size.to_string());
            text.push('x');
        }
        text.push_str(self.dtype.mlir());
        text.push('>');
        text
    }
}

/// `[batch 8, seq 128]`, without the element type.
pub struct AxesDisplay<'a>(pub &'a Shape);

impl fmt::Display for AxesDisplay<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[")?;
        for (position, (name, size)) in self.0.axes.iter().enumerate() {
            let comma = if position == 0 { "" } else { ", " };
            write!(formatter, "{comma}{name} {size}")?;
        }
        formatter.write_str("]")
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}{}", self.dtype, AxesDisplay(self))
    }
}
