//! Products and rows of packed matrices against sums in double precision, on every level of instructions.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod random;

use kernels::panels::{Matrix, Packed, Values, pack_bf16, pack_f32, pack_q4, pack_q8};
use kernels::{Level, product};
use random::Random;

/// A matrix, and the same as plain numbers.
struct Case {
    name: String,
    packed: Packed,
    weights: Vec<f32>,
    /// Columns that share a scale of the inputs; none where these are not rounded.
    group: Option<usize>,
}

fn cases(n: usize, k: usize, random: &mut Random) -> Vec<Case> {
    let weights: Vec<f32> = random.numbers(n * k);
    let mut cases = Vec::new();
    let mut case = |name: String, packed, weights, group| {
        cases.push(Case { name: format!("{name} {n}x{k}"), packed, weights, group });
    };
    case("f32".to_owned(), pack_f32(n, k, &weights), weights.clone(), None);
    let rounded: Vec<f32> = weights.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect();
    case("bf16".to_owned(), pack_bf16(n, k, &weights), rounded, None);
    for (bits, group, halves) in [
        (4, 32, true),
        (4, 32, false),
        (4, 16, false),
        (8, 32, true),
        (8, 16, true),
        (8, 16, false),
    ] {
        let half = |x: f32| if halves { half::f16::from_f32(x).to_f32() } else { x };
        let numbers: Vec<u8> =
            (0..n * k).map(|_| (random.next() >> 20) as u8 >> (8 - bits)).collect();
        let scales: Vec<f32> = random.numbers(n * k / group).iter().map(|x| x * 0.1).collect();
        let offsets = random.numbers(n * k / group);
        let pack = if bits == 4 { pack_q4 } else { pack_q8 };
        let packed = pack([n, k, group], &numbers, &scales, &offsets, halves);
        let weights = numbers
            .iter()
            .enumerate()
            .map(|(at, &q)| half(scales[at / group]) * f32::from(q) + half(offsets[at / group]))
            .collect();
        case(format!("q{bits} by {group}, halves {halves}"), packed, weights, Some(group));
    }
    cases
}

/// What the kernel makes of inputs: whole numbers times a scale per group.
fn rounded(x: &[f32], group: usize) -> Vec<f64> {
    x.chunks(group)
        .flat_map(|part| {
            let peak = part.iter().fold(0.0_f32, |peak, x| peak.max(x.abs()));
            let (scale, inverse) = (peak / 127.0, if peak > 0.0 { 127.0 / peak } else { 0.0 });
            part.iter()
                .map(|x| f64::from(scale) * f64::from((x * inverse).round_ties_even()))
                .collect::<Vec<_>>()
        })
        .collect()
}

fn run(level: Level, x: &[f32], matrix: &Matrix<'_>) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.len() / matrix.columns() * matrix.rows()];
    product(level, x, matrix, &mut out).unwrap();
    out
}

#[test]
fn products_are_right_on_every_level() {
    let mut random = Random::new(1);
    for (n, k) in [(1, 32), (16, 64), (17, 96), (50, 32), (131, 576)] {
        for case in cases(n, k, &mut random) {
            let matrix = case.packed.matrix().unwrap();
            for m in [1, 2, 3, 5, 8, 15, 33] {
                let x = random.numbers(m * k);
                let inputs = match case.group {
                    None => x.iter().map(|&x| f64::from(x)).collect(),
                    Some(group) => rounded(&x, group),
                };
                for level in Level::available() {
                    let out = run(level, &x, &matrix);
                    for row in 0..m {
                        for column in 0..n {
                            let weights = &case.weights[column * k..][..k];
                            let terms = inputs[row * k..].iter().zip(weights);
                            let terms = terms.map(|(x, &w)| x * f64::from(w));
                            let size: f64 = terms.clone().map(f64::abs).sum();
                            let expected: f64 = terms.sum();
                            // Scale and offset are added up apart, so terms may be larger than weights.
                            let error = (f64::from(out[row * n + column]) - expected).abs();
                            assert!(
                                error <= 1e-5 * (size + 1.0),
                                "{} {level:?} m {m}, row {row}, column {column}: off by {error}",
                                case.name
                            );
                        }
                    }
                    if case.group.is_some() {
                        // Rounding the inputs costs little.
                        let exact: f64 =
                            (0..k).map(|at| f64::from(x[at]) * f64::from(case.weights[at])).sum();
                        let norm = |of: &[f32]| of.iter().map(|x| x * x).sum::<f32>().sqrt();
                        let size = f64::from(norm(&x[..k]) * norm(&case.weights[..k]));
                        assert!((f64::from(out[0]) - exact).abs() < 0.02 * size, "{}", case.name);
                    }
                }
            }
        }
    }
}

