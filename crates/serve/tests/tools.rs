//! Tool calls from grammar to parser: what a grammar lets through, the parser takes apart, and the
//! arguments fit the tool's schema.

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
use serve::structure::{Delta, StructureSpec, Structures, Tool, ToolChoice};
use structures::{Subject, shared, valid};

fn tools() -> Vec<Tool> {
    let weather = json!({ "type": "object", "properties": {
        "city": { "type": "string", "maxLength": 6 },
        "unit": { "enum": ["c", "f"] },
    }, "required": ["city"], "additionalProperties": false });
    let move_by = json!({ "properties": { "steps": { "type": "array", "maxItems": 3,
        "items": { "type": "integer", "minimum": -9, "maximum": 9 } } },
        "required": ["steps"], "additionalProperties": false });
    let tool = |name: &str, parameters: Option<Value>| Tool {
        name: name.to_owned(),
        description: Some("A tool.".to_owned()),
        parameters,
        strict: true,
    };
    vec![tool("weather", Some(weather)), tool("move \"by\"", Some(move_by)), tool("stop", None)]
}

fn spec(choice: ToolChoice, parallel: bool) -> StructureSpec {
    StructureSpec::Tools { tools: tools(), choice, parallel }
}

/// The text outside of calls, and the calls with their arguments.
fn taken_apart(subject: &Subject, text: &str) -> (String, Vec<(String, String)>) {
    let mut parser = subject.structures.parser(true, subject.prompt);
    let mut deltas = parser.push(text);
    deltas.extend(parser.finish());
    let (mut outside, mut calls) = (String::new(), Vec::<(String, String)>::new());
    for delta in deltas {
        match delta {
            Delta::Text(text) => outside.push_str(&text),
            Delta::Reasoning(_) => {}
            Delta::ToolCall { index, name, .. } => {
                assert_eq!(index, calls.len());
                calls.push((name, String::new()));
            }
            Delta::ToolArguments { index, text } => calls[index].1.push_str(&text),
        }
    }
    (outside, calls)
}

fn check_calls(calls: &[(String, String)], text: &str) {
    for (name, arguments) in calls {
        let known = tools();
        let tool = known.iter().find(|tool| tool.name == *name);
        let tool = tool.unwrap_or_else(|| panic!("`{name}` in {text}"));
        let arguments: Value = serde_json::from_str(arguments)
            .unwrap_or_else(|error| panic!("{error}: {arguments} in {text}"));
        let none = json!({ "additionalProperties": false });
        let schema = tool.parameters.as_ref().unwrap_or(&none);
        assert!(arguments.is_object() && valid(schema, schema, &arguments), "{arguments}");
    }
}

fn walk(subject: &Subject, beginning: &str, seeds: u64) {
    for seed in 0..seeds {
        for parallel in [false, true] {
            let (_, text) = subject.answer_behind(
                &spec(ToolChoice::Required, parallel),
                beginning,
                seed * 53 + 7,
            );
            let (outside, calls) = taken_apart(subject, &text);
            assert_eq!(outside, "", "{text}");
            assert!(!calls.is_empty() && (parallel || calls.len() == 1), "{text}");
            check_calls(&calls, &text);
        }
        let named = spec(ToolChoice::Named("move \"by\"".to_owned()), true);
        let (_, text) = subject.answer_behind(&named, beginning, seed * 71 + 3);
        let (outside, calls) = taken_apart(subject, &text);
        assert_eq!((outside.as_str(), calls.len()), ("", 1), "{text}");
        assert_eq!(calls[0].0, "move \"by\"");
        check_calls(&calls, &text);
        let (_, text) =
            subject.answer_behind(&spec(ToolChoice::Auto, true), beginning, seed * 31 + 1);
        check_calls(&taken_apart(subject, &text).1, &text);
    }
}

#[test]
fn forced_calls_come_out_of_the_parser() {
    for (_, format) in ToolFormat::NAMES {
        walk(&Subject::tiny_with(Some(format), None), "", 10);
        walk(
            &Subject::tiny_with(Some(format), Some(ReasoningFormat::Opened)),
            "So.</think>\n\n",
            5,
        );
    }
}

#[test]
fn forced_calls_of_smollm2_come_out_of_the_parser() {
    let test = "forced_calls_of_smollm2_come_out_of_the_parser";
    let Some(path) = shared::smollm2(test) else { return };
    let tokenizer = ModelFiles::open(&path).unwrap().tokenizer().unwrap().unwrap();
    walk(&Subject::new(tokenizer, Some(ToolFormat::HermesList), None), "", 5);
}

