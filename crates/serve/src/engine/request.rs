//! What the engine is asked, and what it answers.

use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;

/// How tokens are chosen, with vLLM's names and meanings.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token every time.
    pub temperature: f32,
    /// Only this many of the likeliest tokens; 0 for all.
    pub top_k: u32,
    /// Only the likeliest tokens whose probabilities add up to this; 1 for all.
    pub top_p: f32,
    /// Only tokens at least this many times as likely as the likeliest; 0 for all.
    pub min_p: f32,
    /// Above 1, tokens of the prompt and the answer so far become less likely.
    pub repetition_penalty: f32,
    /// Taken off a token's logit once if the answer has it already.
    pub presence_penalty: f32,
    /// Taken off a token's logit for each time that the answer has it already.
    pub frequency_penalty: f32,
    /// Added to the logits of some tokens; at most [`Sampling::BIAS_MAX`] of them.
    pub logit_bias: Vec<(u32, f32)>,
    /// The same seed gives the same text, whatever else is being served.
    pub seed: u64,
}

impl Sampling {
    /// How many tokens of a request can have a bias.
    pub const BIAS_MAX: usize = 300;
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

/// What tokens may come next, decided by what came before: a grammar, a schema.
pub trait Constraint: Send {
    /// Clears the bits of tokens that may not come next: bit `token % 32` of word `token / 32`.
    ///
    /// # Errors
    /// Why nothing can come next, or the constraint gave up.
    fn allow(&mut self, mask: &mut [u32]) -> Result<(), String>;

    /// Takes a token that came.
    ///
    /// # Errors
    /// Why it could not come.
    fn advance(&mut self, token: u32) -> Result<(), String>;

    /// Whether the text is complete and nothing but its end may follow.
    fn is_complete(&self) -> bool;
}

/// One answer that is asked for.
pub struct Request {
    /// Names the request in logs.
    pub id: String,
    pub prompt: Vec<u32>,
    /// The beginning of the answer, generated elsewhere already: this answer goes on behind it, as
    /// if it had been generated here. It counts towards `max_tokens` and is not sent again.
    pub continued: Vec<u32>,
    /// The name of a loaded adapter; none for the base model.
    pub adapter: Option<String>,
    pub sampling: Sampling,
    /// The length of the answer at most.
    pub max_tokens: usize,
    /// End tokens do not come before so many others.
    pub min_tokens: usize,
    /// Tokens that end the answer. The one that did is reported, but is not part of it.
    pub end_tokens: Vec<u32>,
    /// How many of the likeliest tokens are reported beside each; at most [`Request::TOP_MAX`].
    pub top_log_probs: usize,
    pub constraint: Option<Box<dyn Constraint>>,
    /// Lower goes first.
    pub priority: i32,
    /// Requests of different owners take turns.
    pub owner: String,
}

impl Request {
    /// The most alternatives that can be reported.
    pub const TOP_MAX: usize = 20;
}

/// A token that might have come instead.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Alternative {
    pub token: u32,
    pub log_prob: f32,
}

/// One token of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    pub token: u32,
    /// Its log-probability under the model's own distribution, before any setting.
    pub log_prob: f32,
    /// The likeliest tokens for this place, likeliest first, if asked for.
    pub top: Vec<Alternative>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// One of the request's end tokens.
    EndToken(u32),
    /// The constraint is complete.
    Complete,
    /// `max_tokens`.
    Length,
    /// The model's context is full.
    ContextFull,
}

/// How long a request took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timing {
    /// From submission until the engine began with it.
    pub queued: Duration,
    /// From then until the first token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
}

/// An answer's end.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    pub finish: Finish,
    pub prompt_tokens: usize,
    /// Tokens of the prompt that were computed before, for this or another request.
    pub cached_tokens: usize,
    /// Tokens of the answer, `continued` included, without the end token.
    pub answer_tokens: usize,
    /// How often the request had to give way and be computed again.
    pub preemptions: usize,
    pub timing: Timing,
}

/// Why the engine gave up on a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("the device failed: {0}")]
    Device(String),
    #[error("the model gave a number that is not finite at token {position}")]
    NotFinite { position: usize },
    #[error("{0}")]
    Constraint(String),
    #[error("the server is stopping")]
    Stopping,
}

/// What is known of a request once the engine begins with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Started {
    /// As in [`Finished`]: an answer that is cut off from outside never gets that far.
    pub cached_tokens: usize,
}

/// What happens to a request, in order; `Finished` and `Failed` are the last.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Before the first token, once.
    Started(Started),
    Token(Drawn),
    Finished(Finished),
    Failed(Failure),
}

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// 429 in HTTP.
    #[error("{waiting} requests are waiting already; try again in about {retry_after_seconds} s")]
    QueueFull { waiting: usize, retry_after_seconds: u64 },
    /// 503 in HTTP.
    #[error("the server is stopping and takes no new requests")]
    Stopping,
    #[error("the prompt is empty; give at least one token")]
    EmptyPrompt,
    #[error("the prompt has {tokens} tokens, but the context is {context} tokens long")]
    TooLong { tokens: usize, context: usize },
    #[error("token {token} is not in the vocabulary of {vocab_size} tokens")]
    UnknownToken { token: u32, vocab_size: usize },
    #[error("there is no adapter `{0}`")]
    UnknownAdapter(String),
    /// The tokens to go on from are none that the constraint allows.
    #[error("the answer cannot go on from continue_token_ids: {0}")]
    Continuation(String),
    /// The parameter's name in the OpenAI interface, its value, and the values that are allowed.
    #[error("{parameter} is {value}; {wanted}")]
    OutOfRange { parameter: &'static str, value: String, wanted: &'static str },
}

/// An answer under way. Dropping it cancels the request.
#[derive(Debug)]
pub struct Answer {
    events: UnboundedReceiver<Event>,
}

impl Answer {
    /// An answer made of what is sent at the channel's other end.
    pub fn new(events: UnboundedReceiver<Event>) -> Answer {
        Answer { events }
    }

    /// The next event; none after the last one.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// The same, for callers that block.
    pub fn next_blocking(&mut self) -> Option<Event> {
        self.events.blocking_recv()
    }
}
