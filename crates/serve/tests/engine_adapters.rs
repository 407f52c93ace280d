//! Adapters in the engine, over a device whose tokens tell which adapter every token was run with.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/asking.rs"]
mod asking;
#[path = "support/memory.rs"]
#[allow(dead_code, reason = "shared with the engine's other tests")]
mod memory;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use memory::{MemoryDevice, Watch, answer, answer_with, ladder};
use serve::engine::{
    Answer, Answering, Engine, EngineSettings, Event, Ladder, Policy, Refusal, Request,
};

fn start(ladder: Ladder) -> (Engine, Arc<Watch>) {
    let device = MemoryDevice::new(ladder);
    let watch = device.watch.clone();
    let policy = Policy { batched_tokens: 16, prefix_cache: true };
    (Engine::start(device, EngineSettings { policy, waiting_max: 64 }).unwrap(), watch)
}

fn request(adapter: Option<&str>, prompt: &[u32], max_tokens: usize) -> Request {
    Request { adapter: adapter.map(str::to_owned), ..asking::request(prompt, max_tokens) }
}

/// The rest of an answer, and how many tokens of its prompt were found in the prefix cache.
fn finish(answer: Answer) -> (Vec<u32>, usize) {
    let (drawn, finished) = asking::read(answer).unwrap();
    (drawn.iter().map(|drawn| drawn.token).collect(), finished.cached_tokens)
}

fn load(engine: &Engine, name: &str, content: u32) -> Result<(), String> {
    engine.load_adapter(name, Path::new(&content.to_string()))
}

#[test]
fn rows_of_one_batch_have_adapters_of_their_own() {
    for (looks_ahead, guesses) in [(false, 0), (true, 0), (false, 3)] {
        let (engine, _) = start(Ladder { looks_ahead, guesses, ..ladder(64, 8) });
        load(&engine, "one", 1).unwrap();
        load(&engine, "two", 2).unwrap();
        assert_eq!(engine.adapters(), ["one", "two"]);
        let prompt: Vec<u32> = (10..30).collect();
        let adapters = [None, Some("one"), Some("two"), None, Some("two"), Some("one")];
        let submit =
            |&adapter: &Option<&str>| engine.submit(request(adapter, &prompt, 20)).unwrap();
        // Twice, so that the second time all of them find what was computed for their kind.
        for _ in 0..2 {
            let answers: Vec<Answer> = adapters.iter().map(submit).collect();
            for (adapter, given) in adapters.iter().zip(answers) {
                let number = ["one", "two"].iter().position(|name| *adapter == Some(name));
                let number = number.map_or(0, |place| place as u32 + 1);
                assert_eq!(finish(given).0, answer_with(number, &prompt, 20), "{adapter:?}");
            }
        }
        assert!(engine.stats().prefix_hits >= 6 * 16);
    }
}

#[test]
fn an_adapter_of_an_old_name_does_not_find_the_texts_of_the_old_one() {
    let (engine, watch) = start(ladder(32, 8));
    let prompt: Vec<u32> = (10..30).collect();
    let ask = |adapter| finish(engine.submit(request(adapter, &prompt, 4)).unwrap());
    assert_eq!(ask(None), (answer(&prompt, 4), 0));
    load(&engine, "name", 1).unwrap();
    assert_eq!(ask(Some("name")), (answer_with(1, &prompt, 4), 0));
    assert_eq!(ask(Some("name")), (answer_with(1, &prompt, 4), 16));
    engine.unload_adapter("name").unwrap();
    load(&engine, "name", 2).unwrap();
    assert_eq!(ask(Some("name")), (answer_with(2, &prompt, 4), 0));
    assert_eq!(ask(None), (answer(&prompt, 4), 16));
    // A device that fails keeps its adapters, and nothing else.
    watch.fail_every.store(watch.steps.load(Ordering::Relaxed) as usize + 2, Ordering::Relaxed);
    assert_eq!(ask(Some("name")).0, answer_with(2, &prompt, 4));
    assert_eq!(engine.stats().device_failures, 1);
}

#[test]
fn who_uses_an_adapter_keeps_it_until_the_end() {
    let (engine, _) = start(ladder(64, 8));
    load(&engine, "one", 1).unwrap();
    load(&engine, "two", 2).unwrap();
    let taken = load(&engine, "one", 3).unwrap_err();
    assert!(taken.contains("`one` is taken"), "{taken}");
    let full = load(&engine, "three", 3).unwrap_err();
    assert!(full.contains("higher --max-loras"), "{full}");
    let prompt = [5, 6, 7];
    let mut under_way = engine.submit(request(Some("one"), &prompt, 40)).unwrap();
    let Some(Event::Started(_)) = under_way.next_blocking() else { panic!("it does not start") };
    engine.unload_adapter("one").unwrap();
    assert_eq!(engine.adapters(), ["two"]);
    assert_eq!(engine.unload_adapter("one").unwrap_err(), "there is no adapter `one`");
    let refused = engine.submit(request(Some("one"), &prompt, 4)).err();
    assert_eq!(refused, Some(Refusal::UnknownAdapter("one".to_owned())));
    // Whether the slot is free by now or not, nobody's weights are written over.
    let three = load(&engine, "three", 3);
    assert_eq!(finish(under_way).0, answer_with(1, &prompt, 40));
    let other = finish(engine.submit(request(Some("two"), &prompt, 8)).unwrap()).0;
    assert_eq!(other, answer_with(2, &prompt, 8));
    // The sequence is let go of a moment after its last word.
    while three.is_err() && load(&engine, "three", 3).is_err() {
        std::thread::yield_now();
    }
    let third = finish(engine.submit(request(Some("three"), &prompt, 8)).unwrap()).0;
    assert_eq!(third, answer_with(3, &prompt, 8));
}

#[test]
fn an_adapter_that_cannot_be_loaded_leaves_room_for_others() {
    let (engine, _) = start(ladder(64, 8));
    for _ in 0..5 {
        let refused = engine.load_adapter("bad", Path::new("no number")).unwrap_err();
        assert_eq!(refused, "this is no adapter");
    }
    assert!(engine.adapters().is_empty());
    load(&engine, "bad", 1).unwrap();
    load(&engine, "good", 2).unwrap();
    let prompt = [5, 6, 7];
    let given = finish(engine.submit(request(Some("bad"), &prompt, 8)).unwrap()).0;
    assert_eq!(given, answer_with(1, &prompt, 8));
    let (without, _) = start(Ladder { adapters: None, ..ladder(64, 8) });
    assert_eq!(without.stats().adapters_max, 0);
}
