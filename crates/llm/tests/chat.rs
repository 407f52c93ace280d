//! Chat templates against renders by Hugging Face's transformers (`goldens/make_chat.py`).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking and skips by saying so, in its helpers too"
)]

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use llm::chat::{ChatError, ChatInput, ChatTemplate, Message};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    now_unix_seconds: u64,
    special_tokens: BTreeMap<String, String>,
    templates: BTreeMap<String, String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    messages: Vec<Message>,
    tools: Option<Vec<serde_json::Value>>,
    documents: Option<Vec<serde_json::Value>>,
    #[serde(default)]
    add_generation_prompt: bool,
    #[serde(default)]
    variables: BTreeMap<String, serde_json::Value>,
    expected: Option<String>,
    error: Option<String>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("goldens/chat.json")).unwrap()
}

#[test]
fn renders_as_transformers_does() {
    let golden = golden();
    assert!(golden.cases.len() >= 18);
    for (number, case) in golden.cases.into_iter().enumerate() {
        let template =
            ChatTemplate::new(&golden.templates[&case.template], &golden.special_tokens).unwrap();
        let rendered = template.render(&ChatInput {
            messages: case.messages,
            tools: case.tools,
            documents: case.documents,
            add_generation_prompt: case.add_generation_prompt,
            variables: case.variables,
            now: Some(UNIX_EPOCH + Duration::from_secs(golden.now_unix_seconds)),
        });
        let name = format!("case {number}, {}", case.template);
        match (rendered, case.expected, case.error) {
            (Ok(text), Some(expected), None) => assert_eq!(text, expected, "{name}"),
            (Err(ChatError::Refused { message }), None, Some(expected)) => {
                assert_eq!(message, expected, "{name}")
            }
            (rendered, expected, error) => {
                panic!("{name}: {rendered:?}, expected {expected:?} or error {error:?}")
            }
        }
    }
}

fn render(source: &str) -> Result<String, ChatError> {
    ChatTemplate::new(source, &BTreeMap::new())?
        .render(&ChatInput::new(vec![Message::new("user", "hi")]))
}

#[test]
fn a_template_cannot_run_for_ever() {
    let nested =
        "{% for a in range(9999) %}{% for b in range(9999) %}{{ a * b }}{% endfor %}{% endfor %}";
    assert!(matches!(render(nested), Err(ChatError::Render { .. })));
    let recursive = "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}";
    assert!(matches!(render(recursive), Err(ChatError::Render { .. })));
    let growing = "{% set ns = namespace(x='xxxxxxxxxxxxxxxx') %}\
        {% for a in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}";
    assert!(matches!(render(growing), Err(ChatError::Render { .. })));
}

#[test]
fn a_template_reaches_no_files_and_broken_ones_are_named() {
    assert!(matches!(render("{% include '/etc/hostname' %}"), Err(ChatError::Render { .. })));
    assert!(matches!(render("{% for x in messages %}"), Err(ChatError::Syntax { .. })));
    assert!(matches!(
        render("{{ messages[0].content.no_such_method() }}"),
        Err(ChatError::Render { .. })
    ));
    assert!(matches!(
        render("{{ messages | no_such_filter }}"),
        Err(ChatError::Render { .. } | ChatError::Syntax { .. })
    ));
}
