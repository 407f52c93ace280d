//! A plan on a terminal: a line for each target when it is known, then the ranking.

use plan::goal::{Goal, pareto_front, ranked};
use plan::row::{JobFigures, Planned, Row, Time, Verdict};
use plan::{serving, training};
use serde_json::json;

use crate::arguments::plan::PlanShared;
use crate::console::{
    self, BOLD, DIM, GREEN, RED, YELLOW, duration, gibibytes, short_number, styled,
};
use crate::failure::{Exit, Failure, Outcome};

/// A line for a target as soon as it is known.
pub fn when_known(row: &Row) {
    let target = styled(BOLD, &row.target);
    match &row.verdict {
        Verdict::Fits { plan } => {
            console::styled_line(format_args!(
                "{target}  {}  {}",
                styled(GREEN, "fits"),
                line(plan)
            ));
        }
        Verdict::FitsChanged { misfit, plan } => {
            console::styled_line(format_args!(
                "{target}  {}  {}",
                styled(RED, "too big"),
                misfit.sentence()
            ));
            console::styled_line(format_args!(
                "    {} with {}: {}",
                styled(YELLOW, "fits"),
                plan.changes.join(", "),
                line(plan)
            ));
        }
        Verdict::DoesNotFit { misfit, tried } => {
            console::styled_line(format_args!(
                "{target}  {}  {}",
                styled(RED, "too big"),
                misfit.sentence()
            ));
            for one in tried {
                console::line(format_args!("    tried: {one}"));
            }
        }
        Verdict::Skipped { reason } => {
            console::styled_line(format_args!("{target}  {}  {reason}", styled(YELLOW, "skipped")));
        }
        Verdict::Failed { reason } => {
            console::styled_line(format_args!("{target}  {}  {reason}", styled(RED, "failed")));
        }
    }
}

fn line(plan: &Planned) -> String {
    let available = plan.memory.available_bytes.map_or_else(|| "?".to_string(), gibibytes);
    let memory = format!("{} of {available}", gibibytes(plan.memory.needed_bytes));
    let from = match (plan.cached, plan.is_measured()) {
        (true, _) => "kept from before".to_string(),
        (false, true) => "measured here".to_string(),
        (false, false) => format!("compiled in {}", duration(plan.compile_seconds)),
    };
    match &plan.job {
        JobFigures::Training(figures) => format!(
            "{memory}, {} a step over {}{}; {from}",
            milliseconds(figures.step.seconds),
            plan.mesh,
            bound(&figures.step),
        ),
        JobFigures::Serving(figures) => format!(
            "{memory}; {:.2} requests/s on {}, first token after {}, {} a token; {from}",
            figures.load.requests_per_second,
            figures.instance,
            milliseconds(figures.load.ttft_seconds),
            milliseconds(figures.load.tpot_seconds),
        ),
    }
}

/// What takes most of a time, where that is told.
fn bound(time: &Time) -> String {
    match time.bounds.is_empty() {
        true => String::new(),
        false => format!(", bound by {}", time.bound_by),
    }
}

fn milliseconds(seconds: f64) -> String {
    match seconds {
        seconds if !seconds.is_finite() => "never".to_string(),
        seconds if seconds < 0.1 => format!("{:.1} ms", seconds * 1e3),
        seconds if seconds < 10.0 => format!("{:.0} ms", seconds * 1e3),
        seconds => format!("{seconds:.1} s"),
    }
}

