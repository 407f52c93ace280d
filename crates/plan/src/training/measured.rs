//! A training step on this machine's own processor: measured with a few layers instead of compiled and
//! estimated.

use runtime::{Target, host_memory};

use super::{TrainingError, TrainingJob};
use crate::compile::Planner;
use crate::each::News;
use crate::energy;
use crate::here::{self, HereError};
use crate::price::{self, Rental};
use crate::row::{Energy, JobFigures, Memory, Misfit, Planned, Time, Verdict};

impl TrainingJob {
    pub(super) fn plan_here(
        &self,
        planner: &Planner,
        target: &Target,
        tell: &dyn Fn(News<'_>),
    ) -> Result<Verdict, TrainingError> {
        if target.chips > 1 {
            return Ok(Verdict::Skipped {
                reason: "virtual devices share one processor: plan for `cpu`".to_string(),
            });
        }
        let Some(measurer) = planner.measurer(target)? else {
            return Ok(Verdict::Skipped { reason: here::NO_MEASURER.to_string() });
        };
        // A mesh of the config's is for other targets.
        let mut config = self.config.clone();
        config.mesh = train::config::MeshAxes { data: 1, fsdp: 1, tensor: 1 };
        tell(News::Compiling("cpu: measuring a few layers"));
        let trusted = here::Memory::Trusted;
        let speed = match here::train_step(&measurer, &config, &self.model, trusted, &|_: &str| ())
        {
            Err(HereError::DoesNotFit { needed_bytes, total_bytes }) => {
                let misfit = misfit(needed_bytes, total_bytes);
                return Ok(Verdict::DoesNotFit { misfit, tried: Vec::new() });
            }
            speed => speed?,
        };
        let step = measured_time(&speed.step, &speed.how);
        let figures = self.figures(target, &config, step);
        let rental = Rental::of(target, figures.total_seconds, figures.total_tokens);
        let memory = Memory {
            other_argument_bytes: speed.memory.argument_bytes,
            temporary_bytes: speed.memory.temporary_bytes,
            code_bytes: speed.memory.beside_bytes,
            needed_bytes: speed.memory.peak_bytes,
            available_bytes: host_memory::total_bytes(),
            ..Memory::default()
        };
        Ok(Verdict::Fits {
            plan: Box::new(Planned {
                target: target.to_string(),
                chips: 1,
                hosts: 1,
                mesh: "one device".to_string(),
                changes: Vec::new(),
                memory,
                money: price::money(target.chip, &rental, &self.wish),
                energy: match &speed.drawn {
                    Some(drawn) => energy::of_meter(drawn, 1.0, figures.tokens_per_second),
                    None => Energy::unknown_here(),
                },
                job: JobFigures::Training(Box::new(figures)),
                compile_seconds: 0.0,
                cached: speed.how.remembered,
                notes: vec![
                    "memory is that of the whole process; `code` is this program, its plugin and compiled code".to_string(),
                ],
            }),
        })
    }
}

pub(crate) fn misfit(needed_bytes: u64, total_bytes: u64) -> Misfit {
    Misfit {
        reason: "of this machine".to_string(),
        needed_bytes: Some(needed_bytes),
        available_bytes: Some(total_bytes),
        compiled: false,
    }
}

/// A time that was measured.
pub(crate) fn measured_time(estimate: &here::Estimate, how: &here::How) -> Time {
    Time {
        seconds: estimate.seconds,
        low_seconds: estimate.low_seconds,
        high_seconds: estimate.high_seconds,
        source: how.to_string(),
        bound_by: "not told apart".to_string(),
        ..Time::unknown()
    }
}
