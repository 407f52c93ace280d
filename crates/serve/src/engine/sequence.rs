//! One request under way: its tokens, its pages, and how far it has come.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use super::adapters::LoadedAdapter;
use super::pages::{EntryId, PageId, Pages};
use super::request::{Drawn, Event, Failure, Finish, Finished, Request, Started, Timing};

/// A request's number in the engine.
pub type SequenceId = u64;

pub struct Sequence {
    pub id: SequenceId,
    pub request: Request,
    pub events: UnboundedSender<Event>,
    /// The prompt, and what of the answer is known.
    pub tokens: Vec<u32>,
    /// How many of them have keys and values in the cache, or will have when the steps under way are
    /// done.
    pub computed: usize,
    /// All known tokens are in the cache or on their way, and the next one is drawn.
    pub prefilled: bool,
    /// Draws under way.
    pub drawing: usize,
    pub slot: Option<usize>,
    /// The slot still holds what was counted for another.
    pub fresh: bool,
    pub pages: Vec<PageId>,
    /// The entries of its full pages.
    pub entries: Vec<EntryId>,
    /// Kept until the end, also if it is unloaded before.
    pub adapter: Option<Arc<LoadedAdapter>>,
    /// Tokens that were found in the cache, the first time.
    pub cached_tokens: usize,
    pub preemptions: usize,
    /// How often a device failed under it in a row.
    pub failures: usize,
    submitted: Instant,
    started: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
}

impl Sequence {
    pub fn new(
        id: SequenceId,
        request: Request,
        adapter: Option<Arc<LoadedAdapter>>,
        events: UnboundedSender<Event>,
        submitted: Instant,
    ) -> Sequence {
        let tokens = [&request.prompt[..], &request.continued].concat();
        Sequence {
            id,
            request,
            events,
            tokens,
            computed: 0,
            prefilled: false,
            drawing: 0,
            slot: None,
            fresh: true,
            pages: Vec::new(),
            entries: Vec::new(),
            adapter,
            cached_tokens: 0,
            preemptions: 0,
            failures: 0,
            submitted,
            started: None,
            first_token: None,
            last_token: None,
        }
    }

    /// What its text begins with in the prefix cache.
    pub fn root(&self) -> EntryId {
        Pages::root(self.adapter.as_ref().map_or(0, |adapter| adapter.root()))
    }

    /// The number of its adapter's slot; 0 for none.
    pub fn adapter_number(&self) -> usize {
        self.adapter.as_ref().map_or(0, |adapter| adapter.number())
    }

    /// The lowest matters most: by priority, then by arrival.
    pub fn order(&self) -> (i32, SequenceId) {
        (self.request.priority, self.id)
    }

    /// How long ago it was submitted.
    pub fn age(&self) -> Duration {
        self.submitted.elapsed()
    }

    /// Whoever asked has left.
    pub fn is_cancelled(&self) -> bool {
        self.events.is_closed()
    }

    /// Tokens of the answer that are known.
    pub fn answer(&self) -> &[u32] {
        &self.tokens[self.request.prompt.len()..]
    }

    /// Tokens of the answer that are known or being drawn.
    fn coming(&self) -> usize {
        self.answer().len() + self.drawing
    }

    /// Whether another token may be drawn before those under way are read.
    pub fn may_draw(&self, context: usize) -> bool {
        let limited = self.coming() >= self.request.max_tokens;
        !limited && self.request.prompt.len() + self.coming() < context
    }

    /// Whether what comes next depends on tokens that are not known yet.
    pub fn must_know(&self) -> bool {
        self.request.constraint.is_some()
    }

    /// Whether end tokens may not come next.
    pub fn must_go_on(&self) -> bool {
        self.coming() < self.request.min_tokens && !self.request.end_tokens.is_empty()
    }

    pub fn has_penalty(&self) -> bool {
        let sampling = &self.request.sampling;
        sampling.repetition_penalty != 1.0
            || sampling.presence_penalty != 0.0
            || sampling.frequency_penalty != 0.0
    }

