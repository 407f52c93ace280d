//! Matrices in panels against the same matrices as numbers, taken apart by the description of the
//! layout.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::num::NonZeroUsize;
use std::path::Path;

use half::{bf16, f16};
use llm::Checkpoint;
use llm::weights::{Encoding, FloatType, Packing, PanelPart, RowOrder, WeightsError};
use proptest::prelude::*;

const F16: FloatType = FloatType::F16;
const F32: FloatType = FloatType::F32;

/// A tensor's name in a GGUF file, its encoding, its shape and its bytes.
type Stored = (&'static str, Encoding, Vec<usize>, Vec<u8>);

/// A GGUF file of a Llama with two heads for queries and one for keys.
fn gguf(folder: &Path, tensors: &[Stored]) -> Checkpoint {
    let string = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut file = [&b"GGUF"[..], &3u32.to_le_bytes()].concat();
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend(3u64.to_le_bytes());
    file.extend([string("general.architecture"), 8u32.to_le_bytes().to_vec()].concat());
    file.extend(string("llama"));
    for (key, heads) in [("head_count", 2u32), ("head_count_kv", 1)] {
        file.extend(string(&format!("llama.attention.{key}")));
        file.extend([4u32.to_le_bytes(), heads.to_le_bytes()].concat());
    }
    let mut data = Vec::new();
    for (name, encoding, shape, bytes) in tensors {
        file.extend([string(name), (shape.len() as u32).to_le_bytes().to_vec()].concat());
        file.extend(shape.iter().rev().flat_map(|size| (*size as u64).to_le_bytes()));
        file.extend(type_number(*encoding).to_le_bytes());
        data.resize(data.len().next_multiple_of(32), 0);
        file.extend((data.len() as u64).to_le_bytes());
        data.extend(bytes);
    }
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend(data);
    let path = folder.join("model.gguf");
    std::fs::write(&path, file).unwrap();
    Checkpoint::open_gguf(&path).unwrap().0
}

/// ggml's number for it.
fn type_number(encoding: Encoding) -> u32 {
    match encoding {
        Encoding::F32 => 0,
        Encoding::F16 => 1,
        Encoding::Bf16 => 30,
        Encoding::Q8_0 => 8,
        Encoding::Q4_0 => 2,
        Encoding::Q4_1 => 3,
        Encoding::Q5_0 => 6,
        Encoding::Q5_1 => 7,
        Encoding::Q4K => 12,
        Encoding::Q5K => 13,
        Encoding::Q6K => 14,
    }
}

/// Numbers that look random, the same ones every time.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 32
    }

    /// Between -1 and 1.
    fn number(&mut self) -> f32 {
        self.next() as f32 / (1u64 << 31) as f32 - 1.0
    }

    /// Any bits for codes and small scales; for floats and the f16 of a block, a number.
    fn stored(&mut self, encoding: Encoding, elements: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            (0..encoding.bytes(elements).unwrap()).map(|_| self.next() as u8).collect();
        let floats: &[usize] = match encoding {
            Encoding::F32 => {
                return (0..elements).flat_map(|_| self.number().to_le_bytes()).collect();
            }
            Encoding::Bf16 => {
                let numbers = (0..elements).map(|_| bf16::from_f32(self.number()));
                return numbers.flat_map(bf16::to_le_bytes).collect();
            }
            Encoding::F16 | Encoding::Q8_0 | Encoding::Q4_0 | Encoding::Q5_0 => &[0],
            Encoding::Q4_1 | Encoding::Q5_1 | Encoding::Q4K | Encoding::Q5K => &[0, 2],
            Encoding::Q6K => &[208],
        };
        for block in bytes.chunks_exact_mut(encoding.block_bytes()) {
            for &place in floats {
                let number = f16::from_f32(self.number() * 0.01);
                block[place..place + 2].copy_from_slice(&number.to_le_bytes());
            }
        }
        bytes
    }

    fn tensor(&mut self, name: &'static str, encoding: Encoding, shape: [usize; 2]) -> Stored {
        (name, encoding, shape.to_vec(), self.stored(encoding, shape[0] * shape[1]))
    }
}

