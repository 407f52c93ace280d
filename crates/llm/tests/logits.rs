//! Log-probabilities and greedy tokens of tiny checkpoints of every family, against `transformers`
//! (`tests/goldens`).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::print_stdout, reason = "a test's findings are printed")]

mod support;

use graph::{AttentionKernel, Blocks};
use llm::engine::{Engine, Sampling};
use llm::models::Layers;
use support::device::TOLERANCE;
use support::golden::{Expected, Top};
use support::{device, golden};

/// Fewer keys than a cache here holds, so that attention takes several blocks.
const SMALL_BLOCK: usize = 16;

/// One test for each folder of checkpoints.
macro_rules! families {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                check(stringify!($name));
            }
        )*

        const FAMILIES: &[&str] = &[$(stringify!($name)),*];
    };
}

families!(
    llama,
    llama_8_kv_heads,
    llama_bf16,
    llama_biases,
    llama_f16,
    llama_head_dim,
    llama_mha,
    llama_rope_linear,
    llama_rope_llama3,
    llama_rope_llama3_old_spelling,
    llama_sharded,
    llama_tied,
    mistral,
    mistral_window,
    qwen2,
    qwen2_window_in_upper_layers,
    qwen3,
    smollm2,
);

#[test]
fn every_checkpoint_has_a_test() {
    let entries = std::fs::read_dir(golden::models()).unwrap();
    let mut folders: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    folders.sort();
    assert_eq!(folders, FAMILIES);
}

fn check(name: &str) {
    let Some(runtime) = device::runtime(name) else { return };
    let expected = golden::expected(name);
    let default = device::options();
    let mut scanned = default.clone();
    scanned.layers = Layers::Scanned;
    let mut blocks = default.clone();
    blocks.kernels.attention = AttentionKernel::Portable(Blocks::of(SMALL_BLOCK));
    let mut worst: f64 = 0.0;
    for (what, options) in [("unrolled", default), ("scanned", scanned)] {
        let engine = device::engine(&golden::model(name), &runtime, &options);
        for index in 0..expected.token_ids.len() {
            worst = worst.max(compare_scores(&engine, &expected, index, what));
        }
        compare_greedy(&engine, &expected, what);
    }
    // Decoding by blocks is compared with scoring (decode_equals_score.rs).
    let engine = device::engine(&golden::model(name), &runtime, &blocks);
    worst = worst.max(compare_scores(&engine, &expected, expected.token_ids.len() - 1, "blocks"));
    println!("{name}: log-probabilities deviate by {worst:.2e} at most");
}

/// The largest deviation of a log-probability of one prompt.
fn compare_scores(engine: &Engine, expected: &Expected, index: usize, what: &str) -> f64 {
    let tokens = &expected.token_ids[index];
    let (log_probs, top) = (&expected.log_probs[index], &expected.top[index]);
    let scores = engine.score(tokens, top[0].ids.len()).unwrap();
    assert_eq!(scores.len(), tokens.len());
    assert_eq!((scores[0].log_prob, scores[0].top.len()), (None, 0));
    let mut worst: f64 = 0.0;
    for (place, score) in scores.iter().enumerate().skip(1) {
        let here = format!("{what}, prompt {index}, place {place}");
        assert_eq!(score.token, tokens[place], "{here}");
        let found = f64::from(score.log_prob.unwrap());
        let deviation = (found - log_probs[place - 1]).abs();
        assert!(deviation <= TOLERANCE, "{here}: {found}, not {}", log_probs[place - 1]);
        worst = worst.max(deviation);
        let Top { ids, log_probs } = &top[place - 1];
        assert_eq!(score.top.len(), ids.len(), "{here}");
        for (rank, found) in score.top.iter().enumerate() {
            let deviation = (f64::from(found.log_prob) - log_probs[rank]).abs();
            assert!(deviation <= TOLERANCE, "{here}: {:?}, not {log_probs:?}", score.top);
            worst = worst.max(deviation);
            let is_near = |other: &f64| (other - log_probs[rank]).abs() <= TOLERANCE;
            // The golden's own neighbours may change places where rounding decides.
            let may_differ = log_probs.iter().filter(|other| is_near(other)).count() > 1;
            assert!(may_differ || found.token == ids[rank], "{here}: {:?}, not {ids:?}", score.top);
        }
    }
    worst
}

fn compare_greedy(engine: &Engine, expected: &Expected, what: &str) {
    let greedy = &expected.greedy;
    let mut tokens = Vec::new();
    let mut session = engine.session();
    session
        .generate(&greedy.prompt, greedy.token_ids.len(), &Sampling::default(), &[], |generated| {
            tokens.push(generated.token);
            true
        })
        .unwrap();
    assert_eq!(tokens.len(), greedy.token_ids.len(), "{what}");
    let parting = tokens.iter().zip(&greedy.token_ids).position(|(ours, theirs)| ours != theirs);
    if let Some(place) = parting {
        let margin = greedy.margins[place];
        // After the first token that rounding decides, the texts have nothing to do with each other.
        assert!(margin < TOLERANCE, "{what}: parts at {place}, where the margin is {margin}");
        println!("{what}: parts at {place} with margin {margin:.1e}");
    }
}
