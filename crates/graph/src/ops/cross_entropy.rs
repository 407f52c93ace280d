//! The cross entropy of a language model's head, from states and the head's matrix to a number per
//! token, a block of the vocabulary at a time: all logits at once would be the largest tensor of a
//! training step. One operation, because going back needs one number per token only.
//!
//! With z the logits of a token, t its target: loss = log Σ exp(z) - z_t. Going back, with g the
//! cotangent of the loss and h that of the log-sum-exp: dz = (g + h) · softmax(z) - g at t.

use std::rc::Rc;

use crate::emit::{Call, EmitOptions, Emitter, composite_shapes, evaluate_composite};
use crate::error::ShapeError;
use crate::evaluate::Evaluator;
use crate::graph::{RegionId, Tensor};
use crate::kernels::VocabularyBlocks;
use crate::literal::Literal;
use crate::operation::{Derivative, Fill, Operation, Sample};
use crate::shape::{Axis, Shape};
use crate::sharding::Role;
use crate::{DType, ops};

/// Operands: states, head, targets. Results: loss and log-sum-exp.
#[derive(Debug)]
struct CrossEntropy;

/// Operands: states, head, targets, log-sum-exp, cotangents of loss and log-sum-exp. Results:
/// cotangents of states and head.
#[derive(Debug)]
struct CrossEntropyGradient;

impl<'g> Tensor<'g> {
    /// The cross entropy of predicting `targets` (`[…]`, s32) from states `[…, embed]` with the head
    /// `[vocab, embed]`, and the logarithm of each softmax's divisor: both `[…]` in f32, the loss in
    /// nats and zero where the target is negative.
    #[track_caller]
    pub fn cross_entropy(self, head: Tensor<'g>, targets: Tensor<'g>) -> (Tensor<'g>, Tensor<'g>) {
        let location = std::panic::Location::caller();
        let operands = [self, head, targets];
        let results = self.graph().apply_many(Rc::new(CrossEntropy), &operands, 2, location);
        match results[..] {
            [loss, log_sum_exp] => (loss, log_sum_exp),
            _ => (Tensor::poison(self.graph()), Tensor::poison(self.graph())),
        }
    }
}

/// Logits of one block and where in it each token's target is.
struct Block<'g> {
    head: Tensor<'g>,
    /// `[…, vocab]` in f32.
    logits: Tensor<'g>,
    is_target: Tensor<'g>,
}

/// The vocabulary cut into blocks of one size: a scan needs that.
#[derive(Clone, Copy)]
struct Cut {
    blocks: usize,
    size: usize,
    /// Whether a block is every n-th word instead of neighbours: then each device that holds a piece
    /// of the vocabulary holds a piece of every block.
    strided: bool,
}

impl Cut {
    /// As many blocks as needed, or a few more where that divides the vocabulary; else one.
    fn of(vocabulary: usize, kernel: VocabularyBlocks, strided: bool) -> Cut {
        let least = vocabulary.div_ceil(kernel.size.max(1));
        let blocks = (least..=least * 4).find(|&blocks| vocabulary.is_multiple_of(blocks));
        let blocks = blocks.unwrap_or(1);
        Cut { blocks, size: vocabulary / blocks, strided }
    }

    /// The head with an axis `vocab_block` to walk along.
    fn split(self, head: Tensor<'_>) -> Tensor<'_> {
        let (inner, outer) = (("vocab", self.size), ("vocab_block", self.blocks));
        match self.strided {
            true => {
                head.split("vocab", &[inner, outer]).transpose(&["vocab_block", "vocab", "embed"])
            }
            false => head.split("vocab", &[outer, inner]),
        }
    }

    /// The inverse of [`Cut::split`].
    fn join(self, blocks: Tensor<'_>) -> Tensor<'_> {
        match self.strided {
            true => blocks.merge(&["vocab", "vocab_block"], "vocab"),
            false => blocks.merge(&["vocab_block", "vocab"], "vocab"),
        }
    }

    fn block<'g>(
        self,
        states: Tensor<'g>,
        head: Tensor<'g>,
        targets: Tensor<'g>,
        index: Tensor<'g>,
    ) -> Block<'g> {
        let place = ops::iota(states.graph(), DType::S32, "vocab", self.size);
        let word = match self.strided {
            true => place * self.blocks as f64 + index,
            false => place + index * self.size as f64,
        };
        // Devices that hold a piece of each word's weights gather the block, not its logits.
        let head = head.constrain(Role::Activation);
        let logits = states.dot_as(head, &["embed"], DType::F32);
        let is_target = targets.equal(word).broadcast_to(&logits.shape().axes);
        Block { head, logits, is_target }
    }