/// The ranking, or all of it as JSON; and a report, if it is wanted.
pub fn all(title: &str, rows: &[Row], shared: &PlanShared) -> Outcome {
    let goal: Goal = shared.minimize.into();
    let planned: Vec<(&Row, &Planned)> =
        rows.iter().filter_map(|row| Some((row, row.verdict.planned()?))).collect();
    let values: Vec<Option<f64>> = planned.iter().map(|(_, plan)| plan.value(goal)).collect();
    // What does not keep what is promised comes after all that does.
    let mut order = ranked(&values);
    order.sort_by_key(|&index| !planned[index].1.keeps_promises());
    if shared.json {
        let ranking: Vec<&str> =
            order.iter().map(|&index| planned[index].0.target.as_str()).collect();
        console::line(json!({
            "job": title, "minimize": goal, "ranking": ranking, "rows": rows,
        }));
    } else if !planned.is_empty() {
        let points: Vec<(Option<f64>, Option<f64>)> = planned
            .iter()
            .map(|(_, plan)| (plan.value(Goal::Cost), plan.value(Goal::Time)))
            .collect();
        let front = pareto_front(&points);
        console::line("");
        console::styled_line(styled(BOLD, &format!("{title}; the least {} first", goal.name())));
        let mut table = vec![heading(planned[0].1)];
        table.extend(order.iter().map(|&index| {
            let (row, plan) = planned[index];
            cells(row, plan, front[index])
        }));
        console::table(&table);
        for line in below(&order, &planned) {
            console::styled_line(styled(DIM, &line));
        }
    }
    match rows.iter().any(|row| row.verdict.planned().is_some()) {
        true => Ok(()),
        false => Err(Failure::new(Exit::DoesNotFit, "no target is of use for this job")),
    }
}

fn heading(plan: &Planned) -> Vec<String> {
    let names: &[&str] = match plan.job {
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
    };
    names.iter().map(ToString::to_string).collect()
}

fn cells(row: &Row, plan: &Planned, on_front: bool) -> Vec<String> {
    let mark = if on_front { "*" } else { "" }.to_string();
    let target = match plan.target == row.target || matches!(plan.job, JobFigures::Serving(_)) {
        true if plan.changes.is_empty() => row.target.clone(),
        _ => format!("{} (changed)", plan.target),
    };
    let memory = match plan.memory.available_bytes {
        Some(available) => {
            format!("{:.0} %", plan.memory.needed_bytes as f64 / available.max(1) as f64 * 100.0)
        }
        None => gibibytes(plan.memory.needed_bytes),
    };
    let price = plan.money.offer.as_ref().map_or_else(
        || "none known".to_string(),
        |offer| format!("{} ${:.2}/h", offer.provider, offer.dollars_per_chip_hour),
    );
    let energy = plan.energy.kilowatt_hours_per_million_tokens;
    match &plan.job {
        JobFigures::Training(figures) => {
            let training::Figures { step, .. } = &**figures;
            vec![
                mark,
                target,
                plan.mesh.clone(),
                memory,
                format!(
                    "{} ({})",
                    milliseconds(step.seconds),
                    range(step.low_seconds, Some(step.high_seconds))
                ),
                short_number(figures.tokens_per_second_per_chip),
                figures.mfu.map_or_else(|| "-".to_string(), |mfu| format!("{:.0} %", mfu * 100.0)),
                step.bound_by.clone(),
                duration(figures.total_seconds),
                dollars(plan.money.dollars_per_million_tokens),
                dollars(plan.money.total_dollars),
                figure(energy),
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
                if figures.meets { target } else { format!("{target} (too slow)") },
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
                figure(energy),
                price,
            ]
        }
    }
}

fn range(low: f64, high: Option<f64>) -> String {
    match high {
        Some(high) => format!("{} to {}", milliseconds(low), milliseconds(high)),
        None => format!("{} to saturated", milliseconds(low)),
    }
}

fn dollars(dollars: Option<f64>) -> String {
    match dollars {
        None => "-".to_string(),
        Some(small) if small < 1.0 => format!("{small:.3}"),
        Some(some) if some < 1000.0 => format!("{some:.2}"),
        Some(many) => short_number(many),
    }
}

fn figure(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_string(), |value| format!("{value:.3}"))
}

/// What a reader of the table must know.
fn below(order: &[usize], planned: &[(&Row, &Planned)]) -> Vec<String> {
    let mut lines = vec![
        "* nothing else is both cheaper and quicker. Compiled and estimated, not run; ranges say how far off that may be (docs/planning-model.md). On `cpu`, a few layers were run here.".to_string(),
    ];
    let mut notes: Vec<(String, Vec<&str>)> = Vec::new();
    for &index in order {
        let (row, plan) = planned[index];
        for note in &plan.notes {
            match notes.iter_mut().find(|(known, _)| known == note) {
                Some((_, targets)) => targets.push(&row.target),
                None => notes.push((note.clone(), vec![&row.target])),
            }
        }
    }
    lines
        .extend(notes.into_iter().map(|(note, targets)| format!("{}: {note}", targets.join(", "))));
    lines
}
