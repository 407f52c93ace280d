//! Model descriptions in the spellings found in the wild, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use llm::config::ConfigError;
use llm::gguf::{Gguf, GgufTensor, Metadata, Value};
use llm::weights::Encoding;
use llm::{Architecture, FloatType, ModelConfig, RopeScaling};
use serde_json::{Value as Json, json};

/// A small but complete config of the given family, with keys of `changes` set, or removed where
/// they are null.
fn config(model_type: &str, changes: Json) -> Json {
    let mut config = json!({
        "model_type": model_type, "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2,
        "torch_dtype": "bfloat16",
    });
    for (key, value) in changes.as_object().unwrap() {
        match value {
            Json::Null => config.as_object_mut().unwrap().remove(key),
            value => config.as_object_mut().unwrap().insert(key.clone(), value.clone()),
        };
    }
    config
}

fn parse(model_type: &str, changes: Json) -> Result<ModelConfig, ConfigError> {
    ModelConfig::from_json(&config(model_type, changes).to_string())
}

/// The message with its cause.
fn refusal(model_type: &str, changes: Json) -> String {
    let error = parse(model_type, changes.clone()).expect_err(&changes.to_string());
    let source =
        std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
    format!("{error}{source}")
}

#[test]
fn families_differ_in_what_they_do_not_say() {
    let llama = parse("llama", json!({})).unwrap();
    assert_eq!(
        (llama.architecture, llama.head_dim, llama.query_heads_per_group()),
        (Architecture::Llama, 16, 2)
    );
    assert_eq!((llama.rope_theta, &llama.rope_scaling), (10_000.0, &RopeScaling::None));
    assert_eq!((llama.bos_token_id, llama.eos_token_ids.as_slice()), (Some(1), &[2][..]));
    assert_eq!(llama.dtype, Some(FloatType::Bf16));
    assert!(
        !llama.attention_bias
            && !llama.mlp_bias
            && !llama.query_key_norm
            && !llama.tie_word_embeddings
    );
    assert_eq!(llama.sliding_windows, [None; 3]);

    let biased = parse(
        "llama",
        json!({"attention_bias": true, "mlp_bias": true, "num_key_value_heads": null}),
    )
    .unwrap();
    assert!(biased.attention_bias && biased.attention_output_bias && biased.mlp_bias);
    assert_eq!(biased.num_key_value_heads, 4);

    let qwen2 = parse(
        "qwen2",
        json!({"tie_word_embeddings": true, "eos_token_id": [7, 8], "bos_token_id": null}),
    );
    let qwen2 = qwen2.unwrap();
    assert!(qwen2.attention_bias && !qwen2.attention_output_bias && qwen2.tie_word_embeddings);
    assert_eq!((qwen2.bos_token_id, qwen2.eos_token_ids.as_slice()), (None, &[7, 8][..]));

    let qwen3 = parse("qwen3", json!({"head_dim": 32})).unwrap();
    assert!(qwen3.query_key_norm && !qwen3.attention_bias);
    assert_eq!(qwen3.head_dim, 32);
    assert_eq!(parse("qwen3", json!({})).unwrap().head_dim, 128);
    // A hidden size that heads do not divide is fine once `head_dim` is given.
    assert_eq!(
        parse("mistral", json!({"hidden_size": 70, "head_dim": 16})).unwrap().hidden_size,
        70
    );
}

#[test]
fn a_config_without_model_type_is_known_by_its_class() {
    let changes = json!({"model_type": null, "architectures": ["Qwen3ForCausalLM"]});
    assert_eq!(parse("", changes).unwrap().architecture, Architecture::Qwen3);
    assert!(refusal("", json!({"model_type": null})).contains("`model_type` is missing"));
}

#[test]
fn rotary_settings_in_both_spellings() {
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 128,
    };
    let settings = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    });
    let old = parse("llama", json!({"rope_theta": 500_000, "rope_scaling": settings})).unwrap();
    assert_eq!((old.rope_theta, &old.rope_scaling), (500_000.0, &llama3));
    let mut parameters = settings.clone();
    parameters["rope_theta"] = json!(500_000.0);
    let new = parse(
        "llama",
        json!({"rope_parameters": parameters, "torch_dtype": null, "dtype": "bfloat16"}),
    )
    .unwrap();
    assert_eq!(new, old);

    let linear =
        parse("llama", json!({"rope_scaling": {"type": "linear", "factor": 2.0}})).unwrap();
    assert_eq!(linear.rope_scaling, RopeScaling::Linear { factor: 2.0 });
    let default =
        parse("qwen2", json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}))
            .unwrap();
    assert_eq!((default.rope_theta, default.rope_scaling), (1e6, RopeScaling::None));

    for kind in ["dynamic", "yarn", "longrope"] {
        let message = refusal("llama", json!({"rope_scaling": {"rope_type": kind, "factor": 2.0}}));
        assert!(
            message.contains(&format!("the rule `{kind}`, which is not supported")),
            "{message}"
        );
    }
    assert!(
        refusal("llama", json!({"rope_scaling": {"type": "linear"}}))
            .contains("`rope_scaling.factor` is missing")
    );
}

