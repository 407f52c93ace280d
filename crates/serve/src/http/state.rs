//! What all requests share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::Semaphore;

use super::call::Loaded;
use super::flight::Flights;
use super::metrics::Metrics;
use super::settings::ServerSettings;

/// The server, seen from a request.
pub(crate) struct State {
    pub settings: ServerSettings,
    pub metrics: Arc<Metrics>,
    pub flights: Flights,
    /// One permit for each processor.
    pub workers: Arc<Semaphore>,
    loaded: OnceLock<Loaded>,
    stopping: AtomicBool,
}

impl State {
    pub fn new(settings: ServerSettings) -> State {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        State {
            settings,
            metrics: Arc::new(Metrics::new()),
            flights: Flights::new(),
            workers: Arc::new(Semaphore::new(processors)),
            loaded: OnceLock::new(),
            stopping: AtomicBool::new(false),
        }
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
