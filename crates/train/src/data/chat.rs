//! Which part of a rendered conversation the assistant said. A template is a program, so this is
//! found by rendering: a conversation up to a message, with and without the beginning of an answer,
//! shows where the answer begins and ends. Knows text only, no tokens.

use std::ops::Range;
use std::time::{Duration, UNIX_EPOCH};

use llm::ChatTemplate;
use llm::chat::{ChatError, ChatInput, Message};

use super::read::Conversation;

/// 26 July 2024, what Llama 3's template takes for today when it is not told. Templates that print
/// the date would otherwise give other tokens every day.
const TODAY: Duration = Duration::from_secs(1_721_952_000);

/// Why an answer has no place.
pub(super) enum ChatFailure {
    Template(ChatError),
    /// Says what the template does.
    Unclear(String),
}

impl From<ChatError> for ChatFailure {
    fn from(error: ChatError) -> ChatFailure {
        ChatFailure::Template(error)
    }
}

/// A conversation as text, and the bytes of it that are answers, each with what ends the turn.
#[derive(Debug, PartialEq)]
pub(super) struct Rendered {
    pub(super) text: String,
    pub(super) answers: Vec<Range<usize>>,
}

pub(super) fn render(
    template: &ChatTemplate,
    conversation: &Conversation,
) -> Result<Rendered, ChatFailure> {
    let text = text(template, conversation)?;
    let answers = answers(template, conversation, &text, usize::MAX)?;
    Ok(Rendered { text, answers })
}

/// The whole conversation.
pub(super) fn text(
    template: &ChatTemplate,
    conversation: &Conversation,
) -> Result<String, ChatFailure> {
    Ok(beginning(template, conversation, conversation.messages.len(), false)?)
}

/// The first `count` messages.
fn beginning(
    template: &ChatTemplate,
    conversation: &Conversation,
    count: usize,
    add_generation_prompt: bool,
) -> Result<String, ChatError> {
    template.render(&ChatInput {
        messages: conversation.messages[..count].to_vec(),
        tools: conversation.tools.clone(),
        add_generation_prompt,
        now: Some(UNIX_EPOCH + TODAY),
        ..ChatInput::default()
    })
}

/// The answers in `text`, which is the whole conversation, that begin before its byte `before`.
pub(super) fn answers(
    template: &ChatTemplate,
    conversation: &Conversation,
    text: &str,
    before: usize,
) -> Result<Vec<Range<usize>>, ChatFailure> {
    let messages = &conversation.messages;
    let render = |count, prompt| beginning(template, conversation, count, prompt);
    let mut answers: Vec<Range<usize>> = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        if message.0.get("role").and_then(|role| role.as_str()) != Some("assistant") {
            continue;
        }
        // What stands before an answer when a model is asked for it. A template may not take an
        // empty conversation; then the answer begins with the text.
        let start = match index {
            0 => render(0, true).map_or(0, |prompt| common(text, &prompt)),
            _ => {
                let plain = render(index, false)?;
                let prompt = render(index, true)?;
                let start = common(text, &prompt);
                if start < common(text, &plain) || common(text, &plain) < plain.trim_end().len() {
                    return Err(ChatFailure::Unclear(format!(
                        "the text before message {} changes when it is added",
                        index + 1
                    )));
                }
                start
            }
        };
        if start >= before {
            break;
        }
        let after =
            if index + 1 == messages.len() { text.to_owned() } else { render(index + 1, false)? };
        let end = if text.starts_with(&after) {
            after.trim_end().len()
        } else {
            // Some templates leave something out of an answer that is not the last one, its
            // reasoning say.
            ending(text, start, &after, message).ok_or_else(|| {
                ChatFailure::Unclear(format!(
                    "message {} is rendered in another way when others follow",
                    index + 1
                ))
            })?
        };
        if end < start || answers.last().is_some_and(|last| start < last.end) {
            return Err(ChatFailure::Unclear(format!(
                "message {} has no place of its own in the text",
                index + 1
            )));
        }
        answers.push(start..end);
    }
    Ok(answers)
}

