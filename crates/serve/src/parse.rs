//! Takes tool calls and reasoning out of generated text while it comes in.
//!
//! Every parser goes character by character, so what comes out does not depend on how the text was
//! cut. Nothing is lost: what looked like a call and is none comes out as text. Knows no grammar:
//! the text may be anything.

mod call;
mod format;

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use call::{CallReader, Step};
pub use format::{ReasoningFormat, ToolFormat};

use crate::structure::{Delta, OutputParser};

const THINK: &str = "<think>";
const END_OF_THOUGHT: &str = "</think>";

impl ToolFormat {
    /// What announces calls.
    pub(crate) fn opening(self) -> &'static str {
        match self {
            ToolFormat::Hermes | ToolFormat::HermesList => "<tool_call>",
            ToolFormat::Llama3Json => "<|python_tag|>",
            ToolFormat::Mistral => "[TOOL_CALLS]",
        }
    }

    /// What stands behind them.
    pub(crate) fn closing(self) -> Option<&'static str> {
        match self {
            ToolFormat::Hermes | ToolFormat::HermesList => Some("</tool_call>"),
            ToolFormat::Llama3Json | ToolFormat::Mistral => None,
        }
    }
}

/// Where a parser is in the text.
enum Stage {
    /// Before a possible `<think>`.
    Beginning,
    Reasoning,
    Text,
    /// Behind the opening tag or a call, where a call, a separator or the closing tag may follow.
    Between(Between),
    Call(Box<CallReader>, Between),
}

/// What has been read since the opening tag.
#[derive(Default)]
struct Between {
    /// The text since the last call, for the case that it was none of what it seemed.
    raw: String,
    /// A call has come since the tag.
    called: bool,
    /// Inside of `[…]`.
    list: bool,
}

/// A parser for one answer.
pub struct AnswerParser {
    tools: Option<ToolFormat>,
    opened: bool,
    stage: Stage,
    /// White space that vanishes if a tag follows.
    blanks: String,
    /// What may be the beginning of a tag.
    held: String,
    /// White space does not count until something else comes.
    trims: bool,
    /// Text has come: no object from here on is a call by its looks alone.
    wrote: bool,
    calls: usize,
    deltas: Vec<Delta>,
}

impl AnswerParser {
    /// Takes out calls in the format `tools`, and thoughts that stand in the answer as `reasoning`
    /// says.
    pub fn new(tools: Option<ToolFormat>, reasoning: Option<ReasoningFormat>) -> AnswerParser {
        AnswerParser {
            tools,
            opened: reasoning == Some(ReasoningFormat::Opened),
            stage: if reasoning.is_some() { Stage::Beginning } else { Stage::Text },
            blanks: String::new(),
            held: String::new(),
            trims: false,
            wrote: false,
            calls: 0,
            deltas: Vec::new(),
        }
    }

    fn take(&mut self, character: char) {
        match std::mem::replace(&mut self.stage, Stage::Text) {
            Stage::Beginning => self.at_beginning(character),
            Stage::Reasoning => {
                self.stage = Stage::Reasoning;
                if self.matches(END_OF_THOUGHT, character) {
                    self.enter(Stage::Text);
                }
            }
            Stage::Text => self.in_text(character),
            Stage::Between(between) => self.between(between, character),
            Stage::Call(reader, between) => self.in_call(reader, between, character),
        }
    }

    fn at_beginning(&mut self, character: char) {
        self.stage = Stage::Beginning;
        if self.held.is_empty() && character.is_whitespace() {
            self.blanks.push(character);
            return;
        }
        self.held.push(character);
        if self.held == THINK {
            self.enter(Stage::Reasoning);
        } else if !THINK.starts_with(&self.held) {
            if self.opened {
                self.stage = Stage::Reasoning;
                self.trims = true;
                self.blanks.clear();
            } else {
                self.stage = Stage::Text;
            }
            self.take_held();
        }
    }

