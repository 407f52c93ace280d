//! The fixed shapes that a model is served in.

use llm::ModelConfig;
use llm::models::LoraSlots;

use crate::engine::device::Ladder;

/// What is asked for; what is not is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LadderChoice {
    /// Prompt and answer together, in tokens; the model's own otherwise.
    pub context: Option<usize>,
    /// Sequences at once.
    pub sequences: usize,
    /// Tokens of a page.
    pub page: usize,
    /// Pages of the cache, if not by its bytes.
    pub pages: Option<usize>,
    /// Bytes of the cache at most.
    pub cache_bytes: u64,
    /// Tokens of a prefill chunk at most.
    pub chunk: usize,
    /// Tokens guessed ahead.
    pub guesses: usize,
    pub looks_ahead: bool,
    pub adapters: Option<LoraSlots>,
}

/// Sizes that double, so that a step computes at most twice the rows that it needs.
fn doubling(first: usize, last: usize) -> Vec<usize> {
    let mut sizes: Vec<usize> = std::iter::successors(Some(first), |size| Some(size * 2))
        .take_while(|&s| s < last)
        .collect();
    sizes.push(last);
    sizes
}

/// The shapes for a model whose cache takes so many bytes for a token.
pub fn ladder(config: &ModelConfig, choice: &LadderChoice, token_bytes: usize) -> Ladder {
    let own = config.max_position_embeddings;
    let context = choice.context.map_or(own, |wanted| wanted.min(own)).max(2);
    let page = choice.page.clamp(1, context);
    let sequences = choice.sequences.max(1);
    // More than all sequences at their longest can use is of no use, but for beginnings kept.
    let useful = (context.div_ceil(page)).saturating_mul(sequences);
    let affordable = (choice.cache_bytes / (token_bytes * page).max(1) as u64) as usize;
    let pages = choice.pages.unwrap_or(useful.min(affordable)).max(2);
    let context = context.min(pages * page);
    let chunk = choice.chunk.clamp(1, context);
    let mut chunks: Vec<usize> = [32, 128, 512, 2048].into_iter().filter(|&c| c < chunk).collect();
    chunks.push(chunk);
    Ladder {
        context,
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        page,
        pages,
        slots: sequences,
        batches: doubling(1, sequences),
        chunks,
        guesses: choice.guesses,
        looks_ahead: choice.looks_ahead,
        adapters: choice.adapters,
    }
}

/// What is read in one piece where that is quicker to begin than a loop over pages, in tokens.
const ONE_PIECE: usize = 1024;

/// Numbers of pages that steps are compiled for. A step takes as long as its longest sequence, whatever
/// the number, where a kernel reads pages in place or a loop ends with the last that is used. Where such
/// a loop is slow to begin, since every turn of it is decided elsewhere, short sequences have programs
/// without one.
pub fn blocks_ladder(ladder: &Ladder, loops_are_quick: bool) -> Vec<usize> {
    let all = ladder.context.div_ceil(ladder.page);
    let short = ONE_PIECE.div_ceil(ladder.page);
    match loops_are_quick || short >= all {
        true => vec![all],
        false => vec![short, all],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice() -> LadderChoice {
        LadderChoice {
            sequences: 24,
            page: 32,
            cache_bytes: 1 << 30,
            chunk: 512,
            ..LadderChoice::default()
        }
    }

    #[test]
    fn shapes_follow_from_the_model_and_what_is_asked_for() {
        let config = llm::shapes::find("llama3-8b").unwrap().unwrap();
        let token_bytes = 2 * 32 * 8 * 128 * 2;
        let ladder = ladder(&config, &choice(), token_bytes);
        assert_eq!(ladder.batches, [1, 2, 4, 8, 16, 24]);
        assert_eq!(ladder.chunks, [32, 128, 512]);
        assert_eq!(ladder.pages, (1 << 30) / (token_bytes * 32));
        // The cache is smaller than the model's context.
        assert_eq!(ladder.context, 8192);
        assert_eq!(blocks_ladder(&ladder, false), [32, 256]);
        assert_eq!(blocks_ladder(&ladder, true), [256]);
    }

    #[test]
    fn small_wishes_are_met() {
        let config = llm::shapes::find("llama3-8b").unwrap().unwrap();
        let small = LadderChoice { context: Some(40), sequences: 1, pages: Some(3), ..choice() };
        let ladder = ladder(&config, &small, 1);
        assert_eq!((ladder.context, ladder.pages), (40, 3));
        assert_eq!((ladder.batches, ladder.chunks), (vec![1], vec![32, 40]));
    }
}
