//! The table of a sharded safetensors checkpoint: no shard may lie outside its folder.

#![no_main]

use libfuzzer_sys::fuzz_target;
use llm::weights::parse_sharded_index;

fuzz_target!(|text: &str| {
    if let Ok(shards) = parse_sharded_index(text) {
        for file in shards.values() {
            assert!(!file.is_empty() && !file.contains(['/', '\\']) && file != "." && file != "..");
        }
    }
});
