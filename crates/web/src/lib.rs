//! What every HTTP server of ours stands on: connections with their limits, TLS, requests that are
//! counted until their answers have been sent, metrics and traces.
//!
//! Knows neither models nor OpenAI's interface, and depends on nothing of ours, so that the gateway
//! can stand on it without standing on an engine.

pub mod connections;
pub mod exposition;
pub mod flight;
pub mod random;
pub mod tls;
pub mod traces;
