//! An engine that says what a test wants to hear.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar};
use std::time::Duration;

use llm::{ModelFiles, Tokenizer};
use serve::engine::{
    Alternative, Answer, Answering, Drawn, EmbedError, Embedding, Event, Failure, Finish, Finished,
    Limits, Refusal, Request, Sampling, Started, Stats, Timing,
};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

use super::tiny_model;

/// What the engine answers.
#[derive(Clone, Default)]
pub struct Script {
    /// One for each answer in turn; the last one again for all further ones.
    pub texts: Vec<String>,
    /// What is said instead to prompts that hold a text.
    pub replies: Vec<(String, String)>,
    /// Instead of an end token.
    pub endless: bool,
    pub refusal: Option<Refusal>,
    /// After so many tokens.
    pub failure: Option<(usize, Failure)>,
    /// Tokens come only as they are let through.
    pub gate: Option<Gate>,
    pub cached_tokens: usize,
    pub context: usize,
}

impl Script {
    pub fn saying(text: &str) -> Script {
        Script { texts: vec![text.to_owned()], context: 4096, ..Script::default() }
    }
}

/// Lets tokens through one by one.
#[derive(Clone)]
pub struct Gate(Arc<Semaphore>);

impl Gate {
    pub fn closed() -> Gate {
        Gate(Arc::new(Semaphore::new(0)))
    }

    pub fn open(&self, tokens: usize) {
        self.0.add_permits(tokens);
    }
}

/// What an engine was asked.
#[derive(Clone, Debug)]
pub struct Seen {
    pub id: String,
    pub prompt: Vec<u32>,
    pub continued: Vec<u32>,
    pub adapter: Option<String>,
    pub sampling: Sampling,
    pub max_tokens: usize,
    pub min_tokens: usize,
    pub end_tokens: Vec<u32>,
    pub top_log_probs: usize,
    pub has_constraint: bool,
    pub priority: i32,
    pub owner: String,
}

pub struct ScriptedEngine {
    pub script: Mutex<Script>,
    pub tokenizer: Tokenizer,
    pub adapters: Mutex<Vec<String>>,
    pub draining: AtomicBool,
    seen: Mutex<Vec<Seen>>,
    answered: AtomicUsize,
    cancelled: Arc<(Mutex<usize>, Condvar)>,
    handle: Handle,
}

pub const HIDDEN: usize = 8;

impl ScriptedEngine {
    pub fn new(script: Script, handle: Handle) -> ScriptedEngine {
        ScriptedEngine {
            script: Mutex::new(script),
            tokenizer: ModelFiles::open(&tiny_model()).unwrap().tokenizer().unwrap().unwrap(),
            adapters: Mutex::new(Vec::new()),
            draining: AtomicBool::new(false),
            seen: Mutex::new(Vec::new()),
            answered: AtomicUsize::new(0),
            cancelled: Arc::default(),
            handle,
        }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn last_seen(&self) -> Seen {
        self.seen().pop().expect("nothing was asked")
    }

    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode(text, false).unwrap()
    }

    /// Returns once so many answers have been dropped before their end.
    pub fn wait_for_cancelled(&self, count: usize) {
        let (cancelled, changed) = &*self.cancelled;
        let guard = cancelled.lock().unwrap();
        let limit = Duration::from_secs(60);
        let waited = changed.wait_timeout_while(guard, limit, |found| *found < count).unwrap();
        assert!(!waited.1.timed_out(), "the answer was not cancelled");
    }
}

