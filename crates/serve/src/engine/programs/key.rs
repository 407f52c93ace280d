//! Which programs a ladder of shapes means, and how each is traced. Compiles nothing.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use graph::TraceError;
use llm::ModelConfig;
use llm::models::PageShape;
use llm::programs::{self, EmbedShape, ModelProgram, ProgramOptions, StepShape};

use crate::engine::device::Ladder;

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    Step(StepShape),
    Embed(EmbedShape),
}

impl Key {
    /// # Errors
    /// A model that does not fit together.
    pub fn trace(
        self,
        config: &ModelConfig,
        options: &ProgramOptions,
    ) -> Result<ModelProgram, TraceError> {
        match self {
            Key::Step(shape) => programs::step(config, options, shape),
            Key::Embed(shape) => programs::embed(config, options, shape),
        }
    }

    /// Whether rows of it may have adapters.
    pub fn adapts(self) -> bool {
        matches!(self, Key::Step(StepShape { adapters: Some(_), .. }))
    }

    /// What it is for.
    pub fn kind(self) -> &'static str {
        match self {
            Key::Step(StepShape { draws_each: true, adapters: None, .. }) => "guess",
            Key::Step(StepShape { width: 1, adapters: None, .. }) => "decode",
            Key::Step(StepShape { adapters: None, .. }) => "prefill",
            Key::Step(StepShape { draws_each: true, .. }) => "guess with adapters",
            Key::Step(StepShape { width: 1, .. }) => "decode with adapters",
            Key::Step(_) => "prefill with adapters",
            Key::Embed(_) => "embed",
        }
    }

    /// Sequences, tokens of each, and pages that each can have.
    pub fn sizes(self) -> [usize; 3] {
        match self {
            Key::Step(shape) => [shape.batch, shape.width, shape.blocks],
            Key::Embed(shape) => [1, shape.width, shape.blocks],
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [rows, tokens, pages] = self.sizes();
        write!(formatter, "{} {rows} x {tokens} x {pages}", self.kind())
    }
}

/// Every program of a ladder; with room for adapters, every step in two.
pub fn keys(ladder: &Ladder, blocks: &[usize]) -> Vec<Key> {
    let mut keys = Vec::new();
    // Steps in which no row has an adapter are as quick as if there were none.
    let with_adapters = [false, true].into_iter().take(1 + usize::from(ladder.adapters.is_some()));
    for (&blocks, adapts) in
        blocks.iter().flat_map(|blocks| with_adapters.clone().map(move |adapts| (blocks, adapts)))
    {
        let step = |batch, width, draws_each| {
            let adapters = ladder.adapters.filter(|_| adapts);
            let shape = step_shape(ladder, batch, width, draws_each, blocks);
            Key::Step(StepShape { adapters, ..shape })
        };
        keys.extend(ladder.chunks.iter().map(|&chunk| step(1, chunk, false)));
        keys.extend(ladder.batches.iter().map(|&batch| step(batch, 1, false)));
        if ladder.guesses > 0 {
            let width = ladder.guesses + 1;
            keys.extend(ladder.batches.iter().map(|&batch| step(batch, width, true)));
        }
        let embed = |&chunk: &usize| Key::Embed(embed_shape(ladder, chunk, blocks));
        keys.extend(ladder.chunks.iter().map(embed));
    }
    // Two ways may lead to the same program: a chunk of one token is a decode step of one row.
    let mut known = std::collections::HashSet::new();
    keys.retain(|&key| known.insert(key));
    keys
}

/// The largest program of each kind, which need the most memory.
pub fn largest(keys: &[Key]) -> Vec<Key> {
    let mut largest: Vec<Key> = Vec::new();
    for &key in keys {
        match largest.iter_mut().find(|known| known.kind() == key.kind()) {
            Some(known)
                if key.sizes().iter().product::<usize>() >= known.sizes().iter().product() =>
            {
                *known = key;
            }
            Some(_) => {}
            None => largest.push(key),
        }
    }
    largest
}

