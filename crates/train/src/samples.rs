//! Texts that the model writes while it is trained, with the weights where they are.

use std::collections::HashMap;
use std::sync::Arc;

use llm::engine::{Engine, EngineError, Sampling};
use llm::programs::ProgramOptions;
use llm::text::TextStream;
use llm::tokenizer::TokenizerError;
use llm::{ModelConfig, Tokenizer};
use runtime::{Array, Runtime};

use crate::config;
use crate::metrics::Sample;
use crate::step::{Kept, StepOptions, TrainProgram};

/// Why there is no sample.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// What samples are made with.
pub struct Sampler<'a> {
    pub runtime: &'a Runtime,
    pub config: &'a ModelConfig,
    pub tokenizer: &'a Tokenizer,
    pub options: &'a StepOptions,
    pub settings: &'a config::Samples,
}

impl Sampler<'_> {
    /// One text for each prompt, which `each` is called with.
    ///
    /// # Errors
    /// A prompt that is longer than the model takes; what the devices answer.
    pub fn write(
        &self,
        step: usize,
        program: &TrainProgram,
        kept: &[Arc<Array>],
        mut each: impl FnMut(Sample),
    ) -> Result<(), SampleError> {
        let StepOptions { dtype, frozen, layers, mesh, rules, kernels, lora, .. } = self.options;
        let held = if lora.is_some() { *frozen } else { graph::DType::F32 };
        let options = ProgramOptions {
            dtype: *dtype,
            held: Some(held),
            // Dropout is for training.
            lora: lora.clone().map(|lora| llm::models::Lora { dropout: 0.0, ..lora }),
            layers: *layers,
            mesh: mesh.clone(),
            rules: rules.clone(),
            kernels: kernels.clone(),
            joins: false,
            kv_dtype: None,
            panels: None,
        };
        let weights: HashMap<String, Arc<Array>> = program
            .kept
            .iter()
            .zip(kept)
            .filter_map(|(tensor, array)| match &tensor.kept {
                Kept::Weight { spec, .. } => Some((spec.name.clone(), array.clone())),
                Kept::State => None,
            })
            .collect();
        let (config, runtime) = (self.config.clone(), self.runtime.clone());
        let engine = Engine::over(config, weights, runtime, options, Box::new(|_| {}))?;
        let temperature = self.settings.temperature as f32;
        let sampling = Sampling { temperature, seed: step as u64, ..Sampling::default() };
        let ends = &self.config.eos_token_ids;
        for prompt in &self.settings.prompts {
            let ids = self.tokenizer.encode(prompt, true)?;
            let mut text = String::new();
            let mut failure = None;
            let mut stream = TextStream::new(self.tokenizer, &ids, Vec::new());
            engine.session().generate(&ids, self.settings.max_tokens, &sampling, ends, |next| {
                match stream.push(next.token) {
                    Ok(piece) => text.push_str(&piece.text),
                    Err(error) => failure = Some(error),
                }
                failure.is_none()
            })?;
            if let Some(error) = failure {
                return Err(error.into());
            }
            text.push_str(&stream.finish()?.text);
            each(Sample { step, prompt: prompt.clone(), text });
        }
        Ok(())
    }
}
