//! Attention as one operation. What it computes is fixed by [`portable`]; how it is computed is the
//! target's choice ([`crate::kernels`]), and every lowering is tested against the portable one.

mod definition;
mod gradient;
mod heads;
mod native;
mod pages;
mod portable;
mod samples;
mod tile;

use std::rc::Rc;

use crate::emit::{Call, Emitter, composite_shapes};
use crate::error::ShapeError;
use crate::evaluate::Evaluator;
use crate::graph::{RegionId, Tensor};
use crate::kernels::{AttentionKernel, Blocks};
use crate::literal::Literal;
use crate::operation::{Derivative, Operation};
use crate::shape::{Axis, Shape};
use crate::{DType, ops};

use heads::Heads;
pub(crate) use samples::samples;

/// Where keys and values lie.
#[derive(Clone, Copy, Debug)]
pub enum KeyValue<'g> {
    /// `[batch?, kv_seq, kv_heads, head_dim]` each.
    Contiguous { key: Tensor<'g>, value: Tensor<'g> },
    /// `[pages, page, kv_heads, head_dim]` each; `block_table` `[batch, blocks]` (s32) names the
    /// pages of each sequence in order, so that key j is in block j / page.
    Paged { key: Tensor<'g>, value: Tensor<'g>, block_table: Tensor<'g> },
}

/// Everything attention can be asked for. Optional axes: `batch`; `group` is the number of query
/// heads that share a key/value head.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'g> {
    /// `[batch?, seq, kv_heads, group, head_dim]`
    pub query: Tensor<'g>,
    pub key_value: KeyValue<'g>,
    /// Positions of the queries among the keys, `[batch?, seq]` s32; without it 0, 1, 2, …
    pub positions: Option<Tensor<'g>>,
    /// How many keys of each sequence count, `[batch?]` s32.
    pub lengths: Option<Tensor<'g>>,
    /// Documents of queries `[batch?, seq]` and keys `[batch?, kv_seq]` (s32): a query sees keys of
    /// its own document only.
    pub segments: Option<(Tensor<'g>, Tensor<'g>)>,
    /// One logit per head, `[kv_heads, group]`, that takes part in the softmax and gives nothing.
    pub sinks: Option<Tensor<'g>>,
    /// A query sees keys up to its own position only.
    pub causal: bool,
    /// A query sees only keys less than this many positions back, its own included.
    pub window: Option<usize>,
    /// What scores are multiplied with, usually 1/sqrt(head_dim).
    pub scale: f64,
    /// Scores become `cap · tanh(score / cap)`.
    pub soft_cap: Option<f64>,
}

impl<'g> Attention<'g> {
    /// Causal attention of whole sequences with the usual scale.
    pub fn causal(query: Tensor<'g>, key: Tensor<'g>, value: Tensor<'g>) -> Attention<'g> {
        let head_dim = query.shape().size("head_dim").unwrap_or(1);
        Attention {
            query,
            key_value: KeyValue::Contiguous { key, value },
            positions: None,
            lengths: None,
            segments: None,
            sinks: None,
            causal: true,
            window: None,
            scale: 1.0 / (head_dim as f64).sqrt(),
            soft_cap: None,
        }
    }

    /// `softmax(mask(scale · query · key)) · value`, `[batch?, seq, kv_heads, group, head_dim]` in
    /// the query's type; scores and softmax are f32.
    #[track_caller]
    pub fn apply(self) -> Tensor<'g> {
        let mut operands = vec![self.query];
        let paged = match self.key_value {
            KeyValue::Contiguous { key, value } => {
                operands.extend([key, value]);
                false
            }
            KeyValue::Paged { key, value, block_table } => {
                operands.extend([key, value, block_table]);
                true
            }
        };
        operands.extend(self.positions);
        operands.extend(self.lengths);
        if let Some((queries, keys)) = self.segments {
            operands.extend([queries, keys]);
        }
        operands.extend(self.sinks);
        let operation = AttentionOperation {
            paged,
            positions: self.positions.is_some(),
            lengths: self.lengths.is_some(),
            segments: self.segments.is_some(),
            sinks: self.sinks.is_some(),
            causal: self.causal,
            window: self.window,
            scale: self.scale,
            soft_cap: self.soft_cap,
            log_sum_exp: false,
        };
        self.query.graph().apply(operation, &operands)
    }
}

