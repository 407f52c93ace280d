//! Token by token with the cache gives the same log-probabilities as one pass over the whole text,
//! wherever chunks, caches and conversations are cut.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::print_stdout, reason = "a test's findings are printed")]

mod support;

use std::sync::{Arc, Mutex};

use graph::{AttentionKernel, Blocks};
use llm::ModelFiles;
use llm::engine::{Engine, Finish, Generated, Progress, Sampling, Session};
use llm::models::Layers;
use llm::programs::ProgramOptions;
use support::device::TOLERANCE;
use support::{device, golden};

const VOCAB: usize = 256;

/// Draws all kinds of tokens, not only likely ones.
fn random(seed: u64) -> Sampling {
    Sampling { temperature: 1.5, seed, ..Sampling::default() }
}

/// Continues `prompt` by `count` tokens.
fn continued(session: &mut Session<'_>, prompt: &[u32], count: usize) -> Vec<Generated> {
    let mut generated = Vec::new();
    let finish = session
        .generate(prompt, count, &random(7), &[], |token| {
            generated.push(token);
            true
        })
        .unwrap();
    assert_eq!((finish, generated.len()), (Finish::Length, count));
    generated
}

fn ids(generated: &[Generated]) -> Vec<u32> {
    generated.iter().map(|generated| generated.token).collect()
}

/// Compares with one pass over the whole; the largest deviation.
fn compare(engine: &Engine, prompt: &[u32], generated: &[Generated], what: &str) -> f64 {
    let whole = [prompt, &ids(generated)].concat();
    let scores = engine.score(&whole, 1).unwrap();
    let mut worst: f64 = 0.0;
    for (place, (score, generated)) in scores[prompt.len()..].iter().zip(generated).enumerate() {
        let one_pass = f64::from(score.log_prob.unwrap());
        let with_cache = f64::from(generated.log_prob);
        let deviation = (one_pass - with_cache).abs();
        let place = prompt.len() + place;
        assert!(deviation <= TOLERANCE, "{what}, place {place}: {with_cache}, not {one_pass}");
        worst = worst.max(deviation);
    }
    worst
}

#[test]
fn token_by_token() {
    let Some(runtime) = device::runtime("token_by_token") else { return };
    let compare_with = |model: &str, options: &ProgramOptions, what: &str| {
        let engine = device::engine(&golden::model(model), &runtime, options);
        let prompt = golden::tokens(3, 1, engine.config().vocab_size);
        let generated = continued(&mut engine.session(), &prompt, 90);
        let worst = compare(&engine, &prompt, &generated, &format!("{model}, {what}"));
        println!("{model}, {what}: deviates by {worst:.2e} at most");
    };
    let unrolled = device::options();
    let mut scanned = unrolled.clone();
    scanned.layers = Layers::Scanned;
    for model in [
        "llama",
        "llama_rope_llama3",
        "mistral_window",
        "qwen2",
        "qwen2_window_in_upper_layers",
        "qwen3",
        "smollm2",
    ] {
        compare_with(model, &unrolled, "unrolled");
        compare_with(model, &scanned, "scanned");
    }
    let mut blocks = unrolled;
    // Fewer keys than the cache holds.
    blocks.kernels.attention = AttentionKernel::Portable(Blocks::of(16));
    compare_with("llama", &blocks, "by blocks");
    compare_with("mistral_window", &blocks, "by blocks");
}

#[test]
fn wherever_chunks_are_cut() {
    let Some(runtime) = device::runtime("wherever_chunks_are_cut") else { return };
    let model = golden::with_context("mistral_window", 1024);
    let engine = device::engine(model.path(), &runtime, &device::options());
    for length in [1, 31, 32, 33, 127, 128, 129, 160, 255, 256, 257, 511, 512, 513, 545, 700] {
        let prompt = golden::tokens(length, 2, VOCAB);
        let generated = continued(&mut engine.session(), &prompt, 3);
        compare(&engine, &prompt, &generated, &format!("a prompt of {length}"));
    }
}

#[test]
fn while_the_cache_grows() {
    let Some(runtime) = device::runtime("while_the_cache_grows") else { return };
    for layers in [Layers::Unrolled, Layers::Scanned] {
        let model = golden::with_context("llama", 2048);
        let mut options = device::options();
        options.layers = layers;
        let engine = device::engine(model.path(), &runtime, &options);
        let sizes: Vec<usize> =
            [5, 256, 257, 513, 1025, 5000].map(|n| engine.capacity_for(n)).into();
        assert_eq!(sizes, [256, 256, 512, 1024, 2048, 2048]);
        // From one prompt to the next, each of which goes on from the one before.
        let text = golden::tokens(1500, 3, VOCAB);
        let mut session = engine.session();
        for length in [100, 300, 700, 1500] {
            let generated = continued(&mut session, &text[..length], 5);
            compare(&engine, &text[..length], &generated, &format!("{layers:?}, {length} tokens"));
        }
        // In the middle of an answer.
        let prompt = golden::tokens(5, 3, VOCAB);
        let generated = continued(&mut engine.session(), &prompt, 1100);
        let worst = compare(&engine, &prompt, &generated, "growing");
        println!("{layers:?}: deviates by {worst:.2e} at most over 1100 tokens");
    }
}

