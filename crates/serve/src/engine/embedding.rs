//! A text whose embedding is asked for, chunk by chunk between the steps of answers.

use tokio::sync::oneshot;

use super::pages::PageId;
use super::request::Failure;
use super::sequence::SequenceId;

pub type EmbeddingSender = oneshot::Sender<Result<Vec<f32>, Failure>>;

pub struct EmbeddingJob {
    /// Its number among all requests: later ones matter less.
    pub id: SequenceId,
    pub tokens: Vec<u32>,
    /// Tokens that have run.
    pub done: usize,
    /// Taken when its turn comes.
    pub pages: Vec<PageId>,
    sum: Vec<f32>,
    answer: EmbeddingSender,
}

impl EmbeddingJob {
    pub fn new(id: SequenceId, tokens: Vec<u32>, answer: EmbeddingSender) -> EmbeddingJob {
        EmbeddingJob { id, tokens, done: 0, pages: Vec::new(), sum: Vec::new(), answer }
    }

    /// Its importance among sequences, as they have theirs.
    pub fn order(&self) -> (i32, SequenceId) {
        (0, self.id)
    }

    /// Whoever asked has left.
    pub fn is_cancelled(&self) -> bool {
        self.answer.is_closed()
    }

    /// Adds the states of the next `count` tokens.
    pub fn add(&mut self, states: Vec<f32>, count: usize) {
        match self.sum.is_empty() {
            true => self.sum = states,
            false => self.sum.iter_mut().zip(states).for_each(|(sum, own)| *sum += own),
        }
        self.done += count;
    }

    /// The device lost what had run.
    pub fn start_over(&mut self) {
        self.done = 0;
        self.sum.clear();
    }

    /// The sum of all states, scaled to length 1: their mean's direction.
    pub fn finish(self) {
        let length = self.sum.iter().map(|value| value * value).sum::<f32>().sqrt();
        let result = match length.is_finite() && length > 0.0 {
            true => Ok(self.sum.into_iter().map(|value| value / length).collect()),
            false => Err(Failure::NotFinite { position: self.tokens.len() }),
        };
        let _ = self.answer.send(result);
    }

    pub fn fail(self, failure: Failure) {
        let _ = self.answer.send(Err(failure));
    }
}
