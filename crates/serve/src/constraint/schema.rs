//! JSON schemas made ready for the grammar compiler: within bounds, and with the few settings that
//! are ours rather than the client's.
//!
//! A schema is untrusted. What is bounded here is what the compiler's own limits do not see: how
//! deep it must recurse, and how large single numbers in it are.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::pattern;

/// A schema of this many values takes about a second to compile.
const VALUES_MAX: usize = 10_000;
/// As deep as JSON text can be read.
const DEPTH_MAX: usize = 64;
/// The compiler recurses from reference to reference.
const REFERENCES_MAX: usize = 200;
/// The compiler compares every name with every other.
const PROPERTIES_MAX: usize = 1_000;
/// The grammar of the multiples of a number has as many states as the number has steps.
const STEPS_MAX: f64 = 10_000.0;
const DECIMALS_MAX: i32 = 9;

/// One space, or a new line with indentation; or nothing. Without a bound, models that have
/// lost the thread fill their answers with white space.
const BLANK: &str = r"\x20|\x0A[\x20\x09]{0,40}";

/// The formats of strings that can be enforced. Others are annotations, as JSON Schema has it.
const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];

/// The schema as the compiler takes it. With `lenient`, keywords that cannot be enforced are
/// ignored.
///
/// # Errors
/// What is too large, as the end of a sentence that begins with "the schema".
pub(super) fn prepare(schema: &Value, lenient: bool) -> Result<Value, String> {
    check_all([schema])?;
    let mut schema = match schema {
        Value::Bool(true) => Value::Object(Map::new()),
        Value::Bool(false) => return Err("allows nothing".to_owned()),
        Value::Object(_) => schema.clone(),
        _ => return Err("is neither an object nor a boolean".to_owned()),
    };
    drop_formats(&mut schema);
    schema["x-guidance"] = json!({
        "whitespace_pattern": BLANK,
        // A mask cannot count how many alternatives an answer fits.
        "coerce_one_of": true,
        "lenient": lenient,
    });
    Ok(schema)
}

/// Checks schemas that are compiled together, which share the limits.
///
/// # Errors
/// As [`prepare`].
pub(super) fn check_all<'a>(schemas: impl IntoIterator<Item = &'a Value>) -> Result<(), String> {
    let mut check = Check::default();
    schemas.into_iter().try_for_each(|schema| check.value(schema, 1))
}

/// Checks the schemas that stand in a grammar behind `%json`.
///
/// # Errors
/// As [`prepare`].
pub(super) fn check_within(grammar: &str) -> Result<(), String> {
    grammar.match_indices("%json").try_for_each(|(at, keyword)| {
        let text = &grammar[at + keyword.len()..];
        match serde_json::Deserializer::from_str(text).into_iter::<Value>().next() {
            Some(Ok(schema)) => check_all([&schema]),
            // In a comment or a string, or for the compiler to complain about.
            _ => Ok(()),
        }
    })
}

#[derive(Default)]
struct Check<'a> {
    values: usize,
    references: HashSet<&'a str>,
    patterns: u64,
    /// What all different `multipleOf` come to when they meet.
    steps: f64,
    multiples: Vec<f64>,
}

impl<'a> Check<'a> {
    fn value(&mut self, value: &'a Value, depth: usize) -> Result<(), String> {
        self.values += 1;
        if self.values > VALUES_MAX {
            return Err(format!("has more than {VALUES_MAX} values"));
        }
        if depth > DEPTH_MAX {
            return Err(format!("is more than {DEPTH_MAX} levels deep"));
        }
        match value {
            Value::Array(items) => items.iter().try_for_each(|item| self.value(item, depth + 1)),
            Value::Object(members) => members.iter().try_for_each(|(key, member)| {
                self.member(key, member)?;
                self.value(member, depth + 1)
            }),
            _ => Ok(()),
        }
    }

    fn member(&mut self, key: &str, member: &'a Value) -> Result<(), String> {
        match (key, member) {
            ("$ref", Value::String(reference)) => {
                self.references.insert(reference);
                if self.references.len() > REFERENCES_MAX {
                    return Err(format!("has more than {REFERENCES_MAX} different references"));
                }
            }
            ("properties", Value::Object(properties)) if properties.len() > PROPERTIES_MAX => {
                return Err(format!("has an object of more than {PROPERTIES_MAX} properties"));
            }
            ("pattern", Value::String(pattern)) => self.pattern(pattern)?,
            ("patternProperties", Value::Object(patterns)) => {
                patterns.keys().try_for_each(|pattern| self.pattern(pattern))?;
            }
            ("multipleOf", Value::Number(number)) => {
                self.multiple_of(number.as_f64().unwrap_or(f64::NAN).abs())?;
            }
            _ => {}
        }
        Ok(())
    }

