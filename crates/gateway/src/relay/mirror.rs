//! Copies of requests for a pool that is not trusted yet, and how its answers compare. No client
//! waits for them or sees them, and nobody pays for them but whoever runs the gateway.
//!
//! A copy is asked for and read as its original is, streams as streams, so that times compare.

use std::sync::Arc;

use serde::Deserialize;
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant};

use super::attempt::{self, Failed, Set};
use super::continuation::request::prompts;
use super::errand::Errand;
use super::source::{Ended, Source};
use super::story::Story;
use super::stream::{self, Current};
use super::whole::{self, Content};
use crate::ask::{Ask, Kind};
use crate::pools::{Fault, Lease, Served};

/// Tells the comparison what the client got.
pub(super) type Original = oneshot::Sender<String>;

/// What is needed to send a request once more.
struct Copy {
    ask: Arc<Ask>,
    seed: i64,
    silence: Duration,
    deadline: Instant,
}

/// Sends a copy, if this request is one of those that are copied.
pub(super) fn begin(errand: &mut Errand) {
    let kind = errand.ask.kind;
    if errand.model().mirror.is_none() || !matches!(kind, Kind::Chat | Kind::Completions) {
        return;
    }
    let Some((lease, trial)) = errand.route.mirrors() else { return };
    let original = is_comparable(&errand.ask).then(|| {
        let (sender, original) = oneshot::channel();
        errand.original = Some(sender);
        original
    });
    let silence = errand.model().silence;
    let (ask, seed, deadline) = (Arc::clone(&errand.ask), errand.seed, errand.deadline);
    let copy = Copy { ask, seed, silence, deadline };
    tokio::spawn(async move {
        let id = &copy.ask.id;
        let (pool, backend) = (lease.pool().name().to_owned(), lease.backend().name().to_owned());
        let text = match copy.send(lease).await {
            Ok(text) => text,
            Err(fault) => {
                let fault = fault.map_or_else(|| "no end in time".to_owned(), |it| it.to_string());
                tracing::debug!(target: "fungible::mirror", id, pool, backend, fault, "a copy failed");
                return;
            }
        };
        // A client that left has no answer to compare with.
        let Some(original) = original else { return };
        let Ok(original) = original.await else { return };
        // Calls of tools and the like have no text.
        if original.is_empty() && text.is_empty() {
            return;
        }
        let Compared { is_same, same_beginning } = compare(&original, &text);
        trial.compared(is_same, same_beginning);
        tracing::debug!(
            target: "fungible::mirror",
            id, pool, backend, is_same, same_beginning, "a copy was answered"
        );
    });
}

/// Whether two good servers would say the same: the likeliest token each time, in one answer.
fn is_comparable(ask: &Ask) -> bool {
    let number = |name| ask.field(name).and_then(|json| json.parse::<f64>().ok());
    let is_greedy = number("temperature") == Some(0.0) || number("top_k") == Some(1.0);
    is_greedy && ask.answers == 1 && prompts(ask) == 1
}

impl Copy {
    /// The answer's text. Tells the lease what became of it.
    ///
    /// # Errors
    /// What went wrong there; nothing if the time was up.
    async fn send(&self, lease: Lease) -> Result<String, Option<Fault>> {
        match self.ask.streamed {
            true => self.send_stream(lease).await,
            false => self.send_whole(lease).await,
        }
    }

    async fn send_whole(&self, lease: Lease) -> Result<String, Option<Fault>> {
        let none = Set::new();
        let asked = whole::attempt(&self.ask, &lease, &none, self.silence, self.deadline).await;
        let answer = asked.map_err(|failed| fault_of(&failed));
        let answer = match answer {
            Ok(answer) => answer,
            Err(fault) => {
                lease.failed(fault);
                return Err(Some(fault));
            }
        };
        let Content::Json { body, usage } = answer.content else {
            lease.failed(Fault::Garbage);
            return Err(Some(Fault::Garbage));
        };
        let usage = usage.unwrap_or_default();
        lease.succeeded(Served {
            prompt_tokens: usage.prompt_tokens,
            cached_tokens: usage.cached_tokens(),
            completion_tokens: usage.completion_tokens,
            generation: None,
        });
        Ok(text_of(&body))
    }

    async fn send_stream(&self, lease: Lease) -> Result<String, Option<Fault>> {
        let body = attempt::body(&self.ask, &lease, self.seed, &Set::new());
        let until = (Instant::now() + self.silence).min(self.deadline);
        let body = match stream::open(&self.ask, &lease, body, until).await {
            Ok(body) => body,
            Err(failed) => {
                let fault = fault_of(&failed);
                lease.failed(fault);
                return Err(Some(fault));
            }
        };
        let source = Source::new(body, self.silence, self.deadline);
        let mut current = Current::new(lease, source, 0);
        let mut story = Story::new(&self.ask);
        let mut told = Vec::new();
        loop {
            told.clear();
            let fault = match current.read(&mut story, &mut told).await {
                Ok(false) => continue,
                Ok(true) => break,
                // Its time was up, which does not say that it is ill.
                Err(Ended::Deadline) => return Err(None),
                Err(Ended::Whole) => Fault::Broken,
                Err(Ended::Fault(fault)) => fault,
            };
            current.failed(fault);
            return Err(Some(fault));
        }
        current.succeeded(&story.usage(&self.ask).0);
        Ok(story.text().to_owned())
    }
}

fn fault_of(failed: &Failed) -> Fault {
    match failed {
        Failed::Elsewhere { fault, .. } => *fault,
        Failed::Refused { status, .. } => Fault::Status(status.as_u16()),
    }
}

/// The client's whole answer, for the comparison.
pub(super) fn give_whole(errand: &mut Errand, body: &[u8]) {
    if let Some(original) = errand.original.take() {
        let _ = original.send(text_of(body));
    }
}

pub(super) fn give_text(errand: &mut Errand, text: &str) {
    if let Some(original) = errand.original.take() {
        let _ = original.send(text.to_owned());
    }
}

struct Compared {
    is_same: bool,
    /// The share of the longer text in which both are the same.
    same_beginning: f64,
}

fn compare(one: &str, other: &str) -> Compared {
    let longer = one.chars().count().max(other.chars().count());
    let same = one.chars().zip(other.chars()).take_while(|(one, other)| one == other).count();
    let same_beginning = if longer == 0 { 1.0 } else { same as f64 / longer as f64 };
    Compared { is_same: one == other, same_beginning }
}

/// The first answer's text; nothing if there is none.
fn text_of(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Body {
        choices: Vec<Choice>,
    }
    #[derive(Deserialize)]
    struct Choice {
        text: Option<String>,
        message: Option<Message>,
    }
    #[derive(Deserialize)]
    struct Message {
        content: Option<String>,
    }
    let body: Option<Body> = serde_json::from_slice(body).ok();
    let choice = body.and_then(|body| body.choices.into_iter().next());
    let text = choice.and_then(|choice| choice.text.or_else(|| choice.message?.content));
    text.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_compared_by_their_beginnings() {
        let chat = br#"{"choices":[{"message":{"role":"assistant","content":"one two"}}]}"#;
        let text = br#"{"choices":[{"text":"one too","index":0}]}"#;
        let compared = compare(&text_of(chat), &text_of(text));
        assert!(!compared.is_same);
        assert!((compared.same_beginning - 5.0 / 7.0).abs() < 1e-9);
        assert!(compare("é", "é").is_same);
        assert!(compare("", &text_of(b"nonsense")).is_same);
    }
}
