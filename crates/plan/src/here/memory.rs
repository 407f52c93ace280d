//! The most memory that a process of this machine will have at once. Pure.

use runtime::worker::MemoryUse;
use serde::{Deserialize, Serialize};

use super::depth::Depths;

/// How far what is beside arguments and temporaries goes on growing with the layers: between 0.65 and a
/// little more than 1 was seen of models of 10, 28 and 30 layers.
const GROWS_ON: f64 = 0.75;

/// Bytes of a whole process, and what they are for.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct HostMemory {
    /// The most that is resident at once: all that is listed below.
    pub peak_bytes: u64,
    pub low_bytes: u64,
    pub high_bytes: u64,
    /// Weights, what the optimizer remembers, caches, and a step's data: the program's arguments.
    pub argument_bytes: u64,
    /// What the program computes and needs again: the compiler's own figure.
    pub temporary_bytes: u64,
    /// The rest: this program and the plugin, compiled code, and what the memory allocator loses between
    /// pieces.
    pub beside_bytes: u64,
    /// What a checkpoint being written holds on top, at most: a copy of all that steps change.
    pub saving_bytes: u64,
}

/// What a process was seen to need.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Seen {
    pub argument_bytes: u64,
    pub temporary_bytes: u64,
    pub changing_bytes: u64,
    /// The most that was resident.
    pub peak_bytes: u64,
}

impl Seen {
    pub fn new(memory: MemoryUse, changing_bytes: u64, peak_bytes: u64) -> Seen {
        Seen {
            argument_bytes: memory.argument_bytes,
            temporary_bytes: memory.temporary_bytes,
            changing_bytes,
            peak_bytes,
        }
    }
}

impl HostMemory {
    /// Of a process that was measured itself.
    pub fn of(seen: Seen) -> HostMemory {
        let Seen { argument_bytes, temporary_bytes, changing_bytes, peak_bytes } = seen;
        HostMemory {
            peak_bytes,
            low_bytes: peak_bytes,
            high_bytes: peak_bytes,
            argument_bytes,
            temporary_bytes,
            beside_bytes: peak_bytes.saturating_sub(argument_bytes + temporary_bytes),
            saving_bytes: changing_bytes,
        }
    }

    /// Of a model with `layers`, from two with `few` and `more`.
    ///
    /// Arguments and the compiler's temporaries grow by the same for every layer. What compiled code takes
    /// and the allocator loses grows too, at first as between the two that were seen and then less, since
    /// what is free between pieces is used again: the range goes from not growing any more to growing on
    /// like that, and what is expected is nearer to its upper end.
    pub fn beyond(few: (usize, Seen), more: (usize, Seen), layers: usize) -> HostMemory {
        let (one, other) = Depths::factors(few.0, more.0, layers);
        let line = |of: fn(&Seen) -> u64| {
            let bytes = one * of(&few.1) as f64 + other * of(&more.1) as f64;
            bytes.max(0.0).round() as u64
        };
        let argument_bytes = line(|seen| seen.argument_bytes);
        let temporary_bytes = line(|seen| seen.temporary_bytes);
        let beside = |seen: &Seen| {
            seen.peak_bytes.saturating_sub(seen.argument_bytes + seen.temporary_bytes)
        };
        let stays = beside(&more.1);
        let grows = one * beside(&few.1) as f64 + other * stays as f64;
        let grows = (grows.max(0.0) as u64).max(stays);
        let beside_bytes = stays + (GROWS_ON * (grows - stays) as f64) as u64;
        let needed = argument_bytes + temporary_bytes;
        HostMemory {
            peak_bytes: needed + beside_bytes,
            low_bytes: needed + stays,
            high_bytes: needed + grows,
            argument_bytes,
            temporary_bytes,
            beside_bytes,
            saving_bytes: line(|seen| seen.changing_bytes),
        }
    }
}

/// Bytes of a server's process.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct ServeMemory {
    pub weight_bytes: u64,
    /// Of the KV cache, for each token that is in it. A cache's memory is taken from the system as it comes
    /// to be written.
    pub token_bytes: u64,
    /// What a step computes and needs again: the largest of the programs'.
    pub temporary_bytes: u64,
    /// The rest: this program and the plugin, compiled code, and what the memory allocator loses between
    /// pieces.
    pub beside_bytes: u64,
}

impl ServeMemory {
    /// The most that is resident once so many tokens have been in the cache at a time.
    pub fn peak_bytes(&self, tokens: usize) -> u64 {
        let cache_bytes = self.token_bytes * tokens as u64;
        self.weight_bytes + cache_bytes + self.temporary_bytes + self.beside_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(layers: u64, beside_bytes: u64) -> Seen {
        let (argument_bytes, temporary_bytes) = (1000 + 40 * layers, 500 + 30 * layers);
        Seen {
            argument_bytes,
            temporary_bytes,
            changing_bytes: 10 * layers,
            peak_bytes: argument_bytes + temporary_bytes + beside_bytes,
        }
    }

    #[test]
    fn what_the_compiler_counts_is_a_line_and_the_rest_a_range() {
        let memory = HostMemory::beyond((2, seen(2, 100)), (6, seen(6, 140)), 30);
        assert_eq!(memory.argument_bytes, 1000 + 40 * 30);
        assert_eq!(memory.temporary_bytes, 500 + 30 * 30);
        assert_eq!(memory.saving_bytes, 300);
        let needed = memory.argument_bytes + memory.temporary_bytes;
        assert_eq!((memory.low_bytes, memory.high_bytes), (needed + 140, needed + 380));
        assert_eq!(memory.peak_bytes, needed + 140 + 180);
    }

    #[test]
    fn a_process_that_was_seen_is_what_it_is() {
        let memory = HostMemory::of(seen(3, 77));
        assert_eq!(memory.beside_bytes, 77);
        assert_eq!(memory.low_bytes, memory.high_bytes);
    }

    #[test]
    fn less_beside_more_layers_is_noise() {
        let memory = HostMemory::beyond((2, seen(2, 100)), (6, seen(6, 90)), 30);
        assert_eq!(memory.beside_bytes, 90);
    }
}
