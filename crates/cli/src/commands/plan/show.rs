//! A plan on a terminal: a line for each target when it is known, then the ranking.

use plan::goal::Goal;
use plan::row::{JobFigures, Planned, Row, Time, Verdict};
use plan::table::{Entry, heading, ranking};
use plan::words::milliseconds;
use serde_json::json;

use super::page;
use crate::arguments::plan::PlanShared;
use crate::console::{self, BOLD, DIM, GREEN, RED, YELLOW, duration, gibibytes, styled};
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

/// The ranking, or all of it as JSON; and a page, if it is wanted.
pub fn all(title: &str, rows: &[Row], shared: &PlanShared) -> Outcome {
    let goal: Goal = shared.minimize.into();
    let ranking = ranking(rows, goal);
    if shared.json {
        let names: Vec<&str> = ranking.iter().map(|entry| entry.row.target.as_str()).collect();
        console::line(json!({
            "job": title, "minimize": goal, "ranking": names, "rows": rows,
        }));
    } else if let Some(first) = ranking.first() {
        console::line("");
        console::styled_line(styled(BOLD, &format!("{title}; the least {} first", goal.name())));
        let mut table: Vec<Vec<String>> =
            vec![heading(&first.plan.job).iter().map(ToString::to_string).collect()];
        table.extend(ranking.iter().map(Entry::cells));
        console::table(&table);
        for line in below(&ranking) {
            console::styled_line(styled(DIM, &line));
        }
    }
    // Also where nothing is of use: the page says why.
    if let Some(path) = &shared.html {
        page::write(path, title, rows, shared)?;
        if !shared.json {
            console::line(format_args!("page: {}", path.display()));
        }
    }
    match ranking.is_empty() {
        false => Ok(()),
        true => Err(Failure::new(Exit::DoesNotFit, "no target is of use for this job")),
    }
}

/// What a reader of the table must know.
fn below(ranking: &[Entry<'_>]) -> Vec<String> {
    let mut lines = vec![
        "* nothing else is both cheaper and quicker. Compiled and estimated, not run; ranges say how far off that may be (docs/planning-model.md). On `cpu`, a few layers were run here.".to_string(),
    ];
    let mut notes: Vec<(&str, Vec<&str>)> = Vec::new();
    for entry in ranking {
        for note in &entry.plan.notes {
            match notes.iter_mut().find(|(known, _)| known == note) {
                Some((_, targets)) => targets.push(&entry.row.target),
                None => notes.push((note, vec![&entry.row.target])),
            }
        }
    }
    lines
        .extend(notes.into_iter().map(|(note, targets)| format!("{}: {note}", targets.join(", "))));
    lines
}
