//! What the tests of checkpoints share: states that tell which step they are of, stores that fail, and
//! processes that are threads. Knows no test.

#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use graph::{DType, Role, Shape};
use train::checkpoint::store::{Claim, FolderStore, ReadSizes, Upload};
use train::checkpoint::{
    Checkpoint, Checkpoints, Exchange, HostArray, HostPart, Metadata, Store, StoreError,
};

pub type Shapes = Vec<(&'static str, Shape)>;

/// The arrays of [`state`].
pub fn shapes() -> Shapes {
    vec![
        ("model/w", Shape::new(DType::F32, &[("mlp", 16), ("embed", 12)])),
        ("model/norm", Shape::new(DType::Bf16, &[("embed", 12)])),
        ("adam.m/w", Shape::new(DType::F32, &[("mlp", 16), ("embed", 12)])),
        ("count", Shape::scalar(DType::S64)),
        ("nothing", Shape::new(DType::F32, &[("mlp", 0), ("embed", 12)])),
    ]
}

/// The bytes of an array at a step, which differ from step to step.
pub fn contents(name: &str, step: u64, length: usize) -> Vec<u8> {
    let seed =
        name.bytes().fold(step, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    let byte = |place: u64| (place + 1).wrapping_mul(seed | 1) % 251;
    (0..length as u64).map(|place| byte(place) as u8 ^ step as u8).collect()
}

/// A small state, all of it this process's.
pub fn state(step: u64) -> Vec<HostArray> {
    let whole = |(name, shape): (&str, Shape)| {
        HostArray::whole(name, Role::Parameter, &shape, contents(name, step, shape.bytes()))
    };
    shapes().into_iter().map(whole).collect()
}

/// The same, as one of two processes has it: half the rows of a matrix each; the rest is the first's.
pub fn half_state(step: u64, process: usize) -> Vec<HostArray> {
    let half = |(name, shape): (&'static str, Shape)| {
        let bytes = contents(name, step, shape.bytes());
        let sizes = shape.sizes();
        let mut array = HostArray::whole(name, Role::Parameter, &shape, bytes.clone());
        if shape.rank() == 2 && sizes[0] > 0 {
            array.extent[0] /= 2;
            let (rows, middle) = (array.extent[0], bytes.len() / 2);
            let bytes = if process == 0 { &bytes[..middle] } else { &bytes[middle..] };
            let ranges = vec![process * rows..(process + 1) * rows, 0..sizes[1]];
            array.parts = vec![HostPart { ranges, bytes: bytes.to_vec() }];
        } else if process == 1 {
            array.parts.clear();
        }
        array
    };
    shapes().into_iter().map(half).collect()
}

pub fn metadata(step: u64) -> Metadata {
    let mut metadata = Metadata::default();
    metadata.sections.insert("position".to_string(), (step * 1000).into());
    metadata
}

pub fn whole(shape: &Shape) -> Vec<Range<usize>> {
    shape.sizes().into_iter().map(|size| 0..size).collect()
}

/// Demands that a checkpoint is the state of its step, all of it.
pub fn assert_is_state(checkpoint: &Checkpoint, contents_of: u64) {
    let shapes = shapes();
    let expected: Vec<(&str, &Shape)> = shapes.iter().map(|(name, shape)| (*name, shape)).collect();
    checkpoint.expect(&expected).unwrap();
    assert_eq!(checkpoint.sections()["position"], contents_of * 1000);
    for (name, shape) in &shapes {
        let mut bytes = vec![0; shape.bytes()];
        checkpoint.read(name, &whole(shape), &mut bytes).unwrap();
        assert!(bytes == contents(name, contents_of, bytes.len()), "{name}");
    }
}

/// Every file and folder below a folder, as relative paths, except the lock.
pub fn files(root: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_string();
            if name != "saving.lock" {
                found.push(name);
            }
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Demands that there is nothing but complete checkpoints of these steps.
pub fn assert_only(root: &std::path::Path, steps: &[u64]) {
    let checkpoints = Checkpoints::over(Arc::new(FolderStore::new(root)));
    assert_eq!(checkpoints.list().unwrap(), steps);
    for name in files(root) {
        let Some((folder, file)) = name.split_once('/') else {
            assert!(steps.iter().any(|step| name == format!("step-{step:08}")), "{name}");
            continue;
        };
        let manifest = std::fs::read_to_string(root.join(folder).join("manifest.json")).unwrap();
        assert!(file == "manifest.json" || manifest.contains(file), "left behind: {name}");
    }
}

/// What a [`FailingStore`] does when its budget is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// As a process that is killed: from then on nothing at all is done. Each call that changes
    /// something costs 1, and the last one is done by half.
    Killed,
    /// As a full disk: nothing more can be written, but all else works. Each byte costs 1.
    Full,
}

/// A store that fails at a chosen moment.
#[derive(Debug)]
pub struct FailingStore {
    inner: Arc<dyn Store>,
    failure: Failure,
    budget: Arc<AtomicI64>,
    pub read_bytes: AtomicU64,
}

impl FailingStore {
    pub fn new(inner: Arc<dyn Store>, failure: Failure, budget: i64) -> FailingStore {
        let budget = Arc::new(AtomicI64::new(budget));
        FailingStore { inner, failure, budget, read_bytes: AtomicU64::new(0) }
    }

    pub fn is_spent(&self) -> bool {
        self.budget.load(Ordering::SeqCst) < 0
    }

    pub fn set_budget(&self, budget: i64) {
        self.budget.store(budget, Ordering::SeqCst);
    }

    fn spend(&self, path: &str, bytes: usize) -> Result<(), StoreError> {
        spend(&self.budget, self.failure, path, bytes)
    }
}

fn spend(budget: &AtomicI64, failure: Failure, path: &str, bytes: usize) -> Result<(), StoreError> {
    let cost = if failure == Failure::Killed { 1 } else { bytes as i64 };
    if budget.fetch_sub(cost, Ordering::SeqCst) >= cost {
        return Ok(());
    }
    budget.fetch_min(-1, Ordering::SeqCst);
    let (path, source) = (path.to_string(), std::io::Error::other("the test wants it so").into());
    Err(match failure {
        Failure::Killed => StoreError::Other { path, source },
        Failure::Full => StoreError::Full { path, source },
    })
}

impl Store for FailingStore {
    fn display(&self, path: &str) -> String {
        self.inner.display(path)
    }

    fn folders(&self) -> Result<Vec<String>, StoreError> {
        self.inner.folders()
    }

    fn files(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        self.inner.files(folder)
    }

    fn size_bytes(&self, path: &str) -> Result<Option<u64>, StoreError> {
        self.inner.size_bytes(path)
    }

    fn read(&self, path: &str, offset: u64, destination: &mut [u8]) -> Result<(), StoreError> {
        self.read_bytes.fetch_add(destination.len() as u64, Ordering::SeqCst);
        self.inner.read(path, offset, destination)
    }

    fn create(&self, path: &str, bytes: u64) -> Result<Box<dyn Upload>, StoreError> {
        self.spend(path, 0)?;
        let inner = Some(self.inner.create(path, bytes)?);
        let (budget, failure) = (Arc::clone(&self.budget), self.failure);
        Ok(Box::new(FailingUpload { inner, path: path.to_string(), budget, failure }))
    }

    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.spend(path, bytes.len()).inspect_err(|_| {
            if self.failure == Failure::Killed {
                let half = self.inner.create(&format!("{path}.new"), 0);
                if let Ok(mut half) = half {
                    half.write(&bytes[..bytes.len() / 2]).unwrap();
                    std::mem::forget(half);
                }
            }
        })?;
        self.inner.put(path, bytes)
    }

    fn delete(&self, path: &str) -> Result<(), StoreError> {
        if self.failure == Failure::Killed {
            self.spend(path, 0)?;
        }
        self.inner.delete(path)
    }

    fn delete_empty_folder(&self, folder: &str) -> Result<(), StoreError> {
        if self.failure == Failure::Killed {
            self.spend(folder, 0)?;
        }
        self.inner.delete_empty_folder(folder)
    }

    fn claim(&self) -> Result<Claim, StoreError> {
        self.inner.claim()
    }

    fn read_sizes(&self) -> ReadSizes {
        self.inner.read_sizes()
    }
}

struct FailingUpload {
    inner: Option<Box<dyn Upload>>,
    path: String,
    budget: Arc<AtomicI64>,
    failure: Failure,
}

impl Upload for FailingUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let inner = self.inner.as_mut().unwrap();
        if let Err(error) = spend(&self.budget, self.failure, &self.path, bytes.len()) {
            inner.write(&bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        inner.write(bytes)
    }

    fn finish(mut self: Box<Self>) -> Result<(), StoreError> {
        spend(&self.budget, self.failure, &self.path, 0)?;
        self.inner.take().unwrap().finish()
    }
}

impl Drop for FailingUpload {
    fn drop(&mut self) {
        // Whoever is killed does not tidy up.
        if self.failure == Failure::Killed {
            std::mem::forget(self.inner.take());
        }
    }
}

/// Processes that are threads.
#[derive(Default)]
struct Table {
    /// By key, round and process.
    values: Mutex<HashMap<(String, usize, usize), Vec<u8>>>,
    changed: Condvar,
}

pub struct Thread {
    table: Arc<Table>,
    index: usize,
    count: usize,
    rounds: Mutex<HashMap<String, usize>>,
}

/// One exchange for each of so many processes.
pub fn threads(count: usize) -> Vec<Arc<dyn Exchange>> {
    let table = Arc::new(Table::default());
    let thread = |index| {
        let (table, rounds) = (Arc::clone(&table), Mutex::default());
        Arc::new(Thread { table, index, count, rounds }) as Arc<dyn Exchange>
    };
    (0..count).map(thread).collect()
}

impl Thread {
    fn round(&self, key: &str) -> usize {
        let mut rounds = self.rounds.lock().unwrap();
        let round = rounds.entry(key.to_string()).or_default();
        *round += 1;
        *round
    }

    fn give(&self, key: &str, round: usize, value: Vec<u8>) {
        let key = (key.to_string(), round, self.index);
        self.table.values.lock().unwrap().insert(key, value);
        self.table.changed.notify_all();
    }

    fn take(&self, key: &str, round: usize, process: usize) -> Result<Vec<u8>, String> {
        let key = (key.to_string(), round, process);
        let values = self.table.values.lock().unwrap();
        let (values, _) = self
            .table
            .changed
            .wait_timeout_while(values, Duration::from_secs(20), |all| !all.contains_key(&key))
            .unwrap();
        values.get(&key).cloned().ok_or_else(|| format!("nothing from process {process}"))
    }
}

impl Exchange for Thread {
    fn process_index(&self) -> usize {
        self.index
    }

    fn process_count(&self) -> usize {
        self.count
    }

    fn gather(&self, key: &str, value: Vec<u8>) -> Result<Option<Vec<Vec<u8>>>, String> {
        let round = self.round(key);
        self.give(key, round, value);
        if self.index > 0 {
            return Ok(None);
        }
        (0..self.count)
            .map(|process| self.take(key, round, process))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    fn broadcast(&self, key: &str, value: Vec<u8>) -> Result<Vec<u8>, String> {
        let round = self.round(key);
        if self.index == 0 {
            self.give(key, round, value);
        }
        self.take(key, round, 0)
    }
}
