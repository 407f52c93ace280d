//! Bars in parts: what is in each target's memory, and what each target's time goes to. The bars are SVG
//! that stretches, the words around them HTML.

use std::fmt::Write;

use runtime::profile::Bound;

use super::html::escaped;
use crate::row::{JobFigures, Memory, Row, Time, Verdict};
use crate::table::Entry;
use crate::words::{gibibytes, percent};

/// Colours of the page's style sheet.
const COLOURS: usize = 6;

/// Shares below this are no words' worth.
const SHARE_MIN: f64 = 0.005;

struct Bar {
    name: String,
    parts: Vec<Part>,
    /// Where a line is drawn across, from 0 to 1.
    limit: Option<f64>,
    says: String,
}

struct Part {
    name: String,
    colour: Option<usize>,
    /// Of the bar's whole width.
    share: f64,
    says: String,
}

/// Kinds of what is in memory, in the order of the colours.
pub(super) fn kinds(memory: &Memory) -> [(&'static str, u64); 6] {
    [
        ("weights", memory.weights_bytes),
        ("optimizer state", memory.optimizer_bytes),
        ("KV cache", memory.kv_cache_bytes),
        ("other arguments", memory.other_argument_bytes),
        ("temporaries", memory.temporary_bytes),
        ("program", memory.code_bytes),
    ]
}

/// Memory of one device by kind, against what there is.
pub(super) fn memory(rows: &[Row], ranking: &[Entry<'_>]) -> String {
    let mut bars: Vec<Bar> =
        ranking.iter().map(|entry| memory_bar(entry.name(), &entry.plan.memory)).collect();
    for row in rows {
        let Verdict::DoesNotFit { misfit, .. } = &row.verdict else { continue };
        let (Some(needed), Some(available)) = (misfit.needed_bytes, misfit.available_bytes) else {
            continue;
        };
        let whole = needed.max(available).max(1) as f64;
        let says = format!("needs {} of {}", gibibytes(needed), gibibytes(available));
        bars.push(Bar {
            name: format!("{} (too big)", row.target),
            parts: vec![Part {
                name: "needed, of all kinds".to_string(),
                colour: None,
                share: needed as f64 / whole,
                says: says.clone(),
            }],
            limit: Some(available as f64 / whole),
            says,
        });
    }
    figure("Memory of one device", &bars)
}

fn memory_bar(name: String, memory: &Memory) -> Bar {
    let kinds = kinds(memory);
    let sum: u64 = kinds.iter().map(|(_, bytes)| bytes).sum();
    // What takes turns is in the sum, but not in what is needed at once.
    let turns = sum.saturating_sub(memory.needed_bytes);
    let available = memory.available_bytes.unwrap_or(memory.needed_bytes);
    let whole = available.max(memory.needed_bytes).max(1) as f64;
    let parts = kinds
        .into_iter()
        .enumerate()
        .map(|(colour, (name, bytes))| {
            let drawn = if name == "temporaries" { bytes.saturating_sub(turns) } else { bytes };
            Part {
                name: name.to_string(),
                colour: Some(colour),
                share: drawn as f64 / whole,
                says: gibibytes(bytes),
            }
        })
        .filter(|part| part.share > 0.0)
        .collect();
    let needed = gibibytes(memory.needed_bytes);
    let says = match memory.available_bytes {
        Some(available) => {
            let free = available.saturating_sub(memory.needed_bytes);
            format!("{needed} of {}, {} free", gibibytes(available), gibibytes(free))
        }
        None => needed,
    };
    let over = memory.needed_bytes > available;
    Bar { name, parts, limit: over.then(|| available as f64 / whole), says }
}

/// What each target's time goes to.
pub(super) fn bounds(ranking: &[Entry<'_>]) -> String {
    let bars: Vec<Bar> = ranking
        .iter()
        .flat_map(|entry| {
            let name = entry.name();
            match &entry.plan.job {
                JobFigures::Training(figures) => vec![bounds_bar(name, &figures.step)],
                JobFigures::Serving(figures) => vec![
                    bounds_bar(format!("{name}, a token"), &figures.decode),
                    bounds_bar(format!("{name}, a prompt"), &figures.prefill),
                ],
            }
        })
        .filter(|bar| !bar.parts.is_empty())
        .collect();
    figure("What the time is bound by", &bars)
}

fn bounds_bar(name: String, time: &Time) -> Bar {
    // The same resource has the same place and colour in all bars.
    let known = Bound::ALL.map(Bound::name);
    let place = |name: &str| known.iter().position(|known| *known == name);
    let mut parts: Vec<Part> = time
        .bounds
        .iter()
        .filter(|part| part.share > 0.0)
        .map(|part| Part {
            name: part.name.clone(),
            colour: place(&part.name).filter(|colour| *colour < COLOURS),
            share: part.share,
            says: percent(part.share),
        })
        .collect();
    parts.sort_by_key(|part| part.colour.unwrap_or(usize::MAX));
    let says = time.bounds.iter().filter(|part| part.share >= SHARE_MIN).take(2);
    let says: Vec<String> =
        says.map(|part| format!("{} {}", part.name, percent(part.share))).collect();
    Bar { name, parts, limit: None, says: says.join(", ") }
}

fn colour(colour: Option<usize>) -> String {
    colour.map_or_else(|| "bad".to_string(), |colour| format!("c{colour}"))
}

fn figure(heading: &str, bars: &[Bar]) -> String {
    if bars.is_empty() {
        return String::new();
    }
    let mut keys: Vec<(Option<usize>, &str)> = bars
        .iter()
        .flat_map(|bar| bar.parts.iter().map(|part| (part.colour, part.name.as_str())))
        .collect();
    keys.sort_by_key(|(colour, name)| (colour.unwrap_or(usize::MAX), *name));
    keys.dedup();
    let mut page =
        format!("<figure>\n<figcaption><strong>{heading}</strong> <span class=\"legend\">");
    for (key, name) in keys {
        let _ = write!(page, "<span class=\"key block {}\">{}</span>", colour(key), escaped(name));
    }
    page.push_str("</span></figcaption>\n<dl class=\"bars\">\n");
    for bar in bars {
        let (name, says) = (escaped(&bar.name), escaped(&bar.says));
        let parts: Vec<String> =
            bar.parts.iter().map(|part| format!("{} {}", part.name, part.says)).collect();
        let all = escaped(&format!("{}: {}", bar.name, parts.join(", ")));
        let _ = write!(
            page,
            "<dt>{name}</dt>\n<dd><span>{says}</span>\
             <svg viewBox=\"0 0 1000 10\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{all}\">\
             <rect class=\"free\" width=\"1000\" height=\"10\"/>"
        );
        let mut left = 0.0;
        for part in &bar.parts {
            let width = (part.share * 1000.0).min(1000.0 - left).max(0.0);
            let _ = write!(
                page,
                "<rect class=\"{}\" x=\"{left:.1}\" width=\"{width:.1}\" height=\"10\">\
                 <title>{}: {}</title></rect>",
                colour(part.colour),
                escaped(&part.name),
                escaped(&part.says),
            );
            left += width;
        }
        if let Some(limit) = bar.limit {
            let _ = write!(
                page,
                "<path class=\"limit\" d=\"M{:.1} 0v10\"><title>what there is</title></path>",
                limit * 1000.0
            );
        }
        page.push_str("</svg></dd>\n");
    }
    page.push_str("</dl>\n</figure>\n");
    page
}
