//! Several processes that work as one: which of them this is ([`Launch`]), and how they find and
//! talk to each other ([`ProcessGroup`]).
//!
//! Knows no device, no array and no training. What travels here is small and rare (addresses of a
//! collective library, checkpoint manifests, barriers); numbers go from device to device.

mod client;
mod error;
mod group;
mod key_value;
mod launch;
mod launchers;
mod metadata;
mod server;
mod server_state;
mod wire;

pub use error::GroupError;
pub use group::{GroupOptions, ProcessGroup};
pub use launch::{DEFAULT_PORT, Launch, LaunchError, LaunchFlags, Launcher, Variables};
