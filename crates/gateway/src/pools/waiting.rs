//! Requests that wait for a slot, in the order in which they came. A slot that becomes free goes to
//! the first who can use it, and nobody who comes later can take it before.
//!
//! Knows backends by their ids, nothing of policies.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::backend::{Backend, Slot};

#[derive(Default)]
pub(crate) struct Waiting {
    line: Mutex<Line>,
    /// So that nobody takes the lock while nobody waits.
    length: AtomicUsize,
}

#[derive(Default)]
struct Line {
    next_ticket: u64,
    places: VecDeque<Standing>,
}

struct Standing {
    ticket: u64,
    wants: Vec<u64>,
    given: Option<Slot>,
    notify: Arc<Notify>,
}

/// A place in the line; given up when dropped, with the slot if one came meanwhile.
pub(crate) struct Place {
    waiting: Arc<Waiting>,
    ticket: u64,
    notify: Arc<Notify>,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn enter(self: &Arc<Waiting>, wants: Vec<u64>) -> Place {
        let notify = Arc::new(Notify::new());
        let mut line = self.lock();
        let ticket = line.next_ticket;
        line.next_ticket += 1;
        line.places.push_back(Standing { ticket, wants, given: None, notify: Arc::clone(&notify) });
        self.length.store(line.places.len(), Ordering::SeqCst);
        Place { waiting: Arc::clone(self), ticket, notify }
    }

    /// Takes a slot for somebody who does not wait: only what nobody waits for.
    pub(crate) fn take(&self, backend: &Arc<Backend>) -> Option<Slot> {
        if self.length.load(Ordering::SeqCst) == 0 {
            return Slot::take(backend);
        }
        let line = self.lock();
        let id = backend.vitals().id;
        if line.places.iter().any(|place| place.given.is_none() && place.wants.contains(&id)) {
            return None;
        }
        Slot::take(backend)
    }

    /// Gives all free slots of a backend to those who wait for them.
    pub(crate) fn offer(&self, backend: &Arc<Backend>) {
        if self.length.load(Ordering::SeqCst) == 0 {
            return;
        }
        let id = backend.vitals().id;
        let mut line = self.lock();
        for place in &mut line.places {
            if place.given.is_some() || !place.wants.contains(&id) {
                continue;
            }
            let Some(slot) = Slot::take(backend) else { return };
            place.given = Some(slot);
            place.notify.notify_one();
        }
    }

    /// Everybody looks again: there may be other backends now.
    pub(crate) fn wake_all(&self) {
        for place in &self.lock().places {
            place.notify.notify_one();
        }
    }
}

impl Place {
    /// Resolves when a slot was given, or when it is worth looking again.
    pub(crate) async fn told(&self) {
        self.notify.notified().await;
    }

    pub(crate) fn given(&self) -> Option<Slot> {
        let mut line = self.waiting.lock();
        let place = line.places.iter_mut().find(|place| place.ticket == self.ticket)?;
        place.given.take()
    }

    pub(crate) fn wants(&self, wants: Vec<u64>) {
        let mut line = self.waiting.lock();
        if let Some(place) = line.places.iter_mut().find(|place| place.ticket == self.ticket) {
            place.wants = wants;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut line = self.waiting.lock();
        let index = line.places.iter().position(|place| place.ticket == self.ticket);
        let left = index.and_then(|index| line.places.remove(index));
        self.waiting.length.store(line.places.len(), Ordering::SeqCst);
        drop(line);
        // Outside of the lock: a slot that is given back is offered to the next in the line.
        drop(left);
    }
}
