//! How fast the kernels are on this machine, at the shapes of SmolLM2-135M.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for people to run by hand")]

use std::time::Instant;

use kernels::attention::{Pages, Queries, Scores, attention};
use kernels::pages::{Numbers, PageSizes};
use kernels::panels::{Packed, pack_bf16, pack_f32, pack_q4, pack_q8};
use kernels::{Level, product};

const LAYERS: usize = 30;

/// Outputs and inputs of a layer's matrices.
const LAYER: [(usize, usize); 4] = [(960, 576), (576, 576), (3072, 576), (576, 1536)];
const HEAD: (usize, usize) = (49152, 576);

/// Runs all pieces of work in turn, for some rounds, and adds up the seconds of each one's fastest: others use the
/// machine too, and a piece is short enough to run undisturbed now and then.
fn fastest(rounds: usize, count: usize, mut work: impl FnMut(usize)) -> f64 {
    let mut best = vec![f64::INFINITY; count];
    for _ in 0..rounds {
        for (piece, best) in best.iter_mut().enumerate() {
            let start = Instant::now();
            work(piece);
            *best = best.min(start.elapsed().as_secs_f64());
        }
    }
    best.iter().sum()
}

fn packed(kind: &str, (n, k): (usize, usize)) -> (Packed, usize) {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 16
    };
    match kind {
        "F32" | "BF16" => {
            let numbers: Vec<f32> = (0..n * k).map(|_| next() as f32 / 65536.0 - 0.5).collect();
            if kind == "F32" {
                (pack_f32(n, k, &numbers), 4 * n * k)
            } else {
                (pack_bf16(n, k, &numbers), 2 * n * k)
            }
        }
        _ => {
            let factors = vec![0.01; n * k / 32];
            if kind == "Q4" {
                let numbers: Vec<u8> = (0..n * k).map(|_| next() as u8 & 15).collect();
                let packed = pack_q4([n, k, 32], &numbers, &factors, &factors, true);
                (packed, n * k / 2 + n * k / 32 * 4)
            } else {
                let numbers: Vec<u8> = (0..n * k).map(|_| next() as u8).collect();
                let packed = pack_q8([n, k, 32], &numbers, &factors, &factors, true);
                (packed, n * k + n * k / 32 * 4)
            }
        }
    }
}

fn products() {
    for kind in ["F32", "BF16", "Q4", "Q8"] {
        let mut size_bytes = 0;
        let mut matrices = Vec::new();
        for shape in (0..LAYERS).flat_map(|_| LAYER).chain([HEAD]) {
            let (matrix, bytes) = packed(kind, shape);
            size_bytes += bytes;
            matrices.push((matrix, shape));
        }
        for m in [1, 8, 32, 512] {
            let x: Vec<f32> = (0..m * 1536).map(|i| (i % 97) as f32 / 97.0 - 0.5).collect();
            let mut out = vec![0.0; m * HEAD.0];
            let rounds = if m == 512 { 3 } else { 20 };
            let seconds = fastest(rounds, matrices.len(), |number| {
                let (packed, (n, k)) = &matrices[number];
                let matrix = packed.matrix().unwrap();
                product(Level::best(), &x[..m * k], &matrix, &mut out[..m * n]).unwrap();
            });
            let flops: usize = matrices.iter().map(|(_, (n, k))| 2 * m * n * k).sum();
            println!(
                "{kind} m {m}: {:.2} ms, {:.0} GFLOP/s, {:.1} GB/s",
                seconds * 1e3,
                flops as f64 / seconds / 1e9,
                size_bytes as f64 / seconds / 1e9,
            );
        }
    }
}

/// One layer's attention, over pages of other layers in turn, so that caches hold what they would.
fn attentions() {
    const KV_HEADS: usize = 3;
    const GROUP: usize = 3;
    const HEAD_DIM: usize = 64;
    const PAGE: usize = 16;
    let scores = Scores { scale: 0.125, window: 0, soft_cap: 0.0 };
    for (batch, seq, context) in
        [(1, 1, 512), (8, 1, 512), (32, 1, 512), (1, 1, 8192), (8, 1, 8192), (1, 512, 512)]
    {
        let blocks = context / PAGE;
        let sizes =
            PageSizes { pages: batch * blocks, page: PAGE, kv_heads: KV_HEADS, head_dim: HEAD_DIM };
        let count = sizes.pages * PAGE * KV_HEADS * HEAD_DIM;
        let layers = if batch * context > 100_000 { 4 } else { LAYERS };
        let table: Vec<i32> = (0..sizes.pages).map(|at| (at * 7 % sizes.pages) as i32).collect();
        let positions: Vec<i32> =
            (0..batch * seq).map(|at| (context - seq + at % seq) as i32).collect();
        let numbers: Vec<f32> = (0..batch * seq * KV_HEADS * GROUP * HEAD_DIM)
            .map(|at| (at % 101) as f32 / 101.0 - 0.5)
            .collect();
        let mut out = vec![0.0; numbers.len()];
        let plain: Vec<Vec<f32>> = (0..2 * layers)
            .map(|layer| (0..count).map(|at| ((at + layer) % 89) as f32 / 89.0 - 0.5).collect())
            .collect();
        let halves: Vec<Vec<u16>> = (0..2 * layers)
            .map(|layer| (0..count).map(|at| 0x3800 + ((at + layer) % 89) as u16).collect())
            .collect();
        for kind in ["f32", "f16"] {
            let width = if kind == "f32" { 4 } else { 2 };
            let seconds = fastest(20, layers, |layer| {
                let of = |number: usize| match kind {
                    "f32" => Numbers::F32(&plain[number]),
                    _ => Numbers::F16(&halves[number]),
                };
                let queries =
                    Queries { numbers: &numbers, batch, seq, group: GROUP, positions: &positions };
                let pages =
                    Pages { sizes, keys: of(2 * layer), values: of(2 * layer + 1), table: &table };
                attention(Level::best(), &queries, &pages, &scores, &mut out).unwrap();
            }) / layers as f64;
            let seen: usize = positions.iter().map(|at| *at as usize + 1).sum();
            let flops = 4 * seen * KV_HEADS * GROUP * HEAD_DIM;
            println!(
                "attention {kind} batch {batch} seq {seq} context {context}: {:.3} ms a layer, {:.0} GFLOP/s, {:.1} GB/s",
                seconds * 1e3,
                flops as f64 / seconds / 1e9,
                (2 * count * width) as f64 / seconds / 1e9
            );
        }
    }
}

fn main() {
    println!("{:?}, {} threads", Level::best(), kernels::threads());
    attentions();
    products();
}
