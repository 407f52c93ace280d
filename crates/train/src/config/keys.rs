//! How a key of the config is declared: once, with its name, type, default, range and meaning. The
//! macros below make of that a struct, its defaults, its parser, and the table that documents it.

use strsim::osa_distance;

use super::document::{Item, Node, Origin, join};
use super::error::ConfigError;

/// What is known of one key.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// From the root, such as `training.steps`; `data.sources[].path` stands for every element.
    pub path: String,
    /// In words, such as "whole number".
    pub type_name: String,
    /// As TOML; none where nothing is the default.
    pub default: Option<String>,
    /// The values allowed, in words.
    pub range: Option<String>,
    pub meaning: String,
}

/// A section of the config with its keys.
#[derive(Clone, Debug, PartialEq)]
pub struct SectionKeys {
    /// As it is written, such as `[training]`.
    pub header: String,
    pub meaning: String,
    pub keys: Vec<Key>,
}

/// Which values a key takes, beyond its type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Range {
    AtLeast(f64),
    Above(f64),
    /// Both ends included.
    Within(f64, f64),
    /// The first number included, the second not.
    Below(f64, f64),
    Given,
}

impl Range {
    fn words(self) -> String {
        match self {
            Range::AtLeast(least) => format!("at least {least}"),
            Range::Above(bound) => format!("above {bound}"),
            Range::Within(least, most) => format!("from {least} to {most}"),
            Range::Below(least, bound) => format!("at least {least} and below {bound}"),
            Range::Given => "not empty".to_string(),
        }
    }

    fn holds(self, item: &Item) -> bool {
        let number = match item {
            Item::Array(elements) => return elements.iter().all(|node| self.holds(&node.item)),
            Item::Text(text) => return self != Range::Given || !text.is_empty(),
            Item::Integer(number) => *number as f64,
            Item::Float(number) => *number,
            Item::Boolean(_) | Item::Table(_) => return true,
        };
        match self {
            Range::AtLeast(least) => number >= least,
            Range::Above(bound) => number > bound,
            Range::Within(least, most) => (least..=most).contains(&number),
            Range::Below(least, bound) => (least..bound).contains(&number),
            Range::Given => true,
        }
    }
}

/// A type that a key can have.
pub(super) trait Value: Sized {
    fn type_name() -> String;

    fn read(node: &Node, path: &str) -> Result<Self, ConfigError>;

    /// None where nothing is to be written.
    fn write(&self) -> Option<Node>;

    /// For a section: itself and the sections in it, headed `path`.
    fn sections(_path: &str) -> Vec<SectionKeys> {
        Vec::new()
    }
}

pub(super) fn wrong(node: &Node, path: &str, expected: String) -> ConfigError {
    ConfigError::Wrong {
        key: path.to_string(),
        found: match &node.item {
            Item::Table(_) => "a section".to_string(),
            _ => node.to_string(),
        },
        origin: node.origin.to_string(),
        expected,
    }
}

/// Reads one key of a section, or takes its default, and checks its range.
pub(super) fn read_key<T: Value>(
    section: &Node,
    path: &str,
    name: &str,
    default: T,
    range: Option<Range>,
) -> Result<T, ConfigError> {
    let (path, given) = (join(path, name), section.get(name));
    let value = match given {
        Some(node) => T::read(node, &path)?,
        None => default,
    };
    match (range, value.write()) {
        (Some(range), Some(written)) if !range.holds(&written.item) => {
            // As the user wrote it, which `write` may have turned into another type.
            Err(wrong(given.unwrap_or(&written), &path, range.words()))
        }
        _ => Ok(value),
    }
}

/// Fails for the first key that the section does not have.
pub(super) fn refuse_unknown<T: Value>(
    node: &Node,
    path: &str,
    names: &[&str],
) -> Result<(), ConfigError> {
    let Item::Table(entries) = &node.item else {
        return Err(wrong(node, path, T::type_name()));
    };
    let Some((key, value)) = entries.iter().find(|(key, _)| !names.contains(&key.as_str())) else {
        return Ok(());
    };
    let section = match path {
        "" => "the config".to_string(),
        path => format!("[{path}]"),
    };
    let hint = hint(key, path, names);
    Err(ConfigError::UnknownKey {
        key: key.clone(),
        section,
        origin: value.origin.to_string(),
        hint,
    })
}

fn hint(key: &str, path: &str, names: &[&str]) -> String {
    if path == "mesh" && key == "expert" {
        return "expert parallelism is not supported; the axes are data, fsdp and tensor"
            .to_string();
    }
    if let Some(near) = nearest(key, names) {
        return format!("did you mean `{near}`?");
    }
    let elsewhere: Vec<String> = super::Config::sections()
        .into_iter()
        .filter(|section| section.keys.iter().any(|known| known.path.ends_with(&format!(".{key}"))))
        .map(|section| section.header)
        .collect();
    if !elsewhere.is_empty() {
        return format!("it belongs in {}", elsewhere.join(" or "));
    }
    format!("the keys here are {}", names.join(", "))
}