    /// Calls `body` with each block's number, carry and slices, in a scan or written out.
    fn walk<'g>(
        self,
        scanned: bool,
        carry: Vec<Tensor<'g>>,
        head: Tensor<'g>,
        stacks: usize,
        body: impl Fn(Tensor<'g>, &[Tensor<'g>], Tensor<'g>) -> (Vec<Tensor<'g>>, Vec<Tensor<'g>>),
    ) -> (Vec<Tensor<'g>>, Vec<Tensor<'g>>) {
        let graph = head.graph();
        if scanned && self.blocks > 1 {
            let walked = [self.split(head)];
            return graph.scan(
                "vocab_block",
                self.blocks,
                &carry,
                &walked,
                stacks,
                |index, carry, slices| body(index, carry, slices[0]),
            );
        }
        let whole = self.split(head);
        let mut carry = carry;
        let mut parts: Vec<Vec<Tensor<'g>>> = vec![Vec::new(); stacks];
        for block in 0..self.blocks {
            let index = ops::constant(graph, DType::S32, block as f64);
            let slice = whole.slice("vocab_block", block, block + 1).squeeze("vocab_block");
            let (next, added) = body(index, &carry, slice);
            carry = next;
            for (part, tensor) in parts.iter_mut().zip(added) {
                part.push(tensor.expand("vocab_block"));
            }
        }
        let join = |part: Vec<Tensor<'g>>| match part.len() {
            1 => part[0],
            _ => part[0].concatenate(&part[1..], "vocab_block"),
        };
        (carry, parts.into_iter().map(join).collect())
    }
}

/// Axes of what there is one of for each token, as one: batch, if that is among them, which devices
/// split. A matrix is what every compiler knows how to lay out.
fn flat<'g>(tensor: Tensor<'g>, rows: &[Axis]) -> Tensor<'g> {
    match rows {
        [first, _, ..] => tensor.merge(rows, first).constrain(Role::Activation),
        _ => tensor,
    }
}

/// The inverse, for a tensor with these rows.
fn unflat<'g>(tensor: Tensor<'g>, rows: &[(Axis, usize)]) -> Tensor<'g> {
    match rows {
        [first, _, ..] => tensor.split(first.0, rows),
        _ => tensor,
    }
}

/// The loss by blocks, with a running softmax.
fn lower<'g>(x: &[Tensor<'g>], kernel: VocabularyBlocks, strided: bool) -> Vec<Tensor<'g>> {
    let rows = x[2].shape().axes;
    let names = x[2].shape().names();
    let (states, head, targets) = (flat(x[0], &names), x[1], flat(x[2], &names));
    let graph = states.graph();
    let number = |value| ops::constant(graph, DType::F32, value);
    let fill = |value| number(value).broadcast_to(&targets.shape().axes);
    let cut = Cut::of(head.size("vocab"), kernel, strided);
    let initial = vec![fill(-1e30), fill(0.0), fill(0.0)];
    let (last, _) = cut.walk(kernel.scanned, initial, head, 0, |index, carry, head| {
        let Block { logits, is_target, .. } = cut.block(states, head, targets, index);
        let greatest = carry[0].maximum(logits.max(&["vocab"]));
        let total = carry[1] * (carry[0] - greatest).exponential()
            + (logits - greatest).exponential().sum(&["vocab"]);
        let of_target = carry[2] + is_target.select(logits, number(0.0)).sum(&["vocab"]);
        (vec![greatest, total, of_target], Vec::new())
    });
    let log_sum_exp = last[0] + last[1].log();
    let counts = targets.greater_equal(ops::constant(graph, DType::S32, 0.0));
    let loss = counts.select(log_sum_exp - last[2], number(0.0));
    vec![unflat(loss, &rows), unflat(log_sum_exp, &rows)]
}