    /// Behind a tag of reasoning.
    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        self.held.clear();
        self.blanks.clear();
        self.trims = true;
    }

    /// Whether `tag` is complete with this character. What turns out to be no part of it is
    /// written.
    fn matches(&mut self, tag: &str, character: char) -> bool {
        self.held.push(character);
        while !tag.starts_with(&self.held) {
            let first = self.held.remove(0);
            self.write(first);
        }
        if self.held == tag {
            self.held.clear();
            return true;
        }
        false
    }

    fn in_text(&mut self, character: char) {
        let Some(format) = self.tools else { return self.write(character) };
        let bare = format == ToolFormat::Llama3Json && !self.wrote && self.held.is_empty();
        if bare && character == '{' {
            let between = Between { raw: std::mem::take(&mut self.blanks), ..Between::default() };
            self.in_call(Box::new(CallReader::new(false)), between, character);
        } else if self.matches(format.opening(), character) {
            let raw = std::mem::take(&mut self.blanks) + format.opening();
            self.stage = Stage::Between(Between { raw, ..Between::default() });
        }
    }

    fn between(&mut self, mut between: Between, character: char) {
        let Some(format) = self.tools else { return self.write(character) };
        let separates = between.called && (between.list || format == ToolFormat::Llama3Json);
        let lists = !between.called && format != ToolFormat::Llama3Json;
        match character {
            _ if !self.held.is_empty() => {}
            '{' => {
                // An opening tag is a better sign of a call than an object's own look.
                let lenient = format != ToolFormat::Llama3Json;
                let reader = Box::new(CallReader::new(lenient));
                return self.in_call(reader, between, character);
            }
            '[' if lists && !between.list => {
                between.list = true;
                between.raw.push(character);
                self.stage = Stage::Between(between);
                return;
            }
            ']' if between.list && between.called => {
                between.list = false;
                between.raw.clear();
                // Nothing closes a list without tags but its bracket.
                if format.closing().is_some() {
                    self.stage = Stage::Between(between);
                }
                return;
            }
            ',' | ';' if separates => {
                between.raw.push(character);
                self.stage = Stage::Between(between);
                return;
            }
            _ if character.is_whitespace() => {
                between.raw.push(character);
                self.stage = Stage::Between(between);
                return;
            }
            _ => {}
        }
        self.held.push(character);
        if let Some(closing) = format.closing().filter(|tag| tag.starts_with(&self.held)) {
            if closing == self.held {
                self.held.clear();
                if !between.called {
                    self.write_all(&(between.raw + closing));
                }
            } else {
                self.stage = Stage::Between(between);
            }
            return;
        }
        self.leave(between);
        self.take_held();
    }

    /// No call follows any more.
    fn leave(&mut self, between: Between) {
        self.stage = Stage::Text;
        if between.called {
            // Separators without a call behind them are text, unless they are blank.
            match between.raw.trim().is_empty() {
                true => self.blanks.push_str(&between.raw),
                false => self.write_all(&between.raw),
            }
        } else {
            self.write_all(&between.raw);
        }
    }

    fn in_call(&mut self, mut reader: Box<CallReader>, mut between: Between, character: char) {
        match reader.push(character) {
            Step::Wait => self.stage = Stage::Call(reader, between),
            Step::Begin { name, arguments } => {
                self.begin(name, arguments);
                self.stage = Stage::Call(reader, between);
            }
            Step::Arguments(character) => {
                self.arguments(character.encode_utf8(&mut [0; 4]));
                self.stage = Stage::Call(reader, between);
            }
            Step::Done { unbegun } => {
                if let Some((name, arguments)) = unbegun {
                    self.begin(name, arguments);
                }
                self.calls += 1;
                between.called = true;
                between.raw.clear();
                self.stage = Stage::Between(between);
            }
            Step::Broken if reader.begun() => {
                self.calls += 1;
                between.called = true;
                between.raw.clear();
                self.between(between, character);
            }
            Step::Broken => {
                let raw = between.raw + &reader.into_raw();
                self.stage = Stage::Text;
                self.write_all(&raw);
                self.take(character);
            }
        }
    }

    fn begin(&mut self, name: String, arguments: String) {
        let mistral = self.tools == Some(ToolFormat::Mistral);
        self.deltas.push(Delta::ToolCall { index: self.calls, id: new_id(mistral), name });
        self.arguments(&arguments);
    }

    fn arguments(&mut self, more: &str) {
        if let Some(Delta::ToolArguments { index, text }) = self.deltas.last_mut()
            && *index == self.calls
        {
            text.push_str(more);
        } else {
            let text = more.to_owned();
            self.deltas.push(Delta::ToolArguments { index: self.calls, text });
        }
    }

    /// Goes through what was held back again, now that it is known not to be a tag.
    fn take_held(&mut self) {
        for character in std::mem::take(&mut self.held).chars() {
            self.take(character);
        }
    }

    fn write_all(&mut self, text: &str) {
        for character in text.chars() {
            self.write(character);
        }
    }

    fn write(&mut self, character: char) {
        if character.is_whitespace() {
            if !self.trims {
                self.blanks.push(character);
            }
            return;
        }
        self.trims = false;
        let mut more = std::mem::take(&mut self.blanks);
        more.push(character);
        self.emit(&more);
    }

    fn emit(&mut self, more: &str) {
        if matches!(self.stage, Stage::Reasoning) {
            match self.deltas.last_mut() {
                Some(Delta::Reasoning(text)) => text.push_str(more),
                _ => self.deltas.push(Delta::Reasoning(more.to_owned())),
            }
        } else {
            self.wrote = true;
            match self.deltas.last_mut() {
                Some(Delta::Text(text)) => text.push_str(more),
                _ => self.deltas.push(Delta::Text(more.to_owned())),
            }
        }
    }
}

impl OutputParser for AnswerParser {
    fn push(&mut self, text: &str) -> Vec<Delta> {
        for character in text.chars() {
            self.take(character);
        }
        std::mem::take(&mut self.deltas)
    }

    fn finish(&mut self) -> Vec<Delta> {
        match std::mem::replace(&mut self.stage, Stage::Text) {
            Stage::Call(reader, between) if !reader.begun() => {
                let raw = between.raw + &reader.into_raw();
                self.write_all(&raw);
            }
            Stage::Between(between) if !between.called => self.write_all(&between.raw),
            // The answer was cut off in the closing tag.
            Stage::Between(_) => self.held.clear(),
            Stage::Reasoning => self.stage = Stage::Reasoning,
            Stage::Beginning if self.opened => self.stage = Stage::Reasoning,
            Stage::Call(..) | Stage::Beginning | Stage::Text => {}
        }
        let held = std::mem::take(&mut self.held);
        self.write_all(&held);
        let blanks = std::mem::take(&mut self.blanks);
        // In front of what did not come: part of a text, of nothing else.
        if self.calls == 0 && matches!(self.stage, Stage::Text) && !blanks.is_empty() {
            self.emit(&blanks);
        }
        std::mem::take(&mut self.deltas)
    }
}

/// An identifier that no other call has; Mistral's templates take nothing but nine letters and
/// digits.
fn new_id(short: bool) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    // The standard library's own source of randomness, keyed anew for every state.
    let random = |salt: u8| RandomState::new().hash_one((count, salt));
    if short {
        const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut rest = random(0);
        return std::iter::repeat_with(|| {
            let digit = DIGITS[(rest % 62) as usize];
            rest /= 62;
            char::from(digit)
        })
        .take(9)
        .collect();
    }
    format!("call_{:016x}{:08x}", random(0), random(1) as u32)
}
