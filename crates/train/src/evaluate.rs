//! The loss of a model on text: while it is trained, and of a model's files by themselves, with weights
//! that nothing changes. Knows no terminal.

use std::f64::consts::LN_2;
use std::sync::Arc;
use std::time::Instant;

use graph::ops::Remat;
use graph::{DType, Mesh};
use llm::ModelFiles;
use llm::models::Lora;
use llm::programs::ProgramOptions;
use runtime::{Array, CacheFolder, CompileInfo, PluginKind, Runtime};

use crate::config::check_mesh;
use crate::data::{self, Data, DataConfig, DataError, Dataset, ModelSide, SourceReport};
use crate::device::{DeviceError, Loaded, rows_of, scalar};
use crate::optimizer::Settings;
use crate::setup::{SetupError, check_vocabulary, text_side};
use crate::state::{self, Start, StateError};
use crate::step::{self, StepOptions};

/// How a model is measured.
#[derive(Clone, Debug)]
pub struct EvaluateOptions {
    pub mesh: Mesh,
    /// What weights are held in and computed with; what suits the kind of device if not given.
    pub dtype: Option<DType>,
    /// Sequences at once, all devices together.
    pub batch_size: usize,
    /// Not more than so many batches.
    pub max_batches: Option<u64>,
}

/// What measuring tells while it goes on.
#[derive(Debug)]
pub enum Progress<'a> {
    Data(data::Progress<'a>),
    /// Weights are being brought to the devices, in bytes.
    Weights {
        done: u64,
        total: u64,
    },
    Compiling,
    Compiled(&'a CompileInfo),
    Batch {
        done: u64,
        total: u64,
    },
}

/// What a model's loss on some text is.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluated {
    pub sums: Sums,
    /// What became of each source, in the order of the config.
    pub sources: Vec<SourceReport>,
    /// Of the measurement itself: data, program and weights were ready.
    pub seconds: f64,
}

/// Why a model could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Trace(#[from] graph::TraceError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(
        "the loss is {loss}: the model's weights are damaged, or too large for {dtype}; try f32"
    )]
    NotFinite { loss: f64, dtype: DType },
}

/// Sums over texts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// Cross entropy in nats.
    pub nats: f64,
    /// Tokens that were predicted.
    pub tokens: f64,
    /// Bytes of the text that they stand for.
    pub bytes: f64,
}

impl Sums {
    /// Nats per token.
    pub fn loss(&self) -> f64 {
        self.nats / self.tokens
    }

    /// `exp(loss)`.
    pub fn perplexity(&self) -> f64 {
        self.loss().exp()
    }

    /// Bits per byte of text, which does not depend on how the text was cut into tokens.
    pub fn bits_per_byte(&self) -> f64 {
        self.nats / LN_2 / self.bytes
    }

    /// Waits for a run of an evaluation program.
    fn add(&mut self, results: &[Array]) -> Result<(), runtime::Error> {
        self.nats += results.first().map_or(Ok(f64::NAN), scalar)?;
        self.tokens += results.get(1).map_or(Ok(f64::NAN), scalar)?;
        Ok(())
    }
}

