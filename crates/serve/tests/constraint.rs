//! Answers under constraints: whatever is drawn from the tokens that are allowed must come to an
//! end and keep to the form.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

#[path = "support/structures.rs"]
mod structures;

use llm::ModelFiles;
use serde_json::{Value, json};
use serve::parse::{ReasoningFormat, ToolFormat};
use serve::structure::StructureSpec;
use structures::{Subject, shared, valid};

fn schemas() -> Vec<Value> {
    vec![
        json!({ "type": "object", "properties": {
            "name": { "type": "string", "maxLength": 8 },
            "age": { "type": "integer", "minimum": 0, "maximum": 130 },
            "mail": { "type": ["string", "null"], "maxLength": 5 },
        }, "required": ["name", "age"], "additionalProperties": false }),
        json!({ "enum": ["red", "grün", "青", 3, null, true, { "a": [1] }] }),
        json!({ "type": "array", "items": { "type": "number", "minimum": -1.5, "maximum": 2.5 },
            "minItems": 2, "maxItems": 4 }),
        json!({ "type": "array", "prefixItems": [{ "type": "boolean" }, { "const": "x" }],
            "items": { "type": "integer", "multipleOf": 5, "minimum": -20, "maximum": 20 },
            "minItems": 2, "maxItems": 5 }),
        json!({ "$ref": "#/$defs/node", "$defs": { "node": { "type": "object", "properties": {
            "value": { "type": "integer", "minimum": 1, "maximum": 9 },
            "next": { "anyOf": [{ "$ref": "#/$defs/node" }, { "type": "null" }] },
        }, "required": ["value", "next"], "additionalProperties": false } } }),
        json!({ "type": "object", "properties": { "known": { "type": "boolean" } },
            "additionalProperties": { "type": "integer" } }),
        json!({ "allOf": [
            { "type": "object", "properties": { "a": { "type": "string", "minLength": 2 } },
              "required": ["a"] },
            { "properties": { "a": { "maxLength": 4 }, "b": { "type": "null" } },
              "required": ["b"], "additionalProperties": false },
        ] }),
        json!({ "anyOf": [{ "type": "string", "minLength": 3, "maxLength": 3 },
            { "type": "array", "items": { "type": "boolean" }, "maxItems": 3 }] }),
        // As libraries write schemas from classes, under an older draft.
        json!({ "$schema": "http://json-schema.org/draft-07/schema#", "title": "Order",
            "definitions": { "Item": { "title": "Item", "type": "object", "properties": {
                "sku": { "title": "Sku", "type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$" },
                "price": { "type": "number", "minimum": 0, "maximum": 99, "multipleOf": 0.5 },
                "secret": { "type": "string", "format": "password", "maxLength": 3 },
            }, "required": ["sku", "price"], "additionalProperties": false } },
            "type": "object", "additionalProperties": false, "required": ["items"],
            "properties": { "items": { "type": "array", "maxItems": 2, "description": "What.",
                "items": { "$ref": "#/definitions/Item" } } } }),
        json!({ "type": "object" }),
        json!({}),
    ]
}

fn walk(subject: &Subject, seeds: u64) {
    for schema in schemas() {
        let spec = StructureSpec::JsonSchema(schema.clone());
        for seed in 0..seeds {
            let (_, text) = subject.answer(&spec, seed * 977 + 1);
            let value: Value = match serde_json::from_str(&text) {
                // JSON itself bounds no exponent.
                Err(error) if error.to_string().contains("number out of range") => continue,
                value => value.unwrap_or_else(|error| panic!("{error}: {text:?} for {schema}")),
            };
            assert!(valid(&schema, &schema, &value), "{text} for {schema}");
        }
    }
}

#[test]
fn any_answer_is_valid() {
    walk(&Subject::tiny(), 12);
}

