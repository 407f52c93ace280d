//! Attention of queries to the keys and values of their sequences, which lie in pages. Decides who computes what;
//! the arithmetic is in the modules below.
//!
//! What a query gets depends on nothing but that query and what it sees, to the last bit: keys are taken in
//! blocks and spans that begin at multiples of their size, counted from the sequence's start, each span by
//! itself, and spans are joined in their order, whoever computed them.

mod exponential;
mod number;
mod softmax;
mod span;

use std::cell::RefCell;

use span::{Scratch, Span};

use crate::pages::{Numbers, PageSizes};
use crate::pool::{self, Shared};
use crate::simd::{Kernel, LANES, Level, Simd};

/// Keys that scores are computed for at once.
pub(crate) const BLOCK: usize = 64;

/// Keys whose softmax is computed by itself.
pub(crate) const SPAN: usize = 8 * BLOCK;

/// Queries that share a look at a block of keys.
const TILE: usize = 32;

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Queries<'a> {
    /// `[batch, seq, kv_heads, group, head_dim]`: `group` queries attend to each head of keys.
    pub numbers: &'a [f32],
    /// Sequences.
    pub batch: usize,
    /// Queries of each.
    pub seq: usize,
    /// Queries of one place that share keys.
    pub group: usize,
    /// `[batch, seq]`: places in the sequences, from 0. A query sees the keys up to its own place. Where negative,
    /// there is no query, and the result is zeros.
    pub positions: &'a [i32],
}

/// What is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Pages<'a> {
    /// Of both.
    pub sizes: PageSizes,
    /// `[pages, page, kv_heads, head_dim]`.
    pub keys: Numbers<'a>,
    /// `[pages, page, kv_heads, head_dim]`.
    pub values: Numbers<'a>,
    /// `[batch, blocks]`: the page of key `j` of a sequence is at `j / page`.
    pub table: &'a [i32],
}

/// How scores are made.
#[derive(Clone, Copy, Debug)]
pub struct Scores {
    /// What a product is multiplied with.
    pub scale: f32,
    /// How far back a query sees, its own place included; 0 for all the way.
    pub window: usize,
    /// A score becomes `cap * tanh(score / cap)`; 0 for no cap.
    pub soft_cap: f32,
}

/// `out [batch, seq, kv_heads, group, head_dim]`: for each query, the values it sees, weighted by the softmax of its
/// scores with their keys.
///
/// # Errors
/// A message when sizes do not fit, or a page that is needed is not there.
pub fn attention(
    level: Level,
    queries: &Queries<'_>,
    pages: &Pages<'_>,
    scores: &Scores,
    out: &mut [f32],
) -> Result<(), String> {
    check(queries, pages, scores, out)?;
    let PageSizes { kv_heads, head_dim, .. } = pages.sizes;
    let rows = queries.seq * queries.group;
    let tiles = rows.div_ceil(TILE);
    let tasks = queries.batch * kv_heads * tiles;
    if tasks == 0 || head_dim == 0 {
        return Ok(());
    }
    let last = queries.positions.iter().copied().max().unwrap_or(-1);
    let spans = usize::try_from(last).map_or(1, |last| last / SPAN + 1);
    let out = Shared::new(out);
    let call =
        Call { queries, pages, scores, padded: head_dim.next_multiple_of(LANES), tiles, spans };
    // Where there are many tasks, each goes over its spans by itself. Where there are few, spans are tasks too.
    if spans == 1 || tasks >= 4 * pool::threads() {
        pool::run(tasks, &|task| level.run(Whole { call, task, out: &out }));
        return Ok(());
    }
    let size = call.partial_size();
    let mut partials = vec![0.0; tasks * spans * size];
    let shared = Shared::new(&mut partials);
    pool::run(tasks * spans, &|task| level.run(OneSpan { call, task, partials: &shared }));
    let partials = &partials;
    pool::run(tasks, &|task| level.run(Join { call, task, partials, out: &out }));
    Ok(())
}

