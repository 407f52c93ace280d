//! How fast the kernels are on this machine, at the shapes of SmolLM2-135M. Takes the best of several rounds.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for people to run by hand")]

use std::time::Instant;

use kernels::panels::{Packed, pack_bf16, pack_f32, pack_q4, pack_q8};
use kernels::{Level, product};

const LAYERS: usize = 30;

/// Outputs and inputs of a layer's matrices.
const LAYER: [(usize, usize); 4] = [(960, 576), (576, 576), (3072, 576), (576, 1536)];
const HEAD: (usize, usize) = (49152, 576);

/// Seconds of the fastest of some rounds.
fn best(rounds: usize, mut work: impl FnMut()) -> f64 {
    (0..rounds)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min)
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
            let mut by_shape = Vec::new();
            let mut run = |matrices: &[(Packed, (usize, usize))], rounds| {
                best(rounds, || {
                    for (packed, (n, k)) in matrices {
                        let matrix = packed.matrix().unwrap();
                        product(Level::best(), &x[..m * k], &matrix, &mut out[..m * n]).unwrap();
                    }
                })
            };
            let rounds = if m == 512 { 2 } else { 10 };
            let seconds = run(&matrices, rounds);
            for one in matrices[..4].iter().chain(matrices.last()) {
                let (n, k) = one.1;
                let seconds = run(std::slice::from_ref(one), 3 * rounds);
                by_shape.push(format!("{n}x{k} {:.0}", (2 * m * n * k) as f64 / seconds / 1e9));
            }
            let flops: usize = matrices.iter().map(|(_, (n, k))| 2 * m * n * k).sum();
            println!(
                "{kind} m {m}: all {:.2} ms, {:.0} GFLOP/s, {:.1} GB/s; alone, in GFLOP/s: {}",
                seconds * 1e3,
                flops as f64 / seconds / 1e9,
                size_bytes as f64 / seconds / 1e9,
                by_shape.join(", ")
            );
        }
    }
}

fn main() {
    println!("{:?}, {} threads", Level::best(), kernels::threads());
    products();
}
