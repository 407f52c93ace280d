//! The shapes that a model is served in on a kind of device, and how many pages there can be: for devices
//! that are here and for those that are not.

use graph::Role;
use llm::ModelConfig;
use llm::models::{KvCache, LoraSlots, PageShape};
use llm::programs::ProgramOptions;
use runtime::PluginKind;

use super::device::Ladder;
use super::programs::{
    Compilation, Key, LadderChoice, Pool, blocks_ladder, fill_device, keys, ladder,
};

/// Of a CPU's memory, what the cache takes at most if nobody says otherwise.
pub const CPU_CACHE_BYTES: u64 = 4 << 30;

/// Sequences at once if nobody says otherwise. An accelerator reads its weights at every step, however few
/// sequences share it; a CPU is busy with a few.
const SEQUENCES: (usize, usize) = (32, 64);

/// Of a GPU's memory, what this program takes; the rest is the driver's, the collectives' and what the
/// allocator loses between pieces.
pub const GPU_MEMORY_SHARE: f32 = 0.9;

/// Of what a TPU's compiler lets a program use, what is planned with: the rest is for what passes between
/// steps, and for what the allocator loses between pieces.
const TPU_MEMORY_SHARE: f64 = 0.98;

/// What of a device's memory can be planned with. On a GPU that is here the allocator was told its share
/// already.
pub fn usable_bytes(kind: PluginKind, available_bytes: u64) -> u64 {
    let share = match kind {
        PluginKind::Tpu => TPU_MEMORY_SHARE,
        PluginKind::Cuda => f64::from(GPU_MEMORY_SHARE),
        PluginKind::Cpu => 1.0,
    };
    (available_bytes as f64 * share) as u64
}

/// What of the shapes is asked for; what is not follows from the model and the device.
#[derive(Clone, Debug, PartialEq)]
pub struct ShapesWish {
    /// Prompt and answer together, in tokens.
    pub context: Option<usize>,
    /// Sequences at once.
    pub sequences: Option<usize>,
    /// Tokens of a page.
    pub page: usize,
    /// Tokens of a prefill chunk at most.
    pub chunk: usize,
    /// Tokens guessed ahead.
    pub guesses: usize,
    pub adapters: Option<LoraSlots>,
}

impl Default for ShapesWish {
    /// As `fungible serve` serves.
    fn default() -> ShapesWish {
        let (context, sequences, adapters) = (None, None, None);
        ShapesWish { context, sequences, page: 32, chunk: 512, guesses: 0, adapters }
    }
}

/// Everything that the shapes follow from.
pub struct Shapes<'a> {
    pub config: &'a ModelConfig,
    pub options: &'a ProgramOptions,
    choice: LadderChoice,
    /// Bytes of the cache for a token, over all devices.
    pub token_bytes: usize,
    /// And what one device holds of them.
    pub token_bytes_per_device: usize,
    loops_are_quick: bool,
}

impl<'a> Shapes<'a> {
    pub fn new(
        config: &'a ModelConfig,
        options: &'a ProgramOptions,
        wish: &ShapesWish,
        kind: PluginKind,
    ) -> Shapes<'a> {
        let cpu = kind == PluginKind::Cpu;
        let sequences = if cpu { SEQUENCES.0 } else { SEQUENCES.1 };
        let held = options.kv_dtype.unwrap_or(options.dtype);
        let one = PageShape { pages: 1, page: 1 };
        let shapes = KvCache::page_shapes(config, options.layers, one, held);
        let on_device = |shape: &graph::Shape| {
            let sharding = options.rules.resolve(Role::KvCache, shape, &options.mesh);
            shape.bytes() / sharding.pieces(&options.mesh).iter().product::<usize>()
        };
        let choice = LadderChoice {
            context: wish.context,
            sequences: wish.sequences.unwrap_or(sequences),
            page: wish.page,
            pages: None,
            cache_bytes: 0,
            chunk: wish.chunk,
            guesses: wish.guesses,
            looks_ahead: !cpu,
            adapters: wish.adapters,
        };
        Shapes {
            config,
            options,
            choice,
            token_bytes: shapes.iter().map(graph::Shape::bytes).sum(),
            token_bytes_per_device: shapes.iter().map(on_device).sum(),
            // A GPU's loops are decided by its host, turn by turn.
            loops_are_quick: options.kernels.native || kind == PluginKind::Tpu,
        }
    }

    /// What room for adapters takes, if there is to be any; less on each device of a mesh.
    pub fn adapter_bytes(&self) -> u64 {
        let room = self.choice.adapters;
        room.map_or(0, |room| room.bytes(self.config, self.options.dtype))
    }

    /// With the pages that so many bytes of the cache allow.
    pub fn by_bytes(&self, cache_bytes: u64) -> (Ladder, Vec<usize>) {
        let choice = LadderChoice { cache_bytes, ..self.choice.clone() };
        self.blocks(ladder(self.config, &choice, self.token_bytes))
    }

    /// With so many pages.
    pub fn with_pages(&self, pages: usize) -> (Ladder, Vec<usize>) {
        let choice = LadderChoice { pages: Some(pages), ..self.choice.clone() };
        self.blocks(ladder(self.config, &choice, self.token_bytes))
    }

    fn blocks(&self, ladder: Ladder) -> (Ladder, Vec<usize>) {
        let blocks = blocks_ladder(&ladder, self.loops_are_quick);
        (ladder, blocks)
    }

    pub fn keys(&self, pages: usize) -> Vec<Key> {
        let (ladder, blocks) = self.with_pages(pages);
        keys(&ladder, &blocks)
    }

    /// Tokens of prompt and answer together.
    pub fn context(&self) -> usize {
        let own = self.config.max_position_embeddings;
        self.choice.context.map_or(own, |wanted| wanted.min(own))
    }

    /// The fewest pages that are of use, which hold one sequence, and the most: as programs count places
    /// in 32 bits, or as the memory allows that was asked for.
    fn limits(&self, cache_bytes: Option<u64>) -> (usize, usize) {
        let page = self.choice.page.clamp(1, self.context().max(1));
        let fewest = self.context().div_ceil(page).max(2);
        let countable = i32::MAX as usize / (page * self.config.num_hidden_layers.max(1));
        let asked = cache_bytes.map_or(usize::MAX, |bytes| {
            usize::try_from(bytes / (self.token_bytes * page).max(1) as u64).unwrap_or(usize::MAX)
        });
        let most = countable.min(asked).max(2);
        (fewest.min(most), most)
    }

    /// The most pages that fit on a device beside everything else; `compile` compiles programs for it.
    ///
    /// # Errors
    /// Those of `compile`.
    pub fn fill<E>(
        &self,
        cache_bytes: Option<u64>,
        compile: impl FnMut(&[Key]) -> Result<Compilation, E>,
    ) -> Result<Pool, E> {
        let limits = self.limits(cache_bytes);
        let page_bytes = (self.token_bytes_per_device * self.choice.page) as u64;
        fill_device(limits, page_bytes, |pages| self.keys(pages), compile)
    }
}