/// The three tensors of a matrix in panels.
struct Panels {
    packing: Packing,
    rows: usize,
    inputs: usize,
    values: Vec<u8>,
    scales: Vec<f32>,
    offsets: Vec<f32>,
}

impl Panels {
    fn read(
        checkpoint: &Checkpoint,
        names: &[&str],
        packing: Packing,
    ) -> Result<Panels, WeightsError> {
        let rows = names.iter().map(|name| checkpoint.info(name).unwrap().rows()).sum();
        let inputs = checkpoint.info(names[0]).unwrap().row_elements();
        let part = |part| {
            // What is not written is seen.
            let mut bytes = vec![0xaa; packing.bytes(rows, inputs, part)];
            checkpoint.read_panels(names, packing, part, &mut bytes).map(|()| bytes)
        };
        let floats = |bytes: Vec<u8>| match packing {
            Packing::Q8 { scales: F16, .. } | Packing::Q4 { scales: F16, .. } => {
                let words = bytes.as_chunks::<2>().0.iter();
                words.map(|word| f16::from_ne_bytes(*word).to_f32()).collect()
            }
            _ => bytes.as_chunks::<4>().0.iter().map(|word| f32::from_ne_bytes(*word)).collect(),
        };
        Ok(Panels {
            packing,
            rows,
            inputs,
            values: part(PanelPart::Values)?,
            scales: floats(part(PanelPart::Scales)?),
            offsets: floats(part(PanelPart::Offsets)?),
        })
    }

    /// The scale and the offset for a weight.
    fn scaling(&self, row: usize, column: usize) -> (f32, f32) {
        let (Packing::Q8 { group, .. } | Packing::Q4 { group, .. }) = self.packing else {
            return (1.0, 0.0);
        };
        // [panel, group, lane]
        let place = (row / 16 * (self.inputs / group) + column / group) * 16 + row % 16;
        (self.scales[place], self.offsets[place])
    }

    fn weight(&self, row: usize, column: usize) -> f32 {
        let (panel, lane) = (row / 16, row % 16);
        let (block, in_block) = (panel * (self.inputs / 32) + column / 32, column % 32);
        let code = match self.packing {
            // [panel, inputs, lane]
            Packing::F32 => {
                let place = (panel * self.inputs + column) * 16 + lane;
                return f32::from_ne_bytes(self.values.as_chunks().0[place]);
            }
            // [panel, pair, lane, of_pair]
            Packing::Bf16 => {
                let place = (panel * (self.inputs / 2) + column / 2) * 16 + lane;
                let bits = self.values.as_chunks().0[place * 2 + column % 2];
                return bf16::from_ne_bytes(bits).to_f32();
            }
            // [panel, block, quad, lane, of_quad]
            Packing::Q8 { .. } => {
                self.values[((block * 8 + in_block / 4) * 16 + lane) * 4 + in_block % 4]
            }
            // [panel, block, octet, lane, of_quad]
            Packing::Q4 { .. } => {
                let byte = self.values[((block * 4 + in_block / 8) * 16 + lane) * 4 + in_block % 4];
                if in_block % 8 < 4 { byte & 15 } else { byte >> 4 }
            }
        };
        let (scale, offset) = self.scaling(row, column);
        scale * f32::from(code) + offset
    }

    /// All weights by rows; what fills up the last panel is zeros.
    fn weights(&self) -> Vec<f32> {
        for row in self.rows..self.rows.next_multiple_of(16) {
            for column in 0..self.inputs {
                assert_eq!(self.weight(row, column), 0.0, "{row} {column}");
                assert!(matches!(self.scaling(row, column), (0.0 | 1.0, 0.0)));
            }
        }
        let rows = 0..self.rows;
        rows.flat_map(|row| (0..self.inputs).map(move |column| self.weight(row, column))).collect()
    }
}

fn numbers(checkpoint: &Checkpoint, names: &[&str]) -> Vec<f32> {
    names.iter().flat_map(|name| checkpoint.read_to_vec(name).unwrap()).collect()
}

