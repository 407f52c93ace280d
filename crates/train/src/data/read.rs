//! Documents out of files, one after the other, with the place that an error can name. Knows no
//! tokenizer.

mod jsonl;
mod parquet;
mod text;

use std::path::Path;

use llm::chat::Message;
use serde_json::{Map, Value};

use super::DataError;
use super::config::Format;
use super::find::SourceFile;

/// A long text is handed on in pieces of about this size, so that memory does not grow with it.
const PIECE_BYTES: usize = 1 << 20;

/// A document, or a piece of one.
#[derive(Debug, PartialEq)]
pub(super) struct Item {
    pub(super) content: Content,
    /// The line or row that it comes from, from 1.
    pub(super) record: u64,
    /// How much of the file has been read when it comes out.
    pub(super) bytes_done: u64,
}

#[derive(Debug, PartialEq)]
pub(super) enum Content {
    /// `begins` and `ends` say whether this piece is the first and the last one of its document.
    Text {
        text: String,
        begins: bool,
        ends: bool,
    },
    Chat(Conversation),
    /// Columns of published data sets have gaps. They count as empty documents, whichever kind the
    /// others are of.
    Gap,
}

#[derive(Debug, PartialEq)]
pub(super) struct Conversation {
    pub(super) messages: Vec<Message>,
    pub(super) tools: Option<Vec<Value>>,
}

pub(super) type Items = Box<dyn Iterator<Item = Result<Item, DataError>>>;

/// The documents of one file, in its order. The iterator ends after an error.
pub(super) fn open(file: &SourceFile, column: Option<&str>) -> Result<Items, DataError> {
    let items: Items = match file.format {
        Format::Text => Box::new(text::Pieces::open(&file.path)?),
        Format::Jsonl => Box::new(jsonl::Lines::open(&file.path, column)?),
        Format::Parquet => Box::new(parquet::Rows::open(&file.path, file.bytes, column)?),
    };
    let mut failed = false;
    Ok(Box::new(items.take_while(move |item| !std::mem::replace(&mut failed, item.is_err()))))
}

/// Where to cut a text that is longer than [`PIECE_BYTES`]: before the last line that does not
/// begin with white space, since no usual tokenizer has tokens that reach over such a place. A
/// megabyte without one is cut anywhere.
fn cut(text: &str) -> usize {
    let limit = text.floor_char_boundary(PIECE_BYTES);
    let lines = text[..limit].rmatch_indices('\n').map(|(at, _)| at + 1);
    let begins_word = |at: &usize| text[*at..].starts_with(|next: char| !next.is_whitespace());
    lines.filter(|at| *at < text.len()).find(begins_word).unwrap_or(limit)
}

/// A whole text as items.
fn pieces(mut text: String, record: u64, bytes_done: u64) -> Vec<Item> {
    let mut items = Vec::new();
    let mut begins = true;
    while text.len() > PIECE_BYTES {
        let rest = text.split_off(cut(&text));
        let piece = std::mem::replace(&mut text, rest);
        let content = Content::Text { text: piece, begins, ends: false };
        items.push(Item { content, record, bytes_done });
        begins = false;
    }
    items.push(Item { content: Content::Text { text, begins, ends: true }, record, bytes_done });
    items
}

/// The document in a record's fields.
fn document(
    mut fields: Map<String, Value>,
    column: Option<&str>,
    path: &Path,
    record: u64,
    bytes_done: u64,
) -> Result<Vec<Item>, DataError> {
    let wrong = |problem: String| DataError::Record { path: path.to_path_buf(), record, problem };
    let Some(name) = column_name(|name| fields.contains_key(name), column) else {
        return Err(wrong(format!(
            "there is no {}, only {}; say which field it is with `column`",
            wanted(column),
            list(fields.keys())
        )));
    };
    let name = name.to_owned();
    match fields.remove(&name) {
        Some(Value::String(text)) => Ok(pieces(text, record, bytes_done)),
        Some(Value::Null) | None => Ok(vec![Item { content: Content::Gap, record, bytes_done }]),
        Some(Value::Array(messages)) => {
            let messages = messages.into_iter().map(|message| match message {
                Value::Object(fields) if fields.get("role").is_some_and(Value::is_string) => {
                    Ok(Message(fields))
                }
                _ => Err(wrong(format!(
                    "`{name}` holds something that is no message with a `role`: correct or remove it"
                ))),
            });
            let messages = messages.collect::<Result<Vec<Message>, DataError>>()?;
            let tools = match fields.remove("tools") {
                Some(Value::Array(tools)) if !tools.is_empty() => Some(tools),
                _ => None,
            };
            let content = Content::Chat(Conversation { messages, tools });
            Ok(vec![Item { content, record, bytes_done }])
        }
        Some(other) => Err(wrong(format!(
            "`{name}` is {}, neither a text nor a list of messages: name the right field with \
             `column`",
            kind(&other)
        ))),
    }
}

/// The column to read: the one asked for, else `messages`, since data with both has the rendered
/// conversation in `text`, else `text`.
fn column_name(has: impl Fn(&str) -> bool, column: Option<&str>) -> Option<&str> {
    match column {
        Some(column) => Some(column).filter(|column| has(column)),
        None => ["messages", "text"].into_iter().find(|name| has(name)),
    }
}

fn wanted(column: Option<&str>) -> String {
    column.map_or_else(|| "`text` or `messages`".to_owned(), |column| format!("`{column}`"))
}

fn list<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_before_lines_and_nothing_is_lost() {
        let line = "to be or not to be\n  that is indented\n";
        let text = line.repeat(3 * PIECE_BYTES / line.len());
        let items = pieces(text.clone(), 1, 0);
        assert!(items.len() >= 3);
        let mut joined = String::new();
        for (index, item) in items.iter().enumerate() {
            let Content::Text { text, begins, ends } = &item.content else { panic!("{item:?}") };
            assert!(text.len() <= PIECE_BYTES && text.starts_with("to be"));
            assert_eq!((*begins, *ends), (index == 0, index + 1 == items.len()));
            joined.push_str(text);
        }
        assert!(joined == text);
    }

    #[test]
    fn text_without_lines_is_cut_between_characters() {
        let text = "ä".repeat(PIECE_BYTES);
        let items = pieces(text, 1, 0);
        assert_eq!(items.len(), 2);
    }
}
