//! From a checkpoint of a run to files that other programs load: the model in Hugging Face's layout, or
//! the adapters that were trained in PEFT's. What the optimizer remembers stays behind. Knows no device:
//! a checkpoint is read in pieces, as it lies.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use graph::{Mesh, Shape};
use llm::adapter::{AdaptedModule, AdapterConfig, AdapterError, pair_up};
use llm::export::{
    self, ExportModel, ExportOptions, ExportProgress, Exported, Merged, TensorSource, Unstacked,
    unstack,
};
use llm::models::ParameterSpec;
use llm::weights::ReadError;
use llm::{Checkpoint, FloatType, ModelFiles};
use runtime::{PluginKind, registry};

use crate::basis;
use crate::checkpoint::{CheckpointError, Checkpoints, Latest, Share};
use crate::config::{ComputeType, Config, Lora};
use crate::restore;
use crate::saved::{SavedRun, Unsaid};
use crate::setup::{SetupError, step_options};
use crate::step::{weight_name, weights};

/// Where a run's checkpoints are in its output folder, if its config does not say otherwise.
const CHECKPOINTS: &str = "checkpoints";
/// The config of a run in its output folder.
const CONFIG_FILE: &str = "config.toml";

/// Why a checkpoint could not be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("there is no checkpoint in {location}: {hint}")]
    NoCheckpoint { location: String, hint: &'static str },
    #[error("{location} is the checkpoint of step {step}, and step {asked} was asked for")]
    OtherStep { location: String, step: u64, asked: u64 },
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Unsaid(#[from] Unsaid),
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error(
        "{location} is of a run that trained the whole model, so it has no adapter: export the model"
    )]
    NoAdapter { location: String },
    #[error(
        "{location} has adapters only, and merging them needs the model that they were trained on \
         (`{base}`): say where it is, or export the adapter"
    )]
    NoBase { location: String, base: String },
    #[error("{base} is not the model that the adapters of {location} were trained on")]
    OtherBase {
        location: String,
        base: String,
        #[source]
        source: Box<export::ExportError>,
    },
    #[error("the adapters of {location} do not fit together")]
    Adapter {
        location: String,
        #[source]
        source: AdapterError,
    },
    #[error(transparent)]
    Export(#[from] export::ExportError),
}

/// The checkpoint at a location: a folder or URL with checkpoints in it, or one of them, or a run's
/// output folder. The newest that can be used, or that of `step`; every byte of it is compared with its
/// checksums.
///
/// # Errors
/// When there is none, or none that can be used, or what the store answers.
pub fn find(location: &str, step: Option<u64>) -> Result<Latest, ExportError> {
    let (checkpoints, own) = Checkpoints::open_at(location)?;
    let step = match (own, step) {
        (Some(own), Some(asked)) if own != asked => {
            return Err(ExportError::OtherStep {
                location: location.to_string(),
                step: own,
                asked,
            });
        }
        (own, asked) => own.or(asked),
    };
    let checkpoints = match own {
        Some(_) => checkpoints,
        None => of_run(location, checkpoints)?,
    };
    let none = || {
        let hint = hint(Path::new(location));
        ExportError::NoCheckpoint { location: location.to_string(), hint }
    };
    let Some(step) = step else { return checkpoints.latest()?.ok_or_else(none) };
    if checkpoints.list()?.is_empty() {
        return Err(none());
    }
    let checkpoint = checkpoints.at(step)?;
    checkpoint.verify(Share::ALL)?;
    Ok(Latest { checkpoint, damaged: Vec::new() })
}

/// Whether [`find`] would look for a checkpoint here: so this is the folder of a run or of its
/// checkpoints, or one of them.
pub fn is_of_run(location: &str) -> bool {
    let is_of_run = || -> Result<bool, ExportError> {
        Ok(match Checkpoints::open_at(location)? {
            (around, Some(step)) => around.list()?.contains(&step),
            (found, None) => !of_run(location, found)?.list()?.is_empty(),
        })
    };
    is_of_run().unwrap_or(false)
}

/// The checkpoints of the run whose output folder this is, if it has none itself.
fn of_run(location: &str, found: Checkpoints) -> Result<Checkpoints, ExportError> {
    if !found.list()?.is_empty() {
        return Ok(found);
    }
    let inside = Checkpoints::open(&format!("{}/{CHECKPOINTS}", location.trim_end_matches('/')))?;
    if !inside.list()?.is_empty() {
        return Ok(inside);
    }
    match Config::load(&Path::new(location).join(CONFIG_FILE), &[]) {
        Ok(config) => Ok(Checkpoints::open(&config.checkpoint.folder)?),
        Err(_) => Ok(found),
    }
}

/// What a place without checkpoints may be instead.
fn hint(location: &Path) -> &'static str {
    let has = |name: &str| location.join(name).exists();
    if location.to_string_lossy().contains("://") {
        "give a place with `step-…` folders in it, as training writes them"
    } else if !location.exists() {
        "it does not exist"
    } else if has("config.json") || location.extension().is_some_and(|end| end == "gguf") {
        "it is a model already, which need not be exported"
    } else if has("adapter_config.json") {
        "it is an exported adapter"
    } else {
        "give a folder with `step-…` folders in it, as training writes them, or the output folder of a \
         run"
    }
}

/// What other programs find a base model by: a known name is ours alone.
fn public_name(base: &str) -> String {
    let known = registry::find(base).and_then(|package| package.hub_id.as_deref());
    known.unwrap_or(base).to_string()
}

