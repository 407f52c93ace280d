//! A config file as a tree that remembers where each value came from, and `--set` on it. Knows TOML,
//! but not which keys there are.

use std::fmt;

use toml::de::{DeTable, DeValue};

use super::error::ConfigError;

/// A value with its origin.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub item: Item,
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Item {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Array(Vec<Node>),
    /// In the order of writing, so that a printed config reads like the reference.
    Table(Vec<(String, Node)>),
}

/// Where a value was written, for messages.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Origin {
    /// A line of the file, from 1.
    Line(usize),
    /// The argument of a `--set`.
    Flag(String),
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Line(line) => write!(formatter, " (line {line})"),
            Origin::Flag(flag) => write!(formatter, " (--set {flag})"),
            Origin::Default => Ok(()),
        }
    }
}

impl Item {
    pub fn at(self, origin: Origin) -> Node {
        Node { item: self, origin }
    }
}

impl From<Item> for Node {
    fn from(item: Item) -> Node {
        item.at(Origin::Default)
    }
}

impl Node {
    pub fn get(&self, key: &str) -> Option<&Node> {
        let Item::Table(entries) = &self.item else { return None };
        entries.iter().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    /// Reads a whole file.
    pub fn parse(text: &str) -> Result<Node, ConfigError> {
        let table = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(text.len(), |span| span.start);
            ConfigError::Syntax {
                line: line_of(text, at),
                column: text.get(..at).map_or(0, |before| {
                    before.rsplit('\n').next().unwrap_or_default().chars().count()
                }) + 1,
                // The parser may explain itself in several lines.
                message: error.message().trim().replace('\n', "; "),
            }
        })?;
        let place = |at: usize| Origin::Line(line_of(text, at));
        Ok(table_node(table.get_ref(), &place)?.at(Origin::Line(1)))
    }

    /// Does what one `--set path.to.key=value` says. The value is TOML, or else text as it stands;
    /// the elements of an array go by their number, where the number after the last appends.
    pub fn set(&mut self, flag: &str) -> Result<(), ConfigError> {
        let wrong = |reason: String| ConfigError::Set { flag: flag.to_string(), reason };
        let Some((path, value)) = flag.split_once('=') else {
            return Err(wrong("it is not of the form key=value".to_string()));
        };
        let path = path.trim();
        if path.split('.').any(|part| part.trim().is_empty()) {
            return Err(wrong(format!("`{path}` is no path of keys such as training.steps")));
        }
        let value = flag_value(value.trim(), flag)?;
        let mut place = self;
        let mut walked = String::new();
        for part in path.split('.').map(str::trim) {
            let next = join(&walked, part);
            let here = std::mem::replace(&mut walked, next);
            place = match &mut place.item {
                Item::Table(entries) => {
                    let known = entries.iter().position(|(name, _)| name == part);
                    let index = known.unwrap_or(entries.len());
                    if known.is_none() {
                        let fresh = Item::Table(Vec::new()).at(Origin::Flag(flag.to_string()));
                        entries.push((part.to_string(), fresh));
                    }
                    &mut entries[index].1
                }
                Item::Array(elements) => {
                    let length = elements.len();
                    let index = part.parse().ok().filter(|&index: &usize| index <= length);
                    let index = index.ok_or_else(|| {
                        wrong(format!("`{here}` has {length} elements, numbered from 0"))
                    })?;
                    if index == length {
                        let fresh = Item::Table(Vec::new()).at(Origin::Flag(flag.to_string()));
                        elements.push(fresh);
                    }
                    &mut elements[index]
                }
                _ => return Err(wrong(format!("`{here}` is a value and has no keys in it"))),
            };
        }
        *place = value;
        Ok(())
    }

    /// Every value in the tree with its path, in order. Arrays of plain values are one value.
    pub fn flatten(&self) -> Vec<(String, String)> {
        let mut flat = Vec::new();
        self.flatten_into("", &mut flat);
        flat
    }

    fn flatten_into(&self, path: &str, flat: &mut Vec<(String, String)>) {
        match &self.item {
            Item::Table(entries) => {
                for (name, node) in entries {
                    node.flatten_into(&join(path, name), flat);
                }
            }
            Item::Array(elements) if elements.iter().any(Node::is_table) => {
                for (index, element) in elements.iter().enumerate() {
                    element.flatten_into(&join(path, &index.to_string()), flat);
                }
            }
            _ => flat.push((path.to_string(), self.to_string())),
        }
    }

    fn is_table(&self) -> bool {
        matches!(self.item, Item::Table(_))
    }

    /// The tree as a config file.
    pub fn to_document(&self) -> String {
        let mut text = String::new();
        self.write_table("", &mut text);
        text
    }

    fn write_table(&self, path: &str, text: &mut String) {
        let Item::Table(entries) = &self.item else { return };
        let has_own_header = |node: &Node| match &node.item {
            Item::Table(_) => true,
            Item::Array(elements) => elements.iter().any(Node::is_table),
            _ => false,
        };
        for (name, node) in entries.iter().filter(|(_, node)| !has_own_header(node)) {
            text.push_str(&format!("{name} = {node}\n"));
        }
        for (name, node) in entries.iter().filter(|(_, node)| has_own_header(node)) {
            let path = join(path, name);
            let mut section = |node: &Node, header: String| {
                if !text.is_empty() {
                    text.push('\n');
                }
                text.push_str(&format!("{header}\n"));
                node.write_table(&path, text);
            };
            match &node.item {
                Item::Array(elements) => {
                    elements.iter().for_each(|element| section(element, format!("[[{path}]]")));
                }
                _ => section(node, format!("[{path}]")),
            }
        }
    }
}

