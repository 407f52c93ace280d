//! `adapter_config.json`, as PEFT writes it beside adapters.

#![no_main]

use libfuzzer_sys::fuzz_target;
use llm::adapter::AdapterConfig;

fuzz_target!(|text: &str| {
    if let Ok(config) = AdapterConfig::from_json(text) {
        assert!(config.rank > 0 && config.scale(config.rank).is_finite());
    }
});
