//! Taking answers apart: calls, thoughts and text in every family's form, cut in any way.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

use proptest::prelude::*;
use serve::parse::{AnswerParser, ReasoningFormat, ToolFormat};
use serve::structure::{Delta, OutputParser};

/// What came out, with neighbours of a kind joined and without the calls' random identifiers.
#[derive(Debug, PartialEq)]
enum Part {
    Text(String),
    Thought(String),
    Call(usize, String, String),
}

fn joined(deltas: Vec<Delta>) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for delta in deltas {
        match (delta, parts.last_mut()) {
            (Delta::Text(more), Some(Part::Text(text))) => text.push_str(&more),
            (Delta::Text(text), _) => parts.push(Part::Text(text)),
            (Delta::Reasoning(more), Some(Part::Thought(text))) => text.push_str(&more),
            (Delta::Reasoning(text), _) => parts.push(Part::Thought(text)),
            (Delta::ToolCall { index, name, id }, _) => {
                assert!(id.len() >= 9, "{id}");
                parts.push(Part::Call(index, name, String::new()));
            }
            (Delta::ToolArguments { index, text: more }, Some(Part::Call(call, _, text))) => {
                assert_eq!(index, *call, "arguments follow their own call");
                text.push_str(&more);
            }
            (delta, last) => panic!("{delta:?} behind {last:?}"),
        }
    }
    parts
}

fn parse(
    tools: Option<ToolFormat>,
    reasoning: Option<ReasoningFormat>,
    pieces: &[&str],
) -> Vec<Part> {
    let mut parser = AnswerParser::new(tools, reasoning);
    let mut deltas: Vec<Delta> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    deltas.extend(parser.finish());
    joined(deltas)
}

fn text(text: &str) -> Part {
    Part::Text(text.to_owned())
}

fn thought(text: &str) -> Part {
    Part::Thought(text.to_owned())
}

fn call(index: usize, name: &str, arguments: &str) -> Part {
    Part::Call(index, name.to_owned(), arguments.to_owned())
}

#[test]
fn hermes() {
    let cases: Vec<(&str, Vec<Part>)> = vec![
        ("Just text, 1 < 2.\n", vec![text("Just text, 1 < 2.\n")]),
        (
            "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, \"}\\\"\"]}}\n</tool_call>",
            vec![call(0, "f", "{\"a\": [1, \"}\\\"\"]}")],
        ),
        (
            "Let me look.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>\n\
             <tool_call>\n{\"arguments\": {\"b\": 1}, \"name\": \"g\"}\n</tool_call>\nDone.",
            vec![
                text("Let me look."),
                call(0, "f", "{}"),
                call(1, "g", "{\"b\": 1}"),
                text("\nDone."),
            ],
        ),
        // SmolLM2's list.
        (
            "<tool_call>[{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"g\", \"arguments\": \
             {\"x\": null}}]</tool_call>",
            vec![call(0, "f", "{}"), call(1, "g", "{\"x\": null}")],
        ),
        // Without arguments, with null, and with a string of JSON.
        ("<tool_call>{\"name\": \"f\"}</tool_call>", vec![call(0, "f", "{}")]),
        ("<tool_call>{\"name\": \"f\", \"arguments\": null}</tool_call>", vec![call(0, "f", "{}")]),
        (
            "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>",
            vec![call(0, "f", "{\"a\": 1}")],
        ),
        // Members that mean nothing.
        (
            "<tool_call>{\"id\": 5, \"x\": {\"name\": \"g\"}, \"name\": \"f\", \"arguments\": {}, \
             \"y\": [1]}</tool_call>",
            vec![call(0, "f", "{}")],
        ),
        // A missing brace at the end, and an answer that was cut off.
        ("<tool_call>{\"name\": \"f\", \"arguments\": {}</tool_call>", vec![call(0, "f", "{}")]),
        ("<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": ", vec![call(0, "f", "{\"a\": ")]),
        ("<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool", vec![call(0, "f", "{}")]),
        // What is no call stays text, to the last character.
        ("<tool_call>{\"name\": }</tool_call>", vec![text("<tool_call>{\"name\": }</tool_call>")]),
        ("<tool_call>none</tool_call>", vec![text("<tool_call>none</tool_call>")]),
        ("<tool_call>{\"name\": \"f", vec![text("<tool_call>{\"name\": \"f")]),
        ("<tool_call>\n", vec![text("<tool_call>\n")]),
        ("Say <tool_cal", vec![text("Say <tool_cal")]),
        ("a <<tool_call>{\"name\": \"f\"}</tool_call>", vec![text("a <"), call(0, "f", "{}")]),
        (
            "<tool_call>{\"name\": \"\", \"arguments\": {}}",
            vec![text("<tool_call>{\"name\": \"\", \"arguments\": {}}")],
        ),
        // The second of two is broken.
        (
            "<tool_call>{\"name\": \"f\"}</tool_call><tool_call>{oops}</tool_call>",
            vec![call(0, "f", "{}"), text("<tool_call>{oops}</tool_call>")],
        ),
    ];
    for (answer, parts) in cases {
        assert_eq!(parse(Some(ToolFormat::Hermes), None, &[answer]), parts, "{answer}");
    }
}

