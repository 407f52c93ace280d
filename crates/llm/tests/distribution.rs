//! The device's sampler draws from the distribution that its settings describe: many draws from fixed
//! logits against a plain reference, by Pearson's chi-square. Seeds are fixed, so the outcome is too.
//!
//! Each setting is as `transformers` defines it (its logits processors); where several are given,
//! their order is vLLM's: penalty, temperature, min-p, top-k, top-p.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use llm::ModelFiles;
use llm::engine::Sampling;
use llm::models::CacheShape;
use llm::programs;
use runtime::Runtime;
use support::by_hand::{ByHand, integers, numbers};
use support::{device, fixed_logits};

const DRAWS: usize = 8192;

/// Two of them alike, some negative.
const LOGITS: [f32; 12] = [0.3, 1.9, -0.8, 1.1, 1.1, -1.6, 2.4, 0.0, -0.2, 0.75, -2.1, 1.4];

/// How many standard deviations above its mean the statistic may be: 4 is a chance of 1 in 30,000.
const SIGMA: f64 = 4.0;

/// One request for a draw.
#[derive(Clone)]
struct Row {
    sampling: Sampling,
    position: u32,
    seen: Vec<u32>,
}

/// A decode step of [`DRAWS`] sequences over a model of fixed logits.
struct Sampler {
    program: ByHand,
    /// Keeps the checkpoint.
    _model: tempfile::TempDir,
}

impl Sampler {
    fn new(runtime: &Runtime) -> Sampler {
        let model = fixed_logits::model(&LOGITS, 16);
        let files = ModelFiles::open(model.path()).unwrap();
        let shape = CacheShape { batch: DRAWS, capacity: 1 };
        let traced = programs::decode(&files.config, &device::options(), shape).unwrap();
        Sampler { program: ByHand::new(runtime, &files, traced), _model: model }
    }

    /// A token and its log-probability for each row.
    fn draw(&self, rows: &[Row]) -> (Vec<u32>, Vec<f64>) {
        assert_eq!(rows.len(), DRAWS);
        let each = |value: fn(&Sampling) -> f32| {
            numbers(&rows.iter().map(|row| value(&row.sampling)).collect::<Vec<_>>())
        };
        let whole = |value: fn(&Row) -> u32| integers(&rows.iter().map(value).collect::<Vec<_>>());
        let mut seen = vec![0; DRAWS * LOGITS.len()];
        for (row, marks) in rows.iter().zip(seen.chunks_mut(LOGITS.len())) {
            row.seen.iter().for_each(|&token| marks[token as usize] = 1);
        }
        let data = [
            // The step takes in token 0 and marks it as seen.
            vec![0; 4 * DRAWS],
            whole(|row| row.position),
            each(|sampling| sampling.temperature),
            whole(|row| row.sampling.top_k),
            each(|sampling| sampling.top_p),
            each(|sampling| sampling.min_p),
            each(|sampling| sampling.repetition_penalty),
            whole(|row| row.sampling.seed as u32),
            whole(|row| (row.sampling.seed >> 32) as u32),
            seen,
        ];
        let results = self.program.run(&data, &self.program.empty_cache());
        (results.integers(0), results.numbers(2))
    }
}

/// The probability of every token under the settings.
fn reference(row: &Row) -> Vec<f64> {
    let Sampling { temperature, top_k, top_p, min_p, repetition_penalty, .. } = row.sampling;
    let (penalty, temperature) = (f64::from(repetition_penalty), f64::from(temperature));
    let scores: Vec<f64> = (0u32..)
        .zip(LOGITS)
        .map(|(token, logit)| {
            let logit = f64::from(logit);
            let seen = token == 0 || row.seen.contains(&token);
            let penalized = if logit < 0.0 { logit * penalty } else { logit / penalty };
            (if seen { penalized } else { logit }) / temperature
        })
        .collect();
    let mut kept = softmax(&scores);
    let least = kept.iter().copied().fold(0.0, f64::max) * f64::from(min_p);
    kept.iter_mut().filter(|probability| **probability < least).for_each(|gone| *gone = 0.0);
    let mut sorted = scores.clone();
    sorted.sort_by(|a, b| b.total_cmp(a));
    if top_k > 0 && (top_k as usize) < scores.len() {
        // As good as the k-th best is good enough.
        let least = sorted[top_k as usize - 1];
        let pairs = kept.iter_mut().zip(&scores);
        pairs.filter(|(_, score)| **score < least).for_each(|(gone, _)| *gone = 0.0);
    }
    normalize(&mut kept);
    // The likeliest tokens until they add up to top-p, the one that gets there included.
    let before: Vec<f64> =
        kept.iter().map(|own| kept.iter().filter(|other| *other > own).sum()).collect();
    let pairs = kept.iter_mut().zip(before);
    pairs.filter(|(_, before)| *before >= f64::from(top_p)).for_each(|(gone, _)| *gone = 0.0);
    normalize(&mut kept);
    kept
}