/// The recorded form: which optional operands follow, and the numbers.
#[derive(Clone, Debug)]
struct AttentionOperation {
    paged: bool,
    positions: bool,
    lengths: bool,
    segments: bool,
    sinks: bool,
    causal: bool,
    window: Option<usize>,
    scale: f64,
    soft_cap: Option<f64>,
    /// Whether there is a second result, `[batch?, kv_heads, group, seq]` in f32: the logarithm of
    /// the softmax's divisor, which going back needs. Zero for a query that sees nothing.
    log_sum_exp: bool,
}

/// The operands by name.
#[derive(Clone, Copy)]
struct Operands<T> {
    query: T,
    key: T,
    value: T,
    block_table: Option<T>,
    positions: Option<T>,
    lengths: Option<T>,
    segments: Option<(T, T)>,
    sinks: Option<T>,
}

impl AttentionOperation {
    /// `None` when there are fewer operands than the flags say, which `apply` rules out.
    fn operands<T: Clone>(&self, operands: &[T]) -> Option<Operands<T>> {
        let mut rest = operands.iter().cloned();
        let (query, key, value) = (rest.next()?, rest.next()?, rest.next()?);
        let mut optional = |present: bool| if present { rest.next() } else { None };
        let block_table = optional(self.paged);
        let positions = optional(self.positions);
        let lengths = optional(self.lengths);
        let segments = optional(self.segments).zip(optional(self.segments));
        let sinks = optional(self.sinks);
        Some(Operands { query, key, value, block_table, positions, lengths, segments, sinks })
    }
}

/// How the target wants it: block sizes, and the loop over heads if there is to be one.
fn ways(
    emitter: &Emitter<'_>,
    attention: &AttentionOperation,
    call: &Call,
) -> (Blocks, Option<Heads>) {
    let kernel = emitter.options().kernels.attention;
    let heads = || {
        let (query, key) = (&call.operands[0].shape, &call.operands[1].shape);
        let plain = tile::is_plain(attention, query, key);
        plain.then(|| Heads::of(query, kernel.blocks().queries, emitter.options())).flatten()
    };
    (kernel.blocks(), if kernel.by_head() { heads() } else { None })
}

/// The operand with that number, which has the query's shape, as the first result; zeros as the others.
fn left_out(emitter: &mut Emitter<'_>, call: &Call, name: &str, stands_in: usize) {
    let shapes: Vec<Shape> = call.results.iter().map(|result| result.shape.clone()).collect();
    let key = format!("left out, {} results", shapes.len());
    emitter.composite(call, name, &key, |x| {
        let Some(&first) = x.get(stands_in) else { return Vec::new() };
        let zeros = |shape: &Shape| {
            ops::constant(first.graph(), shape.dtype, 0.0).broadcast_to(&shape.axes)
        };
        let others = shapes.iter().skip(1).map(zeros);
        std::iter::once(first.transpose(&shapes[0].names())).chain(others).collect()
    });
}

/// The sizes that all operands must agree on.
struct Sizes(Vec<(Axis, usize)>);

