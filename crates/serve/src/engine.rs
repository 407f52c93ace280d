//! Many sequences through one model at once. Token ids only: no text, no tokenizer, no HTTP.

mod interface;
mod request;

pub use interface::{Answering, EmbedError, Embedding, Limits, Stats};
pub use request::{
    Alternative, Answer, Constraint, Drawn, Event, Failure, Finish, Finished, Refusal, Request,
    Sampling, Started, Timing,
};
