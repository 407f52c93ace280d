//! What a step of training takes on this machine.

use std::time::{Duration, Instant};

use graph::Program;
use llm::ModelConfig;
use llm::export::config_json;
use runtime::PluginKind;
use runtime::cache::{CacheKey, CompileCache};
use runtime::host_memory;
use serde::{Deserialize, Serialize};
use train::config::Config;
use train::setup::step_options;
use train::state::kept_inputs;
use train::step;

use super::depth::{Depths, reduced};
use super::drawn::{Drawn, beside_meter};
use super::estimate::{Estimate, Times, combine};
use super::job::{Case, Work};
use super::machine;
use super::memory::{HostMemory, Seen};
use super::process::{Measurer, Measuring};
use super::{HereError, How, Memory, Progress, remember, remembered};

/// Tokens of the model in which the cost of a layer is measured: what the vocabulary costs, which can be
/// most of a step, would only bring noise into a difference in which it cancels out.
const NARROW_VOCABULARY: usize = 512;

/// See [`Depths::choose`].
const TIMES_FARTHER: usize = 4;

/// Steps that are timed for each program: at least, and at most.
const RUNS: (usize, usize) = (5, 25);
/// When enough is known before that.
const TIME_ENOUGH: Duration = Duration::from_secs(8);

/// A step of training on this machine.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct TrainSpeed {
    pub step: Estimate,
    pub tokens_per_step: usize,
    /// Of the whole process while steps run.
    pub memory: HostMemory,
    /// Nothing where no meter can be read.
    #[serde(default)]
    pub drawn: Option<Drawn>,
    pub how: How,
}

impl TrainSpeed {
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens_per_step as f64 / self.step.seconds
    }
}

/// How long a step of `config` takes, and how much memory its process needs, on this machine's processor.
/// `model` are the sizes of what is trained. Its weights need not be here.
///
/// Counted in the memory are this program and its plugin, weights, optimizer, a step's data, its
/// temporaries and compiled code; not a tokenizer, of which a step knows nothing, and not the compiler,
/// which is a process of its own and gone before the first step.
///
/// # Errors
/// [`HereError::DoesNotFit`] before anything is run, a config that contradicts the model, and whatever
/// keeps the processes that measure from it.
pub fn train_step(
    measurer: &Measurer,
    config: &Config,
    model: &ModelConfig,
    memory: Memory,
    progress: &Progress<'_>,
) -> Result<TrainSpeed, HereError> {
    let layers = model.num_hidden_layers;
    let mesh = config.mesh.to_mesh();
    let trace = |model: &ModelConfig| -> Result<step::TrainProgram, HereError> {
        let options = step_options(config, model, PluginKind::Cpu, mesh.clone())?;
        Ok(step::train_step(model, &options)?)
    };
    let kept_bytes = |model: &ModelConfig| -> Result<u64, HereError> {
        Ok(kept_inputs(&trace(model)?).iter().map(|input| input.shape.bytes() as u64).sum())
    };
    let depths = match layers {
        1 => Depths::Whole,
        _ => {
            let layer = kept_bytes(&reduced(model, 2))? - kept_bytes(&reduced(model, 1))?;
            Depths::choose(layers, TIMES_FARTHER, layer, machine::cache_bytes())
        }
    };
    let models = models(model, depths);
    let programs: Vec<Program> =
        models.iter().map(|model| Ok(trace(model)?.program)).collect::<Result<_, HereError>>()?;
    let cache = CompileCache::new(&measurer.cache)?;
    let machine = machine::identity(&measurer.cache, &measurer.location, mesh.devices())?;
    let texts: Vec<&str> =
        programs.iter().map(|program| program.text_without_locations.as_str()).collect();
    let key = CacheKey::new(&[
        ("measured", b"training step"),
        ("machine", machine.as_bytes()),
        ("layers", &layers.to_le_bytes()),
        ("programs", texts.join("\n").as_bytes()),
    ]);
    if let Some(speed) = remembered::<TrainSpeed>(&cache, &key, memory) {
        return Ok(TrainSpeed { how: How { remembered: true, ..speed.how }, ..speed });
    }
    progress("compiling a few layers of the training step");
    let config_text = config.to_toml();
    let jobs = models
        .iter()
        .map(|model| Ok((config_json(model)?, Work::Training { config: config_text.clone() })))
        .collect::<Result<_, HereError>>()?;
    let mut measuring = measurer.start(jobs, mesh.devices())?;
    fits(&measuring, depths, layers)?;
    progress("running a few layers of the training step");
    for one in &mut measuring {
        one.load()?;
    }
    let ((times, runs), drawn) = beside_meter(|| run(&mut measuring))?;
    let seen = |one: &mut Measuring| -> Result<Seen, HereError> {
        let peak_bytes = one.peak_bytes()?.unwrap_or(0);
        Ok(Seen::new(one.memory.unwrap_or_default(), one.changing_bytes, peak_bytes))
    };
    let speed = TrainSpeed {
        step: step_seconds(&times, depths, layers)?,
        tokens_per_step: config.training.batch_size * config.data.sequence_length,
        memory: match (depths, measuring.as_mut_slice()) {
            (Depths::Two { few, more }, [one, other, ..]) => {
                HostMemory::beyond((few, seen(one)?), (more, seen(other)?), layers)
            }
            (_, [one, ..]) => HostMemory::of(seen(one)?),
            (_, []) => return Err(HereError::Sizes { what: "layers" }),
        },
        drawn,
        how: How { depths, layers, runs, remembered: false },
    };
    remember(&cache, &key, &speed);
    Ok(speed)
}

