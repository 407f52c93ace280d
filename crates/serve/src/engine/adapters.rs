//! Adapters by their names: which slot of the device each has, and until when. Knows no file and no
//! matrix; those are the device's.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::device::AdapterMemory;

/// An adapter that requests can use. Its slot is free again when the last of them is done with it.
#[derive(Debug)]
pub struct LoadedAdapter {
    slot: usize,
    root: u32,
    free: Arc<Mutex<Vec<usize>>>,
}

impl LoadedAdapter {
    /// What rows that use it say: its slot, counted from 1.
    pub fn number(&self) -> usize {
        self.slot + 1
    }

    /// What its texts begin with in the prefix cache. Never given twice, so what another adapter of the
    /// same name has left there is not found.
    pub fn root(&self) -> u32 {
        self.root
    }
}

impl Drop for LoadedAdapter {
    fn drop(&mut self) {
        lock(&self.free).push(self.slot);
    }
}

/// All adapters of an engine.
pub struct Adapters {
    /// None for a device without room for any.
    memory: Option<Arc<dyn AdapterMemory>>,
    free: Arc<Mutex<Vec<usize>>>,
    /// By name; none while one is being loaded.
    loaded: Mutex<BTreeMap<String, Option<Arc<LoadedAdapter>>>>,
    /// 0 is the base model's.
    next_root: AtomicU32,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Adapters {
    pub fn new(memory: Option<Arc<dyn AdapterMemory>>, slots: usize) -> Adapters {
        Adapters {
            memory,
            free: Arc::new(Mutex::new((0..slots).rev().collect())),
            loaded: Mutex::default(),
            next_root: AtomicU32::new(1),
        }
    }

    pub fn names(&self) -> Vec<String> {
        let loaded = lock(&self.loaded);
        loaded.iter().filter(|(_, one)| one.is_some()).map(|(name, _)| name.clone()).collect()
    }

    pub fn find(&self, name: &str) -> Option<Arc<LoadedAdapter>> {
        lock(&self.loaded).get(name).cloned().flatten()
    }

    /// Puts the adapter of a folder into a free slot. Blocks until it is there; others may be loaded and
    /// unloaded meanwhile.
    ///
    /// # Errors
    /// When there is no room for it, the name is taken, or the device does not want it.
    pub fn load(&self, name: &str, folder: &Path) -> Result<(), String> {
        let memory = self.memory.as_ref().ok_or(
            "this server has no room for adapters; start it with --max-loras, or merge the adapter \
             into its base with `fungible export`",
        )?;
        let adapter = {
            let mut loaded = lock(&self.loaded);
            if loaded.contains_key(name) {
                return Err(format!("the name `{name}` is taken; unload that adapter first"));
            }
            let slot = lock(&self.free).pop().ok_or(
                "every slot has an adapter, or one that answers under way still use; unload one, or \
                 start the server with a higher --max-loras",
            )?;
            loaded.insert(name.to_owned(), None);
            let root = self.next_root.fetch_add(1, Ordering::Relaxed);
            Arc::new(LoadedAdapter { slot, root, free: self.free.clone() })
        };
        let outcome = memory.load(adapter.slot, folder);
        let mut loaded = lock(&self.loaded);
        match outcome {
            Ok(()) => drop(loaded.insert(name.to_owned(), Some(adapter))),
            Err(_) => drop(loaded.remove(name)),
        }
        outcome
    }

    /// Lets no further request use it.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn unload(&self, name: &str) -> Result<(), String> {
        let mut loaded = lock(&self.loaded);
        match loaded.get(name) {
            Some(Some(_)) => drop(loaded.remove(name)),
            Some(None) => return Err(format!("the adapter `{name}` is still being loaded")),
            None => return Err(format!("there is no adapter `{name}`")),
        }
        Ok(())
    }
}
