//! Which sequences run in which step: a chunk of an embedding, chunks of prompts as far as the step's
//! tokens go, and a token of each sequence that is past its prompt. What is drawn is read when the step
//! after it is on its way, if the device likes that.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::device::{Device, DeviceError, Ladder, Row, Token, Tokens};
use super::embedding::EmbeddingJob;
use super::guess::guess;
use super::interface::Stats;
use super::pages::{PageId, Pages};
use super::queue::Queue;
use super::request::{Drawn, Failure};
use super::sequence::{Sequence, SequenceId};

/// How often a device may fail under a request in a row before the request is given up.
const FAILURES_MAX: usize = 2;

/// What can be chosen about scheduling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Tokens of a prefill chunk and a decode step together, at most.
    pub batched_tokens: usize,
    /// Whether beginnings of texts are kept for others.
    pub prefix_cache: bool,
}

/// A step under way, and whose it is.
struct Launch<S> {
    step: S,
    rows: Vec<Launched>,
}

struct Launched {
    id: SequenceId,
    guesses: Vec<u32>,
    draws: bool,
}

/// All that is being served.
pub struct Scheduler<D: Device> {
    device: D,
    policy: Policy,
    pub(super) queue: Queue,
    running: Vec<Sequence>,
    /// Slots that are free; the last of the device's is nobody's.
    slots: Vec<usize>,
    pages: Pages,
    under_way: Vec<Launch<D::Step>>,
    embeddings: VecDeque<EmbeddingJob>,
    stats: Stats,
    usual_seconds: f64,
    mask: Vec<u32>,
}

/// What a decode row runs.
struct Chosen {
    place: usize,
    tokens: Vec<u32>,
    mask: Option<Vec<u32>>,
}

impl<D: Device> Scheduler<D> {
    pub fn new(device: D, policy: Policy) -> Scheduler<D> {
        let ladder = device.ladder();
        let pages = Pages::new(ladder.pages, ladder.page, policy.prefix_cache);
        let slots = (0..ladder.slots).rev().collect();
        Scheduler {
            device,
            policy,
            queue: Queue::default(),
            running: Vec::new(),
            slots,
            pages,
            under_way: Vec::new(),
            embeddings: VecDeque::new(),
            stats: Stats::default(),
            usual_seconds: 0.0,
            mask: Vec::new(),
        }
    }

