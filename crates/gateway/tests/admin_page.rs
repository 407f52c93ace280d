//! The admin page in a real browser, against a server that has whatever figures a test wants.

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
#[path = "admin_page/sample.rs"]
mod sample;
#[path = "admin_page/server.rs"]
mod server;

use browser::Browser;
use sample::Day;
use serde_json::json;
use server::{KEY, Server};

const LIVE: &str = "document.querySelector('#state').textContent.startsWith('live')";

/// A page that shows figures; none where there is no browser.
fn opened(test: &str, server: &Server) -> Option<Browser> {
    let mut browser = Browser::start(test)?;
    browser.size(1280, 900, false);
    enter(&mut browser, server);
    Some(browser)
}

fn enter(browser: &mut Browser, server: &Server) {
    browser.open(&format!("{}/admin", server.url));
    browser.wait(
        "!document.querySelector('#enter').hidden || !document.querySelector('#figures').hidden",
    );
    if browser.value("document.querySelector('#figures').hidden") == true {
        browser.write(KEY);
        browser.press("Enter");
    }
    browser.wait(LIVE);
}

/// The page asked nobody but its server, complained of nothing but `expected` refusals, and ran no script
/// of somebody's name.
fn finish(mut browser: Browser, server: &Server, expected: usize) {
    browser.value("0");
    let outside: Vec<&String> =
        browser.addresses.iter().filter(|address| !address.starts_with(&server.url)).collect();
    assert!(outside.is_empty(), "{outside:?}");
    assert_eq!(browser.complaints.len(), expected, "{:#?}", browser.complaints);
    assert_eq!(browser.value("window.pwned === undefined"), true);
}

fn text(browser: &mut Browser, selector: &str) -> String {
    let selector = json!(selector);
    browser.text(&format!("document.querySelector({selector}).innerText"))
}

#[test]
fn a_key_is_asked_for_and_kept_in_its_tab() {
    let server = Server::start(Day::Working);
    let Some(mut browser) = Browser::start("a_key_is_asked_for_and_kept_in_its_tab") else {
        return;
    };
    browser.open(&format!("{}/admin", server.url));
    browser.wait("document.activeElement.id === 'key'");
    assert!(server.state.lock().unwrap().asked.is_empty(), "nothing is asked without a key");
    browser.write("a-tenants-key");
    browser.press("Enter");
    browser.wait("document.querySelector('#refused').textContent");
    assert_eq!(browser.value("document.querySelector('#figures').hidden"), true);
    browser.write(KEY);
    browser.press("Enter");
    browser.wait(LIVE);
    assert_eq!(browser.value("[localStorage.length, document.cookie]"), json!([0, ""]));
    browser.open(&format!("{}/admin", server.url));
    browser.wait(LIVE);
    browser.click("#leave");
    browser.wait("!document.querySelector('#enter').hidden");
    assert_eq!(
        browser.value("[sessionStorage.length, document.querySelector('#key').value]"),
        json!([0, ""])
    );
    // Four paths are asked for at once, and the browser notes each refusal.
    let refused = browser.complaints.len();
    assert!((4..=6).contains(&refused), "{:#?}", browser.complaints);
    finish(browser, &server, refused);
}

#[test]
fn what_the_gateway_says_is_shown() {
    let server = Server::start(Day::Working);
    let Some(mut browser) = opened("what_the_gateway_says_is_shown", &server) else { return };
    assert_eq!(text(&mut browser, "#banner"), "");
    let tiles = text(&mut browser, "#tiles");
    for part in ["14.0", "18.9 k", "49", "$412.07", "$655.20", "< 0.1 %"] {
        assert!(tiles.contains(part), "{part} in {tiles}");
    }
    let pools = text(&mut browser, "#pools");
    for part in [
        "12 × v6e · gcp · us-east5",
        "2 of 3 well",
        "all 2 well",
        "circuit open",
        "7 of the last 20",
        "2.70 usd/chip-hour",
        "14 min",
        "from the config",
        "180 ms",
        "11 of 64",
        "67 %",
    ] {
        assert!(pools.contains(part), "{part} in {pools}");
    }
    // Its 99th hundredth is over the objective of half a second, its median is not.
    let over =
        "[...document.querySelectorAll('#pools tbody .over')].map((cell) => cell.textContent)";
    assert_eq!(browser.value(over), json!(["1.90 s", "600 ms", "1.40 s"]));
    let tenants = text(&mut browser, "#tenants");
    for part in ["$41.71 of $50.00 a month", "no budget", "212 of 600", "trial-17 (suspended)"] {
        assert!(tenants.contains(part), "{part} in {tenants}");
    }
    let bars = "[...document.querySelectorAll('[role=meter]')].map((bar) => [bar.ariaValueNow, bar.dataset.level])";
    assert_eq!(
        browser.value(bars),
        json!([["83", "high"], ["24", "fine"], ["100", "full"], ["1", "fine"]])
    );
    let trials = text(&mut browser, "#trials");
    for part in [
        "mirror, 2.0 %",
        "as good\nby the last 1416 copies",
        "98 % of 308\n99 % of the text",
        "210 ms (170 ms)",
        "$0.083 ($0.19)",
        "on trial\njudged after 500 requests, 418 so far",
        // Nothing is streamed there.
        "13 ms (12 ms)",
    ] {
        assert!(trials.contains(part), "{part} in {trials}");
    }
    // Three chips, one upon the other, and their shares in words for those who cannot see it.
    assert_eq!(browser.value("document.querySelectorAll('#picture path').length"), 3);
    let label = browser.text("document.querySelector('#picture svg').getAttribute('aria-label')");
    assert!(label.contains("v6e 67 %") && label.contains("h200 30 %"), "{label}");
    let before = browser.text("document.querySelector('#picture path').getAttribute('d')");
    browser.click("[value=usd]");
    assert_ne!(browser.text("document.querySelector('#picture path').getAttribute('d')"), before);
    // Figures that change, change in place: whoever stands on a button stays there.
    browser.value("document.querySelector('#pools button').focus()");
    server.state.lock().unwrap().day = Day::Bad;
    browser.wait("document.querySelector('#banner').textContent");
    assert_eq!(browser.value("document.activeElement.localName"), "button");
    let banner = text(&mut browser, "#banner");
    for part in [
        "database is away",
        "8,312 of at most 100 k",
        "No server of chat-large",
        "Prices of tpu-v6e",
    ] {
        assert!(banner.contains(part), "{part} in {banner}");
    }
    assert!(browser.text("document.title").starts_with("(!)"));
    server.state.lock().unwrap().day = Day::Working;
    browser.wait("!document.querySelector('#banner').textContent");
    finish(browser, &server, 0);
}

