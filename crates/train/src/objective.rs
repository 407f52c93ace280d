//! What training minimizes: the cross entropy of the next token, summed over the tokens that count.

use graph::{DType, Tensor, ops};
use llm::models::{Decoder, Sequence};

/// A batch in a program: `[batch, seq]` in s32 each.
#[derive(Clone, Copy)]
pub struct Texts<'g> {
    pub tokens: Tensor<'g>,
    /// The token that follows; negative where that does not count.
    pub targets: Tensor<'g>,
    /// Which document of its row a token belongs to; 0 is padding.
    pub segments: Tensor<'g>,
    /// Counted from 0 in each document.
    pub positions: Tensor<'g>,
}

/// Sums over the tokens that count, scalars in f32.
#[derive(Clone, Copy)]
pub struct Sums<'g> {
    /// Cross entropy, in nats.
    pub cross_entropy: Tensor<'g>,
    /// Squares of the softmax's log-sum-exp.
    pub squared_log_sum_exp: Tensor<'g>,
}

impl<'g> Texts<'g> {
    /// How many tokens count, a scalar in f32.
    pub fn count(&self) -> Tensor<'g> {
        let counts = self.counts();
        counts.sum(&counts.shape().names())
    }

    /// How many tokens are no padding, a scalar in f32.
    pub fn present(&self) -> Tensor<'g> {
        let zero = ops::constant(self.segments.graph(), DType::S32, 0.0);
        let present = self.segments.greater(zero).convert(DType::F32);
        present.sum(&present.shape().names())
    }

    fn counts(&self) -> Tensor<'g> {
        let zero = ops::constant(self.targets.graph(), DType::S32, 0.0);
        self.targets.greater_equal(zero).convert(DType::F32)
    }

    /// Runs the texts through the model.
    #[track_caller]
    pub fn sums(&self, decoder: &Decoder<'_, 'g>) -> Sums<'g> {
        let Texts { tokens, positions, segments, .. } = *self;
        let sequence = Sequence { tokens, positions, segments: Some(segments) };
        let (states, _) = decoder.states(sequence, None);
        let states = states.constrain(graph::Role::Activation);
        let graph = states.graph();
        let (loss, log_sum_exp) =
            graph.scope("loss", || states.cross_entropy(decoder.head(), self.targets));
        let all = loss.shape().names();
        let squares = log_sum_exp * log_sum_exp * self.counts();
        Sums { cross_entropy: loss.sum(&all), squared_log_sum_exp: squares.sum(&all) }
    }
}
