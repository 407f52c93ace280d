//! Saves while training goes on: a snapshot on the caller's thread, the rest on another.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use serde_json::{Map, Value};

use super::Checkpoints;
use super::commit::Job;
use super::error::CheckpointError;
use super::exchange::Exchange;
use super::retention::{self, Keep};
use super::snapshot::{self, HostArray, SaveArray};
use super::store::{Claim, Store};

/// Metrics of the checkpoints that are there, for retention.
pub(super) type Metrics = Arc<Mutex<BTreeMap<u64, Option<f64>>>>;

/// What is saved beside the arrays.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    /// Lower is better; such as the validation loss.
    pub metric: Option<f64>,
    /// Such as the resolved config, the data position, seeds, what wrote it.
    pub sections: Map<String, Value>,
}

/// Saves a run's checkpoints, one at a time. Dropping it waits for the save that is under way.
pub struct Saver {
    store: Arc<dyn Store>,
    exchange: Arc<dyn Exchange>,
    keep: Keep,
    metrics: Metrics,
    under_way: Option<JoinHandle<()>>,
    _claim: Option<Claim>,
}

/// A save under way. Dropping it does not end the save.
#[derive(Debug)]
pub struct SaveTicket {
    pub step: u64,
    /// How long training stood still for copying to the host, which includes waiting for the steps
    /// that fill the arrays.
    pub stall_seconds: f64,
    /// How long it stood still before that, since the save before was still under way.
    pub waited_seconds: f64,
    /// Bytes that this process copied and is writing.
    pub bytes: u64,
    outcome: Receiver<Result<Saved, CheckpointError>>,
}

/// A save that is complete in all processes.
#[derive(Clone, Debug)]
pub struct Saved {
    pub step: u64,
    /// Bytes that this process wrote.
    pub bytes: u64,
    /// From the snapshot to the commit.
    pub seconds: f64,
    /// Steps whose checkpoints were removed to make room; process 0 knows.
    pub removed: Vec<u64>,
    /// Why old checkpoints, or leftovers of a save, could not be removed. The new one is there.
    pub warning: Option<String>,
}

impl Saver {
    /// All processes of the run make one. Leftovers of interrupted saves are removed.
    ///
    /// # Errors
    /// [`super::StoreError::InUse`] when another run saves in the same place, and what the store
    /// answers.
    pub fn new(
        checkpoints: &Checkpoints,
        exchange: Arc<dyn Exchange>,
        keep: Keep,
    ) -> Result<Saver, CheckpointError> {
        let store = Arc::clone(checkpoints.store());
        let mut prepared = Ok((None, BTreeMap::new()));
        if exchange.process_index() == 0 {
            prepared = prepare(checkpoints, keep);
        }
        // Nobody writes before the leftovers are gone.
        let said = match &prepared {
            Ok(_) => Ok(()),
            Err(error) => Err(error.sentence()),
        };
        let said = tell(&*exchange, "checkpoint/open", &said);
        let (claim, metrics) = prepared?;
        said??;
        let metrics = Arc::new(Mutex::new(metrics));
        Ok(Saver { store, exchange, keep, metrics, under_way: None, _claim: claim })
    }

