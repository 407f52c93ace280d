//! What a server's steps take on this machine.

use std::collections::BTreeMap;

use graph::DType;
use llm::ModelConfig;
use llm::export::config_json;
use llm::models::{KvCache, Layers, PageShape, PanelPlan};
use llm::programs::ProgramOptions;
use llm::weights::{Packing, Quantization};
use runtime::cache::{CacheKey, CompileCache};
use runtime::{PluginKind, host_memory};
use serde::{Deserialize, Serialize};
use serve::engine::{Key, Ladder, keys};

use super::depth::{Depths, reduced};
use super::drawn::{Drawn, beside_meter};
use super::estimate::{Estimate, Times, combine};
use super::job::{self, Case, Number, Work};
use super::machine;
use super::memory::ServeMemory;
use super::process::{Measurer, Measuring};
use super::{HereError, How, Memory, Progress, remember, remembered};

/// Steps are short, so that noise counts for more than in training, and more layers cost little.
const TIMES_FARTHER: usize = 2;

/// Every case is run in so many turns, so that whatever else the machine does for a while hits all.
const TURNS: usize = 5;
/// Runs of a case in a turn, at least and at most.
const RUNS: (usize, usize) = (2, 12);
/// When a turn has enough of them before that.
const TURN_SECONDS: f64 = 0.2;

/// Where a sequence is when its attention costs next to nothing, in tokens.
const SHORT: usize = 32;
/// And when it is measured what it costs; beyond, it grows in proportion.
const LONG: usize = 1024;
/// Tokens of all rows together that are written into caches for it, at most.
const FILLED: usize = 8192;

/// What is served, and in which shapes.
#[derive(Clone, Debug)]
pub struct ServingShape<'a> {
    pub model: &'a ModelConfig,
    /// How matrices are held: those of a checkpoint ([`llm::Checkpoint::packings`]), or [`held`] for a
    /// model without weights.
    pub panels: PanelPlan,
    /// Type of the KV cache, if it is not that of the activations.
    pub kv_dtype: Option<DType>,
    /// Sequences at once.
    pub slots: usize,
    /// Tokens of a page of the cache.
    pub page: usize,
    /// Tokens of the longest sequence.
    pub context: usize,
    /// Rows of the decode programs that are measured, ascending; those between are interpolated.
    pub batches: Vec<usize>,
    /// Rows of all decode programs that the server has, ascending: the others count for its memory.
    pub all_batches: Vec<usize>,
    /// Tokens of the prefill programs that are measured, ascending.
    pub chunks: Vec<usize>,
    /// Likewise of all.
    pub all_chunks: Vec<usize>,
}

/// How a model that has no files here would be held if its checkpoint held bf16, as most do.
///
/// # Errors
/// A model that does not fit together.
pub fn held(model: &ModelConfig, quantization: Quantization) -> Result<PanelPlan, HereError> {
    let options = ProgramOptions::for_plugin(PluginKind::Cpu);
    let cache = llm::models::CacheShape { batch: 1, capacity: 1 };
    let traced = llm::programs::decode(model, &options, cache)?;
    let matrices = traced.parameters.iter().filter_map(|spec| match spec.checkpoint_shape[..] {
        [_, inputs] => Some((spec.name.clone(), quantization.packing(Packing::Bf16, inputs))),
        _ => None,
    });
    Ok(matrices.collect())
}

/// Seconds at two places of a sequence, from which those at others follow.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
struct Line {
    /// Rows, or tokens of a chunk.
    size: usize,
    short: usize,
    at_short: Estimate,
    long: usize,
    at_long: Estimate,
}

impl Line {
    fn at(&self, place: usize) -> Estimate {
        let apart = self.long.saturating_sub(self.short).max(1) as f64;
        self.at_short.toward(self.at_long, (place as f64 - self.short as f64) / apart)
    }
}

/// A server's steps on this machine.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ServeSpeed {
    decode: Vec<Line>,
    prefill: Vec<Line>,
    /// Of the whole process.
    pub memory: ServeMemory,
    /// Nothing where no meter can be read.
    #[serde(default)]
    pub drawn: Option<Drawn>,
    pub how: How,
}