fn softmax(scores: &[f64]) -> Vec<f64> {
    let mut weights: Vec<f64> = scores.iter().map(|score| score.exp()).collect();
    normalize(&mut weights);
    weights
}

fn normalize(weights: &mut [f64]) {
    let sum: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= sum);
}

/// How far the counts are from the probabilities: Pearson's statistic and what it may be.
fn chi_square(tokens: &[u32], probabilities: &[f64]) -> (f64, f64) {
    let mut statistic = 0.0;
    let mut kept = 0;
    for (token, probability) in (0u32..).zip(probabilities).filter(|(_, p)| **p > 0.0) {
        let expected = probability * tokens.len() as f64;
        assert!(expected >= 5.0, "too few draws for token {token}");
        let count = tokens.iter().filter(|drawn| **drawn == token).count() as f64;
        statistic += (count - expected).powi(2) / expected;
        kept += 1;
    }
    // Wilson and Hilferty, "The distribution of chi-square", 1931.
    let freedom = f64::from(kept - 1);
    let spread = 2.0 / (9.0 * freedom.max(1.0));
    (statistic, freedom * (1.0 - spread + SIGMA * spread.sqrt()).powi(3))
}

fn row(sampling: &Sampling, seen: &[u32], seed: u64) -> Row {
    Row { sampling: Sampling { seed, ..sampling.clone() }, position: 0, seen: seen.to_vec() }
}

fn seeded(sampling: &Sampling, seen: &[u32]) -> Vec<Row> {
    (0..DRAWS as u64).map(|seed| row(sampling, seen, seed)).collect()
}

fn settings() -> Vec<(Sampling, &'static [u32])> {
    let warm = Sampling { temperature: 1.0, ..Sampling::default() };
    vec![
        (warm.clone(), &[]),
        (Sampling { temperature: 0.7, ..warm.clone() }, &[]),
        (Sampling { temperature: 3.0, ..warm.clone() }, &[]),
        (Sampling { top_k: 2, ..warm.clone() }, &[]),
        // The fourth and the fifth are alike, so both stay.
        (Sampling { top_k: 4, ..warm.clone() }, &[]),
        (Sampling { top_k: 12, ..warm.clone() }, &[]),
        (Sampling { top_k: 1000, ..warm.clone() }, &[]),
        (Sampling { top_p: 0.3, ..warm.clone() }, &[]),
        (Sampling { top_p: 0.6, ..warm.clone() }, &[]),
        (Sampling { top_p: 0.95, ..warm.clone() }, &[]),
        (Sampling { min_p: 0.05, ..warm.clone() }, &[]),
        (Sampling { min_p: 0.3, ..warm.clone() }, &[]),
        (Sampling { repetition_penalty: 1.8, ..warm.clone() }, &[1, 5, 6]),
        (Sampling { temperature: 1.4, top_k: 6, top_p: 0.7, ..warm.clone() }, &[]),
        (Sampling { min_p: 0.2, top_p: 0.8, ..warm.clone() }, &[]),
        (
            Sampling {
                temperature: 0.9,
                top_k: 7,
                top_p: 0.9,
                min_p: 0.05,
                repetition_penalty: 1.3,
                seed: 0,
            },
            &[6, 2, 11],
        ),
    ]
}