    pub fn submit(&mut self, sequence: Sequence) {
        self.stats.prompt_tokens += sequence.request.prompt.len() as u64;
        let running = self.running.iter().map(|sequence| sequence.request.owner.as_str());
        self.queue.push(sequence, running);
    }

    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting() == 0 && self.under_way.is_empty()
    }

    pub fn stats(&self) -> Stats {
        Stats {
            running: self.running.len(),
            waiting: self.waiting(),
            pages_used: self.pages.used(),
            pages_total: self.pages.total(),
            compiled_after_ready: self.device.compiled_late(),
            adapters_max: self.device.ladder().adapters.map_or(0, |room| room.slots),
            adapters_running: adapters_of(self.running.iter()),
            adapters_waiting: adapters_of(self.queue.iter()),
            ..self.stats.clone()
        }
    }

    /// Seconds that requests took lately, from beginning to end.
    pub fn usual_seconds(&self) -> f64 {
        self.usual_seconds
    }

    /// Puts an embedding behind those that wait.
    pub fn submit_embedding(&mut self, job: EmbeddingJob) {
        self.stats.prompt_tokens += job.tokens.len() as u64;
        self.embeddings.push_back(job);
    }

    /// Answers and embeddings that have not begun.
    pub fn waiting(&self) -> usize {
        self.queue.len() + self.embeddings.len()
    }

    /// Pages that the embedding whose turn it is lacks.
    fn lacking_for_embedding(&self) -> usize {
        let page = self.device.ladder().page;
        self.embeddings.front().map_or(0, |job| job.tokens.len().div_ceil(page) - job.pages.len())
    }

    /// Gives the embedding whose turn it is its pages, taking them from answers that matter less if need
    /// be. Those that matter more keep theirs, and one to grow.
    fn provide_embedding(&mut self) -> bool {
        let lacking = self.lacking_for_embedding();
        let Some(job) = self.embeddings.front() else { return false };
        let order = job.order();
        while self.pages.available() < lacking {
            let (more, less): (Vec<_>, Vec<_>) =
                self.running.iter().partition(|sequence| sequence.order() < order);
            let held: usize = less.iter().map(|sequence| sequence.pages.len()).sum();
            // What is held together counts twice here, which only lets some give way in vain.
            if held + self.pages.available() < lacking + more.len() {
                return false;
            }
            let last = less.iter().map(|sequence| sequence.order()).max();
            let Some(last) = last else { return false };
            self.preempt(last.1);
        }
        let taken: Vec<PageId> = (0..lacking).filter_map(|_| self.pages.take()).collect();
        if let Some(job) = self.embeddings.front_mut() {
            job.pages.extend(taken);
        }
        true
    }

    /// Runs a chunk of the embedding whose turn it is, as soon as there are pages for it.
    fn embed_part(&mut self) -> Result<(), DeviceError> {
        if self.lacking_for_embedding() > self.pages.total() {
            let Some(job) = self.embeddings.pop_front() else { return Ok(()) };
            job.fail(longer_than_the_cache());
            return Ok(());
        }
        if !self.provide_embedding() {
            return Ok(());
        }
        let chunk = self.device.ladder().chunks.last().copied().unwrap_or(1);
        let Some(mut job) = self.embeddings.pop_front() else { return Ok(()) };
        let end = job.tokens.len().min(job.done + chunk);
        self.stats.steps += 1;
        match self.device.embed(job.done, &job.tokens[job.done..end], &job.pages) {
            Ok(states) => job.add(states, end - job.done),
            Err(error) => {
                self.pages.release(&job.pages);
                job.fail(Failure::Device(error.to_string()));
                return Err(error);
            }
        }
        if job.done < job.tokens.len() {
            self.embeddings.push_front(job);
        } else {
            self.pages.release(&job.pages);
            job.finish();
        }
        Ok(())
    }

    /// One round: launches what can be launched, then reads what was launched before.
    pub fn step(&mut self) {
        let started = Instant::now();
        self.drop_cancelled();
        let earlier = std::mem::take(&mut self.under_way);
        let launched = self
            .embed_part()
            .and_then(|()| self.launch_prefills())
            .and_then(|()| self.launch_decode());
        let mut waited = Duration::ZERO;
        let mut result = launched;
        // What was launched before something failed may have come to its end all the same.
        let reads_all = result.is_err() || !self.device.ladder().looks_ahead;
        let later = if reads_all { std::mem::take(&mut self.under_way) } else { Vec::new() };
        for launch in earlier.into_iter().chain(later) {
            let read = self.read(launch, &mut waited);
            result = result.and(read);
        }
        if let Err(error) = result {
            self.recover(&error);
        }
        self.stats.device_seconds += waited.as_secs_f64();
        self.stats.host_seconds += started.elapsed().saturating_sub(waited).as_secs_f64();
    }

    fn drop_cancelled(&mut self) {
        drop(self.queue.take_if(Sequence::is_cancelled));
        let pages = &mut self.pages;
        self.embeddings.retain(|job| {
            if job.is_cancelled() {
                pages.release(&job.pages);
            }
            !job.is_cancelled()
        });
        while let Some(place) = self.running.iter().position(Sequence::is_cancelled) {
            let sequence = self.running.remove(place);
            self.end(sequence, |_| ());
        }
    }

    /// Takes back what a sequence had, and says the last word.
    fn end(&mut self, mut sequence: Sequence, last: impl FnOnce(&Sequence)) {
        self.slots.extend(sequence.give_way(&mut self.pages));
        last(&sequence);
    }

    /// Takes in what waits, as long as there are a slot and memory for all of its tokens.
    fn admit(&mut self) {
        let page = self.device.ladder().page;
        // One at a time is prefilled, so that it can be found by those that begin alike.
        while self.running.iter().all(|sequence| sequence.prefilled) {
            let Some(place) = self.queue.next() else { return };
            let Some(&slot) = self.slots.last() else { return };
            let Some(sequence) = self.queue.get(place) else { return };
            // Pages that become free are for an embedding that waits longer.
            let embedding = self.embeddings.front();
            if self.lacking_for_embedding() > 0
                && embedding.is_some_and(|job| job.order() < sequence.order())
            {
                return;
            }
            // A page for each of the others, so that they need not give way at once.
            // What it shares with those that run takes no memory.
            let shared = match sequence.has_penalty() {
                true => 0,
                false => self.pages.shared(sequence.root(), &sequence.tokens),
            };
            let needed = (sequence.tokens.len() + 1).div_ceil(page) - shared + self.running.len();
            let is_alone =
                self.running.is_empty() && embedding.is_none_or(|job| job.pages.is_empty());
            if self.pages.available() < needed.min(self.pages.total()) && !is_alone {
                return;
            }
            self.slots.pop();
            let mut sequence = self.queue.remove(place);
            let is_first = sequence.preemptions == 0 && sequence.failures == 0;
            sequence.admit(slot, &mut self.pages, page, Instant::now());
            if is_first {
                self.stats.prefix_queries += sequence.request.prompt.len() as u64;
                self.stats.prefix_hits += sequence.cached_tokens as u64;
            }
            let owner = sequence.request.owner.clone();
            let tokens = sequence.tokens.len() - sequence.computed;
            self.queue.serve(&owner, tokens as u64);
            self.running.push(sequence);
        }
    }

    /// Gives a running sequence pages for so many tokens, taking them from others that matter less if
    /// need be. Says whether it has them.
    fn provide(&mut self, id: SequenceId, tokens: usize) -> bool {
        let page = self.device.ladder().page;
        loop {
            let Some(place) = self.running.iter().position(|sequence| sequence.id == id) else {
                return false;
            };
            let lacking = self.running[place].lacking(tokens, page);
            if lacking == 0 {
                return true;
            }
            if let Some(taken) = self.pages.take() {
                self.running[place].pages.push(taken);
                continue;
            }
            // The one that came last among the least important gives way; that may be this one.
            let Some(last) = self.running.iter().map(Sequence::order).max() else { return false };
            let embedding = self.embeddings.front_mut().filter(|job| !job.pages.is_empty());
            match embedding {
                Some(job) if job.order() > last => {
                    self.pages.release(&job.pages);
                    job.pages.clear();
                    job.start_over();
                    self.stats.preemptions += 1;
                }
                None if self.running.len() == 1 => {
                    // It has all the memory there is: the context is larger than the cache.
                    self.fail(id, longer_than_the_cache());
                }
                _ => self.preempt(last.1),
            }
        }
    }

    /// Takes a running sequence's pages and lets it wait.
    fn preempt(&mut self, id: SequenceId) {
        let place = self.running.iter().position(|sequence| sequence.id == id);
        let Some(mut sequence) = place.map(|place| self.running.remove(place)) else { return };
        self.stats.preemptions += 1;
        sequence.preemptions += 1;
        sequence.share(&mut self.pages, self.device.ladder().page);
        self.slots.extend(sequence.give_way(&mut self.pages));
        let running = self.running.iter().map(|sequence| sequence.request.owner.as_str());
        self.queue.push(sequence, running);
    }

    /// Launches chunks of what waits, one sequence after the other, as far as the step's tokens go.
    fn launch_prefills(&mut self) -> Result<(), DeviceError> {
        let decoding = self.running.iter().filter(|sequence| sequence.prefilled).count();
        let mut budget = self.policy.batched_tokens.saturating_sub(decoding).max(1);
        while budget > 0 {
            self.admit();
            let tokens = self.launch_prefill(budget)?;
            if tokens == 0 {
                return Ok(());
            }
            budget = budget.saturating_sub(tokens);
        }
        Ok(())
    }

    /// Launches a chunk of the sequence that is being prefilled, if there is one; of how many tokens.
    fn launch_prefill(&mut self, budget: usize) -> Result<usize, DeviceError> {
        let waiting = |sequence: &&Sequence| !sequence.prefilled;
        let Some(sequence) = self.running.iter().find(waiting) else { return Ok(0) };
        let (id, computed) = (sequence.id, sequence.computed);
        let ladder = self.device.ladder();
        let fitting = ladder.chunks.iter().copied().filter(|&chunk| chunk <= budget);
        let chunk = fitting.max().or(ladder.chunks.first().copied()).unwrap_or(1);
        let end = sequence.tokens.len().min(computed + chunk);
        if !self.provide(id, end) {
            return Ok(0);
        }
        let Some(sequence) = self.running.iter_mut().find(|sequence| sequence.id == id) else {
            return Ok(0);
        };
        let draws = end == sequence.tokens.len();
        let mask = match draws {
            true => match next_mask(sequence, &mut self.mask, self.device.ladder().vocab_size) {
                Ok(mask) => mask,
                Err(failure) => {
                    self.fail(id, failure);
                    return Ok(0);
                }
            },
            false => None,
        };
        let prompt = sequence.request.prompt.len();
        let row = Row {
            slot: sequence.slot.unwrap_or_default(),
            position: computed,
            tokens: &sequence.tokens[computed..end],
            prompt_tokens: prompt.clamp(computed, end) - computed,
            fresh: sequence.fresh,
            draws,
            pages: &sequence.pages,
            sampling: &sequence.request.sampling,
            top: sequence.request.top_log_probs,
            mask: mask.as_deref(),
            adapter: sequence.adapter_number(),
        };
        let step = self.device.prefill(&row)?;
        sequence.fresh = false;
        sequence.computed = end;
        sequence.prefilled = draws;
        sequence.drawing += usize::from(draws);
        sequence.share(&mut self.pages, self.device.ladder().page);
        self.stats.steps += 1;
        self.under_way
            .push(Launch { step, rows: vec![Launched { id, guesses: Vec::new(), draws }] });
        Ok(end - computed)
    }

    /// Launches a token of each sequence that can go on.
    fn launch_decode(&mut self) -> Result<(), DeviceError> {
        let ladder = self.device.ladder();
        let able = self.running.iter().filter(|sequence| can_go_on(sequence, ladder));
        let ids: Vec<SequenceId> = able.map(|sequence| sequence.id).collect();
        // Older ones first, so that who has just come gives way.
        for id in ids {
            let Some(sequence) = self.running.iter().find(|sequence| sequence.id == id) else {
                continue;
            };
            let tokens = sequence.computed + 1;
            self.provide(id, tokens);
        }
        let chosen = self.choose_rows();
        if chosen.is_empty() {
            return Ok(());
        }
        let rows: Vec<Row<'_>> = chosen
            .iter()
            .map(|Chosen { place, tokens, mask }| {
                let sequence = &self.running[*place];
                Row {
                    slot: sequence.slot.unwrap_or_default(),
                    position: sequence.computed,
                    tokens,
                    prompt_tokens: 0,
                    fresh: false,
                    draws: true,
                    pages: &sequence.pages,
                    sampling: &sequence.request.sampling,
                    top: sequence.request.top_log_probs,
                    mask: mask.as_deref(),
                    adapter: sequence.adapter_number(),
                }
            })
            .collect();
        let step = self.device.decode(&rows)?;
        self.stats.steps += 1;
        let page = self.device.ladder().page;
        let mut launched = Vec::with_capacity(chosen.len());
        for Chosen { place, tokens, .. } in chosen {
            let guesses = tokens.get(1..).unwrap_or_default().to_vec();
            let sequence = &mut self.running[place];
            sequence.computed += 1;
            sequence.drawing += 1;
            sequence.share(&mut self.pages, page);
            self.stats.drafted += guesses.len() as u64;
            launched.push(Launched { id: sequence.id, guesses, draws: true });
        }
        self.under_way.push(Launch { step, rows: launched });
        Ok(())
    }

    /// The rows of the next decode step; what cannot be constrained any more fails.
    fn choose_rows(&mut self) -> Vec<Chosen> {
        let ladder = self.device.ladder().clone();
        let Ladder { vocab_size, guesses, page, context, .. } = ladder;
        let mut failed = Vec::new();
        let mut chosen = Vec::new();
        for (place, sequence) in self.running.iter_mut().enumerate() {
            if !can_go_on(sequence, &ladder) || sequence.lacking(sequence.computed + 1, page) > 0 {
                continue;
            }
            let mask = match next_mask(sequence, &mut self.mask, vocab_size) {
                Ok(mask) => mask,
                Err(failure) => {
                    failed.push((sequence.id, failure));
                    continue;
                }
            };
            let known = sequence.tokens.get(sequence.computed).copied();
            let mut tokens: Vec<u32> = known.into_iter().collect();
            if guesses > 0 && known.is_some() && mask.is_none() && !sequence.has_penalty() {
                // Guesses must have a place in the pages that are there, and in the answer.
                let room = (sequence.pages.len() * page).min(context) - sequence.computed - 1;
                let left = sequence.request.max_tokens - sequence.answer().len() - 1;
                tokens.extend(guess(&sequence.tokens, guesses.min(room).min(left)));
            }
            chosen.push(Chosen { place, tokens, mask });
        }
        if failed.is_empty() {
            return chosen;
        }
        for (id, failure) in failed {
            self.fail(id, failure);
        }
        self.choose_rows()
    }

    fn fail(&mut self, id: SequenceId, failure: Failure) {
        if let Some(place) = self.running.iter().position(|sequence| sequence.id == id) {
            let sequence = self.running.remove(place);
            self.end(sequence, |sequence| sequence.fail(failure));
        }
    }

    fn read(&mut self, launch: Launch<D::Step>, waited: &mut Duration) -> Result<(), DeviceError> {
        let started = Instant::now();
        let results = self.device.read(launch.step)?;
        *waited += started.elapsed();
        for (row, tokens) in launch.rows.into_iter().zip(results) {
            if row.draws {
                self.take(row.id, &row.guesses, tokens);
            }
        }
        Ok(())
    }

    /// Gives a sequence what was drawn for it, wherever it is now.
    fn take(&mut self, id: SequenceId, guesses: &[u32], tokens: Tokens) {
        let context = self.device.ladder().context;
        let place = self.running.iter().position(|sequence| sequence.id == id);
        let sequence = match place {
            Some(place) => &mut self.running[place],
            // It had to give way in the meantime; what was drawn for it holds.
            None => match self.queue.find(id) {
                Some(sequence) => sequence,
                // It has ended, or nobody wants it any more.
                None => return,
            },
        };
        sequence.drawing -= 1;
        let mut outcome = Ok(None);
        let mut count = 0;
        for (index, token) in tokens.into_iter().enumerate() {
            let Token { id, log_prob, top } = token;
            outcome = sequence.take(Drawn { token: id, log_prob, top }, context, Instant::now());
            count += 1;
            // What was drawn next counts only if this was the token that it was drawn behind.
            if !matches!(outcome, Ok(None)) || guesses.get(index) != Some(&id) {
                break;
            }
            // The guess has run already; a sequence that had to give way has nothing of it.
            sequence.computed += usize::from(sequence.prefilled);
        }
        self.stats.accepted += (count as u64).saturating_sub(1);
        self.stats.generation_tokens += count as u64;
        let owner = sequence.request.owner.clone();
        self.queue.serve(&owner, count as u64);
        let (Ok(Some(_)) | Err(_)) = outcome else { return };
        let sequence = match place {
            Some(place) => self.running.remove(place),
            None => match self.queue.take_if(|sequence| sequence.id == id).pop() {
                Some(sequence) => sequence,
                None => return,
            },
        };
        let took = sequence.age();
        self.end(sequence, |sequence| match outcome {
            Ok(Some(finish)) => sequence.finish(finish),
            Ok(None) => {}
            Err(failure) => sequence.fail(failure),
        });
        let share = if self.usual_seconds == 0.0 { 1.0 } else { 0.1 };
        self.usual_seconds += share * (took.as_secs_f64() - self.usual_seconds);
    }

    /// After a device failed: what it held is gone, so everything is computed again.
    fn recover(&mut self, error: &DeviceError) {
        self.stats.device_failures += 1;
        self.under_way.clear();
        self.pages.forget();
        let reset = self.device.reset();
        self.queue.each(|sequence| sequence.drawing = 0);
        self.embeddings.iter_mut().for_each(EmbeddingJob::start_over);
        for mut sequence in std::mem::take(&mut self.running) {
            sequence.entries.clear();
            self.slots.extend(sequence.give_way(&mut self.pages));
            sequence.drawing = 0;
            sequence.failures += 1;
            let gives_up = sequence.failures > FAILURES_MAX;
            match &reset {
                Ok(()) if !gives_up => self.queue.push(sequence, std::iter::empty()),
                Ok(()) => sequence.fail(Failure::Device(error.to_string())),
                Err(reset) => sequence.fail(Failure::Device(format!("{error}; then: {reset}"))),
            }
        }
    }
}

