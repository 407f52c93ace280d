//! A model with a LoRA adapter added to its weights: `W + scale · B · A`, in f32, computed for the
//! rows that are asked for.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{ExportError, TensorSource};
use crate::adapter::{AdaptedModule, AdapterConfig};
use crate::weights::ReadError;

/// A base and an adapter as one source.
pub struct Merged<Base, Adapter> {
    base: Base,
    adapter: Adapter,
    /// By the name of the adapted weight, each with its scale.
    modules: BTreeMap<String, (AdaptedModule, f32)>,
    /// `A` of the module that was read last: it is needed for each of its rows.
    current: Option<(String, Vec<f32>)>,
}

impl<Base: TensorSource, Adapter: TensorSource> Merged<Base, Adapter> {
    /// `adapter` has the matrices under [`AdaptedModule::a`] and [`AdaptedModule::b`].
    ///
    /// # Errors
    /// When the adapter is for another model: an adapted weight is missing in `base` or of another
    /// shape, or a matrix is missing in `adapter`.
    pub fn new(
        base: Base,
        adapter: Adapter,
        config: &AdapterConfig,
        modules: &[AdaptedModule],
    ) -> Result<Merged<Base, Adapter>, ExportError> {
        for module in modules {
            let AdaptedModule { rank, inputs, outputs, .. } = *module;
            check(&base, module.weight(), &[outputs, inputs])?;
            check(&adapter, module.a(), &[rank, inputs])?;
            check(&adapter, module.b(), &[outputs, rank])?;
        }
        let with_scale = |module: &AdaptedModule| {
            (module.weight(), (module.clone(), config.scale(module.rank) as f32))
        };
        let modules = modules.iter().map(with_scale).collect();
        Ok(Merged { base, adapter, modules, current: None })
    }
}

pub(super) fn check(
    source: &impl TensorSource,
    name: String,
    expected: &[usize],
) -> Result<(), ExportError> {
    match source.shape(&name) {
        Err(source) => Err(ExportError::Missing { name, source }),
        Ok(found) if found != expected => {
            Err(ExportError::Shape { name, expected: expected.to_vec(), found })
        }
        Ok(_) => Ok(()),
    }
}

impl<Base: TensorSource, Adapter: TensorSource> TensorSource for Merged<Base, Adapter> {
    fn shape(&self, name: &str) -> Result<Vec<usize>, ReadError> {
        self.base.shape(name)
    }

    fn read(&mut self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<(), ReadError> {
        self.base.read(name, rows.clone(), out)?;
        let Some((module, scale)) = self.modules.get(name) else { return Ok(()) };
        let AdaptedModule { rank, inputs, .. } = *module;
        let a = match self.current.take() {
            Some((current, a)) if current == name => a,
            _ => {
                let mut a = vec![0.0; rank * inputs];
                self.adapter.read(&module.a(), 0..rank, &mut a)?;
                a
            }
        };
        let mut b = vec![0.0; rows.len() * rank];
        self.adapter.read(&module.b(), rows, &mut b)?;
        let mut delta = vec![0.0; inputs];
        for (row, factors) in out.chunks_exact_mut(inputs).zip(b.chunks_exact(rank)) {
            delta.fill(0.0);
            for (factor, direction) in factors.iter().zip(a.chunks_exact(inputs)) {
                delta.iter_mut().zip(direction).for_each(|(sum, value)| *sum += factor * value);
            }
            row.iter_mut().zip(&delta).for_each(|(value, delta)| *value += scale * delta);
        }
        self.current = Some((name.to_owned(), a));
        Ok(())
    }
}
