//! What all requests share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::Semaphore;

use super::call::Loaded;
use super::metrics::Metrics;
use super::settings::ServerSettings;
use web::flight::Flights;
use web::traces::Tracer;

const LONG_BODY_BYTES: usize = 256 << 10;

/// The server, seen from a request.
pub(crate) struct State {
    pub settings: ServerSettings,
    pub metrics: Arc<Metrics>,
    /// Where somebody collects traces.
    pub tracer: Option<Tracer>,
    pub flights: Flights,
    /// One permit for each processor.
    workers: Arc<Semaphore>,
    /// One permit for long bodies, which take seconds: short ones do not wait for them.
    long_worker: Arc<Semaphore>,
    loaded: OnceLock<Loaded>,
    stopping: AtomicBool,
}

impl State {
    pub fn new(settings: ServerSettings, tracer: Option<Tracer>) -> State {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        State {
            settings,
            metrics: Arc::new(Metrics::new()),
            tracer,
            flights: Flights::new(),
            workers: Arc::new(Semaphore::new(processors)),
            long_worker: Arc::new(Semaphore::new(1)),
            loaded: OnceLock::new(),
            stopping: AtomicBool::new(false),
        }
    }

    /// Whose permit work on a body of so many bytes needs.
    pub fn worker(&self, body_bytes: usize) -> Arc<Semaphore> {
        let is_long = body_bytes > LONG_BODY_BYTES;
        Arc::clone(if is_long { &self.long_worker } else { &self.workers })
    }

    /// From here on requests are answered. The first model stays.
    pub fn open(&self, loaded: Loaded) {
        let _ = self.loaded.set(loaded);
        if self.is_stopping() {
            self.stop();
        }
    }

    /// None while the server starts.
    pub fn loaded(&self) -> Option<&Loaded> {
        self.loaded.get()
    }

    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        if let Some(loaded) = self.loaded() {
            loaded.answering.drain();
        }
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}