impl Sizes {
    /// Checks that a shape has exactly the wanted axes, in any order, with the right sizes; `batch`
    /// may be left out.
    fn check(
        &self,
        what: &str,
        shape: &Shape,
        axes: &[Axis],
        dtype: Option<DType>,
    ) -> Result<(), ShapeError> {
        let fail = |problem: String| Err(ShapeError::new(format!("{what} {shape} {problem}")));
        if let Some(axis) = axes.iter().find(|axis| !shape.has(axis) && **axis != "batch") {
            return fail(format!("lacks axis `{axis}`"));
        }
        if let Some(axis) = shape.names().into_iter().find(|axis| !axes.contains(axis)) {
            return fail(format!("has an axis `{axis}` too many"));
        }
        if let Some(dtype) = dtype.filter(|dtype| *dtype != shape.dtype) {
            return fail(format!("is not {dtype}"));
        }
        for &(axis, size) in &shape.axes {
            match self.0.iter().find(|(name, _)| *name == axis) {
                Some(&(_, wanted)) if wanted != size => {
                    return fail(format!("has {size} along `{axis}`, other operands {wanted}"));
                }
                None if axis == "batch" => return fail("has a batch, the query has none".into()),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Operation for AttentionOperation {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        let Some(o) = self.operands(operands) else {
            return Err(ShapeError::new("an operand is missing"));
        };
        let mut sizes = Sizes(o.query.axes.clone());
        let own = ["batch", "seq", "kv_heads", "group", "head_dim"];
        sizes.check("query", &o.query, &own, None)?;
        let keys = match &o.block_table {
            Some(table) => table.size("blocks").zip(o.key.size("page")).map(|(b, p)| b * p),
            None => o.key.size("kv_seq"),
        };
        sizes.0.extend(keys.map(|keys| ("kv_seq", keys)));
        let layout: &[Axis] = match self.paged {
            true => &["pages", "page", "kv_heads", "head_dim"],
            false => &["batch", "kv_seq", "kv_heads", "head_dim"],
        };
        // Pages may be held in a narrower type; they are widened where they are read.
        let held = (!self.paged).then_some(o.query.dtype);
        sizes.check("key", &o.key, layout, held)?;
        sizes.check("value", &o.value, layout, held)?;
        // They may lie differently in memory, but hold the same axes.
        let sorted = |shape: &Shape| {
            let mut axes = shape.axes.clone();
            axes.sort_unstable();
            axes
        };
        if sorted(&o.key) != sorted(&o.value) {
            return Err(ShapeError::new(format!("key {} and value {} differ", o.key, o.value)));
        }
        let integers = |what: &str, shape: &Option<Shape>, axes: &[Axis]| match shape {
            Some(shape) => sizes.check(what, shape, axes, Some(DType::S32)),
            None => Ok(()),
        };
        integers("block table", &o.block_table, &["batch", "blocks"])?;
        integers("positions", &o.positions, &["batch", "seq"])?;
        integers("lengths", &o.lengths, &["batch"])?;
        let (queries, keys) = o.segments.clone().unzip();
        integers("query segments", &queries, &["batch", "seq"])?;
        integers("key segments", &keys, &["batch", "kv_seq"])?;
        if let Some(sinks) = &o.sinks {
            sizes.check("sinks", sinks, &["kv_heads", "group"], None)?;
        }
        if self.window == Some(0) {
            return Err(ShapeError::new("a window of 0 keys sees nothing"));
        }
        // Whatever the checks above may have missed is found here, while there is a trace to tell.
        let result = composite_shapes(operands, |x| portable::lower(self, Blocks::WHOLE, None, x))?;
        match result.first() == Some(&o.query) {
            true => Ok(result),
            false => Err(ShapeError::new("the operands do not fit together")),
        }
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        if emitter.options().kernels.attention == AttentionKernel::LeftOut {
            return left_out(emitter, call, "attention", 0);
        }
        if emitter.options().kernels.native && native::takes(self, call) {
            return native::call(self, emitter, call);
        }
        let (blocks, heads) = ways(emitter, self, call);
        let key = format!("{self:?} {blocks:?} {heads:?}");
        emitter.composite(call, "attention", &key, |x| portable::lower(self, blocks, heads, x));
    }

    fn evaluate(&self, _: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        definition::evaluate(self, operands)
    }

    fn derivative(&self) -> Derivative<'_> {
        match (self.paged, self.log_sum_exp) {
            (true, _) => Derivative::None("keys in pages are for serving"),
            (false, true) => Derivative::rule(|pullback| gradient::pull(self, pullback)),
            (false, false) => Derivative::extended(|_, _, _| {
                Some(Rc::new(AttentionOperation { log_sum_exp: true, ..self.clone() }))
            }),
        }
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}