/// As TOML in one line.
impl fmt::Display for Node {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.item {
            Item::Text(text) => write_text(text, formatter),
            Item::Integer(number) => write!(formatter, "{number}"),
            // With a point or an exponent, so that it is read back as a float.
            Item::Float(number) => write!(formatter, "{number:?}"),
            Item::Boolean(value) => write!(formatter, "{value}"),
            Item::Array(elements) => {
                let elements: Vec<String> = elements.iter().map(Node::to_string).collect();
                write!(formatter, "[{}]", elements.join(", "))
            }
            Item::Table(entries) => {
                let entries: Vec<String> =
                    entries.iter().map(|(name, node)| format!("{name} = {node}")).collect();
                write!(formatter, "{{ {} }}", entries.join(", "))
            }
        }
    }
}

fn write_text(text: &str, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    use fmt::Write;
    formatter.write_char('"')?;
    for character in text.chars() {
        match character {
            '"' => formatter.write_str("\\\"")?,
            '\\' => formatter.write_str("\\\\")?,
            '\n' => formatter.write_str("\\n")?,
            '\t' => formatter.write_str("\\t")?,
            control if control.is_control() => write!(formatter, "\\u{:04X}", control as u32)?,
            plain => formatter.write_char(plain)?,
        }
    }
    formatter.write_char('"')
}

/// One step down a path.
pub(super) fn join(path: &str, name: &str) -> String {
    match path {
        "" => name.to_string(),
        path => format!("{path}.{name}"),
    }
}

/// TOML if it is, else the text as it stands: a shell makes quotes a nuisance.
fn flag_value(value: &str, flag: &str) -> Result<Node, ConfigError> {
    let origin = |_| Origin::Flag(flag.to_string());
    let text = format!("value = {value}");
    if let Ok(table) = DeTable::parse(&text) {
        // More than one key if the value holds a line break; then it was not a TOML value.
        if let (1, Some((_, value))) = (table.get_ref().len(), table.get_ref().iter().next()) {
            return node(value.get_ref(), origin(0), &origin);
        }
    }
    Ok(Item::Text(value.to_string()).at(origin(0)))
}

fn table_node(table: &DeTable<'_>, place: &dyn Fn(usize) -> Origin) -> Result<Item, ConfigError> {
    let mut entries: Vec<(usize, String, Node)> = Vec::new();
    for (name, value) in table {
        let at = name.span().start;
        entries.push((at, name.get_ref().to_string(), node(value.get_ref(), place(at), place)?));
    }
    entries.sort_by_key(|&(at, _, _)| at);
    Ok(Item::Table(entries.into_iter().map(|(_, name, node)| (name, node)).collect()))
}

