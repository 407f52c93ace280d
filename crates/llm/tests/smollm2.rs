//! The real model, SmolLM2-135M-Instruct in Q4_1, against `transformers` on the same file
//! (`tests/goldens/make_smollm2.py`).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::print_stdout, reason = "a test's findings are printed")]

mod support;

use std::sync::{Mutex, PoisonError};

use llm::chat::{ChatInput, Message};
use llm::engine::{Engine, Sampling};
use llm::{ModelFiles, Tokenizer};
use serde::Deserialize;
use support::{device, shared};

/// The reference's own noise is up to 3e-5; a thousandth is far below every margin on the way.
const TOLERANCE: f64 = 1e-3;

#[derive(Deserialize)]
struct Golden {
    greedy: Vec<Greedy>,
    tokenization: Vec<Tokenization>,
    scoring: Scoring,
}

#[derive(Deserialize)]
struct Greedy {
    text: String,
    messages: Option<Vec<Message>>,
    prompt: Vec<u32>,
    token_ids: Vec<u32>,
    continuation: String,
    log_probs: Vec<f64>,
    margins: Vec<f64>,
}

#[derive(Deserialize)]
struct Tokenization {
    text: String,
    ids: Vec<u32>,
    decoded: String,
}

#[derive(Deserialize)]
struct Scoring {
    token_ids: Vec<u32>,
    text: String,
    log_probs: Vec<f64>,
    top: Vec<support::golden::Top>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../../../tests/goldens/smollm2.json")).unwrap()
}

fn files(test: &str) -> Option<(ModelFiles, Tokenizer)> {
    let files = ModelFiles::open(&shared::smollm2(test)?).unwrap();
    let tokenizer = files.tokenizer().unwrap().unwrap();
    Some((files, tokenizer))
}

/// Runs `test` with the one engine of this file: the weights take half a gigabyte.
fn with_engine(name: &str, test: impl FnOnce(&Engine)) {
    static ENGINE: Mutex<Option<Engine>> = Mutex::new(None);
    let Some(path) = shared::smollm2(name) else { return };
    let Some(runtime) = device::runtime(name) else { return };
    let mut engine = ENGINE.lock().unwrap_or_else(PoisonError::into_inner);
    test(engine.get_or_insert_with(|| device::engine(&path, &runtime, &device::options())));
}

#[test]
fn greedy_continuations_are_those_of_transformers() {
    with_engine("greedy_continuations_are_those_of_transformers", |engine| {
        let cases = golden().greedy;
        assert!(cases.len() >= 9 && cases.iter().all(|case| case.token_ids.len() >= 64));
        let (mut worst, mut equal): (f64, usize) = (0.0, 0);
        for case in &cases {
            let (mut tokens, mut log_probs) = (Vec::new(), Vec::new());
            let keep = |generated: llm::engine::Generated| {
                tokens.push(generated.token);
                log_probs.push(f64::from(generated.log_prob));
                true
            };
            let (count, greedy) = (case.token_ids.len(), Sampling::default());
            engine.session().generate(&case.prompt, count, &greedy, &[], keep).unwrap();
            assert_eq!(tokens.len(), count);
            let parting = (0..count).find(|&place| tokens[place] != case.token_ids[place]);
            if let Some(place) = parting {
                let (margin, prompt) = (case.margins[place], &case.text);
                println!("{prompt:?} parts at {place}, where the margin is {margin}");
                assert!(margin < TOLERANCE, "{prompt:?} parts at {place} with margin {margin}");
            }
            let until = parting.unwrap_or(count);
            equal += until;
            for (place, found) in log_probs[..until].iter().enumerate() {
                let deviation = (found - case.log_probs[place]).abs();
                assert!(deviation <= TOLERANCE, "{:?}, {place}: off by {deviation}", case.text);
                worst = worst.max(deviation);
            }
        }
        let all: usize = cases.iter().map(|case| case.token_ids.len()).sum();
        println!(
            "{equal} of {all} tokens are equal; log-probabilities deviate by {worst:.2e} at most"
        );
    });
}

#[test]
fn scores_are_those_of_transformers() {
    with_engine("scores_are_those_of_transformers", |engine| {
        let Scoring { token_ids, log_probs, top, .. } = golden().scoring;
        let scores = engine.score(&token_ids, top[0].ids.len()).unwrap();
        assert_eq!(scores.len(), token_ids.len());
        let mut worst: f64 = 0.0;
        for (place, score) in scores.iter().enumerate().skip(1) {
            let deviation = (f64::from(score.log_prob.unwrap()) - log_probs[place - 1]).abs();
            assert!(deviation <= TOLERANCE, "place {place}: off by {deviation}");
            worst = worst.max(deviation);
            let expected = &top[place - 1];
            for (rank, found) in score.top.iter().enumerate() {
                let deviation = (f64::from(found.log_prob) - expected.log_probs[rank]).abs();
                assert!(deviation <= TOLERANCE, "place {place}, rank {rank}: off by {deviation}");
                let is_near =
                    |other: &&f64| (**other - expected.log_probs[rank]).abs() <= TOLERANCE;
                let may_differ = expected.log_probs.iter().filter(is_near).count() > 1;
                let same = found.token == expected.ids[rank];
                assert!(
                    same || may_differ,
                    "place {place}: {:?}, not {:?}",
                    score.top,
                    expected.ids
                );
            }
        }
        println!("log-probabilities deviate by {worst:.2e} at most");
    });
}

#[test]
fn the_capital_of_france_is_paris() {
    with_engine("the_capital_of_france_is_paris", |engine| {
        let Some((_, tokenizer)) = files("the_capital_of_france_is_paris") else { return };
        let prompt = tokenizer.encode("The capital of France is", true).unwrap();
        let mut tokens = Vec::new();
        let keep = |generated: llm::engine::Generated| {
            tokens.push(generated.token);
            true
        };
        engine.session().generate(&prompt, 2, &Sampling::default(), &[], keep).unwrap();
        assert_eq!(tokenizer.decode(&tokens, false).unwrap(), " Paris.");
    });
}

#[test]
fn texts_are_cut_into_the_published_tokens() {
    let Some((_, tokenizer)) = files("texts_are_cut_into_the_published_tokens") else { return };
    let golden = golden();
    assert!(golden.tokenization.len() >= 40);
    for Tokenization { text, ids, decoded } in &golden.tokenization {
        assert_eq!(&tokenizer.encode(text, false).unwrap(), ids, "{text:?}");
        assert_eq!(&tokenizer.decode(ids, false).unwrap(), decoded, "{text:?}");
    }
    let Scoring { text, token_ids, .. } = &golden.scoring;
    assert_eq!(&tokenizer.encode(text, false).unwrap(), token_ids);
    for case in &golden.greedy {
        assert_eq!(tokenizer.encode(&case.text, true).unwrap(), case.prompt, "{:?}", case.text);
        assert_eq!(tokenizer.decode(&case.token_ids, false).unwrap(), case.continuation);
    }
}

#[test]
fn conversations_are_rendered_as_transformers_does() {
    let test = "conversations_are_rendered_as_transformers_does";
    let Some((files, tokenizer)) = files(test) else { return };
    let template = files.chat_template().unwrap().unwrap();
    let mut count = 0;
    for Greedy { messages, text, prompt, .. } in golden().greedy {
        let Some(messages) = messages else { continue };
        assert_eq!(template.render(&ChatInput::new(messages)).unwrap(), text);
        assert_eq!(tokenizer.encode(&text, false).unwrap(), prompt);
        count += 1;
    }
    assert!(count >= 4);
}
