//! What else could be compiled for a target than the mesh that looked best: the formula that ranks
//! meshes is coarse, so where there is time, compilers decide between the first few.

use graph::Input;

use super::{Choice, Search, TrainingError, TrainingJob, usable};
use crate::compile::Planner;
use crate::each::News;
use crate::row::Planned;

/// Meshes of a target that are compiled beside the one that looks best, at most.
const OTHERS: usize = 3;

/// A mesh that was not compiled yet, for a target for which another was.
pub struct Other {
    choice: Choice,
    model_bytes: f64,
    /// What the formula makes of its step, as a share of that of the one that was compiled. What is
    /// closest to 1 is likeliest to be quicker after all.
    pub seconds_share: f64,
}

impl TrainingJob {
    /// The next meshes behind one that fits, the most promising first.
    pub(super) fn others(
        &self,
        best: &Choice,
        inputs: &[Input],
        model_bytes: f64,
    ) -> Result<Vec<Other>, TrainingError> {
        let choices = self.choices(&best.variant, inputs, &mut Search::default())?;
        let available = usable(&best.variant.target).unwrap_or(u64::MAX);
        let fits = |choice: &Choice| choice.candidate.bytes <= available;
        let others = choices
            .unwrap_or_default()
            .into_iter()
            .filter(|choice| choice.candidate.mesh != best.candidate.mesh && fits(choice));
        Ok(others
            .take(OTHERS)
            .map(|choice| {
                let seconds = best.candidate.seconds.max(f64::MIN_POSITIVE);
                let seconds_share = choice.candidate.seconds / seconds;
                Other { choice, model_bytes, seconds_share }
            })
            .collect())
    }

    /// Compiles one of them; nothing if it does not fit.
    ///
    /// # Errors
    /// As [`TrainingJob::plan`].
    pub fn plan_other(
        &self,
        planner: &Planner,
        other: &Other,
        tell: &dyn Fn(News<'_>),
    ) -> Result<Option<Planned>, TrainingError> {
        let mut search = Search { told: true, ..Search::default() };
        let compiled = self.attempt(planner, &other.choice, tell, &mut search)?;
        Ok(compiled.map(|compiled| self.planned(&other.choice, compiled, other.model_bytes)))
    }
}