impl SavedRun {
    /// The model that the adapters were trained on, as the config names it; nothing if the whole model
    /// was trained.
    pub fn base(&self) -> Option<&str> {
        self.config.lora.as_ref().and(self.config.model.from.as_deref())
    }

    /// The type that the run computed with: rounding to it loses nothing that the run saw.
    pub fn float_type(&self) -> FloatType {
        match self.config.training.dtype {
            ComputeType::F32 => FloatType::F32,
            ComputeType::Bf16 => FloatType::Bf16,
        }
    }

    /// Writes the model's folder. Adapters are added to the weights of `base`, which nothing else
    /// needs.
    ///
    /// # Errors
    /// Adapters without their base or with another, or what [`export::hugging_face`] finds. Nothing is
    /// left behind then.
    pub fn export_model(
        &self,
        folder: &Path,
        base: Option<&ModelFiles>,
        options: &ExportOptions,
        on_progress: &mut dyn FnMut(ExportProgress),
    ) -> Result<Exported, ExportError> {
        let model = ExportModel { config: &self.model, companions: &self.companions };
        let trained = self.trained()?;
        let Some(lora) = &self.config.lora else {
            let mut source = self.source(trained);
            return Ok(export::hugging_face(folder, model, &mut source, options, on_progress)?);
        };
        let location = || self.checkpoint.location();
        let Some(base) = base else {
            let base = self.base().unwrap_or_default().to_string();
            return Err(ExportError::NoBase { location: location(), base });
        };
        basis::check_frozen(&self.checkpoint, &base.checkpoint)?;
        let modules = self.modules(&trained)?;
        let weights = Checkpoint::clone(&base.checkpoint);
        let config = self.adapter_config(lora);
        let merged = Merged::new(weights, self.source(trained), &config, &modules);
        let mut merged = merged.map_err(|source| ExportError::OtherBase {
            location: location(),
            base: base.path().display().to_string(),
            source: Box::new(source),
        })?;
        Ok(export::hugging_face(folder, model, &mut merged, options, on_progress)?)
    }

    /// Writes the folder of the adapter.
    ///
    /// # Errors
    /// A run that has none, or what [`export::adapter`] finds. Nothing is left behind then.
    pub fn export_adapter(
        &self,
        folder: &Path,
        options: &ExportOptions,
        on_progress: &mut dyn FnMut(ExportProgress),
    ) -> Result<Exported, ExportError> {
        let Some(lora) = &self.config.lora else {
            return Err(ExportError::NoAdapter { location: self.checkpoint.location() });
        };
        let trained = self.trained()?;
        let modules = self.modules(&trained)?;
        let config = self.adapter_config(lora);
        let mut source = self.source(trained);
        Ok(export::adapter(folder, &config, &modules, &mut source, options, on_progress)?)
    }

    /// What the checkpoint has of the model: its weights, or its adapters. Layer by layer, whether they
    /// were stacked or not.
    fn trained(&self) -> Result<Vec<(ParameterSpec, Shape)>, ExportError> {
        // Any kind of device would do: its weights are looked up stacked or not.
        let options = step_options(&self.config, &self.model, PluginKind::Cpu, Mesh::single())?;
        let is_trained = |spec: &ParameterSpec| self.config.lora.is_none() || spec.is_adapter();
        let weights = weights(&self.model, &options);
        Ok(weights.into_iter().filter(|(spec, _)| is_trained(spec)).collect())
    }

    fn source(&self, trained: Vec<(ParameterSpec, Shape)>) -> impl TensorSource + '_ {
        let stored: BTreeMap<String, (String, Shape)> = trained
            .iter()
            .map(|(spec, shape)| (spec.name.clone(), (weight_name(spec), shape.clone())))
            .collect();
        let sizes = |(spec, shape): (ParameterSpec, Shape)| (spec, shape.sizes());
        let mut bytes = Vec::new();
        let read = move |name: &str, ranges: &[Range<usize>], out: &mut [f32]| {
            let unknown = || ReadError::from(format!("the checkpoint has no `{name}`"));
            let (stored_name, shape) = stored.get(name).ok_or_else(unknown)?;
            bytes.resize(size_of_val(out), 0);
            restore::read(&self.checkpoint, stored_name, shape, ranges, &mut bytes)?;
            for (value, chunk) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*chunk);
            }
            Ok(())
        };
        Unstacked::new(trained.into_iter().map(sizes).collect(), read)
    }

    fn modules(
        &self,
        trained: &[(ParameterSpec, Shape)],
    ) -> Result<Vec<AdaptedModule>, ExportError> {
        let specs: Vec<ParameterSpec> = trained.iter().map(|(spec, _)| spec.clone()).collect();
        let parts = unstack(&specs);
        let matrices = parts.iter().map(|part| (part.tensor.name.as_str(), &*part.tensor.shape));
        pair_up(matrices).map_err(|source| {
            let location = self.checkpoint.location();
            ExportError::Adapter { location, source }
        })
    }

    fn adapter_config(&self, lora: &Lora) -> AdapterConfig {
        AdapterConfig {
            rank: lora.rank,
            alpha: lora.alpha,
            rank_stabilized: false,
            dropout: lora.dropout,
            // The writer takes them from the modules.
            target_modules: Vec::new(),
            base_model: self.config.model.from.as_deref().map(public_name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::public_name;

    #[test]
    fn an_adapter_names_its_base_as_others_do() {
        assert_eq!(public_name("smollm2-135m"), "HuggingFaceTB/SmolLM2-135M-Instruct");
        for as_it_is in ["models/llama", "someone/else", "cpu"] {
            assert_eq!(public_name(as_it_is), as_it_is);
        }
    }
}
