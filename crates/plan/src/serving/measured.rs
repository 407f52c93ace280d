//! A server on this machine's own processor: its steps measured with a few layers.

use llm::programs::ProgramOptions;
use runtime::{PluginKind, Target, host_memory};
use serve::engine::{CPU_CACHE_BYTES, Shapes, ShapesWish};

use super::instance::{Fits, Outcome};
use super::steps::{CompiledSteps, End};
use super::{ServingError, ServingJob};
use crate::compile::Planner;
use crate::each::News;
use crate::here::{self, HereError, ServingShape};
use crate::row::Memory;
use crate::training::{measured_time, misfit};

/// Rows of the decode steps that are measured, as far as the server goes.
const ROWS: [usize; 3] = [1, 8, 32];

impl ServingJob {
    /// What a measurement says; nothing where none can be made.
    pub(super) fn measure(
        &self,
        planner: &Planner,
        target: &Target,
        tell: &dyn Fn(News<'_>),
    ) -> Result<Option<Outcome>, ServingError> {
        let Some(measurer) = planner.measurer(target)? else { return Ok(None) };
        let mut options = ProgramOptions::for_plugin(PluginKind::Cpu);
        options.kernels.native = true;
        let context = (self.input + self.output).min(self.model.max_position_embeddings);
        let wish = ShapesWish { context: Some(context), ..self.shapes.clone() };
        let shapes = Shapes::new(&self.model, &options, &wish, PluginKind::Cpu);
        let (ladder, _) = shapes.by_bytes(CPU_CACHE_BYTES);
        let panels = (self.panels)().map_err(ServingError::Options)?;
        let mut batches: Vec<usize> =
            ROWS.into_iter().filter(|&rows| rows <= ladder.slots).collect();
        if batches.last() != Some(&ladder.slots) {
            batches.push(ladder.slots);
        }
        let shape = ServingShape {
            model: &self.model,
            panels,
            kv_dtype: None,
            slots: ladder.slots,
            page: ladder.page,
            context: ladder.context,
            batches: batches.clone(),
            all_batches: ladder.batches.clone(),
            chunks: ladder.chunks.clone(),
            all_chunks: ladder.chunks.clone(),
        };
        tell(News::Compiling("cpu: measuring a few layers"));
        let trusted = here::Memory::Trusted;
        let speed = match here::serve_steps(&measurer, &shape, trusted, &|_: &str| ()) {
            Err(HereError::DoesNotFit { needed_bytes, total_bytes }) => {
                return Ok(Some(Outcome::DoesNotFit(misfit(needed_bytes, total_bytes))));
            }
            speed => speed?,
        };
        // On average, a sequence that is being answered is half done.
        let place = self.input + self.output / 2;
        let decode = batches.iter().filter_map(|&rows| {
            let estimate = speed.decode(rows, place)?;
            Some((rows, measured_time(&estimate, &speed.how)))
        });
        let mut prompt = Vec::new();
        let mut begin = 0;
        while begin < self.input {
            let left = self.input - begin;
            let covering = ladder.chunks.iter().copied().find(|&chunk| chunk >= left);
            let chunk = covering.or(ladder.chunks.last().copied()).unwrap_or(left);
            if let Some(estimate) = speed.prefill(chunk, begin) {
                prompt.push((chunk, measured_time(&estimate, &speed.how)));
            }
            begin += chunk;
        }
        let tokens = ladder.pages * ladder.page;
        let sequence = (self.input + self.output).div_ceil(ladder.page).max(1);
        let cache_bytes = speed.memory.token_bytes * tokens as u64;
        Ok(Some(Outcome::Fits(Box::new(Fits {
            steps: CompiledSteps {
                decode: decode.collect(),
                prompt,
                host_seconds: 0.0,
                end: End::Likely,
            },
            memory: Memory {
                weights_bytes: speed.memory.weight_bytes,
                kv_cache_bytes: cache_bytes,
                temporary_bytes: speed.memory.temporary_bytes,
                code_bytes: speed.memory.beside_bytes,
                needed_bytes: speed.memory.peak_bytes(tokens),
                available_bytes: host_memory::total_bytes(),
                ..Memory::default()
            },
            pages: ladder.pages,
            page: ladder.page,
            rows_max: (ladder.pages / sequence).clamp(1, ladder.slots),
            compile_seconds: 0.0,
            cached: speed.how.remembered,
            drawn: speed.drawn.clone(),
            notes: vec![
                "memory is that of the whole process; `code` is this program, its plugin and compiled code".to_string(),
            ],
        }))))
    }
}
