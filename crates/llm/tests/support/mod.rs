//! What the tests of models share. Knows no test.

#![allow(dead_code, unused_imports, reason = "each test file uses a part")]

#[path = "../../../../tests/support/mod.rs"]
pub mod shared;

pub mod by_hand;
pub mod device;
pub mod fixed_logits;
pub mod golden;

pub use shared::{skip, smollm2};
