//! Events: work that a plugin finishes in the background, to be waited for, asked about or awaited.
//!
//! Needs no async runtime: [`Event::wait`] blocks, and awaiting works under any executor.

use std::ffi::c_void;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::error::{Code, Error, Result};
use crate::sys;
use crate::table::{Table, call};

/// Completion of background work. Cheap to clone; dropping it does not cancel the work.
///
/// As a future it answers what [`Event::wait`] answers, and may be polled again after completion.
#[derive(Clone)]
pub struct Event {
    shared: Arc<Shared>,
}

struct Shared {
    table: Table,
    /// Null stands for work that was complete from the start.
    raw: *mut sys::Event,
    state: Mutex<State>,
}

enum State {
    /// Nobody has awaited it yet, so the plugin was not asked to call back.
    Idle,
    /// The plugin will call back; these want to know.
    Waiting(Vec<Waker>),
    Done(std::result::Result<(), Failure>),
}

/// What a plugin answered, kept so that every waiter can have its own copy.
#[derive(Clone)]
struct Failure {
    code: Code,
    message: String,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        Error::Status { code: failure.code, message: failure.message }
    }
}

// SAFETY: the interface lets events be used from any thread, several at once; the handle is destroyed
// once, by the last owner; the rest is behind a mutex.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Event {
    /// # Safety
    /// `raw` must be null or an event of this plugin that nobody else destroys.
    pub(crate) unsafe fn from_raw(table: Table, raw: *mut sys::Event) -> Event {
        Event { shared: Arc::new(Shared { table, raw, state: Mutex::new(State::Idle) }) }
    }

    /// Whether the plugin answered no event at all.
    pub(crate) fn is_null(&self) -> bool {
        self.shared.raw.is_null()
    }

    /// Blocks until the work is complete.
    ///
    /// # Errors
    /// What made the work fail.
    pub fn wait(&self) -> Result<()> {
        if self.shared.raw.is_null() {
            return Ok(());
        }
        // SAFETY: the event is live as long as `shared`.
        unsafe { call!(self.shared.table, event_await, EventAwait { event: self.shared.raw }) }
            .map(drop)
    }

    /// Whether the work is complete, successfully or not. Does not block.
    ///
    /// # Errors
    /// Whatever the plugin answers to the question; not the work's own failure.
    pub fn is_ready(&self) -> Result<bool> {
        if self.shared.raw.is_null() {
            return Ok(true);
        }
        // SAFETY: the event is live as long as `shared`.
        let answer = unsafe {
            call!(self.shared.table, event_is_ready, EventIsReady { event: self.shared.raw })
        }?;
        Ok(answer.is_ready)
    }

    /// Runs `action` once the work is complete, at once if it already is, on a thread of the plugin's
    /// choice: it must not block and must not drop the last handle of a client.
    pub(crate) fn on_ready(&self, action: Box<dyn FnOnce(Result<()>) + Send>) -> Result<()> {
        if self.shared.raw.is_null() {
            action(Ok(()));
            return Ok(());
        }
        // The callback owns a share, so that the event outlives its registration.
        let callback =
            Box::into_raw(Box::new(Callback { shared: Arc::clone(&self.shared), action }));
        // SAFETY: the event is live, and `run_callback` takes back the box made here, once.
        let registered = unsafe {
            call!(
                self.shared.table,
                event_on_ready,
                EventOnReady {
                    event: self.shared.raw,
                    callback: Some(run_callback),
                    user_argument: callback.cast(),
                }
            )
        };
        if let Err(error) = registered {
            // SAFETY: the plugin refused, so it will not call back and the box is still ours.
            drop(unsafe { Box::from_raw(callback) });
            return Err(error);
        }
        Ok(())
    }
}

struct Callback {
    shared: Arc<Shared>,
    action: Box<dyn FnOnce(Result<()>) + Send>,
}

unsafe extern "C" fn run_callback(error: *mut sys::Error, user_argument: *mut c_void) {
    // A panic must not cross into the plugin. There is nobody to tell about one here: the waker or the
    // destructor that panicked has already run the panic hook.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: `on_ready` made this box for one callback, which is this one.
        let callback = unsafe { Box::from_raw(user_argument.cast::<Callback>()) };
        // SAFETY: the callback owns the error.
        let outcome = unsafe { callback.shared.table.check(error) };
        (callback.action)(outcome);
    }));
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // The state is replaced in one step, so a panic elsewhere cannot have left it half-written.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn complete(&self, outcome: Result<()>) {
        let outcome = outcome.map_err(|error| match error {
            Error::Status { code, message } => Failure { code, message },
            other => Failure { code: Code::Unknown, message: other.to_string() },
        });
        let before = std::mem::replace(&mut *self.state(), State::Done(outcome));
        // Woken outside the lock: a waker may poll at once, on this thread.
        if let State::Waiting(wakers) = before {
            wakers.into_iter().for_each(Waker::wake);
        }
    }
}

impl Future for Event {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let shared = &self.shared;
        let register = {
            let mut state = shared.state();
            match &mut *state {
                State::Done(outcome) => {
                    return Poll::Ready(outcome.clone().map_err(Error::from));
                }
                State::Waiting(wakers) => {
                    if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                        wakers.push(context.waker().clone());
                    }
                    false
                }
                State::Idle => {
                    *state = State::Waiting(vec![context.waker().clone()]);
                    true
                }
            }
        };
        if register {
            // Outside the lock: the plugin may call back before it returns.
            let completed = Arc::clone(shared);
            if let Err(error) = self.on_ready(Box::new(move |outcome| completed.complete(outcome)))
            {
                // Nobody will call back, so whoever is waiting learns it from here.
                shared.complete(Err(error));
            }
            if let State::Done(outcome) = &*shared.state() {
                return Poll::Ready(outcome.clone().map_err(Error::from));
            }
        }
        Poll::Pending
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.raw.is_null() {
            return;
        }
        // SAFETY: the last owner of the event destroys it. An event that cannot be destroyed leaks.
        let _ = unsafe { call!(self.table, event_destroy, EventDestroy { event: self.raw }) };
    }
}

impl std::fmt::Debug for Event {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Event").field("is_ready", &self.is_ready().ok()).finish()
    }
}
