//! The chat page in a real browser, against a server that answers as a script says.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says when it is skipped"
)]

#[path = "page/browser.rs"]
mod browser;
#[path = "page/server.rs"]
mod server;

use std::sync::atomic::Ordering;

use browser::Browser;
use serde_json::json;
use server::Server;

const ONE: &[&str] = &["example-model"];

/// A page that is open; none where there is no browser.
fn opened(test: &str, server: &Server) -> Option<Browser> {
    let mut browser = Browser::start(test)?;
    browser.size(1200, 800, false);
    browser.open(&server.url);
    browser.wait(
        "document.querySelector('#chip').textContent || document.querySelector('dialog[open]')",
    );
    Some(browser)
}

fn ask(browser: &mut Browser, text: &str) {
    browser.value("document.querySelector('#prompt').focus()");
    browser.write(text);
    browser.press("Enter");
}

/// Waits until nothing is being written.
fn settle(browser: &mut Browser) {
    browser.wait(
        "document.querySelector('#stop').hidden && document.querySelector('.assistant .actions')",
    );
}

const ANSWER: &str = "[...document.querySelectorAll('.assistant > .text')].at(-1).textContent";

/// The page asked nobody but its server, and complained of nothing but `expected` refusals.
fn finish(mut browser: Browser, server: &Server, expected: usize) {
    browser.value("0");
    let outside: Vec<&String> = browser
        .addresses
        .iter()
        .filter(|address| !address.starts_with(&server.url) && !address.starts_with("blob:"))
        .collect();
    assert!(outside.is_empty(), "{outside:?}");
    assert_eq!(browser.complaints.len(), expected, "{:#?}", browser.complaints);
    assert_eq!(browser.value("window.pwned === undefined"), true);
}

#[test]
fn an_answer_is_streamed_shown_and_kept() {
    let server = Server::start(ONE, None);
    let Some(mut browser) = opened("an_answer_is_streamed_shown_and_kept", &server) else { return };
    assert_eq!(browser.text("document.querySelector('#model-name').textContent"), "example-model");
    assert_eq!(browser.text("document.querySelector('#chip').textContent"), "8 × Example chip");
    browser.picture("welcome");
    ask(&mut browser, "  hello  ");
    settle(&mut browser);
    assert_eq!(browser.text(ANSWER), "Answer 1 to hello.");
    assert_eq!(browser.text("document.querySelector('.assistant strong').textContent"), "hello");
    let stats = browser.text("document.querySelector('.stats').textContent");
    assert!(stats.contains("12 in, 8 out") && stats.contains("first after"), "{stats}");
    let body = server.last();
    assert_eq!(body["messages"], json!([{"role": "user", "content": "hello"}]));
    assert_eq!((&body["stream"], &body["model"]), (&json!(true), &json!("example-model")));
    assert_eq!(body["stream_options"], json!({"include_usage": true}));
    assert!(body.get("temperature").is_none(), "nothing was set, so nothing is sent: {body}");

    // Again, and with another question in its place.
    browser.click(".assistant [aria-label='Answer again']");
    browser.wait(&format!("{ANSWER} === 'Answer 2 to hello.'"));
    settle(&mut browser);
    browser.click(".user [aria-label='Edit']");
    browser.value("document.querySelector('.edit textarea').select()");
    browser.write("goodbye");
    browser.press("Enter");
    browser.wait(&format!("{ANSWER} === 'Answer 1 to goodbye.'"));
    settle(&mut browser);
    assert_eq!(server.last()["messages"].as_array().unwrap().len(), 1);
    ask(&mut browser, "more");
    browser.wait(&format!("{ANSWER} === 'Answer 1 to more.'"));
    settle(&mut browser);
    let said = server.last()["messages"].clone();
    assert_eq!((said.as_array().unwrap().len(), &said[1]["role"]), (3, &json!("assistant")));

    // It is there again after the page was left.
    browser.open(&server.url);
    browser.click("#chats .title");
    browser.wait(&format!("{ANSWER} === 'Answer 1 to more.'"));
    finish(browser, &server, 0);
}

