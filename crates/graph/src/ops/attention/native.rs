//! Attention over pages by a native function of the CPU, which reads them where they lie.

use super::AttentionOperation;
use crate::DType;
use crate::emit::{Call, Emitter};
use crate::ops::custom_call::native_call;
use crate::program::Program;

const NATIVE: &str = "fungible.paged_attention";

/// Whether the function knows this use: causal queries at given positions over pages, in its order of
/// axes.
pub(super) fn takes(attention: &AttentionOperation, call: &Call) -> bool {
    let AttentionOperation { paged, positions, lengths, segments, sinks, causal, .. } = *attention;
    let names = |operand: usize| call.operands[operand].shape.names();
    paged
        && positions
        && causal
        && !(lengths || segments || sinks)
        && call.operands[0].shape.dtype == DType::F32
        && names(0) == ["batch", "seq", "kv_heads", "group", "head_dim"]
        && names(1) == ["pages", "page", "kv_heads", "head_dim"]
        && names(1) == names(2)
        && names(3) == ["batch", "blocks"]
        && names(4) == ["batch", "seq"]
}

pub(super) fn call(attention: &AttentionOperation, emitter: &mut Emitter<'_>, call: &Call) {
    let config = format!(
        "scale = {:.9e} : f32, soft_cap = {:.9e} : f32, window = {} : i64",
        attention.scale as f32,
        attention.soft_cap.unwrap_or(0.0) as f32,
        attention.window.unwrap_or(0)
    );
    native_call(emitter, call, NATIVE, &config, &[]);
}

impl Program {
    /// Whether nothing but native attention reads this cache of as many arrays, keys and values of each
    /// layer: it reads the keys that a query sees, and no others.
    pub fn reads_pages_natively(&self, cache_arrays: usize) -> bool {
        let calls = self
            .text_without_locations
            .matches(&format!("call_target_name = \"{NATIVE}\""))
            .count();
        calls > 0 && calls * 2 == cache_arrays
    }
}
