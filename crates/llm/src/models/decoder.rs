//! The decoder around the layers: embedding, the stack of layers (unrolled or scanned, as the
//! target likes it), the last norm and the language-model head.

use std::collections::BTreeMap;
use std::sync::Arc;

use graph::ops::{Attention, KeyValue, Remat};
use graph::{Axis, DType, Graph, Role, Shape, Tensor, ops};

use super::blocks::{embed, rms_norm};
use super::cache::{KvCache, LayerCache};
use super::lora::Lora;
use super::parameters::{EVERY_LAYER, PanelPlan, ParameterSpec, Parameters, panel_product};
use super::rotary::Rotary;
use crate::config::ModelConfig;

/// How the stack of layers becomes program text. The target decides: unrolled layers run faster on
/// a CPU, a scan keeps programs small for compilers that take minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layers {
    Unrolled,
    Scanned,
}

/// A model being traced.
pub struct Decoder<'a, 'g> {
    pub config: &'a ModelConfig,
    pub weights: Parameters<'g>,
    pub layers: Layers,
    /// What is kept of a layer for the way back; none outside training.
    remat: Option<Remat>,
}

/// What runs through a model: `[batch, seq]` in s32 each.
#[derive(Clone, Copy)]
pub struct Sequence<'g> {
    pub tokens: Tensor<'g>,
    /// Counted from 0 without a cache, in each document of its own.
    pub positions: Tensor<'g>,
    /// Documents that must not see each other have different numbers. Without a cache only.
    pub segments: Option<Tensor<'g>>,
}

/// What a layer needs to know of the step it belongs to.
pub struct Step<'g> {
    rotary: Rotary<'g>,
    /// `[batch, seq]` s32
    positions: Tensor<'g>,
    segments: Option<Tensor<'g>>,
    cache: Option<LayerCache<'g>>,
    window: Option<usize>,
}