#[test]
fn llama() {
    let cases: Vec<(&str, Vec<Part>)> = vec![
        ("{\"name\": \"f\", \"parameters\": {\"a\": 1}}", vec![call(0, "f", "{\"a\": 1}")]),
        ("\n {\"name\": \"f\", \"parameters\": {}}\n", vec![call(0, "f", "{}")]),
        (
            "<|python_tag|>{\"type\": \"function\", \"name\": \"f\", \"parameters\": {}}",
            vec![call(0, "f", "{}")],
        ),
        (
            "{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {}}",
            vec![call(0, "f", "{}"), call(1, "g", "{}")],
        ),
        // Objects that are no calls.
        ("{\"name\": \"Ann\"}", vec![text("{\"name\": \"Ann\"}")]),
        ("{\"city\": \"Rome\", \"a\": 1}", vec![text("{\"city\": \"Rome\", \"a\": 1}")]),
        ("{", vec![text("{")]),
        (
            "Here: {\"name\": \"f\", \"parameters\": {}}",
            vec![text("Here: {\"name\": \"f\", \"parameters\": {}}")],
        ),
        (
            "{\"name\": \"f\", \"parameters\": {}} and text",
            vec![call(0, "f", "{}"), text(" and text")],
        ),
        ("{\"name\": \"f\", \"parameters\": {}}; text", vec![call(0, "f", "{}"), text("; text")]),
        ("<|python_tag|>print(1)", vec![text("<|python_tag|>print(1)")]),
    ];
    for (answer, parts) in cases {
        assert_eq!(parse(Some(ToolFormat::Llama3Json), None, &[answer]), parts, "{answer}");
    }
}

#[test]
fn mistral() {
    let cases: Vec<(&str, Vec<Part>)> = vec![
        (
            "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": 1}}, {\"name\": \"g\", \
             \"arguments\": {}}]",
            vec![call(0, "f", "{\"a\": 1}"), call(1, "g", "{}")],
        ),
        (
            "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}, \"id\": \"abcdefghi\"}]",
            vec![call(0, "f", "{}")],
        ),
        ("Text [TOOL", vec![text("Text [TOOL")]),
        ("[TOOL_CALLS] none", vec![text("[TOOL_CALLS] none")]),
        ("[1, 2]", vec![text("[1, 2]")]),
    ];
    for (answer, parts) in cases {
        assert_eq!(parse(Some(ToolFormat::Mistral), None, &[answer]), parts, "{answer}");
    }
    let mut parser = AnswerParser::new(Some(ToolFormat::Mistral), None);
    let deltas = parser.push("[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}}]");
    let Delta::ToolCall { id, .. } = &deltas[0] else { panic!("{deltas:?}") };
    assert!(id.len() == 9 && id.chars().all(|digit| digit.is_ascii_alphanumeric()), "{id}");
}

