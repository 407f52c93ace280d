//! What the time model says of a job on one GPU, to be compared with the GPU. Runs nothing itself.
//! Written without a GPU at hand: that way of checking was compiled and never run.

use graph::{Mesh, Program};
use llm::ModelConfig;
use llm::programs::ProgramOptions;
use runtime::profile::profile;
use runtime::{
    CacheFolder, CompileChoices, Compiler, PluginLocation, Purpose, Target, TargetReport,
};
use serve::engine::{Key, Ladder, blocks_ladder, keys};
use train::config::Config;
use train::setup::step_options;
use train::step::train_step;

use super::CheckError;
use crate::here::Estimate;

/// A GPU of this machine.
#[derive(Clone, Debug)]
pub struct Gpu {
    /// One chip of its kind.
    pub target: Target,
    pub location: PluginLocation,
}

impl Gpu {
    /// Seconds of a step of training.
    pub(super) fn train_step(
        &self,
        cache: &CacheFolder,
        config: &Config,
        model: &ModelConfig,
    ) -> Result<Estimate, CheckError> {
        let options = step_options(config, model, self.target.plugin(), Mesh::single())?;
        self.seconds(cache, &train_step(model, &options)?.program, Purpose::Training)
    }

    /// Seconds of a chunk of a prompt, and of a token for each of `rows`.
    pub(super) fn serve_steps(
        &self,
        cache: &CacheFolder,
        model: &ModelConfig,
        ladder: &Ladder,
        rows: &[usize],
    ) -> Result<(Estimate, Vec<(usize, Estimate)>), CheckError> {
        let options = ProgramOptions::for_plugin(self.target.plugin());
        // The shortest programs: what runs here is shorter than their sequences.
        let keys = keys(ladder, &blocks_ladder(ladder, false)[..1]);
        let seconds = |batch: usize, width: usize| -> Result<Estimate, CheckError> {
            let is_it = |key: &&Key| matches!(key, Key::Step(shape) if shape.batch >= batch && shape.width == width);
            let Some(key) = keys.iter().find(is_it) else {
                return Err(CheckError::NoProgram { batch, width });
            };
            self.seconds(cache, &key.trace(model, &options)?.program, Purpose::Serving)
        };
        let decode = rows.iter().map(|&rows| Ok((rows, seconds(rows, 1)?)));
        Ok((
            seconds(1, ladder.chunks.last().copied().unwrap_or(1))?,
            decode.collect::<Result<_, CheckError>>()?,
        ))
    }

    fn seconds(
        &self,
        cache: &CacheFolder,
        program: &Program,
        purpose: Purpose,
    ) -> Result<Estimate, CheckError> {
        let compiler = Compiler::new(cache.clone())?;
        let choices =
            CompileChoices { purpose, optimized_program: true, ..CompileChoices::default() };
        let report: TargetReport =
            compiler.compile_for(program, &self.target, &self.location, &choices)?;
        let Some(optimized) = &report.optimized_program else {
            return Err(CheckError::NoOptimizedProgram { program: program.name.clone() });
        };
        let seconds = profile(&optimized.code, &self.target)?.total_seconds;
        Ok(Estimate { seconds, low_seconds: seconds, high_seconds: seconds })
    }
}
