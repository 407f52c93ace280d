//! Answers as server-sent events, while they grow.
//!
//! Every stream is a task of its own with a short queue to its connection. A client that leaves
//! ends the task, and with it the answers; one that does not read stops its own task only.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::{Response, StatusCode, header};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use super::body::{Body, response};
use super::call::{Call, Loaded};
use super::error::ApiError;
use super::generation::Step;
use super::job::{Job, took_too_long};
use super::record::Record;
use super::state::State;
use super::usage::Usage;

/// How many pieces may wait for a client before its answers wait for it.
const PIECES_MAX: usize = 16;
/// Proxies close connections that are silent for a minute; a long queue can be.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// Puts steps into the events of one interface.
pub(crate) trait Writer: Send + 'static {
    /// `replayed`: for each answer, what the client has seen already.
    fn begin(&mut self, replayed: Vec<Step>, usage: &Usage, events: &mut Events);

    fn step(&mut self, answer: usize, step: Step, usage: &Usage, events: &mut Events);

    fn end(&mut self, usage: &Usage, events: &mut Events);

    fn fail(&mut self, error: &ApiError, events: &mut Events);
}

/// Events that have not been sent yet.
#[derive(Debug, Default)]
pub(crate) struct Events {
    bytes: Vec<u8>,
}

impl Events {
    pub fn data(&mut self, value: &impl Serialize) {
        self.bytes.extend_from_slice(b"data: ");
        // Our own values have no keys that are not texts, so this does not fail.
        let _ = serde_json::to_writer(&mut self.bytes, value);
        self.bytes.extend_from_slice(b"\n\n");
    }

    pub fn named(&mut self, name: &str, value: &impl Serialize) {
        self.bytes.extend_from_slice(b"event: ");
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(b'\n');
        self.data(value);
    }

    /// OpenAI's last word.
    pub fn done(&mut self) {
        self.bytes.extend_from_slice(b"data: [DONE]\n\n");
    }

    fn comment(&mut self) {
        self.bytes.extend_from_slice(b": still there\n\n");
    }

    fn take(&mut self) -> Option<Bytes> {
        (!self.bytes.is_empty()).then(|| std::mem::take(&mut self.bytes).into())
    }
}

/// Begins the answers and streams them. What is wrong before that is an error with its own status.
pub(crate) async fn stream<W: Writer>(
    call: &mut Call,
    job: Job,
    writer: W,
) -> Result<Response<Body>, ApiError> {
    let record = call.take_record()?;
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    let (begun_sender, begun) = oneshot::channel();
    let task = Task {
        record,
        sender,
        writer,
        usage: Usage::default(),
        events: Events::default(),
        write_limit: call.state.settings.write_limit,
    };
    let limit = call.state.settings.request_limit;
    let loaded = call.loaded.clone();
    let state = Arc::clone(&call.state);
    tokio::spawn(async move { task.run(job, &state, &loaded, limit, begun_sender).await });
    begun.await.map_err(|_| ApiError::internal("the stream's task has ended"))??;
    let mut response = response(StatusCode::OK, "text/event-stream", Body::events(receiver));
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-cache"));
    // Asks nginx not to collect events.
    headers.insert("x-accel-buffering", header::HeaderValue::from_static("no"));
    Ok(response)
}

struct Task<W> {
    record: Record,
    sender: mpsc::Sender<Bytes>,
    writer: W,
    usage: Usage,
    events: Events,
    write_limit: Duration,
}

/// The client does not want the rest.
struct Gone;

impl<W: Writer> Task<W> {
    async fn run(
        mut self,
        mut job: Job,
        state: &State,
        loaded: &Loaded,
        limit: Duration,
        begun_sender: oneshot::Sender<Result<(), ApiError>>,
    ) {
        let deadline = Instant::from_std(self.record.arrived) + limit;
        let begun = match job.begin(state, loaded, &mut self.record).await {
            Ok(begun) => begun,
            Err(error) => {
                self.record.failed(&error.message);
                self.record.answered(error.status.as_u16());
                let _ = begun_sender.send(Err(error));
                return;
            }
        };
        if begun_sender.send(Ok(())).is_err() {
            return;
        }
        self.usage = begun.usage;
        for step in &begun.replayed {
            self.note(step);
        }
        self.writer.begin(begun.replayed, &self.usage, &mut self.events);
        // Whoever is gone has not been answered: the record says so when it is dropped.
        if self.follow(begun.choices, deadline).await.is_ok() {
            self.record.answered(StatusCode::OK.as_u16());
        }
    }

    fn note(&mut self, step: &Step) {
        self.record.saw(step);
        if let Some(end) = &step.end {
            self.usage.add(&end.counts);
        }
    }

    async fn follow(
        &mut self,
        mut choices: super::generation::Choices<'_>,
        deadline: Instant,
    ) -> Result<(), Gone> {
        self.send().await?;
        loop {
            let sender = self.sender.clone();
            let step = tokio::select! {
                // Whoever is gone is noticed before anything is done for him.
                biased;
                () = sender.closed() => return Err(Gone),
                () = sleep_until(deadline) => Some((0, Err(took_too_long()))),
                step = choices.next() => step,
                () = sleep_until(Instant::now() + SILENCE_MAX) => {
                    self.events.comment();
                    self.send().await?;
                    continue;
                }
            };
            match step {
                None => {
                    self.writer.end(&self.usage, &mut self.events);
                    return self.send().await;
                }
                Some((answer, Ok(step))) => {
                    self.note(&step);
                    self.writer.step(answer, step, &self.usage, &mut self.events);
                    self.send().await?;
                }
                Some((_, Err(error))) => {
                    self.record.failed(&error.message);
                    self.writer.fail(&error, &mut self.events);
                    return self.send().await;
                }
            }
        }
    }

    async fn send(&mut self) -> Result<(), Gone> {
        let Some(bytes) = self.events.take() else { return Ok(()) };
        match timeout(self.write_limit, self.sender.send(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    }
}
