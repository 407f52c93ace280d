//! Sequences that are decoded together do not know of each other: rows at different positions give
//! what each gives alone, and an idle row leaves no trace.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use graph::Mesh;
use llm::ModelFiles;
use llm::models::{CacheShape, Layers};
use llm::programs::{self, ProgramOptions};
use runtime::{Array, Runtime};
use support::by_hand::{ByHand, greedy, integers};
use support::device::TOLERANCE;
use support::{device, golden};

const CAPACITY: usize = 64;
const CHUNK: usize = 16;
/// Places of a program's results.
const TOKEN: usize = 0;
const POSITION: usize = 1;
const LOG_PROB: usize = 2;
const SEEN: usize = 3;

/// Prefill and decode of so many sequences.
struct Rows {
    prefill: ByHand,
    decode: ByHand,
    batch: usize,
    vocab_size: usize,
}

/// The tokens of each row with their log-probabilities, and what is on the device.
struct Decoded {
    tokens: Vec<Vec<u32>>,
    log_probs: Vec<Vec<f64>>,
    positions: Vec<u32>,
    /// For each row, a mark for each token that is in it.
    seen: Vec<u8>,
    cache: Vec<Array>,
}

impl Rows {
    fn new(runtime: &Runtime, model: &str, layers: Layers, batch: usize) -> Rows {
        let files = ModelFiles::open(&golden::model(model)).unwrap();
        let options = ProgramOptions { layers, mesh: Mesh::single(), ..device::options() };
        let shape = CacheShape { batch, capacity: CAPACITY };
        let prefill = programs::prefill(&files.config, &options, shape, CHUNK).unwrap();
        let decode = programs::decode(&files.config, &options, shape).unwrap();
        Rows {
            prefill: ByHand::new(runtime, &files, prefill),
            decode: ByHand::new(runtime, &files, decode),
            batch,
            vocab_size: files.config.vocab_size,
        }
    }

    /// Prefills the prompts and decodes `steps` tokens greedily.
    fn run(&self, prompts: &[Vec<u32>], steps: usize) -> Decoded {
        assert_eq!(prompts.len(), self.batch);
        let padded = prompts.iter().flat_map(|prompt| {
            assert!(prompt.len() <= CHUNK);
            let padding = std::iter::repeat_n(1, CHUNK - prompt.len());
            prompt.iter().copied().chain(padding)
        });
        let lengths: Vec<u32> = prompts.iter().map(|prompt| prompt.len() as u32).collect();
        let padded: Vec<u32> = padded.collect();
        let mut data = vec![integers(&padded), vec![0; 4 * self.batch], integers(&lengths)];
        data.extend(greedy(self.batch, self.vocab_size));
        let first = self.prefill.run(&data, &self.prefill.empty_cache());
        let mut decoded = Decoded {
            tokens: vec![first.integers(TOKEN)],
            log_probs: vec![first.numbers(LOG_PROB)],
            positions: first.integers(POSITION),
            seen: first.bytes(SEEN),
            cache: first.cache,
        };
        for _ in 0..steps {
            decoded = self.step(decoded);
        }
        decoded
    }

    fn step(&self, before: Decoded) -> Decoded {
        let Decoded { mut tokens, mut log_probs, positions, seen, cache } = before;
        let last = tokens.last().unwrap();
        let mut data = vec![integers(last), integers(&positions)];
        data.extend(greedy(self.batch, self.vocab_size));
        *data.last_mut().unwrap() = seen;
        let next = self.decode.run(&data, &cache);
        tokens.push(next.integers(TOKEN));
        log_probs.push(next.numbers(LOG_PROB));
        let (positions, seen) = (next.integers(POSITION), next.bytes(SEEN));
        Decoded { tokens, log_probs, positions, seen, cache: next.cache }
    }
}

const MODELS: [(&str, Layers); 5] = [
    ("llama", Layers::Unrolled),
    ("llama", Layers::Scanned),
    ("mistral_window", Layers::Scanned),
    ("qwen2_window_in_upper_layers", Layers::Unrolled),
    ("qwen3", Layers::Scanned),
];

