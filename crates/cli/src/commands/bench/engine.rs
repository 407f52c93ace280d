//! `fungible bench engine`: tokens per second of the engine without HTTP, and what a step costs the host.

use std::time::{Duration, Instant};

use serde_json::json;
use serve::engine::{Answering, Engine, Event, Ladder, Request, Sampling};

use super::null::NullDevice;
use crate::arguments::serve::BenchEngineArguments;
use crate::console;
use crate::engine;
use crate::failure::{Exit, Failure, Outcome};

/// What one round of requests took.
struct Round {
    concurrency: usize,
    seconds: f64,
    prompt_tokens: usize,
    answer_tokens: usize,
    first_token: Vec<Duration>,
    between_tokens: Vec<Duration>,
    steps: u64,
    host_seconds: f64,
}

pub fn run(arguments: &BenchEngineArguments) -> Outcome {
    if arguments.null && !arguments.engine.adapter.is_empty() {
        let message = "--null has no weights, and so no adapters; leave --adapter out";
        return Err(Failure::usage(message));
    }
    let (engine, vocab_size) = match arguments.null {
        true => {
            let ladder = null_ladder(arguments);
            let vocab_size = ladder.vocab_size;
            (Engine::start(NullDevice(ladder), arguments.engine.settings())?, vocab_size)
        }
        false => {
            let ready = engine::prepare(&arguments.model, &arguments.engine)?;
            let vocab_size = ready.files.config.vocab_size;
            let engine = Engine::start(ready.programs, ready.settings)?;
            engine::adapters::load(&engine, &arguments.engine)?;
            (engine, vocab_size)
        }
    };
    let mut rounds = Vec::new();
    for &concurrency in &arguments.concurrency {
        rounds.push(round(&engine, arguments, concurrency, vocab_size)?);
    }
    if arguments.json {
        let rows: Vec<_> = rounds.iter().map(Round::json).collect();
        console::line(json!({ "rounds": rows }));
        return Ok(());
    }
    let heading = [
        "requests",
        "answer tokens/s",
        "all tokens/s",
        "TTFT p50",
        "ITL p50",
        "ITL p99",
        "host per step",
    ];
    let mut rows = vec![heading.map(str::to_string).to_vec()];
    rows.extend(rounds.iter().map(Round::row));
    console::table(&rows);
    Ok(())
}

/// Shapes with room for all requests.
fn null_ladder(arguments: &BenchEngineArguments) -> Ladder {
    let slots = arguments.concurrency.iter().copied().max().unwrap_or(1);
    let context = arguments.input + arguments.output;
    let page = arguments.engine.block_size;
    Ladder {
        context,
        vocab_size: 49_152,
        hidden_size: 1,
        page,
        pages: (context.div_ceil(page) + 1) * slots,
        slots,
        batches: vec![slots],
        chunks: vec![arguments.engine.max_num_batched_tokens],
        guesses: arguments.engine.num_speculative_tokens,
        looks_ahead: true,
        adapters: None,
    }
}

/// As many workers as `concurrency`, each with its requests one after the other.
fn round(
    engine: &Engine,
    arguments: &BenchEngineArguments,
    concurrency: usize,
    vocab_size: usize,
) -> Result<Round, Failure> {
    let before = engine.stats();
    let started = Instant::now();
    let results: Vec<Result<Vec<Worked>, String>> = std::thread::scope(|scope| {
        let worker = |number: usize| {
            (0..arguments.requests)
                .map(|index| {
                    let seed = (concurrency * 1000 + number * 100 + index) as u64;
                    ask(engine, arguments, vocab_size, seed)
                })
                .collect()
        };
        let handles: Vec<_> =
            (0..concurrency).map(|number| scope.spawn(move || worker(number))).collect();
        let gone = |_| Err("a worker ended".to_string());
        handles.into_iter().map(|handle| handle.join().unwrap_or_else(gone)).collect()
    });
    let seconds = started.elapsed().as_secs_f64();
    let after = engine.stats();
    let mut round = Round {
        concurrency,
        seconds,
        prompt_tokens: 0,
        answer_tokens: 0,
        first_token: Vec::new(),
        between_tokens: Vec::new(),
        steps: after.steps - before.steps,
        host_seconds: after.host_seconds - before.host_seconds,
    };
    for worked in results {
        for worked in worked.map_err(|error| Failure::new(Exit::Failure, error))? {
            round.prompt_tokens += arguments.input;
            round.answer_tokens += worked.times.len();
            round.first_token.extend(worked.times.first().map(|&first| first - worked.asked));
            round.between_tokens.extend(worked.times.windows(2).map(|pair| pair[1] - pair[0]));
        }
    }
    Ok(round)
}

