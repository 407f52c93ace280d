//! What happens to a snapshot: this process's file, everybody's lists together, the manifest, and room
//! for the next one. Runs on a thread of its own.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::data_file::{self, Written};
use super::error::CheckpointError;
use super::exchange::Exchange;
use super::manifest::{ArrayEntry, Chunk, Manifest};
use super::names::{self, MANIFEST};
use super::retention::{self, Keep};
use super::save::{Metadata, Metrics, Saved, tell};
use super::snapshot::HostArray;
use super::store::Store;

pub(super) struct Job {
    pub store: Arc<dyn Store>,
    pub exchange: Arc<dyn Exchange>,
    pub step: u64,
    pub arrays: Vec<HostArray>,
    pub metadata: Metadata,
    pub keep: Keep,
    pub metrics: Metrics,
}

impl Job {
    pub fn run(mut self) -> Result<Saved, CheckpointError> {
        let started = Instant::now();
        let bytes = self.arrays.iter().map(HostArray::bytes).sum();
        let entries = self.arrays.iter().map(entry).collect();
        let folder = names::folder(self.step);
        let name = names::data_file(
            self.exchange.process_index(),
            self.exchange.process_count(),
            attempt(),
        );
        let arrays = std::mem::take(&mut self.arrays);
        let written = data_file::write(&*self.store, &folder, &name, arrays);

        // Everybody reports, also a failure, so that nobody waits for somebody who gave up.
        let report = match &written {
            Ok(written) => Ok(written),
            Err(error) => Err(error.sentence()),
        };
        let exchange = Arc::clone(&self.exchange);
        let failed = |reason: String| CheckpointError::Exchange { reason };
        let report = serde_json::to_vec(&report).map_err(|error| failed(error.to_string()))?;
        let reports =
            exchange.gather(&format!("checkpoint/{folder}/chunks"), report).map_err(failed)?;
        let key = format!("checkpoint/{folder}/done");
        let mut saved =
            Saved { step: self.step, bytes, seconds: 0.0, removed: Vec::new(), warning: None };
        match reports {
            None => {
                let said = tell(&*exchange, &key, &Ok(()))?;
                // Its own failure is what this process should hear of.
                written?;
                said?;
            }
            Some(reports) => {
                let committed = written.and_then(|_| self.commit(entries, &reports));
                let tidied = match &committed {
                    Ok(()) => self.make_room().map(|removed| saved.removed = removed),
                    // All have reported, so nobody is writing.
                    Err(_) => retention::sweep_step(&self.store, self.step),
                };
                let said = match &committed {
                    Ok(()) => Ok(()),
                    Err(error) => Err(error.sentence()),
                };
                let told = tell(&*exchange, &key, &said);
                committed?;
                // The others not hearing of it does not undo the checkpoint, but the next exchange
                // will fail as well, so it is said now.
                let _ = told?;
                saved.warning = tidied.err().map(|error| error.sentence());
            }
        }
        saved.seconds = started.elapsed().as_secs_f64();
        Ok(saved)
    }

    /// Writes the manifest, if all that it will name is there.
    fn commit(
        &self,
        mut entries: Vec<ArrayEntry>,
        reports: &[Vec<u8>],
    ) -> Result<(), CheckpointError> {
        let folder = names::folder(self.step);
        let mut files = Vec::new();
        for (process_index, report) in reports.iter().enumerate() {
            let wrong = |reason: String| CheckpointError::Process { process_index, reason };
            let report: Result<Written, String> = serde_json::from_slice(report)
                .map_err(|error| wrong(format!("its report cannot be read ({error})")))?;
            let written = report.map_err(wrong)?;
            for chunk in written.chunks {
                let entry = entries
                    .get_mut(chunk.array)
                    .ok_or_else(|| wrong("it saves other arrays than process 0".to_string()))?;
                entry.chunks.push(Chunk {
                    start: chunk.start,
                    file: files.len(),
                    offset: chunk.offset,
                    checksum: chunk.checksum,
                });
            }
            if let Some(file) = written.file {
                let path = format!("{folder}/{}", file.name);
                if self.store.size_bytes(&path)? != Some(file.bytes) {
                    let path = self.store.display(&path);
                    return Err(CheckpointError::NotShared { path, process_index });
                }
                files.push(file);
            }
        }
        let Metadata { metric, sections } = self.metadata.clone();
        let manifest = Manifest::new(self.step, metric, files, entries, sections);
        let path = format!("{folder}/{MANIFEST}");
        let incomplete = |reason| CheckpointError::Array {
            name: self.store.display(&folder),
            reason: format!("what the processes wrote does not fit together: {reason}"),
        };
        manifest.check().map_err(incomplete)?;
        let bytes = manifest.to_bytes().map_err(incomplete)?;
        Ok(self.store.put(&path, &bytes)?)
    }

    /// Removes what need not stay. Answers the steps.
    fn make_room(&self) -> Result<Vec<u64>, CheckpointError> {
        // A checkpoint of this step that was there before has left its data.
        retention::sweep_step(&self.store, self.step)?;
        let mut metrics = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        let metric = self.metadata.metric.filter(|metric| metric.is_finite());
        metrics.insert(self.step, metric);
        let mut removed = Vec::new();
        for step in retention::superfluous(&metrics, self.step, self.keep) {
            retention::remove(&*self.store, step)?;
            metrics.remove(&step);
            removed.push(step);
        }
        Ok(removed)
    }
}

fn entry(array: &HostArray) -> ArrayEntry {
    let axes = array.shape.axes.iter();
    ArrayEntry {
        name: array.name.clone(),
        dtype: array.shape.dtype,
        axes: axes.map(|&(name, size)| (name.to_string(), size)).collect(),
        role: array.role.to_string(),
        extent: array.extent.clone(),
        chunks: Vec::new(),
    }
}

/// A number that no other attempt has: `RandomState` is seeded by the operating system.
fn attempt() -> u32 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    RandomState::new().hash_one((time, std::process::id())) as u32
}
