//! A span of keys for a tile of queries: blocks of keys and values as plain numbers, products in registers.

use std::ops::Range;

use super::exponential::exponential;
use super::number::{Number, OfBf16, OfF16, OfF32, load_part, prefetch};
use super::softmax::{Running, weigh};
use super::{BLOCK, Call, SPAN, Tile};
use crate::pages::Numbers;
use crate::simd::{LANES, Simd};

const VECTORS: usize = BLOCK / LANES;

const NOWHERE: usize = usize::MAX;

/// The softmax of some queries over some keys, without its last division.
pub(super) struct Span<'a> {
    /// `[rows, padded]`: values times weights.
    values: &'a mut [f32],
    /// `[rows, 16]`: sums of weights, by lane.
    sums: &'a mut [[f32; LANES]],
    /// `[rows]`: the greatest score; negative infinity if no key was seen.
    peaks: &'a mut [f32],
    padded: usize,
}

impl<'a> Span<'a> {
    /// Numbers of a row.
    pub(super) fn row_size(padded: usize) -> usize {
        padded + LANES + 1
    }

    #[inline(always)]
    pub(super) fn new(memory: &'a mut [f32], padded: usize, rows: usize) -> Span<'a> {
        let (values, rest) = memory.split_at_mut(rows * padded);
        let (sums, peaks) = rest.split_at_mut(rows * LANES);
        Span { values, sums: sums.as_chunks_mut().0, peaks, padded }
    }

    /// No key was seen.
    #[inline(always)]
    pub(super) fn clear(&mut self) {
        self.values.fill(0.0);
        self.sums.fill([0.0; LANES]);
        self.peaks.fill(f32::NEG_INFINITY);
    }

    /// Takes in the span behind.
    #[inline(always)]
    pub(super) fn join<S: Simd>(&mut self, s: S, next: &Span<'_>, rows: usize) {
        for row in 0..rows {
            let (before, behind) = (self.peaks[row], next.peaks[row]);
            // A query that saw nothing there must stay as it is, whether its span was computed or not.
            if behind == f32::NEG_INFINITY {
                continue;
            }
            let peak = if before > behind { before } else { behind };
            let before = exponential(s, s.sub(s.splat(before), s.splat(peak)));
            let behind = exponential(s, s.sub(s.splat(behind), s.splat(peak)));
            let place = row * self.padded..(row + 1) * self.padded;
            let to = self.values[place.clone()].as_chunks_mut().0;
            let from = next.values[place].as_chunks().0;
            for (to, from) in to.iter_mut().zip(from) {
                s.store(s.mul_add(s.load(from), behind, s.mul(s.load(to), before)), to);
            }
            let sum = s.mul(s.load(&self.sums[row]), before);
            let sum = s.mul_add(s.load(&next.sums[row]), behind, sum);
            s.store(sum, &mut self.sums[row]);
            self.peaks[row] = peak;
        }
    }

    /// Writes what a query gets.
    #[inline(always)]
    pub(super) fn finish<S: Simd>(&self, s: S, row: usize, to: &mut [f32]) {
        let inverse = 1.0 / s.sum(s.load(&self.sums[row]));
        for (to, value) in to.iter_mut().zip(&self.values[row * self.padded..]) {
            // Whether a zero is negative can depend on keys that were not seen; adding zero makes all the same.
            *to = value * inverse + 0.0;
        }
    }
}

/// What a tile needs besides its spans.
pub(super) struct Scratch<'a> {
    /// `[rows, padded]`.
    queries: &'a mut [f32],
    /// `[padded, BLOCK]`.
    keys: &'a mut [f32],
    /// Where in the pages a block's keys, and values, are; [`NOWHERE`] for those that no query sees.
    places: [usize; BLOCK],
    /// The same for the block behind it.
    next_places: [usize; BLOCK],
    /// `[rows]` of products, then weights.
    weights: &'a mut [[f32; BLOCK]],
    /// Per row, the keys that it sees: first, and one behind the last.
    seen: Vec<Range<usize>>,
}

