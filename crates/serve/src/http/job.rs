//! What is asked of the model by one request, made ready for the engine; and its answers, collected
//! whole. (As a stream: `streaming.rs`.)

use std::sync::Arc;

use super::call::{Call, Loaded};
use super::error::ApiError;
use super::generation::{Choices, End, Generation, Step};
use super::model_text::ModelText;
use super::parameters::Parameters;
use super::record::Record;
use super::shape::Shape;
use super::state::State;
use super::usage::Usage;
use crate::engine::{Answer, Constraint, Drawn, Refusal, Request};
use crate::structure::{Delta, OutputParser};

/// The most answers to one request: prompts times `n`.
const ANSWERS_MAX: usize = 1024;

/// One request's work for the model.
pub(crate) struct Job {
    pub parameters: Parameters,
    /// The name that was asked for, as the answer shows it.
    pub model_name: String,
    pub adapter: Option<String>,
    pub owner: String,
    pub top_log_probs: usize,
    pub shows_special_tokens: bool,
    pub prompts: Vec<Prompt>,
    /// The prompts as text, where logs want them.
    pub logged: Option<String>,
}

/// One prompt, and what each answer to it needs for itself.
pub(crate) struct Prompt {
    pub tokens: Vec<u32>,
    answers: Vec<Tools>,
}

/// What one answer has to itself.
struct Tools {
    constraint: Option<Box<dyn Constraint>>,
    parser: Option<Box<dyn OutputParser>>,
}

/// How the answers' text is taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parsing {
    /// Not at all.
    Plain,
    /// Into text, reasoning and calls.
    Chat,
}

impl Prompt {
    /// Compiles what the shape asks for, once for each answer: constraints have a state.
    pub fn new(
        model: &ModelText,
        tokens: Vec<u32>,
        text: &str,
        shape: &Shape,
        parsing: Parsing,
        answers: usize,
    ) -> Result<Prompt, ApiError> {
        let answer = |_| {
            let spec = shape.spec.as_ref();
            let constraint =
                spec.map(|spec| model.structures.constraint(spec, text)).transpose()?;
            let parser = (parsing == Parsing::Chat)
                .then(|| model.structures.parser(shape.offers_tools(), text));
            Ok(Tools { constraint, parser })
        };
        let answers = (0..answers).map(answer).collect::<Result<_, ApiError>>()?;
        Ok(Prompt { tokens, answers })
    }
}

/// Fails for more answers than one request may ask for.
pub(crate) fn check_answers(prompts: usize, n: usize) -> Result<(), ApiError> {
    if prompts.saturating_mul(n) <= ANSWERS_MAX {
        return Ok(());
    }
    let message = format!(
        "{prompts} prompts with n = {n} are more than {ANSWERS_MAX} answers; send several requests"
    );
    Err(ApiError::field("prompt", message))
}

/// Answers that have begun.
pub(crate) struct Begun<'m> {
    pub choices: Choices<'m>,
    /// For each answer, what was generated elsewhere and shows already.
    pub replayed: Vec<Step>,
    pub usage: Usage,
}

impl Job {
    /// Submits everything. If one answer is refused, all are given up.
    pub async fn begin<'m>(
        &mut self,
        state: &State,
        loaded: &'m Loaded,
        record: &mut Record,
    ) -> Result<Begun<'m>, ApiError> {
        record.model.clone_from(&self.model_name);
        record.owner.clone_from(&self.owner);
        record.prompt = self.logged.take();
        record.asked(&self.parameters);
        let lengths: Vec<usize> = self.prompts.iter().map(|prompt| prompt.tokens.len()).collect();
        let (mut generations, mut replayed) = (Vec::new(), Vec::new());
        let (mut requests, mut places) = (Vec::new(), Vec::new());
        for prompt in &mut self.prompts {
            for (place, Tools { constraint, parser }) in prompt.answers.drain(..).enumerate() {
                let (generation, shown) = Generation::new(
                    &loaded.model,
                    &prompt.tokens,
                    &self.parameters,
                    parser,
                    self.shows_special_tokens,
                )?;
                if !generation.has_ended() {
                    let id = match generations.len() {
                        0 => record.id.clone(),
                        number => format!("{}-{number}", record.id),
                    };
                    let mut sampling = self.parameters.sampling.clone();
                    sampling.seed = sampling.seed.wrapping_add(place as u64);
                    let space = loaded.answering.limits().context;
                    let max_tokens = self
                        .parameters
                        .max_tokens
                        .unwrap_or_else(|| space.saturating_sub(prompt.tokens.len()).max(1));
                    places.push(generations.len());
                    requests.push(Request {
                        id,
                        prompt: prompt.tokens.clone(),
                        continued: self.parameters.continued.clone(),
                        adapter: self.adapter.clone(),
                        sampling,
                        max_tokens,
                        min_tokens: self.parameters.min_tokens,
                        end_tokens: self.parameters.end_tokens.clone(),
                        top_log_probs: self.top_log_probs,
                        constraint,
                        priority: self.parameters.priority,
                        owner: self.owner.clone(),
                    });
                }
                generations.push(generation);
                replayed.push(shown);
            }
        }
        let answers = submit(state, loaded, requests).await?;
        for (place, answer) in places.into_iter().zip(answers) {
            generations[place].listen(answer);
        }
        record.began(generations.len(), &lengths);
        let usage = Usage::of_prompts(lengths.iter().sum(), self.parameters.n);
        Ok(Begun { choices: Choices::new(generations), replayed, usage })
    }
}