/// What is compiled and run: few layers and more of them, and the same with a small vocabulary.
fn models(model: &ModelConfig, depths: Depths) -> Vec<ModelConfig> {
    match depths {
        Depths::Whole => vec![model.clone()],
        Depths::Two { few, more } => {
            let narrow = |layers: usize| {
                let mut narrow = reduced(model, layers);
                narrow.vocab_size = narrow.vocab_size.min(NARROW_VOCABULARY);
                // They may lie beyond it, and a step does not look at them.
                narrow.bos_token_id = None;
                narrow.eos_token_ids.clear();
                narrow
            };
            vec![reduced(model, few), reduced(model, more), narrow(few), narrow(more)]
        }
    }
}

/// Refuses a step that this machine has no memory for.
fn fits(measuring: &[Measuring], depths: Depths, layers: usize) -> Result<(), HereError> {
    let bytes = |one: &Measuring| {
        let memory = one.memory.unwrap_or_default();
        (memory.argument_bytes + memory.temporary_bytes) as f64
    };
    let needed = match (depths, measuring) {
        (Depths::Two { few, more }, [one, other, ..]) => {
            let (first, second) = Depths::factors(few, more, layers);
            first * bytes(one) + second * bytes(other)
        }
        (_, [one, ..]) => bytes(one),
        (_, []) => 0.0,
    };
    let needed_bytes = needed.max(0.0) as u64;
    match host_memory::total_bytes() {
        Some(total_bytes) if needed_bytes > total_bytes => {
            Err(HereError::DoesNotFit { needed_bytes, total_bytes })
        }
        _ => Ok(()),
    }
}

/// Times of every program, taken in turns, so that whatever else the machine does for a while hits all.
fn run(measuring: &mut [Measuring]) -> Result<(Vec<Times>, usize), HereError> {
    let mut times = vec![Times::default(); measuring.len()];
    let started = Instant::now();
    let mut rounds = 0;
    while rounds < RUNS.0 || (rounds < RUNS.1 && started.elapsed() < TIME_ENOUGH) {
        for (one, times) in measuring.iter_mut().zip(&mut times) {
            one.run(Case::Step, 1, 0)?.into_iter().for_each(|seconds| times.add(seconds));
        }
        rounds += 1;
    }
    Ok((times, rounds))
}

fn step_seconds(times: &[Times], depths: Depths, layers: usize) -> Result<Estimate, HereError> {
    match (depths, times) {
        (Depths::Two { few, more }, [wide, _, narrow_few, narrow_more]) => {
            let each = (layers - few) as f64 / (more - few) as f64;
            combine(&[(1.0, wide), (-each, narrow_few), (each, narrow_more)])
                .ok_or(HereError::Noise { few, more })
        }
        (_, times) => {
            let whole = times.first().and_then(|times| combine(&[(1.0, times)]));
            whole.ok_or(HereError::Noise { few: layers, more: layers })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(seconds: f64) -> Times {
        let mut times = Times::default();
        (0..5).for_each(|_| times.add(seconds));
        times
    }

    #[test]
    fn the_vocabulary_counts_once_and_every_layer_counts() {
        let depths = Depths::Two { few: 2, more: 6 };
        // 0.7 s for the vocabulary, 0.1 s for a layer; the small vocabulary takes 0.01 s.
        let all = [times(0.9), times(1.3), times(0.21), times(0.61)];
        let step = step_seconds(&all, depths, 30).unwrap();
        assert!((step.seconds - 3.7).abs() < 1e-9, "{step:?}");
        let busy = [times(0.1), times(1.3), times(0.61), times(0.21)];
        assert!(matches!(step_seconds(&busy, depths, 30), Err(HereError::Noise { .. })));
        let whole = step_seconds(&[times(0.5)], Depths::Whole, 4).unwrap();
        assert_eq!(whole.seconds, 0.5);
    }

    #[test]
    fn what_is_measured_has_the_widths_of_the_whole() {
        let model = llm::shapes::find("llama3-8b").unwrap().unwrap();
        let models = models(&model, Depths::Two { few: 2, more: 6 });
        let layers: Vec<usize> = models.iter().map(|model| model.num_hidden_layers).collect();
        assert_eq!(layers, [2, 6, 2, 6]);
        assert!(models.iter().all(|reduced| reduced.hidden_size == model.hidden_size));
        assert_eq!(models[1].vocab_size, model.vocab_size);
        assert_eq!(models[3].vocab_size, NARROW_VOCABULARY);
        // A narrow model is a valid one: the process that measures reads it as a config.json.
        for model in &models {
            assert!(ModelConfig::from_json(&config_json(model).unwrap()).is_ok());
        }
    }
}