/// To the last bit, and whoever else uses the threads.
#[test]
fn a_row_gets_the_same_in_any_company() {
    let mut random = Random::new(2);
    for (n, k) in [(50, 96), (700, 576)] {
        for case in cases(n, k, &mut random) {
            let matrix = case.packed.matrix().unwrap();
            for level in Level::available() {
                let x = random.numbers(40 * k);
                let alone: Vec<f32> =
                    x.chunks(k).flat_map(|row| run(level, row, &matrix)).collect();
                std::thread::scope(|scope| {
                    for thread in 0..2 {
                        let (x, alone, case) = (&x, &alone, &case);
                        scope.spawn(move || {
                            for m in (1..=40).filter(|m| m % 2 == thread) {
                                let out = run(level, &x[..m * k], &matrix);
                                assert!(same(&out, &alone[..m * n]), "{} {level:?} {m}", case.name);
                                let out = run(level, &x[(40 - m) * k..], &matrix);
                                let expected = &alone[(40 - m) * n..];
                                assert!(same(&out, expected), "{} {level:?} last {m}", case.name);
                            }
                        });
                    }
                });
            }
        }
    }
}

#[test]
fn many_rows_are_products_of_each() {
    let mut random = Random::new(3);
    let (n, k, m) = (33, 64, 1100);
    for case in cases(n, k, &mut random) {
        let matrix = case.packed.matrix().unwrap();
        let x = random.numbers(m * k);
        let out = run(Level::best(), &x, &matrix);
        for row in [0, 511, 512, 1023, 1024, 1099] {
            let alone = run(Level::best(), &x[row * k..(row + 1) * k], &matrix);
            assert!(same(&out[row * n..(row + 1) * n], &alone), "{} row {row}", case.name);
        }
    }
}

#[test]
fn a_flaw_in_the_inputs_is_not_rounded_away() {
    let mut random = Random::new(4);
    for case in cases(20, 64, &mut random) {
        let matrix = case.packed.matrix().unwrap();
        for level in Level::available() {
            for flaw in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = random.numbers(3 * 64);
                x[64 + 5] = flaw;
                let out = run(level, &x, &matrix);
                assert!(out[..20].iter().all(|x| x.is_finite()), "{}", case.name);
                assert!(out[20..40].iter().all(|x| !x.is_finite()), "{} {flaw}", case.name);
            }
            // Nothing is divided by zero.
            let out = run(level, &[0.0; 64], &matrix);
            assert!(out.iter().all(|x| *x == 0.0), "{}", case.name);
        }
    }
}

#[test]
fn rows_are_read_as_they_were_packed() {
    let mut random = Random::new(5);
    for (n, k) in [(17, 32), (40, 96)] {
        for case in cases(n, k, &mut random) {
            let matrix = case.packed.matrix().unwrap();
            let mut row = vec![f32::NAN; k];
            for number in 0..n {
                matrix.read_row(number, &mut row);
                assert_eq!(row, &case.weights[number * k..][..k], "{} row {number}", case.name);
            }
            for number in [n, n + 1, usize::MAX] {
                matrix.read_row(number, &mut row);
                assert!(row.iter().all(|x| *x == 0.0));
            }
        }
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let packed = pack_f32(20, 32, &[1.0; 640]);
    let matrix = packed.matrix().unwrap();
    let refused = |x: usize, out: usize| {
        product(Level::best(), &vec![1.0; x], &matrix, &mut vec![0.0; out]).unwrap_err()
    };
    assert!(refused(33, 20).contains("do not fit a matrix of 20 x 32"));
    assert!(refused(32, 21).contains("do not fit"));
    let wrong = |rows, columns| Matrix::new(rows, columns, packed.values()).unwrap_err();
    assert!(wrong(33, 32).contains("takes 1536"));
    assert!(wrong(20, 0).contains("0 columns"));
    assert!(wrong(usize::MAX / 2, 32).contains("larger than memory"));
    let packed = pack_q4([16, 64, 32], &[1; 1024], &[1.0; 32], &[1.0; 32], true);
    let Values::Q4(mut quantized) = packed.values() else { panic!() };
    assert!(Matrix::new(16, 48, Values::Q4(quantized)).unwrap_err().contains("multiples of 32"));
    quantized.group = 64;
    assert!(Matrix::new(16, 64, Values::Q4(quantized)).unwrap_err().contains("only 16 and 32"));
    quantized.group = 16;
    assert!(Matrix::new(16, 64, Values::Q4(quantized)).unwrap_err().contains("scales"));
}

fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}