#[test]
fn reasoning() {
    use ReasoningFormat::{Opened, Tagged};
    let cases: Vec<(ReasoningFormat, &str, Vec<Part>)> = vec![
        (
            Tagged,
            "<think>\nSo 1 < 2.\n\nYes.\n</think>\n\nIt is.\n",
            vec![thought("So 1 < 2.\n\nYes."), text("It is.\n")],
        ),
        (Tagged, "\n<think>\n\n</think>\n\nIt is.", vec![text("It is.")]),
        (Tagged, "It is <think>.", vec![text("It is <think>.")]),
        (Tagged, "<thin air", vec![text("<thin air")]),
        (Tagged, "<think>no end</thi", vec![thought("no end</thi")]),
        (Opened, "So.\n</think>\n\nIt is.", vec![thought("So."), text("It is.")]),
        (Opened, "\n<think>\nSo.\n</think>It is.", vec![thought("So."), text("It is.")]),
        (Opened, "<thinner", vec![thought("<thinner")]),
        (Opened, "<thin", vec![thought("<thin")]),
        (Opened, "", vec![]),
        (
            Tagged,
            "<think>I could call <tool_call>.</think>\n<tool_call>\n{\"name\": \"f\"}\n</tool_call>",
            vec![thought("I could call <tool_call>."), call(0, "f", "{}")],
        ),
    ];
    for (format, answer, parts) in cases {
        let parsed = parse(Some(ToolFormat::Hermes), Some(format), &[answer]);
        assert_eq!(parsed, parts, "{answer}");
    }
    let untouched = "<think>kept</think> <tool_call>{}\n";
    assert_eq!(parse(None, None, &[untouched]), vec![text(untouched)]);
}

#[test]
fn arguments_stream_as_they_come() {
    let mut parser = AnswerParser::new(Some(ToolFormat::Hermes), None);
    assert_eq!(parser.push("<tool_call>\n{\"name\": \"f\", \"arguments\": "), vec![]);
    let begun = parser.push("{\"city\": \"Ro");
    let Delta::ToolCall { index: 0, id, name } = &begun[0] else { panic!("{begun:?}") };
    assert!(id.starts_with("call_") && name == "f");
    assert_eq!(begun[1..], [Delta::ToolArguments { index: 0, text: "{\"city\": \"Ro".to_owned() }]);
    assert_eq!(
        parser.push("me\"}}\n</tool"),
        [Delta::ToolArguments { index: 0, text: "me\"}".to_owned() }]
    );
    assert_eq!(parser.push("_call>"), vec![]);
    assert_eq!(parser.finish(), vec![]);
}

#[test]
fn identifiers_differ() {
    let mut ids = std::collections::HashSet::new();
    for _ in 0..100 {
        let mut parser = AnswerParser::new(Some(ToolFormat::Hermes), None);
        for delta in parser.push("<tool_call>[{\"name\": \"f\"}, {\"name\": \"f\"}]</tool_call>") {
            if let Delta::ToolCall { id, .. } = delta {
                assert!(ids.insert(id));
            }
        }
    }
    assert_eq!(ids.len(), 200);
}

fn answer() -> impl Strategy<Value = String> {
    let piece = proptest::sample::select(vec![
        "<tool_call>",
        "</tool_call>",
        "<think>",
        "</think>",
        "<|python_tag|>",
        "[TOOL_CALLS]",
        "{\"name\": \"f\", \"arguments\": {\"a\": \"}\"}}",
        "{\"name\": \"g\", \"parameters\": {}}",
        "{\"arguments\": {}, \"name\": \"h\"}",
        "{\"name\":",
        "\"f\"",
        "{",
        "}",
        "[",
        "]",
        ",",
        ";",
        ":",
        "\"",
        "\\",
        "<",
        " ",
        "\n",
        "text",
        "é",
        "null",
        "\"arguments\"",
        "\"parameters\"",
        "1",
    ]);
    proptest::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// However the text is cut, the same comes out; and where nothing was taken out, all of it.
    #[test]
    fn cuts_change_nothing(
        answer in answer(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        format in 0..5_usize,
        reasoning in proptest::option::of(proptest::sample::select(vec![
            ReasoningFormat::Tagged, ReasoningFormat::Opened,
        ])),
    ) {
        let tools = ToolFormat::NAMES.get(format).map(|(_, format)| *format);
        let whole = parse(tools, reasoning, &[&answer]);
        let mut places: Vec<usize> = answer.char_indices().map(|(at, _)| at).collect();
        places.push(answer.len());
        let mut at: Vec<usize> = cuts.iter().map(|cut| *cut.get(&places)).collect();
        at.extend([0, answer.len()]);
        at.sort_unstable();
        let pieces: Vec<&str> = at.windows(2).map(|ends| &answer[ends[0]..ends[1]]).collect();
        prop_assert_eq!(&parse(tools, reasoning, &pieces), &whole);
        let calls = whole.iter().any(|part| matches!(part, Part::Call(..)));
        if !calls && reasoning.is_none() {
            prop_assert_eq!(whole, if answer.is_empty() { vec![] } else { vec![Part::Text(answer)] });
        }
    }
}
