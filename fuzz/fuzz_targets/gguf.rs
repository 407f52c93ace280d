//! GGUF heads, and what is built from the metadata of those that parse.

#![no_main]

use libfuzzer_sys::fuzz_target;
use llm::gguf::Gguf;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(gguf) = Gguf::parse(bytes, bytes.len() as u64) {
        for tensor in &gguf.tensors {
            assert!(tensor.offset + tensor.size_bytes <= bytes.len() as u64);
        }
        let _ = llm::ModelConfig::from_gguf(&gguf);
        let _ = llm::Tokenizer::from_gguf(&gguf.metadata);
    }
});