impl ServeSpeed {
    /// Seconds of a step that draws a token for each of `rows` sequences of `context` tokens.
    pub fn decode(&self, rows: usize, context: usize) -> Option<Estimate> {
        at(&self.decode, rows, context)
    }

    /// Seconds of a chunk of `tokens` of one prompt, the first of them at `position`.
    pub fn prefill(&self, tokens: usize, position: usize) -> Option<Estimate> {
        at(&self.prefill, tokens, position)
    }
}

/// On the straight line between the sizes that were measured around this one.
fn at(lines: &[Line], size: usize, place: usize) -> Option<Estimate> {
    let above = lines.iter().position(|line| line.size >= size).unwrap_or(lines.len());
    let (below, above) = match above {
        0 => return lines.first().map(|line| line.at(place)),
        above if above == lines.len() => {
            let last = lines.last()?;
            match lines.len() {
                1 => return Some(last.at(place)),
                count => (&lines[count - 2], last),
            }
        }
        above => (&lines[above - 1], &lines[above]),
    };
    let along = (size - below.size) as f64 / (above.size - below.size) as f64;
    Some(below.at(place).toward(above.at(place), along))
}

/// How long the steps of a server take, on this machine's processor. The model's weights need not be
/// here.
///
/// # Errors
/// As [`train_step`](super::train_step).
pub fn serve_steps(
    measurer: &Measurer,
    shape: &ServingShape<'_>,
    memory: Memory,
    progress: &Progress<'_>,
) -> Result<ServeSpeed, HereError> {
    check("decode batches", &shape.batches)?;
    check("decode batches", &shape.all_batches)?;
    check("prefill chunks", &shape.chunks)?;
    check("prefill chunks", &shape.all_chunks)?;
    let layers = shape.model.num_hidden_layers;
    let shapes = shape.shapes();
    let (layer_bytes, step_bytes) = shape.bytes()?;
    let cache_bytes = machine::cache_bytes();
    // Runs do not find in the cache what the run before left there, so any depth will do; but a model that
    // is not much larger than the cache does find it there when it is served.
    let depths = match step_bytes > 2 * cache_bytes {
        true => {
            Depths::choose(layers, TIMES_FARTHER, layer_bytes.max(2 * cache_bytes), cache_bytes)
        }
        false => Depths::Whole,
    };
    let between_bytes = between_bytes(depths == Depths::Whole);
    let cases = shape.cases();
    let cache = CompileCache::new(&measurer.cache)?;
    let machine = machine::identity(&measurer.cache, &measurer.location, 1)?;
    let models: Vec<ModelConfig> = match depths {
        Depths::Whole => vec![shape.model.clone()],
        Depths::Two { few, more } => vec![reduced(shape.model, few), reduced(shape.model, more)],
    };
    let texts = models.iter().map(|model| shape.text(model)).collect::<Result<Vec<_>, _>>()?;
    let key = CacheKey::new(&[
        ("measured", b"serving steps beside all programs of a server"),
        ("machine", machine.as_bytes()),
        ("layers", &layers.to_le_bytes()),
        ("cases", format!("{cases:?}").as_bytes()),
        ("programs", texts.join("\n").as_bytes()),
    ]);
    if let Some(speed) = remembered::<ServeSpeed>(&cache, &key, memory) {
        return Ok(ServeSpeed { how: How { remembered: true, ..speed.how }, ..speed });
    }
    fits(shape)?;
    progress("compiling a few layers of the server's programs");
    let jobs = models
        .iter()
        .map(|model| Ok((config_json(model)?, Work::Serving(shapes.clone()))))
        .collect::<Result<_, HereError>>()?;
    let mut measuring = measurer.start(jobs, 1)?;
    progress("running a few layers of the server's programs");
    let (times, drawn) = beside_meter(|| run(&mut measuring, &cases, between_bytes))?;
    let estimate = |case: Case| -> Result<Estimate, HereError> {
        let (few, more) = match depths {
            Depths::Whole => (layers, layers),
            Depths::Two { few, more } => (few, more),
        };
        let of_case = times.get(&case).map_or(&[][..], Vec::as_slice);
        let estimate = match of_case {
            [one, other] => {
                let (first, second) = Depths::factors(few, more, layers);
                combine(&[(first, one), (second, other)])
            }
            [one] => combine(&[(1.0, one)]),
            _ => None,
        };
        estimate.ok_or(HereError::Noise { few, more })
    };
    let line = |size: usize, [short, long]: [usize; 2], case: fn(usize, usize) -> Case| {
        let at_short = estimate(case(size, short))?;
        let at_long = estimate(case(size, long))?;
        Ok::<_, HereError>(Line { size, short, at_short, long, at_long })
    };
    let decode = shape.batches.iter().map(|&rows| line(rows, shape.contexts(rows), decode_case));
    let prefill =
        shape.chunks.iter().map(|&tokens| line(tokens, shape.positions(tokens), prefill_case));
    let speed = ServeSpeed {
        decode: decode.collect::<Result<_, _>>()?,
        prefill: prefill.collect::<Result<_, _>>()?,
        memory: shape.memory(&measuring, &models)?,
        drawn,
        how: How { depths, layers, runs: TURNS * RUNS.0, remembered: false },
    };
    remember(&cache, &key, &speed);
    Ok(speed)
}