/// A constraint that goes on from an answer's beginning takes all of its tokens first, which can be
/// seconds: not on the threads that serve connections, and not more at once than there are processors.
async fn submit(
    state: &State,
    loaded: &Loaded,
    requests: Vec<Request>,
) -> Result<Vec<Answer>, ApiError> {
    let replays = |request: &Request| request.constraint.is_some() && !request.continued.is_empty();
    let long = requests.iter().any(replays);
    let answering = Arc::clone(&loaded.answering);
    let submit = move || -> Result<Vec<Answer>, Refusal> {
        requests.into_iter().map(|request| answering.submit(request)).collect()
    };
    if !long {
        return Ok(submit()?);
    }
    let permit = state.worker(0).acquire_owned().await.map_err(|_| ApiError::stopping())?;
    let submitted = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        submit()
    });
    let gone = |_| ApiError::internal("the beginning of the answer could not be taken");
    Ok(submitted.await.map_err(gone)??)
}

/// One whole answer.
#[derive(Debug)]
pub(crate) struct Whole {
    /// Pieces of the same kind that follow each other are one.
    pub deltas: Vec<Delta>,
    /// Those that were drawn here.
    pub drawn: Vec<Drawn>,
    /// Those that came along with the request, and those that were drawn.
    pub token_ids: Vec<u32>,
    pub end: End,
}

/// All answers, once they are complete. Dropping the future cancels them.
pub(crate) async fn wait_for_all(
    call: &mut Call,
    mut job: Job,
) -> Result<(Vec<Whole>, Usage), ApiError> {
    let loaded = call.loaded.clone();
    let state = Arc::clone(&call.state);
    let limit = state.settings.request_limit;
    let record = call.record()?;
    let deadline = tokio::time::Instant::from_std(record.arrived) + limit;
    let mut begun = job.begin(&state, &loaded, record).await?;
    let mut parts: Vec<Part> = Vec::with_capacity(begun.replayed.len());
    for step in std::mem::take(&mut begun.replayed) {
        record.saw(&step);
        let mut part = Part { ids: job.parameters.continued.clone(), ..Part::default() };
        part.take(step, &mut begun.usage);
        parts.push(part);
    }
    loop {
        let next = tokio::time::timeout_at(deadline, begun.choices.next()).await;
        let Some((index, step)) = next.map_err(|_| took_too_long())? else { break };
        let step = step?;
        record.saw(&step);
        parts[index].take(step, &mut begun.usage);
    }
    let whole: Option<Vec<Whole>> = parts.into_iter().map(Part::whole).collect();
    let whole = whole.ok_or_else(|| ApiError::internal("an answer ended without an end"))?;
    Ok((whole, begun.usage))
}

pub(crate) fn took_too_long() -> ApiError {
    ApiError::too_slow("the answer took longer than the server allows; ask for fewer tokens")
}

#[derive(Default)]
struct Part {
    deltas: Vec<Delta>,
    drawn: Vec<Drawn>,
    ids: Vec<u32>,
    end: Option<End>,
}

impl Part {
    fn take(&mut self, step: Step, usage: &mut Usage) {
        for delta in step.deltas {
            match (self.deltas.last_mut(), &delta) {
                (Some(Delta::Text(before)), Delta::Text(text))
                | (Some(Delta::Reasoning(before)), Delta::Reasoning(text)) => before.push_str(text),
                (
                    Some(Delta::ToolArguments { index, text: before }),
                    Delta::ToolArguments { index: same, text },
                ) if index == same => before.push_str(text),
                _ => self.deltas.push(delta),
            }
        }
        self.ids.extend(step.drawn.iter().map(|drawn| drawn.token));
        self.drawn.extend(step.drawn);
        if let Some(end) = step.end {
            usage.add(&end.counts);
            self.end = Some(end);
        }
    }

    fn whole(self) -> Option<Whole> {
        let end = self.end?;
        Some(Whole { deltas: self.deltas, drawn: self.drawn, token_ids: self.ids, end })
    }
}
