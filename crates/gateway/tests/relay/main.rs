//! Requests through the gateway to real servers on real sockets that answer, fail, break off, stall
//! and talk nonsense: what does the client see?

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod events;
mod setting;
mod streams;
mod trials;
mod whole;
