//! What a plan comes to, in plain words.

use crate::goal::Goal;
use crate::price::Wish;
use crate::row::{JobFigures, Planned, Row, Verdict};
use crate::table::Entry;
use crate::words::{dollars, duration, milliseconds};

/// Which target to take, and what it would take.
pub(super) fn verdict(rows: &[Row], ranking: &[Entry<'_>]) -> String {
    let good: Vec<&Entry<'_>> =
        ranking.iter().filter(|entry| entry.plan.keeps_promises()).collect();
    let mut sentence = match good.as_slice() {
        [] if ranking.is_empty() => "No target is of use for this job".to_string(),
        [] => "No target answers as quickly as was asked for".to_string(),
        [only] => {
            let others = if rows.len() > 1 { "the only one of use" } else { "of use" };
            format!("{} is {others}: {}", named(only), figures(only.plan))
        }
        many => best(many),
    };
    let count =
        |wanted: fn(&Verdict) -> bool| rows.iter().filter(|row| wanted(&row.verdict)).count();
    let left = [
        (count(|verdict| matches!(verdict, Verdict::DoesNotFit { .. })), "do not fit"),
        (ranking.len() - good.len(), "are too slow"),
        (count(|verdict| matches!(verdict, Verdict::Skipped { .. })), "were left out"),
        (count(|verdict| matches!(verdict, Verdict::Failed { .. })), "failed to compile"),
    ];
    let left: Vec<String> = left
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| {
            let what = match (count, what) {
                (1, "do not fit") => "does not fit",
                (1, "are too slow") => "is too slow",
                (1, "were left out") => "was left out",
                (_, what) => what,
            };
            format!("{count} {what}")
        })
        .collect();
    if !left.is_empty() {
        sentence.push_str(&format!(". Of {} targets, {}", rows.len(), left.join(", ")));
    }
    sentence.push('.');
    sentence
}

fn best(good: &[&Entry<'_>]) -> String {
    let least = |goal: Goal| {
        let value = |entry: &&&Entry<'_>| entry.plan.value(goal);
        let known = good.iter().filter(|entry| value(entry).is_some());
        let order = |a: &&&Entry<'_>, b: &&&Entry<'_>| {
            let of = |entry| value(entry).unwrap_or(f64::INFINITY);
            of(a).total_cmp(&of(b))
        };
        known.min_by(order).copied()
    };
    let quickest = least(Goal::Time);
    match (least(Goal::Cost), quickest) {
        (Some(cheapest), Some(quickest)) if std::ptr::eq(cheapest, quickest) => {
            format!("{} is cheapest and quickest: {}", named(cheapest), figures(cheapest.plan))
        }
        (Some(cheapest), Some(quickest)) => format!(
            "{} is cheapest: {}; {} is quickest: {}",
            named(cheapest),
            figures(cheapest.plan),
            named(quickest),
            figures(quickest.plan)
        ),
        (None, Some(quickest)) => {
            format!(
                "No price is known; {} is quickest: {}",
                named(quickest),
                figures(quickest.plan)
            )
        }
        _ => "Neither prices nor times are known".to_string(),
    }
}

/// What is to be taken, with what has to be changed for it.
fn named(entry: &Entry<'_>) -> String {
    let target = &entry.row.target;
    let changes = match entry.plan.changes.is_empty() {
        true => String::new(),
        false => format!(" (with {})", entry.plan.changes.join(", ")),
    };
    match &entry.plan.job {
        JobFigures::Serving(figures) if *target != figures.instance || figures.instances > 1 => {
            format!("{target} ({} × {}){changes}", figures.instances, figures.instance)
        }
        _ => format!("{target}{changes}"),
    }
}

fn figures(plan: &Planned) -> String {
    let money = |of: &str| match plan.money.dollars_per_million_tokens {
        Some(some) => format!("${} per million {of}", dollars(Some(some))),
        None => "at no known price".to_string(),
    };
    match &plan.job {
        JobFigures::Training(figures) => {
            let total = plan.money.total_dollars;
            let total = total
                .map_or_else(String::new, |total| format!(", ${} in all", dollars(Some(total))));
            format!("{}{total}, {}", money("tokens"), duration(plan.run_seconds(figures)))
        }
        JobFigures::Serving(figures) => format!(
            "{}, {} to the first token, {} for each after it",
            money("generated tokens"),
            milliseconds(figures.load.ttft_seconds),
            milliseconds(figures.load.tpot_seconds)
        ),
    }
}

/// Which prices were used, and when they were read.
pub(super) fn prices(ranking: &[Entry<'_>], wish: &Wish) -> String {
    let offers = || ranking.iter().filter_map(|entry| entry.plan.money.offer.as_ref());
    let mut dates: Vec<&str> = offers().filter_map(|offer| offer.date.as_deref()).collect();
    dates.sort_unstable();
    let of = wish.provider.as_ref().map_or_else(String::new, |name| format!(" of {name}"));
    let kind = wish.purchase.name();
    match (dates.first(), dates.last()) {
        (Some(first), Some(last)) if first == last => {
            format!("{kind} prices{of}, read on {first}")
        }
        (Some(first), Some(last)) => format!("{kind} prices{of}, read from {first} to {last}"),
        _ if offers().next().is_some() => format!("{kind} prices{of}, of no stated day"),
        _ => format!("{kind} prices{of}: none is known"),
    }
}
