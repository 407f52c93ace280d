//! What a run writes down: metrics, samples, TensorBoard, the report.

use std::path::{Path, PathBuf};
use std::time::Instant;

use llm::models::ParameterSpec;
use runtime::chips::{self, Chip};
use runtime::meter::Meter;

use super::{Setup, TrainError, seconds_since};
use crate::metrics::report::{self, RunFacts};
use crate::metrics::{
    MetricsError, RunSummary, Sample, StepLog, StepRecord, TensorBoard, Trained, flops_per_token,
    model_flops_utilization,
};
use crate::step::weights;

/// The files of a run in its output folder.
pub struct Records {
    folder: PathBuf,
    metrics: StepLog<StepRecord>,
    samples: StepLog<Sample>,
    tensorboard: TensorBoard,
    facts: RunFacts,
    flops_per_token: f64,
    chip: Option<&'static Chip>,
    devices: usize,
    started: Instant,
    /// Of this machine; none where there is none, or where other machines draw power too.
    meter: Option<Meter>,
    /// Wall time of the parts of the run before this one, in seconds.
    seconds_before: f64,
    /// Whether what happened last could not be written.
    failing: bool,
}

/// What is left when a run is over.
pub struct RunEnd {
    pub report: PathBuf,
    pub summary: RunSummary,
}

impl Records {
    /// Opens or creates the files; what they say of steps after `step` is cut off, since those are
    /// made again. `seconds_before` is the run's wall time up to there; where it is not known, what its
    /// steps took by themselves.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn open(
        setup: &Setup,
        folder: &Path,
        title: &str,
        step: usize,
        seconds_before: Option<f64>,
    ) -> Result<Records, TrainError> {
        let metrics_path = folder.join("metrics.jsonl");
        let seconds_before = match seconds_before {
            Some(seconds) => seconds,
            None => seconds_of_steps(&metrics_path, step)?,
        };
        let (metrics, _) = StepLog::open(&metrics_path, step)?;
        let (samples, _) = StepLog::open(&folder.join("samples.jsonl"), step)?;
        let tensorboard = TensorBoard::create(&folder.join("tensorboard"), step)?;
        let device = setup.runtime.devices().first().map(|device| device.kind().to_string());
        let device = device.unwrap_or_default();
        let kind = setup.runtime.location().kind;
        let is_cpu = kind == runtime::PluginKind::Cpu;
        let chip = if is_cpu { chips::find("cpu") } else { chips::of_device(&device) };
        let config = &setup.config;
        let model = &setup.model.config;
        let counts = Counts::of(setup);
        let trained = match &config.lora {
            Some(_) => Trained::Lora { adapter_parameters: counts.adapters },
            None => Trained::All,
        };
        let devices = setup.options.mesh.devices();
        let facts = RunFacts {
            title: title.to_string(),
            model: describe_model(setup),
            parameters: counts.model,
            trained_parameters: if config.lora.is_some() { counts.adapters } else { counts.model },
            data: describe_data(setup),
            mesh: setup.options.mesh.to_string(),
            device: if is_cpu { "CPU".to_string() } else { device },
            cost: None,
            config: config.to_toml(),
            versions: vec![("fungible".to_string(), env!("CARGO_PKG_VERSION").to_string())],
        };
        facts.write(folder)?;
        let mut processes = setup.runtime.devices().iter().map(|device| device.process_index());
        let first = processes.next();
        let alone = processes.all(|index| Some(index) == first);
        let meter = if alone { Meter::start(kind, devices) } else { None };
        Ok(Records {
            folder: folder.to_path_buf(),
            metrics,
            samples,
            tensorboard,
            facts,
            flops_per_token: flops_per_token(model, config.data.sequence_length, trained),
            chip,
            devices,
            started: Instant::now(),
            meter,
            seconds_before,
            failing: false,
        })
    }

    pub fn facts(&self) -> &RunFacts {
        &self.facts
    }

    /// Wall time of the run, with its earlier parts.
    pub(super) fn seconds(&self) -> f64 {
        self.seconds_before + seconds_since(self.started)
    }

    /// The share of the chips' peak that the model's own arithmetic amounts to.
    pub(super) fn utilization(&self, tokens_per_second: f64) -> Option<f64> {
        let chip = self.chip?;
        model_flops_utilization(self.flops_per_token, tokens_per_second, chip, self.devices)
    }

    /// Writes a step down; what cannot be written now waits.
    ///
    /// # Errors
    /// Files that cannot be written, if they could be before: nobody wants to hear it at every step.
    pub(super) fn step(&mut self, record: &StepRecord) -> Result<(), MetricsError> {
        let written = [self.metrics.append(record), self.tensorboard.record(record)];
        self.tell_once(written)
    }

    /// As [`Records::step`].
    pub(super) fn sample(&mut self, sample: &Sample) -> Result<(), MetricsError> {
        let written = [self.samples.append(sample), self.tensorboard.sample(sample)];
        self.tell_once(written)
    }

    fn tell_once(&mut self, written: [Result<(), MetricsError>; 2]) -> Result<(), MetricsError> {
        let written = written.into_iter().collect::<Result<(), MetricsError>>();
        match std::mem::replace(&mut self.failing, written.is_err()) {
            true => Ok(()),
            false => written,
        }
    }

    /// Writes the report.
    ///
    /// # Errors
    /// Files that cannot be read or written.
    pub fn finish(mut self) -> Result<RunEnd, TrainError> {
        self.metrics.finish()?;
        self.samples.finish()?;
        let summary = RunSummary::new(self.chip, self.devices, self.seconds());
        let summary = match self.meter.take().and_then(Meter::stop) {
            Some(reading) => summary.with_measured(reading),
            None => summary,
        };
        self.facts.cost = Some(summary.clone());
        self.facts.write(&self.folder)?;
        Ok(RunEnd { report: report::write_from_files(&self.folder)?, summary })
    }
}