/// That everything the kernels will index is there: sizes, and each sequence's pages from the first to the last
/// that any of its queries sees.
fn check(
    queries: &Queries<'_>,
    pages: &Pages<'_>,
    scores: &Scores,
    out: &[f32],
) -> Result<(), String> {
    let PageSizes { page, kv_heads, head_dim, .. } = pages.sizes;
    let Queries { numbers, batch, seq, group, positions } = queries;
    let size = [*seq, kv_heads, *group, head_dim]
        .iter()
        .try_fold(*batch, |size, &factor| size.checked_mul(factor));
    if size != Some(numbers.len()) || out.len() != numbers.len() {
        return Err(format!(
            "{} queries and {} results are not [{batch}, {seq}, {kv_heads}, {group}, {head_dim}]",
            numbers.len(),
            out.len()
        ));
    }
    let expected = pages.sizes.numbers();
    if expected != Some(pages.keys.len()) || expected != Some(pages.values.len()) {
        return Err(format!(
            "{} keys and {} values are no pages of {:?}",
            pages.keys.len(),
            pages.values.len(),
            pages.sizes
        ));
    }
    let blocks = pages.table.len().checked_div(*batch).unwrap_or(0);
    if Some(positions.len()) != batch.checked_mul(*seq) || blocks * batch != pages.table.len() {
        return Err(format!(
            "{} positions and a table of {} do not fit {batch} sequences of {seq} queries",
            positions.len(),
            pages.table.len()
        ));
    }
    if *seq == 0 || *batch == 0 {
        return Ok(());
    }
    for (row, positions) in positions.chunks_exact(*seq).enumerate() {
        let table = &pages.table[row * blocks..(row + 1) * blocks];
        let seen = positions.iter().filter_map(|&position| usize::try_from(position).ok());
        let Some(last) = seen.clone().max() else { continue };
        // The first key grows with the position.
        let first = seen.min().map_or(0, |position| scores.first_key(position));
        if page == 0 || last / page >= blocks {
            return Err(format!(
                "position {last} of sequence {row} lies beyond its {blocks} pages of {page} tokens"
            ));
        }
        let wrong = table[first / page..=last / page]
            .iter()
            .find(|&&index| usize::try_from(index).map_or(true, |at| at >= pages.sizes.pages));
        if let Some(index) = wrong {
            return Err(format!(
                "sequence {row} needs page {index}, and there are {}",
                pages.sizes.pages
            ));
        }
    }
    Ok(())
}

impl Scores {
    /// The first key that a query at `position` sees.
    #[inline(always)]
    pub(crate) fn first_key(&self, position: usize) -> usize {
        if self.window == 0 { 0 } else { (position + 1).saturating_sub(self.window) }
    }
}

/// A call, with sizes that follow from it.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) queries: &'a Queries<'a>,
    pub(crate) pages: &'a Pages<'a>,
    pub(crate) scores: &'a Scores,
    /// `head_dim`, rounded up to whole vectors.
    pub(crate) padded: usize,
    tiles: usize,
    spans: usize,
}

/// Some queries of one sequence and one head of keys.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    pub(crate) sequence: usize,
    pub(crate) head: usize,
    /// Its first query, among `seq * group`.
    first: usize,
    pub(crate) rows: usize,
}

