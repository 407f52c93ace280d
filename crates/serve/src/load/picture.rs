//! The figures as a picture: four small charts over the paces, as SVG, or as a page around it. Both
//! stand alone and follow the reader's light or dark.

use std::fmt::Write;

use super::statistics::Distribution;
use super::summary::Summary;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 560.0;
/// A chart with its title and labels.
const CHART: (f64, f64) = (WIDTH / 2.0, (HEIGHT - 40.0) / 2.0);
const LEFT: f64 = 62.0;
const RIGHT: f64 = 18.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 40.0;

const STYLE: &str = "text{font:13px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#59606b}\
    .title{font-weight:600;fill:#22262c}.grid{stroke:#e4e7eb}.axis{stroke:#9aa1ab}\
    .a{stroke:#2a63b8}.b{stroke:#c2500c}.a,.b{stroke-width:2;fill:none;stroke-linejoin:round}\
    .dot-a{fill:#2a63b8}.dot-b{fill:#c2500c}\
    @media(prefers-color-scheme:dark){text{fill:#a5acb6}.title{fill:#e6e9ed}.grid{stroke:#30353c}\
    .axis{stroke:#6c737d}.a{stroke:#78acf8}.b{stroke:#f0a05e}.dot-a{fill:#78acf8}.dot-b{fill:#f0a05e}}";

/// A value for each pace, or none.
type Line<'a> = (&'static str, Vec<Option<f64>>);

/// The charts, with `title` above them.
pub fn svg(title: &str, summaries: &[Summary]) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"Throughput and latency under load\">\n<style>{STYLE}</style>\n\
         <text class=\"title\" x=\"12\" y=\"22\">{}</text>\n",
        escaped(title)
    );
    let names: Vec<String> = summaries.iter().map(Summary::name).collect();
    for (number, (title, lines)) in charts(summaries).into_iter().enumerate() {
        let (column, row) = ((number % 2) as f64, (number / 2) as f64);
        let (x, y) = (column * CHART.0, 40.0 + row * CHART.1);
        let _ = writeln!(svg, "<g transform=\"translate({x} {y})\">");
        chart(&mut svg, title, &names, &lines);
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

/// The charts as a page, with a table of `rows` under them; the first row is the heading.
pub fn html(title: &str, summaries: &[Summary], rows: &[Vec<String>]) -> String {
    let mut table = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cell = if number == 0 { "th" } else { "td" };
        table.push_str("<tr>");
        for text in row {
            let _ = write!(table, "<{cell}>{}</{cell}>", escaped(text));
        }
        table.push_str("</tr>\n");
    }
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>{title}</title>\n<style>:root{{color-scheme:light dark}}\
         body{{font:15px/1.5 system-ui,-apple-system,'Segoe UI',sans-serif;max-width:56rem;\
         margin:2rem auto;padding:0 1rem}}svg{{width:100%;height:auto}}\
         div{{overflow-x:auto}}table{{border-collapse:collapse;font-variant-numeric:tabular-nums}}\
         th,td{{padding:.25rem .8rem;text-align:right;border-bottom:1px solid #8884}}\
         th:first-child,td:first-child{{text-align:left}}</style></head>\n<body>\n{}\
         <div><table>\n{table}</table></div>\n</body></html>\n",
        svg(title, summaries),
        title = escaped(title),
    )
}

fn charts(summaries: &[Summary]) -> Vec<(&'static str, Vec<Line<'static>>)> {
    let each = |value: fn(&Summary) -> Option<f64>| summaries.iter().map(value).collect();
    let spread = |value: fn(&Summary) -> Option<Distribution>| -> Vec<Line<'static>> {
        let of = |share: fn(Distribution) -> f64| {
            summaries.iter().map(|summary| value(summary).map(share)).collect()
        };
        vec![("p50", of(|values| values.p50)), ("p99", of(|values| values.p99))]
    };
    let throughput = each(|summary| Some(summary.output_tokens_per_second));
    vec![
        ("Output tokens per second", vec![("all requests", throughput)]),
        ("Time to first token, ms", spread(|summary| summary.ttft_ms)),
        ("Time per output token, ms", spread(|summary| summary.tpot_ms)),
        ("Latency of a whole answer, ms", spread(|summary| summary.latency_ms)),
    ]
}

