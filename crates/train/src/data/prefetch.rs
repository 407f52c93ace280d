//! Prepares the next batch while a step runs.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use super::{Batch, DataError, Dataset};

/// A thread that is one batch ahead. Ends when dropped.
#[derive(Debug)]
pub struct Prefetcher {
    /// Taken when dropped, so that a thread that waits to hand over a batch stops waiting.
    batches: Option<Receiver<Result<Batch, DataError>>>,
    thread: Option<JoinHandle<()>>,
}

impl Prefetcher {
    /// Rows `rows` of every step from `first_step` on.
    pub fn start(dataset: Arc<Dataset>, first_step: u64, rows: Range<usize>) -> Prefetcher {
        // Without a buffer the thread holds one batch and prepares no further one.
        let (sender, batches) = sync_channel(0);
        let thread = std::thread::spawn(move || {
            for step in first_step.. {
                let batch = dataset.batch(step, rows.clone());
                let failed = batch.is_err();
                if sender.send(batch).is_err() || failed {
                    return;
                }
            }
        });
        Prefetcher { batches: Some(batches), thread: Some(thread) }
    }

    /// The batch of the next step; `None` after an error.
    ///
    /// # Errors
    /// As [`Dataset::batch`].
    pub fn next_batch(&mut self) -> Option<Result<Batch, DataError>> {
        self.batches.as_ref()?.recv().ok()
    }
}

impl Drop for Prefetcher {
    fn drop(&mut self) {
        drop(self.batches.take());
        if let Some(thread) = self.thread.take() {
            // It panics only on a bug, which it has reported itself.
            let _ = thread.join();
        }
    }
}
