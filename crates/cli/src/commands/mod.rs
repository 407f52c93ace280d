//! One module per command.

pub mod bench;
pub mod chat;
pub mod compile;
pub mod doctor;
pub mod generate;
pub mod plugin;
pub mod probe;
pub mod score;
