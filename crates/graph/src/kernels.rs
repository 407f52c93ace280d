//! Which lowering an operation with several takes. The target decides; the model never does.

/// How `attention` becomes StableHLO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttentionKernel {
    /// Plain StableHLO for every chip: exact, and never all scores at once.
    Portable(Blocks),
    /// The same; where a sequence attends to itself, one key/value head of one sequence after the
    /// other, in a loop: a tile's scores then fit into a chip's fast memory and never leave it.
    ByHead(Blocks),
    /// Not at all: the query stands in for the result and its cotangent, which is wrong. For looking at
    /// what a program costs without attention.
    LeftOut,
}

impl AttentionKernel {
    pub const fn blocks(self) -> Blocks {
        match self {
            AttentionKernel::Portable(blocks) | AttentionKernel::ByHead(blocks) => blocks,
            AttentionKernel::LeftOut => Blocks::WHOLE,
        }
    }

    pub(crate) const fn by_head(self) -> bool {
        matches!(self, AttentionKernel::ByHead(_))
    }
}

/// How many queries and keys are taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Blocks {
    /// A sequence that attends to itself goes by tiles of so many queries with the keys they see.
    pub queries: usize,
    /// Otherwise keys go by blocks of so many with a running softmax; up to one block is done in one
    /// piece.
    pub keys: usize,
}

impl Blocks {
    /// Everything in one piece.
    pub const WHOLE: Blocks = Blocks { queries: usize::MAX, keys: usize::MAX };

    /// So many of both.
    pub const fn of(size: usize) -> Blocks {
        Blocks { queries: size, keys: size }
    }
}

/// How much of the vocabulary the cross entropy takes at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VocabularyBlocks {
    /// Words per block, at most.
    pub size: usize,
    /// Whether blocks are a loop, which bounds memory on every compiler, or written out.
    pub scanned: bool,
    /// Logits per block and device on the way forward, at most, in f32: where a chip's fast memory holds
    /// them, they are summed up without having been anywhere else.
    pub logits_max: usize,
}

impl VocabularyBlocks {
    pub const WHOLE: VocabularyBlocks =
        VocabularyBlocks { size: usize::MAX, scanned: false, logits_max: usize::MAX };
}

/// What a matrix in int8 is multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuantizedKernel {
    /// The left side as it is; the matrix is widened to its type once the left side is there. A compiler
    /// that sees all layers at once may otherwise widen all matrices of a model at its start (XLA's for
    /// the CPU does).
    Barred,
    /// The same, and the compiler joins the widening with what brings the matrix. In a loop over layers
    /// that is its slice of a stack, which behind a barrier is copied first.
    Widened,
    /// The left side rounded to int8 as well, with a scale for each of its rows: some chips multiply
    /// int8 twice as fast as bf16.
    Rounded,
}

/// The lowerings for one target. Kernels for TPU (Mosaic), GPU (Triton) and CPU (native) join
/// here as further variants; each is text or a custom call, so nothing else changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kernels {
    pub attention: AttentionKernel,
    pub vocabulary: VocabularyBlocks,
    /// Whether what a loop stacks up begins as memory of any content, since every step fills its part,
    /// instead of as zeros: a pass over all gradients of a model saved. XLA's TPU compiler has such
    /// memory.
    pub empty_stacks: bool,
    /// Whether operations that have a native function call it: on the CPU, on one device, with a plugin
    /// with which the functions are registered.
    pub native: bool,
    pub quantized: QuantizedKernel,
    /// Whether `top_k` finds one element after the other, each in a pass over all, instead of calling on
    /// the compiler: some sort everything for it, which takes longer, and far longer to compile.
    pub top_k_by_passes: bool,
}

impl Kernels {
    /// Sizes that suit the fast memory of a TPU's vector unit: what it holds costs next to nothing,
    /// what it does not costs a pass over slow memory each time.
    pub fn for_tpu() -> Kernels {
        let Kernels { attention, vocabulary, .. } = Kernels::default();
        Kernels {
            attention: AttentionKernel::ByHead(attention.blocks()),
            vocabulary: VocabularyBlocks { logits_max: 11 << 20, ..vocabulary },
            empty_stacks: true,
            top_k_by_passes: true,
            ..Kernels::default()
        }
    }
}

impl Default for Kernels {
    fn default() -> Kernels {
        Kernels {
            attention: AttentionKernel::Portable(Blocks { queries: 512, keys: 1024 }),
            vocabulary: VocabularyBlocks { size: 16_384, scanned: true, logits_max: usize::MAX },
            empty_stacks: false,
            native: false,
            quantized: QuantizedKernel::Barred,
            top_k_by_passes: false,
        }
    }
}
