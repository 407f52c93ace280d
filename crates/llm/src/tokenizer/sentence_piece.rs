//! SentencePiece BPE (`tokenizer.ggml.model` = `llama`): Llama 1 and 2, the first Mistrals.
//!
//! The file lists pieces with scores instead of merges. SentencePiece joins, at every step, the
//! adjacent pair whose joined piece scores highest; a list of all pairs that join to a piece,
//! ordered by that score, makes ordinary BPE do the same. Characters without a piece are spelled as
//! bytes (`<0x0A>`).

use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as DecoderSequence;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::prepend::Prepend;
use tokenizers::normalizers::replace::Replace;
use tokenizers::normalizers::utils::Sequence as NormalizerSequence;

use super::TokenizerError;
use super::from_gguf::{Built, Vocabulary};

/// SentencePiece's visible stand-in for a space.
const SPACE: &str = "▁";
/// No vocabulary has longer pieces; quadratic work on a hostile one stays bounded.
const PIECE_CHARS_MAX: usize = 256;

pub(super) fn build(vocabulary: &Vocabulary<'_>) -> Result<Built, TokenizerError> {
    let metadata = vocabulary.metadata;
    let scores = metadata.numbers("tokenizer.ggml.scores")?;
    let scores: Vec<f64> = scores
        .into_iter()
        .flat_map(|scores| scores.iter())
        .map(|score| score.as_float().unwrap_or(0.0))
        .collect();
    if scores.len() != vocabulary.tokens.len() {
        let (scores, tokens) = (scores.len(), vocabulary.tokens.len());
        return Err(TokenizerError::vocabulary(format!(
            "it has {scores} scores for {tokens} tokens"
        )));
    }
    let ids = vocabulary.ids();
    let merges = merges(vocabulary, &ids, &scores);
    let unknown = metadata.unsigned("tokenizer.ggml.unknown_token_id")?.unwrap_or(0);
    let unknown = usize::try_from(unknown).ok().and_then(|id| vocabulary.tokens.get(id));
    let mut model = BPE::builder()
        .vocab_and_merges(ids, merges)
        .byte_fallback(true)
        .fuse_unk(true)
        .ignore_merges(false);
    if let Some(unknown) = unknown {
        model = model.unk_token(unknown.clone());
    }
    let model = model.build().map_err(|error| TokenizerError::vocabulary(error.to_string()))?;

    let rule = |source| TokenizerError::Encode { source };
    let prefixed = metadata.boolean("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let mut normalizers = Vec::new();
    let mut decoders: Vec<DecoderWrapper> = Vec::new();
    if prefixed {
        normalizers.push(Prepend::new(SPACE.to_owned()).into());
    }
    normalizers.push(Replace::new(" ", SPACE).map_err(rule)?.into());
    decoders.push(Replace::new(SPACE, " ").map_err(rule)?.into());
    decoders.push(ByteFallback::new().into());
    decoders.push(Fuse::new().into());
    if prefixed {
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_normalizer(Some(NormalizerSequence::new(normalizers)));
    tokenizer.with_decoder(Some(DecoderSequence::new(decoders)));
    Ok(Built { tokenizer, adds_bos: true })
}

/// All pairs of pieces that join to a piece, best score first. Ties go to the longer left part,
/// then to the longer right part, then to the order of the vocabulary, as transformers' converter
/// has it.
fn merges(vocabulary: &Vocabulary<'_>, ids: &Vocab, scores: &[f64]) -> Merges {
    let added: std::collections::HashSet<&str> =
        vocabulary.added.iter().map(|token| token.content.as_str()).collect();
    let mut pairs = Vec::new();
    for (piece, score) in vocabulary.tokens.iter().zip(scores) {
        let chars = piece.chars().count();
        if chars > PIECE_CHARS_MAX || added.contains(piece.as_str()) {
            continue;
        }
        let mut of_piece = Vec::new();
        for (count, (at, _)) in piece.char_indices().enumerate().skip(1) {
            let (left, right) = piece.split_at(at);
            if let (Some(left_id), Some(right_id)) = (ids.get(left), ids.get(right))
                && !added.contains(left)
                && !added.contains(right)
            {
                of_piece.push((
                    (*left_id, *right_id),
                    (*score, count, chars - count),
                    (left, right),
                ));
            }
        }
        of_piece.sort_by_key(|(pair_ids, _, _)| *pair_ids);
        pairs.extend(of_piece);
    }
    pairs.sort_by(
        |(_, (score, left, right), _), (_, (other_score, other_left, other_right), _)| {
            other_score.total_cmp(score).then(other_left.cmp(left)).then(other_right.cmp(right))
        },
    );
    pairs.into_iter().map(|(_, _, (left, right))| (left.to_owned(), right.to_owned())).collect()
}