impl<'a> Scratch<'a> {
    pub(super) fn size(padded: usize, rows: usize) -> usize {
        rows * padded + BLOCK * padded + rows * BLOCK
    }

    #[inline(always)]
    pub(super) fn new<S: Simd>(_: S, call: &Call<'_>, tile: Tile, memory: &'a mut [f32]) -> Self {
        let padded = call.padded;
        let (keys, rest) = memory.split_at_mut(BLOCK * padded);
        let (queries, rest) = rest.split_at_mut(tile.rows * padded);
        let weights = rest.as_chunks_mut().0;
        let head_dim = call.pages.sizes.head_dim;
        let mut seen = Vec::with_capacity(tile.rows);
        for row in 0..tile.rows {
            let query = &mut queries[row * padded..(row + 1) * padded];
            query[..head_dim]
                .copy_from_slice(&call.queries.numbers[call.place(tile, row)..][..head_dim]);
            query[head_dim..].fill(0.0);
            seen.push(match call.position(tile, row) {
                Some(position) => call.scores.first_key(position)..position + 1,
                None => 0..0,
            });
        }
        Scratch {
            queries,
            keys,
            places: [NOWHERE; BLOCK],
            next_places: [NOWHERE; BLOCK],
            weights,
            seen,
        }
    }

    /// The spans in which any query sees a key.
    #[inline(always)]
    pub(super) fn spans(&self) -> Range<usize> {
        let all = together(&self.seen);
        all.start / SPAN..all.end.div_ceil(SPAN)
    }

    /// Span number `number`.
    #[inline(always)]
    pub(super) fn span<S: Simd>(
        &mut self,
        s: S,
        call: &Call<'_>,
        tile: Tile,
        number: usize,
        span: &mut Span<'_>,
    ) {
        match (call.pages.keys, call.pages.values) {
            (Numbers::F32(keys), Numbers::F32(values)) => {
                self.span_of::<S, OfF32>(s, call, tile, number, (keys, values), span);
            }
            (Numbers::Bf16(keys), Numbers::Bf16(values)) => {
                self.span_of::<S, OfBf16>(s, call, tile, number, (keys, values), span);
            }
            (Numbers::F16(keys), Numbers::F16(values)) => {
                self.span_of::<S, OfF16>(s, call, tile, number, (keys, values), span);
            }
            // Refused before.
            _ => {}
        }
    }

    #[inline(always)]
    fn span_of<S: Simd, N: Number>(
        &mut self,
        s: S,
        call: &Call<'_>,
        tile: Tile,
        number: usize,
        (keys, values): (&[N::Kept], &[N::Kept]),
        span: &mut Span<'_>,
    ) {
        span.clear();
        for start in (number * SPAN..(number + 1) * SPAN).step_by(BLOCK) {
            // The rows that see a key of this block, and which keys, counted from its first.
            let mut rows = [0; super::TILE];
            let mut seen = [const { 0..0 }; super::TILE];
            let mut count = 0;
            for (row, all) in self.seen.iter().enumerate() {
                let (first, end) = (all.start.max(start), all.end.min(start + BLOCK));
                if first < end {
                    rows[count] = row;
                    seen[count] = first - start..end - start;
                    count += 1;
                }
            }
            if count == 0 {
                continue;
            }
            let any = together(&seen[..count]);
            self.find(call, tile, start, any.clone());
            self.turn::<S, N>(s, keys, call.pages.sizes.token(), call.pages.sizes.head_dim);
            let mut faded = [0.0; super::TILE];
            let rows = &rows[..count];
            tiles!(S, rows, |at, R| self.score::<S, N, R>(
                s,
                call.padded,
                &rows[at..],
                keys,
                at == 0
            ));
            for (at, &row) in rows.iter().enumerate() {
                let running = Running { peak: &mut span.peaks[row], sum: &mut span.sums[row] };
                let block = &mut self.weights[row];
                faded[at] = weigh(s, call.scores, block, seen[at].clone(), running);
            }
            let head_dim = call.pages.sizes.head_dim;
            tiles!(S, rows, |at, R| {
                let part = Part {
                    rows: &rows[at..],
                    faded: &faded[at..],
                    any: any.clone(),
                    head_dim,
                    is_first: at == 0,
                };
                self.add_values::<S, N, R>(s, part, values, span);
            });
        }
    }