/// A cache that holds the whole context ends in the middle of a chunk.
#[test]
fn up_to_the_end_of_the_context() {
    let Some(runtime) = device::runtime("up_to_the_end_of_the_context") else { return };
    let engine = device::engine(&golden::model("llama"), &runtime, &device::options());
    let context = engine.context();
    let mut session = engine.session();
    let prompt = golden::tokens(100, 4, VOCAB);
    let first = continued(&mut session, &prompt, 5);
    compare(&engine, &prompt, &first, "the beginning");
    // The rest of this prompt is shorter than the smallest chunk, which reaches beyond the cache.
    let prompt = [prompt, ids(&first), golden::tokens(10, 5, VOCAB)].concat();
    let mut generated = Vec::new();
    let finish = session
        .generate(&prompt, 1000, &random(8), &[], |token| {
            generated.push(token);
            true
        })
        .unwrap();
    assert_eq!(finish, Finish::ContextFull);
    // The last token is drawn from a full cache and has no place in it.
    assert_eq!(prompt.len() + generated.len(), context + 1);
    generated.pop();
    compare(&engine, &prompt, &generated, "the end");
    // A prompt that fills the context leaves room for one token.
    let prompt = golden::tokens(context, 6, VOCAB);
    let count = |session: &mut Session<'_>, prompt: &[u32]| {
        let mut count = 0;
        let finish = session.generate(prompt, 1000, &random(9), &[], |_| {
            count += 1;
            true
        });
        finish.map(|finish| (finish, count))
    };
    assert_eq!(count(&mut session, &prompt).unwrap(), (Finish::ContextFull, 1));
    let message = count(&mut session, &[&prompt[..], &[3]].concat()).unwrap_err().to_string();
    let expected =
        format!("the prompt has {} tokens, more than the context of {context}", context + 1);
    assert!(message.starts_with(&expected), "{message}");
}

#[test]
fn over_the_turns_of_a_conversation() {
    let Some(runtime) = device::runtime("over_the_turns_of_a_conversation") else { return };
    let model = golden::with_context("qwen3", 1024);
    let files = ModelFiles::open(model.path()).unwrap();
    let prefills = Arc::new(Mutex::new(0));
    let count = prefills.clone();
    let on_progress = move |step: Progress<'_>| {
        if let Progress::Compiling { program: "prefill" } = step {
            *count.lock().unwrap() += 1;
        }
    };
    let engine =
        Engine::new(&files, runtime, device::options(), None, Box::new(on_progress)).unwrap();
    let mut session = engine.session();
    let mut prompt = golden::tokens(300, 10, VOCAB);
    for turn in 0..4 {
        let generated = continued(&mut session, &prompt, 20);
        compare(&engine, &prompt, &generated, &format!("turn {turn}"));
        // As if there had been no conversation before.
        let fresh = continued(&mut engine.session(), &prompt, 20);
        assert_eq!(ids(&generated), ids(&fresh), "turn {turn}");
        // The first prompt takes the largest chunk. Only a prompt whose beginning is in the cache
        // needs a small one: that is the second program.
        assert_eq!(*prefills.lock().unwrap(), if turn == 0 { 1 } else { 2 });
        prompt = [prompt, ids(&generated), golden::tokens(7, turn, VOCAB)].concat();
    }
    // A history that was changed in its middle, and one that ends earlier.
    prompt[200] = (prompt[200] + 1) % VOCAB as u32;
    let changed = continued(&mut session, &prompt, 5);
    compare(&engine, &prompt, &changed, "a changed history");
    prompt.truncate(250);
    let shorter = continued(&mut session, &prompt, 5);
    compare(&engine, &prompt, &shorter, "a shorter history");
    let same = continued(&mut session, &prompt, 5);
    assert_eq!(ids(&same), ids(&shorter));
}

/// An answer that is cut off leaves a step under way; the next turn must not build on it.
#[test]
fn after_an_answer_was_cut_off() {
    let Some(runtime) = device::runtime("after_an_answer_was_cut_off") else { return };
    let engine = device::engine(&golden::model("llama"), &runtime, &device::options());
    let mut session = engine.session();
    let prompt = golden::tokens(9, 11, VOCAB);
    let mut seen: Vec<Generated> = Vec::new();
    let finish = session
        .generate(&prompt, 50, &random(7), &[], |token| {
            seen.push(token);
            seen.len() < 6
        })
        .unwrap();
    assert_eq!((finish, seen.len()), (Finish::Stopped, 6));
    // A token that ends the answer is no part of it.
    let end = seen[4].token;
    let before = seen.iter().position(|generated| generated.token == end).unwrap();
    let mut until_end = Vec::new();
    let finish = session
        .generate(&prompt, 50, &random(7), &[end], |token| {
            until_end.push(token);
            true
        })
        .unwrap();
    assert_eq!(finish, Finish::EndOfSequence);
    assert_eq!(ids(&until_end), ids(&seen[..before]));
    let next = [prompt, ids(&seen), vec![VOCAB as u32 - 1, 3]].concat();
    let generated = continued(&mut session, &next, 8);
    compare(&engine, &next, &generated, "the next turn");
    assert_eq!(ids(&generated), ids(&continued(&mut engine.session(), &next, 8)));
}
