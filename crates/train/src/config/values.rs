//! The types that keys have: how each is read, written and named.

use super::document::{Item, Node, join};
use super::error::ConfigError;
use super::keys::{SectionKeys, Value, wrong};

impl Value for String {
    fn type_name() -> String {
        "text".to_string()
    }

    fn read(node: &Node, path: &str) -> Result<String, ConfigError> {
        match &node.item {
            Item::Text(text) => Ok(text.clone()),
            _ => Err(wrong(node, path, "text, in quotes".to_string())),
        }
    }

    fn write(&self) -> Option<Node> {
        Some(Item::Text(self.clone()).into())
    }
}

impl Value for bool {
    fn type_name() -> String {
        "true or false".to_string()
    }

    fn read(node: &Node, path: &str) -> Result<bool, ConfigError> {
        match node.item {
            Item::Boolean(value) => Ok(value),
            _ => Err(wrong(node, path, Self::type_name())),
        }
    }

    fn write(&self) -> Option<Node> {
        Some(Item::Boolean(*self).into())
    }
}

impl Value for f64 {
    fn type_name() -> String {
        "number".to_string()
    }

    fn read(node: &Node, path: &str) -> Result<f64, ConfigError> {
        match node.item {
            Item::Float(number) => Ok(number),
            Item::Integer(number) => Ok(number as f64),
            _ => Err(wrong(node, path, "a number".to_string())),
        }
    }

    fn write(&self) -> Option<Node> {
        Some(Item::Float(*self).into())
    }
}

/// Counts and seeds: whole, and not negative.
macro_rules! whole_numbers {
    ($($type:ty),+) => {$(
        impl Value for $type {
            fn type_name() -> String {
                "whole number".to_string()
            }

            fn read(node: &Node, path: &str) -> Result<$type, ConfigError> {
                let number = match node.item {
                    Item::Integer(number) => <$type>::try_from(number).ok(),
                    _ => None,
                };
                number.ok_or_else(|| wrong(node, path, "a whole number, 0 or more".to_string()))
            }

            fn write(&self) -> Option<Node> {
                // TOML's integers end there; nothing larger was read.
                Some(Item::Integer(i64::try_from(*self).unwrap_or(i64::MAX)).into())
            }
        }
    )+};
}

whole_numbers!(usize, u64);

impl<T: Value> Value for Option<T> {
    fn type_name() -> String {
        T::type_name()
    }

    fn read(node: &Node, path: &str) -> Result<Option<T>, ConfigError> {
        T::read(node, path).map(Some)
    }

    fn write(&self) -> Option<Node> {
        self.as_ref().and_then(Value::write)
    }

    fn sections(path: &str) -> Vec<SectionKeys> {
        T::sections(path)
    }
}

impl<T: Value> Value for Vec<T> {
    fn type_name() -> String {
        format!("list of {}", T::type_name())
    }

    fn read(node: &Node, path: &str) -> Result<Vec<T>, ConfigError> {
        let Item::Array(elements) = &node.item else {
            return Err(wrong(node, path, format!("a {}", Self::type_name())));
        };
        let numbered = elements.iter().enumerate();
        numbered.map(|(index, element)| T::read(element, &join(path, &index.to_string()))).collect()
    }

    fn write(&self) -> Option<Node> {
        Some(Item::Array(self.iter().filter_map(Value::write).collect()).into())
    }

    fn sections(path: &str) -> Vec<SectionKeys> {
        let mut sections = T::sections(&format!("{path}[]"));
        for section in &mut sections {
            section.header = format!("[[{path}]]");
        }
        sections
    }
}

impl Value for [f64; 2] {
    fn type_name() -> String {
        "two numbers".to_string()
    }

    fn read(node: &Node, path: &str) -> Result<[f64; 2], ConfigError> {
        let wrong = || wrong(node, path, "a list of two numbers".to_string());
        let Item::Array(elements) = &node.item else { return Err(wrong()) };
        let [first, second] = elements.as_slice() else { return Err(wrong()) };
        Ok([f64::read(first, path)?, f64::read(second, path)?])
    }

    fn write(&self) -> Option<Node> {
        Some(Item::Array(self.iter().filter_map(Value::write).collect()).into())
    }
}