/// Finds the end of an answer by its content, and by what follows the content where the answer is
/// the last message (`after`).
fn ending(text: &str, start: usize, after: &str, message: &Message) -> Option<usize> {
    let content = message.0.get("content")?.as_str()?.trim();
    let content = content.rsplit("</think>").next().unwrap_or(content).trim();
    if content.is_empty() {
        return None;
    }
    let ending = after[after.rfind(content)? + content.len()..].trim_end();
    let end = start + text[start..].find(content)? + content.len();
    text[end..].starts_with(ending).then_some(end + ending.len())
}

/// The length of the beginning that two texts share, at the end of a character.
fn common(first: &str, second: &str) -> usize {
    let same = first.bytes().zip(second.bytes()).take_while(|(left, right)| left == right).count();
    first.floor_char_boundary(same)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const CHATML: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n\
        {{ message.content }}<|im_end|>\n{% endfor %}\
        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

    fn conversation(messages: &[(&str, &str)]) -> Conversation {
        let messages =
            messages.iter().map(|(role, content)| Message::new(*role, *content)).collect();
        Conversation { messages, tools: None }
    }

    fn said(template: &str, messages: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let special = BTreeMap::from([
            ("bos_token".to_owned(), "<s>".to_owned()),
            ("eos_token".to_owned(), "</s>".to_owned()),
        ]);
        let template = ChatTemplate::new(template, &special).unwrap();
        match render(&template, &conversation(messages)) {
            Ok(Rendered { text, answers }) => {
                Ok(answers.into_iter().map(|range| text[range].to_owned()).collect())
            }
            Err(ChatFailure::Unclear(reason)) => Err(reason),
            Err(ChatFailure::Template(error)) => Err(error.to_string()),
        }
    }

    const TWO_TURNS: [(&str, &str); 5] = [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hello!"),
        ("user", "assistant"),
        ("assistant", "Yes?\n"),
    ];

    #[test]
    fn answers_end_with_their_end_of_turn() {
        let expected = ["Hello!<|im_end|>", "Yes?\n<|im_end|>"];
        assert_eq!(said(CHATML, &TWO_TURNS).unwrap(), expected);
    }

    #[test]
    fn templates_without_a_generation_prompt() {
        let template = "{{ bos_token }}{% for message in messages %}\
            {% if message.role == 'user' %}[INST] {{ message.content }} [/INST]\
            {% elif message.role == 'assistant' %} {{ message.content | trim }}{{ eos_token }}\
            {% endif %}{% endfor %}";
        assert_eq!(said(template, &TWO_TURNS).unwrap(), [" Hello!</s>", " Yes?</s>"]);
    }

    /// Qwen3's way: the last answer gets a place to think, earlier ones lose theirs.
    #[test]
    fn reasoning_that_is_left_out_of_earlier_answers() {
        let template = "{% for message in messages %}<|im_start|>{{ message.role }}\n\
            {% if message.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}\
            {{ message.content }}<|im_end|>\n{% endfor %}\
            {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
        let expected = ["Hello!<|im_end|>", "<think>\n\n</think>\n\nYes?\n<|im_end|>"];
        assert_eq!(said(template, &TWO_TURNS).unwrap(), expected);
    }

    #[test]
    fn a_template_that_rewrites_what_was_said_is_refused() {
        let template = "{{ messages | length }}: {% for message in messages %}\
            {{ message.content }}\n{% endfor %}";
        let reason = said(template, &TWO_TURNS).unwrap_err();
        assert!(reason.contains("message 3"), "{reason}");
    }

    #[test]
    fn an_answer_that_begins_the_conversation() {
        let answers = said(CHATML, &[("assistant", "Welcome."), ("user", "Hi")]).unwrap();
        assert_eq!(answers, ["Welcome.<|im_end|>"]);
    }
}
