//! Random bits from an explicit key: Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random
//! numbers: as easy as 1, 2, 3", 2011), written in integer operations, so that every chip gives the
//! same bits and the whole state is a key in the checkpoint.

use crate::graph::Tensor;
use crate::operation::{Fill, Sample};
use crate::shape::Shape;
use crate::{DType, ops};

const ROTATIONS: [[u32; 4]; 2] = [[13, 15, 26, 6], [17, 29, 16, 24]];
const PARITY: f64 = 0x1BD1_1BDA_u32 as f64;

/// Two u32 blocks of random bits for each pair of counters, under a key of two u32. All four
/// tensors are broadcast by name.
#[track_caller]
pub fn threefry<'g>(key: [Tensor<'g>; 2], counter: [Tensor<'g>; 2]) -> [Tensor<'g>; 2] {
    let graph = key[0].graph();
    let parity = ops::constant(graph, DType::U32, PARITY);
    let keys = [key[0], key[1], key[0].xor(key[1]).xor(parity)];
    let (mut a, mut b) = (counter[0] + keys[0], counter[1] + keys[1]);
    for group in 0..5 {
        for rotation in ROTATIONS[group % 2] {
            a = a + b;
            b = a.xor(rotate_left(b, rotation));
        }
        a = a + keys[(group + 1) % 3];
        b = b + keys[(group + 2) % 3] + (group as f64 + 1.0);
    }
    [a, b]
}

#[track_caller]
fn rotate_left(bits: Tensor<'_>, by: u32) -> Tensor<'_> {
    let graph = bits.graph();
    let amount = |by: u32| ops::constant(graph, DType::U32, f64::from(by));
    bits.shift_left(amount(by)).or(bits.shift_right_logical(amount(32 - by)))
}

impl<'g> Tensor<'g> {
    /// Random bits turned into f32 in the open interval (0, 1): the upper 23 bits, and half a step.
    #[track_caller]
    pub fn bits_to_uniform(self) -> Tensor<'g> {
        let graph = self.graph();
        let upper = self.shift_right_logical(ops::constant(graph, DType::U32, 9.0));
        (upper.convert(DType::F32) + 0.5) * (1.0 / 8_388_608.0)
    }
}

pub(crate) fn samples() -> Vec<Sample> {
    let words = || (Shape::new(DType::U32, &[("batch", 3)]), Fill::Uniform(0.0, 4.0e9));
    vec![Sample::new("threefry", &[words(), words()], |x| {
        let graph = x[0].graph();
        let counter = ops::iota(graph, DType::U32, "vocab", 4);
        let zero = ops::constant(graph, DType::U32, 0.0);
        let [a, b] = threefry([x[0], x[1]], [counter, zero]);
        vec![a, b, a.bits_to_uniform()]
    })]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emit::evaluate_composite;
    use crate::kernels::Kernels;
    use crate::literal::Literal;

    /// The known answers of the reference implementation (Random123, `kat_vectors`).
    #[test]
    fn known_answers() {
        let check = |words: [u32; 4], expected: [u32; 2]| {
            let operands: Vec<Literal> =
                words.iter().map(|&w| Literal::scalar(DType::U32, f64::from(w))).collect();
            let results = evaluate_composite(&Kernels::default(), &operands, |x| {
                threefry([x[2], x[3]], [x[0], x[1]]).to_vec()
            });
            let bits: Vec<u32> = results.iter().map(|r| r.values[0] as u32).collect();
            assert_eq!(bits, expected);
        };
        check([0, 0, 0, 0], [0x6b20_0159, 0x99ba_4efe]);
        check([u32::MAX; 4], [0x1cb9_96fc, 0xbb00_2be7]);
        check([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xc492_3a9c, 0x483d_f7a0]);
    }
}
