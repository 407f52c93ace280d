//! How many layers are measured instead of all of them. Pure.

use llm::ModelConfig;
use serde::{Deserialize, Serialize};

/// Bytes that the layers may take that are measured for that, beyond the fewest.
const BYTES_BETWEEN: u64 = 2 << 30;

/// With fewer layers than this share of all nothing is saved that is worth an error.
const WORTH_IT: f64 = 0.6;

/// A program whose data are this many times the processor's cache finds none of it there from the run
/// before, as the whole program would not.
const CACHES: u64 = 4;

/// The depths that are measured.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum Depths {
    /// All layers: the model is small, and what is said of it is a measurement.
    Whole,
    Two {
        few: usize,
        more: usize,
    },
}

impl Depths {
    /// For a program that goes through `layer_bytes` of memory with every layer, on a processor with so
    /// much cache. What a layer costs is the difference of two depths, so its error is multiplied by the
    /// layers that are left out over the layers between the depths: `times_farther`, about.
    pub fn choose(
        layers: usize,
        times_farther: usize,
        layer_bytes: u64,
        cache_bytes: u64,
    ) -> Depths {
        let beyond_cache = CACHES.saturating_mul(cache_bytes).div_ceil(layer_bytes.max(1));
        let few = usize::try_from(beyond_cache).unwrap_or(usize::MAX).max(2);
        let left = layers.saturating_sub(few);
        let affordable = usize::try_from(BYTES_BETWEEN / layer_bytes.max(1)).unwrap_or(usize::MAX);
        let more = few.saturating_add((left / times_farther.max(1)).min(affordable).max(2));
        match (more as f64) < WORTH_IT * layers as f64 {
            true => Depths::Two { few, more },
            false => Depths::Whole,
        }
    }

    /// The factors with which times (or bytes) at `few` and `more` layers add up to those of `layers`.
    pub fn factors(few: usize, more: usize, layers: usize) -> (f64, f64) {
        let beyond = (layers as f64 - few as f64) / (more as f64 - few as f64);
        (1.0 - beyond, beyond)
    }
}

/// The model with its first layers only.
pub fn reduced(config: &ModelConfig, layers: usize) -> ModelConfig {
    let mut reduced = config.clone();
    reduced.num_hidden_layers = layers;
    reduced.sliding_windows.truncate(layers);
    reduced
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_is_measured_is_beyond_the_cache_and_far_enough_apart() {
        for (layers, layer_mib) in [(12, 60), (30, 57), (28, 120), (80, 300), (64, 20)] {
            let Depths::Two { few, more } = Depths::choose(layers, 4, layer_mib * MIB, 32 * MIB)
            else {
                panic!("{layers} layers of {layer_mib} MiB")
            };
            assert!(few as u64 * layer_mib >= 4 * 32, "{layers}");
            assert!(few >= 2 && more > few && more < layers);
            let (_, factor) = Depths::factors(few, more, layers);
            assert!(factor < 14.0, "{layers}: {factor}");
        }
        // Where a layer is large, its time is too, and is measured well.
        let large = Depths::choose(32, 4, 3500 * MIB, 32 * MIB);
        assert_eq!(large, Depths::Two { few: 2, more: 4 });
    }

    #[test]
    fn small_models_are_measured_as_they_are() {
        for (layers, layer_mib) in [(1, 1000), (4, 1000), (24, 1), (5, 100)] {
            assert_eq!(Depths::choose(layers, 4, layer_mib * MIB, 32 * MIB), Depths::Whole);
        }
        assert_eq!(Depths::choose(100, 0, 0, u64::MAX), Depths::Whole);
    }

    #[test]
    fn factors_give_a_straight_line() {
        let (few, more) = Depths::factors(2, 6, 30);
        let line = |layers: f64| 5.0 + 3.0 * layers;
        assert!((few * line(2.0) + more * line(6.0) - line(30.0)).abs() < 1e-9);
    }

    #[test]
    fn windows_go_with_their_layers() {
        let whole = llm::shapes::find("mistral-7b").unwrap().unwrap();
        let two = reduced(&whole, 2);
        assert_eq!((two.num_hidden_layers, two.sliding_windows.len()), (2, 2));
        assert_eq!(two.hidden_size, whole.hidden_size);
    }
}
