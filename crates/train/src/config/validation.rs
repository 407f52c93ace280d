//! The one key of several shapes: `data.validation` is a path, a list of paths, or tables like those
//! of `data.sources`.

use super::document::{Item, Node, join};
use super::error::ConfigError;
use super::keys::{
    Range, SectionKeys, Value, describe, read_key, refuse_unknown, section, sentence, wrong,
};
use super::sections::Format;

section! {
    /// Text to measure the loss on while training; it is never trained on. Any number of these; or,
    /// in `[data]`, a mere path or a list of paths: `validation = "held-out.txt"`.
    pub struct ValidationSource {
        /// As in `sources`.
        path: String => Range::Given;
        /// As in `sources`.
        format: Option<Format>;
        /// As in `sources`.
        column: Option<String>;
    }
}

/// What is held out, in whichever way it was written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Validation(pub Vec<ValidationSource>);

/// A path alone, or a section.
fn source(node: &Node, path: &str) -> Result<ValidationSource, ConfigError> {
    match &node.item {
        Item::Text(text) if !text.is_empty() => {
            Ok(ValidationSource { path: text.clone(), ..ValidationSource::default() })
        }
        Item::Table(_) => ValidationSource::read(node, path),
        _ => Err(wrong(node, path, "a path, or a section with `path`".to_string())),
    }
}

impl Value for Validation {
    fn type_name() -> String {
        "a path, a section with `path`, or a list of them".to_string()
    }

    fn read(node: &Node, path: &str) -> Result<Validation, ConfigError> {
        match &node.item {
            Item::Array(elements) => {
                let numbered = elements.iter().enumerate();
                let sources = numbered
                    .map(|(index, element)| source(element, &join(path, &index.to_string())));
                sources.collect::<Result<_, _>>().map(Validation)
            }
            Item::Text(_) | Item::Table(_) => Ok(Validation(vec![source(node, path)?])),
            _ => Err(wrong(node, path, Validation::type_name())),
        }
    }

    /// As plainly as it can be said.
    fn write(&self) -> Option<Node> {
        let is_path =
            |source: &ValidationSource| source.format.is_none() && source.column.is_none();
        let paths = self.0.iter().all(is_path);
        let written = |source: &ValidationSource| match paths {
            true => source.path.write(),
            false => source.write(),
        };
        match self.0.as_slice() {
            [] => None,
            [one] if paths => written(one),
            several => Some(Item::Array(several.iter().filter_map(written).collect()).into()),
        }
    }

    fn sections(path: &str) -> Vec<SectionKeys> {
        Vec::<ValidationSource>::sections(path)
    }
}
