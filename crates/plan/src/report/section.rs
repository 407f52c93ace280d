//! All that is known of one target.

use std::fmt::Write;

use super::bars::kinds;
use super::html::{escaped, html, link, number, table, text};
use crate::row::{Energy, JobFigures, Memory, Misfit, Money, Planned, Row, RunTime, Time, Verdict};
use crate::words::{dollars, duration, gibibytes, milliseconds, percent};

/// The section of a row; `index` makes its name unique.
pub(super) fn section(index: usize, row: &Row) -> String {
    let (class, word) = match &row.verdict {
        Verdict::Fits { .. } => ("good", "fits"),
        Verdict::FitsChanged { .. } => ("changed", "fits with changes"),
        Verdict::DoesNotFit { .. } => ("bad", "does not fit"),
        Verdict::Skipped { .. } => ("changed", "left out"),
        Verdict::Failed { .. } => ("bad", "failed"),
    };
    let mut page = format!(
        "<section aria-labelledby=\"target-{index}\">\n<h2 id=\"target-{index}\">{} \
         <span class=\"badge {class}\">{word}</span></h2>\n",
        escaped(&row.target)
    );
    match &row.verdict {
        Verdict::Fits { plan } => planned(&mut page, row, plan),
        Verdict::FitsChanged { misfit, plan } => {
            misfitting(&mut page, misfit);
            changes(&mut page, plan);
            planned(&mut page, row, plan);
        }
        Verdict::DoesNotFit { misfit, tried } => {
            misfitting(&mut page, misfit);
            list(&mut page, "Tried as well", tried);
        }
        Verdict::Skipped { reason } | Verdict::Failed { reason } => {
            let _ = writeln!(page, "<p class=\"reason\">{}</p>", escaped(reason));
        }
    }
    page.push_str("</section>\n");
    page
}

fn misfitting(page: &mut String, misfit: &Misfit) {
    let how = match misfit.compiled {
        true => "the compiler says so",
        false => "it follows from what must be in memory at once; no compiler was asked",
    };
    let sentence = escaped(&misfit.sentence());
    let _ = writeln!(page, "<p class=\"reason\">As asked for: {sentence}; {how}.</p>");
}

/// What makes it fit, to be copied.
fn changes(page: &mut String, plan: &Planned) {
    let (lines, others): (Vec<&String>, Vec<&String>) =
        plan.changes.iter().partition(|change| change.contains(" = "));
    page.push_str("<h3>What makes it fit</h3>\n");
    for other in others {
        let _ = writeln!(page, "<p>{}</p>", escaped(other));
    }
    if !lines.is_empty() {
        let lines: Vec<String> = lines.into_iter().map(|line| escaped(line)).collect();
        let _ = writeln!(page, "<pre tabindex=\"0\">{}</pre>", lines.join("\n"));
    }
}

fn list(page: &mut String, heading: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(page, "<h3>{heading}</h3>\n<ul>");
    for line in lines {
        let _ = writeln!(page, "<li>{}</li>", escaped(line));
    }
    page.push_str("</ul>\n");
}

fn planned(page: &mut String, row: &Row, plan: &Planned) {
    let compiled = match plan.cached {
        true => format!("kept from before, {} then", duration(plan.compile_seconds)),
        false => format!("in {}", duration(plan.compile_seconds)),
    };
    let counted = |count: usize, one: &str| match count {
        1 => format!("1 {one}"),
        many => format!("{many} {one}s"),
    };
    let (chips, hosts) = (counted(plan.chips, "chip"), counted(plan.hosts, "host"));
    let mut facts = vec![
        ("chip", row.chip.clone()),
        ("chips", format!("{chips} in {hosts}")),
        ("mesh", plan.mesh.clone()),
        ("compiled for", format!("{}, {compiled}", plan.target)),
    ];
    job(&mut facts, plan);
    let facts = facts.into_iter().map(|(name, value)| vec![text(name), text(&value)]).collect();
    page.push_str("<div class=\"halves\">\n<div>\n<h3>In short</h3>\n");
    page.push_str(&table(&format!("{} in short", row.target), &[], facts));
    page.push_str("</div>\n<div>\n<h3>Memory of one device</h3>\n");
    memory(page, &plan.memory);
    page.push_str("</div>\n</div>\n");
    temporaries(page, &plan.memory);
    match &plan.job {
        JobFigures::Training(figures) => time(page, "Time of a step", &figures.step),
        JobFigures::Serving(figures) => {
            let heading = format!("Time of a decode step of {} sequences", figures.decode_rows);
            time(page, &heading, &figures.decode);
            let heading = format!("Time of a prompt's {} tokens", figures.prefill_tokens);
            time(page, &heading, &figures.prefill);
        }
    }
    money(page, &plan.money, &plan.job);
    energy(page, &plan.energy);
    list(page, "What the estimate does not know", &plan.notes);
}