#[test]
fn stopping_tells_the_server() {
    let server = Server::start(ONE, None);
    let Some(mut browser) = opened("stopping_tells_the_server", &server) else { return };
    ask(&mut browser, "slow");
    browser.wait(&format!("{ANSWER}.length > 50"));
    browser.press("Escape");
    browser.wait("document.querySelector('.notice')?.textContent.includes('Stopped')");
    let begun = std::time::Instant::now();
    while server.seen.left.load(Ordering::SeqCst) == 0 {
        assert!(begun.elapsed().as_secs() < 60, "the server was not told");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let length = browser.value(&format!("{ANSWER}.length"));
    assert_eq!(browser.value(&format!("{ANSWER}.length")), length);
    // Going on begins where it stopped, token for token.
    browser.click(".notice .primary");
    browser.wait(&format!("{ANSWER}.length > {length} + 50"));
    let continued = server.last()["continue_token_ids"].as_array().unwrap().len() as u64;
    assert_eq!(continued * 5, length.as_u64().unwrap());
    browser.click("#stop");
    settle(&mut browser);
    finish(browser, &server, 0);
}

#[test]
fn markdown_becomes_elements() {
    let server = Server::start(ONE, None);
    let Some(mut browser) = opened("markdown_becomes_elements", &server) else { return };
    ask(&mut browser, "markdown");
    settle(&mut browser);
    let count = |browser: &mut Browser, selector: &str| {
        let selector = json!(format!(".assistant > .text {selector}"));
        browser.value(&format!("document.querySelectorAll({selector}).length"))
    };
    for (selector, wanted) in [
        ("h4", 1),
        (".code", 1),
        ("th", 4),
        ("tbody td", 8),
        ("td.center", 4),
        ("ol > li", 3),
        ("ol ul > li", 2),
        ("li.task input", 2),
        ("li.task input:checked", 1),
        ("blockquote", 1),
        ("del", 1),
        ("em", 1),
        ("strong", 1),
        ("a[href^='https:'][rel~='noopener']", 1),
    ] {
        assert_eq!(count(&mut browser, selector), wanted, "{selector}");
    }
    assert_eq!(browser.text("document.querySelector('.code-head span').textContent"), "python");
    let code = browser.text("document.querySelector('.code code').textContent");
    assert!(code.starts_with("def quicksort") && code.ends_with("quicksort(large)"), "{code}");
    // What was shown piece by piece is what it would have been at once.
    let same = "import('./page/markdown.js').then(({ MarkdownView }) => {
        const text = JSON.parse(Object.entries(localStorage).find(([key]) => key.startsWith('fungible.chat.'))[1]).messages[1].content;
        const [once, pieces] = [document.createElement('div'), document.createElement('div')];
        new MarkdownView(once).show(text, true);
        const view = new MarkdownView(pieces);
        for (let end = 1; end <= text.length; end += 1) view.show(text.slice(0, end), end === text.length);
        const shown = document.querySelector('.assistant > .text').innerHTML;
        return [once.innerHTML === pieces.innerHTML, once.innerHTML === shown];
    })";
    assert_eq!(browser.value(same), json!([true, true]));
    let directions = "import('./page/markdown.js').then(({ MarkdownView }) => {
        const node = document.createElement('div');
        new MarkdownView(node).show('- שלום\\n\\n1 **مرحبا** x\\n\\nhello שלום\\n\\n123', true);
        return [...node.children].map((child) => child.dir);
    })";
    assert_eq!(browser.value(directions), json!(["rtl", "rtl", "ltr", ""]));
    browser.value("document.querySelector('#scroll').scrollTop = 0");
    browser.picture("markdown");
    finish(browser, &server, 0);
}