/// Equal to the bit but for the sign of a zero: products of an f16 and small integers are exact in f32,
/// so the formulas differ in nothing that rounds.
fn check_as_stored(checkpoint: &Checkpoint, names: &[&str], packing: Packing) {
    let panels = Panels::read(checkpoint, names, packing).unwrap();
    assert_eq!(panels.weights(), numbers(checkpoint, names), "{names:?} as {packing}");
}

#[test]
fn what_ggml_decodes_is_in_the_panels() {
    let golden = |name| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name);
    let (stored, _) = Checkpoint::open_gguf(&golden("blocks.gguf")).unwrap();
    let expected = Checkpoint::open_safetensors(&golden("blocks.safetensors")).unwrap();
    let (mut encodings, mut interleaved) = (Vec::new(), 0);
    for name in stored.names().filter(|name| stored.info(name).unwrap().shape.len() == 2) {
        let info = stored.info(name).unwrap();
        encodings.push(info.encoding);
        interleaved += usize::from(info.row_order != RowOrder::Natural);
        let panels = Panels::read(&stored, &[name], stored.packing(name).unwrap()).unwrap();
        assert_eq!(panels.weights(), numbers(&expected, &[name]), "{name}");
    }
    assert!(Encoding::ALL.iter().all(|encoding| encodings.contains(encoding)));
    assert_eq!(interleaved, 4);
}

#[test]
fn every_encoding_stays_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut noise = Noise(1);
    for encoding in Encoding::ALL {
        let (narrow, wide) = (F16, F32);
        let packing = match encoding {
            Encoding::F32 | Encoding::F16 => Packing::F32,
            Encoding::Bf16 => Packing::Bf16,
            Encoding::Q4_0 | Encoding::Q4_1 => Packing::Q4 { group: 32, scales: narrow },
            Encoding::Q8_0 | Encoding::Q5_0 | Encoding::Q5_1 => {
                Packing::Q8 { group: 32, scales: narrow }
            }
            Encoding::Q4K => Packing::Q4 { group: 32, scales: wide },
            Encoding::Q5K => Packing::Q8 { group: 32, scales: wide },
            Encoding::Q6K => Packing::Q8 { group: 16, scales: wide },
        };
        // Rows that fill no panel, and rows and columns enough for several threads.
        for shape in [[37, 512], [1, 256], [1030, 1280]] {
            let checkpoint = gguf(folder.path(), &[noise.tensor("w", encoding, shape)]);
            assert_eq!(checkpoint.packing("w").unwrap(), packing);
            check_as_stored(&checkpoint, &["w"], packing);
        }
    }
}

#[test]
fn codes_are_kept_in_a_packing_with_room_for_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut noise = Noise(2);
    let tensors = [
        noise.tensor("a", Encoding::Q4K, [20, 256]),
        noise.tensor("b", Encoding::Q6K, [24, 256]),
        noise.tensor("c", Encoding::Q4_0, [7, 256]),
        noise.tensor("d", Encoding::Q5_1, [33, 256]),
    ];
    let checkpoint = gguf(folder.path(), &tensors);
    check_as_stored(&checkpoint, &["a", "b", "c", "d"], Packing::Q8 { group: 16, scales: F32 });
    check_as_stored(&checkpoint, &["d", "a", "c"], Packing::Q8 { group: 32, scales: F32 });
    check_as_stored(&checkpoint, &["c", "a"], Packing::Q4 { group: 16, scales: F32 });
    check_as_stored(&checkpoint, &["d", "c", "d"], Packing::Q8 { group: 32, scales: F16 });
}

