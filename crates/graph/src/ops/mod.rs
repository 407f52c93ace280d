//! The operations, each in one place: shape rule, text, reference, derivative, samples.

mod annotate;
pub mod attention;
mod binary;
mod control;
mod convert;
mod create;
mod cross_entropy;
mod cumulative;
mod custom_call;
mod dot;
mod gather;
mod grouped_dot;
mod layout;
mod norm;
mod pages;
mod panels;
mod quantized_dot;
mod random;
mod reduce;
mod select;
mod slice;
mod sort;
mod unary;

pub use attention::{Attention, KeyValue};
pub use control::Remat;
pub use create::{constant, iota, literal};
pub use custom_call::CustomCall;
pub use gather::Combine;
pub use pages::Pages;
pub use panels::{BLOCK, LANES, PanelType, Panels};
pub use random::threefry;

use crate::operation::Sample;

/// Samples of every operation, for derived tests.
pub fn samples() -> Vec<Sample> {
    let all = [
        unary::samples,
        binary::samples,
        layout::samples,
        create::samples,
        convert::samples,
        select::samples,
        reduce::samples,
        dot::samples,
        slice::samples,
        gather::samples,
        control::samples,
        sort::samples,
        cumulative::samples,
        random::samples,
        annotate::samples,
        custom_call::samples,
        grouped_dot::samples,
        quantized_dot::samples,
        norm::samples,
        pages::samples,
        panels::samples,
        attention::samples,
        cross_entropy::samples,
    ];
    all.iter().flat_map(|samples| samples()).collect()
}
