//! What a checkpoint says of its run beside the arrays: the config, the model, and the files that stand
//! beside its weights. So neither the config file nor the files that the model came from are needed to
//! make something of it.

use llm::ModelConfig;
use llm::export::config_json;
use llm::files::Companions;
use serde_json::Value;

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::setup::companions;
use crate::trainer::saved_config;

const CONFIG: &str = "config";
const MODEL: &str = "model";
const COMPANIONS: &str = "companions";

/// The sections of a checkpoint that [`SavedRun::of`] reads. A model that Hugging Face's layout has no
/// words for is left out: it can be trained on, and not be exported.
pub fn sections(
    config: &Config,
    model: &ModelConfig,
    companions: &Companions,
) -> [(&'static str, Value); 3] {
    [
        (CONFIG, Value::String(config.to_toml())),
        (MODEL, config_json(model).map_or(Value::Null, Value::String)),
        (COMPANIONS, companions::to_json(companions)),
    ]
}

/// A checkpoint with what it says.
#[derive(Debug)]
pub struct SavedRun {
    pub checkpoint: Checkpoint,
    pub config: Config,
    pub model: ModelConfig,
    pub companions: Companions,
}

/// A checkpoint that does not say what it holds.
#[derive(Debug, thiserror::Error)]
#[error(
    "the checkpoint {location} does not say what model it holds (its section `{section}`): another \
     program made it, or a version of this one that is too different"
)]
pub struct Unsaid {
    location: String,
    section: &'static str,
}

impl SavedRun {
    /// # Errors
    /// [`Unsaid`].
    pub fn of(checkpoint: Checkpoint) -> Result<SavedRun, Unsaid> {
        let unsaid = |section| Unsaid { location: checkpoint.location(), section };
        let section = |name| checkpoint.sections().get(name);
        let config = saved_config(&checkpoint).map_err(|_| unsaid(CONFIG))?;
        let model = section(MODEL).and_then(Value::as_str);
        let model = model.and_then(|text| ModelConfig::from_json(text).ok());
        let model = model.ok_or_else(|| unsaid(MODEL))?;
        let companions = section(COMPANIONS).and_then(companions::from_json);
        let companions = companions.ok_or_else(|| unsaid(COMPANIONS))?;
        Ok(SavedRun { checkpoint, config, model, companions })
    }
}
