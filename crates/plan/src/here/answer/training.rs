//! A step of training, measured.

use std::sync::Arc;
use std::time::Instant;

use llm::ModelConfig;
use runtime::worker::{MemoryUse, Register};
use runtime::{Array, PluginKind, Runtime};
use train::config::Config;
use train::data::Batch;
use train::device::{Loaded, Scalars};
use train::setup::step_options;
use train::state::kept_inputs;
use train::step::{Kept, StepOptions, train_step};

use super::super::job::Case;
use super::super::made_up;
use super::{Broken, Measured, broken};

pub struct Training {
    loaded: Loaded,
    texts: Vec<Array>,
    kept: Vec<Arc<Array>>,
    step: u32,
}

impl Training {
    pub fn new(
        model: ModelConfig,
        config: &str,
        open: impl FnOnce(usize, Option<Register>) -> Result<Runtime, Broken>,
    ) -> Result<Training, Broken> {
        let config = Config::parse_to_plan(config, "measured").map_err(broken)?;
        let mesh = config.mesh.to_mesh();
        let options =
            step_options(&config, &model, PluginKind::Cpu, mesh.clone()).map_err(broken)?;
        let runtime = open(mesh.devices(), None)?;
        let program = train_step(&model, &options).map_err(broken)?;
        let loaded = Loaded::new(&runtime, program).map_err(broken)?;
        let batch = text(&options, model.vocab_size);
        let texts = loaded.texts(|rows| Ok(train::device::rows_of(&batch, rows)));
        let texts = texts.map_err(|error: runtime::Error| broken(error))?;
        Ok(Training { loaded, texts, kept: Vec::new(), step: 0 })
    }
}

impl Measured for Training {
    fn memory(&self) -> Option<MemoryUse> {
        self.loaded.info().memory
    }

    fn changing_bytes(&self) -> u64 {
        let program = self.loaded.program();
        let kept = program.kept.iter().zip(kept_inputs(program));
        kept.filter(|(tensor, _)| tensor.changes())
            .map(|(_, input)| input.shape.bytes() as u64)
            .sum()
    }

    fn load(&mut self) -> Result<(), Broken> {
        let program = self.loaded.program();
        let mesh = self.loaded.mesh();
        let arrays = program.kept.iter().zip(kept_inputs(program)).map(|(tensor, input)| {
            match tensor.kept {
                Kept::State => Array::zeros(mesh, &input.shape, &input.sharding),
                Kept::Weight { .. } => made_up::array(mesh, input, tensor.changes()),
            }
            .map(Arc::new)
        });
        self.kept = arrays.collect::<Result<_, _>>().map_err(broken)?;
        Ok(())
    }

    fn begin(&mut self, _: Case) -> Result<(), Broken> {
        Ok(())
    }

    fn run(&mut self, _: Case) -> Result<f64, Broken> {
        self.step += 1;
        let scalars = Scalars {
            learning_rate: 1e-4,
            adamw_learning_rate: 1e-4,
            loss_limit: f64::INFINITY,
            seed: 0,
            step: self.step,
        };
        let started = Instant::now();
        let metrics = self.loaded.step(&self.texts, &scalars, &mut self.kept).map_err(broken)?;
        let result = metrics.read().map_err(broken)?;
        match result.skipped {
            true => Err(Broken(format!("a step of made-up weights had the loss {}", result.loss))),
            false => Ok(started.elapsed().as_secs_f64()),
        }
    }
}

/// Rows of one document each, as long as they can be.
fn text(options: &StepOptions, vocabulary: usize) -> Batch {
    let (rows, length) = (options.batch_size, options.sequence_length);
    let token = |place: usize| ((place * 7919 + 17) % vocabulary) as i32;
    let places = 0..rows * length;
    Batch {
        rows,
        sequence_length: length,
        tokens: places.clone().map(token).collect(),
        targets: places.clone().map(|place| token(place + 1)).collect(),
        segments: vec![1; rows * length],
        positions: places.map(|place| (place % length) as i32).collect(),
    }
}
