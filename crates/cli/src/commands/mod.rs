//! One module per command.

pub mod bench;
pub mod chat;
pub mod chips;
pub mod compile;
pub mod doctor;
pub mod eval;
pub mod export;
pub mod gateway;
pub mod generate;
pub mod keys;
pub mod measure;
pub mod plan;
pub mod plugin;
pub mod probe;
pub mod profile;
pub mod quickstart;
pub mod score;
pub mod serve;
pub mod tenants;
pub mod train;
pub mod usage;
