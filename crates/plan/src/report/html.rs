//! Pieces of HTML. Texts come from outside (a user's catalog, compilers, providers), so none gets into a
//! page but through here. Knows no plan.

/// Text in HTML, also within attributes.
pub(super) fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            // Not allowed in HTML.
            control if control.is_control() && !matches!(control, '\n' | '\t') => {
                html.push(char::REPLACEMENT_CHARACTER);
            }
            plain => html.push(plain),
        }
    }
    html
}

/// A text that leads to an address; only the text where the address is none of the web.
pub(super) fn link(text: &str, address: Option<&str>) -> String {
    match address.filter(|address| address.starts_with("https://")) {
        Some(address) => {
            format!("<a href=\"{}\" rel=\"noopener\">{}</a>", escaped(address), escaped(text))
        }
        None => escaped(text),
    }
}

/// A cell of a table.
pub(super) struct Cell {
    html: String,
    is_number: bool,
    /// Short enough to stay in one line.
    is_short: bool,
}

/// Letters of a text that is not broken into lines.
const SHORT: usize = 22;

pub(super) fn text(text: &str) -> Cell {
    Cell { html: escaped(text), is_number: false, is_short: text.chars().count() <= SHORT }
}

pub(super) fn number(text: &str) -> Cell {
    Cell { html: escaped(text), is_number: true, is_short: true }
}

/// What is HTML already.
pub(super) fn html(html: String) -> Cell {
    Cell { html, is_number: false, is_short: false }
}

/// A table that scrolls in itself where it is too wide; the first cell of each row names the row. Empty
/// where it has no rows. Without a heading it is a list of facts, below a heading that says what its
/// caption would.
pub(super) fn table(caption: &str, heading: &[&str], rows: Vec<Vec<Cell>>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let caption = escaped(caption);
    let is_number = |column: usize| rows.iter().any(|row| row[column].is_number);
    let facts = if heading.is_empty() { " facts" } else { "" };
    let mut page = format!(
        "<div class=\"scroll{facts}\" role=\"region\" aria-label=\"{caption}\" tabindex=\"0\">\n\
         <table>\n<caption>{caption}</caption>\n"
    );
    if !heading.is_empty() {
        page.push_str("<thead><tr>");
        for (column, name) in heading.iter().enumerate() {
            let class = if is_number(column) { " class=\"number\"" } else { "" };
            page.push_str(&format!("<th scope=\"col\"{class}>{}</th>", escaped(name)));
        }
        page.push_str("</tr></thead>\n");
    }
    page.push_str("<tbody>\n");
    for row in &rows {
        page.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            let class = match (cell.is_number, cell.is_short) {
                (true, _) => " class=\"number\"",
                (false, true) => " class=\"short\"",
                (false, false) => "",
            };
            match column {
                0 => page.push_str(&format!("<th scope=\"row\"{class}>{}</th>", cell.html)),
                _ => page.push_str(&format!("<td{class}>{}</td>", cell.html)),
            }
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody>\n</table>\n</div>\n");
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        assert_eq!(escaped("<b a='1'>\"&\u{1}"), "&lt;b a=&#39;1&#39;&gt;&quot;&amp;\u{fffd}");
        let table = table("<i>", &["<u>", "n"], vec![vec![text("<s>"), number("1")]]);
        assert!(!["<i>", "<u>", "<s>"].iter().any(|tag| table.contains(tag)), "{table}");
        assert!(table.contains("<td class=\"number\">1</td>"), "{table}");
    }

    #[test]
    fn only_addresses_of_the_web_are_links() {
        assert_eq!(link("a", Some("javascript:alert(1)")), "a");
        let quoted = link("a", Some("https://example.com/\" onclick=\"x"));
        assert!(quoted.contains("/&quot; onclick=&quot;x\" rel"), "{quoted}");
    }
}
