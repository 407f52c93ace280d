//! Schemas, patterns and grammars that are wrong, impossible or meant to do harm: each is refused
//! in a sentence, or works within bounds.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

#[path = "support/structures.rs"]
mod structures;

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use serve::structure::{StructureSpec, Structures, Tool, ToolChoice};
use structures::Subject;

fn regex(pattern: &str) -> StructureSpec {
    StructureSpec::Regex(pattern.to_owned())
}

fn grammar(text: impl Into<String>) -> StructureSpec {
    StructureSpec::Grammar(text.into())
}

/// Draws an answer of up to 200 tokens. What goes wrong on the way must be said in an error.
fn survive(subject: &Subject, spec: &StructureSpec) {
    let Ok(mut constraint) = subject.structures.constraint(spec, "") else { return };
    let mut random = 1_u64;
    for _ in 0..200 {
        if constraint.is_complete() {
            return;
        }
        let Ok(allowed) = subject.allowed(constraint.as_mut()) else { return };
        assert!(!allowed.is_empty(), "a mask without tokens and no error: {spec:?}");
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let token = allowed[(random >> 33) as usize % allowed.len()];
        if token == subject.end || constraint.advance(token).is_err() {
            return;
        }
    }
}

#[test]
fn schemas_that_cannot_be_are_refused_with_the_reason() {
    let subject = Subject::tiny();
    let contradiction = json!({ "allOf": [{ "type": "string" }, { "type": "integer" }] });
    let mut wide = Map::new();
    for index in 0..4_000 {
        wide.insert(format!("p{index}"), json!({ "type": "string" }));
    }
    for (schema, reason) in [
        (json!({ "type": "string", "enum": [] }), "anyOf is empty"),
        (contradiction.clone(), "incompatible types"),
        (
            json!({ "type": "object", "properties": { "a": contradiction }, "required": ["a"] }),
            "required property 'a'",
        ),
        (json!({ "type": "integer", "minimum": 5, "maximum": 4 }), "minimum (5)"),
        (json!({ "type": "string", "minLength": 5, "maxLength": 4 }), "minLength (5)"),
        (json!({ "type": "array", "minItems": 5, "maxItems": 4 }), "minItems (5)"),
        (json!({ "type": "string", "pattern": "^a$", "minLength": 4 }), "empty"),
        (json!({ "$ref": "#" }), "no token can continue"),
        (json!({ "allOf": [{ "$ref": "#" }, { "type": "object" }] }), "circular"),
        (json!(false), "allows nothing"),
        (json!(["object"]), "neither an object nor a boolean"),
        (json!({ "type": "strin" }), "Invalid type: strin"),
        (json!({ "properties": [] }), "properties must be an object"),
        (json!({ "pattern": "(" }), "unclosed group"),
        (json!({ "pattern": "(?=a)b" }), "look-around"),
        (json!({ "patternProperties": { "(": {} } }), "unclosed group"),
        (json!({ "not": { "type": "string" } }), "not supported: [\"not\"]"),
        (json!({ "type": "array", "uniqueItems": true }), "not supported: [\"uniqueItems\"]"),
        (json!({ "$ref": "#/$defs/none" }), "#/$defs/none"),
        (json!({ "$ref": "https://example.com/schema" }), "https://example.com/schema"),
        (json!({ "type": "object", "properties": wide }), "more than 1000 properties"),
        (json!({ "multipleOf": 999_983 }), "`multipleOf` 999983"),
        (json!({ "multipleOf": 0 }), "multiple"),
        (json!({ "minimum": 1e300, "maximum": 1e308 }), "range"),
    ] {
        let error = subject.refusal(&StructureSpec::JsonSchema(schema.clone()));
        assert!(error.what.contains(reason), "{schema}: {error}");
        assert!(!error.what.contains('\n') && error.what.len() < 500, "{error:?}");
        assert_eq!(error.param, "response_format");
    }
}

