//! Drawing tokens: settings that leave one choice are greedy, seeds decide everything, and the
//! penalty is Hugging Face's. The distribution itself is tested in `distribution.rs`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use llm::engine::{Engine, Sampling};
use support::{device, fixed_logits, golden};

const PROMPT: [u32; 5] = [17, 4, 99, 201, 32];

fn generate(engine: &Engine, prompt: &[u32], count: usize, sampling: &Sampling) -> Vec<u32> {
    let mut tokens = Vec::new();
    let keep = |generated: llm::engine::Generated| {
        tokens.push(generated.token);
        true
    };
    engine.session().generate(prompt, count, sampling, &[], keep).unwrap();
    tokens
}

fn warm(seed: u64) -> Sampling {
    Sampling { temperature: 1.0, seed, ..Sampling::default() }
}

#[test]
fn settings_that_leave_one_choice_are_greedy() {
    let Some(runtime) = device::runtime("settings_that_leave_one_choice_are_greedy") else {
        return;
    };
    let engine = device::engine(&golden::model("llama"), &runtime, &device::options());
    let expected = golden::expected("llama").greedy;
    let generate = |sampling: Sampling| {
        generate(&engine, &expected.prompt, expected.token_ids.len(), &sampling)
    };
    // `transformers` chose these too, so the default is not its own judge.
    assert_eq!(generate(Sampling::default()), expected.token_ids);
    let seed = 3;
    for sampling in [
        Sampling { seed, ..Sampling::default() },
        Sampling { top_k: 7, top_p: 0.5, min_p: 0.1, seed, ..Sampling::default() },
        Sampling { top_k: 1, ..warm(seed) },
        Sampling { top_k: 1, temperature: 50.0, ..warm(seed) },
        Sampling { top_p: 1e-6, ..warm(seed) },
        Sampling { min_p: 1.0, ..warm(seed) },
        Sampling { temperature: 1e-3, ..warm(seed) },
    ] {
        assert_eq!(generate(sampling.clone()), expected.token_ids, "{sampling:?}");
    }
    assert_ne!(generate(warm(seed)), expected.token_ids);
}

#[test]
fn the_seed_decides() {
    let Some(runtime) = device::runtime("the_seed_decides") else { return };
    let engine = device::engine(&golden::model("qwen3"), &runtime, &device::options());
    let other = device::engine(&golden::model("qwen3"), &runtime, &device::options());
    let texts: Vec<Vec<u32>> =
        [0, 1, 1 << 32, u64::MAX].map(|seed| generate(&engine, &PROMPT, 40, &warm(seed))).into();
    for (index, seed) in [0, 1, 1 << 32, u64::MAX].into_iter().enumerate() {
        assert_eq!(generate(&other, &PROMPT, 40, &warm(seed)), texts[index], "seed {seed}");
        for later in &texts[index + 1..] {
            assert_ne!(*later, texts[index], "seed {seed}");
        }
    }
    // Noise belongs to a position: a text that is continued goes on as it would have.
    let longer = [&PROMPT[..], &texts[0][..15]].concat();
    assert_eq!(generate(&engine, &longer, 25, &warm(0)), texts[0][15..]);
}

#[test]
fn seen_tokens_are_penalized_as_hugging_face_does() {
    let test = "seen_tokens_are_penalized_as_hugging_face_does";
    let Some(runtime) = device::runtime(test) else { return };
    const VOCAB: usize = 48;
    const PENALTY: f32 = 1.45;
    // Four apart, no two alike, in no order: around zero, and all below it.
    for highest in [1.95, -1.0] {
        let logit = |token: usize| (token * 29 % VOCAB) as f32 / 12.0 - 47.0 / 12.0 + highest;
        let logits: Vec<f32> = (0..VOCAB).map(logit).collect();
        let model = fixed_logits::model(&logits, 128);
        let engine = device::engine(model.path(), &runtime, &device::options());
        let mut likeliest: Vec<u32> = (0..VOCAB as u32).collect();
        likeliest.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
        // The two likeliest tokens, and unlikely ones until it takes more than one chunk.
        let prompt = [&likeliest[..2], &likeliest[20..], &likeliest[20..]].concat();
        let expected = penalized(&logits, &prompt, PENALTY, 40);
        // It matters from the first token on, and new tokens are taken in.
        assert_eq!(expected[..3], likeliest[2..5]);
        let sampling = Sampling { repetition_penalty: PENALTY, ..Sampling::default() };
        assert_eq!(generate(&engine, &prompt, 40, &sampling), expected);
        assert_eq!(generate(&engine, &prompt, 3, &Sampling::default()), [likeliest[0]; 3]);
        // Below 1, it asks for repetition.
        let sampling = Sampling { repetition_penalty: 0.5, ..Sampling::default() };
        assert_eq!(generate(&engine, &likeliest[3..5], 3, &sampling), [likeliest[3]; 3]);
    }
}

/// The likeliest token again and again, where `score = where(score < 0, score * penalty, score /
/// penalty)` for every token that was there (`RepetitionPenaltyLogitsProcessor` of transformers).
fn penalized(logits: &[f32], prompt: &[u32], penalty: f32, count: usize) -> Vec<u32> {
    let mut seen = prompt.to_vec();
    for _ in 0..count {
        let score = |token: &u32| {
            let logit = logits[*token as usize];
            match seen.contains(token) {
                true if logit < 0.0 => logit * penalty,
                true => logit / penalty,
                false => logit,
            }
        };
        let best = (0..logits.len() as u32).max_by(|a, b| score(a).total_cmp(&score(b)));
        seen.push(best.unwrap());
    }
    seen.split_off(prompt.len())
}

#[test]
fn settings_out_of_range_are_named() {
    let Some(runtime) = device::runtime("settings_out_of_range_are_named") else { return };
    let engine = device::engine(&golden::model("llama"), &runtime, &device::options());
    for (name, sampling) in [
        ("temperature", Sampling { temperature: -1.0, ..Sampling::default() }),
        ("temperature", Sampling { temperature: f32::NAN, ..Sampling::default() }),
        ("top-p", Sampling { top_p: 0.0, ..Sampling::default() }),
        ("top-p", Sampling { top_p: 1.5, ..Sampling::default() }),
        ("min-p", Sampling { min_p: -0.1, ..Sampling::default() }),
        ("repetition-penalty", Sampling { repetition_penalty: 0.0, ..Sampling::default() }),
    ] {
        let error = engine.session().generate(&PROMPT, 1, &sampling, &[], |_| true).unwrap_err();
        let message = error.to_string();
        assert!(message.starts_with(&format!("{name} is ")), "{message}");
        assert!(message.contains("it must be"), "{message}");
    }
}
