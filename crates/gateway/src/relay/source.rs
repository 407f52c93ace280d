//! A backend's stream as events, with limits on silence and time.

use std::pin::Pin;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Duration, Instant, Sleep, sleep_until};

use super::events::{Event, EventReader};
use crate::pools::Fault;

/// What reads one backend's stream. Dropping it ends the backend's work.
pub(super) struct Source {
    body: Incoming,
    reader: EventReader,
    silence: Duration,
    deadline: Instant,
    last_byte: Instant,
    /// Looks after both limits; set anew only when it has run out, not with each piece.
    alarm: Pin<Box<Sleep>>,
}

/// Why a stream has no further event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Ended {
    /// The backend said that this was all.
    Whole,
    Fault(Fault),
    Deadline,
}

impl Source {
    pub fn new(body: Incoming, silence: Duration, deadline: Instant) -> Source {
        let now = Instant::now();
        Source {
            body,
            reader: EventReader::default(),
            silence,
            deadline,
            last_byte: now,
            alarm: Box::pin(sleep_until((now + silence).min(deadline))),
        }
    }

    /// An event that is here already.
    pub fn ready(&mut self) -> Result<Option<Event>, Ended> {
        self.reader.next().map_err(|_| Ended::Fault(Fault::Garbage))
    }

    pub async fn next(&mut self) -> Result<Event, Ended> {
        loop {
            if let Some(event) = self.ready()? {
                return Ok(event);
            }
            tokio::select! {
                biased;
                frame = self.body.frame() => match frame {
                    None => return Err(Ended::Whole),
                    Some(Err(_)) => return Err(Ended::Fault(Fault::Broken)),
                    Some(Ok(frame)) => {
                        if let Some(data) = frame.data_ref() {
                            self.last_byte = Instant::now();
                            // One that never pauses would not let the alarm have its turn.
                            if self.last_byte >= self.deadline {
                                return Err(Ended::Deadline);
                            }
                            self.reader.push(data);
                        }
                    }
                },
                () = self.alarm.as_mut() => {
                    let now = Instant::now();
                    if now >= self.deadline {
                        return Err(Ended::Deadline);
                    }
                    let silent_until = self.last_byte + self.silence;
                    if now >= silent_until {
                        return Err(Ended::Fault(Fault::Timeout));
                    }
                    self.alarm.as_mut().reset(silent_until.min(self.deadline));
                }
            }
        }
    }
}
