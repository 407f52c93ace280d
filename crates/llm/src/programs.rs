//! The programs that a model runs as: prefill, decode and score. Each is traced from the same model
//! code for fixed shapes. Knows kinds of devices by name only; the engine compiles and runs them.

mod generate;
mod mesh;
mod sampler;
mod score;
mod serving;

use std::sync::Arc;

use graph::{
    DType, EmitOptions, Function, Graph, Kernels, Mesh, NamedResult, Program, Role, Shape,
    ShardingRules, Tensor, TraceError, output,
};

use runtime::PluginKind;

use crate::config::ModelConfig;
use crate::models::{
    CacheShape, Decoder, KvCache, Layers, Lora, PageShape, PanelPlan, ParameterSpec,
};

pub use generate::{decode, prefill};
pub use mesh::choose_mesh;
pub use sampler::SAMPLING_INPUTS;
pub use score::score;
pub use serving::{
    BIAS_MAX, Column, EmbedShape, Flag, RowLayout, StepShape, TOP_MAX, embed, result_words, step,
};

/// Everything that a program's text depends on besides its own shapes.
#[derive(Clone, Debug)]
pub struct ProgramOptions {
    /// The type of weights, activations and KV cache.
    pub dtype: DType,
    /// The type of a cache in pages, where that is another.
    pub kv_dtype: Option<DType>,
    /// What weights are held in where that is another type than they are computed with, as in
    /// training; see [`Parameters::stored_as`](crate::models::Parameters::stored_as) for s8.
    pub held: Option<DType>,
    /// Adapters beside the weights.
    pub lora: Option<Lora>,
    pub layers: Layers,
    pub mesh: Mesh,
    /// How tensors are laid out over the mesh.
    pub rules: ShardingRules,
    pub kernels: Kernels,
    /// Holds weights that meet the same input as one matrix, on one device with unrolled layers: XLA's
    /// CPU compiler pays for every product. Whoever loads weights must know of it (see
    /// [`ParameterSpec::joined`]), so the engine asks for it.
    pub joins: bool,
    /// Which matrices are held in panels, as native functions read them; on one device with unrolled
    /// layers.
    pub panels: Option<Arc<PanelPlan>>,
}

impl ProgramOptions {
    /// What suits a kind of device: f32 and unrolled layers on the CPU (whose bf16 products are ten
    /// times slower, and whose loops copy their weights), bf16 and scanned layers elsewhere.
    pub fn for_plugin(kind: PluginKind) -> ProgramOptions {
        let (dtype, layers) = match kind {
            PluginKind::Cpu => (DType::F32, Layers::Unrolled),
            PluginKind::Tpu | PluginKind::Cuda => (DType::Bf16, Layers::Scanned),
        };
        let rules = ShardingRules::transformer();
        let mesh = Mesh::single();
        let mut kernels = match kind {
            PluginKind::Tpu => Kernels::for_tpu(),
            PluginKind::Cpu | PluginKind::Cuda => Kernels::default(),
        };
        // Written out, its blocks of the vocabulary need no copies of the head.
        kernels.vocabulary.scanned = kind != PluginKind::Cpu;
        // The CPU's compiler has a quick function for it.
        kernels.top_k_by_passes = kind != PluginKind::Cpu;
        ProgramOptions {
            dtype,
            kv_dtype: None,
            held: None,
            lora: None,
            layers,
            mesh,
            rules,
            kernels,
            joins: false,
            panels: None,
        }
    }
}

/// A program with what its arguments are, in order: own data, then the KV cache, then weights.
#[derive(Clone, Debug)]
pub struct ModelProgram {
    pub program: Program,
    /// How many arguments come before the cache.
    pub data: usize,
    /// How many cache tensors follow; they come back as the last results.
    pub cache: usize,
    /// The weights, for each argument after the cache.
    pub parameters: Vec<ParameterSpec>,
}

/// How a program's cache lies in memory.
#[derive(Clone, Copy)]
enum CacheKind {
    Rows(CacheShape),
    Pages(PageShape),
}

/// A trace under way: the decoder, and the cache as arguments.
struct Tracing<'a, 'g> {
    graph: &'g Graph,
    decoder: Decoder<'a, 'g>,
    options: &'a ProgramOptions,
    data: Vec<Tensor<'g>>,
    cache: KvCache<'g>,
}

impl<'a, 'g> Tracing<'a, 'g> {
    /// Declares the program's own data, then the cache.
    fn new(
        graph: &'g Graph,
        config: &'a ModelConfig,
        options: &'a ProgramOptions,
        data: &[(&str, Shape)],
        cache: CacheKind,
    ) -> Tracing<'a, 'g> {
        // Matrices in int8 have scales beside them, which what is joined has no place for.
        let whole = options.held != Some(DType::S8);
        let joins = options.joins && options.mesh.devices() == 1 && whole;
        let decoder = Decoder::new(graph, config, options.layers, options.dtype, joins)
            .holding(options.held, options.lora.clone());
        let decoder = match decoder.layers {
            Layers::Unrolled if options.mesh.devices() == 1 => decoder.in_panels(&options.panels),
            _ => decoder,
        };
        let input =
            |(name, shape): &(&str, Shape)| graph.input(name, Role::Activation, shape.clone());
        let data = data.iter().map(input).collect();
        let (layers, dtype) = (decoder.layers, options.dtype);
        let shapes = match cache {
            CacheKind::Rows(shape) => KvCache::shapes(config, layers, shape, dtype),
            CacheKind::Pages(shape) => {
                KvCache::page_shapes(config, layers, shape, options.kv_dtype.unwrap_or(dtype))
            }
        };
        let cache = KvCache::inputs(graph, shapes);
        Tracing { graph, decoder, options, data, cache }
    }

    /// Ends the trace; the cache's arguments are taken over by its updated tensors.
    fn finish(
        self,
        name: &str,
        mut results: Vec<NamedResult<'g>>,
        updated: &KvCache<'g>,
    ) -> Result<ModelProgram, TraceError> {
        let pairs = updated.tensors.iter().zip(&self.cache.tensors).enumerate();
        results.extend(pairs.map(|(index, (&new, &old))| {
            output(&format!("cache.{index}"), new).role(Role::KvCache).donate(old)
        }));
        let parameters = self.decoder.weights.specs();
        let function: Function = self.graph.finish(results)?;
        let emit = EmitOptions {
            mesh: self.options.mesh.clone(),
            rules: self.options.rules.clone(),
            kernels: self.options.kernels.clone(),
        };
        let (data, cache) = (self.data.len(), self.cache.tensors.len());
        Ok(ModelProgram { program: function.program(name, &emit), data, cache, parameters })
    }
}