/// Paces stand at equal distances, since they mostly grow by factors.
fn chart(svg: &mut String, title: &str, names: &[String], lines: &[Line<'_>]) {
    let values = lines.iter().flat_map(|(_, values)| values).flatten().copied();
    let greatest = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
    let step = round_step(greatest / 4.0);
    let top = (greatest / step).ceil().max(1.0) * step;
    let (right, bottom) = (CHART.0 - RIGHT, CHART.1 - BOTTOM);
    let height = |value: f64| bottom - value / top * (bottom - TOP);
    let place =
        |index: usize| LEFT + (index as f64 + 0.5) / names.len().max(1) as f64 * (right - LEFT);
    let _ = writeln!(svg, "<text class=\"title\" x=\"12\" y=\"24\">{title}</text>");
    let digits = (-step.log10()).ceil().clamp(0.0, 6.0) as usize;
    for index in 0..=(top / step).round() as usize {
        let level = index as f64 * step;
        let (class, y) = (if index == 0 { "axis" } else { "grid" }, height(level));
        let _ = writeln!(svg, "<path class=\"{class}\" d=\"M{LEFT} {y:.1}H{right}\"/>");
        let (x, y) = (LEFT - 8.0, y + 4.5);
        let _ = writeln!(
            svg,
            "<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{level:.digits$}</text>"
        );
    }
    for (index, name) in names.iter().enumerate() {
        let (x, y) = (place(index), bottom + 20.0);
        let name = escaped(name);
        let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{name}</text>");
    }
    for (number, (name, values)) in lines.iter().enumerate() {
        let class = if number == 0 { "a" } else { "b" };
        let mut path = String::new();
        let mut down = false;
        for (index, value) in values.iter().enumerate() {
            let Some(value) = value.filter(|value| value.is_finite()) else {
                down = false;
                continue;
            };
            let (x, y) = (place(index), height(value));
            let _ = write!(path, "{}{x:.1} {y:.1}", if down { 'L' } else { 'M' });
            let _ = writeln!(
                svg,
                "<circle class=\"dot-{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\">\
                 <title>{value:.1}</title></circle>"
            );
            down = true;
        }
        let _ = writeln!(svg, "<path class=\"{class}\" d=\"{path}\"/>");
        if lines.len() > 1 {
            let x = right - 56.0 * (lines.len() - number) as f64;
            let _ = writeln!(svg, "<path class=\"{class}\" d=\"M{x} 20h16\"/>");
            let _ = writeln!(svg, "<text x=\"{}\" y=\"24\">{name}</text>", x + 22.0);
        }
    }
}

/// The least of 1, 2 and 5 times a power of ten that is not below `rough`; 1 for nothing.
fn round_step(rough: f64) -> f64 {
    if !(rough > 0.0 && rough.is_finite()) {
        return 1.0;
    }
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= rough);
    factor.unwrap_or(10.0) * power
}

/// Text in XML, also within attributes.
fn escaped(text: &str) -> String {
    let mut xml = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => xml.push_str("&amp;"),
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '"' => xml.push_str("&quot;"),
            control if control.is_control() => xml.push(char::REPLACEMENT_CHARACTER),
            plain => xml.push(plain),
        }
    }
    xml
}

#[cfg(test)]
mod tests {
    use super::super::measure::{Measured, Pace, Record};
    use super::*;

    fn summaries() -> Vec<Summary> {
        let record = |ttft| Record {
            first: Some(ttft),
            last: Some(ttft + 1.0),
            ended: ttft + 1.0,
            output_tokens: 11,
            ..Record::default()
        };
        let one = |clients: usize| {
            let records = (0..clients).map(|index| record(0.1 * index as f64)).collect();
            let pace = Pace::Clients(clients);
            Summary::of(&Measured { pace, seconds: 2.0, records, dropped: 0 }, None)
        };
        vec![
            one(1),
            one(8),
            Summary::of(
                &Measured { pace: Pace::Clients(9), seconds: 0.0, records: Vec::new(), dropped: 0 },
                None,
            ),
        ]
    }

    #[test]
    fn every_value_has_its_place() {
        let svg = svg("a <model> & \"more\"", &summaries());
        assert!(svg.contains("a &lt;model&gt; &amp; &quot;more&quot;"), "{svg}");
        // Two paces with values in each of three charts with two lines, three in the first.
        assert_eq!(svg.matches("<circle").count(), 3 + 3 * 2 * 2);
        assert!(svg.contains("8 clients") && !svg.contains("NaN") && !svg.contains("inf"));
        assert!(svg.contains("<title>44.0</title>"), "8 times 11 tokens in 2 s");
    }

    #[test]
    fn a_page_has_the_table_too() {
        let rows = vec![vec!["what".to_string()], vec!["<b>".to_string()]];
        let html = html("x", &summaries(), &rows);
        assert!(html.contains("<th>what</th>") && html.contains("<td>&lt;b&gt;</td>"));
        // The name of XML's vocabulary is no request.
        assert_eq!(html.matches("http").count(), 1);
    }

    #[test]
    fn steps_are_round() {
        for (rough, step) in
            [(0.0, 1.0), (0.7, 1.0), (1.2, 2.0), (30.0, 50.0), (60.0, 100.0), (0.021, 0.05)]
        {
            assert!((round_step(rough) - step).abs() < 1e-12, "{rough}");
        }
    }
}
