//! Writes grammars in llguidance's dialect of Lark: what may stand around a piece of JSON, a
//! pattern or a call.

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llguidance::regex_to_lark;
use llm::Tokenizer;
use serde_json::Value;

use crate::parse::ReasoningFormat;

/// The name of the grammar of the answer proper, behind a thought.
const BODY: &str = "body";

/// Rules that are written one by one; `start` is the first.
#[derive(Default)]
pub(super) struct Rules {
    text: String,
    parts: Vec<GrammarWithLexer>,
}

impl Rules {
    pub(super) fn add(&mut self, name: &str, rule: &str) {
        self.text.push_str(&format!("{name}: {rule}\n"));
    }

    /// A grammar of its own, by the name that refers to it in rules.
    pub(super) fn part(&mut self, name: &str, mut grammar: GrammarWithLexer) -> String {
        grammar.name = Some(name.to_owned());
        self.parts.push(grammar);
        format!("@{name}")
    }

    pub(super) fn finish(self) -> TopLevelGrammar {
        let mut grammars = vec![GrammarWithLexer::from_lark(self.text)];
        grammars.extend(self.parts);
        TopLevelGrammar { grammars, max_tokens: None }
    }
}

/// Text to the letter. Lark's strings are JSON's, but hold no U+007F.
pub(super) fn literal(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// A tag: the special token if the vocabulary has one, else its letters.
pub(super) struct Tag {
    pub(super) rule: String,
    /// Text cannot spell it, so it ends a text by itself.
    pub(super) special: bool,
}

pub(super) fn tag(tokenizer: &Tokenizer, text: &str) -> Tag {
    match tokenizer.token_to_id(text).filter(|id| tokenizer.is_special(*id)) {
        Some(id) => Tag { rule: format!("<[{id}]>"), special: true },
        None => Tag { rule: literal(text), special: false },
    }
}

/// Adds the rule `name`: text up to and with the first `tag`.
pub(super) fn text_until(rules: &mut Rules, name: &str, tag: &Tag) {
    match tag.special {
        true => rules.add(name, &format!("TEXT {}", tag.rule)),
        false => rules.add(&format!("{name}[lazy]"), &format!("TEXT {}", tag.rule)),
    }
}

/// Any text at all.
pub(super) const TEXT: &str = "/(.|\\n)*/";

/// Puts the thought that the model begins with in front of the rule `body`.
pub(super) fn start(
    rules: &mut Rules,
    tokenizer: &Tokenizer,
    reasoning: Option<ReasoningFormat>,
    body: &str,
) {
    let Some(reasoning) = reasoning else { return rules.add("start", body) };
    let begin = tag(tokenizer, "<think>");
    rules.add("BLANK", "/[ \\n]{0,4}/");
    match reasoning {
        ReasoningFormat::Opened => rules.add("start", "thought BLANK answer"),
        ReasoningFormat::Tagged => {
            rules.add("start", &format!("answer | {} thought BLANK answer", begin.rule));
        }
    }
    text_until(rules, "thought", &tag(tokenizer, "</think>"));
    rules.add("TEXT", TEXT);
    rules.add("answer", body);
}

/// One grammar with the thought in front of it.
pub(super) fn behind_thought(
    tokenizer: &Tokenizer,
    reasoning: Option<ReasoningFormat>,
    grammar: GrammarWithLexer,
) -> TopLevelGrammar {
    if reasoning.is_none() {
        return TopLevelGrammar::from_grammar(grammar);
    }
    let mut rules = Rules::default();
    let body = rules.part(BODY, grammar);
    start(&mut rules, tokenizer, reasoning, &body);
    rules.finish()
}

/// The whole text matches `pattern`, with or without anchors around it.
pub(super) fn regex(pattern: &str) -> GrammarWithLexer {
    let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
    let pattern = match pattern.strip_suffix('$') {
        Some(rest) if !escapes(rest) => rest,
        _ => pattern,
    };
    GrammarWithLexer::from_lark(match pattern {
        "" => "start: \"\"".to_owned(),
        _ => format!("start: /{}/", regex_to_lark(pattern, "")),
    })
}

/// Whether what follows `text` is escaped by its last character.
fn escapes(text: &str) -> bool {
    text.chars().rev().take_while(|character| *character == '\\').count() % 2 == 1
}

/// One of `choices`.
pub(super) fn choice(choices: &[String]) -> GrammarWithLexer {
    let choices: Vec<String> = choices.iter().map(|choice| literal(choice)).collect();
    // One terminal: as rules, every choice would be followed by itself.
    GrammarWithLexer::from_lark(format!("start: CHOICE\nCHOICE: {}", choices.join(" | ")))
}
