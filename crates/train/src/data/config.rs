//! The `[data]` section of a run's configuration. Says what is wanted; opens nothing.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::DataError;

/// What to train on, and how it is cut into sequences.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// Where the data is: tables with `path`, or just paths.
    #[serde(deserialize_with = "one_or_many")]
    pub sources: Vec<SourceConfig>,
    /// Tokens per sequence.
    pub sequence_length: usize,
    /// Draw sequences in a random order, another one in every epoch; otherwise in the order of the
    /// files.
    pub shuffle: bool,
    /// Chooses the random order.
    pub seed: u64,
    /// Data that is never trained on, to measure the loss with: a path, a table as in `sources`, or
    /// a list of them.
    #[serde(deserialize_with = "one_or_many")]
    pub validation: Vec<SourceConfig>,
    /// Instead of `validation`: this part of every source, taken from its end.
    pub validation_fraction: f64,
}

impl Default for DataConfig {
    fn default() -> DataConfig {
        DataConfig {
            sources: Vec::new(),
            sequence_length: 256,
            shuffle: true,
            seed: 0,
            validation: Vec::new(),
            validation_fraction: 0.0,
        }
    }
}

/// One place with data.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SourceConfig {
    /// A file, a folder, a pattern such as `corpus/*.jsonl`, or a known name (`shakespeare`).
    pub path: String,
    /// `text` (a document per file), `jsonl` or `parquet` (a document per line or row); guessed
    /// from the files' names if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// The field or column with the text, or with the list of messages of a conversation; `text` or
    /// `messages`, whichever is there, if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// This source's share of the sequences, relative to the other sources' weights. If no source
    /// has a weight, each gets a share in proportion to its size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Text,
    Jsonl,
    Parquet,
}

impl Format {
    pub(super) fn name(self) -> &'static str {
        match self {
            Format::Text => "text",
            Format::Jsonl => "jsonl",
            Format::Parquet => "parquet",
        }
    }
}

impl SourceConfig {
    /// Everything guessed from the path.
    pub fn at(path: impl Into<String>) -> SourceConfig {
        SourceConfig { path: path.into(), ..SourceConfig::default() }
    }
}

impl DataConfig {
    /// # Errors
    /// [`DataError::NoSources`], or [`DataError::Setting`] for values that make no sense.
    pub fn check(&self) -> Result<(), DataError> {
        let wrong = |message: String| Err(DataError::Setting(message));
        if self.sources.is_empty() {
            return Err(DataError::NoSources);
        }
        if self.sequence_length < 2 {
            return wrong(format!(
                "sequence_length is {}: it must be at least 2, a token and the one that follows",
                self.sequence_length
            ));
        }
        let fraction = self.validation_fraction;
        if !(0.0..1.0).contains(&fraction) {
            return wrong(format!(
                "validation_fraction is {fraction}: it must be 0 or more and less than 1"
            ));
        }
        if fraction > 0.0 && !self.validation.is_empty() {
            return wrong(
                "both `validation` and `validation_fraction` are given: leave one out".to_owned(),
            );
        }
        let weights: Vec<Option<f64>> = self.sources.iter().map(|source| source.weight).collect();
        if let Some(weight) = weights.iter().flatten().find(|w| !(w.is_finite() && **w > 0.0)) {
            return wrong(format!(
                "the weight {weight} is not a positive number: give another one"
            ));
        }
        if weights.iter().any(Option::is_some) && weights.iter().any(Option::is_none) {
            return wrong(
                "some sources have a weight and some have none: give it to all or to none of them"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

/// The table's fields. Apart, so that a source can also be a mere path.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceTable {
    path: String,
    format: Option<Format>,
    column: Option<String>,
    weight: Option<f64>,
}

impl<'de> Deserialize<'de> for SourceConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SourceConfig, D::Error> {
        deserializer.deserialize_any(SourceVisitor)
    }
}

struct SourceVisitor;

impl<'de> Visitor<'de> for SourceVisitor {
    type Value = SourceConfig;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a path, or a table with `path`")
    }

    fn visit_str<E: Error>(self, path: &str) -> Result<SourceConfig, E> {
        Ok(SourceConfig::at(path))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SourceConfig, A::Error> {
        let SourceTable { path, format, column, weight } =
            SourceTable::deserialize(MapAccessDeserializer::new(map))?;
        Ok(SourceConfig { path, format, column, weight })
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SourceConfig>, D::Error> {
    struct ListVisitor;

    impl<'de> Visitor<'de> for ListVisitor {
        type Value = Vec<SourceConfig>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a path, a table with `path`, or a list of them")
        }

        fn visit_str<E: Error>(self, path: &str) -> Result<Vec<SourceConfig>, E> {
            SourceVisitor.visit_str(path).map(|source| vec![source])
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Vec<SourceConfig>, A::Error> {
            SourceVisitor.visit_map(map).map(|source| vec![source])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<SourceConfig>, A::Error> {
            let mut sources = Vec::new();
            while let Some(source) = list.next_element()? {
                sources.push(source);
            }
            Ok(sources)
        }
    }

    deserializer.deserialize_any(ListVisitor)
}