fn job(facts: &mut Vec<(&'static str, String)>, plan: &Planned) {
    match &plan.job {
        JobFigures::Training(figures) => {
            let grouped = |count: f64| super::axis::plain(count);
            let steps = figures.total_tokens / (figures.tokens_per_step.max(1)) as f64;
            facts.push(("run", duration(plan.run_seconds(figures))));
            if let Some(run) = &plan.money.run {
                facts.push(("of which", parts_of(run)));
            }
            facts.push((
                "steps",
                format!(
                    "{} of {} tokens",
                    grouped(steps.ceil()),
                    grouped(figures.tokens_per_step as f64)
                ),
            ));
            facts.push(("tokens/s", grouped(figures.tokens_per_second.round())));
            facts.push(("tokens/s/chip", grouped(figures.tokens_per_second_per_chip.round())));
            let mfu = figures.mfu.map_or_else(|| "not known".to_string(), percent);
            facts.push(("model FLOPs utilization", mfu));
        }
        JobFigures::Serving(figures) => {
            let load = &figures.load;
            let instances = format!("{} × {}", figures.instances, figures.instance);
            facts.push(("instances", instances));
            facts.push(("first token after", milliseconds(load.ttft_seconds)));
            facts.push(("each token after it", milliseconds(load.tpot_seconds)));
            facts.push((
                "as asked for",
                if figures.meets { "yes" } else { "no, too slow" }.to_string(),
            ));
            facts.push((
                "requests/s of an instance",
                format!(
                    "{:.2}, {:.2} at most",
                    load.requests_per_second, figures.capacity_requests_per_second
                ),
            ));
            facts.push((
                "sequences at once",
                format!("{:.1} on average, {} at most", load.rows, figures.sequences_max),
            ));
            facts.push(("busy", percent(load.busy_share)));
            facts.push((
                "generated tokens/s",
                format!("{:.0}, all instances together", figures.output_tokens_per_second),
            ));
        }
    }
}

/// What a run's time is made of.
fn parts_of(run: &RunTime) -> String {
    let mut words = format!(
        "{} of steps, {} of starting up",
        duration(run.work_seconds),
        duration(run.startup_seconds)
    );
    if run.lost_seconds > 0.0 {
        let _ = write!(
            words,
            ", {} lost to {:.1} expected preemptions",
            duration(run.lost_seconds),
            run.preemptions
        );
    }
    words
}

fn memory(page: &mut String, memory: &Memory) {
    let whole = memory.available_bytes.filter(|bytes| *bytes > 0);
    let row = |name: &str, bytes: u64| {
        let share = whole.map_or_else(
            || "-".to_string(),
            |whole| format!("{:.1} %", bytes as f64 / whole as f64 * 100.0),
        );
        vec![text(name), number(&gibibytes(bytes)), number(&share)]
    };
    let kinds = kinds(memory).into_iter().filter(|(_, bytes)| *bytes > 0);
    let mut rows: Vec<_> = kinds.map(|(name, bytes)| row(name, bytes)).collect();
    rows.push(row("at the peak", memory.needed_bytes));
    if let Some(whole) = whole {
        rows.push(row("free", whole.saturating_sub(memory.needed_bytes)));
        rows.push(row("what there is", whole));
    }
    page.push_str(&table("Memory by kind", &["kind", "size", "share"], rows));
}

fn temporaries(page: &mut String, memory: &Memory) {
    let rows = memory.largest_temporaries.iter().map(|one| {
        let at = match one.source.is_empty() {
            true => one.path.clone(),
            false => format!("{} ({})", one.path, one.source),
        };
        let size = gibibytes(one.padded_bytes.max(one.bytes));
        vec![text(&one.name), text(&one.shape), number(&size), text(&at)]
    });
    let heading = ["name", "shape", "size", "of what"];
    page.push_str(&table("Largest temporaries", &heading, rows.collect()));
}

fn time(page: &mut String, heading: &str, time: &Time) {
    let shares = |parts: &[crate::row::Part]| {
        let words: Vec<String> = parts
            .iter()
            .filter(|part| part.share >= 0.0005)
            .map(|part| format!("{} {:.1} %", part.name, part.share * 100.0))
            .collect();
        words.join(", ")
    };
    let mut facts = vec![
        (
            "time",
            format!(
                "{}, between {} and {}",
                milliseconds(time.seconds),
                milliseconds(time.low_seconds),
                milliseconds(time.high_seconds)
            ),
        ),
        ("where it comes from", time.source.clone()),
        ("bound by", shares(&time.bounds)),
        ("by source", shares(&time.sources)),
        ("transfers hidden behind it", milliseconds(time.hidden_seconds)),
    ];
    facts.retain(|(_, value)| !value.is_empty());
    let _ = writeln!(page, "<h3>{}</h3>", escaped(heading));
    let facts = facts.into_iter().map(|(name, value)| vec![text(name), text(&value)]).collect();
    page.push_str(&table(heading, &[], facts));
    let rows = time.not_estimated.iter().map(|kind| {
        vec![
            text(&kind.name),
            number(&kind.instructions.to_string()),
            number(&gibibytes(kind.bytes.max(0.0) as u64)),
            number(&format!("{:.1} %", kind.share * 100.0)),
            text(&kind.model),
        ]
    });
    page.push_str(&table(
        "Without the compiler's estimate",
        &["instructions", "count", "bytes", "share", "timed by"],
        rows.collect(),
    ));
}

fn money(page: &mut String, money: &Money, job: &JobFigures) {
    let (total, tokens) = match job {
        JobFigures::Training(_) => ("in all", "$/M tokens"),
        JobFigures::Serving(_) => ("an hour of all instances", "$/M generated"),
    };
    page.push_str("<h3>Money</h3>\n");
    match &money.offer {
        None => {
            let why = money.no_offer.as_deref().unwrap_or("none known");
            let _ = writeln!(page, "<p>No price to go by: {}.</p>", escaped(why));
        }
        Some(offer) => {
            let region =
                offer.region.as_ref().map_or_else(String::new, |name| format!(" in {name}"));
            let _ = writeln!(
                page,
                "<p>{}{}, {}, ${:.2} per chip-hour: ${} {total}.</p>",
                escaped(&offer.provider),
                escaped(&region),
                escaped(&offer.purchase),
                offer.dollars_per_chip_hour,
                dollars(money.total_dollars),
            );
        }
    }
    let whole: f64 = money.parts.iter().map(|part| part.dollars).sum();
    let rows = money.parts.iter().map(|part| {
        let from = if part.assumed { "assumed" } else { "has a source" };
        let share = part.dollars / whole.max(f64::MIN_POSITIVE) * 100.0;
        vec![
            text(&part.name),
            number(&format!("${}", dollars(Some(part.dollars)))),
            number(&format!("{share:.1} %")),
            text(from),
        ]
    });
    let heading = ["part", "dollars", "share", "figure"];
    page.push_str(&table("What the money is for", &heading, rows.collect()));
    let mut offers: Vec<_> = money.offers.iter().collect();
    // One provider's beside each other, each in order of cost.
    offers.sort_by(|a, b| a.offer.provider.cmp(&b.offer.provider));
    let rows = offers.into_iter().map(|cost| {
        let offer = &cost.offer;
        vec![
            text(&offer.provider),
            text(offer.region.as_deref().unwrap_or("-")),
            text(&offer.purchase),
            number(&format!("${:.2}", offer.dollars_per_chip_hour)),
            number(&dollars(Some(cost.dollars_per_million_tokens))),
            html(link(&offer.source, offer.link.as_deref())),
        ]
    });
    let heading = ["provider", "region", "purchase", "chip-hour", tokens, "source"];
    page.push_str(&table("The cheapest offers, by provider", &heading, rows.collect()));
    list(page, "Offers that are left out", &money.left_out);
}

fn energy(page: &mut String, energy: &Energy) {
    let amount = energy.kilowatt_hours_per_million_tokens.map_or_else(
        || "not known".to_string(),
        |hours| format!("{hours:.3} kWh per million tokens"),
    );
    let source = escaped(&energy.source);
    let _ = writeln!(page, "<h3>Energy</h3>\n<p>{amount} ({source}).</p>");
}
