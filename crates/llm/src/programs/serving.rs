//! The programs that many sequences are served with: a step runs some tokens of each row over a cache
//! in pages and draws what comes next; another sums up states for embeddings.
//!
//! What a step does is said by one matrix of whole numbers, `rows`, so that a step costs one small
//! transfer; what was drawn comes back as another. Between steps the device keeps, for each slot, the
//! last token drawn and how often each token was there: the host can enqueue a step before it has read
//! the one before.

mod choose;
mod rows;

use graph::{DType, Graph, Role, Shape, Tensor, TraceError, ops, output};

pub use choose::{BIAS_MAX, TOP_MAX, result_words};
pub use rows::{Column, Flag, RowLayout};

use super::{CacheKind, ModelProgram, ProgramOptions, Tracing};
use crate::config::ModelConfig;
use crate::models::{KvCache, LoraSlots, PageShape, PageTable, Sequence, SlotOfRows};
use choose::{Choice, Chosen, Given};
use rows::Rows;

/// Marks, in the counts of tokens, one that was in the prompt; below it, those of the answer are counted.
const IN_PROMPT: f64 = 65_536.0;

/// The sizes of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StepShape {
    /// Sequences.
    pub batch: usize,
    /// Tokens of each.
    pub width: usize,
    /// Whether a token is drawn after each of the row's tokens, which guesses ahead, and not just after
    /// the last.
    pub draws_each: bool,
    /// Pages that a sequence can have in this step.
    pub blocks: usize,
    /// Places for sequences between steps; the last is for rows that leave nothing.
    pub slots: usize,
    pub pages: PageShape,
    /// Room for adapters, of which each row has one or none; without it rows have none.
    pub adapters: Option<LoraSlots>,
}

/// The sizes of a program that sums up states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EmbedShape {
    pub width: usize,
    pub blocks: usize,
    pub pages: PageShape,
}

