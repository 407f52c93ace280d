//! The vocabulary as a tree of bytes, which grammars are walked against.

use std::sync::Arc;

use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use llm::Tokenizer;

/// Begins the entries of special tokens in the tree: no byte of UTF-8, so that no text is taken for
/// one of them.
const SPECIAL: u8 = TokTrie::SPECIAL_TOKEN_MARKER;

/// No token is a quarter as long.
const FORCED_BYTES_MAX: usize = 512;

struct Vocabulary {
    tokenizer: Arc<Tokenizer>,
    tree: TokTrie,
    canonical: bool,
}

/// Builds the tree of the tokens below `vocab_size`. None without end tokens in it: nothing could
/// ever end.
pub(super) fn environment(
    tokenizer: &Arc<Tokenizer>,
    vocab_size: usize,
    end_tokens: &[u32],
) -> Option<TokEnv> {
    let vocab_size = u32::try_from(vocab_size).ok()?;
    let end_tokens: Vec<u32> =
        end_tokens.iter().copied().filter(|token| *token < vocab_size).collect();
    let first_end = *end_tokens.first()?;
    let bytes: Vec<Vec<u8>> = (0..vocab_size)
        .map(|id| {
            let bytes = tokenizer.token_bytes(id).unwrap_or_default();
            if end_tokens.contains(&id) || tokenizer.is_special(id) {
                [&[SPECIAL], bytes.as_slice()].concat()
            } else if bytes.contains(&SPECIAL) {
                Vec::new()
            } else {
                bytes
            }
        })
        .collect();
    let tree = TokTrie::from(&TokRxInfo::new(vocab_size, first_end), &bytes);
    let mut vocabulary = Vocabulary {
        tokenizer: Arc::clone(tokenizer),
        tree: tree.with_eos_tokens(&end_tokens),
        canonical: false,
    };
    // SentencePiece puts a space in front of what it encodes; text that goes on from a token
    // cannot be encoded by it.
    vocabulary.canonical =
        ["a", " a", "{\"a\": 1}"].iter().all(|text| vocabulary.encode(text).is_some());
    Some(Arc::new(vocabulary))
}

impl Vocabulary {
    /// The tokens that the model was trained to see for `text`. None if the tokenizer changes the
    /// text, or sees special tokens in it, which text is not allowed to spell.
    fn encode(&self, text: &str) -> Option<Vec<TokenId>> {
        let ids = self.tokenizer.encode(text, false).ok()?;
        let mut rest = text.as_bytes();
        for id in &ids {
            if (*id as usize) >= self.tree.vocab_size() {
                return None;
            }
            let bytes = self.tree.token(*id);
            rest = rest.strip_prefix(bytes).filter(|_| !bytes.is_empty())?;
        }
        rest.is_empty().then_some(ids)
    }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.tree
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        // Of text that has no choice, only the first token is asked for, but the whole text is given,
        // again at every step.
        let text = std::str::from_utf8(bytes).ok();
        let text = text.map(|text| &text[..text.floor_char_boundary(FORCED_BYTES_MAX)]);
        text.and_then(|text| self.encode(text)).unwrap_or_else(|| self.tree.greedy_tokenize(bytes))
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.canonical
    }
}
