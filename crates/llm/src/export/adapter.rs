//! Writes LoRA adapters in PEFT's layout.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use super::folder::NewFolder;
use super::merged::check;
use super::{ExportError, ExportOptions, ExportProgress, Exported, TensorSource, Totals};
use crate::adapter::{
    ADAPTER_CONFIG_FILE, ADAPTER_FILE, AdaptedModule, Adapter, AdapterConfig, PREFIX,
};
use crate::weights::{ReadError, TensorShape, write_file, write_whole};

/// Writes the folder of an adapter that PEFT (`PeftModel.from_pretrained`) and [`Adapter::open`]
/// load. The source has the matrices under [`AdaptedModule::a`] and [`AdaptedModule::b`]. What the
/// description says of targets is taken from the modules; all are of the description's rank.
///
/// # Errors
/// When something is in the folder already, a module's matrices are missing, of another shape or
/// rank, a number is not finite, or something cannot be read or written. Nothing is left behind then.
pub fn adapter(
    folder: &Path,
    config: &AdapterConfig,
    modules: &[AdaptedModule],
    source: &mut dyn TensorSource,
    options: &ExportOptions,
    on_progress: &mut dyn FnMut(ExportProgress),
) -> Result<Exported, ExportError> {
    let target_modules = targets(config, modules)?;
    let config = AdapterConfig { target_modules, ..config.clone() };
    let mut tensors = Vec::new();
    for module in modules {
        let AdaptedModule { rank, inputs, outputs, .. } = *module;
        for (name, shape) in [(module.a(), [rank, inputs]), (module.b(), [outputs, rank])] {
            check(&&mut *source, name.clone(), &shape)?;
            tensors.push(TensorShape::new(format!("{PREFIX}{name}"), &shape));
        }
    }
    let new = NewFolder::begin(folder, options.overwrite)?;
    write_whole(&new.path().join(ADAPTER_CONFIG_FILE), config.to_json().as_bytes())?;
    let totals = Totals::of(&tensors, options.float_type);
    let mut read = |name: &str, rows: Range<usize>, out: &mut [f32]| {
        source.read(name.strip_prefix(PREFIX).unwrap_or(name), rows, out)
    };
    write_file(
        &new.path().join(ADAPTER_FILE),
        &tensors,
        options.float_type,
        &mut read,
        &mut |done_bytes| on_progress(ExportProgress { done_bytes, total_bytes: totals.bytes }),
    )?;
    let folder = new.finish(options.overwrite)?;
    let files = vec![ADAPTER_CONFIG_FILE.to_owned(), ADAPTER_FILE.to_owned()];
    Ok(Exported { folder, files, parameters: totals.parameters, bytes: totals.bytes })
}

/// The last parts of the modules' names, by which PEFT finds them in a model.
fn targets(config: &AdapterConfig, modules: &[AdaptedModule]) -> Result<Vec<String>, ExportError> {
    let refuse = |reason: String| Err(ExportError::Adapter { reason });
    let mut names = BTreeSet::new();
    let mut targets = BTreeSet::new();
    for AdaptedModule { name, rank, .. } in modules {
        if !names.insert(name.as_str()) {
            return refuse(format!("`{name}` is adapted twice"));
        }
        if *rank != config.rank {
            return refuse(format!("`{name}` has rank {rank}, the adapter has {}", config.rank));
        }
        targets.insert(name.rsplit('.').next().unwrap_or(name).to_owned());
    }
    match targets.is_empty() {
        true => refuse("it adapts nothing".to_owned()),
        false => Ok(targets.into_iter().collect()),
    }
}

impl TensorSource for Adapter {
    fn shape(&self, name: &str) -> Result<Vec<usize>, ReadError> {
        self.checkpoint.shape(&self.stored_name(name))
    }

    fn read(&mut self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<(), ReadError> {
        Ok(self.checkpoint.read_f32(&self.stored_name(name), Some(rows), out)?)
    }
}