    /// Finds where the keys of a block, and of the next, are.
    #[inline(always)]
    fn find(&mut self, call: &Call<'_>, tile: Tile, start: usize, any: Range<usize>) {
        let sizes = call.pages.sizes;
        let blocks = call.pages.table.len() / call.queries.batch;
        let table = &call.pages.table[tile.sequence * blocks..][..blocks];
        let place_of = |key: usize| {
            let page = table[key / sizes.page] as usize;
            (page * sizes.page + key % sizes.page) * sizes.token() + tile.head * sizes.head_dim
        };
        self.places = [NOWHERE; BLOCK];
        for key in any {
            self.places[key] = place_of(start + key);
        }
        self.next_places = [NOWHERE; BLOCK];
        let next_end = together(&self.seen).end.min(start + 2 * BLOCK);
        for key in start + BLOCK..next_end {
            self.next_places[key - start - BLOCK] = place_of(key);
        }
    }

    /// Turns a block's keys, so that a vector holds one number of 16 keys; zeros where no query looks.
    #[inline(always)]
    fn turn<S: Simd, N: Number>(&mut self, s: S, keys: &[N::Kept], token: usize, head_dim: usize) {
        let padded = head_dim.next_multiple_of(LANES);
        for (group, places) in self.places.as_chunks::<LANES>().0.iter().enumerate() {
            // As a rule all 16 lie in one page, one behind the other.
            let is_run = places[0] != NOWHERE
                && padded == head_dim
                && (1..LANES).all(|key| places[key] == places[0].wrapping_add(key * token));
            for chunk in 0..padded / LANES {
                let mut rows = [s.splat(0.0); LANES];
                if is_run {
                    let from = &keys[places[0] + chunk * LANES..][..(LANES - 1) * token + LANES];
                    for row in 0..LANES {
                        rows[row] = N::load(s, &from[row * token..].as_chunks().0[0]);
                    }
                } else {
                    for (row, &place) in rows.iter_mut().zip(places) {
                        if let Some(head) = keys.get(place..) {
                            *row = load_part::<S, N>(s, &head[..head_dim], chunk);
                        }
                    }
                }
                let columns = s.transpose(rows);
                for (within, column) in columns.into_iter().enumerate() {
                    let place = (chunk * LANES + within) * BLOCK + group * LANES;
                    s.store(column, &mut self.keys[place..].as_chunks_mut().0[0]);
                }
            }
        }
    }

    /// Products of `R` rows with the block's keys.
    #[inline(always)]
    fn score<S: Simd, N: Number, const R: usize>(
        &mut self,
        s: S,
        padded: usize,
        rows: &[usize],
        all_keys: &[N::Kept],
        is_first: bool,
    ) {
        let mut queries: [&[f32]; R] = [&[]; R];
        for (query, row) in queries.iter_mut().zip(rows) {
            *query = &self.queries[row * padded..][..padded];
        }
        let mut sums = [[s.splat(0.0); VECTORS]; R];
        for (place, keys) in self.keys.as_chunks::<BLOCK>().0[..padded].iter().enumerate() {
            // No processor guesses where the next block lies, so it is asked for while this one is at work.
            if is_first && let Some(&next) = self.next_places.get(place) {
                prefetch(s, all_keys, next, padded);
            }
            let keys = keys.as_chunks::<LANES>().0;
            let mut vectors = [s.splat(0.0); VECTORS];
            for vector in 0..VECTORS {
                vectors[vector] = s.load(&keys[vector]);
            }
            for row in 0..R {
                let query = s.splat(queries[row][place]);
                for vector in 0..VECTORS {
                    sums[row][vector] = s.mul_add(query, vectors[vector], sums[row][vector]);
                }
            }
        }
        for (sums, &row) in sums.iter().zip(rows) {
            let to = self.weights[row].as_chunks_mut::<LANES>().0;
            for vector in 0..VECTORS {
                s.store(sums[vector], &mut to[vector]);
            }
        }
    }

