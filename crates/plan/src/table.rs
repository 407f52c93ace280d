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
        let name = match &plan.job {
            _ if !plan.changes.is_empty() => format!("{} (changed)", plan.target),
            // Of a chip alone, the number that was found; of a server the instances say it.
            JobFigures::Training(_) => plan.target.clone(),
            JobFigures::Serving(_) => row.target.clone(),
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
        let offer = plan.money.offer.as_ref();
        let offer =
            offer.map(|offer| format!("{} ${:.2}/h", offer.provider, offer.dollars_per_chip_hour));
        let price = offer.or_else(|| plan.money.no_offer.clone()).unwrap_or_default();
        let energy = figure(plan.energy.kilowatt_hours_per_million_tokens);
        match &plan.job {
            JobFigures::Training(figures) => {
                let training::Figures { step, .. } = &**figures;
                vec![
                    mark,
                    self.name(),
                    milliseconds(step.seconds),
                    range(step.low_seconds, Some(step.high_seconds)),
                    short_number(figures.tokens_per_second_per_chip),
                    figures.mfu.map_or_else(|| "-".to_string(), percent),
                    duration(plan.run_seconds(figures)),
                    dollars(plan.money.dollars_per_million_tokens),
                    dollars(plan.money.total_dollars),
                    step.bound_by.clone(),
                    memory,
                    plan.mesh.clone(),
                    energy,
                    price,
                ]
            }
            JobFigures::Serving(figures) => {
                let serving::Figures { load, .. } = &**figures;
                let ends = |of: fn(&serving::load::AtLoad) -> f64| {
                    let low = figures.quickest.as_ref().map_or(0.0, of);
                    range(low, figures.slowest.as_ref().map(of))
                };
                vec![
                    mark,
                    self.name(),
                    format!("{} x {}", figures.instances, figures.instance),
                    milliseconds(load.ttft_seconds),
                    milliseconds(load.tpot_seconds),
                    short_number(figures.output_tokens_per_second_per_chip),
                    dollars(figures.dollars_per_million_input_tokens),
                    dollars(figures.dollars_per_million_output_tokens),
                    dollars(plan.money.total_dollars),
                    figures.decode.bound_by.clone(),
                    memory,
                    format!("{:.0} of {}", load.rows, figures.sequences_max),
                    ends(|load| load.ttft_seconds),
                    ends(|load| load.tpot_seconds),
                    energy,
                    price,
                ]
            }
        }
    }
}

/// Names of the columns for such a job, what decides first: a narrow terminal breaks the table after those
/// that it has room for.
pub fn heading(job: &JobFigures) -> &'static [&'static str] {
    match job {
        JobFigures::Training(_) => &[
            "",
            "target",
            "step",
            "range",
            "tokens/s/chip",
            "MFU",
            "run",
            "$/M tokens",
            "$ in all",
            "bound by",
            "memory",
            "mesh",
            "kWh/M",
            "price",
        ],
        JobFigures::Serving(_) => &[
            "",
            "target",
            "instances",
            "TTFT",
            "TPOT",
            "out tokens/s/chip",
            "$/M in",
            "$/M out",
            "$/hour",
            "bound by",
            "memory",
            "at once",
            "TTFT range",
            "TPOT range",
            "kWh/M out",
            "price",
        ],
    }
}

/// `120 to 150 ms`; without a high end it cannot keep up there.
pub fn range(low: f64, high: Option<f64>) -> String {
    let low = milliseconds(low);
    let Some(high) = high.map(milliseconds) else { return format!("{low} to saturated") };
    // A unit that both have is said once.
    match (low.split_once(' '), high.split_once(' ')) {
        (Some((number, unit)), Some((_, other))) if unit == other => format!("{number} to {high}"),
        _ => format!("{low} to {high}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_says_its_unit_once() {
        assert_eq!(range(114.0, Some(182.61)), "114.0 to 182.6 s");
        assert_eq!(range(0.05, Some(0.2)), "50.0 to 200 ms");
        assert_eq!(range(5.0, Some(12.0)), "5000 ms to 12.0 s");
        assert_eq!(range(0.05, None), "50.0 ms to saturated");
        assert_eq!(range(0.05, Some(f64::INFINITY)), "50.0 ms to never");
    }
}