/// Does the work for each program, several at a time; the results are in the keys' order.
///
/// # Errors
/// The first that `work` has; what has not begun by then is left out.
pub fn for_each_key<T: Send, E: Send>(
    keys: &[Key],
    threads: usize,
    work: impl Fn(Key) -> Result<T, E> + Sync,
) -> Result<Vec<(Key, T)>, E> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(keys.len()));
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, keys.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&key) = keys.get(index) else { return };
                    let result = work(key);
                    if result.is_err() {
                        next.store(keys.len(), Ordering::Relaxed);
                    }
                    if let Ok(mut results) = results.lock() {
                        results.push((index, key, result));
                    }
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_default();
    results.sort_by_key(|&(index, ..)| index);
    results.into_iter().map(|(_, key, result)| Ok((key, result?))).collect()
}

fn page_shape(ladder: &Ladder) -> PageShape {
    PageShape { pages: ladder.pages, page: ladder.page }
}

/// Of a step without adapters.
pub(super) fn step_shape(
    ladder: &Ladder,
    batch: usize,
    width: usize,
    draws_each: bool,
    blocks: usize,
) -> StepShape {
    let slots = ladder.slots + 1;
    let pages = page_shape(ladder);
    StepShape { batch, width, draws_each, blocks, slots, pages, adapters: None }
}

pub(super) fn embed_shape(ladder: &Ladder, width: usize, blocks: usize) -> EmbedShape {
    EmbedShape { width, blocks, pages: page_shape(ladder) }
}

#[cfg(test)]
mod tests {
    use llm::models::LoraSlots;

    use super::*;
    use crate::engine::{LadderChoice, ladder};

    fn some_keys() -> Vec<Key> {
        keys_with(None)
    }

    fn keys_with(adapters: Option<LoraSlots>) -> Vec<Key> {
        let config = llm::shapes::find("llama3-8b").unwrap().unwrap();
        let choice = LadderChoice {
            sequences: 4,
            page: 32,
            cache_bytes: u64::MAX,
            chunk: 128,
            guesses: 2,
            adapters,
            ..LadderChoice::default()
        };
        keys(&ladder(&config, &choice, 1), &[16, 256])
    }

    #[test]
    fn every_kind_has_its_largest() {
        let keys = some_keys();
        assert_eq!(keys.len(), 2 * (2 + 3 + 3 + 2));
        let names: Vec<String> = largest(&keys).iter().map(Key::to_string).collect();
        let wanted = [
            "prefill 1 x 128 x 256",
            "decode 4 x 1 x 256",
            "guess 4 x 3 x 256",
            "embed 1 x 128 x 256",
        ];
        assert_eq!(names, wanted);
    }

    #[test]
    fn with_room_for_adapters_there_are_steps_with_and_without() {
        let keys = keys_with(Some(LoraSlots { slots: 2, rank: 8 }));
        assert_eq!(keys.len(), 2 * (2 * (2 + 3 + 3) + 2));
        assert_eq!(largest(&keys).len(), 7);
        let unlike = keys.iter().collect::<std::collections::HashSet<_>>();
        assert_eq!(unlike.len(), keys.len());
    }

    #[test]
    fn results_are_in_order_and_an_error_ends_it() {
        let keys = some_keys();
        let done = for_each_key(&keys, 3, |key| Ok::<_, ()>(key.sizes())).unwrap();
        assert_eq!(done.iter().map(|(key, _)| *key).collect::<Vec<_>>(), keys);
        assert!(done.iter().all(|(key, sizes)| key.sizes() == *sizes));
        let begun = AtomicUsize::new(0);
        let failed = for_each_key(&keys, 1, |key| {
            begun.fetch_add(1, Ordering::Relaxed);
            if key.kind() == "decode" { Err(key.sizes()) } else { Ok(()) }
        });
        assert_eq!(failed, Err([1, 1, 16]));
        assert_eq!(begun.into_inner(), 3);
    }
}