impl Answering for ScriptedEngine {
    fn submit(&self, mut request: Request) -> Result<Answer, Refusal> {
        let script = self.script.lock().unwrap().clone();
        if let Some(refusal) = script.refusal {
            return Err(refusal);
        }
        if self.draining.load(Ordering::SeqCst) {
            return Err(Refusal::Stopping);
        }
        let tokens = request.prompt.len();
        if tokens == 0 {
            return Err(Refusal::EmptyPrompt);
        }
        if tokens >= script.context {
            return Err(Refusal::TooLong { tokens, context: script.context });
        }
        if let Some(constraint) = &mut request.constraint {
            for &token in &request.continued {
                constraint.advance(token).map_err(Refusal::Continuation)?;
            }
        }
        let asked = Seen {
            id: request.id.clone(),
            prompt: request.prompt.clone(),
            continued: request.continued.clone(),
            adapter: request.adapter.clone(),
            sampling: request.sampling.clone(),
            max_tokens: request.max_tokens,
            min_tokens: request.min_tokens,
            end_tokens: request.end_tokens.clone(),
            top_log_probs: request.top_log_probs,
            has_constraint: request.constraint.is_some(),
            priority: request.priority,
            owner: request.owner.clone(),
        };
        self.seen.lock().unwrap().push(asked.clone());
        let turn = self.answered.fetch_add(1, Ordering::SeqCst);
        let prompt = self.tokenizer.decode(&request.prompt, false).unwrap_or_default();
        let reply = script.replies.iter().find(|(asked, _)| prompt.contains(asked));
        let text = match reply {
            Some((_, said)) => said,
            None => &script.texts[turn.min(script.texts.len() - 1)],
        };
        let words = self.encode(text);
        let (sender, receiver) = mpsc::unbounded_channel();
        let cancelled = Arc::clone(&self.cancelled);
        self.handle.spawn(async move {
            tokio::select! {
                () = say(&script, &words, &asked, &sender) => {}
                () = sender.closed() => {
                    *cancelled.0.lock().unwrap() += 1;
                    cancelled.1.notify_all();
                }
            }
        });
        Ok(Answer::new(receiver))
    }

    fn embed(&self, tokens: Vec<u32>) -> Embedding {
        let context = self.limits().context;
        Box::pin(async move {
            if tokens.len() > context {
                let refusal = Refusal::TooLong { tokens: tokens.len(), context };
                return Err(EmbedError::Refused(refusal));
            }
            let mut embedding = vec![0.0; HIDDEN];
            embedding[0] = 0.6;
            embedding[1] = 0.8;
            embedding[HIDDEN - 1] = tokens.len() as f32;
            Ok(embedding)
        })
    }

    fn limits(&self) -> Limits {
        let context = self.script.lock().unwrap().context;
        Limits { context, vocab_size: 384, hidden_size: HIDDEN }
    }

    fn stats(&self) -> Stats {
        Stats { running: 3, waiting: 2, pages_used: 1, pages_total: 4, ..Stats::default() }
    }

    fn adapters(&self) -> Vec<String> {
        self.adapters.lock().unwrap().clone()
    }

    fn load_adapter(&self, name: &str, folder: &Path) -> Result<(), String> {
        if folder != Path::new("good") {
            return Err(format!("{} holds no adapter", folder.display()));
        }
        self.adapters.lock().unwrap().push(name.to_owned());
        Ok(())
    }

    fn unload_adapter(&self, name: &str) -> Result<(), String> {
        self.adapters.lock().unwrap().retain(|adapter| adapter != name);
        Ok(())
    }

    fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }
}

async fn say(
    script: &Script,
    words: &[u32],
    request: &Seen,
    sender: &mpsc::UnboundedSender<Event>,
) {
    let cached_tokens = script.cached_tokens;
    let send = |event| {
        let _ = sender.send(event);
    };
    send(Event::Started(Started { cached_tokens }));
    let mut count = request.continued.len();
    let finish = loop {
        if let Some(gate) = &script.gate {
            gate.0.acquire().await.unwrap().forget();
        }
        if let Some((after, failure)) = &script.failure
            && count == *after
        {
            return send(Event::Failed(failure.clone()));
        }
        if count >= request.max_tokens {
            break Finish::Length;
        }
        let token = match words.get(count) {
            Some(token) => *token,
            None if script.endless => words[count % words.len()],
            None => match request.end_tokens.first() {
                Some(end) => break Finish::EndToken(*end),
                None => break Finish::ContextFull,
            },
        };
        if request.end_tokens.contains(&token) {
            break Finish::EndToken(token);
        }
        let alternative =
            |place: u32| Alternative { token: token + place, log_prob: -0.5 - place as f32 };
        let top = (0..request.top_log_probs as u32).map(alternative).collect();
        send(Event::Token(Drawn { token, log_prob: -0.5, top }));
        count += 1;
        tokio::task::yield_now().await;
    };
    send(Event::Finished(Finished {
        finish,
        prompt_tokens: request.prompt.len(),
        cached_tokens,
        answer_tokens: count,
        preemptions: 0,
        timing: Timing::default(),
    }));
}
