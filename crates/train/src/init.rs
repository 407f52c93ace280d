//! Fresh weights. Every element follows from the seed, the weight's name and the element's place in
//! the checkpoint alone: the same on any number of devices, with layers stacked or not.

use std::f64::consts::TAU;
use std::ops::Range;

use graph::Shape;
use llm::models::{EVERY_LAYER, ParameterSpec};

/// Standard deviation of the embedding table and the head, as in Llama.
const TABLE_DEVIATION: f64 = 0.02;

/// How a weight starts.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Start {
    Zeros,
    Ones,
    /// Normal with this standard deviation.
    Normal(f64),
    /// Uniform between plus and minus this.
    Uniform(f64),
}

/// Norms start at one, biases at zero, tables as Llama's; other matrices keep the size of what goes
/// through them (deviation 1/√inputs), those that write to the residual stream divided by √(2 ·
/// layers) ("Language models are unsupervised multitask learners", Radford et al., 2019). An adapter's
/// A is uniform as a linear layer's weight in PyTorch, its B zero, so that it changes nothing yet.
fn start(spec: &ParameterSpec, layers: usize) -> Start {
    let name = spec.name.as_str();
    let inputs = spec.checkpoint_shape.last().copied().unwrap_or(1) as f64;
    match spec.checkpoint_shape.len() {
        2 if name.contains(".lora_A.") => Start::Uniform(1.0 / inputs.sqrt()),
        2 if name.contains(".lora_B.") => Start::Zeros,
        2 if !name.contains(".layers.") => Start::Normal(TABLE_DEVIATION),
        2 if name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight") => {
            Start::Normal(1.0 / (inputs * 2.0 * layers as f64).sqrt())
        }
        2 => Start::Normal(1.0 / inputs.sqrt()),
        _ if name.ends_with(".bias") => Start::Zeros,
        _ => Start::Ones,
    }
}

/// Writes the part `ranges` of a weight of this `shape` as f32, little endian.
pub(crate) fn fill(
    spec: &ParameterSpec,
    shape: &Shape,
    layers: usize,
    seed: u64,
    ranges: &[Range<usize>],
    bytes: &mut [u8],
) {
    let start = start(spec, layers);
    let (stack, inner) = match spec.layers {
        Some(_) => (ranges[0].clone(), &ranges[1..]),
        None => (0..1, ranges),
    };
    let sizes = shape.sizes();
    let sizes = &sizes[sizes.len() - inner.len()..];
    let mut places = bytes.as_chunks_mut::<4>().0.iter_mut();
    for layer in stack {
        let name = match spec.layers {
            Some(_) => spec.name.replace(&format!(".{EVERY_LAYER}."), &format!(".{layer}.")),
            None => spec.name.clone(),
        };
        let key = mix(seed ^ hash(&name));
        for_each_place(sizes, inner, |element| {
            if let Some(place) = places.next() {
                *place = value(start, key, element as u64).to_le_bytes();
            }
        });
    }
}

fn value(start: Start, key: u64, element: u64) -> f32 {
    // Two numbers in (0, 1) per element.
    let bits = mix(key ^ mix(element));
    let unit = |bits: u32| (f64::from(bits) + 0.5) / 4_294_967_296.0;
    let (first, second) = (unit(bits as u32), unit((bits >> 32) as u32));
    let value = match start {
        Start::Zeros => 0.0,
        Start::Ones => 1.0,
        Start::Uniform(limit) => (2.0 * first - 1.0) * limit,
        // Box and Muller, 1958.
        Start::Normal(deviation) => deviation * (-2.0 * first.ln()).sqrt() * (TAU * second).cos(),
    };
    value as f32
}

/// SplitMix64 (Steele et al., "Fast splittable pseudorandom number generators", 2014).
fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// FNV-1a.
fn hash(name: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
    name.bytes().fold(0xCBF2_9CE4_8422_2325, step)
}

/// Calls `each` with the row-major place in the whole of every element of a part, in order.
fn for_each_place(sizes: &[usize], ranges: &[Range<usize>], mut each: impl FnMut(usize)) {
    let Some((last, outer)) = ranges.split_last() else { return each(0) };
    let mut index: Vec<usize> = outer.iter().map(|range| range.start).collect();
    if ranges.iter().any(|range| range.is_empty()) {
        return;
    }
    loop {
        let row = index.iter().zip(sizes).fold(0, |place, (&at, &size)| place * size + at);
        let row = row * sizes[sizes.len() - 1];
        last.clone().for_each(|at| each(row + at));
        let mut axis = outer.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            index[axis] += 1;
            if index[axis] < outer[axis].end {
                break;
            }
            index[axis] = outer[axis].start;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use graph::DType;

    fn spec(name: &str, shape: &[usize], layers: Option<usize>) -> ParameterSpec {
        let (name, checkpoint_shape) = (name.to_string(), shape.to_vec());
        ParameterSpec { name, checkpoint_shape, layers, joined: Vec::new(), panels: None }
    }

    fn filled(spec: &ParameterSpec, shape: &Shape, ranges: &[Range<usize>]) -> Vec<f32> {
        let mut bytes = vec![0; ranges.iter().map(ExactSizeIterator::len).product::<usize>() * 4];
        fill(spec, shape, 3, 7, ranges, &mut bytes);
        bytes.as_chunks::<4>().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
    }

    #[test]
    fn parts_and_stacks_hold_what_the_whole_holds() {
        let axes = [("mlp", 6), ("embed", 4)];
        let one = spec("model.layers.1.mlp.up_proj.weight", &[6, 4], None);
        let shape = Shape::new(DType::F32, &axes);
        let whole = filled(&one, &shape, &[0..6, 0..4]);
        let part = filled(&one, &shape, &[2..4, 1..3]);
        assert_eq!(part, [whole[9], whole[10], whole[13], whole[14]]);
        let stack = spec("model.layers.*.mlp.up_proj.weight", &[6, 4], Some(3));
        let stacked = Shape::new(DType::F32, &[("layers", 3), axes[0], axes[1]]);
        assert_eq!(filled(&stack, &stacked, &[1..2, 0..6, 0..4]), whole);
        assert_ne!(filled(&stack, &stacked, &[2..3, 0..6, 0..4]), whole);
    }

    #[test]
    fn matrices_are_normal_and_norms_are_ones() {
        let matrix = spec("model.layers.0.mlp.up_proj.weight", &[300, 100], None);
        let shape = Shape::new(DType::F32, &[("mlp", 300), ("embed", 100)]);
        let values = filled(&matrix, &shape, &[0..300, 0..100]);
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let square = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
        assert!(mean.abs() < 0.002, "{mean}");
        assert!((square.sqrt() - 0.1).abs() < 0.002, "{}", square.sqrt());
        let norm = spec("model.norm.weight", &[8], None);
        let shape = Shape::new(DType::F32, &[("embed", 8)]);
        let whole: [Range<usize>; 1] = std::array::from_fn(|_| 0..8);
        assert_eq!(filled(&norm, &shape, &whole), [1.0; 8]);
    }
}
