//! The engine as others see it: requests come in by a channel, a thread of its own owns the device and
//! answers them.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::adapters::{Adapters, LoadedAdapter};
use super::device::{Device, Ladder};
use super::embedding::EmbeddingJob;
use super::interface::{Answering, EmbedError, Embedding, Limits, Stats};
use super::request::{
    Answer, Event, Failure, Finish, Finished, Refusal, Request, Sampling, Started, Timing,
};
use super::scheduler::{Policy, Scheduler};
use super::sequence::Sequence;

/// How an engine serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineSettings {
    pub policy: Policy,
    /// Requests that may wait; more are refused.
    pub waiting_max: usize,
}

enum Command {
    Submit(Box<Sequence>),
    Embed(EmbeddingJob),
    Stop,
}

/// What the thread and its callers share.
#[derive(Default)]
struct Shared {
    stats: Mutex<Stats>,
    /// Submitted and not begun.
    waiting: AtomicUsize,
    stopping: AtomicBool,
    next_id: AtomicU64,
    /// Seconds that requests took lately, from beginning to end.
    usual_seconds: Mutex<f64>,
}

/// An engine at work.
pub struct Engine {
    commands: Sender<Command>,
    shared: Arc<Shared>,
    ladder: Ladder,
    adapters: Adapters,
    settings: EngineSettings,
    thread: Mutex<Option<JoinHandle<()>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    /// Starts serving with a device that is ready.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start<D: Device + 'static>(
        device: D,
        settings: EngineSettings,
    ) -> std::io::Result<Engine> {
        let ladder = device.ladder().clone();
        let slots = ladder.adapters.map_or(0, |room| room.slots);
        let adapters = Adapters::new(device.adapter_memory(), slots);
        let shared = Arc::new(Shared::default());
        let (commands, received) = channel();
        let theirs = shared.clone();
        let scheduler = Scheduler::new(device, settings.policy);
        *lock(&shared.stats) = scheduler.stats();
        let thread = std::thread::Builder::new()
            .name("engine".to_string())
            .spawn(move || serve(scheduler, &received, &theirs))?;
        let thread = Mutex::new(Some(thread));
        Ok(Engine { commands, shared, ladder, adapters, settings, thread })
    }

    pub fn ladder(&self) -> &Ladder {
        &self.ladder
    }

    /// Finds the adapter that a request wants, if what it asks for makes sense.
    fn check(&self, request: &Request) -> Result<Option<Arc<LoadedAdapter>>, Refusal> {
        check_sampling(&request.sampling, self.ladder.vocab_size)?;
        if request.prompt.is_empty() {
            return Err(Refusal::EmptyPrompt);
        }
        let tokens = request.prompt.len();
        let context = self.ladder.context;
        if tokens >= context {
            return Err(Refusal::TooLong { tokens, context });
        }
        self.check_tokens(request.prompt.iter().chain(&request.continued))?;
        let out_of_range = |parameter, value: usize, wanted| {
            Err(Refusal::OutOfRange { parameter, value: value.to_string(), wanted })
        };
        if request.max_tokens == 0 {
            return out_of_range("max_tokens", 0, "it must be at least 1");
        }
        if request.top_log_probs > Request::TOP_MAX {
            return out_of_range("top_logprobs", request.top_log_probs, "it can be at most 20");
        }
        match &request.adapter {
            None => Ok(None),
            Some(name) => match self.adapters.find(name) {
                Some(adapter) => Ok(Some(adapter)),
                None => Err(Refusal::UnknownAdapter(name.clone())),
            },
        }
    }

    fn check_queue(&self) -> Result<(), Refusal> {
        let waiting = self.shared.waiting.load(Ordering::Relaxed);
        if waiting < self.settings.waiting_max {
            return Ok(());
        }
        let usual = lock(&self.shared.usual_seconds).max(1.0);
        let rounds = waiting as f64 / self.ladder.slots.max(1) as f64;
        let retry_after_seconds = (usual * rounds).ceil().clamp(1.0, 600.0) as u64;
        Err(Refusal::QueueFull { waiting, retry_after_seconds })
    }

    /// Why an answer that was begun elsewhere is at its end already.
    fn is_over(&self, request: &Request) -> Option<Finish> {
        if request.continued.is_empty() {
            None
        } else if request.constraint.as_deref().is_some_and(|constraint| constraint.is_complete()) {
            Some(Finish::Complete)
        } else if request.continued.len() >= request.max_tokens {
            Some(Finish::Length)
        } else if request.prompt.len() + request.continued.len() >= self.ladder.context {
            Some(Finish::ContextFull)
        } else {
            None
        }
    }

    fn check_tokens<'a>(&self, mut tokens: impl Iterator<Item = &'a u32>) -> Result<(), Refusal> {
        let vocab_size = self.ladder.vocab_size;
        match tokens.find(|&&token| token as usize >= vocab_size) {
            Some(&token) => Err(Refusal::UnknownToken { token, vocab_size }),
            None => Ok(()),
        }
    }

    /// Whether the engine's thread is there. Without it nothing will ever be answered.
    pub fn is_running(&self) -> bool {
        lock(&self.thread).as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Waits until all that was taken is answered, and stops the thread.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        let _ = self.commands.send(Command::Stop);
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }
}