#[test]
fn patterns_grammars_and_choices_that_cannot_be_are_refused_with_the_reason() {
    let subject = Subject::tiny();
    let parentheses = |count: usize| "(".repeat(count) + "a" + &")".repeat(count);
    for (spec, reason) in [
        (regex("("), "unclosed group"),
        (regex(r"(a)\1"), "backreferences"),
        (regex(r"\bword\b"), "not supported"),
        (regex("a{1000000000}"), "repeats too much"),
        (regex("((a{100}){100}){100}"), "repeats too much"),
        (regex(&parentheses(4_000)), "nested"),
        (regex(r"[^\s\S]"), "no token can continue"),
        (regex(&"a".repeat(70_000)), "70000 bytes"),
        (grammar(""), "no start rule"),
        (grammar("start: other"), "unknown name"),
        (grammar("start: start"), "no token can continue"),
        (grammar("start: ("), "Expected"),
        (grammar(format!("start: {}", parentheses(8_000))), "nested"),
        (grammar("start: <[99999999]>"), "99999999"),
        (grammar("start: %json {\"multipleOf\": 999983}"), "`multipleOf` 999983"),
        (grammar("a".repeat(70_000)), "70000 bytes"),
        (StructureSpec::Choice(Vec::new()), "empty"),
        (StructureSpec::Choice(vec!["a".repeat(70_000)]), "70000 bytes"),
    ] {
        let error = subject.refusal(&spec);
        assert!(error.what.contains(reason), "{error}");
        assert!(!error.what.contains('\n') && error.what.len() < 500, "{error:?}");
        assert_eq!(error.param, "structured_outputs");
    }
}

#[test]
fn tools_that_cannot_be_are_refused_with_the_reason() {
    let subject = Subject::tiny();
    let tool = |name: &str, parameters: Value| Tool {
        name: name.to_owned(),
        description: None,
        parameters: Some(parameters),
        strict: true,
    };
    let fine = tool("fine", json!({}));
    let named = |name: &str| ToolChoice::Named(name.to_owned());
    for (tools, choice, reason, param) in [
        (vec![], ToolChoice::Required, "no tools", "tools"),
        (vec![fine.clone()], named("other"), "no tool `other`", "tool_choice"),
        (vec![fine.clone(), fine.clone()], ToolChoice::Auto, "name `fine`", "tools"),
        (vec![tool("", json!({}))], ToolChoice::Auto, "1 to 256 bytes", "tools"),
        (vec![tool("a", json!({ "type": "string" }))], ToolChoice::Auto, "type `object`", "tools"),
        (vec![tool("a", json!({ "not": {} }))], ToolChoice::Auto, "not supported", "tools"),
        (vec![tool("a", json!(false))], ToolChoice::Auto, "allows nothing", "tools"),
        (
            (0..20)
                .map(|index| tool(&index.to_string(), json!({ "enum": vec![0; 600] })))
                .collect(),
            ToolChoice::Auto,
            "all tools together has more than 10000 values",
            "tools",
        ),
        (vec![fine.clone(); 200], ToolChoice::Auto, "200 tools", "tools"),
    ] {
        let error = subject.refusal(&StructureSpec::Tools { tools, choice, parallel: true });
        assert!(error.what.contains(reason), "{error}");
        assert_eq!(error.param, param);
    }
    let without = Subject::tiny_with(None, None);
    let spec = StructureSpec::Tools { tools: vec![fine], choice: ToolChoice::Auto, parallel: true };
    assert!(without.refusal(&spec).what.contains("--tool-call-parser"));
}