impl<'g> Step<'g> {
    /// Rotates a query or key to its positions.
    pub fn rotate(&self, x: Tensor<'g>) -> Tensor<'g> {
        self.rotary.apply(x)
    }

    /// Causal attention over this step's keys and, with a cache, all earlier ones.
    /// `query` is `[batch, seq, kv_heads, group, head_dim]`; key and value lack `group`.
    #[track_caller]
    pub fn attend(&mut self, query: Tensor<'g>, key: Tensor<'g>, value: Tensor<'g>) -> Tensor<'g> {
        let key_value = match &mut self.cache {
            Some(cache) => cache.update(key, value, self.positions),
            None => KeyValue::Contiguous {
                key: key.rename("seq", "kv_seq"),
                value: value.rename("seq", "kv_seq"),
            },
        };
        // Without a cache the keys are this step's own, numbered from zero as the queries are.
        let positions = self.cache.map(|_| self.positions);
        let attention = Attention::causal(query, key, value);
        let segments = self.segments.map(|segments| (segments, segments.rename("seq", "kv_seq")));
        Attention { key_value, positions, segments, window: self.window, ..attention }.apply()
    }
}

impl<'a, 'g> Decoder<'a, 'g> {
    pub fn new(
        graph: &'g Graph,
        config: &'a ModelConfig,
        layers: Layers,
        dtype: DType,
        joins: bool,
    ) -> Decoder<'a, 'g> {
        // A scan runs one text for all layers, so they must see equally far back.
        let same = config.sliding_windows.windows(2).all(|pair| pair[0] == pair[1]);
        let layers = if same { layers } else { Layers::Unrolled };
        let weights = Parameters::new(graph, dtype).joining(joins && layers == Layers::Unrolled);
        Decoder { config, weights, layers, remat: None }
    }

    /// The decoder over weights that are held in another type, with adapters beside them.
    pub fn holding(self, held: Option<DType>, lora: Option<Lora>) -> Decoder<'a, 'g> {
        let dtype = self.weights.dtype();
        let weights = self.weights.clone().stored_as(held.unwrap_or(dtype));
        let weights = match lora {
            Some(lora) => weights.adapted(lora, None),
            None => weights,
        };
        Decoder { weights, ..self }
    }

    /// The decoder with the matrices that a plan names held in panels.
    pub fn in_panels(self, plan: &Option<Arc<PanelPlan>>) -> Decoder<'a, 'g> {
        Decoder { weights: self.weights.clone().in_panels(plan.clone()), ..self }
    }

    /// The decoder for training: weights are held in f32 or another type than they are computed with,
    /// and of each layer only what `remat` says is kept for the way back.
    pub fn for_training(self, weights: Parameters<'g>, remat: Remat) -> Decoder<'a, 'g> {
        // TPU compilers otherwise compute norms and activation functions for every tile of a product
        // anew; the CPU's, whose layers are unrolled, never does.
        let weights = weights.settling(self.layers == Layers::Scanned);
        Decoder { weights, remat: Some(remat), ..self }
    }

    /// The states after the last layer and norm, `[batch, seq, embed]`, and the updated cache.
    ///
    #[track_caller]
    pub fn states(
        &self,
        sequence: Sequence<'g>,
        cache: Option<KvCache<'g>>,
    ) -> (Tensor<'g>, Option<KvCache<'g>>) {
        self.weights.within("model", |weights| {
            // Rows first, then their type: what comes back is added up in the type of the table.
            let x =
                weights.within("embed_tokens", |weights| self.embedded(weights, sequence.tokens));
            let rotary = Rotary::new(weights.graph(), self.config, sequence.positions);
            let (x, cache) = match self.layers {
                Layers::Unrolled => self.unrolled(weights, x, rotary, sequence, cache),
                Layers::Scanned => self.scanned(weights, x, rotary, sequence, cache),
            };
            (rms_norm(self.config, weights, "norm", x, "embed"), cache)
        })
    }

    /// The rows of the embedding for `tokens` `[batch, seq]`.
    #[track_caller]
    fn embedded(&self, weights: &Parameters<'g>, tokens: Tensor<'g>) -> Tensor<'g> {
        let parts = [("weight", self.config.vocab_size)];
        let Some(panels) = weights.panels(&parts, &embed(self.config)) else {
            let table = weights.stored("weight", &self.vocab_by_embed());
            return table.take("vocab", tokens).convert(weights.dtype());
        };
        let axes = tokens.shape().axes;
        let rows = panels.take(tokens.merge(&tokens.shape().names(), "token"));
        rows.rename("inputs", "embed").split("token", &axes).convert(weights.dtype())
    }

    /// `[…, embed]` states into `[…, vocab]` logits in f32.
    #[track_caller]
    pub fn logits(&self, states: Tensor<'g>) -> Tensor<'g> {
        let states = states.constrain(Role::Activation);
        let vocab = [("vocab", self.config.vocab_size)];
        let panels = self.at_head(|weights| {
            weights.panels(&[("weight", self.config.vocab_size)], &embed(self.config))
        });
        match panels {
            Some(panels) => {
                let states = states.convert(DType::F32);
                panel_product(states, panels, &embed(self.config), &vocab)
            }
            None => states.dot_as(self.head(), &["embed"], DType::F32),
        }
    }

    /// The matrix that turns states into logits, `[vocab, embed]`.
    #[track_caller]
    pub fn head(&self) -> Tensor<'g> {
        self.at_head(|weights| weights.get("weight", &self.vocab_by_embed()))
    }

    fn at_head<T>(&self, body: impl FnOnce(&Parameters<'g>) -> T) -> T {
        let path: &[&str] = match self.config.tie_word_embeddings {
            true => &["model", "embed_tokens"],
            false => &["lm_head"],
        };
        let weights = path.iter().fold(self.weights.clone(), |weights, name| weights.at(name));
        weights.graph().scope(&path.join("."), || body(&weights))
    }

    fn vocab_by_embed(&self) -> [Vec<(Axis, usize)>; 2] {
        [vec![("vocab", self.config.vocab_size)], embed(self.config).to_vec()]
    }

    /// Every layer in the text, each with weights and cache of its own.
    fn unrolled(
        &self,
        weights: &Parameters<'g>,
        mut x: Tensor<'g>,
        rotary: Rotary<'g>,
        Sequence { positions, segments, .. }: Sequence<'g>,
        cache: Option<KvCache<'g>>,
    ) -> (Tensor<'g>, Option<KvCache<'g>>) {
        let mut updated = Vec::new();
        for index in 0..self.config.num_hidden_layers {
            let own = cache.as_ref().map(|cache| LayerCache {
                key: cache.tensors[2 * index],
                value: cache.tensors[2 * index + 1],
                layer: None,
                table: cache.table,
            });
            let window = self.config.sliding_windows[index];
            let mut step = Step { rotary, positions, segments, cache: own, window };
            x = weights.within("layers", |weights| {
                weights.within(&index.to_string(), |weights| self.layer(weights, x, &mut step))
            });
            updated.extend(step.cache.into_iter().flat_map(|cache| [cache.key, cache.value]));
        }
        (x, cache.map(|cache| KvCache { tensors: updated, table: cache.table }))
    }

    /// One layer; in training, what is kept of it for the way back is bounded.
    fn layer(&self, weights: &Parameters<'g>, x: Tensor<'g>, step: &mut Step<'g>) -> Tensor<'g> {
        let layer = |x: &[Tensor<'g>]| {
            vec![super::layer(self.config, weights, x[0].constrain(Role::Activation), step)]
        };
        let remat = self.remat.unwrap_or(Remat::None);
        let results = weights.graph().checkpoint(remat, &[x], layer);
        results.first().copied().unwrap_or(x)
    }

    /// One layer's text in a loop over stacked weights; the cache is carried and updated in place.
    fn scanned(
        &self,
        weights: &Parameters<'g>,
        x: Tensor<'g>,
        rotary: Rotary<'g>,
        Sequence { positions, segments, .. }: Sequence<'g>,
        cache: Option<KvCache<'g>>,
    ) -> (Tensor<'g>, Option<KvCache<'g>>) {
        let graph = weights.graph();
        let path = format!("model.layers.{EVERY_LAYER}");
        let specs = self.layer_parameters(&path);
        let count = self.config.num_hidden_layers;
        let stack = |(spec, shape): &(ParameterSpec, Shape)| {
            let stack = weights.stack(spec, shape, count);
            // In training matrices get the type of computation once, outside the loop: devices then
            // gather half of the bytes, and as many stack up on the way back. int8 stays as it is,
            // which is less still.
            let is_matrix = spec.checkpoint_shape.len() == 2 && shape.dtype.is_float();
            match self.remat.is_some() && is_matrix {
                true => stack.convert_whole(weights.dtype()).constrain(Role::Parameter),
                false => stack,
            }
        };
        let stacks: Vec<Tensor<'g>> = specs.iter().map(stack).collect();
        let mut carry = vec![x];
        carry.extend(cache.iter().flat_map(|cache| cache.tensors.iter().copied()));
        let window = self.config.sliding_windows.first().copied().flatten();
        let table = cache.as_ref().and_then(|cache| cache.table);
        let (last, _) = graph.scan("layers", count, &carry, &stacks, 0, |index, carry, slices| {
            let names = specs.iter().map(|(spec, _)| spec.name.clone());
            // In training a slice stays laid out as its stack is: so is then its gradient.
            let slices = slices.iter().map(|&slice| match self.remat {
                Some(_) => slice.constrain(Role::Parameter),
                None => slice,
            });
            let given: BTreeMap<String, Tensor<'g>> = names.zip(slices).collect();
            let weights = weights.given(&path, index, given);
            let own = match carry {
                &[_, key, value] => Some(LayerCache { key, value, layer: Some(index), table }),
                _ => None,
            };
            let mut step = Step { rotary, positions, segments, cache: own, window };
            let scope = format!("layers.{EVERY_LAYER}");
            let x = graph.scope(&scope, || self.layer(&weights, carry[0], &mut step));
            let mut next = vec![x];
            next.extend(step.cache.into_iter().flat_map(|cache| [cache.key, cache.value]));
            (next, Vec::new())
        });
        let (x, tensors) = (last[0], last[1..].to_vec());
        (x, cache.map(|cache| KvCache { tensors, table: cache.table }))
    }

    /// What one layer asks for, found by tracing it once on the side.
    fn layer_parameters(&self, path: &str) -> Vec<(ParameterSpec, Shape)> {
        let graph = Graph::new();
        let (root, dtype) = (self.weights.aside(&graph), self.weights.dtype());
        let axes = [("batch", 1), ("seq", 1), ("embed", self.config.hidden_size)];
        let x = graph.input("x", Role::Activation, Shape::new(dtype, &axes));
        let positions = ops::constant(&graph, DType::S32, 0.0);
        let positions = positions.broadcast_to(&[("batch", 1), ("seq", 1)]);
        let rotary = Rotary::new(&graph, self.config, positions);
        let mut step = Step { rotary, positions, segments: None, cache: None, window: None };
        root.within(path, |weights| super::layer(self.config, weights, x, &mut step));
        root.shapes()
    }
}