    /// Adds the values of the keys in `any`, weighted, for `R` rows.
    #[inline(always)]
    fn add_values<S: Simd, N: Number, const R: usize>(
        &self,
        s: S,
        part: Part<'_>,
        values: &[N::Kept],
        span: &mut Span<'_>,
    ) {
        let chunks = span.padded / LANES;
        let mut chunk = 0;
        while chunk < chunks {
            if part.head_dim >= (chunk + 4) * LANES {
                self.add_chunks::<S, N, R, 4>(s, &part, values, span, chunk);
                chunk += 4;
            } else {
                self.add_chunks::<S, N, R, 1>(s, &part, values, span, chunk);
                chunk += 1;
            }
        }
    }

    /// As [`Scratch::add_values`], for `C` vectors of the values from number `first` on.
    #[inline(always)]
    fn add_chunks<S: Simd, N: Number, const R: usize, const C: usize>(
        &self,
        s: S,
        part: &Part<'_>,
        values: &[N::Kept],
        span: &mut Span<'_>,
        first: usize,
    ) {
        let padded = span.padded;
        let mut weights = [&self.weights[0]; R];
        let mut sums = [[s.splat(0.0); C]; R];
        for row in 0..R {
            weights[row] = &self.weights[part.rows[row]];
            let place = part.rows[row] * padded + first * LANES;
            let before = span.values[place..].as_chunks::<LANES>().0;
            for chunk in 0..C {
                sums[row][chunk] = s.mul(s.load(&before[chunk]), s.splat(part.faded[row]));
            }
        }
        for key in part.any.start..part.any.end.min(BLOCK) {
            if part.is_first && first == 0 {
                prefetch(s, values, self.next_places[key], part.head_dim);
            }
            let head = &values[self.places[key]..][..part.head_dim];
            let mut vectors = [s.splat(0.0); C];
            if C > 1 {
                let from = head[first * LANES..].as_chunks().0;
                let from = &from[..C];
                for chunk in 0..C {
                    vectors[chunk] = N::load(s, &from[chunk]);
                }
            } else {
                vectors[0] = load_part::<S, N>(s, head, first);
            }
            for row in 0..R {
                let weight = s.splat(weights[row][key]);
                for chunk in 0..C {
                    sums[row][chunk] = s.mul_add(weight, vectors[chunk], sums[row][chunk]);
                }
            }
        }
        for row in 0..R {
            let place = part.rows[row] * padded + first * LANES;
            let to = span.values[place..].as_chunks_mut::<LANES>().0;
            for chunk in 0..C {
                s.store(sums[row][chunk], &mut to[chunk]);
            }
        }
    }
}

/// Some rows, and the keys that any of them sees.
struct Part<'a> {
    rows: &'a [usize],
    /// What the sums so far are multiplied with.
    faded: &'a [f32],
    any: Range<usize>,
    head_dim: usize,
    /// Whether these are the block's first rows.
    is_first: bool,
}

/// From the first start to the last end.
#[inline(always)]
fn together(ranges: &[Range<usize>]) -> Range<usize> {
    let (mut start, mut end) = (usize::MAX, 0);
    for range in ranges {
        if range.start < range.end {
            start = start.min(range.start);
            end = end.max(range.end);
        }
    }
    start.min(end)..end
}

/// Calls for pieces of `$rows`: the largest first that registers have room for.
macro_rules! tiles {
    ($level:ident, $rows:expr, |$at:ident, $R:ident| $call:expr) => {{
        let mut $at = 0;
        if $level::IS_WIDE {
            while $at + 4 <= $rows.len() {
                const $R: usize = 4;
                $call;
                $at += $R;
            }
            // Three queries to a head of keys are common.
            while $at + 3 <= $rows.len() {
                const $R: usize = 3;
                $call;
                $at += $R;
            }
            while $at + 2 <= $rows.len() {
                const $R: usize = 2;
                $call;
                $at += $R;
            }
        }
        while $at < $rows.len() {
            const $R: usize = 1;
            $call;
            $at += $R;
        }
    }};
}
use tiles;