#[test]
fn sliding_windows_per_layer() {
    let windows = |model_type, changes| parse(model_type, changes).unwrap().sliding_windows;
    assert_eq!(windows("mistral", json!({"sliding_window": 8})), [Some(8); 3]);
    // Absent means transformers' default, null means none.
    assert_eq!(windows("mistral", json!({})), [Some(4096); 3]);
    let null =
        config("mistral", json!({})).to_string().replacen('{', r#"{"sliding_window": null, "#, 1);
    assert_eq!(ModelConfig::from_json(&null).unwrap().sliding_windows, [None; 3]);

    assert_eq!(windows("qwen2", json!({"sliding_window": 8})), [None; 3]);
    let used = json!({"sliding_window": 8, "use_sliding_window": true, "max_window_layers": 2});
    assert_eq!(windows("qwen2", used), [None, None, Some(8)]);
    let types = json!({
        "sliding_window": 8, "use_sliding_window": true,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    });
    assert_eq!(windows("qwen3", types), [Some(8), None, Some(8)]);
    assert!(
        refusal("qwen3", json!({"layer_types": ["full_attention"]}))
            .contains("3 entries, one per layer")
    );
    let linear = json!({"layer_types": ["linear_attention", "full_attention", "full_attention"]});
    assert!(refusal("qwen3", linear).contains("`linear_attention`"));
}

#[test]
fn what_is_not_supported_or_impossible_is_refused() {
    for (model_type, changes, part) in [
        (
            "gemma3",
            json!({}),
            "architecture `gemma3` is not supported, only llama, mistral, qwen2, qwen3",
        ),
        (
            "llama",
            json!({"quantization_config": {"quant_method": "awq"}}),
            "quantized by the method `awq`",
        ),
        ("llama", json!({"num_local_experts": 8}), "mixture of 8 experts"),
        ("qwen2", json!({"hidden_act": "gelu"}), "activation `gelu`"),
        ("llama", json!({"partial_rotary_factor": 0.5}), "only a part of each head"),
        ("llama", json!({"vocab_size": null}), "`vocab_size` is missing"),
        ("llama", json!({"vocab_size": 0}), "`vocab_size` is 0"),
        ("llama", json!({"vocab_size": 1u64 << 40}), "`vocab_size` is 1099511627776"),
        ("llama", json!({"num_hidden_layers": 1u64 << 60}), "`num_hidden_layers` is"),
        ("llama", json!({"num_attention_heads": 0}), "`num_attention_heads` is 0"),
        (
            "llama",
            json!({"num_attention_heads": 3, "num_key_value_heads": 3}),
            "a divisor of `hidden_size` = 64",
        ),
        ("llama", json!({"num_key_value_heads": 3}), "a divisor of `num_attention_heads` = 4"),
        ("llama", json!({"head_dim": 15}), "`head_dim` is 15"),
        ("llama", json!({"rms_norm_eps": 0.0}), "`rms_norm_eps` is 0"),
        ("llama", json!({"rope_theta": -1.0}), "`rope_theta` is -1"),
        (
            "llama",
            json!({"eos_token_id": 100}),
            "`eos_token_id` is 100 in the model's config, expected less than `vocab_size` = 100",
        ),
        ("mistral", json!({"sliding_window": 0}), "`sliding_window` is 0"),
        ("llama", json!({"hidden_size": -64}), "not valid JSON of the expected form"),
    ] {
        let message = refusal(model_type, changes);
        assert!(message.contains(part), "{message} should contain {part}");
    }
}

#[test]
fn generation_config_replaces_end_tokens() {
    let mut config = parse("llama", json!({})).unwrap();
    config.apply_generation_config(r#"{"eos_token_id": [5, 6], "temperature": 0.7}"#).unwrap();
    assert_eq!(config.eos_token_ids, [5, 6]);
    config.apply_generation_config("{}").unwrap();
    assert_eq!(config.eos_token_ids, [5, 6]);
    assert!(config.apply_generation_config(r#"{"eos_token_id": 100}"#).is_err());
}

#[test]
fn rotary_factors_must_fit_the_head() {
    let mut config = parse("llama", json!({})).unwrap();
    config.set_rope_factors(vec![1.0; 8]).unwrap();
    assert_eq!(config.rope_scaling, RopeScaling::Factors(vec![1.0; 8]));
    assert!(config.clone().set_rope_factors(vec![1.0; 7]).is_err());
    assert!(config.set_rope_factors(vec![0.0; 8]).is_err());
}

fn gguf(architecture: &str, changes: &[(&str, Option<Value>)], tensors: &[&str]) -> Gguf {
    let mut metadata = Metadata::default();
    metadata.insert("general.architecture", Value::String(architecture.to_owned()));
    let values = [
        ("block_count", Value::Unsigned(2)),
        ("context_length", Value::Unsigned(512)),
        ("embedding_length", Value::Unsigned(64)),
        ("feed_forward_length", Value::Unsigned(96)),
        ("attention.head_count", Value::Unsigned(4)),
        ("attention.head_count_kv", Value::Unsigned(2)),
        ("attention.layer_norm_rms_epsilon", Value::Float(f64::from(1e-5f32))),
        ("rope.freq_base", Value::Float(1e6)),
        ("vocab_size", Value::Unsigned(100)),
    ];
    for (key, value) in values {
        let change = changes.iter().find(|(changed, _)| *changed == key);
        if let Some(value) = change.map_or(Some(value), |(_, value)| value.clone()) {
            metadata.insert(format!("{architecture}.{key}"), value);
        }
    }
    for (key, value) in changes {
        if let Some(value) = value.clone() {
            metadata.insert(
                if key.contains("ggml") {
                    (*key).to_owned()
                } else {
                    format!("{architecture}.{key}")
                },
                value,
            );
        }
    }
    let tensor = |name: &&str| GgufTensor {
        name: (*name).to_owned(),
        encoding: Encoding::Q4K,
        shape: vec![90, 64],
        offset: 0,
        size_bytes: 0,
    };
    Gguf { version: 3, metadata, tensors: tensors.iter().map(tensor).collect() }
}

#[test]
fn gguf_descriptions() {
    let llama = ModelConfig::from_gguf(&gguf("llama", &[], &["output.weight"])).unwrap();
    // The decimal that the single-precision number stands for.
    assert_eq!((llama.rms_norm_eps, llama.rope_theta, llama.head_dim), (1e-5, 1e6, 16));
    assert!(!llama.tie_word_embeddings && !llama.attention_bias && !llama.query_key_norm);

    let keys = [
        ("attention.key_length", Some(Value::Unsigned(32))),
        ("attention.sliding_window", Some(Value::Unsigned(8))),
        ("vocab_size", None),
        ("tokenizer.ggml.eos_token_id", Some(Value::Unsigned(3))),
        ("tokenizer.ggml.eot_token_id", Some(Value::Unsigned(4))),
        ("tokenizer.ggml.eom_token_id", Some(Value::Unsigned(3))),
    ];
    let tensors = ["token_embd.weight", "blk.0.attn_q.bias", "blk.0.attn_q_norm.weight"];
    let qwen3 = ModelConfig::from_gguf(&gguf("qwen3", &keys, &tensors)).unwrap();
    assert_eq!(
        (qwen3.head_dim, qwen3.vocab_size, qwen3.eos_token_ids.as_slice()),
        (32, 90, &[3, 4][..])
    );
    assert!(qwen3.tie_word_embeddings && qwen3.attention_bias && qwen3.query_key_norm);
    assert_eq!(qwen3.sliding_windows, [None; 2]);
    let mistral = ModelConfig::from_gguf(&gguf("llama", &keys[..2], &[])).unwrap();
    assert_eq!(mistral.sliding_windows, [Some(8); 2]);

    let scaling = [
        ("rope.scaling.type", Some(Value::String("linear".to_owned()))),
        ("rope.scaling.factor", Some(Value::Float(4.0))),
    ];
    let linear = ModelConfig::from_gguf(&gguf("llama", &scaling, &[])).unwrap();
    assert_eq!(linear.rope_scaling, RopeScaling::Linear { factor: 4.0 });

    for (architecture, key, value, part) in [
        ("gemma3", "x", None, "architecture `gemma3` is not supported"),
        ("llama", "block_count", None, "`llama.block_count` is missing"),
        (
            "llama",
            "block_count",
            Some(Value::String("two".to_owned())),
            "`llama.block_count` is a string",
        ),
        ("llama", "block_count", Some(Value::Unsigned(u64::MAX)), "`num_hidden_layers` is"),
        ("llama", "expert_count", Some(Value::Unsigned(8)), "mixture of 8 experts"),
        ("llama", "rope.dimension_count", Some(Value::Unsigned(8)), "only a part of each head"),
        ("llama", "attention.value_length", Some(Value::Unsigned(8)), "different width"),
        ("llama", "rope.scaling.type", Some(Value::String("yarn".to_owned())), "the rule `yarn`"),
        ("llama", "vocab_size", None, "`vocab_size` is missing"),
    ] {
        let error = ModelConfig::from_gguf(&gguf(architecture, &[(key, value)], &[])).unwrap_err();
        let source = std::error::Error::source(&error)
            .map(|source| format!(": {source}"))
            .unwrap_or_default();
        assert!(format!("{error}{source}").contains(part), "{error}{source} should contain {part}");
    }
}
