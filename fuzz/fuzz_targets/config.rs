//! `config.json` and the other small JSON files of a model folder.

#![no_main]

use libfuzzer_sys::fuzz_target;
use llm::ModelConfig;
use llm::tokenizer::TokenizerSettings;

fuzz_target!(|text: &str| {
    if let Ok(mut config) = ModelConfig::from_json(text) {
        assert_eq!(config.sliding_windows.len(), config.num_hidden_layers);
        assert_eq!(config.num_attention_heads % config.num_key_value_heads, 0);
        let _ = config.apply_generation_config(text);
    }
    let _ = TokenizerSettings::from_json(text);
});
