//! The engine over a device that notices every mistake with pages, slots and positions.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/asking.rs"]
mod asking;
#[path = "support/memory.rs"]
mod memory;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use asking::request;
use memory::{MemoryDevice, VOCABULARY, Watch, answer, ladder};
use proptest::prelude::*;
use serve::engine::{
    Answer, Answering, Constraint, EmbedError, Engine, EngineSettings, Event, Failure, Finish,
    Finished, Ladder, Policy, Refusal, Request,
};

fn settings() -> EngineSettings {
    EngineSettings { policy: Policy { batched_tokens: 16, prefix_cache: true }, waiting_max: 64 }
}

fn start(ladder: Ladder, settings: EngineSettings) -> (Engine, Arc<Watch>) {
    let device = MemoryDevice::new(ladder);
    let watch = device.watch.clone();
    (Engine::start(device, settings).unwrap(), watch)
}

fn finish(answer: Answer) -> Result<(Vec<u32>, Finished), Failure> {
    let (drawn, finished) = asking::read(answer)?;
    Ok((drawn.iter().map(|drawn| drawn.token).collect(), finished))
}

/// The engine's figures when it has nothing left to do.
fn idle(engine: &Engine) -> serve::engine::Stats {
    loop {
        let stats = engine.stats();
        if stats.running + stats.waiting == 0 {
            return stats;
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_request_is_answered() {
    let (engine, _) = start(ladder(32, 8), settings());
    let prompt = [7, 8, 9, 10, 11];
    let (tokens, finished) = finish(engine.submit(request(&prompt, 20)).unwrap()).unwrap();
    assert_eq!(tokens, answer(&prompt, 20));
    assert_eq!((finished.prompt_tokens, finished.answer_tokens), (5, 20));
    assert_eq!(finished.finish, Finish::Length);
    assert_eq!(idle(&engine).pages_used, 0);
}

#[test]
fn a_beginning_that_was_computed_is_not_computed_again() {
    let (engine, watch) = start(ladder(32, 8), settings());
    let prompt: Vec<u32> = (10..30).collect();
    finish(engine.submit(request(&prompt, 4)).unwrap()).unwrap();
    let before = watch.prefilled.load(Ordering::Relaxed);
    let (tokens, finished) = finish(engine.submit(request(&prompt, 4)).unwrap()).unwrap();
    assert_eq!(tokens, answer(&prompt, 4));
    assert_eq!(finished.cached_tokens, 16);
    assert_eq!(watch.prefilled.load(Ordering::Relaxed) - before, 4);
    // Penalties depend on what was counted while the beginning ran, so it runs again.
    let mut penalized = request(&prompt, 4);
    penalized.sampling.repetition_penalty = 1.5;
    let (_, finished) = finish(engine.submit(penalized).unwrap()).unwrap();
    assert_eq!(finished.cached_tokens, 0);
    let stats = idle(&engine);
    assert_eq!((stats.prefix_queries, stats.prefix_hits), (60, 16));
}

#[test]
fn end_tokens_end_but_not_too_early() {
    let (engine, _) = start(ladder(32, 8), settings());
    let prompt = [7, 8, 9];
    let expected = answer(&prompt, 30);
    let end = expected[3];
    let first = expected.iter().position(|&token| token == end).unwrap();
    let ending = Request { end_tokens: vec![end], ..request(&prompt, 30) };
    let (tokens, finished) = finish(engine.submit(ending).unwrap()).unwrap();
    assert_eq!(tokens, expected[..first]);
    assert_eq!((finished.finish, finished.answer_tokens), (Finish::EndToken(end), first));
    // With a minimum the end token cannot be drawn before.
    let later = Request { end_tokens: vec![end], min_tokens: first + 2, ..request(&prompt, 30) };
    let (tokens, _) = finish(engine.submit(later).unwrap()).unwrap();
    assert!(tokens.len() >= first + 2, "{tokens:?}");
    assert!(!tokens.contains(&end));
}

#[test]
fn an_answer_goes_on_where_another_server_left_it() {
    let (engine, _) = start(ladder(32, 8), settings());
    let prompt = [1, 2, 3, 4, 5, 6];
    let expected = answer(&prompt, 12);
    for known in [1, 5, 11] {
        let rest = Request { continued: expected[..known].to_vec(), ..request(&prompt, 12) };
        let (tokens, finished) = finish(engine.submit(rest).unwrap()).unwrap();
        assert_eq!(tokens, expected[known..]);
        assert_eq!(finished.answer_tokens, 12);
    }
}

#[test]
fn the_context_is_the_end() {
    let (engine, _) = start(ladder(32, 8), settings());
    let prompt: Vec<u32> = (0..60).collect();
    let (tokens, finished) = finish(engine.submit(request(&prompt, 50)).unwrap()).unwrap();
    assert_eq!((tokens, finished.finish), (answer(&prompt, 4), Finish::ContextFull));
}

#[test]
fn what_cannot_be_answered_is_refused_at_once() {
    let (engine, _) = start(ladder(32, 8), settings());
    let refusal = |change: &dyn Fn(&mut Request)| {
        let mut request = request(&[1, 2, 3], 4);
        change(&mut request);
        engine.submit(request).unwrap_err().to_string()
    };
    let unknown = VOCABULARY as u32;
    for (change, message) in [
        (&(|r: &mut Request| r.prompt.clear()) as &dyn Fn(&mut Request), "the prompt is empty"),
        (
            &|r: &mut Request| r.prompt = vec![1; 64],
            "the prompt has 64 tokens, but the context is 64",
        ),
        (
            &|r: &mut Request| r.prompt[1] = unknown,
            "token 97 is not in the vocabulary of 97 tokens",
        ),
        (&|r: &mut Request| r.max_tokens = 0, "max_tokens is 0; it must be at least 1"),
        (&|r: &mut Request| r.adapter = Some("sql".into()), "there is no adapter `sql`"),
        (&|r: &mut Request| r.sampling.top_p = 0.0, "top_p is 0; it must be above 0"),
        (&|r: &mut Request| r.sampling.temperature = f32::NAN, "temperature is NaN"),
        (
            &|r: &mut Request| r.sampling.logit_bias = vec![(1, 0.5); 301],
            "logit_bias is 301 tokens",
        ),
        (&|r: &mut Request| r.sampling.logit_bias = vec![(unknown, 0.5)], "token 97 is not in"),
    ] {
        let found = refusal(change);
        assert!(found.starts_with(message), "{found}");
    }
    engine.drain();
    assert_eq!(engine.submit(request(&[1], 1)).unwrap_err(), Refusal::Stopping);
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let mut settings = settings();
    settings.waiting_max = 3;
    let (engine, _) = start(ladder(16, 1), settings);
    let mut taken = Vec::new();
    let refusal = loop {
        match engine.submit(request(&[1, 2, 3], 40)) {
            Ok(answer) => taken.push(answer),
            Err(refusal) => break refusal,
        }
    };
    let Refusal::QueueFull { waiting, retry_after_seconds } = refusal else { panic!("{refusal}") };
    assert!(waiting >= 3 && retry_after_seconds >= 1);
    for answer in taken {
        finish(answer).unwrap();
    }
}

#[test]
fn who_leaves_frees_the_memory() {
    let (engine, _) = start(ladder(32, 4), settings());
    let mut answers: Vec<Answer> =
        (0..8).map(|n| engine.submit(request(&[n, n + 1, n + 2], 50)).unwrap()).collect();
    for answer in &mut answers[..2] {
        assert!(matches!(answer.next_blocking(), Some(Event::Started(_))));
        assert!(matches!(answer.next_blocking(), Some(Event::Token(_))));
    }
    drop(answers);
    assert_eq!(idle(&engine).pages_used, 0);
}

#[test]
fn when_memory_is_short_the_last_give_way_and_come_back() {
    let (engine, _) = start(ladder(24, 8), settings());
    let prompts: Vec<Vec<u32>> = (0..8).map(|n| vec![n, 50 + n, 3, 4, 5]).collect();
    let answers: Vec<Answer> =
        prompts.iter().map(|prompt| engine.submit(request(prompt, 40)).unwrap()).collect();
    let mut preemptions = 0;
    for (prompt, given) in prompts.iter().zip(answers) {
        let (tokens, finished) = finish(given).unwrap();
        assert_eq!(tokens, answer(prompt, 40));
        preemptions += finished.preemptions;
    }
    assert!(preemptions > 0, "there was memory for all");
    let stats = idle(&engine);
    assert_eq!((stats.preemptions as usize, stats.pages_used), (preemptions, 0));
}

#[test]
fn a_device_that_fails_now_and_then_loses_no_answer() {
    let mut settings = settings();
    settings.policy.batched_tokens = 64;
    let (engine, watch) = start(ladder(64, 8), settings);
    // All six are computed again within six steps, so each gets on between two failures.
    watch.fail_every.store(13, Ordering::Relaxed);
    let prompts: Vec<Vec<u32>> = (0..6).map(|n| vec![n, 50 + n, 3]).collect();
    let answers: Vec<Answer> =
        prompts.iter().map(|prompt| engine.submit(request(prompt, 12)).unwrap()).collect();
    for (prompt, given) in prompts.iter().zip(answers) {
        assert_eq!(finish(given).unwrap().0, answer(prompt, 12));
    }
    assert!(idle(&engine).device_failures > 0);
    // One that always fails is given up, and the engine lives on.
    watch.fail_every.store(1, Ordering::Relaxed);
    let failure = finish(engine.submit(request(&[1], 3)).unwrap()).unwrap_err();
    assert!(matches!(failure, Failure::Device(_)), "{failure}");
    watch.fail_every.store(0, Ordering::Relaxed);
    assert_eq!(finish(engine.submit(request(&[1], 3)).unwrap()).unwrap().0, answer(&[1], 3));
    assert_eq!(idle(&engine).pages_used, 0);
}

/// Allows only tokens above the last one, and ends at 90.
struct Ascending(u32);

impl Constraint for Ascending {
    fn allow(&mut self, mask: &mut [u32]) -> Result<(), String> {
        for token in 0..=self.0 {
            mask[token as usize / 32] &= !(1 << (token % 32));
        }
        Ok(())
    }

    fn advance(&mut self, token: u32) -> Result<(), String> {
        match token > self.0 {
            true => {
                self.0 = token;
                Ok(())
            }
            false => Err(format!("{token} is not above {}", self.0)),
        }
    }

    fn is_complete(&self) -> bool {
        self.0 >= 12
    }
}

#[test]
fn constrained_answers_run_beside_free_ones() {
    for looks_ahead in [false, true] {
        let (engine, _) = start(Ladder { looks_ahead, ..ladder(64, 8) }, settings());
        let free = engine.submit(request(&[1, 2], 30)).unwrap();
        let constrained =
            Request { constraint: Some(Box::new(Ascending(0))), ..request(&[1, 2], 30) };
        let (tokens, finished) = finish(engine.submit(constrained).unwrap()).unwrap();
        assert!(tokens.is_sorted() && tokens.last() >= Some(&12), "{tokens:?}");
        assert_eq!(finished.finish, Finish::Complete);
        assert_eq!(finish(free).unwrap().0, answer(&[1, 2], 30));
        // What cannot be satisfied is that request's failure.
        let stuck = Request { constraint: Some(Box::new(Ascending(0))), ..request(&[1], 9) };
        let continued = Request { continued: vec![5, 3], ..stuck };
        assert!(matches!(engine.submit(continued), Err(Refusal::Continuation(_))));
        let hopeless = Request { constraint: Some(Box::new(Ascending(96))), ..request(&[1], 9) };
        let failure = finish(engine.submit(hopeless).unwrap()).unwrap_err();
        assert!(failure.to_string().starts_with("no token may come next"), "{failure}");
    }
}

#[test]
fn guesses_are_made_whether_the_device_looks_ahead_or_not() {
    for looks_ahead in [false, true] {
        let shape = Ladder { guesses: 3, looks_ahead, ..ladder(32, 4) };
        let (engine, _) = start(shape, settings());
        // A text in which everything repeats itself.
        let prompt = [1, 2, 3, 1, 2, 3, 1, 2, 3];
        let (tokens, _) = finish(engine.submit(request(&prompt, 40)).unwrap()).unwrap();
        assert_eq!(tokens, answer(&prompt, 40));
        assert!(idle(&engine).drafted > 0, "looks ahead: {looks_ahead}");
    }
}

#[test]
fn an_answer_that_was_complete_elsewhere_is_complete_here() {
    let (engine, watch) = start(ladder(32, 4), settings());
    let ended = |request: Request| finish(engine.submit(request).unwrap()).unwrap().1.finish;
    let all = Request { continued: answer(&[1, 2], 5), ..request(&[1, 2], 5) };
    assert_eq!(ended(all), Finish::Length);
    let full = Request { continued: vec![1; 62], ..request(&[1, 2], 99) };
    assert_eq!(ended(full), Finish::ContextFull);
    let constraint: Option<Box<dyn Constraint>> = Some(Box::new(Ascending(0)));
    let complete = Request { continued: vec![3, 50], constraint, ..request(&[1, 2], 2) };
    assert_eq!(ended(complete), Finish::Complete);
    assert_eq!(watch.steps.load(Ordering::Relaxed), 0);
}

#[test]
fn embeddings_and_answers_take_turns() {
    let (engine, _) = start(ladder(32, 4), settings());
    let given = engine.submit(request(&[1, 2], 40)).unwrap();
    let embeddings: Vec<_> = (0..20).map(|_| engine.embed((0..60).collect())).collect();
    // Those of a client that leaves are not computed.
    drop((0..20).map(|_| engine.embed((0..60).collect())).collect::<Vec<_>>());
    assert_eq!(finish(given).unwrap().0, answer(&[1, 2], 40));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for embedding in embeddings {
        assert_eq!(runtime.block_on(embedding).unwrap(), [1.0, 0.0]);
    }
    assert_eq!(idle(&engine).pages_used, 0);
}

/// Others come as fast as some end, so there is never as much memory at once as the embedding needs.
#[test]
fn a_long_embedding_gets_its_turn_among_answers() {
    let (engine, _) = start(ladder(16, 4), settings());
    let submit = |number: u32| {
        let prompt = [number % 90, number / 90, 7, 8, 9];
        (prompt, engine.submit(request(&prompt, 9 + number as usize % 5)).unwrap())
    };
    let mut answers: std::collections::VecDeque<_> = (0..8).map(submit).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut embedding = engine.embed((0..60).collect());
    let mut given = None;
    for number in 8..2000 {
        let (prompt, first) = answers.pop_front().unwrap();
        let (tokens, _) = finish(first).unwrap();
        assert_eq!(tokens, answer(&prompt, tokens.len()));
        answers.push_back(submit(number));
        let now = std::future::poll_fn(|context| {
            std::task::Poll::Ready(match embedding.as_mut().poll(context) {
                std::task::Poll::Ready(given) => Some(given),
                std::task::Poll::Pending => None,
            })
        });
        given = runtime.block_on(now);
        if given.is_some() {
            break;
        }
    }
    assert_eq!(given.expect("the embedding waits for ever").unwrap(), [1.0, 0.0]);
    for (prompt, rest) in answers {
        let (tokens, _) = finish(rest).unwrap();
        assert_eq!(tokens, answer(&prompt, tokens.len()));
    }
    assert_eq!(idle(&engine).pages_used, 0);
}

/// Whoever came first keeps what he has, and gets what he needs to grow.
#[test]
fn answers_that_came_before_an_embedding_are_finished_beside_it() {
    // Room for one of the two.
    let (engine, _) = start(ladder(16, 4), settings());
    let before = engine.submit(request(&[1, 2], 60)).unwrap();
    let embeddings: Vec<_> = (0..3).map(|_| engine.embed((0..60).collect())).collect();
    let (tokens, finished) = finish(before).unwrap();
    assert_eq!((tokens, finished.preemptions), (answer(&[1, 2], 60), 0));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for embedding in embeddings {
        assert_eq!(runtime.block_on(embedding).unwrap(), [1.0, 0.0]);
    }
    // What no memory is large enough for is not waited for.
    let (engine, _) = start(ladder(8, 4), settings());
    let failed = runtime.block_on(engine.embed((0..60).collect()));
    assert!(failed.unwrap_err().to_string().contains("longer than the whole cache"));
    assert_eq!(idle(&engine).pages_used, 0);
}

#[test]
fn an_embedding_under_way_starts_over_when_the_device_loses_it() {
    let (engine, watch) = start(ladder(32, 4), settings());
    watch.fail_every.store(13, Ordering::Relaxed);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (mut whole, mut failed) = (0, 0);
    for n in 0..20 {
        let given = engine.submit(request(&[n, 3], 6)).unwrap();
        // It is told its own failure; what another step lost is computed again.
        match runtime.block_on(engine.embed((0..60).collect())) {
            Ok(embedding) => {
                assert_eq!(embedding, [1.0, 0.0]);
                whole += 1;
            }
            Err(EmbedError::Failed(Failure::Device(_))) => failed += 1,
            Err(other) => panic!("{other}"),
        }
        let _ = finish(given);
    }
    assert!(whole > 0, "{failed} failed");
    assert!(idle(&engine).device_failures > 0);
    assert_eq!(idle(&engine).pages_used, 0);
}

#[test]
fn short_prompts_share_a_step() {
    let (engine, watch) = start(ladder(64, 8), settings());
    let answers: Vec<Answer> =
        (0..4).map(|n| engine.submit(request(&[n, 7, 8], 1)).unwrap()).collect();
    for given in answers {
        finish(given).unwrap();
    }
    assert_eq!(watch.prefilled.load(Ordering::Relaxed), 12);
    assert_eq!(idle(&engine).pages_used, 0);
}

#[test]
fn embeddings_have_length_one_and_leave_nothing() {
    let (engine, _) = start(ladder(16, 4), settings());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let embedding = runtime.block_on(engine.embed((0..40).collect())).unwrap();
    assert_eq!(embedding, [1.0, 0.0]);
    let too_long = runtime.block_on(engine.embed(vec![1; 65])).unwrap_err();
    assert!(matches!(too_long, EmbedError::Refused(Refusal::TooLong { .. })), "{too_long}");
    assert_eq!(idle(&engine).pages_used, 0);
}

#[test]
fn owners_take_turns() {
    let (engine, _) = start(ladder(16, 1), settings());
    let owned = |owner: &str, n: u32| Request {
        owner: owner.to_string(),
        ..request(&[n, n + 1, 5, 6], 20)
    };
    // One owner fills the queue; another's single request must not wait for all of it.
    let many: Vec<Answer> = (0..12).map(|n| engine.submit(owned("many", n)).unwrap()).collect();
    let (_, one) = finish(engine.submit(owned("one", 40)).unwrap()).unwrap();
    let last =
        many.into_iter().map(|answer| finish(answer).unwrap().1.timing.queued).max().unwrap();
    assert!(one.timing.queued < last);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Whatever runs beside it, whatever the device and the memory are like: the answer is the same.
    #[test]
    fn answers_depend_on_nothing_but_the_prompt(
        prompts in prop::collection::vec((prop::collection::vec(0u32..6, 1..30), 1usize..34, 0u8..4), 1..14),
        pages in 16usize..80,
        sequences in 1usize..9,
        guesses in 0usize..4,
        looks_ahead: bool,
        prefix_cache: bool,
        fail_every in prop_oneof![3 => Just(0usize), 1 => 9usize..40],
        batched_tokens in 1usize..24,
    ) {
        let shape = Ladder { guesses, looks_ahead, ..ladder(pages, sequences) };
        let policy = Policy { batched_tokens, prefix_cache };
        let (engine, watch) = start(shape, EngineSettings { policy, waiting_max: 64 });
        watch.fail_every.store(fail_every, Ordering::Relaxed);
        let mut answers = Vec::new();
        for (prompt, count, leaves) in &prompts {
            let mut given = engine.submit(request(prompt, *count)).unwrap();
            // Some leave, at once or after a token.
            match leaves {
                0 => drop(given),
                1 => drop(given.next_blocking()),
                _ => answers.push((prompt, *count, given)),
            }
        }
        for (prompt, count, given) in answers {
            match finish(given) {
                Ok((tokens, _)) => prop_assert_eq!(tokens, answer(prompt, count)),
                // A device that fails all the time may fail one request three times in a row.
                Err(failure) => prop_assert!(fail_every > 0, "{}", failure),
            }
        }
        watch.fail_every.store(0, Ordering::Relaxed);
        prop_assert_eq!(idle(&engine).pages_used, 0);
    }
}
