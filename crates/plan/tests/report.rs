//! The page of a plan: what it says, and what a real browser makes of it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says when it is skipped"
)]

#[path = "../../serve/tests/page/browser.rs"]
#[allow(dead_code, reason = "shared with the tests of the chat page, which use all of it")]
mod browser;
#[path = "report/rows.rs"]
mod rows;

use browser::Browser;
use plan::goal::Goal;
use plan::price::Wish;
use plan::report::Report;
use plan::row::Row;
use rows::{HOSTILE, fits, many, serving, too_big, training};

fn page(rows: &[Row]) -> String {
    let (goal, wish) = (Goal::Cost, Wish::default());
    Report { title: "Training x", rows, goal, wish: &wish, version: "1.2.3" }.page()
}

#[test]
fn the_verdict_is_a_sentence() {
    let page = page(&many());
    for part in [
        "h100-8 is cheapest: $0.017 per million tokens, $1700 in all, 3 d 21 h; b200-8 is quickest",
        "Of 11 targets, 1 does not fit, 1 was left out, 1 failed to compile.",
        "Ranked by cost; on-demand prices, read on 2026-11-23.",
        "Not in the picture: tpu7x-64 (no price is known that was asked for; 2 d 0 h)",
        "<p>v5e-32 instead of v5e-16</p>\n<pre tabindex=\"0\">training.remat = &quot;full&quot;</pre>",
        "ran out of memory",
        "Made by fungible 1.2.3",
        "nothing was run",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert!(!page.contains("NaN") && !page.contains("inf\""), "{page}");
    let order: Vec<usize> = ["h100-8", "b200-8", "tpu7x-64", "v5e-8", "v4-8"]
        .map(|target| page.find(&format!("\">{target} <span class=\"badge")).unwrap())
        .to_vec();
    assert!(order.is_sorted(), "ranked ones come first, then what is of no use: {order:?}");
}

#[test]
fn few_rows_make_a_page_too() {
    let none = page(&[too_big("v5e-8")]);
    assert!(none.contains("No target is of use for this job. Of 1 targets, 1 does not fit."));
    assert!(none.contains("needs 40.00 GiB of 16.00 GiB") && !none.contains("class=\"plane"));
    let one = page(&[fits(training("v6e-16", 3.0, Some(0.03)))]);
    assert!(one.contains("v6e-16 is of use: $0.030 per million tokens"), "{one}");
    assert!(one.contains("<circle") && !one.contains("class=\"front\""), "{one}");
    let unpriced: Vec<Row> =
        [("a-1", 3.0), ("b-1", 2.0)].map(|(name, days)| fits(training(name, days, None))).to_vec();
    let unpriced = page(&unpriced);
    assert!(unpriced.contains("No price is known; b-1 is quickest"), "{unpriced}");
    assert!(unpriced.contains("Not in the picture: a-1") && !unpriced.contains("<circle"));
    assert!(page(&[]).contains("No target is of use for this job."));
}

#[test]
fn servers_are_compared_by_their_answers() {
    let rows = [fits(serving("h100-1", 0.04, true)), fits(serving("v5e-1", 8.0, false))];
    let page = page(&rows);
    for part in [
        "h100-1 (2 × h100-1) is the only one of use: $0.040 per million generated tokens, 40.0 ms to the first",
        "Of 2 targets, 1 is too slow.",
        "v5e-1 (too slow)",
        "saturated",
        "h100-1, a token",
        "h100-1, a prompt",
        "Time of a decode step of 8 sequences",
        "<th scope=\"col\" class=\"number\">TTFT range</th>",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
}

#[test]
fn text_from_outside_stays_text() {
    let page = page(&rows::hostile());
    for tag in ["<img", "<script", "onerror=alert(1)>"] {
        assert!(!page.contains(tag), "{tag} is in {page}");
    }
    assert!(page.matches("&lt;script&gt;pwned").count() > 30, "{page}");
    assert_eq!(page.matches("</svg>").count(), page.matches("<svg").count());
    let script = "javascript:alert(1)";
    let mut plan = training("a", 1.0, Some(1.0));
    plan.money.offers.iter_mut().for_each(|cost| cost.offer.link = Some(script.to_string()));
    assert!(!self::page(&[fits(plan)]).contains(script));
}

/// Texts whose colour is too close to what is behind them, by the formula of WCAG 2.2, and its limit for
/// text of usual size.
const FAINT: &str = "(() => {
    const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (colour) => channels(colour).slice(0, 3)
        .map((value) => value / 255)
        .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
        .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
    const behind = (node) => {
        for (; node; node = node.parentElement) {
            const colour = getComputedStyle(node).backgroundColor;
            if ((channels(colour)[3] ?? 1) > 0.5) return colour;
        }
        return 'rgb(255, 255, 255)';
    };
    const faint = [];
    for (const node of document.querySelectorAll('body *')) {
        if (['title', 'desc'].includes(node.localName) || !node.getClientRects().length) continue;
        if (![...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())) continue;
        const style = getComputedStyle(node);
        const own = light(node.localName === 'text' ? style.fill : style.color);
        const other = light(behind(node));
        const ratio = (Math.max(own, other) + 0.05) / (Math.min(own, other) + 0.05);
        if (ratio < 4.5) faint.push(`${ratio.toFixed(1)}: ${node.textContent.slice(0, 40)}`);
    }
    return faint.join('; ');
})()";

