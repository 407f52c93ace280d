//! Numbers and texts as the report shows them.

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
            // Not allowed in HTML, and models do write them.
            control if control.is_control() && !matches!(control, '\n' | '\t') => {
                html.push(char::REPLACEMENT_CHARACTER);
            }
            plain => html.push(plain),
        }
    }
    html
}

/// `1,234,567`
pub(super) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Four digits: `0.0123`, `2.608`, `1,234`.
pub(super) fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 1e15 || (size > 0.0 && size < 1e-3) => format!("{value:.2e}"),
        size if size >= 1000.0 => grouped(value.round() as usize),
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 10.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Three digits and a letter: `2.05 M`.
pub(super) fn short(value: f64) -> String {
    let (divisor, letter) = match value {
        value if value >= 1e12 => (1e12, " T"),
        value if value >= 1e9 => (1e9, " B"),
        value if value >= 1e6 => (1e6, " M"),
        value if value >= 1e4 => (1e3, " k"),
        value => return grouped(value.round() as usize),
    };
    let scaled = value / divisor;
    let digits = if scaled >= 100.0 {
        0
    } else if scaled >= 10.0 {
        1
    } else {
        2
    };
    format!("{scaled:.digits$}{letter}")
}

/// The two largest units: `2 h 5 min`.
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_words() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(figure(2.6079), "2.608");
        assert_eq!(figure(0.00031), "3.10e-4");
        assert_eq!(figure(12345.6), "12,346");
        assert_eq!(short(2_048_000.0), "2.05 M");
        assert_eq!(short(9999.0), "9,999");
        assert_eq!(short(123_456.0), "123 k");
        assert_eq!(duration(3.21), "3.2 s");
        assert_eq!(duration(252.0), "4 min 12 s");
        assert_eq!(duration(7500.0), "2 h 5 min");
        assert_eq!(duration(200_000.0), "2 d 7 h");
    }

    #[test]
    fn nothing_escapes_into_html() {
        assert_eq!(escaped("<b a='\"'>&\u{0}\n"), "&lt;b a=&#39;&quot;&#39;&gt;&amp;\u{fffd}\n");
    }
}