    /// Pages that are lacking for so many tokens.
    pub fn lacking(&self, tokens: usize, page: usize) -> usize {
        tokens.div_ceil(page).saturating_sub(self.pages.len())
    }

    /// Takes what beginning of it is known, and a slot.
    pub fn admit(&mut self, slot: usize, pages: &mut Pages, page: usize, now: Instant) {
        self.slot = Some(slot);
        self.fresh = true;
        // What was counted of tokens that are not run again is lost, and penalties need it.
        if !self.has_penalty() {
            let found = pages.find(self.root(), &self.tokens);
            self.computed = found.pages.len() * page;
            (self.pages, self.entries) = (found.pages, found.entries);
        }
        if self.started.is_none() {
            self.started = Some(now);
            self.cached_tokens = self.computed.min(self.request.prompt.len());
            let started = Started { cached_tokens: self.cached_tokens };
            let _ = self.events.send(Event::Started(started));
        }
    }

    /// Makes its full pages known to others.
    pub fn share(&mut self, pages: &mut Pages, page: usize) {
        let full = self.computed.min(self.tokens.len()) / page;
        for index in self.entries.len()..full {
            let parent = self.entries.last().copied().unwrap_or(self.root());
            let part = &self.tokens[index * page..(index + 1) * page];
            self.entries.push(pages.know(self.pages[index], parent, part));
        }
    }

    /// Gives up pages and slot; what was computed is gone, unless it is found again.
    pub fn give_way(&mut self, pages: &mut Pages) -> Option<usize> {
        pages.release(&self.pages);
        self.pages.clear();
        self.entries.clear();
        self.computed = 0;
        self.prefilled = false;
        self.slot.take()
    }

    /// Takes a token that was drawn; says why the answer ends, if it does.
    pub fn take(
        &mut self,
        drawn: Drawn,
        context: usize,
        now: Instant,
    ) -> Result<Option<Finish>, Failure> {
        self.first_token.get_or_insert(now);
        self.last_token = Some(now);
        self.failures = 0;
        let token = drawn.token;
        if !drawn.log_prob.is_finite() {
            return Err(Failure::NotFinite { position: self.tokens.len() });
        }
        let may_end = self.answer().len() >= self.request.min_tokens;
        let ends = may_end && self.request.end_tokens.contains(&token);
        if let Some(constraint) = self.request.constraint.as_mut().filter(|_| !ends) {
            constraint.advance(token).map_err(Failure::Constraint)?;
        }
        if ends {
            return Ok(Some(Finish::EndToken(token)));
        }
        self.tokens.push(token);
        // Whoever has left is noticed elsewhere.
        let _ = self.events.send(Event::Token(drawn));
        let complete =
            self.request.constraint.as_ref().is_some_and(|constraint| constraint.is_complete());
        Ok(if complete {
            Some(Finish::Complete)
        } else if self.answer().len() >= self.request.max_tokens {
            Some(Finish::Length)
        } else if self.tokens.len() >= context {
            Some(Finish::ContextFull)
        } else {
            None
        })
    }

    /// Tells whoever asked that this is the end.
    pub fn finish(&self, finish: Finish) {
        let started = self.started.unwrap_or(self.submitted);
        let first = self.first_token.unwrap_or(started);
        let timing = Timing {
            queued: started.saturating_duration_since(self.submitted),
            prefill: first.saturating_duration_since(started),
            decode: self.last_token.unwrap_or(first).saturating_duration_since(first),
        };
        let _ = self.events.send(Event::Finished(Finished {
            finish,
            prompt_tokens: self.request.prompt.len(),
            cached_tokens: self.cached_tokens,
            answer_tokens: self.answer().len(),
            preemptions: self.preemptions,
            timing,
        }));
    }

    pub fn fail(&self, failure: Failure) {
        let _ = self.events.send(Event::Failed(failure));
    }
}
