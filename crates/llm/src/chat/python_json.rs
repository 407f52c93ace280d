//! JSON spelled as Python's `json.dumps` spells it, which is what models saw in training.

use serde_json::{Number, Value};

/// The options of `json.dumps` that templates use.
pub(super) struct Style {
    pub(super) ascii_only: bool,
    pub(super) indent: Option<usize>,
    /// Between items, and after a key.
    pub(super) separators: Option<Vec<String>>,
    pub(super) sorted: bool,
}

pub(super) fn dumps(value: &Value, style: &Style) -> Result<String, String> {
    let separators = style.separators.as_deref();
    let (item, key) = match (separators, style.indent) {
        (Some([item, key]), _) => (item.as_str(), key.as_str()),
        (Some(_), _) => return Err("tojson: `separators` must be two strings".to_owned()),
        (None, Some(_)) => (",", ": "),
        (None, None) => (", ", ": "),
    };
    let mut writer = Writer { text: String::new(), style, item, key };
    writer.value(value, 0);
    Ok(writer.text)
}

struct Writer<'a> {
    text: String,
    style: &'a Style,
    item: &'a str,
    key: &'a str,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, depth: usize) {
        match value {
            Value::Null => self.text.push_str("null"),
            Value::Bool(value) => self.text.push_str(if *value { "true" } else { "false" }),
            Value::Number(number) => self.text.push_str(&spell_number(number)),
            Value::String(string) => self.string(string),
            Value::Array(values) if values.is_empty() => self.text.push_str("[]"),
            Value::Array(values) => {
                self.text.push('[');
                for (index, value) in values.iter().enumerate() {
                    self.before_item(index, depth + 1);
                    self.value(value, depth + 1);
                }
                self.new_line(depth);
                self.text.push(']');
            }
            Value::Object(entries) if entries.is_empty() => self.text.push_str("{}"),
            Value::Object(entries) => {
                let mut entries: Vec<_> = entries.iter().collect();
                if self.style.sorted {
                    entries.sort_by_key(|(key, _)| *key);
                }
                self.text.push('{');
                for (index, (key, value)) in entries.into_iter().enumerate() {
                    self.before_item(index, depth + 1);
                    self.string(key);
                    self.text.push_str(self.key);
                    self.value(value, depth + 1);
                }
                self.new_line(depth);
                self.text.push('}');
            }
        }
    }

    fn before_item(&mut self, index: usize, depth: usize) {
        if index > 0 {
            self.text.push_str(self.item);
        }
        self.new_line(depth);
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = self.style.indent {
            self.text.push('\n');
            self.text.extend(std::iter::repeat_n(' ', indent.saturating_mul(depth)));
        }
    }

    fn string(&mut self, string: &str) {
        self.text.push('"');
        for character in string.chars() {
            match character {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '\u{8}' => self.text.push_str("\\b"),
                '\u{c}' => self.text.push_str("\\f"),
                control if control < ' ' => self.escape(control),
                other if self.style.ascii_only && !other.is_ascii_graphic() && other != ' ' => {
                    self.escape(other)
                }
                other => self.text.push(other),
            }
        }
        self.text.push('"');
    }

    fn escape(&mut self, character: char) {
        for unit in character.encode_utf16(&mut [0; 2]) {
            self.text.push_str(&format!("\\u{unit:04x}"));
        }
    }
}

fn spell_number(number: &Number) -> String {
    match number.as_f64().filter(|_| number.is_f64()) {
        Some(float) => spell_float(float),
        None => number.to_string(),
    }
}

/// Python writes exponents with a sign and at least two digits, and switches to them where Rust's
/// `Debug` does.
pub(super) fn spell_float(float: f64) -> String {
    let text = format!("{float:?}");
    match text.split_once('e') {
        None => text,
        Some((mantissa, exponent)) => {
            let (sign, digits) =
                exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
            format!("{mantissa}e{sign}{digits:0>2}")
        }
    }
}