#[test]
fn hostile_text_stays_text() {
    let server = Server::start(ONE, None);
    let Some(mut browser) = opened("hostile_text_stays_text", &server) else { return };
    ask(&mut browser, "hostile");
    settle(&mut browser);
    let made = "document.querySelectorAll('#log :is(script, img, iframe, style, b, i, svg[onload], [onerror], [onload], [onmouseover])').length";
    assert_eq!(browser.value(made), 0);
    let links = browser.value("[...document.querySelectorAll('#log .text a')].map((a) => a.href)");
    assert_eq!(
        links,
        json!([
            "https://example.com/a_(b)",
            "https://example.com/track.png",
            "https://example.com/",
            "https://example.com/"
        ])
    );
    let text = browser.text(ANSWER);
    for part in ["<script>window.pwned = 1</script>", "onerror=", "deep", "unbalanced", "the end"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    // Marks without end cost no more than others.
    let long = "import('./page/markdown.js').then(({ MarkdownView }) => {
        for (const part of ['**a', '[', '`a ', '*_~', '> ', '+ ', '<', '![a](', '| a ', '__a *b ', 'a*b*']) {
            const node = document.createElement('div');
            new MarkdownView(node).show(part.repeat(20000), true);
            if (!node.textContent) return part;
        }
        return 'done';
    })";
    assert_eq!(browser.text(long), "done");
    browser.picture("hostile");
    finish(browser, &server, 0);
}

#[test]
fn settings_arrive_in_the_request() {
    let server = Server::start(&["example-model", "sql"], None);
    let Some(mut browser) = opened("settings_arrive_in_the_request", &server) else { return };
    browser.click("#open-settings");
    let fill = |browser: &mut Browser, selector: &str, text: &str| {
        browser.value(&format!("document.querySelector(\"{selector}\").select()"));
        browser.write(text);
    };
    fill(&mut browser, "#system", "Be brief.");
    for (name, text) in [
        ("temperature", "0.5"),
        ("top_p", "0.9"),
        ("top_k", "40"),
        ("min_p", "0.1"),
        ("max_tokens", "64"),
        ("seed", "7"),
        ("presence_penalty", "-1"),
        ("frequency_penalty", "3"),
    ] {
        fill(&mut browser, &format!("[name={name}]"), text);
    }
    browser.picture("settings");
    browser.click("#settings .primary");
    assert_eq!(browser.value("document.querySelector('#settings').open"), false);
    browser.value(
        "(() => { const models = document.querySelector('#models'); models.value = 'sql';
        models.dispatchEvent(new Event('change')) })()",
    );
    ask(&mut browser, "hello");
    settle(&mut browser);
    let body = server.last();
    assert_eq!(body["messages"][0], json!({"role": "system", "content": "Be brief."}));
    for (name, wanted) in [
        ("temperature", json!(0.5)),
        ("top_p", json!(0.9)),
        ("top_k", json!(40)),
        ("min_p", json!(0.1)),
        ("max_tokens", json!(64)),
        ("seed", json!(7)),
        ("presence_penalty", json!(-1)),
        ("model", json!("sql")),
    ] {
        assert_eq!(body[name], wanted, "{name}");
    }
    assert!(body.get("frequency_penalty").is_none(), "3 is out of range, so it is not sent");
    // They are remembered.
    browser.open(&server.url);
    browser.wait("document.querySelector('#models').value === 'sql'");
    assert_eq!(browser.text("document.querySelector('[name=top_k]').value"), "40");
    finish(browser, &server, 0);
}

#[test]
fn a_key_is_asked_for() {
    let server = Server::start(ONE, Some("secret"));
    let Some(mut browser) = opened("a_key_is_asked_for", &server) else { return };
    browser.wait("document.querySelector('#ask-key').open");
    browser.picture("key");
    browser.write("secret");
    browser.press("Enter");
    browser.wait("document.querySelector('#model-name').textContent === 'example-model'");
    ask(&mut browser, "hello");
    settle(&mut browser);
    assert_eq!(browser.text(ANSWER), "Answer 1 to hello.");
    // A key that is wrong later on: asked for again, and the question is asked again.
    browser.click("#open-settings");
    browser.value("document.querySelector('#api-key').select()");
    browser.write("wrong");
    browser.click("#settings .primary");
    ask(&mut browser, "second");
    browser.wait("document.querySelector('#ask-key').open");
    browser.write("secret");
    browser.press("Enter");
    browser.wait(&format!("{ANSWER} === 'Answer 1 to second.'"));
    let refused = server.seen.refused.load(Ordering::SeqCst);
    assert_eq!(refused, 2);
    // The browser itself notes each refusal.
    finish(browser, &server, refused);
}