fn lower_gradient<'g>(
    x: &[Tensor<'g>],
    kernel: VocabularyBlocks,
    strided: bool,
) -> Vec<Tensor<'g>> {
    let &[states, head, targets, log_sum_exp, of_loss, of_sum] = x else { return Vec::new() };
    let (axes, names) = (targets.shape().axes, targets.shape().names());
    let [states, targets, log_sum_exp, of_loss, of_sum] =
        [states, targets, log_sum_exp, of_loss, of_sum].map(|tensor| flat(tensor, &names));
    let graph = states.graph();
    let zero = ops::constant(graph, DType::F32, 0.0);
    let counts = targets.greater_equal(ops::constant(graph, DType::S32, 0.0));
    let of_loss = counts.select(of_loss, zero);
    let weight = of_loss + of_sum;
    let rows = targets.shape().names();
    let cut = Cut::of(head.size("vocab"), kernel, strided);
    let initial = vec![zero.broadcast_to(&states.shape().axes).constrain(Role::Activation)];
    let (last, stacks) = cut.walk(kernel.scanned, initial, head, 1, |index, carry, head| {
        let Block { head, logits, is_target } = cut.block(states, head, targets, index);
        let softmax = (logits - log_sum_exp).exponential();
        let of_logits = softmax * weight - is_target.select(of_loss, zero);
        // Behind a barrier, or each of the two products makes it again from logits in f32.
        let of_logits = graph.optimization_barrier(&[of_logits.convert(states.dtype())])[0];
        let of_states = of_logits.dot_as(head, &["vocab"], DType::F32);
        let of_head = of_logits.dot(states, &rows).constrain(Role::Parameter);
        (vec![carry[0] + of_states], vec![of_head])
    });
    vec![unflat(last[0].convert(states.dtype()), &axes), cut.join(stacks[0])]
}

fn check(operands: &[Shape]) -> Result<(), ShapeError> {
    let (states, head, targets) = (&operands[0], &operands[1], &operands[2]);
    if states.size("embed").is_none() || head.names() != ["vocab", "embed"] {
        let message =
            format!("wants states […, embed] and a head [vocab, embed], not {states} and {head}");
        return Err(ShapeError::new(message));
    }
    let mut rows = states.clone();
    rows.axes.retain(|&(axis, _)| axis != "embed");
    match *targets == rows.with_dtype(DType::S32) {
        true => Ok(()),
        false => {
            Err(ShapeError::new(format!("targets are {targets}, not those of states {states}")))
        }
    }
}

