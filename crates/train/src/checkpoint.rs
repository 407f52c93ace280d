//! Checkpoints that belong to no chip: the state of a run, saved in logical coordinates by any number
//! of processes, and loaded onto any mesh. Knows arrays by name; knows no model, no optimizer, no loop.
//!
//! A checkpoint is a folder below a location, which is a folder or `s3://` or `gs://`:
//!
//! ```text
//! step-00000040/data-00000-of-00002-9f3a61c0.safetensors   chunks that process 0 saved
//! step-00000040/data-00001-of-00002-04be7712.safetensors   chunks that process 1 saved
//! step-00000040/manifest.json                              written last: with it, it is a checkpoint
//! saving.lock                                              locked by the run that saves (folders only)
//! ```
//!
//! Saving over a step that is there already does not touch its files until the new manifest has taken
//! the old one's place. So whatever is interrupted, what was a checkpoint before still is.

use std::sync::Arc;

mod agreement;
mod checksum;
mod commit;
mod data_file;
mod error;
mod exchange;
mod load;
mod manifest;
mod names;
mod overlap;
mod retention;
mod save;
mod snapshot;
pub mod store;

pub use checksum::Checksum;
pub use error::{CheckpointError, Damaged};
pub use exchange::{Alone, Exchange};
pub use load::{Checkpoint, Share};
pub use manifest::ArrayEntry;
pub use retention::Keep;
pub use save::{Metadata, SaveTicket, Saved, Saver};
pub use snapshot::{HostArray, HostPart, SaveArray};
pub use store::{Store, StoreError};

use names::MANIFEST;

/// The checkpoints at one location. Only looks; [`Saver`] writes.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    store: Arc<dyn Store>,
}

/// The newest checkpoint that can be used.
#[derive(Debug)]
pub struct Latest {
    /// Every byte of it was compared with its checksums.
    pub checkpoint: Checkpoint,
    /// Newer ones that cannot be used, newest first. The user should hear of them.
    pub damaged: Vec<Damaged>,
}

impl Checkpoints {
    /// A folder, or a URL such as `s3://bucket/path` or `gs://bucket/path` ([`store::open`]). Nothing
    /// is looked up yet, and nothing need be there.
    ///
    /// # Errors
    /// [`StoreError::Location`].
    pub fn open(location: &str) -> Result<Checkpoints, CheckpointError> {
        Ok(Checkpoints::over(store::open(location)?))
    }

    /// As [`Checkpoints::open`], of a location that may also be one checkpoint's own folder, such as
    /// `runs/1/checkpoints/step-00000040`; says of which step then.
    ///
    /// # Errors
    /// [`StoreError::Location`].
    pub fn open_at(location: &str) -> Result<(Checkpoints, Option<u64>), CheckpointError> {
        let trimmed = location.trim_end_matches('/');
        let (around, last) = trimmed.rsplit_once('/').unwrap_or((".", trimmed));
        match names::step(last) {
            Some(step) => Ok((Checkpoints::open(around)?, Some(step))),
            None => Ok((Checkpoints::open(location)?, None)),
        }
    }

    pub fn over(store: Arc<dyn Store>) -> Checkpoints {
        Checkpoints { store }
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The location as a user would type it.
    pub fn location(&self) -> String {
        self.store.display("")
    }

    /// The steps that have a manifest, in order. Whether they are intact is another question.
    ///
    /// # Errors
    /// What the store answers.
    pub fn list(&self) -> Result<Vec<u64>, CheckpointError> {
        let mut steps = Vec::new();
        for folder in self.store.folders()? {
            if let Some(step) = names::step(&folder)
                && self.store.size_bytes(&format!("{folder}/{MANIFEST}"))?.is_some()
            {
                steps.push(step);
            }
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// Opens the checkpoint of a step. Its manifest is checked, its data is not
    /// ([`Checkpoint::verify`]).
    ///
    /// # Errors
    /// [`CheckpointError::NoSuchStep`], [`CheckpointError::Manifest`], or what the store answers.
    pub fn at(&self, step: u64) -> Result<Checkpoint, CheckpointError> {
        match Checkpoint::open(&self.store, step) {
            Err(CheckpointError::Store(StoreError::Missing { .. })) => {
                let (location, known) = (self.location(), self.list()?);
                Err(CheckpointError::NoSuchStep { location, step, known })
            }
            opened => opened,
        }
    }

    /// The newest checkpoint that can be used, or nothing if there are none. Everything is read
    /// once to find out.
    ///
    /// # Errors
    /// [`CheckpointError::AllDamaged`] when there are some and none can be used, and what the store
    /// answers when it cannot be read for another reason.
    pub fn latest(&self) -> Result<Option<Latest>, CheckpointError> {
        self.agree_on_latest(&Alone)
    }

    /// As [`Checkpoints::latest`], for all processes of a run, who share the work and get the same
    /// answer.
    ///
    /// # Errors
    /// As [`Checkpoints::latest`], or [`CheckpointError::Exchange`].
    pub fn agree_on_latest(
        &self,
        exchange: &dyn Exchange,
    ) -> Result<Option<Latest>, CheckpointError> {
        agreement::latest(self, exchange)
    }
}
