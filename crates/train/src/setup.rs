//! From a config to what a run consists of: the model with its tokenizer, data, programs' options.

pub(crate) mod companions;

use graph::{DType, Mesh, ShardingRules};
use llm::files::Companions;
use llm::models::{Layers, Lora};
use llm::programs::ProgramOptions;
use llm::{ChatTemplate, ModelConfig, ModelFiles, Tokenizer};
use runtime::{CacheFolder, PluginKind};

use crate::config::{
    self, BaseType, ComputeType, Config, ConfigError, MeshError, OptimizerName, Remat,
};
use crate::data::{self, Data, DataConfig, DataError, Format, ModelSide, SourceConfig};
use crate::optimizer::Settings;
use crate::state::Start;
use crate::step::StepOptions;

/// Why a run cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Mesh(#[from] MeshError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Open(#[from] llm::files::OpenError),
    #[error(transparent)]
    Tokenizer(#[from] llm::tokenizer::TokenizerError),
    #[error(transparent)]
    Weights(#[from] llm::weights::WeightsError),
    #[error(transparent)]
    Basis(#[from] crate::basis::BasisError),
    #[error(transparent)]
    Template(#[from] llm::chat::ChatError),
    #[error(
        "{path} has no tokenizer, and text cannot be trained on without one; give one with model.tokenizer"
    )]
    NoTokenizer { path: String },
    #[error(
        "the model has no tokenizer: name one with model.tokenizer, or have one trained on the data \
         with model.vocabulary_size"
    )]
    TokenizerNotNamed,
    #[error(
        "the tokenizer has {tokens} tokens and the model's vocabulary {vocabulary}: the tokenizer \
         belongs to another model"
    )]
    OtherTokenizer { tokens: usize, vocabulary: usize },
    #[error(
        "lora.targets names `{target}`, which is no matrix of this model; choose from {}",
        Lora::MATRICES.join(", ")
    )]
    Target { target: String },
}

/// What a checkpoint keeps of a model beside its arrays: the files beside the weights.
pub struct SavedModel(pub Companions);

impl SavedModel {
    /// Nothing if the checkpoint keeps none.
    pub fn of(checkpoint: &crate::checkpoint::Checkpoint) -> Option<SavedModel> {
        let section = checkpoint.sections().get("companions")?;
        companions::from_json(section).map(SavedModel)
    }
}

/// A model to be trained, with its text side.
pub struct Model {
    pub config: ModelConfig,
    pub tokenizer: Tokenizer,
    pub chat_template: Option<ChatTemplate>,
    /// The files beside the weights, for checkpoints and exports.
    pub companions: Companions,
    pub start: Start,
}

