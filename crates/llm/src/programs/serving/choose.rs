//! Choosing the next token of each row by its own settings: penalties, biases, masks, then the draw.
//! Nothing is computed that no row of the step asks for.

use graph::{DType, Role, Tensor, ops};

use super::super::sampler::Draw;
use super::IN_PROMPT;
use super::rows::{Column, Flag, Rows, has};

/// How many tokens of a row can have a bias.
pub const BIAS_MAX: usize = 300;

/// How many of the likeliest tokens are reported.
pub const TOP_MAX: usize = 20;

/// Stands for minus infinity among scores.
const EXCLUDED: f64 = -1e30;

/// The words of a result: the token, the bits of its log-probability, [`TOP_MAX`] tokens, the bits of
/// theirs.
pub fn result_words() -> usize {
    2 + 2 * TOP_MAX
}

/// What choosing depends on, for each row, or for each token of each row.
pub(super) struct Choice<'g> {
    draw: Draw<'g>,
    flags: Tensor<'g>,
    slot: Tensor<'g>,
    repetition_penalty: Tensor<'g>,
    presence_penalty: Tensor<'g>,
    frequency_penalty: Tensor<'g>,
    /// `[batch, word]` u32.
    mask: Tensor<'g>,
    /// Ids and values, `[batch, bias]`.
    bias: (Tensor<'g>, Tensor<'g>),
    /// `[slot * vocab]` s32.
    counts: Tensor<'g>,
}

/// What was chosen, `[batch]`, and the words that the host reads, `[batch, word]`.
pub(super) struct Chosen<'g> {
    pub(super) token: Tensor<'g>,
    pub(super) words: Tensor<'g>,
}

/// The inputs of a choice beside the rows.
#[derive(Clone, Copy)]
pub(super) struct Given<'g> {
    pub(super) mask: Tensor<'g>,
    pub(super) bias: (Tensor<'g>, Tensor<'g>),
    pub(super) counts: Tensor<'g>,
}