#[test]
fn heads_come_in_the_order_of_hugging_face() {
    let folder = tempfile::tempdir().unwrap();
    let mut noise = Noise(3);
    // Heads of 40 and 24 rows do not begin where panels do.
    for encoding in [Encoding::Q4_1, Encoding::Q8_0, Encoding::Bf16, Encoding::F16] {
        let tensors = [
            noise.tensor("blk.0.attn_q.weight", encoding, [80, 64]),
            noise.tensor("blk.0.attn_k.weight", encoding, [24, 64]),
            noise.tensor("blk.0.attn_v.weight", encoding, [24, 64]),
            noise.tensor("blk.1.attn_q.weight", encoding, [400, 1024]),
        ];
        let checkpoint = gguf(folder.path(), &tensors);
        let names =
            ["q", "k", "v"].map(|name| format!("model.layers.0.self_attn.{name}_proj.weight"));
        let names = names.each_ref().map(String::as_str);
        let orders = names.map(|name| checkpoint.info(name).unwrap().row_order);
        assert_eq!(orders[0], RowOrder::InterleavedHeads { head_dim: 40 });
        assert_eq!(orders[1], RowOrder::InterleavedHeads { head_dim: 24 });
        let packing = checkpoint.packing(names[0]).unwrap();
        check_as_stored(&checkpoint, &names, packing);
        check_as_stored(&checkpoint, &["model.layers.1.self_attn.q_proj.weight"], packing);
    }
}

#[test]
fn threads_do_not_change_what_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut noise = Noise(4);
    let tensors = [
        noise.tensor("blk.0.attn_q.weight", Encoding::Q4_1, [1000, 512]),
        noise.tensor("blk.0.attn_v.weight", Encoding::Q4_1, [509, 512]),
    ];
    let checkpoint = gguf(folder.path(), &tensors);
    let names = ["q", "v"].map(|name| format!("model.layers.0.self_attn.{name}_proj.weight"));
    let names = names.each_ref().map(String::as_str);
    for packing in [Packing::Q4 { group: 32, scales: F16 }, Packing::Q8 { group: 16, scales: F32 }]
    {
        let read = |threads| {
            let threads = NonZeroUsize::new(threads).unwrap();
            Panels::read(&checkpoint.clone().with_threads(threads), &names, packing).unwrap()
        };
        let alone = read(1);
        for threads in 2..=5 {
            let panels = read(threads);
            assert_eq!(panels.values, alone.values);
            assert_eq!(
                (panels.scales, panels.offsets),
                (alone.scales.clone(), alone.offsets.clone())
            );
        }
    }
}

/// Each weight is within half a step of its number, but for what rounding the weight itself to f32
/// takes, and numbers too small for a step.
fn check_within_half_a_step(panels: &Panels, numbers: &[f32]) {
    let wrong =
        numbers.iter().zip(panels.weights()).enumerate().find(|(index, (number, weight))| {
            let (scale, offset) = panels.scaling(index / panels.inputs, index % panels.inputs);
            // A scale of `Q6_K` may be negative, and its codes may be kept.
            let allowed = 0.501 * scale.abs() + offset.abs() * f32::EPSILON + 2e-36;
            (weight - **number).abs() > allowed
        });
    assert_eq!(wrong, None, "{}", panels.packing);
}

#[test]
fn what_has_no_such_codes_is_quantized() {
    let folder = tempfile::tempdir().unwrap();
    let mut noise = Noise(5);
    for encoding in [Encoding::F32, Encoding::Bf16, Encoding::F16, Encoding::Q6K, Encoding::Q8_0] {
        let checkpoint = gguf(folder.path(), &[noise.tensor("w", encoding, [35, 512])]);
        let numbers = numbers(&checkpoint, &["w"]);
        for scales in [F16, F32] {
            for group in [16, 32] {
                for packing in [Packing::Q4 { group, scales }, Packing::Q8 { group, scales }] {
                    let panels = Panels::read(&checkpoint, &["w"], packing).unwrap();
                    check_within_half_a_step(&panels, &numbers);
                }
            }
        }
        // To floats there is only rounding.
        let panels = Panels::read(&checkpoint, &["w"], Packing::F32).unwrap();
        assert_eq!(panels.weights(), numbers);
        let panels = Panels::read(&checkpoint, &["w"], Packing::Bf16).unwrap();
        let rounded: Vec<f32> = numbers.iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
        assert_eq!(panels.weights(), rounded);
    }
}

