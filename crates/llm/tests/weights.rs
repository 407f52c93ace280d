//! Decoding and row order against ggml's own Python package (`goldens/make_gguf.py`), and range
//! reads.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking and skips by saying so, in its helpers too"
)]

use std::fs::File;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use llm::Checkpoint;
use llm::gguf::{Array, Value};
use llm::weights::{Encoding, FloatType, RowOrder, WeightsError};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

/// A folder with one safetensors file of the given header and bytes.
fn safetensors(header: &str, data: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_safetensors(&folder.path().join("model.safetensors"), header, data);
    folder
}

fn write_safetensors(path: &Path, header: &str, data: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.write_all(data).unwrap();
}

/// blocks.gguf beside what ggml's package says it holds.
fn pair() -> (Checkpoint, Checkpoint, tempfile::TempDir) {
    let (gguf, _) = Checkpoint::open_gguf(&golden("blocks.gguf")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(golden("blocks.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let expected = Checkpoint::open_folder(folder.path()).unwrap();
    (gguf, expected, folder)
}

#[test]
fn every_encoding_decodes_as_ggml_does() {
    let (gguf, expected, _folder) = pair();
    let names: Vec<&str> = expected.names().collect();
    assert_eq!(gguf.names().collect::<Vec<_>>(), names);
    let mut seen = std::collections::HashSet::new();
    for name in names {
        let info = gguf.expect(name, &expected.info(name).unwrap().shape).unwrap();
        seen.insert(info.encoding);
        // Bit for bit: both round every product and sum.
        assert_eq!(gguf.read_to_vec(name).unwrap(), expected.read_to_vec(name).unwrap(), "{name}");
    }
    assert_eq!(seen.len(), Encoding::ALL.len());
}

#[test]
fn ranges_of_rows_are_slices_of_the_whole() {
    let (gguf, _, _folder) = pair();
    for name in gguf.names() {
        let info = gguf.info(name).unwrap();
        let (rows, row) = (info.rows(), info.row_elements());
        let whole = gguf.read_to_vec(name).unwrap();
        for start in 0..=rows {
            for end in start..=rows {
                let mut part = vec![f32::NAN; (end - start) * row];
                gguf.read_f32(name, Some(start..end), &mut part).unwrap();
                assert_eq!(part, whole[start * row..end * row], "{name} {start}..{end}");
            }
        }
    }
}

#[test]
fn sixteen_bit_destinations_are_rounded_to_nearest_even() {
    let (gguf, _, _folder) = pair();
    for name in gguf.names() {
        let whole = gguf.read_to_vec(name).unwrap();
        let mut bits = vec![0u16; whole.len()];
        gguf.read(name, None, FloatType::F16, bytemuck::cast_slice_mut(&mut bits)).unwrap();
        let expected: Vec<u16> =
            whole.iter().map(|value| f16::from_f32(*value).to_bits()).collect();
        assert_eq!(bits, expected, "{name}");
        gguf.read(name, None, FloatType::Bf16, bytemuck::cast_slice_mut(&mut bits)).unwrap();
        let expected: Vec<u16> =
            whole.iter().map(|value| bf16::from_f32(*value).to_bits()).collect();
        assert_eq!(bits, expected, "{name}");
        let mut floats = vec![0f32; whole.len()];
        gguf.read(name, None, FloatType::F32, bytemuck::cast_slice_mut(&mut floats)).unwrap();
        assert_eq!(floats, whole, "{name}");
    }
}

#[test]
fn threads_do_not_change_what_is_read() {
    // Large enough to be split, with a number of rows that no number of threads divides.
    let (rows, row) = (1009usize, 521usize);
    let values: Vec<f32> = (0..rows * row).map(|index| index as f32).collect();
    let header = format!(
        r#"{{"w":{{"dtype":"F32","shape":[{rows},{row}],"data_offsets":[0,{}]}}}}"#,
        values.len() * 4
    );
    let folder = safetensors(&header, bytemuck::cast_slice(&values));
    for threads in 1..=5 {
        let threads = NonZeroUsize::new(threads).unwrap();
        let checkpoint = Checkpoint::open_folder(folder.path()).unwrap().with_threads(threads);
        assert_eq!(checkpoint.read_to_vec("w").unwrap(), values);
        let mut part = vec![0.0; 1000 * row];
        checkpoint.read_f32("w", Some(7..1007), &mut part).unwrap();
        assert_eq!(part, values[7 * row..1007 * row]);
    }
}

#[test]
fn gguf_metadata_of_every_type() {
    let (checkpoint, gguf) = Checkpoint::open_gguf(&golden("blocks.gguf")).unwrap();
    let metadata = &gguf.metadata;
    for (key, expected) in [
        ("test.u8", Value::Unsigned(200)),
        ("test.i8", Value::Signed(-100)),
        ("test.u16", Value::Unsigned(60000)),
        ("test.i16", Value::Signed(-30000)),
        ("test.i32", Value::Signed(-2_000_000_000)),
        ("test.u64", Value::Unsigned((1 << 63) + 1)),
        ("test.i64", Value::Signed(-(1 << 62))),
        ("test.f32", Value::Float(0.5)),
        ("test.f64", Value::Float(0.1)),
        ("test.bool", Value::Bool(true)),
        ("test.string", Value::String("grüße".to_owned())),
    ] {
        assert_eq!(metadata.get(key), Some(&expected), "{key}");
    }
    assert_eq!(metadata.strings("test.strings").unwrap().unwrap(), ["a", "", "ü"]);
    let Some(Value::Array(Array::Numbers(numbers))) = metadata.get("test.numbers") else {
        panic!("no array")
    };
    assert_eq!(
        numbers.iter().collect::<Vec<_>>(),
        [Value::Signed(-1), Value::Signed(0), Value::Signed(7)]
    );
    assert_eq!(metadata.unsigned("absent").unwrap(), None);
    let error = metadata.unsigned("test.string").unwrap_err().to_string();
    assert!(
        error.contains("`test.string` is a string, expected a non-negative integer"),
        "{error}"
    );
    let query = checkpoint.info("model.layers.0.self_attn.q_proj.weight").unwrap();
    assert_eq!(query.row_order, RowOrder::InterleavedHeads { head_dim: 8 });
}

#[test]
fn non_finite_weights_are_named() {
    let values = [1.0f32, 2.0, f32::NAN, 4.0];
    let header = r#"{"a.b.w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#;
    let folder = safetensors(header, bytemuck::cast_slice(&values));
    let checkpoint = Checkpoint::open_folder(folder.path()).unwrap();
    let error = checkpoint.read_to_vec("a.b.w").unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, WeightsError::NonFinite { element: 2, .. }), "{message}");
    assert!(
        message.contains("`a.b.w`") && message.contains("model.safetensors holds NaN at element 2"),
        "{message}"
    );
    let mut first_row = [0.0; 2];
    checkpoint.read_f32("a.b.w", Some(0..1), &mut first_row).unwrap();
    let allowed = checkpoint.with_non_finite_allowed(true);
    assert!(allowed.read_to_vec("a.b.w").unwrap()[2].is_nan());

    // The same for stored 16-bit floats read as they are, and for values that become infinite only
    // in f16.
    for (dtype, bits, float_type) in
        [("BF16", 0x7f80u16, FloatType::Bf16), ("F16", 0xfc00, FloatType::F16)]
    {
        let header = format!(r#"{{"w":{{"dtype":"{dtype}","shape":[2],"data_offsets":[0,4]}}}}"#);
        let folder = safetensors(&header, bytemuck::cast_slice(&[0u16, bits]));
        let mut out = [0u16; 2];
        let checkpoint = Checkpoint::open_folder(folder.path()).unwrap();
        let error =
            checkpoint.read("w", None, float_type, bytemuck::cast_slice_mut(&mut out)).unwrap_err();
        assert!(matches!(error, WeightsError::NonFinite { element: 1, .. }), "{error}");
    }
    let header = r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let folder = safetensors(header, bytemuck::cast_slice(&[1f32, 70000.0]));
    let mut out = [0u16; 2];
    let checkpoint = Checkpoint::open_folder(folder.path()).unwrap();
    let error =
        checkpoint.read("w", None, FloatType::F16, bytemuck::cast_slice_mut(&mut out)).unwrap_err();
    assert!(
        error.to_string().contains("70000 at element 1, which is beyond the range of f16"),
        "{error}"
    );
}

#[test]
fn requests_that_do_not_fit_are_errors() {
    let (gguf, _, _folder) = pair();
    let name = "model.layers.0.self_attn.q_proj.weight";
    let message = |result: Result<(), WeightsError>| result.unwrap_err().to_string();
    let missing = message(gguf.expect("model.layers.9.self_attn.q_proj.weight", &[1]).map(|_| ()));
    assert!(
        missing.contains("layers.9.self_attn.q_proj.weight` is missing in")
            && missing.contains("nearest: `model.layers.")
    );
    let shape = message(gguf.expect(name, &[24, 64]).map(|_| ()));
    assert!(
        shape.contains("[24, 32]") && shape.contains("[24, 64]") && shape.contains("blocks.gguf"),
        "{shape}"
    );
    assert!(message(gguf.read_f32(name, Some(20..25), &mut [0.0; 160])).contains("rows 20..25"));
    #[expect(clippy::reversed_empty_ranges, reason = "the wrong request is the point")]
    let reversed = message(gguf.read_f32(name, Some(3..2), &mut []));
    assert!(reversed.contains("out of range"), "{reversed}");
    assert!(
        message(gguf.read_f32(name, None, &mut [0.0; 3])).contains("needs room for 3072 bytes")
    );
    assert!(
        message(gguf.read(name, None, FloatType::F32, &mut [0; 3]))
            .contains("3072 bytes, the destination has 3")
    );
}

#[test]
fn shards_are_found_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, tensor: &str| {
        let header =
            format!(r#"{{"{tensor}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#);
        write_safetensors(&folder.path().join(name), &header, &[0; 4]);
    };
    let index = |text: &str| {
        std::fs::write(folder.path().join("model.safetensors.index.json"), text).unwrap()
    };
    let open = || Checkpoint::open_folder(folder.path());
    write("one.safetensors", "embed_tokens.weight");
    write("two.safetensors", "lm_head.weight");
    index(
        r#"{"metadata":{},"weight_map":{"embed_tokens.weight":"one.safetensors",
                "lm_head.weight":"two.safetensors"}}"#,
    );
    let checkpoint = open().unwrap();
    // Saved from the bare model: the prefix is added.
    assert_eq!(
        checkpoint.names().collect::<Vec<_>>(),
        ["lm_head.weight", "model.embed_tokens.weight"]
    );
    assert!(
        checkpoint.path_of(checkpoint.info("lm_head.weight").unwrap()).ends_with("two.safetensors")
    );

    for (text, part) in [
        (r#"{"weight_map":{"a":"../../etc/passwd"}}"#, "which is not a plain file name"),
        (r#"{"weight_map":{"a":"/etc/passwd"}}"#, "which is not a plain file name"),
        (r#"{"weight_map":{"a":""}}"#, "which is not a plain file name"),
        (r#"{"weight_map":{"a":".."}}"#, "which is not a plain file name"),
        (r#"{"weight_map":{}}"#, "is empty"),
        (r#"{"weight_map":[]}"#, "invalid type"),
        (r#"{"weight_map":{"a":"three.safetensors"}}"#, "shard `three.safetensors`"),
        (
            r#"{"weight_map":{"a":"one.safetensors"}}"#,
            "holds tensor `embed_tokens.weight`, which it does not list",
        ),
        (
            r#"{"weight_map":{"embed_tokens.weight":"one.safetensors","b":"one.safetensors"}}"#,
            "places tensor `b` in `one.safetensors`, which does not hold it",
        ),
    ] {
        index(text);
        let message = open().unwrap_err().to_string();
        assert!(message.contains(part), "{message} should contain {part}");
    }
}

#[test]
fn broken_safetensors_are_errors() {
    let tensor = |rest: &str| format!(r#"{{"w":{{{rest}}}}}"#);
    for (header, data, part) in [
        (
            tensor(r#""dtype":"F32","shape":[2],"data_offsets":[0,8]"#),
            7,
            "describes 8 bytes of tensors, the file has 7",
        ),
        (
            tensor(r#""dtype":"F32","shape":[2],"data_offsets":[0,8]"#),
            9,
            "describes 8 bytes of tensors, the file has 9",
        ),
        (tensor(r#""dtype":"F32","shape":[3],"data_offsets":[0,8]"#), 8, "its header"),
        (tensor(r#""dtype":"F32","shape":[2],"data_offsets":[4,12]"#), 12, "its header"),
        (tensor(r#""dtype":"F32","shape":[0],"data_offsets":[0,0]"#), 0, "empty shape"),
        (tensor(r#""dtype":"I64","shape":[1],"data_offsets":[0,8]"#), 8, "`w` in"),
        (
            tensor(
                r#""dtype":"F32","shape":[4611686018427387904,4611686018427387904],
                "data_offsets":[0,8]"#,
            ),
            8,
            "its header",
        ),
        ("not json".to_owned(), 0, "its header"),
    ] {
        let folder = safetensors(&header, &vec![0; data]);
        let message = Checkpoint::open_folder(folder.path()).unwrap_err().to_string();
        assert!(message.contains(part), "{message} should contain {part}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    for bytes in [&b""[..], &[1, 2, 3], &u64::MAX.to_le_bytes(), &100u64.to_le_bytes()] {
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(
            Checkpoint::open_folder(folder.path()),
            Err(WeightsError::Safetensors { .. })
        ));
    }
}

#[test]
fn a_file_that_shrinks_is_an_error() {
    let header = r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let folder = safetensors(header, &[0; 8]);
    let checkpoint = Checkpoint::open_folder(folder.path()).unwrap();
    let file = File::options().write(true).open(folder.path().join("model.safetensors")).unwrap();
    file.set_len(20).unwrap();
    assert!(matches!(checkpoint.read_to_vec("w"), Err(WeightsError::Read { .. })));
}
