//! Choosing the next token on the device, each row by its own settings.
//!
//! Nothing is sorted: a cut-off (top-k, top-p) is found by bisection over the 32 bits of the scores,
//! which costs 32 passes over the vocabulary on any chip. The draw is the greatest of score plus
//! Gumbel noise, which is a sample of the softmax; the noise is keyed by (seed, position), so a
//! request's tokens do not depend on what else is in the batch.

use graph::{DType, Graph, Shape, Tensor, ops};

/// The sampler's arguments, `[batch]` each, in order; then `seen`, `[batch, vocab]`.
pub const SAMPLING_INPUTS: [(&str, DType); 7] = [
    ("temperature", DType::F32),
    ("top_k", DType::S32),
    ("top_p", DType::F32),
    ("min_p", DType::F32),
    ("repetition_penalty", DType::F32),
    ("seed_low", DType::U32),
    ("seed_high", DType::U32),
];

/// Stands for minus infinity among scores.
const EXCLUDED: f64 = -1e30;

/// A temperature up to this means greedy, as in vLLM: dividing by less overflows.
const COLD: f64 = 1e-5;

/// How a token is drawn, `[batch]` each.
pub(super) struct Draw<'g> {
    pub(super) temperature: Tensor<'g>,
    pub(super) top_k: Tensor<'g>,
    pub(super) top_p: Tensor<'g>,
    pub(super) min_p: Tensor<'g>,
    pub(super) seed: [Tensor<'g>; 2],
}

/// The sampler's arguments as tensors.
pub(super) struct Sampler<'g> {
    draw: Draw<'g>,
    repetition_penalty: Tensor<'g>,
    /// `[batch, vocab]` bool: tokens of the prompt and of the answer so far.
    pub(super) seen: Tensor<'g>,
}