impl<'g> Choice<'g> {
    /// Each row's settings `width` times, row by row.
    pub(super) fn new(rows: &Rows<'g>, given: Given<'g>, width: usize) -> Choice<'g> {
        let each = |x: Tensor<'g>| {
            if width == 1 {
                return x;
            }
            let own = x.shape().axes;
            let axes = [&[own[0], ("seq", width)], &own[1..]].concat();
            let names: Vec<_> = axes.iter().map(|&(axis, _)| axis).collect();
            let wide = x.broadcast("seq", width).transpose(&names);
            wide.merge(&["batch", "seq"], "batch")
        };
        let column = |column: Column| each(rows.column(column));
        let fraction = |column: Column| each(rows.fraction(column));
        Choice {
            draw: Draw {
                temperature: fraction(Column::Temperature),
                top_k: column(Column::TopK),
                top_p: fraction(Column::TopP),
                min_p: fraction(Column::MinP),
                seed: [each(rows.bits(Column::SeedLow)), each(rows.bits(Column::SeedHigh))],
            },
            flags: column(Column::Flags),
            slot: column(Column::Slot),
            repetition_penalty: fraction(Column::RepetitionPenalty),
            presence_penalty: fraction(Column::PresencePenalty),
            frequency_penalty: fraction(Column::FrequencyPenalty),
            mask: each(given.mask),
            bias: (each(given.bias.0), each(given.bias.1)),
            counts: given.counts,
        }
    }

    /// From `logits` `[batch, vocab]` f32; `position` `[batch]` is where the token will stand.
    pub(super) fn choose(&self, logits: Tensor<'g>, position: Tensor<'g>) -> Chosen<'g> {
        let graph = logits.graph();
        // Split by words, as the head is: what follows is whole on every device, and would otherwise be
        // taken for a reason to gather the head.
        let logits = logits.constrain(Role::Activation);
        let random = self.draw.is_random();
        let special = [Flag::Penalized, Flag::Biased, Flag::Masked].map(|flag| self.any(flag));
        let special = special.into_iter().fold(random.any(&["batch"]), Tensor::or);
        // Most steps are greedy and plain: nothing of the rest is computed then, nor copied.
        let token = graph.conditional(
            special,
            || {
                let scores = self.adjusted(logits);
                let greedy = scores.argmax("vocab");
                let drawn = graph.conditional(
                    random.any(&["batch"]),
                    || vec![random.select(self.draw.draw(scores, position), greedy)],
                    || vec![greedy],
                );
                vec![drawn[0]]
            },
            || vec![logits.argmax("vocab")],
        )[0];
        Chosen { token, words: self.words(logits, token) }
    }

    fn has(&self, flag: Flag) -> Tensor<'g> {
        has(self.flags, flag)
    }

    fn any(&self, flag: Flag) -> Tensor<'g> {
        self.has(flag).any(&["batch"])
    }

    /// The scores that are chosen by.
    fn adjusted(&self, logits: Tensor<'g>) -> Tensor<'g> {
        let graph = logits.graph();
        let step = |flag: Flag, scores: Tensor<'g>, change: &dyn Fn(Tensor<'g>) -> Tensor<'g>| {
            graph.conditional(self.any(flag), || vec![change(scores)], || vec![scores])[0]
        };
        let scores = step(Flag::Penalized, logits, &|scores| self.penalized(scores));
        let scores = step(Flag::Biased, scores, &|scores| {
            let (ids, values) = self.bias;
            scores.scatter("vocab", ids, values, ops::Combine::Add)
        });
        step(Flag::Masked, scores, &|scores| self.masked(scores))
    }

    /// Presence and frequency are taken off (OpenAI's definition); positive scores of tokens that were
    /// there are divided by the repetition penalty, negative ones multiplied (Keskar et al., "CTRL",
    /// 2019).
    fn penalized(&self, scores: Tensor<'g>) -> Tensor<'g> {
        let graph = scores.graph();
        let axes = scores.shape().axes;
        let wide = |x: Tensor<'g>| x.broadcast_to(&axes);
        let vocab = scores.size("vocab");
        let slots = self.counts.size("cell") / vocab;
        let count = self.counts.split("cell", &[("slot", slots), ("vocab", vocab)]);
        let count = count.take("slot", self.slot);
        let number = |value: f64| ops::constant(graph, DType::S32, value);
        let zero = ops::constant(graph, DType::F32, 0.0);
        let below = count.and(number(IN_PROMPT - 1.0));
        let answered = below.greater(number(0.0));
        // Not just above: very many of one token reach the sign.
        let seen = count.not_equal(number(0.0));
        let penalty = wide(self.repetition_penalty);
        let repeated = scores.greater(zero).select(scores / penalty, scores * penalty);
        let scores = seen.select(repeated, scores);
        let frequency = wide(self.frequency_penalty);
        let presence = wide(self.presence_penalty);
        scores - below.convert(DType::F32) * frequency - answered.select(presence, zero)
    }

    /// Excludes tokens whose bit is not set, in rows that have a mask.
    fn masked(&self, scores: Tensor<'g>) -> Tensor<'g> {
        let graph = scores.graph();
        let token = ops::iota(graph, DType::U32, "vocab", scores.size("vocab"));
        let number = |value: f64| ops::constant(graph, DType::U32, value);
        let word = token.shift_right_logical(number(5.0)).convert(DType::S32);
        let bits = self.mask.take("word", word);
        let bit = bits.shift_right_logical(token.and(number(31.0))).and(number(1.0));
        let allowed = self.has(Flag::Masked).select(bit, number(1.0)).equal(number(1.0));
        allowed.select(scores, ops::constant(graph, DType::F32, EXCLUDED))
    }

    /// The words for the host: the token, its log-probability under the model's own distribution, and,
    /// if any row wants them, the likeliest.
    fn words(&self, logits: Tensor<'g>, token: Tensor<'g>) -> Tensor<'g> {
        let graph = logits.graph();
        let greatest = logits.max(&["vocab"]);
        let total = (logits - greatest).exponential().sum(&["vocab"]).log() + greatest;
        let log_prob = logits.take("vocab", token) - total;
        let as_words = |x: Tensor<'g>| x.bitcast_convert(DType::S32);
        let batch = logits.size("batch");
        let none = ops::constant(graph, DType::S32, 0.0)
            .broadcast_to(&[("batch", batch), ("word", 2 * TOP_MAX)]);
        let top = TOP_MAX.min(logits.size("vocab"));
        let likeliest = graph.conditional(
            self.any(Flag::Top),
            || {
                let (values, ids) = logits.top_k("vocab", top);
                let filled = |x: Tensor<'g>| {
                    x.rename("vocab", "word").transpose(&["batch", "word"]).pad(
                        "word",
                        0,
                        TOP_MAX - top,
                        0.0,
                    )
                };
                let ids = filled(ids.convert(DType::S32));
                vec![ids.concatenate(&[filled(as_words(values - total))], "word")]
            },
            || vec![none],
        )[0];
        let single = |x: Tensor<'g>| x.expand("word").transpose(&["batch", "word"]);
        single(token).concatenate(&[single(as_words(log_prob)), likeliest], "word")
    }
}