/// What the steps up to this one took, without what was done between them.
fn seconds_of_steps(metrics: &Path, step: usize) -> Result<f64, MetricsError> {
    let records: Vec<StepRecord> = crate::metrics::read(metrics)?;
    Ok(records.iter().filter(|record| record.step <= step).map(|record| record.seconds).sum())
}

/// Parameters of the model and of its adapters.
struct Counts {
    model: usize,
    adapters: usize,
}

impl Counts {
    fn of(setup: &Setup) -> Counts {
        let weights = weights(&setup.model.config, &setup.options);
        let count = |is: fn(&ParameterSpec) -> bool| {
            weights.iter().filter(|(spec, _)| is(spec)).map(|(_, shape)| shape.elements()).sum()
        };
        Counts {
            model: count(|spec| !spec.is_adapter() && spec.scales_of().is_none()),
            adapters: count(ParameterSpec::is_adapter),
        }
    }
}

fn describe_model(setup: &Setup) -> String {
    let section = &setup.config.model;
    if let Some(from) = &section.from {
        let how = if setup.config.lora.is_some() { "adapters on" } else { "fine-tuned from" };
        return format!("{how} {from}");
    }
    let model = &setup.model.config;
    format!(
        "{:?} from scratch: {} layers, {} wide, {} heads, {} tokens",
        model.architecture,
        model.num_hidden_layers,
        model.hidden_size,
        model.num_attention_heads,
        model.vocab_size
    )
}

fn describe_data(setup: &Setup) -> String {
    let sources = setup.data.training.sources();
    let source = |source: &crate::data::SourceReport| {
        format!(
            "{} ({} documents, {} tokens, {})",
            source.path,
            source.documents,
            source.tokens,
            bytes(source.text_bytes)
        )
    };
    sources.iter().map(source).collect::<Vec<_>>().join(", ")
}

/// In decimal units, as disks are sold.
fn bytes(count: u64) -> String {
    match count {
        0..1_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        _ => format!("{:.1} GB", count as f64 / 1e9),
    }
}

/// Time between records.
pub(super) struct Clock(Instant);

impl Clock {
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    pub fn lap(&mut self) -> f64 {
        let seconds = seconds_since(self.0);
        self.0 = Instant::now();
        seconds
    }

    pub fn restart(&mut self) {
        self.0 = Instant::now();
    }
}
