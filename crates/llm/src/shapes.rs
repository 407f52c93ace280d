//! Well-known models by their shape alone: enough to compile for a chip, with no weights. The
//! figures are those of the models' own published `config.json`.

use crate::config::{ConfigError, ModelConfig};

const SHAPES: [(&str, &str); 6] = [
    ("llama3-1b", include_str!("../shapes/llama3-1b.json")),
    ("llama3-8b", include_str!("../shapes/llama3-8b.json")),
    ("llama3-70b", include_str!("../shapes/llama3-70b.json")),
    ("mistral-7b", include_str!("../shapes/mistral-7b.json")),
    ("qwen2.5-7b", include_str!("../shapes/qwen2.5-7b.json")),
    ("qwen3-8b", include_str!("../shapes/qwen3-8b.json")),
];

/// The names of all shapes.
pub fn names() -> impl Iterator<Item = &'static str> {
    SHAPES.iter().map(|&(name, _)| name)
}

/// The shape of that name.
pub fn find(name: &str) -> Option<Result<ModelConfig, ConfigError>> {
    let (_, text) = SHAPES.iter().find(|(known, _)| *known == name)?;
    Some(ModelConfig::from_json(text))
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_shape_is_a_valid_config() {
        for name in super::names() {
            let config = super::find(name).unwrap();
            assert!(config.is_ok(), "{name}: {config:?}");
        }
    }
}
