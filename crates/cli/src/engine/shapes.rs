//! The shapes that a model is served in on a kind of device, and how many pages there can be: for devices
//! that are here and for those that are not.

use graph::Role;
use llm::ModelConfig;
use llm::models::{KvCache, LoraSlots, PageShape};
use llm::programs::ProgramOptions;
use runtime::PluginKind;
use serve::engine::{
    Compilation, Key, Ladder, LadderChoice, Needs, Pool, blocks_ladder, fill_device, keys, ladder,
};

use crate::arguments::serve::EngineArguments;
use crate::console::gibibytes;
use crate::failure::{Exit, Failure};

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
        arguments: &EngineArguments,
        adapters: Option<LoraSlots>,
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
            context: arguments.device.context,
            sequences: arguments.max_num_seqs.unwrap_or(sequences),
            page: arguments.block_size,
            pages: None,
            cache_bytes: 0,
            chunk: arguments.max_num_batched_tokens,
            guesses: arguments.num_speculative_tokens,
            looks_ahead: !cpu,
            adapters,
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
    /// When not even one sequence fits, and those of `compile`.
    pub fn fill(
        &self,
        cache_bytes: Option<u64>,
        compile: impl FnMut(&[Key]) -> Result<Compilation, Failure>,
    ) -> Result<usize, Failure> {
        let limits = self.limits(cache_bytes);
        let page_bytes = (self.token_bytes_per_device * self.choice.page) as u64;
        match fill_device(limits, page_bytes, |pages| self.keys(pages), compile)? {
            Pool::Fits { pages } => Ok(pages),
            Pool::TooSmall { needed } => {
                let figures = match needed {
                    Needs::Known { needed_bytes, available_bytes } => format!(
                        "{} per device are needed, {} can be used",
                        gibibytes(needed_bytes),
                        gibibytes(available_bytes)
                    ),
                    Needs::TooMuch => "the compiler does not say how much is missing".to_string(),
                };
                Err(Failure::new(
                    Exit::DoesNotFit,
                    format!(
                        "weights, programs and the cache of one sequence of {} tokens do not fit: {figures}; take more devices, a lower --context or --max-num-seqs, or --quantization int8",
                        self.context()
                    ),
                ))
            }
        }
    }
}