fn node(
    value: &DeValue<'_>,
    origin: Origin,
    place: &dyn Fn(usize) -> Origin,
) -> Result<Node, ConfigError> {
    let unusable = |what: String| ConfigError::Value { origin: origin.to_string(), what };
    let item = match value {
        DeValue::String(text) => Item::Text(text.to_string()),
        DeValue::Integer(number) => Item::Integer(
            i64::from_str_radix(number.as_str(), number.radix())
                .map_err(|_| unusable(format!("{number} is too large a number")))?,
        ),
        DeValue::Float(number) => match number.as_str().parse() {
            Ok(number) if f64::is_finite(number) => Item::Float(number),
            _ => return Err(unusable(format!("{number} is not a finite number"))),
        },
        DeValue::Boolean(value) => Item::Boolean(*value),
        DeValue::Datetime(date) => {
            return Err(unusable(format!("{date} is a date: write text in quotes")));
        }
        DeValue::Array(elements) => Item::Array(
            elements
                .iter()
                .map(|element| node(element.get_ref(), place(element.span().start), place))
                .collect::<Result<_, _>>()?,
        ),
        DeValue::Table(table) => table_node(table, place)?,
    };
    Ok(item.at(origin))
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|&&byte| byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(text: &str, flag: &str) -> Result<String, String> {
        let mut node = Node::parse(text).map_err(|error| error.to_string())?;
        node.set(flag).map_err(|error| error.to_string())?;
        Ok(node.to_document())
    }

    #[test]
    fn flags_are_toml_or_bare_text() {
        assert_eq!(set("", "a.b=2").unwrap(), "[a]\nb = 2\n");
        assert_eq!(set("", "a=runs/one").unwrap(), "a = \"runs/one\"\n");
        assert_eq!(set("", "a=[1, 2.5]").unwrap(), "a = [1, 2.5]\n");
        assert_eq!(set("", "a=x\nb = 2").unwrap(), "a = \"x\\nb = 2\"\n");
        assert_eq!(set("", "a=1\nb = 2").unwrap(), "a = \"1\\nb = 2\"\n");
        assert_eq!(set("", "a=b=c").unwrap(), "a = \"b=c\"\n");
    }

    #[test]
    fn flags_reach_into_arrays_of_tables() {
        let text = "[[s]]\nw = 1\n[[s]]\nw = 2\n";
        assert_eq!(set(text, "s.1.w=3").unwrap(), "[[s]]\nw = 1\n\n[[s]]\nw = 3\n");
        assert!(set(text, "s.2.w=3").unwrap().ends_with("[[s]]\nw = 3\n"));
        let error = set(text, "s.3.w=3").unwrap_err();
        assert!(error.contains("--set s.3.w=3") && error.contains("`s` has 2 elements"), "{error}");
    }

    #[test]
    fn what_is_wrong_with_a_flag_is_said() {
        let error = |flag| set("a = 1", flag).unwrap_err();
        assert!(error("a").contains("not of the form key=value"));
        assert!(error("a.b=1").contains("`a` is a value and has no keys in it"));
        assert!(error("a..b=1").contains("no path of keys"));
    }

    #[test]
    fn syntax_errors_have_a_line_and_a_column() {
        let error = Node::parse("a = 1\nb = = 2\n").unwrap_err().to_string();
        assert!(error.starts_with("line 2, column 5: "), "{error}");
        let error = Node::parse("a = 1979-05-27").unwrap_err().to_string();
        assert!(error.contains("is a date") && error.contains("(line 1)"), "{error}");
        let error = Node::parse("\na = nan").unwrap_err().to_string();
        assert!(error.contains("nan is not a finite number (line 2)"), "{error}");
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "(?s).{0,80}") {
            let _ = Node::parse(&text);
        }

        #[test]
        fn any_flag_is_survived(flag in "[a-c0-2.={}\\[\\]\" ]{0,20}") {
            let _ = Node::parse("a = 1\n[b]\n[[c]]\n").unwrap().set(&flag);
        }

        #[test]
        fn text_is_printed_as_toml_reads_it(text in any::<String>(), number in any::<f64>()) {
            let table = vec![
                ("t".to_string(), Node::from(Item::Text(text))),
                ("n".to_string(), Node::from(Item::Float(if number.is_finite() { number } else { 0.5 }))),
            ];
            let node = Node::from(Item::Table(table));
            let again = Node::parse(&node.to_document()).unwrap();
            prop_assert_eq!(again.flatten(), node.flatten());
        }
    }
}
