//! Attention as one operation. What it computes is fixed by [`portable`]; how it is computed is the
//! target's choice ([`crate::kernels`]), and every lowering is tested against the portable one.

mod portable;
mod samples;

use crate::DType;
use crate::emit::{Call, Emitter, evaluate_composite};
use crate::error::ShapeError;
use crate::evaluate::Evaluator;
use crate::graph::{RegionId, Tensor};
use crate::kernels::AttentionKernel;
use crate::literal::Literal;
use crate::operation::{Derivative, Operation};
use crate::shape::{Axis, Shape};

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
}

/// The operands by name.
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

/// Checks that a shape has exactly the wanted axes in any order; `batch` may be left out.
fn check(what: &str, shape: &Shape, axes: &[Axis], dtype: Option<DType>) -> Result<(), ShapeError> {
    let missing = axes.iter().find(|axis| !shape.has(axis) && **axis != "batch");
    let extra = shape.names().into_iter().find(|axis| !axes.contains(axis));
    let problem = match (missing, extra) {
        (Some(axis), _) => format!("lacks axis `{axis}`"),
        (None, Some(axis)) => format!("has an axis `{axis}` too many"),
        _ => match dtype {
            Some(dtype) if dtype != shape.dtype => format!("is not {dtype}"),
            _ => return Ok(()),
        },
    };
    Err(ShapeError::new(format!("{what} {shape} {problem}")))
}

fn same(what: &str, left: Option<usize>, right: Option<usize>) -> Result<(), ShapeError> {
    match left.is_none() || right.is_none() || left == right {
        true => Ok(()),
        false => {
            let (left, right) = (left.unwrap_or(0), right.unwrap_or(0));
            Err(ShapeError::new(format!("{what} is {left} in one operand, {right} in another")))
        }
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
        check("query", &o.query, &["batch", "seq", "kv_heads", "group", "head_dim"], None)?;
        let layout: &[Axis] = match self.paged {
            true => &["pages", "page", "kv_heads", "head_dim"],
            false => &["batch", "kv_seq", "kv_heads", "head_dim"],
        };
        for (what, shape) in [("key", &o.key), ("value", &o.value)] {
            check(what, shape, layout, Some(o.query.dtype))?;
            for axis in ["batch", "kv_heads", "head_dim"] {
                same(&format!("axis `{axis}`"), o.query.size(axis), shape.size(axis))?;
            }
        }
        if o.key != o.value {
            return Err(ShapeError::new(format!("key {} and value {} differ", o.key, o.value)));
        }
        let integers = Some(DType::S32);
        if let Some(table) = &o.block_table {
            check("block table", table, &["batch", "blocks"], integers)?;
        }
        if let Some(positions) = &o.positions {
            check("positions", positions, &["batch", "seq"], integers)?;
        }
        if let Some(lengths) = &o.lengths {
            check("lengths", lengths, &["batch"], integers)?;
        }
        if let Some((queries, keys)) = &o.segments {
            check("query segments", queries, &["batch", "seq"], integers)?;
            check("key segments", keys, &["batch", "kv_seq"], integers)?;
        }
        if let Some(sinks) = &o.sinks {
            check("sinks", sinks, &["kv_heads", "group"], None)?;
        }
        if self.window == Some(0) {
            return Err(ShapeError::new("a window of 0 keys sees nothing"));
        }
        Ok(vec![o.query])
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        match emitter.options().kernels.attention {
            AttentionKernel::Portable { block } => {
                let key = format!("{self:?} {block}");
                emitter.composite(call, "attention", &key, |x| portable::lower(self, block, x));
            }
        }
    }

    fn evaluate(&self, evaluator: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        let AttentionKernel::Portable { block } = evaluator.kernels().attention;
        evaluate_composite(evaluator.kernels(), operands, |x| portable::lower(self, block, x))
    }

    fn derivative(&self) -> Derivative {
        Derivative::Formula(
            "with P the softmax and D = sum(g · y) over head_dim: dV = Pᵀg, dS = P · (gVᵀ - D), \
             dQ = scale · dS·K, dK = scale · dSᵀ·Q, by blocks with P computed again",
        )
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}