#[test]
fn rows_give_what_each_gives_alone() {
    let Some(runtime) = device::runtime("rows_give_what_each_gives_alone") else { return };
    for (model, layers) in MODELS {
        let together = Rows::new(&runtime, model, layers, 3);
        let alone = Rows::new(&runtime, model, layers, 1);
        let prompts = [2, 11, 16].map(|length| golden::tokens(length, 1, together.vocab_size));
        let decoded = together.run(&prompts, 20);
        assert_eq!(decoded.positions, [2, 11, 16].map(|length| length + 20));
        for (row, prompt) in prompts.into_iter().enumerate() {
            let single = alone.run(&[prompt], 20);
            for step in 0..21 {
                let here = format!("{model}, {layers:?}, row {row}, step {step}");
                assert_eq!(decoded.tokens[step][row], single.tokens[step][0], "{here}");
                let (found, expected) = (decoded.log_probs[step][row], single.log_probs[step][0]);
                assert!((found - expected).abs() <= TOLERANCE, "{here}: {found}, not {expected}");
            }
        }
    }
}

/// The part of every cache tensor that belongs to `row`; batch is the outermost axis.
fn cache_of(row: usize, cache: &[Array]) -> Vec<Vec<u8>> {
    let part = |array: &Array| {
        assert_eq!(array.shape().names()[0], "batch");
        let bytes = array.to_host().unwrap();
        let length = bytes.len() / array.shape().sizes()[0];
        bytes[row * length..][..length].to_vec()
    };
    cache.iter().map(part).collect()
}

#[test]
fn an_idle_row_leaves_no_trace() {
    let Some(runtime) = device::runtime("an_idle_row_leaves_no_trace") else { return };
    for (model, layers) in MODELS {
        let here = format!("{model}, {layers:?}");
        let rows = Rows::new(&runtime, model, layers, 2);
        let alone = Rows::new(&runtime, model, layers, 1);
        let prompts = [9, 5].map(|length| golden::tokens(length, 2, rows.vocab_size));
        let mut decoded = rows.run(&prompts, 4);
        let (idle, busy) = (cache_of(0, &decoded.cache), cache_of(1, &decoded.cache));
        let seen = decoded.seen[..rows.vocab_size].to_vec();
        for _ in 0..3 {
            decoded.positions[0] = CAPACITY as u32;
            decoded = rows.step(decoded);
        }
        assert!(idle == cache_of(0, &decoded.cache), "{here}: the idle row was written to");
        assert!(busy != cache_of(1, &decoded.cache), "{here}: the busy row was not");
        assert!(seen == decoded.seen[..rows.vocab_size], "{here}: the idle row saw a token");
        let single = alone.run(&prompts[1..], 7);
        for (step, (found, expected)) in decoded.tokens.iter().zip(&single.tokens).enumerate() {
            assert_eq!(found[1], expected[0], "{here}, step {step}");
        }
    }
}

/// What is beyond a prompt in its chunk is neither attended to nor marked as seen.
#[test]
fn padding_is_nothing() {
    let Some(runtime) = device::runtime("padding_is_nothing") else { return };
    let rows = Rows::new(&runtime, "llama", Layers::Unrolled, 2);
    let prompts = [3, 12].map(|length| golden::tokens(length, 3, rows.vocab_size));
    let run = |padding: u32| {
        let padded: Vec<u32> = prompts
            .iter()
            .flat_map(|prompt| {
                let padding = std::iter::repeat_n(padding, CHUNK - prompt.len());
                prompt.iter().copied().chain(padding)
            })
            .collect();
        let mut data = vec![integers(&padded), vec![0; 8], integers(&[3, 12])];
        data.extend(greedy(2, rows.vocab_size));
        let results = rows.prefill.run(&data, &rows.prefill.empty_cache());
        (results.integers(TOKEN), results.integers(LOG_PROB), results.bytes(SEEN))
    };
    let results = run(1);
    assert_eq!(results, run(77));
    for (row, prompt) in prompts.iter().enumerate() {
        let seen = &results.2[row * rows.vocab_size..][..rows.vocab_size];
        let marked = (0u32..).zip(seen).filter(|(_, mark)| **mark != 0).map(|(token, _)| token);
        let mut expected = prompt.clone();
        expected.sort_unstable();
        expected.dedup();
        assert_eq!(marked.collect::<Vec<_>>(), expected);
    }
}
