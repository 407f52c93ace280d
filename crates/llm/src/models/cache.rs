//! The keys and values of earlier tokens, updated in place: contiguous for each sequence, or in pages
//! that sequences share.

use graph::ops::{KeyValue, Pages};
use graph::{Axis, DType, Graph, Role, Shape, Tensor, ops};

use super::Layers;
use crate::config::ModelConfig;

/// The size of a cache: how many sequences of how many tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheShape {
    pub batch: usize,
    pub capacity: usize,
}

/// The size of a cache in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageShape {
    pub pages: usize,
    /// Tokens of a page.
    pub page: usize,
}

/// Where the tokens of a step lie in a cache in pages.
#[derive(Clone, Copy)]
pub struct PageTable<'g> {
    /// The pages of each sequence in order, `[batch, blocks]` s32.
    pub block_table: Tensor<'g>,
    /// Where the keys and values of this step go, `[batch, seq]` s32: page · page size + place. What
    /// is not written has a slot beyond the last.
    pub slots: Tensor<'g>,
}

/// The cache tensors of a traced program: keys and values alternating, one pair for each layer, or
/// a single pair with a `layers` axis where layers are scanned.
#[derive(Clone)]
pub struct KvCache<'g> {
    pub tensors: Vec<Tensor<'g>>,
    /// Of a cache in pages.
    pub table: Option<PageTable<'g>>,
}

/// One layer's view of the cache.
#[derive(Clone, Copy)]
pub(super) struct LayerCache<'g> {
    pub(super) key: Tensor<'g>,
    pub(super) value: Tensor<'g>,
    /// The layer's number in a stacked cache.
    pub(super) layer: Option<Tensor<'g>>,
    pub(super) table: Option<PageTable<'g>>,
}

impl<'g> KvCache<'g> {
    /// The shapes of all cache tensors, for allocation.
    pub fn shapes(
        config: &ModelConfig,
        layers: Layers,
        shape: CacheShape,
        dtype: DType,
    ) -> Vec<Shape> {
        // Heads outside the sequence: each head's keys lie together, as products want them.
        let mut axes: Vec<(Axis, usize)> =
            vec![("batch", shape.batch), ("kv_heads", config.num_key_value_heads)];
        let pairs = match layers {
            Layers::Unrolled => config.num_hidden_layers,
            Layers::Scanned => {
                axes.push(("layers", config.num_hidden_layers));
                1
            }
        };
        let (seq, dim) = (("kv_seq", shape.capacity), ("head_dim", config.head_dim));
        let value = Shape { dtype, axes: [&axes[..], &[seq, dim]].concat() };
        // Keys are contracted over `head_dim`: with that axis outside, a matrix product takes them as
        // they lie, where XLA's CPU compiler would transpose all of them at every step.
        let key = match layers {
            Layers::Unrolled => Shape { dtype, axes: [&axes[..], &[dim, seq]].concat() },
            Layers::Scanned => value.clone(),
        };
        [key, value].into_iter().cycle().take(2 * pairs).collect()
    }

    /// The shapes of all tensors of a cache in pages.
    pub fn page_shapes(
        config: &ModelConfig,
        layers: Layers,
        shape: PageShape,
        dtype: DType,
    ) -> Vec<Shape> {
        let heads = ("kv_heads", config.num_key_value_heads);
        let axes =
            [("pages", shape.pages), ("page", shape.page), heads, ("head_dim", config.head_dim)];
        let stacked = [&[("layers", config.num_hidden_layers)], &axes[..]].concat();
        match layers {
            Layers::Unrolled => vec![Shape::new(dtype, &axes); 2 * config.num_hidden_layers],
            Layers::Scanned => vec![Shape::new(dtype, &stacked); 2],
        }
    }

    /// Declares a cache of these shapes as arguments of the program.
    pub fn inputs(graph: &'g Graph, shapes: Vec<Shape>) -> KvCache<'g> {
        let shapes = shapes.into_iter().enumerate();
        let tensors = shapes.map(|(index, shape)| {
            let kind = if index % 2 == 0 { "key" } else { "value" };
            graph.input(&format!("cache.{}.{kind}", index / 2), Role::KvCache, shape)
        });
        KvCache { tensors: tensors.collect(), table: None }
    }
}

impl<'g> LayerCache<'g> {
    /// Writes the keys and values of this step and returns all of the layer's.
    pub(super) fn update(
        &mut self,
        key: Tensor<'g>,
        value: Tensor<'g>,
        positions: Tensor<'g>,
    ) -> KeyValue<'g> {
        match self.table {
            Some(table) => self.update_pages(key, value, table),
            None => {
                let (key, value) = self.update_rows(key, value, positions);
                KeyValue::Contiguous { key, value }
            }
        }
    }

