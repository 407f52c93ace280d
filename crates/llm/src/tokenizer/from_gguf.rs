//! Builds a tokenizer from the `tokenizer.ggml.*` keys of a GGUF file.

use std::collections::{BTreeMap, HashSet};

use tokenizers::AddedToken;

use super::{Framing, Tokenizer, TokenizerError, byte_level, sentence_piece};
use crate::gguf::Metadata;

/// ggml's `llama_token_type` numbers.
mod token_type {
    pub(super) const UNKNOWN: u64 = 2;
    pub(super) const CONTROL: u64 = 3;
    pub(super) const USER_DEFINED: u64 = 4;
}

/// The vocabulary as the file lists it, by id.
pub(super) struct Vocabulary<'a> {
    pub(super) metadata: &'a Metadata,
    pub(super) tokens: &'a [String],
    /// Tokens that are matched in the text as a whole, before it is split: control tokens, and
    /// those that the user of the original tokenizer added.
    pub(super) added: Vec<AddedToken>,
}

/// A tokenizer without added tokens, and whether texts begin with the begin-of-text token unless
/// metadata says.
pub(super) struct Built {
    pub(super) tokenizer: tokenizers::Tokenizer,
    pub(super) adds_bos: bool,
}

impl Tokenizer {
    /// Builds the tokenizer that GGUF `metadata` describes.
    ///
    /// # Errors
    /// When it describes none, one of an unsupported kind, or one that contradicts itself.
    pub fn from_gguf(metadata: &Metadata) -> Result<Tokenizer, TokenizerError> {
        let vocabulary = read_vocabulary(metadata)?;
        let model = metadata.string("tokenizer.ggml.model")?.unwrap_or("absent");
        let Built { mut tokenizer, adds_bos } = match model {
            "gpt2" => byte_level::build(&vocabulary)?,
            "llama" => sentence_piece::build(&vocabulary)?,
            other => return Err(TokenizerError::Model { found: other.to_owned() }),
        };
        tokenizer.add_tokens(&vocabulary.added);

        let special_tokens = Tokenizer::special_tokens_of_gguf(metadata)?;
        let id_of =
            |role: &str| special_tokens.get(role).and_then(|token| tokenizer.token_to_id(token));
        let (bos_token_id, eos_token_id) = (id_of("bos_token"), id_of("eos_token"));
        let bos = metadata.boolean("tokenizer.ggml.add_bos_token")?.unwrap_or(adds_bos);
        let eos = metadata.boolean("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        let framing = Framing::Explicit {
            bos: bos && bos_token_id.is_some(),
            eos: eos && eos_token_id.is_some(),
        };
        Ok(Tokenizer { inner: tokenizer, framing, bos_token_id, eos_token_id, special_tokens })
    }

    /// The text of `bos_token`, `eos_token`, `unk_token` and `pad_token`, without building the
    /// tokenizer.
    ///
    /// # Errors
    /// When one of their ids is not in the vocabulary.
    pub fn special_tokens_of_gguf(
        metadata: &Metadata,
    ) -> Result<BTreeMap<String, String>, TokenizerError> {
        let tokens = metadata.strings("tokenizer.ggml.tokens")?.unwrap_or_default();
        let mut special_tokens = BTreeMap::new();
        for (role, name) in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")]
        {
            let key = format!("tokenizer.ggml.{name}_token_id");
            let Some(id) = metadata.unsigned(&key)? else { continue };
            match usize::try_from(id).ok().and_then(|id| tokens.get(id)) {
                Some(token) => special_tokens.insert(format!("{role}_token"), token.clone()),
                None => {
                    let count = tokens.len();
                    return Err(TokenizerError::vocabulary(format!(
                        "`{key}` is {id}, beyond its {count} tokens"
                    )));
                }
            };
        }
        Ok(special_tokens)
    }
}

fn read_vocabulary(metadata: &Metadata) -> Result<Vocabulary<'_>, TokenizerError> {
    let tokens = metadata.strings("tokenizer.ggml.tokens")?.unwrap_or_default();
    if tokens.is_empty() {
        return Err(TokenizerError::vocabulary("`tokenizer.ggml.tokens` is missing or empty"));
    }
    let mut seen = HashSet::with_capacity(tokens.len());
    if let Some(token) = tokens.iter().find(|token| !seen.insert(token.as_str())) {
        return Err(TokenizerError::vocabulary(format!("token `{token}` appears twice")));
    }
    let mut added = Vec::new();
    if let Some(types) = metadata.numbers("tokenizer.ggml.token_type")? {
        if types.len() != tokens.len() {
            let (types, tokens) = (types.len(), tokens.len());
            return Err(TokenizerError::vocabulary(format!(
                "it has {types} token types for {tokens} tokens"
            )));
        }
        for (token, kind) in tokens.iter().zip(types.iter()) {
            let special = match kind.as_unsigned() {
                Some(token_type::CONTROL | token_type::UNKNOWN) => true,
                Some(token_type::USER_DEFINED) => false,
                _ => continue,
            };
            if !token.is_empty() {
                added.push(AddedToken::from(token.clone(), special).normalized(false));
            }
        }
    }
    Ok(Vocabulary { metadata, tokens, added })
}

impl Vocabulary<'_> {
    /// Ids by token, as the `tokenizers` crate wants them.
    pub(super) fn ids(&self) -> tokenizers::models::bpe::Vocab {
        self.tokens.iter().enumerate().map(|(id, token)| (token.clone(), id as u32)).collect()
    }
}
