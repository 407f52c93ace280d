//! Values on the host for the reference evaluator, tests and constants. Every element is an f64
//! rounded to the shape's element type, which holds all types but 64-bit integers exactly (those up
//! to 2^53).

use crate::dtype::DType;
use crate::operation::Fill;
use crate::shape::{Axis, Shape};

#[derive(Clone, Debug, PartialEq)]
pub struct Literal {
    pub shape: Shape,
    /// In row-major order; `shape.elements()` of them.
    pub values: Vec<f64>,
}

impl Literal {
    /// Rounds each value to the element type.
    pub fn new(shape: Shape, values: Vec<f64>) -> Literal {
        debug_assert_eq!(shape.elements(), values.len());
        let dtype = shape.dtype;
        let values = values.into_iter().map(|value| dtype.round(value)).collect();
        Literal { shape, values }
    }

    pub fn scalar(dtype: DType, value: f64) -> Literal {
        Literal::new(Shape::scalar(dtype), vec![value])
    }

    /// Computes each element from its index (one number per axis, outermost first).
    pub fn from_fn(shape: Shape, mut element: impl FnMut(&[usize]) -> f64) -> Literal {
        let mut values = Vec::with_capacity(shape.elements());
        for_each_index(&shape.sizes(), |index| values.push(element(index)));
        Literal::new(shape, values)
    }

    pub fn at(&self, index: &[usize]) -> f64 {
        self.values[offset(&self.shape, index)]
    }

    /// The element at a place given by axis names; axes that this literal lacks are ignored.
    pub fn at_named(&self, index: &[(Axis, usize)]) -> f64 {
        let find = |axis| index.iter().find(|&&(name, _)| name == axis).map_or(0, |&(_, i)| i);
        let own: Vec<usize> = self.shape.axes.iter().map(|&(axis, _)| find(axis)).collect();
        self.at(&own)
    }

    /// A deterministic literal for tests.
    pub fn filled(shape: Shape, fill: Fill, seed: u64) -> Literal {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut random = || {
            // xorshift64*: any fixed sequence would do, this one needs no crate.
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
        };
        let values = (0..shape.elements())
            .map(|position| match fill {
                Fill::Iota => position as f64,
                Fill::Uniform(low, high) => low + (high - low) * random(),
            })
            .collect();
        Literal::new(shape, values)
    }

    /// The elements as the bytes of a device buffer, little endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.shape.bytes());
        for &value in &self.values {
            match self.shape.dtype {
                DType::Bool => bytes.push(u8::from(value != 0.0)),
                DType::S8 => bytes.extend((value as i8).to_le_bytes()),
                DType::S16 => bytes.extend((value as i16).to_le_bytes()),
                DType::S32 => bytes.extend((value as i32).to_le_bytes()),
                DType::S64 => bytes.extend((value as i64).to_le_bytes()),
                DType::U8 => bytes.push(value as u8),
                DType::U16 => bytes.extend((value as u16).to_le_bytes()),
                DType::U32 => bytes.extend((value as u32).to_le_bytes()),
                DType::U64 => bytes.extend((value as u64).to_le_bytes()),
                DType::F16 => bytes.extend(half::f16::from_f64(value).to_le_bytes()),
                DType::Bf16 => bytes.extend(half::bf16::from_f64(value).to_le_bytes()),
                DType::F32 => bytes.extend((value as f32).to_le_bytes()),
                DType::F64 => bytes.extend(value.to_le_bytes()),
            }
        }
        bytes
    }

    /// The inverse of [`Literal::to_bytes`]; `None` when the number of bytes does not fit the shape.
    pub fn from_bytes(shape: Shape, bytes: &[u8]) -> Option<Literal> {
        if bytes.len() != shape.bytes() {
            return None;
        }
        macro_rules! decode {
            ($type:ty, $size:literal, $to:expr) => {
                bytes
                    .as_chunks::<$size>()
                    .0
                    .iter()
                    .map(|c| $to(<$type>::from_le_bytes(*c)))
                    .collect()
            };
        }
        let values: Vec<f64> = match shape.dtype {
            DType::Bool => bytes.iter().map(|&byte| f64::from(byte != 0)).collect(),
            DType::S8 => decode!(i8, 1, f64::from),
            DType::S16 => decode!(i16, 2, f64::from),
            DType::S32 => decode!(i32, 4, f64::from),
            DType::S64 => decode!(i64, 8, |v| v as f64),
            DType::U8 => decode!(u8, 1, f64::from),
            DType::U16 => decode!(u16, 2, f64::from),
            DType::U32 => decode!(u32, 4, f64::from),
            DType::U64 => decode!(u64, 8, |v| v as f64),
            DType::F16 => decode!(half::f16, 2, half::f16::to_f64),
            DType::Bf16 => decode!(half::bf16, 2, half::bf16::to_f64),
            DType::F32 => decode!(f32, 4, f64::from),
            DType::F64 => decode!(f64, 8, |v| v),
        };
        Some(Literal { shape, values })
    }
}

pub(crate) fn offset(shape: &Shape, index: &[usize]) -> usize {
    index.iter().zip(shape.strides()).map(|(i, stride)| i * stride).sum()
}

/// Visits every index of a grid in row-major order.
pub(crate) fn for_each_index(sizes: &[usize], mut visit: impl FnMut(&[usize])) {
    if sizes.contains(&0) {
        return;
    }
    let mut index = vec![0; sizes.len()];
    loop {
        visit(&index);
        let mut position = sizes.len();
        loop {
            if position == 0 {
                return;
            }
            position -= 1;
            index[position] += 1;
            if index[position] < sizes[position] {
                break;
            }
            index[position] = 0;
        }
    }
}