#[test]
fn large_and_ambiguous_structures_stay_within_bounds() {
    let subject = Subject::tiny();
    let mut chain = Map::new();
    let mut doubling = Map::new();
    for index in 0..199 {
        let next = json!({ "$ref": format!("#/$defs/{}", index + 1) });
        doubling.insert(index.to_string(), json!({ "allOf": [next, next] }));
        let link = json!({ "properties": { "x": next }, "type": "object", "required": ["x"] });
        chain.insert(index.to_string(), link);
    }
    chain.insert("199".to_owned(), json!({ "type": "null" }));
    doubling.insert("199".to_owned(), json!({ "type": "object" }));
    let mut deep = json!({});
    for _ in 0..60 {
        deep = json!({ "items": deep });
    }
    // As deep as the limits let the compiler recurse: from reference to reference, each far inside.
    let mut deepest = Map::new();
    for index in 0..199 {
        let mut link = json!({ "$ref": format!("#/$defs/{}", index + 1) });
        for _ in 0..24 {
            link = json!({ "properties": { "x": link } });
        }
        deepest.insert(index.to_string(), link);
    }
    deepest.insert("199".to_owned(), json!({}));
    let numbers: Vec<String> = (0..9_000).map(|index| format!("number {index}")).collect();
    let mut rules = String::from("start: r0\n");
    for index in 0..3_000 {
        rules.push_str(&format!("r{index}: r{}\n", index + 1));
    }
    rules.push_str("r3000: \"a\"");
    let terminals = rules.replace('r', "R").replace("staRt: R0", "start: R0");
    for spec in [
        StructureSpec::JsonSchema(json!({ "$ref": "#/$defs/0", "$defs": chain })),
        StructureSpec::JsonSchema(json!({ "$ref": "#/$defs/0", "$defs": doubling })),
        StructureSpec::JsonSchema(json!({ "$ref": "#/$defs/0", "$defs": deepest })),
        StructureSpec::JsonSchema(deep),
        StructureSpec::JsonSchema(json!({ "enum": numbers })),
        StructureSpec::JsonSchema(json!({ "items": { "items": {}, "minItems": 1e9 as u64 },
            "type": "array", "minItems": 1e9 as u64, "maxItems": 2e9 as u64 })),
        StructureSpec::JsonSchema(json!({ "type": "string", "minLength": 1e9 as u64 })),
        StructureSpec::JsonSchema(json!({ "type": "object", "minProperties": 1e9 as u64 })),
        StructureSpec::JsonSchema(json!({ "pattern": "(a|aa|aaa|b.*c.*d.*){50,1000}" })),
        regex("(a|b)*a(a|b){200}"),
        regex("a{40000}"),
        regex("(.{0,1000}x){0,1000}"),
        regex(r"\p{L}{1,500}\p{N}{1,500}"),
        grammar("start: \"a\"{1000000000}"),
        grammar("start: A\nA: ((\"a\"{1000}){1000}){1000}"),
        grammar("start: start start | \"a\" | "),
        grammar("start: A\nA: /(.|\\n)*/ & ~/(.|\\n)*(a|b){30}c(.|\\n)*/"),
        grammar(rules),
        grammar(terminals),
        StructureSpec::Choice((0..5_000).map(|index| format!("choice {index}")).collect()),
    ] {
        survive(&subject, &spec);
    }
}

#[test]
fn what_never_ends_goes_on_until_the_answer_is_cut() {
    let subject = Subject::tiny();
    let endless = json!({ "properties": { "a": { "$ref": "#" } }, "required": ["a"],
        "type": "object", "additionalProperties": false });
    survive(&subject, &StructureSpec::JsonSchema(endless));
}

fn any_schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(true)),
        Just(json!(false)),
        Just(json!({})),
        Just(json!(null)),
        Just(json!(7)),
        Just(json!("string")),
        Just(json!({ "type": "string" })),
        Just(json!({ "$ref": "#" })),
        any::<String>().prop_map(|text| json!({ "pattern": text })),
        any::<String>().prop_map(|text| json!({ "const": text })),
        any::<f64>().prop_map(|number| json!({ "multipleOf": number })),
        any::<f64>().prop_map(|number| json!({ "type": "number", "minimum": number })),
        any::<i64>().prop_map(|number| json!({ "type": "integer", "maximum": number })),
    ];
    let key = proptest::sample::select(vec![
        "type",
        "items",
        "properties",
        "required",
        "anyOf",
        "oneOf",
        "allOf",
        "enum",
        "const",
        "$ref",
        "prefixItems",
        "additionalProperties",
        "patternProperties",
        "minItems",
        "maxLength",
        "$defs",
        "format",
        "not",
        "x-guidance",
    ]);
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            proptest::collection::vec((key.clone(), inner), 0..4).prop_map(|members| {
                let named = members.into_iter().map(|(key, value)| (key.to_owned(), value));
                Value::Object(named.collect())
            }),
        ]
    })
}

thread_local! {
    static SUBJECT: Subject = Subject::tiny();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_schema_does_harm(schema in any_schema()) {
        SUBJECT.with(|subject| survive(subject, &StructureSpec::JsonSchema(schema)));
    }

    #[test]
    fn no_pattern_does_harm(pattern in "([a-c.^$|()\\[\\]{}*+?\\\\1-9,/\"\\n-]|\\\\[a-zA-Z]){0,20}") {
        SUBJECT.with(|subject| survive(subject, &StructureSpec::Regex(pattern)));
    }

    #[test]
    fn no_grammar_does_harm(rule in "(start|[A-C:|()\\[\\]{}*+?~&<>%@\"/\\n 1-9,.=-]|\"a\"|/a+/){0,20}") {
        SUBJECT.with(|subject| survive(subject, &grammar(format!("start: {rule}"))));
    }

    #[test]
    fn any_choice_can_be_given(choices in proptest::collection::vec(any::<String>(), 1..4), seed in any::<u64>()) {
        SUBJECT.with(|subject| {
            let spec = StructureSpec::Choice(choices.clone());
            let (_, text) = subject.answer(&spec, seed);
            assert!(choices.contains(&text), "{text:?} is none of {choices:?}");
        });
    }
}