/// The names and shapes of the arguments, for declaring them.
pub(super) fn inputs(batch: usize, vocab: usize) -> Vec<(&'static str, Shape)> {
    let row = |(name, dtype): (&'static str, DType)| (name, Shape::new(dtype, &[("batch", batch)]));
    let mut inputs: Vec<(&'static str, Shape)> = SAMPLING_INPUTS.into_iter().map(row).collect();
    inputs.push(("seen", Shape::new(DType::Bool, &[("batch", batch), ("vocab", vocab)])));
    inputs
}

/// A token per row, `[batch]`.
pub(super) struct Sampled<'g> {
    pub(super) token: Tensor<'g>,
    /// The token's log-probability under the model's own distribution, before any setting.
    pub(super) log_prob: Tensor<'g>,
}

impl<'g> Sampler<'g> {
    /// Takes the arguments in the order of [`inputs`].
    pub(super) fn new(arguments: &[Tensor<'g>]) -> Option<Sampler<'g>> {
        let &[temperature, top_k, top_p, min_p, repetition_penalty, low, high, seen] = arguments
        else {
            return None;
        };
        let draw = Draw { temperature, top_k, top_p, min_p, seed: [low, high] };
        Some(Sampler { draw, repetition_penalty, seen })
    }

    /// Draws from `logits` `[batch, vocab]` f32; `position` `[batch]` (s32) is where the token will
    /// stand in its sequence.
    pub(super) fn sample(&self, logits: Tensor<'g>, position: Tensor<'g>) -> Sampled<'g> {
        let graph = logits.graph();
        let scores = self.penalized(logits);
        let greedy = scores.argmax("vocab");
        let random = self.draw.is_random();
        // Most requests of a batch are often greedy: then nothing of the rest is computed.
        let token = graph.conditional(
            random.any(&["batch"]),
            || vec![random.select(self.draw.draw(scores, position), greedy)],
            || vec![greedy],
        )[0];
        let log_prob = logits.log_softmax("vocab").take("vocab", token);
        Sampled { token, log_prob }
    }

    /// Divides positive and multiplies negative scores of seen tokens by the penalty (Keskar et
    /// al., "CTRL", 2019).
    fn penalized(&self, logits: Tensor<'g>) -> Tensor<'g> {
        let graph = logits.graph();
        let zero = ops::constant(graph, DType::F32, 0.0);
        let positive = logits.greater(zero);
        let penalty = self.repetition_penalty.broadcast_to(&logits.shape().axes);
        let lowered = positive.select(logits / penalty, logits * penalty);
        self.seen.select(lowered, logits)
    }
}

impl<'g> Draw<'g> {
    /// The rows that do not just take the likeliest token.
    pub(super) fn is_random(&self) -> Tensor<'g> {
        self.temperature.greater(ops::constant(self.temperature.graph(), DType::F32, COLD))
    }

    /// A token of each row of `scores` `[batch, vocab]`, as if all rows were random.
    pub(super) fn draw(&self, scores: Tensor<'g>, position: Tensor<'g>) -> Tensor<'g> {
        let graph = scores.graph();
        let vocab = scores.size("vocab");
        let one = ops::constant(graph, DType::F32, 1.0);
        let zero = ops::constant(graph, DType::F32, 0.0);
        let cold = ops::constant(graph, DType::F32, COLD);
        let temperature = self.temperature.greater(cold).select(self.temperature, one);
        let scores = (scores - scores.max(&["vocab"])) / temperature;
        let weights = scores.exponential();
        // Of weights, the greatest is 1: so this is min_p times the greatest probability.
        let likely = weights.greater_equal(self.min_p.broadcast_to(&weights.shape().axes));
        let weights = likely.select(weights, zero);
        let keys = ordered_bits(scores);
        // top_k = 0 means no limit.
        let whole = ops::constant(graph, DType::S32, vocab as f64);
        let limited = self.top_k.greater(ops::constant(graph, DType::S32, 0.0));
        let count = limited.select(self.top_k.minimum(whole), whole);
        let ones = one.broadcast_to(&weights.shape().axes);
        let cut = threshold(graph, keys, ones, count.convert(DType::F32));
        let weights = keys.greater_equal(cut).select(weights, zero);
        // Just under the whole mass, so that top_p = 1 is not cut off by rounding.
        let mass = weights.sum(&["vocab"]) * self.top_p.minimum(one) * (1.0 - 1e-6);
        let cut = threshold(graph, keys, weights, mass);
        let kept = keys.greater_equal(cut).and(weights.greater(zero));
        let noisy = scores + self.gumbel(graph, vocab, position);
        kept.select(noisy, ops::constant(graph, DType::F32, EXCLUDED)).argmax("vocab")
    }

    /// `-log(-log(u))` for uniform `u`, one for every token, keyed by (seed, position).
    fn gumbel(&self, graph: &'g Graph, vocab: usize, position: Tensor<'g>) -> Tensor<'g> {
        let token = ops::iota(graph, DType::U32, "vocab", vocab);
        let [bits, _] = ops::threefry(self.seed, [token, position.convert(DType::U32)]);
        let uniform = bits.bits_to_uniform();
        -((-uniform.log()).log())
    }
}

/// Bits of f32 as u32 in the same order as the numbers: negative ones are flipped whole, positive
/// ones get the top bit.
fn ordered_bits(scores: Tensor<'_>) -> Tensor<'_> {
    let graph = scores.graph();
    let bits = scores.bitcast_convert(DType::U32);
    let top = ops::constant(graph, DType::U32, f64::from(1u32 << 31));
    let all = ops::constant(graph, DType::U32, f64::from(u32::MAX));
    let negative = bits.greater_equal(top);
    bits.xor(negative.select(all, top))
}

/// The greatest key t of each row for which the weights of all keys >= t add up to `wanted` or more.
/// Found bit by bit from the top.
fn threshold<'g>(
    graph: &'g Graph,
    keys: Tensor<'g>,
    weights: Tensor<'g>,
    wanted: Tensor<'g>,
) -> Tensor<'g> {
    let zero = ops::constant(graph, DType::F32, 0.0);
    let start = ops::constant(graph, DType::U32, 0.0).broadcast_to(&wanted.shape().axes);
    let one = ops::constant(graph, DType::U32, 1.0);
    let top = ops::constant(graph, DType::U32, 31.0);
    let (found, _) = graph.scan("bit", 32, &[start], &[], 0, |step, carry, _| {
        let bit = one.shift_left(top - step.convert(DType::U32));
        let candidate = carry[0].or(bit.broadcast_to(&carry[0].shape().axes));
        let mass = keys.greater_equal(candidate).select(weights, zero).sum(&["vocab"]);
        (vec![mass.greater_equal(wanted).select(candidate, carry[0])], Vec::new())
    });
    found[0]
}
