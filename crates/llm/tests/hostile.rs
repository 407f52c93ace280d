//! Parsers of untrusted files: whatever the bytes, an answer or an error, never a panic, and never
//! an allocation that the file does not back.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use llm::ModelConfig;
use llm::gguf::{Gguf, GgufError};
use llm::weights::parse_sharded_index;
use proptest::prelude::*;

const BLOCKS: &[u8] = include_bytes!("goldens/blocks.gguf");

fn parse(bytes: &[u8]) -> Result<Gguf, GgufError> {
    Gguf::parse(bytes, bytes.len() as u64)
}

/// What a successful parse promises its users.
fn check_promises(gguf: &Gguf, file_bytes: u64) {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for tensor in &gguf.tensors {
        assert!(!tensor.shape.is_empty() && tensor.shape.iter().all(|size| *size > 0));
        let elements = tensor.shape.iter().product::<usize>();
        assert_eq!(tensor.encoding.bytes(elements), Some(tensor.size_bytes as usize));
        assert!(tensor.offset + tensor.size_bytes <= file_bytes);
        ranges.push((tensor.offset, tensor.offset + tensor.size_bytes));
    }
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_cut_file_is_an_error(length in 0..BLOCKS.len()) {
        prop_assert!(parse(&BLOCKS[..length]).is_err());
    }

    #[test]
    fn changed_bytes_are_survived(
        changes in prop::collection::vec((0..BLOCKS.len(), any::<u8>()), 1..6),
    ) {
        let mut bytes = BLOCKS.to_vec();
        for (position, byte) in changes {
            bytes[position] = byte;
        }
        if let Ok(gguf) = parse(&bytes) {
            check_promises(&gguf, bytes.len() as u64);
            let _ = ModelConfig::from_gguf(&gguf);
            let _ = llm::Tokenizer::from_gguf(&gguf.metadata);
        }
    }

    /// The head alone, where a change matters most, with numbers that overflow when they are added
    /// or multiplied.
    #[test]
    fn changed_numbers_are_survived(
        position in 0..2000usize,
        value in prop_oneof![
            Just(u64::MAX), Just(i64::MAX as u64), Just(1 << 32), Just(0), 0..100u64,
        ],
    ) {
        let mut bytes = BLOCKS.to_vec();
        bytes[position..position + 8].copy_from_slice(&value.to_le_bytes());
        if let Ok(gguf) = parse(&bytes) {
            check_promises(&gguf, bytes.len() as u64);
        }
    }

    #[test]
    fn any_bytes_after_the_magic_are_survived(rest in prop::collection::vec(any::<u8>(), 0..300)) {
        let bytes = [b"GGUF\x03\x00\x00\x00", rest.as_slice()].concat();
        let _ = parse(&bytes);
    }

    #[test]
    fn an_index_never_names_a_path(file in prop_oneof!["[./\\\\a]{0,6}", "\\PC{0,12}"]) {
        let text = serde_json::json!({"weight_map": {"w": file}}).to_string();
        if parse_sharded_index(&text).is_ok() {
            let folder = std::path::Path::new("/models/one");
            let joined = folder.join(&file);
            prop_assert_eq!(joined.parent(), Some(folder));
            prop_assert!(!file.contains(['/', '\\']) && file != ".." && file != ".");
        }
    }

    #[test]
    fn any_text_as_an_index_is_survived(text in "\\PC{0,80}") {
        let _ = parse_sharded_index(&text);
    }

    #[test]
    fn a_config_that_parses_is_consistent(
        family in prop_oneof![Just("llama"), Just("mistral"), Just("qwen2"), Just("qwen3")],
        sizes in prop::array::uniform8(prop_oneof![0..10u64, 0..5000u64, any::<u64>()]),
        theta in any::<f64>(),
        window in prop::option::of(any::<u32>()),
    ) {
        let [vocabulary, hidden, intermediate, layers, heads, key_heads, head_dim, positions] =
                sizes;
        let text = serde_json::json!({
            "model_type": family, "vocab_size": vocabulary, "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": key_heads,
            "head_dim": head_dim, "max_position_embeddings": positions, "rope_theta": theta,
            "eos_token_id": 0,
            "bos_token_id": 0, "sliding_window": window, "use_sliding_window": true,
        });
        if let Ok(config) = ModelConfig::from_json(&text.to_string()) {
            prop_assert_eq!(config.sliding_windows.len(), config.num_hidden_layers);
            prop_assert_eq!(config.num_attention_heads % config.num_key_value_heads, 0);
            prop_assert!(config.head_dim % 2 == 0 && config.head_dim > 0);
            prop_assert!(config.rope_theta > 0.0);
            // The largest tensor of any supported family stays far from overflow.
            prop_assert!(config.vocab_size.checked_mul(config.hidden_size).is_some());
        }
    }

    #[test]
    fn any_text_as_a_config_is_survived(text in "\\PC{0,80}") {
        prop_assert!(ModelConfig::from_json(&text).is_err());
    }
}