#[test]
fn a_new_gateway_says_what_there_is_not() {
    let server = Server::start(Day::First);
    let Some(mut browser) = opened("a_new_gateway_says_what_there_is_not", &server) else { return };
    let page = text(&mut browser, "main");
    for part in
        ["Nothing yet", "No request has ended", "No pool is on trial", "There is no tenant yet"]
    {
        assert!(page.contains(part), "{part} in {page}");
    }
    for wrong in ["NaN", "undefined", "null", "Infinity"] {
        assert!(!page.contains(wrong), "{wrong} in {page}");
    }
    finish(browser, &server, 0);
}

#[test]
fn nothing_is_asked_while_nobody_looks() {
    let server = Server::start(Day::Working);
    let Some(mut browser) = opened("nothing_is_asked_while_nobody_looks", &server) else { return };
    let hide = |browser: &mut Browser, is: bool| {
        browser.value(&format!(
            "(() => {{ Object.defineProperty(document, 'hidden', {{ value: {is}, configurable: true }});
            document.dispatchEvent(new Event('visibilitychange')) }})()"
        ));
    };
    // A clock of its own, so that the test need not wait for the page's.
    browser.value("(() => { window.later = []; window.setTimeout = (run) => window.later.push(run); window.clearTimeout = () => { window.later = [] } })()");
    hide(&mut browser, true);
    assert_eq!(text(&mut browser, "#state"), "paused");
    assert_eq!(browser.value("window.later.length"), 0, "nothing is to come");
    hide(&mut browser, false);
    browser.wait(LIVE);
    browser.wait("window.later.length === 1");
    finish(browser, &server, 0);
}

#[test]
fn a_gateway_that_is_gone_is_said_to_be() {
    let server = Server::start(Day::Working);
    let Some(mut browser) = opened("a_gateway_that_is_gone_is_said_to_be", &server) else { return };
    server.state.lock().unwrap().is_away = true;
    browser.wait("document.querySelector('#banner').textContent.includes('does not answer')");
    assert_eq!(text(&mut browser, "#state"), "no contact");
    assert_eq!(browser.value("document.querySelector('#figures').hidden"), false);
    server.state.lock().unwrap().is_away = false;
    browser.wait(&format!("{LIVE} && !document.querySelector('#banner').textContent"));
    let noted = browser.complaints.len();
    assert!(noted > 0, "the browser notes what failed");
    finish(browser, &server, noted);
}

#[test]
fn draining_is_asked_about_and_done() {
    let server = Server::start(Day::Bad);
    let Some(mut browser) = opened("draining_is_asked_about_and_done", &server) else { return };
    browser.click("[aria-label='Drain 10.0.0.7:8000']");
    browser.wait("document.querySelector('#sure').open");
    assert_eq!(
        browser.text("document.activeElement.textContent"),
        "Cancel",
        "the safe choice has the focus"
    );
    browser.press("Enter");
    browser.wait("!document.querySelector('#sure').open");
    assert!(server.state.lock().unwrap().posted.is_empty());
    browser.click("[aria-label='Drain 10.0.0.7:8000']");
    browser.click("#sure-yes");
    browser.wait("document.querySelector('#told').textContent.includes('no further requests')");
    browser.click("[aria-label='Take back localhost:8000']");
    browser.wait("document.querySelector('#told').textContent.includes('taken back')");
    browser.click("[aria-label='Try mi300x for chat-large again']");
    browser.click("#sure-yes");
    browser.wait("document.querySelector('#told').textContent.includes('judged anew')");
    let expected = [
        ("drain".to_owned(), json!({"backend": "10.0.0.7:8000", "drain": true})),
        ("drain".to_owned(), json!({"backend": "localhost:8000", "drain": false})),
        ("canaries".to_owned(), json!({"model": "chat-large"})),
    ];
    assert_eq!(server.state.lock().unwrap().posted, expected);
    finish(browser, &server, 0);
}

