//! Language models: what their files say, how their layers are traced, how tokens are drawn.
//!
//! Three floors. Files, which know nothing of graphs or devices: [`config`], [`gguf`], [`weights`],
//! [`tokenizer`], [`chat`], [`text`], [`adapter`], and [`files`] over them. Programs, which know no device:
//! [`models`] and [`programs`], with [`shapes`] of well-known models. And the [`engine`], which runs
//! programs on devices. [`export`] writes what others read.

pub mod adapter;
pub mod chat;
pub mod config;
pub mod engine;
pub mod export;
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
