//! Training: what a step computes, the loop around it, data, checkpoints and metrics.
//!
//! Programs, which know no device: [`objective`], [`optimizer`], [`step`]. On devices: [`state`],
//! [`device`]. Files: [`data`], [`checkpoint`], [`config`], [`metrics`]. And over all of them the
//! [`trainer`]. Beside it [`evaluate`] and [`export`], of what is trained. Prints nothing: progress is
//! returned or goes to callbacks.

pub mod basis;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod device;
pub mod distributed;
pub mod evaluate;
pub mod export;
mod init;
pub mod metrics;
pub mod objective;
pub mod optimizer;
pub mod restore;
pub mod samples;
pub mod saved;
mod schedule;
pub mod setup;
pub mod state;
pub mod step;
pub mod trainer;
