//! Where the tests find the real model, and how they say that they could not.

use std::path::PathBuf;

const MODEL_IN_CACHE: &str = "models/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf";

/// The SmolLM2 file, or `None` after saying on stderr that `test` is skipped.
pub fn smollm2(test: &str) -> Option<PathBuf> {
    let path = match std::env::var_os("FUNGIBLE_SMOLLM2_GGUF") {
        Some(path) => PathBuf::from(path),
        None => cache_folder()?.join(MODEL_IN_CACHE),
    };
    if path.is_file() {
        return Some(path);
    }
    let advice = "run `fungible generate` once, or set FUNGIBLE_SMOLLM2_GGUF";
    eprintln!("SKIPPED {test}: {} is not there; {advice}", path.display());
    None
}

fn cache_folder() -> Option<PathBuf> {
    let from =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    from("FUNGIBLE_CACHE")
        .or_else(|| from("XDG_CACHE_HOME").map(|folder| folder.join("fungible")))
        .or_else(|| from("HOME").map(|folder| folder.join(".cache/fungible")))
}
