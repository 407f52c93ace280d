//! The learning rate as a pure function of the step. Knows nothing of what was trained so far.

use std::f64::consts::PI;

use crate::config::{Schedule, ScheduleKind};

impl Schedule {
    /// The learning rate of a step as a share of its highest, in `0..=1`. Steps count from 1, so
    /// that step `steps` is the last and has the lowest rate.
    ///
    /// With `w` warm-up steps, `d` decay steps and `m` the minimum ratio:
    ///
    /// ```text
    /// t <= w            t / w
    /// p                 (t - start) / d, within 0..=1
    /// cosine            m + (1 - m) (1 + cos(pi p)) / 2      start = w
    /// linear            m + (1 - m) (1 - p)                  start = w
    /// constant          1
    /// wsd               as linear                            start = steps - d
    /// ```
    ///
    /// `d` is `steps - w` if it is not given, with `wsd` a fifth of all steps. (Cosine: Loshchilov
    /// and Hutter, "SGDR", 2017, one period. WSD: Hu et al., "MiniCPM", 2024, with a straight end.)
    pub fn factor(&self, step: usize, steps: usize) -> f64 {
        let warmup = self.warmup_steps.min(steps);
        if step < warmup {
            return step as f64 / warmup as f64;
        }
        let after = steps - warmup;
        let (decay, start) = match self.kind {
            ScheduleKind::Constant => return 1.0,
            ScheduleKind::Cosine | ScheduleKind::Linear => {
                (self.decay_steps.unwrap_or(after), warmup)
            }
            ScheduleKind::Wsd => {
                let decay = self.decay_steps.unwrap_or(steps.div_ceil(5)).min(after);
                (decay, steps - decay)
            }
        };
        if step <= start {
            return 1.0;
        }
        // `decay` may be 0: then the way down is behind us.
        let progress = ((step - start) as f64 / decay.max(1) as f64).min(1.0);
        let share = match self.kind {
            ScheduleKind::Cosine => (1.0 + (PI * progress).cos()) / 2.0,
            _ => 1.0 - progress,
        };
        self.minimum_ratio + (1.0 - self.minimum_ratio) * share
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn schedule(kind: ScheduleKind, warmup_steps: usize, decay_steps: Option<usize>) -> Schedule {
        Schedule { kind, warmup_steps, decay_steps, minimum_ratio: 0.1 }
    }

    fn close(value: f64, expected: f64) {
        assert!((value - expected).abs() < 1e-12, "{value} is not {expected}");
    }

    #[test]
    fn warm_up_is_a_straight_line_from_nothing() {
        let schedule = schedule(ScheduleKind::Cosine, 4, None);
        for (step, expected) in [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)] {
            close(schedule.factor(step, 100), expected);
        }
    }

    #[test]
    fn cosine_by_hand() {
        // 10 warm-up and 80 further steps: a quarter of the way is cos(pi/4) = 0.70710678...
        let schedule = schedule(ScheduleKind::Cosine, 10, None);
        close(schedule.factor(30, 90), 0.1 + 0.9 * (1.0 + 0.5f64.sqrt()) / 2.0);
        close(schedule.factor(50, 90), 0.55);
        close(schedule.factor(70, 90), 0.1 + 0.9 * (1.0 - 0.5f64.sqrt()) / 2.0);
        close(schedule.factor(90, 90), 0.1);
        close(schedule.factor(1000, 90), 0.1);
    }

    #[test]
    fn linear_by_hand() {
        let schedule = schedule(ScheduleKind::Linear, 0, Some(10));
        close(schedule.factor(0, 20), 1.0);
        close(schedule.factor(1, 20), 0.91);
        close(schedule.factor(5, 20), 0.55);
        close(schedule.factor(10, 20), 0.1);
        close(schedule.factor(20, 20), 0.1);
    }

    #[test]
    fn constant_then_down() {
        let flat = schedule(ScheduleKind::Constant, 2, None);
        close(flat.factor(1, 10), 0.5);
        close(flat.factor(10, 10), 1.0);
        let wsd = schedule(ScheduleKind::Wsd, 10, None);
        close(wsd.factor(80, 100), 1.0);
        close(wsd.factor(90, 100), 0.55);
        close(wsd.factor(100, 100), 0.1);
    }

    #[test]
    fn the_shortest_runs_have_a_rate() {
        for kind in [ScheduleKind::Cosine, ScheduleKind::Linear, ScheduleKind::Wsd] {
            close(schedule(kind, 0, None).factor(1, 1), 0.1);
            close(schedule(kind, 1, None).factor(1, 1), 1.0);
        }
    }

    prop_compose! {
        fn any_schedule()(
            kind in prop::sample::select(vec![
                ScheduleKind::Cosine, ScheduleKind::Linear, ScheduleKind::Constant, ScheduleKind::Wsd,
            ]),
            steps in 1usize..500,
            warmup_share in 0.0f64..=1.0,
            decay_share in prop::option::of(0.0f64..=1.0),
            minimum_ratio in 0.0f64..=1.0,
        ) -> (Schedule, usize) {
            let warmup_steps = (warmup_share * steps as f64) as usize;
            let after = (steps - warmup_steps) as f64;
            let decay_steps = decay_share.map(|share| ((share * after) as usize).max(1));
            (Schedule { kind, warmup_steps, decay_steps, minimum_ratio }, steps)
        }
    }

    proptest! {
        #[test]
        fn a_share_that_moves_in_small_steps((schedule, steps) in any_schedule()) {
            let warmup = schedule.warmup_steps;
            let decay = match schedule.kind {
                ScheduleKind::Wsd => schedule.decay_steps.unwrap_or(steps.div_ceil(5)).min(steps - warmup),
                _ => schedule.decay_steps.unwrap_or(steps - warmup),
            };
            // The steepest that each part may be: a line, and half a cosine at its middle.
            let up = 1.0 / warmup.max(1) as f64;
            let down = PI / 2.0 / decay.max(1) as f64;
            for step in 0..=steps + 10 {
                let (now, next) = (schedule.factor(step, steps), schedule.factor(step + 1, steps));
                prop_assert!((0.0..=1.0).contains(&now), "{now} at {step}");
                let allowed = if step < warmup { up } else { down };
                prop_assert!((next - now).abs() <= allowed + 1e-12, "{now} to {next} at {step}");
                prop_assert!(step >= warmup || next >= now);
                prop_assert!(step < warmup || next <= now + 1e-12);
            }
        }
    }
}