fn head(tensors: u64, keys: u64) -> Vec<u8> {
    [b"GGUF\x03\x00\x00\x00", &tensors.to_le_bytes()[..], &keys.to_le_bytes()].concat()
}

/// `name`, dimensions innermost first, type number, offset; then enough bytes for any of the
/// tensors below.
fn with_tensor(name: &str, dimensions: &[u64], type_number: u32, offset: u64) -> Vec<u8> {
    let mut bytes = head(1, 0);
    bytes.extend((name.len() as u64).to_le_bytes());
    bytes.extend(name.as_bytes());
    bytes.extend((dimensions.len() as u32).to_le_bytes());
    dimensions.iter().for_each(|size| bytes.extend(size.to_le_bytes()));
    bytes.extend(type_number.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes.resize(bytes.len() + 1000, 0);
    bytes
}

fn message(bytes: &[u8]) -> String {
    parse(bytes).expect_err("should not parse").to_string()
}

#[test]
fn hostile_heads_are_named() {
    assert!(parse(&with_tensor("w", &[32], 8, 0)).is_ok());
    for (bytes, part) in [
        (b"PK\x03\x04".to_vec(), "where a GGUF file has `GGUF`"),
        (b"GGUF\x01\x00\x00\x00".to_vec(), "version 1 is not supported"),
        (b"GGUF\x00\x00\x00\x03".to_vec(), "(a big-endian file)"),
        (head(u64::MAX, 0), "18446744073709551615 tensors"),
        (head(0, u64::MAX), "18446744073709551615 metadata keys"),
        ([head(0, 1), u64::MAX.to_le_bytes().to_vec()].concat(), "truncated"),
        ([head(0, 1), 1u64.to_le_bytes().to_vec(), vec![0xff; 20]].concat(), "is not UTF-8"),
        (with_tensor("w", &[], 0, 0), "`w` has 0 dimensions"),
        (with_tensor("w", &[1, 1, 1, 1, 1], 0, 0), "`w` has 5 dimensions"),
        (with_tensor("w", &[0], 0, 0), "impossible shape [0]"),
        (with_tensor("w", &[u64::MAX, u64::MAX], 0, 0), "impossible shape"),
        (with_tensor("w", &[1 << 62], 0, 0), "impossible shape"),
        (with_tensor("w", &[16, 2], 8, 0), "rows must be a multiple of 32"),
        (with_tensor("w", &[32], 16, 0), "`w` is stored as IQ2_XXS, which is not supported"),
        (with_tensor("w", &[32], 999, 0), "type number 999"),
        (with_tensor("w", &[32], 0, 1), "no multiple of 32"),
        (with_tensor("w", &[32], 0, 1 << 40), "the file has"),
        (with_tensor("w", &[32], 0, u64::MAX - 31), "the file has"),
    ] {
        let message = message(&bytes);
        assert!(message.contains(part), "{message} should contain {part}");
    }
}

/// One metadata entry `k` of a raw type and value.
fn with_value(type_number: u32, value: &[u8]) -> Vec<u8> {
    let mut bytes = head(0, 1);
    bytes.extend([&1u64.to_le_bytes()[..], b"k", &type_number.to_le_bytes(), value].concat());
    bytes
}

#[test]
fn hostile_metadata_is_named() {
    let array = |kind: u32, length: u64| [&kind.to_le_bytes()[..], &length.to_le_bytes()].concat();
    assert!(parse(&with_value(9, &array(8, 0))).is_ok());
    for (bytes, part) in [
        (with_value(13, &[]), "`k` has value type 13"),
        (with_value(9, &array(13, 1)), "`k` has value type 13"),
        (with_value(9, &array(9, 1)), "an array of arrays"),
        (with_value(9, &array(4, u64::MAX)), "elements of one array"),
        (with_value(9, &array(4, 1 << 24)), "truncated"),
        (with_value(9, &array(8, 1 << 24)), "truncated"),
        (with_value(8, &(1u64 << 40).to_le_bytes()), "truncated"),
    ] {
        let message = message(&bytes);
        assert!(message.contains(part), "{message} should contain {part}");
    }
    let twice =
        [head(0, 2), with_value(0, &[1])[24..].to_vec(), with_value(0, &[1])[24..].to_vec()]
            .concat();
    assert!(message(&twice).contains("`k` appears twice"));
}
