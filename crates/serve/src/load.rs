//! A load generator for servers with OpenAI's HTTP interface: sends prompts, reads the streams, and
//! says how fast the answers came.
//!
//! It knows of a server only what its HTTP interface shows, so it measures any of them the same way.
//! It must not know the engine, the tokenizer or anything else of this process, and prints nothing.
//!
//! It runs beside the server that it measures, often on the same few cores. So one thread does all,
//! and of a stream's JSON only what is counted is looked at.

mod arrivals;
mod chunk;
mod client;
mod connection;
mod error;
mod events;
mod measure;
mod picture;
mod prompts;
mod slo;
mod statistics;
mod summary;
mod words;

pub use client::{Endpoint, Target};
pub use connection::Load;
pub use error::LoadError;
pub use measure::{Measured, Pace, Progress, Record, Until};
pub use picture::{html, svg};
pub use prompts::{Prompt, Work, from_jsonl};
pub use slo::Slo;
pub use statistics::Distribution;
pub use summary::{Goodput, Summary};
