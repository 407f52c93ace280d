//! A plan on a terminal.

use plan::goal::Goal;
use plan::row::{JobFigures, Planned, Row, Verdict};
use serde_json::json;

use crate::console::{self, BOLD, GREEN, RED, YELLOW, duration, gibibytes, short_number, styled};

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
            for one in tried.iter().skip(1) {
                console::line(format_args!("    {one}"));
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
    match &plan.job {
        JobFigures::Training(figures) => {
            let mfu =
                figures.mfu.map_or_else(String::new, |mfu| format!(", MFU {:.0} %", mfu * 100.0));
            format!(
                "{memory}, {} a step over {}, {} tokens/s{mfu}, {} for {} tokens",
                milliseconds(figures.step.seconds),
                plan.mesh,
                short_number(figures.tokens_per_second),
                duration(figures.total_seconds),
                short_number(figures.total_tokens),
            )
        }
        JobFigures::Serving(_) => memory,
    }
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.0} ms", seconds * 1e3)
}

/// The ranking.
pub fn all(rows: &[Row], goal: Goal, as_json: bool) {
    if as_json {
        console::line(json!({"minimize": goal, "rows": rows}));
    }
}
