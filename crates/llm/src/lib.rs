//! Language models: what their files say, how their layers are traced, how tokens are drawn from
//! them.
//!
//! The modules below read files and know nothing of graphs, devices or plugins: [`config`] (what a
//! model is), [`gguf`] and [`weights`] (its numbers), [`tokenizer`] and [`chat`] (its text),
//! [`files`] (all of them, found in a folder or in one `.gguf`).

pub mod chat;
pub mod config;
pub mod engine;
pub mod files;
pub mod gguf;
pub mod models;
pub mod programs;
pub mod shapes;
pub mod text;
pub mod tokenizer;
pub mod weights;

pub use chat::ChatTemplate;
pub use config::{Architecture, ModelConfig, RopeScaling};
pub use files::ModelFiles;
pub use tokenizer::{IncrementalDecoder, Tokenizer};
pub use weights::{Checkpoint, FloatType};