/// When a request was made, and when its tokens came.
struct Worked {
    asked: Instant,
    times: Vec<Instant>,
}

fn ask(
    engine: &Engine,
    arguments: &BenchEngineArguments,
    vocab_size: usize,
    seed: u64,
) -> Result<Worked, String> {
    let token = |place: usize| ((seed as usize + 1) * 7919 + place * 104_729) % vocab_size;
    // Requests take turns with the adapters that are there.
    let adapters = &arguments.engine.adapter;
    let turn = (seed / 100 + seed) as usize % adapters.len().max(1);
    let adapter = adapters.get(turn).map(|one| one.name.clone());
    let request = Request {
        id: seed.to_string(),
        prompt: (0..arguments.input).map(|place| token(place) as u32).collect(),
        continued: Vec::new(),
        adapter,
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        max_tokens: arguments.output,
        min_tokens: 0,
        end_tokens: Vec::new(),
        top_log_probs: 0,
        constraint: None,
        priority: 0,
        owner: String::new(),
    };
    let asked = Instant::now();
    let mut answer = engine.submit(request).map_err(|refusal| refusal.to_string())?;
    let mut times = Vec::with_capacity(arguments.output);
    while let Some(event) = answer.next_blocking() {
        match event {
            Event::Started(_) => {}
            Event::Token(_) => times.push(Instant::now()),
            Event::Finished(_) => return Ok(Worked { asked, times }),
            Event::Failed(failure) => return Err(failure.to_string()),
        }
    }
    Err("the engine stopped".to_string())
}

/// The time that `share` of all do not exceed, in milliseconds.
fn percentile_ms(times: &[Duration], share: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let place = (sorted.len() as f64 * share) as usize;
    sorted
        .get(place.min(sorted.len().saturating_sub(1)))
        .map_or(f64::NAN, |t| t.as_secs_f64() * 1e3)
}

impl Round {
    fn answer_rate(&self) -> f64 {
        self.answer_tokens as f64 / self.seconds
    }

    fn all_rate(&self) -> f64 {
        (self.answer_tokens + self.prompt_tokens) as f64 / self.seconds
    }

    fn host_ms(&self) -> f64 {
        self.host_seconds * 1e3 / self.steps.max(1) as f64
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.concurrency.to_string(),
            format!("{:.1}", self.answer_rate()),
            format!("{:.1}", self.all_rate()),
            format!("{:.1} ms", percentile_ms(&self.first_token, 0.5)),
            format!("{:.1} ms", percentile_ms(&self.between_tokens, 0.5)),
            format!("{:.1} ms", percentile_ms(&self.between_tokens, 0.99)),
            format!("{:.3} ms", self.host_ms()),
        ]
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "concurrency": self.concurrency,
            "answer_tokens_per_second": self.answer_rate(),
            "tokens_per_second": self.all_rate(),
            "ttft_ms_p50": percentile_ms(&self.first_token, 0.5),
            "itl_ms_p50": percentile_ms(&self.between_tokens, 0.5),
            "itl_ms_p99": percentile_ms(&self.between_tokens, 0.99),
            "host_ms_per_step": self.host_ms(),
        })
    }
}