impl Model {
    /// The model that `config` names. `base` are the files of `model.from`, `tokenizer` those of
    /// `model.tokenizer`, `saved` what an earlier part of the run kept of them.
    ///
    /// # Errors
    /// Files that do not go together, a tokenizer that is not there.
    pub fn open(
        config: &Config,
        base: Option<&ModelFiles>,
        tokenizer: Option<&ModelFiles>,
        saved: Option<SavedModel>,
        cache: &CacheFolder,
        progress: &mut dyn FnMut(data::Progress<'_>),
    ) -> Result<Model, SetupError> {
        let seed = config.training.seed;
        if let Some(base) = base {
            let text = tokenizer.unwrap_or(base);
            let (found, chat_template) = text_side(text)?;
            check_vocabulary(&found, &base.config)?;
            return Ok(Model {
                config: base.config.clone(),
                tokenizer: found,
                chat_template,
                companions: match tokenizer {
                    Some(text) => base.companions()?.with_text_side_of(text.companions()?),
                    None => base.companions()?,
                },
                start: Start::Files { checkpoint: base.checkpoint.clone(), seed },
            });
        }
        let (found, chat_template, companions) = match (tokenizer, saved, config) {
            (Some(files), ..) => {
                let (found, template) = text_side(files)?;
                (found, template, files.companions()?)
            }
            (None, Some(SavedModel(saved)), _) => (of_companions(&saved)?, None, saved),
            (None, None, config) => {
                let size = config.model.vocabulary_size.ok_or(SetupError::TokenizerNotNamed)?;
                let sources = data_config(config).sources;
                let learned = data::learn_tokenizer(&sources, size, cache, progress)?;
                let found = learned.tokenizer()?;
                let companions =
                    Companions::of_tokenizer(&found, None, config.data.sequence_length)?;
                (found, None, companions)
            }
        };
        let length = config.data.sequence_length;
        let wanted = config.model.vocabulary_size.unwrap_or(0).max(found.vocab_size());
        let scratch = config.model.from_scratch(Some(wanted), length)?;
        let mut scratch = scratch.ok_or(SetupError::TokenizerNotNamed)?;
        scratch.bos_token_id = found.bos_token_id();
        scratch.eos_token_ids = found.eos_token_id().into_iter().collect();
        check_vocabulary(&found, &scratch)?;
        let start = Start::Fresh { seed };
        Ok(Model { config: scratch, tokenizer: found, chat_template, companions, start })
    }

    /// The training and validation data of the config.
    ///
    /// # Errors
    /// See [`DataError`].
    pub fn data(
        &self,
        config: &Config,
        cache: &CacheFolder,
        progress: &mut dyn FnMut(data::Progress<'_>),
    ) -> Result<Data, SetupError> {
        let side = self.side();
        Ok(Data::open(&data_config(config), &side, cache, config.training.batch_size, progress)?)
    }

    pub fn side(&self) -> ModelSide<'_> {
        ModelSide {
            tokenizer: &self.tokenizer,
            chat_template: self.chat_template.as_ref(),
            vocab_size: self.config.vocab_size,
            max_positions: Some(self.config.max_position_embeddings),
        }
    }
}

pub(crate) fn text_side(
    files: &ModelFiles,
) -> Result<(Tokenizer, Option<ChatTemplate>), SetupError> {
    let path = || files.path().display().to_string();
    let found = files.tokenizer()?.ok_or_else(|| SetupError::NoTokenizer { path: path() })?;
    Ok((found, files.chat_template()?))
}

fn of_companions(companions: &Companions) -> Result<Tokenizer, SetupError> {
    let text = |name| companions.get(name).and_then(|bytes| std::str::from_utf8(bytes).ok());
    let json = text("tokenizer.json").ok_or(SetupError::TokenizerNotNamed)?;
    let settings = llm::tokenizer::TokenizerSettings::from_json(
        text("tokenizer_config.json").unwrap_or("{}"),
    )?;
    Ok(Tokenizer::from_json(json, &settings)?)
}

pub(crate) fn check_vocabulary(
    tokenizer: &Tokenizer,
    config: &ModelConfig,
) -> Result<(), SetupError> {
    let (tokens, vocabulary) = (tokenizer.vocab_size(), config.vocab_size);
    match tokens > vocabulary {
        true => Err(SetupError::OtherTokenizer { tokens, vocabulary }),
        false => Ok(()),
    }
}

/// The data section as `data` takes it.
pub fn data_config(config: &Config) -> DataConfig {
    let section = &config.data;
    let format = |format: crate::config::Format| match format {
        crate::config::Format::Text => Format::Text,
        crate::config::Format::Jsonl => Format::Jsonl,
        crate::config::Format::Parquet => Format::Parquet,
    };
    let source = |source: &crate::config::Source| SourceConfig {
        path: source.path.clone(),
        format: source.format.map(format),
        column: source.column.clone(),
        weight: source.weight,
    };
    let held_out = |source: &crate::config::ValidationSource| SourceConfig {
        path: source.path.clone(),
        format: source.format.map(format),
        column: source.column.clone(),
        weight: None,
    };
    DataConfig {
        sources: section.sources.iter().map(source).collect(),
        sequence_length: section.sequence_length,
        shuffle: section.shuffle,
        seed: section.seed,
        validation: section.validation.0.iter().map(held_out).collect(),
        validation_fraction: section.validation_fraction,
    }
}

/// How the layers become program text where the config leaves it open. A loop copies what is kept of a
/// layer into stacks and out of them again, which written-out layers do not: on one TPU a step takes an
/// eighth less, for some minutes of compiling. Models for several are larger, so compiling takes longer.
fn layers(chosen: Option<config::Layers>, kind: PluginKind, mesh: &Mesh) -> Layers {
    match (chosen, kind) {
        (Some(config::Layers::Unrolled), _) | (None, PluginKind::Cpu) => Layers::Unrolled,
        (None, PluginKind::Tpu) if mesh.devices() == 1 => Layers::Unrolled,
        (Some(config::Layers::Scanned), _) | (None, _) => Layers::Scanned,
    }
}

/// The programs' options for a kind of device.
///
/// # Errors
/// A mesh or adapters that the model cannot have.
pub fn step_options(
    config: &Config,
    model: &ModelConfig,
    kind: PluginKind,
    mesh: Mesh,
) -> Result<StepOptions, SetupError> {
    let training = &config.training;
    let sequences = training.batch_size / training.accumulation.max(1);
    crate::config::check_mesh(&mesh, model, sequences)?;
    let suits = ProgramOptions::for_plugin(kind);
    let dtype = match training.dtype {
        ComputeType::F32 => DType::F32,
        ComputeType::Bf16 => DType::Bf16,
    };
    let mut frozen = DType::F32;
    let lora = match &config.lora {
        None => None,
        Some(lora) => {
            let known = |target: &&String| !Lora::MATRICES.contains(&target.as_str());
            if let Some(target) = lora.targets.iter().find(known) {
                return Err(SetupError::Target { target: target.clone() });
            }
            frozen = match lora.base {
                BaseType::F32 => DType::F32,
                BaseType::Bf16 => DType::Bf16,
                BaseType::Int8 => DType::S8,
            };
            let (rank, alpha, dropout) = (lora.rank, lora.alpha, lora.dropout);
            Some(Lora { rank, alpha, targets: lora.targets.clone(), dropout })
        }
    };
    let optimizer = &config.optimizer;
    Ok(StepOptions {
        batch_size: training.batch_size,
        sequence_length: config.data.sequence_length,
        accumulation: training.accumulation,
        dtype,
        frozen,
        layers: layers(training.layers, kind, &mesh),
        remat: match training.remat {
            Remat::None => graph::ops::Remat::None,
            Remat::Dots => graph::ops::Remat::Dots,
            Remat::Full => graph::ops::Remat::Full,
        },
        z_loss: training.z_loss,
        optimizer: Settings {
            muon: optimizer.name == OptimizerName::Muon,
            betas: optimizer.betas,
            epsilon: optimizer.epsilon,
            weight_decay: optimizer.weight_decay,
            clip_norm: (optimizer.clip_norm > 0.0).then_some(optimizer.clip_norm),
            momentum: optimizer.momentum,
            products: dtype,
            states_first: kind == PluginKind::Cpu,
        },
        lora,
        mesh,
        rules: ShardingRules::transformer(),
        kernels: suits.kernels,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_written_out_for_cpus_and_one_tpu_unless_the_config_says_otherwise() {
        let (one, many) = (Mesh::single(), Mesh::new(&[("fsdp", 16)]));
        assert_eq!(layers(None, PluginKind::Cpu, &many), Layers::Unrolled);
        assert_eq!(layers(None, PluginKind::Tpu, &one), Layers::Unrolled);
        assert_eq!(layers(None, PluginKind::Tpu, &many), Layers::Scanned);
        assert_eq!(layers(None, PluginKind::Cuda, &one), Layers::Scanned);
        let (unrolled, scanned) = (config::Layers::Unrolled, config::Layers::Scanned);
        assert_eq!(layers(Some(unrolled), PluginKind::Tpu, &many), Layers::Unrolled);
        assert_eq!(layers(Some(scanned), PluginKind::Cpu, &one), Layers::Scanned);
    }
}
