//! Serving a model: the engine (token ids only), and around it the HTTP interface and the chat page.

pub mod constraint;
pub mod engine;
pub mod http;
pub mod load;
pub mod page;
pub mod parse;
pub mod structure;
