//! A device whose "model" draws a token that depends on every token of the sequence, read from the pages
//! of its cache, and on the adapter that each was run with: whatever goes wrong with pages, positions,
//! slots or adapters gives another token.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use llm::models::LoraSlots;
use serve::engine::{AdapterMemory, Device, DeviceError, Ladder, Row, Token, Tokens};

pub const VOCABULARY: usize = 97;

/// What the model draws after `tokens`.
pub fn next(tokens: &[u32]) -> u32 {
    let mut state = 0xcbf2_9ce4_8422_2325u64;
    for &token in tokens {
        state = (state ^ u64::from(token)).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
    }
    // Few different tokens, so that texts repeat themselves and guesses are sometimes right.
    (state >> 40) as u32 % 5
}

/// The answer to a prompt.
pub fn answer(prompt: &[u32], count: usize) -> Vec<u32> {
    answer_with(0, prompt, count)
}

/// The answer with an adapter.
pub fn answer_with(adapter: u32, prompt: &[u32], count: usize) -> Vec<u32> {
    let run: Vec<u32> = prompt.iter().map(|&token| marked(token, adapter)).collect();
    let mut tokens = run;
    let mut answer = Vec::new();
    for _ in 0..count {
        answer.push(next(&tokens));
        tokens.push(marked(next(&tokens), adapter));
    }
    answer
}

/// What the cache holds of a token that was run with an adapter; 0 is the base model.
fn marked(token: u32, adapter: u32) -> u32 {
    token + adapter * 1000
}

/// What each slot holds: folders are named by numbers.
pub struct Slots(Mutex<Vec<u32>>);

impl AdapterMemory for Slots {
    fn load(&self, slot: usize, folder: &Path) -> Result<(), String> {
        let number = folder.to_str().and_then(|name| name.parse().ok());
        self.0.lock().unwrap()[slot] = number.ok_or("this is no adapter")?;
        Ok(())
    }
}

#[derive(Default)]
pub struct Watch {
    pub steps: AtomicU64,
    pub rows: AtomicU64,
    pub prefilled: AtomicU64,
    /// The number of the step that is to fail, from 1; 0 for none. Then every so many steps.
    pub fail_every: AtomicUsize,
    pub fails_to_reset: std::sync::atomic::AtomicBool,
}

pub struct MemoryDevice {
    ladder: Ladder,
    /// The token that each place of each page holds.
    cells: Vec<Option<u32>>,
    last: HashMap<usize, u32>,
    pub watch: Arc<Watch>,
    slots: Arc<Slots>,
}

pub fn ladder(pages: usize, sequences: usize) -> Ladder {
    Ladder {
        context: 64,
        vocab_size: VOCABULARY,
        hidden_size: 2,
        page: 4,
        pages,
        slots: sequences,
        batches: vec![1, 2, 4, 8],
        chunks: vec![4, 16],
        guesses: 0,
        looks_ahead: false,
        adapters: Some(LoraSlots { slots: 2, rank: 1 }),
    }
}

impl MemoryDevice {
    pub fn new(ladder: Ladder) -> MemoryDevice {
        let cells = vec![None; ladder.pages * ladder.page];
        let slots = vec![0; ladder.adapters.map_or(0, |room| room.slots)];
        let slots = Arc::new(Slots(Mutex::new(slots)));
        MemoryDevice { ladder, cells, last: HashMap::new(), watch: Arc::default(), slots }
    }

    fn step(&self) -> Result<(), DeviceError> {
        let number = self.watch.steps.fetch_add(1, Ordering::Relaxed) + 1;
        let every = self.watch.fail_every.load(Ordering::Relaxed) as u64;
        match every > 0 && number.is_multiple_of(every) {
            true => Err(DeviceError(format!("step {number} failed"))),
            false => Ok(()),
        }
    }

    fn run(&mut self, row: &Row<'_>) -> Result<Tokens, DeviceError> {
        let from_last = [self.last.get(&row.slot).copied().unwrap_or(u32::MAX)];
        let tokens = if row.tokens.is_empty() { &from_last } else { row.tokens };
        let page = self.ladder.page;
        let adapter = match row.adapter {
            0 => 0,
            number => self.slots.0.lock().unwrap()[number - 1],
        };
        let cell = |place: usize| {
            let id = row.pages.get(place / page);
            id.map(|&id| id as usize * page + place % page)
                .ok_or_else(|| DeviceError(format!("place {place} has no page")))
        };
        for (index, &token) in tokens.iter().enumerate() {
            let at = cell(row.position + index)?;
            self.cells[at] = Some(marked(token, adapter));
        }
        let mut drawn = Vec::new();
        for end in row.position + 1..=row.position + tokens.len() {
            let text = (0..end).map(|place| Ok(self.cells[cell(place)?].unwrap_or(u32::MAX)));
            let text = text.collect::<Result<Vec<u32>, DeviceError>>()?;
            let allowed =
                |id: u32| row.mask.is_none_or(|m| m[id as usize / 32] >> (id % 32) & 1 == 1);
            let wanted = next(&text);
            let id = (wanted..VOCABULARY as u32).find(|&id| allowed(id)).unwrap_or(wanted);
            drawn.push(Token { id, log_prob: -1.0, top: Vec::new() });
        }
        if row.draws {
            let right = drawn.iter().zip(&tokens[1..]).take_while(|(d, t)| d.id == **t).count();
            self.last.insert(row.slot, drawn[right].id);
        }
        Ok(drawn)
    }
}

impl Device for MemoryDevice {
    type Step = Vec<Tokens>;

    fn ladder(&self) -> &Ladder {
        &self.ladder
    }

    fn prefill(&mut self, row: &Row<'_>) -> Result<Self::Step, DeviceError> {
        self.step()?;
        self.watch.prefilled.fetch_add(row.count() as u64, Ordering::Relaxed);
        let last = self.run(row)?.pop();
        if let (true, Some(last)) = (row.draws, &last) {
            self.last.insert(row.slot, last.id);
        }
        Ok(vec![last.into_iter().collect()])
    }

    fn decode(&mut self, rows: &[Row<'_>]) -> Result<Self::Step, DeviceError> {
        self.step()?;
        self.watch.rows.fetch_add(rows.len() as u64, Ordering::Relaxed);
        rows.iter().map(|row| self.run(row)).collect()
    }

    fn read(&mut self, step: Self::Step) -> Result<Vec<Tokens>, DeviceError> {
        Ok(step)
    }

    /// The number of tokens, and of those before them that the cache does not hold.
    fn embed(
        &mut self,
        position: usize,
        tokens: &[u32],
        pages: &[u32],
    ) -> Result<Vec<f32>, DeviceError> {
        self.step()?;
        let page = self.ladder.page;
        let cell = |place: usize| pages[place / page] as usize * page + place % page;
        let lost = (0..position).filter(|&place| self.cells[cell(place)].is_none()).count();
        for (index, &token) in tokens.iter().enumerate() {
            self.cells[cell(position + index)] = Some(token);
        }
        Ok(vec![tokens.len() as f32, lost as f32])
    }

    fn reset(&mut self) -> Result<(), DeviceError> {
        if self.watch.fails_to_reset.load(Ordering::Relaxed) {
            return Err(DeviceError("the device is gone".to_string()));
        }
        self.cells.fill(None);
        self.last.clear();
        Ok(())
    }

    fn adapter_memory(&self) -> Option<Arc<dyn AdapterMemory>> {
        Some(self.slots.clone())
    }

    fn compiled_late(&self) -> u64 {
        0
    }
}