#[test]
fn tags_that_are_tokens_are_used_as_such() {
    for (_, format) in ToolFormat::NAMES {
        for special in [false, true] {
            let tokenizer = || structures::tagged_tokenizer(special);
            let subject = Subject::new(tokenizer(), Some(format), None);
            assert_eq!(subject.structures.needs_special_tokens(), special);
            walk(&subject, "", 5);
            let thinking = Subject::new(tokenizer(), Some(format), Some(ReasoningFormat::Tagged));
            walk(&thinking, "<think>Hm.</think>\n", 5);
        }
    }
    // Letters that spell a special token are text.
    let tokenizer = structures::tagged_tokenizer(true);
    let tag = tokenizer.token_to_id("<tool_call>").unwrap();
    let subject = Subject::new(tokenizer, Some(ToolFormat::Hermes), None);
    let mut free = subject.constraint(&spec(ToolChoice::Auto, true));
    for character in "<tool_call>!".chars() {
        let token = subject.tokenizer.token_to_id(&character.to_string()).unwrap();
        free.advance(token).unwrap();
    }
    assert!(subject.allowed(free.as_mut()).unwrap().contains(&tag));
    let mut forced = subject.constraint(&spec(ToolChoice::Required, true));
    assert_eq!(subject.allowed(forced.as_mut()).unwrap(), [tag]);
}

/// Texts in each format that a free choice allows, and whether it does.
#[test]
fn a_free_choice_holds_calls_only() {
    let hermes: &[(&str, bool)] = &[
        ("Just text with {braces} and <tags>.", true),
        ("", true),
        ("<tool_call>\n{\"name\": \"stop\", \"arguments\": {}}\n</tool_call>", true),
        (
            "I look.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n\
             </tool_call>\n<tool_call>\n{\"name\": \"stop\", \"arguments\": {}}\n</tool_call>",
            true,
        ),
        ("<tool_call>\n{\"name\": \"other\", \"arguments\": {}}\n</tool_call>", false),
        ("<tool_call>\n{\"name\": \"weather\", \"arguments\": {}}\n</tool_call>", false),
        ("<tool_call>\n{\"name\": \"stop\", \"arguments\": {\"a\": 1}}\n</tool_call>", false),
        ("<tool_call>\n{\"name\": \"stop\", \"arguments\": {}}", false),
        ("I look: <tool_call> me", false),
    ];
    let list: &[(&str, bool)] = &[
        ("[1, 2]", true),
        (
            "<tool_call>[{\"name\": \"stop\", \"arguments\": {}}, {\"name\": \"weather\", \
             \"arguments\": {\"city\": \"Rome\", \"unit\": \"c\"}}]</tool_call>",
            true,
        ),
        ("<tool_call>[{\"name\": \"stop\", \"arguments\": {}}</tool_call>", false),
    ];
    let llama: &[(&str, bool)] = &[
        ("Plain text {\"name\": \"other\", \"parameters\": {}}", true),
        ("{\"city\": \"Rome\"}", true),
        ("{\"name\": \"Ann\"}", true),
        ("{\"name\": \"stop\", \"parameters\": {}}", true),
        ("{\"name\": \"stop\", \"parameters\": {\"a\": 1}}", false),
        ("{\"name\": \"weather\", \"parameters\": {\"city\": \"Rome\"}}", true),
        ("{\"name\": \"weather\", \"parameters\": {\"city\": 1}}", false),
    ];
    let mistral: &[(&str, bool)] = &[
        ("Plain.", true),
        ("[TOOL_CALLS] [{\"name\": \"stop\", \"arguments\": {}}]", true),
        ("[TOOL_CALLS][{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}]", true),
        ("[TOOL_CALLS] [{\"name\": \"weather\", \"arguments\": {}}]", false),
        ("[TOOL_CALLS] []", false),
    ];
    for (format, cases) in [
        (ToolFormat::Hermes, hermes),
        (ToolFormat::HermesList, list),
        (ToolFormat::Llama3Json, llama),
        (ToolFormat::Mistral, mistral),
    ] {
        let subject = Subject::tiny_with(Some(format), None);
        for (text, fits) in cases {
            let accepted = subject.accepts(&spec(ToolChoice::Auto, true), text);
            assert_eq!(accepted, *fits, "{format:?}: {text}");
        }
    }
}

#[test]
fn no_choice_leaves_the_answer_free() {
    let subject = Subject::tiny();
    let none = spec(ToolChoice::None, true);
    assert!(subject.accepts(&none, "anything <tool_call> at all"));
}

#[test]
fn thoughts_come_before_calls() {
    let subject = Subject::tiny_with(Some(ToolFormat::Hermes), Some(ReasoningFormat::Tagged));
    let text = "<think>\nIt must stop.\n</think>\n\n<tool_call>\n{\"name\": \"stop\", \
                \"arguments\": {}}\n</tool_call>";
    for choice in [ToolChoice::Required, ToolChoice::Auto] {
        assert!(subject.accepts(&spec(choice, true), text));
    }
    let (outside, calls) = taken_apart(&subject, text);
    assert_eq!((outside.as_str(), calls.len()), ("", 1));
}

#[test]
fn lenient_tools_take_schemas_that_cannot_be_enforced() {
    let subject = Subject::tiny();
    let mut tool = tools().remove(2);
    tool.parameters = Some(json!({ "properties": { "a": { "not": { "type": "string" } } } }));
    let spec = |tool: &Tool| StructureSpec::Tools {
        tools: vec![tool.clone()],
        choice: ToolChoice::Auto,
        parallel: true,
    };
    assert!(subject.refusal(&spec(&tool)).what.contains("tool"));
    tool.strict = false;
    subject.constraint(&spec(&tool));
}
