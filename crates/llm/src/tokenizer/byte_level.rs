//! Byte-level BPE (`tokenizer.ggml.model` = `gpt2`): text is split by regular expressions, its
//! bytes are spelled as printable characters, and pairs are merged in the order the file lists.
//!
//! A GGUF file does not hold the expressions, only their name (`tokenizer.ggml.pre`). The ones
//! below are those of the models' own `tokenizer.json` files.

use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

use super::TokenizerError;
use super::from_gguf::{Built, Vocabulary};

/// How one family of models splits text.
struct PreTokenizer {
    /// Names under `tokenizer.ggml.pre`.
    names: &'static [&'static str],
    /// Applied one after the other, each to the pieces of the one before. Matches and gaps both
    /// become pieces.
    patterns: &'static [&'static str],
    /// Compose accents first (Unicode NFC).
    composes: bool,
    /// A piece that is a token as a whole is taken as it is, even if no merges lead to it.
    ignores_merges: bool,
    /// Texts begin with the begin-of-text token unless metadata says otherwise.
    adds_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

const PRE_TOKENIZERS: [PreTokenizer; 6] = [
    PreTokenizer {
        names: &["gpt-2"],
        patterns: &[GPT2],
        composes: false,
        ignores_merges: false,
        adds_bos: false,
    },
    // SmolLM and SmolLM2: every digit is a piece of its own.
    PreTokenizer {
        names: &["smollm"],
        patterns: &[r"\p{N}", GPT2],
        composes: false,
        ignores_merges: false,
        adds_bos: false,
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3"],
        patterns: &[LLAMA3],
        composes: false,
        ignores_merges: true,
        adds_bos: true,
    },
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen"],
        patterns: &[QWEN2],
        composes: true,
        ignores_merges: false,
        adds_bos: false,
    },
    // Mistral NeMo and later.
    PreTokenizer {
        names: &["tekken"],
        patterns: &[TEKKEN],
        composes: false,
        ignores_merges: true,
        adds_bos: true,
    },
    // What llama.cpp does for files from before the key existed.
    PreTokenizer {
        names: &["default"],
        patterns: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
        composes: false,
        ignores_merges: false,
        adds_bos: false,
    },
];

pub(super) fn build(vocabulary: &Vocabulary<'_>) -> Result<Built, TokenizerError> {
    let name = vocabulary.metadata.string("tokenizer.ggml.pre")?.unwrap_or("default");
    let Some(rules) = PRE_TOKENIZERS.iter().find(|rules| rules.names.contains(&name)) else {
        let known = PRE_TOKENIZERS.iter().flat_map(|rules| rules.names.iter().copied()).collect();
        return Err(TokenizerError::PreTokenizer { found: name.to_owned(), known });
    };
    let merges = vocabulary.metadata.strings("tokenizer.ggml.merges")?;
    let merges =
        merges.ok_or_else(|| TokenizerError::vocabulary("`tokenizer.ggml.merges` is missing"))?;
    let merges = merges.iter().map(|merge| split_merge(merge)).collect::<Result<Vec<_>, _>>()?;
    let model = BPE::builder()
        .vocab_and_merges(vocabulary.ids(), merges)
        .ignore_merges(rules.ignores_merges)
        .build()
        .map_err(|error| TokenizerError::vocabulary(error.to_string()))?;

    let mut steps = Vec::new();
    for pattern in rules.patterns {
        let pattern = SplitPattern::Regex((*pattern).to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
        steps.push(PreTokenizerWrapper::Split(
            split.map_err(|source| TokenizerError::Encode { source })?,
        ));
    }
    // The expressions above have split the text; this step only spells bytes as characters.
    let byte_level = ByteLevel::new(false, true, false);
    steps.push(PreTokenizerWrapper::ByteLevel(byte_level));

    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(Sequence::new(steps)));
    tokenizer.with_decoder(Some(byte_level));
    if rules.composes {
        tokenizer.with_normalizer(Some(NFC));
    }
    Ok(Built { tokenizer, adds_bos: rules.adds_bos })
}

/// `left right`, where `left` has at least one character, which may be a space in vocabularies of
/// other tools.
fn split_merge(merge: &str) -> Result<(String, String), TokenizerError> {
    let first = merge.chars().next().map_or(0, char::len_utf8);
    match merge.get(first..).and_then(|rest| rest.find(' ')) {
        Some(space) if first + space + 1 < merge.len() => {
            Ok((merge[..first + space].to_owned(), merge[first + space + 1..].to_owned()))
        }
        _ => Err(TokenizerError::vocabulary(format!("`{merge}` is no pair of tokens to merge"))),
    }
}