    fn update_pages(
        &mut self,
        key: Tensor<'g>,
        value: Tensor<'g>,
        PageTable { block_table, slots }: PageTable<'g>,
    ) -> KeyValue<'g> {
        let by_token = |x: Tensor<'g>| x.merge(&["batch", "seq"], "token");
        let (key, value, slots) = (by_token(key), by_token(value), by_token(slots));
        let Some(layer) = self.layer else {
            let pages = Pages { key: self.key, value: self.value }.write(key, value, slots);
            (self.key, self.value) = (pages.key, pages.value);
            return KeyValue::Paged { key: pages.key, value: pages.value, block_table };
        };
        // All layers' pages as one pool, in which each layer's begin at its own place: taking one
        // layer's part out of the stack would copy it.
        let sizes = ["layers", "pages", "page"].map(|axis| self.key.size(axis));
        let [layers, pages, page] = sizes;
        let number = |value: usize| ops::constant(slots.graph(), DType::S32, value as f64);
        let within = slots.less(number(pages * page));
        let shifted = slots + layer * number(pages * page);
        let slots = within.select(shifted, number(layers * pages * page));
        let pool = |x: Tensor<'g>| x.merge(&["layers", "pages"], "pages");
        let written = Pages { key: pool(self.key), value: pool(self.value) };
        let Pages { key, value } = written.write(key, value, slots);
        let stacked = |x: Tensor<'g>| x.split("pages", &[("layers", layers), ("pages", pages)]);
        (self.key, self.value) = (stacked(key), stacked(value));
        KeyValue::Paged { key, value, block_table: block_table + layer * number(pages) }
    }

    /// `[batch, kv_heads, kv_seq, head_dim]` each, in the cache's own order.
    fn update_rows(
        &mut self,
        key: Tensor<'g>,
        value: Tensor<'g>,
        positions: Tensor<'g>,
    ) -> (Tensor<'g>, Tensor<'g>) {
        self.key = self.write(self.key, key, positions);
        self.value = self.write(self.value, value, positions);
        let (key, value) = (self.read(self.key), self.read(self.value));
        if self.layer.is_some() {
            // In a scan a barrier would force a copy of this layer's slice of the cache.
            return (key, value);
        }
        // Without one XLA's CPU compiler, for which layers are unrolled, computes the update a second
        // time for the reader, and keeps a copy of the whole cache for it.
        match key.graph().optimization_barrier(&[key, value])[..] {
            [key, value] => (key, value),
            _ => (key, value),
        }
    }

    fn read(&self, cache: Tensor<'g>) -> Tensor<'g> {
        match self.layer {
            None => cache,
            Some(layer) => cache.index("layers", layer),
        }
    }

    /// `fresh` is `[batch, seq, kv_heads, head_dim]`, `positions` `[batch, seq]`: consecutive in
    /// each row. With more than one row, what stands beyond the capacity is not written; a single
    /// row is written as one piece, its padding behind the real tokens, where the next ones go.
    fn write(&self, cache: Tensor<'g>, fresh: Tensor<'g>, positions: Tensor<'g>) -> Tensor<'g> {
        if cache.size("batch") == 1 {
            let start = positions.slice("seq", 0, 1).squeeze("seq").squeeze("batch");
            let update = fresh.rename("seq", "kv_seq");
            return match self.layer {
                None => cache.dynamic_update_slice(update, &[("kv_seq", start)]),
                Some(layer) => {
                    let starts = [("layers", layer), ("kv_seq", start)];
                    cache.dynamic_update_slice(update.expand("layers"), &starts)
                }
            };
        }
        match self.layer {
            None => cache.scatter("kv_seq", positions, fresh, ops::Combine::Replace),
            Some(layer) => {
                // Layers and positions as one axis, so that a single scatter stays in place. What
                // is beyond the capacity must not reach the next layer: send it beyond the end.
                let (layers, capacity) = (cache.size("layers"), cache.size("kv_seq"));
                let graph = cache.graph();
                let number = |value: usize| ops::constant(graph, DType::S32, value as f64);
                let place = positions + layer * number(capacity);
                let within = positions.less(number(capacity));
                let place = within.select(place, number(layers * capacity));
                let merged = cache.merge(&["layers", "kv_seq"], "slots");
                let written = merged.scatter("slots", place, fresh, ops::Combine::Replace);
                written.split("slots", &[("layers", layers), ("kv_seq", capacity)])
            }
        }
    }
}
