//! One answer: from the engine's token ids to text, calls and their end.
//!
//! What has been shown after any token depends on the tokens up to it and on nothing else. That is
//! what lets an answer go on elsewhere: whoever pushes the same tokens again holds back the same.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use llm::text::{Piece, TextStream};
use llm::tokenizer::TokenizerError;

use super::error::ApiError;
use super::model_text::ModelText;
use super::parameters::Parameters;
use crate::engine::{Answer, Drawn, Event, Failure, Finish, Finished, Timing};
use crate::structure::{Delta, OutputParser};

/// What came of one event.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// Every token since the last step, with text or without.
    pub drawn: Vec<Drawn>,
    pub deltas: Vec<Delta>,
    pub pace: Option<Pace>,
    pub end: Option<End>,
}

/// When a token came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    First,
    /// So long after the one before.
    Next(Duration),
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct End {
    pub finish: FinishReason,
    /// What ended it, if it was neither the model's own end token nor a limit.
    pub stop_reason: Option<StopReason>,
    pub counts: Counts,
    pub submitted: Instant,
    pub timing: Timing,
}

/// `finish_reason` in OpenAI's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FinishReason {
    Stop,
    Length,
    ToolCalls,
}

impl FinishReason {
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::ToolCalls => "tool_calls",
        }
    }
}

/// vLLM's `stop_reason`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StopReason {
    Text(String),
    Token(u32),
}

/// How many tokens one answer has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub answer: usize,
    pub reasoning: usize,
    pub cached: usize,
}

/// An answer under way.
pub(crate) struct Generation<'m> {
    model: &'m ModelText,
    text: TextStream<'m>,
    parser: Option<Box<dyn OutputParser>>,
    /// Dropped as soon as nothing more is wanted of the engine.
    answer: Option<Answer>,
    /// Whether it has called a function.
    calls: bool,
    counts: Counts,
    clock: Clock,
    has_ended: bool,
}

struct Clock {
    submitted: Instant,
    started: Option<Instant>,
    first: Option<Instant>,
    last: Instant,
}

impl Clock {
    fn timing(&self) -> Timing {
        let (Some(started), Some(first)) = (self.started, self.first) else {
            return Timing::default();
        };
        Timing {
            queued: started - self.submitted,
            prefill: first - started,
            decode: self.last - first,
        }
    }
}

impl<'m> Generation<'m> {
    /// Begins with what was generated elsewhere; what it shows is the first result.
    pub fn new(
        model: &'m ModelText,
        prompt: &[u32],
        parameters: &Parameters,
        parser: Option<Box<dyn OutputParser>>,
        shows_special_tokens: bool,
    ) -> Result<(Generation<'m>, Step), ApiError> {
        let stop = parameters.stop.clone();
        let text = if shows_special_tokens {
            TextStream::with_special_tokens(&model.tokenizer, prompt, stop)
        } else {
            TextStream::new(&model.tokenizer, prompt, stop)
        };
        let text = text.with_min_tokens(parameters.min_tokens);
        let now = Instant::now();
        let mut generation = Generation {
            model,
            text,
            parser,
            answer: None,
            calls: false,
            counts: Counts::default(),
            clock: Clock { submitted: now, started: None, first: None, last: now },
            has_ended: false,
        };
        let mut replayed = Step::default();
        for &token in &parameters.continued {
            let is_end = parameters.end_tokens.contains(&token)
                && generation.counts.answer >= parameters.min_tokens;
            if is_end {
                generation.finish_text(&mut replayed)?;
                generation.end(&mut replayed, FinishReason::Stop, generation.token_reason(token));
            } else {
                generation.take_token(token, &mut replayed)?;
            }
            if generation.has_ended {
                return Ok((generation, replayed));
            }
        }
        let is_full = |most| generation.counts.answer >= most;
        if !parameters.continued.is_empty() && parameters.max_tokens.is_some_and(is_full) {
            generation.finish_text(&mut replayed)?;
            generation.end(&mut replayed, FinishReason::Length, None);
        }
        Ok((generation, replayed))
    }

    /// Whether there is nothing left to ask the engine for.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Listens to an answer of the engine's.
    pub fn listen(&mut self, answer: Answer) {
        self.clock.submitted = Instant::now();
        self.clock.last = self.clock.submitted;
        self.answer = Some(answer);
    }

