//! An answer as the output items of a response, with the event for each change.

use serde_json::{Value, json};

use crate::structure::Delta;

/// What is told about a change: the event's name and its fields.
pub(super) type Tell<'t> = &'t mut dyn FnMut(&'static str, Value);

/// The items so far.
pub(super) struct Items {
    /// Ends the ids of all items.
    suffix: String,
    done: Vec<Value>,
    open: Option<Open>,
    /// Of tokens whose text is still held back.
    pending_log_probs: Vec<Value>,
}

/// The item that grows.
enum Open {
    Message { text: String, log_probs: Vec<Value> },
    Reasoning { text: String },
    Call { call: usize, id: String, name: String, arguments: String },
}

/// A message has one part, and so has reasoning.
const PART: usize = 0;

impl Items {
    pub fn new(suffix: &str) -> Items {
        Items {
            suffix: suffix.to_owned(),
            done: Vec::new(),
            open: None,
            pending_log_probs: Vec::new(),
        }
    }

    pub fn done(&self) -> &[Value] {
        &self.done
    }

    /// Takes what came; `log_probs` are those of its tokens.
    pub fn push(&mut self, deltas: &[Delta], log_probs: Vec<Value>, tell: Tell<'_>) {
        self.pending_log_probs.extend(log_probs);
        for delta in deltas {
            match delta {
                Delta::Text(more) => {
                    if !matches!(self.open, Some(Open::Message { .. })) {
                        let message = Open::Message { text: String::new(), log_probs: Vec::new() };
                        self.begin(message, tell);
                    }
                    let new = std::mem::take(&mut self.pending_log_probs);
                    let place = self.place();
                    if let Some(Open::Message { text, log_probs }) = &mut self.open {
                        text.push_str(more);
                        log_probs.extend(new.iter().cloned());
                    }
                    let fields = json!({"delta": more, "logprobs": new});
                    tell("response.output_text.delta", joined(place, fields));
                }
                Delta::Reasoning(more) => {
                    if !matches!(self.open, Some(Open::Reasoning { .. })) {
                        self.begin(Open::Reasoning { text: String::new() }, tell);
                    }
                    let place = self.place();
                    if let Some(Open::Reasoning { text }) = &mut self.open {
                        text.push_str(more);
                    }
                    let fields = json!({"delta": more});
                    tell("response.reasoning_text.delta", joined(place, fields));
                }
                Delta::ToolCall { index, id, name } => {
                    let (id, name) = (id.clone(), name.clone());
                    let call = Open::Call { call: *index, id, name, arguments: String::new() };
                    self.begin(call, tell);
                }
                Delta::ToolArguments { index, text } => {
                    let place = self.call_place();
                    if let Some(Open::Call { call, arguments, .. }) = &mut self.open
                        && call == index
                    {
                        arguments.push_str(text);
                        let fields = json!({"delta": text});
                        tell("response.function_call_arguments.delta", joined(place, fields));
                    }
                }
            }
            if !matches!(delta, Delta::Text(_)) {
                self.pending_log_probs.clear();
            }
        }
    }

    /// Closes what is open. There is always an item, even if nothing was said.
    pub fn finish(&mut self, status: &'static str, tell: Tell<'_>) {
        if self.done.is_empty() && self.open.is_none() {
            self.begin(Open::Message { text: String::new(), log_probs: Vec::new() }, tell);
        }
        self.close(status, tell);
    }

    fn begin(&mut self, open: Open, tell: Tell<'_>) {
        self.close("completed", tell);
        let item = self.item(&open, "in_progress", false);
        self.open = Some(open);
        let index = self.done.len();
        tell("response.output_item.added", json!({"output_index": index, "item": item}));
        if let Some(part) = self.part(false) {
            tell("response.content_part.added", joined(self.place(), json!({"part": part})));
        }
    }

    fn close(&mut self, status: &'static str, tell: Tell<'_>) {
        let place = self.place();
        if let Some(part) = self.part(true) {
            let (name, fields) = match &self.open {
                Some(Open::Message { text, log_probs }) => {
                    ("response.output_text.done", json!({"text": text, "logprobs": log_probs}))
                }
                _ => ("response.reasoning_text.done", json!({"text": part["text"]})),
            };
            tell(name, joined(place.clone(), fields));
            tell("response.content_part.done", joined(place, json!({"part": part})));
        }
        let call_place = self.call_place();
        let Some(open) = self.open.take() else { return };
        if let Open::Call { name, arguments, .. } = &open {
            let fields = json!({"name": name, "arguments": arguments});
            tell("response.function_call_arguments.done", joined(call_place, fields));
        }
        let item = self.item(&open, status, true);
        let index = self.done.len();
        tell("response.output_item.done", json!({"output_index": index, "item": item.clone()}));
        self.done.push(item);
    }

    fn item_id(&self, open: &Open) -> String {
        let kind = match open {
            Open::Message { .. } => "msg",
            Open::Reasoning { .. } => "rs",
            Open::Call { .. } => "fc",
        };
        format!("{kind}_{}_{}", self.suffix, self.done.len())
    }

    /// The open item, with what it holds or before it holds anything.
    fn item(&self, open: &Open, status: &'static str, filled: bool) -> Value {
        let id = self.item_id(open);
        let content = if filled { self.part_of(open, true) } else { None };
        let content: Vec<Value> = content.into_iter().collect();
        match open {
            Open::Message { .. } => json!({
                "type": "message", "id": id, "status": status, "role": "assistant",
                "content": content,
            }),
            Open::Reasoning { .. } => json!({
                "type": "reasoning", "id": id, "status": status, "summary": [],
                "content": content,
            }),
            Open::Call { id: call_id, name, arguments, .. } => json!({
                "type": "function_call", "id": id, "call_id": call_id, "name": name,
                "arguments": arguments, "status": status,
            }),
        }
    }

    fn part(&self, filled: bool) -> Option<Value> {
        self.open.as_ref().and_then(|open| self.part_of(open, filled))
    }

    fn part_of(&self, open: &Open, filled: bool) -> Option<Value> {
        match open {
            Open::Message { text, log_probs } => {
                let text = if filled { text } else { "" };
                let log_probs = if filled { &log_probs[..] } else { &[] };
                Some(json!({
                    "type": "output_text", "text": text, "annotations": [], "logprobs": log_probs,
                }))
            }
            Open::Reasoning { text } => {
                let text = if filled { text } else { "" };
                Some(json!({"type": "reasoning_text", "text": text}))
            }
            Open::Call { .. } => None,
        }
    }

    /// Where the open item's part is.
    fn place(&self) -> Value {
        let id = self.open.as_ref().map(|open| self.item_id(open));
        json!({"item_id": id, "output_index": self.done.len(), "content_index": PART})
    }

    /// Where the open call is.
    fn call_place(&self) -> Value {
        let id = self.open.as_ref().map(|open| self.item_id(open));
        json!({"item_id": id, "output_index": self.done.len()})
    }
}

fn joined(mut left: Value, right: Value) -> Value {
    if let (Value::Object(left), Value::Object(right)) = (&mut left, right) {
        left.extend(right);
    }
    left
}
