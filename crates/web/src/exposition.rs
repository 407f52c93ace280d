//! Prometheus' text format: what is counted, written as a page that it can fetch.
//!
//! Knows how lines look, and how values are spread over buckets; what is counted is its callers' affair.

use std::fmt::{self, Display, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The type of such a page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows. Declared with its whole name, `_total` included, in this version of the format.
    Counter,
    Gauge,
    Histogram,
}

/// A page that is being written: after each [`Page::head`] all lines of that name.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
}

impl Page {
    pub fn new() -> Page {
        Page { text: String::with_capacity(16 << 10) }
    }

    pub fn head(&mut self, name: &str, help: &str, kind: Kind) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.write(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// One value; `labels` as [`labels`] makes them, or nothing.
    pub fn line(&mut self, name: &str, labels: &str, value: impl Display) {
        match labels {
            "" => self.write(format_args!("{name} {value}\n")),
            labels => self.write(format_args!("{name}{{{labels}}} {value}\n")),
        }
    }

    /// A name with one value only.
    pub fn value(&mut self, kind: Kind, name: &str, help: &str, labels: &str, value: impl Display) {
        self.head(name, help, kind);
        self.line(name, labels, value);
    }

    pub fn into_text(self) -> String {
        self.text
    }

    fn write(&mut self, text: fmt::Arguments<'_>) {
        // Writing to a text cannot fail.
        let _ = self.text.write_fmt(text);
    }
}

/// `name="value",name="value"`, with what must not stand in a value escaped.
pub fn labels(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in pairs {
        let comma = if text.is_empty() { "" } else { "," };
        let _ = write!(text, "{comma}{name}=\"{}\"", escaped(value));
    }
    text
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// How values were spread.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    observed: Mutex<Observed>,
}

#[derive(Debug)]
struct Observed {
    /// One more than there are bounds; not cumulative.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    /// `bounds` rise; each belongs to the bucket that it ends.
    pub fn new(bounds: &'static [f64]) -> Histogram {
        let observed = Observed { counts: vec![0; bounds.len() + 1], sum: 0.0 };
        Histogram { bounds, observed: Mutex::new(observed) }
    }

    pub fn observe(&self, value: f64) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        // Nothing can panic while it holds the lock.
        let mut observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        observed.counts[place] += 1;
        observed.sum += value;
    }

    pub fn observe_time(&self, time: Duration) {
        self.observe(time.as_secs_f64());
    }

    /// Its lines, without a head.
    pub fn write(&self, page: &mut Page, name: &str, labels: &str) {
        let observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        let comma = if labels.is_empty() { "" } else { "," };
        let mut total = 0;
        for (bound, count) in self.bounds.iter().zip(&observed.counts) {
            total += count;
            page.write(format_args!("{name}_bucket{{{labels}{comma}le=\"{bound:?}\"}} {total}\n"));
        }
        total += observed.counts.last().copied().unwrap_or(0);
        page.write(format_args!("{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {total}\n"));
        page.line(&format!("{name}_sum"), labels, observed.sum);
        page.line(&format!("{name}_count"), labels, total);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_are_cumulative_and_bounds_belong_to_them() {
        let histogram = Histogram::new(&[0.3, 0.5]);
        for value in [0.3, 0.31, 9999.0] {
            histogram.observe(value);
        }
        let mut page = Page::new();
        page.head("a_seconds", "how long", Kind::Histogram);
        histogram.write(&mut page, "a_seconds", &labels(&[("of", "a \"b\"\n")]));
        let expected = r#"# HELP a_seconds how long
# TYPE a_seconds histogram
a_seconds_bucket{of="a \"b\"\n",le="0.3"} 1
a_seconds_bucket{of="a \"b\"\n",le="0.5"} 2
a_seconds_bucket{of="a \"b\"\n",le="+Inf"} 3
a_seconds_sum{of="a \"b\"\n"} 9999.61
a_seconds_count{of="a \"b\"\n"} 3
"#;
        assert_eq!(page.into_text(), expected);
        let mut bare = Page::new();
        histogram.write(&mut bare, "b", "");
        assert!(bare.into_text().starts_with("b_bucket{le=\"0.3\"} 1\n"));
    }

    proptest! {
        #[test]
        fn no_value_ends_its_line_or_its_quotes(value in "\\PC*|[\"\\\\\n]*") {
            let line = labels(&[("a", &value)]);
            prop_assert!(!line.contains('\n'));
            // What a reader makes of it is what was written.
            let inner = line.strip_prefix("a=\"").and_then(|rest| rest.strip_suffix('"')).unwrap();
            let mut read = String::new();
            let mut signs = inner.chars();
            while let Some(sign) = signs.next() {
                prop_assert!(sign != '"');
                match sign {
                    '\\' => match signs.next() {
                        Some('n') => read.push('\n'),
                        Some(other) => read.push(other),
                        None => prop_assert!(false, "a lone backslash at the end"),
                    },
                    other => read.push(other),
                }
            }
            prop_assert_eq!(read, value);
        }
    }
}