/// The name that was probably meant: at most a third of its letters differ.
pub(super) fn nearest<'a>(key: &str, names: &[&'a str]) -> Option<&'a str> {
    let close = names.iter().map(|name| (osa_distance(key, name), *name));
    let (distance, name) = close.min_by_key(|&(distance, _)| distance)?;
    (distance <= (name.chars().count() / 3).max(1)).then_some(name)
}

/// The table row of a key.
pub(super) fn describe<T: Value>(
    path: &str,
    name: &str,
    default: &T,
    range: Option<Range>,
    doc: &[&str],
) -> Key {
    Key {
        path: join(path, name),
        type_name: T::type_name(),
        default: match range {
            Some(Range::Given) => None,
            _ => default.write().map(|node| node.to_string()),
        },
        range: range.map(Range::words),
        meaning: sentence(doc),
    }
}

/// Lines of a doc comment as one paragraph.
pub(super) fn sentence(doc: &[&str]) -> String {
    doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

/// A section of the config: `name: Type = default => range;`, each with a doc comment. Without a
/// default it is the type's own.
macro_rules! section {
    (
        $(#[doc = $doc:literal])+
        pub struct $section:ident {
            $(
                $(#[doc = $field_doc:literal])+
                $field:ident: $type:ty $(= $default:expr)? $(=> $range:expr)?;
            )+
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $section {
            $($(#[doc = $field_doc])+ pub $field: $type,)+
        }

        impl Default for $section {
            fn default() -> $section {
                $section { $($field: section!(@or_default $($default)?),)+ }
            }
        }

        impl Value for $section {
            fn type_name() -> String {
                "a section".to_string()
            }

            fn read(node: &Node, path: &str) -> Result<$section, ConfigError> {
                refuse_unknown::<$section>(node, path, &[$(stringify!($field)),+])?;
                let default = $section::default();
                Ok($section {
                    $($field: read_key(
                        node, path, stringify!($field), default.$field, section!(@range $($range)?),
                    )?,)+
                })
            }

            fn write(&self) -> Option<Node> {
                let entries = [$((stringify!($field), self.$field.write())),+];
                let entries = entries
                    .into_iter()
                    .filter_map(|(name, node)| Some((name.to_string(), node?)));
                Some(Item::Table(entries.collect()).into())
            }

            fn sections(path: &str) -> Vec<SectionKeys> {
                let default = $section::default();
                let mut keys = Vec::new();
                let mut inner = Vec::new();
                $(
                    let below = <$type as Value>::sections(&join(path, stringify!($field)));
                    if below.is_empty() {
                        keys.push(describe(
                            path, stringify!($field), &default.$field,
                            section!(@range $($range)?), &[$($field_doc),+],
                        ));
                    }
                    inner.extend(below);
                )+
                let meaning = sentence(&[$($doc),+]);
                let header = format!("[{path}]");
                let mut all = vec![SectionKeys { header, meaning, keys }];
                all.append(&mut inner);
                all
            }
        }
    };
    (@or_default) => { Default::default() };
    (@or_default $default:expr) => { $default };
    (@range) => { None };
    (@range $range:expr) => { Some($range) };
}

/// A type of a few words.
macro_rules! choices {
    (
        $(#[doc = $doc:literal])+
        pub enum $name:ident { $($(#[doc = $variant_doc:literal])+ $variant:ident = $word:literal,)+ }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[doc = $variant_doc])+ $variant,)+ }

        impl $name {
            /// The word in the config file.
            pub const fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)+ }
            }
        }

        impl Value for $name {
            fn type_name() -> String {
                alternatives(&[$($word),+])
            }

            fn read(node: &Node, path: &str) -> Result<$name, ConfigError> {
                match &node.item {
                    $(Item::Text(text) if text == $word => Ok($name::$variant),)+
                    _ => Err(wrong_choice(node, path, &[$($word),+])),
                }
            }

            fn write(&self) -> Option<Node> {
                Some(Item::Text(self.word().to_string()).into())
            }
        }
    };
}

pub(super) use {choices, section};

/// `"a", "b" or "c"`.
pub(super) fn alternatives(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

pub(super) fn wrong_choice(node: &Node, path: &str, words: &[&str]) -> ConfigError {
    wrong(node, path, alternatives(words))
}

/// A section that is not there.
pub(super) fn empty() -> Node {
    Item::Table(Vec::new()).at(Origin::Default)
}