/// Names in the picture that cover each other, or hang out of it.
const COVERED: &str = "(() => {
    const plane = [...document.querySelectorAll('.plane')].find((svg) => svg.getClientRects().length);
    if (!plane) return '';
    const whole = plane.getBoundingClientRect();
    const texts = [...plane.querySelectorAll('text')].map((text) => [text, text.getBoundingClientRect()]);
    const wrong = [];
    texts.forEach(([text, area], index) => {
        if (area.left < whole.left - 1 || area.right > whole.right + 1) wrong.push(`${text.textContent} hangs out`);
        for (const [other, its] of texts.slice(index + 1)) {
            if (area.left < its.right && its.left < area.right && area.top + 3 < its.bottom - 3 && its.top + 3 < area.bottom - 3) {
                wrong.push(`${text.textContent} on ${other.textContent}`);
            }
        }
    });
    return wrong.join('; ');
})()";

#[test]
fn a_browser_shows_it() {
    let Some(mut browser) = Browser::start("a_browser_shows_it") else { return };
    let folder = tempfile::tempdir().unwrap();
    let served = [("h100-1", 0.04, true), ("v6e-1", 0.1, true), ("v5e-1", 8.0, false)]
        .map(|(target, seconds, meets)| fits(serving(target, seconds, meets)));
    let all = [("training", many()), ("serving", served.to_vec()), ("hostile", rows::hostile())];
    for (name, rows) in &all {
        let path = folder.path().join(format!("{name}.html"));
        std::fs::write(&path, page(rows)).unwrap();
        let url = format!("file://{}", path.display());
        for (width, height, is_phone) in [(1280, 900, false), (375, 800, true)] {
            for scheme in ["light", "dark"] {
                let of = format!("{name}, {width} wide, {scheme}");
                browser.size(width, height, is_phone);
                browser.prefer(scheme);
                browser.open(&url);
                let wide = "document.documentElement.scrollWidth - innerWidth";
                assert!(browser.value(wide).as_f64().unwrap() <= 0.0, "{of}: hangs over the edge");
                assert_eq!(browser.value("innerWidth"), width, "{of}: was made smaller to fit");
                assert_eq!(browser.text(FAINT), "", "{of}");
                assert_eq!(browser.text(COVERED), "", "{of}");
                let shown = "[...document.querySelectorAll('.plane')].filter((svg) => svg.getClientRects().length).length";
                assert_eq!(browser.value(shown), 1, "{of}: one picture, as there is room");
                browser.picture(&format!("report-{name}-{width}-{scheme}"));
            }
        }
        let made = "document.querySelectorAll('script, img, iframe, [onerror]').length";
        assert_eq!(browser.value(made), 0, "{name}");
        let unnamed = "document.querySelectorAll('svg[role=img]:not([aria-label], [aria-labelledby]), th:not([scope])').length";
        assert_eq!(browser.value(unnamed), 0, "{name}");
    }
    let text = browser.text("document.querySelector('section h2').textContent");
    let hostile = browser.text("document.querySelectorAll('section h2')[1].textContent");
    assert!(text == "Ranking" && hostile.starts_with(HOSTILE), "{hostile}");
    let outside: Vec<&String> = browser
        .addresses
        .iter()
        .filter(|address| !address.starts_with("file://") && !address.starts_with("data:"))
        .collect();
    assert!(outside.is_empty(), "{outside:?}");
    assert!(browser.complaints.is_empty(), "{:#?}", browser.complaints);
}
