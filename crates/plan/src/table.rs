//! The ranking of a plan as a table: which rows, in which order, and what stands in the columns. Whoever
//! prints or draws it chooses only the looks.

use crate::goal::{Goal, pareto_front, ranked};
use crate::row::{JobFigures, Planned, Row};
use crate::words::{dollars, duration, figure, gibibytes, milliseconds, percent, short_number};
use crate::{serving, training};

/// A target that is of use, in its place.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    pub row: &'a Row,
    pub plan: &'a Planned,
    /// Nothing else is both cheaper and quicker.
    pub on_front: bool,
}

/// All that fit, the best first; what does not keep what is promised comes after all that does.
pub fn ranking(rows: &[Row], goal: Goal) -> Vec<Entry<'_>> {
    let planned: Vec<(&Row, &Planned)> =
        rows.iter().filter_map(|row| Some((row, row.verdict.planned()?))).collect();
    let values: Vec<Option<f64>> = planned.iter().map(|(_, plan)| plan.value(goal)).collect();
    let mut order = ranked(&values);
    order.sort_by_key(|&index| !planned[index].1.keeps_promises());
    let points: Vec<(Option<f64>, Option<f64>)> =
        planned.iter().map(|(_, plan)| (plan.value(Goal::Cost), plan.value(Goal::Time))).collect();
    let front = pareto_front(&points);
    let entry = |index: usize| {
        let (row, plan) = planned[index];
        Entry { row, plan, on_front: front[index] }
    };
    order.into_iter().map(entry).collect()
}

impl Entry<'_> {
    /// The target as a label: with a word where it is not what was asked for.
    pub fn name(&self) -> String {
        let Entry { row, plan, .. } = self;
        let name = match plan.target == row.target || matches!(plan.job, JobFigures::Serving(_)) {
            true if plan.changes.is_empty() => row.target.clone(),
            _ => format!("{} (changed)", plan.target),
        };
        match plan.keeps_promises() {
            true => name,
            false => format!("{name} (too slow)"),
        }
    }

    /// As many as the heading's.
    pub fn cells(&self) -> Vec<String> {
        let plan = self.plan;
        let mark = if self.on_front { "*" } else { "" }.to_string();
        let memory = match plan.memory.available_bytes {
            Some(available) => percent(plan.memory.needed_bytes as f64 / available.max(1) as f64),
            None => gibibytes(plan.memory.needed_bytes),
        };
        let price = plan.money.offer.as_ref().map_or_else(
            || "none known".to_string(),
            |offer| format!("{} ${:.2}/h", offer.provider, offer.dollars_per_chip_hour),
        );
        let energy = figure(plan.energy.kilowatt_hours_per_million_tokens);
        match &plan.job {
            JobFigures::Training(figures) => {
                let training::Figures { step, .. } = &**figures;
                vec![
                    mark,
                    self.name(),
                    plan.mesh.clone(),
                    memory,
                    format!(
                        "{} ({})",
                        milliseconds(step.seconds),
                        range(step.low_seconds, Some(step.high_seconds))
                    ),
                    short_number(figures.tokens_per_second_per_chip),
                    figures.mfu.map_or_else(|| "-".to_string(), percent),
                    step.bound_by.clone(),
                    duration(figures.total_seconds),
                    dollars(plan.money.dollars_per_million_tokens),
                    dollars(plan.money.total_dollars),
                    energy,
                    price,
                ]
            }
            JobFigures::Serving(figures) => {
                let serving::Figures { load, .. } = &**figures;
                let ends = |of: fn(&serving::load::AtLoad) -> f64| {
                    let low = figures.quickest.as_ref().map_or(0.0, of);
                    format!(
                        "{} ({})",
                        milliseconds(of(load)),
                        range(low, figures.slowest.as_ref().map(of))
                    )
                };
                vec![
                    mark,
                    self.name(),
                    format!("{} x {}", figures.instances, figures.instance),
                    memory,
                    ends(|load| load.ttft_seconds),
                    ends(|load| load.tpot_seconds),
                    short_number(figures.output_tokens_per_second_per_chip),
                    format!("{:.0} of {}", load.rows, figures.sequences_max),
                    figures.decode.bound_by.clone(),
                    dollars(figures.dollars_per_million_input_tokens),
                    dollars(figures.dollars_per_million_output_tokens),
                    dollars(plan.money.total_dollars),
                    energy,
                    price,
                ]
            }
        }
    }
}

/// Names of the columns for such a job.
pub fn heading(job: &JobFigures) -> &'static [&'static str] {
    match job {
        JobFigures::Training(_) => &[
            "",
            "target",
            "mesh",
            "memory",
            "step (range)",
            "tokens/s/chip",
            "MFU",
            "bound by",
            "run",
            "$/M tokens",
            "$ in all",
            "kWh/M",
            "price",
        ],
        JobFigures::Serving(_) => &[
            "",
            "target",
            "instances",
            "memory",
            "TTFT (range)",
            "TPOT (range)",
            "out tokens/s/chip",
            "at once",
            "bound by",
            "$/M in",
            "$/M out",
            "$/hour",
            "kWh/M out",
            "price",
        ],
    }
}

/// `120 ms to 150 ms`; without a high end it cannot keep up there.
pub fn range(low: f64, high: Option<f64>) -> String {
    match high {
        Some(high) => format!("{} to {}", milliseconds(low), milliseconds(high)),
        None => format!("{} to saturated", milliseconds(low)),
    }
}