#[test]
fn numbers_from_8_bits_quantize_to_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let mut numbers: Vec<f32> = (0..32).map(|index| (index * 8 - 127) as f32 / 1024.0).collect();
    numbers.extend([0.0; 32]);
    let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let checkpoint = gguf(folder.path(), &[("w", Encoding::F32, vec![1, 64], bytes)]);
    for scales in [F16, F32] {
        check_as_stored(&checkpoint, &["w"], Packing::Q8 { group: 32, scales });
    }
}

proptest! {
    #[test]
    fn any_floats_are_within_half_a_step_or_refused(
        numbers in prop::collection::vec(
            prop_oneof![
                4 => -1.0f32..1.0,
                1 => 1000.0f32..1001.0,
                1 => any::<f32>().prop_filter("finite", |number| number.is_finite()),
            ],
            64,
        ),
        magnitude in prop_oneof![Just(1.0f32), Just(1e-4), Just(1e-7), Just(1e-38), Just(100.0)],
        four in any::<bool>(),
        group in prop_oneof![Just(16usize), Just(32)],
        narrow in any::<bool>(),
    ) {
        let numbers: Vec<f32> =
            numbers.iter().map(|x| (x * magnitude).clamp(f32::MIN, f32::MAX)).collect();
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = gguf(folder.path(), &[("w", Encoding::F32, vec![1, 64], bytes)]);
        let scales = if narrow { F16 } else { F32 };
        let packing = if four { Packing::Q4 { group, scales } } else { Packing::Q8 { group, scales } };
        match Panels::read(&checkpoint, &["w"], packing) {
            Ok(panels) => check_within_half_a_step(&panels, &numbers),
            Err(WeightsError::Scale { element, .. }) => {
                // Only what is far beyond the type is refused.
                let group = &numbers[element..element + group];
                let greatest = group.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                prop_assert!(greatest > if narrow { 60_000.0 } else { 1e38 }, "{greatest}");
            }
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        }
    }
}

#[test]
fn scales_beyond_their_type_are_refused_and_not_finite_ones_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut noise = Noise(6);
    let mut with_scale = |encoding, scale: f32| {
        let mut tensor = noise.tensor("w", encoding, [2, 64]);
        let third_block = 2 * encoding.block_bytes();
        tensor.3[third_block..third_block + 2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
        gguf(folder.path(), &[tensor])
    };
    // -128 of them are one more than an f16 holds; an f32 holds them.
    let checkpoint = with_scale(Encoding::Q8_0, 512.0);
    let packing = checkpoint.packing("w").unwrap();
    let error = Panels::read(&checkpoint, &["w"], packing).map(|_| ()).unwrap_err();
    assert!(matches!(error, WeightsError::Scale { element: 64, value: -65536.0, .. }), "{error}");
    assert!(error.to_string().contains("beyond the range of f16"), "{error}");
    check_as_stored(&checkpoint, &["w"], Packing::Q8 { group: 32, scales: F32 });
    let checkpoint = with_scale(Encoding::Q8_0, 511.0);
    check_as_stored(&checkpoint, &["w"], packing);

    for scale in [f32::NAN, f32::INFINITY] {
        for encoding in [Encoding::Q4_0, Encoding::Q4_1] {
            let checkpoint = with_scale(encoding, scale);
            let own = checkpoint.packing("w").unwrap();
            for packing in [own, Packing::Q8 { group: 16, scales: F32 }, Packing::F32] {
                let error = Panels::read(&checkpoint, &["w"], packing).map(|_| ()).unwrap_err();
                assert!(matches!(error, WeightsError::NonFinite { element: 64, .. }), "{error}");
            }
            let allowed = checkpoint.with_non_finite_allowed(true);
            let panels = Panels::read(&allowed, &["w"], own).unwrap();
            assert!(!panels.scaling(1, 0).0.is_finite() && panels.scaling(0, 32).0.is_finite());
        }
    }
}

