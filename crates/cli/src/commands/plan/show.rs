//! A plan on a terminal: a line for each target when it is known, then the ranking.

use plan::each::{Event, News};
use plan::goal::Goal;
use plan::row::{JobFigures, Misfit, Planned, Row, Time, Verdict};
use plan::table::{Entry, heading, ranking};
use plan::words::milliseconds;
use serde_json::json;

use super::page;
use crate::arguments::plan::PlanShared;
use crate::console::{self, BOLD, DIM, GREEN, Progress, RED, YELLOW, duration, gibibytes, styled};
use crate::failure::{Exit, Failure, Outcome};

/// A line for what has just become known. What is being compiled is the progress line's to say.
pub fn event(event: &Event<'_>, progress: &Progress) {
    match event {
        Event::News { news: News::Compiling(_), .. } => {}
        Event::News { target, news: News::DoesNotFit(misfit) } => {
            progress.clear();
            does_not_fit(target, misfit);
            console::line("    looking for what does ...");
        }
        Event::Done(row) => {
            progress.clear();
            when_known(row);
        }
        Event::Better(row) => {
            progress.clear();
            if let Some(plan) = row.verdict.planned() {
                let better = styled(GREEN, "quicker");
                let target = styled(BOLD, &row.target);
                console::styled_line(format_args!("{target}  {better}  {}", line(plan)));
            }
        }
    }
}

fn does_not_fit(target: &str, misfit: &Misfit) {
    // A mesh that there is not is no question of memory.
    let what = if misfit.needed_bytes.is_some() { "too big" } else { "no" };
    console::styled_line(format_args!(
        "{}  {}  {}",
        styled(BOLD, target),
        styled(RED, what),
        misfit.sentence()
    ));
}

fn when_known(row: &Row) {
    let target = styled(BOLD, &row.target);
    match &row.verdict {
        Verdict::Fits { plan } => {
            console::styled_line(format_args!(
                "{target}  {}  {}",
                styled(GREEN, "fits"),
                line(plan)
            ));
        }
        // That it does not fit was told when it was found.
        Verdict::FitsChanged { plan, .. } => {
            console::styled_line(format_args!(
                "{target}  {} with {}: {}",
                styled(YELLOW, "fits"),
                plan.changes.join(", "),
                line(plan)
            ));
        }
        Verdict::DoesNotFit { misfit, tried } => {
            does_not_fit(&row.target, misfit);
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
        for (number, block) in blocks(&table, console::columns()).iter().enumerate() {
            if number > 0 {
                console::line("");
            }
            console::table(block);
        }
        console::line("");
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

/// Columns of a table that every part of it begins with: the mark, and the target.
const NAMES: usize = 2;

/// Between two columns.
const GAP: usize = 2;

/// A table that is too wide, as several below each other, each with the names of its rows.
fn blocks(table: &[Vec<String>], columns: usize) -> Vec<Vec<Vec<String>>> {
    let count = table.iter().map(Vec::len).max().unwrap_or(0);
    let cell_width =
        |row: &Vec<String>, column: usize| row.get(column).map_or(0, |cell| cell.chars().count());
    let width =
        |column: usize| table.iter().map(|row| cell_width(row, column)).max().unwrap_or(0) + GAP;
    let names: usize = (0..NAMES.min(count)).map(width).sum();
    let mut parts: Vec<Vec<usize>> = Vec::new();
    let mut used = usize::MAX;
    for column in NAMES..count {
        let wide = width(column);
        // What is behind the last cell of a line is not printed.
        match parts.last_mut().filter(|_| used.saturating_add(wide) <= columns + GAP) {
            Some(part) => part.push(column),
            None => {
                used = names;
                parts.push(vec![column]);
            }
        }
        used += wide;
    }
    let of_part = |part: &Vec<usize>| -> Vec<Vec<String>> {
        let cell = |row: &Vec<String>, column| row.get(column).cloned().unwrap_or_default();
        let line = |row: &Vec<String>| {
            (0..NAMES).chain(part.iter().copied()).map(|column| cell(row, column)).collect()
        };
        table.iter().map(line).collect()
    };
    parts.iter().map(of_part).collect()
}

/// What a reader of the table must know.
fn below(ranking: &[Entry<'_>]) -> Vec<String> {
    let mut lines = vec![
        "* nothing else is both cheaper and quicker. Compiled and estimated, not run; ranges say how far"
            .to_string(),
        "off that may be (docs/planning-model.md).".to_string(),
    ];
    if ranking.iter().any(|entry| entry.plan.is_measured()) {
        lines.push("On `cpu`, a few layers were run here.".to_string());
    }
    let mut notes: Vec<(&str, Vec<&str>)> = Vec::new();
    for entry in ranking {
        for note in &entry.plan.notes {
            match notes.iter_mut().find(|(known, _)| known == note) {
                Some((_, targets)) => targets.push(&entry.plan.target),
                None => notes.push((note, vec![&entry.plan.target])),
            }
        }
    }
    lines
        .extend(notes.into_iter().map(|(note, targets)| format!("{}: {note}", targets.join(", "))));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(columns: usize) -> Vec<Vec<String>> {
        let row = |letter: &str| {
            let mut row = vec!["*".to_string(), format!("target-{letter}")];
            row.extend((0..columns).map(|column| format!("{letter}{column:07}")));
            row
        };
        vec![row("h"), row("a"), row("b")]
    }

    #[test]
    fn a_table_breaks_where_there_is_no_more_room() {
        let table = table(9);
        // 3 and 10 for the names, 10 for each of the others.
        assert_eq!(blocks(&table, 101), std::slice::from_ref(&table));
        let parts = blocks(&table, 100);
        let counts: Vec<usize> = parts.iter().map(|part| part[0].len()).collect();
        assert_eq!(counts, [10, 3]);
        assert_eq!(parts[1][2], ["*", "target-b", "b0000008"]);
        // However narrow it is, nothing is lost.
        assert_eq!(blocks(&table, 5).len(), 9);
        assert!(blocks(&[], 80).is_empty());
    }
}