    /// The next step that has something to tell; pending for ever once the answer has ended.
    pub fn poll_step(&mut self, context: &mut Context<'_>) -> Poll<Result<Step, ApiError>> {
        loop {
            let Some(answer) = &mut self.answer else { return Poll::Pending };
            let event = match pin!(answer.next()).poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(event) => event,
            };
            match event {
                Some(Event::Started(started)) => {
                    self.clock.started = Some(Instant::now());
                    self.counts.cached = started.cached_tokens;
                }
                Some(Event::Token(drawn)) => return Poll::Ready(self.token(drawn)),
                Some(Event::Finished(finished)) => return Poll::Ready(self.finished(&finished)),
                Some(Event::Failed(failure)) => {
                    self.answer = None;
                    self.has_ended = true;
                    return Poll::Ready(Err(failure.into()));
                }
                None => {
                    self.answer = None;
                    self.has_ended = true;
                    let gone = Failure::Device("the engine gave up without a word".to_owned());
                    return Poll::Ready(Err(gone.into()));
                }
            }
        }
    }

    fn token(&mut self, drawn: Drawn) -> Result<Step, ApiError> {
        let now = Instant::now();
        let pace = match self.clock.first {
            None => Pace::First,
            Some(_) => Pace::Next(now - self.clock.last),
        };
        let mut step = Step { pace: Some(pace), ..Step::default() };
        self.clock.started.get_or_insert(now);
        self.clock.first.get_or_insert(now);
        self.clock.last = now;
        self.take_token(drawn.token, &mut step)?;
        step.drawn.push(drawn);
        Ok(step)
    }

    fn finished(&mut self, finished: &Finished) -> Result<Step, ApiError> {
        let mut step = Step::default();
        self.counts.cached = finished.cached_tokens;
        self.finish_text(&mut step)?;
        if !self.has_ended {
            let (finish, reason) = match finished.finish {
                Finish::EndToken(token) => (FinishReason::Stop, self.token_reason(token)),
                Finish::Complete => (FinishReason::Stop, None),
                Finish::Length | Finish::ContextFull => (FinishReason::Length, None),
            };
            self.end(&mut step, finish, reason);
        }
        if let Some(end) = &mut step.end {
            end.timing = finished.timing;
        }
        Ok(step)
    }

    /// The model's own end tokens need no mention.
    fn token_reason(&self, token: u32) -> Option<StopReason> {
        (!self.model.end_tokens.contains(&token)).then_some(StopReason::Token(token))
    }

    fn take_token(&mut self, token: u32, step: &mut Step) -> Result<(), ApiError> {
        self.counts.answer += 1;
        let before = step.deltas.len();
        match self.text.push(token) {
            Ok(piece) => self.take_piece(piece, step),
            // Embeddings have rows without a token, for padding: such a draw has no text.
            Err(TokenizerError::UnknownId { .. }) => {}
            Err(error) => return Err(ApiError::internal(error.to_string())),
        }
        let new = &step.deltas[before..];
        if !new.is_empty() && new.iter().all(|delta| matches!(delta, Delta::Reasoning(_))) {
            self.counts.reasoning += 1;
        }
        Ok(())
    }

    fn finish_text(&mut self, step: &mut Step) -> Result<(), ApiError> {
        let piece = self.text.finish().map_err(|error| ApiError::internal(error.to_string()))?;
        self.take_piece(piece, step);
        Ok(())
    }

    fn take_piece(&mut self, piece: Piece, step: &mut Step) {
        if !piece.text.is_empty() {
            let deltas = match &mut self.parser {
                Some(parser) => parser.push(&piece.text),
                None => vec![Delta::Text(piece.text)],
            };
            self.show(deltas, step);
        }
        if piece.stopped && !self.has_ended {
            let reason = self.text.found().map(|text| StopReason::Text(text.to_owned()));
            self.end(step, FinishReason::Stop, reason);
        }
    }

    fn show(&mut self, deltas: Vec<Delta>, step: &mut Step) {
        self.calls |= deltas.iter().any(|delta| matches!(delta, Delta::ToolCall { .. }));
        step.deltas.extend(deltas);
    }

    /// The parser's rest, the end, and no more of the engine.
    fn end(&mut self, step: &mut Step, finish: FinishReason, reason: Option<StopReason>) {
        let rest = self.parser.as_mut().map_or_else(Vec::new, |parser| parser.finish());
        self.show(rest, step);
        self.answer = None;
        self.has_ended = true;
        let finish = match finish {
            FinishReason::Stop if self.calls => FinishReason::ToolCalls,
            finish => finish,
        };
        step.end = Some(End {
            finish,
            stop_reason: reason,
            counts: self.counts,
            submitted: self.clock.submitted,
            timing: self.clock.timing(),
        });
    }
}

/// The answers to one request, in whatever order their tokens come.
pub(crate) struct Choices<'m> {
    generations: Vec<Generation<'m>>,
    /// Who is looked at first; changes, so that no answer is always behind the others.
    first: usize,
}

impl<'m> Choices<'m> {
    pub fn new(generations: Vec<Generation<'m>>) -> Choices<'m> {
        Choices { generations, first: 0 }
    }

    /// The next step and whose it is; none once all have ended.
    pub async fn next(&mut self) -> Option<(usize, Result<Step, ApiError>)> {
        if self.generations.iter().all(Generation::has_ended) {
            return None;
        }
        std::future::poll_fn(|context| {
            let count = self.generations.len();
            for offset in 0..count {
                let index = (self.first + offset) % count;
                if let Poll::Ready(step) = self.generations[index].poll_step(context) {
                    self.first = (index + 1) % count;
                    return Poll::Ready(Some((index, step)));
                }
            }
            Poll::Pending
        })
        .await
    }
}
