//! The files that stand beside a model's weights: its description, its tokenizer, its chat template
//! and its licence, as Hugging Face lays them out. Held in memory, so that they can be kept with a
//! training run and written out again without the model that they came from.

use std::collections::BTreeMap;

use super::{
    CHAT_TEMPLATE_FILE, CONFIG_FILE, GENERATION_CONFIG_FILE, GGUF_TEMPLATE_KEY, ModelFiles,
    OpenError, Source, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, read,
};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// What makes tokens of text and text of tokens.
const TEXT_SIDE: [&str; 8] = [
    TOKENIZER_FILE,
    TOKENIZER_CONFIG_FILE,
    CHAT_TEMPLATE_FILE,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
];

/// What else is taken over from a model's folder.
const ABOUT: [&str; 7] = [
    CONFIG_FILE,
    GENERATION_CONFIG_FILE,
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "NOTICE",
    "NOTICE.txt",
];

fn names() -> Vec<&'static str> {
    [&TEXT_SIDE[..], &ABOUT].concat()
}

/// Files by name. Empty for a model that has nothing but weights.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Companions {
    files: BTreeMap<String, Vec<u8>>,
}

/// A file that has no place beside a model's weights.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{name}` is not a file that belongs beside a model's weights, only {} are: the checkpoint that \
     it came from is damaged", names().join(", ")
)]
pub struct UnknownCompanion {
    name: String,
}

impl Companions {
    /// The files of a tokenizer that stands alone, for a model of sequences up to `model_max_length`
    /// tokens.
    ///
    /// # Errors
    /// When the tokenizer's own rules cannot be written.
    pub fn of_tokenizer(
        tokenizer: &Tokenizer,
        chat_template: Option<&str>,
        model_max_length: usize,
    ) -> Result<Companions, TokenizerError> {
        let mut files = BTreeMap::new();
        files.insert(TOKENIZER_FILE.to_owned(), tokenizer.to_json()?.into_bytes());
        let settings = tokenizer.settings_json(model_max_length);
        files.insert(TOKENIZER_CONFIG_FILE.to_owned(), settings.into_bytes());
        if let Some(template) = chat_template {
            files.insert(CHAT_TEMPLATE_FILE.to_owned(), template.as_bytes().to_vec());
        }
        Ok(Companions { files })
    }

    /// Adds a file, or replaces it.
    ///
    /// # Errors
    /// When a model's folder has no file of that name, so that a list that somebody else wrote cannot
    /// reach outside of it.
    pub fn insert(&mut self, name: &str, contents: Vec<u8>) -> Result<(), UnknownCompanion> {
        if !names().contains(&name) {
            return Err(UnknownCompanion { name: name.to_owned() });
        }
        self.files.insert(name.to_owned(), contents);
        Ok(())
    }

    /// These, with tokenizer and chat template as `other` has them.
    #[must_use]
    pub fn with_text_side_of(mut self, other: Companions) -> Companions {
        let is_text_side = |name: &String| TEXT_SIDE.contains(&name.as_str());
        self.files.retain(|name, _| !is_text_side(name));
        self.files.extend(other.files.into_iter().filter(|(name, _)| is_text_side(name)));
        self
    }

    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(Vec::as_slice)
    }

    /// Names and contents, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().map(|(name, contents)| (name.as_str(), contents.as_slice()))
    }
}

impl ModelFiles {
    /// Reads the files beside the weights. A GGUF file's tokenizer and chat template become those of
    /// a folder; its description does not, since [`config`](ModelFiles::config) says it all.
    ///
    /// # Errors
    /// When one cannot be read, or the GGUF file's tokenizer cannot be used.
    pub fn companions(&self) -> Result<Companions, OpenError> {
        match &self.source {
            Source::Folder => {
                let mut files = BTreeMap::new();
                for name in names() {
                    if let Some(contents) = read(&self.path.join(name))? {
                        files.insert(name.to_owned(), contents);
                    }
                }
                Ok(Companions { files })
            }
            Source::Gguf(metadata) => {
                let unusable = |source: TokenizerError| self.tokenizer_error(source);
                if metadata.get("tokenizer.ggml.model").is_none() {
                    return Ok(Companions::default());
                }
                let template = metadata.string(GGUF_TEMPLATE_KEY);
                let template = template.map_err(|source| unusable(source.into()))?;
                let tokenizer = Tokenizer::from_gguf(metadata).map_err(unusable)?;
                let length = self.config.max_position_embeddings;
                Companions::of_tokenizer(&tokenizer, template, length).map_err(unusable)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_can_have_the_text_side_of_another() {
        let of = |who: &str, names: &[&str]| {
            let mut companions = Companions::default();
            for name in names {
                companions.insert(name, who.into()).unwrap();
            }
            companions
        };
        let base = of("base", &[CONFIG_FILE, "LICENSE", TOKENIZER_FILE, "merges.txt"]);
        let text = of("text", &[CONFIG_FILE, TOKENIZER_FILE, CHAT_TEMPLATE_FILE]);
        let both = base.with_text_side_of(text);
        let found: Vec<(&str, &[u8])> = both.iter().collect();
        let expected: [(&str, &[u8]); 4] = [
            ("LICENSE", b"base"),
            (CHAT_TEMPLATE_FILE, b"text"),
            (CONFIG_FILE, b"base"),
            (TOKENIZER_FILE, b"text"),
        ];
        assert_eq!(found, expected);
    }
}