impl Operation for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        check(operands)?;
        composite_shapes(operands, |x| lower(x, VocabularyBlocks::WHOLE, false))
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        let kernel =
            forward_blocks(emitter.options(), &call.operands[1].shape, &call.operands[2].shape);
        let strided = is_strided(emitter);
        let key = format!("{kernel:?} {strided}");
        emitter.composite(call, "cross_entropy", &key, |x| lower(x, kernel, strided));
    }

    fn evaluate(&self, evaluator: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        evaluate_composite(evaluator.kernels(), operands, |x| {
            lower(x, VocabularyBlocks::WHOLE, false)
        })
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::rule(|pullback| {
            let log_sum_exp = pullback.results[1];
            let mut operands = pullback.operands.to_vec();
            operands.push(log_sum_exp);
            let zeros = || crate::autodiff::zeros_like(log_sum_exp);
            operands.extend(pullback.cotangents.iter().map(|g| g.unwrap_or_else(zeros)));
            let location = std::panic::Location::caller();
            let operation = Rc::new(CrossEntropyGradient);
            let results = pullback.graph.apply_many(operation, &operands, 2, location);
            results.into_iter().map(Some).chain([None]).collect()
        })
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

impl Operation for CrossEntropyGradient {
    fn name(&self) -> &'static str {
        "cross_entropy_gradient"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        check(operands)?;
        composite_shapes(operands, |x| lower_gradient(x, VocabularyBlocks::WHOLE, false))
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        let (kernel, strided) = (emitter.options().kernels.vocabulary, is_strided(emitter));
        let key = format!("{kernel:?} {strided}");
        let name = "cross_entropy_gradient";
        emitter.composite(call, name, &key, |x| lower_gradient(x, kernel, strided));
    }

    fn evaluate(&self, evaluator: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        evaluate_composite(evaluator.kernels(), operands, |x| {
            lower_gradient(x, VocabularyBlocks::WHOLE, false)
        })
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("it is a derivative itself, and second ones are not supported here")
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

/// Words of a block below which a product is too narrow for matrix units.
const NARROW: usize = 1024;

/// Blocks for the way forward: smaller ones where a device's fast memory then holds a block's logits.
fn forward_blocks(options: &EmitOptions, head: &Shape, targets: &Shape) -> VocabularyBlocks {
    let kernel = options.kernels.vocabulary;
    let mut logits = targets.with_dtype(DType::F32);
    logits.axes.extend(head.size("vocab").map(|words| ("vocab", words)));
    let sharding = options.rules.resolve(Role::Activation, &logits, &options.mesh);
    let pieces = sharding.pieces(&options.mesh);
    let words_apart = pieces.last().copied().unwrap_or(1);
    let rows: usize =
        targets.axes.iter().zip(&pieces).map(|(&(_, size), pieces)| size / pieces).product();
    let fitting = kernel.logits_max / rows.max(1);
    match fitting >= NARROW {
        true => VocabularyBlocks {
            size: kernel.size.min(fitting.saturating_mul(words_apart)),
            ..kernel
        },
        false => kernel,
    }
}

/// Whether the mesh may split the vocabulary.
fn is_strided(emitter: &Emitter<'_>) -> bool {
    emitter.options().mesh.size("tensor").is_some_and(|size| size > 1)
}

pub(crate) fn samples() -> Vec<Sample> {
    let random = |axes| (Shape::new(DType::F32, axes), Fill::Uniform(-1.0, 1.0));
    let states = random(&[("batch", 2), ("seq", 3), ("embed", 4)]);
    let head = random(&[("vocab", 6), ("embed", 4)]);
    let targets = Shape::new(DType::S32, &[("batch", 2), ("seq", 3)]);
    let operands = [states.clone(), head.clone(), (targets.clone(), Fill::Uniform(-2.0, 6.0))];
    vec![
        Sample::new("cross_entropy", &operands, |x| {
            let (loss, log_sum_exp) = x[0].cross_entropy(x[1], x[2]);
            vec![loss, log_sum_exp * log_sum_exp]
        }),
        Sample::new("cross_entropy_gradient", &operands, |x| {
            let of = || vec![x[0], x[1]];
            let mean = || vec![x[0].cross_entropy(x[1], x[2]).0.mean(&["batch", "seq"])];
            x[0].graph().value_and_gradients(mean, of).1
        }),
        Sample::error(
            "cross_entropy with targets of another length",
            &[states.0, head.0, Shape::new(DType::S32, &[("batch", 2), ("seq", 4)])],
            |x| vec![x[0].cross_entropy(x[1], x[2]).0],
            "cross_entropy: targets are s32[batch 2, seq 4], not those of states f32[batch 2, seq 3, embed 4]",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Kernels;

    /// Blocks of every kind give what the whole vocabulary gives at once, which is what log_softmax
    /// gives.
    #[test]
    fn blocks_change_nothing() {
        let sample = &samples()[0];
        let operands = sample.arguments();
        let run = |build: &dyn for<'g> Fn(&[Tensor<'g>]) -> Vec<Tensor<'g>>| {
            evaluate_composite(&Kernels::default(), &operands, build)
        };
        let whole = run(&|x| lower(x, VocabularyBlocks::WHOLE, false));
        let plain = run(&|x| {
            let logits = x[0].dot(x[1], &["embed"]).log_softmax("vocab");
            let none = ops::constant(x[0].graph(), DType::S32, 0.0);
            let loss = -logits.take("vocab", x[2].maximum(none));
            let zero = ops::constant(x[0].graph(), DType::F32, 0.0);
            vec![x[2].greater_equal(none).select(loss, zero)]
        });
        let close = |a: &Literal, b: &Literal| {
            let pairs = a.values.iter().zip(&b.values);
            a.shape == b.shape && pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-5)
        };
        assert!(close(&whole[0], &plain[0]));
        assert!(whole[0].values.contains(&0.0) && operands[2].values.iter().any(|&t| t < 0.0));
        let gradient = |size, scanned, strided| {
            run(&|x| {
                let sums = lower(x, VocabularyBlocks::WHOLE, false);
                let operands = [x[0], x[1], x[2], sums[1], sums[1], sums[0]];
                lower_gradient(
                    &operands,
                    VocabularyBlocks { size, scanned, ..VocabularyBlocks::WHOLE },
                    strided,
                )
            })
        };
        let whole_gradient = gradient(6, false, false);
        for (scanned, strided) in [(false, false), (false, true), (true, false), (true, true)] {
            let blocks = run(&|x| {
                lower(x, VocabularyBlocks { size: 2, scanned, ..VocabularyBlocks::WHOLE }, strided)
            });
            assert!(close(&blocks[0], &whole[0]) && close(&blocks[1], &whole[1]));
            let blocks = gradient(2, scanned, strided);
            assert!(close(&blocks[0], &whole_gradient[0]) && close(&blocks[1], &whole_gradient[1]));
        }
    }
}