/// The names of the adapters that sequences use.
fn adapters_of<'a>(sequences: impl Iterator<Item = &'a Sequence>) -> BTreeSet<String> {
    sequences.filter_map(|sequence| sequence.request.adapter.clone()).collect()
}

fn longer_than_the_cache() -> Failure {
    let text = "the sequence is longer than the whole cache; give the cache more memory";
    Failure::Device(text.to_string())
}

/// Whether a token of it can be launched now.
fn can_go_on(sequence: &Sequence, ladder: &Ladder) -> bool {
    // Guesses are made from what is known, so what is drawn must be read first.
    let waits = sequence.must_know() || ladder.guesses > 0;
    let knows = sequence.drawing == 0 || !waits;
    sequence.prefilled && knows && sequence.may_draw(ladder.context)
}

/// The mask for the token that a sequence draws next.
fn next_mask(
    sequence: &mut Sequence,
    scratch: &mut Vec<u32>,
    vocab_size: usize,
) -> Result<Option<Vec<u32>>, Failure> {
    let must_go_on = sequence.must_go_on();
    if !must_go_on && sequence.request.constraint.is_none() {
        return Ok(None);
    }
    scratch.clear();
    scratch.resize(vocab_size.div_ceil(32), u32::MAX);
    if let Some(last) = scratch.last_mut().filter(|_| !vocab_size.is_multiple_of(32)) {
        *last = (1 << (vocab_size % 32)) - 1;
    }
    if let Some(constraint) = &mut sequence.request.constraint {
        constraint.allow(scratch).map_err(Failure::Constraint)?;
    }
    if must_go_on {
        for &token in &sequence.request.end_tokens {
            if let Some(word) = scratch.get_mut(token as usize / 32) {
                *word &= !(1 << (token % 32));
            }
        }
    }
    match scratch.iter().any(|&word| word != 0) {
        true => Ok(Some(scratch.clone())),
        false => Err(Failure::Constraint(
            "no token may come next: the schema or grammar cannot be satisfied from here"
                .to_string(),
        )),
    }
}