#[test]
fn draws_follow_the_settings() {
    let Some(runtime) = device::runtime("draws_follow_the_settings") else { return };
    let sampler = Sampler::new(&runtime);
    let own = softmax(&LOGITS.map(f64::from));
    for (sampling, seen) in settings() {
        let rows = seeded(&sampling, seen);
        let (tokens, log_probs) = sampler.draw(&rows);
        let expected = reference(&rows[0]);
        for (token, log_prob) in tokens.iter().zip(log_probs) {
            let token = *token as usize;
            assert!(expected[token] > 0.0, "{sampling:?} drew {token}, which is excluded");
            // What is reported is the model's own, whatever the settings.
            assert!((log_prob - own[token].ln()).abs() < 1e-5, "{log_prob} for {token}");
        }
        let (statistic, limit) = chi_square(&tokens, &expected);
        assert!(statistic <= limit, "{sampling:?}: {statistic:.1} above {limit:.1}");
    }
}

/// The same draws are no sample of a distribution that differs a little.
#[test]
fn the_test_of_draws_can_fail() {
    let Some(runtime) = device::runtime("the_test_of_draws_can_fail") else { return };
    let sampler = Sampler::new(&runtime);
    let warm = Sampling { temperature: 1.0, ..Sampling::default() };
    let (tokens, _) = sampler.draw(&seeded(&warm, &[]));
    for temperature in [0.9, 1.1] {
        let sampling = Sampling { temperature, ..warm.clone() };
        let (statistic, limit) = chi_square(&tokens, &reference(&row(&sampling, &[], 0)));
        assert!(statistic > limit, "temperature {temperature}: {statistic:.1} below {limit:.1}");
    }
}

/// Positions under one seed are as good as seeds, and so are the upper halves of seeds.
#[test]
fn noise_is_independent() {
    let Some(runtime) = device::runtime("noise_is_independent") else { return };
    let sampler = Sampler::new(&runtime);
    let warm = Sampling { temperature: 1.0, ..Sampling::default() };
    let expected = reference(&row(&warm, &[], 0));
    let draw = |change: fn(u32, &mut Row)| {
        let mut rows = seeded(&warm, &[]);
        (0..).zip(&mut rows).for_each(|(index, row)| change(index, row));
        sampler.draw(&rows).0
    };
    let seeds = draw(|_, _| {});
    let positions = draw(|index, row| {
        row.sampling.seed = 5;
        row.position = index;
    });
    let upper_halves = draw(|index, row| row.sampling.seed = u64::from(index) << 32);
    for tokens in [&seeds, &positions, &upper_halves] {
        let (statistic, limit) = chi_square(tokens, &expected);
        assert!(statistic <= limit, "{statistic:.1} above {limit:.1}");
    }
    // Two that are independent agree as often as chance has it.
    let chance: f64 = expected.iter().map(|probability| probability * probability).sum();
    let spread = (chance * (1.0 - chance) / DRAWS as f64).sqrt();
    for (left, right) in
        [(&seeds, &positions), (&seeds, &upper_halves), (&positions, &upper_halves)]
    {
        let agree = left.iter().zip(right).filter(|(left, right)| left == right).count();
        let agree = agree as f64 / DRAWS as f64;
        assert!((agree - chance).abs() < SIGMA * spread, "{agree} instead of {chance}");
    }
    // A draw and the next one of the same sequence are independent too.
    let pairs = positions.windows(2).filter(|pair| pair[0] == pair[1]).count();
    let agree = pairs as f64 / (DRAWS - 1) as f64;
    assert!((agree - chance).abs() < SIGMA * spread, "{agree} instead of {chance}");
}

/// A row's token follows from its own settings, whatever the other rows' are.
#[test]
fn rows_have_settings_of_their_own() {
    let Some(runtime) = device::runtime("rows_have_settings_of_their_own") else { return };
    let sampler = Sampler::new(&runtime);
    let mut kinds = settings();
    kinds.push((Sampling::default(), &[3]));
    let alone: Vec<Vec<u32>> =
        kinds.iter().map(|(sampling, seen)| sampler.draw(&seeded(sampling, seen)).0).collect();
    let rows: Vec<Row> = (0..DRAWS)
        .map(|number| {
            let (sampling, seen) = &kinds[number % kinds.len()];
            row(sampling, seen, number as u64)
        })
        .collect();
    let (mixed, _) = sampler.draw(&rows);
    let expected: Vec<u32> = (0..DRAWS).map(|row| alone[row % kinds.len()][row]).collect();
    assert_eq!(mixed, expected);
}
