//! The tokenizer and the chat template of a model folder, against `tokenizers` and `transformers`
//! (`tests/goldens/tiny_tokenizer.py`).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use llm::chat::{ChatError, ChatInput, Message};
use llm::{ChatTemplate, ModelFiles};
use serde::Deserialize;
use support::golden;

#[derive(Deserialize)]
struct Golden {
    encodings: Vec<Encoding>,
    conversations: Vec<Conversation>,
    templates: Vec<Template>,
}

#[derive(Deserialize)]
struct Encoding {
    text: String,
    ids: Vec<u32>,
    decoded: String,
}

#[derive(Deserialize)]
struct Conversation {
    messages: Vec<Message>,
    add_generation_prompt: bool,
    rendered: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Template {
    name: String,
    messages: Vec<Message>,
    template: String,
    rendered: Option<String>,
    error: Option<String>,
}

fn golden() -> (Golden, ModelFiles) {
    let text = std::fs::read(golden::model("smollm2").join("chat.json")).unwrap();
    let files = ModelFiles::open(&golden::model("smollm2")).unwrap();
    (serde_json::from_slice(&text).unwrap(), files)
}

#[test]
fn texts_are_cut_as_by_tokenizers() {
    let (golden, files) = golden();
    let tokenizer = files.tokenizer().unwrap().unwrap();
    assert!(golden.encodings.len() >= 40);
    for Encoding { text, ids, decoded } in golden.encodings {
        assert_eq!(tokenizer.encode(&text, false).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), decoded, "{text:?}");
    }
}

#[test]
fn conversations_are_rendered_as_by_transformers() {
    let (golden, files) = golden();
    let tokenizer = files.tokenizer().unwrap().unwrap();
    let template = files.chat_template().unwrap().unwrap();
    assert!(golden.conversations.len() >= 4);
    for Conversation { messages, add_generation_prompt, rendered, ids } in golden.conversations {
        let input = ChatInput { add_generation_prompt, ..ChatInput::new(messages) };
        assert_eq!(template.render(&input).unwrap(), rendered);
        assert_eq!(tokenizer.encode(&rendered, false).unwrap(), ids);
    }
}

#[test]
fn published_constructs_are_rendered_as_by_transformers() {
    let (golden, files) = golden();
    let tokens = files.tokenizer().unwrap().unwrap().special_tokens().clone();
    assert!(golden.templates.len() >= 14);
    for Template { name, messages, template, rendered, error } in golden.templates {
        let input = ChatInput { add_generation_prompt: false, ..ChatInput::new(messages) };
        let found = ChatTemplate::new(&template, &tokens).unwrap().render(&input);
        match (found, rendered, error) {
            (Ok(found), Some(expected), _) => assert_eq!(found, expected, "{name}"),
            (Err(ChatError::Refused { message }), _, Some(expected)) => {
                assert_eq!(message, expected, "{name}");
            }
            (found, expected, _) => panic!("{name}: {found:?} instead of {expected:?}"),
        }
    }
}
