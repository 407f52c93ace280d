//! From flags to the shapes that a model is served in, and the words for a model that is too large.

use llm::models::LoraSlots;
use serve::engine::{Compilation, Key, Needs, Pool, Shapes, ShapesWish};

use crate::arguments::serve::EngineArguments;
use crate::console::gibibytes;
use crate::failure::{Exit, Failure};

pub fn wish(arguments: &EngineArguments, adapters: Option<LoraSlots>) -> ShapesWish {
    ShapesWish {
        context: arguments.device.context,
        sequences: arguments.max_num_seqs,
        page: arguments.block_size,
        chunk: arguments.max_num_batched_tokens,
        guesses: arguments.num_speculative_tokens,
        adapters,
    }
}

/// The most pages that fit on a device beside everything else; `compile` compiles programs for it.
///
/// # Errors
/// When not even one sequence fits, and those of `compile`.
pub fn fill(
    shapes: &Shapes<'_>,
    cache_bytes: Option<u64>,
    compile: impl FnMut(&[Key]) -> Result<Compilation, Failure>,
) -> Result<usize, Failure> {
    match shapes.fill(cache_bytes, compile)? {
        Pool::Fits { pages } => Ok(pages),
        Pool::TooSmall { needed } => {
            let figures = match needed {
                Needs::Known { needed_bytes, available_bytes } => format!(
                    "{} per device are needed, {} can be used",
                    gibibytes(needed_bytes),
                    gibibytes(available_bytes)
                ),
                Needs::TooMuch => "the compiler does not say how much is missing".to_string(),
            };
            Err(Failure::new(
                Exit::DoesNotFit,
                format!(
                    "weights, programs and the cache of one sequence of {} tokens do not fit: {figures}; take more devices, a lower --context or --max-num-seqs, or --quantization int8",
                    shapes.context()
                ),
            ))
        }
    }
}