/// Runs the tokens of each row and draws.
///
/// Data: `rows` `[batch, columns]` s32 ([`RowLayout`]); `mask` `[batch, words]` u32, the bits of tokens
/// that may come; `bias_ids` and `bias_values` `[batch, BIAS_MAX]` (ids beyond the vocabulary are
/// unused); `last` `[slot]` s32; `counts` `[slot * vocab]` s32, how often each slot's tokens were there,
/// whole on every device: writing to what is split over them would move all of it. Results: what was
/// drawn ([`result_words`]) `[batch, width or 1, words]` s32, `last`, `counts`, the cache.
///
/// # Errors
/// A model that does not fit together.
pub fn step(
    config: &ModelConfig,
    options: &ProgramOptions,
    shape: StepShape,
) -> Result<ModelProgram, TraceError> {
    let graph = Graph::new();
    let StepShape { batch, width, slots, .. } = shape;
    let layout = RowLayout { width, blocks: shape.blocks };
    let vocab = config.vocab_size;
    let own = ("batch", batch);
    let data = [
        ("rows", Shape::new(DType::S32, &[own, ("column", layout.columns())])),
        ("mask", Shape::new(DType::U32, &[own, ("word", vocab.div_ceil(32))])),
        ("bias_ids", Shape::new(DType::S32, &[own, ("bias", BIAS_MAX)])),
        ("bias_values", Shape::new(DType::F32, &[own, ("bias", BIAS_MAX)])),
        ("last", Shape::new(DType::S32, &[("slot", slots)])),
        ("counts", Shape::new(DType::S32, &[("cell", slots * vocab)])),
    ];
    let tracing = Tracing::new(&graph, config, options, &data, CacheKind::Pages(shape.pages));
    let [rows, mask, bias_ids, bias_values, last_before, counts_before] = tracing.data[..] else {
        unreachable!("the arguments were declared above");
    };
    let rows = Rows::new(rows, layout);
    let slot = rows.column(Column::Slot);
    let given = rows.tokens();
    let first = ops::iota(&graph, DType::S32, "seq", width)
        .equal(ops::constant(&graph, DType::S32, 0.0))
        .and(rows.flag(Flag::FromLast))
        .transpose(&["batch", "seq"]);
    let tokens = first.select(last_before.take("slot", slot), given);
    let place = Place::new(&rows, width, shape.pages);
    if let Some(room) = shape.adapters {
        let of_rows = SlotOfRows::new(room, rows.column(Column::Adapter));
        tracing.decoder.weights.choose_slots(of_rows);
    }
    let cache = KvCache { table: Some(place.table), ..tracing.cache.clone() };
    let sequence = Sequence { tokens, positions: place.positions, segments: None };
    let (states, updated) = tracing.decoder.states(sequence, Some(cache));
    let Some(updated) = updated else { unreachable!("a cache was given") };

    let counts = match batch {
        1 => cleared(counts_before, slot, rows.flag(Flag::Fresh), vocab),
        // Only what is prefilled is fresh, and that is one sequence at a time.
        _ => counts_before,
    };
    let at = ops::iota(&graph, DType::S32, "seq", width).broadcast_to(&tokens.shape().axes);
    let prompt = at.less(rows.column(Column::AnswerFrom));
    let one = ops::constant(&graph, DType::S32, 1.0);
    let weight = prompt.select(ops::constant(&graph, DType::S32, IN_PROMPT), one);
    // Guesses are counted when it is known which were right.
    let counted = match shape.draws_each {
        true => place.real.and(at.equal(ops::constant(&graph, DType::S32, 0.0))),
        false => place.real,
    };
    let counts = count(counts, slot, tokens, weight, counted, vocab);

    let given = Given { mask, bias: (bias_ids, bias_values), counts };
    let number = rows.column(Column::Count);
    let (drawn, last, counts) = if shape.draws_each {
        let logits = tracing.decoder.logits(states).transpose(&["batch", "seq", "vocab"]);
        let chosen = Choice::new(&rows, given, width)
            .choose(by_token(logits), by_token(place.positions) + 1.0);
        let own = [own, ("seq", width)];
        let (token, words) = (chosen.token.split("batch", &own), chosen.words.split("batch", &own));
        // A guess is right as long as what was drawn in its place, and in all before, is the same.
        let guess = tokens.slice("seq", 1, width).rename("seq", "guess");
        let instead = token.slice("seq", 0, width - 1).rename("seq", "guess");
        let place_of = ops::iota(&graph, DType::S32, "guess", width - 1) + 1.0;
        let right = guess.equal(instead).and(place_of.less(number)).convert(DType::S32);
        let all = right.cumulative_sum("guess").equal(place_of).convert(DType::S32);
        let accepted = all.sum(&["guess"]);
        let follows = at.less_equal(accepted).and(at.greater_equal(one)).and(place.real);
        let counts = count(counts, slot, tokens, weight, follows, vocab);
        (words.rename("seq", "drawn"), token.take("seq", accepted), counts)
    } else {
        let logits = tracing.decoder.logits(states.take("seq", number - 1.0));
        let position = rows.column(Column::Position) + number;
        let Chosen { token, words } = Choice::new(&rows, given, 1).choose(logits, position);
        (words.expand("drawn").transpose(&["batch", "drawn", "word"]), token, counts)
    };
    let trash = ops::constant(&graph, DType::S32, slots as f64 - 1.0);
    let kept = rows.flag(Flag::Draws).select(slot, trash);
    let last = last_before.scatter("slot", kept, last, ops::Combine::Replace);
    let results = vec![
        output("drawn", drawn),
        output("last", last).role(Role::Activation).donate(last_before),
        output("counts", counts).role(Role::Activation).donate(counts_before),
    ];
    let name = match (width, shape.draws_each) {
        (1, _) | (_, true) => "decode",
        _ => "prefill",
    };
    tracing.finish(name, results, &updated)
}

