//! Weights from the checkpoint onto the devices, each shard read straight into the memory that the
//! device uses where the plugin allows it.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use runtime::Array;

use super::shard::{Held, read_shard, tensors};
use super::{Engine, EngineError, Progress};
use crate::models::ParameterSpec;
use crate::programs::ModelProgram;
use crate::weights::WeightsError;

impl Engine {
    /// Compares every weight that the model will ask for with the checkpoint's table, before
    /// anything is read or compiled.
    pub(super) fn check_checkpoint(&self) -> Result<(), EngineError> {
        let Some(from) = &self.checkpoint else { return Ok(()) };
        let cache = crate::models::CacheShape { batch: 1, capacity: 1 };
        let traced = crate::programs::decode(&self.config, &self.options, cache)?;
        let mut wanted = BTreeSet::new();
        for spec in &traced.parameters {
            for (name, shape) in tensors(spec) {
                from.expect(&name, &shape)?;
                wanted.insert(name);
            }
        }
        let is_unused = |name: &&str| !wanted.contains(*name) && !is_derived(name);
        let names: Vec<&str> = from.names().filter(is_unused).collect();
        if !names.is_empty() {
            (self.on_progress)(Progress::Unused { names: &names });
        }
        Ok(())
    }

    /// The program's weights in the order of its arguments, read where they are not yet; none for
    /// adapters in slots, which change.
    pub(super) fn weights_of(
        &self,
        traced: &ModelProgram,
    ) -> Result<Vec<Option<Arc<Array>>>, EngineError> {
        let mut weights = self.weights.lock().unwrap_or_else(PoisonError::into_inner);
        let inputs = &traced.program.inputs[traced.data + traced.cache..];
        let missing = traced.parameters.iter().zip(inputs);
        let is_missing =
            |spec: &ParameterSpec| spec.slots_of().is_none() && !weights.contains_key(&spec.name);
        let missing: Vec<_> = missing.filter(|(spec, _)| is_missing(spec)).collect();
        let total_bytes = missing.iter().map(|(_, input)| input.shape.bytes() as u64).sum();
        let mut done_bytes = 0;
        for (spec, input) in missing {
            let Some(checkpoint) = &self.checkpoint else {
                return Err(EngineError::NotGiven { name: spec.name.clone() });
            };
            let dtype = input.shape.dtype;
            let held = Held::of(spec, dtype).ok_or(EngineError::WeightType { dtype })?;
            // Kept aside, so that the user reads which tensor and file it is, and nothing around it.
            let mut unreadable: Option<WeightsError> = None;
            let array = Array::fill(&self.mesh, &input.shape, &input.sharding, |ranges, bytes| {
                let shape = &input.shape;
                read_shard(checkpoint, spec, shape, held, ranges, bytes).map_err(|error| {
                    let message = error.to_string();
                    unreadable = Some(error);
                    message
                })
            });
            if let Some(error) = unreadable {
                return Err(error.into());
            }
            let array = array?;
            done_bytes += input.shape.bytes() as u64;
            (self.on_progress)(Progress::Weights { done_bytes, total_bytes });
            weights.insert(spec.name.clone(), Arc::new(array));
        }
        Ok(traced.parameters.iter().map(|spec| weights.get(&spec.name).cloned()).collect())
    }
}

/// Tensors that follow from the config or repeat another one.
fn is_derived(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq")
        || name == crate::config::ROPE_FACTORS_TENSOR
        || name == "lm_head.weight"
}