#[test]
fn any_answer_of_smollm2_is_valid() {
    let Some(path) = shared::smollm2("any_answer_of_smollm2_is_valid") else { return };
    let tokenizer = ModelFiles::open(&path).unwrap().tokenizer().unwrap().unwrap();
    walk(&Subject::new(tokenizer, None, None), 4);
}

#[test]
fn any_answer_of_a_sentence_piece_vocabulary_is_valid() {
    let subject = Subject::new(structures::sentence_piece(), None, None);
    walk(&subject, 6);
    let spec = StructureSpec::JsonSchema(json!({ "const": { "name": "é" } }));
    assert!(subject.answer(&spec, 1).1.contains('é'));
}

#[test]
fn what_fits_is_accepted_and_what_does_not_is_not() {
    let subject = Subject::tiny();
    let person = StructureSpec::JsonSchema(schemas().remove(0));
    for (text, fits) in [
        (r#"{"name": "Ann", "age": 7}"#, true),
        ("{\n  \"name\": \"Ann\",\n  \"age\": 130\n}", true),
        (r#"{"name":"Ann","age":7,"mail":null}"#, true),
        (r#"{"name": "Zoë 😀", "age": 7}"#, true),
        (r#"{"name": "Ann", "age": 131}"#, false),
        (r#"{"name": "Ann"}"#, false),
        (r#"{"name": "Ann", "age": 7, "x": 1}"#, false),
        (r#"{"name": "too long a name", "age": 7}"#, false),
        ("{ \n\n\n\n\"name\": \"Ann\", \"age\": 7}", false),
        ("", false),
    ] {
        assert_eq!(subject.accepts(&person, text), fits, "{text}");
    }
}

#[test]
fn patterns_hold_the_whole_answer() {
    let subject = Subject::tiny();
    for (pattern, text, fits) in [
        ("[a-c]{2,3}", "abc", true),
        ("[a-c]{2,3}", "a", false),
        ("[a-c]{2,3}", "abca", false),
        (r"^\d{4}-\d\d$", "2026-01", true),
        (r"^\d{4}-\d\d$", "2026-011", false),
        (r"a\$", "a$", true),
        (r"/x/\\", r"/x/\", true),
        ("(yes|no)!?", "no!", true),
        ("", "", true),
        (".*", "日本語", true),
    ] {
        let spec = StructureSpec::Regex(pattern.to_owned());
        assert_eq!(subject.accepts(&spec, text), fits, "{pattern}: {text}");
    }
}

#[test]
fn choices_are_taken_to_the_letter() {
    let subject = Subject::tiny();
    let choices = ["good", "good enough", "a \"quoted\"\nline \u{7f}", "<|im_end|>", "dé"];
    let spec = StructureSpec::Choice(choices.map(str::to_owned).to_vec());
    for seed in 0..40 {
        let (_, text) = subject.answer(&spec, seed * 31);
        assert!(choices.contains(&text.as_str()), "{text:?}");
    }
    assert!(subject.accepts(&spec, "good"));
    assert!(!subject.accepts(&spec, "goo"));
}

#[test]
fn grammars_are_larks() {
    let subject = Subject::tiny();
    let sums = "start: term (\"+\" term)*\nterm: NUMBER | \"(\" start \")\"\nNUMBER: /[0-9]{1,3}/";
    let spec = StructureSpec::Grammar(sums.to_owned());
    assert!(subject.accepts(&spec, "1+(22+3)"));
    assert!(!subject.accepts(&spec, "1+(22+3"));
    assert!(!subject.accepts(&spec, "1++2"));
}

#[test]
fn an_answer_that_may_end_may_end_and_one_that_must_is_complete() {
    let subject = Subject::tiny();
    let mut number = subject.constraint(&StructureSpec::Regex("[0-9]{1,2}".to_owned()));
    assert!(!subject.allowed(number.as_mut()).unwrap().contains(&subject.end));
    let seven = subject.tokenizer.encode("7", false).unwrap()[0];
    number.advance(seven).unwrap();
    assert!(!number.is_complete());
    assert!(subject.allowed(number.as_mut()).unwrap().contains(&subject.end));
    number.advance(seven).unwrap();
    assert!(number.is_complete());
    assert_eq!(subject.allowed(number.as_mut()).unwrap(), [subject.end]);
    assert!(number.advance(seven).unwrap_err().contains("complete"));
    // The end token itself completes an answer too.
    let mut number = subject.constraint(&StructureSpec::Regex("[0-9]*".to_owned()));
    number.advance(subject.end).unwrap();
    assert!(number.is_complete());
    let empty = subject.constraint(&StructureSpec::Regex(String::new()));
    assert!(empty.is_complete());
}

#[test]
fn a_token_that_does_not_fit_is_an_error_and_masks_are_narrowed_only() {
    let subject = Subject::tiny();
    let mut object = subject.constraint(&StructureSpec::JsonObject);
    let mut mask = vec![0; subject.vocab_size.div_ceil(32) + 2];
    object.allow(&mut mask).unwrap();
    assert!(mask.iter().all(|word| *word == 0));
    mask.fill(u32::MAX);
    object.allow(&mut mask).unwrap();
    assert_eq!(&mask[mask.len() - 2..], [0, 0]);
    let wrong = subject.tokenizer.encode("]", false).unwrap()[0];
    assert!(object.advance(wrong).is_err());
    assert!(object.allow(&mut mask).is_err(), "no way back");
    assert!(!object.is_complete());
}

#[test]
fn a_replayed_beginning_leads_to_the_same_masks() {
    let subject = Subject::tiny();
    for schema in schemas() {
        let spec = StructureSpec::JsonSchema(schema);
        let (tokens, _) = subject.answer(&spec, 5);
        let mut first = subject.constraint(&spec);
        for at in 0..tokens.len() {
            let mut again = subject.constraint(&spec);
            tokens[..at].iter().for_each(|token| again.advance(*token).unwrap());
            let mask = subject.allowed(first.as_mut());
            assert_eq!(mask, subject.allowed(again.as_mut()), "{spec:?} at {at}");
            first.advance(tokens[at]).unwrap();
        }
    }
}

#[test]
fn thoughts_are_free_and_the_answer_behind_them_is_not() {
    let spec = StructureSpec::Choice(vec!["yes".to_owned(), "no".to_owned()]);
    let tagged = Subject::tiny_with(None, Some(ReasoningFormat::Tagged));
    assert!(tagged.accepts(&spec, "yes"));
    assert!(tagged.accepts(&spec, "<think>\nLet me {see}…\n</think>\n\nno"));
    assert!(!tagged.accepts(&spec, "<think>\nLet me see\n</think>\n\nmaybe"));
    assert!(!tagged.accepts(&spec, "Let me see</think>no"));
    // A template that opens the tag in this prompt only.
    let behind = tagged.structures.reasoning_behind("<|im_start|>assistant\n<think>\n");
    assert_eq!(behind, Some(ReasoningFormat::Opened));
    let mut constraint = tagged.structures.constraint_with(&spec, behind).unwrap();
    for token in tagged.tokenizer.encode("Hm.</think>\nyes", false).unwrap() {
        constraint.advance(token).unwrap();
    }
    assert!(constraint.is_complete());
    let opened = Subject::tiny_with(None, Some(ReasoningFormat::Opened));
    assert!(opened.accepts(&spec, "Let me see</think>\n\nno"));
    assert!(!opened.accepts(&spec, "no"));
    assert!(!opened.accepts(&spec, "Let me see</think>\n\nmaybe"));
}

#[test]
fn without_end_tokens_there_are_no_structures() {
    use serve::constraint::ModelStructures;
    let tokenizer = std::sync::Arc::new(structures::tiny_tokenizer());
    let none = ModelStructures::new(tokenizer, 384, &[9_999], Some(ToolFormat::Hermes), None);
    assert!(none.err().unwrap().what.contains("none of the end tokens"));
}