/// Times of every case, taken in turns, so that whatever else the machine does for a while hits all.
fn run(
    measuring: &mut [Measuring],
    cases: &[Case],
    between_bytes: u64,
) -> Result<BTreeMap<Case, Vec<Times>>, HereError> {
    let mut times: BTreeMap<Case, Vec<Times>> = BTreeMap::new();
    for _ in 0..TURNS {
        for &case in cases {
            let of_case = times.entry(case).or_insert(vec![Times::default(); measuring.len()]);
            for (one, times) in measuring.iter_mut().zip(of_case) {
                // None are known in the first turn.
                let enough = TURN_SECONDS / times.median().unwrap_or(TURN_SECONDS);
                let runs = (enough as usize).clamp(RUNS.0, RUNS.1);
                let seconds = one.run(case, runs, between_bytes)?;
                seconds.into_iter().for_each(|seconds| times.add(seconds));
            }
        }
    }
    Ok(times)
}

/// What every core goes through before a run, so that a few layers do not find their weights and sequences
/// in the processor's cache, where most of a whole model's would not be.
fn between_bytes(whole: bool) -> u64 {
    if whole { 0 } else { 2 * machine::cache_bytes() }
}

fn decode_case(rows: usize, context: usize) -> Case {
    Case::Decode { rows, context }
}

fn prefill_case(tokens: usize, position: usize) -> Case {
    Case::Prefill { tokens, position }
}

fn check(what: &'static str, sizes: &[usize]) -> Result<(), HereError> {
    let ascend = sizes.windows(2).all(|pair| pair[0] < pair[1]);
    match sizes.first() {
        Some(&first) if first > 0 && ascend => Ok(()),
        _ => Err(HereError::Sizes { what }),
    }
}

/// Refuses a model whose weights alone this machine has no memory for.
fn fits(shape: &ServingShape<'_>) -> Result<(), HereError> {
    let (_, needed_bytes) = shape.bytes()?;
    match host_memory::total_bytes() {
        Some(total_bytes) if needed_bytes > total_bytes => {
            Err(HereError::DoesNotFit { needed_bytes, total_bytes })
        }
        _ => Ok(()),
    }
}

