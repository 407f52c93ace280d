//! Native kernels for the CPU, called by compiled programs through XLA's foreign function interface
//! ([`register`]): products with packed matrices, and attention over pages of keys and values.
//!
//! They are there for what XLA's CPU compiler does slowly. All of them give a row the same bits, whatever other
//! rows are in the call and however many threads there are.

#![allow(
    clippy::needless_range_loop,
    reason = "in a register tile, the indices of rows and vectors say more than iterators zipped in threes"
)]

pub mod attention;
mod handlers;
mod norm;
pub mod pages;
pub mod panels;
mod pool;
mod product;
mod simd;

pub use handlers::register;
pub use norm::rms_norm;
pub use pool::threads;
pub use product::product;
pub use simd::Level;