#[test]
fn what_goes_wrong_is_said_and_can_be_mended() {
    let server = Server::start(ONE, None);
    let Some(mut browser) = opened("what_goes_wrong_is_said_and_can_be_mended", &server) else {
        return;
    };
    ask(&mut browser, "busy");
    browser.wait("document.querySelector('.notice')?.textContent.includes('The server is busy. Asking again in 1 s')");
    browser.wait(&format!("{ANSWER} === 'Answer 2 to busy.'"));
    settle(&mut browser);

    ask(&mut browser, "lost");
    let notice = "[...document.querySelectorAll('.notice:not([hidden])')].at(-1)?.textContent";
    browser.wait(&format!("{notice}?.includes('The connection was lost')"));
    assert_eq!(browser.text(ANSWER), "one two ");
    browser.picture("lost");
    browser.click(".notice:not([hidden]) .primary");
    browser.wait(&format!("{ANSWER} === 'one two three'"));
    settle(&mut browser);
    assert_eq!(server.last()["continue_token_ids"], json!([101, 102, 103]));

    ask(&mut browser, "broken");
    browser.wait(&format!("{notice}?.includes('the template refuses')"));
    // A question without an answer and the next one are one message.
    ask(&mut browser, "short");
    browser.wait(&format!("{notice}?.includes('the template refuses') === false"));
    settle(&mut browser);
    let messages = server.last()["messages"].clone();
    assert_eq!(messages[4]["content"], "broken\n\nshort");
    finish(browser, &server, 2);
}

#[test]
fn thoughts_tools_and_ends_by_length() {
    let server = Server::start(ONE, None);
    let Some(mut browser) = opened("thoughts_tools_and_ends_by_length", &server) else { return };
    ask(&mut browser, "think");
    settle(&mut browser);
    assert_eq!(browser.text(ANSWER), "So be it.");
    assert_eq!(browser.text("document.querySelector('details em').textContent"), "thought");
    assert_eq!(browser.value("document.querySelector('details').open"), false);
    ask(&mut browser, "tool");
    browser
        .wait("document.querySelector('.tools pre')?.textContent.includes('\"city\": \"Bern\"')");
    settle(&mut browser);
    assert_eq!(browser.text("document.querySelector('.tools code').textContent"), "weather");
    // Thoughts are not sent back.
    assert_eq!(server.last()["messages"][1]["content"], "So be it.");
    browser.click("#new-chat");
    ask(&mut browser, "short");
    browser.wait("document.querySelector('.notice')?.textContent.includes('longest length')");
    finish(browser, &server, 0);
}

#[test]
fn conversations_are_renamed_exported_and_deleted() {
    let server = Server::start(ONE, None);
    let Some(mut browser) = opened("conversations_are_renamed_exported_and_deleted", &server)
    else {
        return;
    };
    for text in ["first", "second"] {
        browser.click("#new-chat");
        ask(&mut browser, text);
        settle(&mut browser);
    }
    let titles = "[...document.querySelectorAll('#chats .title')].map((node) => node.textContent)";
    assert_eq!(browser.value(titles), json!(["second", "first"]));
    browser.click("#chats li:last-child .icon");
    browser.click("#menu [data-do=rename]");
    browser.write("<b>מסמך</b>");
    browser.press("Enter");
    browser.wait(&format!("{titles}.includes('<b>מסמך</b>')"));
    browser.value("(() => { window.saved = []; HTMLAnchorElement.prototype.click = function () {
        window.saved.push(fetch(this.href).then((r) => r.text()).catch((e) => e.message), this.download) } })()");
    browser.click("#chats li:last-child .icon");
    browser.click("#menu [data-do=markdown]");
    assert_eq!(browser.text("window.saved[1]"), "-b-מסמך-b-.md");
    browser.click("#chats li:first-child .icon");
    browser.click("#menu [data-do=delete]");
    browser.wait(&format!("{titles}.length === 1"));
    browser.click("#toast button");
    browser.wait(&format!("{titles}.length === 2"));
    browser.click("#chats li:first-child .icon");
    browser.click("#menu [data-do=delete]");
    browser.wait(&format!("{titles}.length === 1"));
    browser.open(&server.url);
    browser.wait(&format!("{titles}.length === 1"));
}

