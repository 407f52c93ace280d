//! What a run stands on that its config only names: the tokenizer, the tokens of its data, and under
//! adapters the frozen weights. A checkpoint keeps their digests, so that a run does not go on upon
//! something else unnoticed, and processes compare theirs. Knows no device.

use std::collections::BTreeMap;

use llm::{Checkpoint as Weights, Tokenizer};
use serde::{Deserialize, Serialize};

use crate::checkpoint::{Checkpoint, Checksum};
use crate::data::Dataset;
use crate::setup::{Model, SetupError};
use crate::state::Start;

/// The section of a checkpoint that keeps it.
pub(crate) const SECTION: &str = "basis";

/// Digests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Basis {
    tokenizer: Checksum,
    /// Of the tokens of each source, by its path in the config.
    sources: BTreeMap<String, Checksum>,
    /// Of the weights under adapters.
    frozen: Option<Checksum>,
}

/// A run cannot go on upon something else.
#[derive(Debug, thiserror::Error)]
pub enum BasisError {
    #[error(
        "the tokenizer is not the one that the run of {location} was trained with, so its tokens mean \
         something else; give the same with model.tokenizer"
    )]
    Tokenizer { location: String },
    #[error(
        "the weights of model.from are not those that the adapters of {location} were trained on; give \
         the same model"
    )]
    Frozen { location: String },
    #[error(
        "process {other} has {what} than process {own}: every host needs the same model, tokenizer and \
         data"
    )]
    Process { other: usize, own: usize, what: &'static str },
}

impl Basis {
    /// # Errors
    /// Weights or a tokenizer that cannot be read.
    pub fn of(model: &Model, data: &Dataset, adapters: bool) -> Result<Basis, SetupError> {
        let sources = data.sources().into_iter().map(|source| (source.path, source.contents));
        let frozen = match &model.start {
            Start::Files { checkpoint, .. } if adapters => Some(of_weights(checkpoint)?),
            _ => None,
        };
        let tokenizer = of_tokenizer(&model.tokenizer)?;
        Ok(Basis { tokenizer, sources: sources.collect(), frozen })
    }

    /// Nothing for a checkpoint that does not say, as those of earlier versions.
    pub fn saved(checkpoint: &Checkpoint) -> Option<Basis> {
        serde_json::from_value(checkpoint.sections().get(SECTION)?.clone()).ok()
    }

    /// The sources that were there before under the same path, and have other tokens now.
    ///
    /// # Errors
    /// Another tokenizer, or other weights under adapters.
    pub fn goes_on_from(
        &self,
        before: &Basis,
        checkpoint: &Checkpoint,
    ) -> Result<Vec<&str>, BasisError> {
        let location = checkpoint.location();
        if self.tokenizer != before.tokenizer {
            return Err(BasisError::Tokenizer { location });
        }
        if self.frozen != before.frozen {
            return Err(BasisError::Frozen { location });
        }
        let changed = self.sources.iter().filter(|(path, contents)| {
            before.sources.get(*path).is_some_and(|earlier| earlier != *contents)
        });
        Ok(changed.map(|(path, _)| path.as_str()).collect())
    }

    /// As process `own` has it, against what each process has, as JSON.
    ///
    /// # Errors
    /// [`BasisError::Process`].
    pub fn agrees(&self, own: usize, all: &[Vec<u8>]) -> Result<(), BasisError> {
        for (other, bytes) in all.iter().enumerate() {
            let theirs: Option<Basis> = serde_json::from_slice(bytes).ok();
            let what = match theirs {
                Some(theirs) if theirs == *self => continue,
                Some(theirs) if theirs.tokenizer != self.tokenizer => "another tokenizer",
                Some(theirs) if theirs.frozen != self.frozen => "other weights",
                _ => "other data",
            };
            return Err(BasisError::Process { other, own, what });
        }
        Ok(())
    }
}

/// Whether `weights` are those that the adapters of `checkpoint` were trained on, as far as it says.
///
/// # Errors
/// [`BasisError::Frozen`], or weights that cannot be read.
pub(crate) fn check_frozen(checkpoint: &Checkpoint, weights: &Weights) -> Result<(), SetupError> {
    match Basis::saved(checkpoint).and_then(|basis| basis.frozen) {
        Some(frozen) if frozen != of_weights(weights)? => {
            Err(BasisError::Frozen { location: checkpoint.location() }.into())
        }
        _ => Ok(()),
    }
}

fn of_tokenizer(tokenizer: &Tokenizer) -> Result<Checksum, SetupError> {
    let ends = format!("{:?} {:?}", tokenizer.bos_token_id(), tokenizer.eos_token_id());
    Ok(Checksum::of(format!("{ends} {}", tokenizer.to_json()?).as_bytes()))
}

/// Of every tensor's name, shape and first row: enough to tell models apart without reading them.
fn of_weights(weights: &Weights) -> Result<Checksum, SetupError> {
    let mut bytes = Vec::new();
    let mut row = Vec::new();
    for name in weights.names() {
        let info = weights.info(name)?;
        bytes.extend(name.as_bytes());
        bytes.extend(format!(" {:?} ", info.shape).as_bytes());
        row.resize(info.row_elements(), 0.0_f32);
        weights.read_f32(name, Some(0..info.rows().min(1)), &mut row)?;
        bytes.extend(row.iter().flat_map(|value| value.to_le_bytes()));
    }
    Ok(Checksum::of(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_say_what_they_do_not_share() {
        let basis = |tokenizer: &str, text: &str, frozen: &str| Basis {
            tokenizer: Checksum::of(tokenizer.as_bytes()),
            sources: BTreeMap::from([("text".to_string(), Checksum::of(text.as_bytes()))]),
            frozen: Some(Checksum::of(frozen.as_bytes())),
        };
        let own = basis("a", "b", "c");
        let beside = |other: &Basis| {
            let all = [&own, other].map(|basis| serde_json::to_vec(basis).unwrap());
            own.agrees(0, &all).map_err(|error| error.to_string())
        };
        assert_eq!(beside(&own), Ok(()));
        for (other, what) in [
            (basis("x", "b", "c"), "another tokenizer"),
            (basis("a", "x", "c"), "other data"),
            (basis("a", "b", "x"), "other weights"),
        ] {
            let message = beside(&other).unwrap_err();
            assert!(
                message.starts_with(&format!("process 1 has {what} than process 0: ")),
                "{message}"
            );
        }
    }
}