/// What has less contrast to its ground than the 4.5 that WCAG 2 asks of text, or than the 3 that it asks of
/// pictures.
const TOO_FAINT: &str = "(() => {
    const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (colour) => {
        const [r, g, b] = parts(colour).map((part) => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (node) => {
        if (!node) return 'rgb(255, 255, 255)';
        const colour = getComputedStyle(node).backgroundColor;
        return parts(colour)[3] === 0 ? ground(node.parentElement) : colour;
    };
    const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
    const found = [];
    for (const node of document.querySelectorAll('body *')) {
        if (!node.checkVisibility({ visibilityProperty: true })) continue;
        const style = getComputedStyle(node);
        const isText = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
        const say = (value) => found.push(`${node.localName}.${node.getAttribute('class')} ${value.toFixed(2)}`);
        if (node.localName === 'path') { const value = ratio(style.fill, ground(node)); if (value < 3) say(value); }
        else if (isText) { const value = ratio(style.color, ground(node)); if (value < 4.5) say(value); }
    }
    return found;
})()";

/// What hangs over the edge of what should hold it: the page, and parts that do not scroll.
const HANGING: &str = "[...document.querySelectorAll('body, main, header, #banner, .panel, .tile, dl, h2, p')]
    .filter((node) => node.clientWidth && node.scrollWidth > node.clientWidth + 1 && !node.classList.contains('scroll') && !node.classList.contains('hidden'))
    .map((node) => `${node.localName}.${node.className} ${node.scrollWidth} of ${node.clientWidth}`)";

#[test]
fn it_fits_all_widths_in_light_and_dark() {
    let server = Server::start(Day::Working);
    let Some(mut browser) = opened("it_fits_all_widths_in_light_and_dark", &server) else { return };
    for (width, height, is_phone) in
        [(375, 800, true), (768, 1024, true), (1280, 900, false), (1600, 1000, false)]
    {
        for scheme in ["light", "dark"] {
            for (day, name) in [
                (Day::Working, "working"),
                (Day::Bad, "bad"),
                (Day::First, "first"),
                (Day::Hostile, "hostile"),
            ] {
                let of = format!("{name}, {width} wide, {scheme}");
                server.state.lock().unwrap().day = day;
                browser.size(width, height, is_phone);
                browser.prefer(scheme);
                enter(&mut browser, &server);
                assert_eq!(browser.value("innerWidth"), width, "{of}: was made smaller to fit");
                let wide = "document.documentElement.scrollWidth <= innerWidth";
                assert_eq!(browser.value(wide), true, "{of}: {}", browser.value(HANGING));
                assert_eq!(browser.value(HANGING), json!([]), "{of}");
                assert_eq!(browser.value(TOO_FAINT), json!([]), "{of}");
                browser.picture(&format!("admin-{name}-{width}-{scheme}"));
            }
        }
    }
    let unnamed = "[...document.querySelectorAll('button, input, table, [role=meter], [role=img], th')].filter((node) => node.checkVisibility()).filter((node) =>
        !(node.textContent.trim() || node.ariaLabel || node.labels?.length || node.closest('label') || node.caption) && node.localName !== 'th'
        || node.localName === 'th' && !node.scope).map((node) => node.outerHTML)";
    assert_eq!(browser.value(unnamed), json!([]));
    let made = "document.querySelectorAll('img[onerror], iframe, main img').length";
    assert_eq!(browser.value(made), 0, "names are text");
    assert!(text(&mut browser, "#pools").contains("<img src=x"));
    finish(browser, &server, 0);
}

/// `FUNGIBLE_PICTURES=$PWD/docs/pictures cargo test -p fungible-gateway --test admin_page for_the_docs` makes the
/// pictures of docs/gateway.md anew.
#[test]
fn pictures_for_the_docs() {
    let server = Server::start(Day::Working);
    let Some(mut browser) = opened("pictures_for_the_docs", &server) else { return };
    for (scheme, name) in [("light", "gateway-admin"), ("dark", "gateway-admin-dark")] {
        browser.size(1280, 1560, false);
        browser.prefer(scheme);
        enter(&mut browser, &server);
        assert_eq!(browser.value("document.querySelectorAll('.pool').length"), 3);
        browser.picture(name);
    }
    // A canary that was rolled back, and how it is tried again.
    server.state.lock().unwrap().day = Day::Bad;
    browser.size(1280, 260, false);
    browser.prefer("light");
    enter(&mut browser, &server);
    browser.value("document.querySelector('[aria-labelledby=trials-title]').scrollIntoView()");
    browser.picture("gateway-admin-trials");
    finish(browser, &server, 0);
}