/// What has less contrast to its ground than the 4.5 that WCAG 2 asks of text. What does not work at
/// the moment may be fainter.
const TOO_FAINT: &str = "(() => {
    const parts = (color) => color.match(/[\\d.]+/g).map(Number);
    const light = (color) => {
        const [r, g, b] = parts(color).map((part) => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (node) => {
        const color = getComputedStyle(node).backgroundColor;
        return parts(color)[3] === 0 ? ground(node.parentElement) : color;
    };
    const found = [];
    for (const node of document.querySelectorAll('body *')) {
        const isText = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
        if (!isText || !node.checkVisibility({ visibilityProperty: true }) || node.disabled) continue;
        const [a, b] = [light(getComputedStyle(node).color), light(ground(node))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < 4.5) found.push(`${node.tagName}.${node.className} ${contrast.toFixed(2)}`);
    }
    return found;
})()";

#[test]
fn it_fits_a_phone_in_light_and_dark() {
    let server = Server::start(ONE, None);
    let Some(mut browser) = opened("it_fits_a_phone_in_light_and_dark", &server) else { return };
    let ground = "getComputedStyle(document.body).backgroundColor";
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        browser.size(360, 740, true);
        browser.open(&server.url);
        browser.wait("document.querySelector('#chip').textContent");
        browser.picture(&format!("phone-welcome-{scheme}"));
        ask(&mut browser, "How does quicksort work?");
        settle(&mut browser);
        for top in ["0", "document.querySelector('#scroll').scrollHeight"] {
            browser.value(&format!("document.querySelector('#scroll').scrollTop = {top}"));
            let wide = "[document.documentElement.scrollWidth, document.querySelector('#scroll').scrollWidth].every((width) => width <= 360)";
            assert_eq!(browser.value(wide), true, "{scheme}");
        }
        assert_eq!(browser.value(TOO_FAINT), json!([]), "{scheme}");
        // All of it can be reached, and is large enough for a thumb.
        let small = "[...document.querySelectorAll('button')].filter((node) => node.checkVisibility({ visibilityProperty: true }) && node.getBoundingClientRect().width > 0 && node.getBoundingClientRect().height < 24).map((node) => node.outerHTML)";
        assert_eq!(browser.value(small), json!([]));
        grounds.push(browser.text(ground));
        browser.value("document.querySelector('#scroll').scrollTop = 0");
        browser.picture(&format!("phone-{scheme}"));
        browser.click("#open-sidebar");
        browser.wait("document.querySelector('#sidebar').getBoundingClientRect().left === 0");
        browser.picture(&format!("phone-side-{scheme}"));
        browser.press("Escape");
        browser.size(1100, 760, false);
        browser.value("document.querySelector('#scroll').scrollTop = 0");
        browser.picture(&format!("desktop-{scheme}"));
        browser.value("document.querySelector('#scroll').scrollTop = 1e6");
        browser.picture(&format!("desktop-end-{scheme}"));
    }
    assert_ne!(grounds[0], grounds[1]);
    // The switch outweighs the system, and is remembered: light, then dark, then the system again.
    browser.click("#theme");
    assert_eq!(browser.text(ground), grounds[0]);
    browser.open(&server.url);
    assert_eq!(browser.text(ground), grounds[0]);
    finish(browser, &server, 0);
}