/// Measures a model on the sources of `data`, every row once. Validation data is left aside.
///
/// # Errors
/// A mesh that does not fit, a model without a tokenizer, data that cannot be used, weights that cannot
/// be read, a loss that is not finite.
pub fn evaluate(
    files: &ModelFiles,
    runtime: &Runtime,
    data: &DataConfig,
    options: &EvaluateOptions,
    cache: &CacheFolder,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Evaluated, EvaluateError> {
    let (config, rows) = (&files.config, options.batch_size);
    check_mesh(&options.mesh, config, rows).map_err(SetupError::Mesh)?;
    let (tokenizer, chat_template) = text_side(files)?;
    check_vocabulary(&tokenizer, config)?;
    let side = ModelSide {
        tokenizer: &tokenizer,
        chat_template: chat_template.as_ref(),
        vocab_size: config.vocab_size,
        max_positions: Some(config.max_position_embeddings),
    };
    let told = &mut |step: data::Progress<'_>| progress(Progress::Data(step));
    let dataset = Data::open_once(data, &side, cache, rows, told)?;
    let rows = rows_at_once(&dataset, rows, &options.mesh);
    let length = data.sequence_length;
    let options_of_step = step_options(options, runtime.location().kind, rows, length);
    let dtype = options_of_step.dtype;
    let program = step::evaluation(config, &options_of_step)?;
    progress(Progress::Compiling);
    let loaded = Loaded::new(runtime, program)?;
    progress(Progress::Compiled(loaded.info()));
    let start = Start::Files { checkpoint: files.checkpoint.clone(), seed: 0 };
    let source =
        state::Source { start: &start, checkpoint: None, layers: config.num_hidden_layers };
    let kept = state::load(loaded.program(), loaded.mesh(), &source, &mut |done, total| {
        progress(Progress::Weights { done, total });
    })?;
    let kept: Vec<Arc<Array>> = kept.into_iter().map(Arc::new).collect();
    let total = dataset.batches().min(options.max_batches.unwrap_or(u64::MAX));
    let started = Instant::now();
    let sums = sums(&loaded, &dataset, total, &kept, &mut |done| {
        progress(Progress::Batch { done, total });
    })?;
    let seconds = started.elapsed().as_secs_f64();
    match sums.loss() {
        loss if loss.is_finite() => Ok(Evaluated { sums, sources: dataset.sources(), seconds }),
        loss => Err(EvaluateError::NotFinite { loss, dtype }),
    }
}

/// Fewer rows than were asked for where there are no more: padding costs as much as text.
fn rows_at_once(dataset: &Dataset, wanted: usize, mesh: &Mesh) -> usize {
    let replicas: usize = ["data", "fsdp"].iter().filter_map(|axis| mesh.size(axis)).product();
    let rows = usize::try_from(dataset.rows()).unwrap_or(usize::MAX).min(wanted);
    rows.next_multiple_of(replicas.max(1)).min(wanted)
}

/// The options of a program that trains nothing.
fn step_options(
    options: &EvaluateOptions,
    kind: PluginKind,
    batch_size: usize,
    sequence_length: usize,
) -> StepOptions {
    let suits = ProgramOptions::for_plugin(kind);
    let dtype = options.dtype.unwrap_or(suits.dtype);
    StepOptions {
        batch_size,
        sequence_length,
        accumulation: 1,
        dtype,
        frozen: dtype,
        layers: suits.layers,
        remat: Remat::None,
        z_loss: 0.0,
        optimizer: Settings::default(),
        // Adapters of nothing: all weights are frozen.
        lora: Some(Lora { rank: 1, alpha: 1.0, targets: Vec::new(), dropout: 0.0 }),
        mesh: options.mesh.clone(),
        rules: suits.rules,
        kernels: suits.kernels,
    }
}

/// Runs the first `batches` batches of a data set through an evaluation program, with the weights that
/// `kept` begins with; `on_batch` hears how many were gone through.
///
/// # Errors
/// Data that cannot be read, devices that fail.
pub fn sums(
    loaded: &Loaded,
    dataset: &Dataset,
    batches: u64,
    kept: &[Arc<Array>],
    on_batch: &mut dyn FnMut(u64),
) -> Result<Sums, EvaluateError> {
    let mut sums = Sums::default();
    let size = dataset.batch_size();
    let rows = loaded.program().program.inputs[0].shape.size("batch").unwrap_or(1);
    // Read while the devices are at the next one.
    let mut running: Option<Vec<Array>> = None;
    for number in 0..batches {
        on_batch(number);
        let batch = dataset.batch(number, 0..size)?;
        sums.bytes += dataset.target_bytes(&batch) as f64;
        // Behind the last row is only padding.
        let filled = dataset.rows().saturating_sub(number * size as u64).min(size as u64) as usize;
        for first in (0..filled).step_by(rows) {
            let texts = loaded.texts(|range| -> Result<_, runtime::Error> {
                Ok(rows_of(&batch, first + range.start..first + range.end))
            })?;
            if let Some(before) = running.replace(loaded.run(&texts, kept)?) {
                sums.add(&before)?;
            }
        }
    }
    if let Some(last) = running {
        sums.add(&last)?;
    }
    on_batch(batches);
    Ok(sums)
}
