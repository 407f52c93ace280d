//! Structured output with marks that are easy to read: `[r]why[/r]` is reasoning,
//! `[c:name]{"a":1}[/c]` a call. A schema that is not satisfiable is `false`.

use std::sync::{Condvar, Mutex};

use serde_json::Value;
use serve::engine::Constraint;
use serve::structure::{Delta, OutputParser, StructureError, StructureSpec, Structures};

pub struct Marks;

impl Structures for Marks {
    fn constraint(
        &self,
        spec: &StructureSpec,
        _: &str,
    ) -> Result<Box<dyn Constraint>, StructureError> {
        match spec {
            StructureSpec::JsonSchema(Value::Bool(false)) => Err(StructureError {
                what: "nothing fits the schema".to_owned(),
                param: "response_format",
            }),
            StructureSpec::Regex(pattern) if pattern == WAITS => Ok(Box::new(Waiting)),
            _ => Ok(Box::new(Free)),
        }
    }

    fn parser(&self, calls: bool, _: &str) -> Box<dyn OutputParser> {
        Box::new(Marked { calls, ..Marked::default() })
    }

    fn needs_special_tokens(&self) -> bool {
        false
    }
}

/// The pattern whose constraint takes tokens only when it is let.
pub const WAITS: &str = "waits";

/// How many such constraints wait, and whether they need not.
pub static WAITING: (Mutex<(usize, bool)>, Condvar) = (Mutex::new((0, false)), Condvar::new());

struct Waiting;

impl Constraint for Waiting {
    fn allow(&mut self, _: &mut [u32]) -> Result<(), String> {
        Ok(())
    }

    fn advance(&mut self, _: u32) -> Result<(), String> {
        let (state, changed) = &WAITING;
        let mut state = state.lock().unwrap();
        state.0 += 1;
        changed.notify_all();
        while !state.1 {
            state = changed.wait(state).unwrap();
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        false
    }
}

/// Allows everything.
struct Free;

impl Constraint for Free {
    fn allow(&mut self, _: &mut [u32]) -> Result<(), String> {
        Ok(())
    }

    fn advance(&mut self, _: u32) -> Result<(), String> {
        Ok(())
    }

    fn is_complete(&self) -> bool {
        false
    }
}

#[derive(Default)]
struct Marked {
    calls: bool,
    held: String,
    within: Within,
    begun: usize,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum Within {
    #[default]
    Text,
    Reasoning,
    Call,
}

impl Marked {
    fn plain(&self, text: &str, found: &mut Vec<Delta>) {
        if text.is_empty() {
            return;
        }
        let text = text.to_owned();
        found.push(match self.within {
            Within::Text => Delta::Text(text),
            Within::Reasoning => Delta::Reasoning(text),
            Within::Call => Delta::ToolArguments { index: self.begun - 1, text },
        });
    }
}

impl OutputParser for Marked {
    fn push(&mut self, text: &str) -> Vec<Delta> {
        self.held.push_str(text);
        let mut found = Vec::new();
        loop {
            let Some(open) = self.held.find('[') else {
                let held = std::mem::take(&mut self.held);
                self.plain(&held, &mut found);
                return found;
            };
            let before: String = self.held.drain(..open).collect();
            self.plain(&before, &mut found);
            let Some(close) = self.held.find(']') else { return found };
            let mark: String = self.held.drain(..=close).collect();
            match (mark.as_str(), mark.strip_prefix("[c:")) {
                ("[r]", _) => self.within = Within::Reasoning,
                ("[/r]" | "[/c]", _) => self.within = Within::Text,
                (_, Some(name)) if self.calls => {
                    self.within = Within::Call;
                    let index = self.begun;
                    self.begun += 1;
                    let name = name.trim_end_matches(']').to_owned();
                    found.push(Delta::ToolCall { index, id: format!("call_{index}"), name });
                }
                _ => self.plain(&mark, &mut found),
            }
        }
    }

    fn finish(&mut self) -> Vec<Delta> {
        let mut found = Vec::new();
        let held = std::mem::take(&mut self.held);
        self.plain(&held, &mut found);
        found
    }
}