    /// Saves arrays that are on devices. When this returns, they may be donated; the files are
    /// written meanwhile. Waits for the save before, if that is still under way.
    ///
    /// All processes of the run save the same arrays, in the same order.
    ///
    /// # Errors
    /// [`CheckpointError::Device`] when the arrays cannot be copied. What goes wrong later comes from
    /// the ticket.
    pub fn save(
        &mut self,
        step: u64,
        arrays: &[SaveArray<'_>],
        metadata: Metadata,
    ) -> Result<SaveTicket, CheckpointError> {
        let waited_seconds = self.finish();
        let started = Instant::now();
        let arrays = snapshot::take(arrays)?;
        let stall_seconds = started.elapsed().as_secs_f64();
        let mut ticket = self.save_host(step, arrays, metadata)?;
        (ticket.stall_seconds, ticket.waited_seconds) = (stall_seconds, waited_seconds);
        Ok(ticket)
    }

    /// As [`Saver::save`], of arrays that are in host memory, each process with its own parts.
    ///
    /// # Errors
    /// [`CheckpointError::Stopped`] when no thread can be started.
    pub fn save_host(
        &mut self,
        step: u64,
        arrays: Vec<HostArray>,
        metadata: Metadata,
    ) -> Result<SaveTicket, CheckpointError> {
        let waited_seconds = self.finish();
        let bytes = arrays.iter().map(HostArray::bytes).sum();
        let job = Job {
            store: Arc::clone(&self.store),
            exchange: Arc::clone(&self.exchange),
            step,
            arrays,
            metadata,
            keep: self.keep,
            metrics: Arc::clone(&self.metrics),
        };
        let (sender, outcome) = mpsc::channel();
        let thread = std::thread::Builder::new().name("checkpoint".to_string());
        let started = thread.spawn(move || {
            // Nobody may be left who wants to know.
            let _ = sender.send(job.run());
        });
        self.under_way = Some(started.map_err(|_| CheckpointError::Stopped)?);
        Ok(SaveTicket { step, stall_seconds: 0.0, waited_seconds, bytes, outcome })
    }

    /// Waits for the save that is under way; says how many seconds. How it went, its ticket says.
    pub fn finish(&mut self) -> f64 {
        let started = Instant::now();
        if let Some(thread) = self.under_way.take() {
            // A panic shows in the ticket.
            let _ = thread.join();
        }
        started.elapsed().as_secs_f64()
    }

    /// Removes the checkpoints of later steps, which are another attempt's: for a run that goes on
    /// from an earlier step on purpose. Process 0 does it, the others need not call it.
    ///
    /// # Errors
    /// What the store answers.
    pub fn remove_after(&mut self, step: u64) -> Result<Vec<u64>, CheckpointError> {
        self.finish();
        let checkpoints = Checkpoints::over(Arc::clone(&self.store));
        let later: Vec<u64> =
            checkpoints.list()?.into_iter().filter(|later| *later > step).collect();
        for later in later.iter().rev() {
            retention::remove(&*self.store, *later)?;
            self.metrics.lock().unwrap_or_else(PoisonError::into_inner).remove(later);
        }
        Ok(later)
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        self.finish();
    }
}

impl SaveTicket {
    /// How the save went, once, when that is known. Does not block.
    pub fn poll(&mut self) -> Option<Result<Saved, CheckpointError>> {
        match self.outcome.try_recv() {
            Ok(outcome) => Some(outcome),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(CheckpointError::Stopped)),
        }
    }

    /// Waits for the save.
    ///
    /// # Errors
    /// Why there is no checkpoint of this step. Those that were there before are untouched.
    pub fn wait(self) -> Result<Saved, CheckpointError> {
        self.outcome.recv().unwrap_or(Err(CheckpointError::Stopped))
    }
}

type Prepared = (Option<Claim>, BTreeMap<u64, Option<f64>>);

/// What process 0 does before anybody saves.
fn prepare(checkpoints: &Checkpoints, keep: Keep) -> Result<Prepared, CheckpointError> {
    let claim = checkpoints.store().claim()?;
    retention::sweep(checkpoints.store())?;
    let mut metrics = BTreeMap::new();
    for step in checkpoints.list()? {
        // Only `keep best` needs to look inside, and a damaged one is nobody's best.
        let metric = if keep.best == 0 { None } else { checkpoints.at(step).ok() };
        metrics.insert(step, metric.and_then(|checkpoint| checkpoint.metric()));
    }
    Ok((Some(claim), metrics))
}

/// Process 0 tells everybody how it went; the inner result is what it said.
pub(super) fn tell(
    exchange: &dyn Exchange,
    key: &str,
    said: &Result<(), String>,
) -> Result<Result<(), CheckpointError>, CheckpointError> {
    let failed = |reason: String| CheckpointError::Exchange { reason };
    let text = serde_json::to_vec(said).map_err(|error| failed(error.to_string()))?;
    let text = exchange.broadcast(key, text).map_err(failed)?;
    let said: Result<(), String> =
        serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
    Ok(said.map_err(|reason| CheckpointError::Process { process_index: 0, reason }))
}