/// Runs tokens of one row and sums up the states of the last layer over those that are real.
///
/// Data: `rows` `[1, columns]` as in [`step`]. Results: the sums `[embed]` f32, the cache.
///
/// # Errors
/// A model that does not fit together.
pub fn embed(
    config: &ModelConfig,
    options: &ProgramOptions,
    shape: EmbedShape,
) -> Result<ModelProgram, TraceError> {
    let graph = Graph::new();
    let layout = RowLayout { width: shape.width, blocks: shape.blocks };
    let rows = Shape::new(DType::S32, &[("batch", 1), ("column", layout.columns())]);
    let cache = CacheKind::Pages(shape.pages);
    let tracing = Tracing::new(&graph, config, options, &[("rows", rows)], cache);
    let rows = Rows::new(tracing.data[0], layout);
    let place = Place::new(&rows, shape.width, shape.pages);
    let cache = KvCache { table: Some(place.table), ..tracing.cache.clone() };
    let sequence = Sequence { tokens: rows.tokens(), positions: place.positions, segments: None };
    let (states, updated) = tracing.decoder.states(sequence, Some(cache));
    let Some(updated) = updated else { unreachable!("a cache was given") };
    let wide = states.convert(DType::F32);
    let none = ops::constant(&graph, DType::F32, 0.0);
    let sum = place.real.select(wide, none).sum(&["batch", "seq"]);
    tracing.finish("embed", vec![output("sum", sum)], &updated)
}

/// Where a step's tokens stand.
struct Place<'g> {
    /// `[batch, seq]`; -1 for padding.
    positions: Tensor<'g>,
    /// `[batch, seq]`: not padding.
    real: Tensor<'g>,
    table: PageTable<'g>,
}

impl<'g> Place<'g> {
    fn new(rows: &Rows<'g>, width: usize, pages: PageShape) -> Place<'g> {
        let position = rows.column(Column::Position);
        let graph = position.graph();
        let number = |value: f64| ops::constant(graph, DType::S32, value);
        let offset = ops::iota(graph, DType::S32, "seq", width);
        let order = ["batch", "seq"];
        let real = offset.less(rows.column(Column::Count)).transpose(&order);
        let positions = (position + offset).transpose(&order);
        let block_table = rows.blocks();
        let block = positions / number(pages.page as f64);
        let page = block_table.take("blocks", block).transpose(&order);
        let slots = page * pages.page as f64 + (positions - block * pages.page as f64);
        // What is padding is written nowhere and sees nothing.
        let slots = real.select(slots, number((pages.pages * pages.page) as f64));
        let positions = real.select(positions, number(-1.0));
        Place { positions, real, table: PageTable { block_table, slots } }
    }
}

/// `counts` with the cells of a slot set to zero where `fresh` holds. Else those of the last slot, which
/// nobody reads: zeros are written without a look at what was there, since for that XLA would copy all.
fn cleared<'g>(
    counts: Tensor<'g>,
    slot: Tensor<'g>,
    fresh: Tensor<'g>,
    vocab: usize,
) -> Tensor<'g> {
    let number = |value: usize| ops::constant(counts.graph(), DType::S32, value as f64);
    let start = fresh.select(slot * vocab as f64, number(counts.size("cell") - vocab));
    counts.dynamic_update_slice(
        number(0).broadcast("cell", vocab),
        &[("cell", start.squeeze("batch"))],
    )
}

/// `counts` with `weight` added for each of `tokens` `[batch, seq]` that counts.
fn count<'g>(
    counts: Tensor<'g>,
    slot: Tensor<'g>,
    tokens: Tensor<'g>,
    weight: Tensor<'g>,
    counted: Tensor<'g>,
    vocab: usize,
) -> Tensor<'g> {
    let beyond = ops::constant(counts.graph(), DType::S32, counts.size("cell") as f64);
    let cell = (slot * vocab as f64 + tokens).transpose(&["batch", "seq"]);
    let cell = counted.select(cell, beyond);
    counts.scatter("cell", cell, weight, ops::Combine::Add)
}

/// Sequences and their tokens as one axis.
fn by_token(x: Tensor<'_>) -> Tensor<'_> {
    x.merge(&["batch", "seq"], "batch")
}
