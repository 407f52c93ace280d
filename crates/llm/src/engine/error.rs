//! What can go wrong while a model runs.

use graph::DType;

use crate::adapter::AdapterError;
use crate::weights::WeightsError;

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(
        "the prompt has {tokens} tokens, more than the context of {context}; shorten it{}",
        if *.model_limit { "" } else { " or raise --context" }
    )]
    PromptTooLong { tokens: usize, context: usize, model_limit: bool },
    #[error("the prompt is empty; give at least one token")]
    EmptyPrompt,
    #[error("token {token} is not in the vocabulary of {vocab_size} tokens")]
    UnknownToken { token: u32, vocab_size: usize },
    #[error("{setting} is {value}; {wanted}")]
    Sampling { setting: &'static str, value: String, wanted: &'static str },
    #[error(
        "the model gave a number that is not finite at token {position}; the checkpoint is damaged or overflows in this type (try --dtype f32)"
    )]
    NotFinite { position: usize },
    #[error("weights cannot be held as {dtype}; use f32, bf16 or f16")]
    WeightType { dtype: DType },
    #[error("a program returned {count} results where another number was expected")]
    Results { count: usize },
    #[error(
        "the thread that reads weights stopped unexpectedly; run again, and report it if it persists"
    )]
    WeightsThread,
    #[error("the weight `{name}` was not given, and there is no checkpoint to read it from")]
    NotGiven { name: String },
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    #[error("the model cannot be traced: {0}")]
    Trace(#[from] graph::TraceError),
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
}
