//! Many sequences through one model at once. Token ids only: no text, no tokenizer, no HTTP.

mod adapters;
mod device;
mod embedding;
mod guess;
mod interface;
mod pages;
mod programs;
mod queue;
mod request;
mod scheduler;
mod sequence;
mod serving;
mod shapes;

pub use device::{AdapterMemory, Device, DeviceError, Ladder, Row, Token, Tokens};
pub use programs::{
    Compilation, Key, LadderChoice, Needs, Pool, Programs, blocks_ladder, fill_device,
    for_each_key, keys, ladder,
};
pub use scheduler::Policy;
pub use serving::{Engine, EngineSettings};
pub use shapes::{CPU_CACHE_BYTES, GPU_MEMORY_SHARE, Shapes, ShapesWish, usable_bytes};

pub use interface::{Answering, EmbedError, Embedding, Limits, Stats};
pub use request::{
    Alternative, Answer, Constraint, Drawn, Event, Failure, Finish, Finished, Refusal, Request,
    Sampling, Started, Timing,
};