impl ServingShape<'_> {
    fn shapes(&self) -> job::Serving {
        let matrices = self.panels.iter();
        job::Serving {
            matrices: matrices.map(|(name, &packing)| (name.clone(), packing.into())).collect(),
            kv_cache: self.kv_dtype.and_then(|dtype| match dtype {
                DType::F32 => Some(Number::F32),
                DType::Bf16 => Some(Number::Bf16),
                DType::F16 => Some(Number::F16),
                _ => None,
            }),
            slots: self.slots,
            page: self.page,
            context: self.longest(),
            batches: self.all_batches.clone(),
            chunks: self.all_chunks.clone(),
        }
    }

    /// Tokens of the longest sequence that is measured.
    fn longest(&self) -> usize {
        let chunk = self.all_chunks.last().copied().unwrap_or(1);
        self.context.min(LONG + chunk).max(chunk).max(2)
    }

    /// Where rows are when they are measured.
    fn contexts(&self, rows: usize) -> [usize; 2] {
        let long = (FILLED / rows.max(1)).clamp(SHORT * 2, LONG).min(self.longest());
        [SHORT.min(long / 2).max(1), long]
    }

    /// Where chunks begin when they are measured.
    fn positions(&self, tokens: usize) -> [usize; 2] {
        [0, (self.longest() - tokens.min(self.longest())).min(LONG)]
    }

    fn cases(&self) -> Vec<Case> {
        let decode = self
            .batches
            .iter()
            .flat_map(|&rows| self.contexts(rows).map(|context| decode_case(rows, context)));
        let prefill = self.chunks.iter().flat_map(|&tokens| {
            self.positions(tokens).map(|position| prefill_case(tokens, position))
        });
        decode.chain(prefill).collect()
    }

    fn options(&self) -> ProgramOptions {
        let mut options = ProgramOptions::for_plugin(PluginKind::Cpu);
        options.kv_dtype = self.kv_dtype;
        options.joins = true;
        options.kernels.native = true;
        options.panels = Some(std::sync::Arc::new(self.panels.clone()));
        options
    }

    fn keys(&self, model: &ModelConfig) -> Vec<Key> {
        let rows = self.all_batches.last().copied().unwrap_or(1);
        let each = self.longest().div_ceil(self.page.max(1));
        let ladder = Ladder {
            context: self.longest(),
            vocab_size: model.vocab_size,
            hidden_size: model.hidden_size,
            page: self.page.max(1),
            pages: (each * rows).max(2),
            slots: self.slots.max(rows),
            batches: self.all_batches.clone(),
            chunks: self.all_chunks.clone(),
            guesses: 0,
            looks_ahead: false,
            adapters: None,
        };
        keys(&ladder, &[each])
    }

    /// The text of a model's programs.
    fn text(&self, model: &ModelConfig) -> Result<String, HereError> {
        let options = self.options();
        let texts = self
            .keys(model)
            .into_iter()
            .map(|key| Ok(key.trace(model, &options)?.program.text_without_locations));
        texts.collect::<Result<Vec<_>, HereError>>().map(|texts| texts.join("\n"))
    }

    /// Bytes of the weights of the first layers, with embedding and head.
    fn weight_bytes(&self, layers: usize) -> Result<u64, HereError> {
        let model = reduced(self.model, layers);
        let Some(&key) = self.keys(&model).first() else { return Ok(0) };
        let traced = key.trace(&model, &self.options())?;
        let inputs = &traced.program.inputs[traced.data + traced.cache..];
        Ok(inputs.iter().map(|input| input.shape.bytes() as u64).sum())
    }

    /// Bytes of the weights of one layer, and of the whole model.
    fn bytes(&self) -> Result<(u64, u64), HereError> {
        let one = self.weight_bytes(1)?;
        let layers = self.model.num_hidden_layers;
        let layer = if layers > 1 { self.weight_bytes(2)? - one } else { one };
        Ok((layer, one + layer * (layers as u64 - 1)))
    }

    /// Bytes of the cache for a token, in so many layers.
    fn token_bytes(&self, layers: usize) -> u64 {
        let one = PageShape { pages: 1, page: 1 };
        let held = self.kv_dtype.unwrap_or(DType::F32);
        let model = reduced(self.model, layers);
        let shapes = KvCache::page_shapes(&model, Layers::Unrolled, one, held);
        shapes.iter().map(|shape| shape.bytes() as u64).sum()
    }

    /// What the whole process needs. Beside weights, cache and temporaries that is this program and the
    /// plugin, which are there before all else, and the programs, with a piece for every layer.
    fn memory(
        &self,
        measuring: &[Measuring],
        models: &[ModelConfig],
    ) -> Result<ServeMemory, HereError> {
        let layers = self.model.num_hidden_layers;
        let mut programs = Vec::new();
        let (mut opened_bytes, mut temporary_bytes) = (0, 0);
        for (one, model) in measuring.iter().zip(models) {
            opened_bytes = one.opened_bytes;
            temporary_bytes = one.memory.unwrap_or_default().temporary_bytes;
            let weights = self.weight_bytes(model.num_hidden_layers)?;
            let rest = one.resident_bytes.saturating_sub(opened_bytes + weights);
            programs.push((model.num_hidden_layers, rest as f64));
        }
        let programs_bytes = match programs[..] {
            [(few, one), (more, other)] => {
                let of_layer = ((other - one) / (more - few) as f64).max(0.0);
                other + of_layer * (layers - more) as f64
            }
            [(_, one)] => one,
            _ => return Err(HereError::Sizes { what: "layers" }),
        };
        let (_, weight_bytes) = self.bytes()?;
        Ok(ServeMemory {
            weight_bytes,
            token_bytes: self.token_bytes(layers),
            temporary_bytes,
            beside_bytes: opened_bytes + programs_bytes as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(size: usize, at_short: f64, at_long: f64) -> Line {
        let at = |seconds: f64| Estimate { seconds, low_seconds: seconds, high_seconds: seconds };
        Line { size, short: 0, at_short: at(at_short), long: 1000, at_long: at(at_long) }
    }

    #[test]
    fn what_lies_between_is_on_a_line() {
        let lines = [line(1, 1.0, 2.0), line(9, 9.0, 11.0)];
        let seconds = |size, place| at(&lines, size, place).unwrap().seconds;
        assert_eq!(seconds(1, 500), 1.5);
        assert_eq!(seconds(9, 0), 9.0);
        assert_eq!(seconds(5, 0), 5.0);
        assert_eq!(seconds(17, 0), 17.0);
        assert_eq!(seconds(1, 2000), 3.0);
        assert_eq!(at(&lines[..1], 4, 0).unwrap().seconds, 1.0);
        assert_eq!(at(&[], 4, 0), None);
    }

    fn shape(model: &ModelConfig, context: usize) -> ServingShape<'_> {
        ServingShape {
            model,
            panels: held(model, Quantization::AsStored).unwrap(),
            kv_dtype: None,
            slots: 32,
            page: 32,
            context,
            batches: vec![1, 32],
            all_batches: vec![1, 8, 32],
            chunks: vec![512],
            all_chunks: vec![32, 512],
        }
    }

    #[test]
    fn every_case_has_room_in_the_cache() {
        let model = llm::shapes::find("llama3-1b").unwrap().unwrap();
        for context in [2, 100, 513, 4096, 131_072] {
            let shape = shape(&model, context);
            for case in shape.cases() {
                let end = match case {
                    Case::Decode { context, .. } => context,
                    Case::Prefill { tokens, position } => tokens + position,
                    Case::Step => panic!("a step"),
                };
                assert!(end <= shape.longest(), "{case:?} of {}", shape.longest());
            }
        }
    }

    #[test]
    fn a_token_has_a_key_and_a_value_in_every_layer() {
        let model = llm::shapes::find("llama3-1b").unwrap().unwrap();
        assert_eq!(shape(&model, 4096).token_bytes(16), 2 * 16 * 8 * 64 * 4);
    }

    #[test]
    fn weights_are_counted_as_they_are_held() {
        let model = llm::shapes::find("llama3-1b").unwrap().unwrap();
        let (layer, whole) = shape(&model, 4096).bytes().unwrap();
        // 1.236 billion parameters in bf16, the norms in f32.
        assert!((2.47e9..2.48e9).contains(&(whole as f64)), "{whole}");
        assert!((1.21e8..1.23e8).contains(&(layer as f64)), "{layer}");
        let quarter =
            ServingShape { panels: held(&model, Quantization::Q4).unwrap(), ..shape(&model, 4096) };
        assert!(quarter.bytes().unwrap().1 * 3 < whole);
    }

    #[test]
    fn sizes_must_make_sense() {
        for wrong in [&[][..], &[0], &[8, 1], &[4, 4]] {
            assert!(check("decode batches", wrong).is_err(), "{wrong:?}");
        }
        assert!(check("decode batches", &[1, 8]).is_ok());
    }
}
