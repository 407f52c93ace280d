//! Which lowering an operation with several takes. The target decides; the model never does.

/// How `attention` becomes StableHLO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttentionKernel {
    /// Plain StableHLO for every chip: exact, by blocks of keys with a running softmax. Up to one
    /// block of keys is done in one piece.
    Portable { block: usize },
}

/// The lowerings for one target. Kernels for TPU (Mosaic), GPU (Triton) and CPU (native) join
/// here as further variants; each is text or a custom call, so nothing else changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kernels {
    pub attention: AttentionKernel,
}

impl Default for Kernels {
    fn default() -> Kernels {
        Kernels { attention: AttentionKernel::Portable { block: 1024 } }
    }
}
