//! JSON schemas made ready for the grammar compiler: within bounds, and with the few settings that
//! are ours rather than the client's.
//!
//! A schema is untrusted. What is bounded here is what the compiler's own limits do not see: how
//! deep it must recurse, and how large single numbers in it are.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

/// A schema of this many values takes about a second to compile.
const VALUES_MAX: usize = 20_000;
/// As deep as JSON text can be read.
const DEPTH_MAX: usize = 64;
/// The compiler recurses from reference to reference.
const REFERENCES_MAX: usize = 200;
/// Every item or property that may come costs memory, whether it comes or not.
const COUNT_MAX: u64 = 2_000;
/// Characters are cheaper.
const LENGTH_MAX: u64 = 20_000;

/// Either nothing or one space, or a new line with indentation. Without a bound, models that have
/// lost the thread fill their answers with white space.
const BLANK: &str = r"\x20|\x0A[\x20\x09]{0,40}";

/// The formats of strings that can be enforced. Others are annotations, as JSON Schema has it.
const FORMATS: [&str; 10] = [
    "date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri",
];

/// The schema as the compiler takes it. With `lenient`, keywords that cannot be enforced are
/// ignored.
///
/// # Errors
/// What is too large, as the end of a sentence that begins with "the schema".
pub(super) fn prepare(schema: &Value, lenient: bool) -> Result<Value, String> {
    let mut check = Check::default();
    check.value(schema, 1)?;
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

#[derive(Default)]
struct Check<'a> {
    values: usize,
    references: HashSet<&'a str>,
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
        if key == "$ref"
            && let Value::String(reference) = member
        {
            self.references.insert(reference);
            if self.references.len() > REFERENCES_MAX {
                return Err(format!("has more than {REFERENCES_MAX} different references"));
            }
        }
        let most = match key {
            "minItems" | "maxItems" | "minProperties" | "maxProperties" => COUNT_MAX,
            "minLength" | "maxLength" => LENGTH_MAX,
            _ => return Ok(()),
        };
        match member.as_f64() {
            Some(count) if count > most as f64 => {
                Err(format!("has `{key}` {member}, but no more than {most} is supported"))
            }
            _ => Ok(()),
        }
    }
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
        let many = json!({ "enum": vec![1; 30_000] });
        assert_eq!(refused(&many), "has more than 20000 values");
        let references: Vec<Value> =
            (0..300).map(|index| json!({ "$ref": format!("#/$defs/{index}") })).collect();
        let references = json!({ "anyOf": references });
        assert_eq!(refused(&references), "has more than 200 different references");
        let long = json!({ "type": "array", "minItems": 1e12 });
        assert!(refused(&long).contains("`minItems`"), "{}", refused(&long));
        assert_eq!(refused(&json!(false)), "allows nothing");
        assert_eq!(refused(&json!("object")), "is neither an object nor a boolean");
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
