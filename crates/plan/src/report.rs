//! A plan as one HTML page that needs nothing else: no script, no file beside it, no network. Makes text
//! of rows and knows no file; who compiled them, and when, it does not know either.

mod axis;
mod bars;
mod html;
mod labels;
mod plane;
mod section;
mod sentence;

use std::fmt::Write;

use crate::goal::Goal;
use crate::price::Wish;
use crate::row::{JobFigures, Row};
use crate::table::{Entry, heading, ranking};
use html::{escaped, number, table, text};

const STYLE: &str = include_str!("report/page.css");

/// What stands left of figures in the ranking.
const TEXTS: [&str; 6] = ["", "target", "mesh", "instances", "bound by", "price"];

/// All that a page is made of.
pub struct Report<'a> {
    /// What was asked for, in one line.
    pub title: &'a str,
    pub rows: &'a [Row],
    /// What the rows are ranked by.
    pub goal: Goal,
    /// Which prices count.
    pub wish: &'a Wish,
    /// Of the program that planned.
    pub version: &'a str,
}

impl Report<'_> {
    /// The page, whole.
    pub fn page(&self) -> String {
        let ranking = ranking(self.rows, self.goal);
        let title = escaped(self.title);
        let verdict = escaped(&sentence::verdict(self.rows, &ranking));
        let prices = escaped(&sentence::prices(&ranking, self.wish));
        let goal = self.goal.name();
        let mut page = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <link rel=\"icon\" href=\"data:,\">\n\
             <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
             <header>\n<h1>{title}</h1>\n<p class=\"verdict\">{verdict}</p>\n\
             <p>Ranked by {goal}; {prices}.</p>\n</header>\n"
        );
        page.push_str(&plane::figure(&ranking));
        page.push_str(&bars::memory(self.rows, &ranking));
        page.push_str(&bars::bounds(&ranking));
        self.ranked(&mut page, &ranking);
        for (index, row) in self.in_order(&ranking).into_iter().enumerate() {
            page.push_str(&section::section(index, row));
        }
        let _ = write!(page, "{}</main>\n</body>\n</html>\n", self.footer(&ranking));
        page
    }

    /// The same columns as on a terminal.
    fn ranked(&self, page: &mut String, ranking: &[Entry<'_>]) {
        let Some(first) = ranking.first() else { return };
        let heading = heading(&first.plan.job);
        let rows = ranking.iter().map(|entry| {
            let cells = entry.cells().into_iter().zip(heading);
            let cell = |(value, name): (String, &&str)| match TEXTS.contains(name) {
                true => text(&value),
                false => number(&value),
            };
            // The name of a row comes first, and the mark stands with it.
            let mut cells: Vec<_> = cells.skip(1).map(cell).collect();
            let mark = if entry.on_front { " *" } else { "" };
            cells[0] = text(&format!("{}{mark}", entry.name()));
            cells
        });
        let _ = write!(
            page,
            "<section aria-labelledby=\"ranking\">\n<h2 id=\"ranking\">Ranking</h2>\n{}\
             <p class=\"below\">* nothing else is both cheaper and quicker.{}</p>\n</section>\n",
            table(&format!("The least {} first", self.goal.name()), &heading[1..], rows.collect()),
            match first.plan.job {
                JobFigures::Training(_) => "",
                JobFigures::Serving(_) =>
                    " TTFT: time to the first token; TPOT: time for each token after it.",
            }
        );
    }

    /// The ranked rows, and after them those that are of no use.
    fn in_order<'a>(&'a self, ranking: &[Entry<'a>]) -> Vec<&'a Row> {
        let useless = self.rows.iter().filter(|row| row.verdict.planned().is_none());
        ranking.iter().map(|entry| entry.row).chain(useless).collect()
    }

    fn footer(&self, ranking: &[Entry<'_>]) -> String {
        let measured = |entry: &&Entry<'_>| {
            let source = match &entry.plan.job {
                JobFigures::Training(figures) => &figures.step.source,
                JobFigures::Serving(figures) => &figures.decode.source,
            };
            source.contains("measured")
        };
        let measured: Vec<&str> =
            ranking.iter().filter(measured).map(|entry| entry.row.target.as_str()).collect();
        let run = match measured.is_empty() {
            true => "All figures were compiled and estimated; nothing was run.".to_string(),
            false => format!(
                "Times of {} come from measurements, as their sections say; all other figures were \
                 compiled and estimated, and nothing of them was run.",
                escaped(&measured.join(", "))
            ),
        };
        format!(
            "<footer>\n<p>{run} A range says how far off a time may be: a factor for each source of \
             it, from the lowest to the highest that is plausible, all taken to be wrong in the same \
             direction at once; it is no interval of confidence (docs/planning-model.md). Cost goes \
             with time, so it has the same range. Prices change; look again before you rent.</p>\n\
             <p>Made by fungible {}.</p>\n</footer>\n",
            escaped(self.version)
        )
    }
}