impl Answering for Engine {
    fn submit(&self, mut request: Request) -> Result<Answer, Refusal> {
        let shared = &self.shared;
        if shared.stopping.load(Ordering::Relaxed) {
            return Err(Refusal::Stopping);
        }
        let adapter = self.check(&request)?;
        self.check_queue()?;
        // Constraint and sampling go on where the beginning of the answer left them.
        if let Some(constraint) = &mut request.constraint {
            for &token in &request.continued {
                constraint.advance(token).map_err(Refusal::Continuation)?;
            }
        }
        let (sender, events) = mpsc::unbounded_channel();
        if let Some(finish) = self.is_over(&request) {
            finish_at_once(&request, finish, &sender);
            return Ok(Answer::new(events));
        }
        let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
        let sequence = Sequence::new(id, request, adapter, sender, Instant::now());
        shared.waiting.fetch_add(1, Ordering::Relaxed);
        match self.commands.send(Command::Submit(Box::new(sequence))) {
            Ok(()) => Ok(Answer::new(events)),
            Err(_) => Err(Refusal::Stopping),
        }
    }

    fn embed(&self, tokens: Vec<u32>) -> Embedding {
        let refused = || -> Result<(), Refusal> {
            if self.shared.stopping.load(Ordering::Relaxed) {
                return Err(Refusal::Stopping);
            }
            if tokens.is_empty() {
                return Err(Refusal::EmptyPrompt);
            }
            if tokens.len() > self.ladder.context {
                let (tokens, context) = (tokens.len(), self.ladder.context);
                return Err(Refusal::TooLong { tokens, context });
            }
            self.check_tokens(tokens.iter())?;
            self.check_queue()
        };
        if let Err(refusal) = refused() {
            return Box::pin(std::future::ready(Err(EmbedError::Refused(refusal))));
        }
        let (sender, receiver) = oneshot::channel();
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let sent = self.commands.send(Command::Embed(EmbeddingJob::new(id, tokens, sender)));
        Box::pin(async move {
            let stopping = || EmbedError::Failed(Failure::Stopping);
            sent.map_err(|_| stopping())?;
            Ok(receiver.await.map_err(|_| stopping())??)
        })
    }

    fn limits(&self) -> Limits {
        let Ladder { context, vocab_size, hidden_size, .. } = self.ladder;
        Limits { context, vocab_size, hidden_size }
    }

    fn stats(&self) -> Stats {
        let waiting = self.shared.waiting.load(Ordering::Relaxed);
        let stats = lock(&self.shared.stats).clone();
        Stats { waiting: stats.waiting.max(waiting), ..stats }
    }