    fn pattern(&mut self, pattern: &str) -> Result<(), String> {
        self.patterns = self.patterns.saturating_add(pattern::size(pattern)?);
        if self.patterns > pattern::SIZE_MAX {
            return Err("has patterns that repeat too much".to_owned());
        }
        Ok(())
    }

    fn multiple_of(&mut self, number: f64) -> Result<(), String> {
        if self.multiples.contains(&number) {
            return Ok(());
        }
        self.multiples.push(number);
        let scale = (0..=DECIMALS_MAX).map(|digits| 10_f64.powi(digits));
        let steps = scale.map(|scale| number * scale).find(|steps| is_whole(*steps));
        self.steps = self.steps.max(1.0) * steps.unwrap_or(f64::INFINITY);
        match self.steps <= STEPS_MAX {
            true => Ok(()),
            false => Err(format!(
                "has `multipleOf` {number}, too fine or too large a step for a grammar"
            )),
        }
    }
}

fn is_whole(number: f64) -> bool {
    (number - number.round()).abs() <= 1e-9 * number.abs()
}

/// Takes out formats of strings that nobody here knows.
fn drop_formats(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(drop_formats),
        Value::Object(members) => {
            if let Some(Value::String(format)) = members.get("format")
                && !FORMATS.contains(&format.as_str())
            {
                members.remove("format");
            }
            for (key, member) in members {
                // These hold values, not schemas.
                if !matches!(key.as_str(), "const" | "enum" | "default" | "examples") {
                    drop_formats(member);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_kept() {
        let refused = |schema: &Value| prepare(schema, false).unwrap_err();
        let mut deep = json!({});
        for _ in 0..70 {
            deep = json!({ "items": deep });
        }
        assert_eq!(refused(&deep), "is more than 64 levels deep");
        let many = json!({ "enum": vec![1; 12_000] });
        assert_eq!(refused(&many), "has more than 10000 values");
        let references: Vec<Value> =
            (0..300).map(|index| json!({ "$ref": format!("#/$defs/{index}") })).collect();
        let references = json!({ "anyOf": references });
        assert_eq!(refused(&references), "has more than 200 different references");
        let wide: Map<String, Value> =
            (0..1_001).map(|index| (index.to_string(), json!({}))).collect();
        assert_eq!(
            refused(&json!({ "properties": wide })),
            "has an object of more than 1000 properties"
        );
        let repeats = json!({ "pattern": "((a{100}){100}){100}" });
        assert_eq!(refused(&repeats), "has patterns that repeat too much");
        assert_eq!(refused(&json!(false)), "allows nothing");
        assert_eq!(refused(&json!("object")), "is neither an object nor a boolean");
    }

    #[test]
    fn steps_are_counted_together() {
        let of = |steps: &[f64]| {
            let steps: Vec<Value> =
                steps.iter().map(|step| json!({ "multipleOf": step })).collect();
            prepare(&json!({ "anyOf": steps }), false).map(|_| ())
        };
        assert_eq!(of(&[0.01, 5.0, 100.0, 5.0, -5.0]), Ok(()));
        for refused in [
            [999_983.0, 1.0],
            [1e-7, 1.234_567],
            [0.333_333_333_333, 1.0],
            [1e300, 1.0],
            [101.0, 103.0],
        ] {
            assert!(of(&refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn unknown_formats_go_and_values_stay() {
        let schema = json!({
            "properties": { "format": { "type": "string", "format": "password" } },
            "items": { "format": "date" },
            "const": { "format": "password" },
            "x-guidance": { "lenient": true },
        });
        let prepared = prepare(&schema, false).unwrap();
        assert_eq!(prepared["properties"]["format"], json!({ "type": "string" }));
        assert_eq!(prepared["items"]["format"], "date");
        assert_eq!(prepared["const"]["format"], "password");
        assert_eq!(prepared["x-guidance"]["lenient"], false);
    }
}