impl Call<'_> {
    #[inline(always)]
    fn tile(&self, task: usize) -> Tile {
        let kv_heads = self.pages.sizes.kv_heads;
        let first = task % self.tiles * TILE;
        let rows = TILE.min(self.queries.seq * self.queries.group - first);
        let head = task / self.tiles;
        Tile { sequence: head / kv_heads, head: head % kv_heads, first, rows }
    }

    /// Where in the queries, and the results, a row of a tile is.
    #[inline(always)]
    pub(crate) fn place(&self, tile: Tile, row: usize) -> usize {
        let Queries { seq, group, .. } = *self.queries;
        let PageSizes { kv_heads, head_dim, .. } = self.pages.sizes;
        let row = tile.first + row;
        let token = tile.sequence * seq + row / group;
        ((token * kv_heads + tile.head) * group + row % group) * head_dim
    }

    /// Where in its sequence a row of a tile is, if it is a query at all.
    #[inline(always)]
    pub(crate) fn position(&self, tile: Tile, row: usize) -> Option<usize> {
        let Queries { seq, group, positions, .. } = *self.queries;
        usize::try_from(positions[tile.sequence * seq + (tile.first + row) / group]).ok()
    }

    /// Numbers of a tile's [`Span`].
    fn partial_size(&self) -> usize {
        TILE * Span::row_size(self.padded)
    }

    /// Writes what a tile's queries get.
    #[inline(always)]
    fn write<S: Simd>(&self, s: S, tile: Tile, span: &Span<'_>, out: &Shared<'_, f32>) {
        let head_dim = self.pages.sizes.head_dim;
        for row in 0..tile.rows {
            // SAFETY: each row belongs to one tile, each tile to one task.
            let to = unsafe { out.slice(self.place(tile, row), head_dim) };
            if self.position(tile, row).is_none() {
                to.fill(0.0);
            } else {
                span.finish(s, row, to);
            }
        }
    }
}

thread_local! {
    /// Kept from call to call: memory that is new is slow.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// All spans of a tile.
struct Whole<'a> {
    call: Call<'a>,
    task: usize,
    out: &'a Shared<'a, f32>,
}

impl Kernel for Whole<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Whole { call, task, out } = self;
        let tile = call.tile(task);
        let mut memory = SCRATCH.take();
        memory.resize(Scratch::size(call.padded, TILE) + 2 * call.partial_size(), 0.0);
        let (scratch, spans) = memory.split_at_mut(Scratch::size(call.padded, TILE));
        let (one, total) = spans.split_at_mut(call.partial_size());
        let mut scratch = Scratch::new(s, &call, tile, scratch);
        let mut one = Span::new(one, call.padded, TILE);
        let mut total = Span::new(total, call.padded, TILE);
        total.clear();
        for number in scratch.spans() {
            scratch.span(s, &call, tile, number, &mut one);
            total.join(s, &one, tile.rows);
        }
        call.write(s, tile, &total, out);
        SCRATCH.set(memory);
    }
}

/// One span of a tile.
struct OneSpan<'a> {
    call: Call<'a>,
    task: usize,
    partials: &'a Shared<'a, f32>,
}

impl Kernel for OneSpan<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let OneSpan { call, task, partials } = self;
        let tile = call.tile(task / call.spans);
        // SAFETY: every task has its own place.
        let partial = unsafe { partials.slice(task * call.partial_size(), call.partial_size()) };
        let mut memory = SCRATCH.take();
        memory.resize(Scratch::size(call.padded, TILE), 0.0);
        let mut scratch = Scratch::new(s, &call, tile, &mut memory);
        scratch.span(s, &call, tile, task % call.spans, &mut Span::new(partial, call.padded, TILE));
        SCRATCH.set(memory);
    }
}

/// The spans of a tile, made one.
struct Join<'a> {
    call: Call<'a>,
    task: usize,
    partials: &'a [f32],
    out: &'a Shared<'a, f32>,
}

impl Kernel for Join<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Join { call, task, partials, out } = self;
        let tile = call.tile(task);
        let size = call.partial_size();
        let mut memory = SCRATCH.take();
        memory.resize(2 * size, 0.0);
        let (one, total) = memory.split_at_mut(size);
        let mut total = Span::new(&mut total[..size], call.padded, TILE);
        total.clear();
        for number in 0..call.spans {
            one.copy_from_slice(&partials[(task * call.spans + number) * size..][..size]);
            total.join(s, &Span::new(one, call.padded, TILE), tile.rows);
        }
        call.write(s, tile, &total, out);
        SCRATCH.set(memory);
    }
}