    fn adapters(&self) -> Vec<String> {
        self.adapters.names()
    }

    fn load_adapter(&self, name: &str, folder: &Path) -> Result<(), String> {
        self.adapters.load(name, folder)
    }

    fn unload_adapter(&self, name: &str) -> Result<(), String> {
        self.adapters.unload(name)
    }

    fn drain(&self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Answers with nothing but the end.
fn finish_at_once(request: &Request, finish: Finish, events: &mpsc::UnboundedSender<Event>) {
    let _ = events.send(Event::Started(Started { cached_tokens: 0 }));
    let _ = events.send(Event::Finished(Finished {
        finish,
        prompt_tokens: request.prompt.len(),
        cached_tokens: 0,
        answer_tokens: request.continued.len(),
        preemptions: 0,
        timing: Timing::default(),
    }));
}

/// Settings that a program could not make sense of.
fn check_sampling(sampling: &Sampling, vocab_size: usize) -> Result<(), Refusal> {
    let ranges = [
        ("temperature", sampling.temperature, 0.0..=100.0, "it must be between 0 and 100"),
        ("top_p", sampling.top_p, f32::MIN_POSITIVE..=1.0, "it must be above 0 and at most 1"),
        ("min_p", sampling.min_p, 0.0..=1.0, "it must be between 0 and 1"),
        (
            "repetition_penalty",
            sampling.repetition_penalty,
            f32::MIN_POSITIVE..=100.0,
            "it must be above 0 and at most 100",
        ),
        ("presence_penalty", sampling.presence_penalty, -2.0..=2.0, "it must be between -2 and 2"),
        (
            "frequency_penalty",
            sampling.frequency_penalty,
            -2.0..=2.0,
            "it must be between -2 and 2",
        ),
    ];
    for (parameter, value, range, wanted) in ranges {
        if !range.contains(&value) {
            return Err(Refusal::OutOfRange { parameter, value: value.to_string(), wanted });
        }
    }
    let biases = &sampling.logit_bias;
    if biases.len() > Sampling::BIAS_MAX {
        let (parameter, value) = ("logit_bias", format!("{} tokens", biases.len()));
        return Err(Refusal::OutOfRange { parameter, value, wanted: "it can have at most 300" });
    }
    for &(token, bias) in biases {
        if token as usize >= vocab_size {
            return Err(Refusal::UnknownToken { token, vocab_size });
        }
        if !(-100.0..=100.0).contains(&bias) {
            let (parameter, value) = ("logit_bias", bias.to_string());
            let wanted = "each must be between -100 and 100";
            return Err(Refusal::OutOfRange { parameter, value, wanted });
        }
    }
    Ok(())
}

/// The engine's thread: takes what comes, serves what is there, waits when there is nothing.
fn serve<D: Device>(mut scheduler: Scheduler<D>, commands: &Receiver<Command>, shared: &Shared) {
    let mut stopping = false;
    loop {
        loop {
            let idle = scheduler.is_idle();
            if idle && stopping {
                return;
            }
            let command = match idle {
                true => commands.recv().map_err(|_| TryRecvError::Disconnected),
                false => commands.try_recv(),
            };
            match command {
                Ok(Command::Submit(sequence)) => scheduler.submit(*sequence),
                Ok(Command::Embed(job)) => scheduler.submit_embedding(job),
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) if idle => return,
                Ok(Command::Stop) => stopping = true,
                Err(TryRecvError::Disconnected) => {
                    stopping = true;
                    break;
                }
                Err(TryRecvError::Empty) => break,
            }
            shared.waiting.store(scheduler.waiting(), Ordering::Relaxed);
        }
        scheduler.step();
        shared.waiting.store(scheduler.waiting(), Ordering::Relaxed);
        let stats = scheduler.stats();
        *lock(&shared.usual_seconds) = scheduler.usual_seconds();
        *lock(&shared.stats) = stats;
    }
}
