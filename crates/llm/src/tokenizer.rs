//! Text to token ids and back.
//!
//! Wraps the `tokenizers` crate, fed from a Hugging Face `tokenizer.json` or from the vocabulary
//! that a GGUF file carries. Knows no model: ids are checked against the vocabulary here, and
//! against the embedding elsewhere.

mod byte_level;
mod error;
mod from_gguf;
mod incremental;
mod sentence_piece;
mod settings;
mod to_json;
mod token_bytes;

use std::collections::BTreeMap;

pub use error::TokenizerError;
pub use incremental::IncrementalDecoder;
pub use settings::TokenizerSettings;

/// A vocabulary with the rules that split text into it.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    framing: Framing,
    bos_token_id: Option<u32>,
    eos_token_id: Option<u32>,
    /// `bos_token`, `eos_token`, `pad_token`, … with their text, as chat templates see them.
    special_tokens: BTreeMap<String, String>,
}

/// What `encode` puts around a text when it is asked for special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// Whatever the post-processor in `tokenizer.json` says.
    PostProcessor,
    /// The settings beside it, or GGUF metadata, say it outright.
    Explicit { bos: bool, eos: bool },
}

impl Tokenizer {
    /// Parses a `tokenizer.json`; `settings` come from the `tokenizer_config.json` beside it, if
    /// there is one.
    ///
    /// # Errors
    /// When the text is no tokenizer, or the settings name tokens that it does not have.
    pub fn from_json(
        text: &str,
        settings: &TokenizerSettings,
    ) -> Result<Tokenizer, TokenizerError> {
        let mut inner: tokenizers::Tokenizer = text.parse().map_err(TokenizerError::json)?;
        // Files carry the truncation and padding of whoever saved them; a prompt must arrive whole.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(TokenizerError::json)?;
        let id_of = |key: &str| match settings.special_tokens.get(key) {
            None => Ok(None),
            Some(token) => match inner.token_to_id(token) {
                Some(id) => Ok(Some(id)),
                None => {
                    Err(TokenizerError::UnknownToken { key: key.to_owned(), token: token.clone() })
                }
            },
        };
        let (bos_token_id, eos_token_id) = (id_of("bos_token")?, id_of("eos_token")?);
        let framing = match settings.add_bos_token {
            Some(bos) => Framing::Explicit {
                bos: bos && bos_token_id.is_some(),
                eos: settings.add_eos_token.unwrap_or(false) && eos_token_id.is_some(),
            },
            None => Framing::PostProcessor,
        };
        Ok(Tokenizer {
            inner,
            framing,
            bos_token_id,
            eos_token_id,
            special_tokens: settings.special_tokens.clone(),
        })
    }

    /// Token ids of `text`. With `add_special_tokens`, the model's begin-of-text token and the like
    /// are put around it; leave that out for text that a chat template rendered, which holds them
    /// already. Special tokens spelled out in `text` become their ids.
    ///
    /// # Errors
    /// When the tokenizer's own rules fail on the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizerError> {
        let by_post_processor = add_special_tokens && self.framing == Framing::PostProcessor;
        let encoding = self
            .inner
            .encode_fast(text, by_post_processor)
            .map_err(|source| TokenizerError::Encode { source })?;
        let mut ids = encoding.get_ids().to_vec();
        if let Framing::Explicit { bos, eos } = self.framing
            && add_special_tokens
        {
            ids.splice(0..0, self.bos_token_id.filter(|_| bos));
            ids.extend(self.eos_token_id.filter(|_| eos));
        }
        Ok(ids)
    }

    /// The text of `ids`. Bytes that form no UTF-8 become U+FFFD; special tokens vanish if
    /// `skip_special_tokens`.
    ///
    /// # Errors
    /// When an id is not in the vocabulary, or the tokenizer's own rules fail.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, TokenizerError> {
        if let Some(id) = ids.iter().find(|id| self.inner.id_to_token(**id).is_none()) {
            return Err(TokenizerError::UnknownId { id: *id, vocab_size: self.vocab_size() });
        }
        self.inner
            .decode(ids, skip_special_tokens)
            .map_err(|source| TokenizerError::Decode { source })
    }

    /// The token as the vocabulary spells it: `Ġrain` for a space and `rain` in byte-level
    /// vocabularies.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Control tokens such as the end of a text, which [`decode`](Tokenizer::decode) can leave out.
    pub fn is_special(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary();
        added.simple_id_to_token(id).is_some_and(|token| added.is_special_token(&token))
    }

    /// Tokens, added ones included. An embedding may have more rows, for padding.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    pub fn bos_token_id(&self) -> Option<u32> {
        self.bos_token_id
    }

    pub fn eos_token_id(&self) -> Option<u32> {
        self.eos_token_id
    }

    /// `bos_token`, `eos_token` and the like with their text: variables of every chat template.
    pub fn special_tokens(&self) -> &BTreeMap<String, String> {
        &self.special_tokens
    }
}