#[test]
fn floats_that_are_not_finite_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut numbers = vec![1.0f32; 17 * 32];
    numbers[16 * 32 + 5] = f32::NAN;
    let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let checkpoint = gguf(folder.path(), &[("w", Encoding::F32, vec![17, 32], bytes)]);
    let quantized =
        [Packing::Q8 { group: 32, scales: F16 }, Packing::Q4 { group: 16, scales: F32 }];
    let refused = |checkpoint: &Checkpoint, packing| {
        let error = Panels::read(checkpoint, &["w"], packing).map(|_| ()).unwrap_err();
        assert!(matches!(error, WeightsError::NonFinite { element: 517, .. }), "{error}");
    };
    for packing in [Packing::F32, Packing::Bf16].into_iter().chain(quantized) {
        refused(&checkpoint, packing);
    }
    let allowed = checkpoint.with_non_finite_allowed(true);
    assert!(Panels::read(&allowed, &["w"], Packing::F32).unwrap().weight(16, 5).is_nan());
    // No code stands for it.
    for packing in quantized {
        refused(&allowed, packing);
    }
}

#[test]
fn requests_that_do_not_fit_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let mut noise = Noise(7);
    let vector = ("vector", Encoding::F32, vec![64], noise.stored(Encoding::F32, 64));
    let tensors = [
        noise.tensor("w", Encoding::F32, [3, 64]),
        noise.tensor("narrow", Encoding::F32, [3, 48]),
        noise.tensor("odd", Encoding::Bf16, [3, 33]),
        vector,
    ];
    let checkpoint = gguf(folder.path(), &tensors);
    let message = |names: &[&str], packing, bytes: usize| {
        let result = checkpoint.read_panels(names, packing, PanelPart::Values, &mut vec![0; bytes]);
        result.unwrap_err().to_string()
    };
    let q8 = Packing::Q8 { group: 32, scales: F16 };
    for (names, packing, part) in [
        (&["narrow"][..], q8, "`narrow` in "),
        (&["narrow"], q8, "cannot be held as 8 bits with f16 scales for 32 columns each"),
        (&["narrow"], q8, "its 48 columns are no multiple of 32"),
        (&["w", "narrow"], Packing::F32, "it has 48 columns, `w` before it 64"),
        (&["odd"], Packing::Bf16, "as bf16: its 33 columns are no whole pairs"),
        (&["vector"], Packing::F32, "its shape [64] is no matrix's"),
        (&["w"], Packing::Q8 { group: 8, scales: F16 }, "only groups of 16 and of 32"),
        (&["w"], Packing::Q4 { group: 0, scales: F16 }, "only groups of 16 and of 32"),
        (&["w"], Packing::Q4 { group: 32, scales: FloatType::Bf16 }, "scales are f16 or f32"),
        (&["w", "nothing"], q8, "`nothing` is missing"),
        (&["w", "w"], q8, "`w`, `w` needs room for 1024 bytes, the destination has 1"),
    ] {
        let message = message(names, packing, 1);
        assert!(message.contains(part), "{message} should contain {part}");
    }
    assert_eq!(checkpoint.packing("odd").unwrap(), Packing::F32);
    check_as_stored(&checkpoint, &["odd"], Packing::F32);
    // Floats have values only.
    for part in [PanelPart::Scales, PanelPart::Offsets] {
        assert_eq!(Packing::Bf16.bytes(3, 64, part), 0);
        checkpoint.read_panels(&["w"], Packing::F32, part, &mut []).unwrap();
    }
}

#[test]
fn the_real_model_is_in_the_panels() {
    let Some(path) = support::smollm2("the_real_model_is_in_the_panels") else { return };
    let (checkpoint, _) = Checkpoint::open_gguf(&path).unwrap();
    let mut encodings = Vec::new();
    for name in checkpoint.names() {
        let info = checkpoint.info(name).unwrap();
        if info.shape.len() == 2 {
            encodings.push(info.encoding);
            check_as_stored(&checkpoint, &[name], checkpoint.packing(name).unwrap());
        }
    }
    assert_eq!(encodings.len(), 1 + 30 * 7);
    assert!(encodings.contains(&Encoding::Q4_1));
}
